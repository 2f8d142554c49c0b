//! What became of letters: receipts, and taking letters back.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::Connection;
use tokio::{sync::watch, time::sleep};
use tracing::{debug, info, warn};

use super::letters::{Post, Record};
use crate::{
    clock,
    crypto::keys::PublicKey,
    error::{Code, Error, printable},
    hooks::dispatch::stopped,
    journal::{
        letters::{self, Left},
        outgoing::{self, State},
    },
    json::Value,
    meta::{Meta, TransferId, Wire},
    root::{Root, RootError, name::Name, user::User},
    transfer::send::left::{self, End},
    transport::Addresses,
    wire::{
        letter::{Receipt, open_receipt},
        post::{Ask, Fate, MAX_ASKED},
    },
};

/// The pauses between two questions about the same letters: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(300)];

fn unusable(error: impl fmt::Display) -> Error {
    Error::new(Code::Failed, error.to_string())
}

/// What became of a letter.
pub(super) enum Outcome {
    /// It waits.
    Waiting,
    /// Its receiver has it, and answered with this meta.
    Delivered(Meta),
    /// Its receiver did not accept it, or did not come.
    Failed(Error),
    /// It has to be sent again, and why.
    Again(&'static str),
}

/// What a relay says of a letter, as far as its receiver's signature bears it out.
pub(super) fn outcome(left: &Left, fate: &Fate, key: &PublicKey) -> Outcome {
    let receipt = match fate {
        Fate::Waiting => return Outcome::Waiting,
        Fate::Unknown => return Outcome::Again("the relay does not know it any more"),
        Fate::Expired => {
            let sentence = format!("{} did not come to fetch it in time", left.contact);
            return Outcome::Failed(Error::new(Code::Failed, sentence));
        }
        Fate::Settled(receipt) => receipt,
    };
    let json = match open_receipt(&left.receipt, &left.digest, receipt, key) {
        Ok(Receipt::Answer(json)) => json,
        Ok(Receipt::Unopened) => return Outcome::Again("its key had been used up"),
        Err(_) => return Outcome::Again("its receipt was forged, or the receiver's key changed"),
    };
    let Ok(reply) = Wire::from_json(&json) else {
        return Outcome::Failed(Error::new(Code::Failed, "the receipt cannot be read"));
    };
    if reply.delivered && reply.meta.id == Some(left.id) {
        return Outcome::Delivered(reply.meta);
    }
    let (code, words) = (
        Code::from_word(&reply.code),
        printable(&reply.meta.error, 4_096),
    );
    match code {
        Code::Later | Code::Integrity => Outcome::Again("it did not arrive whole"),
        code => Outcome::Failed(Error::new(code, words)),
    }
}

/// What was heard of one letter.
pub struct News {
    /// Its receiver.
    pub to: String,
    /// Where its document is now, if it had one.
    pub document: Option<PathBuf>,
    /// The path of its `.meta`, or empty.
    pub was: String,
    /// What became of it; `None` if it waits.
    pub result: Option<Result<(), Error>>,
}

/// Asks all relays about letters without a receipt, and records what became of them.
pub async fn ask(root: &Root) -> Result<Vec<News>, Error> {
    let record = Record::open(root).await?;
    let gso = root.settings()?.quic_gso;
    let mut by_relay: HashMap<(String, [u8; 32]), Vec<Left>> = HashMap::new();
    for left in record.read(letters::all).await? {
        let relay = (left.relay.clone(), left.key);
        by_relay.entry(relay).or_default().push(left);
    }
    let mut news = Vec::new();
    let mut failed = None;
    for ((relay, key), all) in by_relay {
        match ask_relay(root, &record, (&relay, &key), gso, all, &mut news).await {
            Ok(()) => {}
            Err(error) => failed = Some(error.within(format_args!("letters at {relay}"))),
        }
    }
    match failed {
        Some(error) if news.is_empty() => Err(error),
        _ => Ok(news),
    }
}

async fn ask_relay(
    root: &Root,
    record: &Record,
    (relay, key): (&str, &[u8; 32]),
    gso: bool,
    mut all: Vec<Left>,
    news: &mut Vec<News>,
) -> Result<(), Error> {
    let addresses: Addresses = relay.parse().map_err(unusable)?;
    let mut post = Post::open(&addresses, key, gso).await?;
    while !all.is_empty() {
        let some: Vec<_> = all.iter().take(MAX_ASKED).map(|left| left.letter).collect();
        let fates = post.fates(some).await?;
        if fates.is_empty() {
            break;
        }
        let told: Vec<_> = all.drain(..fates.len().min(all.len())).collect();
        for (left, fate) in told.into_iter().zip(fates) {
            let letter = left.letter;
            let one = end(root, record, left, &fate).await?;
            let is_over = one.result.is_some();
            news.push(one);
            if is_over {
                let _ = post.conversation.ask(&Ask::Forget(letter)).await;
            }
        }
    }
    post.close().await;
    Ok(())
}

/// Records what became of a letter: first in its document, then in the journal.
async fn end(root: &Root, record: &Record, left: Left, fate: &Fate) -> Result<News, Error> {
    let contact = |left: &Left| {
        let user: User = root.user(&Name::user(&left.user)?)?;
        Ok::<_, RootError>(user.contact(&Name::user(&left.contact)?)?.key)
    };
    let outcome = match contact(&left) {
        Ok(key) => outcome(&left, fate, &key),
        // Nothing that is said in the name of somebody who is no contact any more counts.
        Err(error) => match fate {
            Fate::Waiting => Outcome::Waiting,
            _ => Outcome::Failed(error.into()),
        },
    };
    let mut news = News {
        to: left.contact.clone(),
        document: None,
        was: left.document.clone(),
        result: None,
    };
    let (ended, result) = match &outcome {
        Outcome::Waiting => return Ok(news),
        Outcome::Delivered(meta) => (End::Delivered(meta), Ok(())),
        Outcome::Failed(error) => (End::Failed(error), Err(error.clone())),
        Outcome::Again(why) => {
            let sentence = format!("the letter has to be sent again: {why}");
            (End::Again, Err(Error::new(Code::Later, sentence)))
        }
    };
    if !left.document.is_empty() {
        news.document = left::end(Path::new(&left.document), &ended)?;
    }
    let (state, code, words) = match &result {
        Ok(()) => (State::Sent, String::new(), String::new()),
        Err(error) => (
            State::Failed,
            error.code.word().to_owned(),
            error.sentence.clone(),
        ),
    };
    let (letter, id, user) = (left.letter, left.id, left.user.clone());
    let ending = move |db: &Connection| {
        outgoing::end_left(db, &user, id, (state, &code, &words), clock::millis())?;
        letters::remove(db, &letter)
    };
    record.write(ending).await?;
    let to = printable(&left.contact, 64);
    match &result {
        Ok(()) => info!(%to, id = %left.id, "a letter was delivered"),
        Err(error) => warn!(%to, id = %left.id, "a letter was not delivered: {error}"),
    }
    news.result = Some(result);
    Ok(news)
}

/// Takes back the letters with a transfer of a user's: `true` if one was still there.
pub async fn take_back(root: &Root, user: &Name, id: TransferId) -> Result<bool, Error> {
    let record = Record::open(root).await?;
    let gso = root.settings()?.quic_gso;
    let owner = user.to_string();
    let find = move |db: &Connection| letters::of_transfer(db, &owner, id);
    let mut taken = false;
    for left in record.read(find).await? {
        let relay: Addresses = left.relay.parse().map_err(unusable)?;
        let mut post = Post::open(&relay, &left.key, gso).await?;
        let answer = post.conversation.ask(&Ask::TakeBack(left.letter)).await?;
        post.close().await;
        if answer.get("taken") != Some(&Value::Bool(true)) {
            continue;
        }
        taken = true;
        let error = Error::new(Code::Failed, "you took it back before it was fetched");
        if !left.document.is_empty() {
            left::end(Path::new(&left.document), &End::Failed(&error))?;
        }
        let (letter, id, user) = (left.letter, left.id, left.user.clone());
        let ending = move |db: &Connection| {
            let how = (State::Failed, error.code.word(), error.sentence.as_str());
            outgoing::end_left(db, &user, id, how, clock::millis())?;
            letters::remove(db, &letter)
        };
        record.write(ending).await?;
    }
    Ok(taken)
}

/// Asks about letters now and then, for as long as some have no receipt, until `shutdown` turns true.
pub async fn run(root: Root, mut shutdown: watch::Receiver<bool>) {
    let [first, longest] = PAUSES;
    let mut pause = first;
    let mut count = 0;
    loop {
        let waiting = async {
            let record = Record::open(&root).await?;
            record.read(letters::all).await.map(|all| all.len())
        };
        let waits = waiting.await.unwrap_or(0);
        if waits > 0 {
            if waits != count {
                pause = first;
            }
            match ask(&root).await {
                Ok(news) => {
                    let over = news.iter().filter(|one| one.result.is_some()).count();
                    count = waits.saturating_sub(over);
                }
                Err(error) => debug!("{error}"),
            }
        }
        let next = if waits > 0 { pause } else { first };
        tokio::select! {
            () = sleep(next) => {}
            () = stopped(&mut shutdown) => return,
        }
        if waits > 0 {
            pause = (pause * 2).min(longest);
        }
    }
}

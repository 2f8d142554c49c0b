//! What became of letters: receipts, and taking letters back.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use rusqlite::Connection;
use tokio::{
    sync::watch,
    task,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    letter_log::{LetterLog, bytes_of},
    lost,
    post::Post,
};
use crate::{
    clock,
    crypto::keys::PublicKey,
    error::{Code, Error, printable},
    hooks::dispatch::stopped,
    journal::{
        letters::{self, Left, Stage},
        outgoing::{self, State},
    },
    json::Value,
    meta::{Meta, TransferId, Wire},
    root::{Root, RootError, name::Name, user::User},
    transfer::send::{
        left::{self, End},
        send_job::LEFT,
    },
    transport::Addresses,
    wire::{
        letter::{Receipt, open_receipt},
        post::{Ask, DeliveryStatus, MAX_ASKED},
    },
};

/// The pauses between two questions about the same letters: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(300)];

/// How long one relay may take for all that is asked.
const PATIENCE: Duration = Duration::from_secs(180);

/// How old a letter is that its sender, in milliseconds, cannot be leaving any more.
const FORSAKEN: u64 = 6 * 3_600_000;

fn unusable(error: impl fmt::Display) -> Error {
    Error::new(Code::Failed, error.to_string())
}

/// What became of a letter.
pub(super) enum Outcome {
    /// It waits.
    Waiting,
    /// Its receiver has it, and answered with this meta, or with none because it was too long.
    Delivered(Option<Meta>),
    /// Its receiver did not accept it, or did not come.
    Failed(Error),
    /// It has to be sent again, and why.
    Again(&'static str),
}

/// What a relay says of a letter, as far as its receiver's signature bears it out.
pub(super) fn outcome(left: &Left, status: &DeliveryStatus, key: &PublicKey) -> Outcome {
    let receipt = match status {
        DeliveryStatus::Waiting => return Outcome::Waiting,
        DeliveryStatus::Unknown if left.stage == Stage::TakenBack => {
            let sentence = "you took it back before it was fetched";
            return Outcome::Failed(Error::new(Code::Failed, sentence));
        }
        DeliveryStatus::Unknown => return Outcome::Again("the relay does not know it any more"),
        DeliveryStatus::Expired => {
            let sentence = format!("{} did not come to fetch it in time", left.contact);
            return Outcome::Failed(Error::new(Code::Failed, sentence));
        }
        DeliveryStatus::Settled(receipt) => receipt,
    };
    let json = match open_receipt(&left.receipt, &left.digest, receipt, key) {
        Ok(Receipt::Answer(json)) => json,
        Ok(Receipt::Unopened) => return Outcome::Again("its key had been used up"),
        Err(_) => return Outcome::Again("its receipt was forged, or the receiver's key changed"),
    };
    let Ok(reply) = Wire::from_json(&json) else {
        return Outcome::Again("its receipt cannot be read");
    };
    // As a client looks at an answer. A long one is cut down to the id.
    let is_of = |name: &str, of: &str| name == of || name.is_empty();
    let Meta {
        from,
        to,
        error,
        id,
        ..
    } = &reply.meta;
    let is_ours = is_of(from, &left.user) && is_of(to, &left.contact) && *id == Some(left.id);
    match (Code::from_word(&reply.code), error.is_empty()) {
        (Code::Later | Code::Integrity, false) => Outcome::Again("it did not arrive whole"),
        (code, false) => Outcome::Failed(Error::new(code, printable(error, 4_096))),
        (_, true) if reply.delivered && is_ours => {
            Outcome::Delivered(Some(reply.meta).filter(|meta| !meta.from.is_empty()))
        }
        (_, true) => Outcome::Again("its receipt is for something else"),
    }
}

/// What was heard of one letter.
pub struct News {
    /// Its receiver.
    pub to: String,
    /// The transfer.
    pub id: TransferId,
    /// Where its document is now, if it had one.
    pub document: Option<PathBuf>,
    /// What became of it; `None` if it waits.
    pub result: Option<Result<(), Error>>,
}

/// What was heard of the letters of a root.
#[derive(Default)]
pub struct Heard {
    /// Of each letter.
    pub news: Vec<News>,
    /// Why nothing was heard of others.
    pub errors: Vec<Error>,
}

/// Asks all relays about letters without a receipt, and records what became of them.
pub async fn ask(root: &Root) -> Result<Heard, Error> {
    let log = LetterLog::open(root).await?;
    ask_all(root, &log).await
}

async fn ask_all(root: &Root, log: &LetterLog) -> Result<Heard, Error> {
    let gso = root.settings()?.quic_gso;
    let mut by_relay: HashMap<(String, [u8; 32]), Vec<Left>> = HashMap::new();
    for left in without_receipt(log).await? {
        let relay = (left.relay.clone(), left.key);
        by_relay.entry(relay).or_default().push(left);
    }
    // One relay that is slow holds up no other.
    let asking = by_relay.into_iter().map(|((relay, key), all)| async move {
        let mut heard = Heard::default();
        let asked = ask_relay(root, log, (&relay, &key), gso, all, &mut heard);
        let late = |_| Error::new(Code::Later, "it takes too long to answer");
        let asked = timeout(PATIENCE, asked).await.map_err(late);
        if let Err(error) = asked.and_then(|asked| asked) {
            let error = error.within(format_args!("letters at {relay}"));
            heard.errors.push(error);
        }
        heard
    });
    let mut all = Heard::default();
    for heard in join_all(asking).await {
        all.news.extend(heard.news);
        all.errors.extend(heard.errors);
    }
    Ok(all)
}

/// The letters that wait for a receipt.
pub(super) async fn without_receipt(log: &LetterLog) -> Result<Vec<Left>, Error> {
    let now = clock::millis();
    // One that is on its way to the relay has a sender who will hear of it. If that sender was killed at
    // the last moment, only the document says that it is there.
    let is_left = move |left: &Left| {
        left.stage != Stage::Leaving
            || now.saturating_sub(left.at) > FORSAKEN
            || path_of(left).is_some_and(|path| path.with_extension(LEFT).exists())
    };
    let all = log.read(letters::all).await?;
    let sorting = task::spawn_blocking(move || all.into_iter().filter(is_left).collect());
    sorting.await.map_err(lost)
}

async fn ask_relay(
    root: &Root,
    log: &LetterLog,
    (relay, key): (&str, &[u8; 32]),
    gso: bool,
    all: Vec<Left>,
    heard: &mut Heard,
) -> Result<(), Error> {
    let addresses: Addresses = relay.parse().map_err(unusable)?;
    let mut post = Post::open(&addresses, key, gso).await?;
    ask_over(root, log, &mut post, all, heard).await?;
    post.close().await;
    Ok(())
}

/// Asks over a connection that is there.
pub(super) async fn ask_over(
    root: &Root,
    log: &LetterLog,
    post: &mut Post,
    mut all: Vec<Left>,
    heard: &mut Heard,
) -> Result<(), Error> {
    while !all.is_empty() {
        let some: Vec<_> = all.iter().take(MAX_ASKED).map(|left| left.letter).collect();
        let statuses = post.statuses(some).await?;
        if statuses.is_empty() {
            break;
        }
        let told: Vec<_> = all.drain(..statuses.len().min(all.len())).collect();
        for (left, status) in told.into_iter().zip(statuses) {
            let letter = left.letter;
            match end(root, log, left, &status).await {
                Ok(Some(news)) => {
                    let is_over = news.result.is_some();
                    heard.news.push(news);
                    if is_over {
                        let _ = post.conversation.ask(&Ask::Forget(letter)).await;
                    }
                }
                // Another process was faster.
                Ok(None) => {}
                // One document that cannot be written is no reason to hear nothing of others.
                Err(error) => heard.errors.push(error),
            }
        }
    }
    Ok(())
}

/// Records what became of a letter: first in its document, then in the journal.
async fn end(
    root: &Root,
    log: &LetterLog,
    left: Left,
    status: &DeliveryStatus,
) -> Result<Option<News>, Error> {
    let letter = left.letter;
    let known = log.read(move |db| letters::find(db, &letter)).await?;
    let Some(left) = known else {
        return Ok(None);
    };
    let (root, status) = (root.clone(), status.clone());
    let ending = task::spawn_blocking(move || {
        let outcome = match key_of(&root, &left) {
            Ok(Some(key)) => outcome(&left, &status, &key),
            // Nothing that is said in the name of somebody who is no contact any more counts.
            Ok(None) if status != DeliveryStatus::Waiting => {
                let sentence = format!("{} is no contact any more", left.contact);
                Outcome::Failed(Error::new(Code::Failed, sentence))
            }
            Ok(None) => Outcome::Waiting,
            Err(error) => return Err(error.into()),
        };
        let (ended, result) = match &outcome {
            Outcome::Waiting => (None, None),
            Outcome::Delivered(meta) => (Some(End::Delivered(meta.as_ref())), Some(Ok(()))),
            Outcome::Failed(error) => (Some(End::Failed(error)), Some(Err(error.clone()))),
            Outcome::Again(why) => {
                let sentence = format!("the letter has to be sent again: {why}");
                let error = Error::new(Code::Later, sentence);
                (Some(End::Again), Some(Err(error)))
            }
        };
        let path = path_of(&left);
        let document = match (&path, &ended) {
            (Some(path), Some(ended)) => left::end(path, left.id, ended)?,
            _ => None,
        };
        // One that never was at the relay does not count.
        let is_again = matches!(outcome, Outcome::Again(_)) && left.stage == Stage::Left;
        let news = News {
            to: left.contact.clone(),
            id: left.id,
            document,
            result,
        };
        Ok::<_, Error>((left, news, is_again))
    });
    let (left, news, is_again) = ending.await.map_err(lost)??;
    let Some(result) = &news.result else {
        return Ok(Some(news));
    };
    let (state, code, words) = match result {
        Ok(()) => (State::Sent, String::new(), String::new()),
        Err(error) => (
            State::Failed,
            error.code.word().to_owned(),
            error.sentence.clone(),
        ),
    };
    let (letter, id, user) = (left.letter, left.id, left.user.clone());
    let ending = move |db: &Connection| {
        let now = clock::millis();
        if is_again {
            letters::add_round(db, &user, id, now)?;
        }
        outgoing::end_left(db, &user, id, (state, &code, &words), now)?;
        letters::remove(db, &letter)
    };
    log.write(ending).await?;
    let to = printable(&left.contact, 64);
    match result {
        Ok(()) => info!(%to, id = %left.id, "a letter was delivered"),
        Err(error) => warn!(%to, id = %left.id, "a letter was not delivered: {error}"),
    }
    Ok(Some(news))
}

/// The key of the receiver of a letter; `None` if it is no contact any more.
fn key_of(root: &Root, left: &Left) -> Result<Option<PublicKey>, RootError> {
    let user: User = root.user(&Name::user(&left.user)?)?;
    match user.contact(&Name::user(&left.contact)?) {
        Err(RootError::NoContact { .. }) => Ok(None),
        contact => Ok(Some(contact?.key)),
    }
}

/// Where the `.meta` of a letter was, if it had one.
fn path_of(left: &Left) -> Option<PathBuf> {
    let path = (!left.document.is_empty()).then(|| left.document.clone());
    path.map(|path| PathBuf::from(OsString::from_vec(path)))
}

/// The `.left` of a transfer lies there now, wherever it was when it was left. If nobody knows of a letter
/// with it, it becomes a `.meta` again: the transfer is the same, so nothing comes twice. Returns the path
/// of that.
pub async fn found(
    root: &Root,
    user: &Name,
    id: TransferId,
    meta: &Path,
) -> Result<Option<PathBuf>, Error> {
    let log = LetterLog::open(root).await?;
    let (owner, path) = (user.to_string(), bytes_of(meta));
    let of_transfer = {
        let owner = owner.clone();
        move |db: &Connection| letters::of_transfer(db, &owner, id)
    };
    if log.read(of_transfer).await?.is_empty() {
        let meta = meta.to_owned();
        let ending = task::spawn_blocking(move || left::end(&meta, id, &End::Again));
        return ending.await.map_err(lost)?;
    }
    let moving = move |db: &Connection| letters::relocate(db, &owner, id, &path);
    log.write(moving).await?;
    Ok(None)
}

/// Takes back the letters with a transfer of a user's: `true` if one was still there.
pub async fn take_back(root: &Root, user: &Name, id: TransferId) -> Result<bool, Error> {
    let log = LetterLog::open(root).await?;
    let gso = root.settings()?.quic_gso;
    let owner = user.to_string();
    let find = move |db: &Connection| letters::of_transfer(db, &owner, id);
    let mut taken = false;
    for left in log.read(find).await? {
        let letter = left.letter;
        let relay: Addresses = left.relay.parse().map_err(unusable)?;
        let mut post = Post::open(&relay, &left.key, gso).await?;
        // Before the relay is asked: if we do not hear its answer, the letter is not sent again.
        let stage = |stage| move |db: &Connection| letters::proceed(db, &letter, stage);
        log.write(stage(Stage::TakenBack)).await?;
        let answer = post.conversation.ask(&Ask::TakeBack(letter)).await?;
        post.close().await;
        if answer.get("taken") != Some(&Value::Bool(true)) {
            log.write(stage(left.stage)).await?;
            continue;
        }
        taken = true;
        end(root, &log, left, &DeliveryStatus::Unknown).await?;
    }
    Ok(taken)
}

/// Asks about letters now and then, for as long as some have no receipt, until `shutdown` turns true.
pub async fn run(root: Root, mut shutdown: watch::Receiver<bool>) {
    let asking = async {
        let log = loop {
            match LetterLog::open(&root).await {
                Ok(log) => break log,
                Err(error) => debug!("{error}"),
            }
            sleep(PAUSES[1]).await;
        };
        let [first, longest] = PAUSES;
        let (mut pause, mut count) = (first, 0);
        loop {
            let all = log.read(letters::all).await;
            let waits = all.map_or(0, |all| all.len());
            if waits > count {
                pause = first;
            }
            count = waits;
            if waits > 0 {
                match ask_all(&root, &log).await {
                    Ok(heard) => heard.errors.iter().for_each(|error| debug!("{error}")),
                    Err(error) => debug!("{error}"),
                }
            }
            sleep(if waits > 0 { pause } else { first }).await;
            if waits > 0 {
                pause = (pause * 2).min(longest);
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = stopped(&mut shutdown) => {}
    }
}

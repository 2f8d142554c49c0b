//! Letters for contacts who are away: leaving them at a relay, and hearing what became of them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use rusqlite::Connection;
use tokio::{
    sync::watch,
    task,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::Route;
use crate::{
    clock,
    crypto::{SysRng, keys::PrivateKey, random},
    error::{Code, Error, printable},
    hooks::dispatch::stopped,
    journal::{
        Journal, JournalError,
        letters::{self, Left},
        outgoing::{self, State},
    },
    json::Value,
    meta::{Meta, TransferId, Wire},
    relay::conversation::Conversation,
    root::{Root, boxes::Grant, name::Name, user::User},
    session::channel::{Reader, Writer},
    transfer::send::{
        blocks::{Attempt, Blocks},
        job,
        left::{self, End},
        send_job::SendJob,
    },
    transport::{Addresses, Direct, race},
    wire::{
        WireError,
        header::{self, AnswerHeader},
        letter::{self, HEAD_LEN, Parties, Prekey, PrekeyKind, Receipt, box_hash, open_receipt},
        post::{Ask, Fate, MAX_ASKED, PostKeys, SHARE_LEN},
        record::{self, Kind, MAX_BODY, MAX_RECORD, Stream},
        session::Share,
    },
};

/// When a file is left as a letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leave {
    /// If its receiver is away.
    #[default]
    Auto,
    /// Not at all.
    Never,
    /// In any case: nobody is called.
    Always,
}

/// How long a relay may be silent.
const IDLE: Duration = Duration::from_secs(60);

/// How long a relay may take to say why it hung up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How old the prekey of a day may be: together with the time that a letter waits, less than its owner
/// keeps the private half.
const DAILY: u64 = 15 * 86_400_000;

/// By how much the clock of its owner may be ahead.
const AHEAD: u64 = 2 * 86_400_000;

/// Bytes of a letter that are sealed at once.
const BUFFER: usize = 8 * MAX_RECORD;

/// The pauses between two questions about the same letters: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(300)];

/// The connection to a relay by which letters are left.
pub(super) struct Post {
    conversation: Conversation,
}

impl Post {
    /// Connects to the relay that has this key.
    pub(super) async fn open(relay: &Addresses, key: &[u8; 32], gso: bool) -> Result<Self, Error> {
        let dialer = Direct::new(gso);
        let turn = relay.in_turn();
        let (link, _) = race::dial(&dialer, &turn).await.map_err(Error::from)?;
        let (mut reader, mut writer) = (
            Reader::new(link.reader, IDLE),
            Writer::new(link.writer, IDLE),
        );
        let own = Share::new(&mut SysRng).map_err(WireError::from)?;
        writer
            .bytes(&[header::encode_post().as_slice(), &own.public].concat())
            .await?;
        match AnswerHeader::decode(&reader.exact().await?)? {
            AnswerHeader::Envelope(SHARE_LEN) => {}
            _ => {
                let sentence = format!("{relay} keeps no letters now");
                return Err(Error::new(Code::Later, sentence));
            }
        }
        let theirs = reader.exact().await?;
        let keys = PostKeys::of_client(&own, key, &theirs)?;
        Ok(Self {
            conversation: Conversation {
                reader,
                writer,
                ours: Stream::new(&keys.client)?,
                theirs: Stream::new(&keys.relay)?,
            },
        })
    }

    /// What became of letters, of the first ones at least.
    async fn fates(&mut self, letters: Vec<[u8; 32]>) -> Result<Vec<Fate>, Error> {
        let answer = self.conversation.ask(&Ask::Letters(letters)).await?;
        let each = answer.get("letters").and_then(Value::as_array);
        let each = each.into_iter().flatten().map(Fate::from_value);
        Ok(each.collect::<Result<_, _>>()?)
    }

    pub(super) async fn close(self) {
        self.conversation.close().await;
    }
}

/// What the journal knows of letters.
#[derive(Clone)]
pub(super) struct Record {
    journal: Journal,
    reader: Arc<Mutex<Connection>>,
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::new(Code::Failed, error.to_string())
}

fn lost(_: task::JoinError) -> Error {
    Error::new(Code::Failed, "a thread stopped")
}

impl Record {
    pub(super) async fn open(root: &Root) -> Result<Self, Error> {
        let root = root.clone();
        let opening = task::spawn_blocking(move || {
            let journal = Journal::open(&root)?;
            let reader = Arc::new(Mutex::new(journal.reader()?));
            Ok::<_, JournalError>(Self { journal, reader })
        });
        opening.await.map_err(lost)?.map_err(unusable)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let reader = self.reader.clone();
        let reading = task::spawn_blocking(move || {
            read(
                &reader
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
            )
        });
        reading.await.map_err(lost)?.map_err(unusable)
    }

    async fn write(
        &self,
        work: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let written = self.journal.quietly(true, work).committed().await;
        written.map_err(unusable)
    }

    async fn remove(&self, letter: [u8; 32]) -> Result<(), Error> {
        self.write(move |db| letters::remove(db, &letter)).await
    }
}

/// What leaves letters on a route.
pub(super) struct Letters<'a> {
    route: &'a Route,
    private: &'a PrivateKey,
    grant: &'a Grant,
    record: Record,
    post: Post,
}

impl<'a> Letters<'a> {
    /// Connects to the relay where the contact has a box for the user.
    pub(super) async fn open(
        route: &'a Route,
        private: &'a PrivateKey,
        grant: &'a Grant,
    ) -> Result<Self, Error> {
        let record = Record::open(route.user.root()).await?;
        let post = Post::open(&grant.relay, &grant.key, route.gso).await?;
        Ok(Self {
            route,
            private,
            grant,
            record,
            post,
        })
    }

    /// Leaves a file as a letter; returns the meta. If it was left before and its receiver has it by
    /// now, that is what is returned.
    pub(super) async fn leave(&mut self, job: &SendJob) -> Result<Meta, Error> {
        let meta = job.request()?;
        if let Some(ended) = self.known(job, &meta).await? {
            return ended;
        }
        let contact = &self.route.contact;
        let asked = Wire {
            features: job::FEATURES,
            ..Wire::request(meta.clone())
        };
        let json = asked.to_json();
        let (contents, version) = job.source();
        let front = HEAD_LEN + letter::sealed_len(json.len(), self.private.public())?;
        let letter: [u8; 32] = random().map_err(WireError::from)?;
        let ask = Ask::Leave {
            id: self.grant.id,
            letter,
            bytes: (front as u64).saturating_add(records_len(version.len())),
        };
        let prekey = Prekey::from_document(&self.post.conversation.ask(&ask).await?)?;
        self.check(&prekey)?;
        let parties = Parties {
            id: &self.grant.id,
            sender: self.private.public(),
            receiver: &contact.key,
        };
        let (front, keys) = letter::seal(
            parties,
            &prekey,
            clock::millis(),
            json.as_bytes(),
            self.private,
            &mut SysRng,
        )?;
        let left = Left {
            letter,
            user: self.route.user.name().to_string(),
            contact: contact.name.to_string(),
            relay: self.grant.relay.to_string(),
            key: self.grant.key,
            digest: keys.digest,
            receipt: *keys.receipt,
            id: meta.id.unwrap_or(TransferId([0; 16])),
            document: match job.is_document() {
                true => std::path::absolute(job.path())
                    .unwrap_or_else(|_| job.path().to_owned())
                    .display()
                    .to_string(),
                false => String::new(),
            },
            at: clock::millis(),
        };
        // Before a byte of it leaves: whatever happens, its receipt will be found.
        self.record.write(move |db| letters::put(db, &left)).await?;
        let blocks = Blocks::new(Attempt {
            transfer: 0,
            size: version.len(),
            version: version.key(),
            contents,
            blocks: Stream::new(&keys.blocks)?,
            offset: 0,
            crc: crc32fast::Hasher::new(),
            claimed_crc: meta.file_crc,
        });
        match self.upload(front, blocks, &keys.records).await {
            Ok(()) => {
                job.set_left();
                Ok(meta)
            }
            Err(error) => {
                // If the relay has all of it and the connection broke, the next attempt finds out.
                if error.code != Code::Later {
                    self.record.remove(letter).await?;
                }
                Err(error)
            }
        }
    }

    async fn upload(
        &mut self,
        front: Vec<u8>,
        mut blocks: Blocks,
        records: &crate::crypto::Key,
    ) -> Result<(), Error> {
        let conversation = &mut self.post.conversation;
        if let Err(error) = conversation.pieces(&front).await {
            return Err(why(conversation, error.into()).await);
        }
        let mut buffer = Vec::new();
        while !blocks.is_whole() {
            let sealing = task::spawn_blocking(move || {
                let filled = blocks.fill(&mut buffer, 0, BUFFER);
                (blocks, buffer, filled)
            });
            let (rest, sealed, filled) = sealing.await.map_err(lost)?;
            (blocks, buffer) = (rest, sealed);
            let used = match filled {
                Ok((used, _)) => used,
                Err(error) => {
                    let _ = conversation.refuse(&error).await;
                    return Err(error);
                }
            };
            let pieces = buffer.get(..used).unwrap_or_default();
            if let Err(error) = conversation.pieces(pieces).await {
                return Err(why(conversation, error.into()).await);
            }
        }
        let trailer = record::encode_trailer(blocks.crc());
        let trailer = Stream::new(records)?.record(Kind::Trailer, 0, &trailer)?;
        if let Err(error) = conversation.pieces(&trailer).await {
            return Err(why(conversation, error.into()).await);
        }
        conversation.answer().await.map(drop)
    }

    /// What became of an earlier letter with the same transfer, if it still counts.
    async fn known(
        &mut self,
        job: &SendJob,
        meta: &Meta,
    ) -> Result<Option<Result<Meta, Error>>, Error> {
        let Some(id) = meta.id else {
            return Ok(None);
        };
        let user = self.route.user.name().to_string();
        let find = move |db: &Connection| letters::of_transfer(db, &user, id);
        for left in self.record.read(find).await? {
            if left.key != self.grant.key || left.contact != self.route.contact.name.as_str() {
                continue;
            }
            let fate = self.post.fates(vec![left.letter]).await?.pop();
            let fate = fate.unwrap_or(Fate::Unknown);
            let key = &self.route.contact.key;
            let ended = match outcome(&left, &fate, key) {
                Outcome::Waiting => {
                    job.set_left();
                    return Ok(Some(Ok(meta.clone())));
                }
                Outcome::Delivered(meta) => Some(Ok(meta)),
                Outcome::Failed(error) => Some(Err(error)),
                Outcome::Again(_) => None,
            };
            self.record.remove(left.letter).await?;
            let _ = self.post.conversation.ask(&Ask::Forget(left.letter)).await;
            if ended.is_some() {
                return Ok(ended);
            }
        }
        Ok(None)
    }

    /// Whether a prekey is the contact's, and not too old.
    fn check(&self, prekey: &Prekey) -> Result<(), Error> {
        let to = &self.route.contact.name;
        prekey.verify(&self.route.contact.key).map_err(|_| {
            let sentence = format!(
                "the relay {} gave a key for letters that is not {to}'s: nothing was left there",
                self.grant.relay
            );
            Error::new(Code::Identity, sentence)
        })?;
        let now = clock::millis();
        let age = now.saturating_sub(prekey.time);
        let is_old = prekey.kind == PrekeyKind::Daily && age > DAILY;
        if is_old || prekey.time > now.saturating_add(AHEAD) {
            let sentence = format!(
                "{to} has not been at the relay {} for too long to leave letters there",
                self.grant.relay
            );
            return Err(Error::new(Code::Later, sentence));
        }
        if prekey.kind == PrekeyKind::Daily {
            info!(
                %to,
                "the relay has no one-time key of {to} left: the letter is sealed for the key of a day"
            );
        }
        Ok(())
    }

    pub(super) async fn close(self) {
        self.post.close().await;
    }
}

/// Why a relay hung up, if it says so.
async fn why(conversation: &mut Conversation, error: Error) -> Error {
    match timeout(LAST_WORDS, conversation.answer()).await {
        Ok(Err(said)) if said.code != Code::Integrity => said,
        _ => error,
    }
}

/// Bytes of the records of a file: its blocks and the trailer.
fn records_len(size: u64) -> u64 {
    const AROUND: u64 = (MAX_RECORD - MAX_BODY) as u64;
    let blocks = size.div_ceil(MAX_BODY as u64).max(1);
    size.saturating_add(blocks.saturating_mul(AROUND))
        .saturating_add(AROUND + 8)
}

/// What became of a letter.
enum Outcome {
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
fn outcome(left: &Left, fate: &Fate, key: &crate::crypto::keys::PublicKey) -> Outcome {
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
pub async fn receipts(root: &Root) -> Result<Vec<News>, Error> {
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
        Ok::<_, crate::root::RootError>(user.contact(&Name::user(&left.contact)?)?.key)
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
            match receipts(&root).await {
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

/// Whether a contact is there, as far as the contact lets the user see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Now.
    Now,
    /// Last at this time, in milliseconds since 1970.
    Last(u64),
    /// Nothing is known.
    Unknown,
}

/// Asks the relays of contacts who is there: one connection for each relay.
pub async fn presence(user: &User, contacts: &[Name]) -> Result<Vec<Presence>, Error> {
    let gso = user.root().settings()?.quic_gso;
    let mut all = vec![Presence::Unknown; contacts.len()];
    let mut by_relay: HashMap<(String, [u8; 32]), Vec<(usize, Grant)>> = HashMap::new();
    for (at, contact) in contacts.iter().enumerate() {
        if let Some(grant) = user.box_of(contact)? {
            let relay = (grant.relay.to_string(), grant.key);
            by_relay.entry(relay).or_default().push((at, grant));
        }
    }
    for ((_, key), grants) in by_relay {
        let Some((_, first)) = grants.first() else {
            continue;
        };
        // One relay that is away says nothing about the others.
        let Ok(mut post) = Post::open(&first.relay, &key, gso).await else {
            continue;
        };
        for some in grants.chunks(MAX_ASKED) {
            let hashes = some.iter().map(|(_, grant)| box_hash(&grant.id)).collect();
            let Ok(answer) = post.conversation.ask(&Ask::Presence(hashes)).await else {
                break;
            };
            let there = answer.get("there").and_then(Value::as_array);
            for ((at, _), seen) in some.iter().zip(there.into_iter().flatten()) {
                let presence = match (seen.get("now"), seen.get("seen").and_then(Value::as_u64)) {
                    (Some(Value::Bool(true)), _) => Presence::Now,
                    (_, Some(time)) => Presence::Last(time),
                    _ => Presence::Unknown,
                };
                if let Some(place) = all.get_mut(*at) {
                    *place = presence;
                }
            }
        }
        post.close().await;
    }
    Ok(all)
}

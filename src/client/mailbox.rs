//! The mailbox of a user at a relay: the boxes and prekeys that are published there, and the letters
//! that are fetched.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    task,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{
    Opened, attendance,
    letter_file::LetterFile,
    letters::{Post, records_len},
    prekey_stock::{KEPT, Replenished, replenish},
    private_key,
};
use crate::{
    clock,
    crypto::{SysRng, keys::PrivateKey},
    error::{Code, Error, printable},
    files::disk_queue::DiskQueue,
    journal::letters,
    json::{self, Map, Value},
    meta::{Attend, Meta, Wire},
    relay::conversation::Conversation,
    root::{RootError, contact::Contact, name::Name, prekeys::Prekeys, user::User},
    transfer::receive::{
        arrival::Arrival,
        decision::{Decision, refused},
        error::ReceiveError,
        offer::Offer,
        receiver::{Parties, Receiver, StoreNews, Stored},
        target::Received,
        under_way::Holder,
    },
    transport::Addresses,
    wire::{
        WireError,
        letter::{
            self, BoxId, HEAD_LEN, Head, LEN, LetterKeys, MAX_RECEIPT, PrekeyKind, box_hash, bytes,
        },
        post::{Ask, BOXES_AT_ONCE, PREKEYS_AT_ONCE},
        record::MAX_RECORD,
        session::Share,
    },
};

/// How often is looked whether boxes were given or taken away.
const LOOK: Duration = Duration::from_secs(2);

/// How often the relay is asked although nothing happened.
const EVERY: Duration = Duration::from_secs(6 * 3_600);

/// The pause after an attempt that failed, or that left letters for later: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(1_800)];

/// How long a relay may take for an answer.
const ANSWER: Duration = Duration::from_secs(120);

/// How long receipts are remembered, in milliseconds: as long as a letter could be opened again.
const REMEMBERED: u64 = KEPT + 86_400_000;

/// How old prekeys are at least, in milliseconds, when they are replaced because some may be lost.
const RENEWAL: u64 = 3_600_000;

/// Names that a relay may list.
const MOST_NAMES: usize = 100_000;

/// Bytes of records that are opened at once.
const TOGETHER: usize = 16 * MAX_RECORD;

/// Looks after the mailbox of a user at one relay, for as long as the user is a member there. `letters`
/// is notified when some have come.
pub(super) async fn keep(user: &User, relay: &Name, receiver: &Arc<Receiver>, letters: &Notify) {
    let [first, longest] = PAUSES;
    // It begins when the relay is there.
    let (mut pause, mut due) = (first, None);
    let mut known = {
        let user = user.clone();
        let looking = task::spawn_blocking(move || user.boxes_stamp());
        looking.await.ok().flatten()
    };
    let mut was_said = false;
    loop {
        // Before the boxes are read: one that is given meanwhile is published the next time.
        let (is_joined, stamp) = {
            let (user, relay) = (user.clone(), relay.clone());
            let looking = move || {
                let joined = user.relays().is_ok_and(|all| all.contains(&relay));
                (joined, user.boxes_stamp())
            };
            task::spawn_blocking(looking).await.unwrap_or_default()
        };
        let is_due = due.is_some_and(|due: Instant| due <= Instant::now());
        if is_joined && (is_due || stamp != known) {
            let synced = match Mailbox::open(user, relay, receiver).await {
                Ok(mailbox) => mailbox.sync().await,
                Err(error) => Err(error),
            };
            known = stamp;
            match synced {
                Ok(true) => {
                    due = Some(Instant::now() + EVERY);
                    (pause, was_said) = (first, false);
                }
                Ok(false) => {
                    due = Some(Instant::now() + pause);
                    pause = (pause * 2).min(longest);
                }
                // A relay without letters: only those who call are heard of.
                Err(error) if error.code == Code::Refused => due = Some(Instant::now() + EVERY),
                Err(error) => {
                    // While the relay is away, that is said already.
                    if !was_said && error.code != Code::Later {
                        warn!(user = %user.name(), %relay, "no letters come: {error}");
                        was_said = true;
                    }
                    due = Some(Instant::now() + pause);
                    pause = (pause * 2).min(longest);
                }
            }
        }
        tokio::select! {
            () = letters.notified() => {
                due = Some(Instant::now());
                pause = first;
            }
            () = sleep(LOOK) => {}
        }
    }
}

/// The connection by which a user looks after the mailbox.
struct Mailbox<'a> {
    user: &'a User,
    relay: &'a Name,
    receiver: &'a Arc<Receiver>,
    private: Arc<PrivateKey>,
    conversation: Conversation,
    boxes: Vec<(Name, BoxId)>,
    prekeys: Prekeys,
    /// Whether a letter was for a prekey that is not among them: used up, or lost.
    has_lost_some: bool,
}

/// A letter that waits.
struct Waiting {
    letter: [u8; LEN],
    hash: [u8; LEN],
    bytes: u64,
}

fn lost(_: task::JoinError) -> Error {
    Error::new(Code::Failed, "a thread stopped")
}

fn unreadable() -> Error {
    Error::new(Code::Failed, "the relay's answer cannot be read")
}

/// Who is listed at a relay that a user has joined. The key of the relay is recorded, so that boxes for
/// letters can be given from now on.
pub async fn who(user: &User, relay: &Name) -> Result<Vec<Name>, Error> {
    let mut conversation = converse(user, relay).await?;
    let (mut all, mut skip) = (Vec::new(), 0);
    loop {
        let answer = conversation.ask(&Ask::Who { skip }).await?;
        if skip == 0 {
            record_key(user, relay, &answer).await?;
        }
        let names = answer.get("members").and_then(Value::as_array);
        let names = names.ok_or_else(unreadable)?.iter();
        let before = all.len();
        all.extend(names.filter_map(|name| Name::user(name.as_str()?).ok()));
        let came = (all.len() - before) as u64;
        skip = skip.saturating_add(came);
        if answer.get("more") != Some(&Value::Bool(true)) || came == 0 || all.len() > MOST_NAMES {
            break;
        }
    }
    conversation.close().await;
    Ok(all)
}

/// Becomes a member of the relay at these addresses, by the token of an invitation.
pub async fn join(
    user: &User,
    relay: &Addresses,
    key: &[u8; LEN],
    token: [u8; LEN],
) -> Result<(), Error> {
    let gso = user.root().settings()?.quic_gso;
    let card = user.card(None, None)?.to_document()?;
    let card = json::canonical(&card);
    let mut post = Post::open(relay, key, gso).await?;
    post.conversation.ask(&Ask::Join { token, card }).await?;
    post.close().await;
    Ok(())
}

/// Sends a document to another member of a relay, who may become a contact.
pub async fn introduce(
    user: &User,
    relay: &Name,
    to: &Name,
    document: String,
) -> Result<(), Error> {
    let mut conversation = converse(user, relay).await?;
    let to = to.to_string();
    conversation.ask(&Ask::Introduce { to, document }).await?;
    conversation.close().await;
    Ok(())
}

/// Takes all boxes at a relay away, and with them the letters that wait there.
pub async fn leave(user: &User, relay: &Name) -> Result<(), Error> {
    let mut conversation = converse(user, relay).await?;
    let ask = Ask::Boxes {
        boxes: Vec::new(),
        more: false,
    };
    conversation.ask(&ask).await?;
    conversation.close().await;
    Ok(())
}

/// Records the key that a relay says it has.
async fn record_key(user: &User, relay: &Name, answer: &Map<String, Value>) -> Result<(), Error> {
    let key = answer.get("key").and_then(Value::as_str);
    let key = key.and_then(bytes::<LEN>).ok_or_else(unreadable)?;
    let (user, relay) = (user.clone(), relay.clone());
    let keeping = task::spawn_blocking(move || user.set_relay_key(&relay, Some(&key)));
    Ok(keeping.await.map_err(lost)??)
}

async fn converse(user: &User, relay: &Name) -> Result<Conversation, Error> {
    let (_, opened) = attendance::open(user, relay, Attend::Letters).await?;
    let Opened {
        connection, keys, ..
    } = opened;
    let (reader, writer) = (connection.reader, connection.writer);
    let mut conversation = Conversation::new(reader, writer, [&keys.client, &keys.server])?;
    conversation.reader.set_idle(ANSWER);
    Ok(conversation)
}

impl<'a> Mailbox<'a> {
    async fn open(
        user: &'a User,
        relay: &'a Name,
        receiver: &'a Arc<Receiver>,
    ) -> Result<Self, Error> {
        let reading = {
            let user = user.clone();
            task::spawn_blocking(move || user.given_boxes())
        };
        let boxes = reading.await.map_err(lost)??;
        let conversation = converse(user, relay).await?;
        Ok(Self {
            private: Arc::new(private_key(user).await?),
            user,
            relay,
            receiver,
            conversation,
            boxes,
            prekeys: Prekeys::default(),
            has_lost_some: false,
        })
    }

    /// Publishes what changed, and fetches what waits; `false` if letters were left for later.
    async fn sync(mut self) -> Result<bool, Error> {
        let settings = self.user.root().settings()?;
        let stock = self.publish(settings.presence.show).await?;
        self.provide(&stock).await?;
        info!(user = %self.user.name(), relay = %self.relay, "the mailbox is in order");
        self.introductions().await?;
        let listed = Ask::Listed(settings.presence.listed);
        self.conversation.ask(&listed).await?;
        let before = clock::millis().saturating_sub(REMEMBERED);
        let journal = self.receiver.hooks.journal();
        drop(journal.quietly(false, move |db| letters::forget(db, before)));
        // Those that have to wait are not tried twice in one go.
        let mut left = 0;
        loop {
            let waiting = self.list(left).await?;
            if waiting.is_empty() {
                break;
            }
            for letter in waiting {
                match self.take(&letter).await {
                    Ok(()) => {}
                    // It was taken back.
                    Err(error) if error.code == Code::NotFound => {}
                    // One letter is no reason not to fetch the others.
                    Err(error) => {
                        info!(user = %self.user.name(), relay = %self.relay, "a letter waits: {error}");
                        left += 1;
                    }
                }
            }
        }
        // If they are lost, all that the relay has are; one contact cannot make us make new ones all the
        // time.
        let age = clock::millis().saturating_sub(self.prekeys.renewed);
        if self.has_lost_some && age > RENEWAL {
            self.prekeys.renewed = 0;
            self.record_prekeys().await?;
            left += 1;
        }
        self.conversation.close().await;
        Ok(left == 0)
    }

    /// Fetches documents of people who want to become contacts, or have answered.
    async fn introductions(&mut self) -> Result<(), Error> {
        loop {
            let answer = self.conversation.ask(&Ask::Introductions).await?;
            let all = answer.get("documents").and_then(Value::as_array);
            let all = all.ok_or_else(unreadable)?;
            if all.is_empty() {
                return Ok(());
            }
            for one in all {
                let field = |field: &str| one.get(field).and_then(Value::as_str);
                let (Some(from), Some(document)) = (field("from"), field("document")) else {
                    return Err(unreadable());
                };
                let name = Name::user(from).map_err(RootError::from)?;
                let (user, document) = (self.user.clone(), document.to_owned());
                let keeping = task::spawn_blocking(move || {
                    user.keep_introduction(&name, document.as_bytes())
                });
                keeping.await.map_err(lost)??;
                info!(user = %self.user.name(), relay = %self.relay, "a contact request or its answer has come: `m2y contact list` shows it");
                let from = from.to_owned();
                self.conversation.ask(&Ask::Introduced { from }).await?;
            }
        }
    }

    /// Publishes the boxes; returns what the relay says of the prekeys.
    async fn publish(&mut self, shows: bool) -> Result<Map<String, Value>, Error> {
        let all: Vec<_> = self
            .boxes
            .iter()
            .map(|(_, id)| (box_hash(id), shows))
            .collect();
        let mut parts: Vec<_> = all.chunks(BOXES_AT_ONCE).map(<[_]>::to_vec).collect();
        let last = parts.pop().unwrap_or_default();
        for boxes in parts {
            let ask = Ask::Boxes { boxes, more: true };
            self.conversation.ask(&ask).await?;
        }
        let ask = Ask::Boxes {
            boxes: last,
            more: false,
        };
        let stock = self.conversation.ask(&ask).await?;
        record_key(self.user, self.relay, &stock).await?;
        Ok(stock)
    }

    /// Sees to it that there are enough prekeys at the relay.
    async fn provide(&mut self, stock: &Map<String, Value>) -> Result<(), Error> {
        let once = stock
            .get("once")
            .and_then(Value::as_u64)
            .ok_or_else(unreadable)?;
        let once = usize::try_from(once).unwrap_or(usize::MAX);
        let has_daily = stock.get("daily") == Some(&Value::Bool(true));
        let (user, relay) = (self.user.clone(), self.relay.clone());
        let (private, stock) = (self.private.clone(), (once, has_daily));
        let making = task::spawn_blocking(move || replenish((&user, &relay), &private, stock));
        let Replenished {
            prekeys,
            public,
            mut replace,
        } = making.await.map_err(lost)??;
        self.prekeys = prekeys;
        for some in public.chunks(PREKEYS_AT_ONCE) {
            let ask = Ask::Prekeys {
                prekeys: some.to_vec(),
                replace: std::mem::take(&mut replace),
            };
            self.conversation.ask(&ask).await?;
        }
        Ok(())
    }

    async fn list(&mut self, skip: u64) -> Result<Vec<Waiting>, Error> {
        let answer = self.conversation.ask(&Ask::List { skip }).await?;
        let all = answer.get("letters").and_then(Value::as_array);
        let each = all.ok_or_else(unreadable)?.iter().map(|one| {
            let field = |field| bytes::<LEN>(one.get(field)?.as_str()?);
            Some(Waiting {
                letter: field("letter")?,
                hash: field("box")?,
                bytes: one.get("bytes")?.as_u64()?,
            })
        });
        each.collect::<Option<_>>().ok_or_else(unreadable)
    }

    /// Asks for a part of a letter; returns how many bytes of it come.
    async fn fetch(&mut self, letter: [u8; LEN], offset: u64, most: u64) -> Result<u64, Error> {
        let ask = Ask::Fetch {
            letter,
            offset,
            bytes: most,
        };
        let answer = self.conversation.ask(&ask).await?;
        let len = answer.get("bytes").and_then(Value::as_u64);
        len.filter(|len| *len <= most).ok_or_else(unreadable)
    }

    /// A part of a letter that fits into memory, or less of it if the letter ends before.
    async fn part(&mut self, letter: [u8; LEN], offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let comes = self.fetch(letter, offset, len as u64).await?;
        let mut part = Vec::with_capacity(len);
        while (part.len() as u64) < comes {
            part.extend(self.piece().await?);
        }
        Ok(part)
    }

    async fn piece(&mut self) -> Result<Vec<u8>, Error> {
        let piece = timeout(ANSWER, self.conversation.piece()).await;
        let late = |_| Error::new(Code::Later, "the relay is silent");
        let piece = piece.map_err(late)?.map_err(Error::from)?;
        piece.ok_or_else(|| Error::new(Code::Later, "the relay gave up"))
    }

    /// Fetches a letter and does with it what is done with a file that comes in a session, then tells
    /// its sender. An error `later` leaves it where it is.
    async fn take(&mut self, waiting: &Waiting) -> Result<(), Error> {
        let letter = waiting.letter;
        let front = self.part(letter, 0, HEAD_LEN).await?;
        let read = front.first_chunk::<HEAD_LEN>();
        let Some((encoded, head)) = read.and_then(|bytes| Some((bytes, Head::decode(bytes).ok()?)))
        else {
            // Whoever wrote it can make nothing of an answer.
            return self.tell(letter, Vec::new()).await;
        };
        let sealed = self.part(letter, HEAD_LEN as u64, head.len).await?;
        let digest = letter::digest(encoded, &sealed);
        let once = (head.kind == PrekeyKind::Once).then_some(head.prekey);
        if let Some(receipt) = self.settled(digest).await? {
            // We may have been stopped before this.
            self.wipe(once).await?;
            return self.tell(letter, receipt).await;
        }
        let is_whole = sealed.len() == head.len;
        let opened = match is_whole {
            true => self.open_letter(waiting, &head, sealed).await?,
            false => None,
        };
        let Some((contact, opened)) = opened else {
            info!(user = %self.user.name(), "a letter cannot be opened: its key is used up, or it was altered");
            let private = self.private.clone();
            let receipt = sealing(move || letter::unopened_receipt(&digest, &private, &mut SysRng));
            let receipt = receipt.await?;
            return self.settle(letter, digest, receipt, None).await;
        };
        let keys = Arc::new(opened.keys);
        let start = (HEAD_LEN + head.len) as u64;
        let records = waiting.bytes.saturating_sub(start);
        let place = (letter, start, records);
        let answer = self.receive(&contact, &opened.json, place, &keys);
        let answer = answer.await?;
        if answer.code == Code::Later.word() {
            return Err(Error::new(Code::Later, printable(&answer.meta.error, 500)));
        }
        let private = self.private.clone();
        let receipt = sealing(move || {
            let json = answer_json(answer);
            letter::seal_receipt(&keys, json.as_bytes(), &private, &mut SysRng)
        });
        let receipt = receipt.await?;
        self.settle(letter, digest, receipt, once).await
    }

    async fn settled(&mut self, digest: [u8; LEN]) -> Result<Option<Vec<u8>>, Error> {
        let failed = |e: &dyn std::fmt::Display| Error::new(Code::Later, e.to_string());
        let journal = self.receiver.hooks.journal().clone();
        let found = journal.quietly(false, move |db| letters::settled(db, &digest));
        found.committed().await.map_err(|e| failed(&e))
    }

    /// Records the receipt, wipes the prekey that was used, and tells the relay: in this order, so
    /// that whatever happens in between, the same receipt is told.
    async fn settle(
        &mut self,
        letter: [u8; LEN],
        digest: [u8; LEN],
        receipt: Vec<u8>,
        used: Option<u64>,
    ) -> Result<(), Error> {
        let failed = |e: &dyn std::fmt::Display| Error::new(Code::Later, e.to_string());
        let journal = self.receiver.hooks.journal().clone();
        let kept = receipt.clone();
        let settled = journal.quietly(true, move |db| {
            letters::settle(db, &digest, &kept, clock::millis())
        });
        settled.committed().await.map_err(|e| failed(&e))?;
        self.wipe(used).await?;
        self.tell(letter, receipt).await
    }

    /// Wipes the private half of a prekey for one letter, which was used.
    async fn wipe(&mut self, used: Option<u64>) -> Result<(), Error> {
        let before = self.prekeys.once.len();
        self.prekeys.once.retain(|key| Some(key.number) != used);
        match self.prekeys.once.len() == before {
            true => Ok(()),
            false => self.record_prekeys().await,
        }
    }

    async fn record_prekeys(&mut self) -> Result<(), Error> {
        let (user, relay) = (self.user.clone(), self.relay.clone());
        let (private, prekeys) = (self.private.clone(), self.prekeys.clone());
        let wiping =
            task::spawn_blocking(move || user.set_prekeys(&relay, private.public(), &prekeys));
        Ok(wiping.await.map_err(lost)??)
    }

    async fn tell(&mut self, letter: [u8; LEN], receipt: Vec<u8>) -> Result<(), Error> {
        let ask = Ask::Receipt { letter, receipt };
        self.conversation.ask(&ask).await?;
        info!(user = %self.user.name(), relay = %self.relay, "the receipt of a letter is at the relay");
        Ok(())
    }

    /// Opens a letter, and checks who wrote it: the one who was given the box, and nobody else.
    async fn open_letter(
        &mut self,
        waiting: &Waiting,
        head: &Head,
        sealed: Vec<u8>,
    ) -> Result<Option<(Contact, letter::Opened)>, Error> {
        let of_hash = |(_, id): &&(Name, BoxId)| box_hash(id) == waiting.hash;
        let Some((name, id)) = self.boxes.iter().find(of_hash).cloned() else {
            return Ok(None);
        };
        let keys = match head.kind {
            PrekeyKind::Once => &self.prekeys.once,
            PrekeyKind::Daily => &self.prekeys.daily,
        };
        let Some(secret) = keys.iter().find(|key| key.number == head.prekey) else {
            self.has_lost_some = true;
            return Ok(None);
        };
        let (secret, head) = (secret.secret.clone(), *head);
        let (user, private) = (self.user.clone(), self.private.clone());
        let opening = task::spawn_blocking(move || {
            let contact = match user.contact(&name) {
                Err(RootError::NoContact { .. }) => return Ok(None),
                contact => contact?,
            };
            let parties = letter::Parties {
                id: &id,
                sender: &contact.key,
                receiver: private.public(),
            };
            let opened = letter::open(parties, Share::from_secret(&secret), &head, &sealed);
            Ok::<_, Error>(opened.ok().map(|opened| (contact, opened)))
        });
        opening.await.map_err(lost)?
    }

    /// Decides about the file of a letter, and receives it; returns what its sender is told.
    async fn receive(
        &mut self,
        contact: &Contact,
        json: &Zeroizing<Vec<u8>>,
        (letter, start, records): ([u8; LEN], u64, u64),
        keys: &LetterKeys,
    ) -> Result<Wire, Error> {
        let parties = Arc::new(Parties {
            user: self.user.clone(),
            from: contact.name.clone(),
            holder: Holder::default(),
        });
        let fits = |asked: &Wire| {
            let size = asked.meta.filesize;
            size.is_none_or(|size| records_len(size) == records)
        };
        let asked = match Wire::from_json(json) {
            Ok(asked) if !asked.session && fits(&asked) => asked,
            Ok(asked) if !asked.session => {
                let error = Error::new(Code::Integrity, "the letter is not as long as its file");
                return Ok(refused(asked.meta, &error));
            }
            _ => {
                let error = Error::new(Code::Failed, "the metadata cannot be read");
                return Ok(refused(parties.empty_meta(), &error));
            }
        };
        let offer = Offer {
            asked,
            destination: None,
        };
        let queue = DiskQueue::default();
        let decided = self.receiver.decide_one(&queue, &parties, offer).await;
        let arrival = match decided {
            Some(Decision::Taken(arrival)) => *arrival,
            Some(Decision::Answered(answer)) => return Ok(*answer),
            None => return Err(Error::new(Code::Later, "nothing was decided")),
        };
        let answer = arrival.reply.clone();
        let blocks = self
            .blocks((letter, start), arrival, keys, &parties)
            .await?;
        let stored = match blocks {
            Ok(received) => self.store(received).await?,
            Err(error) => return told(answer, &error),
        };
        self.receiver.log(&stored);
        match &stored.result {
            Ok(_) => Ok(Wire {
                delivered: true,
                ..answer
            }),
            Err(error) => told(answer, error),
        }
    }

    /// Fetches the blocks of a file, behind what is there of it, and its trailer.
    async fn blocks(
        &mut self,
        (letter, start): ([u8; LEN], u64),
        arrival: Arrival,
        keys: &LetterKeys,
        parties: &Parties,
    ) -> Result<Result<Received<Arrival>, ReceiveError>, Error> {
        let (key, records) = (keys.blocks.clone(), keys.records.clone());
        let beginning = task::spawn_blocking(move || LetterFile::begin(arrival, &key, &records));
        let mut feed = match beginning.await.map_err(lost)? {
            Ok(feed) => feed,
            Err(error) => return Ok(Err(error)),
        };
        let offset = start.saturating_add(feed.offset);
        let mut left = match self.fetch(letter, offset, u64::MAX >> 1).await {
            Ok(left) => left,
            Err(error) => return Err(feed.leave(error).await),
        };
        while left > 0 {
            let mut bytes = Vec::with_capacity(TOGETHER);
            while left > 0 && bytes.len() < TOGETHER {
                let piece = tokio::select! {
                    piece = self.piece() => piece,
                    // Its sender is here, and continues it in a session.
                    () = parties.holder.superseded() => {
                        Err(Error::new(Code::Later, "its sender continues it in a session"))
                    }
                };
                match piece {
                    Ok(piece) if piece.len() as u64 <= left => {
                        left -= piece.len() as u64;
                        bytes.extend(piece);
                    }
                    Ok(_) => return Err(feed.leave(unreadable()).await),
                    Err(error) => return Err(feed.leave(error).await),
                }
            }
            let feeding = task::spawn_blocking(move || feed.take(&bytes));
            feed = match feeding.await.map_err(lost)? {
                Ok(feed) => feed,
                Err(error) => {
                    // What still comes of it is not looked at.
                    while left > 0 {
                        left = left.saturating_sub(self.piece().await?.len() as u64);
                    }
                    return Ok(Err(error));
                }
            };
        }
        let finishing = task::spawn_blocking(move || feed.finish());
        finishing.await.map_err(lost)
    }

    async fn store(&mut self, received: Received<Arrival>) -> Result<Stored, Error> {
        let mut over = None;
        let tell = |news| {
            if let StoreNews::Over(all) = news {
                over = over
                    .take()
                    .or(all.into_iter().next().map(|(_, stored)| stored));
            }
        };
        self.receiver.store(vec![received], tell).await;
        over.ok_or_else(|| Error::new(Code::Later, "the file was not stored"))
    }
}

/// The answer in a receipt, which has little room.
fn answer_json(mut answer: Wire) -> Zeroizing<String> {
    // A signature, and what is around it.
    const ROOM: usize = MAX_RECEIPT - 1_024;
    (answer.filekey, answer.offset) = (None, 0);
    let json = answer.to_json();
    if json.len() <= ROOM {
        return json;
    }
    // Its sender knows the rest.
    let id = answer.meta.id;
    let error = answer.meta.error.chars().take(1_000).collect();
    answer.meta = Meta::new("", "", "", "");
    (answer.meta.id, answer.meta.error) = (id, error);
    answer.to_json()
}

/// Signs on a thread that may take its time.
async fn sealing(
    work: impl FnOnce() -> Result<Vec<u8>, WireError> + Send + 'static,
) -> Result<Vec<u8>, Error> {
    Ok(task::spawn_blocking(work).await.map_err(lost)??)
}

/// What a sender is told of a file that did not arrive; an error if it is to wait.
fn told(answer: Wire, error: &ReceiveError) -> Result<Wire, Error> {
    match error.for_sender() {
        Some(error) if error.code != Code::Later => Ok(refused(answer.meta, &error)),
        Some(error) => Err(error),
        None => Err(Error::new(Code::Later, error.to_string())),
    }
}

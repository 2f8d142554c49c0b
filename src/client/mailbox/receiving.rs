//! One letter, from its head to its receipt.

use std::sync::Arc;

use tokio::task;
use tracing::info;
use zeroize::Zeroizing;

use super::{
    super::{letters::records_len, lost, membership::unreadable},
    Mailbox, Waiting,
    letter_file::LetterFile,
};
use crate::{
    clock,
    crypto::SysRng,
    error::{Code, Error, printable},
    files::disk_queue::DiskQueue,
    journal::{JournalError, letters},
    json::Value,
    meta::{Meta, Wire},
    root::{RootError, contact::Contact, name::Name},
    transfer::receive::{
        arrival::Arrival,
        decision::{Decision, refused},
        error::ReceiveError,
        offer::Offer,
        receiver::{Parties, StoreNews, Stored},
        target::Received,
        under_way::Holder,
    },
    wire::{
        WireError,
        letter::{self, BoxId, HEAD_LEN, Head, LEN, LetterKeys, MAX_RECEIPT, PrekeyKind, box_hash},
        post::Ask,
        record::MAX_RECORD,
        session::Share,
    },
};

/// Bytes of records that are opened at once.
const TOGETHER: usize = 16 * MAX_RECORD;

impl Mailbox<'_> {
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
        let piece = self.conversation.piece().await.map_err(Error::from)?;
        piece.ok_or_else(|| Error::new(Code::Later, "the relay gave up"))
    }

    /// Fetches a letter and does with it what is done with a file that comes in a session, then tells
    /// its sender. An error `later` leaves it where it is.
    pub(super) async fn take(&mut self, waiting: &Waiting) -> Result<(), Error> {
        let letter = waiting.letter;
        let front = self.part(letter, 0, HEAD_LEN).await?;
        let read = front.first_chunk::<HEAD_LEN>();
        let Some((encoded, head)) = read.and_then(|bytes| Some((bytes, Head::decode(bytes).ok()?)))
        else {
            // Its writer could not use a receipt.
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
        let journal = self.receiver.hooks.journal().clone();
        let found = journal.quietly(false, move |db| letters::settled(db, &digest));
        found.committed().await.map_err(unrecorded)
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
        let journal = self.receiver.hooks.journal().clone();
        let kept = receipt.clone();
        let settled = journal.quietly(true, move |db| {
            letters::settle(db, &digest, &kept, clock::millis())
        });
        settled.committed().await.map_err(unrecorded)?;
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

    pub(super) async fn record_prekeys(&mut self) -> Result<(), Error> {
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
            Ok(asked) if asked.meta.filesize.is_none() && !asked.meta.is_message() => {
                let error = Error::new(Code::Refused, "a letter has to say its filesize");
                return Ok(refused(asked.meta, &error));
            }
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

/// The journal fails: the letter waits.
fn unrecorded(error: JournalError) -> Error {
    Error::new(Code::Later, error.to_string())
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

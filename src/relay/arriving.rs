//! A letter that comes in at a relay.

use super::letters::{Letters, failed, path};
use crate::{
    clock,
    error::{Code, Error},
    journal::mailbox::{self, Id, Letter, State},
    json,
    root::{name::NameHash, settings::Quota},
    store::{PartialName, Sink, Target},
    wire::letter::{HEAD_LEN, Prekey, PrekeyKind, box_hash},
};

/// A letter that comes in; forgotten unless it is kept.
pub struct Arriving {
    letters: Letters,
    letter: Id,
    member: NameHash,
    partial: PartialName,
    sink: Option<Box<dyn Sink>>,
    left: u64,
    is_kept: bool,
}

impl Letters {
    /// Takes a prekey out of the stock for a letter that may now come in.
    pub fn begin(
        &self,
        id: &[u8; 32],
        letter: Id,
        bytes: u64,
    ) -> Result<(Arriving, Prekey), Error> {
        let hash = box_hash(id);
        let found = mailbox::find_box(&self.db(), &hash).map_err(failed)?;
        let Some((member, _)) = found.filter(|(member, _)| self.is_member(member)) else {
            let sentence =
                "the relay has no such box: its owner removed it, or has not published it yet";
            return Err(Error::new(Code::NotFound, sentence));
        };
        if bytes <= HEAD_LEN as u64 {
            return Err(Error::new(
                Code::Failed,
                "not a letter: it has no bytes behind its head",
            ));
        }
        let settings = self.0.hub.settings.now();
        let (in_box, of_member) = (settings.relay.per_box, settings.relay.per_member);
        let row = Letter {
            letter,
            hash,
            member,
            bytes,
            at: clock::millis(),
            state: State::Arriving,
            is_fetched: false,
            receipt: Vec::new(),
        };
        // What others leave at the same time counts too: the writer does one after the other.
        let begun = self.write(false, move |db| {
            let (there, all) = mailbox::loads(db, &member, &hash)?;
            let fits = |load: mailbox::Load, quota: Quota| {
                load.letters < quota.letters && load.bytes.saturating_add(bytes) <= quota.bytes
            };
            if !fits(there, in_box) || !fits(all, of_member) || !mailbox::begin(db, &row)? {
                return Ok(None);
            }
            let prekey = mailbox::take_prekey(db, &member, PrekeyKind::Daily as u8)?;
            if prekey.is_none() {
                mailbox::remove(db, &letter, State::Arriving)?;
            }
            Ok(Some(prekey))
        });
        let prekey = match begun? {
            None => {
                let sentence =
                    "there is no room for this letter at the relay: those before it wait";
                return Err(Error::new(Code::Later, sentence));
            }
            Some(None) => {
                let sentence =
                    "nothing can be sealed for the receiver: the relay has no key of theirs";
                return Err(Error::new(Code::Later, sentence));
            }
            Some(Some(prekey)) => prekey,
        };
        let partial = PartialName::new(&hex::encode(letter))?;
        let mut arriving = Arriving {
            letters: self.clone(),
            letter,
            member,
            sink: None,
            partial,
            left: bytes,
            is_kept: false,
        };
        let document = json::parse(prekey.as_bytes()).map_err(failed)?;
        let prekey = Prekey::from_document(&document)?;
        arriving.sink = Some(self.0.store.begin(&arriving.partial, 0).map_err(failed)?);
        Ok((arriving, prekey))
    }
}

impl Arriving {
    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Adds a piece.
    pub fn append(&mut self, piece: &[u8]) -> Result<(), Error> {
        let sink = self
            .sink
            .as_mut()
            .filter(|_| piece.len() as u64 <= self.left);
        let sink = sink.ok_or_else(|| {
            Error::new(Code::Failed, "the letter is longer than it was said to be")
        })?;
        sink.append(&[piece]).map_err(failed)?;
        self.left -= piece.len() as u64;
        Ok(())
    }

    /// Makes the whole letter safe; from then on it waits for its member.
    pub fn keep(mut self) -> Result<(), Error> {
        let store = self.letters.0.store.clone();
        let path = path(&self.letter)?;
        let mut sink = self.sink.take().ok_or_else(|| failed("no sink"))?;
        sink.settle().map_err(failed)?;
        drop(sink);
        store
            .publish(&self.partial, &Target::free(&path))
            .map_err(failed)?;
        store
            .settle_names(std::slice::from_ref(&path))
            .map_err(failed)?;
        let letter = self.letter;
        let now = clock::millis();
        let step = (State::Arriving, State::Waiting);
        // Its box may have been taken away meanwhile.
        let is_there = self.letters.write(true, move |db| {
            mailbox::proceed(db, &letter, step, &[], now)
        })?;
        if !is_there {
            self.letters.discard(&letter);
            return Err(Error::new(Code::NotFound, "the box was taken away"));
        }
        self.is_kept = true;
        self.letters.0.hub.letters_came(&self.member);
        Ok(())
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        self.sink = None;
        self.letters.0.store.discard(&self.partial);
        let letter = self.letter;
        // Not waited for: it is forgotten at the next start, if not now.
        drop(self.letters.0.journal.quietly(false, move |db| {
            mailbox::remove(db, &letter, State::Arriving)
        }));
    }
}

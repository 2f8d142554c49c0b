//! Letters for contacts who are away: leaving them at a relay, and hearing what became of them.

use std::{sync::Arc, time::Duration};

use rusqlite::Connection;
use tokio::{task, time::timeout};
use tracing::{debug, info};
use zeroize::Zeroizing;

use super::{
    Route,
    letter_log::{LetterLog, bytes_of},
    lost,
    post::Post,
    receipts::{self, Outcome, outcome},
};
use crate::{
    clock,
    crypto::{SysRng, keys::PrivateKey, random},
    error::{Code, Error},
    journal::letters::{self, Left, Stage},
    meta::{Meta, TransferId, Wire},
    relay::conversation::Conversation,
    root::{boxes::Grant, contact::Contact},
    transfer::send::{
        blocks::{Attempt, Blocks},
        job,
        send_job::SendJob,
    },
    transport::Addresses,
    wire::{
        WireError,
        letter::{self, HEAD_LEN, LetterKeys, Parties, Prekey, PrekeyKind},
        post::{Ask, DeliveryStatus},
        record::{self, Kind, MAX_BODY, MAX_RECORD, Stream},
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

/// How long a relay may take to say why it hung up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How old the prekey of a day may be: together with the time that a letter waits, less than its owner
/// keeps the private half.
const DAILY: u64 = 15 * 86_400_000;

/// By how much the clock of its owner may be ahead.
const AHEAD: u64 = 2 * 86_400_000;

/// So many letters with the same file may come to nothing before there is a pause, and the first pause in
/// milliseconds; each further one is twice as long.
const QUICK: u32 = 3;
const PAUSE: u64 = 60_000;

/// Bytes of a letter that are sealed at once.
const BUFFER: usize = 8 * MAX_RECORD;

/// What leaves letters on a route.
pub(super) struct Letters<'a> {
    route: &'a Route,
    private: Arc<PrivateKey>,
    grant: &'a Grant,
    log: LetterLog,
    post: Post,
}

impl<'a> Letters<'a> {
    /// Connects to the relay where the contact has a box for the user.
    pub(super) async fn open(
        route: &'a Route,
        private: Arc<PrivateKey>,
        grant: &'a Grant,
    ) -> Result<Self, Error> {
        let root = route.user.root();
        let log = LetterLog::open(root).await?;
        let mut post = Post::open(&grant.relay, &grant.key, route.gso).await?;
        // On the occasion, for those who run no server: what was left before may have its receipt.
        let mut before = receipts::without_receipt(&log).await?;
        before.retain(|left| left.key == grant.key);
        let mut heard = receipts::Heard::default();
        receipts::ask_over(root, &log, &mut post, before, &mut heard).await?;
        Ok(Self {
            route,
            private,
            grant,
            log,
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
        self.pause(meta.id).await?;
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
        let (front, keys) = self.seal(prekey, &json).await?;
        let left = Left {
            letter,
            user: self.route.user.name().to_string(),
            contact: contact.name.to_string(),
            relay: self.grant.relay.to_string(),
            key: self.grant.key,
            digest: keys.digest,
            receipt: *keys.receipt,
            id: meta.id.unwrap_or(TransferId([0; 16])),
            document: job.document().map(bytes_of).unwrap_or_default(),
            at: clock::millis(),
            stage: Stage::Leaving,
        };
        // Before a byte of it leaves: whatever happens, its receipt will be found.
        self.log.write(move |db| letters::put(db, &left)).await?;
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
                job.set_left(letter, self.log.journal.clone());
                Ok(meta)
            }
            Err(error) => {
                // If the relay has all of it and the connection broke, the next attempt finds out.
                if error.code != Code::Later {
                    self.log.remove(letter).await?;
                    self.reopen().await;
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
        conversation.acknowledged().await
    }

    /// The relay hangs up on a letter that ends midway; there may be others.
    async fn reopen(&mut self) {
        let Grant { relay, key, .. } = self.grant;
        match Post::open(relay, key, self.route.gso).await {
            Ok(post) => self.post = post,
            Err(error) => debug!("no further letter can be left: {error}"),
        }
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
        for left in self.log.read(find).await? {
            if left.key != self.grant.key || left.contact != self.route.contact.name.as_str() {
                continue;
            }
            let status = self.post.statuses(vec![left.letter]).await?.pop();
            let status = status.unwrap_or(DeliveryStatus::Unknown);
            let key = &self.route.contact.key;
            let ended = match outcome(&left, &status, key) {
                Outcome::Waiting => {
                    job.set_left(left.letter, self.log.journal.clone());
                    return Ok(Some(Ok(meta.clone())));
                }
                Outcome::Delivered(delivered) => {
                    Some(Ok(delivered.unwrap_or_else(|| meta.clone())))
                }
                Outcome::Failed(error) => Some(Err(error)),
                // It never was there: the connection broke.
                Outcome::Again(_) if left.stage == Stage::Leaving => None,
                Outcome::Again(_) => {
                    let (user, id) = (left.user.clone(), left.id);
                    let adding =
                        move |db: &Connection| letters::add_round(db, &user, id, clock::millis());
                    self.log.write(adding).await?;
                    None
                }
            };
            self.log.remove(left.letter).await?;
            let _ = self.post.conversation.ask(&Ask::Forget(left.letter)).await;
            if ended.is_some() {
                return Ok(ended);
            }
        }
        Ok(None)
    }

    /// Fails for as long as a transfer has to wait whose letters came to nothing.
    async fn pause(&mut self, id: Option<TransferId>) -> Result<(), Error> {
        let Some(id) = id else {
            return Ok(());
        };
        let user = self.route.user.name().to_string();
        let counted = move |db: &Connection| letters::rounds(db, &user, id);
        let (rounds, at) = self.log.read(counted).await?;
        let Some(factor) = rounds.checked_sub(QUICK) else {
            return Ok(());
        };
        let pause = PAUSE.saturating_mul(1 << factor.min(16));
        match at.saturating_add(pause) > clock::millis() {
            true => Err(Error::new(
                Code::Later,
                format!(
                    "{rounds} letters with this file came to nothing: compare fingerprints with {} (`m2y contact show`), or try again later",
                    self.route.contact.name
                ),
            )),
            false => Ok(()),
        }
    }

    /// Checks a prekey, and seals a meta for it.
    async fn seal(
        &mut self,
        prekey: Prekey,
        json: &Zeroizing<String>,
    ) -> Result<(Vec<u8>, LetterKeys), Error> {
        let (contact, relay) = (self.route.contact.clone(), self.grant.relay.clone());
        let (private, id, json) = (self.private.clone(), self.grant.id, json.clone());
        let sealing = task::spawn_blocking(move || {
            check(&prekey, &contact, &relay)?;
            let parties = Parties {
                id: &id,
                sender: private.public(),
                receiver: &contact.key,
            };
            let (now, json) = (clock::millis(), json.as_bytes());
            let sealed = letter::seal(parties, &prekey, now, json, &private, &mut SysRng);
            Ok(sealed?)
        });
        sealing.await.map_err(lost)?
    }

    pub(super) async fn close(self) {
        self.post.close().await;
    }
}

/// Whether a prekey is the contact's, and not too old.
fn check(prekey: &Prekey, contact: &Contact, relay: &Addresses) -> Result<(), Error> {
    let to = &contact.name;
    prekey.verify(&contact.key).map_err(|_| {
        let sentence = format!(
            "the relay {relay} gave a key for letters that is not {to}'s: nothing was left there"
        );
        Error::new(Code::Identity, sentence)
    })?;
    let now = clock::millis();
    let age = now.saturating_sub(prekey.time);
    if prekey.time > now.saturating_add(AHEAD) {
        let sentence = format!(
            "the key for letters to {to} is from the future: the clock of this machine is wrong, or that of {to}"
        );
        return Err(Error::new(Code::Later, sentence));
    }
    if prekey.kind == PrekeyKind::Daily && age > DAILY {
        let sentence =
            format!("{to} has not been at the relay {relay} for too long to leave letters there");
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

/// Why a relay hung up, if it says so.
async fn why(conversation: &mut Conversation, error: Error) -> Error {
    match timeout(LAST_WORDS, conversation.answer()).await {
        Ok(Err(said)) if said.code != Code::Integrity => said,
        _ => error,
    }
}

/// Bytes of the records of a file: its blocks and the trailer.
pub(super) fn records_len(size: u64) -> u64 {
    const AROUND: u64 = (MAX_RECORD - MAX_BODY) as u64;
    let blocks = size.div_ceil(MAX_BODY as u64).max(1);
    size.saturating_add(blocks.saturating_mul(AROUND))
        .saturating_add(AROUND + 8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_a_day_off_does_not_matter_and_old_keys_of_a_day_are_refused() {
        let (pem, public) = PrivateKey::generate(2_048).unwrap();
        let owner = PrivateKey::from_pem(&pem).unwrap();
        let contact = Contact {
            name: crate::root::name::Name::user("roland-frei").unwrap(),
            key: public,
        };
        let relay: Addresses = "h:5".parse().unwrap();
        const DAY: i64 = 86_400_000;
        let is_fine = |kind, days: i64| {
            let time = clock::millis().saturating_add_signed(days * DAY);
            let made = Prekey::sign(kind, 7, time, [9; 32], &owner, &mut SysRng);
            check(&made.unwrap(), &contact, &relay).map_err(|error| error.code)
        };
        for days in [-89, -1, 0, 1] {
            assert_eq!(is_fine(PrekeyKind::Once, days), Ok(()), "{days}");
        }
        for days in [-14, -1, 0, 1] {
            assert_eq!(is_fine(PrekeyKind::Daily, days), Ok(()), "{days}");
        }
        assert_eq!(is_fine(PrekeyKind::Daily, -16), Err(Code::Later));
        assert_eq!(is_fine(PrekeyKind::Once, 3), Err(Code::Later));
    }

    #[test]
    fn an_empty_file_has_a_block_and_a_full_one_no_more_than_it_needs() {
        assert_eq!(records_len(0), 28 + 36);
        assert_eq!(records_len(MAX_BODY as u64), MAX_BODY as u64 + 28 + 36);
        assert_eq!(
            records_len(MAX_BODY as u64 + 1),
            MAX_BODY as u64 + 1 + 2 * 28 + 36
        );
    }
}

//! Objects on four members, any two of which rebuild them.
//!
//! A chunk is divided by the [code] into four shares, one for each member. It is written once
//! three members have theirs, and the fourth share is left to a repair; with two the chunk could
//! bear no further loss, so that counts as not written. Documents (manifests) are small and go to
//! every member whole, by the same rule.
//!
//! A chunk is read from the two members that have answered fastest so far. A third is asked if
//! one of them is slow, and others if one fails. **No byte is rebuilt from an unverified share**:
//! the digest of each share is known before it is read. A member that does not answer is not
//! taken for one that lost something.

pub mod code;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use hyper::body::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use self::code::{CodeError, MEMBERS, Shares, rebuild_into, share_len};
use super::buffers;
use super::member::{Existing, Member, MemberError, ObjectKey};

/// The SHA-256 of a share as a member holds it.
pub type Digest = [u8; 32];

/// How long the last member may take after the others have their share.
const GRACE: Duration = Duration::from_secs(1);

/// How long a read or a write may take, unless it was said otherwise.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a read waits before it asks one more member: at least, and at most.
const HEDGE: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(250));

/// How long a member that failed is asked last.
const AVOIDED: Duration = Duration::from_secs(30);

/// Four members.
pub struct Stripe {
    members: [Arc<dyn Member>; MEMBERS],
    names: [String; MEMBERS],
    /// How many must have their part before a write counts: 3 or 4.
    quorum: usize,
    health: [Health; MEMBERS],
    begun: Instant,
    deadline: Duration,
    /// What members still do, by member and object.
    in_flight: Mutex<HashMap<(usize, ObjectKey), JoinHandle<()>>>,
}

/// How a member has answered so far.
#[derive(Default)]
struct Health {
    /// The moving average of the time that a read took, in microseconds; 0 if none is known.
    micros: AtomicU64,
    /// When it failed last, in milliseconds since the stripe was opened, plus 1; 0 if never.
    failed: AtomicU64,
}

/// What a write left to do: the members without their part, by their number from 0 on.
pub type Missing = Vec<usize>;

/// A chunk that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The digest of each share.
    pub digests: [Digest; MEMBERS],
    /// The members that do not have their share.
    pub missing: Missing,
}

/// What is known of a chunk before it is read.
#[derive(Clone, Copy, Debug)]
pub struct ChunkAt<'a> {
    /// The key of its shares.
    pub key: &'a ObjectKey,
    /// Bytes of the chunk.
    pub len: usize,
    /// Bytes of the trailer behind each share.
    pub trailer: usize,
    /// The digest of each share.
    pub digests: &'a [Digest; MEMBERS],
}

/// A chunk that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its bytes.
    pub chunk: Vec<u8>,
    /// What stands behind each share.
    pub trailer: Vec<u8>,
    /// The members whose share is wrong or missing, which a repair can write anew. Those that
    /// did not answer are not among them.
    pub wrong: Vec<usize>,
}

/// Why a stripe did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// Too few members could be written to. What was written is removed again.
    #[error("{written} of {needed} members that are needed could be written to: {reasons}")]
    Write {
        /// How many have their part.
        written: usize,
        /// How many are needed.
        needed: usize,
        /// Why the others have not.
        reasons: String,
    },
    /// Too few shares could be read.
    #[error("{read} of 2 members that are needed could be read: {reasons}")]
    Read {
        /// How many verified shares there are.
        read: usize,
        /// Why there are not more.
        reasons: String,
    },
    /// Verified shares do not rebuild a chunk: they were never those of one.
    #[error("the shares of the chunk do not belong together: {0}")]
    Code(#[from] CodeError),
}

/// What a member answered to a read.
enum Share {
    /// The share that was written.
    Verified(Vec<u8>),
    /// Another one, or none.
    Wrong(String),
    /// Nothing that tells what it holds.
    Unknown(String),
}

impl Stripe {
    /// Takes four members with their names, for errors. `quorum` of them, 3 or 4, must have their
    /// part before a write counts.
    #[must_use]
    pub fn new(members: [(String, Arc<dyn Member>); MEMBERS], quorum: usize) -> Self {
        let names = members.each_ref().map(|(name, _)| name.clone());
        Self {
            members: members.map(|(_, member)| member),
            names,
            quorum: quorum.clamp(MEMBERS - 1, MEMBERS),
            health: Default::default(),
            begun: Instant::now(),
            deadline: DEADLINE,
            in_flight: Mutex::default(),
        }
    }

    /// The same with another deadline for each read and write.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// How many members must have their part before a write counts.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.quorum
    }

    /// The members with their names.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Arc<dyn Member>)> {
        self.names.iter().map(String::as_str).zip(&self.members)
    }

    /// Writes a chunk, with a trailer that each member gets behind its share.
    ///
    /// # Errors
    ///
    /// If fewer members than the quorum have their share. Those that have it are told to remove
    /// it.
    pub async fn put_chunk(
        &self,
        key: &ObjectKey,
        chunk: Vec<u8>,
        trailer: &[u8],
    ) -> Result<Written, StripeError> {
        let len = share_len(chunk.len()) + trailer.len();
        let parity = [(); 2].map(|()| buffers::take(len));
        let objects = Shares::encode(chunk, parity).into_objects(trailer);
        let digests = objects.each_ref().map(|object| digest(object));
        let missing = self.put(key, objects, Existing::Replace, true).await?;
        Ok(Written { digests, missing })
    }

    /// Writes a document to every member.
    ///
    /// # Errors
    ///
    /// If fewer members than the quorum have it. Those that made a new object are told to remove it;
    /// where one was replaced it stays, and the caller writes again or writes the old one back.
    pub async fn put_document(
        &self,
        key: &ObjectKey,
        document: Bytes,
        existing: Existing,
    ) -> Result<Missing, StripeError> {
        let objects = [(); MEMBERS].map(|()| document.clone());
        let is_new = existing == Existing::Keep;
        self.put(key, objects, existing, is_new).await
    }

    async fn put(
        &self,
        key: &ObjectKey,
        objects: [Bytes; MEMBERS],
        existing: Existing,
        is_new: bool,
    ) -> Result<Missing, StripeError> {
        let until = Instant::now() + self.deadline;
        let (told, mut outcomes) = mpsc::unbounded_channel();
        for (number, (member, object)) in self.members.iter().zip(objects).enumerate() {
            let (member, told, at) = (member.clone(), told.clone(), key.clone());
            self.then(number, key, async move {
                let _ = told.send((number, member.put(&at, object, existing).await));
            });
        }
        drop(told);
        let (mut written, mut reasons) = (Vec::new(), Vec::new());
        let mut unknown: Vec<usize> = (0..MEMBERS).collect();
        while !unknown.is_empty() {
            let enough = written.len() >= self.quorum;
            // The last one gets a moment, which saves a repair.
            let until = match enough {
                true => until.min(Instant::now() + GRACE),
                false => until,
            };
            let Some((number, result)) = timeout_at(until, outcomes.recv()).await.ok().flatten()
            else {
                break;
            };
            unknown.retain(|other| *other != number);
            match result {
                Ok(()) => written.push(number),
                Err(error) => {
                    self.failed(number);
                    reasons.push(self.reason(number, &error.to_string()));
                    // It may have been written all the same.
                    if matches!(error, MemberError::Unreachable(_)) {
                        unknown.push(number);
                    }
                    if reasons.len() > MEMBERS - self.quorum {
                        break;
                    }
                }
            }
            // Every member has answered; what is unknown stays so.
            if written.len() + reasons.len() == MEMBERS {
                break;
            }
        }
        if written.len() >= self.quorum {
            let missing = (0..MEMBERS).filter(|number| !written.contains(number));
            return Ok(missing.collect());
        }
        for number in &unknown {
            self.failed(*number);
        }
        if reasons.len() <= MEMBERS - self.quorum {
            let seconds = self.deadline.as_secs();
            reasons.push(format!("the others did not answer within {seconds} s"));
        }
        if is_new {
            // Also from those of which it is not known, once their write is through. What cannot
            // be removed is swept later.
            let removed = written.iter().chain(&unknown).map(|number| {
                let (done, removed) = oneshot::channel();
                if let Some(member) = self.members.get(*number).cloned() {
                    let at = key.clone();
                    self.then(*number, key, async move {
                        let _ = member.remove(&at).await;
                        let _ = done.send(());
                    });
                }
                removed
            });
            let removed: Vec<_> = removed.collect();
            let _ = timeout(GRACE, join_all(removed)).await;
        }
        Err(StripeError::Write {
            written: written.len(),
            needed: self.quorum,
            reasons: reasons.join("; "),
        })
    }

    /// Has a member do something with an object once all that it was told before about this object
    /// is through. It is done whether somebody waits for it or not: otherwise a write that was
    /// given up could arrive after a later one.
    fn then(
        &self,
        number: usize,
        key: &ObjectKey,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        in_flight.retain(|_, work| !work.is_finished());
        let at = (number, key.clone());
        let before = in_flight.remove(&at);
        // One that never ends must not keep a member from all later writes.
        let limit = self.deadline.saturating_mul(2);
        let work = tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let _ = timeout(limit, work).await;
        });
        in_flight.insert(at, work);
    }

    /// Reads a chunk.
    ///
    /// # Errors
    ///
    /// If fewer than two shares can be read and verified.
    pub async fn get_chunk(&self, chunk: &ChunkAt<'_>) -> Result<Read, StripeError> {
        let mut waiting = self.by_speed().into_iter();
        let mut reading = FuturesUnordered::new();
        let mut asked = Vec::new();
        let mut ask = |number: usize| {
            asked.push((number, Instant::now()));
            self.share(number, chunk)
        };
        reading.extend(waiting.by_ref().take(2).map(&mut ask));
        let mut shares: [Option<Vec<u8>>; MEMBERS] = Default::default();
        let (mut wrong, mut reasons, mut answered) = (Vec::new(), Vec::new(), Vec::new());
        let (patience, until) = (self.patience(), Instant::now() + self.deadline);
        while shares.iter().flatten().count() < 2 {
            let next = tokio::select! {
                next = reading.next() => next,
                () = sleep(patience), if waiting.len() > 0 => {
                    reading.extend(waiting.next().map(&mut ask));
                    continue;
                }
                () = sleep_until(until) => break,
            };
            let Some((number, share)) = next else {
                match waiting.next() {
                    Some(number) => reading.push(ask(number)),
                    None => break,
                }
                continue;
            };
            answered.push(number);
            let reason = match share {
                Share::Verified(share) => {
                    if let Some(place) = shares.get_mut(number) {
                        *place = Some(share);
                    }
                    continue;
                }
                Share::Wrong(reason) => {
                    wrong.push(number);
                    reason
                }
                Share::Unknown(reason) => reason,
            };
            reasons.push(self.reason(number, &reason));
            reading.extend(waiting.next().map(&mut ask));
        }
        drop(reading);
        // One that hangs never says so: those that let a read wait are asked last for a while.
        let silent = asked
            .iter()
            .filter(|(number, since)| !answered.contains(number) && since.elapsed() >= patience);
        for (number, since) in silent {
            self.failed(*number);
            let seconds = since.elapsed().as_secs();
            reasons.push(self.reason(*number, &format!("no answer within {seconds} s")));
        }
        let read = shares.iter().flatten().count();
        if read < 2 {
            return Err(StripeError::Read {
                read,
                reasons: reasons.join("; "),
            });
        }
        let trailer = shares.iter().flatten().next();
        let trailer = trailer.and_then(|share| share.get(share_len(chunk.len)..));
        let bare = shares.each_ref().map(|share| {
            let share = share.as_ref()?;
            share.get(..share_len(chunk.len))
        });
        wrong.sort_unstable();
        let trailer = trailer.unwrap_or_default().to_vec();
        // The padded one.
        let mut rebuilt = buffers::take(2 * share_len(chunk.len));
        rebuild_into(bare, &mut rebuilt)?;
        shares.into_iter().flatten().for_each(buffers::give);
        Ok(Read {
            chunk: rebuilt,
            trailer,
            wrong,
        })
    }

    /// Asks a member for its share, and verifies it.
    async fn share(&self, number: usize, chunk: &ChunkAt<'_>) -> (usize, Share) {
        let (Some(member), Some(expected)) = (self.members.get(number), chunk.digests.get(number))
        else {
            return (number, Share::Unknown("there is no such member".to_owned()));
        };
        let begun = Instant::now();
        let expected_len = share_len(chunk.len) + chunk.trailer;
        // One byte more tells a share that is too long.
        let range = 0..expected_len as u64 + 1;
        let got = member.get(chunk.key, Some(range)).await;
        let share = match got {
            Ok(share) if share.len() == expected_len && digest(&share) == *expected => {
                self.took(number, begun.elapsed());
                Share::Verified(share)
            }
            Ok(_) => Share::Wrong("its share is not the one that was written".to_owned()),
            Err(MemberError::Missing(_)) => Share::Wrong("it has no share".to_owned()),
            Err(error) => Share::Unknown(error.to_string()),
        };
        if !matches!(share, Share::Verified(_)) {
            self.failed(number);
        }
        (number, share)
    }

    /// Writes a chunk's share to each of these members anew, from those that the others have.
    /// Returns the members that still lack theirs.
    ///
    /// # Errors
    ///
    /// If the chunk cannot be read.
    pub async fn repair_chunk(
        &self,
        chunk: &ChunkAt<'_>,
        members: &[usize],
    ) -> Result<Missing, StripeError> {
        let read = self.get_chunk(chunk).await?;
        let shares = Shares::encode(read.chunk, Default::default());
        let all = shares.all();
        let mut missing = Vec::new();
        for number in members {
            let (Some(member), Some(share)) = (self.members.get(*number), all.get(*number)) else {
                continue;
            };
            let object = Bytes::from([*share, &read.trailer].concat());
            // A chunk that was rebuilt is the one that was written: its seal says so. Its shares
            // are too, or their digests would differ.
            let is_right = chunk.digests.get(*number) == Some(&digest(&object));
            let put = member.put(chunk.key, object, Existing::Replace);
            let is_written = is_right && matches!(timeout(self.deadline, put).await, Ok(Ok(())));
            if !is_written {
                missing.push(*number);
            }
        }
        Ok(missing)
    }

    /// The numbers of the members, the fastest first, and last those that failed a moment ago.
    fn by_speed(&self) -> Vec<usize> {
        let now = self.millis();
        let avoided = |health: &Health| {
            let failed = health.failed.load(Ordering::Relaxed);
            failed > 0 && now.saturating_sub(failed) < millis(AVOIDED)
        };
        let key = |number: &usize| {
            let health = self.health.get(*number);
            health.map(|health| (avoided(health), health.micros.load(Ordering::Relaxed)))
        };
        let mut numbers: Vec<usize> = (0..MEMBERS).collect();
        numbers.sort_by_key(key);
        numbers
    }

    /// How long to wait before one more member is asked: twice what the second fastest takes.
    fn patience(&self) -> Duration {
        let second = self
            .by_speed()
            .get(1)
            .and_then(|number| self.health.get(*number));
        let micros = second.map_or(0, |health| health.micros.load(Ordering::Relaxed));
        match micros {
            0 => HEDGE.1,
            micros => Duration::from_micros(micros.saturating_mul(2)).clamp(HEDGE.0, HEDGE.1),
        }
    }

    fn took(&self, number: usize, time: Duration) {
        if let Some(health) = self.health.get(number) {
            let new = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
            let old = health.micros.load(Ordering::Relaxed);
            let average = match old {
                0 => new,
                old => (old.saturating_mul(7).saturating_add(new)) / 8,
            };
            health.micros.store(average, Ordering::Relaxed);
            health.failed.store(0, Ordering::Relaxed);
        }
    }

    fn failed(&self, number: usize) {
        if let Some(health) = self.health.get(number) {
            health.failed.store(self.millis(), Ordering::Relaxed);
        }
    }

    /// Milliseconds since the stripe was opened, plus 1.
    fn millis(&self) -> u64 {
        millis(self.begun.elapsed()).saturating_add(1)
    }

    fn reason(&self, number: usize, reason: &str) -> String {
        let name = self.names.get(number).map_or("", String::as_str);
        format!("{name}: {reason}")
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

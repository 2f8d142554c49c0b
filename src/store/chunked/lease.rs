//! Who may write to a folder: one server at a time.
//!
//! A lease is an object `lease/FENCE`, FENCE counting up; the highest one counts. Whoever makes
//! it on enough members without replacing another has the lease: of two servers that try, at most
//! one does. The holder writes it again every few seconds. A lease whose object did not change for
//! a minute is over, by the clock of the server that looked at it twice, and the next server makes
//! the next one. Every manifest has the number of its lease in its key and in its sequence; so what
//! a server writes that was asleep meanwhile replaces nothing, and counts for nothing.
//!
//! Where too few members can refuse to replace an object there are no leases: the folder is for one
//! server only. Two of one root are kept apart by the lock of the root.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hyper::body::Bytes;
use subtle::ConstantTimeEq;
use tokio::time::timeout;
use tracing::warn;

use super::{Core, crypto_error, holders::bit};
use crate::{
    clock,
    crypto::{mac::hmac_sha256, seal::derive},
    store::{member::ObjectKey, runtime, sealed::chunk::ChunkId},
};

/// The directory of leases.
const LEASES: &str = "lease";

/// How long a lease lasts that nobody renews.
pub const SILENCE: Duration = Duration::from_secs(60);

/// How often the holder of a lease should renew it.
pub const BEAT_EVERY: Duration = Duration::from_secs(15);

/// How old a renewal may be for a write to rely on it.
const FRESH: Duration = Duration::from_secs(20);

/// How long the last members may take once enough have answered.
const GRACE: Duration = Duration::from_secs(1);

/// How old the renewal may be at the end of a write.
const RELIABLE: Duration = Duration::from_secs(45);

/// Notes of the index: the number of the lease, when it was renewed (milliseconds since 1970), and
/// its beats.
const FENCE: &str = "fence";
const RENEWED: &str = "renewed";
const BEAT: &str = "beat";

/// The note whether members can refuse to replace a lease.
const CAN_REFUSE: &str = "can_refuse";

/// The document of a lease: a counter, the holder, and whether it was given back. Of two under one
/// number, that with more beats is the later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lease {
    beat: u64,
    holder: [u8; 16],
    is_over: bool,
}

/// What was seen of the lease of another server.
#[derive(Clone, Copy)]
struct Seen {
    fence: u64,
    lease: Lease,
    since: Instant,
}

/// The lease of a folder, as this process knows it.
pub struct Holding {
    /// Who we are: the same for all processes of a root on one machine.
    holder: [u8; 16],
    silence: Duration,
    seen: Mutex<Option<Seen>>,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another server has it.
    #[error(
        "another server writes to this folder: stop it; {} s after its last sign of life this one \
         takes over", .0.as_secs()
    )]
    Taken(Duration),
    /// Another server had it since this one.
    #[error("another server has written to this folder since this one did")]
    Behind,
}

impl From<LeaseError> for io::Error {
    fn from(error: LeaseError) -> Self {
        Self::new(io::ErrorKind::ResourceBusy, error)
    }
}

impl Holding {
    /// For a root that `identity` tells apart from others, and from copies on other machines.
    pub fn new(identity: &[u8], silence: Duration) -> Self {
        Self {
            holder: derive(b"", identity, b"m2y store lease holder"),
            silence,
            seen: Mutex::default(),
        }
    }

    /// Whether the lease of another server is over, as far as this process has seen.
    fn is_over(&self, fence: u64, lease: Lease) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            _ if lease.is_over => true,
            Some(before) if before.fence == fence && before.lease == lease => {
                before.since.elapsed() >= self.silence
            }
            _ => {
                let since = Instant::now();
                *seen = Some(Seen {
                    fence,
                    lease,
                    since,
                });
                false
            }
        }
    }
}

impl Lease {
    fn to_bytes(self, key: &[u8; 32], fence: u64) -> Bytes {
        let mut bytes = self.holder.to_vec();
        bytes.extend_from_slice(&self.beat.to_be_bytes());
        bytes.push(u8::from(self.is_over));
        let mac = hmac_sha256(key, &[&fence.to_be_bytes(), &bytes]);
        bytes.extend_from_slice(&mac);
        bytes.into()
    }

    fn from_bytes(bytes: &[u8], key: &[u8; 32], fence: u64) -> Option<Self> {
        let (bytes, mac) = bytes.split_last_chunk::<32>()?;
        let expected = hmac_sha256(key, &[&fence.to_be_bytes(), bytes]);
        let (holder, rest) = bytes.split_first_chunk::<16>()?;
        let (beat, rest) = rest.split_first_chunk::<8>()?;
        (rest.len() == 1 && bool::from(expected.ct_eq(mac))).then(|| Self {
            holder: *holder,
            beat: u64::from_be_bytes(*beat),
            is_over: rest == [1],
        })
    }
}

impl Core {
    fn lease_object(&self, fence: u64) -> ObjectKey {
        self.folder.directory(Some(&format!("{LEASES}/{fence}")))
    }

    fn lease_key(&self) -> [u8; 32] {
        derive(
            &self.folder.id,
            self.folder.secret().as_bytes(),
            b"m2y store lease",
        )
    }

    /// Makes sure that this server may write. What it writes is under the lease whose number the
    /// index has.
    pub(super) fn hold(self: &Arc<Self>) -> io::Result<()> {
        self.renew_after(FRESH)
    }

    /// Makes sure that what was written since [`Self::hold`] was written under the lease: another
    /// server takes over only after a silence, and then reads all that was written before.
    pub(super) fn still_holds(self: &Arc<Self>) -> io::Result<()> {
        self.renew_after(RELIABLE)
    }

    /// Renews the lease, if its last renewal is older than this.
    fn renew_after(self: &Arc<Self>, age: Duration) -> io::Result<()> {
        if self.is_renewed(age)? {
            return Ok(());
        }
        let _renewing = self.renewing()?;
        // Another thread or process may have done it.
        match self.is_renewed(age)? {
            true => Ok(()),
            false => self.renew_now(),
        }
    }

    fn is_renewed(&self, age: Duration) -> io::Result<bool> {
        let since = clock::millis().checked_sub(self.number(RENEWED)?);
        let since = since.map(Duration::from_millis);
        Ok(self.number(FENCE)? > 0 && since.is_some_and(|since| since < age))
    }

    /// Renews the lease, or gets it.
    pub(super) fn renew(self: &Arc<Self>) -> io::Result<()> {
        let _renewing = self.renewing()?;
        self.renew_now()
    }

    fn renew_now(self: &Arc<Self>) -> io::Result<()> {
        if !self.has_leases()? {
            return Ok(());
        }
        let fence: u64 = self.number(FENCE)?;
        let beat = self.number(BEAT)? + 1;
        // Others count from when they can see it.
        let begun = clock::millis();
        let this = self.clone();
        let (fence, beat) = runtime::run(async move { this.get_lease(fence, beat).await })??;
        self.index.set_note(BEAT, signed(beat))?;
        self.index.set_note(FENCE, signed(fence))?;
        self.index.set_note(RENEWED, signed(begun))
    }

    /// Whether the folder has leases, which is found out before the first one.
    fn has_leases(self: &Arc<Self>) -> io::Result<bool> {
        if let Some(known) = self.index.note(CAN_REFUSE)? {
            return Ok(known);
        }
        let this = self.clone();
        let id = ChunkId::new().map_err(crypto_error)?;
        // A chunk of no file: what is left of it if this is cut short is swept.
        let key = self.folder.chunk_key(&id);
        let can = runtime::run(async move { this.holders.can_refuse(&key).await })??;
        if !can {
            warn!(
                "the store cannot refuse to replace an object, so this folder is for one server \
                 only: never start a second one, on a copy of this root or elsewhere"
            );
        }
        self.index.set_note(CAN_REFUSE, can)?;
        Ok(can)
    }

    fn number(&self, key: &str) -> io::Result<u64> {
        let number: Option<i64> = self.index.note(key)?;
        Ok(number.and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
    }

    /// The highest lease that any member knows of. At least `needed` members have to answer; once
    /// they have, the rest get [`GRACE`].
    async fn latest_lease(&self, needed: usize) -> io::Result<Option<(u64, Option<Lease>)>> {
        let members = 0..self.holders.count();
        let mut asking: FuturesUnordered<_> = members.map(|number| self.lease_of(number)).collect();
        let (mut latest, mut answered, mut reasons) = (None, 0, Vec::new());
        loop {
            let answer = match answered >= needed {
                true => timeout(GRACE, asking.next()).await.ok().flatten(),
                false => asking.next().await,
            };
            match answer {
                None => break,
                Some(Ok(lease)) => {
                    latest = latest.max(lease);
                    answered += 1;
                }
                Some(Err(error)) => reasons.push(error.to_string()),
            }
        }
        if answered < needed {
            let why = format!("too few members can be reached: {}", reasons.join("; "));
            return Err(io::Error::new(io::ErrorKind::HostUnreachable, why));
        }
        Ok(latest)
    }

    /// The highest lease that a member knows of.
    async fn lease_of(&self, number: usize) -> io::Result<Option<(u64, Option<Lease>)>> {
        let directory = self.folder.directory(Some(LEASES));
        let mut highest = 0;
        let listed = self.holders.list(number, &directory, |object| {
            let fence = object.key.as_str().rsplit_once('/');
            let fence = fence.and_then(|(_, fence)| fence.parse().ok());
            highest = highest.max(fence.unwrap_or(0));
            Ok(())
        });
        listed.await?;
        if highest == 0 {
            return Ok(None);
        }
        let (object, key) = (self.lease_object(highest), self.lease_key());
        let document = self.holders.document(number, &object).await;
        let lease = document
            .ok()
            .and_then(|bytes| Lease::from_bytes(&bytes, &key, highest));
        Ok(Some((highest, lease)))
    }

    async fn get_lease(&self, ours: u64, beat: u64) -> io::Result<(u64, u64)> {
        let mine = Lease {
            holder: self.lease.holder,
            beat,
            is_over: false,
        };
        let Some((highest, lease)) = self.latest_lease(self.holders.needed()).await? else {
            return self.claim(ours + 1, mine).await;
        };
        let is_mine = lease.is_some_and(|lease| lease.holder == mine.holder);
        if is_mine && highest == ours {
            let mine = Lease {
                beat: beat.max(lease.map_or(0, |lease| lease.beat + 1)),
                ..mine
            };
            let bytes = mine.to_bytes(&self.lease_key(), ours);
            self.holders
                .put_document(&self.lease_object(ours), bytes)
                .await?;
            return Ok((ours, mine.beat));
        }
        // One that nobody can read was made by a server that stopped in the middle, or by nobody
        // who knows the folder.
        let lease = lease.unwrap_or(Lease {
            holder: [0; 16],
            beat: 0,
            is_over: false,
        });
        if !is_mine && !self.lease.is_over(highest, lease) {
            return Err(LeaseError::Taken(self.lease.silence).into());
        }
        match highest == ours {
            true => self.claim(highest + 1, mine).await,
            false => Err(LeaseError::Behind.into()),
        }
    }

    /// Makes the next lease. If another server was faster, it has it.
    async fn claim(&self, fence: u64, mine: Lease) -> io::Result<(u64, u64)> {
        let (key, bytes) = (
            self.lease_object(fence),
            mine.to_bytes(&self.lease_key(), fence),
        );
        if let Err(error) = self.holders.create_document(&key, bytes.clone()).await {
            // An answer may have been lost on its way.
            let there = self.holders.documents(&key).await;
            let ours = there
                .iter()
                .enumerate()
                .filter(|(_, there)| there.as_ref().is_ok_and(|there| *there == bytes));
            let missing = ours.fold(self.holders.all(), |missing, (at, _)| missing & !bit(at));
            if !self.holders.is_enough(missing) {
                let others = there.iter().flatten().any(|there| *there != bytes);
                return match others {
                    true => Err(LeaseError::Taken(self.lease.silence).into()),
                    false => Err(error),
                };
            }
        }
        if fence > 1 {
            // The earlier one counts no more, and is in nobody's way.
            let earlier = self.lease_object(fence - 1);
            let _ = self.holders.remove(&earlier, self.holders.all()).await;
        }
        Ok((fence, mine.beat))
    }

    /// Gives the lease back, if this root has it: the next server need not wait.
    pub(super) fn give_back(self: &Arc<Self>) -> io::Result<()> {
        let fence = self.number(FENCE)?;
        if fence == 0 || self.number(RENEWED)? == 0 {
            return Ok(());
        }
        let over = Lease {
            holder: self.lease.holder,
            beat: self.number(BEAT)? + 1,
            is_over: true,
        };
        let this = self.clone();
        self.index.set_note(RENEWED, 0)?;
        runtime::run(async move {
            let bytes = over.to_bytes(&this.lease_key(), fence);
            this.holders
                .put_document(&this.lease_object(fence), bytes)
                .await
        })?
        .map(drop)
    }

    /// The next write looks at the lease first.
    pub(super) fn forget_renewal(&self) -> io::Result<()> {
        self.index.set_note(RENEWED, 0)
    }

    /// Notes which lease the index is as new as, after it was made anew.
    pub(super) fn caught_up(&self, fence: u64) -> io::Result<()> {
        self.index.set_note(RENEWED, 0)?;
        // Without leases there are manifests all the same, and the next ones come after them.
        let fence = fence.max(self.index.highest_fence()?);
        self.index.set_note(FENCE, signed(fence))
    }

    /// The number of the highest lease; 0 if there is none.
    pub(super) fn highest_lease(self: &Arc<Self>) -> io::Result<u64> {
        let this = self.clone();
        // To read, two members of a stripe do.
        let needed = self.holders.count().min(2);
        let latest = runtime::run(async move { this.latest_lease(needed).await })??;
        Ok(latest.map_or(0, |(fence, _)| fence))
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

//! What is under way in this process: sessions, transfers, places at relays.
//!
//! Each enters itself when it begins and is gone when it ends; all that it does in between is to
//! count, in atomic numbers of its own. Nothing is added up before somebody asks, and whoever asks
//! holds the lock for no longer than it takes to copy a list of pointers.

mod progress;

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use progress::Progress;

/// What is under way. Clones are the same one.
#[derive(Clone, Default)]
pub struct Traffic {
    sessions: Register<Session>,
    transfers: Register<Transfer>,
    places: Register<Place>,
}

impl Traffic {
    /// A contact has opened a session with a user.
    pub fn session(&self, user: &str, contact: &str, address: String) -> Entry<Session> {
        self.sessions.enter(Session {
            user: user.to_owned(),
            contact: contact.to_owned(),
            address,
            begun: Instant::now(),
        })
    }

    /// A transfer begins.
    pub fn transfer(&self, file: File, stage: Stage) -> Entry<Transfer> {
        let held = file.held;
        self.transfers.enter(Transfer {
            file,
            stage: AtomicU8::new(stage as u8),
            progress: Progress::new(held),
            begun: Instant::now(),
        })
    }

    /// A user attends at a relay.
    pub fn place(&self, user: &str, relay: &str) -> Entry<Place> {
        self.places.enter(Place {
            user: user.to_owned(),
            relay: relay.to_owned(),
            begun: Instant::now(),
        })
    }

    /// The sessions that are open, oldest first.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.all()
    }

    /// The transfers under way, oldest first.
    pub fn transfers(&self) -> Vec<Arc<Transfer>> {
        self.transfers.all()
    }

    /// Where users attend, oldest first.
    pub fn places(&self) -> Vec<Arc<Place>> {
        self.places.all()
    }
}

/// A session of a contact.
pub struct Session {
    /// Whose it is.
    pub user: String,
    /// Who opened it.
    pub contact: String,
    /// From where.
    pub address: String,
    begun: Instant,
}

impl Session {
    /// How long it has been open.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// A user who attends at a relay.
pub struct Place {
    /// The user.
    pub user: String,
    /// The relay.
    pub relay: String,
    begun: Instant,
}

impl Place {
    /// For how long.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// Which way a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To us.
    In,
    /// To the contact.
    Out,
}

impl Direction {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// What a transfer is about.
pub struct File {
    /// Which way it goes.
    pub direction: Direction,
    /// The user of this root.
    pub user: String,
    /// The contact.
    pub contact: String,
    /// The folder of the receiver, if the file comes in or is sent; empty for one that is fetched.
    pub folder: String,
    /// The name that its sender gave it, or the path that was asked for.
    pub name: String,
    /// Its bytes, if that is known.
    pub size: Option<u64>,
    /// Bytes that need not move again.
    pub held: u64,
}

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The hooks of `[OnMeta]` are at work.
    Deciding,
    /// Bytes move.
    Moving,
    /// All bytes are there, and are being made safe.
    Storing,
    /// The file is safe, and the hooks of `[OnReceived]` are at work.
    Hooks,
    /// The other side has all of it, and has not acknowledged it.
    Sent,
}

impl Stage {
    const ALL: [Self; 5] = [
        Self::Deciding,
        Self::Moving,
        Self::Storing,
        Self::Hooks,
        Self::Sent,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deciding => "deciding",
            Self::Moving => "moving",
            Self::Storing => "storing",
            Self::Hooks => "hooks",
            Self::Sent => "sent",
        }
    }

    /// The section whose hooks it waits for.
    pub fn hook(self) -> Option<&'static str> {
        match self {
            Self::Deciding => Some("OnMeta"),
            Self::Hooks => Some("OnReceived"),
            Self::Moving | Self::Storing | Self::Sent => None,
        }
    }
}

/// A transfer under way.
pub struct Transfer {
    /// What it is about.
    pub file: File,
    stage: AtomicU8,
    progress: Progress,
    begun: Instant,
}

impl Transfer {
    /// It has come so far.
    pub fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Relaxed);
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        let stage = self.stage.load(Relaxed);
        let is = |one: &Stage| *one as u8 == stage;
        Stage::ALL.into_iter().find(is).unwrap_or(Stage::Moving)
    }

    /// So many bytes of the file are there. Only one thread at a time says so.
    pub fn reached(&self, bytes: u64) {
        self.progress.reach(bytes, self.millis());
    }

    /// So many bytes more have moved. Only one thread at a time says so.
    pub fn moved(&self, bytes: u64) {
        self.reached(self.bytes().saturating_add(bytes));
    }

    /// How many bytes of it are there.
    pub fn bytes(&self) -> u64 {
        self.progress.bytes()
    }

    /// Bytes a second, over the last second or two.
    pub fn rate(&self) -> u64 {
        self.progress.rate(self.millis())
    }

    /// How long it has taken so far.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Things of one kind, in the order of their beginning.
struct Register<T>(Arc<Mutex<Inner<T>>>);

struct Inner<T> {
    next: u64,
    all: BTreeMap<u64, Arc<T>>,
}

impl<T> Clone for Register<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Register<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            next: 0,
            all: BTreeMap::new(),
        })))
    }
}

impl<T> Register<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, what: T) -> Entry<T> {
        let what = Arc::new(what);
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.all.insert(number, what.clone());
        drop(inner);
        Entry {
            register: self.clone(),
            number,
            what,
        }
    }

    fn all(&self) -> Vec<Arc<T>> {
        self.lock().all.values().cloned().collect()
    }
}

/// Something that is under way until this is dropped.
pub struct Entry<T> {
    register: Register<T>,
    number: u64,
    what: Arc<T>,
}

impl<T> Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.what
    }
}

impl<T> Drop for Entry<T> {
    fn drop(&mut self) {
        self.register.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> File {
        File {
            direction: Direction::In,
            user: "zhenqiang".to_owned(),
            contact: "peter-norton".to_owned(),
            folder: "in".to_owned(),
            name: name.to_owned(),
            size: Some(1_000),
            held: 100,
        }
    }

    #[test]
    fn what_has_begun_is_there_until_it_is_dropped() {
        let traffic = Traffic::default();
        let first = traffic.transfer(file("a"), Stage::Deciding);
        let second = traffic.transfer(file("b"), Stage::Moving);
        let names = || -> Vec<_> {
            let all = traffic.transfers();
            all.iter().map(|one| one.file.name.clone()).collect()
        };
        assert_eq!(names(), ["a", "b"]);
        assert_eq!(first.stage().hook(), Some("OnMeta"));
        first.set_stage(Stage::Moving);
        first.moved(50);
        assert_eq!((first.stage(), first.bytes()), (Stage::Moving, 150));
        drop(first);
        assert_eq!(names(), ["b"]);
        drop(second);
        assert!(names().is_empty());
    }
}

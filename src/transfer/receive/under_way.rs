//! Transfers that are under way in this process, and the names that they take.

//!
//! A sender who reconnects while an earlier attempt at the same transfer is still in hand takes
//! over: the session of the earlier one is told to end, and the new one waits until it has let go.
//! Most often that session's client is gone, and the server has not noticed yet.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{
    journal::delivered::Key,
    meta::TransferId,
    root::{folder::Folder, name::Name, tree::TreePath},
};

/// How many files with one sender and one second a folder may hold.
const MAX_CLASHES: u32 = 1_000_000;

/// For how many seconds of senders the last number is remembered.
const MAX_SECONDS: usize = 4_096;

/// Transfers that are under way in this process.
#[derive(Clone, Default)]
pub struct UnderWay(Arc<Shared>);

#[derive(Default)]
struct Shared {
    claims: Mutex<Claims>,
    /// Told whenever a transfer was let go.
    released: Notify,
}

#[derive(Default)]
struct Claims {
    transfers: HashMap<Key, Held>,
    /// The last number that was tried for files of one sender and one second, so that the
    /// thousandth of them does not try the names of all before it.
    numbers: HashMap<String, u32>,
    /// Paths that no other file may take meanwhile, by user and folder.
    paths: HashSet<(String, String, TreePath)>,
}

struct Held {
    /// The stem that it tries, or has.
    stem: String,
    holder: Holder,
}

/// A session, as the holder of transfers.
#[derive(Clone, Default)]
pub struct Holder(Arc<Notify>);

impl Holder {
    /// Waits until a newer session wants to continue a transfer of this one. Nothing is lost if the
    /// future is dropped.
    pub async fn superseded(&self) {
        self.0.notified().await;
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl UnderWay {
    /// Takes a transfer in hand; `None` if another session has it.
    pub fn claim(
        &self,
        folder: &Folder,
        from: &Name,
        id: TransferId,
        holder: &Holder,
    ) -> Option<Claim> {
        let key = Key {
            user: folder.user().name().to_string(),
            folder: folder.name().to_string(),
            from: from.to_string(),
            id,
        };
        match self.lock().transfers.entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                entry.insert(Held {
                    stem: String::new(),
                    holder: holder.clone(),
                });
                Some(Claim {
                    under_way: self.clone(),
                    key,
                    path: None,
                })
            }
        }
    }

    /// Tells other sessions that have one of these transfers in hand to end; returns for each
    /// whether another session had it.
    pub fn supersede(&self, keys: &[Key], by: &Holder) -> Vec<bool> {
        let claims = self.lock();
        let supersede = |key| {
            let held = claims.transfers.get(key);
            let held = held.filter(|held| !held.holder.is(by));
            if let Some(held) = held {
                held.holder.0.notify_one();
            }
            held.is_some()
        };
        keys.iter().map(supersede).collect()
    }

    /// Waits until no other session has a transfer in hand, but not beyond a time. One that takes
    /// it meanwhile is told to end too.
    pub async fn released(&self, key: &Key, by: &Holder, until: Instant) {
        loop {
            let released = self.0.released.notified();
            tokio::pin!(released);
            // Before the check, so that nothing is missed in between.
            released.as_mut().enable();
            let is_held = self.supersede(std::slice::from_ref(key), by);
            let is_held = is_held.first().copied().unwrap_or_default();
            if !is_held || timeout_at(until, released).await.is_err() {
                return;
            }
        }
    }

    /// Whether a transfer is in hand.
    pub fn has(&self, key: &Key) -> bool {
        self.lock().transfers.contains_key(key)
    }

    /// Whether a transfer is in hand that tries this stem in the folder of a user.
    pub fn has_stem(&self, user: &str, folder: &str, stem: &str) -> bool {
        self.lock()
            .transfers
            .iter()
            .any(|(key, held)| key.user == user && key.folder == folder && held.stem == stem)
    }

    fn lock(&self) -> MutexGuard<'_, Claims> {
        let claims = self.0.claims.lock();
        claims.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer in hand, until it is dropped.
pub struct Claim {
    under_way: UnderWay,
    key: Key,
    /// The path that the file is to get, which no other file may take.
    path: Option<(String, String, TreePath)>,
}

impl Claim {
    /// Which transfer it is.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Takes a path of the folder in hand too; `false` if a different file is to get it.
    #[must_use]
    pub fn take_path(&mut self, path: &TreePath) -> bool {
        let Key { user, folder, .. } = &self.key;
        let path = (user.clone(), folder.clone(), path.clone());
        let is_free = self.under_way.lock().paths.insert(path.clone());
        if is_free {
            self.path = Some(path);
        }
        is_free
    }

    /// The next stem of this sender and second that nobody in this process has tried.
    pub fn stem(&self, datetime: &str) -> io::Result<String> {
        let Key {
            user, folder, from, ..
        } = &self.key;
        let mut state = self.under_way.lock();
        if state.numbers.len() >= MAX_SECONDS {
            // What is forgotten is found again by trying the names.
            state.numbers.clear();
        }
        let second = format!("{user}/{folder}/{from}_{datetime}");
        let number = state.numbers.entry(second).or_default();
        *number += 1;
        let stem = match *number {
            1 => format!("{from}_{datetime}"),
            n if n <= MAX_CLASHES => format!("{from}_{datetime}_{n}"),
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "too many files of one sender with one datetime",
                ));
            }
        };
        if let Some(held) = state.transfers.get_mut(&self.key) {
            held.stem.clone_from(&stem);
        }
        Ok(stem)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.under_way.lock();
        state.transfers.remove(&self.key);
        if let Some(path) = &self.path {
            state.paths.remove(path);
        }
        drop(state);
        self.under_way.0.released.notify_waiters();
    }
}

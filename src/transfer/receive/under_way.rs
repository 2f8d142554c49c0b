//! Transfers that are under way in this process, and the names that they take.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    journal::delivered::Key,
    meta::TransferId,
    root::{folder::Folder, name::Name, tree::TreePath},
};

/// How many files with one sender and one second a folder may hold.
const MAX_CLASHES: u32 = 1_000_000;

/// Senders' seconds whose last number is remembered.
const MAX_SECONDS: usize = 4_096;

/// Transfers that are under way in this process.
#[derive(Clone, Default)]
pub struct UnderWay(Arc<Mutex<Claims>>);

#[derive(Default)]
struct Claims {
    /// With the stem that each of them tries, or has.
    transfers: HashMap<Key, String>,
    /// The last number that was tried for files of one sender and one second, so that the
    /// thousandth of them does not ask for the names of all before it.
    numbers: HashMap<String, u32>,
    /// Paths that nobody else may have meanwhile, by user and folder.
    paths: HashSet<(String, String, TreePath)>,
}

impl UnderWay {
    /// Takes a transfer into hand; `None` if it is in another hand.
    pub fn claim(&self, folder: &Folder, from: &Name, id: TransferId) -> Option<Claim> {
        let key = Key {
            user: folder.user().name().to_string(),
            folder: folder.name().to_string(),
            from: from.to_string(),
            id,
        };
        match self.lock().transfers.entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                entry.insert(String::new());
                Some(Claim {
                    under_way: self.clone(),
                    key,
                    path: None,
                })
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
            .any(|(key, tried)| key.user == user && key.folder == folder && tried == stem)
    }

    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer in hand, until it is dropped.
pub struct Claim {
    under_way: UnderWay,
    key: Key,
    /// The path that the file is to get, where another one may not.
    path: Option<(String, String, TreePath)>,
}

impl Claim {
    /// Which transfer it is.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Takes a path of the folder in hand too; `false` if another file is to get it.
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
            // What is forgotten is found again by asking for the names.
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
        if let Some(tried) = state.transfers.get_mut(&self.key) {
            tried.clone_from(&stem);
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
    }
}

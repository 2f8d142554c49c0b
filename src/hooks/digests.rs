//! SHA-256 digests of files that are known already, because the file was hashed on its way in
//! or by a script before.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use super::folder_files::Identity;

/// Bytes of a digest.
pub const LEN: usize = 32;

/// Digests that are kept: the oldest make way.
const MOST: usize = 8_192;

/// Digests by what their files are known by: a file that has changed since is a different one.
/// Copies of it are the same one.
#[derive(Clone, Default)]
pub struct Digests(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    digests: HashMap<Key, [u8; LEN]>,
    order: VecDeque<Key>,
}

/// Inode, bytes, and the time of the last change.
type Key = (u64, u64, i64);

/// `None` in a store that has no inodes.
fn key(of: &Identity) -> Option<Key> {
    (of.inode != 0).then_some((of.inode, of.stat.size, of.stat.modified))
}

impl Digests {
    /// The digest of a file, if it is known.
    pub fn get(&self, of: &Identity) -> Option<[u8; LEN]> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.digests.get(&key(of)?).copied()
    }

    /// Forgets the digest of a file.
    pub fn remove(&self, of: &Identity) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = key(of)
            && known.digests.remove(&key).is_some()
        {
            known.order.retain(|other| *other != key);
        }
    }

    /// Remembers the digest of a file.
    pub fn insert(&self, of: &Identity, digest: [u8; LEN]) {
        let Some(key) = key(of) else {
            return;
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.digests.insert(key, digest).is_none() {
            known.order.push_back(key);
        }
        if known.order.len() > MOST
            && let Some(oldest) = known.order.pop_front()
        {
            known.digests.remove(&oldest);
        }
    }
}

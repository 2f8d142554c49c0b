//! Digests of files that are known already, because a file was hashed on its way in or by a
//! script before.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::clock;

/// Bytes of a SHA-256 digest.
pub const LEN: usize = 32;

/// Files whose digests are kept: the oldest make way.
const MOST: usize = 8_192;

/// How long a file must have rested before it is hashed, to be recognised later: of two changes
/// within a tick of the clock, the file system may show only the first one.
const REST: Duration = Duration::from_secs(1);

/// What tells that the contents of a file are the same. A program can set the time of a file's last
/// change, and the inode of a file that is gone soon belongs to a different one; only the system
/// sets the time of the last change of the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The file system.
    pub device: u64,
    /// The number of the file in it.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// When the contents changed last, in nanoseconds since 1970.
    pub modified: i64,
    /// When anything about the file changed last, likewise.
    pub changed: i64,
}

impl Version {
    /// Whether a later version cannot look the same.
    pub fn has_rested(&self) -> bool {
        let age = clock::nanos().saturating_sub(self.changed);
        u64::try_from(age).is_ok_and(|age| Duration::from_nanos(age) > REST)
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its SHA-256.
    pub sha256: Option<[u8; LEN]>,
    /// Its CRC-32.
    pub crc32: Option<u32>,
}

/// Digests of files. Clones are the same one.
#[derive(Clone, Default)]
pub struct Digests(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    known: HashMap<Version, Known>,
    order: VecDeque<Version>,
}

impl Digests {
    /// What is known of a file.
    pub fn get(&self, of: &Version) -> Known {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.known.get(of).copied().unwrap_or_default()
    }

    /// Forgets what is known of a file.
    pub fn remove(&self, of: &Version) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.known.remove(of).is_some() {
            table.order.retain(|other| other != of);
        }
    }

    /// Remembers more of a file.
    pub fn insert(&self, of: &Version, more: Known) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { known, order } = &mut *table;
        let known_of = known.entry(*of).or_insert_with(|| {
            order.push_back(*of);
            Known::default()
        });
        known_of.sha256 = more.sha256.or(known_of.sha256);
        known_of.crc32 = more.crc32.or(known_of.crc32);
        if order.len() > MOST
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_make_way() {
        let digests = Digests::default();
        let version = |inode| Version {
            device: 1,
            inode,
            size: 1,
            modified: 1,
            changed: 1,
        };
        let (crc, sha) = (
            Known {
                crc32: Some(1),
                ..Known::default()
            },
            Known {
                sha256: Some([2; LEN]),
                ..Known::default()
            },
        );
        for inode in 0..=MOST as u64 {
            digests.insert(&version(inode), crc);
        }
        assert_eq!(digests.get(&version(0)), Known::default());
        assert_eq!(digests.get(&version(1)), crc);
        digests.insert(&version(1), sha);
        let both = Known {
            crc32: Some(1),
            sha256: Some([2; LEN]),
        };
        assert_eq!(digests.get(&version(1)), both);
        digests.remove(&version(1));
        assert_eq!(digests.get(&version(1)), Known::default());
    }
}

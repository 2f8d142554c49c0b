//! Which openings a user has had from each contact, so that none works twice.
//!
//! For each contact there is a file `user/NAME/.openings/CONTACT` of 24-byte
//! entries: the time that the opening names, in milliseconds, and the first 16
//! bytes of its digest. The newest [`KEPT`] are kept; an opening that is older
//! than all that were forgotten is refused too, and so is one from a time that the
//! caller does not accept.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt};

use crate::root::{file, name::Name, user::User};

/// Openings of one contact that are remembered.
pub const KEPT: usize = 16_384;

const ENTRY: usize = 24;
const DIR: &str = ".openings";

/// What the memory says of an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It was not there before; now it is.
    New,
    /// It was.
    Seen,
    /// It is older than what is remembered, so it cannot be told.
    Old,
    /// Its time is not one that is accepted.
    Untimely,
}

/// What identifies an opening.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// SHA-256 of the whole opening.
    pub digest: [u8; 32],
    /// The time that it names, milliseconds since 1970 in UTC.
    pub time: u64,
}

/// How far a contact's clock may be ahead of ours, in milliseconds: a day, so that a wrong
/// time zone does no harm.
const AHEAD: u64 = 86_400_000;

/// The times of openings that are accepted now.
pub fn timely(now: u64, max_age: Duration) -> RangeInclusive<u64> {
    let age = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
    now.saturating_sub(age)..=now.saturating_add(AHEAD)
}

/// The openings of every user of a root.
#[derive(Default)]
pub struct Openings {
    // The outer lock is held only to find the inner one.
    pairs: Mutex<HashMap<(Name, Name), Pair>>,
}

/// What is remembered of one contact of one user, once it was read.
type Pair = Arc<Mutex<Option<Memory>>>;

struct Memory {
    digests: HashSet<[u8; 16]>,
    entries: Vec<(u64, [u8; 16])>,
    /// Times up to here may have been forgotten.
    floor: u64,
}

impl Openings {
    /// Claims an opening: remembers it if it is new and from an accepted time. Of many copies that
    /// arrive at once one is [`Opening::New`], and after that none is, whatever becomes of that
    /// one, even after a loss of power.
    pub fn claim(
        &self,
        user: &User,
        contact: &Name,
        stamp: &Stamp,
        accepted: &RangeInclusive<u64>,
    ) -> io::Result<Opening> {
        self.with(user, contact, |memory| {
            let (digest, time) = (head(&stamp.digest), stamp.time);
            let found = memory.look(&digest, time);
            if found != Opening::New {
                return Ok(found);
            }
            if !accepted.contains(&time) {
                return Ok(Opening::Untimely);
            }
            let dir = open_dir(user)?;
            if memory.entries.len() >= KEPT * 2 {
                memory.forget(&dir, contact)?;
            }
            // Not kept open: there may be more contacts than a process may have descriptors.
            let mut file = append(&dir, contact)?;
            file.write_all(&entry(time, &digest))?;
            file.sync_data()?;
            memory.digests.insert(digest);
            memory.entries.push((time, digest));
            Ok(Opening::New)
        })
    }

    /// Whether an opening would be new and from an accepted time. It is not remembered.
    pub fn is_new(
        &self,
        user: &User,
        contact: &Name,
        stamp: &Stamp,
        accepted: &RangeInclusive<u64>,
    ) -> io::Result<bool> {
        self.with(user, contact, |memory| {
            let found = memory.look(&head(&stamp.digest), stamp.time);
            Ok(found == Opening::New && accepted.contains(&stamp.time))
        })
    }

    fn with<T>(
        &self,
        user: &User,
        contact: &Name,
        act: impl FnOnce(&mut Memory) -> io::Result<T>,
    ) -> io::Result<T> {
        let pair = self
            .pairs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((user.name().clone(), contact.clone()))
            .or_default()
            .clone();
        let mut slot = pair.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = match slot.take() {
            Some(memory) => memory,
            None => Memory::load(&open_dir(user)?, contact)?,
        };
        // After an error the file is read again: what was written is not certain.
        let result = act(&mut memory)?;
        *slot = Some(memory);
        Ok(result)
    }
}

impl Memory {
    fn load(dir: &Dir, contact: &Name) -> io::Result<Self> {
        let limit = (KEPT * 4 * ENTRY) as u64;
        let bytes = match file::read(dir, contact.as_str(), limit) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                file::create(dir, contact.as_str(), 0o600, &[])?;
                Vec::new()
            }
            Err(e) => return Err(e),
        };
        let mut memory = Self {
            digests: HashSet::new(),
            entries: Vec::new(),
            floor: 0,
        };
        let chunks = bytes.chunks_exact(ENTRY);
        let torn = !chunks.remainder().is_empty();
        for chunk in chunks {
            let Some((time, digest)) = chunk.split_first_chunk() else {
                continue;
            };
            let time = u64::from_be_bytes(*time);
            match digest.try_into() {
                // The digest of nothing stands for the floor.
                Ok(digest) if digest == [0; 16] => memory.floor = memory.floor.max(time),
                Ok(digest) => {
                    memory.digests.insert(digest);
                    memory.entries.push((time, digest));
                }
                Err(_) => {}
            }
        }
        if torn {
            // An entry that a crash cut off would shift all that follow.
            memory.rewrite(dir, contact)?;
        }
        Ok(memory)
    }

    fn look(&self, digest: &[u8; 16], time: u64) -> Opening {
        if self.digests.contains(digest) {
            Opening::Seen
        } else if time <= self.floor {
            Opening::Old
        } else {
            Opening::New
        }
    }

    fn forget(&mut self, dir: &Dir, contact: &Name) -> io::Result<()> {
        self.entries.sort_unstable();
        let over = self.entries.len().saturating_sub(KEPT);
        for (time, digest) in self.entries.drain(..over) {
            self.floor = self.floor.max(time);
            self.digests.remove(&digest);
        }
        self.rewrite(dir, contact)
    }

    fn rewrite(&self, dir: &Dir, contact: &Name) -> io::Result<()> {
        let mut bytes = entry(self.floor, &[0; 16]).to_vec();
        for (time, digest) in &self.entries {
            bytes.extend(entry(*time, digest));
        }
        file::replace(dir, contact.as_str(), 0o600, &bytes)
    }
}

fn open_dir(user: &User) -> io::Result<Dir> {
    match user.dir().open_dir(DIR) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            user.dir().create_dir_all(DIR)?;
            file::sync(user.dir())?;
            user.dir().open_dir(DIR)
        }
        opened => opened,
    }
}

fn append(dir: &Dir, contact: &Name) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).mode(0o600);
    dir.open_with(contact.as_str(), &options)
}

fn head(digest: &[u8; 32]) -> [u8; 16] {
    let mut head = [0; 16];
    for (to, from) in head.iter_mut().zip(digest) {
        *to = *from;
    }
    head
}

fn entry(time: u64, digest: &[u8; 16]) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    let bytes = time.to_be_bytes().into_iter().chain(*digest);
    for (to, from) in entry.iter_mut().zip(bytes) {
        *to = from;
    }
    entry
}

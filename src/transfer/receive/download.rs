//! Where a fetched file goes: hidden in its directory until it is whole.
//!
//! If a file has more than one block, what arrived before a break waits there for the next attempt,
//! beside a note that says what it is. Small ones arrive whole or not at all.

use std::{
    io::{self, Read},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cap_std::fs::Dir;
use sha2::{Digest, Sha256};

use super::{
    error::ReceiveError,
    target::{Came, Target},
};
use crate::{
    crypto::random,
    error::{Code, Error},
    json::{self, Map, Value},
    root::{
        conflict::{self, Conflict},
        destination::moment,
        file,
    },
    store::{
        PartialName, Sink, Store,
        flush::{self, Unflushed},
        local::LocalStore,
        prefix::prefix_digest,
    },
    wire::{
        record::MAX_BODY,
        request::{Coming, Held},
    },
};

/// The longest note of a file under way, in bytes.
const MAX_NOTE: u64 = 65_536;

/// How long to wait for another process that has the file in hand: an interrupted one lets go of it
/// in a moment.
const PATIENCE: Duration = Duration::from_secs(2);

/// A file that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Bytes of them that were there from an earlier attempt.
    pub resumed: u64,
    /// Whether it changed since an earlier attempt, and so was fetched from its beginning.
    pub started_over: bool,
    /// Its CRC-32.
    pub crc: u32,
}

/// A file that is being fetched.
pub struct Download {
    dir: Arc<Dir>,
    store: LocalStore,
    name: String,
    conflict: Conflict,
    /// Bytes that it is thought to have.
    size: u64,
    /// The name of its bytes, and of the note beside them, while it is under way.
    partial: PartialName,
    note: String,
    /// What the note says: whose file it is, and which.
    origin: Map<String, Value>,
    /// Locked, so that no other process has the file in hand.
    lock: Option<std::fs::File>,
    held: Option<Held>,
    /// The CRC-32 of what is held.
    so_far: crc32fast::Hasher,
    coming: Option<Coming>,
    sink: Option<Box<dyn Sink>>,
    started_over: bool,
    /// Whether what is there stays when this is dropped.
    keep: bool,
}

impl Download {
    /// Looks for what an earlier attempt left of the file. It may wait for a disk, for as
    /// long as it takes to read that.
    ///
    /// Fails with `WouldBlock` if another process is fetching the same file to the same place.
    pub fn new(
        dir: &Arc<Dir>,
        name: &str,
        conflict: Conflict,
        (peer, path): (&str, &str),
        size: u64,
    ) -> io::Result<Self> {
        let mut origin = Map::new();
        origin.insert("peer".to_owned(), peer.into());
        origin.insert("path".to_owned(), path.into());
        origin.insert("name".to_owned(), name.into());
        let digest = match size > MAX_BODY as u64 {
            true => Sha256::digest(json::canonical(&origin)).to_vec(),
            // Nobody resumes it.
            false => random::<16>().map_err(io::Error::other)?.to_vec(),
        };
        let stem = hex::encode(digest.get(..16).unwrap_or_default());
        let mut download = Self {
            dir: dir.clone(),
            store: LocalStore::new(dir),
            name: name.to_owned(),
            conflict,
            size,
            partial: PartialName::new(&stem)?,
            note: format!(".{stem}.of"),
            origin,
            lock: None,
            held: None,
            so_far: crc32fast::Hasher::new(),
            coming: None,
            sink: None,
            started_over: false,
            keep: false,
        };
        if size > MAX_BODY as u64 {
            download.look()?;
        }
        Ok(download)
    }

    /// Takes the file in hand, and checks what there is of it.
    fn look(&mut self) -> io::Result<()> {
        // What is there may be somebody else's until the lock says that it is ours.
        self.keep = true;
        let lock = file::append(&self.dir, &self.note)?.into_std();
        let begun = Instant::now();
        while let Err(std::fs::TryLockError::WouldBlock) = lock.try_lock() {
            if begun.elapsed() >= PATIENCE {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            thread::sleep(PATIENCE / 100);
        }
        // The process that had it in hand may have removed it with its note.
        if !file::exists(&self.dir, &self.note)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.lock = Some(lock);
        self.keep = false;
        let (note, _) = file::open_itself(&self.dir, &self.note)?;
        let mut text = Vec::new();
        note.take(MAX_NOTE).read_to_end(&mut text)?;
        // The last block is fetched again even if it is there: with nothing to send, the server
        // would start from the beginning.
        let bytes = self.store.held(&self.partial)?.unwrap_or_default();
        let bytes = bytes.min(self.size.saturating_sub(1));
        let bytes = bytes - bytes % MAX_BODY as u64;
        let version = json::parse(&text).ok().and_then(|mut note| {
            let version = note.remove("version")?.as_str()?.to_owned();
            (note == self.origin).then_some(version)
        });
        if let Some(version) = version
            && bytes > 0
        {
            let (digest, crc) = prefix_digest(self.store.read(&self.partial)?, bytes)?;
            self.so_far = crc;
            self.keep = true;
            self.held = Some(Held {
                bytes,
                digest,
                version,
            });
        }
        Ok(())
    }

    /// Bytes that the file is thought to have, before it comes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is there of the file.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// The file is about to arrive. Returns the CRC-32 of the part that is there already. It may
    /// wait for a disk.
    pub fn expect(&mut self, coming: Coming) -> io::Result<crc32fast::Hasher> {
        let held = self.held.as_ref();
        self.started_over = coming.offset == 0 && held.is_some();
        if coming.offset > 0 {
            if held.map(|held| held.bytes) != Some(coming.offset) {
                return Err(io::Error::other(
                    "the server resumed at an unexpected offset",
                ));
            }
        } else if self.lock.is_some() {
            // The bytes are removed before a note calls them something else.
            self.store.discard(&self.partial);
            let mut note = self.origin.clone();
            note.insert("version".to_owned(), coming.version.as_str().into());
            let text = json::canonical(&note);
            file::overwrite_unflushed(&self.dir, &self.note, 0o644, text.as_bytes())?;
        }
        self.keep = self.lock.is_some();
        let begins = coming.offset == 0;
        self.coming = Some(coming);
        Ok(match begins {
            true => crc32fast::Hasher::new(),
            false => self.so_far.clone(),
        })
    }

    /// Sets the times of the file and renames it.
    fn name(mut self, crc: u32) -> io::Result<Downloaded> {
        let coming = self.coming.clone().ok_or(io::ErrorKind::InvalidInput)?;
        drop(self.sink.take());
        let (file, _) = file::open_itself(&self.dir, self.partial.as_str())?;
        // A file system without such times still keeps the file.
        let _ = file.into_std().set_modified(moment(coming.modified));
        let name = match self.conflict {
            Conflict::Refuse => {
                file::rename_to_free(&self.dir, self.partial.as_str(), &self.dir, &self.name)?;
                self.name.clone()
            }
            Conflict::Overwrite => {
                self.dir
                    .rename(self.partial.as_str(), &self.dir, &self.name)?;
                self.name.clone()
            }
            Conflict::Rename => self.under_free_name()?,
        };
        // The bytes have their final name: what is removed now is the note.
        self.keep = false;
        Ok(Downloaded {
            name,
            size: coming.size,
            resumed: coming.offset,
            started_over: self.started_over,
            crc,
        })
    }

    fn under_free_name(&self) -> io::Result<String> {
        for name in conflict::names(&self.name) {
            match file::rename_to_free(&self.dir, self.partial.as_str(), &self.dir, &name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                published => return published.map(|()| name),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Target for Download {
    fn expected(&self) -> Option<u64> {
        Some(self.coming.as_ref().map_or(0, |coming| coming.size))
    }

    fn claimed_crc(&self) -> Option<u32> {
        None
    }

    fn sink(&mut self) -> io::Result<&mut Box<dyn Sink>> {
        let keep = self.coming.as_ref().map_or(0, |coming| coming.offset);
        match &mut self.sink {
            Some(sink) => Ok(sink),
            none => Ok(none.insert(self.store.begin(&self.partial, keep)?)),
        }
    }

    fn end(mut self, why: &ReceiveError, _: Option<Came>) {
        if !why.is_passing() {
            self.keep = false;
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.keep {
            self.store.discard(&self.partial);
            if self.lock.is_some() {
                let _ = self.dir.remove_file(&self.note);
            }
        }
    }
}

/// Makes complete files safe, and renames them. It waits for a disk.
pub fn complete(mut files: Vec<(Download, u32)>) -> Vec<io::Result<Downloaded>> {
    let opened: Vec<io::Result<()>> = files
        .iter_mut()
        .map(|(download, _)| download.sink().map(drop))
        .collect();
    let mut unflushed: Vec<Unflushed<'_>> = files
        .iter_mut()
        .map(|(download, _)| Unflushed {
            // One that could not be opened has nothing to flush.
            sink: download.sink.as_mut().map(|sink| &mut **sink as _),
            document: None,
        })
        .collect();
    let flushed = flush::flush(&mut unflushed);
    let mut named = Vec::with_capacity(files.len());
    let mut dirs = Vec::with_capacity(files.len());
    for ((download, crc), ready) in files.into_iter().zip(opened.into_iter().zip(flushed)) {
        let (opened, flushed) = ready;
        dirs.push(download.dir.clone());
        named.push(opened.and(flushed).and_then(|()| download.name(crc)));
    }
    let synced = flush::flush_names(dirs.iter().map(|dir| &**dir));
    named
        .into_iter()
        .zip(synced)
        .map(|(named, synced)| named.and_then(|downloaded| synced.map(|()| downloaded)))
        .collect()
}

/// Why a file could not be stored here, for a person.
pub fn not_stored(error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::Later,
        _ => Code::Failed,
    };
    let sentence = match error.kind() {
        io::ErrorKind::AlreadyExists => {
            "a different file of that name exists: use --conflict overwrite, rename or skip"
                .to_owned()
        }
        _ => format!("the file cannot be stored: {error}"),
    };
    Error::new(code, sentence)
}

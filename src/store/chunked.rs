//! The store that keeps contents on [members](super::member), sealed: a file is a run of chunks,
//! written first, and a manifest, written last.
//!
//! ```text
//! Growing    gathers the bytes of a partial file into chunks, which a writer seals and writes
//! Index      names, files and chunks, on this machine: all changes of names happen here
//! settle     the manifests of names that changed, to the members: now they survive this machine
//! mend       what members lack because they were away
//! Contents   reads chunks back
//! ```
//!
//! **What counts.** A change of names is in the index at once, and nobody is told of it before
//! its manifest is on enough members. The index survives a loss of power before the first
//! manifest of a change is written; so it is always ahead of the members, never behind, and what
//! is unsettled after a crash is written then.

mod contents;
pub mod holders;
pub mod index;
pub mod lease;
pub mod recover;
pub mod scrub;
mod sealing;
mod settle;
pub mod status;

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use cap_std::fs::Dir;

pub use self::lease::LeaseError;
use self::{
    contents::{ChunkedContents, Open},
    holders::{Holders, Members},
    index::{
        Id, Index,
        files::IndexedFile,
        names::{Place, Rules},
        work::Version,
    },
    lease::Holding,
    sealing::SealingWriter,
};
use super::{
    ContentPath, Contents, Listing, PartialName, Sink, Stat, Store, Target,
    growing::{Growing, GrowingFiles},
    lock::Locked,
    notes, runtime,
    sealed::{
        FileSecret,
        folder::{About, FolderSecret},
        manifest,
    },
};
use crate::{
    crypto::{
        self, CryptoError, SysRng,
        keys::{PrivateKey, PublicKey},
    },
    root::{conflict, file},
};

/// Names that are tried for a file whose path is taken.
const NAMES: usize = 1_000;

/// Entries that are listed at a time.
const PAGE: usize = 1_000;

/// A folder on members.
pub struct ChunkedStore {
    core: Arc<Core>,
    /// Partial files of which bytes are in memory.
    growing: GrowingFiles,
}

/// What the parts of a store share.
struct Core {
    /// As m2y.ini calls the store.
    name: String,
    folder: FolderSecret,
    holders: Arc<Holders>,
    index: Index,
    /// Who reads the files, the owner first.
    readers: Vec<PublicKey>,
    rules: Rules,
    lease: Holding,
    open: Mutex<Open>,
    /// Held while manifests are written: an older one must not arrive after a newer one.
    writing: Mutex<File>,
    /// Held while the lease is renewed: of two who make the first one, one would find that the index
    /// does not know it.
    renewing: Mutex<File>,
}

/// What a folder's m2y.config and its owner say.
pub struct Policy {
    /// Who reads the files, the owner first.
    pub readers: Vec<PublicKey>,
    /// How long what is removed or overwritten can be had back.
    pub keep: Duration,
    /// What tells the root from others, and from copies of it on other machines.
    pub identity: Vec<u8>,
    /// After which silence of another server the folder is taken over.
    pub silence: Duration,
}

impl ChunkedStore {
    /// The store of this name, on these members, with an index in the folder's directory.
    pub fn open(
        (dir, path): (&Dir, &Path),
        store: &str,
        folder: FolderSecret,
        holders: Arc<Holders>,
        policy: Policy,
    ) -> io::Result<Self> {
        let rules = Rules {
            members: holders.all(),
            keep: i64::try_from(policy.keep.as_nanos()).unwrap_or(i64::MAX),
        };
        let index = Index::open(dir, path, store)?;
        let there = dir.open_dir(notes::DIR)?;
        let lock = |what: &str| {
            let file = file::append(&there, &format!("{store}.{what}"))?;
            io::Result::Ok(Mutex::new(file.into_std()))
        };
        let core = Core {
            name: store.to_owned(),
            index,
            folder,
            holders,
            readers: policy.readers,
            rules,
            lease: Holding::new(&policy.identity, policy.silence),
            open: Mutex::default(),
            writing: lock("lock")?,
            renewing: lock("lease")?,
        };
        Ok(Self {
            core: Arc::new(core),
            growing: GrowingFiles::default(),
        })
    }

    /// The fingerprint of the key that manifests are sealed for; `None` in a new index.
    pub fn owner(&self) -> io::Result<Option<Vec<u8>>> {
        self.core.index.owner()
    }

    /// Tells the members whose folder this is, and the index in which store it is.
    pub fn introduce(&self, about: &About, private: &PrivateKey, owner: Vec<u8>) -> io::Result<()> {
        let core = self.core.clone();
        let document = core.folder.document(about, private, &mut SysRng);
        let document = document.map_err(io::Error::other)?;
        let written = runtime::run(async move {
            let key = core.folder.document_key();
            core.holders.put_document(&key, document.into()).await
        })?;
        written?;
        self.core.index.set_identity(&self.core.folder, owner)
    }

    /// As m2y.ini calls it.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// How many changes of names there were, whichever process of this root made them.
    pub fn changes(&self) -> io::Result<u64> {
        self.core.index.changes()
    }

    /// Names in the folder itself that changed since there were so many changes, at most so many.
    pub fn changed_since(&self, changes: u64, most: u32) -> io::Result<Vec<String>> {
        self.core.index.changed_since(changes, most)
    }

    /// The names of its members in m2y.ini.
    pub fn members(&self) -> Vec<String> {
        let members = self.core.holders.members().into_iter();
        members.map(|(name, _)| name.to_owned()).collect()
    }

    /// Makes sure that this server may write, and renews its lease.
    ///
    /// # Errors
    ///
    /// With a [`LeaseError`] if another server does.
    pub fn renew(&self) -> io::Result<()> {
        self.core.renew()
    }

    /// From here on the lease is not relied on before it is renewed: the machine may have slept.
    pub fn forget_renewal(&self) -> io::Result<()> {
        self.core.forget_renewal()
    }

    /// Gives the lease back, if this root has it: the next server need not wait.
    pub fn give_back(&self) -> io::Result<()> {
        self.core.give_back()
    }

    /// Files that were removed or overwritten and can be had back, the latest first: those at a
    /// path, or all.
    pub fn versions(&self, path: Option<&str>) -> io::Result<Vec<Version>> {
        self.core.index.versions(path)
    }

    /// Puts a file back to where it was, or, if its path is taken, beside that; returns its path.
    pub fn restore(&self, version: &Version) -> io::Result<ContentPath> {
        let wanted = ContentPath::parse(&version.path)?;
        let mut parents = Vec::new();
        let mut parent = wanted.parent();
        while !parent.is_root() && !self.holds(&parent)? {
            parents.push(parent.clone());
            parent = parent.parent();
        }
        for parent in parents.iter().rev() {
            self.make_dir(parent)?;
        }
        let name = wanted.file_name().unwrap_or_default();
        for name in conflict::names(name).take(NAMES) {
            let path = wanted.sibling(&name)?;
            match self
                .core
                .index
                .restore(version.file, &path, self.core.rules)
            {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                restored => {
                    restored?;
                    self.core.settle()?;
                    return Ok(path);
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Removes everything of the folder from its members: it is in another store now. Returns why
    /// something is left.
    pub fn purge(&self) -> io::Result<Vec<String>> {
        let core = self.core.clone();
        runtime::run(async move {
            let directory = core.folder.directory(None);
            let mut reasons = Vec::new();
            for number in 0..core.holders.count() {
                let mut keys = Vec::new();
                let listed = core.holders.list(number, &directory, |object| {
                    keys.push(object.key);
                    Ok(())
                });
                reasons.extend(listed.await.err().map(|error| error.to_string()));
                for key in keys {
                    let (_, why) = core.holders.remove(&key, holders::bit(number)).await;
                    reasons.extend(why);
                }
            }
            let key = core.folder.document_key();
            let (_, why) = core.holders.remove(&key, core.holders.all()).await;
            reasons.extend(why);
            reasons.sort();
            reasons.dedup();
            reasons
        })
    }

    /// A partial file as one that can be read.
    fn as_file(&self, partial: &PartialName) -> io::Result<IndexedFile> {
        self.growing.finish(partial)?;
        let found = self.core.index.partial(partial.as_str())?;
        let found = found.ok_or(io::ErrorKind::NotFound)?;
        let chunks: Vec<_> = found.chunks.into_iter().map(|held| held.chunk).collect();
        Ok(IndexedFile {
            id: found.id,
            secret: found.secret,
            contents: manifest::Contents {
                size: chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
                modified: 0,
                crc: 0,
                chunks,
                meta: None,
            },
        })
    }

    /// A partial file that goes on behind its first `keep` bytes.
    fn resume(&self, partial: &PartialName, keep: u64) -> io::Result<Arc<Growing>> {
        let file = self.as_file(partial)?;
        if file.contents.size < keep {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut sent, mut place) = (0, 0);
        for chunk in &file.contents.chunks {
            let end = sent + u64::from(chunk.len);
            if end > keep {
                break;
            }
            sent = end;
            place += 1;
        }
        // The last chunk may have been kept only in part.
        let mut gathered = vec![0; usize::try_from(keep - sent).map_err(io::Error::other)?];
        let (id, secret) = (file.id, file.secret.clone());
        let contents = ChunkedContents::new(&self.core, file);
        let mut filled = 0;
        while let Some(rest) = gathered.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match contents.read_at(rest, sent + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        self.core.index.cut(partial.as_str(), id, place)?;
        let writer = SealingWriter::new(&self.core, partial, id, secret);
        Ok(Growing::new(writer, (sent, place), gathered))
    }
}

impl Core {
    fn writing(&self) -> io::Result<Locked<'_>> {
        Locked::new(&self.writing)
    }

    fn renewing(&self) -> io::Result<Locked<'_>> {
        Locked::new(&self.renewing)
    }

    fn opened(&self, file: Id) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open.entry(file).or_default() += 1;
    }

    fn closed(&self, file: Id) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(readers) = open.get_mut(&file) {
            *readers -= 1;
            if *readers == 0 {
                open.remove(&file);
            }
        }
    }

    fn is_open(&self, file: &Id) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.contains_key(file)
    }

    /// The names of members, for people.
    fn names(&self, members: Members) -> String {
        let all = self.holders.members();
        let names = holders::numbers(members).into_iter();
        let names = names.filter_map(|number| all.get(number).map(|(name, _)| *name));
        names.collect::<Vec<_>>().join(", ")
    }
}

fn crypto_error(error: CryptoError) -> io::Error {
    let kind = match error {
        CryptoError::Open => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

fn place(to: &Target<'_>) -> Place {
    Place {
        path: to.path.clone(),
        existing: to.existing,
        modified: to.modified,
    }
}

impl Store for ChunkedStore {
    fn begin(&self, partial: &PartialName, keep: u64) -> io::Result<Box<dyn Sink>> {
        let growing = match keep {
            0 => {
                self.growing.abandon(partial);
                let id: Id = crypto::random().map_err(crypto_error)?;
                let secret = FileSecret::new().map_err(crypto_error)?;
                self.core.index.begin(partial.as_str(), id, &secret)?;
                let writer = SealingWriter::new(&self.core, partial, id, secret);
                Growing::new(writer, (0, 0), Vec::new())
            }
            keep => self.resume(partial, keep)?,
        };
        Ok(self.growing.grow(partial, growing))
    }

    fn held(&self, partial: &PartialName) -> io::Result<Option<u64>> {
        match self.growing.len(partial) {
            Some(len) => Ok(Some(len)),
            None => self.core.index.held(partial.as_str()),
        }
    }

    fn read(&self, partial: &PartialName) -> io::Result<Box<dyn Read + Send>> {
        let file = self.as_file(partial)?;
        Ok(Box::new(OwnReader {
            contents: ChunkedContents::new(&self.core, file),
            offset: 0,
        }))
    }

    fn discard(&self, partial: &PartialName) {
        self.growing.abandon(partial);
        // What cannot be removed now is swept.
        let _ = self.core.index.discard(partial.as_str());
    }

    fn publish(&self, partial: &PartialName, to: &Target<'_>) -> io::Result<()> {
        self.growing.finish(partial)?;
        let (core, to) = (&self.core, place(to));
        core.index.publish(partial.as_str(), to, core.rules)
    }

    fn open(&self, path: &ContentPath) -> io::Result<Box<dyn Contents>> {
        let entry = self.core.index.find(path)?.ok_or(io::ErrorKind::NotFound)?;
        if !entry.is_file {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let file = self.core.index.file(&entry.id)?;
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(ChunkedContents::new(&self.core, file)))
    }

    fn stat(&self, path: &ContentPath) -> io::Result<Option<Stat>> {
        Ok(self.core.index.find(path)?.map(|entry| entry.stat))
    }

    fn list(&self, directory: &ContentPath) -> io::Result<Listing> {
        let parent = self.core.index.directory(directory)?;
        let parent = parent.ok_or(io::ErrorKind::NotFound)?;
        let core = self.core.clone();
        let mut after = Some(String::new());
        let pages = std::iter::from_fn(move || {
            let page = core.index.page(&parent, after.as_deref()?, PAGE);
            after = match &page {
                Ok(page) if page.len() == PAGE => page.last().map(|(name, _)| name.clone()),
                _ => None,
            };
            Some(match page {
                Ok(page) => page.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        });
        let shown = |entry: &io::Result<(String, Stat)>| match entry {
            Ok((name, _)) => !name.starts_with('.'),
            Err(_) => true,
        };
        Ok(Box::new(pages.flatten().filter(shown)))
    }

    fn make_dir(&self, path: &ContentPath) -> io::Result<()> {
        self.core.index.make_dir(path, self.core.rules)
    }

    fn rename(&self, path: &ContentPath, to: &Target<'_>) -> io::Result<()> {
        self.core.index.rename(path, place(to), self.core.rules)
    }

    fn remove(&self, path: &ContentPath) -> io::Result<()> {
        self.core.index.remove(path, self.core.rules)
    }

    fn describe(&self, path: &ContentPath, name: &str, text: &[u8]) -> io::Result<()> {
        let text = std::str::from_utf8(text).map_err(io::Error::other)?;
        self.core.index.describe(path, format!("{name}\n{text}"))
    }

    fn settle_names(&self, _paths: &[ContentPath]) -> io::Result<()> {
        self.core.settle()
    }

    fn room(&self) -> io::Result<u64> {
        let core = self.core.clone();
        let room = runtime::run(async move { core.holders.room().await })??;
        Ok(room.unwrap_or(i64::MAX.unsigned_abs()))
    }

    fn sweep(&self, before: SystemTime, removes: bool) -> io::Result<usize> {
        let before = before.duration_since(SystemTime::UNIX_EPOCH);
        let before = before.unwrap_or_default().as_nanos();
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        let old = self.core.index.old_partials(before)?;
        if removes {
            for partial in &old {
                self.core.index.discard(partial)?;
            }
            self.growing.abandon_all(&old);
        }
        Ok(old.len())
    }
}

/// Reads contents from the beginning to the end.
struct OwnReader {
    contents: ChunkedContents,
    offset: u64,
}

impl Read for OwnReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.contents.read_at(buffer, self.offset)?;
        self.offset = self.offset.saturating_add(read as u64);
        Ok(read)
    }
}

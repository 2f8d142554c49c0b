//! Where the contents of a folder's files are stored: one small trait and its implementations.
//!
//! A file begins as a partial one: hidden, written piece by piece, and kept for the next
//! attempt if this one breaks off. It is published whole, under a [path](ContentPath) of the
//! folder. Documents (`.meta`, m2y.config, scripts) are not contents; they stay in the folder's own
//! directory, whatever the store.
//!
//! | to | ask |
//! | --- | --- |
//! | receive a file | [`Store::begin`], [`Sink::append`], [`Sink::settle`] or [`flush`], [`Store::publish`] |
//! | resume one | [`Store::held`], [`Store::read`], [`Store::begin`] |
//! | serve one | [`Store::open`], [`Contents::read_at`] |
//! | show a folder | [`Store::list`], [`Store::stat`] |
//! | change a folder | [`Store::rename`], [`Store::remove`], [`Store::make_dir`] |
//!
//! **Durability.** Bytes survive a loss of power after [`Sink::settle`]; a change of names
//! does after [`Store::settle_names`]. Nothing else promises that, so that a caller with many
//! files pays once for all of them.
//!
//! A store that caches, stripes, seals or fails on purpose is a decorator: it implements
//! [`Store`] over other stores.
//!
//! **Elsewhere.** A store on other machines is [chunked]. It is built from three parts: a [`member`]
//! holds objects, [`sealed`] makes objects that it cannot read, and a [`stripe`] spreads them over
//! four members, any two of which rebuild them. For a bucket that other programs read there is
//! [plain], which stores each file as one object. [`Stores`] opens what a folder's m2y.config names.

pub mod batch;
mod buffers;
pub mod chunked;
pub mod documents;
pub mod elsewhere;
pub mod flush;
mod growing;
pub mod local;
mod lock;
pub mod member;
pub mod moving;
pub mod name;
pub mod notes;
pub mod placement;
pub mod plain;
pub mod prefix;
pub mod quarantine;
pub mod received;
mod runtime;
pub mod sealed;
pub mod stores;
pub mod stripe;
pub mod sweep;
mod unavailable;

use std::{
    io::{self, Read},
    time::SystemTime,
};

use crate::root::version::Version;

use self::{flush::FileSystem, local::LocalStore};
pub use self::{
    name::{BadName, ContentPath, PartialName},
    stores::Stores,
};

/// Contents of files, by names that were checked. Calls may wait for a disk or a network.
pub trait Store: Send + Sync {
    /// Begins a partial file, or resumes after the first `keep` bytes of the one that an earlier
    /// attempt left. With 0, whatever was left is discarded.
    fn begin(&self, partial: &PartialName, keep: u64) -> io::Result<Box<dyn Sink>>;

    /// The bytes of a partial file; `None` if there is none.
    fn held(&self, partial: &PartialName) -> io::Result<Option<u64>>;

    /// Reads a partial file from its beginning.
    fn read(&self, partial: &PartialName) -> io::Result<Box<dyn Read + Send>>;

    /// Removes a partial file, if there is one. What cannot be removed now stays for
    /// [`Self::sweep`].
    fn discard(&self, partial: &PartialName);

    /// Makes a partial file whole: from here on it is the file at that path. It fails with
    /// `AlreadyExists` if the path is taken, and then the partial file is unchanged.
    fn publish(&self, partial: &PartialName, to: &Target<'_>) -> io::Result<()>;

    /// Opens a file for reading. It stays open as the same file, whatever becomes of its name.
    fn open(&self, path: &ContentPath) -> io::Result<Box<dyn Contents>>;

    /// What is at a path; `None` if nothing is.
    fn stat(&self, path: &ContentPath) -> io::Result<Option<Stat>>;

    /// The files and directories of a directory, in no order, a few at a time. Links, special files
    /// and hidden names are left out.
    fn list(&self, directory: &ContentPath) -> io::Result<Listing>;

    /// Makes a directory; fails with `AlreadyExists` if the path is taken.
    fn make_dir(&self, path: &ContentPath) -> io::Result<()>;

    /// Moves a file or a directory. It fails with `AlreadyExists` if the new path is taken.
    fn rename(&self, path: &ContentPath, to: &Target<'_>) -> io::Result<()>;

    /// Removes a file or an empty directory.
    fn remove(&self, path: &ContentPath) -> io::Result<()>;

    /// Returns when the names in the directories of these paths survive a loss of power, in this
    /// order, and finally those of the partial files. For a rename, pass the new path before the
    /// old one: then a crash leaves two names rather than none.
    fn settle_names(&self, paths: &[ContentPath]) -> io::Result<()>;

    /// Bytes that still fit.
    fn room(&self) -> io::Result<u64>;

    /// Removes partial files to which nothing was appended since `before`, or only counts
    /// them; returns how many.
    fn sweep(&self, before: SystemTime, removes: bool) -> io::Result<usize>;

    /// The names and kinds of a directory, as in [`Self::list`]: for callers that do not look at
    /// the files themselves.
    fn names(&self, directory: &ContentPath) -> io::Result<Names> {
        let entries = self.list(directory)?;
        Ok(Box::new(
            entries.map(|entry| entry.map(|(name, stat)| (name, stat.kind))),
        ))
    }

    /// The local directory that the store is, if it is one: a file moves from one such store to
    /// another by a rename.
    fn as_local(&self) -> Option<&LocalStore> {
        None
    }

    /// Keeps a copy of a document with the file at a path that it belongs to, if the store survives
    /// this machine; `name` is that of the document, below the folder.
    fn describe(&self, _path: &ContentPath, _name: &str, _text: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// Whether a file of this store may get a path, as far as that can be told before it
    /// comes: fails with `NotFound` where the directory is missing, and with `CrossesDevices` where
    /// no rename reaches it.
    fn takes(&self, path: &ContentPath) -> io::Result<()> {
        let parent = path.parent();
        let parent = match parent.is_root() {
            true => return Ok(()),
            false => self.stat(&parent)?,
        };
        match parent.is_some_and(|parent| parent.kind == Kind::Directory) {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Whether anything is at a path, be it a file or not.
    fn holds(&self, path: &ContentPath) -> io::Result<bool> {
        self.stat(path).map(|found| found.is_some())
    }
}

/// A partial file that grows.
pub trait Sink: Send {
    /// Adds pieces at the end. After an error it is not known how much of them was written.
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()>;

    /// Returns when all that was appended survives a loss of power.
    fn settle(&mut self) -> io::Result<()>;

    /// The file system of this machine that the bytes are on, if they are on one: [`flush`] then
    /// makes many files durable at once. With `None` it calls [`Self::settle`] for each.
    fn file_system(&self) -> Option<FileSystem<'_>> {
        None
    }
}

/// A whole file, open to be read.
pub trait Contents: Send + Sync {
    /// What is known of it now.
    fn stat(&self) -> io::Result<Stat>;

    /// Reads bytes from `offset` on into the buffer; returns how many, and 0 only at the
    /// end of the file or for an empty buffer.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// A text that differs for every version of the file. It is not for peers: it may reveal
    /// details of the machine.
    fn version(&self) -> io::Result<String>;

    /// Returns when the bytes survive a loss of power.
    fn settle(&self) -> io::Result<()>;
}

/// The contents of what has no bytes.
pub struct NoContents;

impl Contents for NoContents {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat {
            kind: Kind::File,
            size: 0,
            modified: 0,
        })
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn version(&self) -> io::Result<String> {
        Ok(Version::in_memory(0, 0).key())
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The entries of a directory: each with its name, or why it cannot be read. Such an error does not
/// end the list; if the directory itself fails, that error is the last entry.
pub type Listing = Box<dyn Iterator<Item = io::Result<(String, Stat)>> + Send>;

/// The entries of a directory without what is known of them.
pub type Names = Box<dyn Iterator<Item = io::Result<(String, Kind)>> + Send>;

/// Where a file goes, and how.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// Its path. The directory that it names has to be there.
    pub path: &'a ContentPath,
    /// What happens to a file that is there.
    pub existing: Existing,
    /// When the file changed last, in nanoseconds since 1970; `None` leaves it as it is. A store
    /// without such times still keeps the file.
    pub modified: Option<i64>,
}

impl<'a> Target<'a> {
    /// A path that has to be free.
    pub fn free(path: &'a ContentPath) -> Self {
        Self {
            path,
            existing: Existing::Keep,
            modified: None,
        }
    }
}

/// What happens to a file whose path a new one is to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the new one fails with `AlreadyExists`.
    Keep,
    /// It is replaced atomically: one of the two is always there. A directory is never replaced.
    Replace,
}

/// What has a name in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file that can be opened.
    File,
    /// A directory.
    Directory,
    /// Something that only takes the name: a link, a pipe, a device.
    Other,
}

/// What is known of a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file; else 0.
    pub size: u64,
    /// When it changed last, in nanoseconds since 1970.
    pub modified: i64,
}

impl Stat {
    /// Whether it may be a file of that size and time. Times are compared to the
    /// microsecond: some file systems keep no more.
    pub fn is_file_of(&self, size: Option<u64>, modified: i64) -> bool {
        self.kind == Kind::File
            && Some(self.size) == size
            && self.modified.abs_diff(modified) < 1_000
    }
}

/// Reads contents from the beginning to the end.
pub struct Reader<'a> {
    contents: &'a dyn Contents,
    offset: u64,
}

impl<'a> Reader<'a> {
    /// A reader at the beginning.
    pub fn new(contents: &'a dyn Contents) -> Self {
        Self {
            contents,
            offset: 0,
        }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.contents.read_at(buffer, self.offset)?;
        self.offset = self.offset.saturating_add(read as u64);
        Ok(read)
    }
}

//! Makes many files durable at once.
//!
//! A flush takes milliseconds on a disk, for one file or for hundreds. So many small files
//! of one file system share one `syncfs`; a few, and large ones, are flushed each by itself,
//! so that they wait for nothing else that is written there. Files may lie on several file
//! systems: each has its own flush, and a failure concerns only the files that rest there.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    ptr,
};

use cap_std::fs::{Dir, MetadataExt};

use super::Sink;
use crate::root::file;

/// From this many files on, one flush of their file system costs less than one for each.
const MANY: usize = 3;

/// Bytes from which a file is flushed by itself.
pub const LARGE: u64 = 1 << 20;

/// The file system that a [`Sink`] writes to.
pub struct FileSystem<'a> {
    /// Which one it is: `st_dev`.
    pub device: u64,
    /// An open file on it.
    pub file: BorrowedFd<'a>,
    /// Bytes that were appended and not flushed.
    pub unflushed: u64,
}

/// What was written of one file and is not durable yet.
#[derive(Default)]
pub struct Unflushed<'a> {
    /// Its contents.
    pub sink: Option<&'a mut dyn Sink>,
    /// The directory and the name of a document that belongs to it.
    pub document: Option<(&'a Dir, &'a str)>,
}

/// Whether so many small files of one file system share a flush. Where they do not, a
/// caller may as well write its documents durably at once.
pub fn is_many(files: usize) -> bool {
    files >= MANY
}

/// Makes contents and documents durable, and the names of the documents. Returns a result
/// for each file, in their order.
pub fn flush(files: &mut [Unflushed<'_>]) -> Vec<io::Result<()>> {
    let mut directories = Directories::default();
    let mut systems: HashMap<u64, Shared> = HashMap::new();
    for file in files.iter() {
        let contents = file.sink.as_deref().and_then(small);
        let document = file.document.and_then(|(dir, _)| directories.device(dir));
        for device in contents.into_iter().chain(document) {
            systems.entry(device).or_default().files += 1;
        }
    }
    let mut flush_one = |file: &mut Unflushed<'_>| {
        if let Some(sink) = file.sink.as_deref_mut() {
            let shared = small(sink).and_then(|device| systems.get_mut(&device));
            match (shared, sink.file_system()) {
                (Some(shared), Some(system)) if is_many(shared.files) => {
                    shared.flush(system.file)?;
                }
                _ => sink.settle()?,
            }
        }
        let Some((dir, name)) = file.document else {
            return Ok(());
        };
        let shared = directories
            .device(dir)
            .and_then(|device| systems.get_mut(&device));
        match shared {
            // The handle itself may be one that only leads to names (O_PATH).
            Some(shared) if is_many(shared.files) => shared.flush_of(dir),
            _ => {
                file::open_itself(dir, name)?.0.sync_all()?;
                directories.sync(dir)
            }
        }
    };
    files.iter_mut().map(&mut flush_one).collect()
}

/// Makes the names in directories durable, each directory once. Returns a result for each
/// that was given, in their order.
pub fn flush_names<'a>(directories: impl IntoIterator<Item = &'a Dir>) -> Vec<io::Result<()>> {
    let mut seen = Directories::default();
    directories.into_iter().map(|dir| seen.sync(dir)).collect()
}

/// Makes everything durable that was written to the file system of a directory.
pub fn flush_file_system(dir: &Dir) -> io::Result<()> {
    // The handle itself may be one that only leads to names (O_PATH).
    let dir = dir.open(".")?;
    rustix::fs::syncfs(&dir).map_err(io::Error::from)
}

/// An error once more, for another file that it concerns.
pub fn copy_of(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// The device of a sink that may share a flush.
fn small(sink: &dyn Sink) -> Option<u64> {
    let system = sink.file_system()?;
    (system.unflushed < LARGE).then_some(system.device)
}

/// The flush that the small files of one file system share.
#[derive(Default)]
struct Shared {
    files: usize,
    result: Option<io::Result<()>>,
}

impl Shared {
    fn flush(&mut self, file: impl AsFd) -> io::Result<()> {
        let flush = || rustix::fs::syncfs(file).map_err(io::Error::from);
        again(self.result.get_or_insert_with(flush))
    }

    fn flush_of(&mut self, dir: &Dir) -> io::Result<()> {
        again(self.result.get_or_insert_with(|| flush_file_system(dir)))
    }
}

fn again(result: &io::Result<()>) -> io::Result<()> {
    result.as_ref().map(|()| ()).map_err(copy_of)
}

/// Directories that were met, so that the system is asked about each only once.
#[derive(Default)]
struct Directories {
    /// Device and inode, by the address of the handle: it stays where it is meanwhile.
    known: HashMap<usize, (u64, u64)>,
    synced: HashMap<(u64, u64), io::Result<()>>,
}

impl Directories {
    fn identity(&mut self, dir: &Dir) -> io::Result<(u64, u64)> {
        let address = ptr::from_ref(dir).addr();
        if let Some(identity) = self.known.get(&address) {
            return Ok(*identity);
        }
        let about = dir.dir_metadata()?;
        let identity = (about.dev(), about.ino());
        self.known.insert(address, identity);
        Ok(identity)
    }

    fn device(&mut self, dir: &Dir) -> Option<u64> {
        self.identity(dir).ok().map(|(device, _)| device)
    }

    fn sync(&mut self, dir: &Dir) -> io::Result<()> {
        let identity = self.identity(dir)?;
        again(
            self.synced
                .entry(identity)
                .or_insert_with(|| file::sync(dir)),
        )
    }
}

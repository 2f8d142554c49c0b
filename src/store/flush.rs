//! Makes many files durable at once.
//!
//! A flush takes milliseconds on a disk, for one file or for hundreds. So when there are many small
//! files on one file system, they share one `syncfs`; a few, and large ones, are flushed one by
//! one, so that they wait for nothing else that is written there. Files may be on several file
//! systems: each has its own flush, and a failure affects only the files on it.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    ptr,
    sync::{Mutex, PoisonError},
    thread,
};

use cap_std::fs::{Dir, MetadataExt};

use super::Sink;
use crate::root::file;

/// From this many files on, one flush of their file system costs less than one for each.
const MANY: usize = 3;

/// Sinks elsewhere that are settled at once.
const AT_ONCE: usize = 16;

/// Size in bytes from which a file is flushed by itself.
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

/// Whether this many small files on one file system share a flush. If not, a caller may as well
/// write its documents durably at once.
pub fn is_many(files: usize) -> bool {
    files >= MANY
}

/// Makes contents and documents durable, and the names of the documents. Returns a result
/// for each file, in their order.
pub fn flush(files: &mut [Unflushed<'_>]) -> Vec<io::Result<()>> {
    flush_by(files, &|file| {
        rustix::fs::syncfs(file).map_err(io::Error::from)
    })
}

/// Makes everything durable that was written to the file system of an open file.
type SyncFs<'a> = &'a dyn Fn(BorrowedFd<'_>) -> io::Result<()>;

fn flush_by(files: &mut [Unflushed<'_>], sync_fs: SyncFs<'_>) -> Vec<io::Result<()>> {
    let mut directories = Directories::default();
    let mut systems: HashMap<u64, Shared> = HashMap::new();
    for file in files.iter() {
        let contents = file.sink.as_deref().and_then(small);
        let document = file.document.and_then(|(dir, _)| directories.device(dir));
        for device in contents.into_iter().chain(document) {
            systems.entry(device).or_default().files += 1;
        }
    }
    let mut elsewhere = settle_elsewhere(files).into_iter();
    let mut flush_one = |file: &mut Unflushed<'_>| {
        if let Some(settled) = elsewhere.next().flatten() {
            settled?;
        } else if let Some(sink) = file.sink.as_deref_mut() {
            let shared = small(sink).and_then(|device| systems.get_mut(&device));
            match (shared, sink.file_system()) {
                (Some(shared), Some(system)) if is_many(shared.files) => {
                    shared.flush(|| sync_fs(system.file))?;
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
            Some(shared) if is_many(shared.files) => {
                // The handle itself may be O_PATH, which cannot be flushed.
                shared.flush(|| sync_fs(dir.open(".")?.as_fd()))
            }
            _ => {
                file::open_itself(dir, name)?.0.sync_all()?;
                directories.sync(dir)
            }
        }
    };
    files.iter_mut().map(&mut flush_one).collect()
}

/// Settles sinks that are on no file system of this machine, several at once: most of the time is
/// waiting for another one. `None` for every other file.
fn settle_elsewhere(files: &mut [Unflushed<'_>]) -> Vec<Option<io::Result<()>>> {
    let mut settled: Vec<Option<io::Result<()>>> = files.iter().map(|_| None).collect();
    let waiting = files
        .iter_mut()
        .zip(&mut settled)
        .filter_map(|(file, result)| {
            let sink = file.sink.as_deref_mut()?;
            sink.file_system().is_none().then_some((sink, result))
        });
    let waiting: Vec<_> = waiting.collect();
    let threads = waiting.len().min(AT_ONCE);
    let waiting = Mutex::new(waiting);
    let settle = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((sink, result)) = next else {
                return;
            };
            *result = Some(sink.settle());
        }
    };
    match threads {
        0 | 1 => settle(),
        _ => thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(settle)))),
    }
    settled
}

/// Makes the names in directories durable, each directory once. Returns a result for each one
/// given, in order.
pub fn flush_names<'a>(directories: impl IntoIterator<Item = &'a Dir>) -> Vec<io::Result<()>> {
    let mut seen = Directories::default();
    directories.into_iter().map(|dir| seen.sync(dir)).collect()
}

/// Makes everything durable that was written to the file system of a directory.
pub fn flush_file_system(dir: &Dir) -> io::Result<()> {
    // The handle itself may be O_PATH, which cannot be flushed.
    let dir = dir.open(".")?;
    rustix::fs::syncfs(&dir).map_err(io::Error::from)
}

/// A copy of an error, for another file that it affects.
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
    fn flush(&mut self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        again(self.result.get_or_insert_with(flush))
    }
}

fn again(result: &io::Result<()>) -> io::Result<()> {
    result.as_ref().copied().map_err(copy_of)
}

/// Directories seen so far, so that the system is asked about each only once.
#[derive(Default)]
struct Directories {
    /// Device and inode, by the address of the handle, which does not move meanwhile.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::{cell::RefCell, sync::Arc};

    use cap_std::ambient_authority;
    use tempfile::TempDir;

    use super::*;
    use crate::store::{PartialName, Store, local::LocalStore};

    struct Mount {
        _at: TempDir,
        dir: Arc<Dir>,
        device: u64,
    }

    fn place(at: TempDir) -> Mount {
        let dir = Arc::new(Dir::open_ambient_dir(at.path(), ambient_authority()).unwrap());
        let device = dir.dir_metadata().unwrap().dev();
        Mount {
            _at: at,
            dir,
            device,
        }
    }

    /// Two directories on two file systems, if this machine has them.
    fn two_file_systems() -> Option<[Mount; 2]> {
        let memory = tempfile::tempdir_in("/dev/shm").ok().map(place);
        let places = [env!("CARGO_MANIFEST_DIR"), "/tmp", "/var/tmp"];
        let disk = |path| tempfile::tempdir_in(path).ok().map(place);
        let found = memory.and_then(|memory| {
            let other = places.into_iter().filter_map(disk);
            let other = other
                .into_iter()
                .find(|disk| disk.device != memory.device)?;
            Some([other, memory])
        });
        if found.is_none() {
            eprintln!("skipped: /dev/shm is missing, or the only file system to write to");
        }
        found
    }

    /// Sinks in these directories, each with a few bytes.
    fn sinks(dirs: &[&Arc<Dir>], bytes: &[u8]) -> Vec<Box<dyn Sink>> {
        let sink = |(n, dir): (usize, &&Arc<Dir>)| {
            let name = PartialName::new(&n.to_string()).unwrap();
            let mut sink = LocalStore::new(dir).begin(&name, 0).unwrap();
            sink.append(&[bytes]).unwrap();
            sink
        };
        dirs.iter().enumerate().map(sink).collect()
    }

    /// Flushes; returns the results and the devices that were flushed as a whole.
    fn flushed(sinks: &mut [Box<dyn Sink>], fails: Option<u64>) -> (Vec<io::Result<()>>, Vec<u64>) {
        let devices = RefCell::new(Vec::new());
        let sync_fs = |file: BorrowedFd<'_>| {
            let device = rustix::fs::fstat(file).unwrap().st_dev;
            devices.borrow_mut().push(device);
            match Some(device) == fails {
                true => Err(io::Error::from(rustix::io::Errno::IO)),
                false => rustix::fs::syncfs(file).map_err(io::Error::from),
            }
        };
        let mut files: Vec<Unflushed<'_>> = sinks
            .iter_mut()
            .map(|sink| Unflushed {
                sink: Some(&mut **sink),
                document: None,
            })
            .collect();
        let results = flush_by(&mut files, &sync_fs);
        (results, devices.into_inner())
    }

    #[test]
    fn many_small_files_on_two_file_systems_take_one_flush_of_each() {
        let Some([a, b]) = two_file_systems() else {
            return;
        };
        let dirs = [&a.dir, &b.dir, &a.dir, &b.dir, &a.dir, &b.dir];
        let (results, devices) = flushed(&mut sinks(&dirs, b"abc"), None);
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(devices, [a.device, b.device]);
    }

    #[test]
    fn a_file_system_that_fails_fails_only_its_own_files() {
        let Some([a, b]) = two_file_systems() else {
            return;
        };
        let dirs = [&a.dir, &b.dir, &a.dir, &b.dir, &a.dir, &b.dir];
        let (results, _) = flushed(&mut sinks(&dirs, b"abc"), Some(b.device));
        let errors: Vec<bool> = results.iter().map(Result::is_err).collect();
        assert_eq!(errors, [false, true, false, true, false, true]);
        assert_eq!(
            results[5].as_ref().unwrap_err().raw_os_error(),
            results[1].as_ref().unwrap_err().raw_os_error()
        );
    }

    #[test]
    fn a_few_files_and_large_ones_are_flushed_each_by_itself() {
        let a = place(tempfile::tempdir().unwrap());
        let large = vec![1; usize::try_from(LARGE).unwrap()];
        for mut sinks in [sinks(&[&a.dir; 2], b"abc"), sinks(&[&a.dir; 4], &large)] {
            let (results, devices) = flushed(&mut sinks, None);
            assert!(results.iter().all(Result::is_ok) && devices.is_empty());
            let left = |sink: &dyn Sink| sink.file_system().unwrap().unflushed;
            assert!(sinks.iter().all(|sink| left(&**sink) == 0));
        }
    }

    #[test]
    fn documents_count_with_the_contents_and_fail_by_themselves() {
        let a = place(tempfile::tempdir().unwrap());
        a.dir.write("x.meta", "1").unwrap();
        let mut sinks = sinks(&[&a.dir; 2], b"abc");
        let mut files: Vec<Unflushed<'_>> = sinks
            .iter_mut()
            .zip(["x.meta", "missing.meta"])
            .map(|(sink, name)| Unflushed {
                sink: Some(&mut **sink),
                document: Some((&a.dir, name)),
            })
            .collect();
        let count = RefCell::new(0);
        let results = flush_by(&mut files, &|_| {
            *count.borrow_mut() += 1;
            Ok(())
        });
        // Two contents and two documents are many.
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(count.into_inner(), 1);
        let mut one = [Unflushed {
            sink: None,
            document: Some((&a.dir, "missing.meta")),
        }];
        assert_eq!(
            flush(&mut one)[0].as_ref().unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert!(flush_names([&*a.dir, &*a.dir]).iter().all(Result::is_ok));
    }
}

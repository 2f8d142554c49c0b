//! The store that is a directory of this machine.

use std::{
    fs::File,
    io::{self, IoSlice, Read, Seek, Write},
    ops::Deref,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt as _},
    },
    sync::{Arc, OnceLock},
    thread::{self, JoinHandle},
    time::SystemTime,
};

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, Metadata, MetadataExt, OpenOptions};
use cap_std::fs::{OpenOptionsExt, ReadDir};
use rustix::fs::{AtFlags, OFlags};

use super::{
    ContentPath, Contents, Existing, Kind, Listing, Names, PartialName, Sink, Stat, Store, Target,
    flush::FileSystem,
};
use crate::root::{
    destination::moment,
    file::{self, nanos},
    tree,
    version::Version,
};

/// A directory. No link in it is followed.
pub struct LocalStore {
    dir: Arc<Dir>,
    /// The file system of the directory, once a caller asked.
    device: OnceLock<u64>,
}

/// An open directory: the store's own, or one below it.
enum Opened<'a> {
    Own(&'a Dir),
    Below(Dir),
}

impl Deref for Opened<'_> {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        match self {
            Self::Own(dir) => dir,
            Self::Below(dir) => dir,
        }
    }
}

impl LocalStore {
    /// The store in an open directory.
    pub fn new(dir: &Arc<Dir>) -> Self {
        Self {
            dir: dir.clone(),
            device: OnceLock::new(),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    fn device(&self) -> io::Result<u64> {
        match self.device.get() {
            Some(device) => Ok(*device),
            None => {
                let device = self.dir.dir_metadata()?.dev();
                Ok(*self.device.get_or_init(|| device))
            }
        }
    }

    fn directory(&self, path: &ContentPath) -> io::Result<Opened<'_>> {
        match path.is_root() {
            true => Ok(Opened::Own(&self.dir)),
            false => tree::open_below(&self.dir, path.components()).map(Opened::Below),
        }
    }

    /// The open directory that contains a path, and its name there.
    fn locate<'a>(&self, path: &'a ContentPath) -> io::Result<(Opened<'_>, &'a str)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.directory(&path.parent())?, name))
    }

    /// Like [`Self::locate`], for a path that is about to be taken.
    fn locate_new<'a>(&self, path: &'a ContentPath) -> io::Result<(Opened<'_>, &'a str)> {
        match self.locate(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.is_quarantined() => {
                let mut builder = DirBuilder::new();
                builder.recursive(true).mode(0o700);
                for name in path.parent().components() {
                    self.dir.create_dir_with(name, &builder)?;
                }
                self.locate(path)
            }
            located => located,
        }
    }

    /// Moves a file or a directory to a path.
    fn put(&self, from: &Dir, name: &str, to: &Target<'_>) -> io::Result<()> {
        let (dir, new) = self.locate_new(to.path)?;
        if let Some(modified) = to.modified {
            let (file, _) = file::open_itself(from, name)?;
            // A file system without such times still keeps the file.
            let _ = file.into_std().set_modified(moment(modified));
        }
        match to.existing {
            Existing::Keep => file::rename_to_free(from, name, &dir, new),
            Existing::Replace => match dir.symlink_metadata(new) {
                Ok(about) if !about.is_file() => Err(io::ErrorKind::AlreadyExists.into()),
                _ => from.rename(name, &dir, new),
            },
        }
    }
}

impl Store for LocalStore {
    fn begin(&self, partial: &PartialName, keep: u64) -> io::Result<Box<dyn Sink>> {
        let device = self.device()?;
        let mut options = OpenOptions::new();
        options.write(true).mode(0o644);
        if keep == 0 {
            options.create_new(true);
            let file = match self.dir.open_with(partial.as_str(), &options) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    self.discard(partial);
                    self.dir.open_with(partial.as_str(), &options)?
                }
                file => file?,
            };
            return Ok(Box::new(LocalSink::new(file.into_std(), device)));
        }
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let file = self.dir.open_with(partial.as_str(), &options)?;
        let mut file = file.into_std();
        if file.metadata()?.len() < keep {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.set_len(keep)?;
        file.seek(io::SeekFrom::Start(keep))?;
        Ok(Box::new(LocalSink::new(file, device)))
    }

    fn held(&self, partial: &PartialName) -> io::Result<Option<u64>> {
        match self.dir.symlink_metadata(partial.as_str()) {
            Ok(about) if about.is_file() => Ok(Some(about.len())),
            // It is in the way of the next attempt, but holds nothing of the file.
            Ok(_) => Ok(Some(0)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn read(&self, partial: &PartialName) -> io::Result<Box<dyn Read + Send>> {
        let (file, _) = file::open_itself(&self.dir, partial.as_str())?;
        Ok(Box::new(file))
    }

    fn discard(&self, partial: &PartialName) {
        let _ = self.dir.remove_file(partial.as_str());
    }

    fn publish(&self, partial: &PartialName, to: &Target<'_>) -> io::Result<()> {
        self.put(&self.dir, partial.as_str(), to)
    }

    fn open(&self, path: &ContentPath) -> io::Result<Box<dyn Contents>> {
        let (dir, name) = self.locate(path)?;
        let (file, _) = file::open_itself(&dir, name)?;
        Ok(Box::new(LocalContents(file.into_std())))
    }

    fn stat(&self, path: &ContentPath) -> io::Result<Option<Stat>> {
        let about = match path.file_name() {
            None => self.directory(path).and_then(|dir| dir.dir_metadata()),
            Some(_) => self
                .locate(path)
                .and_then(|(dir, name)| dir.symlink_metadata(name)),
        };
        match about {
            Ok(about) => Ok(Some(Stat::from(&about))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn list(&self, directory: &ContentPath) -> io::Result<Listing> {
        let dir = match self.directory(directory)? {
            Opened::Own(dir) => dir.open_dir(".")?,
            Opened::Below(dir) => dir,
        };
        let entries = dir.entries()?;
        let entries = Some(entries);
        Ok(Box::new(Entries { dir, entries }))
    }

    fn make_dir(&self, path: &ContentPath) -> io::Result<()> {
        let (dir, name) = self.locate_new(path)?;
        dir.create_dir(name)
    }

    fn rename(&self, path: &ContentPath, to: &Target<'_>) -> io::Result<()> {
        let (dir, name) = self.locate(path)?;
        match Stat::from(&dir.symlink_metadata(name)?).kind {
            Kind::Other => Err(io::ErrorKind::NotFound.into()),
            Kind::File | Kind::Directory => self.put(&dir, name, to),
        }
    }

    fn remove(&self, path: &ContentPath) -> io::Result<()> {
        let (dir, name) = self.locate(path)?;
        let flags = match Stat::from(&dir.symlink_metadata(name)?).kind {
            Kind::File => AtFlags::empty(),
            Kind::Directory => AtFlags::REMOVEDIR,
            Kind::Other => return Err(io::ErrorKind::NotFound.into()),
        };
        rustix::fs::unlinkat(&*dir, name, flags).map_err(io::Error::from)
    }

    fn settle_names(&self, paths: &[ContentPath]) -> io::Result<()> {
        let mut parents: Vec<ContentPath> = Vec::new();
        for path in paths {
            let parent = path.parent();
            if !parent.is_root() && !parents.contains(&parent) {
                parents.push(parent);
            }
        }
        for parent in &parents {
            match self.directory(parent) {
                // Removed with all names in it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                dir => file::sync(&*dir?)?,
            }
        }
        file::sync(&self.dir)
    }

    fn names(&self, directory: &ContentPath) -> io::Result<Names> {
        let entries = self.directory(directory)?.entries()?;
        Ok(Box::new(entries.filter_map(|entry| {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            let name = entry.file_name().into_string().ok()?;
            let kind = match entry.file_type() {
                Ok(of) if of.is_file() => Kind::File,
                Ok(of) if of.is_dir() => Kind::Directory,
                // It is something else, or vanished meanwhile.
                Ok(_) | Err(_) => return None,
            };
            is_shown(&name).then_some(Ok((name, kind)))
        })))
    }

    fn as_local(&self) -> Option<&LocalStore> {
        Some(self)
    }

    fn takes(&self, path: &ContentPath) -> io::Result<()> {
        let parent = path.parent();
        let is_same =
            parent.is_root() || self.directory(&parent)?.dir_metadata()?.dev() == self.device()?;
        match is_same {
            true => Ok(()),
            false => Err(io::ErrorKind::CrossesDevices.into()),
        }
    }

    fn room(&self) -> io::Result<u64> {
        let about = rustix::fs::fstatvfs(&*self.dir)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }

    fn sweep(&self, before: SystemTime, removes: bool) -> io::Result<usize> {
        file::remove_old(&self.dir, before, PartialName::is_one, removes)
    }
}

impl From<&Metadata> for Stat {
    fn from(about: &Metadata) -> Self {
        let kind = match about {
            about if about.is_file() => Kind::File,
            about if about.is_dir() => Kind::Directory,
            _ => Kind::Other,
        };
        Self {
            kind,
            size: if kind == Kind::File { about.len() } else { 0 },
            modified: nanos(about.mtime(), about.mtime_nsec()),
        }
    }
}

/// Whether a name may be that of contents.
fn is_shown(name: &str) -> bool {
    !name.starts_with('.') && !tree::is_own(name)
}

/// The entries of a directory, read as they are asked for.
struct Entries {
    dir: Dir,
    /// `None` after an error of the directory, which would only recur.
    entries: Option<ReadDir>,
}

impl Iterator for Entries {
    type Item = io::Result<(String, Stat)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let name = match self.entries.as_mut()?.next()? {
                Ok(entry) => entry.file_name(),
                Err(error) => {
                    self.entries = None;
                    return Some(Err(error));
                }
            };
            let Some(name) = name.to_str() else { continue };
            if !is_shown(name) {
                continue;
            }
            match self
                .dir
                .symlink_metadata(name)
                .map(|about| Stat::from(&about))
            {
                Ok(stat) if stat.kind == Kind::Other => {}
                Ok(stat) => return Some(Ok((name.to_owned(), stat))),
                // It vanished meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A file of this machine as contents.
pub struct LocalContents(pub File);

impl Contents for LocalContents {
    fn stat(&self) -> io::Result<Stat> {
        let about = self.0.metadata()?;
        Ok(Stat {
            kind: Kind::File,
            size: about.len(),
            modified: nanos(about.mtime(), about.mtime_nsec()),
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn version(&self) -> io::Result<String> {
        Ok(Version::of(&self.0)?.key())
    }

    fn settle(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// Bytes after which a flush to the disk begins in the background: a loss of power costs at most
/// this much of a file, and the last flush has little to do.
const FLUSH: u64 = 32 << 20;

struct LocalSink {
    file: Arc<File>,
    device: u64,
    /// Bytes that were written since the last [`Sink::settle`].
    unsettled: u64,
    /// Bytes that were written since the last flush began.
    unflushed: u64,
    flushing: Option<JoinHandle<io::Result<()>>>,
}

impl LocalSink {
    fn new(file: File, device: u64) -> Self {
        Self {
            file: Arc::new(file),
            device,
            unsettled: 0,
            unflushed: 0,
            flushing: None,
        }
    }

    /// Begins to flush, unless a flush is running already.
    fn flush_behind(&mut self) -> io::Result<()> {
        if let Some(flushing) = &self.flushing {
            if !flushing.is_finished() {
                return Ok(());
            }
            self.join()?;
        }
        self.unflushed = 0;
        let file = self.file.clone();
        let flushing = thread::Builder::new()
            .name("flush".to_owned())
            .spawn(move || file.sync_data());
        // Without a thread the last flush has to do it all.
        self.flushing = flushing.ok();
        Ok(())
    }

    /// The result of an earlier flush: the system reports an error only once.
    fn join(&mut self) -> io::Result<()> {
        match self.flushing.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("a thread that flushed a file failed")),
        }
    }
}

impl Sink for LocalSink {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
        let mut rest = slices.as_mut_slice();
        // An empty slice in front would make a write of nothing look like a full disk.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match (&*self.file).write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.unflushed += n as u64;
                    self.unsettled += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        match self.unflushed >= FLUSH {
            true => self.flush_behind(),
            false => Ok(()),
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        self.join()?;
        self.file.sync_all()?;
        self.unsettled = 0;
        Ok(())
    }

    fn file_system(&self) -> Option<FileSystem<'_>> {
        Some(FileSystem {
            device: self.device,
            file: self.file.as_fd(),
            unflushed: self.unsettled,
        })
    }
}

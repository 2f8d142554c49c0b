//! A directory of this machine, or one that it mounts, as a member.

use std::{
    collections::HashSet,
    fs,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cap_std::{
    ambient_authority,
    fs::{Dir, MetadataExt},
};
use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use hyper::body::Bytes;
use tokio::task;

use super::{Existing, MAX_OBJECT, Member, MemberError, MemberResult, Object, ObjectKey};
use crate::{root::file, store::buffers};

/// A directory that holds each object as a file of its key.
#[derive(Clone)]
pub struct DirectoryMember {
    path: Arc<PathBuf>,
    opened: Arc<Mutex<Opened>>,
}

/// The directory that is at the path, as long as it is that one: a disk may be unmounted, and
/// another one mounted.
struct Opened {
    dir: Arc<Dir>,
    /// Device and inode.
    identity: (u64, u64),
    /// Directories below it whose names are known to survive a loss of power.
    durable: HashSet<String>,
}

impl DirectoryMember {
    /// Opens the directory, which has to exist. Name one below the mount point of a disk: if the
    /// disk is not mounted, it is missing, and not taken for an empty one.
    ///
    /// # Errors
    ///
    /// If there is no such directory.
    pub fn open(path: &Path) -> MemberResult<Self> {
        let opened = Opened::new(path)?;
        Ok(Self {
            path: Arc::new(path.to_owned()),
            opened: Arc::new(Mutex::new(opened)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory that is at the path now.
    fn dir(&self) -> MemberResult<Arc<Dir>> {
        let now = fs::metadata(&*self.path).map_err(|e| cannot_open(&self.path, &e))?;
        let mut opened = self.lock();
        if (now.dev(), now.ino()) != opened.identity {
            *opened = Opened::new(&self.path)?;
        }
        Ok(opened.dir.clone())
    }

    /// Does something that waits for the disk.
    fn work<'a, T: Send + 'static>(
        &'a self,
        key: &ObjectKey,
        work: impl FnOnce(&Self, &Dir, &ObjectKey) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'a, MemberResult<T>> {
        let (this, key) = (self.clone(), key.clone());
        // Nothing begins before somebody waits for it.
        async move {
            let working = task::spawn_blocking(move || {
                let dir = this.dir()?;
                let done = work(&this, &dir, &key);
                done.map_err(|error| this.error(key, &error))
            });
            working.await.map_err(|_| stopped())?
        }
        .boxed()
    }

    fn error(&self, key: ObjectKey, error: &io::Error) -> MemberError {
        let sentence = || format!("{}: {error}", self.path.join(key.as_str()).display());
        match error.kind() {
            io::ErrorKind::NotFound => MemberError::Missing(key.to_string()),
            io::ErrorKind::AlreadyExists => MemberError::Exists(key.to_string()),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                MemberError::Full(sentence())
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                MemberError::Denied(sentence())
            }
            _ => MemberError::Failed(sentence()),
        }
    }
}

impl Opened {
    fn new(path: &Path) -> MemberResult<Self> {
        let failed = |e: io::Error| cannot_open(path, &e);
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(failed)?;
        let about = dir.dir_metadata().map_err(failed)?;
        Ok(Self {
            dir: Arc::new(dir),
            identity: (about.dev(), about.ino()),
            durable: HashSet::new(),
        })
    }
}

fn cannot_open(path: &Path, error: &io::Error) -> MemberError {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => MemberError::Unreachable(format!(
            "the directory {path} does not exist: create it, or mount the disk"
        )),
        _ => MemberError::Denied(format!("cannot open {path}: {error}")),
    }
}

/// Directories that are remembered to be durable.
const REMEMBERED: usize = 10_000;

/// Opens the directory of a key, and returns it with the last component.
fn parent(dir: &Dir, key: &ObjectKey) -> io::Result<(Dir, String)> {
    match key.as_str().rsplit_once('/') {
        Some((above, name)) => Ok((dir.open_dir(above)?, name.to_owned())),
        None => Ok((dir.try_clone()?, key.to_string())),
    }
}

impl DirectoryMember {
    /// The same for a write: missing directories are made, and the names of all survive a loss of
    /// power.
    fn parent_for_write(&self, dir: &Dir, key: &ObjectKey) -> io::Result<(Dir, String)> {
        let Some((above, name)) = key.as_str().rsplit_once('/') else {
            return Ok((dir.try_clone()?, key.to_string()));
        };
        if self.lock().durable.contains(above) {
            match dir.open_dir(above) {
                // Somebody removed it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                opened => return Ok((opened?, name.to_owned())),
            }
        }
        let mut here = dir.try_clone()?;
        for component in above.split('/') {
            match here.create_dir(component) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                // One that exists may have been made a moment ago, by somebody who was killed.
                _ => file::sync(&here)?,
            }
            here = here.open_dir(component)?;
        }
        let known = &mut self.lock().durable;
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(above.to_owned());
        Ok((here, name.to_owned()))
    }
}

/// A thread of ours panicked.
fn stopped() -> MemberError {
    MemberError::Failed("a thread stopped".to_owned())
}

fn object(key: ObjectKey, about: &cap_std::fs::Metadata) -> Object {
    Object {
        key,
        size: about.len(),
        modified: about
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(about.mtime_nsec()),
    }
}

/// The bytes of a range, as far as the file has them.
fn read(dir: &Dir, key: &ObjectKey, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
    let (dir, name) = parent(dir, key)?;
    let (mut file, about) = file::open(&dir, name)?;
    let len = about.len();
    let range = range.unwrap_or(0..len);
    let (start, end) = (range.start.min(len), range.end.min(len));
    if end.saturating_sub(start) > MAX_OBJECT {
        return Err(file::too_large(MAX_OBJECT));
    }
    file.seek(SeekFrom::Start(start))?;
    let wanted = end.saturating_sub(start);
    let mut bytes = buffers::take(usize::try_from(wanted).map_err(io::Error::other)?);
    file.take(wanted).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How old a temporary file is that nobody writes any more.
const ABANDONED: Duration = Duration::from_secs(86_400);

/// Whether a file was on its way to become an object: a process that was killed leaves it.
fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(file::TEMPORARY)
}

/// The objects in a directory itself, and the directories in it. Removes what writes that were
/// killed have left.
fn entries(dir: &Dir, at: Option<&ObjectKey>) -> io::Result<(Vec<Object>, Vec<ObjectKey>)> {
    let dir = match at {
        Some(at) => match dir.open_dir(at.as_str()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            dir => dir?,
        },
        None => dir.try_clone()?,
    };
    let (mut objects, mut directories) = (Vec::new(), Vec::new());
    for entry in dir.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| is_temporary(name)) {
            let old = entry
                .metadata()
                .and_then(|about| about.modified().map(|time| time.into_std()));
            let old = old.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED));
            // Else it is swept by a later listing.
            let _ = old.then(|| dir.remove_file(name));
            continue;
        }
        let key = name.to_str().and_then(|name| match at {
            Some(at) => ObjectKey::parse(&format!("{at}/{name}")),
            None => ObjectKey::parse(name),
        });
        let Some(key) = key else {
            continue;
        };
        match entry.metadata() {
            Ok(about) if about.is_dir() => directories.push(key),
            Ok(about) if about.is_file() => objects.push(object(key, &about)),
            Ok(_) => {}
            // It was removed in the meantime.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok((objects, directories))
}

impl Member for DirectoryMember {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Bytes,
        existing: Existing,
    ) -> BoxFuture<'a, MemberResult<()>> {
        self.work(key, move |this, dir, key| {
            let (dir, name) = this.parent_for_write(dir, key)?;
            match existing {
                Existing::Replace => file::replace(&dir, &name, 0o600, &body),
                Existing::Keep => file::create(&dir, &name, 0o600, &body),
            }
        })
    }

    fn get<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Option<Range<u64>>,
    ) -> BoxFuture<'a, MemberResult<Vec<u8>>> {
        self.work(key, move |_, dir, key| read(dir, key, range))
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<Object>> {
        self.work(key, |_, dir, key| {
            let (dir, name) = parent(dir, key)?;
            let about = dir.symlink_metadata(name)?;
            match about.is_file() {
                true => Ok(object(key.clone(), &about)),
                false => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }

    fn remove<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<()>> {
        self.work(key, |_, dir, key| {
            let removed = parent(dir, key).and_then(|(dir, name)| {
                dir.remove_file(name)?;
                file::sync(&dir)
            });
            match removed {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        })
    }

    fn list<'a>(&'a self, directory: Option<&'a ObjectKey>) -> BoxStream<'a, MemberResult<Object>> {
        // One directory at a time is in memory.
        let walk = vec![directory.cloned()];
        stream::try_unfold(walk, move |mut walk| async move {
            let Some(at) = walk.pop() else {
                return Ok(None);
            };
            let (this, here) = (self.clone(), at.clone());
            let looking = task::spawn_blocking(move || {
                let dir = this.dir()?;
                entries(&dir, here.as_ref()).map_err(|error| {
                    let path = &this.path;
                    let path = here.map_or_else(|| path.to_path_buf(), |at| path.join(at.as_str()));
                    MemberError::Failed(format!("cannot list {}: {error}", path.display()))
                })
            });
            let found = looking.await;
            let (objects, directories) = found.map_err(|_| stopped())??;
            walk.extend(directories.into_iter().map(Some));
            let objects = stream::iter(objects.into_iter().map(Ok));
            Ok(Some((objects, walk)))
        })
        .boxed()
        .flat_map(|page| match page {
            Ok(objects) => objects.boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        })
        .boxed()
    }

    fn room(&self) -> BoxFuture<'_, MemberResult<Option<u64>>> {
        let this = self.clone();
        let looking = task::spawn_blocking(move || {
            let found = rustix::fs::fstatvfs(&*this.dir()?);
            let failed = |e| MemberError::Failed(format!("{}: {e}", this.path.display()));
            let about = found.map_err(failed)?;
            Ok(Some(about.f_bavail.saturating_mul(about.f_frsize)))
        });
        async move { looking.await.map_err(|_| stopped())? }.boxed()
    }
}

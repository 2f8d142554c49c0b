//! Stores for tests: one in memory, and one over any other that fails on command.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

use m2y::store::{
    ContentPath, Contents, Existing, Kind, Listing, PartialName, Sink, Stat, Store, Target,
};
use rustix::io::Errno;

/// What a store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Begin,
    Append,
    Settle,
    Held,
    Read,
    Discard,
    Publish,
    Open,
    ReadAt,
    Stat,
    List,
    MakeDir,
    Rename,
    Remove,
    SettleNames,
    Room,
    Sweep,
}

/// Before a call is passed on, or after it worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

type Watcher = Arc<dyn Fn(Call, Moment) -> io::Result<()> + Send + Sync>;

/// A store whose every call is watched, and fails where the watcher says so. A watched
/// append gives each piece as a call.
pub struct Watched<S> {
    inner: S,
    watcher: Watcher,
}

impl<S: Store> Watched<S> {
    pub fn new(
        inner: S,
        watcher: impl Fn(Call, Moment) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let watcher = Arc::new(watcher);
        Self { inner, watcher }
    }

    /// Fails the `n`th call of a kind, counted from 1, with an error of the system.
    pub fn failing(inner: S, call: Call, n: usize, error: Errno) -> Self {
        let left = Mutex::new(n);
        Self::new(inner, move |asked, moment| {
            let mut left = left.lock().unwrap();
            if asked != call || moment == Moment::After || *left == 0 {
                return Ok(());
            }
            *left -= 1;
            match *left {
                0 => Err(error.into()),
                _ => Ok(()),
            }
        })
    }

    fn watch<T>(&self, call: Call, work: impl FnOnce(&S) -> io::Result<T>) -> io::Result<T> {
        (self.watcher)(call, Moment::Before)?;
        let done = work(&self.inner)?;
        (self.watcher)(call, Moment::After)?;
        Ok(done)
    }
}

impl<S: Store> Store for Watched<S> {
    fn begin(&self, partial: &PartialName, keep: u64) -> io::Result<Box<dyn Sink>> {
        let inner = self.watch(Call::Begin, |store| store.begin(partial, keep))?;
        let watcher = self.watcher.clone();
        Ok(Box::new(WatchedSink { inner, watcher }))
    }

    fn held(&self, partial: &PartialName) -> io::Result<Option<u64>> {
        self.watch(Call::Held, |store| store.held(partial))
    }

    fn read(&self, partial: &PartialName) -> io::Result<Box<dyn Read + Send>> {
        self.watch(Call::Read, |store| store.read(partial))
    }

    fn discard(&self, partial: &PartialName) {
        let discard = |store: &S| {
            store.discard(partial);
            Ok(())
        };
        let _ = self.watch(Call::Discard, discard);
    }

    fn publish(&self, partial: &PartialName, to: &Target<'_>) -> io::Result<()> {
        self.watch(Call::Publish, |store| store.publish(partial, to))
    }

    fn open(&self, path: &ContentPath) -> io::Result<Box<dyn Contents>> {
        let inner = self.watch(Call::Open, |store| store.open(path))?;
        let watcher = self.watcher.clone();
        Ok(Box::new(WatchedContents { inner, watcher }))
    }

    fn stat(&self, path: &ContentPath) -> io::Result<Option<Stat>> {
        self.watch(Call::Stat, |store| store.stat(path))
    }

    fn list(&self, directory: &ContentPath) -> io::Result<Listing> {
        self.watch(Call::List, |store| store.list(directory))
    }

    fn make_dir(&self, path: &ContentPath) -> io::Result<()> {
        self.watch(Call::MakeDir, |store| store.make_dir(path))
    }

    fn rename(&self, path: &ContentPath, to: &Target<'_>) -> io::Result<()> {
        self.watch(Call::Rename, |store| store.rename(path, to))
    }

    fn remove(&self, path: &ContentPath) -> io::Result<()> {
        self.watch(Call::Remove, |store| store.remove(path))
    }

    fn settle_names(&self, paths: &[ContentPath]) -> io::Result<()> {
        self.watch(Call::SettleNames, |store| store.settle_names(paths))
    }

    fn room(&self) -> io::Result<u64> {
        self.watch(Call::Room, S::room)
    }

    fn sweep(&self, before: SystemTime, removes: bool) -> io::Result<usize> {
        self.watch(Call::Sweep, |store| store.sweep(before, removes))
    }
}

struct WatchedSink {
    inner: Box<dyn Sink>,
    watcher: Watcher,
}

impl Sink for WatchedSink {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        for piece in pieces {
            if let Err(error) = (self.watcher)(Call::Append, Moment::Before) {
                // Half of it is written, as by a write that comes up short.
                self.inner.append(&[&piece[..piece.len() / 2]])?;
                return Err(error);
            }
            self.inner.append(&[piece])?;
            (self.watcher)(Call::Append, Moment::After)?;
        }
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        (self.watcher)(Call::Settle, Moment::Before)?;
        self.inner.settle()?;
        (self.watcher)(Call::Settle, Moment::After)
    }
}

struct WatchedContents {
    inner: Box<dyn Contents>,
    watcher: Watcher,
}

impl Contents for WatchedContents {
    fn stat(&self) -> io::Result<Stat> {
        self.inner.stat()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (self.watcher)(Call::ReadAt, Moment::Before)?;
        self.inner.read_at(buffer, offset)
    }

    fn version(&self) -> io::Result<String> {
        self.inner.version()
    }

    fn settle(&self) -> io::Result<()> {
        self.inner.settle()
    }
}

/// A store in memory. It tells what a loss of power would leave: [`Self::after_power_loss`].
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Files>>);

#[derive(Clone, Default)]
struct Files {
    partials: HashMap<PartialName, Bytes>,
    /// `None` is a directory.
    visible: BTreeMap<String, Option<Bytes>>,
    /// The names that survive.
    settled: BTreeMap<String, Option<Bytes>>,
    /// Bytes that all files together may have.
    room: Option<u64>,
}

type Bytes = Arc<Mutex<File>>;

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    /// Bytes that survive.
    settled: usize,
    modified: i64,
}

impl Memory {
    pub fn with_room(bytes: u64) -> Self {
        let memory = Self::default();
        memory.lock().room = Some(bytes);
        memory
    }

    /// The visible files that a loss of power leaves, with the bytes that it leaves of each.
    pub fn after_power_loss(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.lock();
        let file = |bytes: &Bytes| {
            let file = bytes.lock().unwrap();
            file.bytes[..file.settled].to_vec()
        };
        let settled = files.settled.iter();
        settled
            .filter_map(|(name, bytes)| Some((name.clone(), file(bytes.as_ref()?))))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap()
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_nanos()).unwrap()
}

fn error<T>(kind: io::ErrorKind) -> io::Result<T> {
    Err(kind.into())
}

impl Files {
    fn used(&self) -> u64 {
        let visible = self.visible.values().flatten();
        let all = self.partials.values().chain(visible);
        all.map(|bytes| bytes.lock().unwrap().bytes.len() as u64)
            .sum()
    }

    fn has_parent(&self, path: &ContentPath) -> bool {
        let parent = path.parent();
        parent.is_root()
            || parent == ContentPath::quarantine()
            || matches!(self.visible.get(&parent.to_string()), Some(None))
    }

    /// Whether something may get a path.
    fn check(&self, to: &Target<'_>) -> io::Result<()> {
        if !self.has_parent(to.path) {
            return error(io::ErrorKind::NotFound);
        }
        match (self.visible.get(&to.path.to_string()), to.existing) {
            (None, _) | (Some(Some(_)), Existing::Replace) => Ok(()),
            _ => error(io::ErrorKind::AlreadyExists),
        }
    }

    fn put(&mut self, entry: Option<Bytes>, to: &Target<'_>) {
        if let (Some(bytes), Some(modified)) = (&entry, to.modified) {
            bytes.lock().unwrap().modified = modified;
        }
        self.visible.insert(to.path.to_string(), entry);
    }

    fn below(&self, path: &ContentPath) -> Vec<String> {
        let before = format!("{path}/");
        let names = self.visible.keys();
        names
            .filter(|name| name.starts_with(&before))
            .cloned()
            .collect()
    }
}

fn stat(entry: Option<&Bytes>) -> Stat {
    match entry {
        Some(bytes) => {
            let file = bytes.lock().unwrap();
            Stat {
                kind: Kind::File,
                size: file.bytes.len() as u64,
                modified: file.modified,
            }
        }
        None => Stat {
            kind: Kind::Directory,
            size: 0,
            modified: 0,
        },
    }
}

impl Store for Memory {
    fn begin(&self, partial: &PartialName, keep: u64) -> io::Result<Box<dyn Sink>> {
        let mut files = self.lock();
        let bytes = match keep {
            0 => Bytes::default(),
            _ => {
                let left = files.partials.get(partial).ok_or(io::ErrorKind::NotFound)?;
                let mut file = left.lock().unwrap();
                if (file.bytes.len() as u64) < keep {
                    return error(io::ErrorKind::UnexpectedEof);
                }
                file.bytes.truncate(keep as usize);
                file.settled = file.settled.min(keep as usize);
                left.clone()
            }
        };
        bytes.lock().unwrap().modified = now();
        files.partials.insert(partial.clone(), bytes.clone());
        let memory = self.clone();
        Ok(Box::new(MemorySink { bytes, memory }))
    }

    fn held(&self, partial: &PartialName) -> io::Result<Option<u64>> {
        let files = self.lock();
        Ok(files
            .partials
            .get(partial)
            .map(|bytes| stat(Some(bytes)).size))
    }

    fn read(&self, partial: &PartialName) -> io::Result<Box<dyn Read + Send>> {
        let files = self.lock();
        let bytes = files.partials.get(partial).ok_or(io::ErrorKind::NotFound)?;
        let bytes = bytes.lock().unwrap().bytes.clone();
        Ok(Box::new(io::Cursor::new(bytes)))
    }

    fn discard(&self, partial: &PartialName) {
        self.lock().partials.remove(partial);
    }

    fn publish(&self, partial: &PartialName, to: &Target<'_>) -> io::Result<()> {
        let mut files = self.lock();
        if !files.partials.contains_key(partial) {
            return error(io::ErrorKind::NotFound);
        }
        files.check(to)?;
        let bytes = files.partials.remove(partial);
        files.put(bytes, to);
        Ok(())
    }

    fn open(&self, path: &ContentPath) -> io::Result<Box<dyn Contents>> {
        match self.lock().visible.get(&path.to_string()) {
            None => error(io::ErrorKind::NotFound),
            Some(None) => error(io::ErrorKind::InvalidInput),
            Some(Some(bytes)) => Ok(Box::new(MemoryContents(bytes.clone()))),
        }
    }

    fn stat(&self, path: &ContentPath) -> io::Result<Option<Stat>> {
        let files = self.lock();
        Ok(match path.is_root() {
            true => Some(stat(None)),
            false => {
                let entry = files.visible.get(&path.to_string());
                entry.map(|entry| stat(entry.as_ref()))
            }
        })
    }

    fn list(&self, directory: &ContentPath) -> io::Result<Listing> {
        let files = self.lock();
        if !directory.is_root()
            && !matches!(files.visible.get(&directory.to_string()), Some(None))
            && files.below(directory).is_empty()
        {
            return error(io::ErrorKind::NotFound);
        }
        let before = match directory.is_root() {
            true => String::new(),
            false => format!("{directory}/"),
        };
        let entries: Vec<(String, Stat)> = files
            .visible
            .iter()
            .filter_map(|(name, entry)| {
                let name = name.strip_prefix(&before)?;
                let shown = !name.contains('/') && !name.starts_with('.');
                shown.then(|| (name.to_owned(), stat(entry.as_ref())))
            })
            .collect();
        Ok(Box::new(entries.into_iter().map(Ok)))
    }

    fn make_dir(&self, path: &ContentPath) -> io::Result<()> {
        let mut files = self.lock();
        files.check(&Target::free(path))?;
        files.put(None, &Target::free(path));
        Ok(())
    }

    fn rename(&self, path: &ContentPath, to: &Target<'_>) -> io::Result<()> {
        let mut files = self.lock();
        let (old, new) = (path.to_string(), to.path.to_string());
        if !files.visible.contains_key(&old) {
            return error(io::ErrorKind::NotFound);
        }
        files.check(to)?;
        for name in files.below(path) {
            let entry = files.visible.remove(&name).unwrap();
            let name = format!("{new}{}", &name[old.len()..]);
            files.visible.insert(name, entry);
        }
        let entry = files.visible.remove(&old).unwrap();
        files.put(entry, to);
        Ok(())
    }

    fn remove(&self, path: &ContentPath) -> io::Result<()> {
        let mut files = self.lock();
        if !files.below(path).is_empty() {
            return error(io::ErrorKind::DirectoryNotEmpty);
        }
        match files.visible.remove(&path.to_string()) {
            Some(_) => Ok(()),
            None => error(io::ErrorKind::NotFound),
        }
    }

    fn settle_names(&self, paths: &[ContentPath]) -> io::Result<()> {
        let mut files = self.lock();
        let parents: Vec<String> = paths
            .iter()
            .map(|path| path.parent().to_string())
            .chain([String::new()])
            .collect();
        let parent = |name: &String| match name.rsplit_once('/') {
            Some((parent, _)) => parents.contains(&parent.to_owned()),
            None => true,
        };
        files.settled.retain(|name, _| !parent(name));
        let names = files.visible.clone().into_iter();
        files.settled.extend(names.filter(|(name, _)| parent(name)));
        Ok(())
    }

    fn room(&self) -> io::Result<u64> {
        let files = self.lock();
        let room = files.room.unwrap_or(u64::MAX);
        Ok(room.saturating_sub(files.used()))
    }

    fn sweep(&self, before: SystemTime, removes: bool) -> io::Result<usize> {
        let before = before.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let before = i64::try_from(before.as_nanos()).unwrap();
        let mut files = self.lock();
        let is_old = |bytes: &Bytes| bytes.lock().unwrap().modified < before;
        let old = files
            .partials
            .values()
            .filter(|bytes| is_old(bytes))
            .count();
        if removes {
            files.partials.retain(|_, bytes| !is_old(bytes));
        }
        Ok(old)
    }
}

struct MemorySink {
    bytes: Bytes,
    memory: Memory,
}

impl Sink for MemorySink {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        for piece in pieces {
            if self.memory.room()? < piece.len() as u64 {
                return error(io::ErrorKind::StorageFull);
            }
            let mut file = self.bytes.lock().unwrap();
            file.bytes.extend_from_slice(piece);
            file.modified = now();
        }
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        let mut file = self.bytes.lock().unwrap();
        file.settled = file.bytes.len();
        Ok(())
    }
}

struct MemoryContents(Bytes);

impl Contents for MemoryContents {
    fn stat(&self) -> io::Result<Stat> {
        Ok(stat(Some(&self.0)))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let file = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let rest = file.bytes.get(offset..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn version(&self) -> io::Result<String> {
        let stat = self.stat()?;
        let which = Arc::as_ptr(&self.0).addr();
        Ok(format!("{which}-{}-{}", stat.size, stat.modified))
    }

    fn settle(&self) -> io::Result<()> {
        let mut file = self.0.lock().unwrap();
        file.settled = file.bytes.len();
        Ok(())
    }
}

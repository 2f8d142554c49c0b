//! Files that are read, and which of them somebody reads.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::JoinHandle;

use super::objects::{About, Objects};
use crate::store::{
    Contents, Kind, Stat, buffers,
    member::{MemberError, MemberResult},
    runtime,
};

/// Bytes that are fetched at a time by who reads on and on.
const AHEAD: u64 = 8 << 20;

/// Bytes that are fetched at first, and by who reads here and there.
const FIRST: u64 = 256 << 10;

/// Where the object of an open file is now, for all who read it.
pub struct Location {
    objects: Arc<Objects>,
    /// The key, and what tells the version.
    at: RwLock<(String, String)>,
    /// Whether nothing but its readers knows it any more.
    is_hidden: AtomicBool,
}

impl Drop for Location {
    fn drop(&mut self) {
        if !self.is_hidden.load(Ordering::Relaxed) {
            return;
        }
        let (objects, (key, _)) = (self.objects.clone(), self.get());
        let removing = async move {
            // Otherwise it is swept.
            let _: MemberResult<()> = objects.remove(&key).await;
        };
        if let Ok(runtime) = runtime::handle() {
            runtime.spawn(removing);
        }
    }
}

impl Location {
    fn get(&self) -> (String, String) {
        let at = self.at.read().unwrap_or_else(PoisonError::into_inner);
        at.clone()
    }

    fn set(&self, key: &str, etag: &str) {
        let mut at = self.at.write().unwrap_or_else(PoisonError::into_inner);
        *at = (key.to_owned(), etag.to_owned());
    }
}

/// The open files of this process, by key.
#[derive(Default)]
pub struct OpenFiles(Mutex<HashMap<String, Vec<Weak<Location>>>>);

impl OpenFiles {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Weak<Location>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is opened.
    fn add(&self, objects: &Arc<Objects>, key: &str, etag: &str) -> Arc<Location> {
        let mut open = self.lock();
        let there = open.get(key).map(Vec::as_slice).unwrap_or_default();
        let mut there = there.iter().filter_map(Weak::upgrade);
        if let Some(location) = there.find(|location| location.get().1 == etag) {
            return location;
        }
        let location = Arc::new(Location {
            objects: objects.clone(),
            at: RwLock::new((key.to_owned(), etag.to_owned())),
            is_hidden: AtomicBool::new(false),
        });
        open.retain(|_, locations| {
            locations.retain(|location| location.strong_count() > 0);
            !locations.is_empty()
        });
        let there = open.entry(key.to_owned()).or_default();
        there.push(Arc::downgrade(&location));
        location
    }

    /// Whether somebody reads the object of this key.
    pub fn has(&self, key: &str) -> bool {
        let open = self.lock();
        let there = open.get(key).map(Vec::as_slice).unwrap_or_default();
        there.iter().any(|location| location.strong_count() > 0)
    }

    /// The same contents are at another key from now on; if nobody else knows them there, they go
    /// with the last reader.
    pub fn follow(&self, from: &str, to: &str, etag: &str, is_hidden: bool) {
        let mut open = self.lock();
        let Some(locations) = open.remove(from) else {
            return;
        };
        for location in locations.iter().filter_map(Weak::upgrade) {
            location.set(to, etag);
            location.is_hidden.store(is_hidden, Ordering::Relaxed);
        }
        open.entry(to.to_owned()).or_default().extend(locations);
    }
}

/// A file that is open to be read.
pub struct PlainContents {
    objects: Arc<Objects>,
    location: Arc<Location>,
    about: About,
    reading: Mutex<Reading>,
}

/// How far it was read.
#[derive(Default)]
struct Reading {
    /// Bytes that were fetched, and where they begin.
    bytes: Vec<u8>,
    start: u64,
    /// Those behind them.
    next: Option<(u64, JoinHandle<io::Result<Vec<u8>>>)>,
    /// Where the last read ended.
    end: u64,
}

impl Reading {
    fn has(&self, offset: u64) -> bool {
        offset >= self.start && offset - self.start < self.bytes.len() as u64
    }
}

impl PlainContents {
    /// Opens an object of which this is known.
    pub fn new(objects: &Arc<Objects>, open: &OpenFiles, key: &str, about: About) -> Self {
        Self {
            objects: objects.clone(),
            location: open.add(objects, key, &about.etag),
            about,
            reading: Mutex::default(),
        }
    }

    fn fetch(&self, start: u64, len: u64) -> io::Result<JoinHandle<io::Result<Vec<u8>>>> {
        let (objects, location) = (self.objects.clone(), self.location.clone());
        let end = self.about.size.min(start.saturating_add(len));
        let fetching = async move { fetch(&objects, &location, start, end).await };
        Ok(runtime::handle()?.spawn(fetching))
    }

    /// Makes sure that the byte at `offset` is among those that were fetched.
    fn reach(&self, reading: &mut Reading, offset: u64, wanted: u64) -> io::Result<()> {
        if reading.has(offset) {
            return Ok(());
        }
        let goes_on = reading.end == offset && offset > 0;
        let coming = reading.next.take().filter(|(start, _)| *start == offset);
        let coming = match coming {
            Some((_, coming)) => coming,
            None if goes_on => self.fetch(offset, AHEAD)?,
            None => self.fetch(offset, wanted.clamp(FIRST, AHEAD))?,
        };
        let bytes = pollster::block_on(coming).map_err(io::Error::other)??;
        buffers::give(std::mem::replace(&mut reading.bytes, bytes));
        reading.start = offset;
        let behind = offset + reading.bytes.len() as u64;
        if goes_on && behind < self.about.size {
            reading.next = Some((behind, self.fetch(behind, AHEAD)?));
        }
        Ok(())
    }
}

/// Fetches a range of an open file, wherever it is by now.
async fn fetch(
    objects: &Objects,
    location: &Location,
    start: u64,
    end: u64,
) -> io::Result<Vec<u8>> {
    let mut tried = None;
    loop {
        let at = location.get();
        // It may have moved while it was asked for.
        if tried.as_ref() == Some(&at) {
            return Err(io::Error::new(
                io::ErrorKind::StaleNetworkFileHandle,
                "the file was changed by another program while it was read",
            ));
        }
        let (key, etag) = &at;
        match objects.get(key, Some(etag), start..end).await {
            // Gone, or there is another one.
            Err(MemberError::Missing(_) | MemberError::Exists(_)) => tried = Some(at),
            got => return Ok(got?),
        }
    }
}

impl Drop for PlainContents {
    fn drop(&mut self) {
        let reading = self.reading.get_mut();
        let reading = reading.unwrap_or_else(PoisonError::into_inner);
        buffers::give(std::mem::take(&mut reading.bytes));
    }
}

impl Contents for PlainContents {
    fn stat(&self) -> io::Result<Stat> {
        Ok(stat(&self.about))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if buffer.is_empty() || offset >= self.about.size {
            return Ok(0);
        }
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.reach(&mut reading, offset, buffer.len() as u64)?;
        let inside = usize::try_from(offset - reading.start).unwrap_or(usize::MAX);
        let there = reading.bytes.get(inside..).unwrap_or_default();
        let len = there.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), there.get(..len)) {
            to.copy_from_slice(from);
        }
        reading.end = offset + len as u64;
        Ok(len)
    }

    fn version(&self) -> io::Result<String> {
        let About { etag, modified, .. } = &self.about;
        let attempt = self.about.fields.attempt.as_deref().unwrap_or_default();
        Ok(format!("{attempt}-{etag}-{modified}"))
    }

    fn settle(&self) -> io::Result<()> {
        // The server has it.
        Ok(())
    }
}

/// A file of which this is known.
pub fn stat(about: &About) -> Stat {
    Stat {
        kind: Kind::File,
        size: about.size,
        modified: about.modified,
    }
}

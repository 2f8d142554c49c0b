//! What is in a directory of a bucket, a page at a time.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    MARKER, WORKSHOP,
    objects::{Entry, Objects, PAGE, Page},
};
use crate::{
    root::tree,
    store::{Kind, Stat, member::MemberResult, runtime},
};

/// Objects that are asked about at a time.
const AT_ONCE: usize = 32;

/// Times that are remembered; beyond that all are forgotten.
const REMEMBERED: usize = 20_000;

/// A listing tells when an object was written, but not when its file changed. That is asked once for
/// each version.
#[derive(Default)]
pub struct Times(Mutex<HashMap<String, (String, i64, i64)>>);

impl Times {
    fn get(&self, entry: &Entry) -> Option<i64> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The same bytes may come again with another time.
        let (etag, written, modified) = times.get(&entry.key)?;
        let is_same = (&entry.etag, entry.written) == (etag, *written);
        (is_same && !etag.is_empty()).then_some(*modified)
    }

    fn set(&self, entry: &Entry, modified: i64) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.len() >= REMEMBERED {
            times.clear();
        }
        let version = (entry.etag.clone(), entry.written, modified);
        times.insert(entry.key.clone(), version);
    }

    /// The object of this key may be another one from here on.
    pub fn forget(&self, key: &str) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.remove(key);
    }
}

/// The entries of a directory.
pub struct Entries {
    objects: Arc<Objects>,
    /// What is asked about files; `None` if their names are enough.
    times: Option<Arc<Times>>,
    prefix: String,
    page: VecDeque<(String, Stat)>,
    next: Option<String>,
    /// Why there are no more.
    error: Option<io::Error>,
}

impl Entries {
    /// The entries of the directory whose keys begin with `prefix`; `None` if there is not even a
    /// hidden one.
    pub fn new(
        objects: &Arc<Objects>,
        times: Option<Arc<Times>>,
        prefix: String,
    ) -> io::Result<Option<Self>> {
        let mut entries = Self {
            times,
            prefix,
            ..Self::none(objects)
        };
        let is_there = entries.turn(None)?;
        Ok(is_there.then_some(entries))
    }

    /// An empty directory.
    pub fn none(objects: &Arc<Objects>) -> Self {
        Self {
            objects: objects.clone(),
            times: None,
            prefix: String::new(),
            page: VecDeque::new(),
            next: None,
            error: None,
        }
    }

    /// Fetches a page; whether there was anything on it.
    fn turn(&mut self, from: Option<String>) -> io::Result<bool> {
        let (objects, times) = (self.objects.clone(), self.times.clone());
        let prefix = self.prefix.clone();
        let turning = async move {
            let page = objects.page(&prefix, false, from, PAGE).await?;
            let is_there = !page.entries.is_empty() || !page.directories.is_empty();
            let next = page.next.clone();
            let shown = shown(&objects, times.as_deref(), &prefix, page).await?;
            MemberResult::Ok((shown, next, is_there))
        };
        let (page, next, is_there) = runtime::run(turning)??;
        self.page = page;
        self.next = next;
        Ok(is_there)
    }
}

/// Whether a name may be that of contents.
fn is_shown(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && !name.starts_with('.') && !tree::is_own(name)
}

/// What others see of a page.
async fn shown(
    objects: &Objects,
    times: Option<&Times>,
    prefix: &str,
    page: Page,
) -> MemberResult<VecDeque<(String, Stat)>> {
    let name = |key: &str| {
        let name = key.strip_prefix(prefix)?;
        is_shown(name).then(|| name.to_owned())
    };
    let directories = page
        .directories
        .iter()
        .filter_map(|key| Some((name(key)?, format!("{key}/"))))
        .collect::<Vec<_>>();
    // SeaweedFS lists a directory for a while after its last object is gone.
    let directories: Vec<_> = stream::iter(directories)
        .map(|(name, prefix)| async move {
            let is_there = objects.has_any(&prefix).await?;
            MemberResult::Ok(is_there.then(|| (name, directory())))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut shown: VecDeque<(String, Stat)> = directories.into_iter().flatten().collect();
    let files = page
        .entries
        .into_iter()
        .filter_map(|entry| Some((name(&entry.key)?, entry)));
    let files: Vec<_> = stream::iter(files)
        .map(|(name, entry)| async move {
            let modified = match times {
                // Names are enough.
                None => Some(entry.written),
                Some(times) => modified(objects, times, &entry).await?,
            };
            let stat = |modified| Stat {
                kind: Kind::File,
                size: entry.size,
                modified,
            };
            MemberResult::Ok(modified.map(|modified| (name, stat(modified))))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    shown.extend(files.into_iter().flatten());
    Ok(shown)
}

/// When a file changed last; `None` if it vanished meanwhile.
async fn modified(objects: &Objects, times: &Times, entry: &Entry) -> MemberResult<Option<i64>> {
    if let Some(known) = times.get(entry) {
        return Ok(Some(known));
    }
    let about = objects.about(&entry.key).await?;
    let modified = about.map(|about| about.modified);
    if let Some(modified) = modified {
        times.set(entry, modified);
    }
    Ok(modified)
}

/// What is known of a directory.
pub fn directory() -> Stat {
    Stat {
        kind: Kind::Directory,
        size: 0,
        modified: 0,
    }
}

impl Iterator for Entries {
    type Item = io::Result<(String, Stat)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.pop_front() {
                return Some(Ok(entry));
            }
            if let Some(error) = self.error.take() {
                return Some(Err(error));
            }
            let from = self.next.take()?;
            self.error = self.turn(Some(from)).err();
        }
    }
}

/// Whether a key is one of m2y's own.
pub fn is_internal(key: &str) -> bool {
    key.starts_with(WORKSHOP) || key == MARKER || key.ends_with(&format!("/{MARKER}"))
}

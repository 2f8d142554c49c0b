//! What hooks themselves do to the files of a folder, so that no hook runs for it.
//!
//! A script acts through the host, which notes each file as the script left it: a later
//! change by a person differs from that and is news. A program does what it likes, and
//! nothing tells who changed a file. So what changes in a folder while a program runs
//! there counts as the program's, by the time of the change that the file system keeps, and, for
//! what was deleted, by the time at which that was seen.
//!
//! The limits: what a person does in the folder just then fires nothing, unless it began
//! before the program did. What a program leaves running (`setsid`) is a stranger like any
//! other. None of this outlives the server. A file that m2y stores is always news.
//!
//! If no script waits for news of files, nothing is noted: nobody would remove it.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use crate::{
    clock,
    journal::file_index::{Print, nanos},
    root::{config::Config, folder::Folder},
    store::{ContentPath, Store, Stores},
};

/// Files of one folder that are noted at the same time.
const MAX_NOTES: usize = 65_536;

/// Times in one folder that are remembered.
const MAX_RUNS: usize = 4_096;

/// What hooks did, in all folders. Clones are the same one.
#[derive(Clone)]
pub struct SelfChanges {
    folders: Arc<Mutex<HashMap<PathBuf, FolderChanges>>>,
    stores: Stores,
    settle: Duration,
}

#[derive(Default)]
struct FolderChanges {
    notes: HashMap<String, (Note, Instant)>,
    running: usize,
    /// Times in which programs ran, in nanoseconds since 1970; the last one may still be running.
    runs: VecDeque<(i64, Option<i64>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Note {
    /// A script left it like this.
    Left(Option<Print>),
    /// m2y stores it.
    Arrives,
}

/// When a file changed, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default)]
pub struct When {
    /// As the file system reports it; `None` for a file that is gone.
    pub changed: Option<i64>,
    /// When the first of the changes was seen; `None` if none was.
    pub first: Option<i64>,
    /// When the last of them was seen.
    pub last: Option<i64>,
}

impl SelfChanges {
    /// Nothing yet. `settle` is how long a file has to rest until it is looked at.
    pub fn new(settle: Duration, stores: &Stores) -> Self {
        Self {
            folders: Arc::default(),
            stores: stores.clone(),
            settle,
        }
    }

    /// Notes that a script has just written, replaced or removed this file of the folder.
    pub fn note(&self, folder: &Folder, file: &str) {
        let config = folder.config();
        if config.is_ok_and(|config| !config.waits_for_files()) {
            return;
        }
        let left = match self.stores.elsewhere_as_one(folder) {
            Ok(Some(store)) => stored(&*store, file).ok().flatten(),
            _ => {
                let left = folder.dir().symlink_metadata(file).ok();
                left.and_then(|about| Print::of(&about))
            }
        };
        self.put(folder, file, Note::Left(left));
    }

    /// Notes that m2y is about to store a file under this name.
    pub fn arrives(&self, folder: &Folder, config: &Config, file: &str) {
        if config.waits_for_files() {
            self.put(folder, file, Note::Arrives);
        }
    }

    /// Notes that a program runs in the folder until what this returns is dropped.
    pub fn program(&self, folder: &Folder) -> ProgramRun {
        // The clock that file systems go by: it may lag behind the exact one.
        let clock = clock_gettime(ClockId::RealtimeCoarse);
        let since = nanos(clock.tv_sec, clock.tv_nsec);
        let mut folders = self.lock();
        let changes = folders.entry(folder.path().to_owned()).or_default();
        if changes.running == 0 {
            let before = since.saturating_sub(nanos_of(self.kept()));
            changes
                .runs
                .retain(|(_, until)| until.is_none_or(|until| until > before));
            if changes.runs.len() >= MAX_RUNS {
                changes.runs.pop_front();
            }
            changes.runs.push_back((since, None));
        }
        changes.running = changes.running.saturating_add(1);
        ProgramRun {
            self_changes: self.clone(),
            folder: folder.path().to_owned(),
        }
    }

    /// Whether hooks themselves made a file of that folder what it is.
    pub(super) fn has(&self, folder: &Path, file: &str, is: Option<Print>, when: When) -> bool {
        let mut folders = self.lock();
        let Some(changes) = folders.get_mut(folder) else {
            return false;
        };
        match changes.notes.get(file) {
            Some((Note::Arrives, _)) => {
                changes.notes.remove(file);
                return false;
            }
            Some((Note::Left(left), _)) if *left == is => {
                changes.notes.remove(file);
                return true;
            }
            _ => {}
        }
        let during = |at: i64, grace: i64| {
            changes.runs.iter().any(|(since, until)| {
                *since <= at && until.is_none_or(|until| at <= until.saturating_add(grace))
            })
        };
        let grace = nanos_of(self.settle);
        match when.changed {
            Some(changed) => {
                during(changed, 0) && when.first.is_none_or(|first| during(first, grace))
            }
            None => when.last.is_some_and(|last| during(last, grace)),
        }
    }

    fn put(&self, folder: &Folder, file: &str, note: Note) {
        let now = Instant::now();
        let kept = self.kept();
        let mut folders = self.lock();
        let notes = &mut folders.entry(folder.path().to_owned()).or_default().notes;
        if notes.len() >= MAX_NOTES {
            notes.retain(|_, (_, noted)| now.saturating_duration_since(*noted) < kept);
        }
        // Beyond that a script hears of its own work: better than a server without memory.
        if notes.len() < MAX_NOTES {
            notes.insert(file.to_owned(), (note, now));
        }
    }

    /// How long something is remembered: a file may be looked at this much later.
    fn kept(&self) -> Duration {
        self.settle.saturating_mul(64) + Duration::from_secs(10)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, FolderChanges>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A program that runs in a folder.
#[must_use]
pub struct ProgramRun {
    self_changes: SelfChanges,
    folder: PathBuf,
}

impl Drop for ProgramRun {
    fn drop(&mut self) {
        let until = clock::nanos();
        if let Some(changes) = self.self_changes.lock().get_mut(&self.folder) {
            changes.running = changes.running.saturating_sub(1);
            if let (0, Some(run)) = (changes.running, changes.runs.back_mut()) {
                run.1 = Some(until);
            }
        }
    }
}

/// What is known of a file in a folder's store; `None` if it is not there.
pub(super) fn stored(store: &dyn Store, file: &str) -> io::Result<Option<Print>> {
    match ContentPath::parse(file) {
        Ok(path) => Ok(store.stat(&path)?.as_ref().and_then(Print::of_stored)),
        Err(_) => Ok(None),
    }
}

pub(super) fn nanos_of(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

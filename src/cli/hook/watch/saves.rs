//! Notices when a script or an m2y.config is saved.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, mem,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use crate::{cli::output, root::folder::CONFIG};

/// A save has ended when nothing more is heard for this long: editors take several steps.
const QUIET: Duration = Duration::from_millis(150);

/// The longest wait, if something is being saved all the time.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it looks for itself. The system does not report everything: a script may be a link to
/// a file elsewhere, and a directory may be a new one under an old inode number.
const LOOK: Duration = Duration::from_secs(1);

/// Reports saves in directories, which may come and go.
pub struct Saves {
    dirs: Vec<PathBuf>,
    /// Reports sooner than the next look; `None` if the system cannot report.
    watcher: Option<RecommendedWatcher>,
    heard: Arc<Notify>,
    removed: Removed,
    /// The directories that are watched, with the identity of each.
    watched: BTreeMap<PathBuf, Identity>,
    seen: Snapshot,
}

type Identity = (u64, u64);

/// Directories that were removed, and so are no longer watched, even if there is one of that name
/// and inode number again.
#[derive(Clone, Default)]
struct Removed(Arc<Mutex<BTreeSet<PathBuf>>>);

impl Removed {
    fn hear(&self, event: &Event, dirs: &[PathBuf]) {
        if event.kind.is_remove() {
            let removed = event.paths.iter().filter(|path| dirs.contains(path));
            self.lock().extend(removed.cloned());
        }
    }

    fn take(&self) -> BTreeSet<PathBuf> {
        mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Saves {
    /// From now on.
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        let (heard, removed) = (Arc::new(Notify::new()), Removed::default());
        let watcher = notify::recommended_watcher({
            let (heard, removed, dirs) = (heard.clone(), removed.clone(), dirs.clone());
            move |event: notify::Result<Event>| {
                if let Ok(event) = &event {
                    removed.hear(event, &dirs);
                }
                // An error may stand for any event.
                if event.map_or(true, |event| matters(&event, &dirs)) {
                    heard.notify_one();
                }
            }
        });
        let mut saves = Self {
            dirs,
            watcher: watcher.map_err(|e| tell(&e)).ok(),
            heard,
            removed,
            watched: BTreeMap::new(),
            seen: Snapshot::default(),
        };
        // In this order: what is saved in between is reported.
        saves.follow();
        saves.seen = Snapshot::of(&saves.dirs);
        saves
    }

    /// Waits until something is saved, or a directory goes or comes.
    pub async fn next(&mut self) {
        loop {
            let heard = tokio::select! {
                () = self.heard.notified() => true,
                () = sleep(LOOK) => false,
            };
            let moved = self.follow();
            if heard || moved {
                self.rest().await;
                self.follow();
            }
            let now = Snapshot::of(&self.dirs);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    /// Waits until nothing more is heard.
    async fn rest(&self) {
        let patience = Instant::now() + PATIENCE;
        loop {
            let until = Instant::now() + QUIET;
            let heard = timeout_at(until, self.heard.notified()).await.is_ok();
            if !heard || until > patience {
                return;
            }
        }
    }

    /// Watches the directories that exist now; returns whether they have changed.
    fn follow(&mut self) -> bool {
        let mut moved = false;
        for dir in self.removed.take() {
            if let (Some(_), Some(watcher)) = (self.watched.remove(&dir), &mut self.watcher) {
                let _ = watcher.unwatch(&dir);
            }
        }
        for dir in &self.dirs {
            let now = identity(dir);
            if self.watched.get(dir) == now.as_ref() {
                continue;
            }
            moved = true;
            let Some(watcher) = &mut self.watcher else {
                continue;
            };
            if self.watched.remove(dir).is_some() {
                // One that is gone is no longer watched anyway.
                let _ = watcher.unwatch(dir);
            }
            let Some(now) = now else {
                continue;
            };
            match watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(dir.clone(), now);
                }
                // It may just have gone; then the next look will notice.
                Err(_) if identity(dir).is_none() => {}
                Err(error) => {
                    tell(&error);
                    self.watcher = None;
                }
            }
        }
        moved
    }
}

fn tell(error: &notify::Error) {
    output::aside(format_args!(
        "m2y: cannot be told of saves ({error}): looking every second instead"
    ));
}

fn identity(dir: &Path) -> Option<Identity> {
    let about = fs::metadata(dir).ok()?;
    about.is_dir().then(|| (about.dev(), about.ino()))
}

/// Whether an event may be about a save. A read, which this program does too, is not.
fn matters(event: &Event, dirs: &[PathBuf]) -> bool {
    let changes = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => false,
        _ => true,
    };
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(is_watched) || dirs.contains(path)
    };
    event.need_rescan() || (changes && event.paths.iter().any(is_ours))
}

fn is_watched(name: &str) -> bool {
    name == CONFIG || name.ends_with(".rhai")
}

/// The files that matter, as they were at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Snapshot {
    dirs: Vec<Option<Identity>>,
    files: BTreeMap<PathBuf, Print>,
}

/// Inode number, length, and the time of the last write, in seconds and nanoseconds.
type Print = (u64, u64, i64, i64);

impl Snapshot {
    fn of(dirs: &[PathBuf]) -> Self {
        let mut files = BTreeMap::new();
        for dir in dirs {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            for entry in entries {
                if !entry.file_name().to_str().is_some_and(is_watched) {
                    continue;
                }
                let path = entry.path();
                if let Ok(about) = fs::metadata(&path) {
                    let written = (about.mtime(), about.mtime_nsec());
                    files.insert(path, (about.ino(), about.size(), written.0, written.1));
                }
            }
        }
        Self {
            dirs: dirs.iter().map(|dir| identity(dir)).collect(),
            files,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_that_is_removed_and_made_again_is_watched_again() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("scripts");
        let script = dir.join("a.rhai");
        fs::create_dir(&dir).unwrap();
        let mut saves = Saves::new(vec![dir.clone()]);
        assert!(saves.watcher.is_some());
        for n in 0..20 {
            fs::remove_dir_all(&dir).unwrap();
            fs::create_dir(&dir).unwrap();
            fs::write(&script, format!("{n}")).unwrap();
            saves.next().await;
            // Whatever is still reported about that.
            saves.rest().await;
            saves.follow();
            fs::write(&script, format!("{n} again")).unwrap();
            // Not found by looking: the system reports it.
            timeout_at(Instant::now() + 20 * LOOK, saves.heard.notified())
                .await
                .unwrap();
            saves.rest().await;
            saves.seen = Snapshot::of(&saves.dirs);
        }
    }
}

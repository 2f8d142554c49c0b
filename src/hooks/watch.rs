//! Watches the files of every m2y-folder: `[OnNew]`, `[OnChanged]`, `[OnDeleted]`.
//!
//! What counts are visible regular files directly in the folder, whoever put them there,
//! but not m2y's own records beside them ([`counts`]) nor the scripts that m2y.config names. A name
//! that is not UTF-8 is skipped.
//!
//! inotify only says where to look. What is there is compared with an index in the journal
//! (`file_index`), and what differs is written into the journal as a task, in one transaction
//! with the index: nothing fires twice, and what changed while no server ran, or while inotify had
//! lost track, fires when the folder is read as a whole. The [dispatcher](super::dispatch) makes an
//! event of a task. The index of a folder that disappears stays: should the folder come back, only
//! what changed meanwhile is news.
//!
//! # The states of a directory
//!
//! | state | which directory | what inotify watches | next state |
//! | --- | --- | --- | --- |
//! | `Names` | `ROOT/user`, and that of each user | its entries | stays |
//! | `NoFolder` | without m2y.config, of a user that is not finished, or with an m2y.config that has not rested | its entries | `Quiet` or `Awaited`, when it has an m2y.config that has rested |
//! | `Quiet` | an m2y-folder without a script under any of the three sections | its m2y.config | `Awaited`, when a section gets its first script |
//! | `Awaited` | an m2y-folder with one | its entries; its files have an index | `Quiet`, when the last script goes |
//!
//! A directory whose state changes is watched anew. A quiet folder has no index, so it is
//! spared what a thousand files that arrive there would cost. When it becomes `Awaited`, files that
//! were last written before that m2y.config was last changed count as known, and those written
//! since then are new, even if no server ran just then: the journal remembers which folders were
//! quiet. A folder that becomes `Quiet` loses its index, and begins anew when a script comes back.
//! In a folder that has such a script when a server sees it for the first time, all files are new.
//!
//! An m2y.config without such a script counts when it has rested: an editor may be about
//! to write the rest of it. While it cannot be read, or is gone for a moment, the folder
//! keeps its state.
//!
//! Only files that have come to rest are compared; `pending.rs` has the states of a file. `notify`
//! is used without its debouncer: that one knows how long a path was quiet, but not that its writer
//! has closed it, so it fires in the middle of a slow copy; it also keeps every event of a path in
//! memory, while this needs one entry for each.
//!
//! Of a folder whose contents are in a store inotify tells nothing. It is asked twice a second
//! which names changed there (`in_stores.rs`), and these are compared like all others.
//!
//! What hooks do to the files of their folder fires nothing: see [`super::self_changes`].

mod comparison;
mod crowd;
mod in_stores;
mod notice;
mod pending;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cap_std::fs::{Metadata, MetadataExt};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use tracing::{error, warn};

use super::{
    dispatch::{Dispatcher, stopped},
    self_changes::{SelfChanges, nanos_of},
};
use crate::{
    clock,
    crypto::CryptoError,
    event::EventId,
    journal::{
        Journal, JournalError,
        file_index::{self, Print, nanos},
    },
    root::{
        Root, RootError,
        file::Stamp,
        folder::{CONFIG, Folder},
        name::Name,
    },
    store::Stores,
};
use comparison::{Comparison, tools};
use crowd::Crowd;
use in_stores::{Changed, InStores};
use pending::{Directory, Files, Pending, Rested, Todo};

/// Files that one transaction takes: others wait for it.
const CHUNK: usize = 1_000;

/// Names of files that may have been renamed, kept while a folder is read.
const MAX_MOVED: usize = 65_536;

/// A file that disappears and appears under a different name within this many rests was renamed:
/// inotify tells of both at once, but one may be found to rest a look before the other.
const RENAMED: u32 = 4;

/// How often the list of folders is looked at if nothing tells that it changed.
const LIST: Duration = Duration::from_secs(60);

/// The same, and how often a folder is read, where inotify does not watch.
const POLL: Duration = Duration::from_secs(10);

/// How often it is asked what changed in the folders whose contents are in a store.
const ASK: Duration = Duration::from_millis(500);

/// When a folder that could not be read is read again.
const RETRY: Duration = Duration::from_secs(5);

/// Endings of files that are m2y's and its owner's tools, not the folder's contents.
const TOOLS: [&str; 6] = [".rhai", ".meta", ".left", ".done", ".failed", ".ini"];

/// Whether a file of that name can be new, changed or deleted for a folder.
pub fn counts(file: &str) -> bool {
    !file.starts_with('.')
        && file != CONFIG
        && file != "inbox.log"
        && !TOOLS.iter().any(|ending| file.ends_with(ending))
}

/// Watches every folder of the root until `shutdown` turns true.
pub async fn run(
    dispatcher: Dispatcher,
    root: Root,
    settle: Duration,
    mut shutdown: watch::Receiver<bool>,
) {
    let pending = Arc::new(Pending::new(settle));
    let stop = Stop(pending.clone());
    let (alive, mut ended) = oneshot::channel::<()>();
    // A thread of its own: it waits for the disk, and for one folder after the other.
    let spawned = thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || {
            let _alive = alive;
            match Worker::new(pending, &dispatcher, root, settle) {
                Ok(worker) => worker.work(),
                Err(error) => error!("cannot watch the folders: {error}"),
            }
        });
    if let Err(error) = spawned {
        return error!("cannot watch the folders: {error}");
    }
    tokio::select! {
        () = stopped(&mut shutdown) => {}
        _ = &mut ended => return error!("the folders are not watched: restart the server"),
    }
    drop(stop);
    let _ = ended.await;
}

/// Ends the thread, even if the task that started it is dropped.
struct Stop(Arc<Pending>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Why a folder could not be compared with its index.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error("cannot read the folder: {0}")]
    Io(#[from] io::Error),
}

impl From<rusqlite::Error> for WatchError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Journal(error.into())
    }
}

/// A directory, and what makes it the same one.
struct Watched {
    identity: (u64, u64),
    holds: Holds,
    /// Its m2y.config, as it was when it was found.
    config: Option<Stamp>,
    moved: Moved,
    /// What the log was told is wrong with it.
    told: String,
}

/// The state of a directory, as the table in the module's documentation has it.
enum Holds {
    Names,
    NoFolder,
    Quiet { user: Name, folder: Name },
    Awaited(Folder),
}

/// Files that are gone, by what they were, and since when: they may be there under a different
/// name. Such a pair of events has one id, and so happens in order.
type Moved = HashMap<Print, (EventId, Instant)>;

impl Watched {
    fn new(about: &Metadata, holds: Holds, config: Option<Stamp>) -> Self {
        Self {
            identity: (about.dev(), about.ino()),
            holds,
            config,
            moved: Moved::new(),
            told: String::new(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        let alike = match (&self.holds, &other.holds) {
            // It is the file that is watched.
            (Holds::Quiet { .. }, Holds::Quiet { .. }) => self.config == other.config,
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        };
        alike && self.identity == other.identity
    }

    /// What inotify watches of the directory at that path.
    fn target(&self, path: &Path) -> PathBuf {
        match self.holds {
            Holds::Quiet { .. } => path.join(CONFIG),
            _ => path.to_owned(),
        }
    }
}

struct Worker {
    pending: Arc<Pending>,
    watcher: Option<RecommendedWatcher>,
    root: Root,
    journal: Journal,
    reader: Connection,
    self_changes: SelfChanges,
    stores: Stores,
    in_stores: InStores,
    settle: Duration,
    places: HashMap<PathBuf, Watched>,
    /// Directories that inotify does not watch.
    blind: HashSet<PathBuf>,
    listed: Instant,
    /// When it was last asked what changed in stores, if any folder is in one.
    asked: Option<Instant>,
}

impl Worker {
    fn new(
        pending: Arc<Pending>,
        dispatcher: &Dispatcher,
        root: Root,
        settle: Duration,
    ) -> Result<Self, JournalError> {
        let told = pending.clone();
        let mut crowd = Crowd::new();
        let watcher = notify::recommended_watcher(move |event| {
            told.take(event);
            crowd.passes();
        })
        .inspect_err(|error| warn!("{}", no_inotify(error)));
        Ok(Self {
            pending,
            watcher: watcher.ok(),
            root,
            reader: dispatcher.journal().reader()?,
            journal: dispatcher.journal().clone(),
            self_changes: dispatcher.self_changes().clone(),
            stores: dispatcher.stores().clone(),
            in_stores: InStores::default(),
            settle,
            places: HashMap::new(),
            blind: HashSet::new(),
            listed: Instant::now(),
            asked: None,
        })
    }

    fn work(mut self) {
        self.list(&HashSet::new());
        loop {
            let pause = if self.blind.is_empty() { LIST } else { POLL };
            let ask = self.asked.map(|asked| asked + ASK);
            match self.pending.wait(self.listed + pause, ask) {
                Todo::Ask => self.ask(),
                Todo::Stop => return,
                Todo::List(stale) => self.list(&stale),
                Todo::Compare(folders) => {
                    for (path, rested, scan) in folders {
                        let looked = self.look(&path, rested, scan);
                        self.tell(&path, looked);
                    }
                }
            }
        }
    }

    /// Logs what is wrong with a folder, once, and comes back to it.
    fn tell(&mut self, path: &Path, looked: Result<(), WatchError>) {
        let Some(watched) = self.places.get_mut(path) else {
            return;
        };
        let told = match looked {
            Ok(()) => String::new(),
            Err(error) => {
                self.pending.scan_in(path, RETRY);
                error.to_string()
            }
        };
        if !told.is_empty() && told != watched.told {
            error!(
                "{}: events of its files are off until this is fixed: {told}",
                path.display()
            );
        }
        watched.told = told;
    }

    /// Watches what is there, and stops watching what is not.
    fn list(&mut self, stale: &HashSet<PathBuf>) {
        self.listed = Instant::now();
        let found = match self.find() {
            Ok(found) => found,
            Err(error) => return error!("cannot look for folders: {error}"),
        };
        if let Err(error) = self.forget(&found) {
            self.pending.list_in(RETRY);
            return error!("cannot look for folders: {error}");
        }
        let gone: Vec<PathBuf> = self
            .places
            .iter()
            .filter(|(path, old)| {
                stale.contains(*path) || !found.get(*path).is_some_and(|new| new.is(old))
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.pending.remove(&path);
            self.in_stores.forget(&path);
            self.blind.remove(&path);
            if let (Some(old), Some(watcher)) = (self.places.remove(&path), &mut self.watcher) {
                // It may be gone already.
                let _ = watcher.unwatch(&old.target(&path));
            }
        }
        for (path, watched) in found {
            let known = self.places.contains_key(&path);
            if known && !self.blind.contains(&path) {
                continue;
            }
            let (target, config) = (watched.target(&path), watched.config);
            if known {
                self.pending.scan_in(&path, Duration::ZERO);
            } else {
                // First of all: what happens from the next line on must not be missed.
                let place = match watched.holds {
                    Holds::Names => Directory::Names,
                    Holds::NoFolder => Directory::NoFolder,
                    Holds::Quiet { .. } => Directory::Quiet,
                    Holds::Awaited(_) => Directory::Awaited(Files::unread()),
                };
                self.pending.insert(&path, place);
                self.places.insert(path.clone(), watched);
            }
            match self.watch(&target) {
                Ok(()) => {
                    self.blind.remove(&path);
                }
                Err(error) => {
                    if self.blind.insert(path.clone()) {
                        warn!("{}: {}", target.display(), no_inotify(&error));
                    }
                }
            }
            // It was read before anything told of its changes.
            if !known && self.config_at(&path) != config {
                self.pending.list_in(Duration::ZERO);
            }
        }
        self.ask();
    }

    /// Asks what changed in folders whose contents are in a store.
    fn ask(&mut self) {
        let stores = self.root.settings().map(|settings| settings.stores);
        let has_stores = stores.is_ok_and(|stores| !stores.is_empty());
        self.asked = has_stores.then(Instant::now);
        for (path, watched) in self.places.iter().filter(|_| has_stores) {
            let Holds::Awaited(folder) = &watched.holds else {
                continue;
            };
            match self.in_stores.changed(&self.stores, folder) {
                Ok(Changed::Files(files)) => self.pending.changed(path, files),
                Ok(Changed::All) => self.pending.scan_in(path, Duration::ZERO),
                // The next look says why.
                Err(_) => self.pending.scan_in(path, RETRY),
            }
        }
    }

    /// Removes the index of each folder that has become quiet.
    fn forget(&self, found: &HashMap<PathBuf, Watched>) -> Result<(), WatchError> {
        let mut fresh = Vec::new();
        for (path, watched) in found {
            if let Holds::Quiet { user, folder } = &watched.holds
                && !matches!(self.before(path), Some(Holds::Quiet { .. }))
                && !file_index::is_quiet(&self.reader, user.as_str(), folder.as_str())?
            {
                fresh.push((user.clone(), folder.clone()));
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let written = self.journal.quietly(false, move |db| {
            let mut fresh = fresh.iter();
            fresh.try_for_each(|(user, folder)| {
                file_index::quiet(db, user.as_str(), folder.as_str())
            })
        });
        Ok(written.wait()?)
    }

    /// What the directory at that path held when it was listed last.
    fn before(&self, path: &Path) -> Option<&Holds> {
        self.places.get(path).map(|watched| &watched.holds)
    }

    /// The m2y.config of a directory as it is now.
    fn config_at(&self, path: &Path) -> Option<Stamp> {
        let inside = path.strip_prefix(self.root.path()).ok()?;
        let stamp = Stamp::of(self.root.dir(), inside.join(CONFIG));
        stamp.ok().flatten()
    }

    fn watch(&mut self, path: &Path) -> notify::Result<()> {
        match &mut self.watcher {
            Some(watcher) => watcher.watch(path, RecursiveMode::NonRecursive),
            None => Err(notify::Error::generic("inotify is not available")),
        }
    }

    /// The directories in which something can happen: of the users, of each user, and
    /// each that is a folder or may become one.
    fn find(&self) -> io::Result<HashMap<PathBuf, Watched>> {
        let mut found = HashMap::new();
        let users = self.root.dir().open_dir("user")?;
        let about = users.dir_metadata()?;
        found.insert(
            self.root.path().join("user"),
            Watched::new(&about, Holds::Names, None),
        );
        for entry in users.entries()? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().and_then(|name| Name::user(name).ok()) else {
                continue;
            };
            // A plain file, or a user who has just gone.
            let Ok(user) = self.root.user(&name) else {
                continue;
            };
            let Ok(about) = user.dir().dir_metadata() else {
                continue;
            };
            found.insert(user.path(), Watched::new(&about, Holds::Names, None));
            // It is written last.
            let finished = user.dir().symlink_metadata("user.json").is_ok();
            let Ok(entries) = user.dir().entries() else {
                continue;
            };
            for entry in entries.filter_map(Result::ok) {
                let name = entry.file_name();
                let Some(name) = name.to_str().and_then(|name| Name::folder(name).ok()) else {
                    continue;
                };
                let about = user.dir().metadata(name.as_str());
                let Some(about) = about.ok().filter(Metadata::is_dir) else {
                    continue;
                };
                let path = user.path().join(name.as_str());
                let config = self.config_at(&path);
                // What is wrong with a folder that cannot be opened is reported by `serve`.
                let holds = match user.folder(&name).ok().filter(|_| finished) {
                    Some(folder) => self.holds(&path, folder, config),
                    None => Holds::NoFolder,
                };
                found.insert(path, Watched::new(&about, holds, config));
            }
        }
        Ok(found)
    }

    /// Whether a script waits for news of the files of an m2y-folder.
    fn holds(&self, path: &Path, folder: Folder, config: Option<Stamp>) -> Holds {
        let waits = folder.config().map(|config| config.waits_for_files());
        let quiet = || Holds::Quiet {
            user: folder.user().name().clone(),
            folder: folder.name().clone(),
        };
        match waits {
            Ok(true) => return Holds::Awaited(folder),
            Ok(false) if self.rests(config) => return quiet(),
            Ok(false) => self.pending.list_in(self.settle),
            Err(_) => {}
        }
        // It is not known yet.
        let (user, name) = (folder.user().name().as_str(), folder.name().as_str());
        match self.before(path) {
            Some(Holds::Awaited(_)) => Holds::Awaited(folder),
            Some(Holds::Quiet { .. }) => quiet(),
            _ if file_index::is_quiet(&self.reader, user, name).unwrap_or(false) => quiet(),
            _ if waits.is_err() => Holds::Awaited(folder),
            _ => Holds::NoFolder,
        }
    }

    /// Whether an m2y.config is as its author wanted it to be: writing one begins with an empty
    /// one.
    fn rests(&self, config: Option<Stamp>) -> bool {
        config.is_some_and(|config| {
            let (seconds, fraction) = config.changed();
            let age = clock::nanos().saturating_sub(nanos(seconds, fraction));
            !(0..nanos_of(self.settle)).contains(&age)
        })
    }

    /// Compares files of a folder with the index, or all of them.
    fn look(&mut self, path: &Path, rested: Vec<Rested>, scan: bool) -> Result<(), WatchError> {
        let Some(watched) = self.places.get_mut(path) else {
            return Ok(());
        };
        let mut moved = std::mem::take(&mut watched.moved);
        let (now, long) = (Instant::now(), self.settle.saturating_mul(RENAMED));
        moved.retain(|_, (_, since)| now.saturating_duration_since(*since) < long);
        let looked = self.look_with(&mut moved, path, rested, scan);
        if let Some(watched) = self.places.get_mut(path) {
            watched.moved = moved;
        }
        looked
    }

    fn look_with(
        &self,
        moved: &mut Moved,
        path: &Path,
        rested: Vec<Rested>,
        scan: bool,
    ) -> Result<(), WatchError> {
        let Some(Holds::Awaited(folder)) = self.before(path) else {
            return Ok(());
        };
        // Without it, it is not known which events are waited for: they stay news.
        let config = folder.config()?;
        if !config.waits_for_files() {
            // The next list will find that nobody waits, or that it was half written.
            self.pending.list_in(self.settle);
            if scan {
                self.pending.scan_in(path, self.settle);
            }
            for rested in rested {
                self.pending.again(path, rested);
            }
            return Ok(());
        }
        let mut look = Comparison {
            worker: self,
            path,
            store: self.stores.elsewhere_as_one(folder)?,
            folder,
            user: folder.user().name().as_str(),
            name: folder.name().as_str(),
            config: &config,
            tools: tools(&config),
            moved,
        };
        if file_index::is_quiet(&self.reader, look.user, look.name)? && !look.learn()? {
            return Ok(());
        }
        look.compare_all(rested)?;
        if scan {
            look.scan()?;
        }
        Ok(())
    }
}

fn no_inotify(error: &notify::Error) -> String {
    format!(
        "cannot watch, and looks every {} s instead: {error} (raise \
         fs.inotify.max_user_watches or max_user_instances)",
        POLL.as_secs()
    )
}

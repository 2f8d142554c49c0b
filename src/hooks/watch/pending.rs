//! Files that may have changed and have not been compared with the index yet.
//!
//! The thread of inotify writes here and does nothing else, so that its queue in the
//! kernel stays short; the thread of the watch takes from here what has come to rest.
//!
//! # The states of a file
//!
//! A file that inotify tells of is pending until nothing more is heard of it for the time
//! to rest; then it is taken out and compared. How long that is depends on its writer:
//!
//! | event | `Gone` becomes | `Created` becomes | `Writing` becomes |
//! | --- | --- | --- | --- |
//! | created | `Created` | `Created` | `Writing` |
//! | opened | `Gone` | `Writing` | `Writing` |
//! | written | `Writing` | `Writing` | `Writing` |
//! | closed, moved in, moved out, removed | `Gone` | `Gone` | `Gone` |
//! | events were lost | `Gone` | `Gone` | `Gone` |
//!
//! In `Gone` and `Created` it rests after the time to rest, in `Writing` after
//! [`PATIENCE`] times that.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use notify::Event;
use tracing::warn;

use super::{
    counts,
    notice::{Notice, matters},
};
use crate::{
    clock,
    root::{folder::CONFIG, name::Name},
};

/// Files of one folder that wait until they have come to rest. Beyond that the folder is
/// read as a whole.
const MAX_PENDING: usize = 65_536;

/// How many times as long to wait for a file that somebody has open for writing.
const PATIENCE: u32 = 60;

/// What inotify has told. Shared by two threads.
pub struct Pending {
    state: Mutex<Directories>,
    wake: Condvar,
    settle: Duration,
}

#[derive(Default)]
struct Directories {
    places: HashMap<PathBuf, Directory>,
    /// Directories that are gone, or whose name stands for a different one now.
    stale: HashSet<PathBuf>,
    /// When to check which folders there are.
    list: Option<Instant>,
    stop: bool,
    /// Whether the other thread waits for a call.
    asleep: bool,
    order: u64,
}

/// What a watched directory holds.
pub enum Directory {
    /// Users, or folders.
    Names,
    /// No m2y.config yet.
    NoFolder,
    /// An m2y-folder whose files nobody wants to hear of: only its m2y.config is watched.
    Quiet,
    /// The files of an m2y-folder.
    Awaited(Files),
}

/// Files that wait, and when the folder is to be read as a whole.
#[derive(Default)]
pub struct Files {
    pending: HashMap<Box<str>, PendingFile>,
    scan: Option<Instant>,
}

impl Files {
    /// For a folder that nobody has read yet.
    pub fn unread() -> Self {
        Self {
            scan: Some(Instant::now()),
            ..Self::default()
        }
    }
}

struct PendingFile {
    order: u64,
    touched: Instant,
    /// The first and the last event, in nanoseconds since 1970.
    first: Option<i64>,
    last: Option<i64>,
    writer: Writer,
}

/// Whether somebody is still writing a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// Nobody, as far as is known.
    Gone,
    /// It was made just now: the program that made it may open it next.
    Created,
    /// Somebody has it open.
    Writing,
}

/// A file that has come to rest.
pub struct Rested {
    /// Its name.
    pub file: String,
    /// When the first event of it was seen, if any was; in nanoseconds since 1970.
    pub first: Option<i64>,
    /// When the last one was seen.
    pub last: Option<i64>,
}

/// What there is to do.
pub enum Todo {
    /// Nothing any more.
    Stop,
    /// Check which folders there are; these directories are not what they were.
    List(HashSet<PathBuf>),
    /// Ask what changed where inotify tells nothing.
    Ask,
    /// Look at these files, in the order of their last events, or, if true, at all of the folder.
    Compare(Vec<(PathBuf, Vec<Rested>, bool)>),
}

impl Pending {
    /// Nothing yet.
    pub fn new(settle: Duration) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            settle,
        }
    }

    /// Takes what inotify says.
    pub fn take(&self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if event.need_rescan() => {
                warn!("more changed at once than inotify can tell: every folder is read again");
                return self.lost();
            }
            Ok(event) => event,
            Err(error) => {
                warn!("cannot read what inotify says, every folder is read again: {error}");
                return self.lost();
            }
        };
        let Some(what) = Notice::of(&event.kind) else {
            return;
        };
        if !event.paths.iter().any(|path| matters(path, what)) {
            return;
        }
        let mut state = self.lock();
        for path in &event.paths {
            state.take(path, what, self.settle, self.tick());
        }
        self.call(state);
    }

    /// Events are missing: every folder has to be read, and it is not known which files are being
    /// written.
    fn lost(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        state.list_at(now);
        for place in state.places.values_mut() {
            if let Directory::Awaited(files) = place {
                for pending in files.pending.values_mut() {
                    pending.writer = Writer::Gone;
                    pending.touched = now;
                }
                files.scan_at(now + self.settle);
            }
        }
        self.call(state);
    }

    /// A directory is watched from now on.
    pub fn insert(&self, path: &Path, place: Directory) {
        self.lock().places.insert(path.to_owned(), place);
    }

    /// A directory is not watched any more.
    pub fn remove(&self, path: &Path) {
        self.lock().places.remove(path);
    }

    /// Which folders there are has to be checked after that time.
    pub fn list_in(&self, pause: Duration) {
        self.lock().list_at(Instant::now() + pause);
    }

    /// A folder has to be read as a whole after that time.
    pub fn scan_in(&self, folder: &Path, pause: Duration) {
        if let Some(Directory::Awaited(files)) = self.lock().places.get_mut(folder) {
            files.scan_at(Instant::now() + pause);
        }
    }

    /// Notes that a file that was looked at has not come to rest.
    pub fn again(&self, folder: &Path, rested: Rested) {
        let mut state = self.lock();
        state.order += 1;
        let order = state.order;
        if let Some(Directory::Awaited(files)) = state.places.get_mut(folder) {
            let touched = Instant::now();
            let Some(pending) = files.entry(&rested.file, order, touched, self.settle) else {
                return;
            };
            pending.first = rested.first.or(pending.first);
            pending.last = pending.last.or(rested.last);
        }
    }

    /// Whether a file waits, to be looked at later.
    pub fn waits(&self, folder: &Path, file: &str) -> bool {
        match self.lock().places.get(folder) {
            Some(Directory::Awaited(files)) => files.pending.contains_key(file),
            _ => false,
        }
    }

    /// Whether it is time to stop.
    pub fn stopped(&self) -> bool {
        self.lock().stop
    }

    /// Lets the other thread end.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_one();
    }

    /// Files of a folder have changed.
    pub fn changed(&self, folder: &Path, files: Vec<String>) {
        let mut state = self.lock();
        for file in files {
            state.take(
                &folder.join(file),
                Notice::Arrived,
                self.settle,
                self.tick(),
            );
        }
    }

    /// Waits until there is something to do; after `until` that is to list, and after `ask` to ask.
    pub fn wait(&self, until: Instant, ask: Option<Instant>) -> Todo {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.stop {
                return Todo::Stop;
            }
            if now >= state.list.unwrap_or(until).min(until) {
                state.list = None;
                return Todo::List(std::mem::take(&mut state.stale));
            }
            if ask.is_some_and(|ask| now >= ask) {
                return Todo::Ask;
            }
            let (look, waiting) = state.rested(now, self.settle);
            if !look.is_empty() {
                return Todo::Compare(look);
            }
            let until = ask.map_or(until, |ask| ask.min(until));
            let left = until.saturating_duration_since(now);
            // A busy folder does not wake the thread at every event.
            state.asleep = !waiting;
            let pause = if waiting { self.tick().min(left) } else { left };
            let waited = self.wake.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.asleep = false;
        }
    }

    /// How often to look at what waits.
    fn tick(&self) -> Duration {
        (self.settle / 4).clamp(Duration::from_millis(5), Duration::from_millis(250))
    }

    fn call(&self, mut state: MutexGuard<'_, Directories>) {
        if std::mem::take(&mut state.asleep) {
            drop(state);
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Directories> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directories {
    fn take(&mut self, path: &Path, what: Notice, settle: Duration, tick: Duration) {
        // Directories mostly come with what is in them.
        let soon = Instant::now() + tick;
        if what.of_names() && self.places.contains_key(path) {
            self.stale.insert(path.to_owned());
            return self.list_at(soon);
        }
        let (Some(dir), Some(file)) = (path.parent(), path.file_name().and_then(|f| f.to_str()))
        else {
            return;
        };
        self.order += 1;
        let order = self.order;
        match self.places.get_mut(dir) {
            Some(Directory::Names) if what.of_names() && Name::user(file).is_ok() => {
                self.list_at(soon);
            }
            // Reading it is not a change; everything else may be one, or be its end.
            Some(Directory::NoFolder | Directory::Awaited(_))
                if file == CONFIG && what != Notice::Opened =>
            {
                self.list_at(soon);
            }
            // The name may stand for a different file now, which is not watched yet.
            Some(Directory::Quiet) if file == CONFIG && what != Notice::Opened => {
                self.stale.insert(dir.to_owned());
                self.list_at(soon);
            }
            Some(Directory::Awaited(files)) if counts(file) => {
                files.take(file, what, order, settle)
            }
            _ => {}
        }
    }

    fn list_at(&mut self, at: Instant) {
        self.list = Some(self.list.map_or(at, |sooner| sooner.min(at)));
    }

    /// What has come to rest, and whether more waits.
    fn rested(
        &mut self,
        now: Instant,
        settle: Duration,
    ) -> (Vec<(PathBuf, Vec<Rested>, bool)>, bool) {
        let mut look = Vec::new();
        let mut waiting = self.list.is_some();
        for (path, place) in &mut self.places {
            let Directory::Awaited(files) = place else {
                continue;
            };
            let scan = files.scan.take_if(|at| *at <= now).is_some();
            let rested = files.rested(now, settle);
            waiting |= !files.pending.is_empty() || files.scan.is_some();
            if scan || !rested.is_empty() {
                look.push((path.clone(), rested, scan));
            }
        }
        (look, waiting)
    }
}

impl Files {
    fn take(&mut self, file: &str, what: Notice, order: u64, settle: Duration) {
        let now = Instant::now();
        if what == Notice::Opened {
            // The program that made a file has it open until it is closed. Nothing else tells a
            // reader from a writer, and a hard link is made without being opened.
            if let Some(pending) = self.pending.get_mut(file)
                && pending.writer == Writer::Created
            {
                pending.writer = Writer::Writing;
            }
            return;
        }
        let Some(pending) = self.entry(file, order, now, settle) else {
            return;
        };
        let seen = clock::nanos();
        pending.first = pending.first.or(Some(seen));
        pending.last = Some(seen);
        match what {
            Notice::Created if pending.writer == Writer::Gone => pending.writer = Writer::Created,
            Notice::Written => pending.writer = Writer::Writing,
            Notice::Closed | Notice::Arrived | Notice::Gone => {
                pending.writer = Writer::Gone;
            }
            Notice::Created | Notice::Touched | Notice::Opened => {}
        }
    }

    /// The entry of a file, touched just now; `None` if there is no room.
    fn entry(
        &mut self,
        file: &str,
        order: u64,
        now: Instant,
        settle: Duration,
    ) -> Option<&mut PendingFile> {
        if self.pending.len() >= MAX_PENDING && !self.pending.contains_key(file) {
            self.scan_at(now + settle);
            return None;
        }
        let pending = self.pending.entry(file.into()).or_insert(PendingFile {
            order,
            touched: now,
            first: None,
            last: None,
            writer: Writer::Gone,
        });
        (pending.order, pending.touched) = (order, now);
        Some(pending)
    }

    fn scan_at(&mut self, at: Instant) {
        self.scan = Some(self.scan.map_or(at, |sooner| sooner.min(at)));
    }

    /// Takes out what has come to rest, in the order of the last events.
    fn rested(&mut self, now: Instant, settle: Duration) -> Vec<Rested> {
        let mut rested: Vec<(u64, Rested)> = self
            .pending
            .extract_if(|_, pending| {
                let quiet = now.saturating_duration_since(pending.touched);
                match pending.writer {
                    Writer::Gone | Writer::Created => quiet >= settle,
                    Writer::Writing => quiet >= settle.saturating_mul(PATIENCE),
                }
            })
            .map(|(file, pending)| {
                let rested = Rested {
                    file: file.into(),
                    first: pending.first,
                    last: pending.last,
                };
                (pending.order, rested)
            })
            .collect();
        rested.sort_unstable_by_key(|(order, _)| *order);
        rested.into_iter().map(|(_, rested)| rested).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, Flag};

    use super::*;

    const SETTLE: Duration = Duration::from_millis(20);

    fn empty() -> Pending {
        let pending = Pending::new(SETTLE);
        pending.insert(Path::new("/f"), Directory::Awaited(Files::default()));
        pending
    }

    fn tell(pending: &Pending, kind: EventKind, file: &str) {
        pending.take(Ok(Event::new(kind).add_path(Path::new("/f").join(file))));
    }

    /// The files that rest next, and whether the folder is to be read.
    fn look(pending: &Pending) -> (Vec<String>, bool) {
        match pending.wait(Instant::now() + Duration::from_secs(60), None) {
            Todo::Compare(folders) => {
                let (_, rested, scan) = folders.into_iter().next().unwrap();
                (rested.into_iter().map(|rested| rested.file).collect(), scan)
            }
            Todo::List(_) | Todo::Ask => look(pending),
            Todo::Stop => (Vec::new(), false),
        }
    }

    const CREATED: EventKind = EventKind::Create(CreateKind::File);
    const OPENED: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

    #[test]
    fn files_rest_in_the_order_of_their_last_events() {
        let pending = empty();
        for file in ["b", "a", "c", "b"] {
            tell(&pending, CLOSED, file);
        }
        assert_eq!(look(&pending).0, ["a", "c", "b"]);
    }

    #[test]
    fn a_file_rests_when_who_made_it_has_closed_it() {
        let pending = empty();
        tell(&pending, CREATED, "open");
        tell(&pending, OPENED, "open");
        tell(&pending, CREATED, "linked");
        assert_eq!(look(&pending).0, ["linked"]);
        assert!(pending.waits(Path::new("/f"), "open"));
        tell(&pending, CLOSED, "open");
        assert_eq!(look(&pending).0, ["open"]);
    }

    #[test]
    fn a_file_that_is_never_closed_rests_in_the_end() {
        let pending = empty();
        let begun = Instant::now();
        tell(&pending, CREATED, "open");
        tell(&pending, OPENED, "open");
        assert_eq!(look(&pending).0, ["open"]);
        assert!(begun.elapsed() >= SETTLE * PATIENCE);
    }

    #[test]
    fn what_waits_is_bounded_and_the_rest_is_found_by_reading_the_folder() {
        let pending = empty();
        for n in 0..=MAX_PENDING {
            tell(&pending, CREATED, &n.to_string());
            tell(&pending, OPENED, &n.to_string());
        }
        assert_eq!(look(&pending), (Vec::new(), true));
        let state = pending.lock();
        assert!(matches!(&state.places[Path::new("/f")],
            Directory::Awaited(files) if files.pending.len() == MAX_PENDING));
    }

    #[test]
    fn what_does_not_count_is_passed_over_but_a_folder_may_have_such_a_name() {
        for (file, what, expected) in [
            ("a", Notice::Opened, true),
            (CONFIG, Notice::Closed, true),
            (".a.tmp", Notice::Created, false),
            ("a.meta", Notice::Closed, false),
        ] {
            assert_eq!(
                matters(&Path::new("/f").join(file), what),
                expected,
                "{file}"
            );
        }
        let pending = empty();
        pending.insert(Path::new("/user"), Directory::Names);
        let folder = Path::new("/user/a.meta").to_owned();
        pending.take(Ok(
            Event::new(EventKind::Create(CreateKind::Folder)).add_path(folder)
        ));
        assert!(pending.lock().list.is_some());
    }

    #[test]
    fn when_events_are_lost_the_folder_is_read_and_nobody_is_waited_for() {
        let pending = empty();
        tell(&pending, CREATED, "open");
        tell(&pending, OPENED, "open");
        pending.take(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert_eq!(look(&pending), (vec!["open".to_owned()], true));
    }
}

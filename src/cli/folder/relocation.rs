use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use clap::Args;

use super::Which;
use crate::{
    cli::{
        output,
        store::folders::{bar, failed, known},
    },
    client,
    error::{Code, Error},
    root::{
        folder::Folder,
        folder_store::{FolderStore, LOCAL, SECTION, Source},
    },
    store::{
        ContentPath, Kind, Stat, Store,
        documents::Documents,
        local::LocalStore,
        moving::{Carried, Moving},
        notes,
    },
};

/// Files that are brought over at once: on the way to a server, most of the time of a small one is
/// waiting.
const AT_ONCE: usize = 8;

/// A transfer that did not go on for so long is given up, and begins anew.
const GIVEN_UP: Duration = Duration::from_secs(600);

/// Move the contents of a folder to another store, while a server runs
///
/// Files are brought over one by one, and are there at every moment; new ones go to the new store
/// at once. If the move is interrupted, the same command goes on. `--store local` moves a folder
/// back to its own directory. What the old store kept of removed files goes with it.
#[derive(Debug, Args)]
pub struct Move {
    #[command(flatten)]
    folder: Which,
    /// The store, as m2y.ini names it, or `local`
    #[arg(long, value_name = "STORE")]
    store: String,
}

/// A move that is under way.
struct Relocation {
    moving: Moving,
    from: Arc<dyn Store>,
    documents: Documents,
    /// Programs in the folder's own directory, which stay there.
    hooks: BTreeSet<String>,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Move {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let folder = self.folder.open()?;
        let wanted = FolderStore::of(&*folder.config()?);
        let shown = format!("{}:{}", folder.user().name(), folder.name());
        let here = wanted.name.as_deref().unwrap_or(LOCAL);
        if self.store != LOCAL {
            known(folder.user().root(), &self.store)?;
        }
        let is_new = wanted.from.is_none();
        let source = match &wanted.from {
            Some(from) if here == self.store => from.clone(),
            Some(_) => {
                let sentence = format!(
                    "{shown} is on its way to {here}: finish that first, by `m2y folder move \
                     --store {here}`"
                );
                return Err(Error::new(Code::Usage, sentence));
            }
            None if here == self.store => {
                let sentence = format!("{shown} is in {here} already");
                return Err(Error::new(Code::Usage, sentence));
            }
            None if here == LOCAL => Source::Local,
            None => Source::Store(here.to_owned()),
        };
        let name_of = |source: &Source| match source {
            Source::Local => LOCAL.to_owned(),
            Source::Store(name) => name.clone(),
        };
        let during = FolderStore {
            name: Some(self.store.clone()).filter(|name| name != LOCAL),
            from: Some(source.clone()),
            ..wanted.clone()
        };
        let open = |name: &str| -> Result<Arc<dyn Store>, Error> {
            if name == LOCAL {
                return Ok(Arc::new(LocalStore::new(folder.dir())));
            }
            let store = client::stores().named(&folder, name, &during);
            Ok(store.map_err(|e| failed(&e).within(shown.clone()))?.store())
        };
        if self.store != LOCAL {
            let holders = client::stores().holders(folder.user().root(), &self.store);
            holders.map_err(|e| failed(&e).within(format!("store {}", self.store)))?;
        }
        let from = open(&name_of(&source))?;
        // Before anything is made there, so that the server never sees one without the other.
        let source_name = name_of(&source);
        let values = [
            ("name", Some(self.store.as_str())),
            ("from", Some(source_name.as_str())),
        ];
        folder.set_in_config(SECTION, &values)?;
        let to = match open(&self.store) {
            Ok(to) => to,
            Err(error) if is_new && !is_in(&folder, &self.store) => {
                let name = (here != LOCAL).then_some(here);
                folder.set_in_config(SECTION, &[("name", name), ("from", None)])?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let relocation = Relocation {
            documents: Documents::of(&folder).map_err(|e| failed(&e))?,
            hooks: match source {
                Source::Local => folder.config()?.hooks(),
                Source::Store(_) => BTreeSet::new(),
            },
            moving: Moving::new(from.clone(), to),
            from,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        let done = relocation.run(&shown);
        done.map_err(|e| failed(&e).within(shown.clone()))?;
        if let Source::Store(name) = &source {
            notes::leave(folder.dir(), name).map_err(|e| failed(&e))?;
        }
        let name = (self.store != LOCAL).then_some(self.store.as_str());
        folder.set_in_config(SECTION, &[("name", name), ("from", None)])?;
        let mut left = Vec::new();
        if let Source::Store(name) = &source {
            let old = client::stores().named(&folder, name, &during);
            let old = old.map_err(|e| failed(&e))?;
            left = old.purge().map_err(|e| failed(&e))?;
            client::stores().close(&folder, name);
            notes::remove(folder.dir(), name).map_err(|e| failed(&e))?;
        }
        let (files, bytes) = (relocation.files.into_inner(), relocation.bytes.into_inner());
        match json {
            true => output::object(&[
                ("status", "done".into()),
                ("store", self.store.as_str().into()),
                ("files", files.into()),
                ("bytes", bytes.into()),
            ]),
            false => {
                output::line(format_args!(
                    "{shown} is in {}: moved {}, {}",
                    self.store,
                    output::files(files),
                    output::bytes(bytes)
                ));
                for why in left {
                    output::line(format_args!("  something is left in the old store: {why}"));
                }
            }
        }
        Ok(())
    }
}

impl Relocation {
    /// Brings everything over; returns when nothing is left in the old store.
    fn run(&self, shown: &str) -> io::Result<()> {
        let bar = bar(shown);
        let mut waits = false;
        loop {
            let mut directories = Vec::new();
            let files = self.round(&bar, &mut directories)?;
            for directory in directories.iter().rev() {
                match self.from.remove(directory) {
                    Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
            self.from.settle_names(&directories)?;
            // Transfers that began before the move end in the old store.
            self.from.sweep(SystemTime::now() - GIVEN_UP, true)?;
            let under_way = self.from.sweep(SystemTime::now(), false)?;
            if files == 0 && under_way == 0 {
                bar.finish_and_clear();
                return Ok(());
            }
            if files == 0 {
                if !waits {
                    waits = true;
                    bar.suspend(|| {
                        output::aside(format_args!(
                            "waiting for {under_way} transfers that began before the move"
                        ));
                    });
                }
                thread::sleep(Duration::from_secs(1));
            }
        }
    }

    /// Brings over what is there now; returns how many files there were.
    fn round(
        &self,
        bar: &indicatif::ProgressBar,
        directories: &mut Vec<ContentPath>,
    ) -> io::Result<u64> {
        let queue = Queue::default();
        let found = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(path) = queue.take() {
                        match self.carry(&path) {
                            Ok(()) => bar.inc(1),
                            Err(error) => queue.fail(error),
                        }
                    }
                });
            }
            let mut walk = VecDeque::from([ContentPath::default(), ContentPath::quarantine()]);
            while let Some(here) = walk.pop_front() {
                let listing = match self.from.list(&here) {
                    Ok(listing) => listing,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => {
                        queue.fail(e);
                        break;
                    }
                };
                let stays = |entry: &io::Result<(String, Stat)>| match entry {
                    Ok((name, _)) => here.is_root() && self.hooks.contains(name),
                    Err(_) => false,
                };
                for entry in listing.filter(|entry| !stays(entry)) {
                    let put = entry.and_then(|(name, stat)| {
                        let path = here.join(&name)?;
                        match stat.kind {
                            Kind::Directory => {
                                self.moving.carry_directory(&path)?;
                                directories.push(path.clone());
                                walk.push_back(path);
                            }
                            _ => {
                                bar.set_length(found.fetch_add(1, Ordering::Relaxed) + 1);
                                queue.put(path);
                            }
                        }
                        Ok(())
                    });
                    if let Err(error) = put {
                        queue.fail(error);
                    }
                }
            }
            queue.end();
        });
        queue.result().map(|()| found.into_inner())
    }

    fn carry(&self, path: &ContentPath) -> io::Result<()> {
        let size = self.from.stat(path)?.map_or(0, |stat| stat.size);
        // One that changes all the time is tried again in the next round.
        if self.moving.carry(path, self.documents.find(path)?)? == Carried::Over {
            self.files.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(size, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Whether the folder may have something in a store.
fn is_in(folder: &Folder, store: &str) -> bool {
    notes::stores(folder.dir()).map_or(true, |stores| stores.iter().any(|name| name == store))
}

/// Files that wait to be brought over, a few at a time.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    paths: VecDeque<ContentPath>,
    is_over: bool,
    error: Option<io::Error>,
}

/// Paths that are in memory at most.
const WAITING: usize = 1_000;

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, path: ContentPath) {
        let mut waiting = self.lock();
        while waiting.paths.len() >= WAITING && waiting.error.is_none() {
            let woken = self.changed.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
        waiting.paths.push_back(path);
        self.changed.notify_all();
    }

    /// The next one; `None` when there are no more, or something failed.
    fn take(&self) -> Option<ContentPath> {
        let mut waiting = self.lock();
        loop {
            if waiting.error.is_some() {
                return None;
            }
            if let Some(path) = waiting.paths.pop_front() {
                self.changed.notify_all();
                return Some(path);
            }
            if waiting.is_over {
                return None;
            }
            let woken = self.changed.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn fail(&self, error: io::Error) {
        self.lock().error.get_or_insert(error);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    fn result(self) -> io::Result<()> {
        let waiting = self.waiting.into_inner();
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        waiting.error.map_or(Ok(()), Err)
    }
}

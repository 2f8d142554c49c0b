//! The `.meta` of a file that was received, as its hooks left it; and the path of the file,
//! where its sender wants one.

use std::{io, path::PathBuf, sync::Arc};

use tokio::{sync::oneshot, task};
use tracing::warn;

use crate::{
    event::{Effect, Kind, Outcome, Verdict},
    hooks::{lookup::is_program, self_changes::SelfChanges},
    json::Value,
    meta::{Meta, PENDING_HOOK, PENDING_PUT, QUARANTINE},
    root::{destination::Destination, file, folder::Folder, tree::TreePath},
    store::{
        ContentPath, Store, Stores,
        batch::BatchQueue,
        flush::{copy_of, flush_file_system, is_many},
        placement::{self, Source},
        quarantine,
    },
};

/// Bytes of a `.meta` that is written in place: they go to the disk as one.
const PAGE: usize = 4_096;

/// Stores the records of files, those of one folder together.
#[derive(Clone)]
pub struct Records {
    queue: BatchQueue<PathBuf, QueuedRecord>,
    stores: Stores,
}

/// Paths that files got, to be made durable.
type Placed = Vec<ContentPath>;

/// The path that a file got, if it got one.
type Stored = io::Result<Option<String>>;

struct QueuedRecord {
    record: Record,
    done: oneshot::Sender<Stored>,
}

/// A `.meta` to be stored.
struct Record {
    self_changes: SelfChanges,
    folder: Folder,
    store: Arc<dyn Store>,
    stem: String,
    meta: Meta,
    /// Where the file goes after that, and what becomes of the `.meta` then.
    goes: Goes,
    /// Whether the journal has the text that the `.meta` had before its hooks.
    is_backed: bool,
}

/// A file whose hooks have run.
pub struct ToRecord<'a> {
    /// What its `.meta` said before that, if that is known.
    pub before: Option<&'a Meta>,
    /// Whether the journal has that until it is told that the hooks have run.
    pub is_backed: bool,
    /// What the hooks said.
    pub verdict: &'a mut Verdict,
}

enum Goes {
    Nowhere,
    OutOfSight,
    To(Destination),
}

impl Records {
    /// Files whose contents are in these stores.
    pub fn new(stores: &Stores) -> Self {
        Self {
            queue: BatchQueue::default(),
            stores: stores.clone(),
        }
    }

    /// [`Self::store_all`] for one file of whose `.meta` nobody knows what it said before.
    pub async fn store(&self, self_changes: &SelfChanges, verdict: &mut Verdict) -> io::Result<()> {
        let file = ToRecord {
            before: None,
            is_backed: false,
            verdict,
        };
        let stored = self.store_all(self_changes, vec![file]).await;
        stored.into_iter().collect()
    }

    /// Stores what hooks wrote into the `.meta` of files that were received, where it is not
    /// what was in it before: where they object, with a mark that they have to run again.
    /// Where they do not, a file gets its path, if its sender wants one.
    pub async fn store_all(
        &self,
        self_changes: &SelfChanges,
        files: Vec<ToRecord<'_>>,
    ) -> Vec<io::Result<()>> {
        let (mut waiting, mut led) = (Vec::new(), Vec::new());
        for mut file in files {
            let Some(record) = Record::of(self_changes, &self.stores, &mut file) else {
                continue;
            };
            let verdict = file.verdict;
            let folder = verdict.folder.path().to_owned();
            let (done, result) = oneshot::channel();
            if self.queue.submit(&folder, QueuedRecord { record, done }) {
                led.push(folder);
            }
            waiting.push((result, verdict));
        }
        // Not before all are there: so they are one group.
        for folder in led {
            let this = self.clone();
            task::spawn_blocking(move || this.lead(&folder));
        }
        let mut results = Vec::with_capacity(waiting.len());
        for (result, verdict) in waiting {
            let lost = |_| Err(io::Error::other("the thread that stores it failed"));
            let stored = result.await.unwrap_or_else(lost);
            results.push(stored.map(|path| is_placed(verdict, path)));
        }
        results
    }

    fn lead(&self, folder: &PathBuf) {
        while let Some(group) = self.queue.next_batch(folder, usize::MAX) {
            let many = is_many(group.len());
            let mut flushed = Ok(());
            let mut stored = Vec::with_capacity(group.len());
            for QueuedRecord { record, done } in group {
                stored.push((record.write(!many), record, done));
            }
            if let (true, Some((_, record, _))) = (many, stored.first()) {
                flushed = flush_file_system(record.folder.dir());
            }
            let mut placed = Placed::new();
            let mut results = Vec::with_capacity(stored.len());
            for (written, record, done) in stored {
                let flushed = flushed.as_ref().map_err(copy_of);
                let result = written.and_then(|()| {
                    flushed?;
                    record.carry(&mut placed)
                });
                results.push((result, record, done));
            }
            // The `.meta` says where a file goes until that is safe.
            let named = match (placed.is_empty(), results.first()) {
                (false, Some((_, record, _))) => record.store.settle_names(&placed),
                _ => Ok(()),
            };
            for (result, record, done) in results {
                let result = match (result, &named) {
                    (Ok(Some(_)), Err(error)) => Err(copy_of(error)),
                    (Ok(Some(path)), Ok(())) => {
                        let name = format!("{}.meta", record.stem);
                        let _ = record.folder.dir().remove_file(name);
                        Ok(Some(path))
                    }
                    (result, _) => result,
                };
                let _ = done.send(result);
            }
        }
    }
}

/// A file got its path, if it got one. What its hooks asked for is done later, with the
/// file where it is now.
fn is_placed(verdict: &mut Verdict, path: Option<String>) {
    if let Some(path) = &path {
        for effect in &mut verdict.effects {
            if let Effect::Send { file, .. } = effect
                && verdict.file.as_ref() == Some(file)
            {
                file.clone_from(path);
            }
        }
    }
    verdict.placed = path;
}

impl Record {
    /// What there is to store after a verdict; `None` if there is nothing.
    fn of(
        self_changes: &SelfChanges,
        stores: &Stores,
        to_record: &mut ToRecord<'_>,
    ) -> Option<Self> {
        let verdict = &mut *to_record.verdict;
        let programs_ran = verdict.runs.iter().any(|run| is_program(&run.script));
        let (Some(meta), Some(stem)) = (&mut verdict.meta, verdict.stem.clone()) else {
            return None;
        };
        meta.error.clear();
        meta.extra.remove(PENDING_HOOK);
        let objects = verdict.outcome.objection().is_some();
        if objects {
            let pending = Value::from(Kind::Received.section());
            meta.extra.insert(PENDING_HOOK.to_owned(), pending);
        }
        if let Outcome::Quarantined(reason) = &verdict.outcome {
            let reason = Value::from(reason.as_str());
            meta.extra.insert(QUARANTINE.to_owned(), reason);
        }
        let file = verdict.file.as_deref();
        let mut goes = Goes::Nowhere;
        if !objects {
            let destination = Destination::open(meta);
            if meta.extra.contains_key(QUARANTINE) {
                goes = Goes::OutOfSight;
            } else if let Some(destination) = destination
                && Destination::is_untouched(meta, &verdict.folder, &stem, file)
            {
                goes = Goes::To(destination);
            } else {
                // A hook gave it a place.
                meta.extra.remove(PENDING_PUT);
            }
        }
        if to_record.before == Some(meta) && !programs_ran && matches!(goes, Goes::Nowhere) {
            return None;
        }
        Some(Self {
            self_changes: self_changes.clone(),
            store: stores.of(&verdict.folder),
            folder: verdict.folder.clone(),
            stem,
            meta: meta.clone(),
            goes,
            is_backed: to_record.is_backed,
        })
    }

    fn write(&self, durably: bool) -> io::Result<()> {
        let dir = self.folder.dir();
        let name = format!("{}.meta", self.stem);
        let goes = matches!(self.goes, Goes::To(_));
        // A hook may have taken the file away, and its .meta with it.
        if goes || !file::exists(dir, &name)? && !self.has_contents()? {
            return Ok(());
        }
        let text = self.meta.to_file();
        match durably {
            true => file::replace(dir, &name, 0o644, &text),
            // A file in its place would free an inode, and for minutes ext4 searches past
            // each of those whenever it makes a file.
            false if self.is_backed && text.len() <= PAGE => {
                file::overwrite_unflushed(dir, &name, 0o644, &text)
            }
            false => file::replace_unflushed(dir, &name, 0o644, &text),
        }
    }

    fn has_contents(&self) -> io::Result<bool> {
        self.store.holds(&ContentPath::parse(&self.data())?)
    }

    fn data(&self) -> String {
        format!("{}.data", self.stem)
    }

    /// Brings the file to where it goes.
    fn carry(&self, placed: &mut Placed) -> Stored {
        match &self.goes {
            Goes::Nowhere => Ok(None),
            Goes::OutOfSight => {
                put_away(&*self.store, &self.self_changes, &self.folder, &self.stem).map(|()| None)
            }
            Goes::To(destination) => self.place(destination, placed),
        }
    }

    /// A file gets this path, and that is news.
    fn arrives(&self, path: &TreePath) {
        if let (Ok(config), [name]) = (self.folder.config(), path.components()) {
            self.self_changes.arrives(&self.folder, &config, name);
        }
    }

    /// Gives the file its path. Where that is taken by now, the file stays as one that
    /// arrived: its hooks have had it.
    fn place(&self, destination: &Destination, placed: &mut Placed) -> Stored {
        let (folder, store, data) = (&self.folder, &*self.store, self.data());
        if !self.has_contents()? {
            return Ok(None);
        }
        self.arrives(&destination.path);
        let arrived = ContentPath::parse(&data)?;
        match placement::place(store, folder, Source::Arrived(&arrived), destination) {
            Ok(path) => {
                self.self_changes.note(folder, &data);
                if let Some(path) = path.tree_path().filter(|path| **path != destination.path) {
                    self.arrives(path);
                }
                let text = path.to_string();
                placed.push(path);
                Ok(Some(text))
            }
            Err(error) => {
                let (user, path) = (folder.user().name(), destination.path.join());
                warn!(%user, folder = %folder.name(), %path, "stays as {data}: {error}");
                let mut meta = self.meta.clone();
                meta.extra.remove(PENDING_PUT);
                let name = format!("{}.meta", self.stem);
                file::replace(folder.dir(), &name, 0o644, &meta.to_file())?;
                Ok(None)
            }
        }
    }
}

/// Puts a file out of sight, which is no deed of a person.
pub fn put_away(
    store: &dyn Store,
    self_changes: &SelfChanges,
    folder: &Folder,
    stem: &str,
) -> io::Result<()> {
    let hidden = quarantine::hide(store, folder, stem);
    self_changes.note(folder, &format!("{stem}.data"));
    hidden
}

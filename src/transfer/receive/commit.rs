//! From whole to safe: finished files become durable and get their final names, many at a time.
//!
//! A flush takes milliseconds on a disk, for one file or for hundreds, so files of one
//! folder that are whole at the same time share it. The steps, each for the whole group:
//!
//! 1. the `.meta` files get their last contents
//! 2. bytes and `.meta` files are flushed, and the names that they have so far
//! 3. the transfers are written into the journal, durably, each with whether hooks have to hear of
//!    it: if so, with the text of its `.meta`, which they may change
//! 4. the files get their final names
//! 5. the names are flushed
//!
//! Only then do hooks and the sender hear of a file. A server that stops before step 3 leaves only
//! hidden files, which the senders resume; after it [`recover`](super::recovery::recover) does what
//! is left to do.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
};

use tokio::{sync::oneshot, task};
use tracing::{error, warn};

use super::partial::Partial;
use crate::{
    journal::{
        Journal, decided,
        delivered::{self, Key, Stage, Transfer},
    },
    meta::Meta,
    root::destination::Destination,
    store::{
        ContentPath, Sink,
        batch::BatchQueue,
        flush::{self, LARGE, Unflushed, copy_of},
        received::{self, Placed},
    },
};

/// Files of one group.
const GROUP: usize = 256;

/// A file whose bytes are all there.
pub struct Whole {
    /// Its names and its place.
    pub partial: Partial,
    /// Its bytes.
    pub sink: Box<dyn Sink>,
    /// What is known of it now.
    pub meta: Meta,
    /// Whether hooks wait for it.
    pub owed: bool,
}

/// What became of it: the error says why it did not get its name.
pub type Committed = (Partial, io::Result<()>);

/// Files of one session and folder, which are committed together.
struct Batch {
    files: Vec<Whole>,
    done: oneshot::Sender<Vec<Committed>>,
}

/// Makes files safe. Clones are the same one.
#[derive(Clone)]
pub struct Committer {
    journal: Journal,
    /// Waiting files, by folder.
    groups: BatchQueue<PathBuf, Batch>,
}

impl Committer {
    /// A committer for the transfers of a journal.
    pub fn new(journal: &Journal) -> Self {
        Self {
            journal: journal.clone(),
            groups: BatchQueue::default(),
        }
    }

    /// Remembers that a transfer was refused. Nobody waits for that: if it is lost, the transfer is
    /// decided about again.
    pub fn refused(&self, transfer: Transfer) {
        drop(
            self.journal
                .quietly(false, move |db| delivered::put(db, &transfer)),
        );
    }

    /// Makes files of one folder safe and renames them to their final names, in order. A file with
    /// an error has no name, and nothing is recorded of it. `None` if a thread of ours failed.
    pub async fn commit(&self, mut files: Vec<Whole>) -> Option<Vec<Committed>> {
        let is_large = |whole: &Whole| whole.meta.filesize.unwrap_or_default() >= LARGE;
        let mut failed = Vec::new();
        if files.iter().any(is_large) {
            let settling = move || {
                let mut failed = Vec::new();
                for (at, whole) in files.iter_mut().enumerate() {
                    if is_large(whole)
                        && let Err(error) = whole.sink.settle()
                    {
                        failed.push((at, error));
                    }
                }
                (files, failed)
            };
            (files, failed) = task::spawn_blocking(settling).await.ok()?;
        }
        let mut left = Vec::with_capacity(failed.len());
        for (at, error) in failed.into_iter().rev() {
            left.push((at, (files.remove(at).partial, Err(error))));
        }
        let mut committed = match files.first() {
            None => Vec::new(),
            Some(whole) => {
                let folder = whole.partial.folder().path().to_owned();
                let (done, result) = oneshot::channel();
                if self.groups.submit(&folder, Batch { files, done }) {
                    let this = self.clone();
                    task::spawn_blocking(move || this.lead(&folder));
                }
                result.await.ok()?
            }
        };
        for (at, failed) in left.into_iter().rev() {
            committed.insert(at, failed);
        }
        Some(committed)
    }

    /// Commits what waits in a folder, group after group, until nothing waits.
    fn lead(&self, folder: &PathBuf) {
        while let Some(batches) = self.groups.next_batch(folder, GROUP) {
            // If a group panics, the channels tell the batches that wait for it.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let (mut files, mut waiting) = (Vec::new(), Vec::new());
                for batch in batches {
                    waiting.push((batch.files.len(), batch.done));
                    files.extend(batch.files);
                }
                let mut committed = self.commit_group(files).into_iter();
                for (len, done) in waiting {
                    // If nobody waits any more, the partial cleans up after itself.
                    let _ = done.send(committed.by_ref().take(len).collect());
                }
            }));
        }
    }

    /// Commits a group; the results are in the order of the files.
    fn commit_group(&self, group: Vec<Whole>) -> Vec<Committed> {
        let mut group = Group::new(group);
        group.write();
        group.flush();
        group.journal(&self.journal);
        group.name(&self.journal);
        group.settle(&self.journal);
        group.into_results()
    }
}

/// A file of a group.
struct Member {
    partial: Partial,
    sink: Box<dyn Sink>,
    owed: bool,
    /// What its `.meta` says.
    text: Option<Arc<str>>,
    /// What went wrong with it.
    error: Option<io::Error>,
}

/// Has the store keep a copy of the document that stays beside a file.
fn describe(partial: &Partial) -> io::Result<()> {
    let store = partial.store();
    if store.as_local().is_some() {
        return Ok(());
    }
    let Some((name, text)) = partial.document() else {
        return Ok(());
    };
    let path = match partial.placed() {
        Some(path) => ContentPath::parse(path)?,
        None => ContentPath::parse(&partial.subject().data_file())?,
    };
    store.describe(&path, &name, &text)
}

/// Files that become safe together.
struct Group {
    files: Vec<Member>,
    /// Paths that files got, because their senders wanted them.
    placed: Vec<ContentPath>,
}

impl Group {
    fn new(files: Vec<Whole>) -> Self {
        let files = files.into_iter().map(|whole| {
            let Whole {
                mut partial,
                sink,
                meta,
                owed,
            } = whole;
            partial.set_meta(meta);
            Member {
                partial,
                sink,
                owed,
                text: None,
                error: None,
            }
        });
        Self {
            files: files.collect(),
            placed: Vec::new(),
        }
    }

    /// Files without an error.
    fn good(&mut self) -> impl Iterator<Item = &mut Member> {
        self.files.iter_mut().filter(|file| file.error.is_none())
    }

    /// Marks all of them as failed.
    fn fail(&mut self, error: &io::Error) {
        for file in self.good() {
            file.error = Some(copy_of(error));
        }
    }

    /// Step 1.
    fn write(&mut self) {
        for file in &mut self.files {
            match file.partial.write_meta() {
                Ok(text) => file.text = String::from_utf8(text).ok().map(Arc::from),
                Err(error) => file.error = Some(error),
            }
        }
    }

    /// Step 2.
    fn flush(&mut self) {
        let mut good: Vec<&mut Member> = self.good().collect();
        let mut names = Vec::with_capacity(good.len());
        for file in &good {
            names.push(file.partial.subject().meta_file());
        }
        let mut unflushed: Vec<Unflushed<'_>> = good
            .iter_mut()
            .zip(&names)
            .map(|(file, name)| {
                let Member { partial, sink, .. } = &mut **file;
                let dir: &cap_std::fs::Dir = partial.folder().dir();
                Unflushed {
                    sink: Some(&mut **sink),
                    document: Some((dir, name.as_str())),
                }
            })
            .collect();
        let flushed = flush::flush(&mut unflushed);
        for (file, result) in good.into_iter().zip(flushed) {
            file.error = result.err();
        }
    }

    /// Step 3.
    fn journal(&mut self, journal: &Journal) {
        let rows: Vec<Transfer> = self
            .good()
            .map(|file| match file.owed {
                true => Transfer {
                    meta: file.text.take(),
                    ..file.partial.transfer(Stage::Owed)
                },
                false => file.partial.transfer(Stage::Whole),
            })
            .collect();
        let was_decided = journal.has_decisions();
        let written = journal.quietly(true, move |db| {
            rows.iter().try_for_each(|row| {
                if was_decided {
                    decided::remove(db, &row.key)?;
                }
                delivered::put(db, row)
            })
        });
        if let Err(error) = written.wait() {
            self.fail(&io::Error::other(error));
        }
    }

    /// Step 4.
    fn name(&mut self, journal: &Journal) {
        let mut nameless: Vec<Key> = Vec::new();
        let mut placed = Vec::new();
        for file in self.good() {
            let partial = &mut file.partial;
            let destination = Destination::open(&partial.subject().meta);
            let named = match destination.filter(|_| !file.owed) {
                None => partial.publish(),
                Some(destination) => match partial.place(&destination) {
                    Ok(path) => {
                        placed.push(path);
                        Ok(())
                    }
                    // Its sender asked for no path: a directory in the way is no reason to
                    // turn the file down.
                    Err(_) if destination.keeps_meta => partial.stay(),
                    Err(error) => Err(error),
                },
            };
            let named = named.and_then(|()| describe(partial));
            if let Err(error) = named {
                nameless.push(partial.key().clone());
                file.error = Some(error);
            }
        }
        self.placed = placed;
        if nameless.is_empty() {
            return;
        }
        // A row without its hidden file would pass for a delivered file.
        let undone = journal.quietly(false, move |db| {
            nameless
                .iter()
                .try_for_each(|key| delivered::remove(db, key))
        });
        if let Err(error) = undone.wait() {
            error!("{error}");
        }
    }

    /// Step 5, and what is left to do after it.
    fn settle(&mut self, journal: &Journal) {
        let Some(store) = self.good().next().map(|file| file.partial.store().clone()) else {
            return;
        };
        // The new name is there before the old one is gone.
        if let Err(error) = store.settle_names(&self.placed) {
            // They have their names, and their hooks will hear of it; but nobody may be told that
            // the names survive a loss of power.
            return self.fail(&error);
        }
        // Before the rows are settled by which a restarted server looks for them.
        let placed: Vec<Placed> = self
            .good()
            .filter_map(|file| file.partial.to_hide())
            .collect();
        if let Some(folder) = self.good().next().map(|file| file.partial.folder().clone())
            && !placed.is_empty()
        {
            for error in received::hide(&folder, &placed)
                .into_iter()
                .filter_map(Result::err)
            {
                warn!("a .meta stays in sight: {error}");
            }
        }
        let mut settled = Vec::new();
        for file in self.good() {
            file.partial.forget_destination();
            if !file.owed {
                settled.push(file.partial.key().clone());
            }
        }
        if !settled.is_empty() {
            drop(journal.quietly(false, move |db| {
                settled
                    .iter()
                    .try_for_each(|key| delivered::complete(db, key).map(drop))
            }));
        }
    }

    fn into_results(self) -> Vec<Committed> {
        let results = self.files.into_iter();
        results
            .map(|file| (file.partial, file.error.map_or(Ok(()), Err)))
            .collect()
    }
}

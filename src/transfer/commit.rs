//! From whole to safe: a finished file becomes durable and gets its name, many at a time.
//!
//! A flush takes milliseconds on a disk, for one file or for hundreds, so files of one
//! folder that are whole at the same time share it. The steps, each for the whole group:
//!
//! 1. the `.meta` files get their last contents
//! 2. bytes and `.meta` files are flushed, and the names that they have so far
//! 3. the transfers are written into the journal, durably, and with each whether hooks will
//!    have to hear of it
//! 4. the files get their names
//! 5. the names are flushed
//!
//! Only then does a hook hear of a file, and its sender. A server that ends before step 3
//! has nothing but hidden files, with which the senders go on; after it [`recover`] does
//! what is left to do.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rusqlite::Connection;
use tokio::{sync::oneshot, task};
use tracing::{error, info};

use super::{
    decide::logged,
    partial::{Partial, UnderWay, hidden_name},
};
use crate::{
    error::Error,
    hooks::dispatch::task_of_received,
    journal::{
        self, Journal, JournalError,
        delivered::{self, Key, Stage, Transfer},
    },
    meta::{Meta, PENDING_HOOK},
    root::{Root, RootError, destination::Destination, folder::Folder, meta_file, name::Name},
    store::{
        self, ContentPath, Sink, Store, Target,
        batch::BatchQueue,
        flush,
        placement::{self, Source},
    },
};

/// Files of one group.
const GROUP: usize = 256;

/// From this many files on, one flush of everything is cheaper than one for each.
const MANY: usize = 3;

/// Bytes from which a file is flushed by itself, so that small ones do not wait for it.
const LARGE: u64 = 1 << 20;

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

/// What became of it: the error says why it has not got its name.
pub type Committed = (Partial, io::Result<()>);

struct Waiting {
    whole: Whole,
    done: oneshot::Sender<Committed>,
}

/// Makes files safe. Copies of it are the same one.
#[derive(Clone)]
pub struct Committer {
    journal: Journal,
    reader: Arc<Mutex<Connection>>,
    /// Files that wait, by their folder.
    groups: BatchQueue<PathBuf, Waiting>,
}

impl Committer {
    /// A committer for the transfers of a journal.
    pub fn new(journal: &Journal) -> Result<Self, JournalError> {
        Ok(Self {
            journal: journal.clone(),
            reader: Arc::new(Mutex::new(journal.reader()?)),
            groups: BatchQueue::default(),
        })
    }

    /// What is known of a transfer that came to its end before.
    pub fn known(&self, key: &Key) -> Result<Option<Transfer>, Error> {
        let db = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        delivered::find(&db, key).map_err(|e| logged(&io::Error::other(JournalError::from(e))))
    }

    /// Remembers that a transfer was refused. Nobody waits for that: forgotten, it is
    /// decided about again.
    pub fn refused(&self, transfer: Transfer) {
        drop(
            self.journal
                .quietly(false, move |db| delivered::put(db, &transfer)),
        );
    }

    /// Makes a file safe and gives it its name. With the error the file has no name, and
    /// nothing is known of it. `None` if a thread of ours failed.
    pub async fn commit(&self, mut whole: Whole) -> Option<Committed> {
        if whole.meta.filesize.unwrap_or_default() >= LARGE {
            let settling = move || {
                let settled = whole.sink.settle();
                (whole, settled)
            };
            let (back, settled) = task::spawn_blocking(settling).await.ok()?;
            if let Err(error) = settled {
                return Some((back.partial, Err(error)));
            }
            whole = back;
        }
        let (done, result) = oneshot::channel();
        let folder = whole.partial.folder().path().to_owned();
        if self.groups.submit(&folder, Waiting { whole, done }) {
            let this = self.clone();
            task::spawn_blocking(move || this.lead(&folder));
        }
        result.await.ok()
    }

    /// Commits what waits in a folder, group after group, until nothing waits.
    fn lead(&self, folder: &PathBuf) {
        while let Some(group) = self.groups.next_batch(folder, GROUP) {
            // Who waits for a group that panics is told by its channel.
            let _ = catch_unwind(AssertUnwindSafe(|| self.commit_group(group)));
        }
    }

    fn commit_group(&self, group: Vec<Waiting>) {
        let many = group.len() >= MANY;
        let mut files = Vec::with_capacity(group.len());
        // 1., and for a few files 2.
        for Waiting { whole, done } in group {
            let Whole {
                mut partial,
                mut sink,
                meta,
                owed,
            } = whole;
            let finished = match many {
                true => partial.update(meta),
                false => sink.settle().and_then(|()| partial.update_durably(meta)),
            };
            match finished {
                Ok(()) => files.push((partial, owed, done)),
                Err(error) => fail(done, partial, &error),
            }
        }
        // 2.
        let flushed = match files.first() {
            None => return,
            Some((partial, ..)) if many => flush::flush_file_system(partial.folder().dir()),
            Some(_) => Ok(()),
        };
        if let Err(error) = flushed {
            for (partial, _, done) in files {
                fail(done, partial, &error);
            }
            return;
        }
        // 3.
        let state = |owed: &bool| match owed {
            true => Stage::Owed,
            false => Stage::Whole,
        };
        let rows: Vec<Transfer> = files
            .iter()
            .map(|(partial, owed, _)| partial.transfer(state(owed)))
            .collect();
        let written = self.journal.quietly(true, move |db| {
            rows.iter().try_for_each(|row| delivered::put(db, row))
        });
        if let Err(error) = written.wait() {
            let error = io::Error::other(error);
            for (partial, _, done) in files {
                fail(done, partial, &error);
            }
            return;
        }
        // 4.
        let mut named = Vec::with_capacity(files.len());
        let (mut failed, mut settled) = (Vec::new(), Vec::new());
        let mut placed = Vec::new();
        for (mut partial, owed, done) in files {
            let destination = Destination::open(&partial.subject().meta).filter(|_| !owed);
            let given = match &destination {
                None => partial.publish(),
                Some(destination) => partial.place(destination).map(|path| placed.push(path)),
            };
            match given {
                Ok(()) => {
                    if !owed {
                        settled.push(partial.key().clone());
                    }
                    named.push((partial, done));
                }
                Err(error) => failed.push((partial, done, error)),
            }
        }
        if !failed.is_empty() {
            let nameless: Vec<Key> = failed
                .iter()
                .map(|(partial, ..)| partial.key().clone())
                .collect();
            let undone = self.journal.quietly(false, move |db| {
                nameless
                    .iter()
                    .try_for_each(|key| delivered::remove(db, key))
            });
            if let Err(error) = undone.wait() {
                error!("{error}");
            }
            // A row without its hidden file would stand for one that was delivered.
            for (partial, done, error) in failed {
                fail(done, partial, &error);
            }
        }
        // 5. A name is there before the one that the file had is gone.
        let names = match named.first() {
            Some((partial, _)) => partial.store().settle_names(&placed),
            None => return,
        };
        if let Err(error) = &names {
            // They have their names, and their hooks will hear of it; that the names
            // survive a loss of power nobody may be told.
            for (partial, done) in named {
                fail(done, partial, error);
            }
            return;
        }
        for (partial, _) in &named {
            // Before the row is settled, by which a server that starts again looks for it.
            partial.forget_destination();
        }
        if !settled.is_empty() {
            drop(self.journal.quietly(false, move |db| {
                settled
                    .iter()
                    .try_for_each(|key| delivered::complete(db, key))
            }));
        }
        for (partial, done) in named {
            let _ = done.send((partial, Ok(())));
        }
    }
}

fn fail(done: oneshot::Sender<Committed>, partial: Partial, error: &io::Error) {
    // Where nobody waits any more, the partial cleans up after itself.
    let _ = done.send((partial, Err(copy(error))));
}

/// An error once more, for another file of the group.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Does what a server that ended in the middle has left to do: files that are whole get
/// their names, and hooks that wait for one get a task in the journal.
///
/// It belongs before everything else that looks into the journal.
pub fn recover(
    journal: &Journal,
    root: &Root,
    store_of: impl Fn(&Folder) -> Arc<dyn Store>,
) -> Result<(), JournalError> {
    let db = journal.reader()?;
    let (mut settled, mut tasks) = (Vec::new(), Vec::new());
    for transfer in delivered::open(&db)? {
        match complete(root, &transfer, &store_of) {
            Ok(()) => {
                if transfer.stage == Stage::Owed {
                    tasks.push(task_of_received(&transfer));
                }
                settled.push(transfer.key);
            }
            Err(error) => error!(
                user = transfer.key.user, folder = transfer.key.folder, stem = transfer.stem,
                id = %transfer.key.id,
                "cannot give a file its name that is whole: {error}"
            ),
        }
    }
    let written = journal.quietly(false, move |db| {
        journal::insert(db, &tasks)?;
        settled
            .iter()
            .try_for_each(|key| delivered::complete(db, key))
    });
    written.wait()
}

/// Removes the `.meta` of files that were on their way when a server before this one ended,
/// and of which nobody knows: the next attempt writes its own. What is under way stays;
/// returns how many there were.
pub fn sweep(journal: &Journal, root: &Root, under_way: &UnderWay) -> Result<usize, JournalError> {
    let db = journal.reader()?;
    let mut swept = 0;
    for folder in root.folders().into_iter().flatten().flatten() {
        let left = left_behind(&db, &folder, under_way);
        for name in left.unwrap_or_default() {
            swept += usize::from(folder.dir().remove_file(name).is_ok());
        }
    }
    Ok(swept)
}

/// The names of such `.meta` in one folder.
fn left_behind(db: &Connection, folder: &Folder, under_way: &UnderWay) -> io::Result<Vec<String>> {
    let (dir, owner) = (folder.dir(), folder.user().name().as_str());
    let store = store::of_folder(folder);
    let mut left = Vec::new();
    // Of older ones nobody knows any more whether they were delivered.
    let oldest = SystemTime::now().checked_sub(delivered::KEPT / 2);
    for entry in dir.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((name, stem)) = name
            .to_str()
            .and_then(|name| Some((name, name.strip_suffix(".meta")?)))
        else {
            continue;
        };
        let contents = ContentPath::parse(&format!("{stem}.data"));
        if !contents.is_ok_and(|path| matches!(store.holds(&path), Ok(false))) {
            continue;
        }
        let about = entry.metadata()?;
        let written = about.modified()?.into_std();
        if oldest.is_some_and(|oldest| written < oldest) {
            continue;
        }
        if about.is_file() && about.len() == 0 {
            // It was made, and not written any more. A transfer of this server tries a stem
            // before it makes anything.
            let of_contact = stem.match_indices('_').any(|(end, _)| {
                let from = stem.get(..end).and_then(|from| Name::user(from).ok());
                from.is_some_and(|from| folder.user().contact(&from).is_ok())
            });
            if of_contact
                && !under_way.has_stem(owner, folder.name().as_str(), stem)
                && dir.symlink_metadata(name).is_ok_and(|now| now.len() == 0)
            {
                left.push(name.to_owned());
            }
            continue;
        }
        let Some(meta) = meta_file::read(dir, name) else {
            continue;
        };
        let (Some(id), true) = (meta.id, meta.error.is_empty() && meta.from != owner) else {
            continue;
        };
        let is_placed = !meta.extra.contains_key(PENDING_HOOK)
            && Destination::open(&meta)
                .is_some_and(|to| placement::is_there(&*store, &to, meta.filesize));
        let key = Key {
            user: owner.to_owned(),
            folder: folder.name().to_string(),
            from: meta.from,
            id,
        };
        // A transfer of this server is under way before it has a .meta, and after that is
        // known, or has left an error there. Of one that is known, somebody may have taken
        // the file away, if it has not just got its path.
        let is_left = |known: Option<Transfer>| match known {
            None => true,
            Some(known) => known.stem == stem && is_placed && known.stage == Stage::Delivered,
        };
        if !under_way.has(&key)
            && delivered::find(db, &key).is_ok_and(is_left)
            && meta_file::read(dir, name).is_some_and(|meta| meta.error.is_empty())
        {
            left.push(name.to_owned());
        }
    }
    Ok(left)
}

fn complete(
    root: &Root,
    transfer: &Transfer,
    store_of: impl Fn(&Folder) -> Arc<dyn Store>,
) -> io::Result<()> {
    let Transfer { key, stem, .. } = transfer;
    let folder = folder_of(root, key).map_err(io::Error::other)?;
    let (store, hidden) = (store_of(&folder), hidden_name(key)?);
    let path = ContentPath::parse(&format!("{stem}.data"))?;
    let meta = meta_file::of_stem(folder.dir(), stem);
    let destination = meta.as_ref().and_then(Destination::open);
    // Without it the file has its name already, or had it before a hook took it away.
    if store.held(&hidden)?.is_some() {
        let placed = match (&destination, transfer.stage) {
            (Some(destination), Stage::Whole) => {
                placement::place(&*store, &folder, Source::Partial(&hidden), destination).ok()
            }
            _ => None,
        };
        if placed.is_none() {
            // Where its path is taken meanwhile, it is kept as what it is.
            store.publish(&hidden, &Target::free(&path))?;
        }
        store.settle_names(placed.as_slice())?;
        info!(
            from = key.from, to = key.user, folder = key.folder, %stem, id = %key.id,
            "received, before the server ended"
        );
    }
    if let (Some(destination), Some(meta)) = (destination, meta)
        && !store.holds(&path)?
        // A hook may have given it another name, beside the same .meta.
        && (transfer.stage == Stage::Whole || placement::is_there(&*store, &destination, meta.filesize))
    {
        let _ = folder.dir().remove_file(format!("{stem}.meta"));
    }
    Ok(())
}

fn folder_of(root: &Root, key: &Key) -> Result<Folder, RootError> {
    let user = root.user(&Name::user(&key.user)?)?;
    user.folder(&Name::folder(&key.folder)?)
}

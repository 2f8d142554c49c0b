//! The store that keeps each file as one object of a bucket, under its own path and unsealed, so that
//! other programs can read it.
//!
//! ```text
//! PREFIX/USER/FOLDER/photos/a.jpg    the file photos/a.jpg
//! PREFIX/USER/FOLDER/photos/.m2y     that photos is a directory, also when it is empty
//! PREFIX/USER/FOLDER/.quarantine/    what hooks put out of sight
//! PREFIX/USER/FOLDER/.m2y/partial/   pieces of files that are on their way
//! PREFIX/USER/FOLDER/.m2y/open/      what is gone, but was being read
//! ```
//!
//! The bucket is all there is: nothing about the files is noted on this machine, and what other
//! programs write to the bucket is there too. A file that was received whole is composed of its
//! pieces by the server, so that it appears at once, and its bytes travel once.

mod composition;
mod contents;
mod listing;
mod names;
mod objects;
mod partial;

use std::{
    fs::File,
    future::ready,
    io::{self, Read},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use cap_std::fs::Dir;
use futures_util::TryStreamExt;

pub use self::composition::{LIMITS, Limits};
use self::{
    composition::Composition,
    contents::{OpenFiles, PlainContents, stat},
    listing::{Entries, Times, directory},
    objects::{Entry, Fields, Objects, Page},
    partial::{Held, Piece, PieceReader, PieceWriter},
};
use super::{
    ContentPath, Contents, Kind, Listing, Names, PartialName, Sink, Stat, Store, Target,
    growing::{Growing, GrowingFiles},
    member::{
        MemberError, MemberResult,
        s3::{Credentials, connection::Connection},
    },
    notes, runtime,
};
use crate::{
    crypto,
    root::{file, settings::store::Bucket},
};

/// What m2y needs for itself, below the folder.
const WORKSHOP: &str = ".m2y/";

/// The name of the empty object that makes a directory.
const MARKER: &str = ".m2y";

/// What the keys below these begin with.
fn prefix(above: &[&str]) -> String {
    let above = above.iter().filter(|part| !part.is_empty());
    above.map(|part| format!("{part}/")).collect()
}

/// The folders of a user that a bucket has.
///
/// # Errors
///
/// If it cannot be listed.
pub fn folders(bucket: &Bucket, user: &str) -> io::Result<Vec<String>> {
    let connection = Connection::new(bucket, None)?;
    let objects = Objects::new(connection, &bucket.name, prefix(&[&bucket.prefix, user]));
    let listing = async move {
        let pages = objects.pages("", false);
        pages
            .try_fold(Vec::new(), |mut folders, page| async move {
                folders.extend(page.directories);
                Ok(folders)
            })
            .await
    };
    Ok(runtime::run(listing)??)
}

/// Whether a bucket has files of a folder.
///
/// # Errors
///
/// If it cannot be listed.
pub fn has_files(bucket: &Bucket, (user, folder): (&str, &str)) -> io::Result<bool> {
    let connection = Connection::new(bucket, None)?;
    let prefix = prefix(&[&bucket.prefix, user, folder]);
    let objects = Objects::new(connection, &bucket.name, prefix);
    let looking = async move {
        let pages = objects.pages("", true);
        let is_one = |entry: &Entry| !listing::is_internal(&entry.key);
        let mut with_files = pin!(pages.try_filter(|page| ready(page.entries.iter().any(is_one))));
        with_files.try_next().await.map(|page| page.is_some())
    };
    Ok(runtime::run(looking)??)
}

/// Tries whether a server copies objects, and parts of them, with what m2y notes of each.
///
/// # Errors
///
/// If it does not.
pub async fn check_copies(bucket: &Bucket, credentials: Option<&Credentials>) -> MemberResult<()> {
    let number: [u8; 8] = crypto::random().map_err(|e| MemberError::Failed(e.to_string()))?;
    let number = hex::encode(number);
    let connection = Connection::new(bucket, credentials)?;
    let prefix = prefix(&[&bucket.prefix, "check", &number]);
    let objects = Objects::new(connection, &bucket.name, prefix);
    let copied = try_copies(&objects, number).await;
    let keys = ["a", "b", "whole", "copy"].map(str::to_owned);
    let removed = partial::remove_all(&objects, keys.into()).await;
    copied.and(removed)
}

async fn try_copies(objects: &Objects, attempt: String) -> MemberResult<()> {
    let lens = [("a", 0, LIMITS.shortest), ("b", LIMITS.shortest, 1)];
    let mut pieces = Vec::new();
    for (key, start, len) in lens {
        let body = vec![b'm'; usize::try_from(len).unwrap_or_default()];
        objects.put(key, body.into()).await?;
        let key = key.to_owned();
        pieces.push(Piece {
            start,
            len,
            key,
            etag: None,
        });
    }
    let fields = Fields {
        modified: Some(1_500_000_000),
        attempt: Some(attempt),
    };
    let whole = Composition::prepare(objects, pieces, "whole", fields.clone(), LIMITS).await?;
    whole.complete(objects).await?;
    let size = LIMITS.shortest + 1;
    let whole = Piece {
        start: 0,
        len: size,
        key: "whole".to_owned(),
        etag: None,
    };
    objects.copy(&whole, "copy", &fields).await?;
    for key in ["whole", "copy"] {
        let about = objects.about(key).await?;
        if about.is_none_or(|about| about.size != size || about.fields != fields) {
            return Err(MemberError::Failed(
                "the server does not copy objects as S3 does: use the sealed layout there"
                    .to_owned(),
            ));
        }
    }
    Ok(())
}

/// A folder in a bucket.
pub struct PlainStore {
    core: Arc<Core>,
    growing: GrowingFiles,
}

/// What the parts of the store share.
struct Core {
    /// As m2y.ini calls the store.
    name: String,
    objects: Arc<Objects>,
    /// Held while a name is taken: S3 cannot refuse to replace an object that it makes itself.
    names: Mutex<File>,
    open: OpenFiles,
    times: Arc<Times>,
    changes: AtomicU64,
    limits: Limits,
}

impl PlainStore {
    /// The store of this name, for the folder of a user. `dir` is the directory of the folder.
    ///
    /// # Errors
    ///
    /// If the settings of the bucket do not fit each other, if it does not answer the first time, or
    /// if the note of it in `dir` cannot be written.
    pub fn open(
        dir: &Dir,
        store: &str,
        bucket: &Bucket,
        (user, folder): (&str, &str),
        credentials: Option<&Credentials>,
        limits: Limits,
    ) -> io::Result<Self> {
        let connection = Connection::new(bucket, credentials)?;
        let prefix = prefix(&[&bucket.prefix, user, folder]);
        let objects = Arc::new(Objects::new(connection, &bucket.name, prefix));
        if !notes::is_plain(dir, store)? {
            // A folder that could never be used is not taken there.
            let asked = objects.clone();
            runtime::run(async move { asked.has_any("").await })??;
        }
        let there = notes::directory(dir)?;
        let lock = file::append(&there, &notes::plain_name(store))?;
        file::sync(&there)?;
        Ok(Self {
            core: Arc::new(Core {
                name: store.to_owned(),
                objects,
                names: Mutex::new(lock.into_std()),
                open: OpenFiles::default(),
                times: Arc::default(),
                changes: AtomicU64::new(0),
                limits,
            }),
            growing: GrowingFiles::default(),
        })
    }

    /// As m2y.ini calls it.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// How many changes this process made. Others are seen by listing only.
    pub fn changes(&self) -> u64 {
        self.core.changes.load(Ordering::Relaxed)
    }

    /// How many files there are, and their bytes.
    ///
    /// # Errors
    ///
    /// If the bucket cannot be listed.
    pub fn totals(&self) -> io::Result<(u64, u64)> {
        self.core.ask(|objects| async move {
            let pages = objects.pages("", true);
            let counted = |(files, bytes), page: Page| {
                let shown = page.entries.iter();
                let shown = shown.filter(|entry| !listing::is_internal(&entry.key));
                let add = |(files, bytes), entry: &Entry| (files + 1, bytes + entry.size);
                ready(Ok(shown.fold((files, bytes), add)))
            };
            pages.try_fold((0, 0), counted).await
        })
    }

    /// Removes what m2y needed for itself: the folder is in another store now.
    ///
    /// # Errors
    ///
    /// If something of it is left.
    pub fn purge(&self) -> io::Result<()> {
        self.core.ask(|objects| async move {
            let left = objects.all(WORKSHOP).await?;
            let keys = left.into_iter().map(|entry| entry.key).collect();
            partial::remove_all(&objects, keys).await
        })
    }

    /// Asks the bucket for something small.
    ///
    /// # Errors
    ///
    /// If it does not answer, or not as it should.
    pub fn probe(&self) -> io::Result<()> {
        let asked = self
            .core
            .ask(|objects| async move { objects.has_any("").await });
        asked.map(drop)
    }

    fn find(&self, partial: &PartialName) -> io::Result<Option<Held>> {
        let partial = partial.clone();
        let find = |objects: Arc<Objects>| async move { partial::find(&objects, &partial).await };
        self.core.ask(find)
    }

    /// What a partial file holds, all of it written.
    fn written(&self, partial: &PartialName) -> io::Result<Held> {
        let written = self.growing.finish(partial)?;
        let held = self.find(partial)?;
        let listed = held.as_ref().map(Held::len);
        if written.is_some() && written != listed {
            return Err(io::Error::other(
                "the bucket does not list what was written to it: try again",
            ));
        }
        Ok(held.ok_or(io::ErrorKind::NotFound)?)
    }

    fn remove_partial(&self, partial: &PartialName) -> io::Result<()> {
        let partial = partial.clone();
        let remove =
            |objects: Arc<Objects>| async move { partial::remove(&objects, &partial).await };
        self.core.ask(remove)
    }

    /// A partial file that goes on behind its first `keep` bytes.
    fn resume(&self, partial: &PartialName, keep: u64) -> io::Result<Arc<Growing>> {
        let held = self.written(partial)?;
        if held.len() < keep {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let writer = PieceWriter::new(&self.core.objects, partial, held.attempt.clone());
        let kept = held.pieces.iter().filter(|piece| piece.end() <= keep);
        let place = kept.count() as u64;
        let cut = |objects: Arc<Objects>| async move { partial::cut(&objects, held, keep).await };
        let (start, gathered) = self.core.ask(cut)?;
        Ok(Growing::new(writer, (start, place), gathered))
    }

    fn entries(&self, directory: &ContentPath, times: Option<Arc<Times>>) -> io::Result<Entries> {
        let prefix = match directory.is_root() {
            true => String::new(),
            false => format!("{directory}/"),
        };
        match Entries::new(&self.core.objects, times.clone(), prefix)? {
            Some(entries) => Ok(entries),
            None if directory.is_root() => Ok(Entries::none(&self.core.objects)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Store for PlainStore {
    fn begin(&self, partial: &PartialName, keep: u64) -> io::Result<Box<dyn Sink>> {
        let growing = match keep {
            0 => {
                self.growing.abandon(partial);
                self.remove_partial(partial)?;
                let attempt: [u8; 8] = crypto::random().map_err(io::Error::other)?;
                let attempt = hex::encode(attempt);
                let writer = PieceWriter::new(&self.core.objects, partial, attempt);
                Growing::new(writer, (0, 0), Vec::new())
            }
            keep => self.resume(partial, keep)?,
        };
        Ok(self.growing.grow(partial, growing))
    }

    fn held(&self, partial: &PartialName) -> io::Result<Option<u64>> {
        match self.growing.len(partial) {
            Some(len) => Ok(Some(len)),
            None => Ok(self.find(partial)?.map(|held| held.len())),
        }
    }

    fn read(&self, partial: &PartialName) -> io::Result<Box<dyn Read + Send>> {
        let held = self.written(partial)?;
        Ok(Box::new(PieceReader::new(&self.core.objects, held)))
    }

    fn discard(&self, partial: &PartialName) {
        self.growing.abandon(partial);
        // What cannot be removed now is swept.
        let _ = self.remove_partial(partial);
    }

    fn publish(&self, partial: &PartialName, to: &Target<'_>) -> io::Result<()> {
        let held = self.written(partial)?;
        let fields = Fields {
            modified: to.modified,
            attempt: Some(held.attempt.clone()),
        };
        let keys = held.keys();
        self.core.take(to, held.pieces, fields)?;
        // It has its name. What cannot be removed now is swept, and known by the attempt until then.
        let remove =
            |objects: Arc<Objects>| async move { partial::remove_in_order(&objects, keys).await };
        let _ = self.core.ask(remove);
        Ok(())
    }

    fn open(&self, path: &ContentPath) -> io::Result<Box<dyn Contents>> {
        let key = path.to_string();
        match self.core.about(&key)? {
            Some(about) => {
                let (objects, open) = (&self.core.objects, &self.core.open);
                Ok(Box::new(PlainContents::new(objects, open, &key, about)))
            }
            None if self.core.is_directory(path)? => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn stat(&self, path: &ContentPath) -> io::Result<Option<Stat>> {
        if path.is_root() {
            return Ok(Some(directory()));
        }
        match self.core.about(&path.to_string())? {
            Some(about) => Ok(Some(stat(&about))),
            None => Ok(self.core.is_directory(path)?.then(directory)),
        }
    }

    fn list(&self, directory: &ContentPath) -> io::Result<Listing> {
        let times = Some(self.core.times.clone());
        Ok(Box::new(self.entries(directory, times)?))
    }

    fn names(&self, directory: &ContentPath) -> io::Result<Names> {
        let entries = self.entries(directory, None)?;
        Ok(Box::new(
            entries.map(|entry| entry.map(|(name, stat)| (name, stat.kind))),
        ))
    }

    fn make_dir(&self, path: &ContentPath) -> io::Result<()> {
        self.core.make_dir(path)
    }

    fn rename(&self, path: &ContentPath, to: &Target<'_>) -> io::Result<()> {
        match self.stat(path)?.map(|stat| stat.kind) {
            Some(Kind::File) => self.core.rename_file(path, to),
            Some(Kind::Directory) => self.core.rename_directory(path, to),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove(&self, path: &ContentPath) -> io::Result<()> {
        match self.stat(path)?.map(|stat| stat.kind) {
            Some(Kind::File) => self.core.remove_file(path),
            Some(Kind::Directory) => self.core.remove_directory(path),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn settle_names(&self, _: &[ContentPath]) -> io::Result<()> {
        // A change of names is on the server before it is told.
        Ok(())
    }

    fn room(&self) -> io::Result<u64> {
        // S3 does not tell.
        Ok(i64::MAX.unsigned_abs())
    }

    fn sweep(&self, before: SystemTime, removes: bool) -> io::Result<usize> {
        let before = before.duration_since(SystemTime::UNIX_EPOCH);
        let before = before.unwrap_or_default().as_nanos();
        let old = self
            .core
            .sweep(i64::try_from(before).unwrap_or(i64::MAX), removes)?;
        if removes {
            self.growing.abandon_all(&old);
        }
        Ok(old.len())
    }
}

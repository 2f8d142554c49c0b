//! Changes of names: objects are copied by the server, and then removed. A crash leaves two names
//! rather than none.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::body::Bytes;

use super::{
    Core, MARKER, WORKSHOP,
    composition::{Composition, Limits},
    objects::{About, Entry, Fields, Objects},
    partial::{self, Piece},
};
use crate::{
    clock::nanos,
    crypto,
    store::{
        ContentPath, Existing, Target,
        lock::Locked,
        member::{MemberError, MemberResult},
        runtime,
    },
};

/// Objects of a directory that are copied at a time.
const AT_ONCE: usize = 8;

/// How often a rename begins anew because the file changed meanwhile.
const ATTEMPTS: usize = 3;

/// How long a file is kept at least that is gone, but was being read: a day, in nanoseconds.
const READ: i64 = 86_400_000_000_000;

/// Where the objects of open files are that nothing else needs.
const OPEN: &str = ".m2y/open/";

impl Core {
    /// Does something with the objects, and waits for it.
    pub(super) fn ask<T, F>(&self, work: impl FnOnce(Arc<Objects>) -> F) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = MemberResult<T>> + Send + 'static,
    {
        Ok(runtime::run(work(self.objects.clone()))??)
    }

    /// What is known of the object of a key.
    pub(super) fn about(&self, key: &str) -> io::Result<Option<About>> {
        let key = key.to_owned();
        self.ask(|objects| async move { objects.about(&key).await })
    }

    /// Whether there is anything below a path.
    pub(super) fn is_directory(&self, path: &ContentPath) -> io::Result<bool> {
        if path.is_root() {
            return Ok(true);
        }
        let prefix = format!("{path}/");
        self.ask(|objects| async move { objects.has_any(&prefix).await })
    }

    /// Fails unless the directory of a path is there.
    fn check_parent(&self, path: &ContentPath) -> io::Result<()> {
        let parent = path.parent();
        match parent.is_quarantined() || self.is_directory(&parent)? {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Looks at what is at a path that is about to be taken; fails if that is not to be replaced.
    fn check_target(&self, to: &Target<'_>) -> io::Result<Option<About>> {
        if to.path.file_name().is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (key, prefix) = (to.path.to_string(), format!("{}/", to.path));
        let (there, is_directory) = self.ask(|objects| async move {
            let there = objects.about(&key);
            futures_util::future::try_join(there, objects.has_any(&prefix)).await
        })?;
        match &there {
            Some(_) if to.existing == Existing::Replace => Ok(there),
            None if !is_directory => Ok(None),
            _ => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn changed(&self, key: &str) {
        self.times.forget(key);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes the file of a path of pieces.
    pub(super) fn take(
        &self,
        to: &Target<'_>,
        pieces: Vec<Piece>,
        fields: Fields,
    ) -> io::Result<()> {
        let key = to.path.to_string();
        self.check_parent(to.path)?;
        // An earlier attempt may have got so far, and not heard of it.
        if to.existing == Existing::Replace && self.is_there(&key, &fields)? {
            return Ok(());
        }
        if pieces.len() > 1
            && let Err(error) = self.check_target(to)
        {
            // What takes long is not begun in vain.
            return self.unless_there(&key, &fields, error);
        }
        let (limits, made) = (self.limits, key.clone());
        let composition = self.ask(|objects| async move {
            Composition::prepare(&objects, pieces, &made, fields, limits).await
        })?;
        let hidden = self.hide(&key)?;
        let _names = Locked::new(&self.names)?;
        self.complete(composition, to, hidden)
    }

    /// Whether the object of a key is the very one that was to be made.
    fn is_there(&self, key: &str, fields: &Fields) -> io::Result<bool> {
        let is_it = |there: About| fields.attempt.is_some() && there.fields == *fields;
        Ok(self.about(key)?.is_some_and(is_it))
    }

    /// An error, unless what failed was done all the same: the server stopped, or its answer was lost,
    /// when the object had its key.
    fn unless_there(&self, key: &str, fields: &Fields, error: io::Error) -> io::Result<()> {
        match self.is_there(key, fields) {
            Ok(true) => Ok(()),
            _ => Err(error),
        }
    }

    /// Gives a composed object its name, while the lock of names is held.
    fn complete(
        &self,
        composition: Composition,
        to: &Target<'_>,
        hidden: Option<Hidden>,
    ) -> io::Result<()> {
        let (key, composition) = (to.path.to_string(), Arc::new(composition));
        // Somebody else may have taken it meanwhile.
        let free = self.check_target(to).and_then(|there| match there {
            Some(there) => self.keep_for_readers(&key, &there, hidden),
            None => Ok(()),
        });
        let made = composition.clone();
        let completed =
            free.and_then(|()| self.ask(|objects| async move { made.complete(&objects).await }));
        self.changed(&key);
        let Err(error) = completed else {
            return Ok(());
        };
        self.unless_there(&key, composition.fields(), error)
            .inspect_err(|_| {
                // What cannot be given up now the bucket removes by its rules.
                let _ = self.ask(|objects| async move {
                    composition.abort(&objects).await;
                    Ok(())
                });
            })
    }

    /// Copies an object that may be about to go, if somebody in this process reads it.
    fn hide(&self, key: &str) -> io::Result<Option<Hidden>> {
        if !self.open.has(key) {
            return Ok(None);
        }
        let Some(about) = self.about(key)? else {
            return Ok(None);
        };
        let random: [u8; 16] = crypto::random().map_err(io::Error::other)?;
        let hidden = format!("{OPEN}{}", hex::encode(random));
        let etag = self.copy(key, &hidden, &about, about.fields.clone())?;
        Ok(Some(Hidden {
            key: hidden,
            etag,
            of: about.etag,
        }))
    }

    /// Sees to it that who reads an object goes on with a copy of it.
    fn keep_for_readers(&self, key: &str, about: &About, hidden: Option<Hidden>) -> io::Result<()> {
        let hidden = match hidden.filter(|hidden| hidden.of == about.etag) {
            Some(hidden) => Some(hidden),
            // It was opened just now. A copy that nobody reads is swept.
            None => self.hide(key)?,
        };
        if let Some(hidden) = hidden {
            self.open.follow(key, &hidden.key, &hidden.etag, true);
        }
        Ok(())
    }

    /// Copies an object, whatever its size; returns what tells the version of the copy.
    fn copy(&self, from: &str, to: &str, about: &About, fields: Fields) -> io::Result<String> {
        let (piece, to, limits) = (piece(from, about), to.to_owned(), self.limits);
        let about = self.ask(|objects| async move {
            copy(&objects, piece, &to, fields, limits).await?;
            objects.about(&to).await
        })?;
        Ok(about.ok_or(io::ErrorKind::NotFound)?.etag)
    }

    pub(super) fn rename_file(&self, path: &ContentPath, to: &Target<'_>) -> io::Result<()> {
        let (from, key) = (path.to_string(), to.path.to_string());
        self.check_parent(to.path)?;
        if from == key {
            return self.set_time(&key, to);
        }
        for _ in 0..ATTEMPTS {
            let about = self.about(&from)?.ok_or(io::ErrorKind::NotFound)?;
            let fields = Fields {
                modified: to.modified.or(Some(about.modified)),
                ..about.fields.clone()
            };
            if let Err(error) = self.check_target(to) {
                // An earlier attempt may have got so far.
                let there = self.about(&key)?;
                return match there.is_some_and(|there| is_twin(&about, &there)) {
                    true => self.remove_version(&from, &about),
                    false => Err(error),
                };
            }
            let (piece, limits, made) = (piece(&from, &about), self.limits, key.clone());
            let composition = self.ask(|objects| async move {
                Composition::prepare(&objects, vec![piece], &made, fields, limits).await
            })?;
            let hidden = self.hide(&key)?;
            let _names = Locked::new(&self.names)?;
            if self.about(&from)?.map(|now| now.etag).as_ref() != Some(&about.etag) {
                // Another file has its name, or none.
                self.ask(|objects| async move {
                    composition.abort(&objects).await;
                    Ok(())
                })?;
                continue;
            }
            self.complete(composition, to, hidden)?;
            if self.open.has(&from) {
                let etag = self.about(&key)?.ok_or(io::ErrorKind::NotFound)?.etag;
                self.open.follow(&from, &key, &etag, false);
            }
            return self.remove_object(&from);
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the file changes all the time: try again later",
        ))
    }

    /// Changes the time of a file that is to be moved onto itself.
    fn set_time(&self, key: &str, to: &Target<'_>) -> io::Result<()> {
        if to.existing == Existing::Keep {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if to.modified.is_none() {
            return Ok(());
        }
        let _names = Locked::new(&self.names)?;
        let about = self.about(key)?.ok_or(io::ErrorKind::NotFound)?;
        let fields = Fields {
            modified: to.modified,
            ..about.fields.clone()
        };
        let etag = self.copy(key, key, &about, fields)?;
        self.open.follow(key, key, &etag, false);
        self.changed(key);
        Ok(())
    }

    pub(super) fn rename_directory(&self, path: &ContentPath, to: &Target<'_>) -> io::Result<()> {
        let (from, into) = (format!("{path}/"), format!("{}/", to.path));
        if path.is_root() || to.path.is_root() || into.starts_with(&from) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.check_parent(to.path)?;
        let _names = Locked::new(&self.names)?;
        let only_free = Target {
            existing: Existing::Keep,
            ..to.clone()
        };
        let moved: Vec<(String, String)> = self
            .below(&from)?
            .into_iter()
            .map(|entry| {
                let rest = entry.key.strip_prefix(&from).unwrap_or_default();
                let to = format!("{into}{rest}");
                (entry.key, to)
            })
            .collect();
        match self.check_target(&only_free) {
            Ok(_) => self.copy_all(&moved)?,
            // An earlier attempt may have copied all.
            Err(error) => {
                if !self.are_twins(&moved)? {
                    return Err(error);
                }
            }
        }
        for (from, to) in &moved {
            if self.open.has(from) {
                let etag = self.about(to)?.ok_or(io::ErrorKind::NotFound)?.etag;
                self.open.follow(from, to, &etag, false);
            }
            self.times.forget(from);
        }
        self.changed(&into);
        let keys = moved.into_iter().map(|(from, _)| from).collect();
        self.ask(|objects| async move { partial::remove_all(&objects, keys).await })
    }

    /// Copies all of a directory, or nothing.
    fn copy_all(&self, moved: &[(String, String)]) -> io::Result<()> {
        let limits = self.limits;
        let (moved, copied) = (moved.to_vec(), Arc::new(Mutex::new(Vec::new())));
        let noted = copied.clone();
        let copying = self.ask(|objects| async move {
            let copying = stream::iter(moved).map(|(from, to)| {
                let (objects, noted) = (&objects, &noted);
                async move {
                    let about = objects.about(&from).await?;
                    let about = about.ok_or(MemberError::Missing(from.clone()))?;
                    let piece = piece(&from, &about);
                    let fields = Fields {
                        modified: Some(about.modified),
                        ..about.fields
                    };
                    copy(objects, piece, &to, fields, limits).await?;
                    noted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(to);
                    MemberResult::Ok(())
                }
            });
            let copied = copying.buffer_unordered(AT_ONCE);
            copied.try_collect::<Vec<()>>().await
        });
        let Err(error) = copying else {
            return Ok(());
        };
        // Nothing has gone yet: what was copied goes again.
        let copied = std::mem::take(&mut *copied.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = self.ask(|objects| async move { partial::remove_all(&objects, copied).await });
        Err(error)
    }

    /// Whether each object was copied already.
    fn are_twins(&self, moved: &[(String, String)]) -> io::Result<bool> {
        for (from, to) in moved {
            let (Some(from), Some(to)) = (self.about(from)?, self.about(to)?) else {
                return Ok(false);
            };
            let are_marks = from.size == 0 && to.size == 0;
            if !are_marks && !is_twin(&from, &to) {
                return Ok(false);
            }
        }
        Ok(!moved.is_empty())
    }

    /// All objects whose keys begin with `prefix`.
    fn below(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        let prefix = prefix.to_owned();
        self.ask(|objects| async move { objects.all(&prefix).await })
    }

    fn remove_object(&self, key: &str) -> io::Result<()> {
        let gone = key.to_owned();
        self.ask(|objects| async move { objects.remove(&gone).await })?;
        self.changed(key);
        Ok(())
    }

    /// Removes an object, if it still is this version.
    fn remove_version(&self, key: &str, about: &About) -> io::Result<()> {
        let _names = Locked::new(&self.names)?;
        match self.about(key)?.is_some_and(|now| now.etag == about.etag) {
            true => self.remove_object(key),
            false => Ok(()),
        }
    }

    pub(super) fn remove_file(&self, path: &ContentPath) -> io::Result<()> {
        let key = path.to_string();
        let hidden = self.hide(&key)?;
        let _names = Locked::new(&self.names)?;
        let about = self.about(&key)?.ok_or(io::ErrorKind::NotFound)?;
        self.keep_for_readers(&key, &about, hidden)?;
        self.remove_object(&key)
    }

    pub(super) fn remove_directory(&self, path: &ContentPath) -> io::Result<()> {
        if path.file_name().is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (prefix, marker) = (format!("{path}/"), format!("{path}/{MARKER}"));
        let _names = Locked::new(&self.names)?;
        let page = self.ask(|objects| async move { objects.page(&prefix, true, None, 2).await })?;
        match page.entries.iter().all(|entry| entry.key == marker) {
            true => self.remove_object(&marker),
            false => Err(io::ErrorKind::DirectoryNotEmpty.into()),
        }
    }

    pub(super) fn make_dir(&self, path: &ContentPath) -> io::Result<()> {
        self.check_parent(path)?;
        let _names = Locked::new(&self.names)?;
        self.check_target(&Target::free(path))?;
        let marker = format!("{path}/{MARKER}");
        let made = marker.clone();
        self.ask(|objects| async move { objects.put(&made, Bytes::new()).await })?;
        self.changed(&marker);
        Ok(())
    }

    /// The names of partial files to which nothing came since `before`, in nanoseconds since 1970;
    /// removes them, if asked, and what nobody has read since then.
    pub(super) fn sweep(&self, before: i64, removes: bool) -> io::Result<Vec<String>> {
        let mut latest: HashMap<String, i64> = HashMap::new();
        let mut keys: HashMap<String, Vec<String>> = HashMap::new();
        // Another process of this root may still read what this one does not know of.
        let unread_since = before.min(nanos().saturating_sub(READ));
        let mut unread = Vec::new();
        for entry in self.below(WORKSHOP)? {
            if entry.key.starts_with(OPEN) {
                if entry.written < unread_since && !self.open.has(&entry.key) {
                    unread.push(entry.key);
                }
                continue;
            }
            let rest = entry.key.strip_prefix(partial::DIR);
            if let Some((name, _)) = rest.and_then(|rest| rest.split_once('/')) {
                let written = latest.entry(name.to_owned()).or_insert(i64::MIN);
                *written = entry.written.max(*written);
                keys.entry(name.to_owned()).or_default().push(entry.key);
            }
        }
        latest.retain(|_, written| *written < before);
        if removes {
            let old = latest.keys().filter_map(|name| keys.remove(name));
            let gone = old.flatten().chain(unread).collect();
            self.ask(|objects| async move { partial::remove_all(&objects, gone).await })?;
        }
        Ok(latest.into_keys().collect())
    }
}

/// A copy of an object that nobody but its readers knows.
struct Hidden {
    key: String,
    etag: String,
    /// The version that it is a copy of.
    of: String,
}

/// An object as what another one is made of.
fn piece(key: &str, about: &About) -> Piece {
    Piece {
        start: 0,
        len: about.size,
        key: key.to_owned(),
        etag: Some(about.etag.clone()),
    }
}

/// Whether one object is a copy of the other, which an interrupted rename left.
fn is_twin(a: &About, b: &About) -> bool {
    let attempt = &a.fields.attempt;
    a.size == b.size && attempt.is_some() && *attempt == b.fields.attempt
}

/// Copies an object, whatever its size.
async fn copy(
    objects: &Objects,
    piece: Piece,
    to: &str,
    fields: Fields,
    limits: Limits,
) -> MemberResult<()> {
    let composition = Composition::prepare(objects, vec![piece], to, fields, limits).await?;
    let completed = composition.complete(objects).await;
    if completed.is_err() {
        composition.abort(objects).await;
    }
    completed
}

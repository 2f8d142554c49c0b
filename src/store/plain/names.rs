//! Changes of names: objects are copied by the server, and then removed. A crash leaves two names
//! rather than none.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, atomic::Ordering},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::body::Bytes;

use super::{
    Core, MARKER, WORKSHOP,
    composition::Composition,
    objects::{About, Entry, Fields, Objects},
    partial::{self, Piece},
};
use crate::{
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

/// Where the objects of open files are that nothing else needs.
const OPEN: &str = ".m2y/open/";

impl Core {
    /// Does something with the objects, and waits for it.
    fn ask<T, F>(&self, work: impl FnOnce(Arc<Objects>) -> F) -> io::Result<T>
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
        if pieces.len() > 1 {
            // What takes long is not begun in vain.
            if let Err(error) = self.check_target(to) {
                return self.is_done(&key, &fields, error);
            }
        }
        let (limits, made, wanted) = (self.limits, key.clone(), fields.clone());
        let composition = self.ask(|objects| async move {
            Composition::prepare(&objects, pieces, &made, wanted, limits).await
        })?;
        self.complete(composition, to)
            .or_else(|e| self.is_done(&key, &fields, e))
    }

    /// Whether a path is taken by the very file that was to take it: the server stopped, or the
    /// answer was lost, when it had its name.
    fn is_done(&self, key: &str, fields: &Fields, error: io::Error) -> io::Result<()> {
        let is_taken = error.kind() == io::ErrorKind::AlreadyExists && fields.attempt.is_some();
        match is_taken
            && self
                .about(key)?
                .is_some_and(|there| there.fields == *fields)
        {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Gives a composed object its name.
    fn complete(&self, composition: Composition, to: &Target<'_>) -> io::Result<()> {
        let key = to.path.to_string();
        let _names = Locked::new(&self.names)?;
        // Somebody else may have taken it meanwhile.
        let free = self.check_target(to).and_then(|there| match there {
            Some(there) => self.keep_for_readers(&key, &there),
            None => Ok(()),
        });
        if let Err(error) = free {
            let _ = self.ask(|objects| async move {
                composition.abort(&objects).await;
                Ok(())
            });
            return Err(error);
        }
        self.ask(|objects| async move { composition.complete(&objects).await })?;
        self.changed(&key);
        Ok(())
    }

    /// Copies an object that is about to go, if somebody in this process reads it.
    fn keep_for_readers(&self, key: &str, about: &About) -> io::Result<()> {
        if !self.open.has(key) {
            return Ok(());
        }
        let random: [u8; 16] = crypto::random().map_err(io::Error::other)?;
        let hidden = format!("{OPEN}{}", hex::encode(random));
        let etag = self.copy(key, &hidden, about, about.fields.clone())?;
        self.open.follow(key, &hidden, &etag, true);
        Ok(())
    }

    /// Copies an object, whatever its size; returns what tells the version of the copy.
    fn copy(&self, from: &str, to: &str, about: &About, fields: Fields) -> io::Result<String> {
        let (from, to, size, limits) = (from.to_owned(), to.to_owned(), about.size, self.limits);
        let about = self.ask(|objects| async move {
            copy(&objects, (from, size), &to, fields, limits).await?;
            objects.about(&to).await
        })?;
        Ok(about.ok_or(io::ErrorKind::NotFound)?.etag)
    }

    pub(super) fn rename_file(&self, path: &ContentPath, to: &Target<'_>) -> io::Result<()> {
        let (from, key) = (path.to_string(), to.path.to_string());
        self.check_parent(to.path)?;
        let about = self.about(&from)?.ok_or(io::ErrorKind::NotFound)?;
        let fields = Fields {
            modified: to.modified.or(Some(about.modified)),
            ..about.fields.clone()
        };
        if from == key {
            return match to.existing {
                Existing::Keep => Err(io::ErrorKind::AlreadyExists.into()),
                Existing::Replace if to.modified.is_none() => Ok(()),
                Existing::Replace => {
                    let _names = Locked::new(&self.names)?;
                    let etag = self.copy(&from, &key, &about, fields)?;
                    self.open.follow(&from, &key, &etag, false);
                    self.changed(&key);
                    Ok(())
                }
            };
        }
        self.check_target(to)?;
        let piece = Piece {
            start: 0,
            len: about.size,
            key: from.clone(),
        };
        let (limits, made) = (self.limits, key.clone());
        let composition = self.ask(|objects| async move {
            Composition::prepare(&objects, vec![piece], &made, fields, limits).await
        })?;
        self.complete(composition, to)?;
        if self.open.has(&from) {
            let etag = self.about(&key)?.ok_or(io::ErrorKind::NotFound)?.etag;
            self.open.follow(&from, &key, &etag, false);
        }
        self.remove_object(&from)
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
        self.check_target(&only_free)?;
        let entries = self.below(&from)?;
        let limits = self.limits;
        let moved: Vec<(String, String)> = entries
            .iter()
            .map(|entry| {
                let rest = entry.key.strip_prefix(&from).unwrap_or_default();
                (entry.key.clone(), format!("{into}{rest}"))
            })
            .collect();
        let copied = moved.clone();
        let abouts = self.ask(|objects| async move {
            let copying = stream::iter(copied).map(|(from, to)| {
                let objects = &objects;
                async move {
                    let about = objects.about(&from).await?;
                    let about = about.ok_or(MemberError::Missing(from.clone()))?;
                    let fields = Fields {
                        modified: Some(about.modified),
                        ..about.fields
                    };
                    copy(objects, (from, about.size), &to, fields, limits).await
                }
            });
            let copied = copying.buffered(AT_ONCE);
            copied.try_collect::<Vec<()>>().await
        });
        if let Err(error) = abouts {
            // Nothing has gone yet: what was copied goes again.
            let copies = moved.into_iter().map(|(_, to)| to).collect();
            let _ = self.ask(|objects| async move { partial::remove_all(&objects, copies).await });
            return Err(error);
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

    /// All objects whose keys begin with `prefix`.
    fn below(&self, prefix: &str) -> io::Result<Vec<Entry>> {
        let prefix = prefix.to_owned();
        self.ask(|objects| async move {
            let (mut entries, mut next) = (Vec::new(), None);
            loop {
                let page = objects.page(&prefix, true, next, usize::MAX).await?;
                entries.extend(page.entries);
                next = page.next;
                if next.is_none() {
                    return Ok(entries);
                }
            }
        })
    }

    fn remove_object(&self, key: &str) -> io::Result<()> {
        let gone = key.to_owned();
        self.ask(|objects| async move { objects.remove(&gone).await })?;
        self.changed(key);
        Ok(())
    }

    pub(super) fn remove_file(&self, path: &ContentPath) -> io::Result<()> {
        let key = path.to_string();
        let _names = Locked::new(&self.names)?;
        let about = self.about(&key)?.ok_or(io::ErrorKind::NotFound)?;
        self.keep_for_readers(&key, &about)?;
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
        self.ask(|objects| async move { objects.put(&made, Bytes::new(), true).await })?;
        self.changed(&marker);
        Ok(())
    }

    /// The names of partial files to which nothing came since `before`, in nanoseconds since 1970;
    /// removes them, if asked, and what nobody has read since then.
    pub(super) fn sweep(&self, before: i64, removes: bool) -> io::Result<Vec<String>> {
        let mut latest: HashMap<String, i64> = HashMap::new();
        let mut keys: HashMap<String, Vec<String>> = HashMap::new();
        let mut unread = Vec::new();
        for entry in self.below(WORKSHOP)? {
            if entry.key.starts_with(OPEN) {
                if entry.written < before && !self.open.has(&entry.key) {
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

/// Copies an object, whatever its size.
async fn copy(
    objects: &Objects,
    (from, size): (String, u64),
    to: &str,
    fields: Fields,
    limits: super::Limits,
) -> MemberResult<()> {
    let piece = Piece {
        start: 0,
        len: size,
        key: from,
    };
    let composition = Composition::prepare(objects, vec![piece], to, fields, limits).await?;
    composition.complete(objects).await
}

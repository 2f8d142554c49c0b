//! One look into one folder: what differs from the index becomes a task.

use std::{collections::HashSet, io, path::Path, sync::Arc, time::Instant};

use cap_std::fs::MetadataExt;
use rusqlite::Connection;
use tracing::{debug, info, warn};

use super::{CHUNK, MAX_MOVED, Moved, WatchError, Worker, counts, pending::Rested};
use crate::{
    clock,
    crypto::CryptoError,
    event::{EventId, Kind},
    hooks::self_changes::{When, nanos_of, stored},
    journal::{
        self, JournalError, Task,
        file_index::{self, Print, nanos},
    },
    json::Map,
    root::{
        config::{Config, EVENT_SECTIONS},
        folder::{CONFIG, Folder},
    },
    store::{self, ContentPath, Store},
};

/// The programs and scripts of a folder.
pub fn tools(config: &Config) -> HashSet<String> {
    let sections = EVENT_SECTIONS.iter();
    sections
        .flat_map(|section| config.scripts(section))
        .collect()
}

/// One look into one folder.
pub struct Comparison<'a> {
    pub(super) worker: &'a Worker,
    pub(super) path: &'a Path,
    pub(super) folder: &'a Folder,
    /// Its contents, if they are in a store elsewhere.
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) user: &'a str,
    pub(super) name: &'a str,
    pub(super) config: &'a Config,
    pub(super) tools: HashSet<String>,
    pub(super) moved: &'a mut Moved,
}

/// A file that is not what the index says.
struct Change {
    file: String,
    is: Option<Print>,
}

impl Comparison<'_> {
    /// Records what was there when a script began to wait for news; returns whether it came to an
    /// end.
    pub(super) fn learn(&self) -> Result<bool, WatchError> {
        let about = self.folder.dir().metadata(CONFIG)?;
        let since = nanos(about.ctime(), about.ctime_nsec());
        // What began this before may not have ended it.
        self.index(file_index::quiet)?;
        let mut names = self.names()?;
        loop {
            let mut old = Vec::new();
            for file in names.by_ref() {
                let file = file?;
                // One that cannot be looked at is reported when the folder is read.
                if let Ok((Some(is), _)) = self.print(&file)
                    && is.modified < since
                {
                    old.push((file, is));
                }
                if old.len() >= CHUNK {
                    break;
                }
            }
            let all = old.len() < CHUNK;
            self.index(move |db, user, folder| {
                for (file, is) in &old {
                    file_index::put(db, user, folder, file, Some(*is))?;
                }
                if all {
                    file_index::wake(db, user, folder)
                } else {
                    Ok(())
                }
            })?;
            if all || self.worker.pending.stopped() {
                return Ok(all);
            }
        }
    }

    /// Changes the index of the folder, without making an event.
    fn index(
        &self,
        change: impl Fn(&Connection, &str, &str) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), JournalError> {
        let (user, folder) = (self.user.to_owned(), self.name.to_owned());
        let journal = &self.worker.journal;
        let written = journal.quietly(false, move |db| change(db, &user, &folder));
        written.wait()
    }

    /// Compares the whole folder with the index: first what the index knows, so that a renamed file
    /// disappears before it appears.
    pub(super) fn scan(&mut self) -> Result<(), WatchError> {
        let pending = &self.worker.pending;
        let mut last = String::new();
        loop {
            let known = file_index::after(&self.worker.reader, self.user, self.name, &last, CHUNK)?;
            let Some((file, _)) = known.last() else {
                break;
            };
            last.clone_from(file);
            let differs = known.into_iter().filter_map(|(file, was)| {
                let is = self.print(&file);
                let same = is.is_ok_and(|(is, _)| is.is_some_and(|is| is.is_like(&was)));
                (!same && !pending.waits(self.path, &file)).then_some(file)
            });
            self.compare_all(differs.map(unseen).collect())?;
            if pending.stopped() {
                return Ok(());
            }
        }
        let mut names = Vec::new();
        for file in self.names()? {
            let file = file?;
            if counts(&file)
                && !pending.waits(self.path, &file)
                && file_index::get(&self.worker.reader, self.user, self.name, &file)?.is_none()
            {
                names.push(unseen(file));
            }
            if names.len() >= CHUNK {
                self.compare_all(std::mem::take(&mut names))?;
                if pending.stopped() {
                    return Ok(());
                }
            }
        }
        self.compare_all(names)
    }

    pub(super) fn compare_all(&mut self, mut rested: Vec<Rested>) -> Result<(), WatchError> {
        while !rested.is_empty() {
            let rest = rested.split_off(rested.len().min(CHUNK));
            self.compare(rested)?;
            rested = rest;
        }
        Ok(())
    }

    /// Compares files with the index and records what differs.
    fn compare(&mut self, rested: Vec<Rested>) -> Result<(), WatchError> {
        let (mut changes, mut tasks) = (Vec::new(), Vec::new());
        let now = clock::nanos();
        let mut own = 0_usize;
        for rested in rested {
            let (is, changed) = match self.print(&rested.file) {
                Ok(found) => found,
                Err(error) => {
                    warn!("{}: {error}", self.folder.path_of(&rested.file).display());
                    continue;
                }
            };
            let was = file_index::get(&self.worker.reader, self.user, self.name, &rested.file)?;
            // If events are missing, nothing else tells that somebody is writing.
            let age = is.map(|is| now.saturating_sub(is.modified));
            if age.is_some_and(|age| (0..nanos_of(self.worker.settle)).contains(&age)) {
                self.worker.pending.again(self.path, rested);
                continue;
            }
            let kind = match (was, is) {
                (None, Some(_)) => Kind::New,
                (Some(_), None) => Kind::Deleted,
                (Some(was), Some(is)) if !is.is_like(&was) => Kind::Changed,
                _ => continue,
            };
            // No program reaches what is in a store, whatever runs in the folder.
            let when = match self.store {
                Some(_) => When::default(),
                None => When {
                    changed,
                    first: rested.first,
                    last: rested.last,
                },
            };
            if self
                .worker
                .self_changes
                .has(self.path, &rested.file, is, when)
            {
                own = own.saturating_add(1);
            } else if !self.tools.contains(&rested.file) {
                let id = self.id(was, is)?;
                if !self.config.scripts(kind.section()).is_empty() {
                    tasks.push(self.task(id, kind, &rested.file));
                }
            }
            changes.push(Change {
                file: rested.file,
                is,
            });
        }
        if own > 0 {
            info!(
                user = self.user,
                folder = self.name,
                files = own,
                "a hook's own work"
            );
        }
        if changes.is_empty() {
            return Ok(());
        }
        let (user, folder) = (self.user.to_owned(), self.name.to_owned());
        let journal = &self.worker.journal;
        let events = !tasks.is_empty();
        let known = move |db: &Connection| {
            for Change { file, is } in &changes {
                file_index::put(db, &user, &folder, file, *is)?;
            }
            journal::insert(db, &tasks)
        };
        let written = match events {
            true => journal.write(true, known),
            false => journal.quietly(false, known),
        };
        Ok(written.wait()?)
    }

    /// The id of an event. A file that is gone and one that has appeared in its likeness share one.
    fn id(&mut self, was: Option<Print>, is: Option<Print>) -> Result<EventId, CryptoError> {
        if let Some((id, _)) = is.and_then(|is| self.moved.remove(&is)) {
            return Ok(id);
        }
        let id = EventId::new()?;
        if let (Some(was), None) = (was, is)
            && self.moved.len() < MAX_MOVED
        {
            self.moved.insert(was, (id, Instant::now()));
        }
        Ok(id)
    }

    fn task(&self, id: EventId, kind: Kind, file: &str) -> Task {
        Task {
            id: id.to_string(),
            kind: kind.section().to_owned(),
            part: 0,
            user: self.user.to_owned(),
            folder: self.name.to_owned(),
            file: Some(file.to_owned()),
            body: Map::new(),
        }
    }

    /// The names of the folder's files, in no order. One that is not UTF-8 is none of them.
    fn names(&self) -> io::Result<Box<dyn Iterator<Item = io::Result<String>>>> {
        if let Some(store) = &self.store {
            let names = store.names(&ContentPath::default())?;
            let files =
                names.filter(|name| !matches!(name, Ok((_, kind)) if *kind != store::Kind::File));
            return Ok(Box::new(files.map(|name| name.map(|(name, _)| name))));
        }
        let (entries, at) = (self.folder.dir().entries()?, self.path.to_owned());
        Ok(Box::new(entries.filter_map(move |entry| {
            let name = entry.and_then(|entry| {
                let is_file = entry.file_type()?.is_file();
                Ok(is_file.then(|| entry.file_name()))
            });
            match name.transpose()?.map(|name| name.into_string()) {
                Ok(Ok(name)) => Some(Ok(name)),
                Ok(Err(_)) => {
                    debug!("{}: skipped a name that is not UTF-8", at.display());
                    None
                }
                Err(error) => Some(Err(error)),
            }
        })))
    }

    /// A file as it is, if it counts, and when that was changed last, in nanoseconds since
    /// 1970.
    fn print(&self, file: &str) -> io::Result<(Option<Print>, Option<i64>)> {
        if !counts(file) {
            return Ok((None, None));
        }
        if let Some(store) = &self.store {
            return Ok((stored(&**store, file)?, None));
        }
        match self.folder.dir().symlink_metadata(file) {
            Ok(about) => Ok(match Print::of(&about) {
                Some(print) => (Some(print), Some(nanos(about.ctime(), about.ctime_nsec()))),
                None => (None, None),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((None, None)),
            Err(e) => Err(e),
        }
    }
}

/// A file for which no event was seen.
fn unseen(file: String) -> Rested {
    Rested {
        file,
        first: None,
        last: None,
    }
}

//! The last events of a folder, found again so that its hooks can run for them once more,
//! without doing anything.
//!
//! No list of past events is kept. What there is, newest first:
//!
//! | what happened | where that is found | which events run |
//! | --- | --- | --- |
//! | somebody sent a file | the transfers in the journal, with the `.meta` wherever hooks have put it in the user's folders and the directories in them | OnMeta; then OnReceived, if the file was let in and is still there |
//! | hooks failed, or still have to run | the tasks in the journal | the event that waits |
//! | somebody sent a file, and the journal does not know it | the `.meta` in the folder or a directory in it | as above |
//! | a file appeared, and `[OnNew]` has scripts | the folder | OnNew |
//!
//! The last two count only if the first two are fewer than wanted. Scripts see the folder as it is
//! now, with two exceptions: at OnMeta the file has not arrived, and at OnReceived it has the name
//! under which it arrived, even if a hook has renamed or moved it since. What hooks wrote into a
//! `.meta` back then stays in it: it cannot be told apart from what the sender wrote.

mod arrival;
mod metas;

use std::sync::Arc;

use rusqlite::Connection;

use self::arrival::Arrivals;
use super::{
    Hooks,
    dispatch::{Gone, rebuild},
    firing::Displaced,
    folder_files::Files,
    notes::{Notes, Written},
    watch::counts,
};
use crate::{
    error::printable,
    event::{Event, EventId, Kind, Verdict},
    journal::{
        self, Entry, JournalError,
        delivered::{self, Transfer},
    },
    meta::Meta,
    root::{Root, config::Config, folder::Folder},
    store::Stores,
};

/// Something that happened in a folder.
pub struct Recent {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// What, in a few words that are safe to print.
    pub title: String,
    /// What of it cannot be run again, and why.
    pub note: Option<String>,
    /// Its events, in their order.
    steps: Vec<Step>,
}

/// One event, and where its files were then.
struct Step {
    event: Event,
    displaced: Vec<Displaced>,
}

impl Step {
    fn of(event: Event) -> Self {
        Self {
            event,
            displaced: Vec::new(),
        }
    }
}

/// What the hooks of one event say now.
pub struct Rehearsed {
    /// Which event.
    pub event: Kind,
    /// The meta before them.
    pub before: Option<Meta>,
    /// What they decided; nothing of it was done.
    pub verdict: Verdict,
    /// What they logged, and what they would have done.
    pub written: Written,
}

/// Why the last events cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum RecentError {
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There is no randomness for an id.
    #[error(transparent)]
    Crypto(#[from] crate::crypto::CryptoError),
}

impl From<rusqlite::Error> for RecentError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Journal(error.into())
    }
}

/// The last events of a folder, at most `limit`, newest first. Nothing is written. It waits
/// for a disk.
pub fn recent(
    root: &Root,
    folder: &Folder,
    config: &Arc<Config>,
    stores: &Stores,
    limit: usize,
) -> Result<Vec<Recent>, RecentError> {
    let finder = Finder {
        root,
        folder,
        config,
        stores,
    };
    let mut found = match journal::look(root)? {
        Some(db) => finder.in_journal(&db, limit)?,
        None => Found::default(),
    };
    found.recent.sort_by_key(|one| std::cmp::Reverse(one.at));
    found.recent.truncate(limit);
    let arrivals = Arrivals::new(folder, config, stores);
    if found.recent.len() < limit {
        let left = limit - found.recent.len();
        found.recent.extend(arrivals.unknown(&found.known, left)?);
    }
    if found.recent.len() < limit && !config.scripts(Kind::New.section()).is_empty() {
        let left = limit - found.recent.len();
        found.recent.extend(finder.new_files(&found.files, left)?);
    }
    Ok(found.recent)
}

#[derive(Default)]
struct Found {
    recent: Vec<Recent>,
    /// The transfers among them.
    known: Vec<delivered::Key>,
    /// The files that have a waiting event.
    files: Vec<String>,
}

struct Finder<'a> {
    root: &'a Root,
    folder: &'a Folder,
    config: &'a Arc<Config>,
    stores: &'a Stores,
}

impl Finder<'_> {
    fn in_journal(&self, db: &Connection, limit: usize) -> Result<Found, RecentError> {
        let names = (
            self.folder.user().name().as_str(),
            self.folder.name().as_str(),
        );
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let transfers = delivered::latest(db, names, limit)?;
        let known: Vec<_> = transfers.iter().map(|(_, one)| one.key.clone()).collect();
        let arrivals = Arrivals::new(self.folder, self.config, self.stores);
        let mut recent = arrivals.of_transfers(transfers);
        let ids: Vec<String> = known
            .iter()
            .map(|key| EventId::from(key).to_string())
            .collect();
        let mut files = Vec::new();
        for entry in journal::latest_events(db, names, limit)? {
            files.extend(entry.task.file.clone());
            // The OnReceived of such a transfer runs with its OnMeta.
            let runs_already =
                entry.task.kind == Kind::Received.section() && ids.contains(&entry.task.id);
            if !runs_already {
                recent.push(self.waiting(&entry));
            }
        }
        Ok(Found {
            recent,
            known,
            files,
        })
    }

    /// An event that waits in the journal.
    fn waiting(&self, entry: &Entry) -> Recent {
        let file = entry.task.file.as_deref().unwrap_or_default();
        let state = match (entry.dead, entry.attempts) {
            (true, 1) => "given up after 1 attempt".to_owned(),
            (true, tries) => format!("given up after {tries} attempts"),
            (false, 0) => "waits".to_owned(),
            (false, 1) => "waits after 1 attempt".to_owned(),
            (false, tries) => format!("waits after {tries} attempts"),
        };
        let mut recent = Recent {
            at: entry.created,
            title: format!("{} {}, {state}", entry.task.kind, printable(file, 200)),
            note: None,
            steps: Vec::new(),
        };
        match rebuild(self.root, self.stores, &entry.task) {
            Ok(mut event) => {
                // As it is now, even if a running server would keep the one before.
                event.config.clone_from(self.config);
                recent.steps.push(Step::of(event));
            }
            Err(Gone::Forget(why) | Gone::Later(why)) => recent.note = Some(why),
        }
        recent
    }

    /// The newest files that nobody sent, except those that have a waiting event.
    fn new_files(&self, waiting: &[String], limit: usize) -> Result<Vec<Recent>, RecentError> {
        let files = Files::new(self.folder, self.stores);
        let Ok(names) = files.names("") else {
            return Ok(Vec::new());
        };
        let mut tools = Kind::ALL
            .map(|kind| self.config.scripts(kind.section()))
            .concat();
        tools.sort();
        let mut found: Vec<(i64, String)> = names
            .filter_map(Result::ok)
            .filter(|name| counts(name) && tools.binary_search(name).is_err())
            .filter(|name| !waiting.contains(name))
            .filter(|name| {
                let stem = name
                    .rsplit_once('.')
                    .map_or(name.as_str(), |(stem, _)| stem);
                !matches!(files.stat(&format!("{stem}.meta")), Ok(Some(_)))
            })
            .filter_map(|name| Some((files.stat(&name).ok()??.modified, name)))
            .collect();
        found.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
        found.truncate(limit);
        let recent = found.into_iter().map(|(modified, name)| {
            let (folder, config) = (self.folder.clone(), self.config.clone());
            let event = Event {
                file: Some(name.clone()),
                ..Event::of_folder(Kind::New, folder, config)?
            };
            Ok(Recent {
                at: modified.max(0).unsigned_abs() / 1_000_000,
                title: printable(&name, 200),
                note: None,
                steps: vec![Step::of(event)],
            })
        });
        recent.collect()
    }
}

impl Recent {
    /// Runs the hooks of its events, one after the other, until one objects. Nothing that
    /// they ask for is done, and no program is started.
    pub async fn rehearse(self, hooks: &Hooks) -> Vec<Rehearsed> {
        let mut rehearsed = Vec::new();
        let mut left = None;
        for Step {
            mut event,
            displaced,
        } in self.steps
        {
            // OnReceived finds the meta as OnMeta left it.
            if let (Some(subject), Some(meta)) = (&mut event.subject, left.take()) {
                subject.meta = meta;
            }
            let kind = event.kind;
            let before = event.subject.as_ref().map(|subject| subject.meta.clone());
            let notes = Notes::default();
            let verdict = hooks.rehearse(event, displaced, &notes).await;
            let is_over = verdict.outcome.objection().is_some();
            left.clone_from(&verdict.meta);
            rehearsed.push(Rehearsed {
                event: kind,
                before,
                verdict,
                written: notes.take(),
            });
            if is_over {
                break;
            }
        }
        rehearsed
    }
}

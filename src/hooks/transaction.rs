//! What the scripts of one event ask for: collected while they run, and done once they have
//! come to a decision.
//!
//! A script that reads what it or one before it wrote sees that: values of `state` and files of the
//! folder are looked up here first. If the event comes to no decision, nothing of it stays, and the
//! next attempt begins from the same state.

pub mod files;
pub mod requests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{change::Change, firing::Displaced};
use crate::{
    event::Effect,
    journal::script_state::Edits,
    root::{name::Name, user::User},
    store::Stores,
};
use files::FileEdits;
use requests::Requests;

/// Lines for the inbox of one event.
pub const MAX_LINES: usize = 1_024;

/// What the scripts of one event have asked for so far. Clones are the same one.
#[derive(Clone)]
pub struct Transaction(Arc<Mutex<Asked>>);

/// What was asked for.
pub struct Asked {
    values: BTreeMap<String, Edits>,
    /// The files, as they will be.
    pub files: FileEdits,
    /// What servers were asked.
    pub requests: Requests,
    inbox: Vec<String>,
    effects: Vec<Effect>,
    upkeep: Vec<Change>,
}

/// What the scripts of an event have asked for, when they have come to a decision.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Values of `state`, by the names of the folders.
    pub values: BTreeMap<String, Edits>,
    /// What becomes of files, in this order.
    pub files: Vec<Change>,
    /// What is known of files that they looked at or changed, as it was then.
    pub touched: files::Touched,
    /// Lines for the inbox.
    pub inbox: Vec<String>,
    /// What is done later.
    pub effects: Vec<Effect>,
}

impl Transaction {
    /// Nothing yet, for the scripts of a user.
    pub fn new(user: &User, stores: &Stores) -> Self {
        Self(Arc::new(Mutex::new(Asked {
            values: BTreeMap::new(),
            files: FileEdits::new(user, stores),
            requests: Requests::default(),
            inbox: Vec::new(),
            effects: Vec::new(),
            upkeep: Vec::new(),
        })))
    }

    /// Nothing yet, for scripts that run again: what servers answered them stays.
    #[must_use]
    pub fn anew(&self, user: &User, stores: &Stores) -> Self {
        let again = Self::new(user, stores);
        let mut requests = self.lock().requests.clone();
        requests.rewind();
        again.lock().requests = requests;
        again
    }

    /// Lets the scripts find a file where it was when their event happened. If a different one is
    /// there now, they find that.
    pub(super) fn displace(&self, file: Displaced) {
        let files = &mut self.lock().files;
        let _ = match file.then {
            Some(then) => files.rename(file.now, then),
            None => files.remove(&file.now.0, &file.now.1),
        };
    }

    /// What was asked for so far.
    pub fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks again at all files that the scripts touched: a program has run since. It waits for
    /// a disk.
    pub fn refresh(&self) -> std::io::Result<()> {
        self.lock().files.refresh()
    }

    /// Whether the scripts have touched no file.
    pub fn is_unchanged(&self) -> bool {
        self.lock().files.is_unchanged()
    }

    /// Ends it, and takes what was asked for. Fails if files would have to be renamed in a circle.
    pub fn take(&self) -> Result<Changes, String> {
        let mut asked = self.lock();
        let (mut files, touched) = asked.files.take()?;
        files.append(&mut asked.upkeep);
        Ok(Changes {
            values: std::mem::take(&mut asked.values),
            files,
            touched,
            inbox: std::mem::take(&mut asked.inbox),
            effects: std::mem::take(&mut asked.effects),
        })
    }
}

impl Asked {
    /// What was read and written of the values of a folder.
    pub fn values(&mut self, folder: &Name) -> &mut Edits {
        self.values.entry(folder.to_string()).or_default()
    }

    /// Adds a line for the inbox; `false` if there are too many.
    #[must_use]
    pub fn tell(&mut self, line: String) -> bool {
        let fits = self.inbox.len() < MAX_LINES;
        if fits {
            self.inbox.push(line);
        }
        fits
    }

    /// Adds something that is done after the decision.
    pub fn queue(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Whether a message was answered.
    pub fn is_answered(&self) -> bool {
        let is_answer = |effect: &Effect| matches!(effect, Effect::Message { .. });
        self.effects.iter().any(is_answer)
    }

    /// Adds something that is done to the folder as a whole.
    pub fn keep_up(&mut self, change: Change) {
        self.upkeep.push(change);
    }
}

impl Changes {
    /// Whether the scripts of another event may see them: then they take effect before the
    /// next script runs.
    pub fn are_shared(&self) -> bool {
        !self.files.is_empty() || self.values.values().any(|edits| !edits.writes.is_empty())
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        !self.are_shared() && self.inbox.is_empty() && self.effects.is_empty()
    }
}

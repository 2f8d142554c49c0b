//! What scripts keep with `state`, in the journal of the root.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use rusqlite::Connection;

use super::api::state::{MAX_KEYS, State, StateError};
use crate::{
    journal::{
        self, Journal, JournalError,
        delivered::{self, DeliveredBefore},
        script_state::{self, Edits},
        sent::{self, Sent},
    },
    json::Value,
    root::{Root, name::Name},
};

/// Values that outlive the process; those decided last before a loss of power are lost with their
/// decision.
pub struct JournalState {
    journal: Journal,
    reader: Mutex<Connection>,
    delivered: DeliveredBefore,
}

impl JournalState {
    /// The values of a journal.
    pub fn new(journal: &Journal) -> Result<Self, JournalError> {
        Ok(Self {
            journal: journal.clone(),
            reader: Mutex::new(journal.reader()?),
            delivered: DeliveredBefore::new(journal)?,
        })
    }
}

/// Read-only values, for runs that change nothing.
pub struct ReadOnlyState(Option<Mutex<Connection>>);

impl ReadOnlyState {
    /// The values of a root, if it has any.
    pub fn new(root: &Root) -> Result<Self, JournalError> {
        Ok(Self(journal::look(root)?.map(Mutex::new)))
    }
}

impl State for ReadOnlyState {
    fn get(&self, user: &Name, folder: &Name, key: &str) -> Result<Option<Value>, StateError> {
        match &self.0 {
            Some(db) => get(db, user, folder, key),
            None => Ok(None),
        }
    }

    fn keys(&self, user: &Name, folder: &Name) -> Result<Vec<String>, StateError> {
        match &self.0 {
            Some(db) => keys(db, user, folder),
            None => Ok(Vec::new()),
        }
    }

    fn apply(&self, _: &Name, _: &BTreeMap<String, Edits>) -> Result<bool, StateError> {
        let sentence = "this run changes nothing".to_owned();
        Err(StateError::Unreachable(sentence))
    }

    fn is_pending(&self, user: &Name, folder: &Name, file: &str) -> Result<bool, StateError> {
        let Some(db) = &self.0 else {
            return Ok(false);
        };
        let db = db.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = (user.as_str(), folder.as_str());
        delivered::is_pending(&db, folder, file).map_err(unreachable)
    }

    fn sent(
        &self,
        user: &Name,
        folder: &Name,
        sender: &str,
        from_day: u64,
    ) -> Result<Sent, StateError> {
        match &self.0 {
            Some(db) => sent(db, (user, folder), sender, from_day),
            None => Ok(Sent::default()),
        }
    }
}

impl State for JournalState {
    fn get(&self, user: &Name, folder: &Name, key: &str) -> Result<Option<Value>, StateError> {
        get(&self.reader, user, folder, key)
    }

    fn keys(&self, user: &Name, folder: &Name) -> Result<Vec<String>, StateError> {
        keys(&self.reader, user, folder)
    }

    fn apply(&self, user: &Name, edits: &BTreeMap<String, Edits>) -> Result<bool, StateError> {
        let (user, edits) = (user.to_string(), edits.clone());
        let written = self.journal.quietly(true, move |db| {
            let can = script_state::can_apply(db, &user, &edits, MAX_KEYS)?;
            if can {
                script_state::apply(db, &user, &edits)?;
            }
            Ok(can)
        });
        written.wait().map_err(unreachable)
    }

    fn is_pending(&self, user: &Name, folder: &Name, file: &str) -> Result<bool, StateError> {
        let folder = (user.as_str(), folder.as_str());
        self.delivered.is_pending(folder, file).map_err(unreachable)
    }

    fn sent(
        &self,
        user: &Name,
        folder: &Name,
        sender: &str,
        from_day: u64,
    ) -> Result<Sent, StateError> {
        sent(&self.reader, (user, folder), sender, from_day)
    }
}

fn get(
    db: &Mutex<Connection>,
    user: &Name,
    folder: &Name,
    key: &str,
) -> Result<Option<Value>, StateError> {
    let db = db.lock().unwrap_or_else(PoisonError::into_inner);
    script_state::get(&db, user.as_str(), folder.as_str(), key).map_err(unreachable)
}

fn keys(db: &Mutex<Connection>, user: &Name, folder: &Name) -> Result<Vec<String>, StateError> {
    let db = db.lock().unwrap_or_else(PoisonError::into_inner);
    script_state::keys(&db, user.as_str(), folder.as_str()).map_err(unreachable)
}

fn sent(
    db: &Mutex<Connection>,
    (user, folder): (&Name, &Name),
    sender: &str,
    from_day: u64,
) -> Result<Sent, StateError> {
    let db = db.lock().unwrap_or_else(PoisonError::into_inner);
    sent::find(&db, (user.as_str(), folder.as_str()), sender, from_day).map_err(unreachable)
}

fn unreachable(error: impl Into<JournalError>) -> StateError {
    StateError::Unreachable(error.into().to_string())
}

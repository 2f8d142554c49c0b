//! What scripts keep with `state`, in the journal of the root.

use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use super::api::state::{MAX_KEYS, State, StateError, sum};
use crate::{
    journal::{self, Journal, JournalError, script_state},
    json::Value,
    root::{Root, name::Name},
};

/// Values that outlive the process, and a loss of power.
pub struct JournalState {
    journal: Journal,
    reader: Mutex<Connection>,
}

impl JournalState {
    /// The values of a journal.
    pub fn new(journal: &Journal) -> Result<Self, JournalError> {
        Ok(Self {
            journal: journal.clone(),
            reader: Mutex::new(journal.reader()?),
        })
    }

    /// Runs `work` alone, and returns when what it wrote is safe.
    fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> rusqlite::Result<Result<T, StateError>> + Send + 'static,
    ) -> Result<T, StateError> {
        let written = self.journal.write(true, work).wait();
        written.unwrap_or_else(|e| Err(unreachable(e)))
    }
}

/// Values to look at only, for runs that change nothing.
pub struct ReadOnlyState(Option<Mutex<Connection>>);

impl ReadOnlyState {
    /// The values of a root, if it has any.
    pub fn new(root: &Root) -> Result<Self, JournalError> {
        Ok(Self(journal::look(root)?.map(Mutex::new)))
    }
}

/// What is said to whoever wants to change a value all the same.
fn only_seen<T>() -> Result<T, StateError> {
    let sentence = "this run changes nothing".to_owned();
    Err(StateError::Unreachable(sentence))
}

impl State for ReadOnlyState {
    fn get(&self, user: &Name, folder: &Name, key: &str) -> Result<Option<Value>, StateError> {
        let Some(db) = &self.0 else {
            return Ok(None);
        };
        let db = db.lock().unwrap_or_else(PoisonError::into_inner);
        script_state::get(&db, user.as_str(), folder.as_str(), key).map_err(unreachable)
    }

    fn set(&self, _: &Name, _: &Name, _: &str, _: Value) -> Result<(), StateError> {
        only_seen()
    }

    fn add(&self, _: &Name, _: &Name, _: &str, _: i64) -> Result<i64, StateError> {
        only_seen()
    }

    fn remove(&self, _: &Name, _: &Name, _: &str) -> Result<bool, StateError> {
        only_seen()
    }

    fn keys(&self, user: &Name, folder: &Name) -> Result<Vec<String>, StateError> {
        let Some(db) = &self.0 else {
            return Ok(Vec::new());
        };
        let db = db.lock().unwrap_or_else(PoisonError::into_inner);
        script_state::keys(&db, user.as_str(), folder.as_str()).map_err(unreachable)
    }
}

fn unreachable(error: impl Into<JournalError>) -> StateError {
    StateError::Unreachable(error.into().to_string())
}

fn put(
    db: &Connection,
    user: &str,
    folder: &str,
    key: &str,
    value: &Value,
) -> rusqlite::Result<Result<(), StateError>> {
    if script_state::others(db, user, folder, key)? >= MAX_KEYS as u64 {
        return Ok(Err(StateError::Full));
    }
    script_state::put(db, user, folder, key, value)?;
    Ok(Ok(()))
}

impl State for JournalState {
    fn get(&self, user: &Name, folder: &Name, key: &str) -> Result<Option<Value>, StateError> {
        let db = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        script_state::get(&db, user.as_str(), folder.as_str(), key).map_err(unreachable)
    }

    fn set(&self, user: &Name, folder: &Name, key: &str, value: Value) -> Result<(), StateError> {
        let (user, folder, key) = (user.to_string(), folder.to_string(), key.to_owned());
        self.write(move |db| put(db, &user, &folder, &key, &value))
    }

    fn add(&self, user: &Name, folder: &Name, key: &str, n: i64) -> Result<i64, StateError> {
        let (user, folder, key) = (user.to_string(), folder.to_string(), key.to_owned());
        self.write(move |db| {
            let old = script_state::get(db, &user, &folder, &key)?;
            let new = match sum(old.as_ref(), n) {
                Ok(new) => new,
                Err(error) => return Ok(Err(error)),
            };
            Ok(put(db, &user, &folder, &key, &new.into())?.map(|()| new))
        })
    }

    fn remove(&self, user: &Name, folder: &Name, key: &str) -> Result<bool, StateError> {
        let (user, folder, key) = (user.to_string(), folder.to_string(), key.to_owned());
        self.write(move |db| Ok(Ok(script_state::remove(db, &user, &folder, &key)?)))
    }

    fn keys(&self, user: &Name, folder: &Name) -> Result<Vec<String>, StateError> {
        let db = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        script_state::keys(&db, user.as_str(), folder.as_str()).map_err(unreachable)
    }
}

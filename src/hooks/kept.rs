//! What scripts keep with `state`, in the journal of the root.

use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use super::api::state::{MAX_KEYS, State, StateError, sum};
use crate::{
    journal::{self, Journal, JournalError},
    json::Value,
    root::{Root, name::Name},
};

/// Values that outlive the process, and a loss of power.
pub struct KeptState {
    journal: Journal,
    reader: Mutex<Connection>,
}

impl KeptState {
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
pub struct SeenState(Option<Mutex<Connection>>);

impl SeenState {
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

impl State for SeenState {
    fn get(&self, user: &Name, folder: &Name, key: &str) -> Result<Option<Value>, StateError> {
        let Some(db) = &self.0 else {
            return Ok(None);
        };
        let db = db.lock().unwrap_or_else(PoisonError::into_inner);
        read(&db, user.as_str(), folder.as_str(), key).map_err(unreachable)
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
        read_keys(&db, user.as_str(), folder.as_str()).map_err(unreachable)
    }
}

fn unreachable(error: impl Into<JournalError>) -> StateError {
    StateError::Unreachable(error.into().to_string())
}

fn read(db: &Connection, user: &str, folder: &str, key: &str) -> rusqlite::Result<Option<Value>> {
    let text: Option<String> = db
        .prepare_cached("SELECT value FROM state WHERE user = ?1 AND folder = ?2 AND key = ?3")?
        .query_row([user, folder, key], |row| row.get(0))
        .optional()?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

fn read_keys(db: &Connection, user: &str, folder: &str) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT key FROM state WHERE user = ?1 AND folder = ?2 ORDER BY key")?
        .query_map([user, folder], |row| row.get(0))?
        .collect()
}

fn put(
    db: &Connection,
    user: &str,
    folder: &str,
    key: &str,
    value: &Value,
) -> rusqlite::Result<Result<(), StateError>> {
    let keys: u32 = db
        .prepare_cached("SELECT count(*) FROM state WHERE user = ?1 AND folder = ?2 AND key <> ?3")?
        .query_row([user, folder, key], |row| row.get(0))?;
    if usize::try_from(keys).is_ok_and(|keys| keys >= MAX_KEYS) {
        return Ok(Err(StateError::Full));
    }
    db.prepare_cached(
        "INSERT OR REPLACE INTO state (user, folder, key, value) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![user, folder, key, value.to_string()])?;
    Ok(Ok(()))
}

impl State for KeptState {
    fn get(&self, user: &Name, folder: &Name, key: &str) -> Result<Option<Value>, StateError> {
        let db = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        read(&db, user.as_str(), folder.as_str(), key).map_err(unreachable)
    }

    fn set(&self, user: &Name, folder: &Name, key: &str, value: Value) -> Result<(), StateError> {
        let (user, folder, key) = (user.to_string(), folder.to_string(), key.to_owned());
        self.write(move |db| put(db, &user, &folder, &key, &value))
    }

    fn add(&self, user: &Name, folder: &Name, key: &str, n: i64) -> Result<i64, StateError> {
        let (user, folder, key) = (user.to_string(), folder.to_string(), key.to_owned());
        self.write(move |db| {
            let old = read(db, &user, &folder, &key)?;
            let new = match sum(old.as_ref(), n) {
                Ok(new) => new,
                Err(error) => return Ok(Err(error)),
            };
            Ok(put(db, &user, &folder, &key, &new.into())?.map(|()| new))
        })
    }

    fn remove(&self, user: &Name, folder: &Name, key: &str) -> Result<bool, StateError> {
        let (user, folder, key) = (user.to_string(), folder.to_string(), key.to_owned());
        self.write(move |db| {
            let removed = db
                .prepare_cached("DELETE FROM state WHERE user = ?1 AND folder = ?2 AND key = ?3")?
                .execute([&user, &folder, &key])?;
            Ok(Ok(removed > 0))
        })
    }

    fn keys(&self, user: &Name, folder: &Name) -> Result<Vec<String>, StateError> {
        let db = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        read_keys(&db, user.as_str(), folder.as_str()).map_err(unreachable)
    }
}

//! What scripts keep from one event to the next: values as JSON, by user, folder and key.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, params};

use crate::json::Value;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS state (
    user   TEXT NOT NULL,
    folder TEXT NOT NULL,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (user, folder, key)
) STRICT, WITHOUT ROWID;
";

/// The value under a key, if there is one.
pub fn get(
    db: &Connection,
    user: &str,
    folder: &str,
    key: &str,
) -> rusqlite::Result<Option<Value>> {
    let text: Option<String> = db
        .prepare_cached("SELECT value FROM state WHERE user = ?1 AND folder = ?2 AND key = ?3")?
        .query_row([user, folder, key], |row| row.get(0))
        .optional()?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Every key of a folder, sorted.
pub fn keys(db: &Connection, user: &str, folder: &str) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT key FROM state WHERE user = ?1 AND folder = ?2 ORDER BY key")?
        .query_map([user, folder], |row| row.get(0))?
        .collect()
}

/// How many keys a folder has.
pub fn count(db: &Connection, user: &str, folder: &str) -> rusqlite::Result<u64> {
    let keys: i64 = db
        .prepare_cached("SELECT count(*) FROM state WHERE user = ?1 AND folder = ?2")?
        .query_row([user, folder], |row| row.get(0))?;
    Ok(keys.unsigned_abs())
}

/// Puts a value in place of the existing one, if any.
pub fn put(
    db: &Connection,
    user: &str,
    folder: &str,
    key: &str,
    value: &Value,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO state (user, folder, key, value) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![user, folder, key, value.to_string()])?;
    Ok(())
}

/// Removes a value; returns whether there was one.
pub fn remove(db: &Connection, user: &str, folder: &str, key: &str) -> rusqlite::Result<bool> {
    let removed = db
        .prepare_cached("DELETE FROM state WHERE user = ?1 AND folder = ?2 AND key = ?3")?
        .execute([user, folder, key])?;
    Ok(removed > 0)
}

/// What the scripts of one event read and wrote of the values of a folder.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// What was under the keys that they looked at or changed, before they did.
    pub reads: BTreeMap<String, Option<Value>>,
    /// Every key, if they asked for all.
    pub keys: Option<Vec<String>>,
    /// What is to be under a key; `None` for nothing.
    pub writes: BTreeMap<String, Option<Value>>,
}

impl Edits {
    /// Every key that there will be, sorted, given those that exist now.
    pub fn merged(&self, there: Vec<String>) -> Vec<String> {
        let mut keys: BTreeSet<String> = there.into_iter().collect();
        for (key, value) in &self.writes {
            match value {
                Some(_) => keys.insert(key.clone()),
                None => keys.remove(key),
            };
        }
        keys.into_iter().collect()
    }
}

/// Whether the values are what they were when the scripts looked at them.
fn holds(db: &Connection, user: &str, folder: &str, edits: &Edits) -> rusqlite::Result<bool> {
    if let Some(before) = &edits.keys
        && *before != keys(db, user, folder)?
    {
        return Ok(false);
    }
    for (key, before) in &edits.reads {
        if get(db, user, folder, key)? != *before {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether edits of many folders can be made now: nobody has changed what their scripts read since
/// they ran, and no folder would have more than `most` keys.
pub fn can_apply(
    db: &Connection,
    user: &str,
    edits: &BTreeMap<String, Edits>,
    most: usize,
) -> rusqlite::Result<bool> {
    for (folder, edits) in edits {
        if !holds(db, user, folder, edits)? {
            return Ok(false);
        }
        let is_new = |key: &&String| edits.reads.get(*key).is_none_or(Option::is_none);
        let added = edits.writes.iter().filter(|(_, value)| value.is_some());
        let added = added.filter(|(key, _)| is_new(key)).count();
        if added > 0 {
            let removed = edits.writes.iter().filter(|(_, value)| value.is_none());
            let removed = removed.filter(|(key, _)| !is_new(key)).count();
            let there = usize::try_from(count(db, user, folder)?).unwrap_or(usize::MAX);
            if there.saturating_add(added).saturating_sub(removed) > most {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Applies edits of many folders.
pub fn apply(db: &Connection, user: &str, edits: &BTreeMap<String, Edits>) -> rusqlite::Result<()> {
    for (folder, edits) in edits {
        for (key, value) in &edits.writes {
            match value {
                Some(value) => put(db, user, folder, key, value)?,
                None => drop(remove(db, user, folder, key)?),
            }
        }
    }
    Ok(())
}

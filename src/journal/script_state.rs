//! What scripts keep from one event to the next: values as JSON, by user, folder and key.

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

/// How many keys a folder has besides this one.
pub fn others(db: &Connection, user: &str, folder: &str, key: &str) -> rusqlite::Result<u64> {
    let keys: i64 = db
        .prepare_cached("SELECT count(*) FROM state WHERE user = ?1 AND folder = ?2 AND key <> ?3")?
        .query_row([user, folder, key], |row| row.get(0))?;
    Ok(keys.unsigned_abs())
}

/// Puts a value in the place of the one that is there, if any.
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

/// Takes a value away; tells whether there was one.
pub fn remove(db: &Connection, user: &str, folder: &str, key: &str) -> rusqlite::Result<bool> {
    let removed = db
        .prepare_cached("DELETE FROM state WHERE user = ?1 AND folder = ?2 AND key = ?3")?
        .execute([user, folder, key])?;
    Ok(removed > 0)
}

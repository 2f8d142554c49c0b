//! What decided events have asked for and is being done outside the journal: a row for each
//! decision, until all of it is done and safe. A server that stops before that does it again when
//! it starts, so each piece has the same result however often it is done.

use rusqlite::{Connection, params};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS redo (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    user TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
";

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redo {
    /// Its place: they are done in this order.
    pub seq: i64,
    /// Whose folders it is about.
    pub user: String,
    /// What is to be done.
    pub body: String,
}

/// Adds a row; returns its place.
pub fn add(db: &Connection, user: &str, body: &str) -> rusqlite::Result<i64> {
    db.prepare_cached("INSERT INTO redo (user, body) VALUES (?1, ?2)")?
        .execute(params![user, body])?;
    Ok(db.last_insert_rowid())
}

/// Replaces the text of a row.
pub fn update(db: &Connection, seq: i64, body: &str) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE redo SET body = ?2 WHERE seq = ?1")?
        .execute(params![seq, body])?;
    Ok(())
}

/// Every row, in their order.
pub fn list(db: &Connection) -> rusqlite::Result<Vec<Redo>> {
    db.prepare("SELECT seq, user, body FROM redo ORDER BY seq")?
        .query_map([], |row| {
            Ok(Redo {
                seq: row.get(0)?,
                user: row.get(1)?,
                body: row.get(2)?,
            })
        })?
        .collect()
}

/// Removes a row that is done.
pub fn remove(db: &Connection, seq: i64) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM redo WHERE seq = ?1")?
        .execute([seq])?;
    Ok(())
}

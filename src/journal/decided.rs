//! What `[OnMeta]` decided about transfers whose file has not arrived yet, if its hooks asked for
//! something: the next attempt at the same transfer uses it, and no hook runs again.

use rusqlite::{Connection, OptionalExtension, named_params};

use super::{delivered::Key, signed};
use crate::clock;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS decided (
    id      BLOB NOT NULL,
    sender  TEXT NOT NULL,
    user    TEXT NOT NULL,
    folder  TEXT NOT NULL,
    basis   BLOB NOT NULL,
    meta    TEXT NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (id, sender, user, folder)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS decided_sender ON decided (sender, user, created);
";

/// A decision to accept a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// A digest of everything that it was based on: if that differs, the hooks have to decide anew.
    pub basis: [u8; 32],
    /// The text of the `.meta`, as the hooks left it.
    pub meta: String,
}

/// What was decided about a transfer, if it is remembered.
pub fn find(db: &Connection, key: &Key) -> rusqlite::Result<Option<Decided>> {
    db.prepare_cached(
        "SELECT basis, meta FROM decided
         WHERE id = :id AND sender = :from AND user = :user AND folder = :folder",
    )?
    .query_row(
        named_params! {
            ":id": key.id.0, ":from": key.from, ":user": key.user, ":folder": key.folder,
        },
        |row| {
            Ok(Decided {
                basis: row.get(0)?,
                meta: row.get(1)?,
            })
        },
    )
    .optional()
}

/// Decisions that are remembered for one sender to one user: the oldest make way.
const MAX_OF_SENDER: u32 = 10_000;

/// Remembers a decision, in place of the one before.
pub fn put(db: &Connection, key: &Key, decided: &Decided) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO decided (id, sender, user, folder, basis, meta, created)
         VALUES (:id, :from, :user, :folder, :basis, :meta, :now)",
    )?
    .execute(named_params! {
        ":id": key.id.0, ":from": key.from, ":user": key.user, ":folder": key.folder,
        ":basis": decided.basis, ":meta": decided.meta, ":now": signed(clock::millis()),
    })?;
    db.prepare_cached(
        "DELETE FROM decided WHERE (id, sender, user, folder) IN (
             SELECT id, sender, user, folder FROM decided
             WHERE sender = :from AND user = :user
             ORDER BY created DESC LIMIT -1 OFFSET :most)",
    )?
    .execute(named_params! {
        ":from": key.from, ":user": key.user, ":most": MAX_OF_SENDER,
    })?;
    Ok(())
}

/// Forgets a decision: the file has arrived.
pub fn remove(db: &Connection, key: &Key) -> rusqlite::Result<()> {
    db.prepare_cached(
        "DELETE FROM decided
         WHERE id = :id AND sender = :from AND user = :user AND folder = :folder",
    )?
    .execute(named_params! {
        ":id": key.id.0, ":from": key.from, ":user": key.user, ":folder": key.folder,
    })?;
    Ok(())
}

/// Forgets decisions from before a time, in milliseconds since 1970.
pub fn forget(db: &Connection, before: u64) -> rusqlite::Result<()> {
    db.execute("DELETE FROM decided WHERE created < ?1", [signed(before)])?;
    Ok(())
}

/// Whether any decision is remembered.
pub fn any(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("SELECT EXISTS (SELECT 1 FROM decided)", [], |row| {
        row.get(0)
    })
}

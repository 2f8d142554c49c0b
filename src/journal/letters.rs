//! Letters: those that users of the root left at relays and that have no receipt yet, and the
//! receipts that were written for letters to them.

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::signed;
use crate::meta::TransferId;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS letter_left (
    letter   BLOB PRIMARY KEY,
    user     TEXT NOT NULL,
    contact  TEXT NOT NULL,
    relay    TEXT NOT NULL,
    key      BLOB NOT NULL,
    digest   BLOB NOT NULL,
    receipt  BLOB NOT NULL,
    id       BLOB NOT NULL,
    document BLOB NOT NULL,
    at       INTEGER NOT NULL,
    state    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS letter_left_id ON letter_left (id);
CREATE TABLE IF NOT EXISTS letter_round (
    user   TEXT NOT NULL,
    id     BLOB NOT NULL,
    rounds INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (user, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS letter_round_at ON letter_round (at);
CREATE TABLE IF NOT EXISTS letter_settled (
    digest  BLOB PRIMARY KEY,
    receipt BLOB NOT NULL,
    at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS letter_settled_at ON letter_settled (at);
";

/// A letter that a user of the root left, or is about to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its number.
    pub letter: [u8; 32],
    /// Who wrote it.
    pub user: String,
    /// Who gets it.
    pub contact: String,
    /// Where the relay is: addresses as text.
    pub relay: String,
    /// The relay's key.
    pub key: [u8; 32],
    /// Its digest.
    pub digest: [u8; 32],
    /// What opens the receipt.
    pub receipt: [u8; 32],
    /// The transfer.
    pub id: TransferId,
    /// The path of the `.meta`, or empty.
    pub document: Vec<u8>,
    /// When it was written, in milliseconds since 1970.
    pub at: u64,
    /// How far it has come.
    pub stage: Stage,
}

/// How far a letter has come, at its sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is on its way to the relay.
    Leaving = 0,
    /// The relay has it, and its document says so.
    Left = 1,
    /// It is being taken back.
    TakenBack = 2,
}

/// Records a letter before it leaves.
pub fn put(db: &Connection, left: &Left) -> rusqlite::Result<()> {
    db.execute(
        "INSERT OR REPLACE INTO letter_left
         (letter, user, contact, relay, key, digest, receipt, id, document, at, state)
         VALUES (:letter, :user, :contact, :relay, :key, :digest, :receipt, :id, :document, :at, :state)",
        named_params! {
            ":letter": left.letter, ":user": left.user, ":contact": left.contact,
            ":relay": left.relay, ":key": left.key, ":digest": left.digest,
            ":receipt": left.receipt, ":id": left.id.0, ":document": left.document,
            ":at": signed(left.at), ":state": left.stage as i64,
        },
    )?;
    Ok(())
}

/// How many letters wait at relays for their receivers.
pub fn count_left(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT count(*) FROM letter_left WHERE state = ?1")?
        .query_row([Stage::Left as i64], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

/// A letter has come as far as this.
pub fn proceed(db: &Connection, letter: &[u8; 32], stage: Stage) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE letter_left SET state = ?2 WHERE letter = ?1",
        params![letter, stage as i64],
    )?;
    Ok(())
}

/// A letter, if it has no receipt yet.
pub fn find(db: &Connection, letter: &[u8; 32]) -> rusqlite::Result<Option<Left>> {
    db.prepare_cached("SELECT * FROM letter_left WHERE letter = ?1")?
        .query_row([letter], row_of)
        .optional()
}

/// The document of the letters with a transfer of a user's is there now.
pub fn relocate(
    db: &Connection,
    user: &str,
    id: TransferId,
    document: &[u8],
) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE letter_left SET document = ?3 WHERE user = ?1 AND id = ?2 AND document <> x''",
        params![user, id.0, document],
    )?;
    Ok(())
}

/// How often a transfer had to be sent again because its letter came to nothing, and when that was
/// last, in milliseconds since 1970.
pub fn rounds(db: &Connection, user: &str, id: TransferId) -> rusqlite::Result<(u32, u64)> {
    let found = db
        .prepare_cached("SELECT rounds, at FROM letter_round WHERE user = ?1 AND id = ?2")?
        .query_row(params![user, id.0], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?.max(0).unsigned_abs()))
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// A transfer has to be sent once more.
pub fn add_round(db: &Connection, user: &str, id: TransferId, now: u64) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO letter_round (user, id, rounds, at) VALUES (?1, ?2, 1, ?3)
         ON CONFLICT (user, id) DO UPDATE SET rounds = rounds + 1, at = ?3",
        params![user, id.0, signed(now)],
    )?;
    Ok(())
}

/// Forgets a letter.
pub fn remove(db: &Connection, letter: &[u8; 32]) -> rusqlite::Result<()> {
    db.execute("DELETE FROM letter_left WHERE letter = ?1", [letter])?;
    Ok(())
}

/// All letters without a receipt, those that were written first in front.
pub fn all(db: &Connection) -> rusqlite::Result<Vec<Left>> {
    db.prepare("SELECT * FROM letter_left ORDER BY at")?
        .query_map([], row_of)?
        .collect()
}

/// The letters with a transfer of a user's.
pub fn of_transfer(db: &Connection, user: &str, id: TransferId) -> rusqlite::Result<Vec<Left>> {
    db.prepare_cached("SELECT * FROM letter_left WHERE user = ?1 AND id = ?2")?
        .query_map(params![user, id.0], row_of)?
        .collect()
}

/// Records the receipt for a letter.
pub fn settle(
    db: &Connection,
    digest: &[u8; 32],
    receipt: &[u8],
    now: u64,
) -> rusqlite::Result<()> {
    db.execute(
        "INSERT OR IGNORE INTO letter_settled (digest, receipt, at) VALUES (?1, ?2, ?3)",
        params![digest, receipt, signed(now)],
    )?;
    Ok(())
}

/// The receipt that was written for a letter.
pub fn settled(db: &Connection, digest: &[u8; 32]) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached("SELECT receipt FROM letter_settled WHERE digest = ?1")?
        .query_row([digest], |row| row.get(0))
        .optional()
}

/// Forgets receipts that were written, and rounds that were counted, before a moment.
pub fn forget(db: &Connection, before: u64) -> rusqlite::Result<()> {
    db.execute("DELETE FROM letter_settled WHERE at < ?1", [signed(before)])?;
    db.execute("DELETE FROM letter_round WHERE at < ?1", [signed(before)])?;
    Ok(())
}

fn row_of(row: &Row<'_>) -> rusqlite::Result<Left> {
    Ok(Left {
        letter: row.get("letter")?,
        user: row.get("user")?,
        contact: row.get("contact")?,
        relay: row.get("relay")?,
        key: row.get("key")?,
        digest: row.get("digest")?,
        receipt: row.get("receipt")?,
        id: TransferId(row.get("id")?),
        document: row.get("document")?,
        at: row.get::<_, i64>("at")?.max(0).unsigned_abs(),
        stage: match row.get("state")? {
            0_i64 => Stage::Leaving,
            2 => Stage::TakenBack,
            _ => Stage::Left,
        },
    })
}

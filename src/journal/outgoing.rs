//! What the users of a root sent by naming files: so that the same file is not sent twice by
//! accident, and what failed can be tried again.
//!
//! Nothing is written before a file is sent. The id of a transfer follows from what is sent,
//! to whom, and from a number that only the journal knows; so the same command after a crash
//! continues the same transfer.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::signed;
use crate::meta::TransferId;

/// How long a row is kept after the file was last looked at.
const KEPT: Duration = Duration::from_secs(366 * 86_400);

/// How many rows are forgotten in one go.
const AT_ONCE: u32 = 1_000;

/// How often to record that a file was looked at again.
const EVERY: Duration = Duration::from_secs(30 * 86_400);

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS outgoing (
    seq       INTEGER PRIMARY KEY,
    user      TEXT NOT NULL,
    recipient TEXT NOT NULL,
    folder    TEXT NOT NULL,
    source    TEXT NOT NULL,
    name      TEXT NOT NULL,
    path      TEXT NOT NULL,
    version   TEXT NOT NULL,
    id        BLOB NOT NULL,
    attempt   INTEGER NOT NULL,
    state     INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    seen      INTEGER NOT NULL,
    code      TEXT NOT NULL,
    words     TEXT NOT NULL,
    UNIQUE (user, recipient, folder, source, name, path)
) STRICT;
CREATE INDEX IF NOT EXISTS outgoing_seen ON outgoing (seen);
CREATE TABLE IF NOT EXISTS outgoing_salt (salt BLOB NOT NULL) STRICT;
";

/// What a person sent: who, to whom, and which file by which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct What {
    /// The sender.
    pub user: String,
    /// The contact.
    pub recipient: String,
    /// The contact's folder.
    pub folder: String,
    /// Where the file is: a full path.
    pub source: String,
    /// Its name, as the person called it.
    pub name: String,
    /// Where it was in a directory that was named; empty if the file itself was.
    pub path: String,
}

/// Whether it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The receiver has it safely.
    Sent = 1,
    /// It was not sent, or refused.
    Failed = 2,
    /// It waits at a relay, as a letter.
    Left = 3,
}

impl State {
    /// The word of it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Left => "letter",
        }
    }
}

/// The last attempt to send something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// What it is about.
    pub what: What,
    /// Which version of the file.
    pub version: String,
    /// The transfer.
    pub id: TransferId,
    /// How often the person asked to send what had been sent.
    pub attempt: u64,
    /// Whether it arrived.
    pub state: State,
    /// Bytes of the file.
    pub bytes: u64,
    /// When that was, in milliseconds since 1970.
    pub at: u64,
    /// When it was last looked at.
    pub seen: u64,
    /// The word of the error.
    pub code: String,
    /// What went wrong.
    pub words: String,
}

/// The bytes that make the ids of this root differ from those of all others, if there are some.
pub fn salt(db: &Connection) -> rusqlite::Result<Option<Vec<u8>>> {
    db.query_row("SELECT salt FROM outgoing_salt", [], |row| row.get(0))
        .optional()
}

/// Makes such bytes, unless there are some.
pub fn make_salt(db: &Connection) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO outgoing_salt SELECT randomblob(16)
         WHERE NOT EXISTS (SELECT 1 FROM outgoing_salt)",
        [],
    )
    .map(drop)
}

/// The last attempt to send something.
pub fn find(db: &Connection, what: &What) -> rusqlite::Result<Option<Outgoing>> {
    db.prepare_cached(
        "SELECT * FROM outgoing WHERE user = :user AND recipient = :recipient
         AND folder = :folder AND source = :source AND name = :name AND path = :path",
    )?
    .query_row(
        named_params! {
            ":user": what.user, ":recipient": what.recipient, ":folder": what.folder,
            ":source": what.source, ":name": what.name, ":path": what.path,
        },
        outgoing,
    )
    .optional()
}

/// Records an attempt, in place of the one before. A failure does not replace the success of the
/// same transfer: another process was faster.
pub fn put(db: &Connection, attempt: &Outgoing) -> rusqlite::Result<()> {
    let what = &attempt.what;
    if attempt.state != State::Sent
        && let Some(before) = find(db, what)?
        && before.state == State::Sent
        && before.id == attempt.id
    {
        return Ok(());
    }
    db.prepare_cached(
        "INSERT OR REPLACE INTO outgoing
         (user, recipient, folder, source, name, path, version, id, attempt, state, bytes, at,
          seen, code, words)
         VALUES (:user, :recipient, :folder, :source, :name, :path, :version, :id, :attempt,
                 :state, :bytes, :at, :at, :code, :words)",
    )?
    .execute(named_params! {
        ":user": what.user, ":recipient": what.recipient, ":folder": what.folder,
        ":source": what.source, ":name": what.name, ":path": what.path,
        ":version": attempt.version, ":id": attempt.id.0, ":attempt": signed(attempt.attempt),
        ":state": attempt.state as i64, ":bytes": signed(attempt.bytes),
        ":at": signed(attempt.at), ":code": attempt.code, ":words": attempt.words,
    })?;
    Ok(())
}

/// The attempt of a transfer that waits at a relay has ended like this.
pub fn end_left(
    db: &Connection,
    user: &str,
    id: TransferId,
    (state, code, words): (State, &str, &str),
    now: u64,
) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE outgoing SET state = :state, code = :code, words = :words, at = :at
         WHERE user = :user AND id = :id AND state = 3",
        named_params! {
            ":state": state as i64, ":code": code, ":words": words, ":at": signed(now),
            ":user": user, ":id": id.0,
        },
    )?;
    Ok(())
}

/// The latest attempts of a user, or of all, newest first; only those that failed, if that is
/// wanted.
pub fn latest(
    db: &Connection,
    user: Option<&str>,
    only_failed: bool,
    limit: u32,
) -> rusqlite::Result<Vec<Outgoing>> {
    db.prepare(
        "SELECT * FROM outgoing WHERE (:user IS NULL OR user = :user)
         AND (NOT :failed OR state = 2) ORDER BY seq DESC LIMIT :limit",
    )?
    .query_map(
        named_params! { ":user": user, ":failed": only_failed, ":limit": limit },
        outgoing,
    )?
    .collect()
}

/// Forgets the attempts of a user that failed; returns how many.
pub fn forget_failed(db: &Connection, user: &str) -> rusqlite::Result<usize> {
    db.execute("DELETE FROM outgoing WHERE user = ?1 AND state = 2", [user])
}

/// Forgets some of the oldest attempts, if they are very old.
pub fn forget(db: &Connection, now: u64) -> rusqlite::Result<()> {
    db.execute(
        "DELETE FROM outgoing WHERE seq IN
         (SELECT seq FROM outgoing WHERE seen < :before ORDER BY seen LIMIT :limit)",
        named_params! { ":before": signed(before(now, KEPT)), ":limit": AT_ONCE },
    )?;
    Ok(())
}

/// Records that a file was looked at again.
pub fn touch(db: &Connection, known: &Outgoing, now: u64) -> rusqlite::Result<()> {
    let what = &known.what;
    db.prepare_cached(
        "UPDATE outgoing SET seen = :now WHERE user = :user AND recipient = :recipient
         AND folder = :folder AND source = :source AND name = :name AND path = :path",
    )?
    .execute(named_params! {
        ":now": signed(now), ":user": what.user, ":recipient": what.recipient,
        ":folder": what.folder, ":source": what.source, ":name": what.name,
        ":path": what.path,
    })?;
    Ok(())
}

impl Outgoing {
    /// Whether to record that it was looked at again.
    pub fn is_stale(&self, now: u64) -> bool {
        self.seen < before(now, EVERY)
    }
}

fn before(now: u64, time: Duration) -> u64 {
    now.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn outgoing(row: &Row<'_>) -> rusqlite::Result<Outgoing> {
    let number = |column| row.get::<_, i64>(column).map(|n| n.max(0).unsigned_abs());
    Ok(Outgoing {
        what: What {
            user: row.get("user")?,
            recipient: row.get("recipient")?,
            folder: row.get("folder")?,
            source: row.get("source")?,
            name: row.get("name")?,
            path: row.get("path")?,
        },
        version: row.get("version")?,
        id: TransferId(row.get("id")?),
        attempt: number("attempt")?,
        state: match row.get("state")? {
            1_i64 => State::Sent,
            3 => State::Left,
            _ => State::Failed,
        },
        bytes: number("bytes")?,
        at: number("at")?,
        seen: number("seen")?,
        code: row.get("code")?,
        words: row.get("words")?,
    })
}

//! Which transfers a root has had, so that a retry after a lost ACK is not stored and
//! does not make hooks run a second time, wherever the file has gone since.
//!
//! Each is a row in the [journal](super), and so is a message, which has no file. It is written when the bytes of the file are safe under
//! their hidden name, and before the file gets its name: a server that stops between the two learns
//! from the row what is left to do. The row also stands for the event about the file, until its
//! hooks have run: ten thousand small files would otherwise write ten thousand tasks, only to
//! remove them again a moment later.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{
    Journal, JournalError,
    decided::{self, Decided},
    sent, signed,
    withheld::WithheldFiles,
};
use crate::{clock, meta::TransferId, root::Root};

/// How long a transfer is remembered: nobody retries for longer.
pub const KEPT: Duration = Duration::from_secs(90 * 86_400);

/// The tables.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS transfer (
    seq      INTEGER PRIMARY KEY,
    id       BLOB NOT NULL,
    sender   TEXT NOT NULL,
    user     TEXT NOT NULL,
    folder   TEXT NOT NULL,
    stem     TEXT NOT NULL,
    filename TEXT NOT NULL,
    filesize INTEGER NOT NULL,
    crc      INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    state    INTEGER NOT NULL,
    meta     TEXT,
    words    TEXT
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS transfer_id ON transfer (id, sender, user, folder);
CREATE INDEX IF NOT EXISTS transfer_whole ON transfer (state) WHERE state = 0;
CREATE INDEX IF NOT EXISTS transfer_refused ON transfer (user, folder, created)
    WHERE state IN (2, 4);
CREATE INDEX IF NOT EXISTS transfer_owed ON transfer (user, folder, stem) WHERE state = 3;
";

/// What makes a transfer the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Whose folder.
    pub user: String,
    /// The folder.
    pub folder: String,
    /// The sender.
    pub from: String,
    /// Its id.
    pub id: TransferId,
}

/// How far a transfer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The bytes are safe; the file gets its name, and no hook waits for it.
    Whole = 0,
    /// The file has its name.
    Delivered = 1,
    /// A hook refused it; its `.meta` tells why.
    Refused = 2,
    /// The bytes are safe; the file gets its name or has it, and hooks still have to run.
    Owed = 3,
    /// A hook refused its contents: the sender hears that, and no hook runs again.
    Rejected = 4,
    /// A message, which has no file: it is in the log of its folder.
    Message = 5,
}

impl Stage {
    /// Whether something is left for a starting server to do.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Whole | Self::Owed)
    }
}

/// A transfer that came to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Which one.
    pub key: Key,
    /// What the names of its files in the folder begin with.
    pub stem: String,
    /// What the sender calls the file.
    pub filename: String,
    /// Bytes.
    pub filesize: u64,
    /// CRC-32 of the file.
    pub crc: u32,
    /// How far it came.
    pub stage: Stage,
    /// The text of its `.meta` before its hooks, as long as they may be writing into it.
    pub meta: Option<Arc<str>>,
    /// Why a hook refused its contents.
    pub words: Option<String>,
}

/// Brings the tables of an older journal up to date.
pub fn migrate(db: &Connection) -> rusqlite::Result<()> {
    for column in ["meta", "words"] {
        if !db.column_exists(None, "transfer", column)? {
            db.execute_batch(&format!("ALTER TABLE transfer ADD COLUMN {column} TEXT"))?;
        }
    }
    Ok(())
}

/// Looks transfers up. Clones share one connection.
#[derive(Clone)]
pub struct DeliveredBefore(Arc<Mutex<Connection>>, WithheldFiles);

impl DeliveredBefore {
    /// Looks into a journal.
    pub fn new(journal: &Journal) -> Result<Self, JournalError> {
        let db = Arc::new(Mutex::new(journal.reader()?));
        Ok(Self(db, journal.withheld.clone()))
    }

    /// Looks into the journal of a root, which a server may be writing; `None` if there is none.
    pub fn look(root: &Root) -> Result<Option<Self>, JournalError> {
        let db = super::look(root)?;
        Ok(db.map(|db| Self(Arc::new(Mutex::new(db)), WithheldFiles::default())))
    }

    /// What is known of a transfer that ended before.
    pub fn find(&self, key: &Key) -> Result<Option<Transfer>, JournalError> {
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(find(&db, key)?)
    }

    /// Whether `[OnReceived]` still has to accept a file of the folder of a user, or what it
    /// decided is being done.
    pub fn is_pending(&self, folder: (&str, &str), file: &str) -> Result<bool, JournalError> {
        // In this order: what is decided in between was withheld first.
        let is_pending = {
            let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            is_pending(&db, folder, file)?
        };
        Ok(is_pending || self.1.has(folder, file))
    }

    /// Whether `[OnReceived]` still has to say its first word on a file that was delivered: its
    /// event has this id.
    pub fn is_undecided(&self, key: &Key, event: &str) -> Result<bool, JournalError> {
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(is_undecided(&db, key, event)?)
    }

    /// What `[OnMeta]` decided about a transfer whose file has not arrived, if that is remembered.
    pub fn decided(&self, key: &Key) -> Result<Option<Decided>, JournalError> {
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(decided::find(&db, key)?)
    }

    /// [`Self::find`] for many transfers, in their order: the locks of the journal are taken
    /// once for all.
    pub fn find_all<'a>(
        &self,
        keys: impl Iterator<Item = &'a Key>,
    ) -> Result<Vec<Option<Transfer>>, JournalError> {
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = db.unchecked_transaction()?;
        let found = keys
            .map(|key| find(&reading, key))
            .collect::<Result<_, _>>()?;
        reading.finish()?;
        Ok(found)
    }
}

/// What is known of a transfer.
pub fn find(db: &Connection, key: &Key) -> rusqlite::Result<Option<Transfer>> {
    db.prepare_cached(
        "SELECT * FROM transfer
         WHERE id = :id AND sender = :from AND user = :user AND folder = :folder",
    )?
    .query_row(
        named_params! {
            ":id": key.id.0, ":from": key.from, ":user": key.user, ":folder": key.folder,
        },
        transfer,
    )
    .optional()
}

/// Whether `[OnReceived]` still has to accept a file of the folder of a user: its first attempt is
/// left to do, or the next one, or it was given up.
pub fn is_pending(
    db: &Connection,
    (user, folder): (&str, &str),
    file: &str,
) -> rusqlite::Result<bool> {
    db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM transfer WHERE state = 3
             AND user = :user AND folder = :folder AND stem || '.data' = :file
             AND stem = substr(:file, 1, length(:file) - 5))
         OR EXISTS (SELECT 1 FROM task WHERE kind = 'OnReceived' AND part = 0
             AND user = :user AND folder = :folder AND file = :file)",
    )?
    .query_row(
        named_params! { ":user": user, ":folder": folder, ":file": file },
        |row| row.get(0),
    )
}

/// Whether `[OnReceived]` still has to say its first word on a file that was delivered.
fn is_undecided(db: &Connection, key: &Key, event: &str) -> rusqlite::Result<bool> {
    db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM transfer WHERE state = 3
             AND id = :id AND sender = :from AND user = :user AND folder = :folder)
         OR EXISTS (SELECT 1 FROM task WHERE kind = 'OnReceived' AND part = 0
             AND id = :event AND attempts = 0 AND dead = 0)",
    )?
    .query_row(
        named_params! {
            ":id": key.id.0, ":from": key.from, ":user": key.user, ":folder": key.folder,
            ":event": event,
        },
        |row| row.get(0),
    )
}

/// Transfers with something left to do, in the order in which they ended.
pub fn open(db: &Connection) -> rusqlite::Result<Vec<Transfer>> {
    // Each half has its index.
    db.prepare(
        "SELECT * FROM transfer WHERE state = 0
         UNION ALL SELECT * FROM transfer WHERE state = 3 ORDER BY seq",
    )?
    .query_map([], transfer)?
    .collect()
}

/// How many of the last transfers of the root are searched for those of a folder.
const LOOKED_THROUGH: u32 = 100_000;

/// The last transfers to a folder of a user, newest first, each with the time of its end in
/// milliseconds since 1970. What came before the last 100,000 of the whole root is left out.
pub fn latest(
    db: &Connection,
    (user, folder): (&str, &str),
    limit: u32,
) -> rusqlite::Result<Vec<(u64, Transfer)>> {
    db.prepare(
        "SELECT * FROM transfer WHERE user = :user AND folder = :folder AND state <> 5
         AND seq > (SELECT max(seq) FROM transfer) - :most ORDER BY seq DESC LIMIT :limit",
    )?
    .query_map(
        named_params! {
            ":user": user, ":folder": folder, ":most": LOOKED_THROUGH, ":limit": limit,
        },
        |row| {
            let created: i64 = row.get("created")?;
            Ok((created.max(0).unsigned_abs(), transfer(row)?))
        },
    )?
    .collect()
}

/// A transfer with its number, which is larger than those of all before it.
pub struct Arrived {
    /// The number.
    pub number: i64,
    /// When it arrived, in milliseconds since 1970.
    pub at: u64,
    /// What is known of it.
    pub transfer: Transfer,
}

/// The last transfers to the folders of a user, or to one of them, newest first.
pub fn arrived(
    db: &Connection,
    user: &str,
    folder: Option<&str>,
    limit: u32,
) -> rusqlite::Result<Vec<Arrived>> {
    db.prepare(
        "SELECT * FROM transfer WHERE user = :user AND (:folder IS NULL OR folder = :folder)
         AND state <> 5 ORDER BY seq DESC LIMIT :limit",
    )?
    .query_map(
        named_params! { ":user": user, ":folder": folder, ":limit": limit },
        arrived_row,
    )?
    .collect()
}

/// The number of the last transfer to the folders of a user; 0 if there is none.
pub fn last_arrived(db: &Connection, user: &str) -> rusqlite::Result<i64> {
    let last = "SELECT max(seq) FROM transfer WHERE user = ?1";
    let last = db.query_row(last, [user], |row| row.get::<_, Option<i64>>(0));
    Ok(last?.unwrap_or_default())
}

/// The most transfers that one look at what is new takes.
const NEWS: u32 = 1_000;

/// The transfers after a number, in their order; not all, if there are many.
pub fn arrived_after(
    db: &Connection,
    user: &str,
    folder: Option<&str>,
    number: i64,
) -> rusqlite::Result<Vec<Arrived>> {
    db.prepare(
        "SELECT * FROM transfer WHERE seq > :number AND user = :user AND state <> 5
         AND (:folder IS NULL OR folder = :folder) ORDER BY seq LIMIT :limit",
    )?
    .query_map(
        named_params! { ":number": number, ":user": user, ":folder": folder, ":limit": NEWS },
        arrived_row,
    )?
    .collect()
}

fn arrived_row(row: &Row<'_>) -> rusqlite::Result<Arrived> {
    let created: i64 = row.get("created")?;
    Ok(Arrived {
        number: row.get("seq")?,
        at: created.max(0).unsigned_abs(),
        transfer: transfer(row)?,
    })
}

/// Transfers to a folder of a user that hooks refused from a time on and before another one,
/// in milliseconds since 1970.
pub fn refused_between(
    db: &Connection,
    (user, folder): (&str, &str),
    (since, before): (u64, u64),
) -> rusqlite::Result<Vec<Transfer>> {
    db.prepare(
        "SELECT * FROM transfer WHERE state IN (2, 4) AND user = :user AND folder = :folder
         AND created >= :since AND created < :before",
    )?
    .query_map(
        named_params! {
            ":user": user, ":folder": folder, ":since": signed(since),
            ":before": signed(before),
        },
        transfer,
    )?
    .collect()
}

/// Records a transfer, in place of what was known of it.
pub fn put(db: &Connection, transfer: &Transfer) -> rusqlite::Result<()> {
    let Transfer { key, .. } = transfer;
    let now = clock::millis();
    sent::take_back(db, key)?;
    if matches!(
        transfer.stage,
        Stage::Whole | Stage::Delivered | Stage::Owed
    ) {
        sent::add(db, key, transfer.filesize, now)?;
    }
    db.prepare_cached(
        "INSERT OR REPLACE INTO transfer
         (id, sender, user, folder, stem, filename, filesize, crc, created, state, meta)
         VALUES (:id, :from, :user, :folder, :stem, :filename, :filesize, :crc, :now, :state,
                 :meta)",
    )?
    .execute(named_params! {
        ":id": key.id.0, ":from": key.from, ":user": key.user, ":folder": key.folder,
        ":stem": transfer.stem, ":filename": transfer.filename,
        ":filesize": transfer.filesize.cast_signed(), ":crc": transfer.crc,
        ":now": now.cast_signed(), ":state": transfer.stage as i64,
        ":meta": transfer.meta,
    })?;
    Ok(())
}

/// Records that nothing is left to do: the file has its name, and if hooks waited for it they have
/// run, or a task stands for them. Returns whether something was left.
pub fn complete(db: &Connection, key: &Key) -> rusqlite::Result<bool> {
    let completed = db
        .prepare_cached(
            "UPDATE transfer SET state = 1, meta = NULL
             WHERE id = :id AND sender = :from AND user = :user AND folder = :folder
             AND state IN (0, 3)",
        )?
        .execute(named_params! {
            ":id": key.id.0, ":from": key.from, ":user": key.user, ":folder": key.folder,
        })?;
    Ok(completed > 0)
}

/// Records that a hook refused the contents of a file that was delivered, and why.
pub fn reject(db: &Connection, key: &Key, words: &str) -> rusqlite::Result<()> {
    sent::take_back(db, key)?;
    db.prepare_cached(
        "UPDATE transfer SET state = 4, meta = NULL, words = :words
         WHERE id = :id AND sender = :from AND user = :user AND folder = :folder",
    )?
    .execute(named_params! {
        ":words": words,
        ":id": key.id.0, ":from": key.from, ":user": key.user, ":folder": key.folder,
    })?;
    Ok(())
}

/// Removes a transfer whose file did not get its name.
pub fn remove(db: &Connection, key: &Key) -> rusqlite::Result<()> {
    sent::take_back(db, key)?;
    db.prepare_cached(
        "DELETE FROM transfer
         WHERE id = :id AND sender = :from AND user = :user AND folder = :folder",
    )?
    .execute(named_params! {
        ":id": key.id.0, ":from": key.from, ":user": key.user, ":folder": key.folder,
    })?;
    Ok(())
}

/// Forgets, of the `limit` oldest transfers that have ended, those that ended before a time, in
/// milliseconds since 1970; returns how many. Fewer than `limit` means that there are no more.
pub fn forget(db: &Connection, before: u64, limit: u32) -> rusqlite::Result<usize> {
    // They are written in the order of their times: the oldest are found without looking at all the
    // others.
    db.prepare_cached(
        "DELETE FROM transfer WHERE seq IN (
             SELECT seq FROM (SELECT seq, created FROM transfer WHERE +state IN (1, 2, 4, 5)
                              ORDER BY seq LIMIT :limit)
             WHERE created < :before)",
    )?
    .execute(named_params! { ":limit": limit, ":before": signed(before) })
}

fn transfer(row: &Row<'_>) -> rusqlite::Result<Transfer> {
    Ok(Transfer {
        key: Key {
            user: row.get("user")?,
            folder: row.get("folder")?,
            from: row.get("sender")?,
            id: TransferId(row.get("id")?),
        },
        stem: row.get("stem")?,
        filename: row.get("filename")?,
        filesize: row.get::<_, i64>("filesize")?.cast_unsigned(),
        crc: row.get("crc")?,
        stage: match row.get("state")? {
            0_i64 => Stage::Whole,
            1 => Stage::Delivered,
            3 => Stage::Owed,
            4 => Stage::Rejected,
            5 => Stage::Message,
            _ => Stage::Refused,
        },
        meta: row.get("meta")?,
        words: row.get("words")?,
    })
}

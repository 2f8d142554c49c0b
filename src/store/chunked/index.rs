//! What a server knows of a folder whose contents are elsewhere: names, files, chunks, and what
//! is still to be written or removed there.
//!
//! A [database](crate::database) in the folder's own directory. It is a copy of what the manifests say, ahead of
//! them by what is not written yet; [`recover`](super::recover) makes it anew from them. With it a
//! directory is listed, and a file opened, without a request to a member and without a
//! private-key operation.

pub mod files;
pub mod names;
pub mod refill;
pub mod survey;
pub mod work;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cap_std::fs::Dir;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Notify;

use crate::{
    database::{Database, DatabaseError},
    root::file,
    store::{
        notes,
        sealed::{FileSecret, folder::FolderSecret},
    },
};

/// Random, of a file or a directory.
pub type Id = [u8; 16];

/// The note of the owner's key.
const OWNER: &str = "owner";

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS about (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;
-- What has a name: 0 nothing any more, 1 a file, 2 a directory. `missing` are the members without
-- its manifest, as bits; it is settled once enough have it.
CREATE TABLE IF NOT EXISTS names (
    parent  BLOB NOT NULL,
    name    TEXT NOT NULL,
    kind    INTEGER NOT NULL,
    id      BLOB NOT NULL,
    fence   INTEGER NOT NULL,
    count   INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS names_directories ON names (id) WHERE kind = 2;
CREATE INDEX IF NOT EXISTS names_unsettled ON names (count) WHERE settled = 0;
CREATE INDEX IF NOT EXISTS names_missing ON names (count) WHERE missing <> 0;
CREATE INDEX IF NOT EXISTS names_count ON names (count);
CREATE INDEX IF NOT EXISTS names_tombstones ON names (at) WHERE kind = 0;
-- Manifests of the name under earlier leases.
CREATE TABLE IF NOT EXISTS stale (
    parent BLOB NOT NULL,
    name   TEXT NOT NULL,
    fence  INTEGER NOT NULL,
    PRIMARY KEY (parent, name, fence)
) STRICT, WITHOUT ROWID;
-- A file that nothing needs any more has the time of that, in `due`.
CREATE TABLE IF NOT EXISTS files (
    id       BLOB PRIMARY KEY,
    secret   BLOB NOT NULL,
    size     INTEGER NOT NULL,
    crc      INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    meta     TEXT,
    due      INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_due ON files (due) WHERE due IS NOT NULL;
CREATE TABLE IF NOT EXISTS chunks (
    file    BLOB NOT NULL,
    place   INTEGER NOT NULL,
    id      BLOB NOT NULL,
    len     INTEGER NOT NULL,
    crc     INTEGER NOT NULL,
    digests BLOB NOT NULL,
    missing INTEGER NOT NULL,
    PRIMARY KEY (file, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chunks_missing ON chunks (id) WHERE missing <> 0;
CREATE UNIQUE INDEX IF NOT EXISTS chunks_id ON chunks (id);
CREATE TABLE IF NOT EXISTS partials (
    name    TEXT PRIMARY KEY,
    file    BLOB NOT NULL,
    touched INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Chunks of no file.
CREATE TABLE IF NOT EXISTS dropped (
    id BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
-- Manifests of earlier files that were restored.
CREATE TABLE IF NOT EXISTS restored (
    file BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
-- Files that were removed or overwritten, and can be had back until then.
CREATE TABLE IF NOT EXISTS versions (
    file    BLOB PRIMARY KEY,
    parent  BLOB NOT NULL,
    name    TEXT NOT NULL,
    path    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    until   INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    settled INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS versions_until ON versions (until);
CREATE INDEX IF NOT EXISTS versions_unsettled ON versions (at) WHERE settled = 0;
CREATE INDEX IF NOT EXISTS versions_missing ON versions (at) WHERE missing <> 0;
";

/// The index of a folder.
pub struct Index {
    database: Database,
    reader: Mutex<Connection>,
}

/// What a write of the index ends with.
type Changed<T> = Result<T, Refused>;

/// Why something is not changed.
enum Refused {
    /// What the caller asked for cannot be done. This is found out before anything is changed: what
    /// was changed by then would stay.
    Asked(io::ErrorKind),
    /// SQLite says so; nothing is changed.
    Sqlite(rusqlite::Error),
}

impl From<io::ErrorKind> for Refused {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Asked(kind)
    }
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Index {
    /// Opens the index for a store in a folder's directory, and creates it if it is missing.
    pub fn open(dir: &Dir, path: &Path, store: &str) -> io::Result<Self> {
        let file = notes::index_name(store);
        match file::create_empty(&notes::directory(dir)?, &file, 0o600) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let news = Arc::new(Notify::new());
        let database = Database::open(&path.join(notes::DIR).join(file), "store", &news, |db| {
            db.execute_batch(SCHEMA)
        });
        let database = database.map_err(failed)?;
        Ok(Self {
            reader: Mutex::new(database.reader().map_err(failed)?),
            database,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks something up.
    fn look<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> io::Result<T> {
        work(&self.lock()).map_err(|e| failed(e.into()))
    }

    /// Looks through everything, on a connection of its own: readers need not wait.
    fn survey<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> io::Result<T> {
        let db = self.database.reader().map_err(failed)?;
        work(&db).map_err(|e| failed(e.into()))
    }

    /// Changes something. What is durable survives a loss of power, with all that was written
    /// before.
    fn change<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Connection) -> Changed<T> + Send + 'static,
    ) -> io::Result<T> {
        let changed = self.database.write(durable, move |db| match work(db) {
            Ok(done) => Ok((Ok(done), false)),
            Err(Refused::Asked(kind)) => Ok((Err(kind), false)),
            Err(Refused::Sqlite(error)) => Err(error),
        });
        changed.wait().map_err(failed)?.map_err(io::Error::from)
    }

    /// Reads what is noted under a key.
    pub fn note<T: rusqlite::types::FromSql>(&self, key: &str) -> io::Result<Option<T>> {
        self.look(|db| note(db, key))
    }

    /// Notes something, durably.
    pub fn set_note<T>(&self, key: &'static str, value: T) -> io::Result<()>
    where
        T: rusqlite::ToSql + Send + 'static,
    {
        self.change(true, move |db| {
            set_note(db, key, &value)?;
            Ok(())
        })
    }

    /// The id and the secret of the folder in the store.
    pub fn identity(&self) -> io::Result<Option<FolderSecret>> {
        let (id, secret): (Option<Id>, Option<Vec<u8>>) = (self.note("id")?, self.note("secret")?);
        let secret = secret.and_then(|secret| FileSecret::from_bytes(&secret));
        Ok(id
            .zip(secret)
            .map(|(id, secret)| FolderSecret::from_parts(id, secret)))
    }

    /// Notes the id and secret of the folder in the store, and the owner's key.
    pub fn set_identity(&self, folder: &FolderSecret, owner: Vec<u8>) -> io::Result<()> {
        let folder = folder.clone();
        self.change(true, move |db| {
            set_note(db, "id", &folder.id)?;
            set_note(db, "secret", folder.secret().as_bytes())?;
            set_note(db, OWNER, &owner)?;
            // What was sealed for an earlier key is sealed once more.
            db.execute("UPDATE names SET settled = 0 WHERE kind <> 0", [])?;
            db.execute("UPDATE versions SET settled = 0", [])?;
            Ok(())
        })
    }

    /// The fingerprint of the key that manifests are sealed for.
    pub fn owner(&self) -> io::Result<Option<Vec<u8>>> {
        self.note(OWNER)
    }

    /// Returns when all that was written so far survives a loss of power.
    pub fn settle(&self) -> io::Result<()> {
        // Without a change there would be no flush.
        self.change(true, |db| {
            let query = "INSERT INTO about VALUES ('flush', 1)
                 ON CONFLICT DO UPDATE SET value = value + 1";
            db.prepare_cached(query)?.execute([])?;
            Ok(())
        })
    }
}

fn note<T: rusqlite::types::FromSql>(db: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    db.prepare_cached("SELECT value FROM about WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

fn set_note(db: &Connection, key: &str, value: &dyn rusqlite::ToSql) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO about VALUES (?1, ?2)")?
        .execute(rusqlite::params![key, value])
        .map(drop)
}

fn failed(error: DatabaseError) -> io::Error {
    io::Error::other(format!("cannot use {} of the folder: {error}", notes::DIR))
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// An error inside of a write that is not SQLite's.
fn broken(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

//! What still has to happen: events whose hooks have to run, and what hooks asked for.
//!
//! One [database] for a root, `ROOT/journal.sqlite`, which the server and `m2y events` look into at
//! the same time. The rows are plain words here; what they mean is for the modules above to know.

pub mod decided;
pub mod delivered;
pub mod file_index;
pub mod last_run;
pub mod letters;
pub mod mailbox;
pub mod messages;
pub mod openings;
pub mod outgoing;
pub mod prune;
pub mod redo;
pub mod script_state;
pub mod sent;
mod task;
mod withheld;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Notify;

pub use self::task::{
    Entry, Task, counts, due, fail, find, insert, is_waited_for, latest_events, list, next_due,
    remove,
};
pub use self::withheld::Withheld;
use self::withheld::WithheldFiles;
use crate::{
    database::{self, BUSY, Database, DatabaseError},
    root::{Root, file},
};

/// The file, below the root.
pub const FILE: &str = "journal.sqlite";

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS known (
    user     TEXT NOT NULL,
    folder   TEXT NOT NULL,
    file     TEXT NOT NULL,
    len      INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    inode    INTEGER NOT NULL,
    PRIMARY KEY (user, folder, file)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quiet (
    user   TEXT NOT NULL,
    folder TEXT NOT NULL,
    PRIMARY KEY (user, folder)
) STRICT, WITHOUT ROWID;
";

/// Why the journal cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot use {FILE}: {0}")]
pub struct JournalError(#[from] DatabaseError);

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.into())
    }
}

/// The journal of a root. Clones are the same one.
#[derive(Clone)]
pub struct Journal {
    database: Database,
    /// Whether there may be decisions to look for: most roots never have one.
    decides: Arc<AtomicBool>,
    /// Files that nobody may see although the journal does not say that they are pending.
    withheld: WithheldFiles,
    /// Notified when a task may have been added, or one that others waited for is done.
    pub news: Arc<Notify>,
}

impl Journal {
    /// Opens the journal of a root, and creates it if it is missing.
    pub fn open(root: &Root) -> Result<Self, JournalError> {
        let fail = |e: std::io::Error| DatabaseError::Sqlite(e.to_string());
        match file::create_empty(root.dir(), FILE, 0o600) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(fail(e).into()),
            _ => {}
        }
        let news = Arc::new(Notify::new());
        let database = Database::open(&root.path().join(FILE), "journal", &news, |db| {
            db.execute_batch(SCHEMA)?;
            db.execute_batch(task::SCHEMA)?;
            db.execute_batch(delivered::SCHEMA)?;
            delivered::migrate(db)?;
            sent::migrate(db)?;
            db.execute_batch(decided::SCHEMA)?;
            db.execute_batch(redo::SCHEMA)?;
            db.execute_batch(script_state::SCHEMA)?;
            db.execute_batch(last_run::SCHEMA)?;
            db.execute_batch(outgoing::SCHEMA)?;
            db.execute_batch(mailbox::SCHEMA)?;
            db.execute_batch(letters::SCHEMA)?;
            db.execute_batch(messages::SCHEMA)
        })?;
        let decides = Arc::new(AtomicBool::new(decided::any(&database.reader()?)?));
        Ok(Self {
            database,
            decides,
            withheld: WithheldFiles::default(),
            news,
        })
    }

    /// Whether there may be decisions of `[OnMeta]` to look for.
    pub fn has_decisions(&self) -> bool {
        self.decides.load(Ordering::Relaxed)
    }

    /// Hides files, each by user, folder and name, until what this returns is dropped.
    pub fn withhold(&self, files: Vec<withheld::File>) -> Withheld {
        self.withheld.add(files)
    }

    /// From now on there may be decisions.
    pub fn expect_decisions(&self) {
        self.decides.store(true, Ordering::Relaxed);
    }

    /// A separate connection, for reading.
    pub fn reader(&self) -> Result<Connection, JournalError> {
        Ok(self.database.reader()?)
    }

    /// Runs `work` in a transaction with others. When this returns, what it wrote survives
    /// `kill -9`, and, if it is `durable`, a loss of power.
    pub fn write<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Pending<T> {
        self.send(durable, move |db| Ok((work(db)?, true)))
    }

    /// [`Self::write`] for work that adds nothing to do.
    pub fn quietly<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Pending<T> {
        self.send(durable, move |db| Ok((work(db)?, false)))
    }

    /// [`Self::write`] for work that says itself whether it adds something to do.
    pub fn decide<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Connection) -> rusqlite::Result<(T, bool)> + Send + 'static,
    ) -> Pending<T> {
        self.send(durable, work)
    }

    fn send<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Connection) -> rusqlite::Result<(T, bool)> + Send + 'static,
    ) -> Pending<T> {
        Pending(self.database.write(durable, work))
    }
}

/// The result of a write, once it is committed.
pub struct Pending<T>(database::Pending<T>);

impl<T> Pending<T> {
    /// Waits for it in a task.
    pub async fn committed(self) -> Result<T, JournalError> {
        Ok(self.0.committed().await?)
    }

    /// Waits for it on a thread that may block.
    pub fn wait(self) -> Result<T, JournalError> {
        Ok(self.0.wait()?)
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Opens the journal of a root only to look into it; `None` if there is none. It creates no file,
/// and changes none but the index that all readers share (`-shm`), if another process has the
/// journal open or did not close it properly.
pub fn look(root: &Root) -> Result<Option<Connection>, JournalError> {
    let path = root.path().join(FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let log = root.path().join(format!("{FILE}-wal"));
    let db = if log.exists() {
        Connection::open_with_flags(&path, flags)?
    } else {
        // Otherwise even a reader would create a log, and leave it there.
        let mut uri = "file:".to_owned();
        for byte in path.as_os_str().as_encoded_bytes() {
            match byte {
                b'%' | b'?' | b'#' | 0..=b' ' | 127.. => uri.push_str(&format!("%{byte:02x}")),
                byte => uri.push(char::from(*byte)),
            }
        }
        uri.push_str("?immutable=1");
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
    };
    db.busy_timeout(BUSY)?;
    Ok(Some(db))
}

//! An SQLite file that one thread writes and any number read.
//!
//! SQLite, because several processes and a person with `sqlite3` may look into the file at the
//! same time, and because a process that is killed at any point leaves it whole. The thread takes
//! all waiting writes into one transaction: those that have to be durable share one flush.

mod writer;

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Notify, oneshot};

use self::writer::Write;

/// Statements that a connection keeps at hand: all that there are.
const STATEMENTS: usize = 64;

/// How long one process waits for another one's transaction.
pub const BUSY: Duration = Duration::from_secs(10);

/// Why a database cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite says so.
    #[error("{0}")]
    Sqlite(String),
    /// The thread that writes is gone.
    #[error("the thread that writes it has ended")]
    Closed,
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error.to_string())
    }
}

/// An open database. Clones are the same one.
#[derive(Clone)]
pub struct Database {
    writes: mpsc::Sender<Write>,
    path: Arc<Path>,
}

impl Database {
    /// Opens the file at a path, which has to exist, and starts the thread that writes it.
    /// `prepare` makes the tables; the thread has this name, and notifies `news` of
    /// [`Self::write`].
    pub fn open(
        path: &Path,
        thread: &str,
        news: &Arc<Notify>,
        prepare: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<Self, DatabaseError> {
        let db = connect(path)?;
        prepare(&db)?;
        let (writes, waiting) = mpsc::channel();
        let news = news.clone();
        thread::Builder::new()
            .name(thread.to_owned())
            .spawn(move || writer::write_all(&db, &waiting, &news))
            .map_err(|e| DatabaseError::Sqlite(e.to_string()))?;
        Ok(Self {
            writes,
            path: path.into(),
        })
    }

    /// A separate connection, for reading.
    pub fn reader(&self) -> Result<Connection, DatabaseError> {
        Ok(connect(&self.path)?)
    }

    /// Runs `work` in a transaction with others; it also says whether it adds something to do. When
    /// this returns, what it wrote survives `kill -9`, and, if it is `durable`, a loss of power.
    pub fn write<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Connection) -> rusqlite::Result<(T, bool)> + Send + 'static,
    ) -> Pending<T> {
        let (write, result) = Write::new(durable, work);
        // If the thread is gone, so is the sender of the result.
        let _ = self.writes.send(write);
        Pending(result)
    }
}

/// The result of a write, once it is committed.
pub struct Pending<T>(oneshot::Receiver<Result<T, DatabaseError>>);

impl<T> Pending<T> {
    /// Waits for it in a task.
    pub async fn committed(self) -> Result<T, DatabaseError> {
        self.0.await.unwrap_or(Err(DatabaseError::Closed))
    }

    /// Waits for it on any thread.
    pub fn wait(self) -> Result<T, DatabaseError> {
        pollster::block_on(self.committed())
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Only for a new file: then pruning can give pages back.
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    // Readers do not wait for the writer, nor it for them.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "foreign_keys", "ON")?;
    Ok(db)
}

//! What still has to happen: events whose hooks have to run, and what hooks asked for.
//!
//! One SQLite file for a root, `ROOT/journal.sqlite`. SQLite, because the server, `m2y
//! events` and a person with `sqlite3` look into it at the same time, and because a
//! process that is killed at any point leaves it whole.
//!
//! All writes go through one thread, which takes all that wait for it into one
//! transaction: many that have to be durable share one flush. The rows are plain words
//! here; what they mean is for those above to know.

pub mod delivered;
pub mod file_index;
pub mod last_run;
pub mod openings;
pub mod script_state;

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, named_params};
use tokio::sync::{Notify, oneshot};

use self::delivered::Key;
use crate::{
    clock,
    json::{self, Map, Value},
    root::{Root, file},
};

/// The file, below the root.
pub const FILE: &str = "journal.sqlite";

/// Writes that one transaction takes.
const BATCH: usize = 256;

/// Statements that a connection keeps at hand: all that there are.
const STATEMENTS: usize = 64;

/// How long one process waits for another one's transaction.
const BUSY: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS task (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT NOT NULL,
    kind     TEXT NOT NULL,
    part     INTEGER NOT NULL,
    user     TEXT NOT NULL,
    folder   TEXT NOT NULL,
    file     TEXT,
    body     TEXT NOT NULL,
    created  INTEGER NOT NULL,
    due      INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    dead     INTEGER NOT NULL DEFAULT 0,
    error    TEXT NOT NULL DEFAULT '',
    UNIQUE (id, kind, part)
) STRICT;
CREATE INDEX IF NOT EXISTS task_due ON task (dead, due);
CREATE INDEX IF NOT EXISTS task_file ON task (user, folder, file, seq);
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
pub enum JournalError {
    /// SQLite says so.
    #[error("cannot use {FILE}: {0}")]
    Database(String),
    /// The thread that writes is gone.
    #[error("cannot use {FILE}: the thread that writes it has ended")]
    Closed,
}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.to_string())
    }
}

/// Something that has to happen in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The id of the event that it is, or that it came of.
    pub id: String,
    /// The event, or what a hook asked for.
    pub kind: String,
    /// 0 for an event itself; of what its hooks asked for the first is 1.
    pub part: u32,
    /// Whose folder.
    pub user: String,
    /// The folder.
    pub folder: String,
    /// The name of the file that it is about. Events of one file happen in their order.
    pub file: Option<String>,
    /// All else.
    pub body: Map<String, Value>,
}

/// A task that is done.
#[derive(Clone, Debug)]
pub struct Done {
    /// The task.
    pub task: Task,
    /// The transfer that stands for it in the journal, if one does.
    pub owed: Option<Key>,
    /// What came of it.
    pub came: Vec<Task>,
}

/// A task in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place: those of one file happen in this order.
    pub seq: i64,
    /// What has to happen.
    pub task: Task,
    /// When it came, in milliseconds since 1970.
    pub created: u64,
    /// When it is tried next, in milliseconds since 1970.
    pub due: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// Whether it was given up.
    pub dead: bool,
    /// Why the last attempt failed.
    pub error: String,
}

/// What is done in a transaction.
trait Work: Send {
    /// Does it. Where a transaction with others fails, it is done once more, alone. Tells
    /// whether there may be something to do after it.
    fn run(&mut self, db: &Connection) -> rusqlite::Result<bool>;

    /// Tells whoever waits for it.
    fn announce(self: Box<Self>, committed: Result<(), JournalError>);
}

struct Job<F, T> {
    work: F,
    value: Option<T>,
    done: oneshot::Sender<Result<T, JournalError>>,
}

impl<F, T> Work for Job<F, T>
where
    F: Fn(&Connection) -> rusqlite::Result<(T, bool)> + Send,
    T: Send,
{
    fn run(&mut self, db: &Connection) -> rusqlite::Result<bool> {
        let (value, news) = (self.work)(db)?;
        self.value = Some(value);
        Ok(news)
    }

    fn announce(self: Box<Self>, committed: Result<(), JournalError>) {
        let Self { value, done, .. } = *self;
        let _ = done.send(committed.and_then(|()| value.ok_or(JournalError::Closed)));
    }
}

/// A write that waits for the thread.
struct Write {
    durable: bool,
    work: Box<dyn Work>,
}

/// The journal of a root. Copies of it are the same one.
#[derive(Clone)]
pub struct Journal {
    writes: mpsc::Sender<Write>,
    path: Arc<Path>,
    /// Told where a task may have come, or one that stood in front of another is done.
    pub news: Arc<Notify>,
}

impl Journal {
    /// Opens the journal of a root, and makes it if it is not there.
    pub fn open(root: &Root) -> Result<Self, JournalError> {
        let fail = |e: std::io::Error| JournalError::Database(e.to_string());
        match file::create_empty(root.dir(), FILE, 0o600) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(fail(e)),
            _ => {}
        }
        let path: Arc<Path> = root.path().join(FILE).into();
        let db = connect(&path)?;
        db.execute_batch(SCHEMA)?;
        db.execute_batch(delivered::SCHEMA)?;
        db.execute_batch(script_state::SCHEMA)?;
        db.execute_batch(last_run::SCHEMA)?;
        let (writes, waiting) = mpsc::channel();
        let news = Arc::new(Notify::new());
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn({
                let news = news.clone();
                move || write_all(&db, &waiting, &news)
            })
            .map_err(fail)?;
        Ok(Self { writes, path, news })
    }

    /// A connection of one's own, to read.
    pub fn reader(&self) -> Result<Connection, JournalError> {
        Ok(connect(&self.path)?)
    }

    /// Runs `work` in a transaction with others. When this returns, what it wrote
    /// survives `kill -9`, and where it is `durable` a loss of power.
    pub fn write<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Pending<T> {
        self.send(durable, move |db| Ok((work(db)?, true)))
    }

    /// [`Self::write`] of what brings nothing to do for anybody who waits for that.
    pub fn quietly<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Pending<T> {
        self.send(durable, move |db| Ok((work(db)?, false)))
    }

    fn send<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Connection) -> rusqlite::Result<(T, bool)> + Send + 'static,
    ) -> Pending<T> {
        let (done, result) = oneshot::channel();
        let work = Box::new(Job {
            work,
            value: None,
            done,
        });
        // Where the thread is gone, so is the sender of the result.
        let _ = self.writes.send(Write { durable, work });
        Pending(result)
    }

    /// Adds tasks; one that is there already stays as it is.
    pub fn add(&self, durable: bool, tasks: Vec<Task>) -> Pending<()> {
        self.write(durable, move |db| insert(db, &tasks))
    }

    /// Takes out a task that is done, or settles the transfer that stands for it, and puts in
    /// what came of it.
    pub fn done(&self, task: &Task, owed: Option<Key>, came: Vec<Task>) -> Pending<()> {
        let task = task.clone();
        self.done_all(vec![Done { task, owed, came }])
    }

    /// [`Self::done`] for many tasks in one write.
    pub fn done_all(&self, done: Vec<Done>) -> Pending<()> {
        let durable = done.iter().any(|done| !done.came.is_empty());
        self.send(durable, move |db| {
            let mut news = false;
            for Done { task, owed, came } in &done {
                match owed {
                    Some(key) => delivered::settle(db, key)?,
                    None => remove(db, task)?,
                }
                insert(db, came)?;
                news = news || !came.is_empty() || is_waited_for(db, task)?;
            }
            Ok(((), news))
        })
    }

    /// Keeps a task that failed, to be tried at `due`, or given up if there is none. It
    /// keeps its place, but may be about another file or folder by now. Where a transfer
    /// stood for it until now, it does so itself from here on.
    pub fn failed(
        &self,
        task: Task,
        owed: Option<Key>,
        error: String,
        due: Option<u64>,
    ) -> Pending<()> {
        self.write(false, move |db| {
            if let Some(key) = &owed {
                delivered::settle(db, key)?;
                insert(db, [&task])?;
            }
            db.prepare_cached(
                "UPDATE task SET attempts = attempts + 1, error = :error, dead = :dead,
                 due = coalesce(:due, due), folder = :folder, file = :file, body = :body
                 WHERE id = :id AND kind = :kind AND part = :part",
            )?
            .execute(named_params! {
                ":error": error, ":dead": due.is_none(), ":due": due.map(signed),
                ":folder": task.folder, ":file": task.file, ":body": json::canonical(&task.body),
                ":id": task.id, ":kind": task.kind, ":part": task.part,
            })?;
            Ok(())
        })
    }
}

/// The result of a write, once it is committed.
pub struct Pending<T>(oneshot::Receiver<Result<T, JournalError>>);

impl<T> Pending<T> {
    /// Waits for it in a task.
    pub async fn committed(self) -> Result<T, JournalError> {
        self.0.await.unwrap_or(Err(JournalError::Closed))
    }

    /// Waits for it on a thread that may block.
    pub fn wait(self) -> Result<T, JournalError> {
        self.0.blocking_recv().unwrap_or(Err(JournalError::Closed))
    }
}

/// Tasks that are due and have none of their file in front of them, nor a transfer of it
/// whose hooks have to run, nor a task of the same id, in their order: a file that was
/// renamed goes, then it comes.
pub fn due(db: &Connection, now: u64, limit: u32) -> rusqlite::Result<Vec<Entry>> {
    // A '+' keeps SQLite from an index: in the order of `seq` it can stop at the limit, where
    // it would sort ten thousand tasks for each that is done; of one id there are two or
    // three, and of those that are not dead all.
    db.prepare_cached(
        "SELECT * FROM task t WHERE +dead = 0 AND +due <= :now AND (part > 0 OR (NOT EXISTS (
             SELECT 1 FROM task f WHERE f.user = t.user AND f.folder = t.folder
             AND f.file = t.file AND f.seq < t.seq AND +f.dead = 0 AND f.part = 0)
         AND NOT EXISTS (SELECT 1 FROM task f WHERE f.id = t.id
             AND f.seq < t.seq AND +f.dead = 0 AND f.part = 0)
         AND NOT EXISTS (SELECT 1 FROM transfer o WHERE o.state = 3
             AND o.user = t.user AND o.folder = t.folder
             AND o.stem = substr(t.file, 1, length(t.file) - 5)
             AND t.file = o.stem || '.data')))
         ORDER BY seq LIMIT :limit",
    )?
    .query_map(
        named_params! { ":now": signed(now), ":limit": limit },
        entry,
    )?
    .collect()
}

/// When the next task is due, if there is one after `now`.
pub fn next_due(db: &Connection, now: u64) -> rusqlite::Result<Option<u64>> {
    let next: Option<i64> = db
        .prepare_cached("SELECT min(due) FROM task WHERE dead = 0 AND due > :now")?
        .query_row(named_params! { ":now": signed(now) }, |row| row.get(0))?;
    Ok(next.and_then(|due| u64::try_from(due).ok()))
}

/// Every task, or those of a user, in their order.
pub fn list(db: &Connection, user: Option<&str>, limit: u32) -> rusqlite::Result<Vec<Entry>> {
    db.prepare("SELECT * FROM task WHERE user = coalesce(:user, user) ORDER BY seq LIMIT :limit")?
        .query_map(named_params! { ":user": user, ":limit": limit }, entry)?
        .collect()
}

/// How many tasks are still to be done, with the transfers that stand for one, and how many
/// were given up.
pub fn counts(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    let count = |sql| {
        db.prepare_cached(sql)?
            .query_row([], |row| row.get::<_, i64>(0))
            .map(i64::unsigned_abs)
    };
    let tasks = count("SELECT count(*) FROM task WHERE dead = 0")?;
    let owed = count("SELECT count(*) FROM transfer WHERE state = 3")?;
    let dead = count("SELECT count(*) FROM task WHERE dead = 1")?;
    Ok((tasks.saturating_add(owed), dead))
}

/// One task.
pub fn find(db: &Connection, seq: i64) -> rusqlite::Result<Option<Entry>> {
    db.query_row("SELECT * FROM task WHERE seq = ?1", [seq], entry)
        .optional()
}

/// Puts tasks in; one that is there already stays as it is.
pub fn insert<'a>(
    db: &Connection,
    tasks: impl IntoIterator<Item = &'a Task>,
) -> rusqlite::Result<()> {
    let now = signed(clock::millis());
    for task in tasks {
        db.prepare_cached(
            "INSERT OR IGNORE INTO task (id, kind, part, user, folder, file, body, created, due)
             VALUES (:id, :kind, :part, :user, :folder, :file, :body, :now, :now)",
        )?
        .execute(named_params! {
            ":id": task.id, ":kind": task.kind, ":part": task.part, ":user": task.user,
            ":folder": task.folder, ":file": task.file, ":body": json::canonical(&task.body),
            ":now": now,
        })?;
    }
    Ok(())
}

/// Takes a task out.
pub fn remove(db: &Connection, task: &Task) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM task WHERE id = :id AND kind = :kind AND part = :part")?
        .execute(named_params! { ":id": task.id, ":kind": task.kind, ":part": task.part })?;
    Ok(())
}

/// Whether another task waits for one that is done: one of its file, or of its id.
fn is_waited_for(db: &Connection, task: &Task) -> rusqlite::Result<bool> {
    db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM task WHERE id = :id) OR EXISTS (SELECT 1 FROM task
         WHERE user = :user AND folder = :folder AND file = :file)",
    )?
    .query_row(
        named_params! {
            ":id": task.id, ":user": task.user, ":folder": task.folder, ":file": task.file,
        },
        |row| row.get(0),
    )
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let body: String = row.get("body")?;
    let time = |column| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column)?.max(0).unsigned_abs());
    Ok(Entry {
        seq: row.get("seq")?,
        task: Task {
            id: row.get("id")?,
            kind: row.get("kind")?,
            part: row.get("part")?,
            user: row.get("user")?,
            folder: row.get("folder")?,
            file: row.get("file")?,
            body: json::parse(body.as_bytes()).unwrap_or_default(),
        },
        created: time("created")?,
        due: time("due")?,
        attempts: row.get("attempts")?,
        dead: row.get("dead")?,
        error: row.get("error")?,
    })
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Opens the journal of a root only to look into it; `None` where there is none. It makes
/// no file, and changes none but the index that all readers share (`-shm`), where another
/// process has the journal open or left it in a hurry.
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
        // Even a reader would make a log else, and leave it there.
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

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Readers do not wait for the writer, nor it for them.
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "foreign_keys", "ON")?;
    Ok(db)
}

/// Runs a statement that is needed again and again.
fn run(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}

/// Commits what waits, batch after batch, until nobody can send more.
fn write_all(db: &Connection, waiting: &mpsc::Receiver<Write>, news: &Notify) {
    let mut flushes = "";
    while let Ok(first) = waiting.recv() {
        let mut durable = false;
        let batch: Vec<Box<dyn Work>> = std::iter::once(first)
            .chain(waiting.try_iter().take(BATCH - 1))
            .inspect(|write| durable |= write.durable)
            .map(|write| write.work)
            .collect();
        // In WAL mode every commit survives the process; a flush makes it survive power.
        let level = if durable { "FULL" } else { "NORMAL" };
        if level != flushes {
            match db.pragma_update(None, "synchronous", level) {
                Ok(()) => flushes = level,
                Err(error) => {
                    announce(batch, Err(error.into()));
                    continue;
                }
            }
        }
        if commit(db, batch) {
            news.notify_one();
        }
    }
}

/// Does all in one transaction, or, where something in it fails, each in one of its own:
/// what one did before it failed must not be committed with the others. Tells whether there
/// may be something to do after it.
fn commit(db: &Connection, mut batch: Vec<Box<dyn Work>>) -> bool {
    let mut failed = false;
    let committed = run(db, "BEGIN IMMEDIATE")
        .and_then(|()| {
            let news = batch
                .iter_mut()
                .try_fold(false, |news, work| Ok(news | work.run(db)?));
            failed = news.is_err();
            news
        })
        .and_then(|news| run(db, "COMMIT").map(|()| news));
    if let Err(error) = &committed {
        // Where it did not even begin, there is nothing to take back.
        let _ = run(db, "ROLLBACK");
        // Not everybody waits for what was written.
        if !failed || batch.len() == 1 {
            tracing::error!("{}", JournalError::Database(error.to_string()));
        }
    }
    if failed && batch.len() > 1 {
        let alone = |news, work| news | commit(db, vec![work]);
        return batch.into_iter().fold(false, alone);
    }
    let news = *committed.as_ref().unwrap_or(&false);
    announce(batch, committed.map(drop).map_err(JournalError::from));
    news
}

fn announce(batch: Vec<Box<dyn Work>>, committed: Result<(), JournalError>) {
    for work in batch {
        work.announce(committed.clone());
    }
}

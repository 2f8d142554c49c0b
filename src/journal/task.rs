//! Tasks: what still has to happen in a folder. Each is an event whose hooks have to run, or
//! something that a hook asked for.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{
    Journal, Pending,
    delivered::{self, Key},
    signed,
};
use crate::{
    clock,
    json::{self, Map, Value},
};

pub(super) const SCHEMA: &str = "
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
";

/// Something that has to happen in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The id of the event that it is, or that it came from.
    pub id: String,
    /// The event, or what a hook asked for.
    pub kind: String,
    /// 0 for an event itself; the first thing that its hooks asked for is 1.
    pub part: u32,
    /// Whose folder.
    pub user: String,
    /// The folder.
    pub folder: String,
    /// The name of the file that it is about. Events of one file happen in their order.
    pub file: Option<String>,
    /// Everything else.
    pub body: Map<String, Value>,
}

impl Task {
    /// As a document.
    pub fn to_document(&self) -> Map<String, Value> {
        let mut document = Map::new();
        let mut put = |field: &str, value: Value| document.insert(field.to_owned(), value);
        put("id", self.id.as_str().into());
        put("kind", self.kind.as_str().into());
        put("part", self.part.into());
        put("user", self.user.as_str().into());
        put("folder", self.folder.as_str().into());
        put("file", self.file.clone().into());
        put("body", Value::Object(self.body.clone()));
        document
    }

    /// Reads what [`Self::to_document`] wrote.
    pub fn from_document(document: &Map<String, Value>) -> Option<Self> {
        let text = |field| Some(document.get(field)?.as_str()?.to_owned());
        Some(Self {
            id: text("id")?,
            kind: text("kind")?,
            part: u32::try_from(document.get("part")?.as_u64()?).ok()?,
            user: text("user")?,
            folder: text("folder")?,
            file: text("file"),
            body: document.get("body")?.as_object()?.clone(),
        })
    }
}

/// A task in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place: those of one file happen in this order.
    pub seq: i64,
    /// What has to happen.
    pub task: Task,
    /// When it was added, in milliseconds since 1970.
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

impl Journal {
    /// Adds tasks; an existing one stays as it is.
    pub fn add(&self, durable: bool, tasks: Vec<Task>) -> Pending<()> {
        self.write(durable, move |db| insert(db, &tasks))
    }

    /// Removes a task that is done.
    pub fn done(&self, task: &Task) -> Pending<()> {
        let task = task.clone();
        self.send(false, move |db| {
            remove(db, &task)?;
            Ok(((), is_waited_for(db, &task)?))
        })
    }

    /// Lets a task stand from now on for what a transfer has left to do, if anything.
    pub fn take_over(&self, key: Key, task: Task) -> Pending<()> {
        self.write(false, move |db| {
            if delivered::complete(db, &key)? {
                insert(db, [&task])?;
            }
            Ok(())
        })
    }

    /// Keeps a task that failed: see [`fail`].
    pub fn failed(&self, task: Task, error: String, due: Option<u64>) -> Pending<()> {
        self.write(false, move |db| fail(db, &task, &error, due))
    }
}

/// Keeps a task that failed, to be tried at `due`, or given up if there is none. It keeps its
/// place, but its file or folder may have changed.
pub fn fail(db: &Connection, task: &Task, error: &str, due: Option<u64>) -> rusqlite::Result<()> {
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
}

/// Tasks that are due, in order, with no task of their file ahead of them, nor a transfer of it
/// whose hooks have to run, nor a task of the same id: a renamed file disappears, then it appears.
/// None of these users.
pub fn due(
    db: &Connection,
    now: u64,
    limit: u32,
    but_of: &[String],
) -> rusqlite::Result<Vec<Entry>> {
    // A '+' keeps SQLite from using an index: in the order of `seq` it can stop at the limit, where
    // it would otherwise sort ten thousand tasks for each that is done; one id has two or three
    // tasks, while `dead = 0` holds for all.
    db.prepare_cached(
        "SELECT * FROM task t WHERE +dead = 0 AND +due <= :now
         AND +user NOT IN (SELECT value FROM json_each(:but_of)) AND (part > 0 OR (NOT EXISTS (
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
        named_params! { ":now": signed(now), ":limit": limit, ":but_of": Value::from(but_of).to_string() },
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

/// The last events of a folder of a user that wait or were given up, newest first.
pub fn latest_events(
    db: &Connection,
    (user, folder): (&str, &str),
    limit: u32,
) -> rusqlite::Result<Vec<Entry>> {
    db.prepare(
        "SELECT * FROM task WHERE user = :user AND folder = :folder AND part = 0
         ORDER BY seq DESC LIMIT :limit",
    )?
    .query_map(
        named_params! { ":user": user, ":folder": folder, ":limit": limit },
        entry,
    )?
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

/// Adds tasks; an existing one stays as it is.
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

/// Removes a task.
pub fn remove(db: &Connection, task: &Task) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM task WHERE id = :id AND kind = :kind AND part = :part")?
        .execute(named_params! { ":id": task.id, ":kind": task.kind, ":part": task.part })?;
    Ok(())
}

/// Whether another task waits for one that is done: one of its file, or of its id.
pub fn is_waited_for(db: &Connection, task: &Task) -> rusqlite::Result<bool> {
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

//! How each script last ended.

use rusqlite::{Connection, OptionalExtension, named_params};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS run (
    user    TEXT NOT NULL,
    folder  TEXT NOT NULL,
    event   TEXT NOT NULL,
    script  TEXT NOT NULL,
    time    INTEGER NOT NULL,
    micros  INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    words   TEXT NOT NULL,
    PRIMARY KEY (user, folder, event, script)
) STRICT, WITHOUT ROWID;
";

/// How a script last ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// What it decided.
    pub verdict: String,
    /// Its words, or why it failed.
    pub words: String,
}

/// How a script of a folder last ended, if it ever ran.
pub fn find(
    db: &Connection,
    user: &str,
    folder: &str,
    event: &str,
    script: &str,
) -> rusqlite::Result<Option<LastRun>> {
    db.prepare_cached(
        "SELECT time, micros, verdict, words FROM run
         WHERE user = ?1 AND folder = ?2 AND event = ?3 AND script = ?4",
    )?
    .query_row([user, folder, event, script], |row| {
        let number = |at| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)?.max(0).unsigned_abs());
        Ok(LastRun {
            time: number(0)?,
            micros: number(1)?,
            verdict: row.get(2)?,
            words: row.get(3)?,
        })
    })
    .optional()
}

/// Records how a script ended: user, folder, event and script.
pub fn put(
    db: &Connection,
    [user, folder, event, script]: [&str; 4],
    run: &LastRun,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO run (user, folder, event, script, time, micros, verdict, words)
         VALUES (:user, :folder, :event, :script, :time, :micros, :verdict, :words)",
    )?
    .execute(named_params! {
        ":user": user, ":folder": folder, ":event": event, ":script": script,
        ":time": run.time.cast_signed(), ":micros": run.micros.cast_signed(),
        ":verdict": run.verdict, ":words": run.words,
    })?;
    Ok(())
}

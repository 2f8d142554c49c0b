//! How an event goes on whose hooks came to no decision.

use rusqlite::Connection;
use tracing::warn;

use crate::{
    error::printable,
    hooks::decide::Stands,
    journal::{self, Task, delivered},
};

/// What is written down of an attempt that failed.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The event, about the file where it is now.
    pub task: Task,
    /// Why it failed.
    pub why: String,
    /// When the next attempt is, in milliseconds since 1970; `None` if there is none.
    pub due: Option<u64>,
}

impl Attempt {
    /// Keeps the task, to be tried when it is due. Where a transfer stood for it until now, it
    /// does so itself from here on.
    pub fn write(&self, db: &Connection, stands: &Stands) -> rusqlite::Result<()> {
        match stands {
            Stands::Nothing => return Ok(()),
            Stands::Transfer(key) => {
                delivered::complete(db, key)?;
                journal::insert(db, [&self.task])?;
            }
            Stands::Task => {}
        }
        journal::fail(db, &self.task, &self.why, self.due)
    }
}

/// No further attempt makes sense until a person says so.
pub fn give_up(task: &Task, why: String) -> Attempt {
    let (user, folder) = (&task.user, &task.folder);
    warn!(
        id = %task.id,
        "{user}/{folder} [{}]: given up, see m2y events: {}",
        task.kind, printable(&why, 400)
    );
    Attempt {
        task: task.clone(),
        why,
        due: None,
    }
}

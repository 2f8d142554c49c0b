//! How hooks run outside of a transfer, and what is recorded of it.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Lines that are kept of one event, whatever its hooks write.
const MAX_LINES: usize = 10_000;

/// How the hooks of an event run.
#[derive(Clone)]
pub struct Mode {
    /// Whether scripts do what they ask for, or only decide.
    pub live: bool,
    /// Whether programs are started. One that is not counts as accepting.
    pub programs: bool,
    /// Where the log goes, if not into that of the process.
    pub notes: Option<Notes>,
}

impl Mode {
    /// As in a transfer: everything is done, the log is that of the process.
    pub const LIVE: Self = Self {
        live: true,
        programs: true,
        notes: None,
    };
}

/// What hooks said, and what they would have done. Clones share one list.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Written>>);

/// What was recorded.
#[derive(Debug, Default)]
pub struct Written {
    /// Lines of the log, each with its level in front.
    pub log: Vec<String>,
    /// What was not done because the run was not live, as calls of a script.
    pub spared: Vec<String>,
}

impl Notes {
    /// Takes what was recorded so far.
    pub fn take(&self) -> Written {
        mem::take(&mut self.lock())
    }

    /// One line of the log.
    pub fn line(&self, level: &str, line: &str) {
        let mut written = self.lock();
        if written.log.len() < MAX_LINES {
            written.log.push(format!("{level} {line}"));
        }
    }

    /// What a script would have done.
    pub fn spared(&self, actions: &[String]) {
        let mut written = self.lock();
        let room = MAX_LINES.saturating_sub(written.spared.len());
        written.spared.extend(actions.iter().take(room).cloned());
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

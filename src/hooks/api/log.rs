//! `log`: lines in the log of the server.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use rhai::Engine;
use tracing::{error, info, warn};

use super::function::Function;
use crate::{error::printable, event::Event, hooks::notes::Notes};

/// Lines that one call of a script may write.
const MAX_LINES: u32 = 100;

/// Characters of a line.
const MAX_LINE: usize = 500;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "log",
        "log.info(text)",
        "Writes a line to the server's log, with the script's name; a script writes at most 100 in a run. print(text) does the same.",
        r#"
log.info(`${meta.filename} has come`);
"#,
    ),
    Function::new(
        "log",
        "log.warn(text)",
        "Writes a warning to the server's log.",
        r#"
if meta.filesize == 0 { log.warn("an empty file"); }
"#,
    ),
    Function::new(
        "log",
        "log.error(text)",
        "Writes an error to the server's log. It does not affect the decision.",
        r#"
try { folder.size("nothing.txt"); } catch (problem) { log.error(`${problem}`); }
"#,
    ),
];

/// `log` in a script; `print` and `debug` write here too.
#[derive(Clone)]
pub struct Log {
    from: Arc<str>,
    left: Arc<AtomicU32>,
    notes: Option<Notes>,
}

impl Log {
    /// The log of one call: in `notes`, or else that of the process.
    pub fn new(event: &Event, script: &str, notes: Option<Notes>) -> Self {
        let folder = &event.folder;
        let from = format!("{}/{}/{script}", folder.user().name(), folder.name());
        Self {
            from: printable(&from, 200).into(),
            left: Arc::new(AtomicU32::new(MAX_LINES)),
            notes,
        }
    }

    /// One line.
    pub fn info(&self, text: &str) {
        if let Some(line) = self.line("INFO", text) {
            info!(script = %self.from, "{line}");
        }
    }

    /// The line for the log of the process, if it goes there.
    fn line(&self, level: &str, text: &str) -> Option<String> {
        let line = self.next(text)?;
        match &self.notes {
            Some(notes) => {
                notes.line(level, &line);
                None
            }
            None => Some(line),
        }
    }

    fn next(&self, text: &str) -> Option<String> {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        match left {
            Ok(1) => Some("(further lines of this call are left out)".to_owned()),
            Ok(_) => Some(printable(text, MAX_LINE)),
            Err(_) => None,
        }
    }
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Log>("Log")
        .register_fn("info", |log: &mut Log, text: &str| log.info(text))
        .register_fn("warn", |log: &mut Log, text: &str| {
            if let Some(line) = log.line("WARN", text) {
                warn!(script = %log.from, "{line}");
            }
        })
        .register_fn("error", |log: &mut Log, text: &str| {
            if let Some(line) = log.line("ERROR", text) {
                error!(script = %log.from, "{line}");
            }
        });
}

//! Why a hook failed, so that its author finds the place.

use std::{io, time::Duration};

use rhai::{EvalAltResult, ParseError, Position};

use crate::{error::printable, meta::MetaError};

/// What can go wrong with a hook. All of it is for the log; a peer hears only
/// [`HookError::Thrown`].
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The script threw a text: it refuses in its own words.
    #[error("{0}")]
    Thrown(String),
    /// Not in the folder, not in `ROOT/scripts/`, not bundled.
    #[error(
        "there is no script {0:?}: put it into the folder or into ROOT/scripts/, or take its line out of m2y.config"
    )]
    Missing(String),
    /// The file is there and cannot be read.
    #[error("cannot read {script}: {source}")]
    Unreadable {
        /// Its name in m2y.config.
        script: String,
        /// Why not.
        source: io::Error,
    },
    /// A script that does not compile, or stopped at an error.
    #[error("{0}")]
    Script(Box<Place>),
    /// A script or a program took longer than it may.
    #[error("{script}: stopped after {deadline:?}, its time was over")]
    Deadline {
        /// Its name in m2y.config.
        script: String,
        /// The time that it had.
        deadline: Duration,
    },
    /// The program cannot be started.
    #[error(
        "cannot start {script}: {source} (is it executable, and does its first line name a program?)"
    )]
    Start {
        /// Its name in m2y.config.
        script: String,
        /// Why not.
        source: io::Error,
    },
    /// The program ended with an error.
    #[error("{script}: ended with {status}; it said: {said}")]
    Exit {
        /// Its name in m2y.config.
        script: String,
        /// How it ended.
        status: String,
        /// The end of its output.
        said: String,
    },
    /// The program left a .meta that cannot be read.
    #[error("{script}: the .meta that it left cannot be read: {source}")]
    Meta {
        /// Its name in m2y.config.
        script: String,
        /// What is wrong with it.
        source: MetaError,
    },
    /// A function of the host panicked; the process goes on.
    #[error("the host failed inside a function that the script called: please report it")]
    Panic,
}

/// An error with its place in a script.
#[derive(Debug)]
pub struct Place {
    script: String,
    message: String,
    line: usize,
    column: usize,
    source: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            script,
            message,
            line,
            column,
            source,
        } = self;
        if *line == 0 {
            return write!(f, "{script}: {message}");
        }
        write!(f, "{script}:{line}:{column}: {message}")?;
        let caret = " ".repeat(column.saturating_sub(1));
        let margin = " ".repeat(line.to_string().len());
        write!(f, "\n {line} | {source}\n {margin} | {caret}^")
    }
}

/// The error of a script that does not compile.
pub fn compile_error(script: &str, text: &str, error: &ParseError) -> HookError {
    place(script, text, error.err_type().to_string(), error.position())
}

/// The error of a script that stopped.
pub fn run_error(
    script: &str,
    text: &str,
    deadline: Duration,
    mut error: EvalAltResult,
) -> HookError {
    let mut at = error.position();
    while let EvalAltResult::ErrorInFunctionCall(_, _, inner, _) = error {
        error = *inner;
        // The innermost place is where the author has to look.
        if !error.position().is_none() {
            at = error.position();
        }
    }
    match error {
        EvalAltResult::ErrorTerminated(..) => HookError::Deadline {
            script: script.to_owned(),
            deadline,
        },
        EvalAltResult::ErrorRuntime(thrown, _) if thrown.is_string() => {
            HookError::Thrown(thrown.into_string().unwrap_or_default())
        }
        mut error => {
            error.clear_position();
            place(script, text, error.to_string(), at)
        }
    }
}

fn place(script: &str, text: &str, message: String, at: Position) -> HookError {
    let line = at.line().unwrap_or_default();
    let column = at.position().unwrap_or_default();
    let source = line.checked_sub(1).and_then(|n| text.lines().nth(n));
    HookError::Script(Box::new(Place {
        script: script.to_owned(),
        message: printable(&message, 400),
        line,
        column,
        source: printable(source.unwrap_or_default(), 200),
    }))
}

//! Why a hook failed, so that its author finds the place.

use std::{io, time::Duration};

use rhai::{EvalAltResult, ParseError, Position};

use super::{
    api::function::{Failure, failure},
    call::Stop,
};
use crate::{error::printable, event::Outcome, meta::MetaError, root::name::NameError};

/// What can go wrong with a hook. All of it is for the log; a peer hears only
/// [`HookError::Thrown`].
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The script threw a text: it refuses in its own words.
    #[error("{0}")]
    Thrown(String),
    /// Not in the folder, not in `ROOT/scripts/`, not bundled.
    #[error(
        "script {0:?} not found: put it into the folder or into ROOT/scripts/, or remove its line from m2y.config"
    )]
    Missing(String),
    /// Its name cannot be the name of a script.
    #[error(
        "{line:?} cannot be a script: {source} (a comment in m2y.config needs a line of its own)"
    )]
    Name {
        /// The line of m2y.config.
        line: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// Programs are not allowed there.
    #[error(
        "{script}: not run, programs of this folder are not allowed: put it into ROOT/scripts/, or name the user in [hooks] executables of m2y.ini"
    )]
    Forbidden {
        /// Its name in m2y.config.
        script: String,
    },
    /// The file is there but cannot be read.
    #[error("cannot read {script}: {source}")]
    Unreadable {
        /// Its name in m2y.config.
        script: String,
        /// Why not.
        source: io::Error,
    },
    /// A script that does not compile, or stopped at an error.
    #[error("{0}")]
    Script(Box<SourceLine>),
    /// A script took longer than it may.
    #[error("{script}: stopped after {deadline:?}, its time was over")]
    Deadline {
        /// Its name in m2y.config.
        script: String,
        /// The time that it had.
        deadline: Duration,
    },
    /// A program took longer than it may.
    #[error("{script}: killed after {deadline:?}, with all that it had started{}", last_words(.said))]
    Hung {
        /// Its name in m2y.config.
        script: String,
        /// The time that it had.
        deadline: Duration,
        /// The last lines of its output, printable; empty if it wrote nothing.
        said: String,
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
    #[error("{script}: ended with {status}{}", last_words(.said))]
    Exit {
        /// Its name in m2y.config.
        script: String,
        /// How it ended.
        status: String,
        /// The last lines of its output, printable; empty if it wrote nothing.
        said: String,
    },
    /// A script came to its end with a value that looks like a decision.
    #[error(
        "{script}: ended with {value:?}, which decides nothing: to refuse, throw a text or set meta.error"
    )]
    Undecided {
        /// Its name in m2y.config.
        script: String,
        /// What it ended with.
        value: String,
    },
    /// A script put something else into a variable of the host's.
    #[error("{script}: your variable {variable} hides m2y's own: rename yours")]
    Shadowed {
        /// Its name in m2y.config.
        script: String,
        /// Which one.
        variable: &'static str,
    },
    /// It held too much memory, or all scripts that ran with it did.
    #[error("{script}: stopped, it held too much memory (8 MiB at most, and less beside others)")]
    Memory {
        /// Its name in m2y.config.
        script: String,
    },
    /// Too many hooks were waiting to run.
    #[error("{script}: not run, other hooks left it no time")]
    Busy {
        /// Its name in m2y.config.
        script: String,
    },
    /// What scripts made of a meta cannot be written to the disk for a program.
    #[error("{script}: not run, cannot write {file} for it: {source}")]
    Unwritable {
        /// Its name in m2y.config.
        script: String,
        /// The .meta.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// The .meta that a program left cannot be opened.
    #[error("{script}: cannot open {file}, which it left: {source}")]
    Gone {
        /// Its name in m2y.config.
        script: String,
        /// The .meta.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// The program left a .meta that cannot be read.
    #[error("{script}: the .meta that it left cannot be read: {source}")]
    Meta {
        /// Its name in m2y.config.
        script: String,
        /// What is wrong with it.
        source: MetaError,
    },
    /// A function of the host panicked; the process continues.
    #[error("the host failed inside a function that the script called: please report it")]
    Panic,
}

/// The last lines of a program's output, after what became of it.
fn last_words(said: &str) -> String {
    match said {
        "" => "; it wrote nothing".to_owned(),
        said => format!("; it said: {said}"),
    }
}

impl HookError {
    /// What the hook decided by failing: nothing is accepted, but if the trouble may be over in a
    /// while the peer is told so.
    pub fn outcome(self) -> Outcome {
        match self {
            // What fits into a field of a meta, whatever the characters.
            Self::Thrown(words) if !words.is_empty() => {
                Outcome::Refused(words.chars().take(1_000).collect())
            }
            Self::Deadline { .. } | Self::Memory { .. } | Self::Busy { .. } => Outcome::Later,
            _ => Outcome::Failed,
        }
    }
}

/// An error with its place in a script.
#[derive(Debug)]
pub struct SourceLine {
    script: String,
    message: String,
    line: usize,
    column: usize,
    /// Under which character of `source` the caret is, counted from 1.
    caret: usize,
    source: String,
}

impl SourceLine {
    /// The script, what is wrong there, line and column; line 0 if it has no place.
    pub fn parts(&self) -> (&str, &str, usize, usize) {
        (&self.script, &self.message, self.line, self.column)
    }
}

impl std::fmt::Display for SourceLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            script,
            message,
            line,
            column,
            caret,
            source,
        } = self;
        if *line == 0 {
            return write!(f, "{script}: {message}");
        }
        write!(f, "{script}:{line}:{column}: {message}")?;
        let caret = " ".repeat(caret.saturating_sub(1));
        let margin = " ".repeat(line.to_string().len());
        write!(f, "\n {line} | {source}\n {margin} | {caret}^")
    }
}

/// The error of a script that does not compile.
pub fn compile_error(script: &str, text: &str, error: &ParseError) -> HookError {
    place(
        script,
        text,
        &error.err_type().to_string(),
        error.position(),
    )
}

/// The error of a script that stopped; `text_of` gives name and text of the file that
/// has a function, or the script's own.
pub fn run_error<'a>(
    script: &str,
    text_of: impl Fn(Option<&str>) -> (&'a str, &'a str),
    deadline: Duration,
    mut error: EvalAltResult,
) -> HookError {
    let mut at = error.position();
    let (mut file, mut text) = text_of(None);
    while let EvalAltResult::ErrorInFunctionCall(function, _, inner, _) = error {
        error = *inner;
        // The innermost place is where the author has to look.
        if !error.position().is_none() {
            at = error.position();
            (file, text) = text_of(Some(&function));
        }
    }
    let script = script.to_owned();
    match error {
        EvalAltResult::ErrorTerminated(why, _) => match why.try_cast::<Stop>() {
            Some(Stop::Memory) => HookError::Memory { script },
            Some(Stop::Busy) => HookError::Busy { script },
            Some(Stop::Deadline(deadline)) => HookError::Deadline { script, deadline },
            None => HookError::Deadline { script, deadline },
        },
        EvalAltResult::ErrorRuntime(thrown, _) if thrown.is_string() => {
            HookError::Thrown(thrown.into_string().unwrap_or_default())
        }
        EvalAltResult::ErrorRuntime(thrown, _) if thrown.is::<Failure>() => {
            place(file, text, &thrown.cast::<Failure>().to_string(), at)
        }
        // Its place is in the text that the script had parsed.
        EvalAltResult::ErrorParsing(error, _) => {
            place(file, text, &error.to_string(), Position::NONE)
        }
        mut error => {
            error.clear_position();
            place(file, text, &error.to_string(), at)
        }
    }
}

/// A text that a script threw, as an error with a place: in a test it decides nothing.
pub fn with_place(mut error: EvalAltResult) -> EvalAltResult {
    let mut inner = &mut error;
    while let EvalAltResult::ErrorInFunctionCall(.., next, _) = inner {
        inner = next;
    }
    if let EvalAltResult::ErrorRuntime(thrown, _) = inner
        && thrown.is_string()
    {
        let words = format!("thrown: {thrown}");
        *thrown = failure(words);
    }
    error
}

/// Characters of a line of a script that are shown.
const SHOWN: usize = 160;

/// A message with its place in a script.
pub fn place(script: &str, text: &str, message: &str, at: Position) -> HookError {
    let line = at.line().unwrap_or_default();
    let column = at.position().unwrap_or_default();
    let source = line.checked_sub(1).and_then(|n| text.lines().nth(n));
    // Of a long line, only the part around the place, so that the caret is below it.
    let skipped = column.saturating_sub(SHOWN / 2);
    let source = source.unwrap_or_default().chars().skip(skipped);
    let one_wide = |c: char| if c.is_control() { ' ' } else { c };
    HookError::Script(Box::new(SourceLine {
        script: script.to_owned(),
        message: printable(message, 400),
        line,
        column,
        caret: column.saturating_sub(skipped),
        source: source.take(SHOWN).map(one_wide).collect(),
    }))
}

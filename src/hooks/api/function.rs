//! A function of a script: how it is described, what it returns, how it fails.

use std::{fmt, sync::Arc};

use rhai::{Dynamic, Engine, EvalAltResult, Position};

use crate::{error::printable, event::Kind};

/// One function of a script, described where it is registered.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// What it is about, which is also the name of the value that it is called on.
    pub subject: &'static str,
    /// How a script calls it.
    pub signature: &'static str,
    /// What it does.
    pub says: &'static str,
    /// A few lines that run as they are.
    pub example: &'static str,
    /// The events that it makes sense for; none means all.
    pub events: &'static [Kind],
}

impl Function {
    pub(super) const fn new(
        subject: &'static str,
        signature: &'static str,
        says: &'static str,
        example: &'static str,
    ) -> Self {
        Self {
            subject,
            signature,
            says,
            example,
            events: &[],
        }
    }

    pub(super) const fn only_at(mut self, events: &'static [Kind]) -> Self {
        self.events = events;
        self
    }
}

/// What a function of ours returns.
pub type Made<T> = Result<T, Box<EvalAltResult>>;

/// An error of a function of ours: the script may catch it; the caller adds its position.
#[derive(Clone, Debug)]
pub struct Failure(Arc<str>);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// [`Failure`], as a function returns it.
pub fn fail(sentence: impl Into<Arc<str>>) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorRuntime(
        failure(sentence),
        Position::NONE,
    ))
}

/// [`Failure`] as a value.
pub fn failure(sentence: impl Into<Arc<str>>) -> Dynamic {
    Dynamic::from(Failure(sentence.into()))
}

/// A text of a script as an error shows it: whatever a sender put into it.
pub(super) fn shown(text: &str) -> String {
    format!("\"{}\"", printable(text, 80))
}

/// Registers what is known of failures.
pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Failure>("Failure")
        .register_fn("to_string", |failure: &mut Failure| failure.to_string())
        .register_fn("to_debug", |failure: &mut Failure| failure.to_string());
}

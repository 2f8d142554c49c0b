//! `accept`, `reject`, `quarantine`: what a script decides, and its end.

use rhai::{Dynamic, Engine, EvalAltResult, Position};

use super::fail;
use crate::meta::{MAX_TEXT, TEXT};

/// What a script decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing against it.
    Accept,
    /// It may not come; why.
    Reject(String),
    /// It may come, and is kept out of sight; why.
    Quarantine(String),
}

type Ended = Result<(), Box<EvalAltResult>>;

/// Ends the script: no `catch` of its own catches that.
fn end(decision: Decision) -> Ended {
    Err(Box::new(EvalAltResult::Exit(
        Dynamic::from(decision),
        Position::NONE,
    )))
}

fn with_reason(function: &str, reason: &str, decision: fn(String) -> Decision) -> Ended {
    if reason.trim().is_empty() || reason.len() > MAX_TEXT {
        return Err(fail(format!(
            "{function}(reason): the reason must be {TEXT}, and not empty"
        )));
    }
    end(decision(reason.to_owned()))
}

pub(super) fn register(engine: &mut Engine) {
    engine
        // accept(): nothing against it; the script ends here, the next one runs
        .register_fn("accept", || end(Decision::Accept))
        // reject(reason): the file may not come; the sender reads the reason
        .register_fn("reject", |reason: &str| {
            with_reason("reject", reason, Decision::Reject)
        })
        // quarantine(reason): the file may come, and stays hidden until it is released
        .register_fn("quarantine", |reason: &str| {
            with_reason("quarantine", reason, Decision::Quarantine)
        });
}

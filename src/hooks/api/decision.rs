//! `accept`, `reject`, `quarantine`: what a script decides, and its end.

use rhai::{Dynamic, Engine, EvalAltResult, Position};

use super::{Function, fail};
use crate::{
    event::Kind,
    meta::{MAX_TEXT, TEXT},
};

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "decision",
        "accept()",
        "Nothing against the file. The script ends here, and the next one runs.",
        r#"
if meta.from == "zhenqiang" { accept(); }
reject("only from zhenqiang");
"#,
    )
    .only_at(DECIDING),
    Function::new(
        "decision",
        "reject(reason)",
        "Refuses the file; the sender reads the reason, at most 4,096 bytes. The script ends here, and no further one runs.",
        r#"
if meta.filesize > 20_000_000 { reject("larger than 20 MB"); }
"#,
    )
    .only_at(DECIDING),
    Function::new(
        "decision",
        "quarantine(reason)",
        "Takes the file and keeps it hidden until somebody releases it. The script ends here, and the next one runs.",
        r#"
if text.extension(meta.filename) == "exe" { quarantine("a program"); }
"#,
    )
    .only_at(DECIDING),
];

/// Where there is something to decide.
const DECIDING: &[Kind] = &[Kind::Meta, Kind::Received];

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
        .register_fn("accept", || end(Decision::Accept))
        .register_fn("reject", |reason: &str| {
            with_reason("reject", reason, Decision::Reject)
        })
        .register_fn("quarantine", |reason: &str| {
            with_reason("quarantine", reason, Decision::Quarantine)
        });
}

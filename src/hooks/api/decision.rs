//! `accept`, `reject`, `quarantine`, `hide`: what a script decides, and its end.

use rhai::{Array, Dynamic, Engine, EvalAltResult, Position};

use super::function::{Function, fail};
use crate::{
    event::Kind,
    meta::{MAX_TEXT, TEXT},
    root::file::MAX_NAME,
};

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "decision",
        "accept()",
        "Has no objection to the file. The script ends here, and the next one runs.",
        r#"
if meta.from == "zhenqiang" { accept(); }
reject("only from zhenqiang");
"#,
    )
    .only_at(DECIDING),
    Function::new(
        "decision",
        "accept_stream()",
        "The same; and if it is a stream, nobody is asked whether to watch it. Whoever waits for one watches it at once, and with record = yes it is recorded even if nobody does.",
        r#"
if meta.kind == "stream" && meta.from == "garden-camera" { accept_stream(); }
"#,
    )
    .only_at(&[Kind::Meta]),
    Function::new(
        "decision",
        "reject(reason)",
        "Refuses the file; the sender reads the reason, at most 4,096 bytes. At OnReceived the file is removed. At OnList and OnGet the contact is told that the file does not exist, and only the log has the reason. The script ends here, and no further one runs.",
        r#"
if meta.filesize > 20_000_000 { reject("larger than 20 MB"); }
"#,
    )
    .only_at(DECIDING),
    Function::new(
        "decision",
        "quarantine(reason)",
        "Accepts the file, but keeps it hidden until a person releases it. The script ends here; at OnMeta the next one runs, and may still refuse.",
        r#"
if text.extension(meta.filename) == "exe" { quarantine("a program"); }
"#,
    )
    .only_at(&[Kind::Meta, Kind::Received]),
    Function::new(
        "decision",
        "quarantine(reason, #{tell})",
        "The same, and with tell: true the sender is told that the file was refused, and why.",
        r#"
if text.extension(meta.filename) == "exe" { quarantine("a program", #{ tell: true }); }
"#,
    )
    .only_at(&[Kind::Received]),
    Function::new(
        "decision",
        "hide(patterns)",
        "Hides files and directories from the contact: those whose names match a pattern, as in text.matches, or one of an array of at most 64. The script ends here, and the next one runs.",
        r#"
if event.contact != "zhenqiang" { hide(["*.tmp", "draft*"]); }
"#,
    )
    .only_at(&[Kind::List]),
];

/// The events at which there is something to decide.
const DECIDING: &[Kind] = &[Kind::Meta, Kind::Received, Kind::List, Kind::Get];

/// Patterns that one script may hide.
const MAX_HIDDEN: usize = 64;

/// What a script decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing against it.
    Accept,
    /// Nothing against it; and a stream needs no person who says yes.
    AcceptStream,
    /// It is refused; why.
    Reject(String),
    /// It is accepted, but kept out of sight.
    Quarantine {
        /// Why.
        reason: String,
        /// Whether its sender hears that instead of an ACK.
        tell: bool,
    },
    /// It may be seen, except for names like these.
    Hide(Vec<String>),
}

type Ended = Result<(), Box<EvalAltResult>>;

/// Ends the script: no `catch` of its own catches that.
fn end(decision: Decision) -> Ended {
    Err(Box::new(EvalAltResult::Exit(
        Dynamic::from(decision),
        Position::NONE,
    )))
}

/// Whether the sender of a file that goes into quarantine is told.
fn tell(options: &rhai::Map) -> Result<bool, Box<EvalAltResult>> {
    let mut tell = false;
    for (option, value) in options {
        tell = match (option.as_str(), value.as_bool()) {
            ("tell", Ok(tell)) => tell,
            _ => {
                return Err(fail(
                    "quarantine(reason, options): there is only tell, true or false",
                ));
            }
        };
    }
    Ok(tell)
}

fn with_reason(function: &str, reason: &str, decision: impl FnOnce(String) -> Decision) -> Ended {
    if reason.trim().is_empty() || reason.len() > MAX_TEXT {
        return Err(fail(format!(
            "{function}(reason): the reason must be {TEXT}, and not empty"
        )));
    }
    end(decision(reason.to_owned()))
}

fn hide(patterns: Vec<String>) -> Ended {
    let long = patterns.iter().any(|pattern| pattern.len() > MAX_NAME);
    if patterns.len() > MAX_HIDDEN || long {
        return Err(fail(format!(
            "hide(patterns): it takes {MAX_HIDDEN} patterns of {MAX_NAME} bytes at most"
        )));
    }
    end(Decision::Hide(patterns))
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_fn("accept", || end(Decision::Accept))
        .register_fn("accept_stream", || end(Decision::AcceptStream))
        .register_fn("reject", |reason: &str| {
            with_reason("reject", reason, Decision::Reject)
        })
        .register_fn("quarantine", |reason: &str| {
            with_reason("quarantine", reason, |reason| Decision::Quarantine {
                reason,
                tell: false,
            })
        })
        .register_fn("quarantine", |reason: &str, options: rhai::Map| {
            let tell = tell(&options)?;
            with_reason("quarantine", reason, |reason| Decision::Quarantine {
                reason,
                tell,
            })
        })
        .register_fn("hide", |pattern: &str| hide(vec![pattern.to_owned()]))
        .register_fn("hide", |patterns: Array| {
            let texts = patterns.into_iter().map(Dynamic::into_string);
            let texts: Result<Vec<_>, _> = texts.collect();
            hide(texts.map_err(|_| fail("hide(patterns): each of them must be text".to_owned()))?)
        });
}

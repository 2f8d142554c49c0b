//! What is printed of one input that goes to several receivers, and what the exit code says.

use std::{
    io::Read,
    sync::{Mutex, PoisonError},
};

use super::{Failure, output, progress::Progress};
use crate::{
    client::broadcast::{Broadcast, News, Outcome},
    error::{Code, Error, printable},
    json::Value,
    meta::Meta,
};

/// How it is told.
pub struct Telling {
    /// Objects instead of lines.
    pub json: bool,
    /// Only errors.
    pub quiet: bool,
    /// No progress.
    pub no_progress: bool,
    /// What to do if it was cut off.
    pub advice: &'static str,
}

/// Sends an input, and prints what becomes of it.
pub async fn run(
    broadcast: Broadcast,
    input: impl Read + Send + 'static,
    telling: &Telling,
) -> Result<(), Failure> {
    let progress = Progress::default();
    if !(telling.json || telling.quiet || telling.no_progress) {
        progress.begin(false);
    }
    let over = Mutex::new(Vec::new());
    let tell = |news: News<'_>| {
        let (line, object) = told(&news);
        progress.apart(|| match telling.json {
            true => output::object(&object),
            false => match line {
                Some(Line::Result(line)) if !telling.quiet => output::line(line),
                Some(Line::Aside(line)) if !telling.quiet => output::aside(line),
                _ => {}
            },
        });
        if let News::Over(outcome) = news {
            let mut over = over.lock().unwrap_or_else(PoisonError::into_inner);
            over.push(*outcome);
        }
    };
    let sending = broadcast.send(input, &progress, tell);
    let sent = progress.watch(sending, telling.advice).await;
    progress.end();
    sent?;
    let over = over.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended(over, telling)
}

enum Line {
    Result(String),
    Aside(String),
}

fn told(news: &News<'_>) -> (Option<Line>, Vec<(&'static str, Value)>) {
    let about = |status: &'static str, meta: &Meta| {
        vec![
            ("status", status.into()),
            ("to", meta.to.as_str().into()),
            ("name", meta.filename.as_str().into()),
            ("id", meta.id.map(|id| id.to_string()).into()),
        ]
    };
    let name = |meta: &Meta| printable(&meta.filename, 200);
    match news {
        News::Begun(meta) => {
            let line = meta
                .is_stream()
                .then(|| Line::Aside(format!("{} watches {}", meta.to, name(meta))));
            (line, about("begun", meta))
        }
        News::Again(meta, error) => {
            let mut object = about("again", meta);
            object.push(("error", error.sentence.as_str().into()));
            let line = format!("{}: {error}; asking again", meta.to);
            (Some(Line::Aside(line)), object)
        }
        News::Over(outcome) => {
            let Outcome {
                meta,
                result,
                sent,
                dropped,
                took,
            } = &**outcome;
            let is_stream = meta.is_stream();
            let status = match result {
                Ok(()) if is_stream => "streamed",
                Ok(()) => "sent",
                Err(_) => "failed",
            };
            let mut object = about(status, meta);
            object.extend([
                ("bytes", (*sent).into()),
                ("seconds", took.as_secs_f64().into()),
                ("crc", meta.file_crc.into()),
            ]);
            if is_stream {
                object.push(("dropped_pieces", dropped.pieces.into()));
                object.push(("dropped_bytes", dropped.bytes.into()));
            }
            if let Err(error) = result {
                object.push(("code", error.code.word().into()));
                object.push(("error", error.sentence.as_str().into()));
                return (None, object);
            }
            let verb = if is_stream { "streamed" } else { "sent" };
            let lost = match dropped.pieces {
                0 => String::new(),
                1 => format!(", 1 piece dropped ({})", output::bytes(dropped.bytes)),
                n => {
                    let (n, bytes) = (output::count(n), output::bytes(dropped.bytes));
                    format!(", {n} pieces dropped ({bytes})")
                }
            };
            let speed = output::speed(*sent, *took);
            let line = format!("{verb} {} to {}: {speed}{lost}", name(meta), meta.to);
            (Some(Line::Result(line)), object)
        }
    }
}

/// Why a receiver does not have it, with how much was sent.
fn explained(outcome: &Outcome, error: &Error, advice: &str) -> Error {
    let error = match error.code {
        Code::Refused => error
            .clone()
            .within(format_args!("rejected by {}", outcome.meta.to)),
        _ => error.clone(),
    };
    match outcome.sent {
        0 => error,
        sent => {
            let sent = output::bytes(sent);
            Error::new(error.code, format!("{error} (after {sent}; {advice})"))
        }
    }
}

fn ended(over: Vec<Outcome>, telling: &Telling) -> Result<(), Failure> {
    let all = over.len();
    let mut failed = Vec::new();
    for outcome in &over {
        if let Err(error) = &outcome.result {
            failed.push(explained(outcome, error, telling.advice));
        }
    }
    let Some(first) = failed.first().cloned() else {
        return Ok(());
    };
    if all == 1 {
        return Err(match telling.json {
            true => Failure::told(first),
            false => first.into(),
        });
    }
    for error in &failed {
        eprintln!("m2y: {}", printable(&error.sentence, 8_192));
    }
    let count = failed.len();
    let sentence = format!("{count} of {all} receivers did not get it");
    let is_same = failed.iter().all(|error| error.code == first.code);
    let code = match is_same && count == all {
        true => first.code,
        false => Code::Partly,
    };
    Err(Error::new(code, sentence).into())
}

//! What became of files on their way to or from a contact: counted, and reported once it is known.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    output::{self, files},
    progress::Progress,
};
use crate::{
    error::{Code, Error, printable},
    json::Value,
};

/// The most objects that are kept for a program; what became of further files is only counted.
const KEPT: usize = 100_000;

/// Who is told what became of each file.
pub enum Voice {
    /// To people: only what they need to know.
    Lines,
    /// To people: only what went wrong.
    Errors,
    /// To programs: an object a line.
    Objects,
    /// To nobody yet: the objects are kept.
    Kept(Vec<Value>),
}

/// The direction in which the files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the contact.
    Get,
    /// The same, if it were not a dry run.
    DryGet,
    /// To the contact.
    Put,
}

impl Way {
    /// What became of a file that is finished.
    fn word(self) -> &'static str {
        match self {
            Self::Get | Self::DryGet => "fetched",
            Self::Put => "stored",
        }
    }

    /// The same for programs.
    fn status(self) -> &'static str {
        match self {
            Self::DryGet => "would-fetch",
            way => way.word(),
        }
    }
}

/// A file, as it is reported.
pub struct Item<'a> {
    /// Its path on the contact's server.
    pub path: &'a str,
    /// Its local path.
    pub file: &'a Path,
    /// Its bytes.
    pub bytes: u64,
}

/// What is known about a file that is finished.
pub struct Through {
    /// How many of its bytes were there from before.
    pub resumed: u64,
    /// Whether it changed after it was begun, and so was started over.
    pub started_over: bool,
    /// Its CRC-32.
    pub crc: Option<u32>,
    /// How long it took.
    pub took: Duration,
}

/// Counts and reports.
pub struct Tally {
    way: Way,
    voice: Voice,
    progress: Arc<Progress>,
    begun: Instant,
    through: u64,
    bytes: u64,
    same: u64,
    skipped: u64,
    failed: u64,
    first: Option<Error>,
}

impl Voice {
    /// The voice that a command line asks for.
    pub fn new(json: bool, quiet: bool) -> Self {
        match (json, quiet) {
            (true, _) => Self::Objects,
            (false, true) => Self::Errors,
            (false, false) => Self::Lines,
        }
    }

    fn object(&mut self, fields: &[(&str, Value)]) {
        match self {
            Self::Lines | Self::Errors => {}
            Self::Objects => output::object(fields),
            Self::Kept(kept) if kept.len() < KEPT => {
                let field = |(name, value): &(&str, Value)| ((*name).to_owned(), value.clone());
                kept.push(Value::Object(fields.iter().map(field).collect()));
            }
            Self::Kept(_) => {}
        }
    }
}

impl Tally {
    /// A tally before anything has happened.
    pub fn new(way: Way, voice: Voice, progress: Arc<Progress>) -> Self {
        Self {
            way,
            voice,
            progress,
            begun: Instant::now(),
            through: 0,
            bytes: 0,
            same: 0,
            skipped: 0,
            failed: 0,
            first: None,
        }
    }

    /// A file is finished.
    pub fn through(&mut self, item: &Item<'_>, through: &Through) {
        self.through += 1;
        self.bytes += item.bytes.saturating_sub(through.resumed);
        if through.started_over {
            let shown = printable(item.path, 300);
            self.warn(format!(
                "{shown} changed since the last attempt: started over"
            ));
        }
        let word = self.way.status();
        self.tell(
            word,
            item,
            &[
                ("resumed", through.resumed.into()),
                ("resumed_from", through.resumed.into()),
                ("startedOver", through.started_over.into()),
                ("crc", through.crc.into()),
                ("seconds", through.took.as_secs_f64().into()),
            ],
        );
    }

    /// A file would be transferred, if this were not a dry run.
    pub fn would(&mut self, item: &Item<'_>) {
        self.through += 1;
        self.bytes += item.bytes;
        self.tell(self.way.status(), item, &[]);
        if let Voice::Lines = self.voice {
            let line = format!(
                "would fetch {} to {}: {}",
                printable(item.path, 300),
                printable(&item.file.display().to_string(), 1_000),
                output::bytes(item.bytes)
            );
            self.progress.apart(|| output::line(line));
        }
    }

    /// The identical file is there already.
    pub fn same(&mut self, item: &Item<'_>) {
        self.same += 1;
        self.tell("same", item, &[]);
    }

    /// A different file is there, and is to stay.
    pub fn skipped(&mut self, item: &Item<'_>) {
        self.skipped += 1;
        self.tell("skipped", item, &[]);
    }

    /// Something was not transferred.
    pub fn failed(&mut self, error: &Error, path: &str, file: Option<&Path>) {
        self.failed += 1;
        self.warn(printable(&error.sentence, 8_192));
        self.voice.object(&[
            ("status", "failed".into()),
            ("path", path.into()),
            (
                "file",
                file.map_or(path.to_owned(), |file| file.display().to_string())
                    .into(),
            ),
            ("code", error.code.word().into()),
            ("error", error.sentence.as_str().into()),
        ]);
        self.first.get_or_insert(error.clone());
    }

    /// Says something to people.
    pub fn warn(&self, line: String) {
        if let Voice::Lines | Voice::Errors = self.voice {
            self.progress.apart(|| eprintln!("m2y: {line}"));
        }
    }

    fn tell(&mut self, status: &str, item: &Item<'_>, more: &[(&str, Value)]) {
        let mut fields = vec![
            ("status", status.into()),
            ("path", item.path.into()),
            ("file", item.file.display().to_string().into()),
            ("bytes", item.bytes.into()),
        ];
        fields.extend(more.iter().cloned());
        self.voice.object(&fields);
    }

    /// Reports the outcome; returns what was kept for programs.
    pub fn end(mut self) -> (Result<(), Error>, Vec<Value>) {
        let whole = self.through + self.same + self.skipped;
        if whole + self.failed > 0 {
            let took = self.begun.elapsed();
            let object = self.object(took);
            match &mut self.voice {
                // The error of the only file was reported already.
                Voice::Lines if whole == 0 && self.failed == 1 => {}
                Voice::Errors => {}
                Voice::Lines => output::line(self.summary(took)),
                voice => voice.object(&object),
            }
        }
        let kept = match self.voice {
            Voice::Kept(kept) => kept,
            _ => Vec::new(),
        };
        let Some(first) = self.first else {
            return (Ok(()), kept);
        };
        let word = self.way.word();
        let sentence = format!("{} not {word}", files(self.failed));
        let code = if whole > 0 { Code::Partly } else { first.code };
        (Err(Error::new(code, sentence)), kept)
    }

    fn object(&self, took: Duration) -> [(&'static str, Value); 7] {
        [
            ("status", "summary".into()),
            (self.way.status(), self.through.into()),
            ("bytes", self.bytes.into()),
            ("same", self.same.into()),
            ("skipped", self.skipped.into()),
            ("failed", self.failed.into()),
            ("seconds", took.as_secs_f64().into()),
        ]
    }

    fn summary(&self, took: Duration) -> String {
        let mut line = match self.way == Way::DryGet {
            true => format!(
                "would fetch {}: {}",
                files(self.through),
                output::bytes(self.bytes)
            ),
            false => format!(
                "{} {}: {}",
                self.way.word(),
                files(self.through),
                output::speed(self.bytes, took)
            ),
        };
        for (n, what) in [
            (self.same, "identical"),
            (self.skipped, "skipped"),
            (self.failed, "failed"),
        ] {
            if n > 0 {
                line.push_str(&format!(", {} {what}", output::count(n)));
            }
        }
        line
    }
}

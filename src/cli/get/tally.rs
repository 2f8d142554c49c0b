//! What became of files that were asked for: counted, and said when it is known.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::walk::Remote;
use crate::{
    cli::{
        output::{self, files},
        progress::Progress,
    },
    error::{Code, Error, printable},
    json::Value,
    transfer::landing::Landed,
};

/// Objects that are kept for a program; what became of further files is only counted.
const KEPT: usize = 100_000;

/// To whom it is said what became of each file.
pub enum Voice {
    /// To people: only what they need to know.
    Lines,
    /// To programs: an object a line.
    Objects,
    /// To nobody yet: the objects are kept.
    Kept(Vec<Value>),
}

/// Counts, and tells.
pub struct Tally {
    voice: Voice,
    progress: Arc<Progress>,
    begun: Instant,
    fetched: u64,
    bytes: u64,
    same: u64,
    skipped: u64,
    failed: u64,
    /// Those of the failed in whose place there is another file.
    in_the_way: u64,
    first: Option<Error>,
}

/// That something was not fetched.
pub struct Unfetched {
    /// The kind of the first trouble, and how many.
    pub error: Error,
    /// Whether all of them have another file in their place.
    pub differs: bool,
}

impl Voice {
    fn object(&mut self, fields: &[(&str, Value)]) {
        match self {
            Self::Lines => {}
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
    /// Nothing has happened yet.
    pub fn new(voice: Voice, progress: Arc<Progress>) -> Self {
        Self {
            voice,
            progress,
            begun: Instant::now(),
            fetched: 0,
            bytes: 0,
            same: 0,
            skipped: 0,
            failed: 0,
            in_the_way: 0,
            first: None,
        }
    }

    /// A file is here that was not.
    pub fn fetched(&mut self, remote: &Remote, file: &Path, landed: &Landed, took: Duration) {
        self.fetched += 1;
        self.bytes += landed.size.saturating_sub(landed.resumed);
        if landed.started_over {
            let shown = printable(&remote.path, 300);
            self.warn(format!(
                "{shown} has changed since it was begun: it came from its beginning"
            ));
        }
        self.tell(
            "fetched",
            remote,
            file,
            &[
                ("resumed", landed.resumed.into()),
                ("startedOver", landed.started_over.into()),
                ("crc", landed.crc.into()),
                ("seconds", took.as_secs_f64().into()),
            ],
        );
    }

    /// The file is here already.
    pub fn same(&mut self, remote: &Remote, file: &Path) {
        self.same += 1;
        self.tell("same", remote, file, &[]);
    }

    /// Another file is there, which is to stay.
    pub fn skipped(&mut self, remote: &Remote, file: &Path) {
        self.skipped += 1;
        self.tell("skipped", remote, file, &[]);
    }

    /// What fails next does so because another file is in its place.
    pub fn in_the_way(&mut self) {
        self.in_the_way += 1;
    }

    /// Something was not fetched.
    pub fn failed(&mut self, error: &Error, path: &str) {
        self.failed += 1;
        self.warn(printable(&error.sentence, 8_192));
        self.voice.object(&[
            ("status", "failed".into()),
            ("path", path.into()),
            ("code", error.code.word().into()),
            ("error", error.sentence.as_str().into()),
        ]);
        self.first.get_or_insert(error.clone());
    }

    fn warn(&self, line: String) {
        if let Voice::Lines = self.voice {
            self.progress.apart(|| eprintln!("m2y: {line}"));
        }
    }

    fn tell(&mut self, status: &str, remote: &Remote, file: &Path, more: &[(&str, Value)]) {
        let mut fields = vec![
            ("status", status.into()),
            ("path", remote.path.as_str().into()),
            ("file", file.display().to_string().into()),
            ("bytes", remote.size.into()),
        ];
        fields.extend(more.iter().cloned());
        self.voice.object(&fields);
    }

    /// Says how it went; gives back what was kept for programs.
    pub fn end(mut self) -> (Result<(), Unfetched>, Vec<Value>) {
        let whole = self.fetched + self.same + self.skipped;
        if whole + self.failed > 0 {
            let took = self.begun.elapsed();
            let object = self.object(took);
            match &mut self.voice {
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
        let sentence = format!("{} not fetched", files(self.failed));
        let code = if whole > 0 { Code::Partly } else { first.code };
        let unfetched = Unfetched {
            error: Error::new(code, sentence),
            differs: self.in_the_way == self.failed,
        };
        (Err(unfetched), kept)
    }

    fn object(&self, took: Duration) -> [(&'static str, Value); 7] {
        [
            ("status", "summary".into()),
            ("fetched", self.fetched.into()),
            ("bytes", self.bytes.into()),
            ("same", self.same.into()),
            ("skipped", self.skipped.into()),
            ("failed", self.failed.into()),
            ("seconds", took.as_secs_f64().into()),
        ]
    }

    fn summary(&self, took: Duration) -> String {
        let mut line = format!(
            "fetched {}: {}",
            files(self.fetched),
            output::speed(self.bytes, took)
        );
        for (n, what) in [
            (self.same, "the same already"),
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

//! What the hooks of one event decided, for people and for programs.

use crate::{
    error::printable,
    event::{Outcome, Run, Verdict},
    hooks::{notes::Written, web::NOT_POSTED},
    json::{Map, Value},
    meta::Meta,
};

/// The word for hooks that a dry run cannot follow to their decision, and why.
const NOT_RUN_FURTHER: (&str, &str) = ("not run further", "http.post() is not sent in a dry run");

/// What the hooks of one event said and asked for.
pub(super) struct Report {
    pub(super) verdict: Verdict,
    changed: Map<String, Value>,
    written: Written,
    live: bool,
}

impl Report {
    /// The report of a verdict about a meta; `live` if what was asked for is done.
    pub(super) fn new(
        before: Option<&Meta>,
        verdict: Verdict,
        written: Written,
        live: bool,
    ) -> Self {
        Self {
            changed: changed(before, verdict.meta.as_ref()),
            written,
            live,
            verdict,
        }
    }

    /// The word for what the hooks decided, and their own words.
    pub(super) fn words(&self) -> (&'static str, &str) {
        match self.is_cut_short() {
            true => NOT_RUN_FURTHER,
            false => self.verdict.outcome.words(),
        }
    }

    /// Whether the hooks reached a request that a dry run does not send, and so made no decision.
    pub(super) fn is_cut_short(&self) -> bool {
        !self.live && self.verdict.runs.last().is_some_and(is_cut_short)
    }

    fn words_of<'a>(&self, run: &'a Run) -> (&'static str, &'a str) {
        match !self.live && is_cut_short(run) {
            true => NOT_RUN_FURTHER,
            false => run.outcome.words(),
        }
    }

    /// What is done after the verdict: nothing if hooks object.
    fn effects(&self) -> Vec<String> {
        if self.verdict.outcome.objection().is_some() {
            return Vec::new();
        }
        let effects = self.verdict.effects.iter();
        effects.map(ToString::to_string).collect()
    }

    /// For people, everything except the verdict itself; at most `most` lines each of the log, of
    /// fields, of what was not done, and of what is done later.
    pub(super) fn lines(&self, most: usize) -> Vec<String> {
        let mut lines = Lines {
            lines: Vec::new(),
            most,
        };
        lines.part(&self.written.log, |line| printable(line, 1_000));
        for run in &self.verdict.runs {
            let (word, words) = self.words_of(run);
            let why = run.error.as_deref().unwrap_or(words);
            let took = run.took.as_secs_f64() * 1_000.0;
            let script = printable(&run.script, 80);
            lines
                .lines
                .push(format!("{script}: {word} in {took:.1} ms"));
            let why: Vec<&str> = why.lines().collect();
            lines.part(&why, |line| format!("    {}", printable(line, 1_000)));
        }
        if self.verdict.runs.is_empty() {
            lines.lines.push("no script runs at this event".to_owned());
        }
        let changed: Vec<_> = self.changed.iter().collect();
        lines.part(&changed, |(field, value)| {
            let value = printable(&value.to_string(), 1_000);
            format!("meta.{field} = {value}")
        });
        lines.part(&self.written.spared, |deed| {
            format!("would do {}", printable(deed, 1_000))
        });
        let queued = match self.live {
            true => "in the journal",
            false => "would do",
        };
        lines.part(&self.effects(), |effect| {
            format!("{queued} {}", printable(effect, 1_000))
        });
        lines.lines
    }

    /// For programs; at most `most` lines each of the log, of what was not done, and of what is
    /// done later.
    pub(super) fn facts(&self, most: usize) -> [(&'static str, Value); 8] {
        let (word, words) = self.words();
        let texts = |lines: &[String]| -> Value {
            lines
                .iter()
                .take(most)
                .map(|line| Value::from(line.as_str()))
                .collect()
        };
        let runs = self.verdict.runs.iter().map(|run| {
            let mut object = Map::new();
            let (word, words) = self.words_of(run);
            object.insert("script".to_owned(), run.script.as_str().into());
            object.insert("verdict".to_owned(), word.into());
            object.insert("words".to_owned(), words.into());
            object.insert("error".to_owned(), run.error.clone().into());
            object.insert("seconds".to_owned(), run.took.as_secs_f64().into());
            Value::Object(object)
        });
        [
            ("status", word.into()),
            ("words", words.into()),
            ("live", self.live.into()),
            ("runs", runs.collect()),
            ("changed", Value::Object(self.changed.clone())),
            ("log", texts(&self.written.log)),
            ("spared", texts(&self.written.spared)),
            ("effects", texts(&self.effects())),
        ]
    }
}

fn is_cut_short(run: &Run) -> bool {
    let error = run.error.as_deref().unwrap_or_default();
    run.outcome == Outcome::Failed && error.contains(NOT_POSTED)
}

/// Lines in parts, each of limited length.
struct Lines {
    lines: Vec<String>,
    most: usize,
}

impl Lines {
    fn part<T>(&mut self, part: &[T], line: impl Fn(&T) -> String) {
        self.lines.extend(part.iter().take(self.most).map(line));
        if let Some(more @ 1..) = part.len().checked_sub(self.most) {
            self.lines.push(format!("... and {more} more"));
        }
    }
}

/// The fields that hooks may write and that have changed; null for one that is gone.
fn changed(before: Option<&Meta>, after: Option<&Meta>) -> Map<String, Value> {
    let fields = |meta: Option<&Meta>| {
        let mut fields = meta.map(|meta| meta.extra.clone()).unwrap_or_default();
        let error = meta.map(|meta| meta.error.as_str()).unwrap_or_default();
        fields.insert("error".to_owned(), error.into());
        fields
    };
    let (before, after) = (fields(before), fields(after));
    let mut changed = Map::new();
    for field in before.keys().chain(after.keys()) {
        if before.get(field) != after.get(field) {
            let value = after.get(field).cloned().unwrap_or(Value::Null);
            changed.insert(field.clone(), value);
        }
    }
    changed
}

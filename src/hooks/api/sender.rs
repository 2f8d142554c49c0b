//! `sender`: what the contact whose file the event is about sent into the folder before.

use std::sync::Arc;

use rhai::{Dynamic, Engine};

use super::{
    function::{Function, Made, fail},
    state::State,
};
use crate::{
    clock,
    event::{Event, Kind},
    journal::sent::{DAYS, Sent, day},
    root::folder::Folder,
};

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "sender",
        "sender.count(days)",
        "How many files the sender sent into the folder in that many days, in UTC: 1 is today, 7 is today and the six days before, at most 366. A file counts once it has arrived, so at [OnReceived] the file of the event counts; a file whose contents were rejected does not. Files that are in transit at the same time do not count each other: for a limit that is exact to the file, count with state.add().",
        r#"
if sender.count(1) >= 1_000 { reject("enough for today"); }
assert_eq(sender.count(366), 0);
"#,
    )
    .only_at(&[Kind::Meta, Kind::Received]),
    Function::new(
        "sender",
        "sender.bytes(days)",
        "The total size of these files in bytes.",
        r#"
if sender.bytes(30) + meta.filesize > 10_000_000_000 { reject("more than 10 GB in a month"); }
"#,
    )
    .only_at(&[Kind::Meta, Kind::Received]),
    Function::new(
        "sender",
        "sender.first_seen",
        "When the first file of the sender arrived in the folder, in seconds since 1970; () if none has arrived yet. At [OnReceived], the file of the event is included.",
        r#"
if sender.first_seen == () { notify.inbox(`${meta.from} sends for the first time`); }
"#,
    )
    .only_at(&[Kind::Meta, Kind::Received]),
];

/// `sender` in a script.
#[derive(Clone)]
pub struct Handle {
    folder: Folder,
    /// The contact; `None` if the event is not about a file of one.
    name: Option<String>,
    state: Arc<dyn State>,
}

impl Handle {
    pub(super) fn new(event: &Event, state: &Arc<dyn State>) -> Self {
        let subject = event.subject.as_ref();
        Self {
            folder: event.folder.clone(),
            name: subject.map(|subject| subject.meta.from.clone()),
            state: state.clone(),
        }
    }

    fn sent(&self, call: &str, days: i64) -> Made<Sent> {
        let days = u64::try_from(days).ok().filter(|n| (1..=DAYS).contains(n));
        let days = days.ok_or_else(|| fail(format!("{call}: days must be 1 to {DAYS}")))?;
        let name = self.name.as_ref().ok_or_else(|| {
            fail(format!(
                "{call}: the event is not about a file that somebody sent"
            ))
        })?;
        let from = (day(clock::millis()) + 1).saturating_sub(days);
        self.state
            .sent(self.folder.user().name(), self.folder.name(), name, from)
            .map_err(|e| fail(format!("{call}: {e}")))
    }

    fn count(&mut self, days: i64) -> Made<i64> {
        Ok(signed(self.sent("sender.count()", days)?.files))
    }

    fn bytes(&mut self, days: i64) -> Made<i64> {
        Ok(signed(self.sent("sender.bytes()", days)?.bytes))
    }

    fn first_seen(&mut self) -> Made<Dynamic> {
        let first = self.sent("sender.first_seen", 1)?.first;
        Ok(first.map_or(Dynamic::UNIT, |millis| signed(millis / 1_000).into()))
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Sender")
        .register_fn("count", Handle::count)
        .register_fn("bytes", Handle::bytes)
        .register_get("first_seen", Handle::first_seen);
}

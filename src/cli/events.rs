use super::{RootArg, output, user_name};
use crate::{
    clock,
    error::{Code, Error, printable},
    hooks::dispatch::BEFORE,
    journal::{self, Entry, Journal, JournalError},
    json::{Value, pretty},
};
use clap::{Args, Subcommand};

/// Inspect, retry or drop what still has to happen: failed hooks, undelivered mail
///
/// Events whose hooks run after a file is safe, and whatever hooks ask for (e-mails,
/// webhooks, files for others), stay in ROOT/journal.sqlite until they are done. m2y retries
/// failures at growing intervals and gives up after retry_limit attempts (m2y.ini); then
/// they wait here for you. A running server takes over your changes at once.
#[derive(Debug, Subcommand)]
pub enum Events {
    List(List),
    Show(Show),
    /// Retry events now
    Replay(Choice),
    /// Drop events: m2y forgets them
    Drop(Choice),
}

/// List what waits and what m2y gave up on, oldest first
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    root: RootArg,
    /// Only events in this user's folders
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only what m2y gave up on
    #[arg(long)]
    dead: bool,
    /// List at most N
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    limit: u32,
}

/// Show everything about one event
#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    root: RootArg,
    /// The number that `list` shows
    #[arg(value_name = "N")]
    number: i64,
}

/// Which events.
#[derive(Debug, Args)]
pub struct Choice {
    #[command(flatten)]
    root: RootArg,
    /// Everything that m2y gave up on
    #[arg(long, conflicts_with = "numbers")]
    dead: bool,
    /// The numbers that `list` shows
    #[arg(value_name = "N", required_unless_present = "dead")]
    numbers: Vec<i64>,
}

impl Events {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        match self {
            Self::List(list) => list.run(json),
            Self::Show(show) => show.run(json),
            Self::Replay(choice) => {
                let sql = "UPDATE task SET dead = 0, attempts = 0, due = 0";
                choice.run(sql, "to be tried again", json).await
            }
            Self::Drop(choice) => choice.run("DELETE FROM task", "forgotten", json).await,
        }
    }
}

fn failed(error: impl Into<JournalError>) -> Error {
    Error::new(Code::Failed, error.into().to_string())
}

fn open(root: &RootArg) -> Result<Journal, Error> {
    Journal::open(&root.open()?).map_err(failed)
}

impl List {
    fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.as_deref().map(user_name).transpose()?;
        let user = user.as_ref().map(|name| name.as_str());
        let db = open(&self.root)?.reader().map_err(failed)?;
        let entries = journal::list(&db, user, self.limit).map_err(failed)?;
        let shown = entries.iter().filter(|entry| entry.dead || !self.dead);
        if json {
            shown.for_each(|entry| output::object(&facts(entry)));
            return Ok(());
        }
        let now = clock::millis();
        let mut rows = vec![COLUMNS.map(str::to_owned)];
        rows.extend(shown.map(|entry| columns(entry, now)));
        match rows.len() {
            1 => output::line("no pending events"),
            _ => output::table(&rows, &[0, 3])
                .into_iter()
                .for_each(output::line),
        }
        Ok(())
    }
}

impl Show {
    fn run(self, json: bool) -> Result<(), Error> {
        let db = open(&self.root)?.reader().map_err(failed)?;
        let entry = journal::find(&db, self.number)
            .map_err(failed)?
            .ok_or_else(|| missing(self.number))?;
        if json {
            output::object(&facts(&entry));
            return Ok(());
        }
        let cells = columns(&entry, clock::millis());
        for (name, cell) in COLUMNS
            .iter()
            .zip(&cells)
            .filter(|(name, _)| **name != "WHY")
        {
            output::line(format_args!("  {:<8}  {cell}", name.to_lowercase()));
        }
        output::line(format_args!("  id        {}", entry.task.id));
        if !entry.error.is_empty() {
            for (at, line) in entry.error.lines().enumerate() {
                let head = if at == 0 { "why" } else { "" };
                output::line(format_args!("  {head:<8}  {}", printable(line, 1_000)));
            }
        }
        let mut body = entry.task.body.clone();
        body.remove(BEFORE);
        for line in pretty(&body).lines() {
            output::line(format_args!("  {}", printable(line, 1_000)));
        }
        Ok(())
    }
}

impl Choice {
    async fn run(self, sql: &'static str, done: &str, json: bool) -> Result<(), Error> {
        let journal = open(&self.root)?;
        let (numbers, dead) = (self.numbers.clone(), self.dead);
        let changed = journal.write(true, move |db| {
            if dead {
                return Ok(vec![(0, db.execute(&format!("{sql} WHERE dead = 1"), [])?)]);
            }
            let mut changed = Vec::new();
            for &number in &numbers {
                let rows = db.execute(&format!("{sql} WHERE seq = ?1"), [number])?;
                changed.push((number, rows));
            }
            Ok(changed)
        });
        let changed = changed.committed().await.map_err(failed)?;
        let count: usize = changed.iter().map(|(_, rows)| rows).sum();
        if json {
            output::object(&[("status", "done".into()), ("changed", count.into())]);
        } else {
            output::line(format_args!("{count} {done}"));
        }
        let gone = changed
            .iter()
            .find(|(number, rows)| *number != 0 && *rows == 0);
        gone.map_or(Ok(()), |(number, _)| Err(missing(*number)))
    }
}

fn missing(number: i64) -> Error {
    let sentence = format!("no event {number}: `m2y events list` shows them");
    Error::new(Code::NotFound, sentence)
}

fn state(entry: &Entry) -> &'static str {
    match (entry.dead, entry.attempts) {
        (true, _) => "given up",
        (false, 0) => "waits",
        (false, _) => "failed",
    }
}

/// The columns of the list.
const COLUMNS: [&str; 7] = ["N", "SINCE", "STATE", "TRIES", "NEXT TRY", "WHAT", "WHY"];

/// One line of the list, in [`COLUMNS`].
fn columns(entry: &Entry, now: u64) -> [String; 7] {
    let task = &entry.task;
    let about = match &task.file {
        Some(file) => file.clone(),
        None => ["to", "url"]
            .iter()
            .find_map(|field| task.body.get(*field)?.as_str())
            .unwrap_or_default()
            .to_owned(),
    };
    let next = match (entry.dead, entry.due.saturating_sub(now)) {
        (true, _) => "-".to_owned(),
        (false, 0) => "now".to_owned(),
        (false, left) => format!("in {}", span(left)),
    };
    let (kind, user, folder) = (&task.kind, &task.user, &task.folder);
    let what = format!("{user}/{folder} {kind} {}", printable(&about, 80));
    let why = entry.error.lines().next().unwrap_or_default();
    [
        entry.seq.to_string(),
        output::moment(entry.created),
        state(entry).to_owned(),
        entry.attempts.to_string(),
        next,
        what.trim_end().to_owned(),
        printable(why, 200),
    ]
}

/// A time in its largest unit, from milliseconds.
fn span(millis: u64) -> String {
    let seconds = millis.div_ceil(1_000);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn facts(entry: &Entry) -> [(&'static str, Value); 13] {
    let task = &entry.task;
    [
        ("number", entry.seq.into()),
        ("state", state(entry).into()),
        ("id", task.id.as_str().into()),
        ("kind", task.kind.as_str().into()),
        ("part", task.part.into()),
        ("user", task.user.as_str().into()),
        ("folder", task.folder.as_str().into()),
        ("file", task.file.clone().into()),
        ("body", Value::Object(task.body.clone())),
        ("created", entry.created.into()),
        ("due", entry.due.into()),
        ("attempts", entry.attempts.into()),
        ("error", entry.error.as_str().into()),
    ]
}

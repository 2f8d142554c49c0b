use clap::Args;
use jiff::Timestamp;

use super::{RootArg, Where};
use crate::{
    cli::{Failure, output},
    error::{Code, Error, printable},
    event::Kind,
    hooks::lookup,
    journal::{
        self,
        last_run::{self, LastRun},
    },
};

/// List which scripts run where, and how each ended last
///
/// For each folder and event: the scripts in order, where each one is (the folder, scripts/,
/// or bundled), and its last run in the journal: time (UTC), verdict, duration.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    only: Where,
}

impl List {
    pub(super) fn run(self, json: bool) -> Result<(), Failure> {
        let root = self.root.open()?;
        let failed = |e: journal::JournalError| Error::new(Code::Failed, e.to_string());
        let db = journal::look(&root).map_err(failed)?;
        let mut shown = 0;
        for folder in self.only.folders(&root)? {
            let config = folder.read_config().map_err(Error::from)?;
            let (user, name) = (folder.user().name().as_str(), folder.name().as_str());
            for kind in Kind::ALL {
                for script in config.scripts(kind.section()) {
                    let from = lookup::place(&root, &folder, &script).unwrap_or("missing");
                    let last = match &db {
                        Some(db) => last_run::find(db, user, name, kind.section(), &script)
                            .map_err(|e| failed(e.into()))?,
                        None => None,
                    };
                    shown += 1;
                    if json {
                        output::object(&[
                            ("user", user.into()),
                            ("folder", name.into()),
                            ("event", kind.section().into()),
                            ("script", script.as_str().into()),
                            ("from", from.into()),
                            ("time", last.as_ref().map(|last| last.time).into()),
                            ("micros", last.as_ref().map(|last| last.micros).into()),
                            ("verdict", last.as_ref().map(|l| l.verdict.clone()).into()),
                            ("words", last.as_ref().map(|l| l.words.clone()).into()),
                        ]);
                    } else {
                        let script = printable(&script, 64);
                        output::line(format_args!(
                            "{user}/{name}  {:<10}  {script}  ({from})  {}",
                            kind.section(),
                            told(last.as_ref())
                        ));
                    }
                }
            }
        }
        if shown == 0 && !json {
            output::line("no script runs in any folder");
        }
        Ok(())
    }
}

fn told(last: Option<&LastRun>) -> String {
    let Some(last) = last else {
        return "never ran".to_owned();
    };
    let when = i64::try_from(last.time)
        .ok()
        .and_then(|time| Timestamp::from_millisecond(time).ok())
        .map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default();
    let took = last.micros as f64 / 1_000.0;
    let words = last.words.lines().next().unwrap_or_default();
    let colon = if words.is_empty() { "" } else { ": " };
    let words = printable(words, 200);
    format!("{when}  {took:.1} ms  {}{colon}{words}", last.verdict)
}

mod report;
mod rows;
mod watch;

use std::io::{IsTerminal, stdout};

use clap::Args;

use self::report::Report;
use super::{RootArg, output};
use crate::{
    control::question,
    error::{Code, Error},
    json::{Map, Value, canonical},
    root::Root,
};

/// Show what the running server does: who is there, what moves, what waits
///
/// Users with their contacts and folders, open sessions, members at the relay, transfers under way
/// with their speed and the hook that they wait for, events, letters, stores; tasks, threads and
/// memory of the server. Asks the server of the root, on the same machine and as the same user.
///
///   m2y status                what goes on now, as text
///   m2y status --watch        the same, drawn anew each second; q ends it
///   m2y status --json         one object, as `GET /v1/status` answers it
///   m2y status --watch --json an object a second, one a line
///
/// If no server is running, it says so, with exit code 5. See `m2y guide console`.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Status {
    #[command(flatten)]
    root: RootArg,
    /// Draw it anew each second, until q or Ctrl-C
    #[arg(long, short)]
    watch: bool,
}

impl Status {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        if !self.watch {
            let said = ask(&root).await?;
            match json {
                true => output::line(canonical(&said)),
                false => {
                    let lines = Report::of(said).lines(None);
                    let _ = output::lines(&lines);
                }
            }
            return Ok(());
        }
        if json {
            return watch::objects(&root).await;
        }
        if !stdout().is_terminal() {
            let sentence = "--watch draws on a terminal: add --json for an object a second";
            return Err(Error::new(Code::Usage, sentence));
        }
        watch::screen(&root).await
    }
}

/// What goes on at the server of a root.
async fn ask(root: &Root) -> Result<Map<String, Value>, Error> {
    let said = question::status(root).await?;
    said.ok_or_else(|| not_running(root))
}

/// That there is no server.
pub(super) fn not_running(root: &Root) -> Error {
    let root = root.path().display();
    let sentence = format!("no server is running for {root}: start it with `m2y serve`");
    Error::new(Code::Later, sentence)
}

//! Lists what was sent by naming files.

use clap::Args;
use tokio::task;

use super::{RootArg, output, user_arg::UserArg};
use crate::{
    error::{Code, Error, printable},
    journal::outgoing::{Outgoing, State},
    json::Value,
    transfer::send::outgoing::{OutgoingLog, OutgoingView},
};

/// List the files that you sent, the latest last
///
/// m2y remembers each file that you name to `m2y send`, for a year after it was last sent. It
/// shows the latest attempt: whether the receiver has the file, else why not. What .meta
/// files say is in the .done and .failed beside them instead.
#[derive(Debug, Args)]
pub struct Sent {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// Only what failed; `m2y send --failed` retries it
    #[arg(long)]
    failed: bool,
    /// With --failed: forget them, so that nothing retries them
    #[arg(long, requires = "failed")]
    forget: bool,
    /// List at most N, the latest
    #[arg(long, short = 'n', default_value_t = 100, value_name = "N")]
    limit: u32,
}

const COLUMNS: [&str; 5] = ["WHEN (UTC)", "TO", "SIZE", "STATE", "FILE"];

impl Sent {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let work = move || self.work(json);
        let lost = |_| Error::new(Code::Failed, "internal error: a task stopped");
        task::spawn_blocking(work).await.map_err(lost)?
    }

    fn work(self, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        let user = self.user.of(&root)?;
        if self.forget {
            let forgotten = OutgoingLog::open(&root)?.forget_failed(user.name().as_str())?;
            match json {
                true => {
                    output::object(&[("status", "done".into()), ("forgotten", forgotten.into())])
                }
                false => output::line(format_args!("forgot {}", output::files(forgotten as u64))),
            }
            return Ok(());
        }
        let view = OutgoingView::open(&root)?;
        let mut found = view.latest(Some(user.name().as_str()), self.failed, self.limit)?;
        found.reverse();
        if json {
            found.iter().for_each(|one| output::object(&facts(one)));
            return Ok(());
        }
        if found.is_empty() {
            output::line(match self.failed {
                true => "nothing failed",
                false => "nothing was sent",
            });
            return Ok(());
        }
        let mut rows = vec![COLUMNS.map(str::to_owned)];
        rows.extend(found.iter().map(columns));
        let lines = output::table(&rows, &[2]);
        lines.into_iter().for_each(output::line);
        if found.len() as u64 == u64::from(self.limit) {
            output::aside(format_args!("the latest {}: -n N shows more", self.limit));
        }
        Ok(())
    }
}

fn columns(one: &Outgoing) -> [String; 5] {
    let what = &one.what;
    let state = match one.state {
        State::Sent => "sent".to_owned(),
        State::Left => "letter".to_owned(),
        State::Failed => one.code.clone(),
    };
    let why = match one.state {
        State::Sent | State::Left => String::new(),
        State::Failed if one.words == one.code => String::new(),
        State::Failed => format!(": {}", printable(&one.words, 300)),
    };
    [
        output::moment(one.at),
        format!("{}:{}", what.recipient, what.folder),
        output::bytes(one.bytes),
        state,
        format!("{}{why}", printable(&what.source, 500)),
    ]
}

fn facts(one: &Outgoing) -> [(&'static str, Value); 11] {
    let what = &one.what;
    [
        ("status", one.state.word().into()),
        ("file", what.source.as_str().into()),
        ("name", what.name.as_str().into()),
        ("path", what.path.as_str().into()),
        ("to", what.recipient.as_str().into()),
        ("folder", what.folder.as_str().into()),
        ("id", one.id.to_string().into()),
        ("bytes", one.bytes.into()),
        ("at", one.at.into()),
        ("code", one.code.as_str().into()),
        ("error", one.words.as_str().into()),
    ]
}

mod round;
mod saves;

use clap::Args;

use self::{round::Round, saves::Saves};
use super::RootArg;
use crate::{
    cli::{Failure, folder_name, output, serve::Signals, user_arg::UserArg},
    error::{Error, printable},
    root::name::Name,
};

/// Watch a folder's scripts while you edit them, in a terminal beside the editor
///
/// At the start, and each time m2y.config or a script of the folder or of ROOT/scripts/ is
/// saved, it shows three things:
///
///   what `m2y hook check` finds in the folder;
///   the tests beside the scripts that fail, as `m2y hook test` runs them;
///   what the hooks say now to the last three events of the folder, as `m2y hook run`
///   does without --live: nothing changes, programs are not started. http.get() really
///   asks its server; http.post() is not sent, and a script that comes to one is not run
///   further.
///
/// The last three events are the last files that somebody sent to the folder, each with
/// its OnMeta and OnReceived, and the events that wait in the journal or were given up. If
/// there are fewer, a .meta in the folder or in a directory of it counts as well, and if
/// OnNew has scripts, a file that nobody sent. Scripts find a file under the name with
/// which it arrived, even if a hook has renamed it or moved it to a directory or to another
/// folder of the user. Everything else is as it is now: `state` and `sender` too, so
/// `sender` counts the file itself, and a .meta keeps what hooks once wrote into it.
///
/// It needs no server and disturbs none that runs. Ctrl-C ends it, with exit code 0.
///
/// With --json it prints one object a line for each round: `status` is `ok`; `failed` where
/// check or a test found something, or the events cannot be read; or `waiting` while the
/// folder cannot be opened. It stays `ok` when a hook fails at one of the events: see the
/// `status` of each run.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Watch {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The folder
    #[arg(long, value_name = "NAME")]
    folder: String,
}

/// The folder that is watched.
struct Target<'a> {
    root: &'a RootArg,
    user: Name,
    folder: Name,
}

impl Watch {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let root = self.root.open()?;
        let target = Target {
            root: &self.root,
            user: self.user.of(&root)?.name().clone(),
            folder: folder_name(&self.folder)?,
        };
        let folder = root.folder(&target.user, &target.folder);
        let folder = folder.map_err(Error::from)?.path().to_owned();
        let mut signals = Signals::new()?;
        let mut saves = Saves::new(vec![folder, root.path().join("scripts")]);
        let paint = Paint::of_terminal();
        loop {
            let shown = async {
                let lines = |lines: &[String]| output::lines(lines);
                match Round::begin(&target).await {
                    Ok(round) => round.finish(json, paint, lines).await,
                    Err(error) => lines(&[waiting(&target, &error, json, paint)]),
                }
            };
            tokio::select! {
                // If nobody reads any more, there is nothing to watch for.
                shown = shown => if shown.is_err() { return Ok(()) },
                () = signals.next() => return Ok(()),
            }
            tokio::select! {
                () = saves.next() => {}
                () = signals.next() => return Ok(()),
            }
        }
    }
}

/// Why there is no round now.
fn waiting(target: &Target<'_>, error: &Error, json: bool, paint: Paint) -> String {
    let (user, folder) = (&target.user, &target.folder);
    let sentence = format!(
        "cannot open folder {folder} of {user}: {}; waiting for it",
        printable(&error.sentence, 1_000)
    );
    match json {
        true => output::to_object(&[
            ("status", "waiting".into()),
            ("user", user.as_str().into()),
            ("folder", folder.as_str().into()),
            ("error", sentence.into()),
        ]),
        false => paint.result(false, &sentence),
    }
}

/// Colours, if a person is looking.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn of_terminal() -> Self {
        Self(output::has_colours())
    }

    /// Green if all is well, red if not.
    fn result(self, good: bool, text: &str) -> String {
        self.with(if good { "32" } else { "31" }, text)
    }

    fn heading(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        match self.0 {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}

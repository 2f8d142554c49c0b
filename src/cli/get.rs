//! Fetches files that a contact shows: what the command and the shell share is [`fetch`].

pub mod fetch;
mod record;
pub mod tally;

use std::{
    io::{IsTerminal, stderr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use self::{fetch::Fetch, tally::Voice};
use super::{
    Failure,
    remote::{Asker, Link, Place},
};
use crate::{
    error::{Code, Error, printable},
    transfer::Observer,
};

/// Fetch files that a contact shares with you
///
/// What breaks off goes on where it was when you fetch it again. A file that is there
/// already and is the same is not fetched; one that is another is left, unless you say
/// with --conflict what to do. Times are kept.
///
///   m2y get roland-frei:photo/a.jpg
///   m2y get -o here -r roland-frei:photo/2026
///   m2y get --all roland-frei           what is new or has changed since the last time
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Get {
    #[command(flatten)]
    asker: Asker,
    /// Where the files go
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    #[command(flatten)]
    options: Options,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
    /// Whose files, and which
    #[arg(required = true, value_name = "PEER[:PATH]", value_parser = Place::parse)]
    places: Vec<Place>,
}

/// What is fetched, and what is done about files that are there.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Fetch all that the contact shares; of what was fetched before and not touched since,
    /// what has changed
    #[arg(short, long)]
    all: bool,
    /// Fetch what is in directories too
    #[arg(short, long)]
    recursive: bool,
    /// Where there is another file of that name: leave it and fail, leave it, write over
    /// it, or take a name with a number
    #[arg(long, value_enum, default_value_t = OnConflict::Fail)]
    conflict: OnConflict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnConflict {
    Fail,
    Skip,
    Overwrite,
    Rename,
}

/// How far it is, while something is fetched.
#[derive(Default)]
pub struct Progress {
    bar: Mutex<Option<ProgressBar>>,
    /// Bytes of files that came, of whole ones or not.
    came: AtomicU64,
}

impl Progress {
    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a bar from now on, where a person sees it.
    pub fn begin(&self) {
        if !stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(0);
        let style = "{msg} {wide_bar} {percent:>3}% {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        *self.bar() = Some(bar);
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    fn expect(&self, name: &str, bytes: u64) {
        if let Some(bar) = &*self.bar() {
            bar.inc_length(bytes);
            bar.set_message(printable(name, 30));
        }
    }

    fn apart(&self, print: impl FnOnce()) {
        match &*self.bar() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Observer for Progress {
    fn moved(&self, bytes: u64) {
        self.came.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &*self.bar() {
            bar.inc(bytes);
        }
    }
}

impl Get {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let progress = Arc::new(Progress::default());
        if !self.no_progress && !json {
            progress.begin();
        }
        let voice = if json { Voice::Objects } else { Voice::Lines };
        let mut fetch = Fetch::new(self.options, &self.output, progress.clone(), voice)?;
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let all = async {
            for place in &self.places {
                let route = match self.asker.route(&place.peer) {
                    Ok(route) => route,
                    Err(error) if self.places.len() == 1 => return Err(error),
                    Err(error) => {
                        fetch.failed(&error, &place.path);
                        continue;
                    }
                };
                let mut link = Link::new(route, progress.clone(), false);
                fetch
                    .place(&mut link, place, self.places.len() == 1)
                    .await?;
            }
            Ok(())
        };
        let result = tokio::select! {
            result = all => result,
            _ = &mut interrupted => Err(Error::new(
                Code::Interrupted,
                "interrupted: what came so far is kept, fetch again to go on",
            )),
        };
        progress.end();
        let (ended, _) = fetch.end();
        result?;
        Ok(ended.map_err(|unfetched| unfetched.error)?)
    }
}

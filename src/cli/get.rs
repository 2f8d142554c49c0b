//! Fetches files that a contact shows: [`fetch`] is what the command and the shell share.

pub mod fetch;
mod record;
mod walk;

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use clap_complete::ArgValueCompleter;

use self::fetch::Fetch;
use super::{
    Failure,
    completion::places,
    conflict::OnConflict,
    limit::Limit,
    pattern::{expand, is_pattern, itself},
    progress::Progress,
    remote::{Asker, Link, RemotePath, about},
    tally::Voice,
};
use crate::error::Error;

/// Fetch files that a contact shares with you
///
/// Identical files are skipped, and a broken download resumes when you fetch the file
/// again. A different file of the same name stays, unless --conflict says otherwise.
/// Modification times are kept. ME:FOLDER, with your own name, is your own folder.
///
///   m2y get roland-frei:photo/a.jpg
///   m2y get -o here -r roland-frei:photo/2026
///   m2y get 'roland-frei:photo/*.jpg'
///   m2y get --all roland-frei           everything new or changed since the last time
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Get {
    #[command(flatten)]
    asker: Asker,
    /// The directory for the files
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    limit: Limit,
    /// Hide progress: the bars on a terminal, the line every ten seconds elsewhere
    #[arg(long)]
    no_progress: bool,
    /// Print errors only
    #[arg(long, short)]
    quiet: bool,
    /// The contact, and files or directories, or patterns in quotes
    #[arg(required = true, value_name = "PEER[:PATH]", value_parser = RemotePath::parse, add = ArgValueCompleter::new(places))]
    places: Vec<RemotePath>,
}

/// What is fetched, and what is done about files that are there.
#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// Fetch everything that the contact shares; replace files that you fetched before and
    /// have not touched since
    #[arg(short, long)]
    all: bool,
    /// Fetch directories with everything in them
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    conflict: OnConflict,
    /// The name here, where that is not the one there.
    #[arg(skip)]
    name: Option<String>,
    /// Only show what would be fetched
    #[arg(long)]
    dry_run: bool,
}

impl Options {
    /// The local name of a single file.
    #[must_use]
    pub fn under(self, name: String) -> Self {
        Self {
            name: Some(name),
            ..self
        }
    }

    /// Whether there may be more than one file at that many places.
    pub fn is_several(&self, places: usize) -> bool {
        places > 1 || self.all || self.recursive
    }
}

impl Get {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let progress = Arc::new(Progress::default());
        let several = self.options.is_several(self.places.len())
            || self.places.iter().any(|place| is_pattern(&place.path));
        if !self.no_progress && !self.quiet && !json && !self.options.dry_run {
            progress.begin(several);
        }
        let voice = Voice::new(json, self.quiet);
        let mut fetch = Fetch::new(self.options.clone(), &self.output, progress.clone(), voice)?;
        let all = self.all(&mut fetch, &progress);
        let advice = "what was fetched so far is kept: run the command again to resume";
        let result = progress.watch(all, advice).await;
        progress.end();
        let (ended, _) = fetch.end();
        let failed = |error| match self.places.as_slice() {
            [only] => Failure::from(error).about(only.shown()),
            _ => Failure::from(error),
        };
        result.map_err(failed)?;
        Ok(ended?)
    }

    /// Fetches from all places, those of one contact together.
    async fn all(&self, fetch: &mut Fetch, progress: &Arc<Progress>) -> Result<(), Error> {
        let mut only = self.places.len() == 1;
        let pace = self.limit.pace();
        for places in by_peer(&self.places) {
            let peer = places.first().map_or("", |place| &place.peer);
            let owner = match self.asker.owner(peer) {
                Ok(owner) => owner,
                Err(error) if only => return Err(error),
                Err(error) => {
                    for place in places {
                        fetch.failed(&error, &place.path);
                    }
                    continue;
                }
            };
            let mut link = Link::new(owner.paced(pace.clone()), progress.clone(), false);
            let mut meant = Vec::new();
            for place in places {
                match self.matching(&mut link, place).await {
                    Ok(places) => meant.extend(places),
                    Err(error) if only => return Err(about(place, error)),
                    Err(error) => fetch.failed(&about(place, error), &place.path),
                }
            }
            only &= meant.len() == 1;
            let meant: Vec<&RemotePath> = meant.iter().collect();
            fetch.places(&mut link, &meant, only).await?;
        }
        Ok(())
    }

    /// The places that one on the command line stands for.
    async fn matching(
        &self,
        link: &mut Link,
        place: &RemotePath,
    ) -> Result<Vec<RemotePath>, Error> {
        match is_pattern(&place.path) {
            true => expand(&link.peer().await?, place).await,
            false => Ok(vec![itself(place)]),
        }
    }
}

/// The places of each contact, in the order in which the contacts are named.
fn by_peer(places: &[RemotePath]) -> Vec<Vec<&RemotePath>> {
    let mut peers: Vec<Vec<&RemotePath>> = Vec::new();
    for place in places {
        let same =
            |of: &&mut Vec<&RemotePath>| of.first().is_some_and(|first| first.peer == place.peer);
        match peers.iter_mut().find(same) {
            Some(of) => of.push(place),
            None => peers.push(vec![place]),
        }
    }
    peers
}

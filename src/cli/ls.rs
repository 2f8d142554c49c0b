use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{
    Failure,
    completion::places,
    output,
    pattern::{is_pattern, matching_path},
    remote::{Asker, RemotePath, about, exact_time, time},
};
use crate::{
    client::peer::{Listing, Peer},
    error::{Code, Error, printable},
    json::Value,
    wire::request::Entry,
};

/// Up to this many entries are sorted; a longer listing is shown as it arrives, so that no listing
/// is held in memory whole.
const SORTED: usize = 10_000;

/// Show what a contact shares with you
///
/// Without a path: the folders that you may look into, and the files that lie ready for
/// you. Directories end with a slash. ME:FOLDER, with your own name, is your own folder.
///
///   m2y ls roland-frei
///   m2y ls -l roland-frei:photo/2026
///   m2y ls 'roland-frei:photo/*.jpg'
///   m2y ls -R --json roland-frei
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Ls {
    #[command(flatten)]
    asker: Asker,
    /// Show size and time (UTC) too
    #[arg(short, long)]
    long: bool,
    /// With -l: show sizes as 1.2 MB
    #[arg(long)]
    human: bool,
    /// For people who are used to it: hidden files are never shared
    #[arg(short, long, hide = true)]
    all: bool,
    /// Show what is in directories too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// The contact, and a directory, a file, or a pattern in quotes
    #[arg(value_name = "PEER[:PATH]", value_parser = RemotePath::parse, add = ArgValueCompleter::new(places))]
    place: RemotePath,
}

impl Ls {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let listed = self.list(json).await;
        listed.map_err(|error| Failure::from(error).about(self.place.shown()))
    }

    async fn list(&self, json: bool) -> Result<(), Error> {
        let peer = self.asker.connect(&self.place.peer).await?;
        let failed = |error| about(&self.place, error);
        let show = |entry: &Entry| match json {
            true => output::object(&fields(entry)),
            false => output::line(line(entry, Columns::new(self.long, self.human))),
        };
        let path = &self.place.path;
        if is_pattern(path) && matches!(peer.stat(path).await, Err(e) if e.code == Code::NotFound) {
            return self.list_matching(&peer, show).await.map_err(failed);
        }
        let listing = peer.list(path, self.recursive);
        let mut is_empty = true;
        let shown = sorted(listing.map_err(failed)?, |mut entry| {
            is_empty = false;
            // Of a file itself there is only the path that was asked for.
            if entry.path.is_empty() {
                entry.path.clone_from(path);
            }
            show(&entry);
            Ok(())
        });
        shown.await.map_err(failed)?;
        if is_empty && path.is_empty() && !json {
            let name = &self.place.peer;
            match peer.is_own() {
                true => output::aside(format_args!(
                    "{name} has no folder yet: create one with `m2y folder create NAME`"
                )),
                false => {
                    output::aside(format_args!("{name} shares nothing with you at the moment"))
                }
            }
        }
        Ok(())
    }

    /// Shows what a pattern matches, with paths from the top.
    async fn list_matching(&self, peer: &Peer, show: impl Fn(&Entry)) -> Result<(), Error> {
        for (path, entry) in matching_path(peer, &self.place.path).await? {
            let is_dir = entry.is_dir;
            show(&Entry {
                path: path.clone(),
                ..entry
            });
            if is_dir && self.recursive {
                let listing = peer.list(&path, true)?;
                let below = sorted(listing, |mut entry| {
                    entry.path = format!("{path}/{}", entry.path);
                    show(&entry);
                    Ok(())
                });
                below.await?;
            }
        }
        Ok(())
    }
}

/// Gives each entry of a listing to `show`, sorted by path unless there are too many.
pub async fn sorted(
    mut listing: Listing,
    mut show: impl FnMut(Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut held = Some(Vec::new());
    while let Some(entries) = listing.next().await {
        let entries = entries?;
        match &mut held {
            Some(first) => {
                first.extend(entries);
                if first.len() > SORTED {
                    held.take().into_iter().flatten().try_for_each(&mut show)?;
                }
            }
            None => entries.into_iter().try_for_each(&mut show)?,
        }
    }
    let mut held = held.unwrap_or_default();
    held.sort_by(|a, b| a.path.cmp(&b.path));
    held.into_iter().try_for_each(show)
}

/// An entry for programs.
pub fn fields(entry: &Entry) -> [(&'static str, Value); 4] {
    [
        ("path", entry.path.as_str().into()),
        ("type", if entry.is_dir { "dir" } else { "file" }.into()),
        ("size", entry.size.into()),
        ("modified", exact_time(entry).into()),
    ]
}

/// What is shown of an entry besides its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Nothing.
    Path,
    /// Size in bytes and time.
    Exact,
    /// Size like 1.2 MB, and time.
    Human,
}

impl Columns {
    /// What -l and -h ask for.
    pub fn new(long: bool, human: bool) -> Self {
        match (long, human) {
            (false, _) => Self::Path,
            (true, false) => Self::Exact,
            (true, true) => Self::Human,
        }
    }
}

/// An entry for people.
pub fn line(entry: &Entry, columns: Columns) -> String {
    let slash = if entry.is_dir { "/" } else { "" };
    let path = printable(&entry.path, 8_192);
    let size = match columns {
        Columns::Path => return format!("{path}{slash}"),
        _ if entry.is_dir => "-".to_owned(),
        Columns::Exact => output::count(entry.size),
        Columns::Human => output::bytes(entry.size),
    };
    format!("{size:>15}  {}  {path}{slash}", time(entry))
}

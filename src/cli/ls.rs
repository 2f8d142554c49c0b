use clap::Args;

use super::{
    output,
    remote::{Asker, Place, about, exact_time, time},
};
use crate::{
    error::{Error, printable},
    wire::request::Entry,
};

/// Up to so many entries are sorted; a longer listing is shown as it comes, so that no
/// listing is held whole.
const SORTED: usize = 10_000;

/// Show what a contact shares with you
///
/// Without a path: the folders that you may look into, and the files that lie ready for
/// you. Directories end with a slash.
///
///   m2y ls roland-frei
///   m2y ls -l roland-frei:photo/2026
///   m2y ls -R --json roland-frei
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Ls {
    #[command(flatten)]
    asker: Asker,
    /// Show size and time (UTC) too
    #[arg(short, long)]
    long: bool,
    /// Show what is in directories too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Whose files, and which
    #[arg(value_name = "PEER[:PATH]", value_parser = Place::parse)]
    place: Place,
}

impl Ls {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let peer = self.asker.connect(&self.place.peer).await?;
        let failed = |error| about(&self.place, error);
        let listing = peer.list(&self.place.path, self.recursive);
        let mut listing = listing.map_err(failed)?;
        let mut held = Some(Vec::new());
        while let Some(entries) = listing.next().await {
            let entries = entries.map_err(failed)?;
            match &mut held {
                Some(sorted) => {
                    sorted.extend(entries);
                    if sorted.len() > SORTED {
                        held.take()
                            .into_iter()
                            .flatten()
                            .for_each(|e| self.show(&e, json));
                    }
                }
                None => entries.iter().for_each(|entry| self.show(entry, json)),
            }
        }
        let mut held = held.unwrap_or_default();
        held.sort_by(|a, b| a.path.cmp(&b.path));
        held.iter().for_each(|entry| self.show(entry, json));
        Ok(())
    }

    fn show(&self, entry: &Entry, json: bool) {
        // Of a file itself there is only the path that was asked for.
        let path = match entry.path.as_str() {
            "" => self.place.path.as_str(),
            path => path,
        };
        if json {
            output::object(&[
                ("path", path.into()),
                ("type", if entry.is_dir { "dir" } else { "file" }.into()),
                ("size", entry.size.into()),
                ("modified", exact_time(entry).into()),
            ]);
            return;
        }
        let path = printable(path, 8_192);
        let slash = if entry.is_dir { "/" } else { "" };
        match (self.long, entry.is_dir) {
            (false, _) => output::line(format_args!("{path}{slash}")),
            (true, true) => output::line(format_args!("{:>15}  {}  {path}/", "-", time(entry))),
            (true, false) => {
                let size = output::count(entry.size);
                output::line(format_args!("{size:>15}  {}  {path}", time(entry)));
            }
        }
    }
}

use std::sync::Arc;

use clap::Args;

use super::Which;
use crate::{
    cli::{output, store::folders::failed},
    client,
    error::{Code, Error, printable},
    root::{folder::Folder, folder_store::FolderStore},
    store::chunked::{ChunkedStore, index::work::Version},
};

/// List files that were removed or overwritten and can be had back
///
/// A store keeps them as long as m2y.config says, under [store]: keep = 30d.
#[derive(Debug, Args)]
pub struct Versions {
    #[command(flatten)]
    folder: Which,
    /// Only those of this file
    #[arg(value_name = "FILE")]
    file: Option<String>,
}

/// Put back a file that was removed or overwritten
///
/// The latest version comes back, or with --number an earlier one, as `m2y folder versions` counts
/// them. If another file has its name, it gets a number: `photo_2.jpg`.
#[derive(Debug, Args)]
pub struct Restore {
    #[command(flatten)]
    folder: Which,
    /// The file, with its path in the folder
    #[arg(value_name = "FILE")]
    file: String,
    /// Which version: 1 is the latest
    #[arg(long, value_name = "N", default_value_t = 1)]
    number: usize,
}

/// The store that keeps versions.
fn keeping(folder: &Folder) -> Result<Arc<ChunkedStore>, Error> {
    let shown = format!("{}:{}", folder.user().name(), folder.name());
    let wanted = FolderStore::of(&*folder.config()?);
    let Some(name) = &wanted.name else {
        let sentence = "is in its own directory, which keeps no versions: `m2y folder move` \
             moves it to a store that does";
        return Err(Error::new(Code::NotFound, sentence).within(shown));
    };
    let store = client::stores().chunked(folder, name, &wanted);
    store.map_err(|e| failed(&e).within(shown))
}

impl Versions {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let folder = self.folder.open()?;
        let versions = keeping(&folder)?.versions(self.file.as_deref());
        let versions = versions.map_err(|e| failed(&e))?;
        if versions.is_empty() && !json {
            output::line("nothing that was removed or overwritten is kept");
        }
        let mut rows = Vec::new();
        let mut counted: Vec<(&str, usize)> = Vec::new();
        for version in &versions {
            let path = version.path.as_str();
            let number = match counted.iter_mut().find(|(other, _)| *other == path) {
                Some((_, number)) => {
                    *number += 1;
                    *number
                }
                None => {
                    counted.push((path, 1));
                    1
                }
            };
            if json {
                output::object(&[
                    ("file", path.into()),
                    ("number", number.into()),
                    ("size", version.size.into()),
                    ("modified", version.modified.into()),
                    ("replaced", version.at.into()),
                    ("until", version.until.into()),
                ]);
                continue;
            }
            rows.push([
                printable(path, 200),
                format!("#{number}"),
                output::bytes(version.size),
                format!("replaced {}", moment(version.at)),
                format!("kept until {}", moment(version.until)),
            ]);
        }
        output::table(&rows, &[2])
            .into_iter()
            .for_each(output::line);
        Ok(())
    }
}

impl Restore {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let folder = self.folder.open()?;
        let store = keeping(&folder)?;
        let versions = store.versions(Some(&self.file)).map_err(|e| failed(&e))?;
        let wanted: Option<&Version> = self.number.checked_sub(1).and_then(|at| versions.get(at));
        let Some(version) = wanted else {
            let sentence = match versions.is_empty() {
                true => format!(
                    "no removed or overwritten version of {} is kept: `m2y folder versions` \
                     lists what is",
                    printable(&self.file, 200)
                ),
                false => format!("there are {} versions of it", versions.len()),
            };
            return Err(Error::new(Code::NotFound, sentence));
        };
        let path = store.restore(version).map_err(|e| failed(&e))?.to_string();
        match json {
            true => output::object(&[
                ("status", "restored".into()),
                ("file", path.as_str().into()),
                ("size", version.size.into()),
            ]),
            false => output::line(format_args!("restored {}", printable(&path, 200))),
        }
        Ok(())
    }
}

/// A moment in UTC, from nanoseconds since 1970.
fn moment(nanos: i64) -> String {
    output::moment(u64::try_from(nanos / 1_000_000).unwrap_or(0))
}

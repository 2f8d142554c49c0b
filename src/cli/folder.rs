mod relocation;
mod versions;

use std::io;

use clap::{Args, Subcommand};

use super::{RootArg, folder_name, output, user_arg::UserArg};
use crate::{
    client,
    error::{Code, Error, printable},
    json::Value,
    meta::QUARANTINE,
    root::{file::check_name, folder::Folder as OpenFolder},
    store::{Store, quarantine},
};

/// Create folders, move them to another store, get files back, and look after quarantine
#[derive(Debug, Subcommand)]
pub enum Folder {
    Create(Create),
    Move(relocation::Move),
    Versions(versions::Versions),
    Restore(versions::Restore),
    Quarantine(Quarantine),
    /// Put a file in quarantine back into the folder
    Release(Held),
    /// Remove a file in quarantine for good
    Drop(Held),
}

/// A folder.
#[derive(Debug, Args)]
struct Which {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The name of the folder
    #[arg(value_name = "NAME")]
    name: String,
}

/// List the files that hooks put into quarantine
#[derive(Debug, Args)]
pub struct Quarantine {
    #[command(flatten)]
    folder: Which,
}

/// A file in quarantine.
#[derive(Debug, Args)]
pub struct Held {
    #[command(flatten)]
    folder: Which,
    /// The file, as `m2y folder quarantine` shows it
    #[arg(value_name = "FILE")]
    file: String,
}

/// Create a folder where files for a user arrive
///
/// Its m2y.config, with comments, names the bundled scripts. Nobody can send into it until
/// [permission] says so.
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    folder: Which,
}

impl Folder {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        match self {
            Self::Create(create) => create.run(json),
            Self::Move(relocation) => relocation.run(json),
            Self::Versions(list) => list.run(json),
            Self::Restore(restore) => restore.run(json),
            Self::Quarantine(list) => list.run(json),
            Self::Release(held) => held.run(quarantine::release, "released", json),
            Self::Drop(held) => {
                let remove = |store: &dyn Store, folder: &OpenFolder, stem: &str| {
                    quarantine::remove(store, folder, stem).map(|()| stem.to_owned())
                };
                held.run(remove, "removed", json)
            }
        }
    }
}

impl Which {
    fn open(&self) -> Result<OpenFolder, Error> {
        let folder = folder_name(&self.name)?;
        Ok(self.user.of(&self.root.open()?)?.folder(&folder)?)
    }
}

impl Quarantine {
    fn run(self, json: bool) -> Result<(), Error> {
        let folder = self.folder.open()?;
        let held = quarantine::list(&*client::stores().of(&folder), &folder)
            .map_err(|e| Error::io("read", &folder.path_of(quarantine::DIR), &e))?;
        if held.is_empty() && !json {
            output::line("nothing is in quarantine");
        }
        for (stem, meta) in held {
            let (from, filename, reason) = match &meta {
                Some(meta) => (
                    meta.from.as_str(),
                    meta.filename.as_str(),
                    meta.extra
                        .get(QUARANTINE)
                        .and_then(Value::as_str)
                        .unwrap_or_default(),
                ),
                None => ("", "", "its .meta cannot be read"),
            };
            if json {
                output::object(&[
                    ("file", stem.as_str().into()),
                    ("from", from.into()),
                    ("filename", filename.into()),
                    ("reason", reason.into()),
                ]);
            } else {
                let (filename, reason) = (printable(filename, 80), printable(reason, 200));
                output::line(format_args!("{stem}  {filename}: {reason}"));
            }
        }
        Ok(())
    }
}

impl Held {
    fn run(
        self,
        act: impl FnOnce(&dyn Store, &OpenFolder, &str) -> io::Result<String>,
        done: &str,
        json: bool,
    ) -> Result<(), Error> {
        let folder = self.folder.open()?;
        let stem = self.file.strip_suffix(".data").unwrap_or(&self.file);
        let name = held_name(stem)?;
        let stem = act(&*client::stores().of(&folder), &folder, name)
            .map_err(|e| Error::io("move", &folder.path_of(stem), &e))?;
        if json {
            output::object(&[("status", done.into()), ("file", stem.as_str().into())]);
        } else {
            output::line(format_args!("{done} {stem}"));
        }
        Ok(())
    }
}

/// The name of a received file.
fn held_name(stem: &str) -> Result<&str, Error> {
    if check_name(stem).is_err() {
        let sentence =
            format!("{stem:?} is not a file in quarantine: `m2y folder quarantine` lists them");
        return Err(Error::new(Code::Usage, sentence));
    }
    Ok(stem)
}

impl Create {
    fn run(self, json: bool) -> Result<(), Error> {
        let create = self.folder;
        let name = folder_name(&create.name)?;
        let user = create.user.of(&create.root.open()?)?;
        let folder = user.create_folder(&name)?;
        let user = user.name();
        let config = folder.path_of("m2y.config").display().to_string();
        if json {
            output::object(&[
                ("status", "done".into()),
                ("user", user.as_str().into()),
                ("folder", name.as_str().into()),
                ("config", config.into()),
            ]);
        } else {
            output::line(format_args!("folder {name} of {user} is ready"));
            output::line(format_args!("  who may send, and what happens: {config}"));
        }
        Ok(())
    }
}

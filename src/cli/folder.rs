use clap::{Args, Subcommand};

use super::{RootArg, folder_name, output, user_name};
use crate::error::Error;

/// Make m2y-folders
#[derive(Debug, Subcommand)]
pub enum Folder {
    Create(Create),
}

/// Make an m2y-folder, where files for a user arrive
///
/// It gets an m2y.config with comments, which names the bundled scripts. Nobody may
/// send into it until its [permission] says so.
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    root: RootArg,
    /// Whose folder
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The name of the folder
    #[arg(value_name = "NAME")]
    name: String,
}

impl Folder {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let Self::Create(create) = self;
        let user = user_name(&create.user)?;
        let name = folder_name(&create.name)?;
        let folder = create.root.open()?.user(&user)?.create_folder(&name)?;
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

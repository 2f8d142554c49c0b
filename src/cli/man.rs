use std::{fs, path::PathBuf};

use clap::{Args, CommandFactory};

use super::{Cli, output};
use crate::error::Error;

/// Write manual pages into a directory: m2y.1, m2y-send.1 and so on
#[derive(Debug, Args)]
pub struct Man {
    /// The directory, like /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Man {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        fs::create_dir_all(&self.dir).map_err(|e| Error::io("create", &self.dir, &e))?;
        clap_mangen::generate_to(Cli::command(), &self.dir)
            .map_err(|e| Error::io("write into", &self.dir, &e))?;
        let dir = self.dir.display().to_string();
        match json {
            true => output::object(&[("status", "done".into()), ("dir", dir.into())]),
            false => output::line(format_args!("manual pages are in {dir}")),
        }
        Ok(())
    }
}

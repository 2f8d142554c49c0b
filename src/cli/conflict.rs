//! What people choose to do about a different file of the same name.

use clap::{Args, ValueEnum};

use crate::root::conflict::Conflict;

/// What is done about files that are there.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct OnConflict {
    /// If a different file of the same name exists: fail, skip it, overwrite it, or add a
    /// number to the new name
    #[arg(long, value_enum, default_value_t = Choice::Fail)]
    conflict: Choice,
}

/// One of the ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Choice {
    #[default]
    Fail,
    Skip,
    Overwrite,
    Rename,
}

impl OnConflict {
    /// Whether a different file is silently left alone.
    pub fn skips(self) -> bool {
        self.conflict == Choice::Skip
    }

    /// What is done if the name is taken.
    pub fn conflict(self) -> Conflict {
        match self.conflict {
            Choice::Fail | Choice::Skip => Conflict::Refuse,
            Choice::Overwrite => Conflict::Overwrite,
            Choice::Rename => Conflict::Rename,
        }
    }
}

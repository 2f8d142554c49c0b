//! Looks after the stores that m2y.ini names.

mod check;
pub(super) mod folders;
mod list;
mod recover;
mod repair;
mod scrub;
mod status;

use clap::Subcommand;

use super::{Failure, RootArg, output};

/// List and check the stores that m2y.ini names
///
/// A section [store NAME] names a directory, a bucket or a contact's folder:
///
///   [store disk]
///   url = file:///mnt/disk/m2y
///
///   [store cloud]
///   url = s3://bucket/prefix
///   endpoint = https://s3.example.org
///
///   [store anna]
///   url = m2y://anna/backup
///   user = roland-frei
///
/// The contact shares the folder with that user: roland-frei = list get put mkdir rm, under
/// [share] in its m2y.config.
///
/// Credentials of a bucket come from the usual AWS_* variables, a profile, a web identity or the
/// machine's role; never from m2y.ini.
#[derive(Debug, Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Store {
    List(list::List),
    Check(check::Check),
    Status(status::Status),
    Scrub(scrub::Scrub),
    Repair(repair::Repair),
    Recover(recover::Recover),
}

pub(super) use check::works;

impl Store {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::List(list) => Ok(list.run(json)?),
            Self::Check(check) => check.run(json).await,
            Self::Status(status) => Ok(status.run(json)?),
            Self::Scrub(scrub) => Ok(scrub.run(json).await?),
            Self::Repair(repair) => Ok(repair.run(json)?),
            Self::Recover(recover) => Ok(recover.run(json)?),
        }
    }
}

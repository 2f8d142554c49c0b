//! Looks after the stores that m2y.ini names.

mod check;
mod list;

use clap::Subcommand;

use super::{Failure, RootArg, output};

/// List and check the stores that m2y.ini names
///
/// A section [store NAME] names a directory or a bucket:
///
///   [store cloud]
///   url = s3://bucket/prefix
///   endpoint = https://s3.example.org
///
/// Credentials come from the usual AWS_* variables, a profile, a web identity or the machine's
/// role; never from m2y.ini.
#[derive(Debug, Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Store {
    List(list::List),
    Check(check::Check),
}

impl Store {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::List(list) => Ok(list.run(json)?),
            Self::Check(check) => check.run(json).await,
        }
    }
}

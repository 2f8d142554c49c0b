mod api;
mod check;
mod list;
mod new;
mod report;
mod run;
mod test;
mod watch;

use std::env;

use clap::{Args, Subcommand};

use super::{
    Failure, RootArg, folder_name,
    user_arg::{said, user_of},
    user_name,
};
use crate::{
    error::{Code, Error},
    root::{Root, folder::Folder, name::Name},
};

/// Write, check, test and try the scripts that decide about files
///
/// A line under an event of a folder's m2y.config names a script. m2y looks for it in the
/// folder, then in ROOT/scripts/, then among the bundled scripts. These commands need no
/// server and do not disturb a running one.
#[derive(Debug, Subcommand)]
pub enum Hook {
    Test(test::Test),
    Watch(watch::Watch),
    Run(run::Run),
    Check(check::Check),
    List(list::List),
    New(new::New),
    Api(api::Api),
}

/// Which folders.
#[derive(Debug, Args)]
pub struct Where {
    /// Only this user's folders
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only this folder; without --user, of M2Y_USER or of the only user of the root
    #[arg(long, value_name = "NAME")]
    folder: Option<String>,
}

pub use check::errors;

impl Hook {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        match self {
            Self::Test(test) => test.run(json).await,
            Self::Watch(watch) => watch.run(json).await,
            Self::Run(run) => run.run(json).await,
            Self::Check(check) => check.run(json),
            Self::List(list) => list.run(json),
            Self::New(new) => new.run(json),
            Self::Api(api) => api.run(json),
        }
    }
}

impl Where {
    /// Whether all folders are meant.
    fn is_everywhere(&self) -> bool {
        self.user.is_none() && self.folder.is_none()
    }

    /// The folders of a root that are meant.
    fn folders(&self, root: &Root) -> Result<Vec<Folder>, Error> {
        let users = match &self.user {
            Some(user) => vec![root.user(&user_name(user)?)?],
            None if self.folder.is_some() => {
                let variable = said(env::var("M2Y_USER").ok());
                vec![user_of(root, variable.as_deref())?]
            }
            None => root.users()?,
        };
        let mut folders = Vec::new();
        for user in users {
            match &self.folder {
                Some(folder) => {
                    let name: Name = folder_name(folder)?;
                    let found = user.folder(&name).map_err(|e| {
                        let of = user.name();
                        Error::from(e).within(format_args!("folder {name} of {of}"))
                    })?;
                    folders.push(found);
                }
                None => {
                    for folder in user.folders()? {
                        folders.push(folder?);
                    }
                }
            }
        }
        Ok(folders)
    }
}

/// An error that objects on standard output have reported already, if there are any.
fn told(json: bool, code: Code, sentence: String) -> Failure {
    let error = Error::new(code, sentence);
    match json {
        true => Failure::told(error),
        false => error.into(),
    }
}

//! The user of the root that a command is about.

use std::env;

use clap::Args;

use super::user_name;
use crate::{
    error::{Code, Error},
    root::{Root, user::User},
};

/// The user of the root that a command is about.
#[derive(Clone, Debug, Args)]
pub struct UserArg {
    /// A user of the root [default: the user in m2y.ini, else the only one of the root]
    #[arg(long, env = "M2Y_USER", value_name = "USER")]
    user: Option<String>,
}

impl UserArg {
    /// Whether the command line names one.
    pub fn is_given(&self) -> bool {
        self.user.is_some() && self.user != env::var("M2Y_USER").ok()
    }

    /// The user of this root.
    pub fn of(&self, root: &Root) -> Result<User, Error> {
        user_of(root, said(self.user.clone()).as_deref())
    }
}

/// A name that may come from the variable, where an empty value counts as none.
pub fn said(name: Option<String>) -> Option<String> {
    let variable = env::var("M2Y_USER").ok();
    name.filter(|name| !name.is_empty() || variable.as_ref() != Some(name))
}

/// The user with this name; without one, the user that m2y.ini names, or else the only one.
pub fn user_of(root: &Root, name: Option<&str>) -> Result<User, Error> {
    if let Some(name) = name {
        return Ok(root.user(&user_name(name)?)?);
    }
    if let Some(name) = root.settings()?.user {
        return Ok(root.user(&name)?);
    }
    let mut users = root.users()?;
    match (users.pop(), users.pop()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            let sentence = "the root has no user: create one with `m2y init --user NAME`";
            Err(Error::new(Code::NotFound, sentence))
        }
        (Some(last), Some(other)) => {
            users.extend([other, last]);
            let names: Vec<_> = users.iter().map(|user| user.name().as_str()).collect();
            let sentence = format!(
                "the root has several users: choose one with --user, the variable M2Y_USER, or `user =` under [client] in m2y.ini ({})",
                names.join(", ")
            );
            Err(Error::new(Code::Usage, sentence))
        }
    }
}

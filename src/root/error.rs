//! What can be wrong with the tree on disk.

use std::io;

use super::{
    config::ConfigError,
    file,
    name::{Name, NameError},
};
use crate::{
    crypto::CryptoError,
    error::{Code, Error},
    json::JsonError,
};

/// What can be wrong with the tree.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A word that is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The operating system refused.
    #[error("cannot {action} {path}: {}", why(.source))]
    Io {
        /// What was tried: `open`, `create`, `write`.
        action: &'static str,
        /// Below the root, or the root itself.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A private key that others could read.
    #[error("cannot open {path}: mode is {mode:04o}, must be 0600 (chmod 600 {full})")]
    Mode {
        /// Below the root.
        path: String,
        /// Permission bits.
        mode: u32,
        /// For the command that fixes it.
        full: String,
    },
    /// A key file that holds no key.
    #[error("cannot use {path}: {source}")]
    Key {
        /// Below the root, or as the person named it.
        path: String,
        /// What is wrong with it.
        source: CryptoError,
    },
    /// A document that cannot be read.
    #[error("cannot read {path}: {reason}")]
    Document {
        /// Below the root, or as the person named it.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No user of that name.
    #[error(
        "no user {0} in this root: create one with `m2y init --user NAME`, or choose a different root with --root"
    )]
    NoUser(Name),
    /// A directory among the users that is empty, or that `user create` did not finish.
    #[error("{0} has no user.json: run `m2y user create` for it, or remove it")]
    Unfinished(String),
    /// No key of that name in `pubKey/`.
    #[error("{user} has no contact {contact}: add the key with `m2y contact add`")]
    NoContact {
        /// Whose contact is missing.
        user: Name,
        /// Who it is.
        contact: Name,
    },
    /// No such directory, or one without m2y.config.
    #[error("{user} has no folder {folder}: create it with `m2y folder create {folder}`")]
    NoFolder {
        /// Whose folder is missing.
        user: Name,
        /// Its name.
        folder: Name,
    },
    /// A folder whose m2y.config has no `[OnMeta]`.
    #[error("this folder takes no files")]
    TakesNoFiles,
    /// A different key is there under this name.
    #[error(
        "{name} already has a different key, {old}: compare the new one, {new}, with {name} in person, then repeat with --replace"
    )]
    OtherKey {
        /// Whose key.
        name: Name,
        /// What is there.
        old: String,
        /// What was to be written.
        new: String,
    },
    /// A card in the user's own name with a different key, or something else that is only done with
    /// others.
    #[error("{0} is your own name: you cannot be your own contact")]
    Oneself(Name),
    /// Two names, one hash: no server could tell them apart.
    #[error("the user name {new} has the same hash as {old}: choose a different name")]
    HashTaken {
        /// Whose hash it is.
        old: String,
        /// Who cannot have it.
        new: Name,
    },
}

impl RootError {
    /// The value, or `None` if there is none; an error only if the machine was at fault and could
    /// not look.
    pub fn unless_shortage<T>(found: Result<T, Self>) -> Result<Option<T>, Self> {
        match found {
            Err(Self::Io { source, .. }) if !file::is_shortage(&source) => Ok(None),
            Err(error @ Self::Io { .. }) => Err(error),
            found => Ok(found.ok()),
        }
    }
}

/// Why the operating system refused, in words that say what to fix.
fn why(source: &io::Error) -> String {
    if file::led_out(source) {
        "a symbolic link leads out of the root, or of the user's directory, and must not".to_owned()
    } else {
        source.to_string()
    }
}

impl RootError {
    pub(super) fn io(
        action: &'static str,
        path: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(super) fn document(path: impl Into<String>, reason: impl ToString) -> Self {
        Self::Document {
            path: path.into(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn config(path: impl Into<String>, error: ConfigError) -> Self {
        Self::document(path, error)
    }

    pub(super) fn json(path: impl Into<String>, error: JsonError) -> Self {
        Self::document(path, error)
    }
}

impl From<RootError> for Error {
    fn from(error: RootError) -> Self {
        let code = match &error {
            RootError::NoUser(_) | RootError::NoFolder { .. } => Code::NotFound,
            RootError::NoContact { .. }
            | RootError::Mode { .. }
            | RootError::Key { .. }
            | RootError::OtherKey { .. }
            | RootError::Oneself(_) => Code::Identity,
            _ => Code::Failed,
        };
        Self::new(code, error.to_string())
    }
}

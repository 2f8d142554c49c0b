//! A folder, as starting transfers find it.

use std::sync::Arc;

use tracing::error;

use super::receiver::Receiver;
use crate::{
    error::{Code, Error, printable},
    event::Kind,
    hooks::{Pinned, lookup::is_program},
    root::{
        RootError, config::Config, folder::Folder, folder_rules::FolderRules, name::Name,
        user::User,
    },
    store::Store,
};

/// A folder as it is now, for starting transfers.
#[derive(Clone)]
pub struct Inbox {
    /// The folder.
    pub folder: Folder,
    /// Its m2y.config.
    pub config: Arc<Config>,
    /// Its scripts.
    pub pinned: Pinned,
    /// Where its contents are stored.
    pub store: Arc<dyn Store>,
    /// Bytes that fit there, if that is known.
    pub room: Option<u64>,
    /// Whether a program at `[OnMeta]` reads the `.meta`.
    pub shows_meta: bool,
    /// How it keeps what arrives.
    pub rules: FolderRules,
}

impl Receiver {
    /// A folder that a meta names, if it accepts files.
    pub(super) fn inbox(&self, user: &User, folder: &str) -> Result<Inbox, Error> {
        let failed = |e| folder_error(user, folder, &e);
        let folder = Name::folder(folder)
            .map_err(RootError::from)
            .and_then(|name| user.folder(&name))
            .map_err(failed)?;
        let config = folder.config_to_receive().map_err(failed)?;
        let store = self.hooks.stores().of(&folder);
        let scripts = config.scripts(Kind::Meta.section());
        Ok(Inbox {
            room: store.room().ok(),
            store,
            pinned: self.hooks.pin(&folder, &config),
            shows_meta: scripts.iter().any(|script| is_program(script)),
            rules: FolderRules::of(&config),
            folder,
            config,
        })
    }
}

fn folder_error(user: &User, folder: &str, error: &RootError) -> Error {
    match error {
        RootError::NoFolder { .. } | RootError::Name(_) => {
            let sentence = format!("no folder {}", printable(folder, 64));
            Error::new(Code::Refused, sentence)
        }
        RootError::TakesNoFiles => Error::new(Code::Refused, error.to_string()),
        error => {
            error!(user = %user.name(), folder = %printable(folder, 64), "{error}");
            Error::new(Code::Later, "the folder cannot be used now, try later")
        }
    }
}

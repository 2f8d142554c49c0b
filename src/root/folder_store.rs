//! Where the contents of a folder are stored: the section `[store]` of its m2y.config.
//!
//! ```text
//! [store]
//! name = safe
//! keep = 30d
//! readers = anna, jan
//! ```

use std::time::Duration;

use super::{config::Config, name::Name, settings::age};
use crate::error::did_you_mean;

/// The section.
pub const SECTION: &str = "store";

/// What the folder's own directory is called where a store is named.
pub const LOCAL: &str = "local";

/// Where files were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the folder's own directory.
    Local,
    /// In a store of m2y.ini.
    Store(String),
}

/// What an m2y.config says of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderStore {
    /// The store, by its name in m2y.ini; `None` for the folder's own directory.
    pub name: Option<String>,
    /// The store that the files are being moved from.
    pub from: Option<Source>,
    /// How long what is removed or overwritten can be had back.
    pub keep: Duration,
    /// Contacts who may read the files if they get hold of what the store holds.
    pub readers: Vec<Name>,
}

impl FolderStore {
    /// What an m2y.config says. [`check`] reports whatever is wrong there, and such a config does
    /// not take effect.
    pub fn of(config: &Config) -> Self {
        let mut store = Self::default();
        for (key, value) in config.section(SECTION) {
            // It is ignored if it is wrong.
            let _ = store.set(key, value);
        }
        store
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "name" if value.is_empty() => return Err("name: write a store of m2y.ini".to_owned()),
            "name" => self.name = Some(value.to_owned()).filter(|name| name != LOCAL),
            "from" if value.is_empty() => {
                return Err("from: `m2y folder move` writes this line".to_owned());
            }
            "from" => {
                self.from = Some(match value {
                    LOCAL => Source::Local,
                    store => Source::Store(store.to_owned()),
                });
            }
            "keep" => {
                let wrong = |why: &str| format!("keep = {value}: {why}");
                self.keep = age(value).map_err(wrong)?;
            }
            "readers" => {
                let names = value.split(',').map(|name| {
                    let name = Name::composed(name.trim());
                    Name::user(&name).map_err(|e| format!("readers = {value}: {e}"))
                });
                self.readers = names.collect::<Result<_, _>>()?;
            }
            _ => {
                let hint = did_you_mean(key, ["name", "keep", "readers", "from"]);
                return Err(format!("[{SECTION}] has no key {key}{hint}"));
            }
        }
        Ok(())
    }
}

/// Why a line of the section is ignored.
pub fn check(line: &str) -> Result<(), String> {
    let (key, value) = line.split_once('=').unwrap_or((line, ""));
    FolderStore::default().set(key.trim(), super::config::unquoted(value.trim()))
}

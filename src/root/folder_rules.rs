//! How a folder keeps what arrives: the section `[folder]` of its m2y.config.
//!
//! ```text
//! [folder]
//! names = original
//! keep_refused = 30d
//! takes = messages
//! record = yes
//! ```

use std::time::Duration;

use super::{config::Config, settings::age};
use crate::error::did_you_mean;

/// The section.
pub const SECTION: &str = "folder";

/// How long the `.meta` of a file that was refused stays, unless m2y.config says otherwise.
const KEEP_REFUSED: Duration = Duration::from_secs(7 * 86_400);

/// The longest time: the journal does not know what was refused before that.
const MAX_KEPT: Duration = Duration::from_secs(90 * 86_400);

/// What an arrived file is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// `zhenqiang_30-12-2018_23-59-59.data`, beside its `.meta`.
    #[default]
    Dated,
    /// As its sender calls it, with the directories that it was in; its `.meta` is hidden.
    Original,
}

/// How a folder keeps what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderRules {
    /// What files are called.
    pub names: Names,
    /// How long the `.meta` of a file that was refused stays.
    pub keep_refused: Duration,
    /// Whether it takes files, and not only messages.
    pub takes_files: bool,
    /// Whether streams are kept as files.
    pub records: bool,
}

impl Default for FolderRules {
    fn default() -> Self {
        Self {
            names: Names::default(),
            keep_refused: KEEP_REFUSED,
            takes_files: true,
            records: false,
        }
    }
}

impl FolderRules {
    /// What an m2y.config says. [`check`] reports whatever is wrong there, and such a config does
    /// not take effect.
    pub fn of(config: &Config) -> Self {
        let mut rules = Self::default();
        for (key, value) in config.section(SECTION) {
            // It is ignored if it is wrong.
            let _ = rules.set(key, value);
        }
        rules
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "names" => {
                self.names = match value {
                    "dated" => Names::Dated,
                    "original" => Names::Original,
                    _ => return Err(format!("names = {value}: write dated or original")),
                }
            }
            "keep_refused" => {
                let wrong = |why: &str| format!("keep_refused = {value}: {why}");
                self.keep_refused = age(value).map_err(wrong)?;
                if self.keep_refused > MAX_KEPT {
                    return Err(wrong("it must be at most 90d"));
                }
            }
            "takes" => {
                self.takes_files = match value {
                    "all" => true,
                    "messages" => false,
                    _ => return Err(format!("takes = {value}: write all or messages")),
                }
            }
            "record" => {
                self.records = match value {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(format!("record = {value}: write yes or no")),
                }
            }
            _ => {
                let keys = ["names", "keep_refused", "takes", "record"];
                let hint = did_you_mean(key, keys);
                return Err(format!("[{SECTION}] has no key {key}{hint}"));
            }
        }
        Ok(())
    }
}

/// Why a line of the section is ignored.
pub fn check(line: &str) -> Result<(), String> {
    let (key, value) = line.split_once('=').unwrap_or((line, ""));
    FolderRules::default().set(key.trim(), super::config::unquoted(value.trim()))
}

//! Documents by which people want to become contacts, which came by a relay: `.requests/NAME.json`. They
//! prove nothing until fingerprints were compared.

use std::{io, path::PathBuf};

use super::{error::RootError, file, name::Name, user::User};

const DIRECTORY: &str = ".requests";

/// Documents that may wait: what comes after them is not taken.
const MOST: usize = 256;

/// The longest document, in bytes.
pub const MAX_LEN: usize = 16_384;

impl User {
    /// Where the document of somebody lies.
    fn introduction(&self, from: &Name) -> String {
        format!("{DIRECTORY}/{from}.json")
    }

    /// Keeps a document, in place of an earlier one of the same person. There may be too many.
    pub fn keep_introduction(&self, from: &Name, document: &[u8]) -> Result<(), RootError> {
        let at = self.at(DIRECTORY);
        match self.dir().create_dir(DIRECTORY) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(RootError::io("create", at)(e));
            }
            _ => {}
        }
        let path = self.introduction(from);
        let waiting = self.introductions()?;
        if waiting.len() >= MOST && waiting.iter().all(|(name, _)| name != from) {
            return Ok(());
        }
        let dir = self
            .dir()
            .open_dir(DIRECTORY)
            .map_err(RootError::io("open", at))?;
        file::replace(&dir, &format!("{from}.json"), 0o600, document)
            .map_err(RootError::io("write", self.at(&path)))
    }

    /// Who wants to become a contact, or has answered, and where the documents are.
    pub fn introductions(&self) -> Result<Vec<(Name, PathBuf)>, RootError> {
        let entries = match self.dir().read_dir(DIRECTORY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(RootError::io("open", self.at(DIRECTORY)))?,
        };
        let mut all: Vec<_> = entries
            .filter_map(|entry| {
                let file = entry.ok()?.file_name();
                let name = Name::user(file.to_str()?.strip_suffix(".json")?).ok()?;
                let path = self.path().join(self.introduction(&name));
                Some((name, path))
            })
            .collect();
        all.sort();
        Ok(all)
    }

    /// Forgets the document of somebody, if there is one.
    pub fn forget_introduction(&self, from: &Name) -> Result<(), RootError> {
        let path = self.introduction(from);
        match self.dir().remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(RootError::io("remove", self.at(&path))(e))
            }
            _ => Ok(()),
        }
    }
}

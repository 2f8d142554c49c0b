//! The `.meta` of each file of a folder, which a store keeps with the file: beside it, or hidden if the
//! file has a path of its own.

use std::{collections::HashMap, io};

use super::{ContentPath, received};
use crate::{
    meta::{MAX_LEN, STORED_AS},
    root::{file, folder::Folder},
};

/// The documents of a folder.
pub struct Documents {
    folder: Folder,
    /// The names of hidden ones, by the path of the file that each belongs to.
    hidden: HashMap<String, String>,
}

impl Documents {
    /// Looks for the hidden ones.
    ///
    /// # Errors
    ///
    /// If their directory cannot be read.
    pub fn of(folder: &Folder) -> io::Result<Self> {
        let mut hidden = HashMap::new();
        for stem in received::stems(folder, usize::MAX)? {
            let Some(meta) = received::find(folder, &stem) else {
                continue;
            };
            let stored = meta.extra.get(STORED_AS);
            let path = stored.and_then(|stored| stored.get("path"));
            if let Some(path) = path.and_then(|path| path.as_str()) {
                hidden.insert(path.to_owned(), format!("{}/{stem}.meta", received::DIR));
            }
        }
        Ok(Self {
            folder: folder.clone(),
            hidden,
        })
    }

    /// The document of the file at a path: its name below the folder, and its text.
    ///
    /// # Errors
    ///
    /// If it is there, but cannot be read.
    pub fn find(&self, path: &ContentPath) -> io::Result<Option<(String, Vec<u8>)>> {
        let text = path.to_string();
        let beside = text
            .strip_suffix(".data")
            .map(|stem| format!("{stem}.meta"));
        let name = match (self.hidden.get(&text), beside) {
            (Some(hidden), _) => hidden.clone(),
            (None, Some(beside)) if !beside.contains('/') => beside,
            _ => return Ok(None),
        };
        match file::read(self.folder.dir(), &name, MAX_LEN) {
            Ok(text) => Ok(Some((name, text))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

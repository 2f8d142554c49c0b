//! The files of folders whose contents are in a store: inotify tells nothing of them, but the index
//! of the store counts every change of a name, whichever process made it.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use crate::{root::folder::Folder, store::Stores};

/// Names that are told one by one; beyond that the folder is read as a whole.
const MOST: u32 = 1_000;

/// What changed in a folder since it was last looked at.
pub enum Changed {
    /// These files.
    Files(Vec<String>),
    /// It has to be read as a whole.
    All,
}

/// How far the changes of each store have been told.
#[derive(Default)]
pub struct InStores {
    /// By the path of the folder and the name of the store.
    told: HashMap<(PathBuf, String), u64>,
}

impl InStores {
    /// What changed since this was last asked; at first everything.
    pub fn changed(&mut self, stores: &Stores, folder: &Folder) -> io::Result<Changed> {
        let mut files = Vec::new();
        let mut all = false;
        for store in stores.elsewhere(folder)? {
            let key = (folder.path().to_owned(), store.name().to_owned());
            let now = store.changes()?;
            match self.told.insert(key, now) {
                Some(told) if told == now => {}
                // With an older count it is another index.
                Some(told) if told < now => {
                    let changed = store.changed_since(told, MOST)?;
                    all |= changed.len() >= MOST as usize;
                    files.extend(changed);
                }
                _ => all = true,
            }
        }
        Ok(match all {
            true => Changed::All,
            false => Changed::Files(files),
        })
    }

    /// A folder is not watched any more.
    pub fn forget(&mut self, folder: &Path) {
        self.told.retain(|(path, _), _| path != folder);
    }
}

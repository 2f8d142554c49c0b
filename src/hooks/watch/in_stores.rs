//! The files of folders whose contents are in a store: inotify tells nothing of them, but the index
//! of the store counts every change of a name, whichever process made it. Where the layout is plain
//! there is no index, and the bucket is listed now and then.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    root::folder::Folder,
    store::{Stores, elsewhere::Elsewhere},
};

/// Names that are told one by one; beyond that the folder is read as a whole.
const MOST: u32 = 1_000;

/// How often a bucket is read whose files other programs can change: nothing tells of that, and each
/// page of the list is a request.
const OTHERS: Duration = Duration::from_secs(60);

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
    /// When those whose layout is plain were last read.
    read: HashMap<(PathBuf, String), (Instant, u64)>,
}

impl InStores {
    /// What changed since this was last asked; at first everything.
    pub fn changed(&mut self, stores: &Stores, folder: &Folder) -> io::Result<Changed> {
        let mut files = Vec::new();
        let mut all = false;
        for store in stores.elsewhere(folder)? {
            let key = (folder.path().to_owned(), store.name().to_owned());
            let store = match store {
                Elsewhere::Chunked(store) => store,
                Elsewhere::Plain(store) => {
                    all |= self.is_plain_due(key, store.changes());
                    continue;
                }
            };
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

    /// Whether a folder in a bucket has to be read: this process changed it, or others may have.
    fn is_plain_due(&mut self, key: (PathBuf, String), changes: u64) -> bool {
        match self.read.get(&key) {
            Some((at, told)) if *told == changes && at.elapsed() < OTHERS => false,
            _ => {
                self.read.insert(key, (Instant::now(), changes));
                true
            }
        }
    }

    /// A folder is not watched any more.
    pub fn forget(&mut self, folder: &Path) {
        self.told.retain(|(path, _), _| path != folder);
        self.read.retain(|(path, _), _| path != folder);
    }
}

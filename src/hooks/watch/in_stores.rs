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
    /// By the path of the folder and the name of the store; and when that was, where others may
    /// have changed more.
    told: HashMap<(PathBuf, String), (u64, Instant)>,
}

impl InStores {
    /// What changed since this was last asked; at first everything.
    pub fn changed(&mut self, stores: &Stores, folder: &Folder) -> io::Result<Changed> {
        let mut files = Vec::new();
        let mut all = false;
        for store in stores.elsewhere(folder)? {
            let key = (folder.path().to_owned(), store.name().to_owned());
            let told = self.told.get(&key).copied();
            let (now, is_late) = match &store {
                Elsewhere::Chunked(store) => (store.changes()?, false),
                Elsewhere::Plain(store) => (
                    store.changes(),
                    told.is_some_and(|(_, at)| at.elapsed() >= OTHERS),
                ),
            };
            match (told, store.chunked()) {
                (Some((told, _)), _) if told == now && !is_late => continue,
                // With an older count it is another index.
                (Some((told, _)), Some(store)) if told < now => {
                    let changed = store.changed_since(told, MOST)?;
                    all |= changed.len() >= MOST as usize;
                    files.extend(changed);
                }
                _ => all = true,
            }
            self.told.insert(key, (now, Instant::now()));
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

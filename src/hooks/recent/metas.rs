//! The `.meta` files of a folder and of the directories in it.

use std::{cmp::Reverse, collections::BinaryHeap, time::UNIX_EPOCH};

use cap_std::fs::{Dir, DirEntry};

use crate::root::{
    folder::Folder,
    tree::{MAX_DEPTH, open_below},
};

/// Directories of a folder that are looked into.
const MAX_DIRS: usize = 2_000;

/// The newest `.meta` files of a folder.
pub(super) struct Newest {
    /// When each was written, in milliseconds since 1970, and its path without `.meta`; the newest
    /// first.
    pub(super) stems: Vec<(u64, String)>,
    /// Whether these are all.
    pub(super) all: bool,
}

/// The newest `.meta` files of a folder and of the directories in it, at most `most`. Hidden files
/// do not count, and links to directories are not followed.
pub(super) fn newest(folder: &Folder, most: usize) -> Newest {
    let mut found = Found {
        heap: BinaryHeap::new(),
        most,
        all: true,
    };
    let mut dirs = vec![String::new()];
    let mut at = 0;
    while let Some(path) = dirs.get(at).cloned() {
        at += 1;
        let names = path.split('/').filter(|name| !name.is_empty());
        let depth = names.clone().count();
        let dir = open_below(folder.dir(), names);
        let Ok((dir, entries)) = dir.and_then(|dir| dir.entries().map(|entries| (dir, entries)))
        else {
            continue;
        };
        for entry in entries.flatten() {
            let Some(name) = visible(&entry) else {
                continue;
            };
            let below = match path.is_empty() {
                true => name.clone(),
                false => format!("{path}/{name}"),
            };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                match depth < MAX_DEPTH && dirs.len() < MAX_DIRS {
                    true => dirs.push(below),
                    false => found.all = false,
                }
            } else if let (Some(stem), Some(written)) =
                (below.strip_suffix(".meta"), written(&dir, &name))
            {
                found.push(written, stem);
            }
        }
    }
    found.newest()
}

fn visible(entry: &DirEntry) -> Option<String> {
    let name = entry.file_name().into_string().ok()?;
    (!name.starts_with('.')).then_some(name)
}

/// In milliseconds since 1970.
fn written(dir: &Dir, name: &str) -> Option<u64> {
    let modified = dir.metadata(name).ok()?.modified().ok()?.into_std();
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The newest so far, the oldest of them on top.
struct Found {
    heap: BinaryHeap<Reverse<(u64, String)>>,
    most: usize,
    all: bool,
}

impl Found {
    fn push(&mut self, written: u64, stem: &str) {
        self.heap.push(Reverse((written, stem.to_owned())));
        if self.heap.len() > self.most {
            self.heap.pop();
            self.all = false;
        }
    }

    fn newest(self) -> Newest {
        let stems = self.heap.into_sorted_vec().into_iter();
        Newest {
            stems: stems.map(|Reverse(one)| one).collect(),
            all: self.all,
        }
    }
}

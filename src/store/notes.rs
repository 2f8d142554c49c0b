//! What a folder's own directory notes of the stores that its contents are in: for a store with an
//! index that, for one without an empty file.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use cap_std::fs::Dir;

use crate::root::file;

/// The directory, in the folder, with what is noted of the store that the folder is in, and
/// during a move of two.
pub const DIR: &str = ".store";

/// The file of the index for a store, below [`DIR`].
pub fn index_name(store: &str) -> String {
    format!("{store}.sqlite")
}

/// The name of the note that a folder is in a store that keeps no index.
pub fn plain_name(store: &str) -> String {
    format!("{store}.plain")
}

/// Whether it is noted that a folder is in a store without an index.
pub fn is_plain(dir: &Dir, store: &str) -> io::Result<bool> {
    if dir.try_exists(Path::new(DIR).join(left(store)))? {
        return Ok(false);
    }
    dir.try_exists(Path::new(DIR).join(plain_name(store)))
}

/// The directory of indexes and notes, which is made if it is not there.
pub fn directory(dir: &Dir) -> io::Result<Dir> {
    match dir.create_dir(DIR) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => dir.open_dir(DIR),
    }
}

/// Notes that a folder has left a store: its index there is about to be removed.
pub fn leave(dir: &Dir, store: &str) -> io::Result<()> {
    let there = dir.open_dir(DIR)?;
    file::append(&there, &left(store)).map(drop)?;
    file::sync(&there)
}

fn left(store: &str) -> String {
    format!("{store}.left")
}

/// The stores that a folder has an index or a note for, apart from those that it has left.
pub fn stores(dir: &Dir) -> io::Result<Vec<String>> {
    let there = match dir.open_dir(DIR) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        there => there?,
    };
    let mut stores = Vec::new();
    for entry in there.entries()? {
        let name = entry?.file_name();
        let store = name.to_str().and_then(|name| {
            let index = name.strip_suffix(".sqlite");
            index.or_else(|| name.strip_suffix(".plain"))
        });
        let Some(store) = store else {
            continue;
        };
        if !there.try_exists(left(store))? {
            stores.push(store.to_owned());
        }
    }
    Ok(stores)
}

/// Removes what is left of an earlier index for a store that the folder has left.
pub fn remove_if_left(dir: &Dir, store: &str) -> io::Result<()> {
    match dir.try_exists(Path::new(DIR).join(left(store)))? {
        true => remove(dir, store),
        false => Ok(()),
    }
}

/// Which file the index or note of a folder for a store is: its device and inode.
pub fn identity(folder: &Path, store: &str) -> Option<(u64, u64)> {
    let mut names = [index_name(store), plain_name(store)].into_iter();
    let about = names.find_map(|name| fs::metadata(folder.join(DIR).join(name)).ok())?;
    Some((about.dev(), about.ino()))
}

/// Removes what is noted of a store that the folder has left.
pub fn remove(dir: &Dir, store: &str) -> io::Result<()> {
    let there = dir.open_dir(DIR)?;
    let file = index_name(store);
    for name in [
        format!("{file}-wal"),
        format!("{file}-shm"),
        format!("{store}.lock"),
        format!("{store}.lease"),
        plain_name(store),
        file,
        left(store),
    ] {
        match there.remove_file(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    match dir.remove_dir(DIR) {
        // There is another one.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

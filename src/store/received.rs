//! The `.meta` of files that have paths of their own in a folder which keeps the names of files:
//! they are in `.received/` of the folder, and say which path a file got.

use std::io;

use cap_std::fs::Dir;

use super::{
    ContentPath, Store,
    flush::{self, Unflushed},
};
use crate::{
    json::{Map, Value},
    meta::{Meta, PENDING_PUT, STORED_AS},
    root::{destination::Destination, file, folder::Folder, meta_file},
};

/// Where they are, below the folder.
pub const DIR: &str = ".received";

/// A file that has its path.
pub struct Placed {
    /// What the name of its `.meta` begins with.
    pub stem: String,
    /// What that says.
    pub meta: Meta,
    /// The path.
    pub path: String,
}

/// Hides the `.meta` of files. When this returns, those that were hidden survive a loss of power;
/// one that could not be written there stays where it was.
pub fn hide(folder: &Folder, placed: &[Placed]) -> Vec<io::Result<()>> {
    let all = |error: io::Error| placed.iter().map(|_| Err(flush::copy_of(&error))).collect();
    let there = match open(folder) {
        Ok(there) => there,
        Err(error) => return all(error),
    };
    let names: Vec<String> = placed
        .iter()
        .map(|one| format!("{}.meta", one.stem))
        .collect();
    let written = placed.iter().zip(&names).map(|(one, name)| {
        file::replace_unflushed(&there, name, 0o644, &text(&one.meta, &one.path))
    });
    let written: Vec<io::Result<()>> = written.collect();
    let mut unflushed: Vec<Unflushed<'_>> = names
        .iter()
        .map(|name| Unflushed {
            sink: None,
            document: Some((&there, name.as_str())),
        })
        .collect();
    let flushed = flush::flush(&mut unflushed);
    let results = written.into_iter().zip(flushed).zip(&names);
    results
        .map(|((written, flushed), name)| {
            written.and(flushed)?;
            match folder.dir().remove_file(name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            }
        })
        .collect()
}

/// Opens the directory, and makes it if it is missing.
fn open(folder: &Folder) -> io::Result<Dir> {
    match folder.dir().create_dir(DIR) {
        Ok(()) => file::sync(folder.dir())?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    folder.dir().open_dir(DIR)
}

/// The hidden `.meta` of a file at a path: its name below the folder, and its text.
pub fn document(stem: &str, meta: &Meta, path: &str) -> (String, Vec<u8>) {
    (format!("{DIR}/{stem}.meta"), text(meta, path))
}

fn text(meta: &Meta, path: &str) -> Vec<u8> {
    let mut meta = meta.clone();
    let modified = Destination::of(&meta).map_or(0, |destination| destination.modified);
    meta.extra.remove(PENDING_PUT);
    let mut stored = Map::new();
    stored.insert("path".to_owned(), path.into());
    stored.insert("modified".to_owned(), modified.into());
    meta.extra
        .insert(STORED_AS.to_owned(), Value::Object(stored));
    meta.to_file()
}

/// Whether there is such a `.meta`.
pub fn has(folder: &Folder, stem: &str) -> bool {
    let hidden = format!("{DIR}/{stem}.meta");
    folder.dir().symlink_metadata(hidden).is_ok()
}

/// The hidden `.meta` of that stem.
pub fn find(folder: &Folder, stem: &str) -> Option<Meta> {
    meta_file::of_stem(&folder.dir().open_dir(DIR).ok()?, stem)
}

/// The stems of all hidden `.meta` files, at most so many.
pub fn stems(folder: &Folder, at_most: usize) -> io::Result<Vec<String>> {
    let there = match folder.dir().open_dir(DIR) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        there => there?,
    };
    let mut stems = Vec::new();
    for entry in there.entries()? {
        if stems.len() == at_most {
            break;
        }
        let name = entry?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".meta"));
        stems.extend(stem.map(str::to_owned));
    }
    Ok(stems)
}

/// Where the file of a hidden `.meta` is, if the file there is still the one that arrived.
pub fn place(store: &dyn Store, meta: &Meta) -> Option<ContentPath> {
    let stored = meta.extra.get(STORED_AS)?.as_object()?;
    let path = ContentPath::parse(stored.get("path")?.as_str()?).ok()?;
    let modified = stored.get("modified")?.as_i64()?;
    let stat = store.stat(&path).ok()??;
    stat.is_file_of(meta.filesize, modified).then_some(path)
}

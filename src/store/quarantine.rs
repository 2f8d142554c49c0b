//! Files that a hook put out of sight, until a person releases or removes them.
//!
//! Their contents are in the quarantine of the store, and their `.meta` in `.quarantine/` of the
//! folder, with the reason in its field `quarantine`.

use std::io;

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt};

use super::{ContentPath, Kind, Store, Target};
use crate::{
    meta::Meta,
    root::{file, folder::Folder, meta_file},
};

/// Where the documents are, below the folder.
pub const DIR: &str = ".quarantine";

/// How many files of one name are told apart.
const MAX_CLASHES: u32 = 10_000;

/// Puts a file and its `.meta` out of sight.
pub fn hide(store: &dyn Store, folder: &Folder, stem: &str) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    folder.dir().create_dir_with(DIR, &builder)?;
    let held = folder.dir().open_dir(DIR)?;
    let way = Way {
        store,
        from: (folder.dir(), &|name| Ok(ContentPath::parse(name)?)),
        to: (&held, &|name| Ok(ContentPath::quarantined(name)?)),
    };
    way.carry(stem).map(drop)
}

/// Puts a file and its `.meta` back into sight; returns the stem that they have there.
pub fn release(store: &dyn Store, folder: &Folder, stem: &str) -> io::Result<String> {
    let held = folder.dir().open_dir(DIR)?;
    let way = Way {
        store,
        from: (&held, &|name| Ok(ContentPath::quarantined(name)?)),
        to: (folder.dir(), &|name| Ok(ContentPath::parse(name)?)),
    };
    way.carry(stem)
}

/// Removes a file and its `.meta` for good.
pub fn remove(store: &dyn Store, folder: &Folder, stem: &str) -> io::Result<()> {
    let dir = folder.dir().open_dir(DIR)?;
    let contents = ContentPath::quarantined(&format!("{stem}.data"))?;
    store.remove(&contents)?;
    dir.remove_file(format!("{stem}.meta"))?;
    store.settle_names(&[contents])?;
    file::sync(&dir)
}

/// The files that are out of sight, sorted, each with its meta.
pub fn list(store: &dyn Store, folder: &Folder) -> io::Result<Vec<(String, Option<Meta>)>> {
    let entries = match store.list(&ContentPath::quarantine()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let documents = folder.dir().open_dir(DIR).ok();
    let mut held = Vec::new();
    for entry in entries {
        let (name, stat) = entry?;
        let Some(stem) = name.strip_suffix(".data") else {
            continue;
        };
        if stat.kind == Kind::File {
            let meta = documents
                .as_ref()
                .and_then(|dir| meta_file::of_stem(dir, stem));
            held.push((stem.to_owned(), meta));
        }
    }
    held.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(held)
}

/// A directory of documents, and the paths of contents that belong to it.
type Side<'a> = (&'a Dir, &'a dyn Fn(&str) -> io::Result<ContentPath>);

/// From one side to the other.
struct Way<'a> {
    store: &'a dyn Store,
    from: Side<'a>,
    to: Side<'a>,
}

impl Way<'_> {
    /// Moves contents and `.meta`, under a stem that is free there: a name is free again once its
    /// file was taken away, so two files may have had the same one.
    fn carry(&self, stem: &str) -> io::Result<String> {
        let (from, path_from) = self.from;
        let (to, path_to) = self.to;
        let old = path_from(&format!("{stem}.data"))?;
        for clash in 1..=MAX_CLASHES {
            let there = match clash {
                1 => stem.to_owned(),
                n => format!("{stem}_{n}"),
            };
            let meta = format!("{there}.meta");
            if to.symlink_metadata(&meta).is_ok() {
                continue;
            }
            let new = path_to(&format!("{there}.data"))?;
            match self.store.rename(&old, &Target::free(&new)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                // An earlier attempt may have got so far, and no further.
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.store.holds(&new)? => {}
                renamed => renamed?,
            }
            file::rename_to_free(from, &format!("{stem}.meta"), to, &meta)?;
            self.store.settle_names(&[new, old])?;
            file::sync(to)?;
            file::sync(from)?;
            return Ok(there);
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "too many files of that name",
        ))
    }
}

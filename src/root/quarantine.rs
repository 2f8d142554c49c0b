//! Files that a hook put out of sight, until a person releases or drops them.
//!
//! They lie in `.quarantine/` of the folder, each with its `.meta`, whose field
//! `quarantine` has the reason.

use std::io;

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt};

use super::meta_file;
use crate::{meta::Meta, root::file};

/// Where they lie, below the folder.
pub const DIR: &str = ".quarantine";

/// How many files of one name are told apart.
const MAX_CLASHES: u32 = 10_000;

/// Puts a file and its `.meta` out of sight.
pub fn hide(folder: &Dir, stem: &str) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    folder.create_dir_with(DIR, &builder)?;
    carry(folder, &folder.open_dir(DIR)?, stem).map(drop)
}

/// Puts a file and its `.meta` back into sight; returns the stem that they have there.
pub fn release(folder: &Dir, stem: &str) -> io::Result<String> {
    carry(&folder.open_dir(DIR)?, folder, stem)
}

/// Removes a file and its `.meta` for good.
pub fn remove(folder: &Dir, stem: &str) -> io::Result<()> {
    let dir = folder.open_dir(DIR)?;
    for ending in ["data", "meta"] {
        dir.remove_file(format!("{stem}.{ending}"))?;
    }
    file::sync(&dir)
}

/// The files that are out of sight, sorted, each with its meta.
pub fn list(folder: &Dir) -> io::Result<Vec<(String, Option<Meta>)>> {
    let dir = match folder.open_dir(DIR) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        dir => dir?,
    };
    let mut held = Vec::new();
    for entry in dir.entries()? {
        let name = entry?.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".data")) else {
            continue;
        };
        held.push((stem.to_owned(), meta_file::of_stem(&dir, stem)));
    }
    held.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(held)
}

/// Moves both files, under a stem that is free there: another file may have had the same
/// name, for it is free again where that file was.
fn carry(from: &Dir, to: &Dir, stem: &str) -> io::Result<String> {
    for clash in 1..=MAX_CLASHES {
        let there = match clash {
            1 => stem.to_owned(),
            n => format!("{stem}_{n}"),
        };
        let (data, meta) = (format!("{there}.data"), format!("{there}.meta"));
        if to.symlink_metadata(&meta).is_ok() {
            continue;
        }
        match file::rename_to_free(from, &format!("{stem}.data"), to, &data) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            // An earlier attempt may have got so far, and no further.
            Err(e) if e.kind() == io::ErrorKind::NotFound && to.symlink_metadata(&data).is_ok() => {
            }
            renamed => renamed?,
        }
        file::rename_to_free(from, &format!("{stem}.meta"), to, &meta)?;
        file::sync(to)?;
        file::sync(from)?;
        return Ok(there);
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "too many files of that name",
    ))
}

//! Files that a hook put out of sight, until a person releases or drops them.
//!
//! They lie in `.quarantine/` of the folder, each with its `.meta`, whose field
//! `quarantine` has the reason.

use std::io;

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt};

use crate::root::file;

const DIR: &str = ".quarantine";

/// What belongs to one file: first what is seen last.
const ENDINGS: [&str; 2] = ["data", "meta"];

/// Puts a file and its `.meta` out of sight.
pub fn hide(folder: &Dir, stem: &str) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    folder.create_dir_with(DIR, &builder)?;
    carry(folder, &folder.open_dir(DIR)?, stem)
}

/// Puts a file and its `.meta` back into sight.
pub fn release(folder: &Dir, stem: &str) -> io::Result<()> {
    carry(&folder.open_dir(DIR)?, folder, stem)
}

/// Removes a file and its `.meta` for good.
pub fn drop(folder: &Dir, stem: &str) -> io::Result<()> {
    let dir = folder.open_dir(DIR)?;
    for ending in ENDINGS {
        dir.remove_file(format!("{stem}.{ending}"))?;
    }
    file::sync(&dir)
}

/// The files that are out of sight, sorted.
pub fn list(folder: &Dir) -> io::Result<Vec<String>> {
    let dir = match folder.open_dir(DIR) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        dir => dir?,
    };
    let mut stems = Vec::new();
    for entry in dir.entries()? {
        if let Some(stem) = entry?
            .file_name()
            .to_str()
            .and_then(|n| n.strip_suffix(".data"))
        {
            stems.push(stem.to_owned());
        }
    }
    stems.sort();
    Ok(stems)
}

fn carry(from: &Dir, to: &Dir, stem: &str) -> io::Result<()> {
    for ending in ENDINGS {
        let name = format!("{stem}.{ending}");
        match file::rename(from, &name, to, &name) {
            // An earlier attempt got so far.
            Err(e) if e.kind() == io::ErrorKind::NotFound && to.symlink_metadata(&name).is_ok() => {
            }
            renamed => renamed?,
        }
    }
    file::sync(to)?;
    file::sync(from)
}

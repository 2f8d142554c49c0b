//! What is to be sent: a `.meta` for each file, in a folder of its sender.

use std::{
    io,
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};

use crate::{
    error::{Code, Error},
    json::Value,
    meta::{Meta, SOURCE_PATH},
    root::file,
};

/// Writes a `.meta` for `file` into `folder`, under a name that is free there; a meta
/// without `filename` gets the file's own.
pub fn write(folder: &Path, file: &Path, mut meta: Meta) -> Result<PathBuf, Error> {
    let full = file
        .canonicalize()
        .map_err(|e| Error::io("open", file, &e))?;
    let name = full
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| {
            let sentence = format!("cannot send {}: its name is not UTF-8", file.display());
            Error::new(Code::Failed, sentence)
        })?;
    if meta.filename.is_empty() {
        name.clone_into(&mut meta.filename);
    }
    let at = |e: io::Error| Error::io("write into", folder, &e);
    let beside = folder.canonicalize().map_err(at)?.join(name) == full;
    if !beside || meta.filename != name {
        let path = full.to_str().ok_or_else(|| {
            let sentence = format!("cannot send {}: its path is not UTF-8", file.display());
            Error::new(Code::Failed, sentence)
        })?;
        meta.extra.insert(SOURCE_PATH.to_owned(), Value::from(path));
    }
    // Asked now, so that a wrong path leaves no .meta behind.
    if !full
        .metadata()
        .map_err(|e| Error::io("open", file, &e))?
        .is_file()
    {
        let sentence = format!("cannot send {}: it is not a regular file", file.display());
        return Err(Error::new(Code::Failed, sentence));
    }
    let dir = Dir::open_ambient_dir(folder, ambient_authority()).map_err(at)?;
    for clash in 1_u32.. {
        let stem = stem(name, clash);
        let taken = ["done", "failed"]
            .iter()
            .any(|ending| dir.exists(format!("{stem}.{ending}")));
        if taken {
            continue;
        }
        match file::create(&dir, &format!("{stem}.meta"), 0o644, &meta.to_file()) {
            Ok(()) => return Ok(folder.join(format!("{stem}.meta"))),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(at(e)),
        }
    }
    Err(at(io::ErrorKind::AlreadyExists.into()))
}

/// What the `.meta` of a file of this name is called, without its ending, where `clash - 1`
/// such names are taken.
pub fn stem(name: &str, clash: u32) -> String {
    // A file name may fill what the system allows; the ending needs room.
    let stem = match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    }
    .chars()
    .take(60);
    match clash {
        1 => stem.collect(),
        n => stem.chain(format!("_{n}").chars()).collect(),
    }
}

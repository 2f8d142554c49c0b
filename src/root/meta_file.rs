//! A `.meta` on the disk: what it tells of the file beside it, and new ones for files that
//! are to be sent.

use std::{
    io,
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};

use crate::{
    error::{Code, Error},
    json::Value,
    meta::{self, Meta, SOURCE_PATH},
    root::file,
};

/// What the file of that name says; `None` if none can be read.
pub fn read(dir: &Dir, name: &str) -> Option<Meta> {
    let text = file::read(dir, name, meta::MAX_LEN).ok()?;
    Meta::from_file(&text).ok()
}

/// [`read`], of the file whose names begin with `stem`.
pub fn of_stem(dir: &Dir, stem: &str) -> Option<Meta> {
    read(dir, &format!("{stem}.meta"))
}

/// The stems of every `.failed` of a user that can become a `.meta` again, with what it says: not
/// of one that cannot be read, or whose `.meta` exists.
pub fn failed(dir: &Dir, user: &str) -> io::Result<Vec<(String, Meta)>> {
    let mut failed = Vec::new();
    for entry in dir.entries()? {
        let name = entry?.file_name();
        let Some((name, stem)) = name
            .to_str()
            .and_then(|name| Some((name, name.strip_suffix(".failed")?)))
        else {
            continue;
        };
        let meta = read(dir, name).filter(|meta| meta.from == user);
        if let Some(meta) = meta
            && !file::exists(dir, &format!("{stem}.meta"))?
        {
            failed.push((stem.to_owned(), meta));
        }
    }
    Ok(failed)
}

/// Turns every `.failed` of a user back into a `.meta`, without its error.
pub fn reset_failed(dir: &Dir, user: &str) -> io::Result<()> {
    for (stem, mut meta) in failed(dir, user)? {
        meta.error.clear();
        match file::create(dir, &format!("{stem}.meta"), 0o644, &meta.to_file()) {
            Ok(()) => dir.remove_file(format!("{stem}.failed"))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

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
    // Checked now, so that a wrong path leaves no .meta behind.
    if !full
        .metadata()
        .map_err(|e| Error::io("open", file, &e))?
        .is_file()
    {
        let sentence = format!("cannot send {}: it is not a regular file", file.display());
        return Err(Error::new(Code::Failed, sentence));
    }
    let dir = Dir::open_ambient_dir(folder, ambient_authority()).map_err(at)?;
    let text = meta.to_file();
    let name = create(&dir, name, &text).map_err(at)?;
    Ok(folder.join(name))
}

/// Writes the `.meta` of a message into a folder, unless it is there.
pub fn write_message(dir: &Dir, meta: &Meta) -> io::Result<()> {
    let id = meta.id.map(|id| id.to_string()).unwrap_or_default();
    match file::create(dir, &format!("message-{id}.meta"), 0o600, &meta.to_file()) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        written => written,
    }
}

/// Creates a `.meta` for a file of this name under the first name that is free, as are its
/// `.left`, `.done` and `.failed`; returns that name.
fn create(dir: &Dir, name: &str, text: &[u8]) -> io::Result<String> {
    let mut clash = 0_u32;
    loop {
        clash = clash.saturating_add(1);
        let stem = stem(name, clash);
        let taken = |ending| file::exists(dir, &format!("{stem}.{ending}"));
        if taken("left")? || taken("done")? || taken("failed")? {
            continue;
        }
        let name = format!("{stem}.meta");
        match file::create(dir, &name, 0o644, text) {
            Ok(()) => return Ok(name),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// The name of the `.meta` of a file of this name, without its ending, if `clash - 1` such names
/// are taken.
fn stem(name: &str, clash: u32) -> String {
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

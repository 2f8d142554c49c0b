//! Where the script is that a line of m2y.config names: in the folder, in
//! `ROOT/scripts/`, or among the bundled ones.

use std::{io, path::PathBuf, sync::Arc};

use cap_std::fs::{Dir, MetadataExt};

use super::{
    bundled, limits,
    report::HookError,
    script::{Source, Stamp},
};
use crate::{
    error::printable,
    root::{Root, file, folder::Folder, name::Name},
};

/// What was found.
pub enum Found {
    /// A script, to be run inside.
    Script(Source),
    /// A program, to be started.
    Executable(PathBuf),
}

/// Finds what a line of m2y.config names. Only where there is nothing of that name the
/// search goes on: what is there and cannot be read must not make way for another one.
pub fn find(root: &Root, folder: &Folder, line: &str) -> Result<Found, HookError> {
    let name = Name::script(line).map_err(|source| HookError::Name {
        line: printable(line, 80),
        source,
    })?;
    let unreadable = |source: io::Error| HookError::Unreadable {
        script: name.to_string(),
        source,
    };
    let path = folder.path_of(name.as_str());
    if let Some(found) = look(folder.dir(), path, &name).map_err(unreadable)? {
        return Ok(found);
    }
    match root.dir().open_dir("scripts") {
        Ok(shared) => {
            let path = root.path().join("scripts").join(name.as_str());
            if let Some(found) = look(&Arc::new(shared), path, &name).map_err(unreadable)? {
                return Ok(found);
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(unreadable(e)),
    }
    let (name, text) =
        bundled::find(name.as_str()).ok_or_else(|| HookError::Missing(name.to_string()))?;
    Ok(Found::Script(Source {
        name: name.to_owned(),
        key: name.into(),
        stamp: Stamp::Bundled,
        read: Box::new(|| Ok(text.to_owned())),
    }))
}

fn look(dir: &Arc<Dir>, path: PathBuf, name: &Name) -> io::Result<Option<Found>> {
    let about = match dir.metadata(name.as_str()) {
        Ok(about) if about.is_file() => about,
        Ok(_) => return Err(io::Error::other("it is not a regular file")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if !name.as_str().ends_with(".rhai") {
        return Ok(Some(Found::Executable(path)));
    }
    let (dir, file) = (dir.clone(), name.clone());
    Ok(Some(Found::Script(Source {
        name: name.to_string(),
        key: path,
        stamp: Stamp::File {
            inode: about.ino(),
            len: about.len(),
            changed: (about.ctime(), about.ctime_nsec()),
        },
        read: Box::new(move || file::read_text(&dir, file.as_str(), limits::MAX_SOURCE)),
    })))
}

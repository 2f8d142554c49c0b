//! Where the script that a line of m2y.config names is: in the folder, in `ROOT/scripts/`, or among
//! the bundled ones.

use std::{io, path::PathBuf, sync::Arc};

use cap_std::fs::Dir;

use super::{
    bundled, engine,
    report::HookError,
    script::{Part, Source},
};
use crate::{
    error::printable,
    root::{
        Root,
        file::{self, Stamp},
        folder::Folder,
        name::Name,
        settings::Programs,
    },
};

/// What a line of m2y.config names.
pub enum Hook {
    /// A script, to be run inside.
    Script(Source),
    /// A program, to be started.
    Program(PathBuf),
}

/// Functions for the scripts beside them; those of `ROOT/scripts/` are for all.
pub const SHARED: &str = "lib.rhai";

/// Whether a line names a program: whatever is not a script is one.
pub fn is_program(line: &str) -> bool {
    !line.ends_with(".rhai")
}

/// Where the script of a line is, in a word for people; `None` if it is missing.
pub fn place(root: &Root, folder: &Folder, line: &str) -> Option<&'static str> {
    let is_script = !is_program(line);
    Name::script(line).ok()?;
    if folder.path_of(line).is_file() {
        return Some(if is_script {
            "folder"
        } else {
            "folder, a program"
        });
    }
    if root.path().join("scripts").join(line).is_file() {
        return Some(if is_script {
            "scripts/"
        } else {
            "scripts/, a program"
        });
    }
    bundled::find(line).map(|_| "bundled")
}

/// Finds what a line of m2y.config names. The search continues only if there is nothing of that
/// name: what is there but cannot be read must not make way for a different one.
pub fn find(
    root: &Root,
    folder: &Folder,
    programs: &Programs,
    line: &str,
) -> Result<Hook, HookError> {
    let name = Name::script(line).map_err(|source| HookError::Name {
        line: printable(line, 80),
        source,
    })?;
    let unreadable = |source: io::Error| HookError::Unreadable {
        script: name.to_string(),
        source,
    };
    let is_script = !is_program(line);
    let shared = match root.dir().open_dir("scripts") {
        Ok(dir) => Some(Arc::new(dir)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(unreadable(e)),
    };
    let in_folder = Stamp::of(folder.dir(), line).map_err(unreadable)?;
    let in_shared = match &shared {
        Some(dir) if in_folder.is_none() => Stamp::of(dir, line).map_err(unreadable)?,
        _ => None,
    };
    let (path, dir, stamp) = match (in_folder, in_shared, &shared) {
        (Some(stamp), ..) => (folder.path_of(line), folder.dir(), stamp),
        (None, Some(stamp), Some(dir)) => (root.path().join("scripts").join(line), dir, stamp),
        _ => return bundled(&name),
    };
    if !is_script {
        let is_allowed = match in_folder {
            Some(_) => programs.in_folder_of(folder.user().name()),
            None => *programs != Programs::None,
        };
        return is_allowed
            .then_some(Hook::Program(path))
            .ok_or_else(|| HookError::Forbidden {
                script: name.to_string(),
            });
    }
    let mut parts = libraries(folder, shared.as_ref()).map_err(unreadable)?;
    parts.push(part(line, line, stamp, dir));
    // A script of the root means something else beside a different lib.rhai.
    let key = match parts.len() {
        1 => path,
        _ => folder
            .path()
            .join(path.strip_prefix(root.path()).unwrap_or(&path)),
    };
    Ok(Hook::Script(Source {
        name: line.to_owned(),
        key,
        parts,
    }))
}

/// The script of this name that comes with the program.
fn bundled(line: &Name) -> Result<Hook, HookError> {
    let found = bundled::find(line.as_str());
    let (name, text) = found.ok_or_else(|| HookError::Missing(line.to_string()))?;
    let part = Part {
        name: name.to_owned(),
        stamp: None,
        read: Box::new(|| Ok(text.to_owned())),
    };
    Ok(Hook::Script(Source {
        name: name.to_owned(),
        key: name.into(),
        parts: vec![part],
    }))
}

/// What precedes every script of a folder: the functions for all, and its own.
fn libraries(folder: &Folder, shared: Option<&Arc<Dir>>) -> io::Result<Vec<Part>> {
    let mut parts = Vec::with_capacity(3);
    if let Some(dir) = shared
        && let Some(stamp) = Stamp::of(dir, SHARED)?
    {
        parts.push(part("scripts/lib.rhai", SHARED, stamp, dir));
    }
    if let Some(stamp) = Stamp::of(folder.dir(), SHARED)? {
        parts.push(part(SHARED, SHARED, stamp, folder.dir()));
    }
    Ok(parts)
}

fn part(name: &str, file: &str, stamp: Stamp, dir: &Arc<Dir>) -> Part {
    let (dir, file) = (dir.clone(), file.to_owned());
    Part {
        name: name.to_owned(),
        stamp: Some(stamp),
        read: Box::new(move || file::read_text(&dir, file, engine::MAX_SOURCE)),
    }
}

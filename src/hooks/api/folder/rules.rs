//! Which names and paths a script may use, and what it is told if it may not.

use std::io::{self, Read};

use rhai::EvalAltResult;

use crate::{
    event::Kind,
    hooks::{
        api::{
            function::{Made, fail, shown},
            text,
        },
        transaction::files::split,
    },
    root::{config::Config, file, folder::CONFIG},
    store::{Contents, Reader},
};

/// The longest path of a script, in bytes.
const MAX_PATH: usize = 1_024;

/// Directories nested in each other, with the file in the last one.
const MAX_DEPTH: usize = 16;

/// The endings of files that m2y itself writes and reads.
const OWN: [&str; 5] = [".meta", ".data", ".left", ".done", ".failed"];

/// What is said if a directory is missing.
pub(super) const NO_DIRECTORY: &str = "is not a directory: create it with folder.mkdir()";

/// A path as a script wrote it: plain names, none hidden, with one / between them.
pub(super) fn path_of(call: &str, path: &str) -> Made<String> {
    if path.len() > MAX_PATH || path.split('/').count() > MAX_DEPTH {
        return Err(refuse(call, path, "is too long, or too deep"));
    }
    for name in path.split('/') {
        if matches!(name, "" | "." | "..") {
            let why = "cannot be a path: use plain names with one / between them";
            return Err(refuse(call, path, why));
        }
        file::check_name(name).map_err(|why| refuse(call, path, why))?;
    }
    Ok(path.to_owned())
}

/// A path without the ending of its name.
pub(super) fn stem_of(path: &str) -> String {
    match split(path) {
        ("", name) => text::split(name).0.to_owned(),
        (directory, name) => format!("{directory}/{}", text::split(name).0),
    }
}

/// The bytes of a file that is to be read as text.
pub(super) fn read_all(contents: &dyn Contents, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Reader::new(contents)
        .take(most + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(file::too_large(most)),
        false => Ok(bytes),
    }
}

pub(super) fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn refuse(call: &str, name: &str, why: &str) -> Box<EvalAltResult> {
    fail(format!("{call}: {} {why}", shown(name)))
}

pub(super) fn cannot(call: &str, name: &str, error: &io::Error) -> Box<EvalAltResult> {
    fail(format!("{call}: {} cannot be used: {error}", shown(name)))
}

/// The ending of a file that m2y itself writes and reads.
pub(super) fn ending_of(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    OWN.into_iter().find(|ending| name.ends_with(ending))
}

/// Whether scripts may change a file of that name: none may change what decides.
pub(super) fn changeable(call: &str, path: &str, config: &Config) -> Made<()> {
    path_of(call, path)?;
    // A file system may ignore the case of letters; in directories it is not a hook.
    let (directory, name) = split(path);
    let is_hook = || {
        Kind::ALL.iter().any(|kind| {
            let scripts = config.scripts(kind.section());
            scripts.iter().any(|hook| hook.eq_ignore_ascii_case(name))
        })
    };
    if name.eq_ignore_ascii_case(CONFIG) || name.to_ascii_lowercase().ends_with(".rhai") {
        return Err(refuse(call, name, "cannot be changed by a script"));
    }
    if directory.is_empty() && is_hook() {
        return Err(refuse(
            call,
            name,
            "is a hook in m2y.config and cannot be changed by a script",
        ));
    }
    Ok(())
}

/// Whether a file may get that name; `from` is the one that it has.
pub(super) fn new_name(call: &str, from: Option<&str>, name: &str, config: &Config) -> Made<()> {
    changeable(call, name, config)?;
    if name.chars().any(char::is_control) {
        return Err(refuse(
            call,
            name,
            "holds control characters: make a name with text.file_name()",
        ));
    }
    // A script that could write a .meta could have the user send any file.
    match ending_of(name) {
        Some(ending) if from.and_then(ending_of) != Some(ending) => Err(refuse(
            call,
            name,
            "has an ending reserved by m2y: choose a different one",
        )),
        _ => Ok(()),
    }
}

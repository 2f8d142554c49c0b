//! Where it is recorded what became of a message that was sent: the log of the folder, if its `.meta` is
//! in one.

use std::{
    io,
    path::{Path, PathBuf},
};

use cap_std::fs::Dir;

use crate::{
    error::Error,
    meta::{Meta, TransferId},
    root::{
        file,
        folder::CONFIG,
        message_log::{self, LoggedMessage, SentState},
    },
};

/// The log beside a `.meta`.
pub fn path(meta: &Path) -> PathBuf {
    meta.with_file_name(message_log::FILE)
}

/// Adds a message and what became of it, if the directory is a folder; says whether it is.
pub fn add(dir: &Dir, meta: &Meta, state: SentState, at: &Path) -> Result<bool, Error> {
    let failed = |e: io::Error| Error::io("write", &path(at), &e);
    let Some(message) = LoggedMessage::of(meta) else {
        return Ok(false);
    };
    if !file::exists(dir, CONFIG).map_err(failed)? {
        return Ok(false);
    }
    let lines = format!("{}{}", message.line(), state.line(message.id));
    // Before its document is gone.
    let file = message_log::append(dir, &lines).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    Ok(true)
}

/// Adds what became of a message that is in the log.
pub fn state(dir: &Dir, id: TransferId, state: &SentState, at: &Path) -> Result<(), Error> {
    let added = message_log::append(dir, &state.line(id));
    added
        .map(drop)
        .map_err(|e| Error::io("write", &path(at), &e))
}

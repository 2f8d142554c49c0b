//! The document of a file that waits at a relay: what becomes of it.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};

use super::{
    message_record,
    send_job::{LEFT, as_delivered},
};
use crate::{
    error::{Code, Error},
    meta::{self, Meta, TransferId},
    root::{
        file,
        folder::CONFIG,
        message_log::{self, SentState},
    },
};

/// How it ended.
pub enum End<'a> {
    /// The receiver has it, and made this of the document, or did not say what.
    Delivered(Option<&'a Meta>),
    /// The receiver does not accept it, or it was taken back.
    Failed(&'a Error),
    /// It has to be sent again.
    Again,
}

/// Turns the `.left` of a transfer into a `.done`, a `.failed` or a `.meta`; `path` is that of its
/// `.meta`. Returns the path of the new document; `None` if there is no such `.left`. It waits for a
/// disk.
pub fn end(path: &Path, id: TransferId, end: &End<'_>) -> Result<Option<PathBuf>, Error> {
    let at = |e: io::Error| Error::io("write", path, &e);
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let parent = path.parent();
    let (Some(stem), Some(parent)) = (stem, parent) else {
        return Ok(None);
    };
    let dir = match Dir::open_ambient_dir(parent, ambient_authority()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        dir => dir.map_err(at)?,
    };
    if path.file_name() == Some(OsStr::new(message_log::FILE)) {
        return end_message(&dir, path, id, end).map(|()| Some(path.to_owned()));
    }
    let left = format!("{stem}.{LEFT}");
    let text = match file::read(&dir, &left, meta::MAX_LEN) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(at)?,
    };
    let mut before = Meta::from_file(&text).map_err(|e| {
        let sentence = format!("cannot read {}: {e}", path.with_extension(LEFT).display());
        Error::new(Code::Failed, sentence)
    })?;
    // Another file may have been left by that name since.
    if before.id != Some(id) {
        return Ok(None);
    }
    if before.is_message()
        && !matches!(end, End::Again)
        && file::exists(&dir, CONFIG).map_err(at)?
    {
        end_message(&dir, path, id, end)?;
        if matches!(end, End::Delivered(_)) {
            dir.remove_file(&left).map_err(at)?;
            return Ok(Some(message_record::path(path)));
        }
    }
    let (ending, after) = match end {
        End::Delivered(meta) => ("done", as_delivered(meta.unwrap_or(&before), &before)),
        End::Failed(error) => {
            before.error.clone_from(&error.sentence);
            ("failed", before)
        }
        End::Again => {
            let again = format!("{stem}.meta");
            return match file::rename_to_free(&dir, &left, &dir, &again) {
                // It is being sent again already.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    dir.remove_file(&left).map_err(at)?;
                    Ok(Some(path.to_owned()))
                }
                renamed => renamed.map(|()| Some(path.to_owned())).map_err(at),
            };
        }
    };
    let new = format!("{stem}.{ending}");
    file::replace(&dir, &new, 0o644, &after.to_file()).map_err(at)?;
    dir.remove_file(&left).map_err(at)?;
    Ok(Some(path.with_file_name(new)))
}

/// Adds to the log of a folder what became of a message. The next chat sends again what has to be.
fn end_message(dir: &Dir, path: &Path, id: TransferId, end: &End<'_>) -> Result<(), Error> {
    let state = match end {
        End::Delivered(_) => SentState::Delivered,
        End::Failed(error) => SentState::Failed(error.sentence.clone()),
        End::Again => SentState::Again,
    };
    message_record::state(dir, id, &state, path)
}

//! Which transfers a folder has had, so that a retry after a lost ACK is not stored
//! and does not make hooks run a second time, wherever the file has gone since.
//!
//! Each is a file `.delivered/FROM-ID` in the folder: the stem that the file got, and
//! its meta. It is written after the file has its name, so it never speaks of a file
//! that is not safe; a server that ends between the two finds the file by its name.

use std::{
    io,
    time::{Duration, SystemTime},
};

use cap_std::fs::Dir;

use crate::{
    meta::{self, Meta, PENDING_HOOK, TransferId},
    root::{file, name::Name},
};

const DIR: &str = ".delivered";

/// How long a transfer is remembered: nobody retries for longer.
const KEPT: Duration = Duration::from_secs(90 * 86_400);

/// The stem and the meta of a transfer that was delivered before.
pub fn find(folder: &Dir, from: &Name, id: TransferId) -> io::Result<Option<(String, Meta)>> {
    let limit = meta::MAX_LEN + 1_024;
    let text = match file::read_text(folder, format!("{DIR}/{from}-{id}"), limit) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(text.split_once('\n').and_then(|(stem, meta)| {
        let meta = Meta::from_file(meta.as_bytes()).ok()?;
        Some((stem.to_owned(), meta))
    }))
}

/// Remembers a transfer that was delivered.
pub fn note(folder: &Dir, from: &Name, id: TransferId, stem: &str, meta: &Meta) -> io::Result<()> {
    let dir = match folder.open_dir(DIR) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            folder.create_dir_all(DIR)?;
            file::sync(folder)?;
            folder.open_dir(DIR)?
        }
        opened => opened?,
    };
    let mut meta = meta.clone();
    // Whether hooks have still to run is for the .meta to say; without it they cannot.
    meta.extra.remove(PENDING_HOOK);
    let mut text = format!("{stem}\n").into_bytes();
    text.extend(meta.to_file());
    file::replace(&dir, &format!("{from}-{id}"), 0o600, &text)
}

/// Forgets what is older than 90 days.
pub fn forget(folder: &Dir) -> io::Result<()> {
    let before = SystemTime::now()
        .checked_sub(KEPT)
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let entries = match folder.read_dir(DIR) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.metadata()?.modified()?.into_std() < before {
            entry.remove_file()?;
        }
    }
    Ok(())
}

//! Removes what nobody comes back for.

use std::{io, time::SystemTime};

use super::{ContentPath, Store};
use crate::root::{file, folder::Folder, meta_file};

/// Removes hidden files of m2y to which nobody has written since `before`, or only counts
/// them; returns how many.
pub fn partials(
    store: &dyn Store,
    folder: &Folder,
    before: SystemTime,
    removes: bool,
) -> io::Result<usize> {
    let temporary = |name: &str| name.starts_with('.') && name.ends_with(file::TEMPORARY);
    let documents = file::remove_old(folder.dir(), before, temporary, removes)?;
    Ok(documents + store.sweep(before, removes)?)
}

/// Removes what is left of files that were refused before `before`, or only counts it: each a
/// `.meta` from a contact with an `error`, and without contents; returns how many.
pub fn refused(
    store: &dyn Store,
    folder: &Folder,
    before: SystemTime,
    removes: bool,
) -> io::Result<usize> {
    let (dir, owner) = (folder.dir(), folder.user().name().as_str());
    let mut swept = 0;
    for entry in dir.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".meta")) else {
            continue;
        };
        let about = entry.metadata()?;
        let old = about.is_file() && about.modified()?.into_std() < before;
        let contents = ContentPath::parse(&format!("{stem}.data"));
        if !old || !contents.is_ok_and(|path| matches!(store.holds(&path), Ok(false))) {
            continue;
        }
        let refused = meta_file::of_stem(dir, stem)
            .is_some_and(|meta| meta.from != owner && !meta.error.is_empty());
        if refused {
            if removes {
                entry.remove_file()?;
            }
            swept += 1;
        }
    }
    Ok(swept)
}

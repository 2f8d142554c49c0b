//! What a server does first: finish what an earlier one left unfinished.

use std::{io, time::SystemTime};

use rusqlite::Connection;
use tracing::{error, info};

use super::{
    partial::{hidden_name, restore_meta},
    under_way::UnderWay,
};
use crate::{
    event::MESSAGE_STEM,
    hooks::dispatch::task_of_received,
    journal::{
        self, Journal, JournalError,
        delivered::{self, Key, Stage, Transfer},
    },
    meta::{Meta, PENDING_HOOK},
    root::{Root, RootError, destination::Destination, folder::Folder, meta_file, name::Name},
    store::{
        ContentPath, Stores, Target,
        placement::{self, Source},
        received::{self, Placed},
    },
};

/// Does what a server that stopped midway has left to do: complete files get their final names, and
/// hooks that wait for one get a task in the journal.
///
/// Call it before anything else looks into the journal.
pub fn recover(journal: &Journal, root: &Root, stores: &Stores) -> Result<(), JournalError> {
    let db = journal.reader()?;
    let (mut settled, mut tasks) = (Vec::new(), Vec::new());
    for transfer in delivered::open(&db)? {
        match complete(root, &transfer, stores) {
            Ok(()) => {
                if transfer.stage == Stage::Owed {
                    tasks.push(task_of_received(&transfer));
                }
                settled.push(transfer.key);
            }
            Err(error) => error!(
                user = transfer.key.user, folder = transfer.key.folder, stem = transfer.stem,
                id = %transfer.key.id,
                "cannot rename the completed file: {error}"
            ),
        }
    }
    let written = journal.quietly(false, move |db| {
        journal::insert(db, &tasks)?;
        settled
            .iter()
            .try_for_each(|key| delivered::complete(db, key).map(drop))
    });
    written.wait()
}

/// Removes the `.meta` of files that were on their way when an earlier server stopped, and that
/// nothing else records: the next attempt writes its own. Those under way stay, and so do those of
/// messages since this server has `begun`; returns how many there were.
pub fn sweep(
    journal: &Journal,
    root: &Root,
    stores: &Stores,
    under_way: &UnderWay,
    begun: SystemTime,
) -> Result<usize, JournalError> {
    let db = journal.reader()?;
    let mut swept = 0;
    for folder in root.folders().into_iter().flatten().flatten() {
        let left = left_behind(&db, &folder, stores, under_way, begun);
        for name in left.unwrap_or_default() {
            swept += usize::from(remove(&folder, stores, &name).is_ok());
        }
    }
    Ok(swept)
}

/// Removes such a `.meta`, or hides it if its file has its path.
fn remove(folder: &Folder, stores: &Stores, name: &str) -> io::Result<()> {
    let (dir, store) = (folder.dir(), stores.of(folder));
    let meta = meta_file::read(dir, name);
    let destination = meta.as_ref().and_then(Destination::open);
    match (meta, destination, name.strip_suffix(".meta")) {
        (Some(meta), Some(to), Some(stem)) if to.keeps_meta => {
            match placement::find(&*store, &to, meta.filesize) {
                Some(path) => hide(folder, stem, meta, path.to_string()),
                None => dir.remove_file(name),
            }
        }
        _ => dir.remove_file(name),
    }
}

/// Hides the `.meta` of a file that has its path.
fn hide(folder: &Folder, stem: &str, meta: Meta, path: String) -> io::Result<()> {
    let stem = stem.to_owned();
    let hidden = received::hide(folder, &[Placed { stem, meta, path }]);
    hidden.into_iter().collect()
}

/// The names of such `.meta` in one folder.
fn left_behind(
    db: &Connection,
    folder: &Folder,
    stores: &Stores,
    under_way: &UnderWay,
    begun: SystemTime,
) -> io::Result<Vec<String>> {
    let (dir, owner) = (folder.dir(), folder.user().name().as_str());
    let store = stores.of(folder);
    let mut left = Vec::new();
    // Whether older ones were delivered is no longer known.
    let oldest = SystemTime::now().checked_sub(delivered::KEPT / 2);
    for entry in dir.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((name, stem)) = name
            .to_str()
            .and_then(|name| Some((name, name.strip_suffix(".meta")?)))
        else {
            continue;
        };
        if stem.starts_with(MESSAGE_STEM) {
            // A server was killed while a program read it. One that is read now is newer.
            if entry.metadata()?.modified()?.into_std() < begun {
                left.push(name.to_owned());
            }
            continue;
        }
        let contents = ContentPath::parse(&format!("{stem}.data"));
        if !contents.is_ok_and(|path| matches!(store.holds(&path), Ok(false))) {
            continue;
        }
        let about = entry.metadata()?;
        let written = about.modified()?.into_std();
        if oldest.is_some_and(|oldest| written < oldest) {
            continue;
        }
        if about.is_file() && about.len() == 0 {
            // It was created, but never written. A transfer of this server tries a stem before it
            // creates anything.
            let of_contact = stem.match_indices('_').any(|(end, _)| {
                let from = stem.get(..end).and_then(|from| Name::user(from).ok());
                from.is_some_and(|from| folder.user().contact(&from).is_ok())
            });
            if of_contact
                && !under_way.has_stem(owner, folder.name().as_str(), stem)
                && dir.symlink_metadata(name).is_ok_and(|now| now.len() == 0)
            {
                left.push(name.to_owned());
            }
            continue;
        }
        let Some(meta) = meta_file::read(dir, name) else {
            continue;
        };
        let (Some(id), true) = (meta.id, meta.error.is_empty() && meta.from != owner) else {
            continue;
        };
        let is_placed = !meta.extra.contains_key(PENDING_HOOK)
            && Destination::open(&meta)
                .is_some_and(|to| placement::is_there(&*store, &to, meta.filesize));
        let key = Key {
            user: owner.to_owned(),
            folder: folder.name().to_string(),
            from: meta.from,
            id,
        };
        // A transfer of this server is under way before it has a .meta, and afterwards is known, or
        // has left an error there. If it is known, somebody may have removed the file, unless that
        // has just got its path.
        let is_left = |known: Option<Transfer>| match known {
            None => true,
            Some(known) => known.stem == stem && is_placed && known.stage == Stage::Delivered,
        };
        if !under_way.has(&key)
            && delivered::find(db, &key).is_ok_and(is_left)
            && meta_file::read(dir, name).is_some_and(|meta| meta.error.is_empty())
        {
            left.push(name.to_owned());
        }
    }
    Ok(left)
}

fn complete(root: &Root, transfer: &Transfer, stores: &Stores) -> io::Result<()> {
    let Transfer { key, stem, .. } = transfer;
    let folder = folder_of(root, key).map_err(io::Error::other)?;
    let (store, hidden) = (stores.of(&folder), hidden_name(key)?);
    let path = ContentPath::parse(&format!("{stem}.data"))?;
    let meta = meta_file::of_stem(folder.dir(), stem);
    let destination = meta.as_ref().and_then(Destination::open);
    let mut got = None;
    // Without it the file has its name already, or had it before a hook took it away.
    if store.held(&hidden)?.is_some() {
        let placed = match (&destination, transfer.stage) {
            (Some(destination), Stage::Whole) => {
                placement::place(&*store, &folder, Source::Partial(&hidden), destination).ok()
            }
            _ => None,
        };
        if placed.is_none() {
            // If its path is taken meanwhile, it is kept as it is.
            store.publish(&hidden, &Target::free(&path))?;
        }
        store.settle_names(placed.as_slice())?;
        got = placed.map(|path| path.to_string());
        info!(
            from = key.from, to = key.user, folder = key.folder, %stem, id = %key.id,
            "received, before the server ended"
        );
    }
    restore_meta(&folder, &*store, transfer)?;
    if let (Some(destination), Some(meta)) = (destination, meta)
        && !store.holds(&path)?
        // A hook may have renamed it, beside the same .meta.
        && (transfer.stage == Stage::Whole || placement::is_there(&*store, &destination, meta.filesize))
    {
        let found = || placement::find(&*store, &destination, meta.filesize);
        let path = got.or_else(|| found().map(|path| path.to_string()));
        match path {
            Some(path) if destination.keeps_meta => hide(&folder, stem, meta, path)?,
            _ => folder.dir().remove_file(format!("{stem}.meta"))?,
        }
    }
    Ok(())
}

fn folder_of(root: &Root, key: &Key) -> Result<Folder, RootError> {
    let user = root.user(&Name::user(&key.user)?)?;
    user.folder(&Name::folder(&key.folder)?)
}

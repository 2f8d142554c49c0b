//! What is done outside the journal once an event has come to a decision: changes of files, lines
//! of the inbox.
//!
//! The list of them is in the journal before any is made, and leaves it when all are safe. If a
//! server stops in between, the next one makes them again: each has the same result however often
//! it is made.

use std::{
    collections::BTreeSet,
    io,
    time::{Duration, UNIX_EPOCH},
};

use tracing::warn;

use super::{
    change::Change,
    folder_files::{Files, Identity},
    inbox::Inboxes,
    received::put_away,
    self_changes::SelfChanges,
    transaction::files::Place,
};
use crate::{
    meta::{Meta, PENDING_PUT},
    root::{destination::Destination, file, folder::Folder, meta_file, name::Name, user::User},
    store::{
        ContentPath, Stores,
        flush::flush_file_system,
        placement::{self, Source},
        received::{Placed, hide},
        sweep,
    },
};

/// Bytes of a `.meta` that is written in place: they go to the disk as one.
const PAGE: usize = 4_096;

/// What came of changes.
#[derive(Default)]
pub struct Made {
    /// For each decision the path that its file got, if its sender wants one; that is safe.
    pub paths: Vec<Option<String>>,
    /// Those that could not be made.
    pub failed: Vec<Change>,
    /// Why the first of them could not.
    pub error: Option<io::Error>,
}

/// What became of a change.
enum Step {
    Done,
    Put(Box<Put>),
    /// Somebody has taken the name that a file was to get.
    Stays,
}

/// A file that got the path that its sender wants.
struct Put {
    folder: Folder,
    stem: String,
    path: ContentPath,
    /// What its `.meta` says, if that is kept.
    meta: Option<Meta>,
    change: Change,
}

/// Makes changes. Clones are the same one.
#[derive(Clone)]
pub struct Changer {
    stores: Stores,
    inboxes: Inboxes,
    self_changes: SelfChanges,
}

/// Whether changes are made for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// They are.
    First,
    /// Some of them, or all, may have been made before a server stopped.
    Again,
}

impl Changer {
    /// The inboxes.
    pub(super) fn inboxes(&self) -> &Inboxes {
        &self.inboxes
    }

    /// Makes changes in these stores and inboxes.
    pub fn new(stores: &Stores, inboxes: &Inboxes, self_changes: &SelfChanges) -> Self {
        Self {
            stores: stores.clone(),
            inboxes: inboxes.clone(),
            self_changes: self_changes.clone(),
        }
    }

    /// Makes the changes of decisions about folders of a user, in their order. They survive a
    /// loss of power after [`Self::flush`].
    pub fn make(&self, user: &User, decisions: &[&[Change]], pass: Pass) -> Made {
        let mut put: Vec<(usize, Put)> = Vec::new();
        let mut made = Made {
            paths: vec![None; decisions.len()],
            ..Made::default()
        };
        for (at, changes) in decisions.iter().enumerate() {
            // Places of changes that failed: what follows them there waits with them. And those of
            // files that stay where they are: what was to be done to these is void.
            let (mut failed, mut stayed) = (BTreeSet::new(), BTreeSet::new());
            for change in *changes {
                let places = change.places();
                if places.iter().any(|place| stayed.contains(place)) {
                    stayed.extend(places);
                    continue;
                }
                if places.iter().any(|place| failed.contains(place)) {
                    failed.extend(places);
                    made.failed.push(change.clone());
                    continue;
                }
                match self.make_one(user, change, pass) {
                    Ok(Step::Done) => {}
                    Ok(Step::Put(got)) => put.push((at, *got)),
                    Ok(Step::Stays) => {
                        stayed.extend(places.iter().map(meta_of));
                        stayed.extend(places);
                    }
                    Err(error) => {
                        failed.extend(places);
                        made.failed.push(change.clone());
                        made.error.get_or_insert(error);
                    }
                }
            }
        }
        while let Some((_, first)) = put.first() {
            let folder = first.folder.clone();
            let is_here = |one: &Put| one.folder.path() == folder.path();
            let (here, elsewhere): (Vec<_>, Vec<_>) = std::mem::take(&mut put)
                .into_iter()
                .partition(|(_, one)| is_here(one));
            put = elsewhere;
            let got: Vec<ContentPath> = here.iter().map(|(_, one)| one.path.clone()).collect();
            if let Err(error) = self.stores.of(&folder).settle_names(&got) {
                made.failed
                    .extend(here.into_iter().map(|(_, one)| one.change));
                made.error.get_or_insert(error);
                continue;
            }
            let placed = here.iter().filter_map(|(_, one)| {
                Some(Placed {
                    stem: one.stem.clone(),
                    meta: one.meta.clone()?,
                    path: one.path.to_string(),
                })
            });
            let placed: Vec<Placed> = placed.collect();
            if !placed.is_empty() {
                let hidden = hide(&folder, &placed).into_iter();
                for error in hidden.filter_map(Result::err) {
                    warn!("a .meta stays in sight: {error}");
                }
            }
            for (
                at,
                Put {
                    path, stem, meta, ..
                },
            ) in here
            {
                if meta.is_none() {
                    // It said where the file goes until that was safe.
                    let _ = folder.dir().remove_file(format!("{stem}.meta"));
                }
                if let Some(place) = made.paths.get_mut(at) {
                    *place = Some(path.to_string());
                }
            }
        }
        made
    }

    fn make_one(&self, user: &User, change: &Change, pass: Pass) -> io::Result<Step> {
        let open = |name: &Name| user.folder(name).map_err(io::Error::other);
        let files = |name: &Name| Ok::<_, io::Error>(Files::new(&open(name)?, &self.stores));
        // What was made before, or is a different file now, is left alone.
        let is_due = |place: &Place, was: Option<Identity>| match pass {
            Pass::First => Ok(true),
            Pass::Again => Ok::<_, io::Error>(files(&place.0)?.identity(&place.1)? == was),
        };
        match change {
            Change::MakeDir((folder, path)) => files(folder)?.make_dir(path)?,
            Change::Remove { place, was } => {
                if is_due(place, Some(*was))? {
                    self.remove(&open(&place.0)?, &place.1)?;
                }
            }
            Change::Reject((folder, name)) => self.remove(&open(folder)?, name)?,
            Change::Move {
                from,
                to,
                was,
                replaces,
            } => {
                let is_due = is_due(from, Some(*was))?;
                if is_due && !self.move_file((user, from), to, *replaces)? {
                    return Ok(Step::Stays);
                }
            }
            Change::Write { place, text, was } => {
                let folder = open(&place.0)?;
                let files = Files::new(&folder, &self.stores);
                // A loss of power may have kept the name only.
                let is_empty =
                    || Ok::<_, io::Error>(files.stat(&place.1)?.is_some_and(|s| s.size == 0));
                if is_due(place, *was)? || (was.is_none() && is_empty()?) {
                    files.write(&place.1, text.as_bytes())?;
                    self.self_changes.note(&folder, &place.1);
                }
            }
            Change::Append { place, len, text } => {
                let folder = open(&place.0)?;
                let files = Files::new(&folder, &self.stores);
                let rest = match pass {
                    Pass::First => text.as_bytes(),
                    Pass::Again => missing(&files, &place.1, *len, text.as_bytes())?,
                };
                if !rest.is_empty() {
                    files.append(&place.1, rest)?;
                }
                self.self_changes.note(&folder, &place.1);
            }
            Change::Meta { place, text } => self.write_meta(&open(&place.0)?, &place.1, text)?,
            Change::Hide((folder, stem)) => self.hide(&open(folder)?, stem)?,
            Change::Put { place, text } => {
                let put = self.put(&open(&place.0)?, &place.1, text, change)?;
                return Ok(put.map_or(Step::Done, |put| Step::Put(Box::new(put))));
            }
            Change::Tell(lines) => {
                if pass == Pass::First || !self.inboxes.has(user, lines)? {
                    self.inboxes.write(user, lines)?;
                }
            }
            Change::Reset(folder) => {
                meta_file::reset_failed(open(folder)?.dir(), user.name().as_str())?;
            }
            Change::Sweep { folder, before } => {
                let folder = open(folder)?;
                let store = self.stores.of(&folder);
                let before = UNIX_EPOCH + Duration::from_secs(*before);
                sweep::partials(&*store, &folder, before, true)?;
                sweep::refused(&*store, &folder, before, true)?;
            }
        }
        Ok(Step::Done)
    }

    fn remove(&self, folder: &Folder, name: &str) -> io::Result<()> {
        match Files::new(folder, &self.stores).remove(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        self.self_changes.note(folder, name);
        Ok(())
    }

    /// Puts a file and its `.meta` out of sight, if both are not there already.
    fn hide(&self, folder: &Folder, stem: &str) -> io::Result<()> {
        let store = self.stores.of(folder);
        match put_away(&*store, &self.self_changes, folder, stem) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            hidden => hidden,
        }
    }

    /// Moves a file; `false` if somebody has taken its name meanwhile, and it stays.
    fn move_file(
        &self,
        (user, from): (&User, &Place),
        to: &Place,
        replaces: Option<Identity>,
    ) -> io::Result<bool> {
        let open = |name: &Name| user.folder(name).map_err(io::Error::other);
        let (here, there) = (open(&from.0)?, open(&to.0)?);
        let files = Files::new(&here, &self.stores);
        let target = Files::new(&there, &self.stores);
        if replaces.is_some() && target.identity(&to.1)? == replaces {
            target.remove(&to.1)?;
        }
        match files.rename(&from.1, &target, &to.1) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let (user, folder) = (user.name(), here.name());
                let (from, to) = (&from.1, &to.1);
                warn!(%user, %folder, "{from} keeps its name: {to} exists");
                return Ok(false);
            }
            renamed => renamed?,
        }
        self.self_changes.note(&here, &from.1);
        self.self_changes.note(&there, &to.1);
        Ok(true)
    }

    fn write_meta(&self, folder: &Folder, stem: &str, text: &str) -> io::Result<()> {
        let (dir, name) = (folder.dir(), format!("{stem}.meta"));
        let contents = ContentPath::parse(&format!("{stem}.data"))?;
        // A hook or a person may have removed the file, and its .meta with it.
        if !file::exists(dir, &name)? && !self.stores.of(folder).holds(&contents)? {
            return Ok(());
        }
        match text.len() <= PAGE {
            // A file in its place would free an inode, and for minutes ext4 searches past each of
            // those whenever it creates a file. Until it is safe the journal has the text.
            true => file::overwrite_unflushed(dir, &name, 0o644, text.as_bytes()),
            false => file::replace_unflushed(dir, &name, 0o644, text.as_bytes()),
        }
    }

    /// Moves a file to the path that its sender wants. If that is taken now, the file stays as one
    /// that arrived: its hooks have run.
    fn put(
        &self,
        folder: &Folder,
        stem: &str,
        text: &str,
        change: &Change,
    ) -> io::Result<Option<Put>> {
        let (store, data) = (self.stores.of(folder), format!("{stem}.data"));
        let meta = Meta::from_file(text.as_bytes()).map_err(io::Error::other)?;
        let Some(destination) = Destination::open(&meta) else {
            return Ok(None);
        };
        let arrived = ContentPath::parse(&data)?;
        let got = |path| Put {
            folder: folder.clone(),
            stem: stem.to_owned(),
            path,
            meta: destination.keeps_meta.then(|| meta.clone()),
            change: change.clone(),
        };
        let there = store.stat(&arrived)?;
        // One of a different size is somebody else's.
        if there.is_none_or(|stat| Some(stat.size) != meta.filesize) {
            // It has its path already, unless somebody removed it.
            let path = placement::find(&*store, &destination, meta.filesize);
            return Ok(path.map(got));
        }
        self.arrives(folder, destination.path.components());
        match placement::place(&*store, folder, Source::Arrived(&arrived), &destination) {
            Ok(path) => {
                self.self_changes.note(folder, &data);
                if let Some(path) = path.tree_path().filter(|path| **path != destination.path) {
                    self.arrives(folder, path.components());
                }
                Ok(Some(got(path)))
            }
            Err(error) => {
                let (user, path) = (folder.user().name(), destination.path.join());
                warn!(%user, folder = %folder.name(), %path, "stays as {data}: {error}");
                let mut meta = meta;
                meta.extra.remove(PENDING_PUT);
                let name = format!("{stem}.meta");
                file::replace(folder.dir(), &name, 0o644, &meta.to_file())?;
                Ok(None)
            }
        }
    }

    /// Notes that a file gets this path, which is news.
    fn arrives(&self, folder: &Folder, path: &[String]) {
        if let (Ok(config), [name]) = (folder.config(), path) {
            self.self_changes.arrives(folder, &config, name);
        }
    }

    /// Returns when changes of a user's folders that were made survive a loss of power.
    pub fn flush<'a>(
        &self,
        user: &User,
        changes: impl Iterator<Item = &'a Change>,
    ) -> io::Result<()> {
        let mut names: Vec<Name> = Vec::new();
        let mut tells = false;
        for change in changes {
            tells = tells || matches!(change, Change::Tell(_));
            for name in change.folders() {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        if tells {
            flush_file_system(user.dir())?;
        }
        for name in names {
            let Ok(folder) = user.folder(&name) else {
                continue;
            };
            flush_file_system(folder.dir())?;
            let store = self.stores.of(&folder);
            if store.as_local().is_none() {
                store.settle_names(&[])?;
            }
        }
        Ok(())
    }
}

/// The `.meta` beside a file.
fn meta_of((folder, path): &Place) -> Place {
    let stem = path.rsplit_once('.').filter(|(_, end)| !end.contains('/'));
    let stem = stem.map_or(path.as_str(), |(stem, _)| stem);
    (folder.clone(), format!("{stem}.meta"))
}

/// The part of a text that is missing from a file that was to get it after its first `len` bytes.
fn missing<'a>(files: &Files, name: &str, len: u64, text: &'a [u8]) -> io::Result<&'a [u8]> {
    let Some(stat) = files.stat(name)? else {
        // It is somewhere else now, with the text or without.
        return Ok(&[]);
    };
    let contents = files.open(name)?;
    let mut there = vec![0; text.len()];
    let mut read = 0;
    while let Some(rest) = there.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match contents.read_at(rest, len.saturating_add(read as u64))? {
            0 => break,
            more => read += more,
        }
    }
    let there = there.get(..read).unwrap_or_default();
    if text == there {
        return Ok(&[]);
    }
    // A loss of power may have kept the beginning of it.
    let is_torn = len.saturating_add(read as u64) == stat.size;
    Ok(match is_torn && text.starts_with(there) {
        true => text.get(read..).unwrap_or(text),
        false => text,
    })
}

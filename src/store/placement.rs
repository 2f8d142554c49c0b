//! Moves a file that a contact put somewhere to the path that its sender wants.

use std::io;

use super::{ContentPath, Existing, PartialName, Reader, Store, Target};
use crate::root::{
    conflict::{self, Conflict},
    destination::Destination,
    file::{self, MAX_NAME},
    folder::Folder,
    tree::{self, Shown, TreePath},
};

/// Numbers tried to find a free name: each costs a query to the store.
const NUMBERS: usize = 65_536;

/// The same for what is sent to a folder that keeps names.
const FEW: usize = 100;

/// Where a file is before it gets its path.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Hidden.
    Partial(&'a PartialName),
    /// In the folder, under the name with which it arrived.
    Arrived(&'a ContentPath),
}

/// Moves a file of the folder to its path, and returns the one that it got. The path survives a
/// loss of power after [`Store::settle_names`] with it.
///
/// It fails with `AlreadyExists` if the path is taken and the destination says to refuse then. If
/// the same file is there already, from an attempt whose answer was lost, this one is removed.
pub fn place(
    store: &dyn Store,
    folder: &Folder,
    source: Source<'_>,
    destination: &Destination,
) -> io::Result<ContentPath> {
    let config = folder.config().map_err(io::Error::other)?;
    let shown = Shown::new(Some(&config));
    let hidden = || io::Error::from(io::ErrorKind::NotFound);
    if !shown.admits(&destination.path) {
        return Err(hidden());
    }
    let path = ContentPath::try_from(destination.path.clone()).map_err(|_| hidden())?;
    if destination.keeps_meta {
        make_parents(store, &destination.path)?;
    }
    let mover = Mover {
        store,
        folder,
        source,
        modified: destination.modified,
    };
    if matches!(source, Source::Arrived(arrived) if *arrived == path) {
        // It has its path, and only needs its time.
        return mover.go(&path, Existing::Replace).map(|()| path);
    }
    let placed = match destination.conflict {
        Conflict::Refuse => mover.go_if_free(&path).map(|()| path.clone()),
        Conflict::Overwrite => {
            // A file that a .meta describes must not be replaced by a different one.
            match is_promised(folder, &path)? {
                true => Err(io::ErrorKind::AlreadyExists.into()),
                false => mover.go(&path, Existing::Replace).map(|()| path.clone()),
            }
        }
        Conflict::Rename => mover.go_beside(&path, &shown, numbers(destination)),
    };
    match placed {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && mover.is_copy(&path)? => {
            mover.remove()?;
            Ok(path)
        }
        placed => placed,
    }
}

/// Makes the directories of a path that are not there yet.
fn make_parents(store: &dyn Store, path: &TreePath) -> io::Result<()> {
    let mut parent = TreePath::default();
    let mut made = Vec::new();
    for name in path
        .split_last()
        .iter()
        .flat_map(|(all, _)| all.components())
    {
        parent = parent.below(name);
        let directory = ContentPath::try_from(parent.clone()).map_err(io::Error::from)?;
        match store.make_dir(&directory) {
            Ok(()) => made.push(directory),
            // A file in the way shows when the path is used.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    match made.is_empty() {
        true => Ok(()),
        false => store.settle_names(&made),
    }
}

/// The path at which the file of a destination is: its own, or one beside it if it may have got a
/// number. The file there has that size and time.
pub fn find(
    store: &dyn Store,
    destination: &Destination,
    size: Option<u64>,
) -> Option<ContentPath> {
    let path = ContentPath::try_from(destination.path.clone()).ok()?;
    let numbers = match destination.conflict {
        Conflict::Rename => numbers(destination),
        Conflict::Refuse | Conflict::Overwrite => 1,
    };
    let paths = conflict::names(path.file_name()?).take(numbers);
    let mut paths = paths.filter_map(|name| path.sibling(&name).ok());
    paths.find(|path| {
        let stat = store.stat(path);
        matches!(stat, Ok(Some(stat)) if stat.is_file_of(size, destination.modified))
    })
}

/// Whether the file of a destination has its path: see [`find`].
pub fn is_there(store: &dyn Store, destination: &Destination, size: Option<u64>) -> bool {
    find(store, destination, size).is_some()
}

/// How many names are tried for a file. Nobody asked for the names that a folder gives to what is
/// sent to it, so a crowd of them is not worth making others wait.
fn numbers(destination: &Destination) -> usize {
    match destination.keeps_meta {
        true => FEW,
        false => NUMBERS,
    }
}

/// Whether a `.meta` of the folder describes a file at that path which is on its way, or was
/// refused: any other file there would pass for that one.
pub fn is_promised(folder: &Folder, path: &ContentPath) -> io::Result<bool> {
    let Some(name) = path.file_name() else {
        return Ok(false);
    };
    let parent = path.parent();
    if parent.is_root() {
        return tree::is_promised(folder.dir(), name);
    }
    match tree::open_below(folder.dir(), parent.components()) {
        Ok(dir) => tree::is_promised(&dir, name),
        // A store elsewhere: documents are only in the folder's own directory.
        Err(_) => Ok(false),
    }
}

struct Mover<'a> {
    store: &'a dyn Store,
    folder: &'a Folder,
    source: Source<'a>,
    modified: i64,
}

impl Mover<'_> {
    fn go(&self, path: &ContentPath, existing: Existing) -> io::Result<()> {
        let target = Target {
            path,
            existing,
            modified: Some(self.modified),
        };
        match self.source {
            Source::Partial(partial) => self.store.publish(partial, &target),
            Source::Arrived(arrived) => self.store.rename(arrived, &target),
        }
    }

    fn go_if_free(&self, path: &ContentPath) -> io::Result<()> {
        match is_promised(self.folder, path)? {
            true => Err(io::ErrorKind::AlreadyExists.into()),
            false => self.go(path, Existing::Keep),
        }
    }

    /// Takes the first free name beside the path, or the path itself.
    fn go_beside(
        &self,
        path: &ContentPath,
        shown: &Shown,
        numbers: usize,
    ) -> io::Result<ContentPath> {
        let name = path.file_name().ok_or(io::ErrorKind::NotFound)?;
        // A further number never makes a name shorter.
        let fitting = conflict::names(name)
            .take(numbers)
            .take_while(|name| name.len() <= MAX_NAME);
        for name in fitting.filter(|name| shown.shows(name)) {
            let path = path.sibling(&name)?;
            match self.go_if_free(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                gone => return gone.map(|()| path),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Whether the file at the path is a copy of this one, and as safe.
    fn is_copy(&self, path: &ContentPath) -> io::Result<bool> {
        let Ok(there) = self.store.open(path) else {
            return Ok(false);
        };
        let size = match self.source {
            Source::Partial(partial) => self.store.held(partial)?,
            Source::Arrived(arrived) => self.store.stat(arrived)?.map(|stat| stat.size),
        };
        if !there.stat()?.is_file_of(size, self.modified) || self.is_alias(path) {
            return Ok(false);
        }
        let same = match self.source {
            Source::Partial(partial) => {
                file::is_same(Reader::new(&*there), self.store.read(partial)?)?
            }
            Source::Arrived(arrived) => {
                let ours = self.store.open(arrived)?;
                file::is_same(Reader::new(&*there), Reader::new(&*ours))?
            }
        };
        if same {
            there.settle()?;
        }
        Ok(same)
    }

    /// Whether the path may be another spelling of the name that the file has: a file system may
    /// treat two letters as one, and then there is only one file.
    fn is_alias(&self, path: &ContentPath) -> bool {
        let Source::Arrived(arrived) = self.source else {
            // That name begins with a dot, and no path does.
            return false;
        };
        arrived.to_string().to_lowercase() == path.to_string().to_lowercase()
    }

    fn remove(&self) -> io::Result<()> {
        match self.source {
            Source::Partial(partial) => {
                self.store.discard(partial);
                Ok(())
            }
            Source::Arrived(arrived) => self.store.remove(arrived),
        }
    }
}

//! Where a file goes that a contact puts somewhere below a folder.
//!
//! It arrives as any other does, under a name of m2y's own, and what hooks do with it there
//! holds. What they leave where it is gets the path that its sender wants. Until then the
//! `.meta` says which, so that a server which starts again knows it too.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime},
};

use cap_std::fs::{Dir, MetadataExt as _};

use crate::{
    json::{Map, Value},
    meta::{Meta, PENDING_PUT, QUARANTINE},
    root::{
        conflict::Conflict,
        file,
        folder::Folder,
        tree::{Tree, TreePath},
    },
};

/// A path below a folder, and what is kept of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The path.
    pub path: TreePath,
    /// When the file changed last, in nanoseconds since 1970.
    pub modified: i64,
    /// What to do about another file that is there.
    pub conflict: Conflict,
}

/// A file that has its path.
pub struct Placed {
    /// Which.
    pub path: TreePath,
    /// The directory that it is in: durable, once that is.
    pub dir: Dir,
}

impl Destination {
    /// Which path the sender of a `.meta` wants for its file, if any.
    pub fn of(meta: &Meta) -> Option<Self> {
        let wanted = meta.extra.get(PENDING_PUT)?.as_object()?;
        let text = |field| wanted.get(field).and_then(Value::as_str);
        let path = TreePath::parse(text("path")?)?;
        path.split_last()?;
        Some(Self {
            path,
            modified: wanted.get("modified")?.as_i64()?,
            conflict: Conflict::from_word(text("conflict")?)?,
        })
    }

    /// The same where the file may have it now: not one that is to be put out of sight.
    pub fn open(meta: &Meta) -> Option<Self> {
        match meta.extra.contains_key(QUARANTINE) {
            true => None,
            false => Self::of(meta),
        }
    }

    /// Writes into a `.meta` where its file goes.
    pub fn note(&self, meta: &mut Meta) {
        let mut wanted = Map::new();
        wanted.insert("path".to_owned(), self.path.join().into());
        wanted.insert("modified".to_owned(), self.modified.into());
        wanted.insert("conflict".to_owned(), self.conflict.word().into());
        meta.extra
            .insert(PENDING_PUT.to_owned(), Value::Object(wanted));
    }

    /// Whether the file of such a name and folder is where it arrived: else a hook gave it
    /// a place.
    pub fn is_untouched(meta: &Meta, folder: &Folder, stem: &str, file: Option<&str>) -> bool {
        let arrived = format!("{}_{}", meta.from, meta.datetime);
        meta.folder == folder.name().as_str()
            && stem.starts_with(&arrived)
            && file.and_then(|file| file.strip_suffix(".data")) == Some(stem)
    }

    /// Gives a file of the folder its path. That survives a loss of power when both
    /// directories are flushed. Where it is there already, from an attempt of which its
    /// sender did not hear any more, this one goes.
    pub fn place(&self, folder: &Folder, name: &str) -> io::Result<Placed> {
        let config = folder.config().map_err(io::Error::other)?;
        let (file, _) = file::open_itself(folder.dir(), name)?;
        // A file system that keeps no such time keeps the file all the same.
        let _ = file.into_std().set_modified(moment(self.modified));
        let tree = Tree::new(folder.dir(), Some(&config));
        if matches!(self.path.components(), [wanted] if wanted == name) {
            // It has it already.
            let (path, dir) = (self.path.clone(), tree.above(&self.path)?);
            return Ok(Placed { path, dir });
        }
        match tree.take_in(folder.dir(), name, &self.path, self.conflict) {
            Ok((path, dir)) => Ok(Placed { path, dir }),
            Err(e)
                if e.kind() == io::ErrorKind::AlreadyExists
                    && self.holds(&tree, folder, name)? =>
            {
                let (path, dir) = (self.path.clone(), tree.above(&self.path)?);
                folder.dir().remove_file(name)?;
                Ok(Placed { path, dir })
            }
            Err(e) => Err(e),
        }
    }

    /// Whether a file of that size lies at the path, from the time that is to be kept.
    pub fn is_there(&self, folder: &Folder, size: Option<u64>) -> bool {
        let Ok(config) = folder.config() else {
            return false;
        };
        let about = Tree::new(folder.dir(), Some(&config)).about(&self.path);
        about.is_ok_and(|about| about.is_file_of(size, self.modified))
    }

    /// Whether what is there is the same file, and as safe.
    fn holds(&self, tree: &Tree, folder: &Folder, name: &str) -> io::Result<bool> {
        let Ok((there, about)) = tree.open(&self.path) else {
            return Ok(false);
        };
        let (ours, is) = file::open_itself(folder.dir(), name)?;
        let same = about.is_file_of(Some(is.len()), self.modified)
            // A file system may take another name for this one: then there is only one.
            && (identity(&there)? != (is.dev(), is.ino()) || is.nlink() > 1)
            && file::is_same(&there, ours)?;
        if same {
            there.sync_all()?;
        }
        Ok(same)
    }
}

/// Which file it is.
fn identity(file: &File) -> io::Result<(u64, u64)> {
    let about = file.metadata()?;
    Ok((about.dev(), about.ino()))
}

/// A moment from nanoseconds since 1970.
pub fn moment(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    let time = match nanos >= 0 {
        true => SystemTime::UNIX_EPOCH.checked_add(distance),
        false => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

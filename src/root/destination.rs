//! Where a file goes that a contact puts somewhere below a folder.
//!
//! It arrives as any other does, under a name of m2y's own, and what hooks do with it there
//! holds. What they leave where it is gets the path that its sender wants. Until then the
//! `.meta` says which, so that a server which starts again knows it too.

use std::time::{Duration, SystemTime};

use crate::{
    json::{Map, Value},
    meta::{Meta, PENDING_PUT, QUARANTINE},
    root::{conflict::Conflict, folder::Folder, tree::TreePath},
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

//! Where a file goes that a contact puts somewhere below a folder.
//!
//! It arrives as any other does, under a name of m2y's own, and what hooks do with it there
//! holds. What they leave where it is gets the path that its sender wants. Until then the
//! `.meta` says which, so that a server which starts again knows it too.

use std::time::{Duration, SystemTime};

use crate::{
    clock,
    json::{Map, Value},
    meta::{Meta, PENDING_PUT, QUARANTINE},
    root::{
        config::Config,
        conflict::Conflict,
        folder::Folder,
        tree::{Shown, TreePath},
    },
};

/// Directories within each other that a file which is sent may bring along.
const MAX_DEPTH: usize = 16;

/// A path below a folder, and what is kept of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The path.
    pub path: TreePath,
    /// When the file changed last, in nanoseconds since 1970.
    pub modified: i64,
    /// What to do about another file that is there.
    pub conflict: Conflict,
    /// Whether the `.meta` is kept, hidden, once the file has its path: its sender wanted none,
    /// but the folder keeps the names of files.
    pub keeps_meta: bool,
}

impl Destination {
    /// Which path a file gets that is sent into a folder which keeps the names of files: that
    /// in the directory which its sender sent, or just its name. `None` where nobody may have
    /// such a path; then it is stored as in any other folder.
    pub fn original(meta: &Meta, config: &Config) -> Option<Self> {
        let shown = Shown::new(Some(config));
        let within = meta.extra.get("path").and_then(Value::as_str);
        let admitted = |path: &str| {
            let path = TreePath::parse(path)?;
            let (_, name) = path.split_last()?;
            // Scripts look at the name: the path must not end with a different one.
            let is_it = name == meta.filename && path.components().len() <= MAX_DEPTH;
            let is_plain = |name: &String| {
                // What ends so could pass for a file that arrived from somebody else.
                !name.to_ascii_lowercase().ends_with(".data") && !name.contains(char::is_control)
            };
            let fits = is_it && path.components().iter().all(is_plain);
            (fits && shown.admits(&path)).then_some(path)
        };
        let path = within.and_then(admitted);
        let path = path.or_else(|| {
            let is_name = !meta.filename.contains('/');
            is_name.then(|| admitted(&meta.filename)).flatten()
        })?;
        Some(Self {
            path,
            modified: i64::try_from(clock::millis())
                .ok()?
                .checked_mul(1_000_000)?,
            conflict: Conflict::Rename,
            keeps_meta: true,
        })
    }

    /// Which path the sender of a `.meta` wants for its file, if any, or the folder.
    pub fn of(meta: &Meta) -> Option<Self> {
        let wanted = meta.extra.get(PENDING_PUT)?.as_object()?;
        let text = |field| wanted.get(field).and_then(Value::as_str);
        let path = TreePath::parse(text("path")?)?;
        path.split_last()?;
        Some(Self {
            path,
            modified: wanted.get("modified")?.as_i64()?,
            conflict: Conflict::from_word(text("conflict")?)?,
            keeps_meta: wanted.get("keepsMeta").is_some(),
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
        if self.keeps_meta {
            wanted.insert("keepsMeta".to_owned(), true.into());
        }
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

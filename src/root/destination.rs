//! Where a file that a contact puts below a folder goes.
//!
//! It arrives like any other, under a name of m2y's own, and what hooks do with it there stands. If
//! they leave it where it is, it gets the path that its sender wants. Until then the `.meta`
//! records that path, so that a restarted server knows it too.

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

/// The deepest nesting of directories that a sent file may bring along.
const MAX_DEPTH: usize = 16;

/// A path below a folder, and what is kept of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The path.
    pub path: TreePath,
    /// When the file changed last, in nanoseconds since 1970.
    pub modified: i64,
    /// What to do about a different file that is there.
    pub conflict: Conflict,
    /// Whether the `.meta` is kept, hidden, once the file has its path: its sender wanted none,
    /// but the folder keeps the names of files.
    pub keeps_meta: bool,
}

impl Destination {
    /// The path that a file gets when it is sent into a folder that keeps the names of files: its
    /// path in the directory that its sender sent, or just its name. `None` if no file may have
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
                // A name with this ending could pass for a file that arrived from somebody else.
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

    /// The path that the sender of a `.meta`, or the folder, wants for its file, if any.
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

    /// The same if the file may have it now: `None` for a file that is to be put out of sight.
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

    /// Whether the file of this name and folder is where it arrived: otherwise a hook moved it.
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

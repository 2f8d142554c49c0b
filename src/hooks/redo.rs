//! What is done outside of the journal once an event has come to a decision: changes of files,
//! lines of the inbox.
//!
//! The list of them is in the journal before any is made, and leaves it when all are safe. A
//! server that ends in between makes them again: each leads to the same however often it is
//! made.

use std::{
    io,
    time::{Duration, UNIX_EPOCH},
};

use tracing::warn;

use super::{
    folder_files::Files,
    inbox::Inboxes,
    received::put_away,
    self_changes::SelfChanges,
    transaction::files::Place,
};
use crate::{
    json::Value,
    meta::{Meta, PENDING_PUT},
    root::{destination::Destination, file, folder::Folder, meta_file, name::Name, user::User},
    store::{
        ContentPath, Stores,
        flush::flush_file_system,
        placement::{self, Source},
        sweep,
    },
};

/// Bytes of a `.meta` that is written in place: they go to the disk as one.
const PAGE: usize = 4_096;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file gets another name or folder. What has that name stays, and the file where it is,
    /// unless it is to be replaced.
    Move {
        /// Where it is.
        from: Place,
        /// Where it will be.
        to: Place,
        /// Whether a file that is there goes.
        replaces: bool,
    },
    /// A file goes.
    Remove(Place),
    /// A file has this text, be there one or not.
    Write(Place, String),
    /// A file has this text behind what it had.
    Append {
        /// The file.
        place: Place,
        /// Its bytes before that.
        len: u64,
        /// The text.
        text: String,
    },
    /// The `.meta` of a file has this text.
    Meta {
        /// The folder of the file.
        folder: Name,
        /// Its stem.
        stem: String,
        /// The text.
        text: String,
    },
    /// A file goes out of sight.
    Hide(Place),
    /// A file gets the path that its sender wants, as its `.meta` says; the place has its stem.
    Put(Place),
    /// Lines in the inbox of the user.
    Tell(String),
    /// Every `.failed` becomes a `.meta` again.
    Reset(Name),
    /// Old partial files go, and what is left of refused ones.
    Sweep {
        /// The folder.
        folder: Name,
        /// From before that time, in seconds since 1970.
        before: u64,
    },
}

impl Change {
    /// As the journal has it.
    pub fn to_value(&self) -> Value {
        let place = |(folder, name): &Place| [folder.as_str().into(), name.as_str().into()];
        let mut words: Vec<Value> = Vec::new();
        match self {
            Self::Move { from, to, replaces } => {
                words.push("move".into());
                words.extend(place(from));
                words.extend(place(to));
                words.push((*replaces).into());
            }
            Self::Remove(at) => {
                words.push("remove".into());
                words.extend(place(at));
            }
            Self::Write(at, text) => {
                words.push("write".into());
                words.extend(place(at));
                words.push(text.as_str().into());
            }
            Self::Append { place: at, len, text } => {
                words.push("append".into());
                words.extend(place(at));
                words.push((*len).into());
                words.push(text.as_str().into());
            }
            Self::Meta { folder, stem, text } => {
                let texts = ["meta", folder.as_str(), stem, text];
                words.extend(texts.map(Value::from));
            }
            Self::Hide(at) => {
                words.push("hide".into());
                words.extend(place(at));
            }
            Self::Put(at) => {
                words.push("put".into());
                words.extend(place(at));
            }
            Self::Tell(lines) => words.extend(["tell", lines].map(Value::from)),
            Self::Reset(folder) => words.extend(["reset", folder.as_str()].map(Value::from)),
            Self::Sweep { folder, before } => {
                words.extend(["sweep", folder.as_str()].map(Value::from));
                words.push((*before).into());
            }
        }
        Value::Array(words)
    }

    /// Reads what [`Self::to_value`] wrote.
    pub fn from_value(value: &Value) -> Option<Self> {
        let words = value.as_array()?;
        let text = |at: usize| Some(words.get(at)?.as_str()?.to_owned());
        let folder = |at: usize| Name::folder(words.get(at)?.as_str()?).ok();
        let place = |at: usize| Some((folder(at)?, text(at + 1)?));
        Some(match words.first()?.as_str()? {
            "move" => Self::Move {
                from: place(1)?,
                to: place(3)?,
                replaces: words.get(5)?.as_bool()?,
            },
            "remove" => Self::Remove(place(1)?),
            "write" => Self::Write(place(1)?, text(3)?),
            "append" => Self::Append {
                place: place(1)?,
                len: words.get(3)?.as_u64()?,
                text: text(4)?,
            },
            "meta" => Self::Meta {
                folder: folder(1)?,
                stem: text(2)?,
                text: text(3)?,
            },
            "hide" => Self::Hide(place(1)?),
            "put" => Self::Put(place(1)?),
            "tell" => Self::Tell(text(1)?),
            "reset" => Self::Reset(folder(1)?),
            "sweep" => Self::Sweep {
                folder: folder(1)?,
                before: words.get(2)?.as_u64()?,
            },
            _ => return None,
        })
    }

    /// The folders that it is about.
    fn folders(&self) -> Vec<&Name> {
        match self {
            Self::Move { from, to, .. } if from.0 != to.0 => vec![&from.0, &to.0],
            Self::Move { from: at, .. }
            | Self::Remove(at)
            | Self::Write(at, _)
            | Self::Append { place: at, .. }
            | Self::Hide(at)
            | Self::Put(at) => vec![&at.0],
            Self::Meta { folder, .. } | Self::Reset(folder) | Self::Sweep { folder, .. } => {
                vec![folder]
            }
            Self::Tell(_) => Vec::new(),
        }
    }
}

/// What came of changes.
pub struct Made {
    /// For each decision the path that the file got whose sender wants one; that is safe.
    pub paths: Vec<Option<String>>,
    /// Why some could not be made, if some could not: they are to be made again.
    pub error: Option<io::Error>,
}

/// A file that got the path that its sender wants.
struct Put {
    folder: Folder,
    stem: String,
    path: ContentPath,
}

/// Makes changes. Copies of it are the same one.
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
    /// Some of them, or all, may have been made before a server ended.
    Again,
}

impl Changer {
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
        let mut error = None;
        for (at, changes) in decisions.iter().enumerate() {
            for change in *changes {
                match self.make_one(user, change, pass) {
                    Ok(got) => put.extend(got.map(|got| (at, got))),
                    Err(why) => error = error.or(Some(why)),
                }
            }
        }
        let mut paths = vec![None; decisions.len()];
        while let Some((_, first)) = put.first() {
            let folder = first.folder.clone();
            let is_here = |one: &Put| one.folder.path() == folder.path();
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                std::mem::take(&mut put).into_iter().partition(|(_, one)| is_here(one));
            put = elsewhere;
            let got: Vec<ContentPath> = here.iter().map(|(_, one)| one.path.clone()).collect();
            if let Err(why) = self.stores.of(&folder).settle_names(&got) {
                error = error.or(Some(why));
                continue;
            }
            for (at, Put { path, stem, .. }) in here {
                // It said where the file goes until that was safe.
                let _ = folder.dir().remove_file(format!("{stem}.meta"));
                if let Some(place) = paths.get_mut(at) {
                    *place = Some(path.to_string());
                }
            }
        }
        Made { paths, error }
    }

    fn make_one(&self, user: &User, change: &Change, pass: Pass) -> io::Result<Option<Put>> {
        let open = |name: &Name| user.folder(name).map_err(io::Error::other);
        match change {
            Change::Move { from, to, replaces } => {
                let (here, there) = (open(&from.0)?, open(&to.0)?);
                self.move_file((&here, &from.1), (&there, &to.1), *replaces)?;
            }
            Change::Remove((folder, name)) => {
                let folder = open(folder)?;
                match Files::new(&folder, &self.stores).remove(name) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
                self.self_changes.note(&folder, name);
            }
            Change::Write((folder, name), text) => {
                let folder = open(folder)?;
                Files::new(&folder, &self.stores).write(name, text.as_bytes())?;
                self.self_changes.note(&folder, name);
            }
            Change::Append { place, len, text } => {
                let folder = open(&place.0)?;
                let files = Files::new(&folder, &self.stores);
                let rest = match pass {
                    Pass::First => text.as_str(),
                    Pass::Again => missing(&files, &place.1, *len, text)?,
                };
                if !rest.is_empty() {
                    files.append(&place.1, rest.as_bytes())?;
                }
                self.self_changes.note(&folder, &place.1);
            }
            Change::Meta { folder, stem, text } => self.write_meta(&open(folder)?, stem, text)?,
            Change::Hide((folder, stem)) => {
                let folder = open(folder)?;
                let store = self.stores.of(&folder);
                if store.holds(&ContentPath::parse(&format!("{stem}.data"))?)? {
                    put_away(&*store, &self.self_changes, &folder, stem)?;
                }
            }
            Change::Put((folder, stem)) => return self.put(&open(folder)?, stem),
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
        Ok(None)
    }

    fn move_file(
        &self,
        (here, from): (&Folder, &str),
        (there, to): (&Folder, &str),
        replaces: bool,
    ) -> io::Result<()> {
        let files = Files::new(here, &self.stores);
        let target = Files::new(there, &self.stores);
        if files.stat(from)?.is_none() {
            // It was moved before the server ended.
            return Ok(());
        }
        if replaces && target.stat(to)?.is_some() {
            target.remove(to)?;
        }
        match files.rename(from, &target, to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let (user, folder) = (here.user().name(), here.name());
                warn!(%user, %folder, "{from} keeps its name: there is another {to} by now");
                return Ok(());
            }
            renamed => renamed?,
        }
        self.self_changes.note(here, from);
        self.self_changes.note(there, to);
        Ok(())
    }

    fn write_meta(&self, folder: &Folder, stem: &str, text: &str) -> io::Result<()> {
        let (dir, name) = (folder.dir(), format!("{stem}.meta"));
        let contents = ContentPath::parse(&format!("{stem}.data"))?;
        // A hook or a person may have taken the file away, and its .meta with it.
        if !file::exists(dir, &name)? && !self.stores.of(folder).holds(&contents)? {
            return Ok(());
        }
        match text.len() <= PAGE {
            // A file in its place would free an inode, and for minutes ext4 searches past each
            // of those whenever it makes a file. Until it is safe the journal has the text.
            true => file::overwrite_unflushed(dir, &name, 0o644, text.as_bytes()),
            false => file::replace_unflushed(dir, &name, 0o644, text.as_bytes()),
        }
    }

    /// Gives a file the path that its sender wants. Where that is taken by now, the file stays
    /// as one that arrived: its hooks have had it.
    fn put(&self, folder: &Folder, stem: &str) -> io::Result<Option<Put>> {
        let (store, data) = (self.stores.of(folder), format!("{stem}.data"));
        let meta = meta_file::of_stem(folder.dir(), stem);
        let destination = meta.as_ref().and_then(Destination::open);
        let (Some(meta), Some(destination)) = (meta, destination) else {
            return Ok(None);
        };
        let arrived = ContentPath::parse(&data)?;
        if !store.holds(&arrived)? {
            if placement::is_there(&*store, &destination, meta.filesize) {
                let _ = folder.dir().remove_file(format!("{stem}.meta"));
            }
            return Ok(None);
        }
        self.arrives(folder, destination.path.components());
        match placement::place(&*store, folder, Source::Arrived(&arrived), &destination) {
            Ok(path) => {
                self.self_changes.note(folder, &data);
                if let Some(path) = path.tree_path().filter(|path| **path != destination.path) {
                    self.arrives(folder, path.components());
                }
                Ok(Some(Put {
                    folder: folder.clone(),
                    stem: stem.to_owned(),
                    path,
                }))
            }
            Err(error) => {
                let (user, path) = (folder.user().name(), destination.path.join());
                warn!(%user, folder = %folder.name(), %path, "stays as {data}: {error}");
                let mut meta: Meta = meta;
                meta.extra.remove(PENDING_PUT);
                let name = format!("{stem}.meta");
                file::replace(folder.dir(), &name, 0o644, &meta.to_file())?;
                Ok(None)
            }
        }
    }

    /// A file gets this path, and that is news.
    fn arrives(&self, folder: &Folder, path: &[String]) {
        if let (Ok(config), [name]) = (folder.config(), path) {
            self.self_changes.arrives(folder, &config, name);
        }
    }

    /// Returns when changes of a user's folders that were made survive a loss of power.
    pub fn flush<'a>(&self, user: &User, changes: impl Iterator<Item = &'a Change>) -> io::Result<()> {
        let mut names: Vec<&Name> = Vec::new();
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
            let Ok(folder) = user.folder(name) else {
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

/// The part of a text that a file lacks which was to get it behind its first `len` bytes.
fn missing<'a>(files: &Files, name: &str, len: u64, text: &'a str) -> io::Result<&'a str> {
    let Some(stat) = files.stat(name)? else {
        return Ok(text);
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
    if text.as_bytes() == there {
        return Ok("");
    }
    // A loss of power may have kept the beginning of it.
    let is_torn = len.saturating_add(read as u64) == stat.size;
    Ok(match is_torn && text.as_bytes().starts_with(there) {
        true => text.get(read..).unwrap_or(text),
        false => text,
    })
}

/// The body of a row of the journal.
pub fn to_body(changes: &[Change]) -> String {
    Value::Array(changes.iter().map(Change::to_value).collect()).to_string()
}

/// Reads what [`to_body`] wrote.
pub fn from_body(body: &str) -> Option<Vec<Change>> {
    let value: Value = serde_json::from_str(body).ok()?;
    value.as_array()?.iter().map(Change::from_value).collect()
}

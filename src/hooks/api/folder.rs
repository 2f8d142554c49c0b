//! `folder`: the m2y-folder that the event is about.
//!
//! A script names files of the folder and of directories in it, by paths of plain names that
//! never lead out of it. No link is followed, no pipe is waited for, and nothing is overwritten
//! by a new name.

mod functions;
pub(super) mod lines;
mod rules;
mod tags;
mod upkeep;

use std::{
    io::{self, Read},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rhai::{Array, Engine};

use super::{
    actions::{Actions, Touch, Touched},
    function::{Made, fail, shown},
    meta,
    names::Names,
    state::State,
    text,
};
use crate::{
    event::Event,
    hooks::{
        call,
        digests::Version,
        transaction::files::{Place, split},
    },
    meta::{MAX_LEN, Meta},
    root::{config::Config, file, folder::Folder, name::Name},
    store::{Contents, Kind as StoredKind, Reader, Stat},
};

pub(super) use functions::FUNCTIONS;
use lines::{Lines, OpenFiles};
use rules::{
    NO_DIRECTORY, cannot, changeable, ending_of, new_name, path_of, read_all, refuse, stem_of,
    whole,
};

/// Names that a list may hold.
const MAX_LIST: usize = 1_000;

/// Bytes of the head of a file.
const MAX_HEAD: usize = 512;

/// Bytes of a file that is read as text.
const MAX_READ: u64 = 4_096;

/// Entries of a directory from one look at the clock to the next.
const ENTRIES: usize = 256;

/// `folder` in a script.
#[derive(Clone)]
pub struct Handle {
    folder: Folder,
    config: Arc<Config>,
    actions: Actions,
    state: Arc<dyn State>,
    /// Where the `.meta` of the file that the event is about is on the disk, and what scripts make
    /// of it.
    own: Option<Arc<(Place, meta::Handle)>>,
    open: OpenFiles,
}

/// A file that is moved: its name, and the one that it will have.
type Move = (String, String);

impl Handle {
    pub(super) fn new(
        event: &Event,
        actions: &Actions,
        state: &Arc<dyn State>,
        own: Option<&meta::Handle>,
    ) -> Self {
        let mut transaction = actions.transaction();
        transaction.files.enter(&event.folder);
        let subject = event.subject.as_ref();
        let place = subject.and_then(|subject| {
            let files = &mut transaction.files;
            files.origin(event.folder.name(), &subject.meta_file())
        });
        drop(transaction);
        Self {
            own: place.zip(own.cloned()).map(Arc::new),
            open: OpenFiles::default(),
            folder: event.folder.clone(),
            config: event.config.clone(),
            actions: actions.clone(),
            state: state.clone(),
        }
    }

    /// The folder itself.
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        self.actions
            .transaction()
            .files
            .stat(self.folder.name(), name)
    }

    fn glance(&self, name: &str) -> io::Result<Option<Stat>> {
        let mut transaction = self.actions.transaction();
        transaction.files.glance(self.folder.name(), name)
    }

    /// What is known of a regular file that a person sees.
    pub(super) fn about(&self, call: &str, name: &str) -> Made<Stat> {
        self.look(call, name)?
            .ok_or_else(|| refuse(call, name, "is not there"))
    }

    fn look(&self, call: &str, name: &str) -> Made<Option<Stat>> {
        let name = &path_of(call, name)?;
        match self.stat(name) {
            Ok(Some(stat)) if stat.kind != StoredKind::File => {
                Err(refuse(call, name, "is not a regular file"))
            }
            Ok(stat) => Ok(stat),
            Err(e) => Err(cannot(call, name, &e)),
        }
    }

    /// What identifies the contents of a regular file that is unchanged on the disk; `None` if
    /// scripts have written it.
    pub(super) fn version(&self, call: &str, name: &str) -> Made<Option<Version>> {
        self.about(call, name)?;
        let name = &path_of(call, name)?;
        let mut transaction = self.actions.transaction();
        let version = transaction.files.version(self.folder.name(), name);
        version.map_err(|e| cannot(call, name, &e))
    }

    /// Opens a regular file that a person sees, for reading.
    pub(super) fn open(&self, call: &str, name: &str) -> Made<Box<dyn Contents>> {
        self.about(call, name)?;
        let name = &path_of(call, name)?;
        let mut transaction = self.actions.transaction();
        let opened = transaction.files.open(self.folder.name(), name);
        opened.map_err(|e| cannot(call, name, &e))
    }

    /// Every file of a directory that a person sees, by its name; "" is the folder.
    fn each(
        &self,
        call: &str,
        directory: &str,
        mut each: impl FnMut(&str) -> Made<()>,
    ) -> Made<()> {
        let failed = |e: io::Error| match directory {
            "" => fail(format!("{call}: cannot read the folder: {e}")),
            _ => cannot(call, directory, &e),
        };
        let mut transaction = self.actions.transaction();
        let names = transaction.files.names(self.folder.name(), directory);
        drop(transaction);
        for (n, name) in names.map_err(failed)?.enumerate() {
            if n.is_multiple_of(ENTRIES) {
                call::go_on()?;
            }
            each(&name.map_err(failed)?)?;
        }
        Ok(())
    }

    fn list(&mut self) -> Made<Names> {
        self.list_like("*")
    }

    fn list_like(&mut self, pattern: &str) -> Made<Names> {
        let call = "folder.list()";
        // What precedes the last / is a directory, and the names of what is in it begin with that.
        let (directory, pattern, before) = match pattern.rsplit_once('/') {
            Some((directory, "")) => (path_of(call, directory)?, "*", "/"),
            Some((directory, pattern)) => (path_of(call, directory)?, pattern, "/"),
            None => (String::new(), pattern, ""),
        };
        if pattern.len() > file::MAX_NAME {
            return Err(refuse(call, pattern, "is longer than any name"));
        }
        let (mut names, mut count) = (Vec::new(), 0_usize);
        self.each(call, &directory, |name| {
            if text::matches(name, pattern) {
                count += 1;
                if count <= MAX_LIST {
                    names.push(format!("{directory}{before}{name}").into());
                }
            }
            Ok(())
        })?;
        if count > MAX_LIST {
            return Err(fail(format!(
                "{call}: there are {count} files, more than {MAX_LIST}: ask for fewer with a pattern"
            )));
        }
        names.sort_unstable();
        Ok(Names::new(names))
    }

    fn older(&mut self, pattern: &str, seconds: i64) -> Made<Names> {
        let call = "folder.older()";
        if pattern.len() > file::MAX_NAME {
            return Err(refuse(call, pattern, "is longer than any name"));
        }
        let age = u64::try_from(seconds)
            .map_err(|_| fail(format!("{call}: seconds must not be below 0")))?;
        let before = SystemTime::now()
            .checked_sub(Duration::from_secs(age))
            .and_then(|then| then.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |since| {
                i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
            });
        let mut names = Vec::new();
        self.each(call, "", |name| {
            // One that has vanished meanwhile is not old.
            let is_old = || Some(self.glance(name).ok()??.modified < before);
            if names.len() < MAX_LIST && text::matches(name, pattern) && is_old() == Some(true) {
                names.push(name.into());
            }
            Ok(())
        })?;
        names.sort_unstable();
        Ok(Names::new(names))
    }

    fn exists(&mut self, name: &str) -> Made<bool> {
        let call = "folder.exists()";
        let stat = self.stat(&path_of(call, name)?);
        Ok(matches!(stat, Ok(Some(stat)) if stat.kind == StoredKind::File))
    }

    fn size(&mut self, name: &str) -> Made<i64> {
        Ok(whole(self.about("folder.size()", name)?.size))
    }

    fn modified(&mut self, name: &str) -> Made<i64> {
        let call = "folder.modified()";
        Ok(self.about(call, name)?.modified.div_euclid(1_000_000_000))
    }

    fn begin(&self, call: &str, name: &str, n: usize) -> Made<Vec<u8>> {
        let mut bytes = Vec::new();
        let contents = self.open(call, name)?;
        Reader::new(&*contents)
            .take(n as u64)
            .read_to_end(&mut bytes)
            .map_err(|e| cannot(call, name, &e))?;
        Ok(bytes)
    }

    fn head(&mut self, name: &str, n: i64) -> Made<Array> {
        let call = "folder.head()";
        let n = usize::try_from(n)
            .ok()
            .filter(|n| *n <= MAX_HEAD)
            .ok_or_else(|| fail(format!("{call}: n must be 0 to {MAX_HEAD}")))?;
        let bytes = self.begin(call, name, n)?;
        Ok(bytes.into_iter().map(|b| i64::from(b).into()).collect())
    }

    fn starts_with(&mut self, name: &str, bytes: Array) -> Made<bool> {
        let call = "folder.starts_with()";
        let wrong = || {
            fail(format!(
                "{call}: the bytes must be at most {MAX_HEAD} numbers from 0 to 255"
            ))
        };
        if bytes.len() > MAX_HEAD {
            return Err(wrong());
        }
        let wanted: Option<Vec<u8>> = bytes
            .iter()
            .map(|b| b.as_int().ok().and_then(|b| u8::try_from(b).ok()))
            .collect();
        let wanted = wanted.ok_or_else(wrong)?;
        Ok(self.begin(call, name, wanted.len())? == wanted)
    }

    fn read(&mut self, name: &str) -> Made<String> {
        let call = "folder.read()";
        let contents = self.open(call, name)?;
        let bytes = read_all(&*contents, MAX_READ).map_err(|e| cannot(call, name, &e))?;
        String::from_utf8(bytes).map_err(|_| refuse(call, name, "is not UTF-8 text"))
    }

    fn lines(&mut self, name: &str) -> Made<Lines> {
        let call = "folder.lines()";
        let contents = self.open(call, name)?;
        Lines::new(call, &shown(name), contents, &self.open)
    }

    fn contains_line(&mut self, name: &str, text: &str) -> Made<bool> {
        let call = "folder.contains_line()";
        let contents = self.open(call, name)?;
        Lines::new(call, &shown(name), contents, &self.open)?.contain(text)
    }

    fn write(&mut self, name: &str, text: &str) -> Made<()> {
        let call = "folder.write()";
        let name = &path_of(call, name)?;
        new_name(call, None, name, &self.config)?;
        self.look(call, name)?;
        self.has_parent(call, name)?;
        if text.len() as u64 > MAX_READ {
            return Err(fail(format!("{call}: the text may have {MAX_READ} bytes")));
        }
        self.actions.may_touch()?;
        let mut transaction = self.actions.transaction();
        let written = transaction.files.write(self.folder.name(), name, text);
        drop(transaction);
        written.map_err(|e| cannot(call, name, &e))?;
        self.touch(name, Touch::Written);
        self.actions
            .note(|| format!("folder.write({name:?}, {text:?})"));
        Ok(())
    }

    fn append(&mut self, name: &str, text: &str) -> Made<()> {
        let call = "folder.append()";
        let name = &path_of(call, name)?;
        new_name(call, None, name, &self.config)?;
        self.look(call, name)?;
        self.has_parent(call, name)?;
        if text.len() as u64 > MAX_READ {
            return Err(fail(format!("{call}: the text may have {MAX_READ} bytes")));
        }
        self.actions.may_touch()?;
        let mut transaction = self.actions.transaction();
        let appended = transaction.files.append(self.folder.name(), name, text);
        drop(transaction);
        appended.map_err(|e| cannot(call, name, &e))?;
        self.touch(name, Touch::Written);
        self.actions
            .note(|| format!("folder.append({name:?}, {text:?})"));
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Made<()> {
        let call = "folder.rename()";
        let (from, to) = (&path_of(call, from)?, &path_of(call, to)?);
        changeable(call, from, &self.config)?;
        new_name(call, Some(from), to, &self.config)?;
        self.about(call, from)?;
        self.has_parent(call, to)?;
        let mut moves = vec![(from.to_owned(), to.to_owned())];
        if let Some(meta) = self.meta_of(from) {
            let renamed = format!("{}.meta", stem_of(to));
            // x.data that becomes x.jpg has the right one already.
            if meta != renamed {
                path_of(call, &renamed)?;
                moves.push((meta, renamed));
            }
        }
        let what = format!("folder.rename({from:?}, {to:?})");
        self.carry(call, what, &self.folder, &moves)
    }

    fn move_to(&mut self, name: &str, other: &str) -> Made<()> {
        let call = "folder.move_to()";
        let name = &path_of(call, name)?;
        changeable(call, name, &self.config)?;
        self.about(call, name)?;
        // After the folder's name there may be a directory in it.
        let (other, directory) = match other.split_once('/') {
            Some((other, directory)) => (other, path_of(call, directory)?),
            None => (other, String::new()),
        };
        let target = Name::folder(other)
            .map_err(|e| fail(format!("{call}: {e}")))
            .and_then(|other| {
                self.folder.user().folder(&other).map_err(|e| {
                    fail(format!(
                        "{call}: {e}: create {other} with `m2y folder create`, or name a different folder"
                    ))
                })
            })?;
        // There a program or script of that name may be a hook.
        let config = target.config().map_err(|e| fail(format!("{call}: {e}")))?;
        let there = |path: &str| match (directory.as_str(), split(path).1) {
            ("", name) => name.to_owned(),
            (directory, name) => format!("{directory}/{name}"),
        };
        changeable(call, &there(name), &config)?;
        let mut transaction = self.actions.transaction();
        transaction.files.enter(&target);
        let has_dir = transaction.files.has_dir(target.name(), &directory);
        drop(transaction);
        if !has_dir.map_err(|e| cannot(call, &directory, &e))? {
            return Err(refuse(call, &directory, NO_DIRECTORY));
        }
        let mut moves = vec![(name.to_owned(), there(name))];
        moves.extend(self.meta_of(name).map(|meta| (meta.clone(), there(&meta))));
        let what = format!("folder.move_to({name:?}, {other:?})");
        self.carry(call, what, &target, &moves)
    }

    fn mkdir(&mut self, path: &str) -> Made<()> {
        let call = "folder.mkdir()";
        let path = &path_of(call, path)?;
        for (end, _) in path.match_indices('/') {
            new_name(call, None, path.get(..end).unwrap_or(path), &self.config)?;
        }
        new_name(call, None, path, &self.config)?;
        self.actions.may_touch()?;
        let mut transaction = self.actions.transaction();
        let made = transaction.files.make_dir(self.folder.name(), path);
        drop(transaction);
        made.map_err(|e| match e.kind() {
            io::ErrorKind::NotADirectory => refuse(call, path, "is a file, or lies below one"),
            _ => cannot(call, path, &e),
        })?;
        self.touch(path, Touch::Written);
        self.actions.note(|| format!("folder.mkdir({path:?})"));
        Ok(())
    }

    /// Whether a file can get this path: its directory exists.
    fn has_parent(&self, call: &str, path: &str) -> Made<()> {
        let parent = split(path).0;
        let mut transaction = self.actions.transaction();
        let has_dir = transaction.files.has_dir(self.folder.name(), parent);
        match has_dir.map_err(|e| cannot(call, parent, &e))? {
            true => Ok(()),
            false => Err(refuse(call, parent, NO_DIRECTORY)),
        }
    }

    /// The `.meta` that goes where a file goes: it must describe a file that arrived, since the
    /// user's own describe what is to be sent.
    fn meta_of(&self, name: &str) -> Option<String> {
        let meta = format!("{}.meta", stem_of(name));
        if text::split(name).1 == "data" {
            let stat = self.stat(&meta).ok()??;
            return (stat.kind == StoredKind::File).then_some(meta);
        }
        if ending_of(name).is_some() {
            return None;
        }
        let came = self.read_meta(&meta)?.from != self.folder.user().name().as_str();
        came.then_some(meta)
    }

    fn read_meta(&self, name: &str) -> Option<Meta> {
        let contents = self
            .actions
            .transaction()
            .files
            .open(self.folder.name(), name);
        let bytes = read_all(&*contents.ok()?, MAX_LEN).ok()?;
        Meta::from_file(&bytes).ok()
    }

    /// Moves files that belong together: all of them or none.
    fn carry(&self, call: &str, what: String, target: &Folder, moves: &[Move]) -> Made<()> {
        self.actions.may_touch()?;
        let mut transaction = self.actions.transaction();
        for (_, to) in moves {
            if matches!(transaction.files.stat(target.name(), to), Ok(Some(_))) {
                return Err(refuse(call, to, "is there already"));
            }
        }
        for (from, to) in moves {
            let place = |folder: &Folder, name: &str| (folder.name().clone(), name.to_owned());
            let moved = transaction
                .files
                .rename(place(&self.folder, from), place(target, to));
            moved.map_err(|e| match e.kind() {
                io::ErrorKind::CrossesDevices => refuse(
                    call,
                    from,
                    "cannot go there: that folder is on a different disk",
                ),
                _ => cannot(call, from, &e),
            })?;
        }
        drop(transaction);
        for (from, to) in moves {
            let to = Touch::Renamed {
                folder: target.name().clone(),
                name: to.clone(),
            };
            self.touch(from, to);
        }
        self.actions.note(|| what);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Made<()> {
        let call = "folder.remove()";
        let name = &path_of(call, name)?;
        changeable(call, name, &self.config)?;
        self.about(call, name)?;
        let names = [Some(name.to_owned()), self.meta_of(name)];
        self.actions.may_touch()?;
        for name in names.iter().flatten() {
            let mut transaction = self.actions.transaction();
            let removed = transaction.files.remove(self.folder.name(), name);
            drop(transaction);
            removed.map_err(|e| cannot(call, name, &e))?;
            self.touch(name, Touch::Removed);
        }
        self.actions.note(|| format!("folder.remove({name:?})"));
        Ok(())
    }

    fn touch(&self, name: &str, how: Touch) {
        self.actions.touch(Touched {
            folder: self.folder.name().clone(),
            name: name.to_owned(),
            how,
        });
    }
}

pub(super) fn register(engine: &mut Engine) {
    lines::register(engine);
    engine
        .register_type_with_name::<Handle>("Folder")
        .register_fn("list", Handle::list)
        .register_fn("list", Handle::list_like)
        .register_fn("older", Handle::older)
        .register_fn("exists", Handle::exists)
        .register_fn("size", Handle::size)
        .register_fn("modified", Handle::modified)
        .register_fn("rename", Handle::rename)
        .register_fn("move_to", Handle::move_to)
        .register_fn("remove", Handle::remove)
        .register_fn("head", Handle::head)
        .register_fn("starts_with", Handle::starts_with)
        .register_fn("read", Handle::read)
        .register_fn("lines", Handle::lines)
        .register_fn("contains_line", Handle::contains_line)
        .register_fn("write", Handle::write)
        .register_fn("append", Handle::append)
        .register_fn("tags", Handle::tags)
        .register_fn("set_tag", Handle::set_tag)
        .register_fn("mkdir", Handle::mkdir)
        .register_fn("bytes", Handle::bytes)
        .register_fn("bytes_from", Handle::bytes_from)
        .register_fn("reset", Handle::reset)
        .register_fn("sweep", Handle::sweep);
}

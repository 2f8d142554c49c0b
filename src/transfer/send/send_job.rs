//! A file on its way, from the sender's side: its `.meta`, and what became of it.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use cap_std::fs::Dir;
use rustix::fs::OFlags;

use super::{
    feed::Feed,
    job_file::{JobFile, LastDir, being_sent},
    message_record,
    outgoing::Attempt,
};
use crate::{
    error::{Code, Error},
    journal::{
        Journal,
        letters::{self, Stage},
    },
    meta::{Meta, SOURCE_PATH, SOURCE_VERSION, is_extra},
    root::{
        file,
        folder::Folder,
        message_log::{self, SentState},
        user::User,
        version::Version,
    },
    store::{Contents, NoContents},
};

/// The ending of the document of a file that waits at a relay.
pub const LEFT: &str = "left";

/// This much of a file is written at once or not at all, even by a process that is killed.
const PAGE: usize = 4_096;

/// Something to be sent: a file, and what is said about it.
pub struct SendJob {
    /// Where the `.meta` is, or without one the file.
    path: PathBuf,
    meta: Meta,
    contents: Arc<dyn Contents>,
    version: Version,
    /// Where its bytes come from, if they are sent as they come.
    feed: Option<Feed>,
    record: Record,
    /// Bytes that the receiver had from before.
    resumed: AtomicU64,
    /// The letter as which it waits at a relay.
    left: OnceLock<Letter>,
}

/// A letter that a relay has, and where that is recorded once its document says so.
struct Letter {
    number: [u8; 32],
    journal: Journal,
}

/// Where its outcome is recorded.
pub(super) enum Record {
    /// A `.meta`.
    Document(Document),
    /// The journal of the root.
    Row(Box<Attempt>),
    /// The log of a folder, which has the message already.
    Log(Dir),
    /// Nowhere: what is sent as it comes cannot be sent again.
    Nowhere,
}

/// A `.meta` on the disk.
pub(super) struct Document {
    pub(super) dir: Arc<Dir>,
    pub(super) stem: String,
    pub(super) origin: Origin,
    /// The `.meta`, locked, so that nobody else sends it at the same time.
    pub(super) lock: File,
}

/// What there was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Somebody's `.meta`.
    Found,
    /// A `.failed`.
    Requeued,
}

impl SendJob {
    /// Reads a `.meta` or a `.failed` and opens its file: [`JobFile::open`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        JobFile::read(path, &mut LastDir::default())?.open()
    }

    /// The same for what nobody reviews before it is sent: [`JobFile::open_of`].
    pub fn open_of(user: &User, path: &Path) -> Result<Self, Error> {
        JobFile::read(path, &mut LastDir::default())?.open_of(user)
    }

    /// A file whose `path` is that of its record, or without one its own.
    pub(super) fn new(
        path: PathBuf,
        meta: Meta,
        contents: Arc<dyn Contents>,
        version: Version,
        record: Record,
    ) -> Self {
        Self {
            path,
            meta,
            contents,
            version,
            feed: None,
            record,
            resumed: AtomicU64::new(0),
            left: OnceLock::new(),
        }
    }

    /// A message that is in the log of this folder of its sender's.
    pub fn message(folder: &Folder, meta: Meta) -> Result<Self, Error> {
        let at = folder.path_of(message_log::FILE);
        let dir = folder.dir().try_clone();
        let dir = dir.map_err(|e| Error::io("open", &at, &e))?;
        let version = Version::in_memory(0, 0);
        let contents = Arc::new(NoContents);
        Ok(Self::new(at, meta, contents, version, Record::Log(dir)))
    }

    /// Something that is sent as it comes, and what is said of it.
    pub fn of_feed(meta: Meta, feed: Feed) -> Self {
        let version = Version::in_memory(0, 0);
        let (path, contents) = (PathBuf::from("-"), Arc::new(NoContents));
        Self {
            feed: Some(feed),
            ..Self::new(path, meta, contents, version, Record::Nowhere)
        }
    }

    /// Where its bytes come from, if they are sent as they come.
    pub fn feed(&self) -> Option<&Feed> {
        self.feed.as_ref()
    }

    /// Whether it has a `.meta`.
    pub fn is_document(&self) -> bool {
        matches!(self.record, Record::Document(_))
    }

    /// Where what becomes of it is recorded, if that is not the journal.
    pub fn document(&self) -> Option<&Path> {
        match self.record {
            Record::Document(_) | Record::Log(_) => Some(&self.path),
            Record::Row(_) | Record::Nowhere => None,
        }
    }

    /// Bytes that the receiver had from an earlier attempt.
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// The receiver has this much of it from an earlier attempt.
    pub(super) fn held(&self, bytes: u64) {
        self.resumed.store(bytes, Ordering::Relaxed);
    }

    /// Whether its receiver was away, and it waits at a relay as a letter.
    pub fn is_left(&self) -> bool {
        self.left.get().is_some()
    }

    /// It waits at a relay, as the letter of this number, which the journal knows.
    pub fn set_left(&self, number: [u8; 32], journal: Journal) {
        let _ = self.left.set(Letter { number, journal });
    }

    /// Where the `.meta` is, or without one the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The document, as it is sent.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.version.len()
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.version.is_empty()
    }

    /// The document as the receiver gets it. Fails if it says a different size.
    pub fn request(&self) -> Result<Meta, Error> {
        let mut meta = self.meta.clone();
        meta.filesize = None;
        if self.feed.is_none() {
            check_size(&self.meta, self.version.len())?;
            meta.filesize = Some(self.version.len());
        }
        meta.extra.retain(|field, _| is_extra(field));
        Ok(meta)
    }

    /// The open file, and the version to be sent.
    pub fn source(&self) -> (Arc<dyn Contents>, Version) {
        (self.contents.clone(), self.version)
    }

    /// Turns the `.meta` into a `.done`, with what the receiver made of the document; or into a
    /// `.left`, if it waits at a relay. That is not flushed: the receiver or the relay knows that it
    /// has the file. Returns the path of the new document, or without a `.meta` that of the file.
    pub fn done(&self, delivered: &Meta) -> Result<PathBuf, Error> {
        let document = match &self.record {
            Record::Document(document) => document,
            Record::Row(attempt) => {
                attempt.sent(self.left.get().map(|letter| letter.number));
                return Ok(self.path.clone());
            }
            Record::Log(dir) => {
                self.state(dir, self.sent_state())?;
                self.is_there();
                return Ok(self.path.clone());
            }
            Record::Nowhere => return Ok(self.path.clone()),
        };
        let is_logged = self.meta.is_message()
            && message_record::add(&document.dir, &self.meta, self.sent_state(), &self.path)?;
        if is_logged && !self.is_left() {
            let name = format!("{}.meta", document.stem);
            let removed = document.dir.remove_file(name);
            removed.map_err(|e| Error::io("remove", &self.path, &e))?;
            return Ok(message_record::path(&self.path));
        }
        if self.is_left() {
            let path = document.become_(LEFT, &self.meta, &self.path)?;
            self.is_there();
            return Ok(path);
        }
        document.become_("done", &as_delivered(delivered, &self.meta), &self.path)
    }

    fn state(&self, dir: &Dir, state: SentState) -> Result<(), Error> {
        match self.meta.id {
            Some(id) => message_record::state(dir, id, &state, &self.path),
            None => Ok(()),
        }
    }

    /// What became of a message that was taken.
    fn sent_state(&self) -> SentState {
        match self.is_left() {
            true => SentState::Left,
            false => SentState::Delivered,
        }
    }

    /// From here on its receipt ends the letter. If that is not recorded, the document tells.
    fn is_there(&self) {
        if let Some(Letter { number, journal }) = self.left.get() {
            let number = *number;
            let left = journal.quietly(false, move |db| letters::proceed(db, &number, Stage::Left));
            let _ = left.wait();
        }
    }

    /// Turns the `.meta` into a `.failed`, with the reason in it. Returns the path of that, or
    /// without a `.meta` that of the file.
    pub fn failed(&self, reason: &Error) -> Result<PathBuf, Error> {
        let document = match &self.record {
            Record::Document(document) => document,
            Record::Row(attempt) => {
                attempt.failed(reason);
                return Ok(self.path.clone());
            }
            Record::Log(dir) => {
                self.state(dir, SentState::Failed(reason.sentence.clone()))?;
                return Ok(self.path.clone());
            }
            Record::Nowhere => return Ok(self.path.clone()),
        };
        if self.meta.is_message() {
            let failed = SentState::Failed(reason.sentence.clone());
            message_record::add(&document.dir, &self.meta, failed, &self.path)?;
        }
        let mut meta = self.meta.clone();
        meta.error.clone_from(&reason.sentence);
        document.become_("failed", &meta, &self.path)
    }

    /// Puts things back as they were: nothing of it was begun, for the given reason. The journal
    /// records it as failed.
    pub fn leave(&self, reason: &Error) -> Result<(), Error> {
        match &self.record {
            Record::Document(document) => document.leave(&self.path),
            Record::Row(attempt) => {
                attempt.failed(reason);
                Ok(())
            }
            Record::Log(_) | Record::Nowhere => Ok(()),
        }
    }

    /// Turns the `.failed` that was read into the `.meta`, unless there is one.
    pub(super) fn requeue(&mut self) -> Result<(), Error> {
        match &mut self.record {
            Record::Document(document) => document.requeue(&self.path),
            Record::Row(_) | Record::Log(_) | Record::Nowhere => Ok(()),
        }
    }

    /// Writes the document as it is sent into the `.meta`.
    pub(super) fn write_down(&mut self) -> Result<(), Error> {
        match &mut self.record {
            Record::Document(document) => document.write_down(&self.meta, &self.path),
            Record::Row(_) | Record::Log(_) | Record::Nowhere => Ok(()),
        }
    }
}

/// What a receiver made of a document, with our own notes about the file.
pub(super) fn as_delivered(delivered: &Meta, sent: &Meta) -> Meta {
    let mut meta = delivered.clone();
    for field in [SOURCE_PATH, SOURCE_VERSION] {
        if let Some(value) = sent.extra.get(field) {
            meta.extra.insert(field.to_owned(), value.clone());
        }
    }
    meta
}

impl Document {
    fn leave(&self, path: &Path) -> Result<(), Error> {
        if self.origin == Origin::Found {
            return Ok(());
        }
        let [meta, failed] = ["meta", "failed"].map(|ending| format!("{}.{ending}", self.stem));
        file::rename_to_free(&self.dir, &meta, &self.dir, &failed)
            .map_err(|e| Error::io("rename", path, &e))
    }

    fn become_(&self, ending: &str, meta: &Meta, path: &Path) -> Result<PathBuf, Error> {
        let path = path.with_file_name(format!("{}.{ending}", self.stem));
        let (name, new) = (
            format!("{}.meta", self.stem),
            format!("{}.{ending}", self.stem),
        );
        let mut text = meta.to_file();
        let was = self.lock.metadata().map_or(0, |about| {
            usize::try_from(about.len()).unwrap_or(usize::MAX)
        });
        // White space after the object: a file that is overwritten without getting shorter is whole
        // at every moment.
        let len = text.len().max(was);
        let became = match len {
            // One copy of what a person wrote is safe at every moment.
            _ if ending == "failed" => file::replace(&self.dir, &new, 0o644, &text)
                .and_then(|()| self.dir.remove_file(&name)),
            // The document as it was delivered has everything that the person wrote, so it may
            // replace the original. A reader meanwhile sees the old text or the new one, a process
            // that waits for the lock finds the name gone; and if we are killed before the rename,
            // the .meta that stays describes the same transfer.
            ..=PAGE => {
                text.resize(len, b'\n');
                file::overwrite_unflushed(&self.dir, &name, 0o644, &text)
                    .and_then(|()| self.dir.rename(&name, &self.dir, &new))
            }
            _ => file::Unnamed::write(&self.dir, 0o644, &text)
                .and_then(|file| file.replace(&new))
                .and_then(|()| self.dir.remove_file(&name)),
        };
        became.map_err(|e| Error::io("write", &path, &e))?;
        Ok(path)
    }

    fn requeue(&mut self, path: &Path) -> Result<(), Error> {
        let stem = &self.stem;
        let (failed, name) = (format!("{stem}.failed"), format!("{stem}.meta"));
        match file::rename_to_free(&self.dir, &failed, &self.dir, &name) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let sentence = format!(
                    "{} exists beside {failed}: send that one, or remove it first",
                    path.display()
                );
                return Err(Error::new(Code::Failed, sentence));
            }
            Err(e) => return Err(Error::io("write", path, &e)),
        }
        self.origin = Origin::Requeued;
        Ok(())
    }

    fn write_down(&mut self, meta: &Meta, path: &Path) -> Result<(), Error> {
        let name = format!("{}.meta", self.stem);
        let at = |e: io::Error| Error::io("write", path, &e);
        file::replace(&self.dir, &name, 0o644, &meta.to_file()).map_err(at)?;
        // It is a different file now; a process that locked it in between has it in hand.
        let (lock, _) = file::open(&self.dir, &name).map_err(at)?;
        let lock = lock.into_std();
        if let Err(std::fs::TryLockError::WouldBlock) = lock.try_lock() {
            return Err(being_sent(path));
        }
        self.lock = lock;
        Ok(())
    }
}

/// Fails if the document says a different size than the file has.
pub fn check_size(meta: &Meta, len: u64) -> Result<(), Error> {
    match meta.filesize {
        Some(claimed) if claimed != len => Err(Error::new(
            Code::Integrity,
            format!(
                "filesize is {claimed}, but the file has {len} bytes: correct the .meta, or leave filesize out",
            ),
        )),
        _ => Ok(()),
    }
}

/// Opens a regular file that is to be sent.
pub fn open_source(path: &Path) -> Result<(File, Version), Error> {
    let opened = open_any(path, OFlags::empty());
    let (file, about) = opened.map_err(|e| Error::io("open", path, &e))?;
    match about.is_file() {
        true => Ok((file, Version::from(&about))),
        false => Err(not_regular(path)),
    }
}

/// Opens whatever there is, to read it.
pub(super) fn open_any(path: &Path, flags: OFlags) -> io::Result<(File, Metadata)> {
    // Opening a pipe would otherwise wait for its other end; a regular file ignores the flag.
    let flags = OFlags::NONBLOCK | flags;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let about = file.metadata()?;
    Ok((file, about))
}

pub(super) fn not_regular(path: &Path) -> Error {
    let sentence = format!("cannot send {}: it is not a regular file", path.display());
    Error::new(Code::Failed, sentence)
}

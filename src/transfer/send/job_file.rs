//! A `.meta` or `.failed` that is read and locked, and that nothing has been done about yet.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use cap_std::{
    ambient_authority,
    fs::{Dir, MetadataExt},
};
use sha2::{Digest, Sha256};

use super::send_job::{Document, Origin, Record, SendJob, open_source};
use crate::{
    error::{Code, Error},
    json::Value,
    message::MessageError,
    meta::{self, Meta, SOURCE_PATH, SOURCE_VERSION, TransferId, datetime_now},
    root::{file, name::Name, tree::TreePath, user::User, version::Version},
    store::{Contents, NoContents, local::LocalContents},
};

/// The ending of a document to be sent, and of one that could not be sent.
const ENDINGS: [&str; 2] = [".meta", ".failed"];

/// The directory of the last document: the next is often in the same one.
#[derive(Default)]
pub struct LastDir(Option<(PathBuf, Arc<Dir>)>);

impl LastDir {
    fn open(&mut self, parent: &Path) -> io::Result<Arc<Dir>> {
        if let Self(Some((path, dir))) = self
            && path == parent
        {
            return Ok(dir.clone());
        }
        let dir = Arc::new(Dir::open_ambient_dir(parent, ambient_authority())?);
        self.0 = Some((parent.to_owned(), dir.clone()));
        Ok(dir)
    }
}

/// A document to be sent, as a person wrote it.
pub struct JobFile {
    dir: Arc<Dir>,
    stem: String,
    again: bool,
    /// Where its `.meta` is.
    path: PathBuf,
    meta: Meta,
    /// Identifies the document that was read, and no other one.
    digest: Sha256,
    lock: File,
}

/// An open document that was not read yet.
struct Opened<'a> {
    path: &'a Path,
    dir: Arc<Dir>,
    name: &'a str,
    stem: &'a str,
    document: File,
    inode: u64,
}

impl<'a> Opened<'a> {
    fn open(path: &'a Path, last_dir: &mut LastDir) -> Result<Self, Error> {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some((name, stem)) = name.and_then(|name| {
            let stem = ENDINGS.iter().find_map(|end| name.strip_suffix(end));
            Some((name, stem?))
        }) else {
            return Err(Error::new(
                Code::Usage,
                format!(
                    "cannot send {}: add the receiver as NAME:FOLDER, like roland-frei:photo, or name a .meta file",
                    path.display()
                ),
            ));
        };
        let at = |e: io::Error| Error::io("open", path, &e);
        let dir = last_dir.open(parent(path)).map_err(at)?;
        let (document, about) = file::open(&dir, name).map_err(at)?;
        Ok(Self {
            path,
            dir,
            name,
            stem,
            document: document.into_std(),
            inode: about.ino(),
        })
    }

    /// Keeps others from sending it.
    fn lock(self) -> Result<Self, Error> {
        match self.document.try_lock() {
            // The process that had it until now may have sent it.
            Ok(()) if self.is_there() => Ok(self),
            Ok(()) => {
                let gone = io::ErrorKind::NotFound.into();
                Err(Error::io("open", self.path, &gone))
            }
            Err(TryLockError::WouldBlock) => Err(being_sent(self.path)),
            // Some file systems have no locks; the receiver takes one attempt at a time.
            Err(TryLockError::Error(_)) => Ok(self),
        }
    }

    /// Whether the open document still has its name.
    fn is_there(&self) -> bool {
        let there = self.dir.metadata(self.name);
        there.is_ok_and(|there| there.ino() == self.inode)
    }

    fn read(self) -> Result<JobFile, Error> {
        let path = self.path;
        let at = |e: io::Error| Error::io("open", path, &e);
        let version = Version::of(&self.document).map_err(at)?;
        let text = file::read_open(&self.document, meta::MAX_LEN).map_err(at)?;
        let meta = Meta::from_file(&text).map_err(|e| {
            Error::new(Code::Failed, format!("cannot read {}: {e}", path.display()))
        })?;
        Ok(JobFile {
            dir: self.dir,
            stem: self.stem.to_owned(),
            again: self.name.ends_with(".failed"),
            path: path.with_file_name(format!("{}.meta", self.stem)),
            meta,
            digest: Sha256::new_with_prefix(version.to_bytes()).chain_update(&text),
            lock: self.document,
        })
    }
}

impl JobFile {
    /// Keeps others from sending a `.meta` or a `.failed`, and reads it: in this order, so that it
    /// does not read what an earlier holder is still writing.
    pub fn read(path: &Path, last_dir: &mut LastDir) -> Result<Self, Error> {
        Opened::open(path, last_dir)?.lock()?.read()
    }

    /// Only reads it: it cannot be sent.
    pub fn read_unlocked(path: &Path, last_dir: &mut LastDir) -> Result<Self, Error> {
        Opened::open(path, last_dir)?.read()
    }

    /// The document.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Where the file that it describes is; `None` for a message, which has none.
    pub fn source(&self) -> Result<Option<PathBuf>, Error> {
        let wrong = |e: MessageError| Error::new(Code::Usage, e.to_string());
        match self.meta.message().transpose().map_err(wrong)? {
            Some(_) => Ok(None),
            None => self.file().map(Some),
        }
    }

    fn file(&self) -> Result<PathBuf, Error> {
        match self.meta.extra.get(SOURCE_PATH) {
            Some(Value::String(path)) => return Ok(path.into()),
            Some(_) => {
                let sentence = format!("the field {SOURCE_PATH:?} must be text");
                return Err(Error::new(Code::Failed, sentence));
            }
            None => {}
        }
        let name = self.meta.filename.as_str();
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(Error::new(
                Code::Failed,
                format!("filename is {name:?}, must be the name of a file beside the .meta"),
            ));
        }
        Ok(parent(&self.path).join(name))
    }

    /// Opens the file. The `id`, if the document lacks it, follows from document and file,
    /// so that every attempt is the same transfer and nothing has to be written down; a file that
    /// changed since is a different transfer.
    ///
    /// A `.failed` becomes a `.meta` again, once it is known that its file is there.
    pub fn open(self) -> Result<SendJob, Error> {
        self.open_by(open_source)
    }

    /// [`Self::open`] for what nobody reviews before it is sent: only files in a folder of this
    /// user.
    pub fn open_of(self, user: &User) -> Result<SendJob, Error> {
        self.open_by(|source| open_of(user, source))
    }

    fn open_by(
        self,
        open_source: impl FnOnce(&Path) -> Result<(File, Version), Error>,
    ) -> Result<SendJob, Error> {
        let source = self.source()?;
        let is_message = source.is_none();
        let (contents, version): (Arc<dyn Contents>, _) = match source {
            None => (Arc::new(NoContents), Version::in_memory(0, 0)),
            Some(source) => {
                let (file, version) = open_source(&source)?;
                (Arc::new(LocalContents(file)), version)
            }
        };
        let Self {
            dir,
            stem,
            again,
            path,
            mut meta,
            digest,
            lock,
            ..
        } = self;
        let text = Value::from(version.to_text());
        let had = match is_message {
            true => Some(text.clone()),
            false => meta.extra.insert(SOURCE_VERSION.to_owned(), text.clone()),
        };
        // An id that a person chose stands for the version that the file has now.
        let is_new = had.is_none() && meta.id.is_some();
        if had.is_some_and(|had| had != text) {
            // What the document says of the file describes the version before.
            (meta.id, meta.filesize, meta.file_crc) = (None, None, None);
            meta.datetime.clear();
        }
        if meta.id.is_none() {
            let digest: [u8; 32] = digest.chain_update(version.to_bytes()).finalize().into();
            meta.id = digest.first_chunk().copied().map(TransferId);
        }
        if meta.datetime.is_empty() {
            meta.datetime = datetime_now();
        }
        meta.error.clear();
        let record = Record::Document(Document {
            dir,
            stem,
            origin: Origin::Found,
            lock,
        });
        let mut out = SendJob::new(path, meta, contents, version, record);
        if again {
            out.requeue()?;
        }
        if is_new {
            out.write_down()?;
        }
        Ok(out)
    }
}

/// The error for a document that another process is sending.
pub(super) fn being_sent(path: &Path) -> Error {
    let sentence = format!("another m2y process is sending {}", path.display());
    Error::new(Code::Later, sentence)
}

/// The directory of a path.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Opens a file in a folder of the user, through handles that no link leads out of: a `.meta` may
/// name any file, and the server may be able to read it.
fn open_of(user: &User, path: &Path) -> Result<(File, Version), Error> {
    let at = |e: io::Error| Error::io("open", path, &e);
    let outside = || {
        let sentence = format!(
            "cannot send {}: an outbox sends only files in the folders of its user",
            path.display()
        );
        Error::new(Code::Refused, sentence)
    };
    let home = user.path().canonicalize().map_err(at)?;
    let parent = path.parent().ok_or_else(outside)?;
    let parent = parent.canonicalize().map_err(at)?;
    let inside = parent.strip_prefix(home).map_err(|_| outside())?;
    let inside = inside.to_str().and_then(TreePath::parse);
    let inside = inside.ok_or_else(outside)?;
    // A folder, or a directory in one: not the directory of the keys.
    let (folder, _) = inside.split_first().ok_or_else(outside)?;
    Name::folder(folder).map_err(|_| outside())?;
    let name = path.file_name().ok_or_else(outside)?;
    let dir = user.dir().open_dir(inside.join()).map_err(at)?;
    let (file, _) = file::open(&dir, name).map_err(at)?;
    let file = file.into_std();
    let version = Version::of(&file).map_err(at)?;
    Ok((file, version))
}

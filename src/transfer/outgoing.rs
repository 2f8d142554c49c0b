//! A `.meta` on the sender's side: what is to be sent, and what became of it.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};

use crate::{
    crypto::random,
    error::{Code, Error},
    json::Value,
    meta::{self, Meta, SOURCE_PATH, SOURCE_VERSION, TransferId, datetime_now, is_extra},
    root::{file, name::Name, user::User},
};

/// Something to be sent: a `.meta` with the file that it describes.
pub struct Outgoing {
    dir: Dir,
    stem: String,
    path: PathBuf,
    meta: Meta,
    file: File,
    version: Version,
    /// Keeps the `.meta` locked, so that nobody else sends it at the same time.
    _lock: File,
}

/// By which a change of a file is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    len: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

impl Version {
    /// The version that an open file has now.
    pub fn of(file: &File) -> io::Result<Self> {
        let about = file.metadata()?;
        Ok(Self {
            len: about.len(),
            device: about.dev(),
            inode: about.ino(),
            modified: (about.mtime(), about.mtime_nsec()),
        })
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// As it stands in a `.meta`.
    fn to_text(self) -> String {
        let (seconds, nanos) = self.modified;
        let Self { len, inode, .. } = self;
        format!("{len} bytes, {seconds}.{nanos:09}, inode {inode}")
    }
}

/// What the name of a document to be sent ends with, and that of one that could not
/// be sent.
const ENDINGS: [&str; 2] = [".meta", ".failed"];

impl Outgoing {
    /// Reads a `.meta` and opens its file. What is missing of `id` and `datetime`
    /// is put in and written down first, so that every attempt is the same transfer;
    /// a file that changed since is another transfer.
    ///
    /// A `.failed` becomes a `.meta` again, once it is known that its file is there.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_by(path, open_source)
    }

    /// [`Self::open`] for what nobody looks at before it is sent: only files that lie
    /// in a folder of this user.
    pub fn open_of(user: &User, path: &Path) -> Result<Self, Error> {
        Self::open_by(path, |source| open_of(user, source))
    }

    fn open_by(
        path: &Path,
        open_source: impl FnOnce(&Path) -> Result<(File, Version), Error>,
    ) -> Result<Self, Error> {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some((name, stem)) = name.and_then(|name| {
            let stem = ENDINGS.iter().find_map(|end| name.strip_suffix(end));
            Some((name, stem?))
        }) else {
            return Err(Error::new(
                Code::Usage,
                format!(
                    "{} is no .meta file: its name must end with .meta, or .failed to send it again",
                    path.display()
                ),
            ));
        };
        let again = name.ends_with(".failed");
        let at = |e: io::Error| Error::io("open", path, &e);
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let dir = Dir::open_ambient_dir(parent, ambient_authority()).map_err(at)?;
        let mut locked = lock(&dir, name, path)?;
        let text = file::read(&dir, name, meta::MAX_LEN).map_err(at)?;
        let mut meta = Meta::from_file(&text).map_err(|e| {
            Error::new(Code::Failed, format!("cannot read {}: {e}", path.display()))
        })?;
        let source = source(parent, &meta)?;
        let (file, version) = open_source(&source)?;
        let before = meta.clone();
        let text = Value::from(version.to_text());
        let had = meta.extra.insert(SOURCE_VERSION.to_owned(), text.clone());
        if had.is_some_and(|had| had != text) {
            // What the document says of the file is of the version before.
            (meta.id, meta.filesize, meta.file_crc) = (None, None, None);
            meta.datetime.clear();
        }
        if meta.id.is_none() {
            let id = random().map_err(|e| Error::new(Code::Failed, e.to_string()))?;
            meta.id = Some(TransferId(id));
        }
        if meta.datetime.is_empty() {
            meta.datetime = datetime_now();
        }
        meta.error.clear();
        let path = path.with_file_name(format!("{stem}.meta"));
        let name = format!("{stem}.meta");
        if again {
            revive(&dir, stem, &path, &meta)?;
        } else if meta != before {
            file::replace(&dir, &name, 0o644, &meta.to_file())
                .map_err(|e| Error::io("write", &path, &e))?;
        }
        if again || meta != before {
            // It is another file now.
            locked = lock(&dir, &name, &path)?;
        }
        Ok(Self {
            _lock: locked,
            dir,
            stem: stem.to_owned(),
            path,
            meta,
            file,
            version,
        })
    }

    /// Where the `.meta` is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The document, as it is in the `.meta`.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.version.len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.version.len == 0
    }

    /// The document as the receiver gets it. Fails if it says another size.
    pub fn request(&self) -> Result<Meta, Error> {
        let mut meta = self.meta.clone();
        if meta
            .filesize
            .is_some_and(|claimed| claimed != self.version.len)
        {
            return Err(Error::new(
                Code::Integrity,
                format!(
                    "filesize is {}, but the file has {} bytes: mend the .meta, or leave filesize out",
                    meta.filesize.unwrap_or_default(),
                    self.version.len
                ),
            ));
        }
        meta.filesize = Some(self.version.len);
        meta.extra.retain(|field, _| is_extra(field));
        Ok(meta)
    }

    /// The open file, to read from its beginning, and the version to be sent.
    pub fn source(&self) -> io::Result<(File, Version)> {
        use std::io::Seek;
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        Ok((file, self.version))
    }

    /// Makes the `.meta` a `.done`, with what the receiver made of the document.
    pub fn done(&self, delivered: &Meta) -> Result<PathBuf, Error> {
        let mut meta = delivered.clone();
        for field in [SOURCE_PATH, SOURCE_VERSION] {
            if let Some(value) = self.meta.extra.get(field) {
                meta.extra.insert(field.to_owned(), value.clone());
            }
        }
        self.become_("done", &meta)
    }

    /// Makes the `.meta` a `.failed`, with the reason in it.
    pub fn failed(&self, reason: &Error) -> Result<PathBuf, Error> {
        let mut meta = self.meta.clone();
        meta.error.clone_from(&reason.sentence);
        self.become_("failed", &meta)
    }

    fn become_(&self, ending: &str, meta: &Meta) -> Result<PathBuf, Error> {
        let path = self.path.with_file_name(format!("{}.{ending}", self.stem));
        file::replace(
            &self.dir,
            &format!("{}.{ending}", self.stem),
            0o644,
            &meta.to_file(),
        )
        .and_then(|()| self.dir.remove_file(format!("{}.meta", self.stem)))
        .map_err(|e| Error::io("write", &path, &e))?;
        Ok(path)
    }
}

/// Makes a `.failed` the `.meta` at `path`, unless there is one.
fn revive(dir: &Dir, stem: &str, path: &Path, meta: &Meta) -> Result<(), Error> {
    match file::create(dir, &format!("{stem}.meta"), 0o644, &meta.to_file()) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let sentence = format!(
                "{} is there beside {stem}.failed: send that one, or take it away first",
                path.display()
            );
            return Err(Error::new(Code::Failed, sentence));
        }
        Err(e) => return Err(Error::io("write", path, &e)),
    }
    let failed = format!("{stem}.failed");
    dir.remove_file(&failed)
        .map_err(|e| Error::io("remove", &path.with_file_name(&failed), &e))
}

fn lock(dir: &Dir, name: &str, path: &Path) -> Result<File, Error> {
    let (file, _) = file::open(dir, name).map_err(|e| Error::io("open", path, &e))?;
    let file = file.into_std();
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            Code::Later,
            format!("{} is being sent by another m2y", path.display()),
        )),
        // Some file systems have no locks; the receiver takes one attempt at a time.
        Err(TryLockError::Error(_)) => Ok(file),
    }
}

fn source(folder: &Path, meta: &Meta) -> Result<PathBuf, Error> {
    match meta.extra.get(SOURCE_PATH) {
        Some(Value::String(path)) => return Ok(path.into()),
        Some(_) => {
            let sentence = format!("the field {SOURCE_PATH:?} must be text");
            return Err(Error::new(Code::Failed, sentence));
        }
        None => {}
    }
    let name = meta.filename.as_str();
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::new(
            Code::Failed,
            format!("filename is {name:?}, must be the name of a file beside the .meta"),
        ));
    }
    Ok(folder.join(name))
}

/// Opens a file that lies in a folder of the user, through handles that no link leads out
/// of: a `.meta` may name any file, and the server may be able to read it.
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
    let folder = parent.strip_prefix(home).map_err(|_| outside())?;
    let folder = folder
        .to_str()
        .and_then(|folder| Name::folder(folder).ok())
        .ok_or_else(outside)?;
    let name = path.file_name().ok_or_else(outside)?;
    let dir = user.dir().open_dir(folder.as_str()).map_err(at)?;
    let (file, _) = file::open(&dir, name).map_err(at)?;
    let file = file.into_std();
    let version = Version::of(&file).map_err(at)?;
    Ok((file, version))
}

fn open_source(path: &Path) -> Result<(File, Version), Error> {
    let at = |e: io::Error| Error::io("open", path, &e);
    // Asked before it is opened: to open a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(at)?.is_file() {
        let sentence = format!("cannot send {}: it is not a regular file", path.display());
        return Err(Error::new(Code::Failed, sentence));
    }
    let file = File::open(path).map_err(at)?;
    let version = Version::of(&file).map_err(at)?;
    Ok((file, version))
}

//! The documents in a folder of a sender: a new `.meta` for each file that a person names, and
//! what those of earlier times say of it.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use cap_std::{ambient_authority, fs::Dir};
use rustix::{fs::OFlags, io::Errno};

use super::{
    job_file::{JobFile, LastDir},
    send_job::{Origin, SendJob, not_regular, open_any},
};
use crate::{
    crypto::random,
    error::{Code, Error},
    json::Value,
    meta::{Meta, SOURCE_PATH, SOURCE_VERSION, TransferId, datetime_now},
    root::meta_file::{stem, under_free_name},
    root::{file::Unnamed, version::Version},
    store::local::LocalContents,
};

/// In the meta of a file that was found in a directory: where in it, as text.
pub const PATH: &str = "path";

/// A folder, and what its new `.meta` have in common.
pub struct JobFiles {
    path: PathBuf,
    full: PathBuf,
    dir: Arc<Dir>,
    template: Meta,
    /// What has a document here already, if that matters.
    before: Option<HashMap<PathBuf, Before>>,
    /// How many names of a stem are taken, as far as it was seen.
    clashes: HashMap<String, u32>,
}

/// A document of an earlier time.
struct Before {
    /// The version of the file that it speaks of.
    version: String,
    path: PathBuf,
}

/// A file that is to be sent.
pub struct SourceFile {
    file: std::fs::File,
    version: Version,
    parent: PathBuf,
    name: String,
    /// The name by which a person called it, which may be that of a link.
    called: String,
}

impl SourceFile {
    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.version.len()
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.version.is_empty()
    }
}

/// Opens files, and knows where the directory is that the file before lay in.
#[derive(Default)]
pub struct SourceFiles {
    parent: Option<(PathBuf, PathBuf)>,
}

impl SourceFiles {
    /// Opens a file, by a name that may be a link.
    pub fn open(&mut self, path: &Path) -> Result<SourceFile, Error> {
        let at = |e: io::Error| Error::io("open", path, &e);
        let (file, about, full) = match open_any(path, OFlags::NOFOLLOW) {
            Ok((file, about)) => (file, about, path.to_owned()),
            Err(e) if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                let full = path.canonicalize().map_err(at)?;
                let (file, about) = open_any(&full, OFlags::NOFOLLOW).map_err(at)?;
                (file, about, full)
            }
            // A socket.
            Err(e) if e.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                return Err(not_regular(path));
            }
            Err(e) => return Err(at(e)),
        };
        if about.is_dir() {
            let path = path.display();
            let sentence = format!("{path} is a directory: add --recursive to send what is in it");
            return Err(Error::new(Code::Usage, sentence));
        }
        if !about.is_file() {
            return Err(not_regular(path));
        }
        let name_of = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
        let not_text = || {
            let sentence = format!("cannot send {}: its name is not UTF-8", path.display());
            Error::new(Code::Failed, sentence)
        };
        let name = name_of(&full).ok_or_else(not_text)?;
        let called = match path.file_name() {
            Some(_) => name_of(path).ok_or_else(not_text)?,
            None => name.clone(),
        };
        Ok(SourceFile {
            version: Version::from(&about),
            parent: self.parent_of(&full).map_err(at)?,
            name,
            called,
            file,
        })
    }

    fn parent_of(&mut self, file: &Path) -> io::Result<PathBuf> {
        let parent = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if let Some((path, full)) = &self.parent
            && path == parent
        {
            return Ok(full.clone());
        }
        let full = parent.canonicalize()?;
        self.parent = Some((parent.to_owned(), full.clone()));
        Ok(full)
    }
}

impl JobFiles {
    /// The folder at `path`, which is there.
    pub fn open(path: &Path, template: Meta) -> Result<Self, Error> {
        let at = |e: io::Error| Error::io("open", path, &e);
        Ok(Self {
            path: path.to_owned(),
            full: path.canonicalize().map_err(at)?,
            dir: Arc::new(Dir::open_ambient_dir(path, ambient_authority()).map_err(at)?),
            template,
            before: None,
            clashes: HashMap::new(),
        })
    }

    /// From now on knows which files have a document here already, for the same receiver
    /// and folder: [`Self::sent`], [`Self::unsent`].
    pub fn remember(&mut self) -> Result<(), Error> {
        let mut before: HashMap<PathBuf, Before> = HashMap::new();
        let at = |e: io::Error| Error::io("open", &self.path, &e);
        let mut last_dir = LastDir::default();
        for entry in self.dir.entries().map_err(at)? {
            let name = entry.map_err(at)?.file_name();
            let path = self.path.join(&name);
            // One that cannot be read is no document of an earlier time.
            let Ok(job_file) = JobFile::read_any(&path, &mut last_dir) else {
                continue;
            };
            let (meta, template) = (job_file.meta(), &self.template);
            let same = (&meta.from, &meta.to, &meta.folder)
                == (&template.from, &template.to, &template.folder);
            let (Some(Value::String(version)), true, Ok(source)) =
                (meta.extra.get(SOURCE_VERSION), same, job_file.source())
            else {
                continue;
            };
            let source = match source.strip_prefix(&self.path) {
                Ok(name) => self.full.join(name),
                Err(_) => source,
            };
            let known = before.get(&source);
            let is_done = |path: &Path| path.extension().is_some_and(|e| e == "done");
            if known.is_some_and(|known| known.version == *version && is_done(&known.path)) {
                continue;
            }
            let version = version.clone();
            before.insert(source, Before { version, path });
        }
        self.before = Some(before);
        Ok(())
    }

    /// What its new `.meta` have in common.
    pub fn template(&self) -> &Meta {
        &self.template
    }

    fn before(&self, source: &SourceFile) -> Option<&Before> {
        let before = self.before.as_ref()?;
        let before = before.get(&source.parent.join(&source.name))?;
        (before.version == source.version.to_text()).then_some(before)
    }

    /// The `.done` of a file that was sent and has not changed since.
    pub fn sent(&self, source: &SourceFile) -> Option<&Path> {
        let path = &self.before(source)?.path;
        path.extension()
            .is_some_and(|e| e == "done")
            .then_some(path)
    }

    /// The `.meta` or `.failed` of a file that was to be sent and has not changed since.
    pub fn unsent(&self, source: &SourceFile) -> Option<&Path> {
        let path = &self.before(source)?.path;
        path.extension()
            .is_some_and(|e| e != "done")
            .then_some(path)
    }

    /// Writes a `.meta` under a name that is free here; `path` is where in a directory the
    /// file was found. Nothing is flushed: the file itself is the truth.
    pub fn add(&mut self, source: SourceFile, path: Option<&Path>) -> Result<SendJob, Error> {
        let not_text = || {
            let path = source.parent.join(&source.name);
            let sentence = format!("cannot send {}: its path is not UTF-8", path.display());
            Error::new(Code::Failed, sentence)
        };
        let mut meta = self.template.clone();
        meta.filename.clone_from(&source.called);
        if let Some(path) = path {
            let path = path.to_str().ok_or_else(not_text)?;
            meta.extra.insert(PATH.to_owned(), Value::from(path));
        }
        if source.parent != self.full || source.called != source.name {
            let full = source.parent.join(&source.name);
            let full = full.to_str().ok_or_else(not_text)?;
            meta.extra.insert(SOURCE_PATH.to_owned(), Value::from(full));
        }
        let version = Value::from(source.version.to_text());
        meta.extra.insert(SOURCE_VERSION.to_owned(), version);
        let id = random().map_err(|e| Error::new(Code::Failed, e.to_string()))?;
        meta.id = Some(TransferId(id));
        meta.datetime = datetime_now();

        let at = |e: io::Error| Error::io("write into", &self.path, &e);
        let text = meta.to_file();
        let mut new = Unnamed::write(&self.dir, 0o644, &text).map_err(at)?;
        let clash = self.clashes.entry(stem(&source.called, 1)).or_insert(0);
        let (stem, lock) =
            under_free_name(&self.dir, &source.called, clash, |name| new.name(name)).map_err(at)?;
        Ok(SendJob {
            dir: self.dir.clone(),
            path: self.path.join(format!("{stem}.meta")),
            stem,
            meta,
            contents: Arc::new(LocalContents(source.file)),
            version: source.version,
            origin: Origin::Made(text.len()),
            lock,
        })
    }
}

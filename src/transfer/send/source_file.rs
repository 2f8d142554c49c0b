//! Files that a person names to send.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{fs::OFlags, io::Errno};

use super::{
    send_job::{not_regular, open_any},
    shared_file::ReadCache,
};
use crate::{
    error::{Code, Error},
    root::version::Version,
    store::{Contents, local::LocalContents},
};

/// A file to be sent. Clones are the same open file.
#[derive(Clone)]
pub struct SourceFile {
    pub(super) contents: Arc<dyn Contents>,
    pub(super) version: Version,
    parent: PathBuf,
    name: String,
    /// The name that a person used for it, which may be that of a link.
    pub(super) called: String,
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

    /// Where it is: its full path.
    pub fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    /// The same file, read through a cache: for several receivers.
    #[must_use]
    pub fn shared(self, cache: &ReadCache) -> Self {
        Self {
            contents: Arc::new(cache.share(self.contents.clone())),
            ..self
        }
    }

    /// The same file, as a person called it at another time.
    #[must_use]
    pub fn called(self, called: String) -> Self {
        Self { called, ..self }
    }
}

/// Opens files, and remembers the directory of the previous file.
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
            let sentence = format!("{path} is a directory: add --recursive to send it");
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
            contents: Arc::new(LocalContents(file)),
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

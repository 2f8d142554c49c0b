//! The files of a folder as its scripts see them: contents in the folder's store, and the
//! documents beside them in its directory.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use cap_std::fs::{Dir, Metadata, MetadataExt};

use super::digests::Version;
use crate::{
    crypto::random,
    root::{
        file::{self, nanos},
        folder::Folder,
        tree::{is_own, open_below},
    },
    store::{
        ContentPath, Contents, Existing, Kind, PartialName, Reader, Stat, Store, Stores, Target,
        local::{LocalContents, LocalStore},
    },
};

/// Bytes that are copied at once if a file cannot just be renamed.
const COPIED: usize = 262_144;

/// The files of one folder.
#[derive(Clone)]
pub struct Files {
    folder: Folder,
    store: Arc<dyn Store>,
}

/// What identifies a file, under whatever name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What is known of it.
    pub stat: Stat,
    /// Its number on this machine; 0 in a store elsewhere, which has none.
    pub inode: u64,
}

/// Where a name leads.
enum FileKind {
    Contents(ContentPath),
    Document,
}

impl Files {
    /// The files of a folder.
    pub fn new(folder: &Folder, stores: &Stores) -> Self {
        Self {
            folder: folder.clone(),
            store: stores.of(folder),
        }
    }

    /// Where contents are.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    fn find(&self, path: &str) -> io::Result<FileKind> {
        let name = path.rsplit('/').next().unwrap_or(path);
        match is_own(name) {
            true => Ok(FileKind::Document),
            false => Ok(FileKind::Contents(ContentPath::parse(path)?)),
        }
    }

    /// What has a name, if anything does.
    pub fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        match self.find(name)? {
            FileKind::Contents(path) => self.store.stat(&path),
            FileKind::Document => {
                let about = about(self.folder.dir(), name)?;
                Ok(about.map(|about| Stat::from(&about)))
            }
        }
    }

    /// What has a name, and what identifies it.
    pub fn identity(&self, name: &str) -> io::Result<Option<Identity>> {
        let found = self.find(name)?;
        let Some(dir) = self.directory(&found) else {
            let stat = self.stat(name)?;
            return Ok(stat.map(|stat| Identity { stat, inode: 0 }));
        };
        let about = about(dir, name)?;
        Ok(about.map(|about| Identity {
            stat: Stat::from(&about),
            inode: about.ino(),
        }))
    }

    /// What identifies the contents of what has a name; `None` in a store elsewhere.
    pub fn version(&self, name: &str) -> io::Result<Option<Version>> {
        let found = self.find(name)?;
        let Some(dir) = self.directory(&found) else {
            return Ok(None);
        };
        let about = about(dir, name)?;
        Ok(about.map(|about| Version {
            device: about.dev(),
            inode: about.ino(),
            size: about.len(),
            modified: nanos(about.mtime(), about.mtime_nsec()),
            changed: nanos(about.ctime(), about.ctime_nsec()),
        }))
    }

    /// Opens a regular file for reading.
    pub fn open(&self, name: &str) -> io::Result<Box<dyn Contents>> {
        match self.find(name)? {
            FileKind::Contents(path) => self.store.open(&path),
            FileKind::Document => {
                let (dir, name) = below(self.folder.dir(), name)?;
                let (file, _) = file::open_itself(&dir, name)?;
                Ok(Box::new(LocalContents(file.into_std())))
            }
        }
    }

    /// The names of all regular files of a directory that a person sees: "" is the folder.
    pub fn names(
        &self,
        directory: &str,
    ) -> io::Result<impl Iterator<Item = io::Result<String>> + use<>> {
        let contents = self.store.names(&ContentPath::parse(directory)?)?;
        let contents = contents.filter_map(|entry| match entry {
            Ok((name, Kind::File)) => Some(Ok(name)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        let documents = match below(self.folder.dir(), &format!("{directory}/")) {
            Ok((dir, _)) => Some(dir.entries()?),
            // A store elsewhere: there may be none.
            Err(_) => None,
        };
        let documents = documents.into_iter().flatten().filter_map(|entry| {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            let name = entry.file_name().into_string().ok()?;
            let is_seen = !name.starts_with('.') && is_own(&name);
            (is_seen && entry.file_type().is_ok_and(|of| of.is_file())).then_some(Ok(name))
        });
        Ok(contents.chain(documents))
    }

    /// Makes a directory, unless it exists.
    pub fn make_dir(&self, path: &str) -> io::Result<()> {
        let there = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        };
        let content = ContentPath::parse(path)?;
        match self.store.make_dir(&content) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let stat = self.store.stat(&content)?;
                if stat.is_none_or(|stat| stat.kind != Kind::Directory) {
                    return Err(e);
                }
            }
            made => made?,
        }
        if self.store.as_local().is_some() {
            return Ok(());
        }
        self.store.settle_names(&[content])?;
        let (dir, name) = below(self.folder.dir(), path)?;
        dir.create_dir(name).or_else(there)
    }

    /// Puts a text into a new file, or in place of an existing one.
    pub fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        if let Some(local) = self.store.as_local() {
            let (dir, name) = below(local.dir(), name)?;
            return file::replace_unflushed(&dir, name, 0o644, text);
        }
        let path = ContentPath::parse(name)?;
        let replaced = Target {
            existing: Existing::Replace,
            ..Target::free(&path)
        };
        self.publish(&mut &*text, &replaced)?;
        self.store.settle_names(&[path])
    }

    /// Appends a text to a file, or puts it into a new one.
    pub fn append(&self, name: &str, text: &[u8]) -> io::Result<()> {
        if let Some(local) = self.store.as_local() {
            let (dir, name) = below(local.dir(), name)?;
            return file::append(&dir, name)?.write_all(text);
        }
        let path = ContentPath::parse(name)?;
        let before = match self.store.holds(&path)? {
            true => Some(self.store.open(&path)?),
            false => None,
        };
        let longer = Target {
            existing: Existing::Replace,
            ..Target::free(&path)
        };
        match &before {
            Some(before) => self.publish(&mut Reader::new(&**before).chain(text), &longer)?,
            None => self.publish(&mut &*text, &longer)?,
        }
        self.store.settle_names(&[path])
    }

    fn publish(&self, from: &mut dyn Read, to: &Target<'_>) -> io::Result<()> {
        let unused = random::<16>().map_err(io::Error::other)?;
        let partial = PartialName::new(&hex::encode(unused))?;
        let published = self.store.begin(&partial, 0).and_then(|mut sink| {
            let mut buffer = vec![0; COPIED];
            loop {
                match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => sink.append(&[buffer.get(..read).unwrap_or_default()])?,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            sink.settle()?;
            drop(sink);
            self.store.publish(&partial, to)
        });
        if published.is_err() {
            self.store.discard(&partial);
        }
        published
    }

    /// The local directory that names are below, if they are in one.
    fn directory(&self, found: &FileKind) -> Option<&Arc<Dir>> {
        match found {
            FileKind::Document => Some(self.folder.dir()),
            FileKind::Contents(_) => self.store.as_local().map(LocalStore::dir),
        }
    }

    /// Renames a file, here or into another folder. It fails with `AlreadyExists` if the name is
    /// taken, and with `CrossesDevices` between two disks of this machine.
    pub fn rename(&self, name: &str, there: &Self, to: &str) -> io::Result<()> {
        let (from, target) = (self.find(name)?, there.find(to)?);
        if let (Some(here), Some(dir)) = (self.directory(&from), there.directory(&target)) {
            let ((here, name), (dir, to)) = (below(here, name)?, below(dir, to)?);
            return file::rename_to_free(&here, name, &dir, to);
        }
        if let (FileKind::Contents(path), FileKind::Contents(to)) = (&from, &target)
            && Arc::ptr_eq(&self.store, &there.store)
        {
            self.store.rename(path, &Target::free(to))?;
            return self.store.settle_names(&[to.clone(), path.clone()]);
        }
        let contents = self.open(name)?;
        let mut reader = Reader::new(&*contents);
        match &target {
            FileKind::Contents(path) => there.publish(&mut reader, &Target::free(path))?,
            FileKind::Document => {
                let mut text = Vec::new();
                reader.take(crate::meta::MAX_LEN).read_to_end(&mut text)?;
                let (dir, to) = below(there.folder.dir(), to)?;
                file::create(&dir, to, 0o644, &text)?;
            }
        }
        self.remove(name)
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match self.find(name)? {
            FileKind::Contents(path) => self.store.remove(&path),
            FileKind::Document => {
                let (dir, name) = below(self.folder.dir(), name)?;
                dir.remove_file(name)
            }
        }
    }

    /// Whether a file can get a name in another folder: fails with `CrossesDevices` between two
    /// disks of this machine.
    pub fn can_move_to(&self, there: &Self) -> io::Result<()> {
        if let (Some(here), Some(there)) = (self.store.as_local(), there.store.as_local())
            && here.dir().dir_metadata()?.dev() != there.dir().dir_metadata()?.dev()
        {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        Ok(())
    }
}

/// What the system knows of what has a name below a directory, if anything does.
fn about(dir: &Arc<Dir>, name: &str) -> io::Result<Option<Metadata>> {
    match below(dir, name).and_then(|(dir, name)| dir.symlink_metadata(name)) {
        Ok(about) => Ok(Some(about)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The directory that a path is in, and its name there. No component leads out of it, and none may
/// be a symbolic link.
fn below<'a>(dir: &Arc<Dir>, path: &'a str) -> io::Result<(Arc<Dir>, &'a str)> {
    match path.rsplit_once('/') {
        None => Ok((dir.clone(), path)),
        Some((parents, name)) => {
            let parents = parents.split('/').filter(|name| !name.is_empty());
            Ok((Arc::new(open_below(dir, parents)?), name))
        }
    }
}

//! A folder on its way from one store to another: both together are its store.
//!
//! What is new goes to the store that the folder moves to; what is there already stays in
//! either until [`Moving::carry`] brings it over, file by file. Each path is in one of the two, or
//! for a moment in both, and then the new one counts. So nothing is missing at any moment.

use std::{
    collections::HashSet,
    io::{self, Read},
    iter,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use super::{
    ContentPath, Contents, Existing, Kind, Listing, PartialName, Reader, Sink, Stat, Store, Target,
};
use crate::crypto;

/// Bytes that are copied at a time.
const COPIED: usize = 1 << 20;

/// Two stores as one.
pub struct Moving {
    from: Arc<dyn Store>,
    to: Arc<dyn Store>,
    /// Finds the document of a file that is renamed on its way.
    document: Option<Box<FindDocument>>,
}

/// Finds the document of a file.
type FindDocument = dyn Fn(&ContentPath) -> io::Result<Option<(String, Vec<u8>)>> + Send + Sync;

/// What became of a file that was to be brought over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// It is in the new store only.
    Over,
    /// It changed, moved or went meanwhile.
    Changed,
}

impl Moving {
    /// A folder on its way.
    pub fn new(from: Arc<dyn Store>, to: Arc<dyn Store>) -> Self {
        Self {
            from,
            to,
            document: None,
        }
    }

    /// The same for a folder whose files have documents.
    #[must_use]
    pub fn with_documents(
        self,
        find: impl Fn(&ContentPath) -> io::Result<Option<(String, Vec<u8>)>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            document: Some(Box::new(find)),
            ..self
        }
    }

    /// Makes the directories above a path in the new store, as far as they are in the old one.
    fn make_parents(&self, path: &ContentPath) -> io::Result<()> {
        let parent = path.parent();
        if parent.is_root() || parent.is_quarantined() || self.to.holds(&parent)? {
            return Ok(());
        }
        match self.from.stat(&parent)? {
            Some(stat) if stat.kind == Kind::Directory => {}
            _ => return Err(io::ErrorKind::NotFound.into()),
        }
        self.make_parents(&parent)?;
        match self.to.make_dir(&parent) {
            // Somebody else was faster.
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    }

    /// What the old store has at a path, if the new one has nothing there.
    fn only_old(&self, path: &ContentPath) -> io::Result<Option<Stat>> {
        match self.to.stat(path)? {
            Some(_) => Ok(None),
            None => self.from.stat(path),
        }
    }

    /// Looks whether a path may be taken, and makes its directories in the new store.
    fn prepare(&self, to: &Target<'_>) -> io::Result<Option<Stat>> {
        let there = self.only_old(to.path)?;
        match there {
            Some(stat) if to.existing == Existing::Keep || stat.kind != Kind::File => {
                Err(io::ErrorKind::AlreadyExists.into())
            }
            _ => {
                self.make_parents(to.path)?;
                Ok(there)
            }
        }
    }

    /// Removes what the new store has now, if the old one had it.
    fn replaced(&self, path: &ContentPath, there: Option<Stat>) -> io::Result<()> {
        match there {
            Some(_) => gone(self.from.remove(path)),
            None => Ok(()),
        }
    }

    /// Brings a file over, with the document that belongs to it. It survives a loss of power in the
    /// new store before it goes from the old one.
    pub fn carry(
        &self,
        path: &ContentPath,
        document: Option<(String, Vec<u8>)>,
    ) -> io::Result<Carried> {
        let Some(before) = self.from.stat(path)? else {
            return Ok(Carried::Changed);
        };
        if self.to.holds(path)? {
            // A newer one, or this one, of which the move was interrupted.
            gone(self.from.remove(path))?;
            self.from.settle_names(std::slice::from_ref(path))?;
            return Ok(Carried::Over);
        }
        self.make_parents(path)?;
        let unused = crypto::random::<16>().map_err(io::Error::other)?;
        let partial = PartialName::new(&format!("move-{}", hex::encode(unused)))?;
        let target = Target {
            modified: Some(before.modified),
            ..Target::free(path)
        };
        let copied = self.copy(path, &partial).and_then(|()| {
            self.to.publish(&partial, &target)?;
            if let Some((name, text)) = &document {
                self.to.describe(path, name, text)?;
            }
            self.to.settle_names(std::slice::from_ref(path))
        });
        if let Err(error) = copied {
            self.to.discard(&partial);
            return match error.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound => Ok(Carried::Changed),
                _ => Err(error),
            };
        }
        if self.from.stat(path)? != Some(before) {
            // What was copied is not what there is.
            gone(self.to.remove(path))?;
            self.to.settle_names(std::slice::from_ref(path))?;
            return Ok(Carried::Changed);
        }
        match self.from.remove(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Somebody removed or moved it just now.
                gone(self.to.remove(path))?;
                self.to.settle_names(std::slice::from_ref(path))?;
                Ok(Carried::Changed)
            }
            removed => {
                removed?;
                self.from.settle_names(std::slice::from_ref(path))?;
                Ok(Carried::Over)
            }
        }
    }

    fn copy(&self, path: &ContentPath, partial: &PartialName) -> io::Result<()> {
        let contents = self.from.open(path)?;
        let mut reader = Reader::new(&*contents);
        let mut sink = self.to.begin(partial, 0)?;
        let mut buffer = vec![0; COPIED];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return sink.settle(),
                Ok(read) => sink.append(&[buffer.get(..read).unwrap_or_default()])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Makes a directory of the old store in the new one.
    pub fn carry_directory(&self, path: &ContentPath) -> io::Result<()> {
        self.make_parents(&path.join("below")?)
    }
}

/// That it is gone already is no error.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// What happens when a directory that is in the old store is to be moved.
fn busy() -> io::Error {
    io::Error::new(
        io::ErrorKind::ResourceBusy,
        "the folder is being moved to another store: move directories when that is done",
    )
}

impl Store for Moving {
    fn begin(&self, partial: &PartialName, keep: u64) -> io::Result<Box<dyn Sink>> {
        self.to.begin(partial, keep)
    }

    fn held(&self, partial: &PartialName) -> io::Result<Option<u64>> {
        let held = self.to.held(partial)?;
        if held.is_none() {
            // An attempt from before the move; the next one begins anew.
            self.from.discard(partial);
        }
        Ok(held)
    }

    fn read(&self, partial: &PartialName) -> io::Result<Box<dyn Read + Send>> {
        self.to.read(partial)
    }

    fn discard(&self, partial: &PartialName) {
        self.to.discard(partial);
        self.from.discard(partial);
    }

    fn publish(&self, partial: &PartialName, to: &Target<'_>) -> io::Result<()> {
        let there = self.prepare(to)?;
        self.to.publish(partial, to)?;
        self.replaced(to.path, there)
    }

    fn open(&self, path: &ContentPath) -> io::Result<Box<dyn Contents>> {
        let missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        match self.to.open(path) {
            Err(e) if missing(&e) => match self.from.open(path) {
                // It may have been brought over just now.
                Err(e) if missing(&e) => self.to.open(path),
                opened => opened,
            },
            opened => opened,
        }
    }

    fn stat(&self, path: &ContentPath) -> io::Result<Option<Stat>> {
        for store in [&self.to, &self.from, &self.to] {
            if let Some(stat) = store.stat(path)? {
                return Ok(Some(stat));
            }
        }
        Ok(None)
    }

    fn list(&self, directory: &ContentPath) -> io::Result<Listing> {
        let old = match self.from.list(directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            old => Some(old?),
        };
        let is_directory = |stat: Stat| stat.kind == Kind::Directory;
        if old.is_none() && !self.to.stat(directory)?.is_some_and(is_directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (new_store, new_directory) = (self.to.clone(), directory.clone());
        // Only once the old ones are through.
        let new = iter::once_with(move || match new_store.list(&new_directory) {
            Ok(listing) => listing,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Box::new(iter::empty()),
            Err(e) => Box::new(iter::once(Err(e))) as Listing,
        });
        // The old ones first: what is brought over meanwhile is among the new ones, too, and what
        // was brought over before is among them only.
        let (to, here) = (self.to.clone(), directory.clone());
        let old: Vec<_> = old.into_iter().flatten().collect();
        let shown = Arc::new(Mutex::new(HashSet::new()));
        let seen = shown.clone();
        let lock = |names: &Mutex<HashSet<String>>, name: &str, adds: bool| {
            let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
            match adds {
                true => names.insert(name.to_owned()),
                false => names.contains(name),
            }
        };
        let old = old.into_iter().filter(move |entry| match entry {
            Ok((name, _)) => {
                let path = here.join(name);
                let is_new = path.is_ok_and(|path| to.holds(&path).unwrap_or(false));
                !is_new && lock(&seen, name, true)
            }
            Err(_) => true,
        });
        let new = new.flatten().filter(move |entry| match entry {
            Ok((name, _)) => !lock(&shown, name, false),
            Err(_) => true,
        });
        Ok(Box::new(old.chain(new)))
    }

    fn make_dir(&self, path: &ContentPath) -> io::Result<()> {
        if self.only_old(path)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.make_parents(path)?;
        self.to.make_dir(path)
    }

    fn rename(&self, path: &ContentPath, to: &Target<'_>) -> io::Result<()> {
        if self
            .from
            .stat(path)?
            .is_some_and(|stat| stat.kind == Kind::Directory)
        {
            return Err(busy());
        }
        while self.only_old(path)?.is_some() {
            let document = self.document.as_ref().map_or(Ok(None), |find| find(path));
            self.carry(path, document?)?;
        }
        let there = match path == to.path {
            true => None,
            false => self.prepare(to)?,
        };
        self.to.rename(path, to)?;
        self.replaced(to.path, there)
    }

    fn remove(&self, path: &ContentPath) -> io::Result<()> {
        let mut inside = match self.list(path) {
            Ok(inside) => inside,
            Err(_) => Box::new(iter::empty()),
        };
        if inside.next().is_some() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        // The old one first: what is left of an error is the one that counts.
        let removed = [self.from.remove(path), self.to.remove(path)];
        let mut missing = 0;
        for one in removed {
            match one {
                Err(e) if e.kind() == io::ErrorKind::NotFound => missing += 1,
                one => one?,
            }
        }
        match missing {
            2 => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(()),
        }
    }

    fn settle_names(&self, paths: &[ContentPath]) -> io::Result<()> {
        self.to.settle_names(paths)?;
        self.from.settle_names(paths)
    }

    fn describe(&self, path: &ContentPath, name: &str, text: &[u8]) -> io::Result<()> {
        self.to.describe(path, name, text)
    }

    fn room(&self) -> io::Result<u64> {
        self.to.room()
    }

    fn sweep(&self, before: SystemTime, removes: bool) -> io::Result<usize> {
        Ok(self.from.sweep(before, removes)? + self.to.sweep(before, removes)?)
    }
}

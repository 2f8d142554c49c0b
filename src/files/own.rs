//! A user's own folders, as the user works on them: what a contact with every right would see.
//!
//! No hook runs: hooks are about what others send and fetch. A server that watches the folder
//! still notices every new file.

use std::{collections::VecDeque, io, sync::Arc};

use super::{
    Answer, Fetched, OUT_OF_PLACE, exists, is_pending, is_special,
    listing::{Listing, entry},
    missing,
    tree::Tree,
    view::OUTGOING,
};
use crate::{
    crypto::random,
    error::{Code, Error, did_you_mean, printable},
    journal::delivered::DeliveredBefore,
    root::{
        RootError,
        conflict::Conflict,
        destination::Destination,
        folder::Folder,
        name::Name,
        tree::{Shown, TreePath},
        user::User,
    },
    store::{
        ContentPath, Kind, PartialName, Sink, Stat, Store, Stores,
        placement::{Source, place},
    },
    wire::request::{Held, Page, Reply, Request},
};

/// From this size on it is asked whether a file will fit, before any of it is copied: that may be a
/// request to a server.
const ASKED: u64 = 16 << 20;

/// What is known of a directory that nobody looked at.
const DIRECTORY: Stat = Stat {
    kind: Kind::Directory,
    size: 0,
    modified: 0,
};

/// The folders of a user of this root. Clones are the same ones.
#[derive(Clone)]
pub struct OwnFiles {
    user: User,
    stores: Stores,
    /// Knows which files `[OnReceived]` has not accepted yet; `None` if nothing ever arrived.
    delivered: Option<DeliveredBefore>,
}

/// A folder, and a path in it.
struct Place {
    folder: Folder,
    tree: Tree,
    shown: Shown,
    path: TreePath,
}

/// A file that may get a path.
pub enum Begun {
    /// The identical file is there already.
    Same,
    /// Its bytes may come.
    New(Box<OwnPut>),
}

/// A file on its way to a path of a folder: hidden there until it is placed.
pub struct OwnPut {
    folder: Folder,
    store: Arc<dyn Store>,
    partial: PartialName,
    sink: Box<dyn Sink>,
    destination: Destination,
    is_placed: bool,
}

impl OwnFiles {
    /// The folders of a user whose private key this process can read. They keep their contents in
    /// these stores.
    pub fn open(user: &User, stores: &Stores) -> Result<Self, Error> {
        user.own_key()?;
        let delivered = DeliveredBefore::look(user.root());
        let delivered = delivered.map_err(|e| Error::new(Code::Failed, e.to_string()))?;
        Ok(Self {
            user: user.clone(),
            stores: stores.clone(),
            delivered,
        })
    }

    /// Whose they are.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The folder that a path begins with. A folder that does not exist is told apart from a path
    /// in one.
    fn place(&self, path: &str) -> Result<Place, Error> {
        let path = TreePath::parse(path).ok_or_else(missing)?;
        let (first, path) = path.split_first().ok_or_else(missing)?;
        let name = Name::folder(first).map_err(RootError::from)?;
        let folder = self.user.folder(&name);
        let folder = folder.map_err(|error| self.unknown(&name, error))?;
        let config = folder.config()?;
        let shown = Shown::new(Some(&config));
        Ok(Place {
            tree: self.tree(&folder, shown.clone()),
            folder,
            shown,
            path,
        })
    }

    fn tree(&self, folder: &Folder, shown: Shown) -> Tree {
        let store = self.stores.of(folder);
        match &self.delivered {
            Some(delivered) => Tree::of_folder(folder, store, shown, is_pending(delivered, folder)),
            None => Tree::of_folder(folder, store, shown, Arc::new(|_| false)),
        }
    }

    /// The error of a name that no folder has, with the nearest that one has.
    fn unknown(&self, name: &Name, error: RootError) -> Error {
        let is_unknown = matches!(error, RootError::NoFolder { .. });
        let error = Error::from(error);
        let folders = self.user.folders().ok().filter(|_| is_unknown);
        let folders: Vec<Folder> = folders.into_iter().flatten().flatten().collect();
        let names = folders.iter().map(|folder| folder.name().as_str());
        let near = did_you_mean(name.as_str(), names);
        Error::new(error.code, format!("{}{near}", error.sentence))
    }

    /// Answers a request for anything but to store a file. It may wait for a disk.
    pub fn answer(&self, request: &Request) -> Result<Answer, Error> {
        Ok(match request {
            Request::List { path, recursive } => self.list(path, *recursive)?.page(),
            Request::Stat { path } => {
                let mut page = Page::default();
                page.push(entry(String::new(), &self.stat(path)?));
                Answer::Reply(page.reply(false))
            }
            Request::Get { path, held, .. } => {
                Answer::File(Box::new(self.get(path, held.as_ref())?))
            }
            Request::Put { .. } => {
                return Err(Error::new(Code::Failed, "a file is stored by its bytes"));
            }
            Request::Room { path } => {
                let place = self.place(path)?;
                place.tree.stat(&place.path).map_err(|e| refused(&e))?;
                Answer::Reply(Reply::Room(place.tree.room().map_err(|e| refused(&e))?))
            }
            Request::MakeDir { path } => self.change(path, |place| {
                place.tree.make_dir(&place.path).map_err(|e| refused(&e))
            })?,
            Request::Remove { path } => self.change(path, |place| {
                place.tree.remove(&place.path).map_err(|e| refused(&e))
            })?,
            Request::Rename { path, to } => self.change(path, |place| {
                let to = self.place(to)?;
                if to.folder.name() != place.folder.name() {
                    let sentence = "the new path must be in the same folder";
                    return Err(Error::new(Code::Usage, sentence));
                }
                to.check_inside()?;
                to.check_name()?;
                let moved = place.tree.rename(&place.path, &to.path);
                moved.map_err(|e| refused(&e))
            })?,
        })
    }

    /// Changes something in a folder, but not the folder itself.
    fn change(
        &self,
        path: &str,
        change: impl FnOnce(&Place) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        let place = self.place(path)?;
        place.check_inside()?;
        change(&place)?;
        Ok(Answer::Reply(Reply::Done))
    }

    fn list(&self, path: &str, recursive: bool) -> Result<Box<Listing>, Error> {
        let mut listing = Listing {
            ready: VecDeque::new(),
            walks: VecDeque::new(),
        };
        if !is_top(path) {
            let Place { tree, path, .. } = self.place(path)?;
            let stat = tree.stat(&path).map_err(|e| refused(&e))?;
            match stat.kind == Kind::Directory {
                true => {
                    let walk = tree.walk(&path, recursive).map_err(|e| refused(&e))?;
                    listing.walks.push_back((String::new(), walk));
                }
                false => listing.ready.push_back(entry(String::new(), &stat)),
            }
            return Ok(Box::new(listing));
        }
        let all = TreePath::default();
        for folder in self.user.folders()?.into_iter().flatten() {
            let name = folder.name().as_str();
            if name == OUTGOING {
                continue;
            }
            // One whose m2y.config cannot be read is there all the same.
            let tree = folder.config().ok();
            let tree = tree.map(|config| self.tree(&folder, Shown::new(Some(&config))));
            let stat = tree.as_ref().and_then(|tree| tree.stat(&all).ok());
            let stat = stat.unwrap_or(DIRECTORY);
            listing.ready.push_back(entry(name.to_owned(), &stat));
            if recursive && let Some(tree) = tree {
                let walk = tree.walk(&all, true);
                let walk = walk.map_err(|e| refused(&e).within(name))?;
                listing.walks.push_back((format!("{name}/"), walk));
            }
        }
        Ok(Box::new(listing))
    }

    fn stat(&self, path: &str) -> Result<Stat, Error> {
        if is_top(path) {
            return Ok(DIRECTORY);
        }
        let Place { tree, path, .. } = self.place(path)?;
        tree.stat(&path).map_err(|e| refused(&e))
    }

    /// Opens a file, after the part of it that is held from before. It may wait for a disk.
    pub fn get(&self, path: &str, held: Option<&Held>) -> Result<Fetched, Error> {
        let place = self.place(path)?;
        let contents = place.tree.open(&place.path).map_err(|e| refused(&e))?;
        Fetched::new(contents, held, path).map_err(|e| refused(&e))
    }

    /// Begins to store a file of this size and time at a path. It may wait for a disk.
    pub fn put(
        &self,
        path: &str,
        (size, modified): (Option<u64>, i64),
        conflict: Conflict,
    ) -> Result<Begun, Error> {
        let place = self.place(path)?;
        place.check_inside()?;
        place.check_name()?;
        let there = place.tree.there(&place.path);
        let there = there.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                let above = path.rsplit_once('/').map_or("", |(above, _)| above);
                let sentence = format!("there is no directory {}", printable(above, 300));
                Error::new(Code::NotFound, sentence)
            }
            _ => refused(&e),
        })?;
        if let Some(there) = there {
            match conflict {
                _ if there.kind == Kind::Directory => return Err(exists()),
                _ if there.is_file_of(size, modified) => return Ok(Begun::Same),
                Conflict::Refuse => return Err(exists()),
                Conflict::Overwrite | Conflict::Rename => {}
            }
        }
        let failed = |e: &dyn ToString| Error::new(Code::Failed, e.to_string());
        let unused = random::<16>().map_err(|e| failed(&e))?;
        let partial = PartialName::new(&format!("put-{}", hex::encode(unused)));
        let partial = partial.map_err(|e| failed(&e))?;
        let store = self.stores.of(&place.folder);
        if let Some(size) = size.filter(|size| *size >= ASKED) {
            let room = store.room().map_err(|e| refused(&e))?;
            if room < size {
                return Err(refused(&io::ErrorKind::StorageFull.into()));
            }
        }
        let sink = store.begin(&partial, 0).map_err(|e| refused(&e))?;
        Ok(Begun::New(Box::new(OwnPut {
            folder: place.folder,
            store,
            partial,
            sink,
            destination: Destination {
                path: place.path,
                modified,
                conflict,
                keeps_meta: false,
            },
            is_placed: false,
        })))
    }
}

impl Place {
    /// Fails if the path is the folder itself.
    fn check_inside(&self) -> Result<(), Error> {
        match self.path.split_last() {
            Some(_) => Ok(()),
            None => {
                let name = self.folder.name();
                let sentence =
                    format!("{name} is a whole folder: name something in it, {name}/...");
                Err(Error::new(Code::Usage, sentence))
            }
        }
    }

    /// Fails for a name under which nobody would see a file.
    fn check_name(&self) -> Result<(), Error> {
        match self.shown.admits(&self.path) {
            true => Ok(()),
            false => {
                let sentence = "the name is reserved: m2y.config, scripts, and documents of m2y are \
                                changed in the folder's own directory";
                Err(Error::new(Code::Failed, sentence))
            }
        }
    }
}

impl OwnPut {
    /// Where its bytes go.
    pub fn sink(&mut self) -> &mut dyn Sink {
        &mut *self.sink
    }

    /// The folder that it goes to, and the folder's store.
    pub fn folder(&self) -> (&Folder, &Arc<dyn Store>) {
        (&self.folder, &self.store)
    }

    /// Publishes the file, whose bytes were made durable, at its path or one beside it. The path
    /// survives a loss of power after [`Store::settle_names`] with it.
    pub fn place(&mut self) -> Result<ContentPath, Error> {
        let source = Source::Partial(&self.partial);
        let placed = place(&*self.store, &self.folder, source, &self.destination);
        self.is_placed = placed.is_ok();
        placed.map_err(|e| refused(&e))
    }
}

impl Drop for OwnPut {
    fn drop(&mut self) {
        if !self.is_placed {
            self.store.discard(&self.partial);
        }
    }
}

fn is_top(path: &str) -> bool {
    path.trim_matches('/').is_empty()
}

/// Why the system refused, for the owner.
pub fn refused(error: &io::Error) -> Error {
    use io::ErrorKind as Kind;
    if is_special(error) {
        return missing();
    }
    let (code, sentence) = match error.kind() {
        Kind::NotFound | Kind::NotADirectory => return missing(),
        Kind::AlreadyExists => return exists(),
        Kind::CrossesDevices => (Code::Failed, OUT_OF_PLACE.to_owned()),
        Kind::DirectoryNotEmpty => (Code::Failed, "the directory is not empty".to_owned()),
        Kind::StorageFull | Kind::QuotaExceeded => {
            (Code::Later, "there is no room left for that".to_owned())
        }
        Kind::HostUnreachable | Kind::ResourceBusy => (Code::Later, error.to_string()),
        Kind::InvalidData => (Code::Integrity, error.to_string()),
        _ => (Code::Failed, error.to_string()),
    };
    Error::new(code, sentence)
}

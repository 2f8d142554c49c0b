//! A user's files as one contact may see and change them.

use std::{
    cell::OnceCell,
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
};

use super::{
    Answer, Fetched, Put, exists, failed, is_pending,
    listing::{Listing, entry},
    missing, refused,
    tree::Tree,
};
use crate::{
    error::{Code, Error},
    event::Kind,
    journal::delivered::{DeliveredBefore, Key, Stage},
    meta::Wire,
    root::{
        config::Config,
        conflict::Conflict,
        destination::Destination,
        folder::Folder,
        name::Name,
        share::Rights,
        tree::{Hides, Shown, TreePath, open_below},
        user::User,
    },
    store::{self, Stat, Stores, local::LocalStore},
    wire::request::{Held, Page, Reply, Request},
};

/// The directory of a user with one directory for each contact.
pub const OUTGOING: &str = "outgoing";

/// Where a path leads.
enum Location {
    /// To the top directory.
    Top,
    /// Into a folder, or into what is ready for the contact.
    Below(Box<Tree>, Rights, TreePath),
}

/// What the hooks of folders say to a request, by the folders' names: which names they hide,
/// or that there is nothing to see.
pub type Said = HashMap<Name, Option<Arc<Hides>>>;

/// A folder whose hooks have to be asked, and the path in it that they are asked about.
pub type ToAsk = (Folder, Arc<Config>, TreePath);

/// A user's files, as one contact may see them.
pub struct View<'a> {
    user: &'a User,
    from: &'a Name,
    asked: &'a Said,
    /// The folder that the request is about, once it was looked up.
    folder: OnceCell<Option<(Folder, Arc<Config>)>>,
    delivered: &'a DeliveredBefore,
    stores: &'a Stores,
}

impl<'a> View<'a> {
    /// The files of a user as a contact may see them, after hooks said this.
    pub fn new(
        (user, from): &'a (User, Name),
        asked: &'a Said,
        delivered: &'a DeliveredBefore,
        stores: &'a Stores,
    ) -> Self {
        Self {
            user,
            from,
            asked,
            folder: OnceCell::new(),
            delivered,
            stores,
        }
    }

    /// The folder whose name a path begins with: a request is about no other one.
    fn folder(&self, first: &str) -> Option<&(Folder, Arc<Config>)> {
        let look = || {
            let folder = self.user.folder(&Name::folder(first).ok()?).ok()?;
            let config = folder.config().ok()?;
            Some((folder, config))
        };
        self.folder.get_or_init(look).as_ref()
    }

    /// What is ready for the contact, if there is such a directory.
    fn outgoing(&self) -> Option<Tree> {
        let path = [OUTGOING, self.from.as_str()].into_iter();
        let dir = open_below(self.user.dir(), path).ok()?;
        let store = LocalStore::new(&Arc::new(dir));
        Some(Tree::new(Arc::new(store), Shown::new(None)))
    }

    /// What the contact may do in a folder.
    fn rights(&self, folder: &Folder, config: &Config) -> Option<(Tree, Rights)> {
        if folder.name().as_str() == OUTGOING {
            return None;
        }
        let rights = Rights::of(config, self.from);
        if !rights.any() {
            return None;
        }
        let mut shown = Shown::new(Some(config));
        if let Some(hides) = self.asked.get(folder.name()) {
            shown = shown.without(hides.clone()?);
        }
        let store = self.stores.of(folder);
        let is_pending = is_pending(self.delivered, folder);
        Some((Tree::of_folder(folder, store, shown, is_pending), rights))
    }

    /// The folders whose hooks want to be asked about a request.
    pub fn to_ask(&self, request: &Request) -> Result<Vec<ToAsk>, Error> {
        let asks = |(folder, config): &(Folder, Arc<Config>)| {
            let mut kinds = events_of(request).iter();
            kinds.any(|kind| !config.scripts(kind.section()).is_empty())
                && self.rights(folder, config).is_some()
        };
        let path = TreePath::parse(request.path()).ok_or_else(missing)?;
        if let Some((first, rest)) = path.split_first() {
            let folder = self.folder(first).filter(|folder| asks(folder)).cloned();
            let to_ask = folder.map(|(folder, config)| (folder, config, rest));
            return Ok(to_ask.into_iter().collect());
        }
        let folders = self.user.folders().map_err(|e| failed(&e.to_string()))?;
        Ok(folders
            .into_iter()
            .flatten()
            .filter_map(|folder| {
                let config = folder.config().ok()?;
                Some((folder, config))
            })
            .filter(asks)
            .map(|(folder, config)| (folder, config, TreePath::default()))
            .collect())
    }

    fn find(&self, path: &str) -> Result<Location, Error> {
        let path = TreePath::parse(path).ok_or_else(missing)?;
        let Some((first, rest)) = path.split_first() else {
            return Ok(Location::Top);
        };
        let folder = self.folder(first);
        if let Some((tree, rights)) =
            folder.and_then(|(folder, config)| self.rights(folder, config))
        {
            return Ok(Location::Below(Box::new(tree), rights, rest));
        }
        let tree = self.outgoing().ok_or_else(missing)?;
        Ok(Location::Below(Box::new(tree), Rights::READ, path))
    }

    fn list(&self, path: &str, recursive: bool) -> Result<Box<Listing>, Error> {
        let mut listing = Listing {
            ready: VecDeque::new(),
            walks: VecDeque::new(),
        };
        let all = TreePath::default();
        match self.find(path)? {
            Location::Top => {
                let folders = self.user.folders().map_err(|e| failed(&e.to_string()))?;
                for folder in folders.into_iter().flatten() {
                    let config = folder.config().ok();
                    let rights = config.and_then(|config| self.rights(&folder, &config));
                    let Some((tree, rights)) = rights else {
                        continue;
                    };
                    let Ok(stat) = tree.stat(&all) else {
                        continue;
                    };
                    listing
                        .ready
                        .push_back(entry(folder.name().to_string(), &stat));
                    if recursive
                        && rights.list
                        && let Ok(walk) = tree.walk(&all, true)
                    {
                        let before = format!("{}/", folder.name());
                        listing.walks.push_back((before, walk));
                    }
                }
                if let Some(walk) = self
                    .outgoing()
                    .and_then(|tree| tree.walk(&all, recursive).ok())
                {
                    listing.walks.push_back((String::new(), walk));
                }
            }
            Location::Below(tree, rights, path) => {
                if !rights.list {
                    return Err(missing());
                }
                let stat = tree.stat(&path).map_err(|e| refused(&e))?;
                match stat.kind == store::Kind::Directory {
                    true => {
                        let walk = tree.walk(&path, recursive).map_err(|e| refused(&e))?;
                        listing.walks.push_back((String::new(), walk));
                    }
                    false => listing.ready.push_back(entry(String::new(), &stat)),
                }
            }
        }
        Ok(Box::new(listing))
    }

    fn stat(&self, path: &str) -> Result<Reply, Error> {
        let stat = match self.find(path)? {
            Location::Top => self.user.dir().dir_metadata().map(|_| Stat {
                kind: store::Kind::Directory,
                size: 0,
                modified: 0,
            }),
            Location::Below(tree, rights, path) if rights.list || rights.get => tree.stat(&path),
            Location::Below(..) => return Err(missing()),
        };
        let stat = stat.map_err(|e| refused(&e))?;
        let mut page = Page::default();
        page.push(entry(String::new(), &stat));
        Ok(page.reply(false))
    }

    /// How much still fits, for a contact who may put something there.
    fn room(&self, path: &str) -> Result<Reply, Error> {
        match self.find(path)? {
            Location::Below(tree, rights, path) if rights.put => {
                tree.stat(&path).map_err(|e| refused(&e))?;
                Ok(Reply::Room(tree.room().map_err(|e| refused(&e))?))
            }
            _ => Err(missing()),
        }
    }

    fn get(&self, path: &str, held: Option<&Held>) -> Result<Fetched, Error> {
        let asked = path;
        let Location::Below(tree, rights, path) = self.find(path)? else {
            return Err(missing());
        };
        if !rights.get {
            return Err(missing());
        }
        let contents = tree.open(&path).map_err(|e| refused(&e))?;
        Fetched::new(contents, held, asked).map_err(|e| refused(&e))
    }

    /// Checks whether a file may get a path.
    fn put(
        &self,
        path: &str,
        meta: &Wire,
        modified: i64,
        mut conflict: Conflict,
    ) -> Result<Answer, Error> {
        let first = TreePath::parse(path);
        let first = first.as_ref().and_then(TreePath::split_first);
        let (Location::Below(tree, rights, below), Some((folder, _))) = (self.find(path)?, first)
        else {
            return Err(missing());
        };
        if !rights.put {
            return Err(missing());
        }
        let there = tree.there(&below).map_err(|e| refused(&e))?;
        if let Some(there) = &there {
            let same = there.is_file_of(meta.meta.filesize, modified);
            match conflict {
                _ if there.kind == store::Kind::Directory => return Err(exists()),
                _ if same && (rights.list || rights.get) => {
                    let path = path.to_owned();
                    return Ok(Answer::Reply(Reply::Stored { path, same }));
                }
                // Its sender did not hear of that: it may be what is there.
                _ if self.was_delivered(folder, meta) => {}
                Conflict::Refuse => return Err(exists()),
                Conflict::Overwrite if !rights.rm => {
                    let sentence =
                        "no file there may be written over: that takes the right to remove it";
                    return Err(Error::new(Code::Refused, sentence));
                }
                Conflict::Overwrite | Conflict::Rename => {}
            }
        }
        if conflict == Conflict::Overwrite && !rights.rm {
            // In case one arrives meanwhile.
            conflict = Conflict::Refuse;
        }
        let mut meta = meta.clone();
        folder.clone_into(&mut meta.meta.folder);
        Ok(Answer::Put(Box::new(Put {
            meta,
            destination: Destination {
                path: below,
                modified,
                conflict,
                keeps_meta: false,
            },
        })))
    }

    /// Whether the contact sent this very file before.
    fn was_delivered(&self, folder: &str, meta: &Wire) -> bool {
        let Some(id) = meta.meta.id else {
            return false;
        };
        let known = self.delivered.find(&Key {
            user: self.user.name().to_string(),
            folder: folder.to_owned(),
            from: self.from.to_string(),
            id,
        });
        let is_refused = |stage| matches!(stage, Stage::Refused | Stage::Rejected);
        known.is_ok_and(|known| known.is_some_and(|known| !is_refused(known.stage)))
    }

    /// Changes something if the contact may.
    fn change(
        &self,
        path: &str,
        may: impl FnOnce(Rights) -> bool,
        change: impl FnOnce(&Tree, &TreePath) -> io::Result<()>,
    ) -> Result<Reply, Error> {
        match self.find(path)? {
            Location::Below(tree, rights, path) if may(rights) && path.split_last().is_some() => {
                change(&tree, &path).map_err(|e| refused(&e))?;
                Ok(Reply::Done)
            }
            _ => Err(missing()),
        }
    }

    fn rename(&self, path: &str, to: &str) -> Result<Reply, Error> {
        let first = |path: &str| {
            let path = TreePath::parse(path).ok_or_else(missing)?;
            path.split_first()
                .map(|(first, rest)| (first.to_owned(), rest))
                .ok_or_else(missing)
        };
        let ((folder, _), (other, to)) = (first(path)?, first(to)?);
        self.change(
            path,
            |rights| rights.mv && folder == other && to.split_last().is_some(),
            |tree, path| tree.rename(path, &to),
        )
    }

    /// Answers a request. It may wait for a disk.
    pub fn answer(&self, request: &Request) -> Result<Answer, Error> {
        Ok(match request {
            Request::List { path, recursive } => self.list(path, *recursive)?.page(),
            Request::Stat { path } => Answer::Reply(self.stat(path)?),
            Request::Get { path, held, .. } => {
                Answer::File(Box::new(self.get(path, held.as_ref())?))
            }
            Request::Put {
                path,
                meta,
                modified,
                conflict,
            } => self.put(path, meta, *modified, *conflict)?,
            Request::MakeDir { path } => {
                Answer::Reply(self.change(path, |may| may.mkdir, Tree::make_dir)?)
            }
            Request::Remove { path } => {
                Answer::Reply(self.change(path, |may| may.rm, Tree::remove)?)
            }
            Request::Room { path } => Answer::Reply(self.room(path)?),
            Request::Rename { path, to } => Answer::Reply(self.rename(path, to)?),
        })
    }
}

/// What a request is for the hooks of a folder. What is hidden from listings cannot be fetched or
/// changed either.
pub fn events_of(request: &Request) -> &'static [Kind] {
    match request {
        Request::Get { .. } => &[Kind::List, Kind::Get],
        _ => &[Kind::List],
    }
}

//! Which store a folder has, and how it is opened.
//!
//! The default is the folder's own directory. Another store is named in the `[store]` section of
//! its m2y.config, and described in m2y.ini. It is opened when it is first asked for; as long as
//! that fails, every call fails with the reason, and is tried again a little later.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Store,
    chunked::{
        ChunkedStore, Policy,
        holders::Holders,
        index, lease,
        recover::{self, Found},
    },
    local::LocalStore,
    member::{Member, MemberError, MemberResult, directory::DirectoryMember, s3::S3Member},
    sealed::folder::{About, FolderSecret},
    stripe::Stripe,
    unavailable::{NotOpen, Unavailable},
};
use crate::{
    crypto::keys::PrivateKey,
    root::{
        Root, config::Config, folder::Folder, folder_store::FolderStore, settings::store::{ContactFolder, Place},
    },
};

/// How long a store that could not be opened is not tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// The stores of folders. Clones are the same one.
#[derive(Clone)]
pub struct Stores(Arc<Inner>);

struct Inner {
    make: Box<Make>,
    contacts: Option<Arc<OpenContact>>,
    open: Mutex<HashMap<PathBuf, Open>>,
}

/// Makes the store of a folder, in place of what its m2y.config says.
type Make = dyn Fn(&Folder) -> Option<Arc<dyn Store>> + Send + Sync;

/// Opens a folder of a contact as a member.
type OpenContact = dyn Fn(&Root, &ContactFolder) -> MemberResult<Arc<dyn Member>> + Send + Sync;

/// A folder's store that was opened.
struct Open {
    config: Arc<Config>,
    store: Result<Arc<ChunkedStore>, (Instant, io::ErrorKind, String)>,
}

impl Stores {
    /// Stores that `make` makes.
    pub fn new(make: impl Fn(&Folder) -> Arc<dyn Store> + Send + Sync + 'static) -> Self {
        Self::with(Box::new(move |folder| Some(make(folder))), None)
    }

    /// The stores that each folder's m2y.config names, also those that are folders of contacts,
    /// which `open` opens.
    pub fn with_contacts(
        open: impl Fn(&Root, &ContactFolder) -> MemberResult<Arc<dyn Member>> + Send + Sync + 'static,
    ) -> Self {
        Self::with(Box::new(|_| None), Some(Arc::new(open)))
    }

    fn with(make: Box<Make>, contacts: Option<Arc<OpenContact>>) -> Self {
        Self(Arc::new(Inner {
            make,
            contacts,
            open: Mutex::default(),
        }))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<PathBuf, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the contents of a folder are stored.
    pub fn of(&self, folder: &Folder) -> Arc<dyn Store> {
        if let Some(made) = (self.0.make)(folder) {
            return made;
        }
        match self.chunked(folder) {
            Ok(Some(store)) => store,
            Ok(None) => Arc::new(LocalStore::new(folder.dir())),
            Err(error) => Arc::new(Unavailable::new(&error)),
        }
    }

    /// The store of a folder, unless that is its own directory.
    pub fn chunked(&self, folder: &Folder) -> io::Result<Option<Arc<ChunkedStore>>> {
        // Without a readable m2y.config nothing is done with the folder, but it can be looked at.
        let Ok(config) = folder.config() else {
            return match is_elsewhere(folder)? {
                true => Err(io::Error::other("m2y.config cannot be read")),
                false => Ok(None),
            };
        };
        if !config.has(crate::root::folder_store::SECTION) {
            return match is_elsewhere(folder)? {
                true => Err(io::Error::other(
                    "its files are in another store, which m2y.config no longer names: put the \
                     [store] section back, and use `m2y folder move`",
                )),
                false => Ok(None),
            };
        }
        let wanted = FolderStore::of(&config);
        let Some(name) = &wanted.name else {
            return Ok(None);
        };
        if let Some(open) = self.open().get(folder.path()) {
            let is_same =
                Arc::ptr_eq(&open.config, &config) || FolderStore::of(&open.config) == wanted;
            match &open.store {
                Ok(store) if is_same => return Ok(Some(store.clone())),
                Err((since, kind, why)) if is_same && since.elapsed() < AGAIN => {
                    return Err(io::Error::new(*kind, why.clone()));
                }
                _ => {}
            }
        }
        // One at a time: two would make two folders of one.
        static OPENING: Mutex<()> = Mutex::new(());
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Open {
            config: of,
            store: Ok(store),
        }) = self.open().get(folder.path())
            && FolderStore::of(of) == wanted
        {
            return Ok(Some(store.clone()));
        }
        let opened = self.open_store(folder, name, &wanted).map(Arc::new);
        let store = opened.map_err(|error| {
            let why = format!("store {name}: {error}");
            (Instant::now(), error.kind(), why)
        });
        let result = match &store {
            Ok(store) => Ok(Some(store.clone())),
            Err((_, kind, why)) => Err(io::Error::new(*kind, why.clone())),
        };
        let open = Open { config, store };
        self.open().insert(folder.path().to_owned(), open);
        result
    }

    /// Those that are open.
    pub fn all_open(&self) -> Vec<(PathBuf, Arc<ChunkedStore>)> {
        let open = self.open();
        let open = open.iter().filter_map(|(path, open)| {
            let store = open.store.as_ref().ok()?;
            Some((path.clone(), store.clone()))
        });
        open.collect()
    }

    /// The members of a store that m2y.ini names.
    pub fn holders(&self, root: &Root, name: &str) -> io::Result<Holders> {
        let stores = root.settings().map_err(io::Error::other)?.stores;
        let place = |name: &str| {
            let missing = || format!("m2y.ini has no section [store {name}]");
            let place = stores.get(name);
            place.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, missing()))
        };
        match place(name)? {
            Place::Stripe(striped) => {
                // One that cannot even be opened is like one that cannot be reached.
                let members = striped.members.each_ref().map(|member| {
                    let opened = place(member).map(|place| self.member(root, place));
                    let opened: Arc<dyn Member> = match opened {
                        Ok(Ok(member)) => member,
                        Ok(Err(error)) => Arc::new(NotOpen(error)),
                        Err(error) => Arc::new(NotOpen(MemberError::Failed(error.to_string()))),
                    };
                    (member.clone(), opened)
                });
                Ok(Holders::Stripe(Stripe::new(members, striped.write)))
            }
            one => Ok(Holders::One {
                name: name.to_owned(),
                member: self.member(root, one)?,
            }),
        }
    }

    /// A member that m2y.ini names.
    pub fn member(&self, root: &Root, place: &Place) -> MemberResult<Arc<dyn Member>> {
        match place {
            Place::Directory(path) => Ok(Arc::new(DirectoryMember::open(path)?)),
            Place::Bucket(bucket) => Ok(Arc::new(S3Member::new(bucket, None)?)),
            Place::Contact(folder) => match &self.0.contacts {
                Some(open) => open(root, folder),
                None => Err(MemberError::Failed(
                    "folders of contacts cannot be opened here".to_owned(),
                )),
            },
            Place::Stripe(_) => Err(MemberError::Failed(
                "a stripe is no member of another one".to_owned(),
            )),
        }
    }

    fn open_store(
        &self,
        folder: &Folder,
        name: &str,
        wanted: &FolderStore,
    ) -> io::Result<ChunkedStore> {
        let (root, user) = (folder.user().root(), folder.user());
        let holders = Arc::new(self.holders(root, name)?);
        let mut readers = vec![user.own_key().map_err(io::Error::other)?];
        for reader in &wanted.readers {
            readers.push(user.contact(reader).map_err(io::Error::other)?.key);
        }
        let owner = readers
            .first()
            .map(|key| key.fingerprint().as_bytes().to_vec());
        let owner = owner.unwrap_or_default();
        let dir = folder.dir();
        let (secret, is_new) = match known_secret(folder, name)? {
            Some(secret) => (secret, false),
            None => (self.new_secret(folder, &holders)?, true),
        };
        let policy = Policy {
            readers,
            keep: wanted.keep,
            identity: identity(folder.path()),
            silence: lease::SILENCE,
        };
        let store = ChunkedStore::open((dir, folder.path()), secret, holders, policy)?;
        if is_new || store.owner()? != Some(owner.clone()) {
            // Also after the owner got another key: the earlier one may be gone by the time a
            // server has to be recovered.
            let private = user.private_key().map_err(io::Error::other)?;
            store.introduce(name, &about(folder), &private, owner)?;
        }
        Ok(store)
    }

    /// The secret of a folder that is not on its members yet.
    fn new_secret(&self, folder: &Folder, holders: &Arc<Holders>) -> io::Result<FolderSecret> {
        if has_files(folder)? {
            return Err(io::Error::other(
                "the folder has files in its own directory, which would be out of sight: remove \
                 the [store] section, and use `m2y folder move`",
            ));
        }
        let private: Arc<PrivateKey> =
            Arc::new(folder.user().private_key().map_err(io::Error::other)?);
        let about = about(folder);
        let there = recover::folders(holders.clone(), private)?;
        if there.iter().any(|found: &Found| found.about == about) {
            return Err(io::Error::other(format!(
                "it holds this folder already, and its index is not here: get that back by `m2y \
                 store recover --user {} NAME`",
                folder.user().name()
            )));
        }
        FolderSecret::new().map_err(io::Error::other)
    }
}

impl Default for Stores {
    fn default() -> Self {
        Self::with(Box::new(|_| None), None)
    }
}

/// What the document of a folder says.
fn about(folder: &Folder) -> About {
    About {
        user: folder.user().name().to_string(),
        folder: folder.name().to_string(),
    }
}

/// Whether the contents of a folder are in another store than its own directory.
fn is_elsewhere(folder: &Folder) -> io::Result<bool> {
    folder.dir().try_exists(index::FILE)
}

/// Whether there are contents in the folder's own directory.
fn has_files(folder: &Folder) -> io::Result<bool> {
    let mut names = LocalStore::new(folder.dir()).names(&Default::default())?;
    Ok(names.next().is_some())
}

/// The secret of a folder that is in this store already.
fn known_secret(folder: &Folder, name: &str) -> io::Result<Option<FolderSecret>> {
    if !is_elsewhere(folder)? {
        return Ok(None);
    }
    let index = index::Index::open(folder.dir(), folder.path())?;
    match index.identity()? {
        None => Ok(None),
        Some((store, _)) if store != name => Err(io::Error::other(format!(
            "the files of this folder are in the store {store}: name that in m2y.config, and use \
             `m2y folder move`"
        ))),
        Some((_, secret)) => Ok(Some(secret)),
    }
}

/// What tells a folder from those of other roots, and from copies on other machines.
fn identity(path: &Path) -> Vec<u8> {
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    [&machine[..], &host, path.as_os_str().as_encoded_bytes()].join(&0)
}

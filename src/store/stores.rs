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
    ContentPath, Store,
    chunked::{
        ChunkedStore, Policy,
        holders::Holders,
        index, lease,
        recover::{self, Found},
    },
    documents::Documents,
    elsewhere::Elsewhere,
    local::LocalStore,
    member::{
        Member, MemberError, MemberResult, directory::DirectoryMember, later::LaterMember,
        s3::S3Member,
    },
    moving::Moving,
    notes,
    plain::{self, LIMITS, PlainStore},
    sealed::folder::{About, FolderSecret},
    stripe::Stripe,
    unavailable::Unavailable,
};
use crate::{
    crypto::keys::PrivateKey,
    root::{
        Root,
        folder::Folder,
        folder_store::{FolderStore, Source},
        settings::store::{Bucket, ContactFolder, Layout, Place},
    },
};

/// How long a store that could not be opened is not tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Why something cannot be done with a store whose files are not in chunks.
pub fn not_in_chunks() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "its layout is plain: m2y keeps neither versions nor checksums there, so nothing can be \
         scrubbed, repaired or restored; the bucket may have versions of its own",
    )
}

/// The stores of folders. Clones are the same one.
#[derive(Clone)]
pub struct Stores(Arc<Inner>);

struct Inner {
    make: Box<Make>,
    contacts: Option<Arc<OpenContact>>,
    /// By the path of the folder and the name of the store.
    open: Mutex<HashMap<(PathBuf, String), Open>>,
}

/// Makes the store of a folder, in place of what its m2y.config says.
type Make = dyn Fn(&Folder) -> Option<Arc<dyn Store>> + Send + Sync;

/// Opens a folder of a contact as a member.
type OpenContact = dyn Fn(&Root, &ContactFolder) -> MemberResult<Arc<dyn Member>> + Send + Sync;

/// A folder's store that was opened.
struct Open {
    wanted: FolderStore,
    /// Which file its index is: another process may move the folder away, and back again.
    index: Option<(u64, u64)>,
    store: Result<Elsewhere, (Instant, io::ErrorKind, String)>,
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

    fn open(&self) -> MutexGuard<'_, HashMap<(PathBuf, String), Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the contents of a folder are stored.
    pub fn of(&self, folder: &Folder) -> Arc<dyn Store> {
        if let Some(made) = (self.0.make)(folder) {
            return made;
        }
        match self.find(folder) {
            Ok(store) => store,
            Err(error) => Arc::new(Unavailable::new(&error)),
        }
    }

    fn find(&self, folder: &Folder) -> io::Result<Arc<dyn Store>> {
        let local = || Arc::new(LocalStore::new(folder.dir()));
        let Some(wanted) = wanted(folder)? else {
            return Ok(local());
        };
        let to: Arc<dyn Store> = match &wanted.name {
            Some(name) => self.named(folder, name, &wanted)?.store(),
            None => local(),
        };
        let from: Arc<dyn Store> = match &wanted.from {
            None => return Ok(to),
            Some(Source::Local) => local(),
            Some(Source::Store(name)) => self.named(folder, name, &wanted)?.store(),
        };
        let folder = folder.clone();
        let document = move |path: &ContentPath| Documents::of(&folder)?.find(path);
        Ok(Arc::new(Moving::new(from, to).with_documents(document)))
    }

    /// The stores of a folder that are not its own directory: one, or during a move two, the one
    /// that the files are moved to first.
    pub fn elsewhere(&self, folder: &Folder) -> io::Result<Vec<Elsewhere>> {
        let Some(wanted) = wanted(folder)? else {
            return Ok(Vec::new());
        };
        let from = match &wanted.from {
            Some(Source::Store(name)) => Some(name),
            _ => None,
        };
        let names = wanted.name.iter().chain(from);
        names
            .map(|name| self.named(folder, name, &wanted))
            .collect()
    }

    /// The contents of a folder, if they are in a store elsewhere or on their way.
    pub fn elsewhere_as_one(&self, folder: &Folder) -> io::Result<Option<Arc<dyn Store>>> {
        let stores = self.elsewhere(folder)?;
        Ok((!stores.is_empty()).then(|| self.of(folder)))
    }

    /// The store of this name, as that of a folder.
    pub fn named(
        &self,
        folder: &Folder,
        name: &str,
        wanted: &FolderStore,
    ) -> io::Result<Elsewhere> {
        let key = (folder.path().to_owned(), name.to_owned());
        let known = || {
            let open = self.open();
            let open = open.get(&key)?;
            let is_same = open.wanted.keep == wanted.keep
                && open.wanted.readers == wanted.readers
                && open.index == notes::identity(folder.path(), name);
            match &open.store {
                Ok(store) if is_same => Some(Ok(store.clone())),
                Err((since, kind, why)) if is_same && since.elapsed() < AGAIN => {
                    Some(Err(io::Error::new(*kind, why.clone())))
                }
                _ => None,
            }
        };
        if let Some(known) = known() {
            return known;
        }
        // One at a time, in all processes: two would make two folders of one. The lock ends with the
        // handle.
        let opening = folder.dir().open(".")?.into_std();
        opening.lock()?;
        if let Some(known) = known() {
            return known;
        }
        let opened = self.open_store(folder, name, wanted);
        let store = opened.map_err(|error| {
            let why = format!("store {name}: {error}");
            (Instant::now(), error.kind(), why)
        });
        let result = match &store {
            Ok(store) => Ok(store.clone()),
            Err((_, kind, why)) => Err(io::Error::new(*kind, why.clone())),
        };
        let open = Open {
            wanted: wanted.clone(),
            index: notes::identity(folder.path(), name),
            store,
        };
        self.open().insert(key, open);
        result
    }

    /// The same of a store that has chunks.
    pub fn chunked(
        &self,
        folder: &Folder,
        name: &str,
        wanted: &FolderStore,
    ) -> io::Result<Arc<ChunkedStore>> {
        match self.named(folder, name, wanted)? {
            Elsewhere::Chunked(store) => Ok(store),
            Elsewhere::Plain(_) => Err(not_in_chunks()),
        }
    }

    /// Closes the store of this name, of which the folder has no contents any more.
    pub fn close(&self, folder: &Folder, name: &str) {
        let key = (folder.path().to_owned(), name.to_owned());
        self.open().remove(&key);
    }

    /// Those with chunks that are open.
    pub fn all_open(&self) -> Vec<(PathBuf, Arc<ChunkedStore>)> {
        let open = self.open();
        let open = open.iter().filter_map(|((path, name), open)| {
            let store = open.store.as_ref().ok()?.chunked()?;
            let is_there = open.index == notes::identity(path, name);
            is_there.then(|| (path.clone(), store.clone()))
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
                    let place = place(member).cloned().map_err(|error| error.to_string());
                    let (contacts, root) = (self.0.contacts.clone(), root.clone());
                    let opened = LaterMember::open(move || {
                        let place = place.as_ref().map_err(|e| MemberError::Failed(e.clone()))?;
                        open_member(contacts.as_deref(), &root, place)
                    });
                    (member.clone(), opened)
                });
                Ok(Holders::Stripe(Box::new(Stripe::new(
                    members,
                    striped.write,
                ))))
            }
            one => Ok(Holders::One {
                name: name.to_owned(),
                member: self.member(root, one)?,
            }),
        }
    }

    /// A member that m2y.ini names.
    pub fn member(&self, root: &Root, place: &Place) -> MemberResult<Arc<dyn Member>> {
        open_member(self.0.contacts.as_deref(), root, place)
    }

    fn open_store(
        &self,
        folder: &Folder,
        name: &str,
        wanted: &FolderStore,
    ) -> io::Result<Elsewhere> {
        let (root, user) = (folder.user().root(), folder.user());
        if let Some(bucket) = plain_bucket(root, name)? {
            return open_plain(folder, name, &bucket, wanted).map(Elsewhere::Plain);
        }
        if notes::is_plain(folder.dir(), name)? {
            return Err(io::Error::other(
                "the files of this folder are there as layout = plain has them: put that line back \
                 into m2y.ini, and use `m2y folder move` to another store",
            ));
        }
        let holders = Arc::new(self.holders(root, name)?);
        let mut readers = vec![user.own_key().map_err(io::Error::other)?];
        for reader in &wanted.readers {
            readers.push(user.contact(reader).map_err(io::Error::other)?.key);
        }
        let owner = readers
            .first()
            .map(|key| key.fingerprint().as_bytes().to_vec());
        let owner = owner.unwrap_or_default();
        let (dir, count) = (folder.dir(), holders.count());
        let (secret, is_new) = match known_secret(folder, name)? {
            Some(secret) => (secret, false),
            None => (self.new_secret(folder, name, wanted, &holders)?, true),
        };
        let policy = Policy {
            readers,
            keep: wanted.keep,
            identity: identity(folder.path()),
            silence: lease::SILENCE,
        };
        let store = ChunkedStore::open((dir, folder.path()), name, secret, holders, policy)?;
        if is_new || store.owner()? != Some(owner.clone()) {
            // Also after the owner got another key: the earlier one may be gone by the time a
            // server has to be recovered.
            let private = user.private_key().map_err(io::Error::other)?;
            store.introduce(&about(folder, count), &private, owner)?;
        }
        Ok(Elsewhere::Chunked(Arc::new(store)))
    }

    /// The secret of a folder that is not on its members yet.
    fn new_secret(
        &self,
        folder: &Folder,
        name: &str,
        wanted: &FolderStore,
        holders: &Arc<Holders>,
    ) -> io::Result<FolderSecret> {
        check_new(folder, name, wanted)?;
        let private: Arc<PrivateKey> =
            Arc::new(folder.user().private_key().map_err(io::Error::other)?);
        let about = about(folder, holders.count());
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

/// Opens a member that m2y.ini names.
fn open_member(
    contacts: Option<&OpenContact>,
    root: &Root,
    place: &Place,
) -> MemberResult<Arc<dyn Member>> {
    match place {
        Place::Directory(path) => Ok(Arc::new(DirectoryMember::open(path)?)),
        Place::Bucket(bucket) => Ok(Arc::new(S3Member::new(bucket, None)?)),
        Place::Contact(folder) => match contacts {
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

/// What the document of a folder says.
fn about(folder: &Folder, members: usize) -> About {
    About {
        user: folder.user().name().to_string(),
        folder: folder.name().to_string(),
        members,
    }
}

/// What a folder's m2y.config says of the store; `None` for its own directory.
fn wanted(folder: &Folder) -> io::Result<Option<FolderStore>> {
    // Without a readable m2y.config nothing is done with the folder, but it can be looked at.
    let wanted = folder.config().map(|config| FolderStore::of(&config));
    match wanted {
        Ok(wanted) if wanted.name.is_some() || wanted.from.is_some() => Ok(Some(wanted)),
        // Its files must not seem to be gone.
        _ if !notes::stores(folder.dir())?.is_empty() => Err(io::Error::other(
            "the files of this folder are in a store that m2y.config does not name any more: put \
             the [store] section back",
        )),
        _ => Ok(None),
    }
}

/// Fails if the files of a folder are somewhere else than in the store that it has not been in yet.
fn check_new(folder: &Folder, name: &str, wanted: &FolderStore) -> io::Result<()> {
    if wanted.from.is_some() {
        return Ok(());
    }
    if let Some(other) = other_store(folder, name)? {
        return Err(io::Error::other(format!(
            "the files of this folder are in the store {other}: name that in m2y.config, and use \
             `m2y folder move`"
        )));
    }
    match has_files(folder)? {
        true => Err(io::Error::other(
            "the folder has files in its own directory, which would be out of sight: remove the \
             [store] section, and use `m2y folder move`",
        )),
        false => Ok(()),
    }
}

/// The bucket of a store whose layout is plain; `None` for any other store.
pub fn plain_bucket(root: &Root, name: &str) -> io::Result<Option<Bucket>> {
    let stores = root.settings().map_err(io::Error::other)?.stores;
    Ok(match stores.get(name) {
        Some(Place::Bucket(bucket)) if bucket.layout == Layout::Plain => Some(bucket.clone()),
        _ => None,
    })
}

fn open_plain(
    folder: &Folder,
    name: &str,
    bucket: &Bucket,
    wanted: &FolderStore,
) -> io::Result<Arc<PlainStore>> {
    if !wanted.keep.is_zero() || !wanted.readers.is_empty() {
        return Err(io::Error::other(
            "a store with layout = plain knows neither keep nor readers: remove these lines from \
             m2y.config, and set versions and access in the bucket",
        ));
    }
    let at = (folder.user().name().as_str(), folder.name().as_str());
    notes::remove_if_left(folder.dir(), name)?;
    if !notes::is_plain(folder.dir(), name)? {
        if notes::stores(folder.dir())?
            .iter()
            .any(|other| other == name)
        {
            return Err(io::Error::other(
                "the files of this folder are sealed there: remove layout = plain from m2y.ini, and \
                 use `m2y folder move` to another store",
            ));
        }
        check_new(folder, name, wanted)?;
        // A file that is brought over gives way to one that is there.
        if wanted.from.is_some() && plain::has_files(bucket, at)? {
            return Err(io::Error::other(format!(
                "{} has files of this folder, which may be other ones: move what is below {}/{} there \
                 aside",
                bucket.shown(),
                at.0,
                at.1
            )));
        }
    }
    let store = PlainStore::open(folder.dir(), name, bucket, at, None, LIMITS)?;
    Ok(Arc::new(store))
}

/// Whether there are contents in the folder's own directory.
fn has_files(folder: &Folder) -> io::Result<bool> {
    // Programs are hooks, and stay.
    let hooks = folder.config().map_err(io::Error::other)?.hooks();
    let mut names = LocalStore::new(folder.dir()).names(&Default::default())?;
    Ok(names.any(|name| !name.is_ok_and(|(name, _)| hooks.contains(&name))))
}

/// A store other than this one that the folder is in.
fn other_store(folder: &Folder, name: &str) -> io::Result<Option<String>> {
    let mut stores = notes::stores(folder.dir())?.into_iter();
    Ok(stores.find(|other| other != name))
}

/// The secret of a folder that is in this store already.
fn known_secret(folder: &Folder, name: &str) -> io::Result<Option<FolderSecret>> {
    notes::remove_if_left(folder.dir(), name)?;
    let file = Path::new(notes::DIR).join(notes::index_name(name));
    match folder.dir().try_exists(file)? {
        true => index::Index::open(folder.dir(), folder.path(), name)?.identity(),
        false => Ok(None),
    }
}

/// What tells a folder from those of other roots, and from copies on other machines.
fn identity(path: &Path) -> Vec<u8> {
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    [&machine[..], &host, path.as_os_str().as_encoded_bytes()].join(&0)
}

//! A user: the profile, the own keys, the contacts, the folders.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, Weak},
};

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, MetadataExt};
use zeroize::Zeroizing;

use super::{
    Root,
    contact::{self, Card, Contact},
    error::RootError,
    file,
    folder::Folder,
    name::Name,
    passphrases,
};
use crate::{
    crypto::{
        CryptoError,
        keys::{PrivateKey, PublicKey},
        passphrase,
    },
    json::{self, Map, Value},
    transport::Addresses,
};

/// The fields of the seed; others are kept too.
pub const FIELDS: [&str; 7] = [
    "username",
    "realname",
    "email",
    "mobile phone",
    "street",
    "city",
    "zip",
];

/// The largest profile or key file, in bytes.
const MAX_LEN: u64 = 65_536;

/// A user whose directory is open.
#[derive(Clone)]
pub struct User {
    pub(super) root: Root,
    pub(super) name: Name,
    pub(super) dir: Arc<Dir>,
}

/// What `create` did.
pub struct Created {
    /// The user.
    pub user: User,
    /// Whether keys were made, or existed already.
    pub new_keys: bool,
}

impl User {
    /// Makes a user from a profile: directories, keys if there are none yet, the `hash2user` entry.
    /// Run again, it takes the new profile and keeps the keys.
    ///
    /// `path` is where the profile came from, for messages.
    pub fn create(
        root: &Root,
        path: &str,
        profile: &[u8],
        bits: usize,
    ) -> Result<Created, RootError> {
        let profile = json::parse(profile).map_err(|e| RootError::json(path, e))?;
        let name = match profile.get("username") {
            Some(Value::String(name)) => Name::user(name)?,
            _ => {
                return Err(RootError::document(
                    path,
                    "the field \"username\" is missing",
                ));
            }
        };
        for field in FIELDS {
            if !matches!(
                profile.get(field),
                None | Some(Value::Null | Value::String(_))
            ) {
                let reason = format!("the field {field:?} must be text");
                return Err(RootError::document(path, reason));
            }
        }
        root.remember_name(&name)?;
        let at = format!("user/{name}");
        // What arrives here is for its receiver, not for everybody on the machine.
        make_dir(&root.dir, &at, 0o700)?;
        make_dir(&root.dir, &format!("{at}/pubKey"), 0o755)?;
        make_dir(&root.dir, &format!("{at}/privateKey"), 0o700)?;
        let user = Self::open(root, &name)?;
        let new_keys = user.make_keys(bits)?;
        file::replace(
            &user.dir,
            "user.json",
            0o644,
            json::pretty(&profile).as_bytes(),
        )
        .map_err(RootError::io("write", format!("{at}/user.json")))?;
        Ok(Created { user, new_keys })
    }

    /// Opens the directory of a user, or reuses its handle if it is open already.
    pub fn open(root: &Root, name: &Name) -> Result<Self, RootError> {
        let at = format!("user/{name}");
        match Self::dir_of(root, name, &at) {
            Ok(dir) => Ok(Self {
                root: root.clone(),
                name: name.clone(),
                dir,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(RootError::NoUser(name.clone())),
            Err(e) => Err(RootError::io("open", at)(e)),
        }
    }

    fn dir_of(root: &Root, name: &Name, at: &str) -> io::Result<Arc<Dir>> {
        let dirs = || root.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        let held = dirs().get(name).and_then(Weak::upgrade);
        if let Some(held) = held {
            // A different directory may have the name now.
            let (now, then) = (root.dir.metadata(at)?, held.dir_metadata()?);
            if (now.dev(), now.ino()) == (then.dev(), then.ino()) {
                return Ok(held);
            }
        }
        let dir = Arc::new(root.dir.open_dir(at)?);
        dirs().insert(name.clone(), Arc::downgrade(&dir));
        Ok(dir)
    }

    /// Makes the missing parts of the key pair; true if the private key is new.
    fn make_keys(&self, bits: usize) -> Result<bool, RootError> {
        let private_path = self.at(&self.private_key_file());
        let new = match self.dir.symlink_metadata(self.private_key_file()) {
            Ok(_) => false,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let (pem, _) = PrivateKey::generate(bits).map_err(|source| RootError::Key {
                    path: private_path.clone(),
                    source,
                })?;
                file::create(
                    &self.private_keys()?,
                    &self.key_file(),
                    0o600,
                    pem.as_bytes(),
                )
                .map_err(RootError::io("create", private_path.clone()))?;
                true
            }
            Err(e) => return Err(RootError::io("open", private_path)(e)),
        };
        self.own_key()?;
        Ok(new)
    }

    /// The public half of the private key. The file in `pubKey/` is repaired if it is missing or a
    /// different one, as after an interrupted rotation.
    pub fn own_key(&self) -> Result<PublicKey, RootError> {
        let is_there = |key: &PublicKey| self.contact(&self.name).is_ok_and(|own| own.key == *key);
        let key = self.private_key()?.public().clone();
        if is_there(&key) {
            return Ok(key);
        }
        // Another process may be about to write both.
        let _lock = self.lock_keys()?;
        let key = self.private_key()?.public().clone();
        if !is_there(&key) {
            self.write_public_key(&self.name, &key)?;
        }
        Ok(key)
    }

    /// The public key as the file in `pubKey/` has it, for which the private key is not opened if
    /// that file is there.
    pub fn public_key(&self) -> Result<PublicKey, RootError> {
        match self.contact(&self.name) {
            Ok(own) => Ok(own.key),
            Err(_) => self.own_key(),
        }
    }

    /// Waits until no other process is changing the user's keys or contacts, and keeps others from
    /// doing so for as long as the file is open.
    pub(super) fn lock_keys(&self) -> Result<std::fs::File, RootError> {
        let dir = self
            .private_keys()?
            .open(".")
            .map_err(RootError::io("open", self.at("privateKey")))?
            .into_std();
        // Some file systems have no locks.
        let _ = dir.lock();
        Ok(dir)
    }

    /// The directory of the private keys.
    pub(super) fn private_keys(&self) -> Result<Dir, RootError> {
        self.dir
            .open_dir("privateKey")
            .map_err(RootError::io("open", self.at("privateKey")))
    }

    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The root that the user belongs to.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The directory handle.
    pub fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// Where the directory is.
    pub fn path(&self) -> PathBuf {
        self.root.path().join(self.at(""))
    }

    /// The profile, as `user create` took it.
    pub fn profile(&self) -> Result<Map<String, Value>, RootError> {
        let path = self.at("user.json");
        let text = file::read(&self.dir, "user.json", MAX_LEN)
            .map_err(RootError::io("open", path.clone()))?;
        json::parse(&text).map_err(|e| RootError::json(path, e))
    }

    /// Opens the private key, which nobody else may be able to read.
    pub fn private_key(&self) -> Result<PrivateKey, RootError> {
        self.private_key_in(&self.private_key_file())
    }

    /// Opens a private key from this file of the user's.
    pub(super) fn private_key_in(&self, file: &str) -> Result<PrivateKey, RootError> {
        self.read_private_key(file, &self.private_pem(file)?)
    }

    /// The private key in what was read from a file of the user's.
    pub(super) fn read_private_key(&self, file: &str, pem: &[u8]) -> Result<PrivateKey, RootError> {
        let key = std::str::from_utf8(pem)
            .map_err(|_| CryptoError::Key("it is not text".to_owned()))
            .and_then(|pem| match passphrase::is_locked(pem) {
                true => PrivateKey::from_pem(&passphrases::open(&self.at(file), pem)?.pem),
                false => PrivateKey::from_pem(pem),
            });
        key.map_err(|source| RootError::Key {
            path: self.at(file),
            source,
        })
    }

    /// Reads the file of a private key, which nobody else may be able to read.
    pub(super) fn private_pem(&self, file: &str) -> Result<Zeroizing<Vec<u8>>, RootError> {
        let path = self.at(file);
        let io = |action| RootError::io(action, path.clone());
        // Of the file that is read, not of the one that may have taken its name since.
        let (file, about) = file::open(&self.dir, file).map_err(io("open"))?;
        let mode = about.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(RootError::Mode {
                full: self.root.path().join(&path).display().to_string(),
                path,
                mode,
            });
        }
        file::read_open(file, MAX_LEN)
            .map(Zeroizing::new)
            .map_err(io("read"))
    }

    /// A contact: somebody with a key file in `pubKey/`.
    pub fn contact(&self, name: &Name) -> Result<Contact, RootError> {
        let file = format!("pubKey/{name}.data");
        let path = self.at(&file);
        let pem = match file::read_text(&self.dir, &file, MAX_LEN) {
            Ok(pem) => pem,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(RootError::NoContact {
                    user: self.name.clone(),
                    contact: name.clone(),
                });
            }
            Err(e) => return Err(RootError::io("open", path)(e)),
        };
        let key = PublicKey::from_pem(&pem).map_err(|source| RootError::Key { path, source })?;
        Ok(Contact {
            name: name.clone(),
            key,
        })
    }

    /// Finds a contact by the hash in a header; `None` if there is none. An error only if the
    /// machine could not look.
    ///
    /// A key file that a person put there has no `hash2user` entry, so the
    /// names in `pubKey/` are tried too.
    pub fn contact_of(&self, hash: &[u8; 8]) -> Result<Option<Contact>, RootError> {
        let contact = |name: Option<Name>| match name {
            Some(name) => RootError::unless_shortage(self.contact(&name)),
            None => Ok(None),
        };
        if let Some(contact) = contact(self.root.name_of(hash)?)? {
            return Ok(Some(contact));
        }
        let entries = self.dir.read_dir("pubKey");
        let entries = entries.map_err(RootError::io("open", self.at("pubKey")));
        let Some(mut entries) = RootError::unless_shortage(entries)? else {
            return Ok(None);
        };
        let name = entries.find_map(|entry| {
            let file = entry.ok()?.file_name();
            let name = Name::user(file.to_str()?.strip_suffix(".data")?).ok()?;
            (name.hash() == *hash).then_some(name)
        });
        contact(name)
    }

    /// Stores the key of a contact. A different key that is there already stays,
    /// unless `replace` says otherwise.
    pub fn add_contact(
        &self,
        name: &Name,
        key: &PublicKey,
        replace: bool,
    ) -> Result<(), RootError> {
        if self.check_contact(name, key, replace)? {
            self.write_public_key(name, key)?;
        }
        self.root.remember_name(name)
    }

    /// Whether the key of a contact has to be written to be there; fails if it must not be.
    pub fn check_contact(
        &self,
        name: &Name,
        key: &PublicKey,
        replace: bool,
    ) -> Result<bool, RootError> {
        match self.contact(name) {
            Ok(old) if old.key == *key => Ok(false),
            Ok(_) if *name == self.name => Err(RootError::Oneself(name.clone())),
            Ok(old) if !replace => Err(RootError::OtherKey {
                name: name.clone(),
                old: old.key.fingerprint().to_string(),
                new: key.fingerprint().to_string(),
            }),
            // Replacing a file that holds no key must be deliberate too.
            Err(e @ RootError::Key { .. }) if !replace => Err(e),
            Ok(_) | Err(RootError::NoContact { .. } | RootError::Key { .. }) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Everybody but the user with a key file in `pubKey/`, sorted by name; an error for a file
    /// that holds no key.
    pub fn contacts(&self) -> Result<Vec<Result<Contact, RootError>>, RootError> {
        let names = self.contact_names()?;
        Ok(names.iter().map(|name| self.contact(name)).collect())
    }

    /// The names of [`Self::contacts`]; no key is read.
    pub fn contact_names(&self) -> Result<Vec<Name>, RootError> {
        let mut names: Vec<Name> = self
            .dir
            .read_dir("pubKey")
            .map_err(RootError::io("open", self.at("pubKey")))?
            .filter_map(|entry| {
                let file = entry.ok()?.file_name();
                Name::user(file.to_str()?.strip_suffix(".data")?).ok()
            })
            .filter(|name| *name != self.name)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Forgets a contact: the address, then the key, without which nobody is a contact. The record
    /// of openings stays, so that no recording is new if the contact comes back.
    pub fn remove_contact(&self, name: &Name) -> Result<(), RootError> {
        if *name == self.name {
            return Err(RootError::Oneself(name.clone()));
        }
        let file = format!("pubKey/{name}.data");
        let no_contact = || RootError::NoContact {
            user: self.name.clone(),
            contact: name.clone(),
        };
        let there = file::exists(&self.dir, &file);
        if !there.map_err(RootError::io("open", self.at(&file)))? {
            return Err(no_contact());
        }
        // Before the lock, which it takes too.
        self.remove_boxes(name)?;
        let _lock = self.lock_keys()?;
        let old = self.contacts_ini()?;
        let new = contact::without(&old, name);
        if new != old {
            self.write_contacts_ini(&new)?;
        }
        let dir = self
            .dir
            .open_dir("pubKey")
            .map_err(RootError::io("open", self.at("pubKey")))?;
        match dir.remove_file(format!("{name}.data")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(no_contact()),
            removed => removed
                .and_then(|()| file::sync(&dir))
                .map_err(RootError::io("remove", self.at(&file))),
        }
    }

    pub(super) fn write_public_key(&self, name: &Name, key: &PublicKey) -> Result<(), RootError> {
        let path = self.at(&format!("pubKey/{name}.data"));
        let pem = key.to_pem().map_err(|source| RootError::Key {
            path: path.clone(),
            source,
        })?;
        let dir = self
            .dir
            .open_dir("pubKey")
            .map_err(RootError::io("open", self.at("pubKey")))?;
        file::replace(&dir, &format!("{name}.data"), 0o644, pem.as_bytes())
            .map_err(RootError::io("write", path))
    }

    /// The card to hand out; `addresses` say where a server of the user is reached, if known, and
    /// `folder` is where files sent without naming one go.
    pub fn card(
        &self,
        addresses: Option<Addresses>,
        folder: Option<Name>,
    ) -> Result<Card, RootError> {
        Ok(Card {
            name: self.name.clone(),
            key: self.own_key()?,
            addresses,
            folder,
            letter_box: None,
        })
    }

    /// Opens an m2y-folder: a directory with an m2y.config in it.
    pub fn folder(&self, name: &Name) -> Result<Folder, RootError> {
        Folder::open(self, name)
    }

    /// Makes an m2y-folder, with a commented m2y.config unless there is one.
    pub fn create_folder(&self, name: &Name) -> Result<Folder, RootError> {
        make_dir(&self.dir, name.as_str(), 0o755)?;
        Folder::create(self, name)
    }

    /// The directory that this user's own `.meta` for a folder go into, made if it is missing. It
    /// need not be an m2y-folder.
    pub fn outbox(&self, folder: &Name) -> Result<PathBuf, RootError> {
        make_dir(&self.dir, folder.as_str(), 0o755)?;
        Ok(self.root.path().join(self.at(folder.as_str())))
    }

    /// Every m2y-folder of the user, sorted by name; an error for one that looks like a folder but
    /// cannot be opened.
    pub fn folders(&self) -> Result<Vec<Result<Folder, RootError>>, RootError> {
        let names = self.names_of_folders()?;
        Ok(names
            .iter()
            .map(|name| self.folder(name))
            .filter(|folder| !matches!(folder, Err(RootError::NoFolder { .. })))
            .collect())
    }

    /// The names of [`Self::folders`] that can be opened.
    pub fn folder_names(&self) -> Result<Vec<Name>, RootError> {
        let folders = self.folders()?.into_iter().flatten();
        Ok(folders.map(|folder| folder.name().clone()).collect())
    }

    /// What may be the names of folders, sorted.
    fn names_of_folders(&self) -> Result<Vec<Name>, RootError> {
        let mut names: Vec<Name> = self
            .dir
            .entries()
            .map_err(RootError::io("open", self.at("")))?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                Name::folder(name.to_str()?).ok()
            })
            .collect();
        names.sort();
        Ok(names)
    }

    pub(super) fn make_dir(&self, path: &str, mode: u32) -> Result<(), RootError> {
        make_dir(&self.dir, path, mode)
    }

    /// A path of this user's as it stands below the root.
    pub(super) fn at(&self, file: &str) -> String {
        format!("user/{}/{file}", self.name)
    }

    pub(super) fn key_file(&self) -> String {
        format!("{}.data", self.name)
    }

    pub(super) fn private_key_file(&self) -> String {
        format!("privateKey/{}.data", self.name)
    }
}

fn make_dir(dir: &Dir, path: &str, mode: u32) -> Result<(), RootError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(mode);
    dir.create_dir_with(path, &builder)
        .map_err(RootError::io("create", path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_opens_a_user_twice_has_one_handle_until_it_is_another_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (root, _) = Root::init(dir.path(), &[]).unwrap();
        let name = Name::user("zhenqiang").unwrap();
        let at = dir.path().join("user/zhenqiang");
        std::fs::create_dir(&at).unwrap();
        let (first, second) = (root.user(&name).unwrap(), root.user(&name).unwrap());
        assert!(Arc::ptr_eq(&first.dir, &second.dir));
        std::fs::rename(&at, dir.path().join("user/old")).unwrap();
        assert!(matches!(root.user(&name), Err(RootError::NoUser(_))));
        std::fs::create_dir(&at).unwrap();
        let third = root.user(&name).unwrap();
        assert!(!Arc::ptr_eq(&first.dir, &third.dir));
        std::fs::write(at.join("x"), "").unwrap();
        assert!(third.dir.exists("x") && !first.dir.exists("x"));
    }
}

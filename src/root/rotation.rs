//! A new key pair in place of the old one, which is kept aside.
//!
//! The private key says which pair a user has; the file in `pubKey/` is a copy of its public half
//! and is repaired where it differs ([`User::own_key`]). So one rename changes the pair, and there
//! is one at every moment:
//!
//! 1. the old private key is written once more, as `privateKey/NAME.before-DIGITS.data`
//!    with 16 hexadecimal digits of the new key's fingerprint, and made durable,
//! 2. the new private key takes the place of the old one, by a rename,
//! 3. the new public key takes the place of the old one.
//!
//! With the old key and the new one, the announcement can be signed at any later time.

use std::io;

use super::{
    error::RootError,
    file,
    passphrases::{self, Secret},
    user::User,
};
use crate::crypto::{
    CryptoError,
    keys::{Fingerprint, PrivateKey, PublicKey},
    passphrase,
};

/// The key that a user had, and the one in its place.
#[derive(Debug)]
pub struct Rotation {
    /// The one whose public half the contacts still have.
    pub old: PrivateKey,
    /// The one that they need.
    pub new: PublicKey,
    /// Where the old private key is kept, below the root.
    pub kept: String,
}

impl User {
    /// Makes a new key pair, keeps the old private key aside and takes the new one into
    /// use. From then on contacts that have the old key can neither send nor be sent to.
    pub fn rotate(&self, bits: usize) -> Result<Rotation, RootError> {
        let (pem, new) = PrivateKey::generate(bits).map_err(|source| RootError::Key {
            path: self.at(&self.private_key_file()),
            source,
        })?;
        // If two run at once, each puts aside what it replaces.
        let _lock = self.lock_keys()?;
        let file = self.private_key_file();
        let old_pem = self.private_pem(&file)?;
        let old = self.read_private_key(&file, &old_pem)?;
        // Who needed a passphrase for the old one needs the same for the new one.
        let pem = self.locked_like(&file, &old_pem, pem)?;
        let dir = self.private_keys()?;
        let name = self.kept_file(&new.fingerprint());
        let kept = self.at(&format!("privateKey/{name}"));
        file::create(&dir, &name, 0o600, &old_pem)
            .map_err(RootError::io("create", kept.clone()))?;
        file::replace(&dir, &self.key_file(), 0o600, pem.as_bytes())
            .map_err(RootError::io("write", self.at(&file)))?;
        self.write_public_key(self.name(), &new)?;
        Ok(Rotation { old, new, kept })
    }

    /// A new private key with the passphrase of another one, if that has one.
    fn locked_like(&self, file: &str, other: &[u8], pem: Secret) -> Result<Secret, RootError> {
        let failed = |source| RootError::Key {
            path: self.at(file),
            source,
        };
        match std::str::from_utf8(other) {
            Ok(other) if passphrase::is_locked(other) => {
                let opened = passphrases::open(&self.at(file), other).map_err(failed)?;
                passphrase::lock(&pem, &opened.passphrase).map_err(failed)
            }
            _ => Ok(pem),
        }
    }

    /// Gives all private keys this passphrase, or none; returns how many there are.
    ///
    /// # Errors
    ///
    /// If one cannot be opened or written. Those before it are changed already.
    pub fn set_passphrase(&self, new: Option<&Secret>) -> Result<usize, RootError> {
        let _lock = self.lock_keys()?;
        let dir = self.private_keys()?;
        let io = |action| RootError::io(action, self.at("privateKey"));
        let mut changed = 0;
        for entry in dir.entries().map_err(io("read"))? {
            let name = entry.map_err(io("read"))?.file_name();
            let Some(name) = name.to_str().filter(|name| name.ends_with(".data")) else {
                continue;
            };
            let file = format!("privateKey/{name}");
            let failed = |source| RootError::Key {
                path: self.at(&file),
                source,
            };
            let pem = self.private_pem(&file)?;
            let text = std::str::from_utf8(&pem);
            let text = text.map_err(|_| failed(CryptoError::Key("it is not text".to_owned())))?;
            let open = match passphrase::is_locked(text) {
                true => {
                    passphrases::open(&self.at(&file), text)
                        .map_err(failed)?
                        .pem
                }
                false => Secret::new(text.to_owned()),
            };
            let written = match new {
                Some(new) => passphrase::lock(&open, new).map_err(failed)?,
                None => open,
            };
            file::replace(&dir, name, 0o600, written.as_bytes())
                .map_err(RootError::io("write", self.at(&file)))?;
            changed += 1;
        }
        Ok(changed)
    }

    /// The rotation that made the present key; `None` if it is the first one.
    pub fn last_rotation(&self) -> Result<Option<Rotation>, RootError> {
        let new = self.own_key()?;
        let file = format!("privateKey/{}", self.kept_file(&new.fingerprint()));
        let kept = self.at(&file);
        match self.private_key_in(&file) {
            Ok(old) => Ok(Some(Rotation { old, new, kept })),
            Err(RootError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// The name of the file for the private key before this one.
    fn kept_file(&self, successor: &Fingerprint) -> String {
        format!("{}.before-{}.data", self.name(), successor.short())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::root::Root;

    const BITS: usize = 2048;

    fn zhenqiang(dir: &tempfile::TempDir) -> User {
        let (root, _) = Root::init(dir.path(), &[]).unwrap();
        let profile = br#"{"username": "zhenqiang"}"#;
        User::create(&root, "profile", profile, BITS).unwrap().user
    }

    #[test]
    fn the_old_key_is_kept_and_the_new_pair_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let user = zhenqiang(&dir);
        let first = user.own_key().unwrap();
        assert!(user.last_rotation().unwrap().is_none());
        let rotation = user.rotate(BITS).unwrap();
        assert_eq!(rotation.old.public(), &first);
        assert_eq!(user.private_key().unwrap().public(), &rotation.new);
        assert_eq!(user.contact(user.name()).unwrap().key, rotation.new);
        let kept = dir.path().join(&rotation.kept);
        assert_eq!(
            std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let again = user.last_rotation().unwrap().unwrap();
        assert_eq!(again.old.public(), &first);
        assert_eq!((again.new, again.kept), (rotation.new, rotation.kept));
    }

    #[test]
    fn a_rotation_that_broke_off_before_the_rename_changed_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let user = zhenqiang(&dir);
        let first = user.own_key().unwrap();
        // The first step: the key is aside, for a new one that never came.
        let pem = user.private_pem(&user.private_key_file()).unwrap();
        let keys = user.private_keys().unwrap();
        let name = "zhenqiang.before-0123456789abcdef.data";
        file::create(&keys, name, 0o600, &pem).unwrap();
        assert_eq!(user.own_key().unwrap(), first);
        assert!(user.last_rotation().unwrap().is_none());
        assert_eq!(user.rotate(BITS).unwrap().old.public(), &first);
    }

    #[test]
    fn a_rotation_that_broke_off_after_the_rename_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let user = zhenqiang(&dir);
        let first = user.own_key().unwrap();
        let new = user.rotate(BITS).unwrap().new;
        // As it was between the second step and the third.
        user.write_public_key(user.name(), &first).unwrap();
        assert_eq!(user.own_key().unwrap(), new);
        assert_eq!(user.contact(user.name()).unwrap().key, new);
        // And so it does by the way that makes a user.
        user.write_public_key(user.name(), &first).unwrap();
        let profile = br#"{"username": "zhenqiang"}"#;
        let made = User::create(user.root(), "profile", profile, BITS).unwrap();
        assert!(!made.new_keys);
        assert_eq!(user.contact(user.name()).unwrap().key, new);
    }

    #[test]
    fn of_many_rotations_at_once_no_key_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let user = zhenqiang(&dir);
        let first = user.own_key().unwrap();
        let rotations: Vec<_> = std::thread::scope(|scope| {
            let rotate = || user.rotate(BITS).unwrap();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(rotate)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        // They make one chain from the first key to the present one.
        let mut key = first;
        for _ in 0..rotations.len() {
            let next = rotations.iter().find(|r| r.old.public() == &key).unwrap();
            key = next.new.clone();
        }
        assert_eq!(user.private_key().unwrap().public(), &key);
        assert_eq!(user.contact(user.name()).unwrap().key, key);
    }
}

//! The users of a root: by name, by hash, and all of them.

use std::{io, sync::atomic::Ordering};

use tracing::warn;

use super::{
    Root,
    error::RootError,
    file,
    name::{self, Name, NameHash},
    user::User,
};

impl Root {
    /// Opens the directory of a user.
    pub fn user(&self, name: &Name) -> Result<User, RootError> {
        User::open(self, name)
    }

    /// Every user, sorted by name: directories with a user.json. Anything else that looks like one
    /// is only logged, once for this root.
    pub fn users(&self) -> Result<Vec<User>, RootError> {
        let mut names: Vec<Name> = self
            .dir
            .read_dir("user")
            .map_err(RootError::io("open", "user"))?
            .filter_map(|entry| Name::user(entry.ok()?.file_name().to_str()?).ok())
            .collect();
        names.sort();
        let told = self.told.swap(true, Ordering::Relaxed);
        let user = |name| match self.finished(name) {
            Ok(user) => user,
            Err(reason) => {
                if !told {
                    warn!("skipped: {reason}");
                }
                None
            }
        };
        Ok(names.iter().filter_map(user).collect())
    }

    /// Opens the user of an entry in `user/`; `None` for a plain file there. An error for what
    /// looks like a user but is not one.
    pub fn finished(&self, name: &Name) -> Result<Option<User>, RootError> {
        let at = format!("user/{name}");
        let about = self
            .dir
            .metadata(&at)
            .map_err(RootError::io("open", at.clone()))?;
        if !about.is_dir() {
            return Ok(None);
        }
        let user = self.user(name)?;
        // It is written last. One that is there but cannot be read still belongs to somebody whose
        // keys must be in order.
        match user.dir().symlink_metadata("user.json") {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(RootError::Unfinished(at)),
            _ => Ok(Some(user)),
        }
    }

    /// Finds a user name by the hash in a header; `None` if there is none. An error only if the
    /// machine could not look.
    pub fn name_of(&self, hash: &NameHash) -> Result<Option<Name>, RootError> {
        let path = hash_path(hash);
        let text = match file::read_text(&self.dir, &path, name::MAX_BYTES as u64 + 2) {
            Err(e) if file::is_shortage(&e) => return Err(RootError::io("open", path)(e)),
            read => read.unwrap_or_default(),
        };
        let name = Name::user(text.trim_end()).ok();
        Ok(name.filter(|name| name.hash() == *hash))
    }

    /// Enters a name under its hash, once.
    pub(super) fn remember_name(&self, name: &Name) -> Result<(), RootError> {
        let path = hash_path(&name.hash());
        match file::read_text(&self.dir, &path, 1024) {
            Ok(old) if old.trim_end() == name.as_str() => return Ok(()),
            Ok(old) => {
                return Err(RootError::HashTaken {
                    old: old.trim_end().to_owned(),
                    new: name.clone(),
                });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(RootError::io("open", path)(e)),
        }
        let dir = self
            .dir
            .open_dir("hash2user")
            .map_err(RootError::io("open", "hash2user"))?;
        let entry = format!("{}.txt", hex::encode(name.hash()));
        file::replace(&dir, &entry, 0o644, format!("{name}\n").as_bytes())
            .map_err(RootError::io("write", path))
    }
}

fn hash_path(hash: &NameHash) -> String {
    format!("hash2user/{}.txt", hex::encode(hash))
}

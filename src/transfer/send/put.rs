//! A file that is put at a path of a contact's, from the sender's side.
//!
//! For a file of more than one block, a note tells which attempt is under way, so that another
//! process can resume it. Small ones go whole or not at all.

use std::{
    fs::{File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use cap_std::fs::Dir;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    job::{FEATURES, Job},
    send_job::open_source,
};
use crate::{
    crypto::random,
    error::{Code, Error},
    json::{self, Map, Value},
    meta::{Meta, TransferId, Wire, datetime_now},
    root::{conflict::Conflict, file, user::User, version::Version},
    store::{Contents, local::LocalContents},
    wire::{
        record::{Kind, MAX_BODY},
        request::{Reply, Request},
    },
};

/// The directory of a user with the notes.
const NOTES: &str = ".puts";

/// The longest note, in bytes.
const MAX_NOTE: u64 = 65_536;

/// A file on its way to a path.
pub struct Put {
    path: String,
    local: PathBuf,
    conflict: Conflict,
    meta: Meta,
    contents: Arc<LocalContents>,
    version: Version,
    note: Option<Note>,
    changed: bool,
    held: u64,
    stored: Option<Reply>,
}

/// Which attempt is under way; locked, so that no other process has the file in hand.
struct Note {
    dir: Arc<Dir>,
    name: String,
    _lock: File,
}

impl Put {
    /// Opens a file that goes from a user to a path of a contact's. It may wait for a disk.
    ///
    /// Fails with [`Code::Later`] if another process is putting something there.
    pub fn open(
        user: &User,
        (peer, path): (&str, &str),
        local: &Path,
        conflict: Conflict,
    ) -> Result<Self, Error> {
        let (file, version) = open_source(local)?;
        let name = local.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| {
            let sentence = format!("cannot upload {}: its name is not UTF-8", local.display());
            Error::new(Code::Failed, sentence)
        })?;
        let folder = path.split('/').next().unwrap_or_default();
        let mut meta = Meta::new(user.name().as_str(), peer, folder, name);
        meta.datetime = datetime_now();
        meta.filesize = Some(version.len());
        let fresh = random().map_err(|e| Error::new(Code::Later, e.to_string()))?;
        let mut put = Self {
            path: path.to_owned(),
            local: local.to_owned(),
            conflict,
            meta,
            contents: Arc::new(LocalContents(file)),
            version,
            note: None,
            changed: false,
            held: 0,
            stored: None,
        };
        let mut id = TransferId(fresh);
        if version.len() > MAX_BODY as u64 {
            put.take(user, peer, &mut id)?;
        }
        put.meta.id = Some(id);
        Ok(put)
    }

    /// Takes the file in hand, under its earlier id if it is the one that was begun.
    fn take(&mut self, user: &User, peer: &str, id: &mut TransferId) -> Result<(), Error> {
        let at = |e: io::Error| Error::io("write a note into", &user.path().join(NOTES), &e);
        let being_sent = || {
            let sentence = format!("another m2y process is uploading to {peer}:{}", self.path);
            Error::new(Code::Later, sentence)
        };
        user.dir().create_dir_all(NOTES).map_err(at)?;
        let dir = Arc::new(user.dir().open_dir(NOTES).map_err(at)?);
        let digest = Sha256::digest(format!("{peer}\0{}", self.path));
        let name = hex::encode(digest.get(..16).unwrap_or_default());
        let lock = file::append(&dir, &name).map_err(at)?.into_std();
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(being_sent());
        }
        // The process that had it in hand may have removed it.
        if !file::exists(&dir, &name).map_err(at)? {
            return Err(being_sent());
        }
        let (note, _) = file::open_itself(&dir, &name).map_err(at)?;
        let text = file::read_open(note, MAX_NOTE).map_err(at)?;
        let note = json::parse(&text).unwrap_or_default();
        let text = |field| note.get(field).and_then(Value::as_str);
        let version = self.version.to_text();
        match text("id").and_then(|id| id.parse().ok()) {
            Some(begun) if text("version") == Some(&version) => *id = begun,
            before => {
                self.changed = before.is_some();
                let mut note = Map::new();
                note.insert("id".to_owned(), id.to_string().into());
                note.insert("peer".to_owned(), peer.into());
                note.insert("path".to_owned(), self.path.as_str().into());
                note.insert("version".to_owned(), version.into());
                let text = json::canonical(&note);
                // Opened to append: the new text is the only one.
                lock.set_len(0).map_err(at)?;
                (&lock).write_all(text.as_bytes()).map_err(at)?;
            }
        }
        self.note = Some(Note {
            dir,
            name,
            _lock: lock,
        });
        Ok(())
    }

    /// Its path at the contact's, as it was asked for.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where the file is here.
    pub fn local(&self) -> &Path {
        &self.local
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.version.len()
    }

    /// Whether the file differs from the one that was begun before.
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// Bytes that the contact had from before.
    pub fn resumed(&self) -> u64 {
        self.held
    }

    /// Where it is, and whether it was there already; `None` if hooks have it. If it was delivered
    /// before, it is only known that it was to go there.
    pub fn place(&self) -> Option<(&str, bool)> {
        match &self.stored {
            None => Some((&self.path, false)),
            Some(Reply::Stored { path, same }) => Some((path, *same)),
            Some(_) => None,
        }
    }

    /// Its outcome is final: nobody resumes it.
    pub fn forget(&mut self) {
        if let Some(note) = self.note.take() {
            let _ = note.dir.remove_file(&note.name);
        }
    }
}

impl Job for Put {
    fn meta(&self) -> Result<Meta, Error> {
        Ok(self.meta.clone())
    }

    fn ask(&self, meta: &Meta) -> (Kind, Zeroizing<Vec<u8>>) {
        let request = Request::Put {
            path: self.path.clone(),
            meta: Box::new(Wire {
                features: FEATURES,
                ..Wire::request(meta.clone())
            }),
            modified: self.version.modified(),
            conflict: self.conflict,
        };
        (Kind::Request, request.to_body())
    }

    fn source(&self) -> (Arc<dyn Contents>, Version) {
        (self.contents.clone(), self.version)
    }

    fn held(&mut self, bytes: u64) {
        self.held = bytes;
    }

    fn stored(&mut self, reply: Reply) {
        self.stored = Some(reply);
    }
}

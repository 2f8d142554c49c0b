//! A file on its way in: its names in the folder, hidden until it is whole.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};

use super::BUFFER;
use crate::{
    event::Subject,
    journal::delivered::{self, Key, Stage::Refused, Transfer},
    meta::{Meta, TransferId},
    root::{destination::Destination, file, folder::Folder, meta_file, name::Name, tree::TreePath},
    store::{
        ContentPath, PartialName, Sink, Store, Target,
        placement::{self, Source},
    },
    wire::record::MAX_BODY,
};

/// How many files with one sender and one second a folder may hold.
const MAX_CLASHES: u32 = 1_000_000;

/// Senders' seconds whose last number is remembered.
const MAX_SECONDS: usize = 4_096;

/// Transfers that are under way in this process.
#[derive(Clone, Default)]
pub struct UnderWay(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// With the stem that each of them tries, or has.
    transfers: HashMap<Key, String>,
    /// The last number that was tried for files of one sender and one second, so that the
    /// thousandth of them does not ask for the names of all before it.
    numbers: HashMap<String, u32>,
    /// Paths that nobody else may have meanwhile, by user and folder.
    paths: HashSet<(String, String, TreePath)>,
}

impl UnderWay {
    /// Takes a transfer into hand; `None` if it is in another hand.
    pub fn claim(&self, folder: &Folder, from: &Name, id: TransferId) -> Option<Claim> {
        let key = Key {
            user: folder.user().name().to_string(),
            folder: folder.name().to_string(),
            from: from.to_string(),
            id,
        };
        match self.lock().transfers.entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                entry.insert(String::new());
                Some(Claim {
                    under_way: self.clone(),
                    key,
                    path: None,
                })
            }
        }
    }

    /// Whether a transfer is in hand.
    pub fn has(&self, key: &Key) -> bool {
        self.lock().transfers.contains_key(key)
    }

    /// Whether a transfer is in hand that tries this stem in the folder of a user.
    pub fn has_stem(&self, user: &str, folder: &str, stem: &str) -> bool {
        self.lock()
            .transfers
            .iter()
            .any(|(key, tried)| key.user == user && key.folder == folder && tried == stem)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer in hand, until it is dropped.
pub struct Claim {
    under_way: UnderWay,
    key: Key,
    /// The path that the file is to get, where another one may not.
    path: Option<(String, String, TreePath)>,
}

impl Claim {
    /// Which transfer it is.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Takes a path of the folder in hand too; `false` if another file is to get it.
    #[must_use]
    pub fn take_path(&mut self, path: &TreePath) -> bool {
        let Key { user, folder, .. } = &self.key;
        let path = (user.clone(), folder.clone(), path.clone());
        let is_free = self.under_way.lock().paths.insert(path.clone());
        if is_free {
            self.path = Some(path);
        }
        is_free
    }

    /// The next stem of this sender and second that nobody in this process has tried.
    fn stem(&self, datetime: &str) -> io::Result<String> {
        let Key {
            user, folder, from, ..
        } = &self.key;
        let mut state = self.under_way.lock();
        if state.numbers.len() >= MAX_SECONDS {
            // What is forgotten is found again by asking for the names.
            state.numbers.clear();
        }
        let second = format!("{user}/{folder}/{from}_{datetime}");
        let number = state.numbers.entry(second).or_default();
        *number += 1;
        let stem = match *number {
            1 => format!("{from}_{datetime}"),
            n if n <= MAX_CLASHES => format!("{from}_{datetime}_{n}"),
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "too many files of one sender with one datetime",
                ));
            }
        };
        if let Some(tried) = state.transfers.get_mut(&self.key) {
            tried.clone_from(&stem);
        }
        Ok(stem)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.under_way.lock();
        state.transfers.remove(&self.key);
        if let Some(path) = &self.path {
            state.paths.remove(path);
        }
    }
}

/// What a transfer finds in the folder.
pub enum Reserved {
    /// A name for a file that has to come.
    New(Partial),
    /// The file, from an earlier attempt whose ACK was lost.
    Delivered(Partial),
}

/// A file on its way in. Dropped before it is whole, it leaves nothing behind.
pub struct Partial {
    folder: Folder,
    store: Arc<dyn Store>,
    subject: Subject,
    hidden: PartialName,
    /// The path that it got, if its sender wanted one.
    placed: Option<String>,
    /// Whether the `.meta` stays when this is dropped.
    keep: bool,
    claim: Claim,
}

impl Partial {
    /// Stores the `.meta` and with it takes the name `from_datetime`, or the next
    /// free one of `from_datetime_2`, `_3` and so on. A retry of a transfer that was
    /// refused gets the name that it had.
    pub fn reserve(
        folder: &Folder,
        store: Arc<dyn Store>,
        meta: Meta,
        claim: Claim,
        known: Option<Transfer>,
    ) -> io::Result<Reserved> {
        let text = meta.to_file();
        let hidden = hidden_name(&claim.key)?;
        let partial = |meta, stem, keep, claim| Self {
            folder: folder.clone(),
            store: store.clone(),
            subject: Subject { meta, stem },
            hidden: hidden.clone(),
            placed: None,
            keep,
            claim,
        };
        match known {
            Some(known) if known.stage == Refused => {
                let record = own_meta(folder, &known.stem, &meta);
                if record.is_some() {
                    let name = format!("{}.meta", known.stem);
                    file::replace_unflushed(folder.dir(), &name, 0o644, &text)?;
                    return Ok(Reserved::New(partial(meta, known.stem, false, claim)));
                }
            }
            // It was about to get its name, and did not.
            Some(known) if known.stage.is_open() && store.held(&hidden)?.is_some() => {}
            Some(known) => {
                if known.stage.is_open() {
                    // Nobody knows whether its name is safe.
                    store.settle_names(&[])?;
                }
                let meta = as_delivered(folder, meta, &known);
                return Ok(Reserved::Delivered(partial(meta, known.stem, true, claim)));
            }
            None => {}
        }
        loop {
            let stem = claim.stem(&meta.datetime)?;
            // A .meta may have been taken away from beside its file.
            if store.holds(&ContentPath::parse(&format!("{stem}.data"))?)? {
                continue;
            }
            match file::create_unflushed(folder.dir(), &format!("{stem}.meta"), 0o644, &text) {
                Ok(()) => return Ok(Reserved::New(partial(meta, stem, false, claim))),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Where the file goes.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The id of the transfer.
    pub fn id(&self) -> TransferId {
        self.claim.key.id
    }

    /// Which transfer it is.
    pub fn key(&self) -> &Key {
        &self.claim.key
    }

    /// What hooks are told of the file.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Bytes that an attempt which broke off left, of a file of `size` bytes: whole blocks,
    /// and not the last one, which always has to come.
    pub fn held(&self, size: u64) -> io::Result<u64> {
        let most = size.saturating_sub(1);
        let held = self.store.held(&self.hidden)?.unwrap_or_default().min(most);
        Ok(held - held % MAX_BODY as u64)
    }

    /// Removes what an attempt which broke off left.
    pub fn discard(&self) {
        self.store.discard(&self.hidden);
    }

    /// The SHA-256 and the CRC-32 of the first `len` bytes of the hidden file.
    pub fn digest(&self, len: u64) -> io::Result<([u8; 32], crc32fast::Hasher)> {
        prefix_digest(self.store.read(&self.hidden)?, len)
    }

    /// Takes over what is known of the file now, and stores it.
    pub fn update(&mut self, meta: Meta) -> io::Result<()> {
        let text = meta.to_file();
        self.subject.meta = meta;
        let name = self.subject.meta_file();
        // It is not final before the file has its name, and nobody counts on it.
        file::overwrite_unflushed(self.folder.dir(), &name, 0o644, &text)
    }

    /// Leaves the `.meta` in the folder, as a record of what was refused.
    pub fn refuse(mut self, meta: Meta) -> io::Result<()> {
        self.store.discard(&self.hidden);
        self.keep = true;
        self.update(meta)
    }

    /// Begins the hidden file, or goes on with its first `keep` bytes.
    pub fn begin(&self, keep: u64) -> io::Result<Box<dyn Sink>> {
        self.store.begin(&self.hidden, keep)
    }

    /// Ends an attempt that broke off: the next one goes on with what is there.
    pub fn break_off(mut self) {
        let held = self
            .store
            .held(&self.hidden)
            .ok()
            .flatten()
            .unwrap_or_default();
        if held >= MAX_BODY as u64 {
            self.keep = true;
            let _ = self.folder.dir().remove_file(self.subject.meta_file());
        }
    }

    /// The transfer, as it stands in the journal.
    pub fn transfer(&self, stage: delivered::Stage) -> Transfer {
        let meta = &self.subject.meta;
        Transfer {
            key: self.claim.key.clone(),
            stem: self.subject.stem.clone(),
            filename: meta.filename.clone(),
            filesize: meta.filesize.unwrap_or_default(),
            crc: meta.file_crc.unwrap_or_default(),
            stage,
        }
    }

    /// [`Self::update`] that survives a loss of power, as do then the names that the
    /// transfer has in the folder.
    pub fn update_durably(&mut self, meta: Meta) -> io::Result<()> {
        let text = meta.to_file();
        self.subject.meta = meta;
        let name = self.subject.meta_file();
        file::replace(self.folder.dir(), &name, 0o644, &text)
    }

    /// Gives the file its name.
    pub fn publish(&mut self) -> io::Result<()> {
        let path = ContentPath::parse(&self.subject.data_file())?;
        let published = self.store.publish(&self.hidden, &Target::free(&path));
        // An error may come after the deed: where the file has its name, the .meta stays.
        self.keep = published.is_ok() || matches!(self.store.held(&self.hidden), Ok(None));
        match self.keep {
            true => Ok(()),
            false => published,
        }
    }

    /// Gives the file the path that its sender wants, and returns the one that it got. When
    /// that is durable, the `.meta` may go.
    pub fn place(&mut self, destination: &Destination) -> io::Result<ContentPath> {
        let hidden = Source::Partial(&self.hidden);
        let path = placement::place(&*self.store, &self.folder, hidden, destination)?;
        self.placed = Some(path.to_string());
        Ok(path)
    }

    /// Removes the `.meta` of a file that has the path that its sender wanted.
    pub fn forget_destination(&self) {
        if self.placed.is_some() {
            let _ = self.folder.dir().remove_file(self.subject.meta_file());
        }
    }

    /// The path that it got, if its sender wanted one.
    pub fn placed(&self) -> Option<&str> {
        self.placed.as_deref()
    }

    /// Where its bytes are.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

/// What the bytes of a transfer lie under until the file is whole.
pub fn hidden_name(key: &Key) -> io::Result<PartialName> {
    Ok(PartialName::new(&format!("{}-{}", key.from, key.id))?)
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.keep {
            self.store.discard(&self.hidden);
            let _ = self.folder.dir().remove_file(self.subject.meta_file());
        }
    }
}

/// The SHA-256 and the CRC-32 of the first `len` bytes; an error where there are fewer.
pub fn prefix_digest(from: impl Read, len: u64) -> io::Result<([u8; 32], crc32fast::Hasher)> {
    let mut from = from.take(len);
    let (mut sha, mut crc) = (Sha256::new(), crc32fast::Hasher::new());
    let mut buffer = vec![0; BUFFER];
    let mut left = len;
    while left > 0 {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        sha.update(bytes);
        crc.update(bytes);
        left = left.saturating_sub(read as u64);
    }
    Ok((sha.finalize().into(), crc))
}

/// The meta of a file that was delivered: as hooks left it, if it is still there.
fn as_delivered(folder: &Folder, asked: Meta, known: &Transfer) -> Meta {
    Meta {
        filename: known.filename.clone(),
        filesize: Some(known.filesize),
        file_crc: Some(known.crc),
        ..own_meta(folder, &known.stem, &asked).unwrap_or(asked)
    }
}

/// The `.meta` of that stem, if it is of the same transfer.
fn own_meta(folder: &Folder, stem: &str, asked: &Meta) -> Option<Meta> {
    meta_file::of_stem(folder.dir(), stem)
        .filter(|there| there.id == asked.id && there.from == asked.from)
}

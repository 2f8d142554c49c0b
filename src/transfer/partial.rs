//! A file on its way in: its names in the folder, hidden until it is whole.

use std::{
    collections::HashSet,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use super::BUFFER;
use crate::{
    event::Subject,
    meta::{self, Meta, TransferId},
    root::{file, folder::Folder, name::Name},
    store::{Sink, Store, delivered, journal::Pending, local::PARTIAL, meta_file},
    wire::record::MAX_BODY,
};

/// How many files with one sender and one second a folder may hold.
const MAX_CLASHES: u32 = 10_000;

/// Transfers that are under way in this process.
#[derive(Clone, Default)]
pub struct UnderWay(Arc<Mutex<HashSet<Transfer>>>);

/// What makes a transfer the same one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Transfer {
    to: Name,
    folder: Name,
    from: Name,
    id: TransferId,
}

impl UnderWay {
    /// Takes a transfer into hand; `None` if it is in another hand.
    pub fn claim(&self, folder: &Folder, from: &Name, id: TransferId) -> Option<Claim> {
        let transfer = Transfer {
            to: folder.user().name().clone(),
            folder: folder.name().clone(),
            from: from.clone(),
            id,
        };
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        set.insert(transfer.clone()).then(|| Claim {
            under_way: self.clone(),
            transfer,
        })
    }
}

/// A transfer in hand, until it is dropped.
pub struct Claim {
    under_way: UnderWay,
    transfer: Transfer,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut set = self
            .under_way
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        set.remove(&self.transfer);
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
    hidden: String,
    /// Whether the `.meta` stays when this is dropped.
    keep: bool,
    claim: Claim,
}

impl Partial {
    /// Stores the `.meta` and with it takes the name `from_datetime`, or the next
    /// free one of `from_datetime_2`, `_3` and so on. A retry of the same transfer
    /// gets the name that it had.
    pub fn reserve(
        folder: &Folder,
        store: Arc<dyn Store>,
        meta: Meta,
        from: &Name,
        claim: Claim,
    ) -> io::Result<Reserved> {
        let text = meta.to_file();
        let id = claim.transfer.id;
        let before = delivered::find(folder.dir(), from, id)?;
        let partial = |meta, stem, keep| Self {
            folder: folder.clone(),
            store: store.clone(),
            subject: Subject { meta, stem },
            hidden: format!(".{from}-{id}{PARTIAL}"),
            keep,
            claim,
        };
        if let Some((stem, meta)) = before {
            // The .meta knows what hooks made of it, if it is still there.
            let there = same_transfer(folder, &format!("{stem}.meta"), &meta);
            let meta = there.unwrap_or(meta);
            return Ok(Reserved::Delivered(partial(meta, stem, true)));
        }
        for clash in 1..=MAX_CLASHES {
            let stem = match clash {
                1 => format!("{from}_{}", meta.datetime),
                n => format!("{from}_{}_{n}", meta.datetime),
            };
            let name = format!("{stem}.meta");
            if store.holds(&format!("{stem}.data"))? {
                match same_transfer(folder, &name, &meta) {
                    Some(there) => return Ok(Reserved::Delivered(partial(there, stem, true))),
                    None => continue,
                }
            }
            // To look is cheap, to create is not: a folder may hold many that clash.
            if folder.dir().symlink_metadata(&name).is_ok() {
                if same_transfer(folder, &name, &meta).is_none() {
                    continue;
                }
                file::replace(folder.dir(), &name, 0o644, &text)?;
                return Ok(Reserved::New(partial(meta, stem, false)));
            }
            match file::create(folder.dir(), &name, 0o644, &text) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
            return Ok(Reserved::New(partial(meta, stem, false)));
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "too many files of one sender with one datetime",
        ))
    }

    /// Where the file goes.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The id of the transfer.
    pub fn id(&self) -> TransferId {
        self.claim.transfer.id
    }

    /// What hooks are told of the file.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Bytes that an attempt which broke off left, of a file of `size` bytes: whole blocks,
    /// and not the last one, which always has to come.
    pub fn held(&self, size: u64) -> io::Result<u64> {
        let most = size.saturating_sub(1);
        let held = self.store.held(&self.hidden)?.min(most);
        Ok(held - held % MAX_BODY as u64)
    }

    /// Removes what an attempt which broke off left.
    pub fn discard(&self) {
        self.store.discard(&self.hidden);
    }

    /// Bytes that fit.
    pub fn room(&self) -> io::Result<u64> {
        self.store.room()
    }

    /// The SHA-256 and the CRC-32 of the first `len` bytes of the hidden file.
    pub fn digest(&self, len: u64) -> io::Result<([u8; 32], crc32fast::Hasher)> {
        prefix_digest(self.store.read(&self.hidden)?, len)
    }

    /// Takes over what hooks wrote into the meta, and stores it: compared with what
    /// is in the file, because programs write there too.
    pub fn update(&mut self, meta: Meta) -> io::Result<()> {
        let text = meta.to_file();
        self.subject.meta = meta;
        let name = self.subject.meta_file();
        let there = file::read(self.folder.dir(), &name, meta::MAX_LEN);
        if there.is_ok_and(|there| there == text) {
            return Ok(());
        }
        file::replace(self.folder.dir(), &name, 0o644, &text)
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
        let held = self.store.held(&self.hidden).unwrap_or_default();
        if held >= MAX_BODY as u64 {
            self.keep = true;
            let _ = self.folder.dir().remove_file(self.subject.meta_file());
        }
    }

    /// Returns when the bytes of the file survive a loss of power, and the event that
    /// will speak of it.
    pub fn settle(&self, mut sink: Box<dyn Sink>, event: Option<Pending<()>>) -> io::Result<()> {
        sink.settle()?;
        match event {
            Some(event) => event.wait().map_err(io::Error::other),
            None => Ok(()),
        }
    }

    /// Gives the finished file its name, with `meta`. When this returns, file and
    /// `.meta` survive a loss of power.
    pub fn commit(&mut self, meta: Meta) -> io::Result<()> {
        self.update(meta)?;
        let published = self.store.publish(&self.hidden, &self.subject.data_file());
        // Renamed, but perhaps not durably: the file has its name, so the .meta stays,
        // and a retry finds the transfer delivered.
        self.keep = published.is_ok() || !self.store.holds(&self.hidden).unwrap_or(true);
        published?;
        let (subject, claim) = (&self.subject, &self.claim.transfer);
        delivered::note(
            self.folder.dir(),
            &claim.from,
            claim.id,
            &subject.stem,
            &subject.meta,
        )
    }
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

/// The `.meta` that is there, if it is of the same transfer.
fn same_transfer(folder: &Folder, name: &str, meta: &Meta) -> Option<Meta> {
    meta_file::read(folder.dir(), name)
        .filter(|there| there.id.is_some() && there.id == meta.id && there.from == meta.from)
}

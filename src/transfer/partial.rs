//! A file on its way in: its names in the folder, hidden until it is whole.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    event::Subject,
    meta::{self, Meta, TransferId},
    root::{file, folder::Folder, name::Name},
    store::{Sink, Store, local::PARTIAL},
};

/// How many files with one sender and one second a folder may hold.
const MAX_CLASHES: u32 = 100_000;

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
    _claim: Claim,
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
        let partial = |meta, stem, keep| Self {
            folder: folder.clone(),
            store: store.clone(),
            subject: Subject { meta, stem },
            hidden: format!(".{from}-{id}{PARTIAL}"),
            keep,
            _claim: claim,
        };
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
            match file::create(folder.dir(), &name, 0o644, &text) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    if same_transfer(folder, &name, &meta).is_none() {
                        continue;
                    }
                    file::replace(folder.dir(), &name, 0o644, &text)?;
                }
                Err(e) => return Err(e),
            }
            return Ok(Reserved::New(partial(meta, stem, false)));
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "too many files of one sender with one datetime",
        ))
    }

    /// What hooks are told of the file.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Takes over what hooks wrote into the meta, and stores it.
    pub fn update(&mut self, meta: Meta) -> io::Result<()> {
        let text = meta.to_file();
        let changed = meta != self.subject.meta;
        self.subject.meta = meta;
        if changed {
            file::replace(self.folder.dir(), &self.subject.meta_file(), 0o644, &text)?;
        }
        Ok(())
    }

    /// Leaves the `.meta` in the folder, as a record of what was refused.
    pub fn refuse(mut self, meta: Meta) -> io::Result<()> {
        self.keep = true;
        self.update(meta)
    }

    /// Begins the hidden file.
    pub fn begin(&self) -> io::Result<Box<dyn Sink>> {
        self.store.begin(&self.hidden)
    }

    /// Gives the finished file its name, with `meta`. When this returns, file and
    /// `.meta` survive a loss of power.
    pub fn commit(&mut self, mut sink: Box<dyn Sink>, meta: Meta) -> io::Result<()> {
        sink.settle()?;
        drop(sink);
        self.update(meta)?;
        self.store
            .publish(&self.hidden, &self.subject.data_file())?;
        self.keep = true;
        Ok(())
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

/// The `.meta` that is there, if it is of the same transfer.
fn same_transfer(folder: &Folder, name: &str, meta: &Meta) -> Option<Meta> {
    file::read(folder.dir(), name, meta::MAX_LEN)
        .ok()
        .and_then(|text| Meta::from_file(&text).ok())
        .filter(|there| there.id.is_some() && there.id == meta.id && there.from == meta.from)
}

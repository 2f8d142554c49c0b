//! An incoming file: its names in the folder, hidden until it is whole.

use std::{io, sync::Arc};

use sha2::Digest;

use super::{target::Checksums, under_way::Claim};
use crate::{
    event::Subject,
    journal::delivered::{
        self, Key,
        Stage::{Owed, Refused, Rejected},
        Transfer,
    },
    meta::{MAX_LEN, Meta, PENDING_PUT, TransferId},
    root::{destination::Destination, file, folder::Folder, meta_file},
    store::{
        ContentPath, PartialName, Sink, Store, Target,
        placement::{self, Source},
        prefix::prefix_sums,
        received::{self, Placed},
    },
    traffic::{self, Direction, Entry, Traffic},
    wire::record::MAX_BODY,
};

/// What a transfer finds in the folder.
pub enum Reserved {
    /// A name for a file that is yet to be sent.
    New(Partial),
    /// The file, from an earlier attempt whose ACK was lost; and the transfer, if its hooks
    /// have not run.
    Delivered(Partial, Option<Transfer>),
    /// Hooks refused the contents; why.
    Rejected(String),
}

/// An incoming file. Dropped before it is whole, it leaves nothing behind.
pub struct Partial {
    folder: Folder,
    store: Arc<dyn Store>,
    subject: Subject,
    hidden: PartialName,
    /// The path that it got, if its sender wanted one.
    placed: Option<String>,
    /// Whether the `.meta` is on the disk. Until the file is whole, only a program that reads it
    /// needs that.
    has_meta: bool,
    /// Whether the `.meta` stays when this is dropped.
    keep: bool,
    claim: Claim,
}

impl Partial {
    /// Takes the name `from_datetime`, or the next free one of `from_datetime_2`, `_3` and
    /// so on. A retry of a transfer that was refused gets the name that it had.
    pub fn reserve(
        folder: &Folder,
        store: Arc<dyn Store>,
        meta: Meta,
        claim: Claim,
        known: Option<Transfer>,
    ) -> io::Result<Reserved> {
        let hidden = hidden_name(claim.key())?;
        let partial = |meta, stem, claim| Self {
            folder: folder.clone(),
            store: store.clone(),
            subject: Subject { meta, stem },
            hidden: hidden.clone(),
            placed: None,
            has_meta: false,
            keep: false,
            claim,
        };
        match known {
            Some(known) if known.stage == Rejected => {
                return Ok(Reserved::Rejected(known.words.unwrap_or_default()));
            }
            Some(known) if known.stage == Refused => {
                let record = own_meta(folder, &known.stem, &meta);
                // If somebody removed the record, its name may be taken.
                if record.is_some() {
                    let mut partial = partial(meta, known.stem, claim);
                    partial.replace_meta()?;
                    return Ok(Reserved::New(partial));
                }
            }
            // It was about to get its final name, and did not.
            Some(known) if known.stage.is_open() && store.held(&hidden)?.is_some() => {}
            Some(known) => {
                if known.stage.is_open() {
                    // Nobody knows whether its name is safe.
                    store.settle_names(&[])?;
                    restore_meta(folder, &*store, &known)?;
                }
                let meta = as_delivered(folder, meta, &known);
                let mut partial = partial(meta, known.stem.clone(), claim);
                partial.keep = true;
                let owed = (known.stage == Owed).then_some(known);
                return Ok(Reserved::Delivered(partial, owed));
            }
            None => {}
        }
        let stem = free_stem(folder, &*store, &claim, &meta)?;
        Ok(Reserved::New(partial(meta, stem, claim)))
    }

    /// Where the file goes.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The id of the transfer.
    pub fn id(&self) -> TransferId {
        self.claim.key().id
    }

    /// Which transfer it is.
    pub fn key(&self) -> &Key {
        self.claim.key()
    }

    /// Shows whoever asks that it is under way, with `held` of its `size` bytes.
    pub fn enter(
        &self,
        traffic: &Traffic,
        size: Option<u64>,
        held: u64,
    ) -> Entry<traffic::Transfer> {
        let key = self.key();
        let file = traffic::File {
            direction: Direction::In,
            user: key.user.clone(),
            contact: key.from.clone(),
            folder: key.folder.clone(),
            name: self.subject().meta.filename.clone(),
            size,
            held,
        };
        traffic.transfer(file, traffic::Stage::Deciding)
    }

    /// What hooks are told of the file.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Bytes that an interrupted attempt left of a file of `size` bytes: whole blocks, and not the
    /// last one, which always has to be sent.
    pub fn held(&self, size: u64) -> io::Result<u64> {
        let most = size.saturating_sub(1);
        if most < MAX_BODY as u64 {
            return Ok(0);
        }
        let held = self.store.held(&self.hidden)?.unwrap_or_default().min(most);
        Ok(held - held % MAX_BODY as u64)
    }

    /// Removes what an interrupted attempt left.
    pub fn discard(&self) {
        self.store.discard(&self.hidden);
    }

    /// The SHA-256 of the first `len` bytes of the hidden file, and checksums to which more
    /// bytes can be added.
    pub fn digest(&self, len: u64) -> io::Result<([u8; 32], Checksums)> {
        let (sha256, crc) = prefix_sums(self.store.read(&self.hidden)?, len)?;
        let digest = sha256.clone().finalize().into();
        let sha256 = Some(sha256);
        Ok((digest, Checksums { crc, sha256 }))
    }

    /// Updates what is known of the file; if the `.meta` is on the disk, there too.
    pub fn update(&mut self, meta: Meta) -> io::Result<()> {
        self.subject.meta = meta;
        match self.has_meta {
            true => self.write_meta().map(drop),
            false => Ok(()),
        }
    }

    /// Updates what is known of the file.
    pub fn set_meta(&mut self, meta: Meta) {
        self.subject.meta = meta;
    }

    /// Writes the `.meta`. It is not final until the file has its name, and nobody relies on it
    /// before. Returns its text.
    pub fn write_meta(&mut self) -> io::Result<Vec<u8>> {
        let text = self.subject.meta.to_file();
        if self.has_meta {
            let name = self.subject.meta_file();
            file::overwrite_unflushed(self.folder.dir(), &name, 0o644, &text)?;
            return Ok(text);
        }
        loop {
            let name = self.subject.meta_file();
            match file::create_unflushed(self.folder.dir(), &name, 0o644, &text) {
                // Somebody took the name since it was reserved.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let meta = &self.subject.meta;
                    let stem = free_stem(&self.folder, &*self.store, &self.claim, meta)?;
                    self.subject.stem = stem;
                }
                made => {
                    self.has_meta = made.is_ok();
                    return made.map(|()| text);
                }
            }
        }
    }

    fn replace_meta(&mut self) -> io::Result<()> {
        let text = self.subject.meta.to_file();
        let name = self.subject.meta_file();
        file::replace_unflushed(self.folder.dir(), &name, 0o644, &text)?;
        self.has_meta = true;
        Ok(())
    }

    /// Leaves the `.meta` in the folder, as a record of what was refused.
    pub fn refuse(mut self, meta: Meta) -> io::Result<()> {
        self.store.discard(&self.hidden);
        self.keep = true;
        self.subject.meta = meta;
        self.write_meta().map(drop)
    }

    /// Begins the hidden file, or resumes after its first `keep` bytes.
    pub fn begin(&self, keep: u64) -> io::Result<Box<dyn Sink>> {
        self.store.begin(&self.hidden, keep)
    }

    /// Ends an interrupted attempt: the next one resumes with what is there.
    pub fn break_off(mut self) {
        let held = self.store.held(&self.hidden).ok().flatten();
        let held = held.unwrap_or_default();
        if held >= MAX_BODY as u64 {
            self.keep = true;
            self.remove_meta();
        }
    }

    fn remove_meta(&self) {
        if self.has_meta {
            let _ = self.folder.dir().remove_file(self.subject.meta_file());
        }
    }

    /// The transfer, as it stands in the journal.
    pub fn transfer(&self, stage: delivered::Stage) -> Transfer {
        let meta = &self.subject.meta;
        Transfer {
            key: self.claim.key().clone(),
            stem: self.subject.stem.clone(),
            filename: meta.filename.clone(),
            filesize: meta.filesize.unwrap_or_default(),
            crc: meta.file_crc.unwrap_or_default(),
            stage,
            meta: None,
            words: None,
        }
    }

    /// Renames the file to its final name.
    pub fn publish(&mut self) -> io::Result<()> {
        let path = ContentPath::parse(&self.subject.data_file())?;
        let published = self.store.publish(&self.hidden, &Target::free(&path));
        // An error may come after the rename: if the file has its name, the .meta stays.
        self.keep = published.is_ok() || matches!(self.store.held(&self.hidden), Ok(None));
        match self.keep {
            true => Ok(()),
            false => published,
        }
    }

    /// Moves the file to the path that its sender wants, and returns the one that it got. When that
    /// is durable, the `.meta` may go.
    pub fn place(&mut self, destination: &Destination) -> io::Result<ContentPath> {
        let hidden = Source::Partial(&self.hidden);
        let path = placement::place(&*self.store, &self.folder, hidden, destination)?;
        self.placed = Some(path.to_string());
        Ok(path)
    }

    /// Names a file after sender and date, if it cannot have the path that its folder would give
    /// it.
    pub fn stay(&mut self) -> io::Result<()> {
        self.subject.meta.extra.remove(PENDING_PUT);
        if self.has_meta {
            let name = self.subject.meta_file();
            file::replace(
                self.folder.dir(),
                &name,
                0o644,
                &self.subject.meta.to_file(),
            )?;
        }
        self.publish()
    }

    /// Removes the `.meta` of a file that has the path that its sender wanted.
    pub fn forget_destination(&self) {
        if self.placed.is_some() && !self.keep {
            let _ = self.folder.dir().remove_file(self.subject.meta_file());
        }
    }

    /// What to hide of a file that got a path its sender did not ask for. Its `.meta` stays from
    /// now on until that has happened.
    pub fn to_hide(&mut self) -> Option<Placed> {
        let Subject { meta, stem } = &self.subject;
        let keeps = Destination::of(meta).is_some_and(|destination| destination.keeps_meta);
        let path = self.placed.clone().filter(|_| keeps)?;
        self.keep = true;
        Some(Placed {
            stem: stem.clone(),
            meta: meta.clone(),
            path,
        })
    }

    /// The document that stays beside the file once it has its name, if one does: its name below
    /// the folder, and its text.
    pub fn document(&self) -> Option<(String, Vec<u8>)> {
        let Subject { meta, stem } = &self.subject;
        match &self.placed {
            None => Some((self.subject.meta_file(), meta.to_file())),
            Some(path) if Destination::of(meta).is_some_and(|to| to.keeps_meta) => {
                Some(received::document(stem, meta, path))
            }
            Some(_) => None,
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

/// The name of the bytes of a transfer until the file is whole.
pub fn hidden_name(key: &Key) -> io::Result<PartialName> {
    Ok(PartialName::new(&format!("{}-{}", key.from, key.id))?)
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.keep {
            self.store.discard(&self.hidden);
            self.remove_meta();
        }
    }
}

/// The next free stem, which neither a transfer of this process nor a file of the folder has.
fn free_stem(folder: &Folder, store: &dyn Store, claim: &Claim, meta: &Meta) -> io::Result<String> {
    loop {
        let stem = claim.stem(&meta.datetime)?;
        // A .meta may have been removed from beside its file.
        let is_taken = store.holds(&ContentPath::parse(&format!("{stem}.data"))?)?
            || file::exists(folder.dir(), &format!("{stem}.meta"))?;
        let keeps_meta = Destination::of(meta).is_some_and(|to| to.keeps_meta);
        if !(is_taken || keeps_meta && received::has(folder, &stem)) {
            return Ok(stem);
        }
    }
}

/// Makes durable the `.meta` of a file whose hooks may have been writing into it when the server
/// stopped: it gets back the text that it had before them, for they run again.
pub fn restore_meta(folder: &Folder, store: &dyn Store, transfer: &Transfer) -> io::Result<()> {
    let Transfer { stem, meta, .. } = transfer;
    let (dir, name) = (folder.dir(), format!("{stem}.meta"));
    let Some(text) = meta else {
        return Ok(());
    };
    if file::read(dir, &name, MAX_LEN).is_ok_and(|there| there == text.as_bytes()) {
        file::open_itself(dir, &name)?.0.sync_all()?;
        return file::sync(dir);
    }
    // If its contents are gone too, somebody removed both.
    match store.holds(&ContentPath::parse(&format!("{stem}.data"))?)? {
        true => file::replace(dir, &name, 0o644, text.as_bytes()),
        false => Ok(()),
    }
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

/// The `.meta` of that stem, if it belongs to the same transfer.
fn own_meta(folder: &Folder, stem: &str, asked: &Meta) -> Option<Meta> {
    meta_file::of_stem(folder.dir(), stem)
        .filter(|there| there.id == asked.id && there.from == asked.from)
}

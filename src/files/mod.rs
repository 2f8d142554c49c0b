//! What a contact may see and change of a user's files.
//!
//! The [`service`] answers requests. It asks the hooks of folders first, and then a [`view`] of the
//! files, in which what a contact may not see does not exist. Users themselves work on their [own]
//! files.

pub mod disk_queue;
pub mod listing;
pub mod own;
pub mod service;
pub mod tree;
pub mod view;

use std::{io, sync::Arc};

use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tracing::error;

use crate::{
    error::{Code, Error},
    journal::delivered::DeliveredBefore,
    meta::Wire,
    root::{destination::Destination, folder::Folder},
    store::{Contents, Reader, prefix::prefix_digest},
    wire::{
        record::MAX_BODY,
        request::{Coming, Held, Reply},
    },
};
use listing::Listing;
use tree::IsPending;

/// The answer to a request.
pub enum Answer {
    /// This, and nothing more.
    Reply(Reply),
    /// A part of a listing, with the rest of it if there is more.
    Page(Reply, Option<Box<Listing>>),
    /// A file.
    File(Box<Fetched>),
    /// A file may be sent, if nothing else prevents it.
    Put(Box<Put>),
}

/// A file that a contact fetches.
pub struct Fetched {
    /// The reply.
    pub coming: Coming,
    /// The file.
    pub contents: Arc<dyn Contents>,
    /// The version that the reply describes.
    pub version: String,
    /// The CRC-32 of what the other side has.
    pub crc: crc32fast::Hasher,
    /// Its path, as it was asked for.
    pub path: String,
}

impl Fetched {
    /// An open file that was asked for by this path, after the part of it that the other side has.
    /// It may wait for a disk, for as long as it takes to read that part.
    fn new(contents: Box<dyn Contents>, held: Option<&Held>, path: &str) -> io::Result<Self> {
        let stat = contents.stat()?;
        let version = contents.version()?;
        let tag = tag_of(&version);
        let mut crc = crc32fast::Hasher::new();
        let mut offset = 0;
        if let Some(held) = held
            && held.version == tag
            && held.bytes < stat.size
            && held.bytes.is_multiple_of(MAX_BODY as u64)
            && let Ok((digest, so_far)) = prefix_digest(Reader::new(&*contents), held.bytes)
            && digest == held.digest
        {
            (crc, offset) = (so_far, held.bytes);
        }
        Ok(Self {
            coming: Coming {
                size: stat.size,
                modified: stat.modified,
                version: tag,
                offset,
            },
            contents: contents.into(),
            version,
            crc,
            path: path.to_owned(),
        })
    }
}

/// A text that differs for every version of a file, and tells a peer nothing else about it.
fn tag_of(version: &str) -> String {
    let digest = Sha256::digest(version);
    hex::encode(digest.get(..16).unwrap_or_default())
}

/// Asks the journal which files of a folder `[OnReceived]` still has to accept.
fn is_pending(delivered: &DeliveredBefore, folder: &Folder) -> IsPending {
    let delivered = delivered.clone();
    let names = (folder.user().name().clone(), folder.name().clone());
    Arc::new(move |file: &str| {
        let pending = delivered.is_pending((names.0.as_str(), names.1.as_str()), file);
        pending.unwrap_or_else(|error| {
            error!("{error}");
            true
        })
    })
}

/// A file that a contact puts into a folder.
pub struct Put {
    /// What is said about it, with the folder.
    pub meta: Wire,
    /// Where in that folder it goes.
    pub destination: Destination,
}

/// Why a file cannot get a path that no rename reaches.
const OUT_OF_PLACE: &str =
    "cannot upload there: the directory is on a different disk than its folder";

fn missing() -> Error {
    Error::new(Code::NotFound, "no such file or directory")
}

/// There is something of that name.
pub fn exists() -> Error {
    Error::new(Code::Exists, "the path exists already")
}

fn failed(why: &str) -> Error {
    error!("cannot answer a request: {why}");
    Error::new(Code::Failed, "the server failed, see its log")
}

/// Whether a link or a pipe is in the way.
fn is_special(error: &io::Error) -> bool {
    let of = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    of(Errno::LOOP) || of(Errno::NXIO)
}

/// What a contact may know of why the system refused.
fn refused(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::InvalidInput => missing(),
        _ if is_special(error) => missing(),
        io::ErrorKind::AlreadyExists => exists(),
        io::ErrorKind::CrossesDevices => Error::new(Code::Failed, OUT_OF_PLACE),
        io::ErrorKind::DirectoryNotEmpty => Error::new(Code::Failed, "the directory is not empty"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::new(Code::Later, "the server has no room for that, try later")
        }
        _ => failed(&error.to_string()),
    }
}

//! What a contact may see and change of a user's files.
//!
//! The [`service`] answers requests. It asks the hooks of folders first, and then a [`view`] of the
//! files, in which what a contact may not see does not exist.

pub mod disk_queue;
pub mod listing;
pub mod service;
pub mod tree;
pub mod view;

use std::{io, sync::Arc};

use rustix::io::Errno;
use tracing::error;

use crate::{
    error::{Code, Error},
    meta::Wire,
    root::destination::Destination,
    store::Contents,
    wire::request::{Coming, Reply},
};
use listing::Listing;

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

/// A file that a contact puts into a folder.
pub struct Put {
    /// What is said about it, with the folder.
    pub meta: Wire,
    /// Where in that folder it goes.
    pub destination: Destination,
}

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

/// What a contact may know of why the system refused.
fn refused(error: &io::Error) -> Error {
    let of = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::InvalidInput => missing(),
        // A link, a pipe.
        _ if of(Errno::LOOP) || of(Errno::NXIO) => missing(),
        io::ErrorKind::AlreadyExists => exists(),
        io::ErrorKind::CrossesDevices => Error::new(
            Code::Failed,
            "cannot upload there: the directory is on a different disk than its folder",
        ),
        io::ErrorKind::DirectoryNotEmpty => Error::new(Code::Failed, "the directory is not empty"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::new(Code::Later, "the server has no room for that, try later")
        }
        _ => failed(&error.to_string()),
    }
}

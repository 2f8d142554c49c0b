//! Bytes in memory that are put at a path of a contact's.

use std::{io, sync::Arc};

use hyper::body::Bytes;
use zeroize::Zeroizing;

use super::job::{FEATURES, Job};
use crate::{
    clock,
    crypto::random,
    error::{Code, Error},
    meta::{Meta, TransferId, Wire, datetime_now},
    root::{conflict::Conflict, name::Name, version::Version},
    store::{Contents, Kind, Stat},
    wire::{
        record,
        request::{Reply, Request},
    },
};

/// Bytes on their way to a path. A clone that is put in a later session resumes what the first one
/// began, and learns whether that had arrived.
#[derive(Clone)]
pub struct PutBytes {
    path: String,
    conflict: Conflict,
    meta: Meta,
    contents: InMemory,
    stored: Option<Reply>,
}

/// The bytes, and the time that they get at the path.
#[derive(Clone)]
struct InMemory {
    bytes: Bytes,
    version: Version,
}

impl PutBytes {
    /// Bytes that go from a user to a path of a contact's.
    pub fn new(
        user: &Name,
        (peer, path): (&Name, &str),
        bytes: Bytes,
        conflict: Conflict,
    ) -> Result<Self, Error> {
        let (folder, _) = path.split_once('/').unwrap_or((path, ""));
        let (_, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut meta = Meta::new(user.as_str(), peer.as_str(), folder, name);
        let id = random().map_err(|e| Error::new(Code::Later, e.to_string()))?;
        meta.id = Some(TransferId(id));
        meta.datetime = datetime_now();
        meta.filesize = Some(bytes.len() as u64);
        // A file of the same size and time would count as this one.
        let version = Version::in_memory(bytes.len() as u64, clock::nanos());
        Ok(Self {
            path: path.to_owned(),
            conflict,
            meta,
            contents: InMemory { bytes, version },
            stored: None,
        })
    }

    /// Where they are, and whether they were there already; `None` if hooks have them.
    pub fn place(&self) -> Option<(&str, bool)> {
        match &self.stored {
            // They were delivered before.
            None => Some((&self.path, false)),
            Some(Reply::Stored { path, same }) => Some((path, *same)),
            Some(_) => None,
        }
    }
}

impl Job for PutBytes {
    fn meta(&self) -> Result<Meta, Error> {
        Ok(self.meta.clone())
    }

    fn ask(&self, meta: &Meta) -> (record::Kind, Zeroizing<Vec<u8>>) {
        let request = Request::Put {
            path: self.path.clone(),
            meta: Box::new(Wire {
                features: FEATURES,
                ..Wire::request(meta.clone())
            }),
            modified: self.contents.version.modified(),
            conflict: self.conflict,
        };
        (record::Kind::Request, request.to_body())
    }

    fn source(&self) -> (Arc<dyn Contents>, Version) {
        (Arc::new(self.contents.clone()), self.contents.version)
    }

    fn stored(&mut self, reply: Reply) {
        self.stored = Some(reply);
    }
}

impl Contents for InMemory {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat {
            kind: Kind::File,
            size: self.version.len(),
            modified: self.version.modified(),
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok();
        let rest = rest.and_then(|offset| self.bytes.get(offset..));
        let rest = rest.unwrap_or_default();
        let len = rest.len().min(buffer.len());
        if let (Some(into), Some(from)) = (buffer.get_mut(..len), rest.get(..len)) {
            into.copy_from_slice(from);
        }
        Ok(len)
    }

    fn version(&self) -> io::Result<String> {
        Ok(self.version.key())
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
}

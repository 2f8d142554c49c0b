//! What stands for a store that cannot be opened: each call says why.

use std::{io, io::Read, time::SystemTime};

use super::{ContentPath, Contents, Listing, PartialName, Sink, Stat, Store, Target};

/// A store that cannot be opened.
pub struct Unavailable {
    kind: io::ErrorKind,
    why: String,
}

impl Unavailable {
    /// For this reason.
    pub fn new(error: &io::Error) -> Self {
        Self {
            kind: error.kind(),
            why: error.to_string(),
        }
    }

    fn fail<T>(&self) -> io::Result<T> {
        // That it is not there must not be taken for: the file is not there.
        let kind = match self.kind {
            io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists => io::ErrorKind::Other,
            kind => kind,
        };
        Err(io::Error::new(kind, self.why.clone()))
    }
}

impl Store for Unavailable {
    fn begin(&self, _: &PartialName, _: u64) -> io::Result<Box<dyn Sink>> {
        self.fail()
    }

    fn held(&self, _: &PartialName) -> io::Result<Option<u64>> {
        self.fail()
    }

    fn read(&self, _: &PartialName) -> io::Result<Box<dyn Read + Send>> {
        self.fail()
    }

    fn discard(&self, _: &PartialName) {}

    fn publish(&self, _: &PartialName, _: &Target<'_>) -> io::Result<()> {
        self.fail()
    }

    fn open(&self, _: &ContentPath) -> io::Result<Box<dyn Contents>> {
        self.fail()
    }

    fn stat(&self, _: &ContentPath) -> io::Result<Option<Stat>> {
        self.fail()
    }

    fn list(&self, _: &ContentPath) -> io::Result<Listing> {
        self.fail()
    }

    fn make_dir(&self, _: &ContentPath) -> io::Result<()> {
        self.fail()
    }

    fn rename(&self, _: &ContentPath, _: &Target<'_>) -> io::Result<()> {
        self.fail()
    }

    fn remove(&self, _: &ContentPath) -> io::Result<()> {
        self.fail()
    }

    fn settle_names(&self, _: &[ContentPath]) -> io::Result<()> {
        self.fail()
    }

    fn room(&self) -> io::Result<u64> {
        self.fail()
    }

    fn sweep(&self, _: SystemTime, _: bool) -> io::Result<usize> {
        self.fail()
    }
}

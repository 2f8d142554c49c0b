//! What stands for a store that cannot be opened: each call says why.

use std::{io, io::Read, ops::Range, time::SystemTime};

use futures_util::{
    FutureExt, StreamExt,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use hyper::body::Bytes;

use super::{
    ContentPath, Contents, Listing, PartialName, Sink, Stat, Store, Target,
    member::{Existing, Member, MemberError, MemberResult, Object, ObjectKey},
};

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

/// A member that cannot be opened.
pub struct NotOpen(pub MemberError);

impl NotOpen {
    fn fail<'a, T: Send + 'a>(&self) -> BoxFuture<'a, MemberResult<T>> {
        future::ready(Err(self.0.clone())).boxed()
    }
}

impl Member for NotOpen {
    fn put<'a>(
        &'a self,
        _: &'a ObjectKey,
        _: Bytes,
        _: Existing,
    ) -> BoxFuture<'a, MemberResult<()>> {
        self.fail()
    }

    fn get<'a>(
        &'a self,
        _: &'a ObjectKey,
        _: Option<Range<u64>>,
    ) -> BoxFuture<'a, MemberResult<Bytes>> {
        self.fail()
    }

    fn stat<'a>(&'a self, _: &'a ObjectKey) -> BoxFuture<'a, MemberResult<Object>> {
        self.fail()
    }

    fn remove<'a>(&'a self, _: &'a ObjectKey) -> BoxFuture<'a, MemberResult<()>> {
        self.fail()
    }

    fn list<'a>(&'a self, _: Option<&'a ObjectKey>) -> BoxStream<'a, MemberResult<Object>> {
        stream::iter([Err(self.0.clone())]).boxed()
    }

    fn room(&self) -> BoxFuture<'_, MemberResult<Option<u64>>> {
        self.fail()
    }
}

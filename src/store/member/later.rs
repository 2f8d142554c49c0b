//! A member that could not be opened, and is tried again: a disk may be mounted while a server
//! runs.

use std::{
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use hyper::body::Bytes;

use super::{Existing, Member, MemberError, MemberResult, Object, ObjectKey};

/// How long a member that could not be opened is not tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Opens a member.
type Open = dyn Fn() -> MemberResult<Arc<dyn Member>> + Send + Sync;

/// A member that is opened once it can be. Until then each call says why it is not.
pub struct LaterMember {
    open: Box<Open>,
    opened: OnceLock<Arc<dyn Member>>,
    /// When it was last tried, and why it failed.
    failed: Mutex<(Instant, MemberError)>,
}

impl LaterMember {
    /// Opens a member, now or later.
    pub fn open(
        open: impl Fn() -> MemberResult<Arc<dyn Member>> + Send + Sync + 'static,
    ) -> Arc<dyn Member> {
        match open() {
            Ok(member) => member,
            Err(error) => Arc::new(Self {
                open: Box::new(open),
                opened: OnceLock::new(),
                failed: Mutex::new((Instant::now(), error)),
            }),
        }
    }

    fn member(&self) -> MemberResult<&dyn Member> {
        if let Some(member) = self.opened.get() {
            return Ok(&**member);
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.0.elapsed() < AGAIN {
            return Err(failed.1.clone());
        }
        match (self.open)() {
            Ok(member) => Ok(&**self.opened.get_or_init(|| member)),
            Err(error) => {
                *failed = (Instant::now(), error.clone());
                Err(error)
            }
        }
    }

    /// Does something with the member, if it is open.
    fn with<'a, T: Send + 'a>(
        &'a self,
        work: impl FnOnce(&'a dyn Member) -> BoxFuture<'a, MemberResult<T>>,
    ) -> BoxFuture<'a, MemberResult<T>> {
        match self.member() {
            Ok(member) => work(member),
            Err(error) => future::ready(Err(error)).boxed(),
        }
    }
}

impl Member for LaterMember {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Bytes,
        existing: Existing,
    ) -> BoxFuture<'a, MemberResult<()>> {
        self.with(|member| member.put(key, body, existing))
    }

    fn get<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Option<Range<u64>>,
    ) -> BoxFuture<'a, MemberResult<Vec<u8>>> {
        self.with(|member| member.get(key, range))
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<Object>> {
        self.with(|member| member.stat(key))
    }

    fn remove<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<()>> {
        self.with(|member| member.remove(key))
    }

    fn list<'a>(&'a self, directory: Option<&'a ObjectKey>) -> BoxStream<'a, MemberResult<Object>> {
        match self.member() {
            Ok(member) => member.list(directory),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn room(&self) -> BoxFuture<'_, MemberResult<Option<u64>>> {
        self.with(|member| member.room())
    }
}

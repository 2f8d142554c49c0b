//! What one side of a session does with what the pump brings.

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};

use tokio::sync::mpsc;

use super::{
    SessionError,
    opener::{Downloads, Record},
    outbox::Outbox,
    upload_queue::UploadQueue,
};
use crate::{
    error::Error,
    transfer::receive::{
        error::ReceiveError,
        target::{Received, Target},
    },
    wire::record::{MAX_RECORD, Side},
};

/// What a role works with: the ways out of it.
pub struct Io<T, D> {
    /// Records to the other side.
    pub outbox: Outbox,
    /// Files to the other side.
    pub uploads: UploadQueue,
    /// Files that may come from the other side.
    pub downloads: Downloads<T>,
    /// Work that runs besides the records.
    pub tasks: Tasks<D>,
    /// Bytes of each buffer that records come into.
    pub buffer: usize,
    /// Something began that the other side wants to hear of if it lasts.
    pub has_begun: bool,
}

impl<T, D> Io<T, D> {
    pub(super) fn new(outbox: Outbox) -> Self {
        Self {
            outbox,
            uploads: UploadQueue::default(),
            downloads: Downloads::default(),
            tasks: Tasks::default(),
            buffer: MAX_RECORD,
            has_begun: false,
        }
    }
}

/// Work that runs besides the records. The task of the session polls all of it: with many small
/// files, each one's steps are so short that handing them to another thread, and being woken by it,
/// takes longer.
pub struct Tasks<D> {
    work: FuturesUnordered<BoxFuture<'static, Option<D>>>,
    /// What is done so far of work that does several things.
    early: mpsc::UnboundedReceiver<D>,
    tell: mpsc::UnboundedSender<D>,
}

impl<D> Default for Tasks<D> {
    fn default() -> Self {
        let (tell, early) = mpsc::unbounded_channel();
        Self {
            work: FuturesUnordered::new(),
            early,
            tell,
        }
    }
}

impl<D: Send + 'static> Tasks<D> {
    /// Starts some work.
    pub fn spawn(&self, work: impl Future<Output = D> + Send + 'static) {
        // Boxed at once: it is some kilobytes, and each layer around it would move them.
        let work = Box::pin(work);
        self.work.push(
            AssertUnwindSafe(work)
                .catch_unwind()
                .map(Result::ok)
                .boxed(),
        );
    }

    /// Whether no work is running.
    pub fn is_empty(&self) -> bool {
        self.work.is_empty() && self.early.is_empty()
    }

    /// Where work reports what is done before all of it is.
    pub fn early(&self) -> mpsc::UnboundedSender<D> {
        self.tell.clone()
    }

    /// The next work that is done, or has panicked; never, if none is running.
    pub(super) async fn next(&mut self) -> Option<D> {
        tokio::select! {
            biased;
            Some(done) = self.early.recv() => Some(done),
            Some(done) = self.work.next() => done,
        }
    }

    /// [`Self::next`], if there is one already.
    pub(super) fn ready(&mut self) -> Option<Option<D>> {
        self.next().now_or_never()
    }
}

/// Whether a session continues after something came from outside.
pub enum Flow {
    /// It does.
    Continue,
    /// It ends; what has arrived is still processed.
    End(SessionError),
}

/// One side of a session. After an error from any of these the session is over.
pub trait Role: Send {
    /// Which side it is.
    const SIDE: Side;
    /// Where files that come to this side go.
    type Target: Target;
    /// What is done besides the records.
    type Done: Send + 'static;
    /// What comes from outside of the session.
    type Input: Send;

    /// A record came.
    fn record(&mut self, io: &mut RoleIo<Self>, record: Record) -> Result<(), SessionError>;

    /// A file is complete under its hidden name.
    fn whole(
        &mut self,
        io: &mut RoleIo<Self>,
        transfer: u32,
        received: Received<Self::Target>,
    ) -> Result<(), SessionError>;

    /// A file will not arrive.
    fn failed(
        &mut self,
        io: &mut RoleIo<Self>,
        transfer: u32,
        error: ReceiveError,
    ) -> Result<(), SessionError>;

    /// Everything that one buffer brought was reported: time to begin what is done for many at
    /// once.
    fn batch_end(&mut self, io: &mut RoleIo<Self>) -> Result<(), SessionError>;

    /// This many bytes of files came in.
    fn moved_in(&mut self, bytes: u64);

    /// This many bytes of a file are about to go out.
    fn moved_out(&mut self, transfer: u32, bytes: u64);

    /// All blocks of a file are sealed, with its CRC-32, or no more of them will be.
    fn sealed(
        &mut self,
        io: &mut RoleIo<Self>,
        transfer: u32,
        end: Result<u32, Error>,
    ) -> Result<(), SessionError>;

    /// Something was done besides the records.
    fn done(&mut self, io: &mut RoleIo<Self>, done: Self::Done) -> Result<(), SessionError>;

    /// Continues what waits for room: called whenever something has happened.
    fn proceed(&mut self, io: &mut RoleIo<Self>) -> Result<(), SessionError>;

    /// Waits for something from outside. Nothing is lost if the future is dropped.
    fn input(&mut self, at_rest: bool) -> impl Future<Output = Self::Input> + Send;

    /// Acts on it.
    fn take(&mut self, io: &mut RoleIo<Self>, input: Self::Input) -> Result<Flow, SessionError>;

    /// A transfer that has not had its last word, for *working* to name, and what that says
    /// of it.
    fn open(&self) -> Option<(u32, &'static [u8])>;

    /// Whether the other side owes something, so that its silence means that it is gone.
    fn is_owed(&self, io: &RoleIo<Self>) -> bool;

    /// Whether the session may end, once everything is written and no work is running.
    fn is_over(&self) -> bool;

    /// Whether work is running that has to finish even though the session is over.
    fn must_finish(&self, io: &RoleIo<Self>) -> bool;

    /// The session is over for this reason: says the last words of transfers for which nothing has
    /// to be finished.
    fn give_up(&mut self, _io: &mut RoleIo<Self>, _error: &SessionError) {}

    /// [`Self::done`], after the end of the session.
    fn done_late(&mut self, io: &mut RoleIo<Self>, done: Self::Done);

    /// The last words of this side, after everything else.
    fn end(&mut self, io: &mut RoleIo<Self>, error: Option<&SessionError>);
}

/// The [`Io`] of a role.
pub type RoleIo<R> = Io<<R as Role>::Target, <R as Role>::Done>;

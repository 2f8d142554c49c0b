//! A session after its opening: one engine for both sides.
//!
//! The [`pump`] moves records both ways, so that neither side waits for the other to read.
//! It keeps deadlines, says *working*, holds back a peer that does not read, and hands over what
//! arrived to its `Role`: the [`asker`] is the client, the [`answerer`] the server.
//!
//! Records come through the [`channel`] in whole buffers. The `opener` opens them, on a thread that
//! may wait for a disk if blocks are to be expected, and appends the blocks to their files. Files
//! go out through the `upload_queue`, which seals a buffer at a time while the one before is
//! written. So memory does not depend on the length of a file, and a thread is taken for as long as
//! a buffer takes: a slow peer holds none.
//!
//! The kinds of records are declared in one table, [`crate::wire::record::Kind`]. What a kind means
//! to a side is one arm of its role's `record`. The state of a transfer is one enum in one map of
//! each role.

pub mod answerer;
pub mod asker;
pub mod channel;
mod opener;
mod outbox;
pub mod pace;
pub mod pump;
mod role;
mod upload_queue;

use tokio::task::JoinError;

use crate::{
    error::{Code, Error},
    transfer::receive::error::ReceiveError,
    wire::{WireError, record::MAX_RECORD},
};
use channel::ChannelError;

/// Bytes of each of the two buffers that records come into: while one is processed, the other takes
/// in what arrives meanwhile. For a single small file a record is enough: touching these costs more
/// than such a file.
const RECEIVE_BUFFER: usize = 16 * MAX_RECORD;

/// The same while a large file arrives: stages that change hands half as often are 5 to 8 % faster
/// (`benches/side_by_side.sh`), which a small file would lose by touching that memory.
const LARGE_RECEIVE_BUFFER: usize = 2 * RECEIVE_BUFFER;

/// The size of a file, in bytes, from which on it gets the large buffers.
const LARGE_FILE: u64 = 64 << 20;

/// Why a session ended early.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection failed, or bytes on it were changed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Somebody on this side ended it.
    #[error("{0}")]
    Stopped(Error),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    GoingDown,
    /// The same sender continues one of its transfers in a newer session.
    #[error("a newer session of the same sender took over")]
    Superseded,
    /// The client closed it while transfers were open.
    #[error("the client closed the session")]
    Closed,
    /// A thread of this side failed.
    #[error("a thread of the session failed")]
    Failed,
}

impl From<WireError> for SessionError {
    fn from(error: WireError) -> Self {
        Self::Channel(error.into())
    }
}

impl From<JoinError> for SessionError {
    fn from(_: JoinError) -> Self {
        Self::Failed
    }
}

impl From<SessionError> for Error {
    fn from(error: SessionError) -> Self {
        Self::from(&error)
    }
}

impl From<&SessionError> for Error {
    fn from(error: &SessionError) -> Self {
        match error {
            SessionError::Channel(ChannelError::Wire(error)) => error.clone().into(),
            SessionError::Channel(error) => Self::new(Code::Later, error.to_string()),
            SessionError::Stopped(error) => error.clone(),
            SessionError::GoingDown | SessionError::Superseded | SessionError::Closed => {
                Self::new(Code::Later, error.to_string())
            }
            SessionError::Failed => Self::new(Code::Failed, error.to_string()),
        }
    }
}

impl From<&SessionError> for ReceiveError {
    fn from(error: &SessionError) -> Self {
        let told = match error {
            SessionError::Channel(ChannelError::Wire(error)) => return error.clone().into(),
            SessionError::Channel(ChannelError::Idle(_)) | SessionError::Superseded => {
                Some(Error::new(Code::Later, error.to_string()))
            }
            SessionError::Closed => Some(Error::new(
                Code::Later,
                "the session was closed before the file was complete",
            )),
            SessionError::GoingDown => return Self::GoingDown,
            SessionError::Failed => return Self::Failed,
            SessionError::Channel(_) | SessionError::Stopped(_) => None,
        };
        Self::Session {
            why: error.to_string(),
            told,
        }
    }
}

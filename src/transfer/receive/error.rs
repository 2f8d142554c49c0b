//! Why a file did not arrive, and what its sender may know of that.

use std::io;

use crate::{
    error::{Code, Error},
    files::exists,
    wire::WireError,
};

/// Why a file did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The session broke off.
    #[error("{why}")]
    Session {
        /// Why, for the log.
        why: String,
        /// What the sender may know; `None` if nobody is left to tell.
        told: Option<Error>,
    },
    /// More or fewer bytes came than the meta says.
    #[error("the file has a different size than its meta says")]
    Size,
    /// More bytes came than are taken of a file whose size its sender did not know.
    #[error("the file is too large, the receiver takes {0} bytes")]
    TooLarge(u64),
    /// The bytes are not those that the sender read.
    #[error("the CRC-32 of the file is {computed}, the sender says {claimed}")]
    Checksum {
        /// What the sender says.
        claimed: u32,
        /// What arrived.
        computed: u32,
    },
    /// A different file has the path that the sender wants.
    #[error("a different file is at its path")]
    Taken,
    /// The file cannot be stored.
    #[error("the file cannot be stored: {0}")]
    Store(io::Error),
    /// A hook refused the contents.
    #[error("refused: {0}")]
    Refused(String),
    /// The sender gave up.
    #[error("the sender gave up: {0}")]
    Sender(Error),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    GoingDown,
    /// A thread of the server failed.
    #[error("the server failed while it stored the file")]
    Failed,
}

impl From<WireError> for ReceiveError {
    fn from(error: WireError) -> Self {
        let sentence = match error {
            WireError::Crypto(_) => "the bytes were changed on the way",
            _ => "a record came that does not belong there",
        };
        Self::Session {
            why: error.to_string(),
            told: Some(Error::new(Code::Integrity, sentence)),
        }
    }
}

impl ReceiveError {
    /// Whether the next attempt may resume where this one broke off: all that has arrived is
    /// what was sent.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Session { .. } | Self::GoingDown | Self::Failed => true,
            Self::Sender(error) => error.code == Code::Later || error.code == Code::Interrupted,
            // A full disk needs the room.
            Self::Store(error) => !matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Self::Size
            | Self::TooLarge(_)
            | Self::Checksum { .. }
            | Self::Taken
            | Self::Refused(_) => false,
        }
    }

    /// What the sender may know; `None` if nobody is left to tell.
    pub fn for_sender(&self) -> Option<Error> {
        let (code, sentence) = match self {
            Self::Session { told, .. } => return told.clone(),
            Self::Sender(_) => return None,
            Self::Size | Self::Checksum { .. } => (Code::Integrity, self.to_string()),
            Self::TooLarge(_) => (Code::Refused, self.to_string()),
            Self::Store(error) => return Some(store_error(error)),
            Self::Taken => return Some(exists()),
            Self::Refused(words) => (Code::Refused, words.clone()),
            Self::GoingDown => (
                Code::Later,
                "the server is going down, try later".to_owned(),
            ),
            Self::Failed => (Code::Failed, self.to_string()),
        };
        Some(Error::new(code, sentence))
    }
}

/// What a sender may know of a store that failed.
pub fn store_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::new(
            Code::Later,
            "the receiver has no room for the file, try later",
        ),
        // These are what a stream gets: whose viewer has left, or that does not wait for its viewer.
        io::ErrorKind::BrokenPipe => Error::new(Code::Later, "nobody watches it any more"),
        io::ErrorKind::WouldBlock => Error::new(Code::Integrity, error.to_string()),
        _ => Error::new(
            Code::Later,
            "the receiver cannot store the file now, try later",
        ),
    }
}

//! The way of files through a session: the only place that knows wire, hooks and store
//! together.
//!
//! [`send`] and [`receive`] mirror each other. Each has two stages: one moves
//! bytes between the socket and buffers, the other, on a thread that may wait for a
//! disk, seals or opens the buffers and reads or writes the file. A few buffers go round
//! between them, so memory does not depend on the length of a file.
//!
//! The sender: a [`draft`] is a `.meta` that was read, and with its file open it is
//! [`outgoing`]; [`documents`] makes new ones for files that a person names. [`send`]
//! moves records, `sealing` makes blocks of files, [`pace`] holds them back.
//!
//! The receiver: [`receive`] moves records, `intake` opens blocks and appends them to a
//! [`partial`], the hidden file. [`decide`] says whether a file may come; what that needs
//! from the disk is done in the [`lane`] of its session. [`commit`] makes whole files safe,
//! many at a time.

pub mod channel;
pub mod commit;
pub mod decide;
pub mod documents;
pub mod draft;
pub mod fetch;
pub mod intake;
pub mod landing;
pub mod lane;
pub mod outgoing;
pub mod pace;
pub mod partial;
pub mod put;
pub mod receive;
mod sealing;
pub mod send;
mod supply;

use std::fmt;

use crate::{
    error::{Code, Error},
    event::Run,
    meta::Meta,
    wire::record::MAX_RECORD,
};

/// Buffers that go round between the two stages of a sender. With one being filled
/// and one being emptied, two more keep a stage busy while the other is late.
const DEPTH: usize = 4;

/// Bytes of a buffer: four records, so that a system call moves about 256 KiB.
const BUFFER: usize = 4 * MAX_RECORD;

/// Bytes of each of the two buffers of a receiver: while one is worked on, the other
/// takes in what comes meanwhile, so it holds what the network brings in that time. For a
/// single small file a record is enough: to make these costs more than such a file.
const RECEIVE_BUFFER: usize = 16 * MAX_RECORD;

/// The same while a large file comes: stages that change hands half as often are faster by
/// 5 to 8 %, which a small file would lose by touching that memory.
const LARGE_RECEIVE_BUFFER: usize = 2 * RECEIVE_BUFFER;

/// Bytes of a file from which on it gets them.
const LARGE_FILE: u64 = 64 << 20;

/// Somebody who watches a transfer: a progress bar, the demo.
pub trait Observer: Send + Sync {
    /// One of the fifteen steps begins, or is done.
    fn step(&self, _number: u8, _what: fmt::Arguments<'_>) {}

    /// So many more bytes of the file have moved.
    fn moved(&self, _bytes: u64) {}

    /// So many bytes of files were made for who fetches them.
    fn supplied(&self, _bytes: u64) {}

    /// So many bytes that have moved do not count any more: they have to move again.
    fn undone(&self, _bytes: u64) {}

    /// Blocks of the file of this meta go out or come in; so many bytes of it have moved.
    fn file(&self, _file: &Meta, _moved: u64) {}

    /// A hook has run.
    fn hook(&self, _run: &Run) {}

    /// A transfer has ended, on the side of the server.
    fn ended(&self, _how: Ended) {}
}

/// How a transfer ended for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The file is safe.
    Received,
    /// It was safe already.
    DeliveredBefore,
    /// Who fetched it has it safely.
    Fetched,
    /// A hook or a rule would not have it.
    Refused,
    /// Something went wrong.
    Failed,
}

impl Ended {
    /// Every way to end.
    pub const ALL: [Self; 5] = [
        Self::Received,
        Self::DeliveredBefore,
        Self::Fetched,
        Self::Refused,
        Self::Failed,
    ];

    /// The word for it, in the log and among the metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::DeliveredBefore => "delivered_before",
            Self::Fetched => "fetched",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// How a transfer ended whose sender is told this error.
    pub fn of(error: &Error) -> Self {
        match error.code {
            Code::Refused => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// Nobody watches.
pub struct Unobserved;

impl Observer for Unobserved {}

//! What watches a transfer: a progress bar, the metrics of a server, the demo.

use std::fmt;

use crate::{
    error::{Code, Error},
    event::Run,
    meta::Meta,
};

/// Something that watches a transfer: a progress bar, the demo.
pub trait Observer: Send + Sync {
    /// One of the fifteen steps begins, or is done.
    fn step(&self, _number: u8, _what: fmt::Arguments<'_>) {}

    /// This many more bytes of the file have moved.
    fn moved(&self, _bytes: u64) {}

    /// This many bytes of files were produced for a contact who fetches them.
    fn supplied(&self, _bytes: u64) {}

    /// This many bytes that have moved no longer count: they have to move again.
    fn undone(&self, _bytes: u64) {}

    /// Blocks of the file of this meta go out or come in; this many bytes of it have moved.
    fn file(&self, _file: &Meta, _moved: u64) {}

    /// The hooks of the folder that the file goes to are running, and take their time.
    fn waiting_for_hooks(&self, _file: &Meta) {}

    /// A hook has run.
    fn hook(&self, _run: &Run) {}

    /// A transfer has ended, on the side of the server.
    fn ended(&self, _how: TransferEnd) {}
}

/// How a transfer ended for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferEnd {
    /// The file is safe.
    Received,
    /// It was safe already.
    DeliveredBefore,
    /// The contact who fetched it has it safely.
    Fetched,
    /// A hook or a rule refused it.
    Refused,
    /// Something went wrong.
    Failed,
}

impl TransferEnd {
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

    /// How a transfer whose sender is told this error ended.
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

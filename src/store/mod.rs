//! Where the contents of files rest: one small trait, and what implements it.
//!
//! A file comes into being hidden, piece by piece, and appears under its name at
//! once and whole. What a transfer asks of a store is all that there is here, so
//! that a store for objects or stripes, or one that fails on purpose, is a few lines.

pub mod delivered;
pub mod journal;
pub mod known;
pub mod local;
pub mod meta_file;
pub mod openings;
pub mod outbox;
pub mod quarantine;

use std::io;

/// A place for the contents of files, by names that were checked before.
pub trait Store: Send + Sync {
    /// Begins a hidden file; one of that name that was abandoned goes.
    fn begin(&self, partial: &str) -> io::Result<Box<dyn Sink>>;

    /// Gives a hidden file its name, for good; fails with `AlreadyExists` if the
    /// name is taken. When this returns, the file survives a loss of power.
    fn publish(&self, partial: &str, name: &str) -> io::Result<()>;

    /// Removes a hidden file, if it is there.
    fn discard(&self, partial: &str);

    /// Whether there is a file of that name.
    fn holds(&self, name: &str) -> io::Result<bool>;

    /// Bytes that still fit.
    fn room(&self) -> io::Result<u64>;
}

/// A hidden file that grows.
pub trait Sink: Send {
    /// Adds pieces at the end.
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()>;

    /// Returns when all that was appended survives a loss of power.
    fn settle(&mut self) -> io::Result<()>;
}

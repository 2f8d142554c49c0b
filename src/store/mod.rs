//! Where the contents of files rest: one small trait, and what implements it.
//!
//! A file comes into being hidden, piece by piece, and appears under its name at
//! once and whole. What a transfer asks of a store is all that there is here, so
//! that a store for objects or stripes, or one that fails on purpose, is a few lines.

pub mod group;
pub mod local;
pub mod prefix;

use std::io;

/// A place for the contents of files, by names that were checked before.
pub trait Store: Send + Sync {
    /// Begins a hidden file with the first `keep` bytes of the one that is there, or goes
    /// on with it; with 0 that one goes.
    fn begin(&self, partial: &str, keep: u64) -> io::Result<Box<dyn Sink>>;

    /// Bytes of a hidden file that was abandoned; 0 if there is none.
    fn held(&self, partial: &str) -> io::Result<u64>;

    /// Reads a hidden file from its beginning.
    fn read(&self, partial: &str) -> io::Result<Box<dyn io::Read + Send>>;

    /// Gives a hidden file its name; fails with `AlreadyExists` if the name is taken. That
    /// survives a loss of power after [`Self::settle_names`].
    fn publish(&self, partial: &str, name: &str) -> io::Result<()>;

    /// Returns when every name that was given survives a loss of power.
    fn settle_names(&self) -> io::Result<()>;

    /// Returns when all that was appended to any file survives a loss of power, and all
    /// that was written beside. For many small files that takes one flush, where
    /// [`Sink::settle`] takes one for each.
    fn settle_all(&self) -> io::Result<()>;

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

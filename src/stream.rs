//! A stream: bytes that are watched as they come. Its meta has no size.

use crate::{
    json::Value,
    message::KIND,
    meta::{Meta, TransferId},
};

/// What [`KIND`] is for a stream.
pub const STREAM: &str = "stream";

/// The field of a recording that is `true` if the stream was cut off.
pub const INCOMPLETE: &str = "incomplete";

/// The size of a file that hooks see while its sender does not know it: larger than any file, so that
/// what limits sizes refuses it.
pub const UNKNOWN_SIZE: u64 = 1 << 62;

/// What a sender hears if nobody was there to say yes or no.
pub const NOBODY: &str = "nobody answered within 30 seconds";

/// Bytes of a stream that are under way, at most: between what was sent and what was taken by whoever
/// watches it.
pub const WINDOW: u64 = 4 << 20;

impl Meta {
    /// A stream.
    pub fn of_stream((from, to): (&str, &str), folder: &str, name: &str, id: TransferId) -> Self {
        let mut meta = Self::new(from, to, folder, name);
        meta.id = Some(id);
        meta.extra.insert(KIND.to_owned(), STREAM.into());
        meta
    }

    /// The size as hooks see it: [`UNKNOWN_SIZE`] if the sender does not know it yet.
    pub fn size_for_hooks(&self) -> u64 {
        match self.is_message() {
            true => 0,
            false => self.filesize.unwrap_or(UNKNOWN_SIZE),
        }
    }

    /// Whether it says that it is a stream.
    pub fn is_stream(&self) -> bool {
        self.extra.get(KIND).and_then(Value::as_str) == Some(STREAM)
    }
}

//! Pairing by a code: two people become contacts because one tells the other a code.
//!
//! The [protocol](crate::wire::code) has three parts. The [`owner`] makes a [`code`] and shows it;
//! the [`joiner`] types it. Between them there is a host with [`slots`], which carries messages and
//! does not know the words: a server, or the owner's program itself. What the two sides tell each
//! other, and what they keep, is the [`party`].

pub mod bridge;
pub mod code;
pub mod host;
pub mod joiner;
pub mod owner;
pub mod party;
pub mod remote_slot;
pub mod slots;

use std::time::Duration;

/// How long a side waits for a message of the other.
const PATIENCE: Duration = Duration::from_secs(20);

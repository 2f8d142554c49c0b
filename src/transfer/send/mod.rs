//! The sending half of a transfer.

pub mod blocks;
pub mod feed;
pub mod feed_blocks;
pub mod job;
pub mod job_file;
pub mod left;
mod message_record;
pub mod outgoing;
pub mod put;
pub mod put_bytes;
pub mod send_job;
pub mod shared_file;
pub mod source_file;

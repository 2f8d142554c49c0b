//! The sending half of a transfer.

pub mod blocks;
pub mod job;
pub mod job_file;
pub mod left;
mod message_record;
pub mod outgoing;
pub mod put;
pub mod put_bytes;
pub mod send_job;
pub mod source_file;

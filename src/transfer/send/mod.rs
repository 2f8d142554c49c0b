//! The sending half of a transfer.

pub mod blocks;
pub mod job;
pub mod job_file;
pub mod job_files;
pub mod put;
pub mod send_job;

//! The receiving half of a transfer.

pub mod arrival;
pub mod commit;
pub mod decision;
pub mod download;
pub mod error;
pub mod inbox;
pub mod message_committer;
pub mod message_rate;
pub mod messages;
pub mod offer;
pub mod partial;
pub mod receiver;
pub mod recovery;
pub mod refused;
mod reservation;
pub mod streams;
pub mod takeover;
pub mod target;
pub mod under_way;
pub mod wanted;

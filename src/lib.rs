//! m2y
pub mod cli;
pub mod client;
pub mod crypto;
pub mod error;
pub mod event;
pub mod hooks;
pub mod json;
pub mod meta;
pub mod root;
pub mod server;
pub mod store;
pub mod transfer;
pub mod wire;

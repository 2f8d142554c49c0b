//! m2y
pub mod cli;
pub mod client;
pub mod server;
pub mod transfer;
pub mod hooks;
pub mod event;
pub mod wire;
pub mod store;
pub mod meta;
pub mod root;
pub mod json;
pub mod crypto;
pub mod error;

//! m2y
pub mod meta;
pub mod root;
pub mod json;
pub mod crypto;

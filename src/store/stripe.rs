//! Contents on four members, any two of which rebuild them.

pub mod code;

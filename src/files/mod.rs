//! What a contact may see and change of a user's files.

pub mod service;

//! Contents that a member holds and cannot read: sealed chunks, and the sealed manifest that
//! names them.
//!
//! A file has a fresh secret. Each [chunk] of it is sealed under a key of its own, bound to its
//! place in the file. The [manifest] holds the name, the place and the chunks of the file,
//! sealed under the same secret and bound to the key of its object; before the seal stands the
//! secret, wrapped for each reader. So a member learns how large chunks are and when they were
//! written. Chunks and manifests that it alters, swaps or renames are refused. An older manifest
//! of the same name opens: whoever reads several compares their sequences. Only who knows the
//! secret of the [folder] can have made a manifest: readers of a file do not.

pub mod chunk;
pub mod folder;
pub mod manifest;

use zeroize::Zeroizing;

use crate::crypto::{self, CryptoError};

/// Bytes of the secret of a file.
pub const SECRET_LEN: usize = 32;

/// What everything of one file is sealed with.
#[derive(Clone)]
pub struct FileSecret(Zeroizing<[u8; SECRET_LEN]>);

impl FileSecret {
    /// A fresh secret.
    ///
    /// # Errors
    ///
    /// If the operating system gives no randomness.
    pub fn new() -> Result<Self, CryptoError> {
        crypto::random().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// Its bytes, for the index of a server.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// A secret from its bytes; `None` if they are not as many as it has.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.try_into().ok()?;
        Some(Self(Zeroizing::new(bytes)))
    }
}

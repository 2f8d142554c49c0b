//! Implementations of the same operations, giving and taking the same bytes.
//!
//! The default build uses AWS-LC: constant time, and fast enough that sealing is not what a
//! transfer waits for. On CPUs for which AWS-LC has no fast AES-GCM, `ring` seals and opens. A
//! build without default features has only [`rust_crypto`]. All are compiled into the default
//! build, so that one test can let each read what the others wrote.

#[cfg(feature = "aws-lc")]
pub mod aws_lc;
#[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
pub mod ring;
pub mod rust_crypto;

use super::{CryptoError, Key, Random};

/// Bytes that GCM adds to what it seals.
pub const TAG_LEN: usize = 16;

/// The authentication tag of AES-GCM.
pub type Tag = [u8; TAG_LEN];

/// The nonce of AES-GCM.
pub type Nonce = [u8; 12];

/// AES-128-GCM (NIST SP 800-38D) under one key.
pub trait Aead: Send + Sync {
    /// Encrypts `data` in place and returns the tag over it and `ad`.
    fn seal(&self, nonce: &Nonce, ad: &[u8], data: &mut [u8]) -> Result<Tag, CryptoError>;

    /// Checks the tag, then decrypts `data` in place.
    ///
    /// After an error `data` holds nothing that may be used.
    fn open(&self, nonce: &Nonce, ad: &[u8], data: &mut [u8], tag: &Tag)
    -> Result<(), CryptoError>;
}

/// The two private operations of the protocol, both blinded.
pub trait PrivateOperations: Send + Sync {
    /// RSA-OAEP (RFC 8017, 7.1) with SHA-256 for label and mask.
    fn unwrap(&self, wrapped: &[u8], label: &[u8]) -> Result<Vec<u8>, CryptoError>;

    /// RSA-PSS (RFC 8017, 8.1) with SHA-256 and a salt of 32 bytes.
    fn sign(&self, message: &[u8], random: &mut Random<'_>) -> Result<Vec<u8>, CryptoError>;
}

/// One of the implementations.
pub trait Backend: Send + Sync {
    /// Its name, for `m2y --version` and the log.
    fn name(&self) -> &'static str;

    /// Takes a cipher key into use.
    fn aead(&self, key: &Key) -> Result<Box<dyn Aead>, CryptoError>;

    /// Takes a private key, PKCS#8 in DER, into use.
    fn private_key(&self, pkcs8: &[u8]) -> Result<Box<dyn PrivateOperations>, CryptoError>;
}

/// The back end that this build uses on this CPU.
pub fn active() -> &'static dyn Backend {
    #[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
    if ring::Ring::is_faster_here() {
        return &ring::Ring;
    }
    #[cfg(feature = "aws-lc")]
    return &aws_lc::AwsLc;
    #[cfg(not(feature = "aws-lc"))]
    return &rust_crypto::RustCrypto;
}

/// Every back end of this build.
pub const ALL: &[&dyn Backend] = &[
    #[cfg(feature = "aws-lc")]
    &aws_lc::AwsLc,
    #[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
    &ring::Ring,
    &rust_crypto::RustCrypto,
];

//! The one way in which m2y seals bytes: AES-128-GCM in the STREAM construction.
//!
//! Envelopes, records and blocks of a file all pass through [`Seal`]. A nonce is
//! eleven bytes of a number that counts what this key sealed, big-endian, and one byte that is 1
//! for the last piece of a stream and 0 otherwise. So pieces cannot be swapped, repeated or
//! dropped, nor a stream be cut at its end. (STREAM: Hoang, Reyhanitabar, Rogaway, Vizár, *Online
//! Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance*, CRYPTO 2015; age and Tink do
//! the same.)

use hkdf::Hkdf;
use sha2::Sha256;

use super::{
    CryptoError,
    backend::{Aead, Backend, Nonce, active},
};
pub use super::{
    Key,
    backend::{TAG_LEN, Tag},
};

/// Derives `N` bytes by HKDF-SHA256 (RFC 5869).
pub fn derive<const N: usize>(salt: &[u8], secret: &[u8], info: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    // Expand fails only above 255 hashes of output; every N here is below three.
    let _ = Hkdf::<Sha256>::new(Some(salt), secret).expand(info, &mut out);
    out
}

/// One key in use, for sealing or for opening.
pub struct Seal(Box<dyn Aead>);

impl Seal {
    /// Takes `key` into use.
    pub fn new(key: &Key) -> Result<Self, CryptoError> {
        Self::with_backend(active(), key)
    }

    /// Takes `key` into use with a chosen back end.
    pub fn with_backend(backend: &dyn Backend, key: &Key) -> Result<Self, CryptoError> {
        backend.aead(key).map(Self)
    }

    /// Seals piece `number` of a stream in place and returns its tag.
    ///
    /// The caller never uses a number twice with one key.
    pub fn seal(
        &self,
        number: u64,
        last: bool,
        ad: &[u8],
        data: &mut [u8],
    ) -> Result<Tag, CryptoError> {
        self.0.seal(&nonce(number, last), ad, data)
    }

    /// Opens piece `number` of a stream in place.
    pub fn open(
        &self,
        number: u64,
        last: bool,
        ad: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), CryptoError> {
        self.0.open(&nonce(number, last), ad, data, tag)
    }
}

fn nonce(number: u64, last: bool) -> Nonce {
    let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
    [0, 0, 0, a, b, c, d, e, f, g, h, u8::from(last)]
}

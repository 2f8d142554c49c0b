//! Keys and sealing: the only code that touches secrets.
//!
//! [`keys`] holds a person's RSA keys, [`seal`] the one way in which bytes are
//! sealed, and [`backend`] the two implementations that give the same bytes.

pub mod backend;
pub mod keys;
pub mod mac;
pub mod passphrase;
pub mod seal;

use rsa::rand_core::TryCryptoRng;
use zeroize::Zeroizing;

/// Where randomness comes from: [`SysRng`] everywhere but in the test vectors.
pub type Random<'a> = dyn TryCryptoRng<Error = getrandom::Error> + 'a;

pub use getrandom::SysRng;

/// What can go wrong with a key or with sealed bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The text is not an RSA key in PEM, or one that must not be used.
    #[error("no usable RSA key: {0}")]
    Key(String),
    /// The modulus is too short to be safe or too long to be served.
    #[error("the RSA key has {0} bits, must have 2048 to 4096")]
    KeySize(usize),
    /// Sealed bytes were changed, cut, or sealed under a different key.
    #[error("the sealed bytes were altered in transit or are for a different key")]
    Open,
    /// A signature does not belong to the key and the bytes.
    #[error("the signature does not match")]
    Signature,
    /// A private key has a passphrase, which cannot be had.
    #[error("{0}")]
    Locked(String),
    /// The passphrase of a private key is another one.
    #[error("the passphrase is wrong")]
    Passphrase,
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness: {0}")]
    Random(#[from] getrandom::Error),
}

/// Fills an array with bytes from the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// Bytes in a cipher key.
pub const KEY_LEN: usize = 16;

/// A key for AES-128, wiped when it is dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LEN]>);

impl Key {
    /// A key from its bytes.
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

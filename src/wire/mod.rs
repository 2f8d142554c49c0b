#![doc = include_str!("protocol.md")]

pub mod code;
pub mod envelope;
pub mod header;
pub mod letter;
pub mod pairing;
pub mod post;
pub mod record;
pub mod relay;
pub mod request;
pub mod session;
pub mod words;

use crate::{
    crypto::CryptoError,
    error::{Code, Error},
};

/// What can be wrong with bytes from a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A different version, or not m2y at all.
    #[error("the peer speaks version {0} of the protocol, must be {version}", version = header::VERSION)]
    Version(u16),
    /// A length that no envelope has.
    #[error("an envelope of {0} bytes was announced, must be 1 to {max}", max = header::MAX_ENVELOPE)]
    EnvelopeLength(u32),
    /// A head that means nothing.
    #[error("the header cannot be read")]
    Header,
    /// Algorithms that this version does not have.
    #[error("the envelope has suite {0}, must be 1")]
    Suite(u8),
    /// Too short to be an envelope.
    #[error("the envelope cannot be read")]
    Envelope,
    /// The meta does not fit into an envelope.
    #[error("the metadata has {len} bytes, must have at most {max}: shorten its fields")]
    TooMuchMeta {
        /// Bytes of the JSON.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// An X25519 share that yields no secret.
    #[error("the key exchange gave no secret")]
    Share,
    /// One key has sealed as many records as it may.
    #[error("this key has sealed 2^32 records: go on in a new session")]
    KeyWorn,
    /// A record that means nothing, or nothing at this point.
    #[error("the record cannot be read")]
    Record,
    /// A letter, a prekey or a receipt that means nothing.
    #[error("the letter cannot be used: {0}")]
    Letter(&'static str),
    /// A key, a seal or a signature.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl From<CryptoError> for Error {
    fn from(error: CryptoError) -> Self {
        WireError::from(error).into()
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let code = match &error {
            WireError::Crypto(CryptoError::Signature) => Code::Identity,
            WireError::Crypto(CryptoError::Open) | WireError::Share => Code::Integrity,
            WireError::KeyWorn => Code::Later,
            _ => Code::Failed,
        };
        Self::new(code, error.to_string())
    }
}

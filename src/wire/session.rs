//! The keys of a session: from an X25519 exchange and both envelopes.

use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::{WireError, envelope::SECRET_LEN};
use crate::{
    crypto::{
        CryptoError, Random,
        seal::{Key, derive},
    },
    meta::{FileKey, TransferId},
};

/// One side's half of the X25519 exchange (RFC 7748), used once.
pub struct Share {
    secret: StaticSecret,
    /// What goes into the envelope.
    pub public: [u8; 32],
}

impl Share {
    /// A fresh one.
    pub fn new(random: &mut Random<'_>) -> Result<Self, CryptoError> {
        let mut bytes = Zeroizing::new([0; 32]);
        random.try_fill_bytes(&mut *bytes)?;
        Ok(Self::from_secret(&bytes))
    }

    /// The one with this private half.
    pub fn from_secret(bytes: &[u8; 32]) -> Self {
        let secret = StaticSecret::from(*bytes);
        Self {
            public: PublicKey::from(&secret).to_bytes(),
            secret,
        }
    }

    /// What both sides get from the exchange.
    ///
    /// Fails on a share that gives an all-zero secret (RFC 7748, section 6.1): such a peer did not
    /// take part in it.
    pub fn agree(&self, peer: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, WireError> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(*peer));
        match shared.was_contributory() {
            true => Ok(Zeroizing::new(shared.to_bytes())),
            false => Err(WireError::Share),
        }
    }
}

/// SHA-256 over the whole opening, header included: the answer is bound to it, and a repeated
/// opening is recognised by it.
pub fn opening_digest(header: &[u8], envelope: &[u8]) -> [u8; 32] {
    digest(&[header, envelope])
}

/// SHA-256 over both messages as they went over the wire.
pub fn transcript(opening_digest: &[u8; 32], answer: &[&[u8]]) -> [u8; 32] {
    let mut parts: Vec<&[u8]> = vec![opening_digest];
    parts.extend(answer);
    digest(&parts)
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Which side sends the blocks of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The client sends them: a further file, or a `put`.
    ToServer,
    /// The server sends them: a `get`.
    ToClient,
}

impl Direction {
    fn label(self) -> &'static [u8] {
        match self {
            Self::ToServer => b"m2y/1 client blocks",
            Self::ToClient => b"m2y/1 server blocks",
        }
    }
}

/// The keys of a session, the same on both sides.
pub struct SessionKeys {
    /// Seals the records of the side that sent the opening.
    pub client: Key,
    /// Seals the records of the side that answered.
    pub server: Key,
    files: Zeroizing<[u8; 32]>,
}

impl SessionKeys {
    /// Derives the keys; fails where [`Share::agree`] does.
    pub fn derive(
        own: Share,
        peer: &[u8; 32],
        opening_secret: &[u8; SECRET_LEN],
        answer_secret: &[u8; SECRET_LEN],
        transcript: &[u8; 32],
    ) -> Result<Self, WireError> {
        let shared = own.agree(peer)?;
        let secret = Zeroizing::new([shared.as_slice(), opening_secret, answer_secret].concat());
        Ok(Self {
            client: Key::new(derive(transcript, &secret, b"m2y/1 client records")),
            server: Key::new(derive(transcript, &secret, b"m2y/1 server records")),
            files: Zeroizing::new(derive(transcript, &secret, b"m2y/1 files")),
        })
    }

    /// The key for the blocks of one transfer.
    ///
    /// A session never uses a transfer number twice, so it never derives a key twice,
    /// even if the peer repeats its `filekey` and `id`.
    pub fn block_key(
        &self,
        filekey: &FileKey,
        id: &TransferId,
        direction: Direction,
        transfer: u32,
    ) -> Key {
        let number = transfer.to_be_bytes();
        let info = [direction.label(), &id.0, &number].concat();
        Key::new(derive(&*self.files, &*filekey.0, &info))
    }
}

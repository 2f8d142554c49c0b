//! A person's RSA keys: PEM in and out, fingerprints, and the four operations.

use std::fmt;

use rsa::{
    Oaep, Pss, RsaPrivateKey, RsaPublicKey,
    pkcs8::{
        DecodePrivateKey, DecodePublicKey, Document, EncodePrivateKey, EncodePublicKey, LineEnding,
        SecretDocument,
    },
    rand_core::UnwrapErr,
    traits::{PaddingScheme, PublicKeyParts, SignatureScheme},
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    CryptoError, Random, SysRng,
    backend::{Backend, PrivateOperations, active},
};

/// Bits of a key unless the user asks for others.
pub const DEFAULT_BITS: usize = 3072;

/// Bits that a key may have: fewer are unsafe, more stall those who are served.
pub const BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// SHA-256 over a public key's SPKI in DER: what two people compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The form to read out by telephone: eight groups of five decimal digits, with spaces.
    ///
    /// They are the last 40 digits of the 32 bytes read as one big-endian number. That is 132 of
    /// its 256 bits, more than the 128 of an RSA key of 3,072 bits: making a second key with the
    /// same digits is no less work than breaking the first.
    pub fn digits(&self) -> String {
        const BASE: u32 = 100_000;
        let mut number = self.0;
        let mut groups = [0; 8];
        for group in groups.iter_mut().rev() {
            // The number is divided by the base; the remainder is the group.
            for byte in &mut number {
                let part = *group << 8 | u32::from(*byte);
                // Below 256, because the remainder is below the base.
                *byte = (part / BASE) as u8;
                *group = part % BASE;
            }
        }
        groups.map(|group| format!("{group:05}")).join(" ")
    }

    /// The first 16 hexadecimal digits, to tell keys apart, not to verify them.
    pub fn short(&self) -> String {
        self.0.iter().take(8).map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SHA256:")?;
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key of a contact, or the user's own to hand out.
#[derive(Clone)]
pub struct PublicKey {
    key: RsaPublicKey,
    fingerprint: Fingerprint,
}

impl PublicKey {
    /// Reads PEM SPKI (`BEGIN PUBLIC KEY`).
    pub fn from_pem(pem: &str) -> Result<Self, CryptoError> {
        let key = RsaPublicKey::from_public_key_pem(pem.trim_start())
            .map_err(|e| CryptoError::Key(e.to_string()))?;
        Self::new(key)
    }

    fn new(key: RsaPublicKey) -> Result<Self, CryptoError> {
        check_bits(bits(&key))?;
        let spki = spki(&key)?;
        Ok(Self {
            fingerprint: Fingerprint(Sha256::digest(spki.as_bytes()).into()),
            key,
        })
    }

    /// Writes PEM SPKI, as `openssl pkey -pubin` reads it.
    pub fn to_pem(&self) -> Result<String, CryptoError> {
        self.key
            .to_public_key_pem(LineEnding::LF)
            .map_err(|e| CryptoError::Key(e.to_string()))
    }

    /// What to compare over the telephone.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Bytes of the modulus, and so of a signature and of a wrapped secret.
    pub fn size(&self) -> usize {
        self.key.size()
    }

    /// Wraps `secret` by RSA-OAEP-SHA256 so that only this key's owner reads it.
    pub fn wrap(
        &self,
        secret: &[u8],
        label: &[u8],
        random: &mut Random<'_>,
    ) -> Result<Vec<u8>, CryptoError> {
        Oaep::<Sha256>::new_with_label(label)
            .encrypt(random, &self.key, secret)
            .map_err(|e| CryptoError::Key(e.to_string()))
    }

    /// Checks an RSA-PSS-SHA256 signature, salt of 32 bytes, over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        Pss::<Sha256>::new()
            .verify(&self.key, &Sha256::digest(message), signature)
            .map_err(|_| CryptoError::Signature)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint)
    }
}

/// A person's private key in use; its memory is wiped when it is dropped.
pub struct PrivateKey {
    operations: Box<dyn PrivateOperations>,
    public: PublicKey,
}

impl PrivateKey {
    /// Reads PEM PKCS#8 (`BEGIN PRIVATE KEY`).
    pub fn from_pem(pem: &str) -> Result<Self, CryptoError> {
        Self::with_backend(active(), pem)
    }

    /// Reads PEM PKCS#8 for a chosen back end.
    pub fn with_backend(backend: &dyn Backend, pem: &str) -> Result<Self, CryptoError> {
        let bad = |e: &dyn fmt::Display| CryptoError::Key(e.to_string());
        let (label, der) = SecretDocument::from_pem(pem.trim_start()).map_err(|e| bad(&e))?;
        if label != "PRIVATE KEY" {
            return Err(CryptoError::Key(format!(
                "the PEM holds \"{label}\", must hold \"PRIVATE KEY\" (PKCS#8, without a password)"
            )));
        }
        let key = RsaPrivateKey::from_pkcs8_der(der.as_bytes()).map_err(|e| bad(&e))?;
        let public = PublicKey::new(key.to_public_key())?;
        Ok(Self {
            operations: backend.private_key(der.as_bytes())?,
            public,
        })
    }

    /// Makes a new key and returns it as PEM PKCS#8, with its public half.
    pub fn generate(bits: usize) -> Result<(Zeroizing<String>, PublicKey), CryptoError> {
        check_bits(bits)?;
        // Fail with an error here rather than by a panic inside the search for primes.
        super::random::<1>()?;
        let key = RsaPrivateKey::new(&mut UnwrapErr(SysRng), bits)
            .map_err(|e| CryptoError::Key(e.to_string()))?;
        let pem = key
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|e| CryptoError::Key(e.to_string()))?;
        Ok((pem, PublicKey::new(key.to_public_key())?))
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Opens what [`PublicKey::wrap`] wrapped.
    pub fn unwrap(&self, wrapped: &[u8], label: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        self.operations.unwrap(wrapped, label).map(Zeroizing::new)
    }

    /// Signs `message`, for [`PublicKey::verify`].
    pub fn sign(&self, message: &[u8], random: &mut Random<'_>) -> Result<Vec<u8>, CryptoError> {
        self.operations.sign(message, random)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public.fingerprint)
    }
}

fn bits(key: &RsaPublicKey) -> usize {
    key.n().bits() as usize
}

fn check_bits(bits: usize) -> Result<(), CryptoError> {
    if BITS.contains(&bits) {
        Ok(())
    } else {
        Err(CryptoError::KeySize(bits))
    }
}

fn spki(key: &RsaPublicKey) -> Result<Document, CryptoError> {
    key.to_public_key_der()
        .map_err(|e| CryptoError::Key(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_the_last_forty_of_the_whole_number() {
        // print(int(bytes(range(32)).hex(), 16) % 10**40)
        let counting = std::array::from_fn(|i| i as u8);
        for (bytes, digits) in [
            (counting, "22007 42329 63730 31997 54547 59836 99794 40671"),
            ([0; 32], "00000 00000 00000 00000 00000 00000 00000 00000"),
            ([255; 32], "32699 84665 64056 40394 57584 00791 31296 39935"),
        ] {
            assert_eq!(Fingerprint(bytes).digits(), digits);
        }
    }
}

//! Pure Rust: `rsa`, and GCM put together from `aes`, `ctr` and `ghash`.

use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt, InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper},
};
use ctr::{CtrCore, flavors::Ctr32BE};
use ghash::{GHash, universal_hash::UniversalHash};
use rsa::{Oaep, Pss, RsaPrivateKey, pkcs8::DecodePrivateKey};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Aead, Backend, Nonce, PrivateOperations, Tag};
use crate::crypto::{CryptoError, Key, Random, SysRng};

/// The RustCrypto crates.
pub struct RustCrypto;

impl Backend for RustCrypto {
    fn name(&self) -> &'static str {
        "rust-crypto"
    }

    fn aead(&self, key: &Key) -> Result<Box<dyn Aead>, CryptoError> {
        let cipher = Aes128::new(key.as_bytes().into());
        // SP 800-38D, 7.1: the hash subkey is the encryption of the zero block.
        let mut subkey = ghash::Key::default();
        cipher.encrypt_block(&mut subkey);
        Ok(Box::new(Gcm {
            hash: GHash::new(&subkey),
            cipher,
        }))
    }

    fn private_key(&self, pkcs8: &[u8]) -> Result<Box<dyn PrivateOperations>, CryptoError> {
        let key =
            RsaPrivateKey::from_pkcs8_der(pkcs8).map_err(|e| CryptoError::Key(e.to_string()))?;
        Ok(Box::new(Private(key)))
    }
}

struct Gcm {
    cipher: Aes128,
    hash: GHash,
}

type Keystream<'a> = StreamCipherCoreWrapper<CtrCore<&'a Aes128, Ctr32BE>>;

impl Gcm {
    /// The counter stream from J0 on, and its first block, which masks the tag.
    fn keystream(&self, nonce: &Nonce) -> (Keystream<'_>, Tag) {
        let mut counter = aes::Block::default();
        for (to, from) in counter.iter_mut().zip(nonce.iter().chain(&[0, 0, 0, 1])) {
            *to = *from;
        }
        let mut stream = Keystream::from_core(CtrCore::inner_iv_init(&self.cipher, &counter));
        let mut mask = [0; 16];
        stream.apply_keystream(&mut mask);
        (stream, mask)
    }

    fn tag(&self, mask: &Tag, ad: &[u8], sealed: &[u8]) -> Tag {
        let mut hash = self.hash.clone();
        hash.update_padded(ad);
        hash.update_padded(sealed);
        let bits = |bytes: &[u8]| (bytes.len() as u64).wrapping_mul(8).to_be_bytes();
        let mut lengths = ghash::Block::default();
        for (to, from) in lengths
            .iter_mut()
            .zip(bits(ad).into_iter().chain(bits(sealed)))
        {
            *to = from;
        }
        hash.update(&[lengths]);
        let mut tag = *mask;
        for (to, from) in tag.iter_mut().zip(hash.finalize()) {
            *to ^= from;
        }
        tag
    }
}

impl Aead for Gcm {
    fn seal(&self, nonce: &Nonce, ad: &[u8], data: &mut [u8]) -> Result<Tag, CryptoError> {
        let (mut stream, mask) = self.keystream(nonce);
        stream
            .try_apply_keystream(data)
            .map_err(|_| CryptoError::Open)?;
        Ok(self.tag(&mask, ad, data))
    }

    fn open(
        &self,
        nonce: &Nonce,
        ad: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), CryptoError> {
        let (mut stream, mask) = self.keystream(nonce);
        if !bool::from(self.tag(&mask, ad, data).ct_eq(tag)) {
            return Err(CryptoError::Open);
        }
        stream
            .try_apply_keystream(data)
            .map_err(|_| CryptoError::Open)
    }
}

struct Private(RsaPrivateKey);

impl PrivateOperations for Private {
    fn unwrap(&self, wrapped: &[u8], label: &[u8]) -> Result<Vec<u8>, CryptoError> {
        use rsa::traits::PaddingScheme;
        let padding = Oaep::<Sha256>::new_with_label(label);
        padding
            .decrypt(Some(&mut SysRng), &self.0, wrapped)
            .map_err(|_| CryptoError::Open)
    }

    fn sign(&self, message: &[u8], random: &mut Random<'_>) -> Result<Vec<u8>, CryptoError> {
        use rsa::traits::SignatureScheme;
        let digest = Sha256::digest(message);
        Pss::<Sha256>::new_blinded()
            .sign(Some(random), &self.0, &digest)
            .map_err(|_| CryptoError::Signature)
    }
}

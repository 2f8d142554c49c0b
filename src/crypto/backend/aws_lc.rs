//! AWS-LC, through `aws-lc-rs`.

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce as LcNonce, UnboundKey},
    rand::SystemRandom,
    rsa::{KeyPair, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey},
    signature::RSA_PSS_SHA256,
};

use super::{Aead, Backend, Nonce, PrivateOperations, Tag};
use crate::crypto::{CryptoError, Key, Random};

/// AWS-LC.
pub struct AwsLc;

impl Backend for AwsLc {
    fn name(&self) -> &'static str {
        "aws-lc"
    }

    fn aead(&self, key: &Key) -> Result<Box<dyn Aead>, CryptoError> {
        let key = UnboundKey::new(&AES_128_GCM, key.as_bytes()).map_err(|_| CryptoError::Open)?;
        Ok(Box::new(Gcm(LessSafeKey::new(key))))
    }

    fn private_key(&self, pkcs8: &[u8]) -> Result<Box<dyn PrivateOperations>, CryptoError> {
        let bad = |what: &str| CryptoError::Key(what.to_owned());
        let sign = KeyPair::from_pkcs8(pkcs8).map_err(|e| bad(&e.to_string()))?;
        let unwrap = PrivateDecryptingKey::from_pkcs8(pkcs8)
            .map_err(|e| bad(&e.to_string()))
            .and_then(|key| {
                OaepPrivateDecryptingKey::new(key).map_err(|_| bad("it cannot decrypt"))
            })?;
        Ok(Box::new(Private { sign, unwrap }))
    }
}

struct Gcm(LessSafeKey);

impl Aead for Gcm {
    fn seal(&self, nonce: &Nonce, ad: &[u8], data: &mut [u8]) -> Result<Tag, CryptoError> {
        let tag = self
            .0
            .seal_in_place_separate_tag(LcNonce::assume_unique_for_key(*nonce), Aad::from(ad), data)
            .map_err(|_| CryptoError::Open)?;
        Tag::try_from(tag.as_ref()).map_err(|_| CryptoError::Open)
    }

    fn open(
        &self,
        nonce: &Nonce,
        ad: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), CryptoError> {
        self.0
            .open_in_place_separate_tag(
                LcNonce::assume_unique_for_key(*nonce),
                Aad::from(ad),
                tag,
                data,
            )
            .map(|_| ())
            .map_err(|_| CryptoError::Open)
    }
}

struct Private {
    sign: KeyPair,
    unwrap: OaepPrivateDecryptingKey,
}

impl PrivateOperations for Private {
    fn unwrap(&self, wrapped: &[u8], label: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut plain = vec![0; self.unwrap.min_output_size()];
        let len = self
            .unwrap
            .decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut plain, Some(label))
            .map_err(|_| CryptoError::Open)?
            .len();
        plain.truncate(len);
        Ok(plain)
    }

    /// AWS-LC draws the salt and the blinding itself.
    fn sign(&self, message: &[u8], _: &mut Random<'_>) -> Result<Vec<u8>, CryptoError> {
        let mut signature = vec![0; self.sign.public_modulus_len()];
        self.sign
            .sign(
                &RSA_PSS_SHA256,
                &SystemRandom::new(),
                message,
                &mut signature,
            )
            .map_err(|_| CryptoError::Signature)?;
        Ok(signature)
    }
}

//! AES-GCM of `ring`, for CPUs with VAES but without AVX-512.
//!
//! AWS-LC (aws-lc-sys 0.47) has code for AES-NI and for AVX-512, and takes the former on AMD's
//! Zen 3 and on Intel's desktop CPUs since Alder Lake. `ring` has BoringSSL's code
//! for VAES with AVX2, which does about twice as much there: 6.3 GB/s sealed and 5.4
//! opened, in blocks of 64 KiB, against 3.5 and 2.8 (EPYC 7003, one core; `cargo bench
//! --bench engine -- 'block of 64 KiB'` compares the back ends). A file of 2 GiB takes 1.93
//! CPU seconds per GB with it, client and server together, and 2.47 without
//! (`benches/side_by_side.sh`).

use ::ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce as RingNonce, Tag as RingTag, UnboundKey};

use super::{Aead, Backend, Nonce, PrivateOperations, Tag, aws_lc::AwsLc};
use crate::crypto::{CryptoError, Key};

/// AES-GCM by `ring`, private-key operations by AWS-LC.
pub struct Ring;

impl Ring {
    /// Whether this CPU is one on which `ring` seals faster than AWS-LC.
    pub fn is_faster_here() -> bool {
        use std::arch::is_x86_feature_detected as has;
        let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
        has!("vaes") && has!("vpclmulqdq") && has!("avx2") && !avx512
    }
}

impl Backend for Ring {
    fn name(&self) -> &'static str {
        "aws-lc, ring"
    }

    fn aead(&self, key: &Key) -> Result<Box<dyn Aead>, CryptoError> {
        let key = UnboundKey::new(&AES_128_GCM, key.as_bytes()).map_err(|_| CryptoError::Open)?;
        Ok(Box::new(Gcm(LessSafeKey::new(key))))
    }

    fn private_key(&self, pkcs8: &[u8]) -> Result<Box<dyn PrivateOperations>, CryptoError> {
        AwsLc.private_key(pkcs8)
    }
}

struct Gcm(LessSafeKey);

impl Aead for Gcm {
    fn seal(&self, nonce: &Nonce, ad: &[u8], data: &mut [u8]) -> Result<Tag, CryptoError> {
        let tag = self
            .0
            .seal_in_place_separate_tag(
                RingNonce::assume_unique_for_key(*nonce),
                Aad::from(ad),
                data,
            )
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
                RingNonce::assume_unique_for_key(*nonce),
                Aad::from(ad),
                RingTag::from(*tag),
                data,
                0..,
            )
            .map(|_| ())
            .map_err(|_| CryptoError::Open)
    }
}

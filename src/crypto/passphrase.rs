//! Private keys with a passphrase: PKCS#8 under PBES2 with scrypt and AES-256-CBC, as `openssl pkcs8
//! -topk8 -scrypt` writes them.
//!
//! Sources: RFC 5958 (`EncryptedPrivateKeyInfo`), RFC 8018 (PBES2), RFC 7914 (scrypt).

use pkcs8::{
    EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument,
    der::Encode,
    pkcs5::{
        pbes2::{Kdf, Parameters},
        scrypt,
    },
};
use zeroize::Zeroizing;

use super::{CryptoError, random};

/// What PEM says before a private key, and before one with a passphrase.
const OPEN: &str = "PRIVATE KEY";
const LOCKED: &str = "ENCRYPTED PRIVATE KEY";

/// scrypt with N = 2^14, r = 8, p = 5: 16 MiB and about 0.2 s for each guess. OpenSSL reads no key with
/// a larger N unless it is told to.
const COST: (u8, u32, u32) = (14, 8, 5);

/// The most memory that a key may ask for when it is opened, in bytes.
const MAX_MEMORY: u64 = 64 << 20;

/// The most rounds that it may ask for.
const MAX_ROUNDS: u64 = 10_000_000;

/// Whether a private key has a passphrase.
pub fn is_locked(pem: &str) -> bool {
    pem.trim_start()
        .starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----")
}

fn bad(error: impl std::fmt::Display) -> CryptoError {
    CryptoError::Key(error.to_string())
}

/// Writes a private key with a passphrase.
///
/// # Errors
///
/// If the PEM holds no private key in PKCS#8.
pub fn lock(pem: &str, passphrase: &str) -> Result<Zeroizing<String>, CryptoError> {
    let (label, der) = SecretDocument::from_pem(pem.trim_start()).map_err(bad)?;
    if label != OPEN {
        return Err(bad("the PEM holds no private key in PKCS#8"));
    }
    PrivateKeyInfoRef::try_from(der.as_bytes()).map_err(bad)?;
    let (log_n, r, p) = COST;
    let cost = scrypt::Params::new(log_n, r, p).map_err(bad)?;
    let (salt, iv) = (random::<16>()?, random::<16>()?);
    let parameters = Parameters::generate_scrypt_aes256cbc(cost, &salt, iv).map_err(bad)?;
    let sealed = parameters
        .encrypt(passphrase, der.as_bytes())
        .map_err(bad)?;
    let sealed = pkcs8::der::asn1::OctetStringRef::new(&sealed).map_err(bad)?;
    let locked = EncryptedPrivateKeyInfoRef {
        encryption_algorithm: parameters.into(),
        encrypted_data: sealed,
    };
    let locked = SecretDocument::try_from(locked.to_der().map_err(bad)?).map_err(bad)?;
    locked.to_pem(LOCKED, pkcs8::LineEnding::LF).map_err(bad)
}

/// Opens a private key with its passphrase; returns it as PEM without one.
///
/// # Errors
///
/// With [`CryptoError::Passphrase`] if it is the wrong one.
pub fn unlock(pem: &str, passphrase: &str) -> Result<Zeroizing<String>, CryptoError> {
    let (label, der) = SecretDocument::from_pem(pem.trim_start()).map_err(bad)?;
    if label != LOCKED {
        return Err(bad("the PEM holds no private key with a passphrase"));
    }
    let locked = EncryptedPrivateKeyInfoRef::try_from(der.as_bytes()).map_err(bad)?;
    check_cost(&locked)?;
    let opened = locked
        .decrypt(passphrase)
        .map_err(|_| CryptoError::Passphrase)?;
    // A wrong passphrase yields something by chance, but no key.
    PrivateKeyInfoRef::try_from(opened.as_bytes()).map_err(|_| CryptoError::Passphrase)?;
    opened.to_pem(OPEN, pkcs8::LineEnding::LF).map_err(bad)
}

/// A key file must not take all memory or hours to open.
fn check_cost(locked: &EncryptedPrivateKeyInfoRef<'_>) -> Result<(), CryptoError> {
    let too_much = || Err(bad("to open it would take too much memory or time"));
    let Some(parameters) = locked.encryption_algorithm.pbes2() else {
        return Err(bad(
            "its passphrase is of a kind that is too weak: use PBES2",
        ));
    };
    match &parameters.kdf {
        Kdf::Scrypt(scrypt) => {
            let cost = scrypt
                .cost_parameter
                .saturating_mul(u64::from(scrypt.block_size));
            let memory = cost.saturating_mul(128);
            let rounds = cost.saturating_mul(u64::from(scrypt.parallelization));
            match memory > MAX_MEMORY || rounds > MAX_ROUNDS {
                true => too_much(),
                false => Ok(()),
            }
        }
        Kdf::Pbkdf2(pbkdf2) if u64::from(pbkdf2.iteration_count) <= MAX_ROUNDS => Ok(()),
        _ => too_much(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::keys::PrivateKey;

    #[test]
    fn only_the_passphrase_opens_a_key() {
        let (pem, public) = PrivateKey::generate(2048).unwrap();
        assert!(!is_locked(&pem));
        let locked = lock(&pem, "correct horse").unwrap();
        assert!(is_locked(&locked));
        let opened = unlock(&locked, "correct horse").unwrap();
        assert_eq!(PrivateKey::from_pem(&opened).unwrap().public(), &public);
        for wrong in ["", "Correct horse", "correct horse "] {
            assert_eq!(unlock(&locked, wrong), Err(CryptoError::Passphrase));
        }
        // Two of the same key differ.
        assert_ne!(locked, lock(&pem, "correct horse").unwrap());
        assert!(lock(&locked, "x").is_err() && unlock(&pem, "x").is_err());
    }
}

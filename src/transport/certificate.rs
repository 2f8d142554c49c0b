//! What a server proves itself with over TLS and QUIC: a certificate and its private key.

use std::{fmt, sync::Arc};

use pkcs8::{LineEnding, SecretDocument};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyIdMethod, PublicKeyData, SerialNumber,
    SignatureAlgorithm,
};
use rustls::{
    ServerConfig, SignatureScheme,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::SigningKey,
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::{
    Pin,
    tls::{self, TlsError, Trust},
};

/// The length of a point on P-256 that is not compressed, in bytes: what an SPKI ends with.
const POINT: usize = 65;

/// A certificate with its private key, ready for connections.
#[derive(Clone)]
pub struct Identity {
    config: Arc<ServerConfig>,
    pin: Option<Pin>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads certificates, the server's own first, and its key: each from a text in PEM, which may
    /// be the same.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let bad = |what: &str| TlsError::Identity(what.to_owned());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|_| bad("its certificates cannot be read: they must be in PEM"))?;
        let own = chain.first().cloned();
        let own = own.ok_or_else(|| bad("there is no certificate: it must be in PEM"))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| bad("there is no private key: it must be in PEM, without a passphrase"))?;
        let provider = Arc::new(tls::provider().map_err(TlsError::Unavailable)?);
        let needs_pin = !is_vouched_for(&chain, &provider);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|e| bad(&format!("the key does not fit the certificate: {e}")))?;
        // For resumption, which no client of ours asks for.
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
            pin: needs_pin.then(|| Pin::of(&own)),
        })
    }

    /// What an address of this server must have with it, if no authority of this system vouches for
    /// it.
    pub fn pin(&self) -> Option<Pin> {
        self.pin
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.clone())
    }

    #[cfg(feature = "aws-lc")]
    pub(super) fn config(&self) -> &ServerConfig {
        &self.config
    }
}

/// Whether an authority of the system vouches for a certificate.
fn is_vouched_for(chain: &[CertificateDer<'_>], provider: &CryptoProvider) -> bool {
    let Some((own, intermediates)) = chain.split_first() else {
        return false;
    };
    let Ok(parsed) = ParsedCertificate::try_from(own) else {
        return false;
    };
    let (roots, now) = (Trust::system_roots(), UnixTime::now());
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms)
        .is_ok()
}

/// Makes a key on P-256 and a certificate that it signs itself: both in PEM. Such a certificate is
/// known by its pin, so its name and its time say nothing.
pub fn make() -> Result<Zeroizing<String>, TlsError> {
    let failed = |e: String| TlsError::Identity(format!("no certificate can be made: {e}"));
    let provider = tls::provider().map_err(TlsError::Unavailable)?;
    let pkcs8 = tls::p256_key().map_err(failed)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    let key = provider.key_provider.load_private_key(der);
    let key = Key::of(key.map_err(|e| failed(e.to_string()))?);
    let key = key.ok_or_else(|| failed("the key has no public half".to_owned()))?;
    let mut params =
        CertificateParams::new(["m2y".to_owned()]).map_err(|e| failed(e.to_string()))?;
    let digest = Pin::of(&key.public).0;
    let (serial, identifier) = digest.split_at(15);
    // A positive number of at most 20 bytes (RFC 5280, section 4.1.2.2).
    params.serial_number = Some(SerialNumber::from([&[1], serial].concat()));
    params.key_identifier_method = KeyIdMethod::PreSpecified(identifier.to_vec());
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "m2y");
    params.distinguished_name = name;
    let certificate = params
        .self_signed(&key)
        .map_err(|e| failed(e.to_string()))?;
    let document = SecretDocument::try_from(pkcs8.as_slice());
    let text = document.and_then(|document| document.to_pem("PRIVATE KEY", LineEnding::LF));
    let text = text.map_err(|e| failed(e.to_string()))?;
    Ok(Zeroizing::new(format!(
        "{}{}",
        certificate.pem(),
        text.as_str()
    )))
}

/// A key of rustls, as rcgen wants it: its own come only with a C library.
struct Key {
    inner: Arc<dyn SigningKey>,
    public: Vec<u8>,
}

impl Key {
    fn of(inner: Arc<dyn SigningKey>) -> Option<Self> {
        let public = inner.public_key()?.last_chunk::<POINT>()?.to_vec();
        Some(Self { inner, public })
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let scheme = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let signer = self
            .inner
            .choose_scheme(&scheme)
            .ok_or(rcgen::Error::RemoteKeyError)?;
        signer
            .sign(message)
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_made_can_be_used_and_has_a_pin() {
        let text = make().unwrap();
        let identity = Identity::from_pem(text.as_bytes(), text.as_bytes()).unwrap();
        let der = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
        assert_eq!(identity.pin(), Some(Pin::of(&der)));
        let other = make().unwrap();
        let mixed = Identity::from_pem(text.as_bytes(), other.as_bytes());
        let why = mixed.unwrap_err().to_string();
        assert!(why.contains("does not fit"), "{why}");
        assert!(Identity::from_pem(b"", b"").is_err());
    }
}

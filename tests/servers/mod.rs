//! Real servers on free ports of this machine, for the tests of e-mails and webhooks:
//! an SMTP server (mailin), an HTTP server (hyper), both with and without TLS.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

pub mod http;
pub mod smtp;

use std::{fs, path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData,
    SerialNumber, SignatureAlgorithm, SigningKey,
};
use rsa::{
    RsaPrivateKey,
    pkcs1::EncodeRsaPublicKey,
    pkcs1v15,
    pkcs8::DecodePrivateKey,
    signature::{SignatureEncoding, Signer},
};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// What the library takes too: AWS-LC, or Graviola without it.
fn provider() -> CryptoProvider {
    #[cfg(feature = "aws-lc")]
    return rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc"))]
    return rustls_graviola::default_provider();
}

/// One of the fixed keys, as rcgen wants it: its own come only with a C library.
struct Key {
    private: RsaPrivateKey,
    public: Vec<u8>,
}

impl Key {
    fn of(name: &str) -> Self {
        let private = RsaPrivateKey::from_pkcs8_pem(&pem(name)).unwrap();
        let public = private.to_public_key().to_pkcs1_der().unwrap();
        Self {
            public: public.as_bytes().to_vec(),
            private,
        }
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let key = pkcs1v15::SigningKey::<sha2::Sha256>::new(self.private.clone());
        Ok(key.sign(message).to_vec())
    }
}

fn pem(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/keys/{name}.pem"));
    fs::read_to_string(path).unwrap()
}

fn params(names: &[&str], number: u8) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.serial_number = Some(SerialNumber::from(vec![number]));
    params.key_identifier_method = KeyIdMethod::PreSpecified(vec![number]);
    params
}

fn authority() -> CertificateParams {
    let mut params = params(&[], 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// The certificate of an authority whose key has this name, in PEM.
pub fn authority_pem(key: &str) -> String {
    authority().self_signed(&Key::of(key)).unwrap().pem()
}

/// A certificate as `openssl req -x509` makes it, which says that it is an authority, and its key:
/// both in PEM.
pub fn self_made_pem() -> String {
    authority_pem("roland-frei") + pem("roland-frei").as_str()
}

/// The authority that vouches for the servers.
pub const AUTHORITY: &str = "zhenqiang";

/// One that does not.
pub const ANOTHER: &str = "peter-norton";

fn certificate(params: &CertificateParams) -> rcgen::Certificate {
    let issuer = Issuer::new(authority(), Key::of(AUTHORITY));
    params.signed_by(&Key::of("roland-frei"), &issuer).unwrap()
}

/// A certificate for these hosts by the [`AUTHORITY`], and its key: both in PEM.
pub fn certificate_pem(hosts: &[&str], is_expired: bool) -> String {
    let mut params = params(hosts, 2);
    if is_expired {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    }
    certificate(&params).pem() + pem("roland-frei").as_str()
}

/// A server that proves to be these hosts.
pub fn tls(hosts: &[&str]) -> Arc<ServerConfig> {
    let certificate = certificate(&params(hosts, 2));
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::from_pem_slice(pem("roland-frei").as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

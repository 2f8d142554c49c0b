//! Whom TLS trusts, and what does its arithmetic.
//!
//! The default build uses AWS-LC for that, as for everything else. Without it Graviola does it:
//! Rust and assembler, so that no C compiler is needed.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

/// The largest file with certificates, in bytes; all of Mozilla's have 220 KiB.
const MAX_LEN: u64 = 4 << 20;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file with certificates that cannot be read.
    #[error("cannot open {}, which m2y.ini names: {source}", .path.display())]
    Io {
        /// As it was opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that holds no certificate.
    #[error("cannot use {}: it must hold certificates in PEM", .0.display())]
    Certificates(PathBuf),
    /// A certificate of one's own that cannot be used.
    #[error("{0}")]
    Identity(String),
    /// The machine cannot do it.
    #[error("no TLS is possible: {0}")]
    Unavailable(String),
}

/// What is said where nobody could be trusted.
pub(super) const NO_AUTHORITIES: &str =
    "this system has no certificates to check it by: install them (ca-certificates)";

/// Certificates of the authorities that vouch for servers.
#[derive(Clone)]
pub(crate) struct Trust {
    roots: Vec<CertificateDer<'static>>,
    connector: TlsConnector,
}

impl Trust {
    /// The system's certificates and those of a file, if there is one; a relative path
    /// starts at `base`.
    pub(crate) fn load(ca_file: Option<&PathBuf>, base: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(provider().map_err(TlsError::Unavailable)?);
        let (mut store, mut roots) = system();
        if let Some(file) = ca_file {
            let path = base.join(file);
            for certificate in read(&path)? {
                store
                    .add(certificate.clone())
                    .map_err(|_| TlsError::Certificates(path.clone()))?;
                roots.push(certificate);
            }
        }
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Unavailable(e.to_string()))?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Self {
            roots,
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// Those of the system alone.
    pub(super) fn system_roots() -> RootCertStore {
        system().0
    }

    /// The certificates, for a library that makes its own configuration of them.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter()
    }

    /// Begins TLS with a host, which must prove that it is that host.
    pub(crate) async fn secure(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        if self.roots.is_empty() {
            let sentence = format!("{NO_AUTHORITIES}, or set ca_file in m2y.ini");
            return Err(io::Error::other(sentence));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        self.connector.connect(name, stream).await
    }
}

/// The certificates of the system.
fn system() -> (RootCertStore, Vec<CertificateDer<'static>>) {
    let mut store = RootCertStore::empty();
    // A system has certificates that this library does not know how to read, and
    // they are no reason not to start.
    let mut roots = rustls_native_certs::load_native_certs().certs;
    roots.retain(|certificate| store.add(certificate.clone()).is_ok());
    (store, roots)
}

/// Reads a file in PEM; returns its mode, too. What is no file, or too large, is invalid data.
pub(crate) fn read_pem(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, u32)> {
    let mut file = fs::File::open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.len() > MAX_LEN {
        let sentence = "it must be a file in PEM of at most 4 MiB";
        return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
    }
    let mut text = Zeroizing::new(Vec::new());
    file.read_to_end(&mut text)?;
    Ok((text, about.mode() & 0o7777))
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |source| TlsError::Io {
        path: path.to_owned(),
        source,
    };
    let bad = || TlsError::Certificates(path.to_owned());
    let (text, _) = read_pem(path).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => bad(),
        _ => fail(e),
    })?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| bad())?;
    if certificates.is_empty() {
        return Err(bad());
    }
    Ok(certificates)
}

/// Sets the process's default, unless it has one, for a library that asks for it.
pub(crate) fn install_default() -> Result<(), TlsError> {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have been faster, and its default is as good.
        let _ = provider().map_err(TlsError::Unavailable)?.install_default();
    }
    Ok(())
}

/// A new private key on P-256, as PKCS#8 in DER.
#[cfg(feature = "aws-lc")]
pub(super) fn p256_key() -> Result<Zeroizing<Vec<u8>>, String> {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
    };
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    let made = made.map_err(|e| e.to_string())?;
    Ok(Zeroizing::new(made.as_ref().to_vec()))
}

/// A new private key on P-256, as PKCS#8 in DER.
#[cfg(all(
    not(feature = "aws-lc"),
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(super) fn p256_key() -> Result<Zeroizing<Vec<u8>>, String> {
    use graviola::signing::ecdsa::{P256, SigningKey};
    let key = SigningKey::<P256>::generate().map_err(|e| format!("{e:?}"))?;
    let mut buffer = Zeroizing::new([0; 256]);
    let der = key
        .to_pkcs8_der(&mut *buffer)
        .map_err(|e| format!("{e:?}"))?;
    Ok(Zeroizing::new(der.to_vec()))
}

#[cfg(not(any(feature = "aws-lc", target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn p256_key() -> Result<Zeroizing<Vec<u8>>, String> {
    Err(NOT_HERE.to_owned())
}

#[cfg(feature = "aws-lc")]
pub(super) fn provider() -> Result<CryptoProvider, String> {
    Ok(rustls::crypto::aws_lc_rs::default_provider())
}

/// Graviola panics on a processor that is too old for it: none gets that far.
#[cfg(all(
    not(feature = "aws-lc"),
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(super) fn provider() -> Result<CryptoProvider, String> {
    #[cfg(target_arch = "x86_64")]
    let able = is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("avx")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("adx");
    #[cfg(target_arch = "aarch64")]
    let able = std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("sha2")
        && std::arch::is_aarch64_feature_detected!("pmull")
        && std::arch::is_aarch64_feature_detected!("neon");
    if able {
        Ok(rustls_graviola::default_provider())
    } else {
        Err(NOT_HERE.to_owned())
    }
}

#[cfg(not(any(feature = "aws-lc", target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn provider() -> Result<CryptoProvider, String> {
    Err(NOT_HERE.to_owned())
}

#[cfg(not(feature = "aws-lc"))]
const NOT_HERE: &str =
    "m2y was built without AWS-LC, which this processor needs: build it with default features";

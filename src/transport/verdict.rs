//! What a client thinks of the certificate that a server shows.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use tokio::task;

use super::{
    Address, Pin, Place, TransportError,
    tls::{self, Trust},
};

/// Why the certificate of a server was not accepted, once one has been shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict(Arc<Mutex<Option<String>>>);

impl Verdict {
    /// What a client needs for one connection to `place`, which must show the certificate with
    /// this pin or, without a pin, one that an authority of the system vouches for.
    pub(super) async fn tls_client(
        &self,
        place: &Place,
        pin: Option<Pin>,
    ) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
        let (provider, verifier) = self.verifier(pin).await?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        // A session that goes on says who speaks again, so that nothing is gained by it.
        config.resumption = rustls::client::Resumption::disabled();
        let host = place.host.split('%').next().unwrap_or_default().to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        Ok((Arc::new(config), name))
    }

    async fn verifier(&self, pin: Option<Pin>) -> io::Result<(Arc<CryptoProvider>, Verifier)> {
        let provider = tls::provider().map_err(io::Error::other)?;
        let provider = Arc::new(provider);
        let by = match pin {
            Some(pin) => By::Pin(pin),
            None => {
                let (roots, provider) = (roots().await?, provider.clone());
                let inner = WebPkiServerVerifier::builder_with_provider(roots, provider);
                By::Authority(inner.build().map_err(io::Error::other)?)
            }
        };
        let verifier = Verifier {
            by,
            provider: provider.clone(),
            verdict: self.clone(),
        };
        Ok((provider, verifier))
    }

    /// Why there is no connection: the certificate, if it was refused, or else what the system says.
    pub(super) fn error(&self, address: &Address, source: io::Error) -> TransportError {
        let reason = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reason.clone() {
            Some(reason) => TransportError::Untrusted {
                address: address.clone(),
                reason,
            },
            None => TransportError::connect(address, source),
        }
    }

    fn refuse(&self, reason: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }
}

/// The certificates of the system's authorities, read once.
async fn roots() -> io::Result<Arc<RootCertStore>> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        ROOTS
            .get_or_init(|| Arc::new(Trust::system_roots()))
            .clone()
    };
    let roots = task::spawn_blocking(read).await.map_err(io::Error::other)?;
    match roots.is_empty() {
        true => Err(io::Error::other(tls::NO_AUTHORITIES)),
        false => Ok(roots),
    }
}

#[derive(Debug)]
enum By {
    Pin(Pin),
    Authority(Arc<WebPkiServerVerifier>),
}

#[derive(Debug)]
struct Verifier {
    by: By,
    provider: Arc<CryptoProvider>,
    verdict: Verdict,
}

impl Verifier {
    /// The certificate that is meant, and in time.
    fn pinned(
        &self,
        pin: Pin,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if Pin::of(certificate) != pin {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let nobody = RootCertStore::empty();
        match verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], now, algorithms) {
            Err(rustls::Error::InvalidCertificate(
                error @ (CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }),
            )) => Err(error.into()),
            // Nobody is asked who vouches for it and for what: that is what the pin does.
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = match &self.by {
            By::Pin(pin) => self.pinned(*pin, certificate, now),
            By::Authority(inner) => inner
                .verify_server_cert(certificate, intermediates, server_name, ocsp, now)
                .map(drop),
        };
        match verified {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(error) => {
                self.verdict.refuse(said(&error));
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
            .inspect_err(|_| self.verdict.refuse(
                "whoever answers there does not have the key of the certificate: somebody may be in between".to_owned(),
            ))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Why a certificate is not accepted, and what to do.
fn said(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(error) = error else {
        return format!("its certificate cannot be checked: {error}");
    };
    match error {
        CertificateError::ApplicationVerificationFailure => {
            "its certificate is not the one with the sha256 in the address: ask its owner for the present address, which `m2y serve` prints".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: its owner has to renew it".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: check the clock of this machine".to_owned()
        }
        CertificateError::NotValidForName => {
            "its certificate is for another name: use the name that it is for".to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names: Vec<_> = presented.iter().take(5).map(String::as_str).collect();
            format!(
                "its certificate is for another name ({}): use the name that it is for",
                names.join(", ")
            )
        }
        CertificateError::UnknownIssuer => {
            "no authority that this system trusts vouches for its certificate: ask its owner for the address with #sha256=..., which `m2y serve` prints".to_owned()
        }
        other => format!("its certificate is not valid: {other}"),
    }
}

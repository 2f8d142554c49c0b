//! What the server of a root proves itself with over TLS and QUIC.

use std::{io, path::Path};

use zeroize::Zeroizing;

use super::{Root, error::RootError, file, settings::Tls};
use crate::transport::{
    Identity, certificate,
    tls::{TlsError, read_pem},
};

/// The file of a certificate that the server made, with its key.
const OWN: &str = "tls.pem";

impl Root {
    /// The certificate that m2y.ini names, or else one that is made now and kept in `ROOT/tls.pem`.
    /// `None` if this machine cannot do TLS and nobody asked for it.
    pub fn identity(&self, tls: &Tls) -> Result<Option<Identity>, RootError> {
        let Some(certificate) = &tls.certificate else {
            return self.own_identity();
        };
        let certificate = self.path().join(certificate);
        let key = tls.key.as_ref().map(|key| self.path().join(key));
        let key = key.unwrap_or_else(|| certificate.clone());
        let (chain, _) = read(&certificate)?;
        let secret = read_secret(&key)?;
        let identity = Identity::from_pem(&chain, &secret);
        identity.map(Some).map_err(|e| unusable(&certificate, e))
    }

    fn own_identity(&self) -> Result<Option<Identity>, RootError> {
        let path = self.path().join(OWN);
        let text = match read_secret(&path) {
            Err(RootError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let made = match certificate::make() {
                    Err(TlsError::Unavailable(_)) => return Ok(None),
                    made => made.map_err(|e| unusable(&path, e))?,
                };
                file::replace(self.dir(), OWN, 0o600, made.as_bytes())
                    .map_err(RootError::io("write", OWN.to_owned()))?;
                Zeroizing::new(made.as_bytes().to_vec())
            }
            read => read?,
        };
        match Identity::from_pem(&text, &text) {
            Err(TlsError::Unavailable(_)) => Ok(None),
            identity => identity.map(Some).map_err(|e| unusable(&path, e)),
        }
    }
}

fn unusable(path: &Path, error: TlsError) -> RootError {
    RootError::document(path.display().to_string(), error.to_string())
}

/// Reads a file in PEM; returns its mode, too.
fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), RootError> {
    read_pem(path).map_err(|source| RootError::io("open", path.display().to_string())(source))
}

/// Reads a file that not everybody may read. A group may: that is how services share certificates.
fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, RootError> {
    let (text, mode) = read(path)?;
    if mode & 0o007 != 0 {
        let path = path.display().to_string();
        let sentence = format!("everybody can read the key in it (chmod o= {path})");
        return Err(RootError::document(path, sentence));
    }
    Ok(text)
}

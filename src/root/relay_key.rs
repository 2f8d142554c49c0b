//! The lasting X25519 key of a relay, by which those who leave letters know it: `ROOT/relay.key`.

use std::io;

use cap_std::fs::MetadataExt;
use zeroize::Zeroizing;

use super::{Root, error::RootError, file};
use crate::crypto::random;

const FILE: &str = "relay.key";

impl Root {
    /// The private key of the relay, which is made if it is missing.
    pub fn relay_key(&self) -> Result<Zeroizing<[u8; 32]>, RootError> {
        let unreadable = |why: &str| RootError::document(FILE.to_owned(), why.to_owned());
        let opened = match file::open(self.dir(), FILE) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let made = random().map_err(|e| unreadable(&e.to_string()))?;
                let made = Zeroizing::new(made);
                let text = Zeroizing::new(format!("{}\n", hex::encode(*made)));
                file::replace(self.dir(), FILE, 0o600, text.as_bytes())
                    .map_err(RootError::io("write", FILE.to_owned()))?;
                return Ok(made);
            }
            opened => opened.map_err(RootError::io("open", FILE.to_owned()))?,
        };
        let (opened, about) = opened;
        let mode = about.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(RootError::Mode {
                full: self.path().join(FILE).display().to_string(),
                path: FILE.to_owned(),
                mode,
            });
        }
        let text = file::read_open(opened, 4_096)
            .map(Zeroizing::new)
            .map_err(RootError::io("read", FILE.to_owned()))?;
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim_ascii(), &mut *key)
            .map_err(|_| unreadable("it must be 64 hexadecimal digits"))?;
        Ok(key)
    }
}

//! Requests to be a contact that a user made and that nobody has answered yet.

use std::{fmt, io, str::FromStr};

use super::{error::RootError, file, user::User};
use crate::{
    crypto,
    json::{Map, Value, pretty},
};

/// Where they are in the user's directory: each under its number, mode 0600.
const DIR: &str = ".requests";

/// The number of a request: random, and so known only to someone who has read it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId(pub [u8; 16]);

/// A text that is not the number of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the number of a request must be 32 lower-case hexadecimal digits")]
pub struct NoRequestId;

impl RequestId {
    /// A number that no request has had.
    pub fn random() -> Result<Self, crypto::CryptoError> {
        crypto::random().map(Self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RequestId {
    type Err = NoRequestId;

    fn from_str(text: &str) -> Result<Self, NoRequestId> {
        let mut id = [0; 16];
        if text.bytes().any(|b| b.is_ascii_uppercase())
            || hex::decode_to_slice(text, &mut id).is_err()
        {
            return Err(NoRequestId);
        }
        Ok(Self(id))
    }
}

impl User {
    /// Keeps a request, as it was given out, until it is answered.
    pub fn keep_request(
        &self,
        id: RequestId,
        request: &Map<String, Value>,
    ) -> Result<(), RootError> {
        self.make_dir(DIR, 0o700)?;
        let dir = self
            .dir()
            .open_dir(DIR)
            .map_err(RootError::io("open", self.at(DIR)))?;
        file::create(&dir, &id.to_string(), 0o600, pretty(request).as_bytes())
            .map_err(RootError::io("create", self.at(&path(id))))
    }

    /// Whether the user made this request and it waits for its answer.
    pub fn waits_for(&self, id: RequestId) -> Result<bool, RootError> {
        file::exists(self.dir(), &path(id)).map_err(RootError::io("open", self.at(&path(id))))
    }

    /// Forgets a request, which then takes no further answer.
    pub fn forget_request(&self, id: RequestId) -> Result<(), RootError> {
        match self.dir().remove_file(path(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(RootError::io("remove", self.at(&path(id)))(e))
            }
            _ => Ok(()),
        }
    }
}

fn path(id: RequestId) -> String {
    format!("{DIR}/{id}")
}

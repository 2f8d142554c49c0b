//! The document by which one person may become a member of a relay, once.

use super::{contact::Card, error::RootError, name::Name};
use crate::json::{self, Map, Value, from_hex};

const INVITATION: &str = "m2y/1 relay invitation";

/// An invitation to a relay. Whoever has it can use it.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The relay, and where it is.
    pub relay: Card,
    /// The relay's X25519 public key.
    pub key: [u8; 32],
    /// Who is invited.
    pub name: Name,
    /// What lets them in.
    pub token: [u8; 32],
}

impl Invitation {
    /// As JSON.
    pub fn to_document(&self) -> Result<Map<String, Value>, RootError> {
        Ok(Map::from_iter([
            ("document".to_owned(), INVITATION.into()),
            ("relay".to_owned(), self.relay.to_document()?.into()),
            ("key".to_owned(), hex::encode(self.key).into()),
            ("name".to_owned(), self.name.as_str().into()),
            ("token".to_owned(), hex::encode(self.token).into()),
        ]))
    }

    /// Reads the JSON, also in the middle of a mail; `path` is where it came from, for messages.
    pub fn parse(path: &str, text: &[u8]) -> Result<Self, RootError> {
        let document = json::parse(json::outermost(text)).map_err(|e| RootError::json(path, e))?;
        let missing = || RootError::document(path, "it is no invitation to a relay".to_owned());
        let field = |field: &str| document.get(field).and_then(Value::as_str);
        if field("document") != Some(INVITATION) {
            return Err(missing());
        }
        let relay = document.get("relay").and_then(Value::as_object);
        let of = |name| field(name).and_then(from_hex).ok_or_else(missing);
        Ok(Self {
            relay: Card::from_document(path, relay.ok_or_else(missing)?)?,
            key: of("key")?,
            name: Name::user(field("name").ok_or_else(missing)?)?,
            token: of("token")?,
        })
    }
}

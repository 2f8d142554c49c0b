//! Contacts: the keys of the people a user exchanges files with, and the card that carries a key.

use std::net::Ipv6Addr;

use super::{
    config::{Config, ConfigError},
    error::RootError,
    ini_text,
    name::Name,
};
use crate::{
    crypto::keys::PublicKey,
    json::{self, Map, Value},
    transport::Address,
};

/// Somebody whose key file is in `pubKey/`.
#[derive(Clone, Debug)]
pub struct Contact {
    /// The name by which the user knows the contact.
    pub name: Name,
    /// What proves it.
    pub key: PublicKey,
}

/// What `m2y contact export` prints and `m2y contact add` reads.
#[derive(Clone, Debug)]
pub struct Card {
    /// Whose card.
    pub name: Name,
    /// The public key.
    pub key: PublicKey,
    /// Where the owner's server listens, if known.
    pub address: Option<String>,
    /// The owner's folder that files go into if the sender names none.
    pub folder: Option<Name>,
}

impl Card {
    /// Reads a card; `path` is where it came from, for messages.
    pub fn parse(path: &str, text: &[u8]) -> Result<Self, RootError> {
        let card = json::parse(text).map_err(|e| RootError::json(path, e))?;
        Self::from_document(path, &card)
    }

    /// The card in a JSON document, which may have further fields.
    pub fn from_document(path: &str, card: &Map<String, Value>) -> Result<Self, RootError> {
        let field = |field: &str| card.get(field).and_then(Value::as_str);
        let needed = |name: &str| {
            field(name)
                .ok_or_else(|| RootError::document(path, format!("the field {name:?} is missing")))
        };
        let name = Name::user(needed("username")?)?;
        let key = PublicKey::from_pem(needed("publicKey")?).map_err(|source| RootError::Key {
            path: path.to_owned(),
            source,
        })?;
        if let Some(claimed) = field("fingerprint") {
            let computed = key.fingerprint().to_string();
            if claimed != computed {
                return Err(RootError::document(
                    path,
                    format!("its fingerprint is {claimed}, but its key has {computed}"),
                ));
            }
        }
        let address = field("address")
            .filter(|a| !a.is_empty())
            .map(str::to_owned);
        if let Some(address) = &address {
            check_address(address).map_err(|reason| RootError::document(path, reason))?;
        }
        let folder = field("folder").filter(|folder| !folder.is_empty());
        Ok(Self {
            name,
            key,
            address,
            folder: folder.map(Name::folder).transpose()?,
        })
    }

    /// The card as a JSON document.
    pub fn to_document(&self) -> Result<Map<String, Value>, RootError> {
        let pem = self.key.to_pem().map_err(|source| RootError::Key {
            path: self.name.to_string(),
            source,
        })?;
        let mut card = Map::new();
        card.insert("username".to_owned(), self.name.as_str().into());
        card.insert("publicKey".to_owned(), pem.into());
        card.insert(
            "fingerprint".to_owned(),
            self.key.fingerprint().to_string().into(),
        );
        if let Some(address) = &self.address {
            card.insert("address".to_owned(), address.as_str().into());
        }
        if let Some(folder) = &self.folder {
            card.insert("folder".to_owned(), folder.as_str().into());
        }
        Ok(card)
    }
}

/// The port of a server whose address names none.
pub const PORT: u16 = 5000;

/// `HOST:PORT` of an address that may leave the port out.
pub fn full_address(text: &str) -> Result<String, String> {
    let is_v6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    if is_v6(text) {
        let port = text.rsplit_once(':');
        return match port.is_some_and(|(host, _)| is_v6(host)) {
            true => Err(format!(
                "{text:?} may be a host with a port or without: write [HOST]:PORT"
            )),
            false => Ok(format!("[{text}]:{PORT}")),
        };
    }
    let full = match text.contains(':') && !text.ends_with(']') {
        true => text.to_owned(),
        false => format!("{text}:{PORT}"),
    };
    check_address(&full).map(|()| full)
}

/// Checks `HOST:PORT`.
pub fn check_address(address: &str) -> Result<(), String> {
    let parsed: Result<Address, _> = address.parse();
    parsed.map(drop).map_err(|e| e.to_string())
}

/// What a contacts.ini knows of a contact besides the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Where the server listens.
    Address,
    /// The folder that files go into if the sender names none.
    Folder,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Folder => "folder",
        }
    }
}

/// What the text of a contacts.ini says of a contact.
pub(super) fn find(text: &str, contact: &Name, key: Key) -> Result<Option<String>, ConfigError> {
    let ini = Config::parse_ini(text)?;
    let value = ini.get(contact.as_str(), key.name());
    Ok(value.filter(|a| !a.is_empty()).map(str::to_owned))
}

/// A contacts.ini with a value put in.
pub(super) fn with(text: &str, contact: &Name, key: Key, value: &str) -> String {
    ini_text::with(text, contact.as_str(), key.name(), value)
}

/// A contacts.ini without what m2y wrote of a contact.
pub(super) fn without(text: &str, contact: &Name) -> String {
    let keys = [Key::Address, Key::Folder].map(Key::name);
    ini_text::without(text, contact.as_str(), &keys)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_has_an_address_and_a_folder() {
        let name = Name::user("zhenqiang").unwrap();
        let text = with("", &name, Key::Address, "h:3");
        let text = with(&text, &name, Key::Folder, "photo");
        let of = |text: &str, key| find(text, &name, key).unwrap();
        assert_eq!(of(&text, Key::Address).as_deref(), Some("h:3"));
        assert_eq!(of(&text, Key::Folder).as_deref(), Some("photo"));
        assert_eq!(without(&text, &name), "");
    }

    #[test]
    fn an_address_without_a_port_gets_the_usual_one() {
        for (text, full) in [
            ("example.org", "example.org:5000"),
            ("example.org:80", "example.org:80"),
            ("::1", "[::1]:5000"),
            ("[::1]", "[::1]:5000"),
            ("[::1]:80", "[::1]:80"),
            ("10.0.0.1", "10.0.0.1:5000"),
        ] {
            assert_eq!(full_address(text).as_deref(), Ok(full));
        }
        for bad in [
            "",
            ":",
            "h:x",
            "h:70000",
            "a b",
            "host:",
            "::1:5000",
            "2001:db8::7:5000",
        ] {
            assert!(full_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_checked() {
        for good in ["127.0.0.1:5000", "[::1]:1", "m2y.example.org:65535"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        for bad in ["", "host", ":1", "h:x", "h:70000", "a b:1", "h\n[x]:1"] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}

//! Contacts: the keys of the people a user exchanges files with, and the card that carries a key.

use super::{
    boxes::Grant,
    config::{Config, ConfigError},
    error::RootError,
    ini_text,
    name::Name,
};
use crate::{
    crypto::keys::PublicKey,
    json::{self, Map, Value},
    transport::{AddressError, Addresses, MAX_ADDRESSES},
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
    /// Where the owner's server is reached, if known.
    pub addresses: Option<Addresses>,
    /// The owner's folder that files go into if the sender names none.
    pub folder: Option<Name>,
    /// A box for letters, for the one who gets the card.
    pub letter_box: Option<Grant>,
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
        let addresses = read_addresses(card);
        let folder = field("folder").filter(|folder| !folder.is_empty());
        Ok(Self {
            name,
            key,
            addresses: addresses.map_err(|e| RootError::document(path, e.to_string()))?,
            folder: folder.map(Name::folder).transpose()?,
            letter_box: match card.get("box") {
                Some(Value::Object(grant)) => Grant::from_document(grant),
                _ => None,
            },
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
        write_addresses(&mut card, self.addresses.as_ref());
        if let Some(folder) = &self.folder {
            card.insert("folder".to_owned(), folder.as_str().into());
        }
        if let Some(grant) = &self.letter_box {
            card.insert("box".to_owned(), grant.to_document().into());
        }
        Ok(card)
    }
}

/// Puts addresses into a document: the first of plain TCP as `address`, which every reader
/// understands, and all of them as `addresses`, if there are others.
pub fn write_addresses(document: &mut Map<String, Value>, addresses: Option<&Addresses>) {
    let Some(addresses) = addresses else {
        return;
    };
    let plain = addresses.plain().map(ToString::to_string);
    let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let is_alone = all.len() == 1 && plain.is_some();
    if let Some(plain) = plain {
        document.insert("address".to_owned(), plain.into());
    }
    if !is_alone {
        document.insert("addresses".to_owned(), all.into());
    }
}

/// The addresses in a document. Of several, those are left out whose kind is not known here.
pub fn read_addresses(document: &Map<String, Value>) -> Result<Option<Addresses>, AddressError> {
    let all = document.get("addresses").and_then(Value::as_array);
    let all = all.into_iter().flatten().filter_map(Value::as_str);
    let known: Vec<_> = all
        .filter_map(|text| text.parse().ok())
        .take(MAX_ADDRESSES)
        .collect();
    if !known.is_empty() {
        return Addresses::new(known).map(Some);
    }
    let address = document.get("address").and_then(Value::as_str);
    let address = address.filter(|address| !address.is_empty());
    address.map(str::parse).transpose()
}

/// What a contacts.ini knows of a contact besides the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Where the server listens.
    Address,
    /// The folder that files go into if the sender names none.
    Folder,
    /// Whether the contact is a relay that the user has joined.
    Relay,
    /// Where the contact says that its server is reached.
    Announced,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Folder => "folder",
            Self::Relay => "relay",
            Self::Announced => "announced",
        }
    }
}

/// What the text of a contacts.ini says of a contact.
pub(super) fn find(text: &str, contact: &Name, key: Key) -> Result<Option<String>, ConfigError> {
    let ini = Config::parse_ini(text)?;
    let value = ini.get(contact.as_str(), key.name());
    Ok(value.filter(|a| !a.is_empty()).map(str::to_owned))
}

/// The relays that a contacts.ini says the user has joined.
pub(super) fn relays(text: &str) -> Result<Vec<Name>, ConfigError> {
    let ini = Config::parse_ini(text)?;
    let joined = |section: &&str| ini.get(section, Key::Relay.name()) == Some("joined");
    let names = ini.sections().filter(joined);
    let mut names: Vec<_> = names.filter_map(|name| Name::user(name).ok()).collect();
    names.sort();
    Ok(names)
}

/// A contacts.ini with a value put in.
pub(super) fn with(text: &str, contact: &Name, key: Key, value: &str) -> String {
    ini_text::with(text, contact.as_str(), key.name(), value)
}

/// A contacts.ini without what m2y wrote of a contact.
pub(super) fn without(text: &str, contact: &Name) -> String {
    let keys = [Key::Address, Key::Folder, Key::Relay, Key::Announced].map(Key::name);
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
    fn a_list_of_addresses_survives_an_ini_and_a_document() {
        let name = Name::user("zhenqiang").unwrap();
        let pin = "0a".repeat(32);
        let text = format!("quic://h:3, tls://[::1]:443#sha256={pin}, h:5");
        let ini = with("", &name, Key::Address, &text);
        assert_eq!(find(&ini, &name, Key::Address).unwrap().unwrap(), text);
        let addresses: Addresses = text.parse().unwrap();
        let mut document = Map::new();
        write_addresses(&mut document, Some(&addresses));
        assert_eq!(document.get("address").unwrap(), "h:5");
        assert_eq!(read_addresses(&document).unwrap(), Some(addresses));
        let mut document = Map::new();
        write_addresses(&mut document, Some(&"h:5".parse().unwrap()));
        assert!(!document.contains_key("addresses"), "nothing new to say");
        document.insert(
            "addresses".to_owned(),
            vec!["pigeon://x", "quic://h:6"].into(),
        );
        let known = read_addresses(&document).unwrap().unwrap();
        assert_eq!(known.to_string(), "quic://h:6");
    }
}

//! Contacts: the keys of the people one exchanges files with, and the card by
//! which a key travels.

use super::{
    config::{Config, ConfigError},
    error::RootError,
    name::Name,
};
use crate::{
    crypto::keys::PublicKey,
    json::{self, Map, Value},
    transport::Address,
};

/// Somebody whose key file lies in `pubKey/`.
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
        Ok(Self { name, key, address })
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
        Ok(card)
    }
}

/// Checks `HOST:PORT`.
pub fn check_address(address: &str) -> Result<(), String> {
    let parsed: Result<Address, _> = address.parse();
    parsed.map(drop).map_err(|e| e.to_string())
}

/// The address of a contact in the text of a contacts.ini.
pub(super) fn address(text: &str, contact: &Name) -> Result<Option<String>, ConfigError> {
    let ini = Config::parse_ini(text)?;
    Ok(ini
        .get(contact.as_str(), "address")
        .filter(|a| !a.is_empty())
        .map(str::to_owned))
}

/// A contacts.ini with the address put in; every other line stays as it is.
pub(super) fn with_address(text: &str, contact: &Name, address: &str) -> String {
    let heading = format!("[{contact}]");
    let mut out = String::with_capacity(text.len() + 64);
    let (mut inside, mut written) = (false, false);
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            inside = line.trim() == heading;
        } else if inside && is_address(line) {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if inside && !written {
            out.push_str(&format!("address = {address}\n"));
            written = true;
        }
    }
    if !written {
        out.push_str(&format!("{heading}\naddress = {address}\n"));
    }
    out
}

/// A contacts.ini with the address taken out, and the heading too where nothing else
/// stands below it; every other line stays as it is.
pub(super) fn without_address(text: &str, contact: &Name) -> String {
    let heading = format!("[{contact}]");
    let mut out = String::with_capacity(text.len());
    // A heading that waits for a line to stand below it.
    let mut waiting = None;
    let mut inside = false;
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            inside = line.trim() == heading;
            waiting = inside.then_some(line);
            if inside {
                continue;
            }
        } else if inside && is_address(line) {
            continue;
        }
        if !line.trim().is_empty()
            && let Some(heading) = waiting.take()
        {
            out.push_str(heading);
            out.push('\n');
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

fn is_address(line: &str) -> bool {
    line.split_once('=')
        .is_some_and(|(key, _)| key.trim() == "address")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_out_and_all_else_stays() {
        let name = Name::user("zhenqiang").unwrap();
        let text = "# mine\n[peter]\naddress = a:1\n[zhenqiang]\naddress = b:1\n[x]\ny = z\n";
        assert_eq!(
            without_address(text, &name),
            "# mine\n[peter]\naddress = a:1\n[x]\ny = z\n"
        );
        let text = "[zhenqiang]\naddress = b:1\nnote = x\n";
        assert_eq!(without_address(text, &name), "[zhenqiang]\nnote = x\n");
        let text = "[peter]\naddress = a:1\n";
        assert_eq!(without_address(text, &name), text);
    }

    #[test]
    fn an_address_is_put_in_and_all_else_stays() {
        let name = Name::user("zhenqiang").unwrap();
        let text = "# mine\n[peter]\naddress = a:1\n[zhenqiang]\nnote = x\naddress = old:1\n";
        let text = with_address(text, &name, "new:2");
        assert_eq!(address(&text, &name).unwrap().as_deref(), Some("new:2"));
        assert_eq!(
            text,
            "# mine\n[peter]\naddress = a:1\n[zhenqiang]\naddress = new:2\nnote = x\n"
        );
        let text = with_address("", &name, "h:3");
        assert_eq!(address(&text, &name).unwrap().as_deref(), Some("h:3"));
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

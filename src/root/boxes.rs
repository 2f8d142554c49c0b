//! Boxes for letters: those that a user gave to contacts, and those that contacts gave to the user.
//! They are in `boxes.ini`, which nobody else may read: whoever knows a box may leave letters in it.

use std::io;

use super::{config::Config, error::RootError, file, ini_text, name::Name, user::User};
use crate::{
    crypto,
    json::{Map, Value, from_hex},
    transport::{Addresses, MAX_ADDRESSES},
};

const FILE: &str = "boxes.ini";

/// The largest boxes.ini, in bytes.
const MAX_LEN: u64 = 16 << 20;

/// The box that the user gave to a contact.
const GIVEN: &str = "given";

/// The box that the contact gave to the user, where it is, and the key of the relay there.
const BOX: &str = "box";
const RELAY: &str = "relay";
const KEY: &str = "key";

/// The key of a relay that the user has joined.
const RELAY_KEY: &str = "relay_key";

/// A box, as its owner gives it to one contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Where the relay is that has it.
    pub relay: Addresses,
    /// The relay's X25519 public key.
    pub key: [u8; 32],
    /// The box.
    pub id: [u8; 32],
}

impl Grant {
    /// As JSON.
    pub fn to_document(&self) -> Map<String, Value> {
        let places: Vec<_> = self.relay.iter().map(ToString::to_string).collect();
        Map::from_iter([
            ("at".to_owned(), places.into()),
            ("key".to_owned(), hex::encode(self.key).into()),
            ("box".to_owned(), hex::encode(self.id).into()),
        ])
    }

    /// Reads the JSON; `None` if it is of no use here.
    pub fn from_document(document: &Map<String, Value>) -> Option<Self> {
        let places = document.get("at")?.as_array()?.iter();
        let known = places.filter_map(|place| place.as_str()?.parse().ok());
        let known: Vec<_> = known.take(MAX_ADDRESSES).collect();
        let of = |field: &str| from_hex(document.get(field)?.as_str()?);
        Some(Self {
            relay: Addresses::new(known).ok()?,
            key: of("key")?,
            id: of("box")?,
        })
    }
}

impl User {
    fn boxes_ini(&self) -> Result<String, RootError> {
        match file::read_text(self.dir(), FILE, MAX_LEN) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(RootError::io("open", self.at(FILE))),
        }
    }

    fn boxes(&self) -> Result<(String, Config), RootError> {
        let text = self.boxes_ini()?;
        let config = Config::parse_ini(&text).map_err(|e| RootError::config(self.at(FILE), e))?;
        Ok((text, config))
    }

    /// Changes boxes.ini, if the change is one.
    fn change_boxes<T>(
        &self,
        change: impl FnOnce(&mut String, &Config) -> Result<T, RootError>,
    ) -> Result<T, RootError> {
        let _lock = self.lock_keys()?;
        let (mut text, config) = self.boxes()?;
        let before = text.clone();
        let changed = change(&mut text, &config)?;
        if text != before {
            file::replace(self.dir(), FILE, 0o600, text.as_bytes())
                .map_err(RootError::io("write", self.at(FILE)))?;
        }
        Ok(changed)
    }

    /// The boxes that were given to contacts.
    pub fn given_boxes(&self) -> Result<Vec<(Name, [u8; 32])>, RootError> {
        let (_, config) = self.boxes()?;
        let each = config.sections().filter_map(|section| {
            let name = Name::user(section).ok()?;
            Some((name, from_hex(config.get(section, GIVEN)?)?))
        });
        Ok(each.collect())
    }

    /// When boxes.ini changed last.
    pub fn boxes_stamp(&self) -> Option<file::Stamp> {
        file::Stamp::of(self.dir(), FILE).ok().flatten()
    }

    /// A new box at the relay that the user has joined; `None` without one that keeps letters. It is
    /// not recorded.
    pub fn new_box(&self) -> Result<Option<Grant>, RootError> {
        let (_, config) = self.boxes()?;
        self.place_for_boxes(&config)?
            .map(|(relay, key)| {
                let id = random(self)?;
                Ok(Grant { relay, key, id })
            })
            .transpose()
    }

    /// The relay at which boxes are given, and its key.
    fn place_for_boxes(&self, config: &Config) -> Result<Option<(Addresses, [u8; 32])>, RootError> {
        let contacts = self.contacts_ini()?;
        for name in self.relays_in(&contacts)? {
            let key = config.get(name.as_str(), RELAY_KEY).and_then(from_hex);
            if let (Some(key), Some(relay)) = (key, self.addresses_in(&contacts, &name)?) {
                return Ok(Some((relay, key)));
            }
        }
        Ok(None)
    }

    /// Records a box that a contact has got.
    pub fn give_box(&self, contact: &Name, id: &[u8; 32]) -> Result<(), RootError> {
        self.change_boxes(|text, _| {
            *text = ini_text::with(text, contact.as_str(), GIVEN, &hex::encode(id));
            Ok(())
        })
    }

    /// The box for a contact: the one that it has, or a new one.
    pub fn box_for(&self, contact: &Name) -> Result<Option<Grant>, RootError> {
        let (_, config) = self.boxes()?;
        let Some((relay, key)) = self.place_for_boxes(&config)? else {
            return Ok(None);
        };
        let given = |config: &Config| config.get(contact.as_str(), GIVEN).and_then(from_hex);
        let id = match given(&config) {
            Some(id) => id,
            None => {
                let new = random(self)?;
                self.change_boxes(|text, config| {
                    // Somebody else may have been faster.
                    if let Some(id) = given(config) {
                        return Ok(id);
                    }
                    *text = ini_text::with(text, contact.as_str(), GIVEN, &hex::encode(new));
                    Ok(new)
                })?
            }
        };
        Ok(Some(Grant { relay, key, id }))
    }

    /// The box that a contact gave to the user.
    pub fn box_of(&self, contact: &Name) -> Result<Option<Grant>, RootError> {
        let found = self.boxes_of(std::slice::from_ref(contact))?;
        Ok(found.into_iter().next().map(|(_, grant)| grant))
    }

    /// The boxes that some contacts gave to the user, each with the index of its contact.
    pub fn boxes_of(&self, contacts: &[Name]) -> Result<Vec<(usize, Grant)>, RootError> {
        let (_, config) = self.boxes()?;
        let of = |contact: &Name| {
            let of = |key| {
                config
                    .get(contact.as_str(), key)
                    .filter(|text| !text.is_empty())
            };
            Some(Grant {
                relay: of(RELAY)?.parse().ok()?,
                key: from_hex(of(KEY)?)?,
                id: from_hex(of(BOX)?)?,
            })
        };
        let each = contacts.iter().enumerate();
        Ok(each
            .filter_map(|(at, contact)| Some((at, of(contact)?)))
            .collect())
    }

    /// Records the box that a contact gave to the user, or that there is none.
    pub fn set_box_of(&self, contact: &Name, grant: Option<&Grant>) -> Result<(), RootError> {
        // As it was, it is not written again.
        if self.box_of(contact)?.as_ref() == grant {
            return Ok(());
        }
        self.change_boxes(|text, _| {
            let name = contact.as_str();
            let Some(grant) = grant else {
                *text = ini_text::without(text, name, &[RELAY, KEY, BOX]);
                return Ok(());
            };
            let (key, id) = (hex::encode(grant.key), hex::encode(grant.id));
            for (key, value) in [(RELAY, grant.relay.to_string()), (KEY, key), (BOX, id)] {
                *text = ini_text::with(text, name, key, &value);
            }
            Ok(())
        })
    }

    /// Records the key of a relay that the user has joined.
    pub fn set_relay_key(&self, relay: &Name, key: Option<&[u8; 32]>) -> Result<(), RootError> {
        self.change_boxes(|text, config| {
            let name = relay.as_str();
            let known = config.get(name, RELAY_KEY).and_then(from_hex);
            match key {
                Some(key) if known.as_ref() != Some(key) => {
                    *text = ini_text::with(text, name, RELAY_KEY, &hex::encode(key));
                }
                None => *text = ini_text::without(text, name, &[RELAY_KEY]),
                Some(_) => {}
            }
            Ok(())
        })
    }

    /// Forgets the boxes from and for a contact.
    pub(super) fn remove_boxes(&self, contact: &Name) -> Result<(), RootError> {
        self.change_boxes(|text, _| {
            let keys = [GIVEN, BOX, RELAY, KEY, RELAY_KEY];
            *text = ini_text::without(text, contact.as_str(), &keys);
            Ok(())
        })
    }
}

fn random(user: &User) -> Result<[u8; 32], RootError> {
    let random = crypto::random();
    random.map_err(|e| RootError::document(user.at(FILE), e.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::root::Root;

    #[test]
    fn boxes_are_given_once_kept_from_others_and_go_with_the_contact() {
        let dir = tempfile::tempdir().unwrap();
        let (root, _) = Root::init(dir.path(), &[]).unwrap();
        let home = dir.path().join("user/zhenqiang");
        std::fs::create_dir_all(home.join("privateKey")).unwrap();
        let user = root.user(&Name::user("zhenqiang").unwrap()).unwrap();
        let [relay, roland] = ["relay", "roland-frei"].map(|name| Name::user(name).unwrap());
        assert_eq!(user.box_for(&roland).unwrap(), None, "no relay");
        user.set_addresses(&relay, &"h:5".parse().unwrap()).unwrap();
        user.set_relay(&relay, true).unwrap();
        assert_eq!(user.box_for(&roland).unwrap(), None, "it keeps no letters");
        user.set_relay_key(&relay, Some(&[7; 32])).unwrap();
        let grant = user.box_for(&roland).unwrap().unwrap();
        assert_eq!(user.box_for(&roland).unwrap().unwrap(), grant);
        assert_eq!(
            (grant.relay.to_string(), grant.key),
            ("h:5".to_owned(), [7; 32])
        );
        let theirs = Grant::from_document(&grant.to_document()).unwrap();
        user.set_box_of(&roland, Some(&theirs)).unwrap();
        assert_eq!(user.box_of(&roland).unwrap(), Some(theirs));
        assert_eq!(user.given_boxes().unwrap(), [(roland.clone(), grant.id)]);
        let about = std::fs::metadata(home.join(FILE)).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&about) & 0o777, 0o600);
        user.remove_boxes(&roland).unwrap();
        assert!(user.given_boxes().unwrap().is_empty());
        assert_eq!(user.box_of(&roland).unwrap(), None);
    }
}

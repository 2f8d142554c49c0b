//! What a user knows of contacts besides their keys: `contacts.ini`.

use std::io;

use super::{
    boxes::Grant,
    contact::{self, Key},
    error::RootError,
    file,
    name::Name,
    settings::Settings,
    user::User,
};
use crate::{
    meta::Announcement,
    transport::{Address, Addresses, MAX_ADDRESSES},
};

/// The largest contacts.ini, in bytes.
const MAX_LEN: u64 = 1 << 20;

impl User {
    /// Where a contact's server is reached, if known: what was recorded here, then what the contact
    /// has announced.
    pub fn addresses_of(&self, contact: &Name) -> Result<Option<Addresses>, RootError> {
        self.addresses_in(&self.contacts_ini()?, contact)
    }

    /// The same in a contacts.ini that was read.
    pub(super) fn addresses_in(
        &self,
        text: &str,
        contact: &Name,
    ) -> Result<Option<Addresses>, RootError> {
        let of = |key: Key| {
            let found = contact::find(text, contact, key)
                .map_err(|e| RootError::config(self.at("contacts.ini"), e))?;
            let addresses = found.map(|text| text.parse::<Addresses>()).transpose();
            addresses.map_err(|e| {
                RootError::document(self.at("contacts.ini"), format!("[{contact}] address: {e}"))
            })
        };
        let (recorded, announced) = (of(Key::Address)?, of(Key::Announced)?);
        let all = recorded.iter().chain(&announced).flat_map(Addresses::iter);
        let all: Vec<_> = all.take(MAX_ADDRESSES).cloned().collect();
        Ok(Addresses::new(all).ok())
    }

    /// Where the user is reached at the relays that it has joined.
    pub fn addresses_at_relays(&self) -> Result<Vec<Address>, RootError> {
        let text = self.contacts_ini()?;
        self.addresses_at(&self.relays_in(&text)?, &text)
    }

    fn addresses_at(&self, relays: &[Name], text: &str) -> Result<Vec<Address>, RootError> {
        let mut all = Vec::new();
        for relay in relays {
            let addresses = self.addresses_in(text, relay)?;
            let plain = addresses.as_ref().and_then(Addresses::plain);
            let place = plain.map(|plain| plain.place().clone());
            all.extend(place.map(|place| Address::Relay(place, self.name.to_string())));
        }
        Ok(all)
    }

    /// What a contact is told about where the user is reached: the addresses in m2y.ini, those at
    /// relays, and a box for letters.
    pub fn announcement(
        &self,
        settings: &Settings,
        contact: &Name,
    ) -> Result<Announcement, RootError> {
        let set = settings.addresses.iter().flat_map(Addresses::iter).cloned();
        let text = self.contacts_ini()?;
        let relays = self.relays_in(&text)?;
        // Most users have joined none. A relay needs no box at itself, or at another one.
        let letter_box = match relays.is_empty() || relays.contains(contact) {
            true => None,
            false => self.box_for(contact)?,
        };
        let all = set.chain(self.addresses_at(&relays, &text)?);
        Ok(Announcement {
            addresses: all
                .take(MAX_ADDRESSES)
                .map(|address| address.to_string())
                .collect(),
            letter_box: letter_box.map(|grant| grant.to_document()),
        })
    }

    /// Records where a contact says that it is reached, if that is new.
    pub fn set_announced(&self, contact: &Name, announced: &Announcement) -> Result<(), RootError> {
        let grant = announced.letter_box.as_ref().and_then(Grant::from_document);
        self.set_box_of(contact, grant.as_ref())?;
        let known = Addresses::known(&announced.addresses);
        let each: Vec<_> = known.iter().map(ToString::to_string).collect();
        let (text, key) = (each.join(", "), Key::Announced);
        match self.of_contact(contact, key)?.unwrap_or_default() == text {
            true => Ok(()),
            false => self.set_of_contact(contact, key, &text),
        }
    }

    /// The folder of a contact's that files go into if the sender names none, if known.
    pub fn folder_of(&self, contact: &Name) -> Result<Option<Name>, RootError> {
        let folder = self.of_contact(contact, Key::Folder)?;
        Ok(folder.map(|folder| Name::folder(&folder)).transpose()?)
    }

    /// The relays that the user has joined, sorted by name.
    pub fn relays(&self) -> Result<Vec<Name>, RootError> {
        self.relays_in(&self.contacts_ini()?)
    }

    pub(super) fn relays_in(&self, text: &str) -> Result<Vec<Name>, RootError> {
        contact::relays(text).map_err(|e| RootError::config(self.at("contacts.ini"), e))
    }

    /// Records whether a contact is a relay that the user has joined.
    pub fn set_relay(&self, contact: &Name, joined: bool) -> Result<(), RootError> {
        let word = if joined { "joined" } else { "left" };
        self.set_of_contact(contact, Key::Relay, word)
    }

    fn of_contact(&self, contact: &Name, key: Key) -> Result<Option<String>, RootError> {
        let text = self.contacts_ini()?;
        contact::find(&text, contact, key)
            .map_err(|e| RootError::config(self.at("contacts.ini"), e))
    }

    /// Records where a contact's server is reached.
    pub fn set_addresses(&self, contact: &Name, addresses: &Addresses) -> Result<(), RootError> {
        self.set_of_contact(contact, Key::Address, &addresses.to_string())
    }

    /// Records which folder of a contact's files go into if the sender names none.
    pub fn set_folder(&self, contact: &Name, folder: &Name) -> Result<(), RootError> {
        self.set_of_contact(contact, Key::Folder, folder.as_str())
    }

    fn set_of_contact(&self, contact: &Name, key: Key, value: &str) -> Result<(), RootError> {
        let _lock = self.lock_keys()?;
        let old = self.contacts_ini()?;
        self.write_contacts_ini(&contact::with(&old, contact, key, value))
    }

    pub(super) fn write_contacts_ini(&self, text: &str) -> Result<(), RootError> {
        file::replace(&self.dir, "contacts.ini", 0o644, text.as_bytes())
            .map_err(RootError::io("write", self.at("contacts.ini")))
    }

    pub(super) fn contacts_ini(&self) -> Result<String, RootError> {
        match file::read_text(&self.dir, "contacts.ini", MAX_LEN) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(RootError::io("open", self.at("contacts.ini"))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::root::Root;

    #[test]
    fn of_many_addresses_at_once_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (root, _) = Root::init(dir.path(), &[]).unwrap();
        std::fs::create_dir_all(dir.path().join("user/zhenqiang/privateKey")).unwrap();
        let user = root.user(&Name::user("zhenqiang").unwrap()).unwrap();
        let name = |n: usize| Name::user(&format!("contact{n}")).unwrap();
        std::thread::scope(|scope| {
            for n in 0..16 {
                let user = &user;
                scope.spawn(move || {
                    let address = format!("host:{}", n + 1).parse().unwrap();
                    user.set_addresses(&name(n), &address).unwrap()
                });
            }
        });
        for n in 0..16 {
            let address = user.addresses_of(&name(n)).unwrap().unwrap();
            assert_eq!(address.to_string(), format!("host:{}", n + 1));
        }
    }
}

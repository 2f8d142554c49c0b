//! One of the two people: what they tell the other, and what they keep of them.

use crate::{
    crypto::keys::Fingerprint,
    error::{Code, Error, printable},
    json::{self, Map, Value, canonical},
    root::{RootError, boxes::Grant, contact::Card, folder::Folder, name::Name, user::User},
    transport::Addresses,
    wire::code::CodeError,
};

/// One of the two people.
pub struct Party {
    user: User,
    /// Where the other's files go, and where the other may send to.
    folder: Option<Folder>,
    /// Where this user's server is reached.
    addresses: Option<Addresses>,
    /// Where the other may leave letters.
    letter_box: Option<Grant>,
    /// Whose key is replaced, if it is a different one.
    replaced: Option<Name>,
    /// The user's key when the pairing began.
    own: Fingerprint,
    /// Who the other must be, if that was said.
    expected: Option<Name>,
}

impl Party {
    /// The user, with what the other will know.
    pub fn new(
        user: User,
        folder: Option<Folder>,
        addresses: Option<Addresses>,
    ) -> Result<Self, Error> {
        Ok(Self {
            own: user.public_key()?.fingerprint(),
            user,
            folder,
            addresses,
            letter_box: None,
            replaced: None,
            expected: None,
        })
    }

    /// The same, with a contact whose key is replaced if it is a different one.
    #[must_use]
    pub fn replacing(self, replaced: Option<Name>) -> Self {
        Self { replaced, ..self }
    }

    /// The same, with a box for letters for the other, if the user has joined a relay that keeps some.
    pub fn with_box(self) -> Result<Self, Error> {
        Ok(Self {
            letter_box: self.user.new_box()?,
            ..self
        })
    }

    fn replaces(&self, name: &Name) -> bool {
        self.replaced.as_ref() == Some(name)
    }

    /// The same, for somebody with this name only.
    #[must_use]
    pub fn expecting(self, name: Name) -> Self {
        Self {
            expected: Some(name),
            ..self
        }
    }

    /// The card for the other. Fails if the user has another key by now.
    pub(super) fn card(&self) -> Result<Card, Error> {
        let card = Card {
            name: self.user.name().clone(),
            key: self.user.public_key()?,
            addresses: self.addresses.clone(),
            folder: self.folder.as_ref().map(|folder| folder.name().clone()),
            letter_box: self.letter_box.clone(),
        };
        match card.key.fingerprint() == self.own {
            true => Ok(card),
            false => Err(Error::new(
                Code::Identity,
                format!(
                    "{} has a different key than when the code was made: make a new code",
                    self.user.name()
                ),
            )),
        }
    }

    /// Whether the other may become a contact.
    pub(super) fn check(&self, card: &Card) -> Result<(), Error> {
        if card.name == *self.user.name() {
            return Err(RootError::Oneself(card.name.clone()).into());
        }
        if card.key.fingerprint() == self.own {
            let sentence = "both sides have the same key: each person needs one of their own";
            return Err(Error::new(Code::Identity, sentence));
        }
        if let Some(expected) = self.expected.as_ref().filter(|name| **name != card.name) {
            let sentence = format!("the code is for {expected}, not for {}", card.name);
            return Err(Error::new(Code::Refused, sentence));
        }
        let checked = self
            .user
            .check_contact(&card.name, &card.key, self.replaces(&card.name));
        Ok(checked.map(drop)?)
    }

    /// Makes the other a contact, who may send into the folder.
    pub(super) fn keep(&self, card: &Card) -> Result<(), Error> {
        self.card()?;
        self.check(card)?;
        self.user
            .add_contact(&card.name, &card.key, self.replaces(&card.name))?;
        if let Some(addresses) = &card.addresses {
            self.user.set_addresses(&card.name, addresses)?;
        }
        if let Some(folder) = &card.folder {
            self.user.set_folder(&card.name, folder)?;
        }
        if let Some(given) = &self.letter_box {
            self.user.give_box(&card.name, &given.id)?;
        }
        self.user.set_box_of(&card.name, card.letter_box.as_ref())?;
        if let Some(folder) = &self.folder {
            folder.allow(&card.name)?;
        }
        Ok(())
    }
}

/// A card as a message, or why there is none.
pub(super) fn card_text(card: &Result<Card, Error>) -> Result<String, Error> {
    match card {
        Ok(card) => Ok(canonical(&card.to_document()?)),
        Err(error) => Ok(error_text(error)),
    }
}

/// An error as a message: what is wrong, without what our user could do about it.
pub(super) fn error_text(error: &Error) -> String {
    let words = error
        .sentence
        .split([':', ';', ','])
        .next()
        .unwrap_or_default();
    let said = Map::from_iter([("error".to_owned(), Value::from(words))]);
    canonical(&said)
}

/// The object in a message, unless it says that the other side does not want to.
pub(super) fn read(text: &[u8]) -> Result<Map<String, Value>, Error> {
    let object = json::parse(text).map_err(|_| CodeError::Unreadable)?;
    match object.get("error").and_then(Value::as_str) {
        Some(words) => Err(Error::new(
            Code::Refused,
            format!("the other side does not want to: {}", printable(words, 500)),
        )),
        None => Ok(object),
    }
}

/// The card in a message.
pub(super) fn read_card(text: &[u8]) -> Result<Card, Error> {
    Ok(Card::from_document("the other's card", &read(text)?)?)
}

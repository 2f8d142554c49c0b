#![doc = include_str!("pairing.md")]

use zeroize::Zeroizing;

use super::{
    WireError,
    envelope::{self, Contents, Part},
};
use crate::{
    crypto::{
        CryptoError, Random,
        keys::{Fingerprint, PrivateKey, PublicKey},
    },
    error::{Code, Error, printable},
    json::{self, Map, Value, canonical},
    root::{
        RootError,
        contact::{Card, read_addresses, write_addresses},
        contact_request::RequestId,
        name::Name,
    },
    transport::Addresses,
};

const REQUEST: &str = "m2y/1 contact request";
const ANSWER: &str = "m2y/1 contact answer";
const ROTATION: &str = "m2y/1 key rotation";

/// Why a document is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    /// Its name, key or address is invalid.
    #[error(transparent)]
    Root(#[from] RootError),
    /// It could not be written.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A field is missing, or not what it must be.
    #[error("cannot read {path}: {reason}")]
    Field {
        /// As the person named it.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// An answer to somebody else's request.
    #[error(
        "the answer of {from} is for the key {theirs}, and yours is {own}: it answers someone else, or a request from before your key changed: create a new one with `m2y contact request`"
    )]
    ForAnother {
        /// Who answers.
        from: Name,
        /// The key that it is sealed for.
        theirs: String,
        /// The reader's.
        own: Fingerprint,
    },
    /// The signature or the seal does not match.
    #[error(
        "the answer of {0} was altered in transit, or {0} does not have the key in it: ask for a new one, and compare fingerprints"
    )]
    Altered(Name),
    /// The adder knows the requester by a different name.
    #[error(
        "{from} has stored you as {to}, but you are {own}: create a new request with `m2y contact request`, and send it by a way that cannot be altered"
    )]
    OtherName {
        /// Who answers.
        from: Name,
        /// The name in the answer.
        to: String,
        /// The reader's.
        own: Name,
    },
    /// An answer whose request was not made here, or is settled.
    #[error(
        "{0} answers a request that was not made here, or that has its answer already: make a new one with `m2y contact request`"
    )]
    NotAsked(Name),
    /// The same answer again, or a second one from the same person.
    #[error("{0} is a contact already: this answer was accepted before")]
    Answered(Name),
    /// An announcement by somebody who is not a contact.
    #[error(
        "{0} is not a contact, so no known key can have signed the new one: ask {0} for a card (`m2y contact export`)"
    )]
    NothingOnFile(Name),
    /// An announcement that the key on file did not sign.
    #[error(
        "the new key of {name}, {new}, is not announced by the one that is known, {old}, and was not taken: if you have missed an announcement, add that first; else compare the new fingerprint with {name} in person, then repeat with --replace"
    )]
    NotSuccessor {
        /// Whose key.
        name: Name,
        /// The key on file.
        old: Fingerprint,
        /// The key in the announcement.
        new: Fingerprint,
    },
}

impl From<PairingError> for Error {
    fn from(error: PairingError) -> Self {
        let code = match error {
            PairingError::Root(error) => return error.into(),
            PairingError::Wire(error) => return error.into(),
            PairingError::Field { .. } => Code::Failed,
            PairingError::ForAnother { .. }
            | PairingError::Altered(_)
            | PairingError::OtherName { .. }
            | PairingError::NotAsked(_)
            | PairingError::Answered(_)
            | PairingError::NothingOnFile(_)
            | PairingError::NotSuccessor { .. } => Code::Identity,
        };
        Self::new(code, error.to_string())
    }
}

/// What came by mail.
#[derive(Clone, Debug)]
pub enum Document {
    /// Somebody's name and key.
    Card(Card),
    /// The same, asking for an answer.
    Request(Request),
    /// What the other person sends back.
    Answer(Answer),
    /// Somebody's new key.
    Rotation(Announcement),
}

impl Document {
    /// Reads a document, also one in the middle of a mail; `path` is where it came from,
    /// for messages.
    pub fn parse(path: &str, text: &[u8]) -> Result<Self, PairingError> {
        let object = json::parse(json::outermost(text)).or_else(|error| {
            let parse = |text: Vec<u8>| json::parse(json::outermost(&text));
            let parsed = parse(unquoting(text)).or_else(|_| parse(unquoted(text)));
            parsed.map_err(|_| field(path, error))
        })?;
        let card = Card::from_document(path, &object)?;
        let text = |name: &str| match object.get(name).and_then(Value::as_str) {
            Some(text) => Ok(text),
            None => Err(field(path, format!("the field {name:?} is missing"))),
        };
        let bytes = |name: &str| {
            hex::decode(text(name)?).map_err(|_| {
                let reason = format!("the field {name:?} must be hexadecimal digits");
                field(path, reason)
            })
        };
        Ok(match object.get("document") {
            None => Self::Card(card),
            Some(Value::String(document)) if document == REQUEST => Self::Request(Request {
                card,
                id: text("request")?.parse().map_err(|e| field(path, e))?,
            }),
            Some(Value::String(document)) if document == ANSWER => Self::Answer(Answer {
                name: card.name,
                key: card.key,
                receiver: text("for")?.to_owned(),
                sealed: bytes("sealed")?,
            }),
            Some(Value::String(document)) if document == ROTATION => Self::Rotation(Announcement {
                name: card.name,
                key: card.key,
                old: text("oldFingerprint")?.to_owned(),
                time: object
                    .get("time")
                    .and_then(Value::as_u64)
                    .ok_or_else(|| field(path, "the field \"time\" must be a whole number"))?,
                signature: bytes("signature")?,
            }),
            Some(_) => {
                let reason =
                    "its field \"document\" says something that this version does not know";
                return Err(field(path, reason));
            }
        })
    }
}

fn card(name: &Name, key: &PublicKey) -> Card {
    Card {
        name: name.clone(),
        key: key.clone(),
        addresses: None,
        folder: None,
        letter_box: None,
    }
}

/// The text of a mail itself, without the lines that it quotes.
fn unquoting(text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|b| *b == b'\n');
    let own = lines.filter(|line| !line.starts_with(b">"));
    own.collect::<Vec<_>>().concat()
}

/// The text of a mail and what it quotes, without the marks: `> ` at the beginning of lines.
fn unquoted(text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|b| *b == b'\n');
    let line = |line: &[u8]| {
        let marks = line.iter().take_while(|b| b"> ".contains(b)).count();
        line.get(marks..).unwrap_or_default().to_vec()
    };
    lines.flat_map(line).collect()
}

fn field(path: &str, reason: impl ToString) -> PairingError {
    PairingError::Field {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// A card whose owner wants to be answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose request.
    pub card: Card,
    /// Its number.
    pub id: RequestId,
}

impl Request {
    /// The request as a JSON document.
    pub fn to_document(&self) -> Result<Map<String, Value>, PairingError> {
        let mut document = self.card.to_document()?;
        document.insert("document".to_owned(), REQUEST.into());
        document.insert("request".to_owned(), self.id.to_string().into());
        Ok(document)
    }

    /// The answer of the user on this card, with the key `own`, at this `time` in milliseconds
    /// since 1970.
    pub fn answer(
        &self,
        card: &Card,
        own: &PrivateKey,
        time: u64,
        random: &mut Random<'_>,
    ) -> Result<Answer, PairingError> {
        let mut said = Map::new();
        said.insert("from".to_owned(), card.name.as_str().into());
        said.insert("to".to_owned(), self.card.name.as_str().into());
        said.insert("request".to_owned(), self.id.to_string().into());
        write_addresses(&mut said, card.addresses.as_ref());
        if let Some(folder) = &card.folder {
            said.insert("folder".to_owned(), folder.as_str().into());
        }
        let contents = Contents {
            time,
            share: [0; 32],
            json: Zeroizing::new(canonical(&said).into_bytes()),
        };
        let receiver = &self.card.key;
        let bound = bound(own.public(), receiver);
        let sealed = envelope::seal(Part::Pairing, &bound, &contents, own, receiver, random)?;
        Ok(Answer {
            name: card.name.clone(),
            key: own.public().clone(),
            receiver: receiver.fingerprint().to_string(),
            sealed: sealed.bytes,
        })
    }
}

/// A card with a part that only the requester can read.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Who answers.
    pub name: Name,
    /// The key that signed.
    pub key: PublicKey,
    /// The fingerprint of the key that it is sealed for, as text.
    pub receiver: String,
    /// The envelope.
    pub sealed: Vec<u8>,
}

/// What an answer says to the person who can open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Which request is answered.
    pub request: RequestId,
    /// Where the answering person's server listens.
    pub addresses: Option<Addresses>,
    /// The folder of theirs that files go into if the sender names none.
    pub folder: Option<Name>,
    /// The answering person's clock, milliseconds since 1970.
    pub time: u64,
}

impl Answer {
    /// The answer as a JSON document.
    pub fn to_document(&self) -> Result<Map<String, Value>, PairingError> {
        let mut document = card(&self.name, &self.key).to_document()?;
        document.insert("document".to_owned(), ANSWER.into());
        document.insert("for".to_owned(), self.receiver.as_str().into());
        document.insert("sealed".to_owned(), hex::encode(&self.sealed).into());
        Ok(document)
    }

    /// Checks and opens an answer to the user `to` with the key `own`. The caller checks that there
    /// was such a request.
    pub fn open(&self, to: &Name, own: &PrivateKey) -> Result<Agreed, PairingError> {
        let fingerprint = own.public().fingerprint();
        if self.receiver != fingerprint.to_string() {
            return Err(PairingError::ForAnother {
                from: self.name.clone(),
                theirs: printable(&self.receiver, 80),
                own: fingerprint,
            });
        }
        let altered = || PairingError::Altered(self.name.clone());
        let bound = bound(&self.key, own.public());
        let opened = envelope::verify(Part::Pairing, &bound, &self.sealed, &self.key)
            .and_then(|verified| verified.open(own))
            .map_err(|_| altered())?;
        let said = json::parse(&opened.contents.json).map_err(|_| altered())?;
        let text = |name: &str| said.get(name).and_then(Value::as_str);
        if text("from") != Some(self.name.as_str()) {
            return Err(altered());
        }
        let stored = text("to").ok_or_else(altered)?;
        if stored != to.as_str() {
            return Err(PairingError::OtherName {
                from: self.name.clone(),
                to: printable(stored, 80),
                own: to.clone(),
            });
        }
        let request = text("request").and_then(|id| id.parse().ok());
        let addresses = read_addresses(&said).map_err(|e| field("the answer", e));
        let folder = text("folder").filter(|folder| !folder.is_empty());
        let folder = folder.map(Name::folder);
        Ok(Agreed {
            request: request.ok_or_else(altered)?,
            addresses: addresses?,
            folder: folder.transpose().map_err(|e| field("the answer", e))?,
            time: opened.contents.time,
        })
    }
}

fn bound(adder: &PublicKey, requester: &PublicKey) -> [u8; 64] {
    let mut bound = [0; 64];
    let (first, second) = bound.split_at_mut(32);
    first.copy_from_slice(adder.fingerprint().as_bytes());
    second.copy_from_slice(requester.fingerprint().as_bytes());
    bound
}

/// A new key, signed by the one before it.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Whose key.
    pub name: Name,
    /// The new one.
    pub key: PublicKey,
    /// The fingerprint of the one before, as text.
    pub old: String,
    /// When it was made, milliseconds since 1970.
    pub time: u64,
    /// By the one before.
    pub signature: Vec<u8>,
}

impl Announcement {
    /// Signs that `new` is the key of the user `name` from now on, at this `time` in
    /// milliseconds since 1970.
    pub fn sign(
        name: &Name,
        old: &PrivateKey,
        new: &PublicKey,
        time: u64,
        random: &mut Random<'_>,
    ) -> Result<Self, CryptoError> {
        let old_key = old.public();
        Ok(Self {
            signature: old.sign(&announced(name, old_key, new, time), random)?,
            name: name.clone(),
            key: new.clone(),
            old: old_key.fingerprint().to_string(),
            time,
        })
    }

    /// The announcement as a JSON document.
    pub fn to_document(&self) -> Result<Map<String, Value>, PairingError> {
        let mut document = card(&self.name, &self.key).to_document()?;
        document.insert("document".to_owned(), ROTATION.into());
        document.insert("oldFingerprint".to_owned(), self.old.as_str().into());
        document.insert("time".to_owned(), self.time.into());
        document.insert("signature".to_owned(), hex::encode(&self.signature).into());
        Ok(document)
    }

    /// What a card would say.
    pub fn card(&self) -> Card {
        card(&self.name, &self.key)
    }

    /// Checks that the key on file announces this one.
    pub fn check(&self, on_file: &PublicKey) -> Result<(), PairingError> {
        let not = || PairingError::NotSuccessor {
            name: self.name.clone(),
            old: on_file.fingerprint(),
            new: self.key.fingerprint(),
        };
        if self.old != on_file.fingerprint().to_string() {
            return Err(not());
        }
        let message = announced(&self.name, on_file, &self.key, self.time);
        on_file.verify(&message, &self.signature).map_err(|_| not())
    }
}

fn announced(name: &Name, old: &PublicKey, new: &PublicKey, time: u64) -> Vec<u8> {
    [
        ROTATION.as_bytes(),
        &time.to_be_bytes(),
        old.fingerprint().as_bytes(),
        new.fingerprint().as_bytes(),
        name.as_str().as_bytes(),
    ]
    .concat()
}

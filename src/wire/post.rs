//! What relays and those who leave or fetch letters say to each other: see [`letter`].

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    WireError,
    header::{self, ANSWER_LEN, AnswerHeader},
    letter::{self, LEN, Prekey},
    session::Share,
};
use crate::{
    crypto::seal::{Key, derive},
    json::{self, Map, Value},
};

/// Bytes of a share.
pub const SHARE_LEN: usize = 32;

/// Letters that may be asked about at once.
pub const MAX_ASKED: usize = 64;

/// Boxes that one member may have.
pub const MAX_BOXES: usize = 100_000;

/// Boxes in one request.
pub const BOXES_AT_ONCE: usize = 512;

/// Prekeys in one request.
pub const PREKEYS_AT_ONCE: usize = 32;

/// Prekeys for one letter each that a member leaves at a relay.
pub const PREKEYS: usize = 100;

/// The keys of a connection by which somebody leaves letters.
pub struct PostKeys {
    /// Seals what that somebody says.
    pub client: Key,
    /// Seals what the relay says.
    pub relay: Key,
}

impl PostKeys {
    fn derive(
        secrets: [Zeroizing<[u8; 32]>; 2],
        client: &[u8; SHARE_LEN],
        relay: &[u8; SHARE_LEN],
    ) -> Self {
        let transcript: [u8; 32] = Sha256::new()
            .chain_update(header::encode_post())
            .chain_update(client)
            .chain_update(answer())
            .chain_update(relay)
            .finalize()
            .into();
        let [lasting, fresh] = secrets;
        let secret = Zeroizing::new([lasting.as_slice(), fresh.as_slice()].concat());
        let key = |info| Key::new(derive(&transcript, &secret, info));
        Self {
            client: key(b"m2y/1 post client"),
            relay: key(b"m2y/1 post relay"),
        }
    }

    /// On the side of somebody who knows the lasting key of the relay.
    pub fn of_client(
        own: &Share,
        lasting: &[u8; SHARE_LEN],
        relay: &[u8; SHARE_LEN],
    ) -> Result<Self, WireError> {
        let secrets = [own.agree(lasting)?, own.agree(relay)?];
        Ok(Self::derive(secrets, &own.public, relay))
    }

    /// On the side of the relay.
    pub fn of_relay(
        lasting: &Share,
        own: &Share,
        client: &[u8; SHARE_LEN],
    ) -> Result<Self, WireError> {
        let secrets = [lasting.agree(client)?, own.agree(client)?];
        Ok(Self::derive(secrets, client, &own.public))
    }
}

/// The head before the share of the relay.
pub fn answer() -> [u8; ANSWER_LEN] {
    AnswerHeader::Envelope(SHARE_LEN).encode()
}

/// What is asked about letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A prekey, and permission to leave a letter of this many bytes in a box.
    Leave {
        /// The box.
        id: letter::BoxId,
        /// A number for the letter.
        letter: [u8; LEN],
        /// Bytes of the whole letter.
        bytes: u64,
    },
    /// What became of letters.
    Letters(Vec<[u8; LEN]>),
    /// A letter need not be remembered any longer: its sender has the receipt.
    Forget([u8; LEN]),
    /// A letter is taken back.
    TakeBack([u8; LEN]),
    /// Who is there, by the hashes of boxes.
    Presence(Vec<[u8; LEN]>),
    /// Somebody who was invited becomes a member.
    Join {
        /// The token of the invitation.
        token: [u8; LEN],
        /// A card, as JSON.
        card: String,
    },
    /// The boxes of a member, by their hashes, and whether those who have them may see whether the
    /// member is there. The last part of the list says so, and the list replaces the one before.
    Boxes {
        /// This part.
        boxes: Vec<([u8; LEN], bool)>,
        /// Whether more follow.
        more: bool,
    },
    /// Further prekeys of a member.
    Prekeys {
        /// The prekeys.
        prekeys: Vec<Prekey>,
        /// Whether those before them are worth nothing any more.
        replace: bool,
    },
    /// The letters that wait for a member, the oldest first, without this many.
    List {
        /// How many are left out.
        skip: u64,
    },
    /// A part of a letter.
    Fetch {
        /// The letter.
        letter: [u8; LEN],
        /// Where the part begins.
        offset: u64,
        /// Its length in bytes, at most.
        bytes: u64,
    },
    /// A letter is done with, and this is what its sender is told.
    Receipt {
        /// The letter.
        letter: [u8; LEN],
        /// For its sender.
        receipt: Vec<u8>,
    },
    /// A document for another member, who may become a contact.
    Introduce {
        /// The member.
        to: String,
        /// The document.
        document: String,
    },
    /// The documents that wait for this member.
    Introductions,
    /// This member has the document of that one.
    Introduced {
        /// Who it is from.
        from: String,
    },
    /// Whether this member wants to be found by other members.
    Listed(bool),
    /// Who wants to be found, without this many.
    Who {
        /// How many are left out.
        skip: u64,
    },
}

impl Ask {
    /// The body of a *request*.
    pub fn to_body(&self) -> Vec<u8> {
        let mut fields = Map::new();
        let mut put = |field: &str, value: Value| {
            fields.insert(field.to_owned(), value);
        };
        let all = |each: &[[u8; LEN]]| each.iter().map(hex::encode).collect::<Vec<_>>().into();
        let word = match self {
            Self::Leave { id, letter, bytes } => {
                put("box", hex::encode(id).into());
                put("letter", hex::encode(letter).into());
                put("bytes", (*bytes).into());
                "leave"
            }
            Self::Letters(letters) => {
                put("letters", all(letters));
                "letters"
            }
            Self::Forget(letter) => {
                put("letter", hex::encode(letter).into());
                "forget"
            }
            Self::TakeBack(letter) => {
                put("letter", hex::encode(letter).into());
                "take-back"
            }
            Self::Presence(boxes) => {
                put("boxes", all(boxes));
                "presence"
            }
            Self::Join { token, card } => {
                put("token", hex::encode(token).into());
                put("card", card.as_str().into());
                "join"
            }
            Self::Boxes { boxes, more } => {
                let of = |presence: bool| {
                    let some = boxes.iter().filter(|(_, shows)| *shows == presence);
                    some.map(|(hash, _)| *hash).collect::<Vec<_>>()
                };
                put("boxes", all(&of(false)));
                put("showing", all(&of(true)));
                put("more", (*more).into());
                "boxes"
            }
            Self::Prekeys { prekeys, replace } => {
                put("replace", (*replace).into());
                let each = prekeys.iter().map(|key| Value::Object(key.to_document()));
                put("prekeys", each.collect::<Vec<_>>().into());
                "prekeys"
            }
            Self::List { skip } => {
                put("skip", (*skip).into());
                "list"
            }
            Self::Fetch {
                letter,
                offset,
                bytes,
            } => {
                put("letter", hex::encode(letter).into());
                put("offset", (*offset).into());
                put("bytes", (*bytes).into());
                "fetch"
            }
            Self::Receipt { letter, receipt } => {
                put("letter", hex::encode(letter).into());
                put("receipt", hex::encode(receipt).into());
                "receipt"
            }
            Self::Introduce { to, document } => {
                put("to", to.as_str().into());
                put("document", document.as_str().into());
                "introduce"
            }
            Self::Introductions => "introductions",
            Self::Introduced { from } => {
                put("from", from.as_str().into());
                "introduced"
            }
            Self::Listed(listed) => {
                put("listed", (*listed).into());
                "listed"
            }
            Self::Who { skip } => {
                put("skip", (*skip).into());
                "who"
            }
        };
        put("request", word.into());
        json::canonical(&fields).into_bytes()
    }

    /// Reads the body of a *request*.
    pub fn from_body(body: &[u8]) -> Result<Self, WireError> {
        let fields = json::parse(body).map_err(|_| WireError::Record)?;
        Self::read(&fields).ok_or(WireError::Record)
    }

    fn read(fields: &Map<String, Value>) -> Option<Self> {
        let text = |field| fields.get(field).and_then(Value::as_str);
        let number = |field| fields.get(field).and_then(Value::as_u64);
        let id = |field| json::from_hex::<LEN>(text(field)?);
        let all = |field, most| {
            let each = fields
                .get(field)?
                .as_array()
                .filter(|all| all.len() <= most)?;
            let each = each.iter().map(|one| json::from_hex::<LEN>(one.as_str()?));
            each.collect::<Option<Vec<_>>>()
        };
        Some(match text("request")? {
            "leave" => Self::Leave {
                id: id("box")?,
                letter: id("letter")?,
                bytes: number("bytes")?,
            },
            "letters" => Self::Letters(all("letters", MAX_ASKED)?),
            "forget" => Self::Forget(id("letter")?),
            "take-back" => Self::TakeBack(id("letter")?),
            "presence" => Self::Presence(all("boxes", MAX_ASKED)?),
            "join" => Self::Join {
                token: id("token")?,
                card: text("card")?.to_owned(),
            },
            "boxes" => {
                let hidden = all("boxes", BOXES_AT_ONCE)?.into_iter();
                let showing = all("showing", BOXES_AT_ONCE)?.into_iter();
                let each = hidden.map(|hash| (hash, false));
                Self::Boxes {
                    boxes: each.chain(showing.map(|hash| (hash, true))).collect(),
                    more: fields.get("more")?.as_bool()?,
                }
            }
            "prekeys" => {
                let each = fields.get("prekeys")?.as_array()?;
                if each.len() > PREKEYS_AT_ONCE {
                    return None;
                }
                let each = each
                    .iter()
                    .map(|one| Prekey::from_document(one.as_object()?).ok());
                Self::Prekeys {
                    prekeys: each.collect::<Option<_>>()?,
                    replace: fields.get("replace")?.as_bool()?,
                }
            }
            "list" => Self::List {
                skip: number("skip")?,
            },
            "fetch" => Self::Fetch {
                letter: id("letter")?,
                offset: number("offset")?,
                bytes: number("bytes")?,
            },
            "receipt" => Self::Receipt {
                letter: id("letter")?,
                receipt: hex::decode(text("receipt")?).ok()?,
            },
            "introduce" => Self::Introduce {
                to: text("to")?.to_owned(),
                document: text("document")?.to_owned(),
            },
            "introductions" => Self::Introductions,
            "introduced" => Self::Introduced {
                from: text("from")?.to_owned(),
            },
            "listed" => Self::Listed(fields.get("listed")?.as_bool()?),
            "who" => Self::Who {
                skip: number("skip")?,
            },
            _ => return None,
        })
    }
}

/// What a relay knows of a letter, for the one who left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// It waits.
    Waiting,
    /// Its receiver is done with it, and left this receipt.
    Settled(Vec<u8>),
    /// It was not fetched in time, and is gone.
    Expired,
    /// The relay has no such letter.
    Unknown,
}

impl DeliveryStatus {
    /// As JSON.
    pub fn to_value(&self) -> Value {
        let (word, receipt) = match self {
            Self::Waiting => ("waiting", None),
            Self::Settled(receipt) => ("settled", Some(receipt)),
            Self::Expired => ("expired", None),
            Self::Unknown => ("unknown", None),
        };
        let mut fields = Map::from_iter([("state".to_owned(), Value::from(word))]);
        if let Some(receipt) = receipt {
            fields.insert("receipt".to_owned(), hex::encode(receipt).into());
        }
        Value::Object(fields)
    }

    /// Reads the JSON.
    pub fn from_value(value: &Value) -> Result<Self, WireError> {
        let field = |field| value.get(field).and_then(Value::as_str);
        match field("state") {
            Some("waiting") => Ok(Self::Waiting),
            Some("expired") => Ok(Self::Expired),
            Some("unknown") => Ok(Self::Unknown),
            Some("settled") => {
                let receipt = field("receipt").and_then(|text| hex::decode(text).ok());
                receipt.map(Self::Settled).ok_or(WireError::Record)
            }
            _ => Err(WireError::Record),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{crypto::SysRng, wire::letter::PrekeyKind};

    #[test]
    fn both_sides_get_the_same_keys_and_somebody_without_the_relays_key_others() {
        let share = || Share::new(&mut SysRng).unwrap();
        let (lasting, client, relay) = (share(), share(), share());
        let ours = PostKeys::of_client(&client, &lasting.public, &relay.public).unwrap();
        let theirs = PostKeys::of_relay(&lasting, &relay, &client.public).unwrap();
        assert_eq!(ours.client.as_bytes(), theirs.client.as_bytes());
        assert_eq!(ours.relay.as_bytes(), theirs.relay.as_bytes());
        assert_ne!(ours.relay.as_bytes(), ours.client.as_bytes());
        let middle = PostKeys::of_relay(&share(), &relay, &client.public).unwrap();
        assert_ne!(ours.client.as_bytes(), middle.client.as_bytes());
        assert!(PostKeys::of_relay(&lasting, &relay, &[0; 32]).is_err());
    }

    #[test]
    fn requests_and_fates_come_back_as_they_went() {
        let prekey = Prekey {
            kind: PrekeyKind::Once,
            number: 7,
            time: 8,
            public: [9; 32],
            signature: vec![1, 2, 3],
        };
        for ask in [
            Ask::Leave {
                id: [1; 32],
                letter: [2; 32],
                bytes: 3,
            },
            Ask::Letters(vec![[1; 32], [2; 32]]),
            Ask::Forget([1; 32]),
            Ask::TakeBack([1; 32]),
            Ask::Presence(vec![[1; 32]]),
            Ask::Join {
                token: [6; 32],
                card: "{}".to_owned(),
            },
            Ask::Boxes {
                boxes: vec![([1; 32], false), ([2; 32], true)],
                more: true,
            },
            Ask::Prekeys {
                prekeys: vec![prekey],
                replace: true,
            },
            Ask::List { skip: 9 },
            Ask::Fetch {
                letter: [1; 32],
                offset: 5,
                bytes: 6,
            },
            Ask::Receipt {
                letter: [1; 32],
                receipt: vec![4, 5],
            },
            Ask::Introduce {
                to: "zhenqiang".to_owned(),
                document: "{}".to_owned(),
            },
            Ask::Introductions,
            Ask::Introduced {
                from: "zhenqiang".to_owned(),
            },
            Ask::Listed(true),
            Ask::Who { skip: 3 },
        ] {
            assert_eq!(Ask::from_body(&ask.to_body()), Ok(ask));
        }
        assert!(Ask::from_body(b"{\"request\":\"dance\"}").is_err());
        for status in [
            DeliveryStatus::Waiting,
            DeliveryStatus::Settled(vec![1, 2]),
            DeliveryStatus::Expired,
            DeliveryStatus::Unknown,
        ] {
            assert_eq!(DeliveryStatus::from_value(&status.to_value()), Ok(status));
        }
    }
}

#![doc = include_str!("letter.md")]

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{WireError, header::MAX_ENVELOPE, session::Share};
use crate::{
    crypto::{
        CryptoError, Random,
        keys::{Fingerprint, PrivateKey, PublicKey},
        seal::{Key, Seal, TAG_LEN, derive},
    },
    json::{self, Map, Value},
};

const LETTER: &[u8] = b"m2y/1 letter";
const PREKEY: &[u8] = b"m2y/1 prekey";
const RECEIPT: &[u8] = b"m2y/1 receipt";

/// Bytes of a box, of the number of a letter, and of an X25519 key.
pub const LEN: usize = 32;

/// Bytes in the clear at the front of a letter.
pub const HEAD_LEN: usize = 1 + 8 + LEN + 4;

/// Bytes of the time in what is sealed.
const TIME_LEN: usize = 8;

/// The longest signature, in bytes: that of a key of 4,096 bits.
const MAX_SIGNATURE: usize = 512;

/// The longest receipt, in bytes.
pub const MAX_RECEIPT: usize = 24_000;

/// Who holds it may leave letters for somebody.
pub type BoxId = [u8; LEN];

/// What a relay knows of a box: its SHA-256.
pub fn box_hash(id: &BoxId) -> [u8; LEN] {
    Sha256::digest(id).into()
}

/// Whether a prekey is for one letter only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrekeyKind {
    /// For one letter.
    Once = 1,
    /// For all of a day, when there are no others left.
    Daily = 2,
}

impl PrekeyKind {
    /// Reads the byte.
    pub fn from_byte(byte: u8) -> Result<Self, WireError> {
        match byte {
            1 => Ok(Self::Once),
            2 => Ok(Self::Daily),
            _ => Err(WireError::Letter("a prekey of an unknown kind")),
        }
    }
}

/// The public half of a key that letters are sealed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prekey {
    /// Whether it is for one letter only.
    pub kind: PrekeyKind,
    /// Its number; its owner never uses one twice.
    pub number: u64,
    /// When it was made, in milliseconds since 1970.
    pub time: u64,
    /// The X25519 public key.
    pub public: [u8; LEN],
    /// Its owner's signature.
    pub signature: Vec<u8>,
}

impl Prekey {
    /// Signs the public half of a key.
    pub fn sign(
        kind: PrekeyKind,
        number: u64,
        time: u64,
        public: [u8; LEN],
        owner: &PrivateKey,
        random: &mut Random<'_>,
    ) -> Result<Self, WireError> {
        let mut prekey = Self {
            kind,
            number,
            time,
            public,
            signature: Vec::new(),
        };
        prekey.signature = owner.sign(&prekey.signed(), random)?;
        Ok(prekey)
    }

    fn signed(&self) -> Vec<u8> {
        let (kind, number, time) = (
            [self.kind as u8],
            self.number.to_be_bytes(),
            self.time.to_be_bytes(),
        );
        [PREKEY, &kind, &number, &time, &self.public].concat()
    }

    /// Whether its owner signed it.
    pub fn verify(&self, owner: &PublicKey) -> Result<(), WireError> {
        owner.verify(&self.signed(), &self.signature)?;
        Ok(())
    }

    /// As JSON.
    pub fn to_document(&self) -> Map<String, Value> {
        Map::from_iter([
            ("kind".to_owned(), (self.kind as u8).into()),
            ("number".to_owned(), self.number.into()),
            ("time".to_owned(), self.time.into()),
            ("public".to_owned(), hex::encode(self.public).into()),
            ("signature".to_owned(), hex::encode(&self.signature).into()),
        ])
    }

    /// Reads the JSON. The signature is not checked.
    pub fn from_document(document: &Map<String, Value>) -> Result<Self, WireError> {
        let number = |field| document.get(field).and_then(Value::as_u64);
        let text = |field| document.get(field).and_then(Value::as_str);
        let read = || {
            Some(Self {
                kind: PrekeyKind::from_byte(u8::try_from(number("kind")?).ok()?).ok()?,
                number: number("number")?,
                time: number("time")?,
                public: json::from_hex(text("public")?)?,
                signature: hex::decode(text("signature")?).ok()?,
            })
            .filter(|prekey| prekey.signature.len() <= MAX_SIGNATURE)
        };
        read().ok_or(WireError::Letter("a prekey that cannot be read"))
    }
}

/// The front of a letter, in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The kind of the prekey.
    pub kind: PrekeyKind,
    /// Its number.
    pub prekey: u64,
    /// The sender's X25519 public key, fresh for this letter.
    pub share: [u8; LEN],
    /// Bytes of the sealed part that follows.
    pub len: usize,
}

impl Head {
    /// The bytes.
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        let len = u32::try_from(self.len).unwrap_or(u32::MAX);
        let parts = [self.kind as u8]
            .into_iter()
            .chain(self.prekey.to_be_bytes())
            .chain(self.share)
            .chain(len.to_be_bytes());
        for (to, from) in bytes.iter_mut().zip(parts) {
            *to = from;
        }
        bytes
    }

    /// Reads the bytes.
    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Result<Self, WireError> {
        let short = WireError::Letter("a head that cannot be read");
        let split = || {
            let (kind, rest) = bytes.split_first()?;
            let (prekey, rest) = rest.split_first_chunk()?;
            let (share, len) = rest.split_first_chunk()?;
            Some((*kind, *prekey, *share, <[u8; 4]>::try_from(len).ok()?))
        };
        let (kind, prekey, share, len) = split().ok_or(short)?;
        let len = u32::from_be_bytes(len);
        match usize::try_from(len) {
            Ok(len) if (1..=MAX_ENVELOPE).contains(&len) => Ok(Self {
                kind: PrekeyKind::from_byte(kind)?,
                prekey: u64::from_be_bytes(prekey),
                share,
                len,
            }),
            _ => Err(WireError::EnvelopeLength(len)),
        }
    }
}

/// What a letter is about: who writes to whom, for which box.
#[derive(Clone, Copy)]
pub struct Parties<'a> {
    /// The box that it is left in.
    pub id: &'a BoxId,
    /// Who writes.
    pub sender: &'a PublicKey,
    /// Who gets it.
    pub receiver: &'a PublicKey,
}

impl Parties<'_> {
    fn bound(&self, head: &Head, public: &[u8; LEN]) -> Vec<u8> {
        let number = head.prekey.to_be_bytes();
        let prints = [self.sender, self.receiver].map(PublicKey::fingerprint);
        let [sender, receiver] = prints.each_ref().map(Fingerprint::as_bytes);
        let kind = [head.kind as u8];
        [
            self.id.as_slice(),
            sender,
            receiver,
            &kind,
            &number,
            public,
            &head.share,
        ]
        .concat()
    }
}

/// The keys of a letter, the same on both sides.
pub struct LetterKeys {
    /// Names the letter: SHA-256 of its head and its sealed part.
    pub digest: [u8; LEN],
    /// Seals the blocks of its file.
    pub blocks: Key,
    /// Seals the trailer.
    pub records: Key,
    /// What the key of a receipt comes from.
    pub receipt: Zeroizing<[u8; LEN]>,
}

impl LetterKeys {
    fn derive(secret: &[u8; LEN], digest: [u8; LEN]) -> Self {
        let key = |info| Key::new(derive(&digest, secret, info));
        Self {
            blocks: key(b"m2y/1 letter blocks"),
            records: key(b"m2y/1 letter records"),
            receipt: Zeroizing::new(derive(&digest, secret, b"m2y/1 letter receipt")),
            digest,
        }
    }
}

/// SHA-256 of the head and the sealed part.
pub fn digest(head: &[u8; HEAD_LEN], sealed: &[u8]) -> [u8; LEN] {
    let hash = Sha256::new_with_prefix(head).chain_update(sealed);
    hash.finalize().into()
}

/// Bytes of the sealed part around this many bytes of JSON.
pub fn sealed_len(json: usize, sender: &PublicKey) -> Result<usize, WireError> {
    let around = TIME_LEN + sender.size() + TAG_LEN;
    match json.saturating_add(around) {
        len @ ..=MAX_ENVELOPE => Ok(len),
        _ => Err(WireError::TooMuchMeta {
            len: json,
            max: MAX_ENVELOPE.saturating_sub(around),
        }),
    }
}

/// The beginning of a letter: head and sealed part. The file follows in records.
// Six parameters: those that the formula for a letter names.
pub fn seal(
    parties: Parties<'_>,
    prekey: &Prekey,
    time: u64,
    json: &[u8],
    sender: &PrivateKey,
    random: &mut Random<'_>,
) -> Result<(Vec<u8>, LetterKeys), WireError> {
    let share = Share::new(random)?;
    let head = Head {
        kind: prekey.kind,
        prekey: prekey.number,
        share: share.public,
        len: sealed_len(json.len(), parties.sender)?,
    };
    let secret = share.agree(&prekey.public)?;
    let bound = parties.bound(&head, &prekey.public);
    let time = time.to_be_bytes();
    let signature = sender.sign(&[LETTER, &bound, &time, json].concat(), random)?;
    let mut plain = Zeroizing::new([time.as_slice(), &signature, json].concat());
    let encoded = head.encode();
    let key = Key::new(derive(LETTER, &*secret, &bound));
    let tag = Seal::new(&key)?.seal(0, true, &encoded, &mut plain)?;
    let sealed = [plain.as_slice(), &tag].concat();
    let keys = LetterKeys::derive(&secret, digest(&encoded, &sealed));
    Ok(([encoded.as_slice(), &sealed].concat(), keys))
}

/// What a letter says.
pub struct Opened {
    /// The sender's clock, in milliseconds since 1970.
    pub time: u64,
    /// The meta.
    pub json: Zeroizing<Vec<u8>>,
    /// Its keys.
    pub keys: LetterKeys,
}

/// Opens the beginning of a letter with the private half of its prekey.
pub fn open(
    parties: Parties<'_>,
    prekey: Share,
    head: &Head,
    sealed: &[u8],
) -> Result<Opened, WireError> {
    let secret = prekey.agree(&head.share)?;
    let bound = parties.bound(head, &prekey.public);
    let key = Key::new(derive(LETTER, &*secret, &bound));
    let (body, tag) = sealed.split_last_chunk().ok_or(WireError::Record)?;
    let mut plain = Zeroizing::new(body.to_vec());
    let encoded = head.encode();
    Seal::new(&key)?.open(0, true, &encoded, &mut plain, tag)?;
    let short = WireError::Letter("less than a signature");
    let (time, rest) = plain.split_first_chunk::<TIME_LEN>().ok_or(short.clone())?;
    let (signature, json) = rest.split_at_checked(parties.sender.size()).ok_or(short)?;
    let signed = [LETTER, &bound, time, json].concat();
    parties.sender.verify(&signed, signature)?;
    Ok(Opened {
        time: u64::from_be_bytes(*time),
        json: Zeroizing::new(json.to_vec()),
        keys: LetterKeys::derive(&secret, digest(&encoded, sealed)),
    })
}

/// The first byte of a receipt that is sealed, and of one for a letter that cannot be opened.
const SEALED: u8 = 1;
const UNOPENED: u8 = 2;

/// What became of a letter, as its receiver says.
#[derive(Debug)]
pub enum Receipt {
    /// It was opened; this is the answer to its meta.
    Answer(Zeroizing<Vec<u8>>),
    /// It cannot be opened, because its prekey is gone.
    Unopened,
}

/// The key of one receipt: fresh, also if a second one is written for the same letter.
fn receipt_key(secret: &[u8; LEN], salt: &[u8; LEN]) -> Key {
    Key::new(derive(salt, secret, b"m2y/1 receipt"))
}

/// Writes a receipt with the answer to a letter.
pub fn seal_receipt(
    keys: &LetterKeys,
    json: &[u8],
    receiver: &PrivateKey,
    random: &mut Random<'_>,
) -> Result<Vec<u8>, WireError> {
    let mut salt = [0; LEN];
    random
        .try_fill_bytes(&mut salt)
        .map_err(CryptoError::from)?;
    let signature = receiver.sign(&[RECEIPT, &keys.digest, json].concat(), random)?;
    let mut plain = [signature.as_slice(), json].concat();
    let key = receipt_key(&keys.receipt, &salt);
    let tag = Seal::new(&key)?.seal(0, true, &[], &mut plain)?;
    Ok([&[SEALED], salt.as_slice(), &plain, &tag].concat())
}

/// Writes the receipt for a letter that cannot be opened.
pub fn unopened_receipt(
    digest: &[u8; LEN],
    receiver: &PrivateKey,
    random: &mut Random<'_>,
) -> Result<Vec<u8>, WireError> {
    let signature = receiver.sign(&[RECEIPT, digest].concat(), random)?;
    Ok([&[UNOPENED], signature.as_slice()].concat())
}

/// Reads a receipt, and checks who wrote it.
pub fn open_receipt(
    secret: &[u8; LEN],
    digest: &[u8; LEN],
    receipt: &[u8],
    receiver: &PublicKey,
) -> Result<Receipt, WireError> {
    let unreadable = WireError::Letter("a receipt that cannot be read");
    match receipt.split_first() {
        Some((&SEALED, rest)) => {
            let (salt, sealed) = rest.split_first_chunk().ok_or(unreadable.clone())?;
            let (body, tag) = sealed.split_last_chunk().ok_or(unreadable.clone())?;
            let mut plain = Zeroizing::new(body.to_vec());
            let key = receipt_key(secret, salt);
            Seal::new(&key)?.open(0, true, &[], &mut plain, tag)?;
            let (signature, json) = plain
                .split_at_checked(receiver.size())
                .filter(|(_, json)| !json.is_empty())
                .ok_or(unreadable)?;
            receiver.verify(&[RECEIPT, digest, json].concat(), signature)?;
            Ok(Receipt::Answer(Zeroizing::new(json.to_vec())))
        }
        Some((&UNOPENED, signature)) => {
            receiver.verify(&[RECEIPT, digest.as_slice()].concat(), signature)?;
            Ok(Receipt::Unopened)
        }
        _ => Err(unreadable),
    }
}

/// The private half of a new prekey.
pub fn new_prekey(random: &mut Random<'_>) -> Result<Zeroizing<[u8; LEN]>, CryptoError> {
    let mut secret = Zeroizing::new([0; LEN]);
    random.try_fill_bytes(&mut *secret)?;
    Ok(secret)
}

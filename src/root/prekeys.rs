//! The private halves of a user's prekeys, in a `prekeys.data` for each relay: sealed, so that it takes
//! the user's private key to read them, and written anew without those that were used.

use std::io;

use zeroize::Zeroizing;

use super::{error::RootError, file, name::Name, user::User};
use crate::{
    crypto::{
        CryptoError, SysRng,
        keys::{PrivateKey, PublicKey},
        random,
        seal::{Key, Seal},
    },
    json::{self, Map, Value},
};

const LABEL: &[u8] = b"m2y/1 prekeys file";

/// The largest prekeys.data, in bytes.
const MAX_LEN: u64 = 1 << 20;

/// The private half of a prekey.
#[derive(Clone)]
pub struct Prekey {
    /// Its number.
    pub number: u64,
    /// When it was made, in milliseconds since 1970.
    pub time: u64,
    /// The X25519 private key.
    pub secret: Zeroizing<[u8; 32]>,
}

/// The private halves of a user's prekeys.
#[derive(Clone, Default)]
pub struct Prekeys {
    /// The number of the next one.
    pub next: u64,
    /// When those for one letter were all replaced, in milliseconds since 1970.
    pub renewed: u64,
    /// For one letter each.
    pub once: Vec<Prekey>,
    /// For all letters of a day, the newest last.
    pub daily: Vec<Prekey>,
}

impl User {
    /// The private halves of the user's prekeys at a relay; `None` if they cannot be opened with the
    /// private key that the user has now.
    pub fn prekeys(
        &self,
        relay: &Name,
        private: &PrivateKey,
    ) -> Result<Option<Prekeys>, RootError> {
        let name = file_of(relay);
        let bytes = match file::read(self.dir(), &name, MAX_LEN) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some(Prekeys::default())),
            read => read.map_err(RootError::io("open", self.at(&name)))?,
        };
        let opened = open(&bytes, private).ok();
        Ok(opened.and_then(|text| read(&json::parse(&text).ok()?)))
    }

    /// Replaces them; what is left out is gone when this returns.
    pub fn set_prekeys(
        &self,
        relay: &Name,
        public: &PublicKey,
        prekeys: &Prekeys,
    ) -> Result<(), RootError> {
        let name = file_of(relay);
        let text = Zeroizing::new(json::canonical(&document(prekeys)).into_bytes());
        let sealed =
            seal(&text, public).map_err(|e| RootError::document(self.at(&name), e.to_string()))?;
        file::replace(self.dir(), &name, 0o600, &sealed)
            .map_err(RootError::io("write", self.at(&name)))
    }
}

/// No folder has such a name: it is hidden.
fn file_of(relay: &Name) -> String {
    format!(".{relay}.prekeys.data")
}

fn seal(text: &[u8], public: &PublicKey) -> Result<Vec<u8>, CryptoError> {
    let bytes = Zeroizing::new(random::<16>()?);
    let wrapped = public.wrap(&*bytes, LABEL, &mut SysRng)?;
    let mut sealed = text.to_vec();
    let tag = Seal::new(&Key::new(*bytes))?.seal(0, true, LABEL, &mut sealed)?;
    Ok([wrapped.as_slice(), &sealed, &tag].concat())
}

fn open(bytes: &[u8], private: &PrivateKey) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let split = || {
        let (wrapped, sealed) = bytes.split_at_checked(private.public().size())?;
        let (body, tag) = sealed.split_last_chunk()?;
        Some((wrapped, body, tag))
    };
    let (wrapped, body, tag) = split().ok_or(CryptoError::Open)?;
    let key = private.unwrap(wrapped, LABEL)?;
    let key = key.as_slice().try_into().map_err(|_| CryptoError::Open)?;
    let mut text = Zeroizing::new(body.to_vec());
    Seal::new(&Key::new(key))?.open(0, true, LABEL, &mut text, tag)?;
    Ok(text)
}

fn document(prekeys: &Prekeys) -> Map<String, Value> {
    let all = |some: &[Prekey]| {
        let each = some.iter().map(|prekey| {
            Value::Array(vec![
                prekey.number.into(),
                prekey.time.into(),
                hex::encode(*prekey.secret).into(),
            ])
        });
        Value::Array(each.collect())
    };
    Map::from_iter([
        ("next".to_owned(), prekeys.next.into()),
        ("renewed".to_owned(), prekeys.renewed.into()),
        ("once".to_owned(), all(&prekeys.once)),
        ("daily".to_owned(), all(&prekeys.daily)),
    ])
}

fn read(document: &Map<String, Value>) -> Option<Prekeys> {
    let all = |field: &str| {
        let each = document.get(field)?.as_array()?.iter().map(|one| {
            let mut secret = Zeroizing::new([0; 32]);
            hex::decode_to_slice(one.get(2)?.as_str()?, &mut *secret).ok()?;
            Some(Prekey {
                number: one.get(0)?.as_u64()?,
                time: one.get(1)?.as_u64()?,
                secret,
            })
        });
        each.collect::<Option<Vec<_>>>()
    };
    Some(Prekeys {
        next: document.get("next")?.as_u64()?,
        renewed: document.get("renewed")?.as_u64()?,
        once: all("once")?,
        daily: all("daily")?,
    })
}

//! A sealed meta: readable by one key, signed by another.

use zeroize::Zeroizing;

use super::{WireError, header::MAX_ENVELOPE};
use crate::crypto::{
    CryptoError, Random,
    keys::{Fingerprint, PrivateKey, PublicKey},
    seal::{Key, Seal, TAG_LEN, derive},
};

/// RSA-OAEP-SHA256, RSA-PSS-SHA256, HKDF-SHA256, AES-128-GCM.
const SUITE: u8 = 1;

/// Bytes of the secret that an envelope wraps.
pub const SECRET_LEN: usize = 32;

/// Bytes of the X25519 share, which precedes the JSON in what is sealed.
const SHARE_LEN: usize = 32;

/// Bytes in the clear at the front: suite and time.
const FRONT_LEN: usize = 1 + 8;

/// Which of the two envelopes of a session it is, or neither. None ever passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first, from the sender.
    Opening,
    /// The second, from the receiver.
    Answer,
    /// The contents of an answer to a contact request, see [`super::pairing`].
    Pairing,
}

impl Part {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Opening => b"m2y/1 opening",
            Self::Answer => b"m2y/1 answer",
            Self::Pairing => b"m2y/1 pairing",
        }
    }
}

/// What an envelope carries.
#[derive(Clone)]
pub struct Contents {
    /// The writer's clock, milliseconds since 1970 in UTC. It is signed but not sealed, so that an
    /// old opening is recognised before a private key is used.
    pub time: u64,
    /// The writer's X25519 public key, fresh for this session.
    pub share: [u8; 32],
    /// The meta.
    pub json: Zeroizing<Vec<u8>>,
}

/// An envelope and the secret that it wraps, which goes into the session keys.
pub struct Sealed {
    /// The bytes for the wire.
    pub bytes: Vec<u8>,
    /// The secret.
    pub secret: Zeroizing<[u8; SECRET_LEN]>,
}

/// Bytes of an envelope around this many bytes of JSON.
pub fn sealed_len(
    json_len: usize,
    sender: &PublicKey,
    receiver: &PublicKey,
) -> Result<usize, WireError> {
    let around = FRONT_LEN + receiver.size() + SHARE_LEN + TAG_LEN + sender.size();
    let len = json_len.saturating_add(around);
    if len > MAX_ENVELOPE {
        return Err(WireError::TooMuchMeta {
            len: json_len,
            max: MAX_ENVELOPE.saturating_sub(around),
        });
    }
    Ok(len)
}

/// Seals `contents`. `bound` is what precedes the envelope (see [the protocol](super)); the
/// envelope cannot be moved after anything else.
// Six parameters: the ones that the protocol's formula for an envelope names.
pub fn seal(
    part: Part,
    bound: &[u8],
    contents: &Contents,
    sender: &PrivateKey,
    receiver: &PublicKey,
    random: &mut Random<'_>,
) -> Result<Sealed, WireError> {
    let len = sealed_len(contents.json.len(), sender.public(), receiver)?;
    let mut secret = Zeroizing::new([0; SECRET_LEN]);
    random
        .try_fill_bytes(&mut *secret)
        .map_err(CryptoError::from)?;
    let mut bytes = Vec::with_capacity(len);
    bytes.push(SUITE);
    bytes.extend(contents.time.to_be_bytes());
    bytes.extend(receiver.wrap(&*secret, part.label(), random)?);

    let mut plain = Zeroizing::new(Vec::with_capacity(SHARE_LEN + contents.json.len()));
    plain.extend(contents.share);
    plain.extend(contents.json.iter());
    let key = key(
        part,
        bound,
        &secret,
        sender.public(),
        receiver.fingerprint(),
    );
    let tag = Seal::new(&key)?.seal(0, true, &[], &mut plain)?;
    bytes.extend(plain.iter());
    bytes.extend(tag);

    let signature = sender.sign(&signed(part, bound, &bytes), random)?;
    bytes.extend(signature);
    Ok(Sealed { bytes, secret })
}

/// An envelope whose signature was checked. Only such an envelope can be opened, so no private key
/// is used for a stranger.
pub struct Verified<'a> {
    part: Part,
    bound: &'a [u8],
    sender: &'a PublicKey,
    time: u64,
    /// What follows the suite and the time.
    rest: &'a [u8],
}

/// Checks that `sender` signed the envelope.
pub fn verify<'a>(
    part: Part,
    bound: &'a [u8],
    envelope: &'a [u8],
    sender: &'a PublicKey,
) -> Result<Verified<'a>, WireError> {
    let (unsigned, signature) = envelope
        .len()
        .checked_sub(sender.size())
        .and_then(|at| envelope.split_at_checked(at))
        .ok_or(CryptoError::Signature)?;
    sender.verify(&signed(part, bound, unsigned), signature)?;
    let (&suite, rest) = unsigned.split_first().ok_or(WireError::Envelope)?;
    if suite != SUITE {
        return Err(WireError::Suite(suite));
    }
    let (time, rest) = rest.split_first_chunk().ok_or(WireError::Envelope)?;
    Ok(Verified {
        part,
        bound,
        sender,
        time: u64::from_be_bytes(*time),
        rest,
    })
}

/// What was in an envelope.
pub struct Opened {
    /// Time, share and meta.
    pub contents: Contents,
    /// The wrapped secret.
    pub secret: Zeroizing<[u8; SECRET_LEN]>,
}

impl Verified<'_> {
    /// The writer's clock when it was written.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// Opens the envelope with the receiver's private key.
    pub fn open(self, receiver: &PrivateKey) -> Result<Opened, WireError> {
        let public = receiver.public();
        let (wrapped, sealed) = self
            .rest
            .split_at_checked(public.size())
            .ok_or(WireError::Envelope)?;
        let (plain, tag) = sealed.split_last_chunk().ok_or(WireError::Envelope)?;
        if plain.len() < SHARE_LEN {
            return Err(WireError::Envelope);
        }
        let unwrapped = receiver.unwrap(wrapped, self.part.label())?;
        let secret: [u8; SECRET_LEN] = unwrapped
            .as_slice()
            .try_into()
            .map_err(|_| CryptoError::Open)?;
        let secret = Zeroizing::new(secret);
        let key = key(
            self.part,
            self.bound,
            &secret,
            self.sender,
            public.fingerprint(),
        );
        let mut plain = Zeroizing::new(plain.to_vec());
        Seal::new(&key)?.open(0, true, &[], &mut plain, tag)?;
        let (share, json) = plain.split_first_chunk().ok_or(WireError::Envelope)?;
        Ok(Opened {
            contents: Contents {
                time: self.time,
                share: *share,
                json: Zeroizing::new(json.to_vec()),
            },
            secret,
        })
    }
}

fn key(
    part: Part,
    bound: &[u8],
    secret: &[u8; SECRET_LEN],
    sender: &PublicKey,
    receiver: Fingerprint,
) -> Key {
    let info = [bound, sender.fingerprint().as_bytes(), receiver.as_bytes()].concat();
    Key::new(derive(part.label(), secret, &info))
}

fn signed(part: Part, bound: &[u8], unsigned: &[u8]) -> Vec<u8> {
    [part.label(), bound, unsigned].concat()
}

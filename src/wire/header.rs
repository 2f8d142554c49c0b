//! The fixed heads: 24 bytes before an opening, 8 before its answer.

use super::{WireError, code::EXCHANGE_LEN, post::SHARE_LEN, relay::TOKEN_LEN};
use crate::root::name::NameHash;

/// The version of the protocol.
pub const VERSION: u16 = 1;

/// Bytes of the head of an opening.
pub const LEN: usize = 24;

/// Bytes of the head of an answer.
pub const ANSWER_LEN: usize = 8;

/// The longest envelope, in bytes.
pub const MAX_ENVELOPE: usize = 65_536;

/// The head of an opening. The hashes only tell where to look for keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the envelope that follows, 1 to [`MAX_ENVELOPE`].
    pub envelope_len: usize,
    /// The sender.
    pub from: NameHash,
    /// The receiver.
    pub to: NameHash,
}

impl Header {
    /// The 24 bytes.
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let parts = first_word(0, self.envelope_len)
            .into_iter()
            .chain(self.from)
            .chain(self.to);
        for (to, from) in bytes.iter_mut().zip(parts) {
            *to = from;
        }
        bytes
    }

    /// Reads the 24 bytes.
    pub fn decode(bytes: &[u8; LEN]) -> Result<Self, WireError> {
        let (first, hashes) = bytes.split_first_chunk().ok_or(WireError::Header)?;
        let (from, to) = hashes.split_first_chunk().ok_or(WireError::Header)?;
        match decode_first_word(first)? {
            (0, envelope_len) => Ok(Self {
                envelope_len: check_len(envelope_len)?,
                from: *from,
                to: to.try_into().map_err(|_| WireError::Header)?,
            }),
            _ => Err(WireError::Header),
        }
    }
}

/// The head of an exchange by a code, see [`code`](super::code).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeHeader {
    /// Which code.
    pub slot: u64,
}

/// What tells such a head from that of an opening.
const CODE: u16 = 1;

impl CodeHeader {
    /// The 24 bytes.
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let parts = first_word(CODE, EXCHANGE_LEN)
            .into_iter()
            .chain(self.slot.to_be_bytes());
        for (to, from) in bytes.iter_mut().zip(parts) {
            *to = from;
        }
        bytes
    }
}

/// The head of the connection of a member that answers a call, see [`relay`](super::relay).
pub fn encode_back() -> [u8; LEN] {
    only_first(BACK, TOKEN_LEN)
}

/// The head of a connection to leave letters, see [`letter`](super::letter).
pub fn encode_post() -> [u8; LEN] {
    only_first(POST, SHARE_LEN)
}

/// A head with nothing but its first word.
fn only_first(kind: u16, len: usize) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    for (to, from) in bytes.iter_mut().zip(first_word(kind, len)) {
        *to = from;
    }
    bytes
}

/// What tells such heads from that of an opening.
const BACK: u16 = 2;
const POST: u16 = 3;

/// The first head of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// Of a session.
    Opening(Header),
    /// Of pairing by a code.
    Code(CodeHeader),
    /// Of a member that answers a call.
    Back,
    /// Of somebody who leaves letters.
    Post,
}

impl First {
    /// Reads the 24 bytes.
    pub fn decode(bytes: &[u8; LEN]) -> Result<Self, WireError> {
        let (first, rest) = bytes.split_first_chunk().ok_or(WireError::Header)?;
        let (slot, zeros) = rest.split_first_chunk().ok_or(WireError::Header)?;
        match decode_first_word(first)? {
            (CODE, len) if usize::try_from(len) == Ok(EXCHANGE_LEN) && zeros == [0; 8] => {
                let slot = u64::from_be_bytes(*slot);
                Ok(Self::Code(CodeHeader { slot }))
            }
            (BACK, _) if *bytes == encode_back() => Ok(Self::Back),
            (POST, _) if *bytes == encode_post() => Ok(Self::Post),
            _ => Header::decode(bytes).map(Self::Opening),
        }
    }
}

/// Why a server turns a connection away without an envelope. The reason is not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Unknown sender, unknown receiver, or a signature that does not match:
    /// the server does not say which.
    Stranger,
    /// Too many connections, or the server is shutting down.
    Busy,
    /// The head cannot be read: a different version, or not m2y at all.
    Unreadable,
    /// The opening is genuine, but too old or from the future, or older than openings of its sender
    /// that the server has forgotten: a recording, or a wrong clock.
    Stale,
}

impl Turned {
    const ALL: [Self; 4] = [Self::Stranger, Self::Busy, Self::Unreadable, Self::Stale];

    fn status(self) -> u16 {
        match self {
            Self::Stranger => 1,
            Self::Busy => 2,
            Self::Unreadable => 3,
            Self::Stale => 4,
        }
    }
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerHeader {
    /// An envelope of this many bytes follows.
    Envelope(usize),
    /// Nothing follows.
    Turned(Turned),
}

impl AnswerHeader {
    /// The 8 bytes.
    pub fn encode(&self) -> [u8; ANSWER_LEN] {
        match self {
            Self::Envelope(len) => first_word(0, *len),
            Self::Turned(turned) => first_word(turned.status(), 0),
        }
    }

    /// Reads the 8 bytes.
    pub fn decode(bytes: &[u8; ANSWER_LEN]) -> Result<Self, WireError> {
        match decode_first_word(bytes)? {
            (0, len) => Ok(Self::Envelope(check_len(len)?)),
            (status, 0) => Turned::ALL
                .into_iter()
                .find(|turned| turned.status() == status)
                .map(Self::Turned)
                .ok_or(WireError::Header),
            _ => Err(WireError::Header),
        }
    }
}

/// Version in the top 16 bits, status in the next 16, length in the low 32.
fn first_word(status: u16, len: usize) -> [u8; 8] {
    // A length that does not fit is refused before it gets here; should one ever get here, every
    // reader refuses the largest length.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    (u64::from(VERSION) << 48 | u64::from(status) << 32 | u64::from(len)).to_be_bytes()
}

fn decode_first_word(bytes: &[u8; 8]) -> Result<(u16, u32), WireError> {
    let word = u64::from_be_bytes(*bytes);
    let version = (word >> 48) as u16;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    Ok(((word >> 32) as u16, word as u32))
}

fn check_len(len: u32) -> Result<usize, WireError> {
    match usize::try_from(len) {
        Ok(len) if (1..=MAX_ENVELOPE).contains(&len) => Ok(len),
        _ => Err(WireError::EnvelopeLength(len)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with_first_word(word: u64) -> [u8; LEN] {
        let mut bytes = [7; LEN];
        bytes[..8].copy_from_slice(&word.to_be_bytes());
        bytes
    }

    #[test]
    fn a_header_comes_back_as_it_went() {
        let header = Header {
            envelope_len: 65_536,
            from: *b"zhenqian",
            to: *b"roland-f",
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn the_head_of_a_code_is_told_from_that_of_an_opening() {
        let code = CodeHeader { slot: 7 };
        assert_eq!(First::decode(&code.encode()), Ok(First::Code(code)));
        let header = Header {
            envelope_len: 33,
            from: [0, 0, 0, 0, 0, 0, 0, 7],
            to: [0; 8],
        };
        assert_eq!(First::decode(&header.encode()), Ok(First::Opening(header)));
        assert!(Header::decode(&code.encode()).is_err());
        let mut other = code.encode();
        other[23] = 1;
        assert!(First::decode(&other).is_err(), "what is to be 0 must be 0");
        let mut back = encode_back();
        assert_eq!(First::decode(&back), Ok(First::Back));
        back[8] = 1;
        assert!(First::decode(&back).is_err());
    }

    #[test]
    fn lengths_outside_1_to_65536_are_refused() {
        for len in [0, 65_537, u64::from(u32::MAX)] {
            let error = Header::decode(&with_first_word(1 << 48 | len)).unwrap_err();
            assert_eq!(error, WireError::EnvelopeLength(len as u32));
        }
    }

    #[test]
    fn other_versions_and_negative_lengths_are_refused() {
        for word in [0, 1 << 63, u64::MAX, 2 << 48 | 100, 500] {
            let error = Header::decode(&with_first_word(word)).unwrap_err();
            assert!(matches!(error, WireError::Version(_)), "{word:x}");
        }
        let error = Header::decode(&with_first_word(1 << 48 | 1 << 32 | 5)).unwrap_err();
        assert_eq!(error, WireError::Header);
    }

    #[test]
    fn answers_come_back_as_they_went() {
        for answer in [
            AnswerHeader::Envelope(1),
            AnswerHeader::Turned(Turned::Stranger),
            AnswerHeader::Turned(Turned::Stale),
        ] {
            assert_eq!(AnswerHeader::decode(&answer.encode()), Ok(answer));
        }
    }
}

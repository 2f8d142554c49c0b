//! Records: what travels after both envelopes, each sealed with its head bound in.

use super::WireError;
use crate::{
    crypto::seal::{Key, Seal, TAG_LEN},
    error::{Code, Error},
    json::{self, Map},
};

/// Bytes of the head of a record.
pub const HEAD_LEN: usize = 12;

/// The longest body of a record before it is sealed, and the length of every
/// block of a file but the last.
pub const MAX_BODY: usize = 65_536;

/// The longest record on the wire.
pub const MAX_RECORD: usize = HEAD_LEN + MAX_BODY + TAG_LEN;

/// A side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that opened the session.
    Client,
    /// The side that answered.
    Server,
}

/// Declares the table of record kinds: a name, its byte on the wire, and which sides may send it. A
/// kind is listed here, and in the roles that act on it.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $byte:literal from $($side:ident)|+;)+) => {
        /// What a record is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $name,)+
            /// A kind that this version does not know.
            Other(u8),
        }

        impl Kind {
            fn byte(self) -> u8 {
                match self {
                    $(Self::$name => $byte,)+
                    Self::Other(byte) => byte,
                }
            }

            fn from_byte(byte: u8) -> Self {
                match byte {
                    $($byte => Self::$name,)+
                    other => Self::Other(other),
                }
            }

            /// Whether this side may send it. An unknown kind may come from a client of a later
            /// version: a server refuses the transfer, not the session.
            pub fn may_come_from(self, side: Side) -> bool {
                match self {
                    $(Self::$name => matches!(side, $(Side::$side)|+),)+
                    Self::Other(_) => side == Side::Client,
                }
            }
        }
    };
}

kinds! {
    /// A further meta: the client asks to send a file.
    Meta = 1 from Client;
    /// The answer to a further meta.
    Answer = 2 from Server;
    /// A piece of a file.
    Block = 3 from Client | Server;
    /// The CRC-32 of a file.
    Trailer = 4 from Client | Server;
    /// The file is safe.
    Ack = 5 from Client | Server;
    /// The transfer is over, and why.
    Error = 6 from Client | Server;
    /// The session is over.
    Close = 7 from Client;
    /// Still working.
    Working = 8 from Client | Server;
    /// From the client: the digest of what the server says it has. From the server: where the
    /// blocks begin.
    Resume = 9 from Client | Server;
    /// The client asks about files of the server.
    Request = 10 from Client;
    /// The server's reply to that, or a part of it.
    Reply = 11 from Server;
    /// Somebody calls a member of a relay.
    Call = 12 from Server;
    /// Whether the member comes.
    Decision = 13 from Client;
    /// From a relay to a member who attends: letters have come. Else a piece of a letter.
    Letter = 14 from Client | Server;
    /// How many bytes of a stream were taken by whoever watches it.
    Watched = 15 from Server;
}

/// The head of a record, in the clear but bound into its seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// Whether it is the last of its stream: always true except for blocks.
    pub last: bool,
    /// Which transfer of the session it belongs to; the opening's is 0.
    pub transfer: u32,
    /// Bytes of the body before it was sealed, at most [`MAX_BODY`].
    pub len: usize,
}

impl Head {
    /// The 12 bytes.
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let [t0, t1, t2, t3] = self.transfer.to_be_bytes();
        let [l0, l1, l2, l3] = u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes();
        [
            self.kind.byte(),
            u8::from(self.last),
            0,
            0,
            t0,
            t1,
            t2,
            t3,
            l0,
            l1,
            l2,
            l3,
        ]
    }

    /// Reads the 12 bytes.
    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Result<Self, WireError> {
        let [kind, last, 0, 0, t0, t1, t2, t3, l0, l1, l2, l3] = *bytes else {
            return Err(WireError::Record);
        };
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let kind = Kind::from_byte(kind);
        // Only blocks are streams of more than one piece.
        if last > 1 || len > MAX_BODY || (last == 0 && kind != Kind::Block) {
            return Err(WireError::Record);
        }
        Ok(Self {
            kind,
            last: last == 1,
            transfer: u32::from_be_bytes([t0, t1, t2, t3]),
            len,
        })
    }

    /// Bytes of the whole record on the wire.
    pub fn record_len(&self) -> usize {
        HEAD_LEN + self.len + TAG_LEN
    }
}

/// Splits what begins with a record into head, sealed body and the rest.
///
/// `None` if more bytes have to arrive first.
pub fn split(bytes: &mut [u8]) -> Result<Option<(Head, &mut [u8])>, WireError> {
    let Some(head) = bytes.first_chunk() else {
        return Ok(None);
    };
    let head = Head::decode(head)?;
    Ok(bytes
        .get_mut(HEAD_LEN..head.record_len())
        .map(|sealed| (head, sealed)))
}

/// How much one key may seal: 256 TiB of blocks. The numbers are a counter and would last longer;
/// this keeps the chance that AES reveals anything through its blocks of 128 bits below 2^-40.
const MAX_SEALED: u64 = 1 << 32;

/// One key with the number of what it seals next: a direction of a session, or
/// the blocks of one attempt to send one file.
pub struct Stream {
    seal: Seal,
    next: u64,
}

impl Stream {
    /// A stream from its beginning.
    pub fn new(key: &Key) -> Result<Self, WireError> {
        Ok(Self {
            seal: Seal::new(key)?,
            next: 0,
        })
    }

    /// A stream whose first `number` records went elsewhere.
    pub fn behind(key: &Key, number: u64) -> Result<Self, WireError> {
        Ok(Self {
            next: number,
            ..Self::new(key)?
        })
    }

    /// The number of the next record; fails once the key has sealed enough.
    fn number(&self) -> Result<u64, WireError> {
        match self.next {
            number @ ..MAX_SEALED => Ok(number),
            _ => Err(WireError::KeyWorn),
        }
    }

    /// Seals a record in place: `record` holds room for the head, the body, room
    /// for the tag, and nothing else.
    pub fn seal(&mut self, head: Head, record: &mut [u8]) -> Result<(), WireError> {
        debug_assert_eq!(record.len(), head.record_len());
        let bytes = head.encode();
        let (to, rest) = record.split_first_chunk_mut().ok_or(WireError::Record)?;
        let (body, tag) = rest.split_last_chunk_mut().ok_or(WireError::Record)?;
        *to = bytes;
        *tag = self.seal.seal(self.number()?, head.last, &bytes, body)?;
        self.next += 1;
        Ok(())
    }

    /// Opens the sealed body of a record in place and returns the body.
    pub fn open<'a>(
        &mut self,
        head: Head,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], WireError> {
        let (body, tag) = sealed.split_last_chunk_mut().ok_or(WireError::Record)?;
        self.seal
            .open(self.number()?, head.last, &head.encode(), body, tag)?;
        self.next += 1;
        Ok(body)
    }

    /// Seals a whole record from its body.
    pub fn record(&mut self, kind: Kind, transfer: u32, body: &[u8]) -> Result<Vec<u8>, WireError> {
        let mut record = Vec::with_capacity(HEAD_LEN + body.len() + TAG_LEN);
        self.record_into(&mut record, kind, transfer, body)?;
        Ok(record)
    }

    /// [`Self::record`], appended to `out`.
    pub fn record_into(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        transfer: u32,
        body: &[u8],
    ) -> Result<(), WireError> {
        let head = Head {
            kind,
            last: true,
            transfer,
            len: body.len(),
        };
        if body.len() > MAX_BODY {
            return Err(WireError::Record);
        }
        let at = out.len();
        out.extend([0; HEAD_LEN]);
        out.extend(body);
        out.extend([0; TAG_LEN]);
        let record = out.get_mut(at..).ok_or(WireError::Record)?;
        self.seal(head, record)
    }
}

/// The body of [`Kind::Ack`].
pub const ACK: &[u8] = b"ACK";

/// The body of a [`Kind::Working`] that says why: the hooks of the folder that its transfer's file
/// goes to are running.
pub const HOOKS: &[u8] = b"hooks";

/// The body of [`Kind::Trailer`]: the CRC-32 as an int64.
pub fn encode_trailer(crc: u32) -> [u8; 8] {
    u64::from(crc).to_be_bytes()
}

/// Reads the body of [`Kind::Trailer`].
pub fn decode_trailer(body: &[u8]) -> Result<u32, WireError> {
    body.try_into()
        .ok()
        .and_then(|bytes| u32::try_from(u64::from_be_bytes(bytes)).ok())
        .ok_or(WireError::Record)
}

/// The body of [`Kind::Resume`] from a receiver: an offset as an int64.
pub fn encode_offset(offset: u64) -> [u8; 8] {
    offset.to_be_bytes()
}

/// Reads the body of [`Kind::Resume`] from a receiver.
pub fn decode_offset(body: &[u8]) -> Result<u64, WireError> {
    let bytes = body.try_into().map_err(|_| WireError::Record)?;
    Ok(u64::from_be_bytes(bytes))
}

/// The body of [`Kind::Error`].
pub fn encode_error(error: &Error) -> Vec<u8> {
    let mut document = Map::new();
    document.insert("code".to_owned(), error.code.word().into());
    document.insert("error".to_owned(), error.sentence.as_str().into());
    json::canonical(&document).into_bytes()
}

/// Reads the body of [`Kind::Error`].
pub fn decode_error(body: &[u8]) -> Result<Error, WireError> {
    let document = json::parse(body).map_err(|_| WireError::Record)?;
    let text = |field| document.get(field).and_then(json::Value::as_str);
    match (text("code"), text("error")) {
        (Some(code), Some(sentence)) => Ok(Error::new(Code::from_word(code), sentence)),
        _ => Err(WireError::Record),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_seals_and_opens_no_more_than_its_share() {
        let near_its_end = || Stream {
            next: MAX_SEALED - 1,
            ..Stream::new(&Key::new([7; 16])).unwrap()
        };
        let (mut ours, mut theirs) = (near_its_end(), near_its_end());
        let mut last = ours.record(Kind::Ack, 1, ACK).unwrap();
        let head = Head::decode(last.first_chunk().unwrap()).unwrap();
        let sealed = last.split_at_mut(HEAD_LEN).1;
        assert_eq!(theirs.open(head, &mut sealed.to_vec()).unwrap(), ACK);
        let worn = ours.record(Kind::Ack, 1, ACK).unwrap_err();
        assert!(matches!(worn, WireError::KeyWorn), "{worn}");
        let worn = theirs.open(head, sealed).unwrap_err();
        assert!(matches!(worn, WireError::KeyWorn), "{worn}");
    }
}

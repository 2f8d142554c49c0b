//! The code by which any two of four members rebuild a chunk.
//!
//! A chunk is padded to a multiple of four and divided into A1, A2, B1 and B2. Member 1 holds
//! A1 A2, member 2 holds B1 B2, member 3 holds A1^B1 A2^B2, member 4 holds A2^B1 A1^A2^B2,
//! where ^ is the exclusive or. All six pairs of members have full rank, so each rebuilds the
//! chunk. The scheme and its padding are those of the file server that m2y grew from (sections
//! 5.2 to 5.7 of its document): 1 to 4 bytes, each with the number of padding bytes.

use hyper::body::Bytes;
use thiserror::Error;

use crate::store::buffers;

/// Members of a stripe.
pub const MEMBERS: usize = 4;

/// Pieces of a padded chunk; a share consists of two.
const PIECES: usize = 4;

/// Why shares do not rebuild a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CodeError {
    /// Fewer than two shares are there.
    #[error("only {0} of four shares can be read, and two are needed")]
    TooFew(usize),
    /// The shares have different lengths, or one that no share has.
    #[error("the shares have lengths that do not belong together")]
    Length,
    /// The rebuilt chunk does not end as a padded one does.
    #[error("the shares do not belong together: the padding is wrong")]
    Padding,
}

/// The bytes of each share of a chunk of so many bytes.
#[must_use]
pub const fn share_len(chunk: usize) -> usize {
    (chunk / PIECES + 1) * 2
}

/// A chunk in the buffer in which it is encoded: padded, and so the shares of members 1 and 2.
fn pad(chunk: &mut Vec<u8>) {
    let missing = PIECES - chunk.len() % PIECES;
    // 1 to 4.
    chunk.resize(chunk.len() + missing, missing as u8);
}

/// Removes the padding.
fn unpad(chunk: &mut Vec<u8>) -> Result<(), CodeError> {
    let last = chunk.last().copied().unwrap_or(0);
    let padding = usize::from(last);
    let len = chunk.len().checked_sub(padding);
    let is_padding = |len: &usize| {
        let bytes = chunk.get(*len..).unwrap_or_default();
        (1..=PIECES).contains(&padding) && bytes.iter().all(|byte| *byte == last)
    };
    match len.filter(is_padding) {
        Some(len) => {
            chunk.truncate(len);
            Ok(())
        }
        None => Err(CodeError::Padding),
    }
}

/// Both halves of a share, or of two shares one behind the other.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len() / 2)
}

/// Writes `a ^ b` behind what is there. All have the same length.
fn xor(to: &mut Vec<u8>, a: &[u8], b: &[u8]) {
    to.extend(a.iter().zip(b).map(|(a, b)| a ^ b));
}

/// The same of three.
fn xor3(to: &mut Vec<u8>, a: &[u8], b: &[u8], c: &[u8]) {
    to.extend(a.iter().zip(b).zip(c).map(|((a, b), c)| a ^ b ^ c));
}

/// What the four members hold of a chunk.
pub struct Shares {
    /// The padded chunk: the shares of members 1 and 2.
    data: Vec<u8>,
    /// The shares of members 3 and 4.
    parity: [Vec<u8>; 2],
}

impl Shares {
    /// Encodes a chunk, in time proportional to its length. The vectors of an earlier chunk,
    /// if given, are used again.
    #[must_use]
    pub fn encode(mut chunk: Vec<u8>, mut parity: [Vec<u8>; 2]) -> Self {
        pad(&mut chunk);
        let (a, b) = halves(&chunk);
        let ((a1, a2), (b1, b2)) = (halves(a), halves(b));
        let [third, fourth] = &mut parity;
        for share in [&mut *third, &mut *fourth] {
            share.clear();
            share.reserve_exact(a.len());
        }
        xor(third, a, b);
        xor(fourth, a2, b1);
        xor3(fourth, a1, a2, b2);
        Self {
            data: chunk,
            parity,
        }
    }

    /// The share of each member, in their order.
    #[must_use]
    pub fn all(&self) -> [&[u8]; MEMBERS] {
        let (first, second) = halves(&self.data);
        let [third, fourth] = &self.parity;
        [first, second, third, fourth]
    }

    /// The share of each member with something behind it. Nothing but half of the chunk is copied,
    /// if the chunk was in a buffer with room for two trailers and the padding.
    #[must_use]
    pub fn into_objects(self, trailer: &[u8]) -> [Bytes; MEMBERS] {
        let Self {
            mut data,
            parity: [third, fourth],
        } = self;
        let half = data.len() / 2;
        let end = half + trailer.len();
        data.extend_from_slice(trailer);
        data.copy_within(half..2 * half, end);
        if let Some(behind) = data.get_mut(half..end) {
            behind.copy_from_slice(trailer);
        }
        data.extend_from_slice(trailer);
        let data = buffers::shared(data);
        let [third, fourth] = [third, fourth].map(|mut share| {
            share.extend_from_slice(trailer);
            buffers::shared(share)
        });
        [data.slice(..end), data.slice(end..), third, fourth]
    }

    /// The vectors, for [`Self::encode`] of the next chunk.
    #[must_use]
    pub fn into_parity(self) -> [Vec<u8>; 2] {
        self.parity
    }
}

/// Rebuilds a chunk from the shares that are there, in the order of the members. It takes two:
/// those of members 1 and 2 if they are there, since nothing is to be computed then. Whether
/// the others agree with them is for [`Shares::encode`] and a comparison.
///
/// # Errors
///
/// If fewer than two are there, or if they do not belong together as far as lengths and
/// padding tell.
pub fn rebuild(shares: [Option<&[u8]>; MEMBERS]) -> Result<Vec<u8>, CodeError> {
    let mut chunk = Vec::new();
    rebuild_into(shares, &mut chunk)?;
    Ok(chunk)
}

/// [`rebuild`] into a buffer whose contents are discarded, and whose memory is used again.
///
/// # Errors
///
/// As those of [`rebuild`]; the buffer holds nothing of use then.
pub fn rebuild_into(
    shares: [Option<&[u8]>; MEMBERS],
    chunk: &mut Vec<u8>,
) -> Result<(), CodeError> {
    chunk.clear();
    let there = shares.iter().flatten().count();
    let mut lengths = shares.iter().flatten().map(|share| share.len());
    let len = lengths.next().ok_or(CodeError::TooFew(0))?;
    if len == 0 || len % 2 != 0 || lengths.any(|other| other != len) {
        return Err(CodeError::Length);
    }
    chunk
        .try_reserve_exact(len * 2)
        .map_err(|_| CodeError::Length)?;
    match shares {
        [Some(a), Some(b), ..] => {
            chunk.extend_from_slice(a);
            chunk.extend_from_slice(b);
        }
        [Some(a), None, Some(c), _] => {
            chunk.extend_from_slice(a);
            xor(chunk, a, c);
        }
        [None, Some(b), Some(c), _] => {
            xor(chunk, b, c);
            chunk.extend_from_slice(b);
        }
        [Some(a), None, None, Some(d)] => {
            let ((a1, a2), (d1, d2)) = (halves(a), halves(d));
            chunk.extend_from_slice(a);
            xor(chunk, a2, d1);
            xor3(chunk, a1, a2, d2);
        }
        [None, Some(b), None, Some(d)] => {
            let ((b1, b2), (d1, d2)) = (halves(b), halves(d));
            // A2 = D1^B1, and so A1 = D2^A2^B2.
            let mut a2 = Vec::new();
            xor(&mut a2, d1, b1);
            xor3(chunk, d2, &a2, b2);
            chunk.append(&mut a2);
            chunk.extend_from_slice(b);
        }
        [None, None, Some(c), Some(d)] => {
            let ((c1, c2), (d1, d2)) = (halves(c), halves(d));
            // A1 = C2^D2, so B1 = C1^A1, A2 = D1^B1 and B2 = C2^A2.
            xor(chunk, c2, d2);
            let mut b1 = Vec::new();
            xor(&mut b1, c1, chunk);
            let mut a2 = Vec::new();
            xor(&mut a2, d1, &b1);
            let mut b2 = Vec::new();
            xor(&mut b2, c2, &a2);
            chunk.append(&mut a2);
            chunk.append(&mut b1);
            chunk.append(&mut b2);
        }
        _ => return Err(CodeError::TooFew(there)),
    }
    unpad(chunk)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(chunk: &[u8]) -> Shares {
        Shares::encode(chunk.to_vec(), [Vec::new(), Vec::new()])
    }

    proptest! {
        #[test]
        fn any_two_shares_rebuild_a_chunk(chunk in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let shares = encoded(&chunk);
            let all = shares.all();
            prop_assert!(all.iter().all(|share| share.len() == share_len(chunk.len())));
            for present in 0_u8..16 {
                let some = |member: usize| (present >> member & 1 == 1).then(|| all[member]);
                let rebuilt = rebuild([some(0), some(1), some(2), some(3)]);
                match present.count_ones() {
                    0 | 1 => prop_assert_eq!(
                        rebuilt,
                        Err(CodeError::TooFew(present.count_ones() as usize))
                    ),
                    _ => prop_assert_eq!(rebuilt.as_deref(), Ok(&*chunk), "{:04b}", present),
                }
            }
            let expected = all.map(|share| [share, b"behind"].concat());
            prop_assert_eq!(encoded(&chunk).into_objects(b"behind"), expected);
        }
    }

    #[test]
    fn shares_that_do_not_belong_together_are_an_error() {
        let (one, other) = (encoded(b"seven b"), encoded(b"more than seven bytes"));
        let rebuilt = rebuild([Some(one.all()[0]), None, Some(other.all()[2]), None]);
        assert_eq!(rebuilt, Err(CodeError::Length));
        let odd = [0; 3];
        assert_eq!(
            rebuild([Some(&odd), Some(&odd), None, None]),
            Err(CodeError::Length)
        );
        assert_eq!(
            rebuild([Some(&[]), Some(&[]), None, None]),
            Err(CodeError::Length)
        );
        let (five, zeros) = ([5; 2], [0; 2]);
        for padding in [five, zeros] {
            let rebuilt = rebuild([Some(&five), Some(&padding), None, None]);
            assert_eq!(rebuilt, Err(CodeError::Padding));
        }
    }
}

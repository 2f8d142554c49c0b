//! What two sides compare before a transfer resumes where another broke off.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Bytes that are read at once.
const BUFFER: usize = 262_144;

/// Bytes of the digest of a prefix.
pub const DIGEST_LEN: usize = 32;

/// The SHA-256 and the CRC-32 of the first `len` bytes; an error if there are fewer.
pub fn prefix_digest(
    from: impl Read,
    len: u64,
) -> io::Result<([u8; DIGEST_LEN], crc32fast::Hasher)> {
    let (sha, crc) = prefix_sums(from, len)?;
    Ok((sha.finalize().into(), crc))
}

/// [`prefix_digest`], to which more bytes can be added.
pub fn prefix_sums(from: impl Read, len: u64) -> io::Result<(Sha256, crc32fast::Hasher)> {
    let mut from = from.take(len);
    let (mut sha, mut crc) = (Sha256::new(), crc32fast::Hasher::new());
    let mut buffer = vec![0; BUFFER];
    let mut left = len;
    while left > 0 {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        sha.update(bytes);
        crc.update(bytes);
        left = left.saturating_sub(read as u64);
    }
    Ok((sha, crc))
}

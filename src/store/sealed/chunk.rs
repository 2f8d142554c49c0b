//! Chunks: pieces of a file of up to 8 MiB, each an object.
//!
//! A chunk is sealed block by block, under a key derived (HKDF-SHA256, RFC 5869) from the secret
//! of the file and the id of the chunk, which is random. So a chunk that is sent once more after
//! an error is never sealed with a key and a number that sealed something else. The place of the
//! chunk in the file is authenticated with every block. The tags are kept apart from the
//! blocks: sealed blocks are as long as the bytes they hold.

use crate::crypto::{
    self, CryptoError, Key,
    seal::{Seal, TAG_LEN, Tag, derive},
};

use super::FileSecret;

/// Bytes of a chunk, apart from the last of a file.
pub const CHUNK: usize = 8 << 20;

/// Bytes of a block, apart from the last of a chunk.
pub const BLOCK: usize = 65_536;

/// Bytes of the tag of a block.
pub const TAG_BYTES: usize = TAG_LEN;

/// What the key of a chunk is derived for.
const INFO: &[u8] = b"m2y store chunk";

/// The id of a chunk, which is also in the key of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkId(pub [u8; 16]);

impl ChunkId {
    /// A fresh id.
    ///
    /// # Errors
    ///
    /// If the operating system gives no randomness.
    pub fn new() -> Result<Self, CryptoError> {
        crypto::random().map(Self)
    }
}

/// Seals and opens one chunk.
pub struct ChunkSeal {
    seal: Seal,
    /// The place of the chunk in the file, from 0 on.
    place: [u8; 8],
}

/// Bytes of the tags of a chunk of this length.
#[must_use]
pub const fn tags_len(chunk: usize) -> usize {
    chunk.div_ceil(BLOCK) * TAG_LEN
}

impl ChunkSeal {
    /// For chunk number `place` of a file, from 0 on.
    ///
    /// # Errors
    ///
    /// If the back end refuses the key.
    pub fn new(secret: &FileSecret, id: &ChunkId, place: u64) -> Result<Self, CryptoError> {
        let key = Key::new(derive(&id.0, &*secret.0, INFO));
        Ok(Self {
            seal: Seal::new(&key)?,
            place: place.to_be_bytes(),
        })
    }

    /// Seals a whole chunk in place and returns the tags of its blocks, one behind the other.
    ///
    /// # Errors
    ///
    /// If the back end fails.
    pub fn seal(self, chunk: &mut [u8]) -> Result<Vec<u8>, CryptoError> {
        let mut tags = Vec::with_capacity(tags_len(chunk.len()));
        let blocks = chunk.len().div_ceil(BLOCK);
        for (number, block) in (1..).zip(chunk.chunks_mut(BLOCK)) {
            let last = number == blocks;
            let tag = self.seal.seal(number as u64, last, &self.place, block)?;
            tags.extend_from_slice(&tag);
        }
        Ok(tags)
    }

    /// Opens a whole chunk in place.
    ///
    /// # Errors
    ///
    /// If a block or a tag is not what was sealed here, or one is missing.
    pub fn open(&self, chunk: &mut [u8], tags: &[u8]) -> Result<(), CryptoError> {
        let len = chunk.len();
        self.open_blocks(chunk, tags, 0, len)
    }

    /// Opens some blocks of a chunk of `len` bytes in place, those from number `first` on,
    /// counted from 0.
    ///
    /// # Errors
    ///
    /// As those of [`Self::open`].
    pub fn open_blocks(
        &self,
        bytes: &mut [u8],
        tags: &[u8],
        first: u64,
        len: usize,
    ) -> Result<(), CryptoError> {
        if tags.len() != tags_len(bytes.len()) {
            return Err(CryptoError::Open);
        }
        let blocks = len.div_ceil(BLOCK) as u64;
        let sealed = bytes.chunks_mut(BLOCK).zip(tags.chunks(TAG_LEN));
        for (number, (block, tag)) in (first + 1..).zip(sealed) {
            let tag: Tag = tag.try_into().map_err(|_| CryptoError::Open)?;
            let last = number == blocks;
            self.seal.open(number, last, &self.place, block, &tag)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn sealed(secret: &FileSecret, id: &ChunkId, place: u64, plain: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut chunk = plain.to_vec();
        let tags = ChunkSeal::new(secret, id, place).unwrap().seal(&mut chunk);
        (chunk, tags.unwrap())
    }

    fn opened(
        (secret, id, place): (&FileSecret, &ChunkId, u64),
        mut chunk: Vec<u8>,
        tags: &[u8],
    ) -> Option<Vec<u8>> {
        let seal = ChunkSeal::new(secret, id, place).unwrap();
        seal.open(&mut chunk, tags).ok().map(|()| chunk)
    }

    #[test]
    fn a_chunk_opens_as_it_was_and_only_in_its_place() {
        let (secret, id) = (FileSecret::new().unwrap(), ChunkId::new().unwrap());
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
            let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (chunk, tags) = sealed(&secret, &id, 7, &plain);
            assert_eq!((chunk.len(), tags.len()), (len, tags_len(len)));
            let open = |secret: &FileSecret, id: &ChunkId, place| {
                opened((secret, id, place), chunk.clone(), &tags)
            };
            assert_eq!(open(&secret, &id, 7), Some(plain));
            if len == 0 {
                continue;
            }
            assert_eq!(open(&secret, &id, 8), None, "another place");
            assert_eq!(open(&secret, &ChunkId::new().unwrap(), 7), None);
            assert_eq!(open(&FileSecret::new().unwrap(), &id, 7), None);
        }
    }

    #[test]
    fn what_was_flipped_cut_or_swapped_does_not_open() {
        let (secret, id) = (FileSecret::new().unwrap(), ChunkId::new().unwrap());
        let plain = vec![3; 2 * BLOCK + 5];
        let (chunk, tags) = sealed(&secret, &id, 0, &plain);
        let open = |chunk: Vec<u8>, tags: &[u8]| opened((&secret, &id, 0), chunk, tags);
        for at in [0, BLOCK, plain.len() - 1] {
            let mut flipped = chunk.clone();
            flipped[at] ^= 1;
            assert_eq!(open(flipped, &tags), None);
        }
        let mut flipped = tags.clone();
        flipped[TAG_LEN] ^= 1;
        assert_eq!(open(chunk.clone(), &flipped), None);
        // A block less, with the tags of those that are there.
        let cut = chunk[..2 * BLOCK].to_vec();
        assert_eq!(open(cut, &tags[..2 * TAG_LEN]), None);
        let mut swapped = chunk.clone();
        let (first, second) = swapped.split_at_mut(BLOCK);
        first.swap_with_slice(&mut second[..BLOCK]);
        let mut other = tags.clone();
        let (first, second) = other.split_at_mut(TAG_LEN);
        first.swap_with_slice(&mut second[..TAG_LEN]);
        assert_eq!(open(swapped, &other), None);
        assert_eq!(open(chunk, &tags), Some(plain));
    }
}

//! Manifests: what a name of a folder stands for.
//!
//! ```text
//! "M2YM" 1            magic and version, 5 bytes
//! length              of the head, 4 bytes, big-endian
//! head                JSON: for each reader the SHA-256 of the public key, and the secret of the
//!                     file wrapped for it by RSA-OAEP (RFC 8017) with SHA-256
//! salt                16 random bytes
//! body                JSON, sealed with AES-128-GCM, and its tag
//! ```
//!
//! The key of the body is derived from the secret of the file, the salt and the key of the object;
//! all that stands before the body is authenticated with it. So a manifest opens under no other key, and
//! with no other head.

use super::{
    FileSecret,
    chunk::{CHUNK, ChunkId},
};
use crate::{
    crypto::{
        CryptoError, Key, Random,
        keys::{PrivateKey, PublicKey},
        seal::{Seal, TAG_LEN, Tag, derive},
    },
    json::{self, Map, Value},
    store::member::ObjectKey,
};

/// Magic and version.
const MAGIC: &[u8; 5] = b"M2YM\x01";

/// Bytes before the head.
const PREFIX: usize = MAGIC.len() + 4;

/// The longest head, in bytes: some sixty readers.
const MAX_HEAD: usize = 1 << 16;

/// The longest manifest, in bytes: that of a file of some 5 TB.
pub const MAX_LEN: usize = 256 << 20;

/// The label of wrapped secrets.
const LABEL: &[u8] = b"m2y store secret";

/// What the key of a body is derived for.
const INFO: &[u8] = b"m2y store manifest";

/// Bytes of the SHA-256 of a share.
const DIGEST_LEN: usize = 32;

/// The id of a directory. That of the folder itself is all zeros.
pub type DirectoryId = [u8; 16];

/// The id of the folder itself as a directory.
pub const TOP: DirectoryId = [0; 16];

/// The order of manifests under one name: a later one replaces an earlier one, whatever a member
/// that was away has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence {
    /// The number of the lease under which it was written.
    pub fence: u64,
    /// The number of the write under that lease.
    pub count: u64,
}

/// What a name of a folder stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The directory that the name is in.
    pub parent: DirectoryId,
    /// The name.
    pub name: String,
    /// Which of several manifests of the name counts.
    pub sequence: Sequence,
    /// What it is.
    pub kind: Kind,
}

/// What has a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A file.
    File(Contents),
    /// A directory, whose names refer to it by its id.
    Directory(DirectoryId),
    /// A tombstone: nothing has the name any more.
    Removed,
}

/// The contents of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    /// Bytes.
    pub size: u64,
    /// When the file changed last, in nanoseconds since 1970.
    pub modified: i64,
    /// The CRC-32 of the bytes.
    pub crc: u32,
    /// Its chunks, in their order.
    pub chunks: Vec<Chunk>,
    /// The document that came with the file, if one did.
    pub meta: Option<String>,
}

/// A chunk of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its id.
    pub id: ChunkId,
    /// Bytes of the file in it.
    pub len: u32,
    /// The SHA-256 of each share as it is stored: one, or four on a stripe.
    pub shares: Vec<[u8; DIGEST_LEN]>,
}

/// Why a manifest cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is not one, or one of a later version.
    #[error("this is not a manifest that this version of m2y reads")]
    Unreadable,
    /// It would be longer than one may be, or has more readers.
    #[error("the file has too many chunks or readers for a manifest")]
    TooLong,
    /// The owner is not among its readers.
    #[error("it is sealed for other keys than yours")]
    NotForUs,
    /// It was altered, or belongs to another name.
    #[error("it was altered, or moved here from another name")]
    Altered,
    /// Something failed that has nothing to do with it.
    #[error("{0}")]
    Crypto(#[from] CryptoError),
}

impl Manifest {
    /// Seals it for readers, under the key of its object. `secret` is that of the file, and a
    /// fresh one where there is no file.
    ///
    /// # Errors
    ///
    /// If the operating system gives no randomness, or the manifest would be too long.
    pub fn seal(
        &self,
        key: &ObjectKey,
        secret: &FileSecret,
        readers: &[&PublicKey],
        random: &mut Random<'_>,
    ) -> Result<Vec<u8>, ManifestError> {
        let mut wrapped = Vec::new();
        for reader in readers {
            let mut one = Map::new();
            let fingerprint = hex::encode(reader.fingerprint().as_bytes());
            one.insert("key".to_owned(), fingerprint.into());
            let secret = reader.wrap(&*secret.0, LABEL, random)?;
            one.insert("secret".to_owned(), hex::encode(secret).into());
            wrapped.push(Value::Object(one));
        }
        let mut head = Map::new();
        head.insert("readers".to_owned(), Value::Array(wrapped));
        let head = json::canonical(&head);
        let len = u32::try_from(head.len()).map_err(|_| ManifestError::TooLong)?;
        if head.len() > MAX_HEAD {
            return Err(ManifestError::TooLong);
        }
        let mut sealed = [&MAGIC[..], &len.to_be_bytes(), head.as_bytes()].concat();
        let mut body = json::canonical(&self.to_document()).into_bytes();
        // A file that is renamed keeps its secret, and gets another manifest: each body has a key
        // of its own.
        let salt: [u8; 16] = crate::crypto::random()?;
        sealed.extend_from_slice(&salt);
        let seal = body_seal(key, secret, &salt)?;
        let tag = seal.seal(0, true, &sealed, &mut body)?;
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(&tag);
        match sealed.len() > MAX_LEN {
            true => Err(ManifestError::TooLong),
            false => Ok(sealed),
        }
    }

    /// Opens the manifest that is stored under this key, for the owner of a private key. Returns
    /// the secret of the file too.
    ///
    /// # Errors
    ///
    /// If it is not a manifest, not for this reader, or not what was sealed under this key.
    pub fn open(
        sealed: &[u8],
        key: &ObjectKey,
        private: &PrivateKey,
    ) -> Result<(Self, FileSecret), ManifestError> {
        let unreadable = ManifestError::Unreadable;
        let head_len = sealed
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.first_chunk::<4>())
            .map(|len| u32::from_be_bytes(*len) as usize)
            .filter(|len| *len <= MAX_HEAD && sealed.len() <= MAX_LEN)
            .ok_or(unreadable.clone())?;
        let head = sealed
            .get(PREFIX..PREFIX + head_len)
            .ok_or(unreadable.clone())?;
        let start = PREFIX + head_len + 16;
        let end = sealed
            .len()
            .checked_sub(TAG_LEN)
            .filter(|end| *end >= start);
        let end = end.ok_or(unreadable.clone())?;
        let (before, body, tag) = (
            sealed.get(..start).unwrap_or_default(),
            sealed.get(start..end).unwrap_or_default(),
            sealed.get(end..).unwrap_or_default(),
        );
        let salt = before.get(PREFIX + head_len..).unwrap_or_default();
        let secret = unwrap(head, private)?;
        let tag: Tag = tag.try_into().map_err(|_| unreadable.clone())?;
        let mut body = body.to_vec();
        body_seal(key, &secret, salt)?
            .open(0, true, before, &mut body, &tag)
            .map_err(|_| ManifestError::Altered)?;
        let document = json::parse(&body).map_err(|_| unreadable.clone())?;
        let manifest = Self::from_document(&document).ok_or(unreadable)?;
        Ok((manifest, secret))
    }

    fn to_document(&self) -> Map<String, Value> {
        let mut document = Map::new();
        let mut put = |field: &str, value: Value| document.insert(field.to_owned(), value);
        put("parent", hex::encode(self.parent).into());
        put("name", self.name.as_str().into());
        put("fence", self.sequence.fence.into());
        put("count", self.sequence.count.into());
        match &self.kind {
            Kind::File(contents) => {
                put("type", "file".into());
                put("size", contents.size.into());
                put("modified", contents.modified.into());
                put("crc", contents.crc.into());
                let members = contents
                    .chunks
                    .first()
                    .map_or(1, |chunk| chunk.shares.len());
                put("members", members.into());
                if let Some(meta) = &contents.meta {
                    put("meta", meta.as_str().into());
                }
                put("chunks", chunks_to_text(&contents.chunks).into());
            }
            Kind::Directory(id) => {
                put("type", "dir".into());
                put("id", hex::encode(id).into());
            }
            Kind::Removed => {
                put("type", "removed".into());
            }
        }
        document
    }

    fn from_document(document: &Map<String, Value>) -> Option<Self> {
        let text = |field: &str| document.get(field)?.as_str();
        let number = |field: &str| document.get(field)?.as_u64();
        let id = |field: &str| {
            let mut id = [0; 16];
            hex::decode_to_slice(text(field)?, &mut id).ok()?;
            Some(id)
        };
        let kind = match text("type")? {
            "file" => {
                let contents = Contents {
                    size: number("size")?,
                    modified: document.get("modified")?.as_i64()?,
                    crc: u32::try_from(number("crc")?).ok()?,
                    chunks: chunks_from_text(
                        text("chunks")?,
                        usize::try_from(number("members")?).ok()?,
                    )?,
                    meta: text("meta").map(str::to_owned),
                };
                let lens = contents.chunks.iter().map(|chunk| u64::from(chunk.len));
                let whole = lens.sum::<u64>() == contents.size;
                whole.then_some(Kind::File(contents))?
            }
            "dir" => Kind::Directory(id("id")?),
            "removed" => Kind::Removed,
            _ => return None,
        };
        Some(Self {
            parent: id("parent")?,
            name: text("name")?.to_owned(),
            sequence: Sequence {
                fence: number("fence")?,
                count: number("count")?,
            },
            kind,
        })
    }
}

/// Chunks as hexadecimal digits, one behind the other: the id, the length (4 bytes, big-endian),
/// the digests.
fn chunks_to_text(chunks: &[Chunk]) -> String {
    let mut bytes = Vec::new();
    for chunk in chunks {
        bytes.extend_from_slice(&chunk.id.0);
        bytes.extend_from_slice(&chunk.len.to_be_bytes());
        chunk
            .shares
            .iter()
            .for_each(|digest| bytes.extend_from_slice(digest));
    }
    hex::encode(bytes)
}

fn chunks_from_text(text: &str, members: usize) -> Option<Vec<Chunk>> {
    if members != 1 && members != crate::store::stripe::code::MEMBERS {
        return None;
    }
    let bytes = hex::decode(text).ok()?;
    let records = bytes.chunks_exact(20 + members * DIGEST_LEN);
    if !records.remainder().is_empty() {
        return None;
    }
    records
        .map(|record| {
            let (id, rest) = record.split_first_chunk::<16>()?;
            let (len, digests) = rest.split_first_chunk::<4>()?;
            let len = u32::from_be_bytes(*len);
            let digests = digests.chunks_exact(DIGEST_LEN);
            (0 < len && len as usize <= CHUNK).then_some(())?;
            Some(Chunk {
                id: ChunkId(*id),
                len,
                shares: digests
                    .map(|digest| digest.try_into().ok())
                    .collect::<Option<_>>()?,
            })
        })
        .collect()
}

fn body_seal(key: &ObjectKey, secret: &FileSecret, salt: &[u8]) -> Result<Seal, CryptoError> {
    let salt = [salt, key.as_str().as_bytes()].concat();
    Seal::new(&Key::new(derive(&salt, &*secret.0, INFO)))
}

/// The secret of the file, from the head of its manifest.
fn unwrap(head: &[u8], private: &PrivateKey) -> Result<FileSecret, ManifestError> {
    let head = json::parse(head).map_err(|_| ManifestError::Unreadable)?;
    let readers = head.get("readers").and_then(Value::as_array);
    let ours = hex::encode(private.public().fingerprint().as_bytes());
    let ours = |reader: &&Map<String, Value>| {
        reader.get("key").and_then(Value::as_str) == Some(ours.as_str())
    };
    let mut readers = readers.into_iter().flatten().filter_map(Value::as_object);
    let reader = readers.find(ours).ok_or(ManifestError::NotForUs)?;
    let wrapped = reader.get("secret").and_then(Value::as_str);
    let wrapped = wrapped.and_then(|text| hex::decode(text).ok());
    let wrapped = wrapped.ok_or(ManifestError::Unreadable)?;
    let secret = private
        .unwrap(&wrapped, LABEL)
        .map_err(|_| ManifestError::Altered)?;
    FileSecret::from_bytes(&secret).ok_or(ManifestError::Altered)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::crypto::SysRng;

    static KEYS: LazyLock<[PrivateKey; 2]> = LazyLock::new(|| {
        [(); 2].map(|()| PrivateKey::from_pem(&PrivateKey::generate(2048).unwrap().0).unwrap())
    });

    fn file(members: usize) -> Manifest {
        let chunk = |n: u8| Chunk {
            id: ChunkId([n; 16]),
            len: 1_000,
            shares: vec![[n; 32]; members],
        };
        Manifest {
            parent: [0; 16],
            name: "Föto.jpg".to_owned(),
            sequence: Sequence { fence: 3, count: 9 },
            kind: Kind::File(Contents {
                size: 2_000,
                modified: -5,
                crc: 0xdead_beef,
                chunks: vec![chunk(1), chunk(2)],
                meta: Some("{}".to_owned()),
            }),
        }
    }

    fn key(text: &str) -> ObjectKey {
        ObjectKey::parse(text).unwrap()
    }

    fn sealed(manifest: &Manifest, at: &str) -> Vec<u8> {
        let readers = [KEYS[0].public()];
        let secret = FileSecret::new().unwrap();
        manifest
            .seal(&key(at), &secret, &readers, &mut SysRng)
            .unwrap()
    }

    #[test]
    fn every_manifest_opens_as_it_was() {
        let removed = Manifest {
            kind: Kind::Removed,
            ..file(1)
        };
        let directory = Manifest {
            kind: Kind::Directory([7; 16]),
            ..file(1)
        };
        for manifest in [file(1), file(4), removed, directory] {
            let bytes = sealed(&manifest, "m/1");
            let (opened, _) = Manifest::open(&bytes, &key("m/1"), &KEYS[0]).unwrap();
            assert_eq!(opened, manifest);
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("oto"), "a name can be read");
        }
    }

    #[test]
    fn a_manifest_opens_only_for_its_readers_and_under_its_key() {
        let bytes = sealed(&file(4), "m/1");
        let open = |at: &str, private| Manifest::open(&bytes, &key(at), private).map(|one| one.0);
        assert_eq!(open("m/1", &KEYS[1]), Err(ManifestError::NotForUs));
        assert_eq!(open("m/2", &KEYS[0]), Err(ManifestError::Altered));
        let both = [KEYS[0].public(), KEYS[1].public()];
        let secret = FileSecret::new().unwrap();
        let bytes = file(1)
            .seal(&key("m/1"), &secret, &both, &mut SysRng)
            .unwrap();
        for private in &*KEYS {
            let (opened, other) = Manifest::open(&bytes, &key("m/1"), private).unwrap();
            assert_eq!(opened, file(1));
            assert_eq!(*other.0, *secret.0);
        }
    }

    #[test]
    fn no_byte_of_a_manifest_can_be_changed() {
        let bytes = sealed(&file(1), "m/1");
        for at in 0..bytes.len() {
            // Each private-key operation takes a while.
            if at > 64 && at % 29 != 0 {
                continue;
            }
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x20;
            let opened = Manifest::open(&flipped, &key("m/1"), &KEYS[0]);
            assert!(opened.is_err(), "byte {at}");
        }
        for len in (0..bytes.len()).step_by(37) {
            assert!(Manifest::open(&bytes[..len], &key("m/1"), &KEYS[0]).is_err());
        }
    }

    #[test]
    fn a_later_lease_goes_before_a_later_count() {
        let of = |fence, count| Sequence { fence, count };
        assert!(of(2, 0) > of(1, 9) && of(1, 2) > of(1, 1));
    }
}

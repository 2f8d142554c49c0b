//! A folder as its members hold it: the keys of its objects, and who may have made them.
//!
//! ```text
//! folders/ID                 who owns the folder and what it is called, sealed for the owner and
//!                            signed by the owner
//! ID/m/AB/NAME.FENCE         the manifest of a name, written under the lease with this number
//! ID/v/AB/FILE               the manifest of a file that was removed or overwritten, to restore it
//! ID/c/AB/CHUNK              a chunk, or a share of it
//! ID/lease/FENCE             who may write
//! ```
//!
//! ID, CHUNK and FILE are random. NAME is an HMAC (RFC 2104) of the name and of the directory that
//! it is in, under a secret of the folder; so a member cannot even test a guess at a name. Each
//! manifest ends with an HMAC under the same secret. The secret is in the document of the folder,
//! which only the owner opens, and it is the owner's signature (RSA-PSS) that makes it the secret.

use subtle::ConstantTimeEq;

use super::{
    FileSecret,
    chunk::ChunkId,
    manifest::{DirectoryId, Kind, Manifest, ManifestError, Sequence},
};
use crate::{
    crypto::{
        self, CryptoError, Random,
        keys::{PrivateKey, PublicKey},
        mac::{MAC_LEN, hmac_sha256},
        seal::derive,
    },
    store::member::ObjectKey,
};

/// The directory of the documents of all folders.
const FOLDERS: &str = "folders";

/// What the signature of a folder's document begins with.
const SIGNED: &[u8] = b"m2y store folder";

/// The id of a folder on its members.
pub type FolderId = [u8; 16];

/// What the owner of a folder knows, and no member does.
#[derive(Clone)]
pub struct FolderSecret {
    /// The id of the folder.
    pub id: FolderId,
    secret: FileSecret,
    names: [u8; 32],
    manifests: [u8; 32],
}

/// What the document of a folder says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The owner.
    pub user: String,
    /// The folder.
    pub folder: String,
    /// How many members hold it, each its part: what is on a member of a stripe is no folder by
    /// itself.
    pub members: usize,
}

impl About {
    fn parse(text: &str) -> Option<Self> {
        let (members, path) = text.split_once(' ')?;
        let (user, folder) = path.split_once('/')?;
        Some(Self {
            user: user.to_owned(),
            folder: folder.to_owned(),
            members: members.parse().ok()?,
        })
    }
}

impl FolderSecret {
    /// A fresh one, for a folder that the members do not have yet.
    ///
    /// # Errors
    ///
    /// If the operating system gives no randomness.
    pub fn new() -> Result<Self, CryptoError> {
        Ok(Self::from_parts(crypto::random()?, FileSecret::new()?))
    }

    /// One that is known.
    #[must_use]
    pub fn from_parts(id: FolderId, secret: FileSecret) -> Self {
        let derived = |info: &[u8]| derive(&id, secret.as_bytes(), info);
        Self {
            names: derived(b"m2y store names"),
            manifests: derived(b"m2y store manifests"),
            id,
            secret,
        }
    }

    /// What it was made from, beside the id.
    #[must_use]
    pub fn secret(&self) -> &FileSecret {
        &self.secret
    }

    /// A key below the id.
    fn key(&self, below: &str) -> ObjectKey {
        ObjectKey::trusted(format!("{}/{below}", hex::encode(self.id)))
    }

    /// The directory of all objects of the folder, or one below it.
    #[must_use]
    pub fn directory(&self, below: Option<&str>) -> ObjectKey {
        match below {
            Some(below) => self.key(below),
            None => ObjectKey::trusted(hex::encode(self.id)),
        }
    }

    /// The key of the document.
    #[must_use]
    pub fn document_key(&self) -> ObjectKey {
        document_key(self.id)
    }

    /// The key of a chunk.
    #[must_use]
    pub fn chunk_key(&self, id: &ChunkId) -> ObjectKey {
        self.spread("c", &hex::encode(id.0))
    }

    /// The key of the manifest of an earlier file.
    #[must_use]
    pub fn version_key(&self, file: &[u8; 16]) -> ObjectKey {
        self.spread("v", &hex::encode(file))
    }

    /// The key of the manifest of a name, written under the lease with this number.
    #[must_use]
    pub fn manifest_key(&self, parent: &DirectoryId, name: &str, fence: u64) -> ObjectKey {
        let digest = hmac_sha256(&self.names, &[parent, name.as_bytes()]);
        let digest = hex::encode(digest.first_chunk::<16>().unwrap_or(&[0; 16]));
        self.spread("m", &format!("{digest}.{fence}"))
    }

    /// No directory of a member gets too large.
    fn spread(&self, below: &str, name: &str) -> ObjectKey {
        let first = name.get(..2).unwrap_or_default();
        self.key(&format!("{below}/{first}/{name}"))
    }

    /// Seals a manifest. Its key is that of its name, unless it is one of an earlier file.
    ///
    /// # Errors
    ///
    /// As those of [`Manifest::seal`].
    pub fn seal(
        &self,
        manifest: &Manifest,
        key: &ObjectKey,
        secret: &FileSecret,
        readers: &[&PublicKey],
        random: &mut Random<'_>,
    ) -> Result<Vec<u8>, ManifestError> {
        let mut sealed = manifest.seal(key, secret, readers, random)?;
        let mac = hmac_sha256(&self.manifests, &[key.as_str().as_bytes(), b"\0", &sealed]);
        sealed.extend_from_slice(&mac);
        Ok(sealed)
    }

    /// Opens a manifest of this folder.
    ///
    /// # Errors
    ///
    /// If nobody who knows the secret of the folder wrote it under this key, and as those of
    /// [`Manifest::open`].
    pub fn open(
        &self,
        sealed: &[u8],
        key: &ObjectKey,
        private: &PrivateKey,
    ) -> Result<(Manifest, FileSecret), ManifestError> {
        let (sealed, tag) = sealed
            .split_last_chunk::<MAC_LEN>()
            .ok_or(ManifestError::Unreadable)?;
        let expected = hmac_sha256(&self.manifests, &[key.as_str().as_bytes(), b"\0", sealed]);
        if !bool::from(expected.ct_eq(tag)) {
            return Err(ManifestError::Altered);
        }
        Manifest::open(sealed, key, private)
    }

    /// The document of the folder.
    ///
    /// # Errors
    ///
    /// If the operating system gives no randomness, or the key cannot sign.
    pub fn document(
        &self,
        about: &About,
        private: &PrivateKey,
        random: &mut Random<'_>,
    ) -> Result<Vec<u8>, ManifestError> {
        let manifest = Manifest {
            parent: self.id,
            name: format!("{} {}/{}", about.members, about.user, about.folder),
            sequence: Sequence::default(),
            kind: Kind::Directory(self.id),
        };
        let key = self.document_key();
        let mut sealed = manifest.seal(&key, &self.secret, &[private.public()], random)?;
        let signature = private.sign(&[SIGNED, &sealed].concat(), random)?;
        sealed.extend_from_slice(&signature);
        Ok(sealed)
    }

    /// Opens the document that is stored under the id of a folder.
    ///
    /// # Errors
    ///
    /// If it was not written by the owner of this key, or for another folder.
    pub fn open_document(
        id: FolderId,
        sealed: &[u8],
        private: &PrivateKey,
    ) -> Result<(Self, About), ManifestError> {
        let len = sealed.len().checked_sub(private.public().size());
        let (sealed, signature) = len
            .and_then(|len| sealed.split_at_checked(len))
            .ok_or(ManifestError::Unreadable)?;
        let key = document_key(id);
        // Whose it is comes first: one of another owner is no forgery.
        let (manifest, secret) = Manifest::open(sealed, &key, private)?;
        private
            .public()
            .verify(&[SIGNED, sealed].concat(), signature)
            .map_err(|_| ManifestError::Altered)?;
        let is_its_own = manifest.parent == id && manifest.kind == Kind::Directory(id);
        let about = About::parse(&manifest.name).filter(|_| is_its_own);
        let about = about.ok_or(ManifestError::Altered)?;
        Ok((Self::from_parts(id, secret), about))
    }
}

/// The key of the document of a folder.
#[must_use]
pub fn document_key(id: FolderId) -> ObjectKey {
    ObjectKey::trusted(format!("{FOLDERS}/{}", hex::encode(id)))
}

/// The directory of the documents of all folders.
#[must_use]
pub fn documents() -> ObjectKey {
    ObjectKey::trusted(FOLDERS.to_owned())
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

    fn removed(name: &str) -> Manifest {
        Manifest {
            parent: [0; 16],
            name: name.to_owned(),
            sequence: Sequence { fence: 1, count: 2 },
            kind: Kind::Removed,
        }
    }

    #[test]
    fn only_who_knows_the_secret_of_the_folder_makes_a_manifest() {
        let [owner, reader] = &*KEYS;
        let folder = FolderSecret::new().unwrap();
        let key = folder.manifest_key(&[0; 16], "a", 1);
        let secret = FileSecret::new().unwrap();
        let readers = [owner.public(), reader.public()];
        let sealed = folder.seal(&removed("a"), &key, &secret, &readers, &mut SysRng);
        let sealed = sealed.unwrap();
        let (opened, _) = folder.open(&sealed, &key, reader).unwrap();
        assert_eq!(opened, removed("a"));
        // A reader has the secret of the file, and can seal a manifest, but not for this folder.
        let forged = removed("b").seal(&key, &secret, &readers, &mut SysRng);
        let forged = [forged.unwrap(), sealed[sealed.len() - 32..].to_vec()].concat();
        assert_eq!(
            folder.open(&forged, &key, owner).err(),
            Some(ManifestError::Altered)
        );
        let other = folder.manifest_key(&[0; 16], "b", 1);
        assert!(folder.open(&sealed, &other, owner).is_err());
        assert!(
            FolderSecret::new()
                .unwrap()
                .open(&sealed, &key, owner)
                .is_err()
        );
    }

    #[test]
    fn the_document_of_a_folder_is_its_owners_and_stays_in_its_place() {
        let [owner, other] = &*KEYS;
        let folder = FolderSecret::new().unwrap();
        let about = About {
            user: "roland-frei".to_owned(),
            folder: "photo".to_owned(),
            members: 4,
        };
        let document = folder.document(&about, owner, &mut SysRng).unwrap();
        let open = |id, bytes: &[u8], key| FolderSecret::open_document(id, bytes, key);
        let (opened, read) = open(folder.id, &document, owner).unwrap();
        assert_eq!(read, about);
        assert_eq!(
            opened.manifest_key(&[1; 16], "x", 3),
            folder.manifest_key(&[1; 16], "x", 3)
        );
        assert!(open([1; 16], &document, owner).is_err());
        let stranger = open(folder.id, &document, other).err();
        assert_eq!(stranger, Some(ManifestError::NotForUs));
        // Somebody who knows the owner's public key can seal for it, but not sign.
        let manifest = Manifest {
            parent: folder.id,
            name: "4 roland-frei/photo".to_owned(),
            sequence: Sequence::default(),
            kind: Kind::Directory(folder.id),
        };
        let key = folder.document_key();
        let secret = FileSecret::new().unwrap();
        let sealed = manifest.seal(&key, &secret, &[owner.public()], &mut SysRng);
        let mut forged = sealed.unwrap();
        let signature = other.sign(&[SIGNED, &forged].concat(), &mut SysRng);
        forged.extend_from_slice(&signature.unwrap());
        assert_eq!(
            open(folder.id, &forged, owner).err(),
            Some(ManifestError::Altered)
        );
    }
}

//! Makes the index anew from what members have: a server was lost, or another one wrote in the
//! meantime.
//!
//! A write counts once three members of a stripe have it, so of any two at least one has the
//! latest manifest of a name; the others may have earlier ones. A member that does not answer is
//! not taken for one that lost something.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    io,
    sync::Arc,
};

use cap_std::fs::Dir;
use futures_util::{StreamExt, stream};
use hyper::body::Bytes;

use super::{
    ChunkedStore, Core,
    holders::{Holders, Members, bit},
    index::{
        Id,
        refill::{Everything, Name},
    },
};
use crate::{
    crypto::keys::PrivateKey,
    root::file,
    store::{
        member::{MemberError, ObjectKey},
        received, runtime,
        sealed::{
            FileSecret,
            chunk::ChunkId,
            folder::{About, FolderId, FolderSecret, document_key, documents},
            manifest::{Manifest, ManifestError},
        },
    },
};

/// Manifests that are read and opened at once.
const AT_ONCE: usize = 16;

/// Rows that one transaction takes.
const BATCH: usize = 500;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Files with a name.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Earlier files that can be restored.
    pub versions: u64,
    /// Manifests of which no member has a copy that opens.
    pub unreadable: u64,
    /// Members that could not be listed, and why.
    pub unreachable: Vec<String>,
}

/// A folder that members have.
pub struct Found {
    /// Its id and its secret.
    pub folder: FolderSecret,
    /// Whose it is, and what it was called.
    pub about: About,
}

/// The folders on these members that belong to the owner of a key.
pub fn folders(holders: Arc<Holders>, private: Arc<PrivateKey>) -> io::Result<Vec<Found>> {
    let ids = runtime::run({
        let holders = holders.clone();
        async move { ids(&holders).await }
    })??;
    let mut found = Vec::new();
    for id in ids {
        let (these, private) = (holders.clone(), private.clone());
        let one = runtime::run(async move {
            let key = document_key(id);
            let documents = these.documents(&key).await.into_iter().flatten();
            let mut opened = documents.filter_map(|document| {
                let opened = FolderSecret::open_document(id, &document, &private).ok();
                opened.map(|(folder, about)| Found { folder, about })
            });
            opened.next()
        })?;
        found.extend(one.filter(|found| found.about.members == holders.count()));
    }
    Ok(found)
}

/// The ids of all folders, of whatever owner.
async fn ids(holders: &Holders) -> io::Result<Vec<FolderId>> {
    let mut ids = HashSet::new();
    let (mut answered, mut reasons) = (0, Vec::new());
    for (name, member) in holders.members() {
        let directory = documents();
        let mut objects = member.list(Some(&directory));
        let mut whole = true;
        while let Some(object) = objects.next().await {
            match object {
                Ok(object) => {
                    ids.extend(last_id(&object.key));
                }
                Err(error) => {
                    whole = false;
                    reasons.push(format!("{name}: {error}"));
                }
            }
        }
        answered += usize::from(whole);
    }
    let needed = holders.count().min(2);
    if answered < needed {
        let why = format!(
            "{answered} of {needed} members that are needed answered: {}",
            reasons.join("; ")
        );
        return Err(io::Error::new(io::ErrorKind::HostUnreachable, why));
    }
    Ok(ids.into_iter().collect())
}

/// Objects of a directory: who has each.
pub(super) type Copies = BTreeMap<ObjectKey, Members>;

impl Core {
    /// What members have below a directory; also those that could not be listed, and why.
    pub(super) async fn copies(&self, below: &str) -> (Copies, Members, Vec<String>) {
        let directory = self.folder.directory(Some(below));
        let (mut copies, mut unknown, mut reasons) = (Copies::new(), 0, Vec::new());
        for number in 0..self.holders.count() {
            let listed = self.holders.list(number, &directory, |object| {
                *copies.entry(object.key).or_default() |= bit(number);
                Ok(())
            });
            if let Err(error) = listed.await {
                unknown |= bit(number);
                reasons.push(error.to_string());
            }
        }
        (copies, unknown, reasons)
    }

    /// Gives the document of the folder to members without it.
    pub(super) async fn copy_document(&self, private: &PrivateKey) {
        let key = self.folder.document_key();
        let (mut missing, mut document) = (0, None);
        for (number, there) in self.holders.documents(&key).await.into_iter().enumerate() {
            match there {
                Ok(there) => match FolderSecret::open_document(self.folder.id, &there, private) {
                    Ok(_) => document = Some(there),
                    Err(_) => missing |= bit(number),
                },
                Err(MemberError::Missing(_)) => missing |= bit(number),
                Err(_) => {}
            }
        }
        if let Some(document) = document.filter(|_| missing != 0) {
            // Those that fail are asked once more by the next survey.
            let _ = self.holders.mend_document(&key, document, missing).await;
        }
    }

    /// Whether so many members answered that what they have is all there is.
    fn check_answered(&self, unknown: Members, reasons: &[String]) -> io::Result<()> {
        let answered = self.holders.count() - unknown.count_ones() as usize;
        let needed = self.holders.count().min(2);
        if answered >= needed {
            return Ok(());
        }
        let why = format!(
            "{answered} of {needed} members that are needed answered: {}",
            reasons.join("; ")
        );
        Err(io::Error::new(io::ErrorKind::HostUnreachable, why))
    }

    /// Reads all copies of the manifest under a key.
    pub(super) async fn latest(&self, key: &ObjectKey, private: &PrivateKey) -> Latest {
        let mut copies: Vec<(Bytes, Members)> = Vec::new();
        let mut unknown = 0;
        for (number, document) in self.holders.documents(key).await.into_iter().enumerate() {
            match document {
                Ok(document) => match copies.iter_mut().find(|(same, _)| *same == document) {
                    Some((_, who)) => *who |= bit(number),
                    None => copies.push((document, bit(number))),
                },
                Err(MemberError::Missing(_)) => {}
                Err(_) => unknown |= bit(number),
            }
        }
        let mut latest: Option<(Manifest, FileSecret, Members)> = None;
        for (document, who) in copies {
            match self.folder.open(&document, key, private) {
                Ok((manifest, secret)) => {
                    let is_later = latest
                        .as_ref()
                        .is_none_or(|(other, ..)| manifest.sequence > other.sequence);
                    let is_same = latest
                        .as_ref()
                        .is_some_and(|(other, ..)| manifest.sequence == other.sequence);
                    if is_later {
                        latest = Some((manifest, secret, who));
                    } else if is_same && let Some((.., all)) = &mut latest {
                        // Written twice, with another salt.
                        *all |= who;
                    }
                }
                Err(ManifestError::Crypto(error)) => tracing::warn!("{key}: {error}"),
                Err(error) => {
                    tracing::warn!("{key} on {}: {error}", self.names(who));
                }
            }
        }
        Latest { latest, unknown }
    }
}

/// The copies of a manifest.
pub(super) struct Latest {
    /// The latest one, and who has it.
    pub latest: Option<(Manifest, FileSecret, Members)>,
    /// Members that did not answer.
    pub unknown: Members,
}

impl ChunkedStore {
    /// Makes the index anew from what the members have. `progress` is told how many manifests
    /// are read, and of how many.
    pub fn recover(
        &self,
        private: &Arc<PrivateKey>,
        progress: &dyn Fn(u64, u64),
    ) -> io::Result<Recovered> {
        let core = &self.core;
        let fence = core.highest_lease()?;
        let this = core.clone();
        let (manifests, versions, chunks) = runtime::run(async move {
            (
                this.copies("m").await,
                this.copies("v").await,
                this.copies("c").await,
            )
        })?;
        let mut reasons: Vec<String> = Vec::new();
        for (_, unknown, why) in [&manifests, &versions, &chunks] {
            core.check_answered(*unknown, why)?;
            reasons.extend(why.iter().cloned());
        }
        reasons.sort();
        reasons.dedup();
        let mut recovered = Recovered {
            unreachable: reasons,
            ..Recovered::default()
        };
        let total = (manifests.0.len() + versions.0.len()) as u64;
        let mut read = 0;
        // The latest of each name, whatever lease it was written under.
        let mut names: HashMap<(Id, String), Name> = HashMap::new();
        let mut stale: Vec<(Id, String, u64)> = Vec::new();
        for keys in split(manifests.0.into_keys()) {
            let opened = self.open_all(keys, private)?;
            for (_, opened) in opened {
                read += 1;
                let Some(name) = opened else {
                    recovered.unreadable += 1;
                    continue;
                };
                let at = (name.manifest.parent, name.manifest.name.clone());
                let earlier = match names.entry(at.clone()) {
                    Entry::Vacant(free) => {
                        free.insert(name);
                        continue;
                    }
                    Entry::Occupied(mut there) => {
                        let is_later = name.manifest.sequence > there.get().manifest.sequence;
                        match is_later {
                            true => there.insert(name),
                            false => name,
                        }
                    }
                };
                stale.push((at.0, at.1, earlier.manifest.sequence.fence));
            }
            progress(read, total);
        }
        let mut earlier = Vec::new();
        for keys in split(versions.0.into_keys()) {
            for (key, opened) in self.open_all(keys, private)? {
                read += 1;
                match (last_id(&key), opened) {
                    (Some(id), Some(name)) => earlier.push((id, name)),
                    _ => recovered.unreadable += 1,
                }
            }
            progress(read, total);
        }
        let copies = chunks.0.into_iter();
        let copies = copies.filter_map(|(key, who)| Some((ChunkId(last_id(&key)?), who)));
        let all = Everything {
            names: names.into_values().collect(),
            stale,
            earlier,
            copies: copies.collect(),
            unknown: chunks.1,
        };
        let (files, directories, versions) = core.index.refill(all, core.rules)?;
        core.caught_up(fence)?;
        Ok(Recovered {
            files,
            directories,
            versions,
            ..recovered
        })
    }

    /// Writes the documents that belong to files into the folder's directory, except where there
    /// is one; returns how many.
    pub fn restore_documents(&self, dir: &Dir) -> io::Result<u64> {
        let (mut after, mut written) = (Id::default(), 0);
        loop {
            let page = self.core.index.documents(&after, 500)?;
            for (_, document) in &page {
                let Some((name, text)) = document.split_once('\n') else {
                    continue;
                };
                let (below, file) = match name.rsplit_once('/') {
                    Some((received::DIR, file)) => (Some(received::DIR), file),
                    Some(_) => continue,
                    None => (None, name),
                };
                if !file.ends_with(".meta") || file::check_name(file).is_err() {
                    continue;
                }
                let made;
                let dir = match below {
                    Some(below) => {
                        match dir.create_dir(below) {
                            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                            _ => {}
                        }
                        made = dir.open_dir(below)?;
                        &made
                    }
                    None => dir,
                };
                match file::create(dir, file, 0o644, text.as_bytes()) {
                    Ok(()) => written += 1,
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(e) => return Err(e),
                }
            }
            match page.last() {
                Some((last, _)) => after = *last,
                None => return Ok(written),
            }
        }
    }

    fn open_all(
        &self,
        keys: Vec<ObjectKey>,
        private: &Arc<PrivateKey>,
    ) -> io::Result<Vec<(ObjectKey, Option<Name>)>> {
        let (core, private) = (self.core.clone(), private.clone());
        runtime::run(async move {
            let opening = stream::iter(keys).map(|key| {
                let (core, private) = (core.clone(), private.clone());
                async move {
                    let latest = core.latest(&key, &private).await.latest;
                    let name = latest.map(|(manifest, secret, who)| Name {
                        manifest,
                        secret,
                        missing: core.holders.all() & !who,
                    });
                    (key, name)
                }
            });
            opening.buffer_unordered(AT_ONCE).collect().await
        })
    }
}

fn split(keys: impl Iterator<Item = ObjectKey>) -> Vec<Vec<ObjectKey>> {
    let keys: Vec<ObjectKey> = keys.collect();
    keys.chunks(BATCH).map(<[_]>::to_vec).collect()
}

/// The id that a key ends with.
pub(super) fn last_id(key: &ObjectKey) -> Option<Id> {
    let (_, name) = key.as_str().rsplit_once('/')?;
    let mut id = [0; 16];
    hex::decode_to_slice(name, &mut id).ok()?;
    Some(id)
}

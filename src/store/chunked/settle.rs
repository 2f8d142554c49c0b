//! Writes manifests, fills what members lack, and removes from them what nothing needs.

use std::io;

use futures_util::{StreamExt, stream};
use hyper::body::Bytes;

use super::{
    ChunkedStore, Core, crypto_error,
    holders::{Members, bit},
    index::work::{Chunks, Garbage, Unwritten, Which},
    recover::last_id,
};
use crate::{
    clock::nanos,
    crypto::SysRng,
    store::{
        member::ObjectKey,
        runtime,
        sealed::{
            FileSecret,
            chunk::{ChunkId, tags_len},
            manifest::Kind,
        },
    },
};

/// Requests to members at once, for small objects.
const AT_ONCE: usize = 16;

/// Manifests that are written before they are noted.
const BATCH: u32 = 256;

/// How long nothing may need a file before its chunks are removed, in nanoseconds: another
/// process of this root may still read it.
const GRACE: i64 = 600 * 1_000_000_000;

/// How long a tombstone stays after the removal, in nanoseconds: so long a member may be away, or
/// come back from a copy, without bringing anything back.
const TOMBSTONE: i64 = 90 * 86_400 * 1_000_000_000;

impl Core {
    /// Returns when all changes of names are on enough members.
    pub(super) fn settle(self: &std::sync::Arc<Self>) -> io::Result<()> {
        // Whoever waits here mostly finds nothing left to do.
        let _writing = self.writing()?;
        let mut is_safe = false;
        loop {
            let mut batch = self.index.unwritten(Which::Unsettled, BATCH)?;
            let first = batch.first().map(is_tombstone);
            let Some(first) = first else {
                return match is_safe {
                    true => self.still_holds(),
                    false => Ok(()),
                };
            };
            if !is_safe {
                // The index must not fall behind the members.
                self.index.settle()?;
                self.hold()?;
                is_safe = true;
            }
            // Names before the tombstones of those that they had.
            batch.retain(|one| is_tombstone(one) == first);
            let core = self.clone();
            let results = runtime::run(async move { core.write_manifests(batch).await })?;
            let mut failed = None;
            let mut written = Vec::new();
            for (one, result) in results {
                match result {
                    Ok(missing) => written.push((one, missing, true)),
                    Err(error) => failed = Some(error),
                }
            }
            self.index.wrote(written)?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }

    async fn write_manifests(
        &self,
        batch: Vec<Unwritten>,
    ) -> Vec<(Unwritten, io::Result<Members>)> {
        stream::iter(batch)
            .map(|one| async {
                let result = match self.sealed(&one) {
                    Ok((key, bytes)) => self.holders.put_document(&key, bytes).await,
                    Err(error) => Err(error),
                };
                (one, result)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    /// A manifest as it is stored.
    fn sealed(&self, one: &Unwritten) -> io::Result<(ObjectKey, Bytes)> {
        let manifest = &one.manifest;
        let key = match &one.version {
            Some(file) => self.folder.version_key(file),
            None => {
                let fence = manifest.sequence.fence;
                self.folder
                    .manifest_key(&manifest.parent, &manifest.name, fence)
            }
        };
        let fresh;
        let secret = match &one.secret {
            Some(secret) => secret,
            None => {
                fresh = FileSecret::new().map_err(crypto_error)?;
                &fresh
            }
        };
        let readers: Vec<_> = self.readers.iter().collect();
        let sealed = self
            .folder
            .seal(manifest, &key, secret, &readers, &mut SysRng);
        Ok((key, sealed.map_err(io::Error::other)?.into()))
    }
}

fn is_tombstone(one: &Unwritten) -> bool {
    one.manifest.kind == Kind::Removed
}

/// What a round of mending did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Chunks that every member has again.
    pub chunks: u64,
    /// Manifests that every member has again.
    pub manifests: u64,
    /// Why something is left, a reason for each member.
    pub reasons: Vec<String>,
}

impl ChunkedStore {
    /// Writes to members what they lack, as far as they can be reached.
    pub fn mend(&self) -> io::Result<Mended> {
        self.mend_without(0, &mut |_, _| {})
    }

    /// The same, without asking members that are known to be away; `progress` is told how many
    /// chunks are done, and of how many.
    pub fn mend_without(
        &self,
        away: Members,
        progress: &mut dyn FnMut(u64, u64),
    ) -> io::Result<Mended> {
        let mut mended = Mended::default();
        self.core.settle()?;
        let away = self.mend_manifests(&mut mended, away)?;
        self.mend_chunks(&mut mended, away, progress)?;
        mended.reasons.sort();
        mended.reasons.dedup();
        Ok(mended)
    }

    /// A member that fails is not waited for again: others may lack something too. Returns those
    /// that are away.
    fn mend_manifests(&self, mended: &mut Mended, mut away: Members) -> io::Result<Members> {
        let core = &self.core;
        let mut behind = 0;
        loop {
            // Others want to write, so it is held for as much as is asked for at once, and no longer
            // than a member that hangs is waited for.
            let writing = core.writing()?;
            let batch = core
                .index
                .unwritten(Which::Missing(behind), AT_ONCE as u32)?;
            let last = batch.iter().filter(|one| one.version.is_none());
            let last = last.map(|one| one.manifest.sequence.count).max();
            let this = core.clone();
            let results = runtime::run(async move {
                stream::iter(batch)
                    .map(|one| async {
                        let these = one.missing & !away;
                        let (left, reasons) = match (these, this.sealed(&one)) {
                            (0, _) => (0, Vec::new()),
                            (_, Ok((key, bytes))) => {
                                this.holders.mend_document(&key, bytes, these).await
                            }
                            (_, Err(error)) => (these, vec![error.to_string()]),
                        };
                        let missing = left | one.missing & away;
                        (one, missing, left, reasons)
                    })
                    .buffer_unordered(AT_ONCE)
                    .collect::<Vec<_>>()
                    .await
            })?;
            let mut written = Vec::new();
            let mut has_versions = false;
            for (one, missing, failed, reasons) in results {
                away |= failed;
                mended.reasons.extend(reasons);
                mended.manifests += u64::from(missing == 0);
                has_versions |= missing == 0 && one.version.is_some();
                if missing != one.missing {
                    written.push((one, missing, true));
                }
            }
            core.index.wrote(written)?;
            drop(writing);
            match last {
                // There may be more of these.
                _ if has_versions => {}
                Some(last) if away != core.holders.all() => behind = last,
                _ => return Ok(away),
            }
        }
    }

    fn mend_chunks(
        &self,
        mended: &mut Mended,
        mut away: Members,
        progress: &mut dyn FnMut(u64, u64),
    ) -> io::Result<()> {
        let core = &self.core;
        let total = core.index.backlog()?.chunks;
        let mut done = 0;
        let mut after = ChunkId([0; 16]);
        loop {
            let batch = core.index.chunks(Chunks::Degraded, &after, BATCH)?;
            let Some(last) = batch.last() else {
                return Ok(());
            };
            after = last.chunk.id;
            for held in batch {
                done += 1;
                progress(done, total.max(done));
                let these = held.missing & !away;
                if these == 0 {
                    continue;
                }
                let (this, chunk) = (core.clone(), held.chunk.clone());
                let left = runtime::run(async move {
                    let len = chunk.len as usize;
                    let key = this.folder.chunk_key(&chunk.id);
                    this.holders
                        .mend_chunk(&key, len, tags_len(len), &chunk.shares, these)
                        .await
                })?;
                match left {
                    Ok(left) => {
                        away |= left;
                        let missing = left | held.missing & away;
                        core.index.set_missing(held.chunk.id, missing)?;
                        if missing == 0 {
                            mended.chunks += 1;
                        } else {
                            let names = core.names(missing);
                            mended
                                .reasons
                                .push(format!("{names}: cannot be written to"));
                        }
                    }
                    Err(error) => mended.reasons.push(error.to_string()),
                }
            }
        }
    }

    /// Removes chunks that no file has and that were written before this time, in nanoseconds
    /// since 1970, by the clock of the member; returns how many. They are left by a server that
    /// was killed, and by members that were away when a file was removed.
    pub fn sweep_orphans(&self, before: i64) -> io::Result<u64> {
        let core = &self.core;
        // Another server's chunks look like orphans to one that does not know of its files.
        core.hold()?;
        let mut swept = 0;
        for number in 0..core.holders.count() {
            let this = core.clone();
            let removed = runtime::run(async move {
                let directory = this.folder.directory(Some("c"));
                let mut orphans = Vec::new();
                let listed = this.holders.list(number, &directory, |object| {
                    if object.modified < before
                        && let Some(id) = last_id(&object.key)
                        && !this.index.knows_chunk(&ChunkId(id))?
                    {
                        orphans.push(object.key);
                    }
                    Ok(())
                });
                // One that cannot be listed is swept when it can.
                let listed = listed.await;
                let mut removed = 0;
                for key in orphans {
                    let (left, _) = this.holders.remove(&key, bit(number)).await;
                    removed += u64::from(left == 0);
                }
                listed.map(|()| removed)
            })?;
            swept += removed.unwrap_or(0);
        }
        Ok(swept)
    }

    /// Removes from the members what nothing has needed for a while; returns how much.
    /// Members that are known to be away are not asked, and what they have stays garbage.
    pub fn collect_garbage(&self, away: Members) -> io::Result<usize> {
        let now = nanos();
        let collected = self.collect(away, now.saturating_sub(GRACE))?;
        if away == 0 {
            self.forget_tombstones(now.saturating_sub(TOMBSTONE))?;
        }
        Ok(collected)
    }

    /// Removes tombstones from before this time, in nanoseconds since 1970, that every member has;
    /// returns how many.
    pub fn forget_tombstones(&self, before: i64) -> io::Result<usize> {
        let core = &self.core;
        let mut forgotten = 0;
        loop {
            // Nobody gives the name to a file meanwhile: its manifest would have the same key.
            let _writing = core.writing()?;
            let batch = core.index.tombstones(before, AT_ONCE as u32)?;
            if batch.is_empty() {
                return Ok(forgotten);
            }
            core.hold()?;
            let this = core.clone();
            let gone = runtime::run(async move {
                let removing = stream::iter(batch).map(|one| {
                    let this = &this;
                    async move {
                        let fence = one.sequence.fence;
                        let key = this.folder.manifest_key(&one.parent, &one.name, fence);
                        let (left, _) = this.holders.remove(&key, this.holders.all()).await;
                        (left == 0).then_some(one)
                    }
                });
                let removed = removing.buffer_unordered(AT_ONCE);
                removed
                    .filter_map(std::future::ready)
                    .collect::<Vec<_>>()
                    .await
            })?;
            if gone.is_empty() {
                // A member is away.
                return Ok(forgotten);
            }
            forgotten += gone.len();
            core.index.forget_tombstones(gone)?;
        }
    }

    /// The same for what nothing has needed since before this time, in nanoseconds since 1970.
    pub fn collect_before(&self, before: i64) -> io::Result<usize> {
        self.collect(0, before)
    }

    fn collect(&self, away: Members, before: i64) -> io::Result<usize> {
        let core = &self.core;
        // What members still promise must not go from them.
        core.settle()?;
        core.index.expire(nanos())?;
        let mut collected = 0;
        loop {
            let garbage = core.index.garbage(before, BATCH)?;
            let mut progress = false;
            for one in garbage {
                let keys: Vec<ObjectKey> = match &one {
                    Garbage::File(id, ..) if core.is_open(id) => continue,
                    Garbage::File(id, chunks, is_version) => {
                        let chunks = chunks.iter().map(|id| core.folder.chunk_key(id));
                        let version = is_version.then(|| core.folder.version_key(id));
                        // The manifest first: without its chunks it would be a false promise.
                        version.into_iter().chain(chunks).collect()
                    }
                    Garbage::Chunk(id) => vec![core.folder.chunk_key(id)],
                    Garbage::Restored(id) => vec![core.folder.version_key(id)],
                    Garbage::Manifest(parent, name, fence) => {
                        vec![core.folder.manifest_key(parent, name, *fence)]
                    }
                };
                let this = core.clone();
                let left = runtime::run(async move {
                    let removing = stream::iter(keys).map(|key| {
                        let this = &this;
                        let these = this.holders.all() & !away;
                        async move { this.holders.remove(&key, these).await.0 }
                    });
                    removing
                        .buffer_unordered(AT_ONCE)
                        .fold(0, |all, left| async move { all | left })
                        .await
                })?;
                // A member that is away keeps its part until it is back.
                if left | away == 0 {
                    core.index.forget(one)?;
                    collected += 1;
                    progress = true;
                }
            }
            if !progress {
                return Ok(collected);
            }
        }
    }
}

//! Reads everything that members hold of a folder, also what no read needs, and verifies it.
//!
//! What cannot be reached counts as unknown, never as clean.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use super::{
    ChunkedStore, Core, crypto_error,
    holders::{Members, bit},
    index::{files::IndexedChunk, work::Chunks},
};
use crate::{
    clock,
    crypto::keys::PrivateKey,
    store::{
        member::{MemberError, ObjectKey},
        runtime,
        sealed::{
            FileSecret,
            chunk::{ChunkId, ChunkSeal, tags_len},
        },
        stripe::code::{rebuild, share_len},
    },
};

/// Chunks and names that are looked up at a time.
const PAGE: u32 = 100;

/// How long a member may take for a share.
const PATIENCE: Duration = Duration::from_secs(60);

/// Notes of the index: behind which chunk a scrub goes on, and when one was last whole, in
/// milliseconds since 1970.
const BEHIND: &str = "scrub_behind";
const SCRUBBED: &str = "scrubbed";

/// How a scrub goes about it.
pub struct Scrub<'a> {
    /// Bytes a second that are read at most, of all members together.
    pub limit: Option<u64>,
    /// Told how many chunks were read, and of how many.
    pub progress: &'a mut dyn FnMut(u64, u64),
    /// Whether to stop; what was scrubbed by then is not scrubbed again.
    pub stops: &'a dyn Fn() -> bool,
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Chunks that were read.
    pub chunks: u64,
    /// Manifests that were read.
    pub manifests: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Shares that are not what was written, by member.
    pub wrong: Vec<u64>,
    /// Shares and manifests that are missing or of an earlier version, by member.
    pub missing: Vec<u64>,
    /// Shares and manifests that could not be read, by member.
    pub unknown: Vec<u64>,
    /// Chunks that cannot be rebuilt from what could be read.
    pub lost: u64,
    /// Whether it came to its end.
    pub is_whole: bool,
}

impl Scrubbed {
    /// Whether everything was read and is as it was written.
    pub fn is_clean(&self) -> bool {
        let none = |counts: &[u64]| counts.iter().all(|count| *count == 0);
        self.is_whole
            && self.lost == 0
            && none(&self.wrong)
            && none(&self.missing)
            && none(&self.unknown)
    }
}

/// What members have of one chunk.
#[derive(Default)]
struct Shares {
    verified: [Option<Vec<u8>>; 4],
    wrong: Members,
    missing: Members,
    unknown: Members,
    bytes: u64,
}

impl Core {
    /// Reads and verifies what each member has of a chunk.
    async fn shares(&self, held: &IndexedChunk) -> Shares {
        let key = self.folder.chunk_key(&held.chunk.id);
        let len = held.chunk.len as usize;
        let expected = match self.holders.count() {
            1 => len + tags_len(len),
            _ => share_len(len) + tags_len(len),
        };
        let members = self.holders.members();
        let reading = members.iter().map(|(_, member)| async {
            let got = timeout(PATIENCE, member.get(&key, Some(0..expected as u64 + 1)));
            got.await
                .unwrap_or_else(|_| Err(MemberError::Unreachable("it did not answer".to_owned())))
        });
        let mut shares = Shares::default();
        for (number, got) in futures_util::future::join_all(reading)
            .await
            .into_iter()
            .enumerate()
        {
            match got {
                Ok(share) => {
                    shares.bytes += share.len() as u64;
                    let digest: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&share).into();
                    let is_right = held.chunk.shares.get(number) == Some(&digest);
                    match shares.verified.get_mut(number) {
                        Some(place) if is_right => *place = Some(share.to_vec()),
                        _ => shares.wrong |= bit(number),
                    }
                }
                Err(MemberError::Missing(_)) => shares.missing |= bit(number),
                Err(_) => shares.unknown |= bit(number),
            }
        }
        shares
    }

    /// Whether the verified shares are those of the chunk: of a stripe every pair of them, so that
    /// what is promised of a loss is shown.
    fn rebuilds(
        &self,
        secret: &FileSecret,
        place: u64,
        held: &IndexedChunk,
        shares: &Shares,
    ) -> io::Result<bool> {
        let len = held.chunk.len as usize;
        let seal = ChunkSeal::new(secret, &held.chunk.id, place).map_err(crypto_error)?;
        let opens = |mut bytes: Vec<u8>, tags: &[u8]| seal.open(&mut bytes, tags).is_ok();
        if self.holders.count() == 1 {
            let [Some(share), ..] = &shares.verified else {
                return Ok(false);
            };
            let (bytes, tags) = share.split_at_checked(len).unwrap_or_default();
            return Ok(opens(bytes.to_vec(), tags));
        }
        let there: Vec<usize> = (0..4)
            .filter(|at| shares.verified.get(*at).is_some_and(Option::is_some))
            .collect();
        let mut first: Option<Vec<u8>> = None;
        for (n, a) in there.iter().enumerate() {
            for b in there.iter().skip(n + 1) {
                let mut pair: [Option<&[u8]>; 4] = [None; 4];
                for at in [a, b] {
                    let share = shares.verified.get(*at).and_then(Option::as_deref);
                    if let (Some(place), Some(share)) = (pair.get_mut(*at), share) {
                        *place = share.get(..share_len(len));
                    }
                }
                let Ok(chunk) = rebuild(pair) else {
                    return Ok(false);
                };
                match &first {
                    None => first = Some(chunk),
                    Some(first) if *first == chunk => {}
                    Some(_) => return Ok(false),
                }
            }
        }
        let tags = shares.verified.iter().flatten().next();
        let tags = tags.and_then(|share| share.get(share_len(len)..));
        Ok(match (first, tags) {
            (Some(chunk), Some(tags)) => opens(chunk, tags),
            _ => false,
        })
    }
}

impl ChunkedStore {
    /// Reads and verifies everything; goes on where an earlier scrub was stopped. What is wrong or
    /// missing is noted, to be mended.
    pub fn scrub(&self, private: &Arc<PrivateKey>, scrub: Scrub<'_>) -> io::Result<Scrubbed> {
        let core = &self.core;
        let count = core.holders.count();
        let mut found = Scrubbed {
            wrong: vec![0; count],
            missing: vec![0; count],
            unknown: vec![0; count],
            ..Scrubbed::default()
        };
        let behind: Option<[u8; 16]> = core.index.note(BEHIND)?;
        let mut after = ChunkId(behind.unwrap_or([0; 16]));
        let total = core.index.count_chunks(&after)?;
        let begun = Instant::now();
        loop {
            let page = core.index.chunks(Chunks::All, &after, PAGE)?;
            for one in &page {
                if (scrub.stops)() {
                    core.index.set_note(BEHIND, after.0)?;
                    return Ok(found);
                }
                self.scrub_chunk(one, &mut found)?;
                after = one.chunk.id;
                found.chunks += 1;
                (scrub.progress)(found.chunks, total.max(found.chunks));
                if let Some(limit) = scrub.limit {
                    let due = Duration::from_secs_f64(found.bytes as f64 / limit.max(1) as f64);
                    let early = due.saturating_sub(begun.elapsed());
                    runtime::run(sleep(early))?;
                }
            }
            if page.len() < PAGE as usize {
                break;
            }
            core.index.set_note(BEHIND, after.0)?;
        }
        self.scrub_names(private, &mut found)?;
        core.index.set_note(BEHIND, [0; 16])?;
        core.index
            .set_note(SCRUBBED, i64::try_from(clock::millis()).unwrap_or(i64::MAX))?;
        found.is_whole = true;
        Ok(found)
    }

    /// When a scrub was last whole, in milliseconds since 1970.
    pub fn scrubbed(&self) -> io::Result<Option<u64>> {
        let scrubbed: Option<i64> = self.core.index.note(SCRUBBED)?;
        Ok(scrubbed.and_then(|at| u64::try_from(at).ok()))
    }

    /// Looks which objects each member has, without reading them, and notes what it lacks. One
    /// that cannot be listed lacks what it was known to lack.
    pub fn survey(&self, private: &Arc<PrivateKey>) -> io::Result<()> {
        let core = &self.core;
        let (this, private) = (core.clone(), private.clone());
        let (manifests, chunks) = runtime::run(async move {
            this.copy_document(&private).await;
            (this.copies("m").await, this.copies("c").await)
        })?;
        let all = core.holders.all();
        let lacks = |copies: &super::recover::Copies, unknown: Members, key: &ObjectKey, before| {
            let has = copies.get(key).copied().unwrap_or(0);
            (all & !has & !unknown) | (before & unknown)
        };
        let mut after = ChunkId([0; 16]);
        loop {
            let page = core.index.chunks(Chunks::All, &after, PAGE)?;
            for one in &page {
                after = one.chunk.id;
                let (before, key) = (one.missing, core.folder.chunk_key(&after));
                let missing = lacks(&chunks.0, chunks.1, &key, before);
                // One that has the object may still have a wrong one, as a scrub noted.
                let missing = missing | before;
                if missing != before {
                    core.index.set_missing(after, missing)?;
                }
            }
            if page.len() < PAGE as usize {
                break;
            }
        }
        let mut behind = (super::index::Id::default(), String::new());
        loop {
            let page = core.index.written_names(&behind, PAGE)?;
            for name in &page {
                let fence = name.sequence.fence;
                let key = core.folder.manifest_key(&name.parent, &name.name, fence);
                let missing = lacks(&manifests.0, manifests.1, &key, name.missing) | name.missing;
                if missing != name.missing {
                    core.index.set_name_missing(name.clone(), missing)?;
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE as usize => {
                    behind = (last.parent, last.name.clone());
                }
                _ => return Ok(()),
            }
        }
    }

    /// Notes that a folder is as good as scrubbed.
    pub fn begin_scrubs(&self) -> io::Result<()> {
        self.core
            .index
            .set_note(SCRUBBED, i64::try_from(clock::millis()).unwrap_or(i64::MAX))
    }

    fn scrub_chunk(&self, one: &IndexedChunk, found: &mut Scrubbed) -> io::Result<()> {
        let core = self.core.clone();
        let held = one.clone();
        let shares = runtime::run(async move { core.shares(&held).await })?;
        found.bytes += shares.bytes;
        for number in 0..self.core.holders.count() {
            for (set, counts) in [
                (shares.wrong, &mut found.wrong),
                (shares.missing, &mut found.missing),
                (shares.unknown, &mut found.unknown),
            ] {
                if let Some(count) = counts.get_mut(number).filter(|_| set & bit(number) != 0) {
                    *count += 1;
                }
            }
        }
        // It may have been removed meanwhile.
        let Some((secret, place)) = self.core.index.chunk_secret(&one.chunk.id)? else {
            return Ok(());
        };
        if !self.core.rebuilds(&secret, place, one, &shares)? {
            found.lost += 1;
        }
        // What one that does not answer was known to lack, it lacks.
        let missing = shares.wrong | shares.missing | one.missing & shares.unknown;
        match missing == one.missing {
            true => Ok(()),
            false => self.core.index.set_missing(one.chunk.id, missing),
        }
    }

    fn scrub_names(&self, private: &Arc<PrivateKey>, found: &mut Scrubbed) -> io::Result<()> {
        let core = &self.core;
        let mut behind = (super::index::Id::default(), String::new());
        loop {
            let page = core.index.written_names(&behind, PAGE)?;
            for name in &page {
                let key = core
                    .folder
                    .manifest_key(&name.parent, &name.name, name.sequence.fence);
                let (this, private) = (core.clone(), private.clone());
                let read = runtime::run(async move { this.latest(&key, &private).await })?;
                found.manifests += 1;
                let has = match &read.latest {
                    Some((manifest, _, who)) if manifest.sequence == name.sequence => *who,
                    _ => 0,
                };
                let missing = core.holders.all() & !has & !read.unknown;
                for number in 0..core.holders.count() {
                    for (set, counts) in [
                        (missing, &mut found.missing),
                        (read.unknown, &mut found.unknown),
                    ] {
                        if let Some(count) = counts.get_mut(number)
                            && set & bit(number) != 0
                        {
                            *count += 1;
                        }
                    }
                }
                let missing = missing | name.missing & read.unknown;
                if missing != name.missing {
                    core.index.set_name_missing(name.clone(), missing)?;
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE as usize => {
                    behind = (last.parent, last.name.clone());
                }
                _ => return Ok(()),
            }
        }
    }
}

//! Partial files: pieces under hidden keys, which say where each begins.
//!
//! ```text
//! .m2y/partial/NAME/ATTEMPT/00000000000000000000
//! .m2y/partial/NAME/ATTEMPT/00000000000008388608
//! ```
//!
//! Nothing else is noted: what a listing shows is what there is, also after a crash, and on another
//! machine.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::Arc,
};

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};

use super::{
    composition::shorten,
    objects::{Entry, Objects},
};
use crate::store::{
    PartialName, buffers,
    growing::{ChunkWriter, Filled},
    member::MemberResult,
    runtime,
};

/// Where partial files are, below the folder.
pub const DIR: &str = ".m2y/partial/";

/// Bytes that are read at a time.
const READ: u64 = 8 << 20;

/// Pieces that are removed at a time.
const AT_ONCE: usize = 16;

/// A piece of a partial file, without a gap before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the file.
    pub start: u64,
    /// Its bytes.
    pub len: u64,
    /// Its key.
    pub key: String,
    /// What tells this version from others, if it may be replaced meanwhile.
    pub etag: Option<String>,
}

impl Piece {
    /// Where it ends in the file.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// What there is of a partial file.
#[derive(Debug, Default)]
pub struct Held {
    /// The attempt by which it came.
    pub attempt: String,
    /// From the beginning of the file.
    pub pieces: Vec<Piece>,
    /// Keys of other attempts, and of what is behind a gap.
    pub stray: Vec<String>,
}

impl Held {
    /// The bytes from the beginning.
    pub fn len(&self) -> u64 {
        self.pieces.last().map_or(0, Piece::end)
    }

    /// All its keys, that of the first piece first: without that one there is no partial file.
    pub fn keys(&self) -> Vec<String> {
        let pieces = self.pieces.iter().map(|piece| piece.key.clone());
        pieces.chain(self.stray.iter().cloned()).collect()
    }

    /// Sorts what was found of one partial file.
    fn of(directory: &str, found: Vec<Entry>) -> Self {
        let mut attempts: BTreeMap<String, BTreeMap<u64, Entry>> = BTreeMap::new();
        let mut held = Self::default();
        for entry in found {
            let rest = entry.key.strip_prefix(directory);
            let place = rest.and_then(|rest| rest.split_once('/'));
            match place.and_then(|(attempt, start)| Some((attempt, start.parse().ok()?))) {
                Some((attempt, start)) => {
                    let pieces = attempts.entry(attempt.to_owned()).or_default();
                    pieces.insert(start, entry);
                }
                None => held.stray.push(entry.key),
            }
        }
        // Earlier ones should have been removed.
        let begun = |pieces: &BTreeMap<u64, Entry>| pieces.get(&0).map(|first| first.written);
        let latest = attempts
            .iter()
            .filter_map(|(attempt, pieces)| Some((begun(pieces)?, attempt)))
            .max();
        held.attempt = latest
            .map(|(_, attempt)| attempt.clone())
            .unwrap_or_default();
        for (attempt, pieces) in attempts {
            for (start, entry) in pieces {
                if attempt == held.attempt && start == held.len() {
                    held.pieces.push(Piece {
                        start,
                        len: entry.size,
                        key: entry.key,
                        etag: None,
                    });
                } else {
                    held.stray.push(entry.key);
                }
            }
        }
        held
    }
}

fn directory(partial: &PartialName) -> String {
    format!("{DIR}{}/", partial.as_str())
}

fn key(partial: &PartialName, attempt: &str, start: u64) -> String {
    format!("{}{attempt}/{start:020}", directory(partial))
}

/// What there is of a partial file; `None` if its beginning is not there.
pub async fn find(objects: &Objects, partial: &PartialName) -> MemberResult<Option<Held>> {
    let held = look(objects, partial).await?;
    Ok((!held.pieces.is_empty()).then_some(held))
}

async fn look(objects: &Objects, partial: &PartialName) -> MemberResult<Held> {
    let directory = directory(partial);
    Ok(Held::of(&directory, objects.all(&directory).await?))
}

/// Removes objects.
pub async fn remove_all(objects: &Objects, keys: Vec<String>) -> MemberResult<()> {
    let removing = stream::iter(keys).map(|key| async move { objects.remove(&key).await });
    removing.buffer_unordered(AT_ONCE).try_collect().await
}

/// Removes whatever there is of a partial file.
pub async fn remove(objects: &Objects, partial: &PartialName) -> MemberResult<()> {
    let held = look(objects, partial).await?;
    remove_in_order(objects, held.keys()).await
}

/// Removes a partial file by its keys, that of the first piece before the others: what is left of a
/// file must never pass for all of it.
pub async fn remove_in_order(objects: &Objects, mut keys: Vec<String>) -> MemberResult<()> {
    let rest = keys.split_off(keys.len().min(1));
    remove_all(objects, keys).await?;
    remove_all(objects, rest).await
}

/// Cuts a partial file to its first bytes; returns where the next piece begins, and what there is of
/// it.
pub async fn cut(objects: &Objects, held: Held, keep: u64) -> MemberResult<(u64, Vec<u8>)> {
    let mut gathered = Vec::new();
    let mut start = 0;
    let mut behind = held.stray;
    for piece in held.pieces {
        if piece.end() <= keep {
            start = piece.end();
        } else if piece.start < keep && keep - piece.start > READ {
            // One that was joined of many is too long for the memory.
            shorten(objects, piece, keep).await?;
            start = keep;
        } else if piece.start < keep {
            // It is replaced when the next piece is written: both begin at the same byte.
            gathered = objects.get(&piece.key, None, 0..keep - piece.start).await?;
        } else {
            behind.push(piece.key);
        }
    }
    remove_all(objects, behind).await?;
    Ok((start, gathered))
}

/// Writes the pieces of one attempt.
pub struct PieceWriter {
    objects: Arc<Objects>,
    partial: PartialName,
    attempt: String,
}

impl PieceWriter {
    /// A writer for this attempt at a file.
    pub fn new(objects: &Arc<Objects>, partial: &PartialName, attempt: String) -> Self {
        Self {
            objects: objects.clone(),
            partial: partial.clone(),
            attempt,
        }
    }
}

impl ChunkWriter for PieceWriter {
    fn write(&self, chunk: Filled) -> BoxFuture<'static, io::Result<()>> {
        let objects = self.objects.clone();
        let key = key(&self.partial, &self.attempt, chunk.start);
        let body = buffers::shared(chunk.bytes);
        async move { Ok(objects.put(&key, body).await?) }.boxed()
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }

    fn copies(&self) -> usize {
        1
    }

    fn has_empty(&self) -> bool {
        true
    }
}

/// Reads a partial file from its beginning.
pub struct PieceReader {
    objects: Arc<Objects>,
    /// What is left, the next piece last.
    left: Vec<Piece>,
    /// How much of the next piece was fetched.
    fetched: u64,
    bytes: Vec<u8>,
    /// How much of `bytes` was read.
    read: usize,
}

impl PieceReader {
    /// A reader at the beginning.
    pub fn new(objects: &Arc<Objects>, held: Held) -> Self {
        let mut left = held.pieces;
        left.reverse();
        Self {
            objects: objects.clone(),
            left,
            fetched: 0,
            bytes: Vec::new(),
            read: 0,
        }
    }

    fn fetch(&mut self) -> io::Result<()> {
        let Some(piece) = self.left.last().cloned() else {
            return Ok(());
        };
        let (objects, from) = (self.objects.clone(), self.fetched);
        let to = piece.len.min(from + READ);
        let fetching = async move { objects.get(&piece.key, None, from..to).await };
        let bytes = runtime::run(fetching)??;
        buffers::give(std::mem::replace(&mut self.bytes, bytes));
        self.read = 0;
        self.fetched = to;
        if self.left.last().is_some_and(|piece| piece.len == to) {
            self.left.pop();
            self.fetched = 0;
        }
        Ok(())
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.bytes.len() && !self.left.is_empty() {
            self.fetch()?;
        }
        let mut rest = self.bytes.get(self.read..).unwrap_or_default();
        let read = rest.read(buffer)?;
        self.read += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, size: u64, written: i64) -> Entry {
        Entry {
            key: key.to_owned(),
            size,
            written,
            etag: String::new(),
        }
    }

    #[test]
    fn what_is_behind_a_gap_or_of_another_attempt_does_not_count() {
        let found = vec![
            entry("d/new/00000000000000000000", 10, 5),
            entry("d/new/00000000000000000004", 6, 4),
            entry("d/new/00000000000000000010", 3, 6),
            entry("d/new/00000000000000000014", 3, 6),
            entry("d/old/00000000000000000000", 99, 3),
            entry("d/x", 1, 9),
        ];
        let held = Held::of("d/", found);
        assert_eq!((&*held.attempt, held.len()), ("new", 13));
        let starts: Vec<u64> = held.pieces.iter().map(|piece| piece.start).collect();
        assert_eq!(starts, [0, 10]);
        assert_eq!(held.stray.len(), 4);
        assert_eq!(Held::of("d/", Vec::new()).len(), 0);
    }

    #[test]
    fn an_empty_file_has_one_piece() {
        let held = Held::of("d/", vec![entry("d/a/00000000000000000000", 0, 1)]);
        assert_eq!((held.pieces.len(), held.len()), (1, 0));
    }
}

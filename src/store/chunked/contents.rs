//! Files that are read: chunk by chunk in order, block by block elsewhere.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use super::{
    Core, crypto_error,
    index::{Id, files::IndexedFile},
};
use crate::store::{
    Contents, Kind, Stat, buffers, runtime,
    sealed::{
        FileSecret,
        chunk::{BLOCK, ChunkSeal, TAG_BYTES, tags_len},
        manifest::Chunk,
    },
};

/// A file that is open to be read. Its chunks stay until it is closed.
pub struct ChunkedContents {
    core: Arc<Core>,
    file: IndexedFile,
    /// Where each chunk begins in the file.
    starts: Vec<u64>,
    reading: Mutex<Reading>,
}

/// How far it was read.
#[derive(Default)]
struct Reading {
    /// The chunk that was read last, opened.
    chunk: Option<(usize, Vec<u8>)>,
    /// The one behind it.
    next: Option<(usize, JoinHandle<io::Result<Vec<u8>>>)>,
    /// Where the last read ended.
    end: u64,
}

impl ChunkedContents {
    /// Opens a file.
    pub fn new(core: &Arc<Core>, file: IndexedFile) -> Self {
        let mut end = 0;
        let chunks = file.contents.chunks.iter();
        let starts = chunks.map(|chunk| {
            let start = end;
            end += u64::from(chunk.len);
            start
        });
        let starts = starts.collect();
        core.opened(file.id);
        Self {
            core: core.clone(),
            file,
            starts,
            reading: Mutex::default(),
        }
    }

    fn fetch(&self, place: usize) -> io::Result<JoinHandle<io::Result<Vec<u8>>>> {
        let chunk = self.file.contents.chunks.get(place);
        let chunk = chunk.ok_or(io::ErrorKind::UnexpectedEof)?.clone();
        let (core, secret) = (self.core.clone(), self.file.secret.clone());
        Ok(runtime::handle()?.spawn(read_chunk(core, secret, chunk, place as u64)))
    }

    /// Reads a part of a chunk; at most one block is opened for nothing at either end.
    fn blocks(&self, place: usize, range: Range<u64>) -> Option<io::Result<Vec<u8>>> {
        let chunk = self.file.contents.chunks.get(place)?.clone();
        let (core, secret) = (self.core.clone(), self.file.secret.clone());
        let read =
            runtime::run(
                async move { read_blocks(&core, &secret, &chunk, place as u64, range).await },
            );
        read.unwrap_or_else(|e| Some(Err(e)))
    }
}

impl Drop for ChunkedContents {
    fn drop(&mut self) {
        self.core.closed(self.file.id);
        let reading = self.reading.get_mut();
        let reading = reading.unwrap_or_else(PoisonError::into_inner);
        if let Some((_, chunk)) = reading.chunk.take() {
            buffers::give(chunk);
        }
    }
}

impl Contents for ChunkedContents {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat {
            kind: Kind::File,
            size: self.file.contents.size,
            modified: self.file.contents.modified,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if buffer.is_empty() || offset >= self.file.contents.size {
            return Ok(0);
        }
        let place = self.starts.partition_point(|start| *start <= offset);
        let place = place.checked_sub(1).ok_or(io::ErrorKind::UnexpectedEof)?;
        let (Some(start), Some(chunk)) =
            (self.starts.get(place), self.file.contents.chunks.get(place))
        else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let inside = offset - start;
        let wanted = (u64::from(chunk.len) - inside).min(buffer.len() as u64);
        let range = inside..inside + wanted;
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let is_next = reading.end == offset;
        let has = |at: Option<usize>| at == Some(place);
        if !has(reading.chunk.as_ref().map(|(at, _)| *at)) {
            let is_coming = has(reading.next.as_ref().map(|(at, _)| *at));
            // A few bytes from somewhere are not worth a chunk.
            let few = !is_next && !is_coming && wanted < u64::from(chunk.len) / 4;
            if few && let Some(bytes) = self.blocks(place, range.clone()) {
                let bytes = bytes?;
                reading.end = offset + wanted;
                return Ok(copy(&bytes, buffer));
            }
            let coming = match reading.next.take().filter(|(at, _)| *at == place) {
                Some((_, coming)) => coming,
                None => self.fetch(place)?,
            };
            if let Some((_, before)) = reading.chunk.take() {
                buffers::give(before);
            }
            let opened = pollster::block_on(coming).map_err(io::Error::other)??;
            reading.chunk = Some((place, opened));
        }
        reading.end = offset + wanted;
        if is_next && reading.next.is_none() && place + 1 < self.starts.len() {
            reading.next = Some((place + 1, self.fetch(place + 1)?));
        }
        let (from, to) = (range.start as usize, range.end as usize);
        let bytes = reading
            .chunk
            .as_ref()
            .and_then(|(_, all)| all.get(from..to));
        Ok(copy(bytes.ok_or(io::ErrorKind::UnexpectedEof)?, buffer))
    }

    fn version(&self) -> io::Result<String> {
        let modified = self.file.contents.modified;
        Ok(format!("{}-{modified}", hex::encode(self.file.id)))
    }

    fn settle(&self) -> io::Result<()> {
        // It has a manifest, or its name is settled before anybody is told.
        Ok(())
    }
}

fn copy(bytes: &[u8], buffer: &mut [u8]) -> usize {
    let len = bytes.len().min(buffer.len());
    if let (Some(to), Some(from)) = (buffer.get_mut(..len), bytes.get(..len)) {
        to.copy_from_slice(from);
    }
    len
}

/// Reads and opens a chunk. Members whose part is wrong are noted, to be mended.
pub async fn read_chunk(
    core: Arc<Core>,
    secret: FileSecret,
    chunk: Chunk,
    place: u64,
) -> io::Result<Vec<u8>> {
    let (key, len) = (core.folder.chunk_key(&chunk.id), chunk.len as usize);
    let got = core
        .holders
        .get_chunk(&key, len, tags_len(len), &chunk.shares);
    let mut got = got.await?;
    let seal = ChunkSeal::new(&secret, &chunk.id, place).map_err(crypto_error)?;
    seal.open(&mut got.bytes, &got.tags).map_err(crypto_error)?;
    if got.wrong != 0 {
        warn!(
            "{key}: the part of {} is wrong or missing, and will be mended",
            core.names(got.wrong)
        );
        let noting = spawn_blocking(move || core.index.add_missing(chunk.id, got.wrong));
        // It is found again by the next read.
        let _ = noting.await;
    }
    Ok(got.bytes)
}

/// Reads and opens the blocks of a chunk that hold a range, and returns the range. `None` if that
/// cannot be done for less than the chunk.
async fn read_blocks(
    core: &Core,
    secret: &FileSecret,
    chunk: &Chunk,
    place: u64,
    range: Range<u64>,
) -> Option<io::Result<Vec<u8>>> {
    let (block, len) = (BLOCK as u64, u64::from(chunk.len));
    let (first, end) = (range.start / block, range.end.div_ceil(block));
    let bytes = first * block..(end * block).min(len);
    let tag = TAG_BYTES as u64;
    let tags = len + first * tag..len + end * tag;
    let key = core.folder.chunk_key(&chunk.id);
    let got = futures_util::future::join(
        core.holders.get_range(&key, bytes.clone()),
        core.holders.get_range(&key, tags),
    );
    let (Some(got), Some(tags)) = got.await else {
        return None;
    };
    let open = || {
        let (mut got, tags) = (got?, tags?);
        let seal = ChunkSeal::new(secret, &chunk.id, place).map_err(crypto_error)?;
        seal.open_blocks(&mut got, &tags, first, len as usize)
            .map_err(crypto_error)?;
        got.truncate((range.end - bytes.start) as usize);
        got.drain(..(range.start - bytes.start) as usize);
        Ok(got)
    };
    Some(open())
}

/// Chunks of files that are open, by the id of the file.
pub type Open = std::collections::HashMap<Id, usize>;

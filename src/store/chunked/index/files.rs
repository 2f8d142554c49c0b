//! Files: those that grow, their chunks, and those that are read.

use std::io;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Id, Index, broken, names, signed};
use crate::{
    clock::nanos,
    store::{
        ContentPath,
        chunked::holders::{Held, Members},
        sealed::{
            FileSecret,
            chunk::ChunkId,
            manifest::{Chunk, Contents},
        },
    },
};

/// A chunk of a file, as the index has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedChunk {
    /// As it stands in a manifest.
    pub chunk: Chunk,
    /// The CRC-32 of its bytes.
    pub crc: u32,
    /// The members without their part.
    pub missing: Members,
}

/// A file that can be read.
#[derive(Clone)]
pub struct IndexedFile {
    /// Its id.
    pub id: Id,
    /// What its chunks are sealed with.
    pub secret: FileSecret,
    /// Its contents.
    pub contents: Contents,
}

/// A partial file.
#[derive(Clone)]
pub struct IndexedPartial {
    /// The id of the file.
    pub id: Id,
    /// What its chunks are sealed with.
    pub secret: FileSecret,
    /// Its chunks, without gaps.
    pub chunks: Vec<IndexedChunk>,
}

impl Index {
    /// Begins a partial file; an earlier one of the name goes.
    pub fn begin(&self, partial: &str, id: Id, secret: &FileSecret) -> io::Result<()> {
        let (partial, secret) = (partial.to_owned(), secret.clone());
        self.change(false, move |db| {
            discard(db, &partial)?;
            insert_file(db, &id, &secret)?;
            db.prepare_cached("INSERT INTO partials VALUES (?1, ?2, ?3)")?
                .execute(params![partial, id, nanos()])?;
            Ok(())
        })
    }

    /// A partial file.
    pub fn partial(&self, partial: &str) -> io::Result<Option<IndexedPartial>> {
        self.look(|db| {
            let query = "SELECT file, secret FROM partials JOIN files ON files.id = file
                 WHERE name = ?1";
            let found = db
                .prepare_cached(query)?
                .query_row([partial], |row| Ok((row.get(0)?, secret(row, 1)?)))
                .optional()?;
            let Some((id, secret)) = found else {
                return Ok(None);
            };
            let mut chunks = Vec::new();
            for (place, chunk) in chunks_of(db, &id)? {
                // What was sent at once may have a gap, which ends what is held.
                if place != chunks.len() as u64 {
                    break;
                }
                chunks.push(chunk);
            }
            Ok(Some(IndexedPartial { id, secret, chunks }))
        })
    }

    /// Bytes of a partial file that were written.
    pub fn held(&self, partial: &str) -> io::Result<Option<u64>> {
        let partial = self.partial(partial)?;
        Ok(partial.map(|partial| {
            let lens = partial.chunks.iter().map(|held| u64::from(held.chunk.len));
            lens.sum()
        }))
    }

    /// Keeps the first chunks of a partial file, and drops the others.
    pub fn cut(&self, partial: &str, id: Id, chunks: u64) -> io::Result<()> {
        let partial = partial.to_owned();
        self.change(false, move |db| {
            let dropped = "INSERT OR IGNORE INTO dropped
                 SELECT id FROM chunks WHERE file = ?1 AND place >= ?2";
            let behind = params![id, signed(chunks)];
            db.prepare_cached(dropped)?.execute(behind)?;
            db.prepare_cached("DELETE FROM chunks WHERE file = ?1 AND place >= ?2")?
                .execute(behind)?;
            touch(db, &partial)?;
            Ok(())
        })
    }

    /// Adds a chunk that was written to a file. If nothing needs the file any more, the chunk is
    /// dropped.
    pub fn add_chunk(
        &self,
        partial: &str,
        file: Id,
        place: u64,
        chunk: IndexedChunk,
    ) -> io::Result<()> {
        let partial = partial.to_owned();
        self.change(false, move |db| {
            let needed = db
                .prepare_cached("SELECT 1 FROM files WHERE id = ?1 AND due IS NULL")?
                .exists([file])?;
            match needed {
                true => {
                    insert_chunk(db, &file, place, &chunk)?;
                    touch(db, &partial)?;
                }
                false => drop_chunk(db, &chunk.chunk.id)?,
            }
            Ok(())
        })
    }

    /// A chunk that may have been written, and belongs to no file.
    pub fn drop_chunk(&self, id: ChunkId) -> io::Result<()> {
        self.change(false, move |db| {
            drop_chunk(db, &id)?;
            Ok(())
        })
    }

    /// Removes a partial file.
    pub fn discard(&self, partial: &str) -> io::Result<()> {
        let partial = partial.to_owned();
        self.change(false, move |db| {
            discard(db, &partial)?;
            Ok(())
        })
    }

    /// Partial files that nothing was added to since then.
    pub fn old_partials(&self, before: i64) -> io::Result<Vec<String>> {
        self.look(|db| {
            let mut query = db.prepare_cached("SELECT name FROM partials WHERE touched < ?1")?;
            let rows = query.query_map([before], |row| row.get(0))?;
            rows.collect()
        })
    }

    /// A file that has a name.
    pub fn file(&self, id: &Id) -> io::Result<Option<IndexedFile>> {
        self.look(|db| file(db, id))
    }

    /// Keeps a document with the file at a path; its manifest is written once more.
    pub fn describe(&self, path: &ContentPath, document: String) -> io::Result<()> {
        let path = path.clone();
        self.change(false, move |db| {
            let Some((parent, name, entry)) = names::locate(db, &path)? else {
                return Err(io::ErrorKind::NotFound.into());
            };
            db.prepare_cached("UPDATE files SET meta = ?2 WHERE id = ?1")?
                .execute(params![entry.id, document])?;
            names::touch(db, &parent, name)?;
            Ok(())
        })
    }

    /// The documents of all files, behind a file.
    pub fn documents(&self, after: &Id, most: u32) -> io::Result<Vec<(Id, String)>> {
        self.look(|db| {
            let query = "SELECT id, meta FROM files
                 WHERE meta IS NOT NULL AND due IS NULL AND id > ?1
                 AND id NOT IN (SELECT file FROM versions) ORDER BY id LIMIT ?2";
            let mut query = db.prepare_cached(query)?;
            let rows =
                query.query_map(params![after, most], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }
}

/// Reads a file with its chunks.
pub(super) fn file(db: &Connection, id: &Id) -> rusqlite::Result<Option<IndexedFile>> {
    let query = "SELECT secret, size, crc, modified, meta FROM files WHERE id = ?1";
    let found = db.prepare_cached(query)?.query_row([id], |row| {
        let secret = secret(row, 0)?;
        let contents = Contents {
            size: super::unsigned(row.get(1)?),
            crc: row.get(2)?,
            modified: row.get(3)?,
            meta: row.get(4)?,
            chunks: Vec::new(),
        };
        Ok((secret, contents))
    });
    let Some((secret, mut contents)) = found.optional()? else {
        return Ok(None);
    };
    let chunks = chunks_of(db, id)?;
    contents.chunks = chunks.into_iter().map(|(_, held)| held.chunk).collect();
    let id = *id;
    Ok(Some(IndexedFile {
        id,
        secret,
        contents,
    }))
}

pub(super) fn insert_file(db: &Connection, id: &Id, secret: &FileSecret) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO files VALUES (?1, ?2, 0, 0, 0, NULL, NULL)")?
        .execute(params![id, secret.as_bytes()])
        .map(drop)
}

pub(super) fn insert_chunk(
    db: &Connection,
    file: &Id,
    place: u64,
    held: &IndexedChunk,
) -> rusqlite::Result<()> {
    let chunk = &held.chunk;
    db.prepare_cached("INSERT OR REPLACE INTO chunks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![
            file,
            signed(place),
            chunk.id.0,
            chunk.len,
            held.crc,
            chunk.shares.concat(),
            held.missing
        ])
        .map(drop)
}

fn drop_chunk(db: &Connection, id: &ChunkId) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR IGNORE INTO dropped VALUES (?1)")?
        .execute([id.0])
        .map(drop)
}

/// The chunks of a file with their places, in their order.
fn chunks_of(db: &Connection, file: &Id) -> rusqlite::Result<Vec<(u64, IndexedChunk)>> {
    let query = "SELECT place, id, len, crc, digests, missing FROM chunks
         WHERE file = ?1 ORDER BY place";
    let mut query = db.prepare_cached(query)?;
    let rows = query.query_map([file], |row| {
        Ok((super::unsigned(row.get(0)?), chunk(row, 1)?))
    })?;
    rows.collect()
}

/// From the columns id, len, crc, digests and missing.
pub(super) fn chunk(row: &rusqlite::Row<'_>, from: usize) -> rusqlite::Result<IndexedChunk> {
    let digests: Vec<u8> = row.get(from + 3)?;
    Ok(IndexedChunk {
        chunk: Chunk {
            id: ChunkId(row.get(from)?),
            len: row.get(from + 1)?,
            shares: digests
                .chunks_exact(32)
                .filter_map(|digest| digest.try_into().ok())
                .collect(),
        },
        crc: row.get(from + 2)?,
        missing: row.get(from + 4)?,
    })
}

pub(super) fn secret(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<FileSecret> {
    let bytes: Vec<u8> = row.get(column)?;
    let bad = || broken(io::Error::from(io::ErrorKind::InvalidData));
    FileSecret::from_bytes(&bytes).ok_or_else(bad)
}

fn touch(db: &Connection, partial: &str) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE partials SET touched = ?2 WHERE name = ?1")?
        .execute(params![partial, nanos()])
        .map(drop)
}

fn discard(db: &Connection, partial: &str) -> rusqlite::Result<()> {
    let due = "UPDATE files SET due = ?2
         WHERE id = (SELECT file FROM partials WHERE name = ?1)";
    db.prepare_cached(due)?.execute(params![partial, nanos()])?;
    db.prepare_cached("DELETE FROM partials WHERE name = ?1")?
        .execute([partial])
        .map(drop)
}

impl IndexedChunk {
    /// A chunk that was written.
    pub fn new(id: ChunkId, len: u32, crc: u32, held: Held) -> Self {
        Self {
            chunk: Chunk {
                id,
                len,
                shares: held.digests,
            },
            crc,
            missing: held.missing,
        }
    }
}

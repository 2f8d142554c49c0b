//! What the index knows of everything: for a scrub, and for who looks after the store.

use std::io;

use rusqlite::{OptionalExtension, params};

use super::{Id, Index, files, signed, unsigned};
use crate::store::{
    chunked::{
        holders::{Members, bit},
        status::Files,
    },
    sealed::{
        FileSecret,
        chunk::{ChunkId, tags_len},
        manifest::Sequence,
    },
    stripe::code::share_len,
};

/// A name whose manifest is on members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenName {
    /// The directory that it is in.
    pub parent: Id,
    /// The name.
    pub name: String,
    /// Which manifest counts.
    pub sequence: Sequence,
    /// The members without it.
    pub missing: Members,
}

impl Index {
    /// Chunks of files with a name behind this one.
    pub fn count_chunks(&self, after: &ChunkId) -> io::Result<u64> {
        self.survey(|db| {
            let query = "SELECT count(*) FROM chunks JOIN files ON files.id = file
                 WHERE due IS NULL AND chunks.id > ?1";
            let count = db.query_row(query, [after.0], |row| row.get(0))?;
            Ok(unsigned(count))
        })
    }

    /// What a chunk is sealed with, and its place in the file.
    pub fn chunk_secret(&self, id: &ChunkId) -> io::Result<Option<(FileSecret, u64)>> {
        self.look(|db| {
            let query = "SELECT secret, place FROM chunks JOIN files ON files.id = file
                 WHERE chunks.id = ?1 AND due IS NULL";
            db.prepare_cached(query)?
                .query_row([id.0], |row| {
                    Ok((files::secret(row, 0)?, unsigned(row.get(1)?)))
                })
                .optional()
        })
    }

    /// Names whose manifests are on enough members, behind one of them.
    pub fn written_names(&self, behind: &(Id, String), most: u32) -> io::Result<Vec<WrittenName>> {
        self.look(|db| {
            let query = "SELECT parent, name, fence, count, missing FROM names
                 WHERE settled = 1 AND (parent, name) > (?1, ?2) ORDER BY parent, name LIMIT ?3";
            let mut query = db.prepare_cached(query)?;
            let rows = query.query_map(params![behind.0, behind.1, most], |row| {
                Ok(WrittenName {
                    parent: row.get(0)?,
                    name: row.get(1)?,
                    sequence: Sequence {
                        fence: unsigned(row.get(2)?),
                        count: unsigned(row.get(3)?),
                    },
                    missing: row.get(4)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Notes which members lack the manifest of a name, if it still is that one.
    pub fn set_name_missing(&self, name: WrittenName, missing: Members) -> io::Result<()> {
        self.change(false, move |db| {
            let query = "UPDATE names SET missing = ?5
                 WHERE parent = ?1 AND name = ?2 AND fence = ?3 AND count = ?4";
            db.prepare_cached(query)?.execute(params![
                name.parent,
                name.name,
                signed(name.sequence.fence),
                signed(name.sequence.count),
                missing
            ])?;
            Ok(())
        })
    }

    /// For each member the bytes that it holds, and the parts of chunks that it lacks.
    pub fn held_by_members(&self, members: usize) -> io::Result<Vec<(u64, u64)>> {
        self.survey(|db| {
            let mut query = db.prepare_cached("SELECT len, missing FROM chunks")?;
            let mut rows = query.query([])?;
            let mut held = vec![(0, 0); members];
            while let Some(row) = rows.next()? {
                let (len, missing): (u32, Members) = (row.get(0)?, row.get(1)?);
                let len = len as usize;
                let share = match members {
                    1 => len + tags_len(len),
                    _ => share_len(len) + tags_len(len),
                };
                for (number, (used, lacking)) in held.iter_mut().enumerate() {
                    match missing & bit(number) == 0 {
                        true => *used += share as u64,
                        false => *lacking += 1,
                    }
                }
            }
            Ok(held)
        })
    }

    /// Files with a name, by how many members lack a part of the worst of their chunks.
    pub fn files_by_loss(&self, members: usize) -> io::Result<Files> {
        self.survey(|db| {
            let query = "SELECT id FROM names WHERE kind = 1";
            let all: i64 =
                db.query_row("SELECT count(*) FROM names WHERE kind = 1", [], |row| {
                    row.get(0)
                })?;
            let query = format!(
                "SELECT file, missing FROM chunks
                 WHERE missing <> 0 AND file IN ({query}) ORDER BY file"
            );
            let mut query = db.prepare(&query)?;
            let mut rows = query.query([])?;
            let mut worst: Vec<(Id, u32)> = Vec::new();
            while let Some(row) = rows.next()? {
                let (file, missing): (Id, Members) = (row.get(0)?, row.get(1)?);
                let lacking = missing.count_ones();
                match worst.last_mut() {
                    Some((last, most)) if *last == file => *most = (*most).max(lacking),
                    _ => worst.push((file, lacking)),
                }
            }
            let mut files = Files {
                whole: unsigned(all).saturating_sub(worst.len() as u64),
                ..Files::default()
            };
            for (_, lacking) in worst {
                match (members, lacking) {
                    (1, _) | (_, 3..) => files.lost += 1,
                    (_, 2) => files.critical += 1,
                    _ => files.degraded += 1,
                }
            }
            Ok(files)
        })
    }
}

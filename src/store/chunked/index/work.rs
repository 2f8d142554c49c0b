//! What is still to be written to members, or removed from them.

use std::io;

use rusqlite::{Connection, params};

use super::{Id, Index, files, names};
use crate::{
    clock::nanos,
    store::{
        chunked::holders::Members,
        sealed::{
            FileSecret,
            chunk::ChunkId,
            manifest::{Kind, Manifest, Sequence},
        },
    },
};

/// A manifest that members lack.
pub struct Unwritten {
    /// What it says.
    pub manifest: Manifest,
    /// What it is sealed with; `None` where it holds nothing secret but the name.
    pub secret: Option<FileSecret>,
    /// The file, if it is the manifest of an earlier one.
    pub version: Option<Id>,
    /// The members that lack it.
    pub missing: Members,
}

/// Which chunks are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// All of them.
    All,
    /// Those with a part missing on some member.
    Degraded,
}

/// A file that was removed or overwritten, and can be had back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The file.
    pub file: Id,
    /// Where it was.
    pub path: String,
    /// When it was removed or overwritten, in nanoseconds since 1970.
    pub at: i64,
    /// Until when it can be had back.
    pub until: i64,
    /// Its bytes.
    pub size: u64,
    /// When it changed last.
    pub modified: i64,
}

/// Which manifests are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that too few members have: of what has a name, before those of what has none any
    /// more. So a crash leaves two names rather than none.
    Unsettled,
    /// Those that some member lacks, of names behind this count: those of earlier files come with
    /// the first ones, behind 0.
    Missing(u64),
}

/// A name that stands for nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The id of its directory.
    pub parent: Id,
    /// The name.
    pub name: String,
    /// The sequence of its manifest.
    pub sequence: Sequence,
}

/// What nothing needs any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// A file with its chunks, and whether it has a manifest to restore it.
    File(Id, Vec<ChunkId>, bool),
    /// A chunk of no file.
    Chunk(ChunkId),
    /// The manifest of a name under an earlier lease.
    Manifest(Id, String, u64),
    /// The manifest of an earlier file that was restored.
    Restored(Id),
}

/// How much is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Manifests that a member lacks.
    pub manifests: u64,
    /// Chunks of which a member lacks its part.
    pub chunks: u64,
    /// Files with such a chunk.
    pub files: u64,
    /// Files to be removed from members.
    pub garbage: u64,
}

impl Index {
    /// Manifests to be written.
    pub fn unwritten(&self, which: Which, most: u32) -> io::Result<Vec<Unwritten>> {
        let (condition, first, behind) = match which {
            Which::Unsettled => ("settled = 0", "kind = 0, ", 0),
            Which::Missing(behind) => ("missing <> 0 AND settled = 1", "", behind),
        };
        self.look(|db| {
            let mut found = match behind {
                0 => versions(db, condition, most)?,
                _ => Vec::new(),
            };
            let query = format!(
                "SELECT parent, name, fence, count, kind, id, missing FROM names
                 WHERE {condition} AND count > ?2 ORDER BY {first}count LIMIT ?1"
            );
            let mut query = db.prepare_cached(&query)?;
            let mut rows = query.query(params![most, super::signed(behind)])?;
            while let Some(row) = rows.next()? {
                let kind: i64 = row.get(4)?;
                let (mut secret, mut says) = (None, Kind::Removed);
                if kind == names::DIRECTORY {
                    says = Kind::Directory(row.get(5)?);
                }
                if kind == names::FILE {
                    let Some(file) = files::file(db, &row.get(5)?)? else {
                        continue;
                    };
                    secret = Some(file.secret);
                    says = Kind::File(file.contents);
                }
                found.push(Unwritten {
                    manifest: Manifest {
                        parent: row.get(0)?,
                        name: row.get(1)?,
                        sequence: Sequence {
                            fence: super::unsigned(row.get(2)?),
                            count: super::unsigned(row.get(3)?),
                        },
                        kind: says,
                    },
                    secret,
                    version: None,
                    missing: row.get(6)?,
                });
            }
            Ok(found)
        })
    }

    /// Notes that members have these manifests: all but those that are still missing. Those
    /// whose name means something else by now are left as they are.
    pub fn wrote(&self, written: Vec<(Unwritten, Members, bool)>) -> io::Result<()> {
        self.change(false, move |db| {
            for (one, missing, settled) in &written {
                match one.version {
                    Some(file) => {
                        let query = "UPDATE versions SET missing = ?2, settled = max(settled, ?3)
                             WHERE file = ?1";
                        db.prepare_cached(query)?
                            .execute(params![file, missing, settled])?;
                    }
                    None => {
                        let Manifest {
                            parent,
                            name,
                            sequence,
                            ..
                        } = &one.manifest;
                        let query = "UPDATE names SET missing = ?5, settled = max(settled, ?6)
                             WHERE parent = ?1 AND name = ?2 AND fence = ?3 AND count = ?4";
                        db.prepare_cached(query)?.execute(params![
                            parent,
                            name,
                            super::signed(sequence.fence),
                            super::signed(sequence.count),
                            missing,
                            settled
                        ])?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Chunks of files that are needed, behind a chunk, in the order of their ids.
    pub fn chunks(
        &self,
        which: Chunks,
        after: &ChunkId,
        most: u32,
    ) -> io::Result<Vec<files::IndexedChunk>> {
        let condition = match which {
            Chunks::All => "",
            Chunks::Degraded => "missing <> 0 AND ",
        };
        self.look(|db| {
            let query = format!(
                "SELECT chunks.id, len, chunks.crc, digests, missing FROM chunks
                 JOIN files ON files.id = file
                 WHERE {condition}due IS NULL AND chunks.id > ?1 ORDER BY chunks.id LIMIT ?2"
            );
            let mut query = db.prepare_cached(&query)?;
            let rows = query.query_map(params![after.0, most], |row| files::chunk(row, 0))?;
            rows.collect()
        })
    }

    /// Notes which members lack their part of a chunk.
    pub fn set_missing(&self, id: ChunkId, missing: Members) -> io::Result<()> {
        self.change(false, move |db| {
            db.prepare_cached("UPDATE chunks SET missing = ?2 WHERE id = ?1")?
                .execute(params![id.0, missing])?;
            Ok(())
        })
    }

    /// Adds members to those that lack their part of a chunk.
    pub fn add_missing(&self, id: ChunkId, missing: Members) -> io::Result<()> {
        self.change(false, move |db| {
            db.prepare_cached("UPDATE chunks SET missing = missing | ?2 WHERE id = ?1")?
                .execute(params![id.0, missing])?;
            Ok(())
        })
    }

    /// Files that were removed or overwritten, the latest first: those at a path, or all.
    pub fn versions(&self, path: Option<&str>) -> io::Result<Vec<Version>> {
        self.look(|db| {
            let query = "SELECT versions.file, path, at, until, size, modified FROM versions
                 JOIN files ON files.id = versions.file
                 WHERE due IS NULL AND until > ?1 AND (?2 IS NULL OR path = ?2)
                 ORDER BY at DESC";
            let mut query = db.prepare_cached(query)?;
            let rows = query.query_map(params![nanos(), path], |row| {
                Ok(Version {
                    file: row.get(0)?,
                    path: row.get(1)?,
                    at: row.get(2)?,
                    until: row.get(3)?,
                    size: super::unsigned(row.get(4)?),
                    modified: row.get(5)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Files that can be had back until now become garbage.
    pub fn expire(&self, now: i64) -> io::Result<()> {
        self.change(false, move |db| {
            let due = "UPDATE files SET due = ?1
                 WHERE due IS NULL AND id IN (SELECT file FROM versions WHERE until <= ?1)";
            db.prepare_cached(due)?.execute([now])?;
            Ok(())
        })
    }

    /// What nothing has needed since before this time.
    pub fn garbage(&self, before: i64, most: u32) -> io::Result<Vec<Garbage>> {
        self.look(|db| {
            let mut garbage = Vec::new();
            let query = "SELECT id, EXISTS (SELECT 1 FROM versions WHERE file = id) FROM files
                 WHERE due < ?1 ORDER BY due LIMIT ?2";
            let mut query = db.prepare_cached(query)?;
            let mut rows = query.query(params![before, most])?;
            while let Some(row) = rows.next()? {
                let file: Id = row.get(0)?;
                let mut of_file = db.prepare_cached("SELECT id FROM chunks WHERE file = ?1")?;
                let chunks = of_file.query_map([file], |row| row.get(0).map(ChunkId))?;
                let chunks = chunks.collect::<rusqlite::Result<_>>()?;
                garbage.push(Garbage::File(file, chunks, row.get(1)?));
            }
            let mut query = db.prepare_cached("SELECT id FROM dropped LIMIT ?1")?;
            let rows = query.query_map([most], |row| row.get(0).map(ChunkId))?;
            for id in rows {
                garbage.push(Garbage::Chunk(id?));
            }
            // Only once enough members have the one that counts.
            let query = "SELECT stale.parent, stale.name, stale.fence FROM stale
                 JOIN names USING (parent, name) WHERE settled = 1 LIMIT ?1";
            let mut query = db.prepare_cached(query)?;
            let rows = query.query_map([most], |row| {
                let fence = super::unsigned(row.get(2)?);
                Ok(Garbage::Manifest(row.get(0)?, row.get(1)?, fence))
            })?;
            for manifest in rows {
                garbage.push(manifest?);
            }
            let mut query = db.prepare_cached("SELECT file FROM restored LIMIT ?1")?;
            let rows = query.query_map([most], |row| row.get(0).map(Garbage::Restored))?;
            for version in rows {
                garbage.push(version?);
            }
            Ok(garbage)
        })
    }

    /// Forgets garbage that no member has any more.
    pub fn forget(&self, garbage: Garbage) -> io::Result<()> {
        self.change(false, move |db| {
            match &garbage {
                Garbage::File(id, ..) => {
                    for query in [
                        "DELETE FROM chunks WHERE file = ?1",
                        "DELETE FROM versions WHERE file = ?1",
                        "DELETE FROM files WHERE id = ?1",
                    ] {
                        db.prepare_cached(query)?.execute([id])?;
                    }
                }
                Garbage::Chunk(id) => {
                    db.prepare_cached("DELETE FROM dropped WHERE id = ?1")?
                        .execute([id.0])?;
                }
                Garbage::Restored(id) => {
                    db.prepare_cached("DELETE FROM restored WHERE file = ?1")?
                        .execute([id])?;
                }
                Garbage::Manifest(parent, name, fence) => {
                    let query = "DELETE FROM stale WHERE parent = ?1 AND name = ?2 AND fence = ?3";
                    db.prepare_cached(query)?.execute(params![
                        parent,
                        name,
                        super::signed(*fence)
                    ])?;
                }
            }
            Ok(())
        })
    }

    /// Tombstones that every member has and that are from before this time, where no member has an
    /// earlier manifest of the name either.
    pub fn tombstones(&self, before: i64, most: u32) -> io::Result<Vec<Tombstone>> {
        self.look(|db| {
            let query = "SELECT parent, name, fence, count FROM names
                 WHERE kind = 0 AND at < ?1 AND missing = 0 AND settled = 1 AND NOT EXISTS
                     (SELECT 1 FROM stale
                      WHERE stale.parent = names.parent AND stale.name = names.name)
                 LIMIT ?2";
            let mut query = db.prepare_cached(query)?;
            let rows = query.query_map(params![before, most], |row| {
                Ok(Tombstone {
                    parent: row.get(0)?,
                    name: row.get(1)?,
                    sequence: Sequence {
                        fence: super::unsigned(row.get(2)?),
                        count: super::unsigned(row.get(3)?),
                    },
                })
            })?;
            rows.collect()
        })
    }

    /// Forgets tombstones that no member has any more.
    pub fn forget_tombstones(&self, gone: Vec<Tombstone>) -> io::Result<()> {
        self.change(false, move |db| {
            let query = "DELETE FROM names
                 WHERE parent = ?1 AND name = ?2 AND count = ?3 AND kind = 0";
            let mut query = db.prepare_cached(query)?;
            for one in &gone {
                let count = super::signed(one.sequence.count);
                query.execute(params![one.parent, one.name, count])?;
            }
            Ok(())
        })
    }

    /// Whether a chunk is one of a file, or known to be garbage.
    pub fn knows_chunk(&self, id: &ChunkId) -> io::Result<bool> {
        self.look(|db| {
            let of_file = db
                .prepare_cached("SELECT 1 FROM chunks WHERE id = ?1")?
                .exists([id.0])?;
            Ok(of_file
                || db
                    .prepare_cached("SELECT 1 FROM dropped WHERE id = ?1")?
                    .exists([id.0])?)
        })
    }

    /// How much is to be done.
    pub fn backlog(&self) -> io::Result<Backlog> {
        self.survey(|db| {
            let count = |query: &str| {
                let count: i64 = db.query_row(query, [], |row| row.get(0))?;
                Ok::<u64, rusqlite::Error>(super::unsigned(count))
            };
            Ok(Backlog {
                manifests: count("SELECT count(*) FROM names WHERE missing <> 0")?
                    + count("SELECT count(*) FROM versions WHERE missing <> 0")?,
                chunks: count("SELECT count(*) FROM chunks WHERE missing <> 0")?,
                files: count("SELECT count(DISTINCT file) FROM chunks WHERE missing <> 0")?,
                garbage: count("SELECT count(*) FROM files WHERE due IS NOT NULL")?,
            })
        })
    }
}

fn versions(db: &Connection, condition: &str, most: u32) -> rusqlite::Result<Vec<Unwritten>> {
    let query = format!(
        "SELECT file, parent, name, at, missing FROM versions
         WHERE {condition} AND until > ?2 ORDER BY at LIMIT ?1"
    );
    let mut query = db.prepare_cached(&query)?;
    let mut rows = query.query(params![most, nanos()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id: Id = row.get(0)?;
        let Some(file) = files::file(db, &id)? else {
            continue;
        };
        let at: i64 = row.get(3)?;
        found.push(Unwritten {
            manifest: Manifest {
                parent: row.get(1)?,
                name: row.get(2)?,
                // When it was removed, which recovery needs.
                sequence: Sequence {
                    fence: 0,
                    count: super::unsigned(at),
                },
                kind: Kind::File(file.contents),
            },
            secret: Some(file.secret),
            version: Some(id),
            missing: row.get(4)?,
        });
    }
    Ok(found)
}

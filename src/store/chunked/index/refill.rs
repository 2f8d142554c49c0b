//! Fills the index from what members have.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use rusqlite::{Connection, params};

use super::{Id, Index, broken, files, names, set_note, signed};
use crate::{
    crypto,
    store::{
        chunked::{
            holders::Members,
            index::{files::IndexedChunk, names::Rules},
        },
        sealed::{
            FileSecret,
            chunk::ChunkId,
            manifest::{Contents, Kind, Manifest, TOP},
        },
    },
};

/// The directory for what is in a directory that is not there.
const LOST: &str = "lost+found";

/// A name as members have it.
pub struct Name {
    /// What it stands for.
    pub manifest: Manifest,
    /// What the file is sealed with.
    pub secret: FileSecret,
    /// The members without this manifest.
    pub missing: Members,
}

/// What members have.
pub struct Everything {
    /// The latest manifest of each name.
    pub names: Vec<Name>,
    /// Manifests under earlier leases: directory, name, number of the lease.
    pub stale: Vec<(Id, String, u64)>,
    /// Files that were removed or overwritten, by their ids.
    pub earlier: Vec<(Id, Name)>,
    /// Who has which chunk.
    pub copies: HashMap<ChunkId, Members>,
    /// Members of which that is not known. They count as having what the others have; what they
    /// lack shows when it is read.
    pub unknown: Members,
}

impl Index {
    /// Replaces all that the index says. Returns how many files, directories and earlier files
    /// there are.
    pub fn refill(&self, all: Everything, rules: Rules) -> io::Result<(u64, u64, u64)> {
        self.change(true, move |db| {
            for table in [
                "names", "stale", "files", "chunks", "partials", "dropped", "versions", "restored",
            ] {
                db.execute(&format!("DELETE FROM {table}"), [])?;
            }
            Ok(refill(db, &all, rules)?)
        })
    }
}

fn refill(db: &Connection, all: &Everything, rules: Rules) -> rusqlite::Result<(u64, u64, u64)> {
    let count = all.names.iter().map(|name| name.manifest.sequence.count);
    set_note(db, "count", &signed(count.max().unwrap_or(0)))?;
    // A file that was on its way to another name when the server stopped has two: the later one
    // counts.
    let mut latest_first: Vec<&Name> = all.names.iter().collect();
    latest_first.sort_by_key(|name| std::cmp::Reverse(name.manifest.sequence));
    let mut taken: HashSet<ChunkId> = HashSet::new();
    let (mut files, mut directories) = (0, 0);
    let mut twins = Vec::new();
    for name in latest_first {
        let Manifest {
            parent,
            name: text,
            sequence,
            kind,
        } = &name.manifest;
        let (number, id) = match kind {
            Kind::Removed => (names::REMOVED, Vec::new()),
            Kind::Directory(id) => {
                directories += 1;
                (names::DIRECTORY, id.to_vec())
            }
            Kind::File(contents) if is_twin(contents, &taken) => {
                twins.push((parent, text));
                continue;
            }
            Kind::File(contents) => {
                files += 1;
                let id: Id = crypto::random().map_err(broken)?;
                taken.extend(contents.chunks.iter().map(|chunk| chunk.id));
                insert_file(db, &id, name, contents, all, rules)?;
                (names::FILE, id.to_vec())
            }
        };
        let query = "INSERT INTO names VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1)";
        db.prepare_cached(query)?.execute(params![
            parent,
            text,
            number,
            id,
            signed(sequence.fence),
            signed(sequence.count),
            crate::clock::nanos(),
            name.missing
        ])?;
    }
    for (parent, name) in twins {
        names::put(db, parent, name, (names::REMOVED, &[]), rules)?;
    }
    for (parent, name, fence) in &all.stale {
        db.prepare_cached("INSERT OR IGNORE INTO stale VALUES (?1, ?2, ?3)")?
            .execute(params![parent, name, signed(*fence)])?;
    }
    let mut versions = 0;
    for (id, name) in &all.earlier {
        let Kind::File(contents) = &name.manifest.kind else {
            continue;
        };
        if is_twin(contents, &taken) {
            // It was restored.
            db.prepare_cached("INSERT OR IGNORE INTO restored VALUES (?1)")?
                .execute([id])?;
            continue;
        }
        versions += 1;
        insert_file(db, id, name, contents, all, rules)?;
        let at = signed(name.manifest.sequence.count);
        let query = "INSERT INTO versions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1)";
        db.prepare_cached(query)?.execute(params![
            id,
            name.manifest.parent,
            name.manifest.name,
            name.manifest.name,
            at,
            at.saturating_add(rules.keep),
            name.missing
        ])?;
    }
    find_lost(db, rules)?;
    Ok((files, directories, versions))
}

/// Whether another name has these chunks.
fn is_twin(contents: &Contents, taken: &HashSet<ChunkId>) -> bool {
    let mut chunks = contents.chunks.iter();
    chunks.any(|chunk| taken.contains(&chunk.id))
}

fn insert_file(
    db: &Connection,
    id: &Id,
    name: &Name,
    contents: &Contents,
    all: &Everything,
    rules: Rules,
) -> rusqlite::Result<()> {
    files::insert_file(db, id, &name.secret)?;
    let query = "UPDATE files SET size = ?2, crc = ?3, modified = ?4, meta = ?5 WHERE id = ?1";
    db.prepare_cached(query)?.execute(params![
        id,
        signed(contents.size),
        contents.crc,
        contents.modified,
        contents.meta
    ])?;
    for (place, chunk) in (0..).zip(&contents.chunks) {
        let has = all.copies.get(&chunk.id).copied().unwrap_or(0);
        let held = IndexedChunk {
            chunk: chunk.clone(),
            // Only known while a file grows.
            crc: 0,
            missing: rules.members & !has & !all.unknown,
        };
        files::insert_chunk(db, id, place, &held)?;
    }
    Ok(())
}

/// Gives directories to names whose own one is not there: nobody was told that it is, but
/// nothing is thrown away.
fn find_lost(db: &Connection, rules: Rules) -> rusqlite::Result<()> {
    let query = "SELECT DISTINCT parent FROM names AS below WHERE kind <> 0 AND parent <> ?1
         AND NOT EXISTS (SELECT 1 FROM names WHERE kind = 2 AND id = below.parent)";
    let mut query = db.prepare_cached(query)?;
    let lost = query.query_map([TOP], |row| row.get(0))?;
    let lost: Vec<Id> = lost.collect::<rusqlite::Result<_>>()?;
    if lost.is_empty() {
        return Ok(());
    }
    let found: Id = crypto::random().map_err(broken)?;
    names::put(db, &TOP, LOST, (names::DIRECTORY, &found), rules)?;
    for id in lost {
        names::put(db, &found, &hex::encode(id), (names::DIRECTORY, &id), rules)?;
    }
    Ok(())
}

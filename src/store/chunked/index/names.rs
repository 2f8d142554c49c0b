//! The names of a folder.

use std::io;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Changed, Id, Index, broken, note, signed, unsigned};
use crate::{
    clock::nanos,
    crypto,
    store::{ContentPath, Existing, Kind, Stat, chunked::holders::Members, sealed::manifest::TOP},
};

/// Nothing has the name any more.
pub const REMOVED: i64 = 0;
/// It is a file's.
pub const FILE: i64 = 1;
/// It is a directory's.
pub const DIRECTORY: i64 = 2;

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whether it is a file.
    pub is_file: bool,
    /// The id of the file or the directory.
    pub id: Id,
    /// What is known of it.
    pub stat: Stat,
}

/// Where a file goes.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its path.
    pub path: ContentPath,
    /// What happens to a file that is there.
    pub existing: Existing,
    /// When it changed last.
    pub modified: Option<i64>,
}

/// How names are changed in this folder.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The members that need a manifest of each name.
    pub members: Members,
    /// How long what is removed or overwritten can be had back, in nanoseconds.
    pub keep: i64,
}

impl Index {
    /// What is at a path.
    pub fn find(&self, path: &ContentPath) -> io::Result<Option<Entry>> {
        self.look(|db| {
            let Some(name) = path.file_name() else {
                let id = directory(db, path)?;
                return Ok(id.map(top));
            };
            match directory(db, &path.parent())? {
                Some(parent) => find(db, &parent, name),
                None => Ok(None),
            }
        })
    }

    /// The id of a directory.
    pub fn directory(&self, path: &ContentPath) -> io::Result<Option<Id>> {
        self.look(|db| directory(db, path))
    }

    /// The entries of a directory behind a name, in the order of their names.
    pub fn page(&self, parent: &Id, after: &str, most: usize) -> io::Result<Vec<(String, Stat)>> {
        self.look(|db| {
            let query = "SELECT name, kind, names.id, size, modified, at FROM names
                 LEFT JOIN files ON files.id = names.id
                 WHERE parent = ?1 AND name > ?2 AND kind <> 0 ORDER BY name LIMIT ?3";
            let mut query = db.prepare_cached(query)?;
            let most = signed(most as u64);
            let rows = query.query_map(params![parent, after, most], |row| {
                Ok((row.get(0)?, entry(row)?.stat))
            })?;
            rows.collect()
        })
    }

    /// Gives a partial file its path.
    pub fn publish(&self, partial: &str, to: Place, rules: Rules) -> io::Result<()> {
        let partial = partial.to_owned();
        self.change(false, move |db| {
            let file: Option<Id> = db
                .prepare_cached("SELECT file FROM partials WHERE name = ?1")?
                .query_row([&partial], |row| row.get(0))
                .optional()?;
            let Some(file) = file else {
                return Err(io::ErrorKind::NotFound.into());
            };
            let (parent, name) = free(db, &to, None, rules)?;
            let modified = to.modified.unwrap_or_else(nanos);
            finish(db, &file, modified)?;
            db.prepare_cached("DELETE FROM partials WHERE name = ?1")?
                .execute([&partial])?;
            put(db, &parent, name, (FILE, &file), rules)?;
            Ok(())
        })
    }

    /// Moves a file or a directory.
    pub fn rename(&self, path: &ContentPath, to: Place, rules: Rules) -> io::Result<()> {
        let path = path.clone();
        self.change(false, move |db| {
            let Some((parent, name, entry)) = locate(db, &path)? else {
                return Err(io::ErrorKind::NotFound.into());
            };
            if !entry.is_file {
                // Checked before anything changes: what is done by then is committed.
                let above = directory(db, &to.path.parent())?;
                if let Some(above) = above
                    && is_below(db, &above, &entry.id)?
                {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            }
            let (new_parent, new_name) = free(db, &to, Some(&entry), rules)?;
            if let (Some(modified), true) = (to.modified, entry.is_file) {
                db.prepare_cached("UPDATE files SET modified = ?2 WHERE id = ?1")?
                    .execute(params![entry.id, modified])?;
            }
            let kind = if entry.is_file { FILE } else { DIRECTORY };
            put(db, &new_parent, new_name, (kind, &entry.id), rules)?;
            if (parent, name) != (new_parent, new_name) {
                put(db, &parent, name, (REMOVED, &[]), rules)?;
            }
            Ok(())
        })
    }

    /// Removes a file or an empty directory.
    pub fn remove(&self, path: &ContentPath, rules: Rules) -> io::Result<()> {
        let path = path.clone();
        self.change(false, move |db| {
            let Some((parent, name, entry)) = locate(db, &path)? else {
                return Err(io::ErrorKind::NotFound.into());
            };
            match entry.is_file {
                true => release(db, &entry.id, (&parent, name, &path), rules)?,
                false if has_entries(db, &entry.id)? => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                false => {}
            }
            put(db, &parent, name, (REMOVED, &[]), rules)?;
            Ok(())
        })
    }

    /// Gives a file that was removed or overwritten a path again, which has to be free.
    pub fn restore(&self, file: Id, path: &ContentPath, rules: Rules) -> io::Result<()> {
        let place = Place {
            path: path.clone(),
            existing: Existing::Keep,
            modified: None,
        };
        self.change(false, move |db| {
            let (parent, name) = free(db, &place, None, rules)?;
            let kept = "DELETE FROM versions WHERE file = ?1
                 AND EXISTS (SELECT 1 FROM files WHERE id = ?1 AND due IS NULL)";
            if db.prepare_cached(kept)?.execute([file])? == 0 {
                return Err(io::ErrorKind::NotFound.into());
            }
            db.prepare_cached("INSERT OR IGNORE INTO restored VALUES (?1)")?
                .execute([file])?;
            put(db, &parent, name, (FILE, &file), rules)?;
            Ok(())
        })
    }

    /// Makes a directory.
    pub fn make_dir(&self, path: &ContentPath, rules: Rules) -> io::Result<()> {
        let place = Place {
            path: path.clone(),
            existing: Existing::Keep,
            modified: None,
        };
        self.change(false, move |db| {
            let (parent, name) = free(db, &place, None, rules)?;
            let id: Id = crypto::random().map_err(broken)?;
            put(db, &parent, name, (DIRECTORY, &id), rules)?;
            Ok(())
        })
    }

    /// How many changes of names there were, whichever process of this root made them.
    pub fn changes(&self) -> io::Result<u64> {
        self.look(|db| Ok(unsigned(note(db, "count")?.unwrap_or(0))))
    }

    /// Names in the folder itself that changed since there were so many changes, first those that
    /// stand for nothing any more: a renamed file disappears before it appears.
    pub fn changed_since(&self, changes: u64, most: u32) -> io::Result<Vec<String>> {
        self.look(|db| {
            let query = "SELECT name FROM names WHERE count > ?1 AND parent = ?2
                 ORDER BY kind <> 0, count LIMIT ?3";
            let mut query = db.prepare_cached(query)?;
            query
                .query_map(params![signed(changes), TOP, most], |row| row.get(0))?
                .collect()
        })
    }

    /// The highest number of a lease under which a manifest was written.
    pub fn highest_fence(&self) -> io::Result<u64> {
        let query = "SELECT coalesce(max(fence), 0) FROM names";
        self.look(|db| db.query_row(query, [], |row| row.get(0)).map(unsigned))
    }

    /// Files, directories, and the bytes of the files.
    pub fn totals(&self) -> io::Result<(u64, u64, u64)> {
        self.survey(|db| {
            let query = "SELECT count(*) FILTER (WHERE kind = 1), count(*) FILTER (WHERE kind = 2),
                 coalesce(sum(size), 0)
                 FROM names LEFT JOIN files ON files.id = names.id WHERE kind <> 0";
            db.query_row(query, [], |row| {
                Ok((
                    unsigned(row.get(0)?),
                    unsigned(row.get(1)?),
                    unsigned(row.get(2)?),
                ))
            })
        })
    }
}

fn top(id: Id) -> Entry {
    Entry {
        is_file: false,
        id,
        stat: Stat {
            kind: Kind::Directory,
            size: 0,
            modified: 0,
        },
    }
}

/// From the columns kind, id, size, modified and at, the first of them at 1.
fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    let kind: i64 = row.get(1)?;
    let is_file = kind == FILE;
    let stat = match is_file {
        true => Stat {
            kind: Kind::File,
            size: unsigned(row.get::<_, Option<i64>>(3)?.unwrap_or(0)),
            modified: row.get::<_, Option<i64>>(4)?.unwrap_or(0),
        },
        false => Stat {
            kind: Kind::Directory,
            size: 0,
            modified: row.get(5)?,
        },
    };
    let id = row.get(2)?;
    Ok(Entry { is_file, id, stat })
}

fn directory(db: &Connection, path: &ContentPath) -> rusqlite::Result<Option<Id>> {
    let mut here = TOP;
    for name in path.components() {
        match find(db, &here, name)? {
            Some(entry) if !entry.is_file => here = entry.id,
            _ => return Ok(None),
        }
    }
    Ok(Some(here))
}

fn find(db: &Connection, parent: &Id, name: &str) -> rusqlite::Result<Option<Entry>> {
    let query = "SELECT name, kind, names.id, size, modified, at FROM names
         LEFT JOIN files ON files.id = names.id
         WHERE parent = ?1 AND name = ?2 AND kind <> 0";
    db.prepare_cached(query)?
        .query_row(params![parent, name], entry)
        .optional()
}

pub(super) fn locate<'a>(
    db: &Connection,
    path: &'a ContentPath,
) -> rusqlite::Result<Option<(Id, &'a str, Entry)>> {
    let (Some(parent), Some(name)) = (directory(db, &path.parent())?, path.file_name()) else {
        return Ok(None);
    };
    Ok(find(db, &parent, name)?.map(|entry| (parent, name, entry)))
}

/// Looks whether something may get a path, and makes room for it; `moved` is what already has a
/// name here.
fn free<'a>(
    db: &Connection,
    to: &'a Place,
    moved: Option<&Entry>,
    rules: Rules,
) -> Changed<(Id, &'a str)> {
    let Some(name) = to.path.file_name() else {
        return Err(io::ErrorKind::AlreadyExists.into());
    };
    let above = to.path.parent();
    let parent = match directory(db, &above)? {
        Some(parent) => parent,
        None if above == ContentPath::quarantine() => {
            let id: Id = crypto::random().map_err(broken)?;
            let hidden = above.components().next().unwrap_or_default();
            put(db, &TOP, hidden, (DIRECTORY, &id), rules)?;
            id
        }
        None => return Err(io::ErrorKind::NotFound.into()),
    };
    match find(db, &parent, name)? {
        None => {}
        Some(there) if !there.is_file || to.existing == Existing::Keep => {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // A directory takes no file's place.
        Some(_) if moved.is_some_and(|moved| !moved.is_file) => {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // Onto itself only the time changes.
        Some(there) if moved.is_some_and(|moved| moved.id == there.id) => {}
        Some(there) => release(db, &there.id, (&parent, name, &to.path), rules)?,
    }
    Ok((parent, name))
}

/// Gives a name to what it stands for from now on.
pub(super) fn put(
    db: &Connection,
    parent: &Id,
    name: &str,
    (kind, id): (i64, &[u8]),
    rules: Rules,
) -> rusqlite::Result<()> {
    let fence: i64 = note(db, "fence")?.unwrap_or(0);
    let count = next_count(db)?;
    let earlier = "INSERT OR IGNORE INTO stale
         SELECT parent, name, fence FROM names WHERE parent = ?1 AND name = ?2 AND fence <> ?3";
    db.prepare_cached(earlier)?
        .execute(params![parent, name, fence])?;
    let query = "INSERT OR REPLACE INTO names VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)";
    db.prepare_cached(query)?
        .execute(params![
            parent,
            name,
            kind,
            id,
            fence,
            count,
            nanos(),
            rules.members
        ])
        .map(drop)
}

/// The manifest of a name has to be written once more.
pub(super) fn touch(db: &Connection, parent: &Id, name: &str) -> rusqlite::Result<()> {
    let query = "UPDATE names SET settled = 0, count = ?3 WHERE parent = ?1 AND name = ?2";
    db.prepare_cached(query)?
        .execute(params![parent, name, next_count(db)?])
        .map(drop)
}

fn next_count(db: &Connection) -> rusqlite::Result<i64> {
    let count = "INSERT INTO about VALUES ('count', 1)
         ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value";
    db.prepare_cached(count)?.query_row([], |row| row.get(0))
}

/// A file lost its name: it goes, or is kept for a while.
fn release(
    db: &Connection,
    file: &Id,
    (parent, name, path): (&Id, &str, &ContentPath),
    rules: Rules,
) -> rusqlite::Result<()> {
    let now = nanos();
    if rules.keep == 0 || path.is_quarantined() {
        return db
            .prepare_cached("UPDATE files SET due = ?2 WHERE id = ?1")?
            .execute(params![file, now])
            .map(drop);
    }
    let query = "INSERT OR REPLACE INTO versions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)";
    let until = now.saturating_add(rules.keep);
    db.prepare_cached(query)?
        .execute(params![
            file,
            parent,
            name,
            path.to_string(),
            now,
            until,
            rules.members
        ])
        .map(drop)
}

fn has_entries(db: &Connection, directory: &Id) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM names WHERE parent = ?1 AND kind <> 0 LIMIT 1")?
        .exists([directory])
}

/// Whether a directory is another one, or inside of it.
fn is_below(db: &Connection, directory: &Id, above: &Id) -> rusqlite::Result<bool> {
    let query = "WITH RECURSIVE up (id) AS (
             SELECT ?1
             UNION SELECT parent FROM names JOIN up ON names.id = up.id WHERE kind = 2
         ) SELECT 1 FROM up WHERE id = ?2";
    db.prepare_cached(query)?.exists(params![directory, above])
}

/// Sums up the chunks of a file that is whole.
fn finish(db: &Connection, file: &Id, modified: i64) -> rusqlite::Result<()> {
    let mut query =
        db.prepare_cached("SELECT len, crc FROM chunks WHERE file = ?1 ORDER BY place")?;
    let mut size = 0_u64;
    let mut crc = crc32fast::Hasher::new();
    let mut rows = query.query([file])?;
    while let Some(row) = rows.next()? {
        let (len, of_chunk): (u32, u32) = (row.get(0)?, row.get(1)?);
        size += u64::from(len);
        crc.combine(&crc32fast::Hasher::new_with_initial_len(
            of_chunk,
            u64::from(len),
        ));
    }
    db.prepare_cached("UPDATE files SET size = ?2, crc = ?3, modified = ?4 WHERE id = ?1")?
        .execute(params![file, signed(size), crc.finalize(), modified])
        .map(drop)
}

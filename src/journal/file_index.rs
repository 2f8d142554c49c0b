//! The index of a folder's files: what its hooks have been told of, as it was then.
//!
//! What differs from it is news, even after a time in which no server ran. A folder where no script
//! waits for news is quiet: it has no index, and its files are old when a script begins to wait. A
//! folder that no server has seen is not quiet, and has only news.

use cap_std::fs::{Metadata, MetadataExt};
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use crate::store::{Kind, Stat};

/// What tells that a file is unchanged, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Print {
    /// Its length in bytes.
    pub len: i64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified: i64,
    /// Its number in the file system; 0 in a store elsewhere.
    pub inode: i64,
}

impl Print {
    /// That of a regular file; `None` for anything else.
    pub fn of(about: &Metadata) -> Option<Self> {
        about.is_file().then(|| Self {
            len: about.size().cast_signed(),
            modified: nanos(about.mtime(), about.mtime_nsec()),
            inode: about.ino().cast_signed(),
        })
    }

    /// That of a file in a store elsewhere; `None` for anything else.
    pub fn of_stored(stat: &Stat) -> Option<Self> {
        (stat.kind == Kind::File).then(|| Self {
            len: stat.size.cast_signed(),
            modified: stat.modified,
            inode: 0,
        })
    }

    /// Whether it may be the same file, unchanged. One that moved to or from a store elsewhere is.
    pub fn is_like(&self, other: &Self) -> bool {
        let same_place = self.inode == other.inode || self.inode == 0 || other.inode == 0;
        (self.len, self.modified) == (other.len, other.modified) && same_place
    }
}

/// Nanoseconds since 1970, of what a file system says.
pub fn nanos(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// What the index has of a file.
pub fn get(
    db: &Connection,
    user: &str,
    folder: &str,
    file: &str,
) -> rusqlite::Result<Option<Print>> {
    db.prepare_cached(
        "SELECT len, modified, inode FROM known
         WHERE user = :user AND folder = :folder AND file = :file",
    )?
    .query_row(
        named_params! { ":user": user, ":folder": folder, ":file": file },
        print,
    )
    .optional()
}

/// The next files of a folder after that name, sorted.
pub fn after(
    db: &Connection,
    user: &str,
    folder: &str,
    file: &str,
    limit: usize,
) -> rusqlite::Result<Vec<(String, Print)>> {
    db.prepare_cached(
        "SELECT len, modified, inode, file FROM known
         WHERE user = :user AND folder = :folder AND file > :file ORDER BY file LIMIT :limit",
    )?
    .query_map(
        named_params! {
            ":user": user, ":folder": folder, ":file": file,
            ":limit": i64::try_from(limit).unwrap_or(i64::MAX),
        },
        |row| Ok((row.get(3)?, print(row)?)),
    )?
    .collect()
}

/// Records a file as it is, or that it is gone.
pub fn put(
    db: &Connection,
    user: &str,
    folder: &str,
    file: &str,
    print: Option<Print>,
) -> rusqlite::Result<()> {
    match print {
        Some(Print {
            len,
            modified,
            inode,
        }) => db
            .prepare_cached(
                "INSERT OR REPLACE INTO known (user, folder, file, len, modified, inode)
                 VALUES (:user, :folder, :file, :len, :modified, :inode)",
            )?
            .execute(named_params! {
                ":user": user, ":folder": folder, ":file": file,
                ":len": len, ":modified": modified, ":inode": inode,
            })?,
        None => db
            .prepare_cached(
                "DELETE FROM known WHERE user = :user AND folder = :folder AND file = :file",
            )?
            .execute(named_params! { ":user": user, ":folder": folder, ":file": file })?,
    };
    Ok(())
}

/// Whether a folder is quiet.
pub fn is_quiet(db: &Connection, user: &str, folder: &str) -> rusqlite::Result<bool> {
    db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM quiet WHERE user = :user AND folder = :folder)",
    )?
    .query_row(named_params! { ":user": user, ":folder": folder }, |row| {
        row.get(0)
    })
}

/// Makes a folder quiet, and removes its index.
pub fn quiet(db: &Connection, user: &str, folder: &str) -> rusqlite::Result<()> {
    let names = named_params! { ":user": user, ":folder": folder };
    db.prepare_cached("DELETE FROM known WHERE user = :user AND folder = :folder")?
        .execute(names)?;
    db.prepare_cached("INSERT OR IGNORE INTO quiet (user, folder) VALUES (:user, :folder)")?
        .execute(names)?;
    Ok(())
}

/// Ends that: the index has what is old.
pub fn wake(db: &Connection, user: &str, folder: &str) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM quiet WHERE user = :user AND folder = :folder")?
        .execute(named_params! { ":user": user, ":folder": folder })?;
    Ok(())
}

fn print(row: &Row<'_>) -> rusqlite::Result<Print> {
    Ok(Print {
        len: row.get("len")?,
        modified: row.get("modified")?,
        inode: row.get("inode")?,
    })
}

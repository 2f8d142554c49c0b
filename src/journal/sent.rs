//! What contacts sent into folders: files and bytes, by day. It stays when the transfers
//! themselves are forgotten.

use rusqlite::{Connection, OptionalExtension, named_params};

use super::{delivered::Key, signed};

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;

/// Days whose numbers are kept, the present one included.
pub const DAYS: u64 = 366;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS sent (
    user   TEXT NOT NULL,
    folder TEXT NOT NULL,
    sender TEXT NOT NULL,
    day    INTEGER NOT NULL,
    files  INTEGER NOT NULL,
    bytes  INTEGER NOT NULL,
    first  INTEGER NOT NULL,
    PRIMARY KEY (user, folder, sender, day)
) STRICT, WITHOUT ROWID;
";

/// What a contact sent into a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Files that came.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first one ever came, in milliseconds since 1970.
    pub first: Option<u64>,
}

/// The day, in UTC, of a time in milliseconds since 1970, counted from then.
pub fn day(millis: u64) -> u64 {
    millis / DAY
}

/// Takes over what a journal that did not count yet knows.
pub(super) fn migrate(db: &Connection) -> rusqlite::Result<()> {
    if db.table_exists(None, "sent")? {
        return Ok(());
    }
    db.execute_batch(SCHEMA)?;
    db.execute_batch(&format!(
        "INSERT INTO sent (user, folder, sender, day, files, bytes, first)
         SELECT user, folder, sender, created / {DAY}, count(*), sum(filesize), min(created)
         FROM transfer WHERE state IN (0, 1, 3) GROUP BY user, folder, sender, created / {DAY}"
    ))
}

/// Counts a file that came at a time.
pub(super) fn add(db: &Connection, key: &Key, bytes: u64, at: u64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO sent (user, folder, sender, day, files, bytes, first)
         VALUES (:user, :folder, :from, :day, 1, :bytes, :at)
         ON CONFLICT DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes,
             first = min(first, excluded.first)",
    )?
    .execute(named_params! {
        ":user": key.user, ":folder": key.folder, ":from": key.from,
        ":day": signed(day(at)), ":bytes": signed(bytes), ":at": signed(at),
    })?;
    Ok(())
}

/// Takes back a file that was counted but is as if it had not come.
pub(super) fn take_back(db: &Connection, key: &Key) -> rusqlite::Result<()> {
    // Not one UPDATE with FROM: SQLite compiles that anew each time it runs, which costs more than
    // everything else that is written for a file.
    let counted = db
        .prepare_cached(
            "SELECT created, filesize FROM transfer WHERE state IN (0, 1, 3)
             AND id = :id AND sender = :from AND user = :user AND folder = :folder",
        )?
        .query_row(
            named_params! {
                ":id": key.id.0, ":from": key.from, ":user": key.user, ":folder": key.folder,
            },
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )
        .optional()?;
    let Some((created, bytes)) = counted else {
        return Ok(());
    };
    db.prepare_cached(
        "UPDATE sent SET files = max(files - 1, 0), bytes = max(bytes - :bytes, 0)
         WHERE user = :user AND folder = :folder AND sender = :from AND day = :day",
    )?
    .execute(named_params! {
        ":user": key.user, ":folder": key.folder, ":from": key.from,
        ":day": signed(day(created.unsigned_abs())), ":bytes": bytes,
    })?;
    Ok(())
}

/// What a contact sent into a folder from a day on.
pub fn find(
    db: &Connection,
    (user, folder): (&str, &str),
    sender: &str,
    from_day: u64,
) -> rusqlite::Result<Sent> {
    db.prepare_cached(
        "SELECT sum(files) FILTER (WHERE day >= :day), sum(bytes) FILTER (WHERE day >= :day),
             min(first) FILTER (WHERE files > 0)
         FROM sent WHERE user = :user AND folder = :folder AND sender = :sender",
    )?
    .query_row(
        named_params! {
            ":user": user, ":folder": folder, ":sender": sender, ":day": signed(from_day),
        },
        |row| {
            let number = |n: Option<i64>| n.unwrap_or_default().unsigned_abs();
            Ok(Sent {
                files: number(row.get(0)?),
                bytes: number(row.get(1)?),
                first: row.get::<_, Option<i64>>(2)?.map(i64::unsigned_abs),
            })
        },
    )
}

/// Forgets the numbers of days that are long ago, except for the first one of each sender on
/// which something came and was kept.
pub(super) fn forget(db: &Connection, now: u64) -> rusqlite::Result<()> {
    let oldest = (day(now) + 1).saturating_sub(DAYS);
    db.execute(
        "DELETE FROM sent WHERE day < ?1 AND day IS NOT (
             SELECT min(day) FROM sent AS other WHERE files > 0
             AND other.user = sent.user AND other.folder = sent.folder
             AND other.sender = sent.sender)",
        [signed(oldest)],
    )?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::meta::TransferId;

    fn key(from: &str) -> Key {
        Key {
            user: "roland-frei".to_owned(),
            folder: "photo".to_owned(),
            from: from.to_owned(),
            id: TransferId([1; 16]),
        }
    }

    fn sent(db: &Connection, from: &str, from_day: u64) -> Sent {
        find(db, ("roland-frei", "photo"), from, from_day).unwrap()
    }

    #[test]
    fn numbers_are_by_day_and_the_first_one_is_never_forgotten() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(SCHEMA).unwrap();
        let now = 1_000 * DAY + 5;
        for (days, bytes) in [(900, 1), (500, 2), (10, 4), (0, 8), (0, 16)] {
            add(&db, &key("zhenqiang"), bytes, now - days * DAY).unwrap();
        }
        add(&db, &key("peter"), 32, now).unwrap();
        add(&db, &key("anna"), 64, now - 800 * DAY).unwrap();
        db.execute_batch("UPDATE sent SET files = 0, bytes = 0 WHERE sender = 'anna'")
            .unwrap();
        let first = Some(now - 900 * DAY);
        let expect = |files, bytes| Sent {
            files,
            bytes,
            first,
        };
        assert_eq!(sent(&db, "zhenqiang", day(now)), expect(2, 24));
        assert_eq!(sent(&db, "zhenqiang", day(now) - 10), expect(3, 28));
        assert_eq!(sent(&db, "zhenqiang", 0), expect(5, 31));
        forget(&db, now).unwrap();
        assert_eq!(sent(&db, "zhenqiang", 0), expect(4, 29));
        assert_eq!(sent(&db, "peter", 0).files, 1);
        let left: u32 = db
            .query_row(
                "SELECT count(*) FROM sent WHERE sender = 'anna'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(left, 0, "nothing of hers was kept");
        assert_eq!(sent(&db, "nobody", 0), Sent::default());
    }
}

//! The letters that a relay keeps for its members: what it knows of them, not what is in them.

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::signed;
use crate::root::name::NameHash;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS mailbox_member (
    member BLOB PRIMARY KEY,
    listed INTEGER NOT NULL,
    seen   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mailbox_invitation (
    hash  BLOB PRIMARY KEY,
    name  TEXT NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mailbox_introduction (
    receiver BLOB NOT NULL,
    sender   TEXT NOT NULL,
    document TEXT NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (receiver, sender)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mailbox_box (
    hash   BLOB PRIMARY KEY,
    member BLOB NOT NULL,
    shows  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mailbox_box_member ON mailbox_box (member);
CREATE TABLE IF NOT EXISTS mailbox_prekey (
    member   BLOB NOT NULL,
    kind     INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (member, kind, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mailbox_letter (
    letter  BLOB PRIMARY KEY,
    hash    BLOB NOT NULL,
    member  BLOB NOT NULL,
    bytes   INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    state   INTEGER NOT NULL,
    fetched INTEGER NOT NULL DEFAULT 0,
    receipt BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mailbox_letter_member ON mailbox_letter (member, state);
CREATE INDEX IF NOT EXISTS mailbox_letter_at ON mailbox_letter (state, at);
";

/// A document of one member for another, by the name of the first. Of each member one waits, and of all
/// no more than `most`.
pub fn introduce(
    db: &Connection,
    receiver: &NameHash,
    (sender, document): (&str, &str),
    most: u32,
    now: u64,
) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO mailbox_introduction (receiver, sender, document, at)
         SELECT ?1, ?2, ?3, ?4 WHERE ?5 >
             (SELECT COUNT(*) FROM mailbox_introduction WHERE receiver = ?1)
         ON CONFLICT DO NOTHING",
        params![receiver, sender, document, signed(now), most],
    )?;
    Ok(())
}

/// Documents that wait for a member, and who they are from: a few.
pub fn introductions(
    db: &Connection,
    receiver: &NameHash,
) -> rusqlite::Result<Vec<(String, String)>> {
    db.prepare_cached(
        "SELECT sender, document FROM mailbox_introduction WHERE receiver = ?1 ORDER BY at LIMIT 3",
    )?
    .query_map([receiver], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

/// A member has a document.
pub fn introduced(db: &Connection, receiver: &NameHash, sender: &str) -> rusqlite::Result<()> {
    db.execute(
        "DELETE FROM mailbox_introduction WHERE receiver = ?1 AND sender = ?2",
        params![receiver, sender],
    )?;
    Ok(())
}

/// Forgets documents that nobody fetched.
pub fn forget_introductions(db: &Connection, before: u64) -> rusqlite::Result<()> {
    db.execute(
        "DELETE FROM mailbox_introduction WHERE at < ?1",
        [signed(before)],
    )?;
    Ok(())
}

/// Records that somebody with this token may become a member by this name, until then.
pub fn invite(db: &Connection, hash: &Id, name: &str, until: u64) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO mailbox_invitation (hash, name, until) VALUES (?1, ?2, ?3)",
        params![hash, name, signed(until)],
    )?;
    Ok(())
}

/// Uses an invitation up; `false` if there is none by that name, or no longer.
pub fn use_invitation(db: &Connection, hash: &Id, name: &str, now: u64) -> rusqlite::Result<bool> {
    let used = db.execute(
        "DELETE FROM mailbox_invitation WHERE hash = ?1 AND name = ?2 AND until >= ?3",
        params![hash, name, signed(now)],
    )?;
    db.execute(
        "DELETE FROM mailbox_invitation WHERE until < ?1",
        [signed(now)],
    )?;
    Ok(used == 1)
}

/// 32 bytes that name a letter or a box.
pub type Id = [u8; 32];

/// How far a letter has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its bytes come in.
    Arriving = 0,
    /// It waits for the member.
    Waiting = 1,
    /// The member is done with it; there is a receipt.
    Settled = 2,
    /// It was not fetched in time.
    Expired = 3,
}

/// A letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its number.
    pub letter: Id,
    /// The hash of the box that it is in.
    pub hash: Id,
    /// Whose box that is.
    pub member: NameHash,
    /// Bytes.
    pub bytes: u64,
    /// When it came, or was settled, in milliseconds since 1970.
    pub at: u64,
    /// How far it has come.
    pub state: State,
    /// Whether its member has fetched more of it than its head.
    pub is_fetched: bool,
    /// What its sender is told.
    pub receipt: Vec<u8>,
}

/// How much lies somewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Letters.
    pub letters: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Replaces the boxes of a member. The letters in those that it has no longer are returned, and not
/// known any more.
pub fn set_boxes(
    db: &Connection,
    member: &NameHash,
    boxes: &[(Id, bool)],
) -> rusqlite::Result<Vec<Id>> {
    db.execute("DELETE FROM mailbox_box WHERE member = ?1", [member])?;
    let mut put = db.prepare_cached(
        "INSERT INTO mailbox_box (hash, member, shows) VALUES (?1, ?2, ?3)
         ON CONFLICT DO NOTHING",
    )?;
    for (hash, shows) in boxes {
        put.execute(params![hash, member, shows])?;
    }
    let gone = "FROM mailbox_letter WHERE member = ?1 AND hash NOT IN
         (SELECT hash FROM mailbox_box WHERE member = ?1)";
    let letters = db
        .prepare_cached(&format!("SELECT letter {gone}"))?
        .query_map([member], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    db.execute(&format!("DELETE {gone}"), [member])?;
    Ok(letters)
}

/// Forgets everything of a member; returns the letters.
pub fn remove_member(db: &Connection, member: &NameHash) -> rusqlite::Result<Vec<Id>> {
    let letters = set_boxes(db, member, &[])?;
    remove_prekeys(db, member)?;
    db.execute("DELETE FROM mailbox_member WHERE member = ?1", [member])?;
    Ok(letters)
}

/// The members that the relay keeps something for.
pub fn members(db: &Connection) -> rusqlite::Result<Vec<NameHash>> {
    db.prepare_cached("SELECT member FROM mailbox_member UNION SELECT member FROM mailbox_box")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Whose box it is, and whether it shows whether the member is there.
pub fn find_box(db: &Connection, hash: &Id) -> rusqlite::Result<Option<(NameHash, bool)>> {
    db.prepare_cached("SELECT member, shows FROM mailbox_box WHERE hash = ?1")?
        .query_row([hash], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Adds signed prekeys of a member: kind, number, document. The daily prekey replaces the one before; of
/// the others, the `most` with the highest numbers stay.
pub fn add_prekeys(
    db: &Connection,
    member: &NameHash,
    prekeys: &[(u8, u64, String)],
    (daily, most): (u8, u32),
) -> rusqlite::Result<()> {
    for (kind, number, document) in prekeys {
        if *kind == daily {
            db.execute(
                "DELETE FROM mailbox_prekey WHERE member = ?1 AND kind = ?2",
                params![member, kind],
            )?;
        }
        db.prepare_cached(
            "INSERT OR REPLACE INTO mailbox_prekey (member, kind, number, document)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![member, kind, signed(*number), document])?;
    }
    db.execute(
        "DELETE FROM mailbox_prekey WHERE member = ?1 AND number IN
         (SELECT number FROM mailbox_prekey WHERE member = ?1 AND kind <> ?2
          ORDER BY number DESC LIMIT -1 OFFSET ?3) AND kind <> ?2",
        params![member, daily, most],
    )?;
    Ok(())
}

/// Removes the prekeys of a member.
pub fn remove_prekeys(db: &Connection, member: &NameHash) -> rusqlite::Result<()> {
    db.execute("DELETE FROM mailbox_prekey WHERE member = ?1", [member])?;
    Ok(())
}

/// How many prekeys of a kind a member has.
pub fn prekeys(db: &Connection, member: &NameHash, kind: u8) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT COUNT(*) FROM mailbox_prekey WHERE member = ?1 AND kind = ?2")?
        .query_row(params![member, kind], |row| {
            Ok(row.get::<_, i64>(0)?.max(0).unsigned_abs())
        })
}

/// Takes the oldest prekey for one letter. If there is none left, returns the daily one, which stays.
pub fn take_prekey(
    db: &Connection,
    member: &NameHash,
    daily: u8,
) -> rusqlite::Result<Option<String>> {
    let found: Option<(u8, i64, String)> = db
        .prepare_cached(
            "SELECT kind, number, document FROM mailbox_prekey WHERE member = ?1
             ORDER BY kind = ?2, number LIMIT 1",
        )?
        .query_row(params![member, daily], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((kind, number, document)) = found else {
        return Ok(None);
    };
    if kind != daily {
        db.prepare_cached(
            "DELETE FROM mailbox_prekey WHERE member = ?1 AND kind = ?2 AND number = ?3",
        )?
        .execute(params![member, kind, number])?;
    }
    Ok(Some(document))
}

/// What lies in a box, and what lies in all boxes of a member. What comes in counts too, and so do
/// receipts that nobody has asked for.
pub fn loads(db: &Connection, member: &NameHash, hash: &Id) -> rusqlite::Result<(Load, Load)> {
    let load = |row: &Row<'_>, at| {
        let number = |at| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)?.max(0).unsigned_abs());
        Ok::<_, rusqlite::Error>(Load {
            letters: number(at)?,
            bytes: number(at + 1)?,
        })
    };
    db.prepare_cached(
        "SELECT COALESCE(SUM(hash = ?2), 0), COALESCE(SUM(size * (hash = ?2)), 0),
                COUNT(*), COALESCE(SUM(size), 0)
         FROM (SELECT hash, IIF(state IN (0, 1), bytes, LENGTH(receipt)) AS size
               FROM mailbox_letter WHERE member = ?1)",
    )?
    .query_row(params![member, hash], |row| {
        Ok((load(row, 0)?, load(row, 2)?))
    })
}

/// The letters that wait, of all members together.
pub fn held(db: &Connection) -> rusqlite::Result<Load> {
    db.prepare_cached(
        "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM mailbox_letter WHERE state = ?1",
    )?
    .query_row([State::Waiting as i64], |row| {
        Ok(Load {
            letters: row.get::<_, i64>(0)?.unsigned_abs(),
            bytes: row.get::<_, i64>(1)?.unsigned_abs(),
        })
    })
}

/// A letter begins to come in; `false` if there is one with that number.
pub fn begin(db: &Connection, letter: &Letter) -> rusqlite::Result<bool> {
    let put = db
        .prepare_cached(
            "INSERT INTO mailbox_letter (letter, hash, member, bytes, at, state, receipt)
             VALUES (:letter, :hash, :member, :bytes, :at, :state, :receipt)
             ON CONFLICT DO NOTHING",
        )?
        .execute(named_params! {
            ":letter": letter.letter, ":hash": letter.hash, ":member": letter.member,
            ":bytes": signed(letter.bytes), ":at": signed(letter.at),
            ":state": letter.state as i64, ":receipt": letter.receipt,
        })?;
    Ok(put == 1)
}

/// A letter has come as far as this; `false` if it is not there, or has come further.
pub fn proceed(
    db: &Connection,
    letter: &Id,
    (from, to): (State, State),
    receipt: &[u8],
    now: u64,
) -> rusqlite::Result<bool> {
    let changed = db
        .prepare_cached(
            "UPDATE mailbox_letter SET state = ?3, receipt = ?4, at = ?5
             WHERE letter = ?1 AND state = ?2",
        )?
        .execute(params![
            letter,
            from as i64,
            to as i64,
            receipt,
            signed(now)
        ])?;
    Ok(changed == 1)
}

/// Its member has fetched more of a letter than its beginning.
pub fn fetched(db: &Connection, letter: &Id) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE mailbox_letter SET fetched = 1 WHERE letter = ?1")?
        .execute([letter])?;
    Ok(())
}

/// Forgets a letter that waits, unless its member has begun to fetch it.
pub fn take_back(db: &Connection, letter: &Id) -> rusqlite::Result<bool> {
    let removed = db
        .prepare_cached(
            "DELETE FROM mailbox_letter WHERE letter = ?1 AND state = 1 AND fetched = 0",
        )?
        .execute([letter])?;
    Ok(removed == 1)
}

/// Forgets a letter, if it has come just as far as this.
pub fn remove(db: &Connection, letter: &Id, state: State) -> rusqlite::Result<bool> {
    let removed = db
        .prepare_cached("DELETE FROM mailbox_letter WHERE letter = ?1 AND state = ?2")?
        .execute(params![letter, state as i64])?;
    Ok(removed == 1)
}

/// A letter.
pub fn find(db: &Connection, letter: &Id) -> rusqlite::Result<Option<Letter>> {
    db.prepare_cached("SELECT * FROM mailbox_letter WHERE letter = ?1")?
        .query_row([letter], row_of)
        .optional()
}

/// The letters that wait for a member, the oldest first, without the first `skip`.
pub fn waiting(
    db: &Connection,
    member: &NameHash,
    skip: u64,
    limit: u32,
) -> rusqlite::Result<Vec<Letter>> {
    db.prepare_cached(
        "SELECT * FROM mailbox_letter WHERE member = ?1 AND state = 1
         ORDER BY at, letter LIMIT ?2 OFFSET ?3",
    )?
    .query_map(params![member, limit, signed(skip)], row_of)?
    .collect()
}

/// Some of the letters that have been in a state since before a moment.
pub fn older(db: &Connection, state: State, before: u64) -> rusqlite::Result<Vec<Id>> {
    db.prepare_cached("SELECT letter FROM mailbox_letter WHERE state = ?1 AND at < ?2 LIMIT 1000")?
        .query_map(params![state as i64, signed(before)], |row| row.get(0))?
        .collect()
}

/// Forgets the letters that were coming in when the relay stopped; returns them.
pub fn broken(db: &Connection) -> rusqlite::Result<Vec<Id>> {
    let letters = db
        .prepare("SELECT letter FROM mailbox_letter WHERE state = 0")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    db.execute("DELETE FROM mailbox_letter WHERE state = 0", [])?;
    Ok(letters)
}

/// A member was there, and wants to be found or not.
pub fn saw(
    db: &Connection,
    member: &NameHash,
    listed: Option<bool>,
    now: u64,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO mailbox_member (member, listed, seen) VALUES (?1, COALESCE(?2, 0), ?3)
         ON CONFLICT (member) DO UPDATE SET listed = COALESCE(?2, listed), seen = ?3",
    )?
    .execute(params![member, listed, signed(now)])?;
    Ok(())
}

/// When a member was there last, in milliseconds since 1970.
pub fn seen(db: &Connection, member: &NameHash) -> rusqlite::Result<Option<u64>> {
    db.prepare_cached("SELECT seen FROM mailbox_member WHERE member = ?1")?
        .query_row([member], |row| {
            Ok(row.get::<_, i64>(0)?.max(0).unsigned_abs())
        })
        .optional()
}

/// The members that want to be found, some of them, without the first `skip`.
pub fn listed(db: &Connection, skip: u64, limit: u32) -> rusqlite::Result<Vec<NameHash>> {
    db.prepare_cached(
        "SELECT member FROM mailbox_member WHERE listed = 1 ORDER BY member LIMIT ?2 OFFSET ?1",
    )?
    .query_map(params![signed(skip), limit], |row| row.get(0))?
    .collect()
}

fn row_of(row: &Row<'_>) -> rusqlite::Result<Letter> {
    let number =
        |column| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column)?.max(0).unsigned_abs());
    Ok(Letter {
        letter: row.get("letter")?,
        hash: row.get("hash")?,
        member: row.get("member")?,
        bytes: number("bytes")?,
        at: number("at")?,
        state: match row.get("state")? {
            0_i64 => State::Arriving,
            1 => State::Waiting,
            2 => State::Settled,
            _ => State::Expired,
        },
        is_fetched: row.get("fetched")?,
        receipt: row.get("receipt")?,
    })
}

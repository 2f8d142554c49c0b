//! Messages that are acknowledged as soon as this is durable, on their way into the log of their
//! folder.
//!
//! A row has the line of a message. It is written together with the transfer that stands for the
//! message, and removed when the log is flushed: after a loss of power, what the log lacks is here.

use rusqlite::{Connection, params};

use super::{
    Task,
    delivered::{self, Transfer},
    insert,
};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS message (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    user   TEXT NOT NULL,
    folder TEXT NOT NULL,
    line   TEXT NOT NULL
) STRICT;
";

/// A message that came.
#[derive(Clone, Debug)]
pub struct Came {
    /// Its transfer.
    pub transfer: Transfer,
    /// Its line in the log.
    pub line: String,
    /// Its event, if hooks wait for that.
    pub event: Option<Task>,
}

/// Records messages; returns the number of the last row.
pub fn put(db: &Connection, messages: &[Came]) -> rusqlite::Result<i64> {
    let mut add =
        db.prepare_cached("INSERT INTO message (user, folder, line) VALUES (?1, ?2, ?3)")?;
    let mut last = 0;
    for Came {
        transfer,
        line,
        event,
    } in messages
    {
        delivered::put(db, transfer)?;
        let key = &transfer.key;
        add.execute(params![key.user, key.folder, line])?;
        // Not after the event, which has a number of its own.
        last = db.last_insert_rowid();
        insert(db, event)?;
    }
    Ok(last)
}

/// A message that may not be in its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The number of its row.
    pub seq: i64,
    /// Whose folder.
    pub user: String,
    /// The folder.
    pub folder: String,
    /// The line.
    pub line: String,
}

/// All messages that may not be in their logs, in their order.
pub fn unsettled(db: &Connection) -> rusqlite::Result<Vec<Unsettled>> {
    db.prepare("SELECT * FROM message ORDER BY seq")?
        .query_map([], |row| {
            Ok(Unsettled {
                seq: row.get("seq")?,
                user: row.get("user")?,
                folder: row.get("folder")?,
                line: row.get("line")?,
            })
        })?
        .collect()
}

/// The log of a folder is flushed, with the messages up to the row of this number.
pub fn settle(db: &Connection, user: &str, folder: &str, last: i64) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM message WHERE seq <= ?3 AND user = ?1 AND folder = ?2")?
        .execute(params![user, folder, last])?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        journal::{
            Journal,
            delivered::{Key, Stage},
        },
        json::Map,
        meta::TransferId,
        root::Root,
    };

    #[tokio::test]
    async fn the_number_of_a_message_is_not_that_of_its_event() {
        let dir = tempfile::tempdir().unwrap();
        let (root, _) = Root::init(&dir.path().join("root"), &[]).unwrap();
        let journal = Journal::open(&root).unwrap();
        let came = |n: u8, folder: &str, has_event: bool| Came {
            transfer: Transfer {
                key: Key {
                    user: "u".to_owned(),
                    folder: folder.to_owned(),
                    from: "f".to_owned(),
                    id: TransferId([n; 16]),
                },
                stem: String::new(),
                filename: String::new(),
                filesize: 0,
                crc: 0,
                stage: Stage::Message,
                meta: None,
                words: None,
            },
            line: format!("{n}"),
            event: has_event.then(|| Task {
                id: format!("{n}"),
                kind: "OnMessage".to_owned(),
                part: 0,
                user: "u".to_owned(),
                folder: folder.to_owned(),
                file: None,
                body: Map::new(),
            }),
        };
        let put = async |some: Vec<Came>| {
            let write = journal.write(true, move |db| put(db, &some));
            write.committed().await.unwrap()
        };
        // Events of others, so that the two numbers differ.
        for n in 0..5 {
            put(vec![came(n, "other", true)]).await;
        }
        let first = put(vec![came(10, "chat", true), came(11, "chat", true)]).await;
        let second = put(vec![came(12, "chat", true)]).await;
        assert_eq!((first, second), (7, 8));
        let settled = journal.quietly(false, move |db| settle(db, "u", "chat", first));
        settled.committed().await.unwrap();
        let left = unsettled(&journal.reader().unwrap()).unwrap();
        let chat = left.iter().filter(|one| one.folder == "chat");
        assert_eq!(chat.map(|one| &*one.line).collect::<Vec<_>>(), ["12"]);
    }
}

//! From accepted to acknowledged, for messages: the journal, then the log of their folder.
//!
//! A message is safe as soon as the journal has it: its transfer, its line, and the event that its
//! hooks wait for. Then the line is added to the log, which is flushed a moment later, for all lines
//! that came meanwhile. What cannot be added now is tried again; what a server that stops in between leaves
//! undone is done by [`recover`].

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cap_std::fs::{File, MetadataExt};
use tokio::{runtime::Handle, sync::oneshot, task, time::sleep};
use tracing::{error, info};

use super::{error::store_error, under_way::Claim};
use crate::{
    error::{Code, Error},
    journal::{
        Journal, JournalError, decided,
        messages::{self, Came, Unsettled},
    },
    root::{
        Root, RootError, file,
        folder::Folder,
        message_log::{self, Entry, append, last_ids},
        name::Name,
    },
    store::batch::BatchQueue,
};

/// How long lines wait at most for the flush that they share.
const FLUSH: Duration = Duration::from_secs(1);

/// How long until lines are tried again that could not be added.
const AGAIN: Duration = Duration::from_secs(2);

/// Batches that are written together.
const TOGETHER: usize = 256;

/// Bytes of a log in which a restarted server looks for lines, beyond those that it may lack: what
/// other programs added since.
const TAIL: u64 = 16 << 20;

/// Messages of one session and folder.
struct Batch {
    folder: Folder,
    messages: Vec<Came>,
    /// Nobody else has these transfers in hand until they are over.
    claims: Vec<Claim>,
    done: oneshot::Sender<Result<(), Error>>,
}

/// A log with lines that are not flushed.
struct Unflushed {
    file: File,
    user: String,
    folder: String,
    last: i64,
}

/// Makes messages safe. Clones are the same one.
#[derive(Clone)]
pub struct MessageCommitter {
    journal: Journal,
    groups: BatchQueue<PathBuf, Batch>,
    unflushed: Arc<Mutex<HashMap<PathBuf, Unflushed>>>,
    /// Logs that lack lines that the journal has.
    behind: Arc<Mutex<HashSet<PathBuf>>>,
    /// Logs that could not be flushed: what they have may be lost, and the journal keeps its lines
    /// until the next start.
    doubtful: Arc<Mutex<HashSet<PathBuf>>>,
}

/// Messages that are being made safe.
pub struct Committing(oneshot::Receiver<Result<(), Error>>);

impl Committing {
    /// Returns when they are in the journal and in their log.
    pub async fn committed(self) -> Result<(), Error> {
        let lost = |_| Err(Error::new(Code::Failed, "a thread stopped"));
        self.0.await.unwrap_or_else(lost)
    }
}

impl MessageCommitter {
    /// A committer for the messages of a journal.
    pub fn new(journal: &Journal) -> Self {
        Self {
            journal: journal.clone(),
            groups: BatchQueue::default(),
            unflushed: Arc::default(),
            behind: Arc::default(),
            doubtful: Arc::default(),
        }
    }

    /// Begins to make messages of one folder safe. They get into the log in the order in which this
    /// is called.
    pub fn commit(&self, folder: &Folder, messages: Vec<Came>, claims: Vec<Claim>) -> Committing {
        let (done, committing) = oneshot::channel();
        let path = folder.path().to_owned();
        let batch = Batch {
            folder: folder.clone(),
            messages,
            claims,
            done,
        };
        if self.groups.submit(&path, batch) {
            let this = self.clone();
            task::spawn_blocking(move || this.lead(&path));
        }
        Committing(committing)
    }

    fn lead(&self, path: &PathBuf) {
        while let Some(batches) = self.groups.next_batch(path, TOGETHER) {
            let (mut together, mut told, mut claims) = (Vec::new(), Vec::new(), Vec::new());
            let mut folder = None;
            for batch in batches {
                together.extend(batch.messages);
                told.push(batch.done);
                claims.extend(batch.claims);
                folder = Some(batch.folder);
            }
            let Some(folder) = folder else {
                continue;
            };
            let result = self.write(&folder, together);
            drop(claims);
            for done in told {
                // A session that ended asks again.
                let _ = done.send(result.clone());
            }
        }
    }

    /// Records messages, and adds their lines to the log, with those that it lacks.
    fn write(&self, folder: &Folder, came: Vec<Came>) -> Result<(), Error> {
        let last = self.record(&came).map_err(|error| {
            error!("cannot store messages: {error}");
            store_error(&io::Error::other(error))
        })?;
        let path = folder.path();
        let appended = match locked(&self.behind).contains(path) {
            true => self.catch_up(folder),
            false => {
                let lines: String = came.iter().map(|one| one.line.as_str()).collect();
                append(folder.dir(), &lines).map(|file| (file, last))
            }
        };
        match appended {
            Ok((file, last)) => {
                locked(&self.behind).remove(path);
                self.flush_soon(folder, file, last);
            }
            Err(error) => {
                // They are safe in the journal.
                if locked(&self.behind).insert(path.to_owned()) {
                    let at = folder.path_of(message_log::FILE);
                    error!("cannot write {}, tried again: {error}", at.display());
                }
                let (this, folder) = (self.clone(), folder.clone());
                Handle::current().spawn(async move {
                    sleep(AGAIN).await;
                    drop(this.commit(&folder, Vec::new(), Vec::new()));
                });
            }
        }
        Ok(())
    }

    /// Writes messages into the journal; returns the number of the last row.
    fn record(&self, came: &[Came]) -> Result<i64, JournalError> {
        if came.is_empty() {
            return Ok(0);
        }
        let was_decided = self.journal.has_decisions();
        let rows = came.to_vec();
        let last = self.journal.write(true, move |db| {
            if was_decided {
                for one in &rows {
                    decided::remove(db, &one.transfer.key)?;
                }
            }
            messages::put(db, &rows)
        });
        last.wait()
    }

    /// Adds all lines of a folder that its log lacks; returns the number of the last row, too.
    fn catch_up(&self, folder: &Folder) -> io::Result<(File, i64)> {
        let (user, name) = (folder.user().name().as_str(), folder.name().as_str());
        let db = self.journal.reader().map_err(io::Error::other)?;
        let mut lines = messages::unsettled(&db).map_err(io::Error::other)?;
        lines.retain(|line| line.user == user && line.folder == name);
        let last = lines.last().map_or(0, |line| line.seq);
        Ok((append(folder.dir(), &missing(folder, &lines)?.1)?, last))
    }

    /// Flushes a log within a moment.
    fn flush_soon(&self, folder: &Folder, file: File, last: i64) {
        let path = folder.path().to_owned();
        let unflushed = Unflushed {
            file,
            user: folder.user().name().to_string(),
            folder: folder.name().to_string(),
            last,
        };
        let inode = |file: &File| file.metadata().ok().map(|about| about.ino());
        let now = inode(&unflushed.file);
        let before = locked(&self.unflushed).insert(path.clone(), unflushed);
        if let Some(before) = before {
            // Its owner may have put a new file in place of the old one.
            if inode(&before.file) != now && before.file.sync_data().is_err() {
                locked(&self.doubtful).insert(path);
            }
            return;
        }
        let this = self.clone();
        Handle::current().spawn(async move {
            sleep(FLUSH).await;
            let _ = task::spawn_blocking(move || this.flush(&path)).await;
        });
    }

    fn flush(&self, path: &Path) {
        let Some(unflushed) = locked(&self.unflushed).remove(path) else {
            return;
        };
        if let Err(error) = unflushed.file.sync_data() {
            // A second attempt may succeed without what was lost at the first.
            locked(&self.doubtful).insert(path.to_owned());
            return error!("cannot flush {}: {error}", path.display());
        }
        if locked(&self.doubtful).contains(path) {
            return;
        }
        let Unflushed {
            user, folder, last, ..
        } = unflushed;
        drop(
            self.journal
                .quietly(false, move |db| messages::settle(db, &user, &folder, last)),
        );
    }
}

/// Adds to the logs what an earlier server recorded and did not add, or not so that it survived.
/// Call it before anything else writes messages.
pub fn recover(journal: &Journal, root: &Root) -> Result<(), JournalError> {
    let all = messages::unsettled(&journal.reader()?)?;
    let mut folders: HashMap<(String, String), Vec<Unsettled>> = HashMap::new();
    for one in all {
        let folder = (one.user.clone(), one.folder.clone());
        folders.entry(folder).or_default().push(one);
    }
    for ((user, folder), lines) in folders {
        match add_missing(root, (&user, &folder), &lines) {
            Ok(0) => {}
            Ok(count) => info!(%user, %folder, count, "messages added to the log"),
            // The next start tries again.
            Err(error) => {
                error!(%user, %folder, "cannot add messages to the log: {error}");
                continue;
            }
        }
        let last = lines.last().map_or(0, |line| line.seq);
        let settled = journal.quietly(false, move |db| messages::settle(db, &user, &folder, last));
        settled.wait()?;
    }
    Ok(())
}

/// Returns how many were missing; none, if the folder is gone.
fn add_missing(
    root: &Root,
    (user, folder): (&str, &str),
    lines: &[Unsettled],
) -> io::Result<usize> {
    let user = Name::user(user).map_err(io::Error::other)?;
    let folder = Name::folder(folder).map_err(io::Error::other)?;
    let folder = match root.folder(&user, &folder) {
        Err(RootError::NoUser(_) | RootError::NoFolder { .. }) => return Ok(0),
        folder => folder.map_err(io::Error::other)?,
    };
    let (count, text) = missing(&folder, lines)?;
    if count > 0 {
        append(folder.dir(), &text)?.sync_data()?;
        file::sync(folder.dir())?;
    }
    Ok(count)
}

/// How many of these lines the log of a folder lacks, and which.
fn missing(folder: &Folder, lines: &[Unsettled]) -> io::Result<(usize, String)> {
    let bytes: usize = lines.iter().map(|line| line.line.len()).sum();
    let there = last_ids(folder.dir(), TAIL.saturating_add(bytes as u64))?;
    let is_missing = |line: &&Unsettled| match Entry::parse(line.line.as_bytes()) {
        Some(Entry::Message(message)) => !there.contains(&(message.from, message.id)),
        _ => false,
    };
    let missing = lines
        .iter()
        .filter(is_missing)
        .map(|line| line.line.as_str());
    let missing: Vec<&str> = missing.collect();
    Ok((missing.len(), missing.concat()))
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        journal::delivered::{Key, Stage, Transfer},
        meta::{Meta, TransferId},
        root::{message_log::LoggedMessage, user::User},
    };

    fn came(n: u8) -> Came {
        let meta = Meta::of_message(("f", "u"), "chat", TransferId([n; 16]), &format!("{n}"));
        Came {
            transfer: Transfer {
                key: Key {
                    user: "u".to_owned(),
                    folder: "chat".to_owned(),
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
            line: LoggedMessage::of(&meta.unwrap()).unwrap().line(),
            event: None,
        }
    }

    #[tokio::test]
    async fn a_server_that_was_killed_between_journal_and_log_adds_what_is_missing_once() {
        let dir = tempfile::tempdir().unwrap();
        let (root, _) = Root::init(&dir.path().join("root"), &[]).unwrap();
        let user = User::create(&root, "u", br#"{"username": "u"}"#, 2048)
            .unwrap()
            .user;
        let folder = user.create_folder(&Name::folder("chat").unwrap()).unwrap();
        let journal = Journal::open(&root).unwrap();
        let put = async |some: Vec<Came>| {
            let write = journal.write(true, move |db| messages::put(db, &some));
            write.committed().await.unwrap()
        };
        // Of three, the first is in the log, and a part of the second.
        put(vec![came(1), came(2), came(3)]).await;
        let second = came(2).line;
        let torn = came(1).line + &second[..second.len() / 2];
        append(folder.dir(), &torn).unwrap();
        for _ in 0..2 {
            recover(&journal, &root).unwrap();
            let ids = last_ids(folder.dir(), u64::MAX).unwrap();
            assert_eq!(ids.len(), 3);
            let text = std::fs::read_to_string(folder.path_of(message_log::FILE)).unwrap();
            assert_eq!(text.lines().count(), 4, "{text}");
            assert_eq!(messages::unsettled(&journal.reader().unwrap()).unwrap(), []);
            // As if the server had been killed before the rows were removed.
            put(vec![came(1), came(2), came(3)]).await;
        }
        // Those of a folder that is gone are of no more use.
        std::fs::remove_dir_all(folder.path()).unwrap();
        recover(&journal, &root).unwrap();
        assert_eq!(messages::unsettled(&journal.reader().unwrap()).unwrap(), []);
    }
}

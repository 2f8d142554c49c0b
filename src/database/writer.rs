//! The thread that writes: it takes all waiting writes into one transaction.

use std::sync::mpsc;

use rusqlite::Connection;
use tokio::sync::{Notify, oneshot};

use super::DatabaseError;

/// Writes that one transaction takes.
const BATCH: usize = 256;

/// What is done in a transaction.
pub(super) trait Statement: Send {
    /// Does it. If a transaction with others fails, it is done once more, alone. Returns whether
    /// there may be something to do after it.
    fn run(&mut self, db: &Connection) -> rusqlite::Result<bool>;

    /// Announces the result.
    fn announce(self: Box<Self>, committed: Result<(), DatabaseError>);
}

/// A closure, and the caller that waits for its result.
struct Awaited<F, T> {
    work: F,
    value: Option<T>,
    done: oneshot::Sender<Result<T, DatabaseError>>,
}

impl<F, T> Statement for Awaited<F, T>
where
    F: Fn(&Connection) -> rusqlite::Result<(T, bool)> + Send,
    T: Send,
{
    fn run(&mut self, db: &Connection) -> rusqlite::Result<bool> {
        let (value, news) = (self.work)(db)?;
        self.value = Some(value);
        Ok(news)
    }

    fn announce(self: Box<Self>, committed: Result<(), DatabaseError>) {
        let Self { value, done, .. } = *self;
        let _ = done.send(committed.and_then(|()| value.ok_or(DatabaseError::Closed)));
    }
}

/// A write that waits for the thread.
pub(super) struct Write {
    durable: bool,
    statement: Box<dyn Statement>,
}

impl Write {
    /// A write, and where its result arrives once it is committed. The work also says whether it
    /// may add something to do.
    pub(super) fn new<T: Send + 'static>(
        durable: bool,
        work: impl Fn(&Connection) -> rusqlite::Result<(T, bool)> + Send + 'static,
    ) -> (Self, oneshot::Receiver<Result<T, DatabaseError>>) {
        let (done, result) = oneshot::channel();
        let statement = Box::new(Awaited {
            work,
            value: None,
            done,
        });
        (Self { durable, statement }, result)
    }
}

/// Runs a statement that is needed repeatedly.
fn run(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}

/// Commits what waits, batch after batch, until nobody can send more.
pub(super) fn write_all(db: &Connection, waiting: &mpsc::Receiver<Write>, news: &Notify) {
    let mut flushes = "";
    while let Ok(first) = waiting.recv() {
        let mut durable = false;
        let batch: Vec<Box<dyn Statement>> = std::iter::once(first)
            .chain(waiting.try_iter().take(BATCH - 1))
            .inspect(|write| durable |= write.durable)
            .map(|write| write.statement)
            .collect();
        // In WAL mode every commit survives the process; a flush makes it survive power.
        let level = if durable { "FULL" } else { "NORMAL" };
        if level != flushes {
            match db.pragma_update(None, "synchronous", level) {
                Ok(()) => flushes = level,
                Err(error) => {
                    announce(batch, Err(error.into()));
                    continue;
                }
            }
        }
        if commit(db, batch) {
            news.notify_one();
        }
    }
}

/// Does everything in one transaction, or, if something in it fails, each write in its own: what
/// one did before it failed must not be committed with the others. Returns whether there may be
/// something to do after it.
fn commit(db: &Connection, mut batch: Vec<Box<dyn Statement>>) -> bool {
    let mut failed = false;
    let committed = run(db, "BEGIN IMMEDIATE")
        .and_then(|()| {
            let news = batch
                .iter_mut()
                .try_fold(false, |news, statement| Ok(news | statement.run(db)?));
            failed = news.is_err();
            news
        })
        .and_then(|news| run(db, "COMMIT").map(|()| news));
    if let Err(error) = &committed {
        // If it did not even begin, there is nothing to take back.
        let _ = run(db, "ROLLBACK");
        // Not everybody waits for what was written.
        if !failed || batch.len() == 1 {
            tracing::error!("cannot write {}: {error}", db.path().unwrap_or_default());
        }
    }
    if failed && batch.len() > 1 {
        let alone = |news, statement| news | commit(db, vec![statement]);
        return batch.into_iter().fold(false, alone);
    }
    let news = *committed.as_ref().unwrap_or(&false);
    announce(batch, committed.map(drop).map_err(DatabaseError::from));
    news
}

fn announce(batch: Vec<Box<dyn Statement>>, committed: Result<(), DatabaseError>) {
    for statement in batch {
        statement.announce(committed.clone());
    }
}

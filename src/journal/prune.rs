//! Keeps the journal of a server that runs for months small.
//!
//! A transfer is forgotten [`KEPT`] after its end. Its pages are reused for the next ones, so that
//! the file stays level; what is free beyond a quarter of the file goes back to the file system.
//! Both happen in small steps, between which others write.

use std::time::Duration;

use rusqlite::Connection;
use tokio::{sync::watch, time::sleep};
use tracing::{debug, error};

use super::{
    Journal, JournalError, decided,
    delivered::{self, KEPT},
    sent,
};
use crate::clock;

/// From one pass to the next.
const EVERY: Duration = Duration::from_secs(3600);

/// Transfers that are forgotten in one step: some milliseconds of the writer's time.
const STEP: u32 = 256;

/// Pages that are given back in one step: 1 MiB.
const PAGES: u32 = 256;

/// Prunes a journal at once and then every hour, until `shutdown` turns true.
pub async fn run(journal: Journal, shutdown: watch::Receiver<bool>) {
    run_every(EVERY, journal, clock::millis, shutdown).await;
}

/// [`run`] with other pauses, by a clock that gives milliseconds since 1970.
pub async fn run_every(
    pause: Duration,
    journal: Journal,
    now: impl Fn() -> u64,
    mut shutdown: watch::Receiver<bool>,
) {
    let passes = async {
        loop {
            match prune(&journal, now()).await {
                Ok(0) => {}
                Ok(transfers) => debug!(transfers, "forgotten by the journal"),
                Err(error) => error!("{error}"),
            }
            sleep(pause).await;
        }
    };
    tokio::select! {
        () = passes => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
}

/// Prunes a journal as it is at a time, in milliseconds since 1970; returns how many
/// transfers it forgot.
pub async fn prune(journal: &Journal, now: u64) -> Result<usize, JournalError> {
    let kept = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
    let before = now.saturating_sub(kept);
    let mut forgotten = 0;
    loop {
        let step = journal.quietly(false, move |db| delivered::forget(db, before, STEP));
        let step = step.committed().await?;
        forgotten += step;
        if step < STEP as usize {
            break;
        }
    }
    let forgetting = journal.quietly(false, move |db| {
        sent::forget(db, now)?;
        decided::forget(db, before)
    });
    forgetting.committed().await?;
    while journal.quietly(false, give_back).committed().await? {}
    Ok(forgotten)
}

/// Gives free pages beyond a quarter of the file back to the file system. Returns whether there are
/// more.
fn give_back(db: &Connection) -> rusqlite::Result<bool> {
    let number = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0));
    let (free, all) = (number("freelist_count")?, number("page_count")?);
    let spare = free.saturating_sub(all / 4);
    // In a file of an older m2y they cannot be given back; they are reused.
    if spare < PAGES || number("auto_vacuum")? != 2 {
        return Ok(false);
    }
    let mut vacuum = db.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    Ok(true)
}

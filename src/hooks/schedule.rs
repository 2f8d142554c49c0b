//! `[OnSchedule]`: scripts that run at times, as in cron, in UTC.
//!
//! ```ini
//! [OnSchedule]
//! */10 * * * * = digest.rhai
//! 30 2 1 * * = sweep.rhai report.rhai
//! ```
//!
//! At each minute every m2y.config is read again, and each line that is due fires by itself. A line
//! that is still running is skipped, and so are the minutes in which a machine slept; nothing waits
//! in a queue, and nothing is made up for.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinSet},
    time::sleep,
};
use tracing::{error, info, warn};

use super::{
    Pinned,
    dispatch::{Dispatcher, stopped},
    firing::ToFire,
};
use crate::{
    clock,
    event::{Event, Kind},
    root::{Root, RootError, config::Config, folder::Folder, schedule::Line},
};

/// Minutes that are made up for, if the clock jumps or the machine was busy.
const LATE: u64 = 5;

/// Lines of a schedule that are due after the minute `from`, until the minute `to` and with it;
/// minutes since 1970. A line that is due more than once is listed once.
pub fn due_between(config: &Config, from: u64, to: u64) -> Vec<Line> {
    let from = from.max(to.saturating_sub(LATE));
    let minutes = || from.saturating_add(1)..=to;
    config
        .schedule()
        .filter(|line| minutes().any(|minute| line.is_due(minute)))
        .collect()
}

/// The minutes of the clock, each as it begins.
pub fn clock() -> mpsc::Receiver<u64> {
    let (minutes, clock) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let now = clock::millis();
            let minute = now / 60_000;
            if minutes.send(minute).await.is_err() {
                return;
            }
            let left = (minute + 1).saturating_mul(60_000).saturating_sub(now);
            // In pieces: the clock may be set, and a machine may sleep.
            sleep(Duration::from_millis(left.min(10_000))).await;
        }
    });
    clock
}

/// Fires what is due, minute after minute as the `clock` reports them, until `shutdown` turns true.
/// The first minute counts as over.
pub async fn run(
    dispatcher: Dispatcher,
    root: Root,
    mut clock: mpsc::Receiver<u64>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut last = None;
    let mut told = HashMap::new();
    let mut running = HashSet::new();
    let mut lines: JoinSet<(PathBuf, Line)> = JoinSet::new();
    loop {
        let minute = tokio::select! {
            Some(minute) = clock.recv() => minute,
            Some(ended) = lines.join_next() => {
                if let Ok(ended) = ended {
                    running.remove(&ended);
                }
                continue;
            }
            () = stopped(&mut shutdown) => break,
        };
        // A clock that was set back far would otherwise stop everything for as long.
        let from = *last.get_or_insert(minute);
        if from > minute.saturating_add(LATE) {
            last = Some(minute);
        }
        if minute <= from {
            continue;
        }
        last = Some(minute);
        for (folder, config) in folders(&root, &mut told).await {
            for line in due_between(&config, from, minute) {
                let key = (folder.path().to_owned(), line.clone());
                let (user, name) = (folder.user().name(), folder.name());
                if !running.insert(key.clone()) {
                    info!("{user}/{name} [OnSchedule] {line}: skipped, the last run has not ended");
                    continue;
                }
                let (dispatcher, folder) = (dispatcher.clone(), folder.clone());
                let config = config.clone();
                lines.spawn(async move {
                    fire(&dispatcher, folder, config, &key.1).await;
                    key
                });
            }
        }
    }
    while lines.join_next().await.is_some() {}
}

async fn fire(dispatcher: &Dispatcher, folder: Folder, config: Arc<Config>, line: &Line) {
    let event = match Event::of_folder(Kind::Schedule, folder, config) {
        Ok(event) => event,
        Err(error) => return error!("[OnSchedule] {line}: {error}"),
    };
    let to_fire = ToFire {
        scripts: line.scripts.clone(),
        ..ToFire::all(event, Pinned::default())
    };
    dispatcher.fire_only(to_fire).await;
}

/// Every folder with a schedule. What is wrong with one is logged when it begins.
async fn folders(root: &Root, told: &mut HashMap<PathBuf, String>) -> Vec<(Folder, Arc<Config>)> {
    let root = root.clone();
    let found = task::spawn_blocking(move || {
        // Those that cannot be opened are reported elsewhere.
        let folders = root.folders()?.into_iter().flatten();
        let found = folders.map(|folder| (folder.config(), folder));
        Ok::<_, RootError>(found.collect::<Vec<_>>())
    });
    let found = match found.await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            warn!("no schedule this minute: {error}");
            return Vec::new();
        }
        Err(_) => return Vec::new(),
    };
    let mut wrong = HashMap::new();
    let mut with_schedule = Vec::new();
    for (config, folder) in found {
        match config {
            Ok(config) if config.has(Kind::Schedule.section()) => {
                with_schedule.push((folder, config));
            }
            Ok(_) => {}
            Err(error) => {
                let (path, sentence) = (folder.path().to_owned(), error.to_string());
                if told.get(&path) != Some(&sentence) {
                    error!("no schedule of this folder: {sentence}");
                }
                wrong.insert(path, sentence);
            }
        }
    }
    *told = wrong;
    with_schedule
}

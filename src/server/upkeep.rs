//! Looks after the stores of folders that are not on this machine: renews leases, writes what
//! members lack, removes what nothing needs, and scrubs now and then.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::watch, task, time::sleep};
use tracing::{error, info, warn};

use super::{metrics::Metrics, store_metrics::Round};
use crate::{
    clock,
    root::{Root, folder::Folder},
    store::{
        Stores,
        chunked::{ChunkedStore, LeaseError, lease::BEAT_EVERY, scrub::Scrub},
    },
};

/// Rounds after which it is counted for the metrics how the stores are.
const COUNTED: u32 = 4;

/// How often what no file needs is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// How old a chunk is that no file has and that is taken for an orphan.
const ORPHANED: Duration = Duration::from_secs(86_400);

/// How often everything is read and verified.
const SCRUB_EVERY: Duration = Duration::from_secs(30 * 86_400);

/// Bytes a second that a scrub reads at most.
const SCRUB_RATE: u64 = 16 << 20;

/// What is remembered of a folder between two rounds.
#[derive(Default)]
struct Known {
    /// What went wrong last, so that it is said once.
    trouble: Option<String>,
    swept: Option<Instant>,
    is_scrubbing: Arc<AtomicBool>,
}

/// Looks after all stores until the server is going down, and gives the leases back then.
pub async fn run(
    root: Root,
    stores: Stores,
    metrics: Arc<Metrics>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut known: HashMap<PathBuf, Known> = HashMap::new();
    for round in 0_u32.. {
        let (root, these, stop) = (root.clone(), stores.clone(), shutdown.clone());
        let counts = (round % COUNTED == 0).then(|| metrics.clone());
        let mut before = std::mem::take(&mut known);
        let round = task::spawn_blocking(move || {
            if root
                .settings()
                .is_ok_and(|settings| settings.stores.is_empty())
            {
                return before;
            }
            let mut counted = counts.as_ref().map(|_| Round::default());
            for folder in root.folders().into_iter().flatten().flatten() {
                if *stop.borrow() {
                    break;
                }
                let known = before.entry(folder.path().to_owned()).or_default();
                look_after(&folder, &these, known, counted.as_mut(), &stop);
            }
            if let (Some(metrics), Some(counted)) = (counts, counted) {
                metrics.stores.set(counted);
            }
            before
        });
        known = round.await.unwrap_or_default();
        tokio::select! {
            () = sleep(BEAT_EVERY) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    let giving_back = move || {
        for (path, store) in stores.all_open() {
            if let Err(error) = store.give_back() {
                warn!("{}: {error}", path.display());
            }
        }
    };
    let _ = task::spawn_blocking(giving_back).await;
}

fn look_after(
    folder: &Folder,
    stores: &Stores,
    known: &mut Known,
    counted: Option<&mut Round>,
    stop: &watch::Receiver<bool>,
) {
    let result = match stores.elsewhere(folder) {
        Ok(these) if these.is_empty() => return,
        Ok(these) => {
            if let (Some(counted), Some(store)) = (counted, these.first())
                && let Ok(status) = store.status()
            {
                counted.add(store.name(), &status);
            }
            these
                .iter()
                .try_for_each(|store| tend(folder, store, known, stop))
        }
        Err(error) => Err(error),
    };
    let name = format!("{}/{}", folder.user().name(), folder.name());
    match result {
        Ok(()) => {
            if known.trouble.take().is_some() {
                info!("{name}: its store works again");
            }
        }
        Err(error) => {
            let error = error.to_string();
            if known.trouble.as_ref() != Some(&error) {
                warn!("{name}: {error}");
                known.trouble = Some(error);
            }
        }
    }
}

fn tend(
    folder: &Folder,
    store: &Arc<ChunkedStore>,
    known: &mut Known,
    stop: &watch::Receiver<bool>,
) -> io::Result<()> {
    match store.renew() {
        Err(error) if is_behind(&error) => {
            info!(
                "{}: another server has written to it: reading what it wrote",
                folder.name()
            );
            let private = folder.user().private_key().map_err(io::Error::other)?;
            store.recover(&Arc::new(private), &|_, _| {})?;
            store.renew()?;
        }
        renewed => renewed?,
    }
    let mended = store.mend()?;
    if mended.chunks + mended.manifests > 0 {
        info!(
            chunks = mended.chunks,
            manifests = mended.manifests,
            "{}: wrote what members lacked",
            folder.name()
        );
    }
    store.collect_garbage()?;
    if known.swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY) {
        known.swept = Some(Instant::now());
        let before = clock::nanos() - i64::try_from(ORPHANED.as_nanos()).unwrap_or(i64::MAX);
        let private = folder.user().private_key().map_err(io::Error::other)?;
        store.survey(&Arc::new(private))?;
        store.sweep_orphans(before)?;
    }
    if is_due(store, folder)? && !known.is_scrubbing.swap(true, Ordering::Relaxed) {
        scrub_behind(folder, store, known.is_scrubbing.clone(), stop.clone());
    }
    match mended.reasons.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other(mended.reasons.join("; "))),
    }
}

fn is_behind(error: &io::Error) -> bool {
    let source = error.get_ref().and_then(|source| source.downcast_ref());
    matches!(source, Some(LeaseError::Behind))
}

/// Whether a scrub is due; folders are spread over the time, also if all were made at once.
fn is_due(store: &ChunkedStore, folder: &Folder) -> io::Result<bool> {
    let every = u64::try_from(SCRUB_EVERY.as_millis()).unwrap_or(u64::MAX);
    let spread = u64::from(crc32fast::hash(
        folder.path().as_os_str().as_encoded_bytes(),
    ));
    match store.scrubbed()? {
        Some(at) => Ok(clock::millis() >= at.saturating_add(every - spread % (every / 4))),
        None => {
            // A new folder has nothing that could have decayed.
            store.begin_scrubs()?;
            Ok(false)
        }
    }
}

fn scrub_behind(
    folder: &Folder,
    store: &Arc<ChunkedStore>,
    is_scrubbing: Arc<AtomicBool>,
    stop: watch::Receiver<bool>,
) {
    let (folder, store) = (folder.clone(), store.clone());
    let scrubbing = move || {
        let private = folder.user().private_key().map_err(io::Error::other)?;
        let scrub = Scrub {
            limit: Some(SCRUB_RATE),
            progress: &mut |_, _| {},
            stops: &|| *stop.borrow(),
        };
        let found = store.scrub(&Arc::new(private), scrub)?;
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        info!(
            chunks = found.chunks,
            wrong = sum(&found.wrong),
            missing = sum(&found.missing),
            unknown = sum(&found.unknown),
            lost = found.lost,
            "{}: scrubbed",
            folder.name()
        );
        Ok::<(), io::Error>(())
    };
    task::spawn_blocking(move || {
        if let Err(error) = scrubbing() {
            error!("a scrub ended early: {error}");
        }
        is_scrubbing.store(false, Ordering::Relaxed);
    });
}

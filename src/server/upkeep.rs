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

use tokio::{
    sync::{mpsc, watch},
    task,
    time::sleep,
};
use tracing::{error, info, warn};

use super::{
    metrics::Metrics,
    store_metrics::Round,
    store_news::{News, Seen},
};
use crate::{
    clock,
    root::{Root, folder::Folder},
    store::{
        Stores,
        chunked::{ChunkedStore, LeaseError, holders::Members, lease::BEAT_EVERY, scrub::Scrub},
        elsewhere::Elsewhere,
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

/// What is remembered between two rounds.
#[derive(Default)]
struct Remembered {
    folders: HashMap<PathBuf, Known>,
    troubles: Troubles,
}

/// What is remembered of a folder.
#[derive(Default)]
struct Known {
    /// Of each of its stores.
    seen: HashMap<String, Seen>,
    swept: Option<Instant>,
    is_scrubbing: Arc<AtomicBool>,
}

/// Looks after all stores until the server is going down, and gives the leases back then.
pub async fn run(
    root: Root,
    stores: Stores,
    metrics: Arc<Metrics>,
    news: mpsc::Sender<News>,
    mut shutdown: watch::Receiver<bool>,
) {
    let looking = Looking {
        root,
        stores,
        metrics,
        news,
        stop: shutdown.clone(),
    };
    let mut troubles = Troubles::default();
    let mut tending = task::spawn_blocking(Remembered::default);
    for round in 0_u32.. {
        let beating = looking.clone();
        let beat = move || {
            beating.each_folder(|folder, stores| {
                let held = stores.and_then(|stores| {
                    let mut chunked = stores.iter().filter_map(Elsewhere::chunked);
                    chunked.try_for_each(|store| hold(folder, store))
                });
                troubles.tell(folder, held);
            });
            troubles
        };
        troubles = task::spawn_blocking(beat).await.unwrap_or_default();
        // What takes long must not keep the next beat waiting: a lease would end.
        if tending.is_finished() {
            let remembered = (&mut tending).await.unwrap_or_default();
            let looking = looking.clone();
            tending = task::spawn_blocking(move || looking.tend_all(remembered, round));
        }
        tokio::select! {
            () = sleep(BEAT_EVERY) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    let _ = tending.await;
    let giving_back = move || {
        for (path, store) in looking.stores.all_open() {
            if let Err(error) = store.give_back() {
                warn!("{}: {error}", path.display());
            }
        }
    };
    let _ = task::spawn_blocking(giving_back).await;
}

/// Who looks after what.
#[derive(Clone)]
struct Looking {
    root: Root,
    stores: Stores,
    metrics: Arc<Metrics>,
    news: mpsc::Sender<News>,
    stop: watch::Receiver<bool>,
}

impl Looking {
    /// Does something with each folder that is in a store, and its stores or why they cannot be
    /// opened.
    fn each_folder(&self, mut work: impl FnMut(&Folder, io::Result<Vec<Elsewhere>>)) {
        let settings = self.root.settings();
        if settings.is_ok_and(|settings| settings.stores.is_empty()) {
            return;
        }
        for folder in self.root.folders().into_iter().flatten().flatten() {
            if *self.stop.borrow() {
                return;
            }
            match self.stores.elsewhere(&folder) {
                Ok(stores) if stores.is_empty() => {}
                stores => work(&folder, stores),
            }
        }
    }

    fn tend_all(self, mut remembered: Remembered, round: u32) -> Remembered {
        let mut counted = round.is_multiple_of(COUNTED).then(Round::default);
        self.each_folder(|folder, stores| {
            // Told at each beat.
            let Ok(stores) = stores else {
                return;
            };
            let path = folder.path().to_owned();
            let known = remembered.folders.entry(path).or_default();
            // During a move the folder counts as one of the store that it moves to.
            let mut counted = counted.as_mut();
            let tended = stores.iter().map(|store| {
                let store = match store {
                    Elsewhere::Chunked(store) => store,
                    // All that can be wrong with it is that it does not answer.
                    Elsewhere::Plain(store) => return store.probe(),
                };
                let answers = match counted.take() {
                    Some(counted) => {
                        let status = store.status()?;
                        counted.add(store.name(), &status);
                        status.answers()
                    }
                    None => store.answers()?,
                };
                let seen = known.seen.entry(store.name().to_owned()).or_default();
                let silent = seen.look(folder, store, &answers, &self.news)?;
                self.tend(folder, store, known, silent)
            });
            // One that fails does not keep the other from being tended.
            let tended = tended.fold(Ok(()), Result::and);
            remembered.troubles.tell(folder, tended);
        });
        if let Some(counted) = counted {
            self.metrics.stores.set(counted);
        }
        remembered
    }

    fn tend(
        &self,
        folder: &Folder,
        store: &Arc<ChunkedStore>,
        known: &mut Known,
        silent: Members,
    ) -> io::Result<()> {
        let mended = store.mend_without(silent, &mut |_, _| {})?;
        if mended.chunks + mended.manifests > 0 {
            info!(
                chunks = mended.chunks,
                manifests = mended.manifests,
                "{}: wrote what members lacked",
                folder.name()
            );
        }
        let sweeps = known.swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY);
        // What a member has that is away stays garbage: the others are not asked about it each time.
        if silent == 0 || sweeps {
            store.collect_garbage(silent)?;
        }
        if sweeps {
            known.swept = Some(Instant::now());
            let before = clock::nanos() - i64::try_from(ORPHANED.as_nanos()).unwrap_or(i64::MAX);
            let private = folder.user().private_key().map_err(io::Error::other)?;
            store.survey(&Arc::new(private))?;
            store.sweep_orphans(before)?;
        }
        if is_due(store, folder)? && !known.is_scrubbing.swap(true, Ordering::Relaxed) {
            self.scrub_behind(folder, store, known.is_scrubbing.clone());
        }
        match mended.reasons.is_empty() {
            true => Ok(()),
            false => Err(io::Error::other(mended.reasons.join("; "))),
        }
    }

    fn scrub_behind(
        &self,
        folder: &Folder,
        store: &Arc<ChunkedStore>,
        is_scrubbing: Arc<AtomicBool>,
    ) {
        let (folder, store) = (folder.clone(), store.clone());
        let (news, stop) = (self.news.clone(), self.stop.clone());
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
            if let Some(damage) = News::damage(&folder, &store, &found) {
                // If nobody hears it any more, the server is going down.
                let _ = news.blocking_send(damage);
            }
            Ok::<(), io::Error>(())
        };
        task::spawn_blocking(move || {
            if let Err(error) = scrubbing() {
                error!("a scrub ended early: {error}");
            }
            is_scrubbing.store(false, Ordering::Relaxed);
        });
    }
}

/// What went wrong last with each folder, so that it is said once.
#[derive(Default)]
struct Troubles(HashMap<PathBuf, String>);

impl Troubles {
    fn tell(&mut self, folder: &Folder, result: io::Result<()>) {
        let name = format!("{}/{}", folder.user().name(), folder.name());
        let path = folder.path().to_owned();
        match result.map_err(|error| error.to_string()) {
            Ok(()) => {
                if self.0.remove(&path).is_some() {
                    info!("{name}: its store works again");
                }
            }
            Err(error) if self.0.get(&path) == Some(&error) => {}
            Err(error) => {
                warn!("{name}: {error}");
                self.0.insert(path, error);
            }
        }
    }
}

/// Renews the lease. If another server had the folder since, what it wrote is read first.
fn hold(folder: &Folder, store: &ChunkedStore) -> io::Result<()> {
    match store.renew() {
        Err(error) if is_behind(&error) => {
            info!(
                "{}: another server has written to it: reading what it wrote",
                folder.name()
            );
            let private = folder.user().private_key().map_err(io::Error::other)?;
            store.recover(&Arc::new(private), &|_, _| {})?;
            store.renew()
        }
        renewed => renewed,
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

//! The outbox: while the server runs, every `.meta` in a folder with `[outbox] auto = yes` is sent,
//! without a command.
//!
//! A `.meta` of the folder's own user that does not describe an arrived file is to be sent. All
//! that wait for the same contact go one after the other through the sessions of one route; what
//! appears meanwhile waits for the next turn. Routes do not wait for each other. What fails for a
//! while is tried again, later each time, and becomes `.failed` after a limit; what the other side
//! refuses does so at once. A directory is only read when it has changed.

mod watched;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use cap_std::fs::Dir;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{self, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{info, warn};

use self::watched::Watched;
use super::{
    Route,
    queue::{Delivery, Front, Queue, QueuedFile},
};
use crate::{
    error::{Code, Error, printable},
    hooks::dispatch::stopped,
    meta::{self, Meta},
    root::{
        Root, RootError, file,
        folder::Folder,
        settings::{Retry, Settings, live::Live},
        user::User,
    },
    traffic::Traffic,
    transfer::send::{
        job_file::{JobFile, LastDir},
        send_job::SendJob,
    },
};

/// How often folders are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Routes that are sent on at the same time. One whose receiver is down is among them until that is
/// known, so there are more than a machine needs to be busy.
const ROUTES: usize = 16;

/// Files of a route that are open at the same time: enough that the receiver always has some
/// to make durable together. With [`ROUTES`] it bounds the descriptors.
const AT_HAND: usize = 32;

/// Files whose outcomes are recorded in one go.
const TOGETHER: usize = 64;

/// One `.meta` that waits.
#[derive(Default)]
struct Waiting {
    attempts: u32,
    due: Option<Instant>,
    /// The recipient. It is read before each attempt: a person may have changed it.
    to: Option<String>,
    /// Whether it is being sent at the moment.
    is_being_sent: bool,
}

impl Waiting {
    fn is_due(&self, now: Instant) -> bool {
        !self.is_being_sent && self.due.is_none_or(|due| due <= now)
    }
}

/// What is known of a folder.
struct Seen {
    user: User,
    changed: Option<SystemTime>,
    waiting: BTreeMap<PathBuf, Waiting>,
}

type Folders = BTreeMap<PathBuf, Seen>;

/// One attempt to send a `.meta`.
#[derive(Clone)]
struct Attempt {
    folder: PathBuf,
    path: PathBuf,
    /// When it is tried again if it fails for a while; `None` if this is the last time.
    pause: Option<Duration>,
}

/// What became of an attempt.
enum Sent {
    /// It is `.done` or `.failed`, or was not a `.meta` to be sent.
    Over,
    /// It is tried again after this pause.
    Later(Duration, Error),
    /// Its `.meta` is for somebody else now, and was not tried.
    Changed,
}

type Tell = mpsc::UnboundedSender<(Attempt, Sent)>;

/// Sends what waits in the outboxes of a root, until `shutdown` turns true.
pub async fn run(
    root: Root,
    settings: Live<Settings>,
    traffic: Traffic,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut folders = Folders::new();
    let mut sending = JoinSet::new();
    let (tell, mut told): (Tell, _) = mpsc::unbounded_channel();
    let slots = Arc::new(Semaphore::new(ROUTES));
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some((attempt, sent)) = told.recv() => {
                if let Some(seen) = folders.get_mut(&attempt.folder) {
                    seen.note(&attempt.path, sent);
                }
            }
            Some(_) = sending.join_next() => {}
            _ = tick.tick() => {
                let (root, retry) = (root.clone(), settings.now().retry);
                let before = std::mem::take(&mut folders);
                let looked = task::spawn_blocking(move || look(&root, &retry, before)).await;
                folders = looked.unwrap_or_default();
                for batch in batches(&mut folders, &retry) {
                    let (slots, tell, stop) = (slots.clone(), tell.clone(), shutdown.clone());
                    let watched = Watched::new(traffic.clone());
                    sending.spawn(async move {
                        // The one that has waited longest is next.
                        let _slot = slots.acquire_owned().await;
                        batch.send(&tell, &stop, &watched).await;
                    });
                }
            }
            () = stopped(&mut shutdown) => break,
        }
    }
    // What is being sent ends by itself or stays a .meta; what was not begun stays one.
    while sending.join_next().await.is_some() {}
}

impl Seen {
    fn note(&mut self, path: &Path, sent: Sent) {
        let Some(waiting) = self.waiting.get_mut(path) else {
            return;
        };
        (waiting.is_being_sent, waiting.to) = (false, None);
        match sent {
            Sent::Over => {
                self.waiting.remove(path);
            }
            Sent::Later(pause, error) => {
                info!(
                    "{}: sent again in {pause:?}: {}",
                    path.display(),
                    printable(&error.sentence, 400)
                );
                waiting.attempts = waiting.attempts.saturating_add(1);
                waiting.due = Some(Instant::now() + pause);
            }
            Sent::Changed => {}
        }
    }

    /// Finds the recipients of those that are due.
    fn read(&mut self, folder: &Path, retry: &Retry) {
        let now = Instant::now();
        let unread = |(path, waiting): (&PathBuf, &Waiting)| {
            let pause = retry.pause(waiting.attempts);
            (waiting.is_due(now) && waiting.to.is_none()).then(|| (path.clone(), pause))
        };
        let unread: Vec<_> = self.waiting.iter().filter_map(unread).collect();
        for (path, pause) in unread {
            match read(&self.user, &path) {
                Ok(Some((_, _, meta))) if meta.from == self.user.name().as_str() => {
                    if let Some(waiting) = self.waiting.get_mut(&path) {
                        waiting.to = Some(meta.to);
                    }
                }
                // The record of a file from somebody else that was refused.
                Ok(_) => self.note(&path, Sent::Over),
                // It may still be written.
                Err(error) => {
                    let attempt = Attempt {
                        folder: folder.to_owned(),
                        path,
                        pause,
                    };
                    let sent = attempt.unopened(&self.user, error);
                    self.note(&attempt.path, sent);
                }
            }
        }
    }
}

/// Reads the folders that have changed, and each `.meta` that is due.
fn look(root: &Root, retry: &Retry, mut before: Folders) -> Folders {
    let mut folders = Folders::new();
    for folder in outboxes(root).unwrap_or_default() {
        let path = folder.path().to_owned();
        let mut seen = before.remove(&path).unwrap_or_else(|| Seen {
            user: folder.user().clone(),
            changed: None,
            waiting: BTreeMap::new(),
        });
        let changed = folder
            .dir()
            .dir_metadata()
            .and_then(|about| about.modified());
        let changed = changed.ok().map(cap_std::time::SystemTime::into_std);
        if changed.is_none() || seen.changed != changed {
            seen.changed = changed;
            for name in metas(&folder).unwrap_or_default() {
                seen.waiting.entry(folder.path_of(&name)).or_default();
            }
        }
        seen.read(&path, retry);
        folders.insert(path, seen);
    }
    folders
}

/// The folders that send automatically.
fn outboxes(root: &Root) -> Result<Vec<Folder>, RootError> {
    let mut outboxes = Vec::new();
    for folder in root.folders()?.into_iter().flatten() {
        let auto = folder
            .config()
            .is_ok_and(|config| config.get("outbox", "auto") == Some("yes"));
        if auto {
            outboxes.push(folder);
        }
    }
    Ok(outboxes)
}

/// The names of the `.meta` files of a folder that do not describe an arrived file.
fn metas(folder: &Folder) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in folder.dir().entries()? {
        let name = entry?.file_name();
        let Some((name, stem)) = name
            .to_str()
            .and_then(|name| Some((name, name.strip_suffix(".meta")?)))
        else {
            continue;
        };
        let arrived = folder
            .dir()
            .symlink_metadata(format!("{stem}.data"))
            .is_ok();
        if !name.starts_with('.') && !arrived {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// What is to be sent on one route in one turn.
struct Batch {
    user: User,
    to: String,
    attempts: Vec<Attempt>,
}

/// Everything that is due, for every user and contact between whom nothing is being sent.
fn batches(folders: &mut Folders, retry: &Retry) -> impl Iterator<Item = Batch> {
    let now = Instant::now();
    let route = |user: &User, to: &str| (user.name().clone(), to.to_owned());
    let mut busy = BTreeSet::new();
    for seen in folders.values() {
        let is_being_sent = seen
            .waiting
            .values()
            .filter(|waiting| waiting.is_being_sent);
        let receivers = is_being_sent.filter_map(|waiting| waiting.to.as_deref());
        busy.extend(receivers.map(|to| route(&seen.user, to)));
    }
    let mut batches = BTreeMap::new();
    for (folder, seen) in folders {
        for (path, waiting) in &mut seen.waiting {
            let Some(to) = waiting.to.as_deref().filter(|_| waiting.is_due(now)) else {
                continue;
            };
            let route = route(&seen.user, to);
            if busy.contains(&route) {
                continue;
            }
            let batch = batches.entry(route).or_insert_with(|| Batch {
                user: seen.user.clone(),
                to: to.to_owned(),
                attempts: Vec::new(),
            });
            batch.attempts.push(Attempt {
                folder: folder.clone(),
                path: path.clone(),
                pause: retry.pause(waiting.attempts),
            });
            waiting.is_being_sent = true;
        }
    }
    batches.into_values()
}

impl Batch {
    /// Sends all, and reports what became of each. With `stop`, no further one is begun.
    async fn send(self, tell: &Tell, stop: &watch::Receiver<bool>, watched: &Watched) {
        let (queue, front) = Queue::new(AT_HAND);
        let (outcomes, over) = mpsc::unbounded_channel();
        let (user, to) = (self.user.clone(), self.to.clone());
        tokio::join!(
            go(user, to, front, outcomes.clone(), watched),
            self.open(queue, outcomes, tell, stop),
            record_deliveries(over, tell),
        );
    }

    /// Opens all, a few ahead of the network.
    async fn open(
        self,
        queue: Queue<Attempt>,
        outcomes: Outcomes,
        tell: &Tell,
        stop: &watch::Receiver<bool>,
    ) {
        let at_hand = Arc::new(Semaphore::new(AT_HAND));
        let mut last_dir = LastDir::default();
        for attempt in self.attempts {
            let Ok(permit) = at_hand.clone().acquire_owned().await else {
                return;
            };
            if *stop.borrow() {
                return;
            }
            let (user, to, dead) = (self.user.clone(), self.to.clone(), queue.dead().cloned());
            let asked = attempt.clone();
            let opened = task::spawn_blocking(move || {
                let opened = match dead {
                    Some(error) => Err(attempt.unopened(&user, error)),
                    None => attempt.open(&user, &to, &mut last_dir),
                };
                (attempt, opened, last_dir)
            });
            let Ok((attempt, opened, last)) = opened.await else {
                // It panicked; the others are not affected.
                let _ = tell.send((asked, Sent::Over));
                last_dir = LastDir::default();
                continue;
            };
            last_dir = last;
            let job = match opened {
                Ok(out) => QueuedFile {
                    out,
                    known: attempt,
                    permit,
                },
                Err(sent) => {
                    let _ = tell.send((attempt, sent));
                    continue;
                }
            };
            if let Err(job) = queue.give(job).await {
                let gone = || Error::new(Code::Later, "nothing is sent any more");
                let error = queue.dead().cloned().unwrap_or_else(gone);
                let _ = outcomes.send(Delivery::Left(job, error));
            }
        }
    }
}

type Outcomes = mpsc::UnboundedSender<Delivery<Attempt>>;

/// Sends what comes through a queue.
async fn go(user: User, to: String, front: Front<Attempt>, outcomes: Outcomes, watched: &Watched) {
    let tell = |outcome: Delivery<Attempt>| {
        let (Delivery::Over((job, ..)) | Delivery::Left(job, _)) = &outcome;
        watched.over(job.out.meta());
        let _ = outcomes.send(outcome);
    };
    let route = task::spawn_blocking(move || Route::to(&user, &to, None)).await;
    let lost = |_| Err(Error::new(Code::Failed, "the route could not be found"));
    match route.unwrap_or_else(lost) {
        // What is under way ends by itself.
        Ok(route) => {
            front
                .run(&route.persistent(), watched, std::future::pending(), tell)
                .await
        }
        Err(error) => front.leave(&error, tell).await,
    }
}

/// Records what became of each.
async fn record_deliveries(mut over: mpsc::UnboundedReceiver<Delivery<Attempt>>, tell: &Tell) {
    let mut some = Vec::new();
    while over.recv_many(&mut some, TOGETHER).await > 0 {
        let (some, tell) = (std::mem::take(&mut some), tell.clone());
        let noted = task::spawn_blocking(move || {
            for outcome in some {
                let (job, result) = match outcome {
                    Delivery::Over((job, result, _)) => (job, result),
                    Delivery::Left(job, error) => (job, Err(error)),
                };
                let sent = job.known.opened(&job.out, result);
                let _ = tell.send((job.known, sent));
            }
        });
        let _ = noted.await;
    }
}

impl Attempt {
    /// Opens the `.meta` and its file.
    fn open(&self, user: &User, to: &str, last_dir: &mut LastDir) -> Result<SendJob, Sent> {
        let job_file = match JobFile::read(&self.path, last_dir) {
            Ok(job_file) => job_file,
            Err(error) if error.code == Code::NotFound => return Err(Sent::Over),
            Err(error) => return Err(self.unopened(user, error)),
        };
        let Meta { from, to: now, .. } = job_file.meta();
        if from != user.name().as_str() || now != to {
            return Err(Sent::Changed);
        }
        // Its file may still be written.
        job_file
            .open_of(user)
            .map_err(|error| self.unopened(user, error))
    }

    /// What becomes of one that was on its way.
    fn opened(&self, out: &SendJob, result: Result<Meta, Error>) -> Sent {
        let to = printable(&out.meta().to, 64);
        match result.and_then(|meta| out.done(&meta)) {
            Ok(done) => {
                match out.is_left() {
                    true => info!("{}: left for {to} as a letter", done.display()),
                    false => info!("{}: sent to {to}", done.display()),
                }
                Sent::Over
            }
            Err(error) => self.not_sent(error, |error| match out.failed(error) {
                Ok(failed) => {
                    let why = printable(&error.sentence, 400);
                    warn!("{}: not sent to {to}: {why}", failed.display());
                }
                Err(error) => warn!("{error}"),
            }),
        }
    }

    /// What becomes of one that could not be opened, or need not be.
    fn unopened(&self, user: &User, error: Error) -> Sent {
        self.not_sent(error, |error| fail(user, &self.path, error))
    }

    /// What fails for a while is tried again, if this was not the last time.
    fn not_sent(&self, error: Error, fail: impl FnOnce(&Error)) -> Sent {
        let passing = matches!(error.code, Code::Later | Code::Failed | Code::NotFound);
        match self.pause {
            Some(pause) if passing => Sent::Later(pause, error),
            _ => {
                fail(&error);
                Sent::Over
            }
        }
    }
}

/// Turns a `.meta` that cannot be sent into a `.failed`; one that cannot be read stays.
fn fail(user: &User, path: &Path, error: &Error) {
    warn!(
        "{}: not sent: {}",
        path.display(),
        printable(&error.sentence, 400)
    );
    let failed = || {
        let (dir, name, mut meta) = read(user, path).ok()??;
        let stem = name.strip_suffix(".meta")?;
        meta.error.clone_from(&error.sentence);
        file::replace(&dir, &format!("{stem}.failed"), 0o644, &meta.to_file()).ok()?;
        dir.remove_file(&name).ok()
    };
    failed();
}

/// The directory, the name and the contents of a `.meta`; `None` if it is gone.
fn read(user: &User, path: &Path) -> Result<Option<(Dir, String, Meta)>, Error> {
    let at = |e: io::Error| Error::io("open", path, &e);
    let folder = path.parent().and_then(Path::file_name);
    let name = path.file_name().and_then(|name| name.to_str());
    let (Some(folder), Some(name)) = (folder, name) else {
        return Ok(None);
    };
    let dir = user.dir().open_dir(folder).map_err(at)?;
    let text = match file::read(&dir, name, meta::MAX_LEN) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(at)?,
    };
    let meta = Meta::from_file(&text).map_err(|e| {
        let sentence = format!("cannot read {}: {e}", path.display());
        Error::new(Code::Failed, sentence)
    })?;
    Ok(Some((dir, name.to_owned(), meta)))
}

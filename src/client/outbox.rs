//! The outbox: while the server runs, every `.meta` in a folder with `[outbox] auto = yes`
//! is sent, without anybody typing a command.
//!
//! A `.meta` of the folder's own user that describes no file that arrived is one to be
//! sent. What fails for a while is tried again, later each time, and becomes `.failed`
//! after a limit; what the other side refuses does so at once. A directory is only read
//! when it has changed.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use cap_std::fs::Dir;
use tokio::{
    sync::{Semaphore, watch},
    task::{self, JoinSet},
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{Route, deliver};
use crate::{
    error::{Code, Error, printable},
    hooks::dispatch::stopped,
    meta::{self, Meta},
    root::{Root, RootError, file, folder::Folder, settings::Settings, user::User},
    transfer::{Unobserved, outgoing::Outgoing},
};

/// How often folders are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Files that are sent at the same time.
const AT_ONCE: usize = 4;

/// One `.meta` that waits.
#[derive(Default)]
struct Waiting {
    attempts: u32,
    due: Option<Instant>,
    /// Whether somebody sends it at the moment.
    in_hand: bool,
}

/// What is known of a folder.
#[derive(Default)]
struct Seen {
    changed: Option<SystemTime>,
    waiting: HashMap<PathBuf, Waiting>,
}

/// What became of an attempt.
enum Sent {
    /// It is `.done` or `.failed`, or was no `.meta` to be sent.
    Over,
    /// It is tried again after this pause.
    Later(Duration, Error),
}

/// Sends what waits in the outboxes of a root, until `shutdown` turns true.
pub async fn run(root: Root, settings: Settings, mut shutdown: watch::Receiver<bool>) {
    let mut folders: HashMap<PathBuf, Seen> = HashMap::new();
    let mut sending = JoinSet::new();
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let looked = {
            let (root, before) = (root.clone(), std::mem::take(&mut folders));
            task::spawn_blocking(move || look(&root, before)).await
        };
        let (seen, users) = looked.unwrap_or_default();
        folders = seen;
        let now = Instant::now();
        for (folder, seen) in &mut folders {
            let Some(user) = users.get(folder) else {
                continue;
            };
            for (path, waiting) in &mut seen.waiting {
                if waiting.in_hand || waiting.due.is_some_and(|due| due > now) {
                    continue;
                }
                waiting.in_hand = true;
                let pause = settings.retry.pause(waiting.attempts);
                let (folder, path, user) = (folder.clone(), path.clone(), user.clone());
                let slots = slots.clone();
                sending.spawn(async move {
                    let _slot = slots.acquire_owned().await;
                    let sent = send(&user, &path, pause).await;
                    (folder, path, sent)
                });
            }
        }
        tokio::select! {
            Some(done) = sending.join_next() => {
                if let Ok((folder, path, sent)) = done {
                    settle(&mut folders, &folder, &path, sent);
                }
            }
            () = sleep(LOOK) => {}
            () = stopped(&mut shutdown) => break,
        }
    }
    // What is being sent ends by itself or stays a .meta.
    while sending.join_next().await.is_some() {}
}

fn settle(folders: &mut HashMap<PathBuf, Seen>, folder: &Path, path: &Path, sent: Sent) {
    let Some(seen) = folders.get_mut(folder) else {
        return;
    };
    match sent {
        Sent::Over => {
            seen.waiting.remove(path);
        }
        Sent::Later(pause, error) => {
            let Some(waiting) = seen.waiting.get_mut(path) else {
                return;
            };
            info!(
                "{}: sent again in {pause:?}: {}",
                path.display(),
                printable(&error.sentence, 400)
            );
            waiting.attempts = waiting.attempts.saturating_add(1);
            waiting.due = Some(Instant::now() + pause);
            waiting.in_hand = false;
        }
    }
}

type Users = HashMap<PathBuf, User>;

/// Reads the folders that have changed, and tells whose each is.
fn look(root: &Root, mut before: HashMap<PathBuf, Seen>) -> (HashMap<PathBuf, Seen>, Users) {
    let (mut folders, mut users) = (HashMap::new(), HashMap::new());
    for folder in outboxes(root).unwrap_or_default() {
        let path = folder.path().to_owned();
        let mut seen = before.remove(&path).unwrap_or_default();
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
        users.insert(path.clone(), folder.user().clone());
        folders.insert(path, seen);
    }
    (folders, users)
}

/// The folders that send by themselves.
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

/// The names of the `.meta` files of a folder that describe no file that arrived.
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

/// Sends one `.meta`; what fails for a while is to be tried again after `pause`, and
/// without one becomes `.failed`.
async fn send(user: &User, path: &Path, pause: Option<Duration>) -> Sent {
    let opened = {
        let (user, path) = (user.clone(), path.to_owned());
        task::spawn_blocking(move || open(&user, &path)).await
    };
    let out = match opened {
        Ok(Ok(Some(out))) => out,
        Ok(Ok(None)) | Err(_) => return Sent::Over,
        // It may still be written, or its file.
        Ok(Err(error)) => match pause {
            Some(pause) if error.code != Code::Refused => return Sent::Later(pause, error),
            _ => {
                let (user, path) = (user.clone(), path.to_owned());
                let _ = task::spawn_blocking(move || fail(&user, &path, &error)).await;
                return Sent::Over;
            }
        },
    };
    let result = match Route::of(user, &out) {
        Ok(route) => deliver(&route, &out, &Unobserved).await,
        Err(error) => Err(error),
    };
    let to = printable(&out.meta().to, 64);
    let error = match result {
        Ok(meta) => match out.done(&meta) {
            Ok(done) => {
                info!("{}: sent to {to}", done.display());
                return Sent::Over;
            }
            Err(error) => error,
        },
        Err(error) => error,
    };
    let passing = matches!(error.code, Code::Later | Code::Failed | Code::NotFound);
    if let (true, Some(pause)) = (passing, pause) {
        return Sent::Later(pause, error);
    }
    match out.failed(&error) {
        Ok(failed) => {
            let why = printable(&error.sentence, 400);
            warn!("{}: not sent to {to}: {why}", failed.display());
        }
        Err(error) => warn!("{error}"),
    }
    Sent::Over
}

/// Makes a `.meta` that cannot be sent a `.failed`; one that cannot be read stays.
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

/// Opens a `.meta` of the user's own; `None` for one from somebody else, which is the
/// record of a file that was refused.
fn open(user: &User, path: &Path) -> Result<Option<Outgoing>, Error> {
    match read(user, path)? {
        Some((_, _, meta)) if meta.from == user.name().as_str() => {
            Outgoing::open_of(user, path).map(Some)
        }
        _ => Ok(None),
    }
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

//! The inbox of a user, `inbox.log`: a line for each notice, rotated by size.
//!
//! A file that would grow above its size becomes `inbox.log.1`, and what that was becomes
//! `inbox.log.2`, up to five. Every step is one rename, so a crash loses no line. Of two processes
//! that write to one inbox, one rotates, and the other continues in the new file.

use std::{
    collections::HashMap,
    io::{self, Write},
    mem,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use cap_std::fs::{Dir, File, Metadata, MetadataExt};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tracing::warn;

use crate::root::{file, user::User};

/// The file in the user's directory that notices go to.
pub const INBOX: &str = "inbox.log";

/// Full files that are kept.
const KEPT: usize = 5;

/// Inboxes that are held open at the same time.
const MAX_OPEN: usize = 64;

/// The inboxes of a server. Clones are the same ones.
#[derive(Clone)]
pub struct Inboxes {
    max: Arc<AtomicU64>,
    open: Arc<Mutex<HashMap<PathBuf, Arc<Mutex<Inbox>>>>>,
}

impl Inboxes {
    /// Inboxes whose files have at most `max` bytes, or one line.
    pub fn new(max: u64) -> Self {
        Self {
            max: Arc::new(AtomicU64::new(max)),
            open: Arc::default(),
        }
    }

    /// Changes how many bytes a file has at most.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Relaxed);
    }

    /// Writes lines that belong together, each of which ends with a line break.
    pub fn write(&self, user: &User, line: &str) -> io::Result<()> {
        let inbox = self.of(user.path());
        let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.write(user.dir(), line, self.max.load(Relaxed))
    }

    /// Whether lines were written, perhaps a moment ago.
    pub fn has(&self, user: &User, lines: &str) -> io::Result<bool> {
        let inbox = self.of(user.path());
        let _inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        for name in [INBOX.to_owned(), format!("{INBOX}.1")] {
            match file::read(user.dir(), &name, u64::MAX) {
                Ok(text) if String::from_utf8_lossy(&text).contains(lines) => return Ok(true),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    fn of(&self, path: PathBuf) -> Arc<Mutex<Inbox>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_OPEN && !open.contains_key(&path) {
            open.clear();
        }
        open.entry(path).or_default().clone()
    }
}

/// The inbox of one user.
#[derive(Default)]
struct Inbox {
    file: Option<(File, Identity)>,
    /// Whether the log was told that it cannot be rotated.
    told: bool,
}

/// What makes a file the same one: device and inode.
type Identity = (u64, u64);

fn identity(about: &Metadata) -> Identity {
    (about.dev(), about.ino())
}

/// The file that has the name now, if there is one.
fn now(dir: &Dir) -> io::Result<Option<Metadata>> {
    match dir.symlink_metadata(INBOX) {
        Ok(about) => Ok(Some(about)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Inbox {
    fn write(&mut self, dir: &Dir, line: &str, max: u64) -> io::Result<()> {
        let about = now(dir)?;
        let len = about.as_ref().map_or(0, Metadata::len);
        // Somebody may have removed it, or rotated it.
        let is_ours = |(_, ours): &(File, Identity)| about.as_ref().map(identity) == Some(*ours);
        let mut file = match self.file.take().filter(is_ours) {
            Some(file) => file,
            None => open(dir)?,
        };
        if len > 0 && len.saturating_add(line.len() as u64) > max {
            if let Err(error) = rotate(dir, &file)
                && !mem::replace(&mut self.told, true)
            {
                // A line in a large file is better than none.
                warn!("cannot rotate {INBOX}: {error}");
            }
            // Closing the old one ends its lock, too.
            file = open(dir)?;
        }
        // One write call per line: lines of two processes do not mix.
        file.0.write_all(line.as_bytes())?;
        self.file = Some(file);
        Ok(())
    }
}

fn open(dir: &Dir) -> io::Result<(File, Identity)> {
    let file = file::append(dir, INBOX)?;
    let identity = identity(&file.metadata()?);
    Ok((file, identity))
}

/// Makes way for a new file, unless another process has just done that.
fn rotate(dir: &Dir, (file, ours): &(File, Identity)) -> io::Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        // Another process is doing that: the file takes one more line.
        Err(Errno::WOULDBLOCK) => return Ok(()),
        locked => locked?,
    }
    if now(dir)?.as_ref().map(identity) != Some(*ours) {
        return Ok(());
    }
    let name = |n: usize| format!("{INBOX}.{n}");
    // What a crash left free need not be made free.
    let mut free = 1;
    while free < KEPT && file::exists(dir, &name(free))? {
        free += 1;
    }
    for n in (1..free).rev() {
        dir.rename(name(n), dir, name(n + 1))?;
    }
    dir.rename(INBOX, dir, name(1))
}

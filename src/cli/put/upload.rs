//! Uploading local files to a contact.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Mutex, mpsc},
    task,
};

use super::{
    Options,
    walk::{PutItem, Walk},
};
use crate::{
    cli::{
        progress::Progress,
        remote::Link,
        tally::{Item, Tally, Through, Voice, Way},
    },
    client::owner::Owner,
    error::{Code, Error, printable},
    json::Value,
    meta::Meta,
    observer::Observer,
    root::{
        conflict::Conflict,
        tree::{TreePath, is_own},
        user::User,
    },
    transfer::send::put::Put,
};

/// Open files that wait for their turn, and as many that are being opened.
const AHEAD: usize = 64;

/// Where files go.
pub struct Target {
    path: String,
    /// Whether it is known to be a directory.
    is_dir: bool,
}

/// An upload to a contact: what the command and the shell share.
pub struct Upload {
    options: Options,
    progress: Arc<Progress>,
    /// Shared by the task that hands over files and the one that takes note of their outcomes.
    tally: Mutex<Tally>,
}

impl Target {
    /// A path on the contact's server, the name of the folder first.
    pub fn new(path: &str, is_dir: bool) -> Self {
        Self {
            // A file goes into a folder, not in its place.
            is_dir: is_dir || !path.contains('/'),
            path: path.to_owned(),
        }
    }

    /// The target path of something that was found.
    fn below(&self, below: &str) -> String {
        match self.is_dir {
            true => format!("{}/{below}", self.path),
            false => self.path.clone(),
        }
    }
}

/// Finds files and opens them.
struct Opener {
    walk: Walk,
    /// Directories that could not be created: nothing below them is tried.
    unmade: HashSet<String>,
    user: User,
    peer: String,
    conflict: Conflict,
    target: Target,
}

/// What was found.
enum Ready {
    /// A directory to create before anything else.
    Dir(String),
    /// An open file.
    File(Box<Put>),
    /// Something that cannot be uploaded: its local path, and the path that it would have had.
    Failed(PathBuf, String, Error),
}

impl Opener {
    /// What comes next, up to and including a directory; empty after the last. It waits for a disk.
    fn several(&mut self) -> Vec<Ready> {
        let mut several = Vec::new();
        while several.len() < AHEAD
            && let Some(found) = self.walk.next()
        {
            match found {
                Err((file, error)) => {
                    let path = self.target.path.clone();
                    several.push(Ready::Failed(file, path, error));
                }
                Ok(PutItem::Dir(below) | PutItem::File(_, below)) if self.is_unmade(&below) => {}
                Ok(PutItem::Dir(below)) => {
                    several.push(Ready::Dir(below));
                    break;
                }
                Ok(PutItem::File(file, below)) => {
                    let path = self.target.below(&below);
                    several.push(match self.open(&file, &path) {
                        Ok(job) => Ready::File(Box::new(job)),
                        Err(error) => Ready::Failed(file, path, error),
                    });
                }
            }
        }
        several
    }

    fn is_unmade(&self, below: &str) -> bool {
        below
            .match_indices('/')
            .any(|(end, _)| self.unmade.contains(below.get(..end).unwrap_or_default()))
    }

    fn open(&self, file: &Path, path: &str) -> Result<Put, Error> {
        let name = path.rsplit('/').next().unwrap_or_default();
        if is_own(name) {
            let sentence = format!(
                "cannot upload {}: names that end with .rhai, .meta, .done or .failed and m2y.config are reserved",
                printable(name, 300)
            );
            return Err(Error::new(Code::Failed, sentence));
        }
        if TreePath::parse(path).is_none() {
            let path = printable(path, 300);
            let sentence = format!("no file of a contact can have the path {path:?}");
            return Err(Error::new(Code::Failed, sentence));
        }
        Put::open(&self.user, (&self.peer, path), file, self.conflict)
    }
}

impl Upload {
    /// An upload with nothing under way.
    pub fn new(options: Options, progress: Arc<Progress>, voice: Voice) -> Self {
        Self {
            options,
            tally: Mutex::new(Tally::new(Way::Put, voice, progress.clone())),
            progress,
        }
    }

    /// Reports the outcome; returns what was kept for programs.
    pub fn end(self) -> (Result<(), Error>, Vec<Value>) {
        self.tally.into_inner().end()
    }

    /// Uploads everything that was named, in as many sessions as it takes. Fails if nothing more
    /// could be done.
    pub async fn run(
        &self,
        link: &mut Link,
        named: &[PathBuf],
        mut target: Target,
    ) -> Result<(), Error> {
        if !target.is_dir {
            target.is_dir =
                self.options.is_several(named.len()) || self.is_dir(link, &target).await?;
        }
        let (give, mut jobs) = mpsc::channel(AHEAD);
        let (results, told) = mpsc::unbounded_channel();
        let owner = link.owner().clone();
        let whose = owner.clone();
        let observer: Arc<dyn Observer> = self.progress.clone();
        let putting = async move { owner.put_all(&mut jobs, &results, &observer).await };
        let (given, put, ()) = tokio::join!(
            self.give(link, named, target, give),
            putting,
            self.take(&whose, told)
        );
        put.and(given)
    }

    /// Whether the target is a directory, as far as this user may know.
    async fn is_dir(&self, link: &mut Link, target: &Target) -> Result<bool, Error> {
        match link.peer().await?.stat(&target.path).await {
            Ok(entry) => Ok(entry.is_dir),
            Err(error) if error.code == Code::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Hands over one file after the other, each once there is room for it.
    async fn give(
        &self,
        link: &mut Link,
        named: &[PathBuf],
        target: Target,
        give: mpsc::Sender<Put>,
    ) -> Result<(), Error> {
        let mut opener = Opener {
            walk: Walk::new(named, self.options.recursive),
            unmade: HashSet::new(),
            user: link.owner().user().clone(),
            peer: link.owner().name().to_owned(),
            conflict: self.options.conflict.conflict(),
            target,
        };
        loop {
            // Several at once: switching threads takes longer than opening a small file.
            let opening = task::spawn_blocking(move || {
                let ready = opener.several();
                (opener, ready)
            });
            let lost = |_| Error::new(Code::Failed, "a thread that opens files failed");
            let (back, ready) = opening.await.map_err(lost)?;
            opener = back;
            if ready.is_empty() {
                break;
            }
            for ready in ready {
                match ready {
                    Ready::Dir(below) => {
                        let path = opener.target.below(&below);
                        if let Err(error) = self.make_dir(link, &path).await? {
                            let what = format!("cannot make {}", printable(&path, 300));
                            let mut tally = self.tally.lock().await;
                            tally.failed(&error.within(what), &path, None);
                            opener.unmade.insert(below);
                        }
                    }
                    Ready::File(job) => {
                        let name = job.path().rsplit('/').next().unwrap_or_default();
                        self.progress.expect(name, job.size());
                        if give.send(*job).await.is_err() {
                            // The contact cannot be reached any more; the uploading task reports
                            // it.
                            return Ok(());
                        }
                    }
                    Ready::Failed(file, path, error) => {
                        let mut tally = self.tally.lock().await;
                        tally.failed(&error, &path, Some(&file));
                    }
                }
            }
        }
        if opener.walk.passed_over > 0 {
            let n = opener.walk.passed_over;
            let line = match n {
                1 => "skipped 1 hidden file, link or special file".to_owned(),
                n => format!("skipped {n} hidden files, links or special files"),
            };
            self.tally.lock().await.warn(line);
        }
        Ok(())
    }

    /// Creates a directory unless it exists. The outer error is that of the connection.
    async fn make_dir(&self, link: &mut Link, path: &str) -> Result<Result<(), Error>, Error> {
        let peer = link.peer().await?;
        let made = match peer.make_dir(path).await {
            // A user who may not create directories may have been given this one.
            Err(error) if matches!(error.code, Code::Exists | Code::NotFound) => {
                match peer.stat(path).await {
                    Ok(entry) if entry.is_dir => Ok(()),
                    Err(_) if error.code == Code::Exists => Ok(()),
                    _ => Err(error),
                }
            }
            made => made,
        };
        match made {
            Err(error) if peer.is_over() => Err(error),
            made => Ok(made),
        }
    }

    /// Takes notice of what became of files.
    async fn take(
        &self,
        whose: &Owner,
        mut told: mpsc::UnboundedReceiver<(Put, Result<Meta, Error>, Duration)>,
    ) {
        while let Some((mut job, result, took)) = told.recv().await {
            self.progress.over();
            let (path, bytes) = (job.path().to_owned(), job.size());
            let file = job.local().to_owned();
            let mut item = Item {
                path: &path,
                file: &file,
                bytes,
            };
            let mut tally = self.tally.lock().await;
            match result {
                Ok(meta) => {
                    job.forget();
                    let through = Through {
                        resumed: job.resumed(),
                        started_over: job.changed(),
                        crc: meta.file_crc,
                        took,
                    };
                    match job.place() {
                        Some((_, true)) => tally.same(&item),
                        Some((path, false)) => {
                            item.path = path;
                            tally.through(&item, &through);
                        }
                        None => {
                            tally.warn(format!(
                                "{}: arrived, but the contact's hook moved it or has not accepted it yet",
                                printable(&path, 300)
                            ));
                            tally.through(&item, &through);
                        }
                    }
                }
                Err(error) if error.code == Code::Exists && self.options.conflict.skips() => {
                    job.forget();
                    tally.skipped(&item);
                }
                Err(error) => {
                    // What can still be resumed is found by the next call.
                    if !matches!(error.code, Code::Later | Code::Interrupted) {
                        job.forget();
                    }
                    let error = match error.code {
                        Code::Exists => {
                            let advice = match self.options.conflict.conflict() {
                                Conflict::Refuse => {
                                    "use --conflict overwrite, rename or skip, or end the path with / if that is a directory"
                                }
                                // With a file, this would have worked.
                                _ => "if that is a directory, end the path with /, else choose a different name",
                            };
                            Error::new(error.code, format!("{}: {advice}", error.sentence))
                        }
                        Code::NotFound if !whose.is_own() => {
                            let above = path.rsplit_once('/').map_or("", |(above, _)| above);
                            let sentence = format!(
                                "{} does not exist, or you may not upload to it",
                                printable(above, 300)
                            );
                            Error::new(error.code, sentence)
                        }
                        Code::Refused => error.within(format_args!("rejected by {}", whose.name())),
                        _ => error,
                    }
                    .within(printable(&path, 300));
                    tally.failed(&error, &path, Some(&file));
                }
            }
        }
    }
}

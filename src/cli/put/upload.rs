//! Files on their way from here to a contact.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc},
    task,
};

use super::{
    Options,
    walk::{Found, Walk},
};
use crate::{
    cli::{
        progress::Progress,
        remote::Link,
        tally::{Item, Tally, Through, Voice, Way},
    },
    client::put::put_all,
    error::{Code, Error, printable},
    json::Value,
    meta::Meta,
    root::{
        conflict::Conflict,
        tree::{TreePath, is_own},
    },
    transfer::{Observer, put::Put},
};

/// Files that are open and wait for their turn.
const AHEAD: usize = 64;

/// Where files go.
pub struct Target {
    path: String,
    /// Whether it is certainly a directory.
    is_dir: bool,
}

/// Something that is put at a contact's: what the command and the shell share.
pub struct Upload {
    options: Options,
    progress: Arc<Progress>,
    /// Whoever gives files and whoever takes notice of their ends share it.
    tally: Mutex<Tally>,
}

impl Target {
    /// A path at the contact's, the folder's name first.
    pub fn new(path: &str, is_dir: bool) -> Self {
        Self {
            // A file lies in a folder, not in its place.
            is_dir: is_dir || !path.contains('/'),
            path: path.to_owned(),
        }
    }
}

impl Upload {
    /// Nothing is under way yet.
    pub fn new(options: Options, progress: Arc<Progress>, voice: Voice) -> Self {
        Self {
            options,
            tally: Mutex::new(Tally::new(Way::Put, voice, progress.clone())),
            progress,
        }
    }

    /// Says how it went; gives back what was kept for programs.
    pub fn end(self) -> (Result<(), Error>, Vec<Value>) {
        self.tally.into_inner().end()
    }

    /// Puts all that was named, in as many sessions as it takes. An error where nothing more
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
        let route = link.route().clone();
        let observer: Arc<dyn Observer> = self.progress.clone();
        let putting = async move {
            let stop = std::future::pending();
            put_all(&route, &mut jobs, &results, &observer, stop).await
        };
        let (given, put, ()) = tokio::join!(
            self.give(link, named, &target, give),
            putting,
            self.take(told)
        );
        put.and(given)
    }

    /// Whether the target is a directory, as far as one may know.
    async fn is_dir(&self, link: &mut Link, target: &Target) -> Result<bool, Error> {
        match link.peer().await?.stat(&target.path).await {
            Ok(entry) => Ok(entry.is_dir),
            Err(error) if error.code == Code::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives one file after the other, each once there is room for it.
    async fn give(
        &self,
        link: &mut Link,
        named: &[PathBuf],
        target: &Target,
        give: mpsc::Sender<Put>,
    ) -> Result<(), Error> {
        let mut walk = Walk::new(named, self.options.recursive);
        // Directories that could not be made: nothing is tried below them.
        let mut unmade: HashSet<String> = HashSet::new();
        loop {
            let (back, found) = task::spawn_blocking(move || {
                let found = walk.next();
                (walk, found)
            })
            .await
            .map_err(|_| Error::new(Code::Failed, "a thread that reads directories failed"))?;
            walk = back;
            let found = match found {
                None => break,
                Some(Ok(found)) => found,
                Some(Err(error)) => {
                    self.tally.lock().await.failed(&error, "");
                    continue;
                }
            };
            let below = match &found {
                Found::Dir(below) | Found::File(_, below) => below,
            };
            let mut above = below.as_str();
            let mut is_unmade = false;
            while let Some((before, _)) = above.rsplit_once('/') {
                is_unmade |= unmade.contains(before);
                above = before;
            }
            if is_unmade {
                continue;
            }
            let path = match target.is_dir {
                true => format!("{}/{below}", target.path),
                false => target.path.clone(),
            };
            match found {
                Found::Dir(below) => {
                    if let Err(error) = self.make_dir(link, &path).await? {
                        let error = error.within(format!("cannot make {}", printable(&path, 300)));
                        self.tally.lock().await.failed(&error, &path);
                        unmade.insert(below);
                    }
                }
                Found::File(file, _) => match self.open(link, file, path.clone()).await {
                    Ok(job) => {
                        let name = path.rsplit('/').next().unwrap_or_default();
                        self.progress.expect(name, job.size());
                        if give.send(job).await.is_err() {
                            // Nothing reaches the contact any more; who puts says so.
                            break;
                        }
                    }
                    Err(error) => self.tally.lock().await.failed(&error, &path),
                },
            }
        }
        if walk.passed_over > 0 {
            let n = walk.passed_over;
            let line = format!("passed over what is hidden, a link or no file: {n}");
            self.tally.lock().await.warn(line);
        }
        Ok(())
    }

    /// Makes a directory, unless it is there. The outer error is that of the connection.
    async fn make_dir(&self, link: &mut Link, path: &str) -> Result<Result<(), Error>, Error> {
        let peer = link.peer().await?;
        let made = match peer.make_dir(path).await {
            // Who may not make directories may have been given this one.
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

    async fn open(&self, link: &Link, file: PathBuf, path: String) -> Result<Put, Error> {
        let name = path.rsplit('/').next().unwrap_or_default();
        if is_own(name) {
            let sentence = format!(
                "nobody takes {}: files that end with .rhai, .meta, .done or .failed and m2y.config are m2y's own",
                printable(name, 300)
            );
            return Err(Error::new(Code::Failed, sentence));
        }
        if TreePath::parse(&path).is_none() {
            let path = printable(&path, 300);
            let sentence = format!("no file of a contact can have the path {path:?}");
            return Err(Error::new(Code::Failed, sentence));
        }
        let (user, peer) = (link.route().user().clone(), link.route().peer().to_owned());
        let conflict = self.options.conflict.conflict();
        let opening =
            task::spawn_blocking(move || Put::open(&user, (&peer, &path), &file, conflict));
        let lost = |_| Err(Error::new(Code::Failed, "a thread that opens files failed"));
        opening.await.unwrap_or_else(lost)
    }

    /// Takes notice of what became of files.
    async fn take(&self, mut told: mpsc::UnboundedReceiver<(Put, Result<Meta, Error>, Duration)>) {
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
                        None => tally.through(&item, &through),
                    }
                }
                Err(error) if error.code == Code::Exists && self.options.conflict.skips() => {
                    job.forget();
                    tally.skipped(&item);
                }
                Err(error) => {
                    // What may still go on is found by the next call.
                    if !matches!(error.code, Code::Later | Code::Interrupted) {
                        job.forget();
                    }
                    let error = match error.code {
                        Code::Exists => {
                            let advice = match self.options.conflict.conflict() {
                                Conflict::Refuse => {
                                    "take --conflict overwrite, rename or skip, or end the path with / if that is a directory"
                                }
                                // For a file there had been a way.
                                _ => "if that is a directory, end the path with /, else take another name",
                            };
                            Error::new(error.code, format!("{}: {advice}", error.sentence))
                        }
                        _ => error,
                    }
                    .within(printable(&path, 300));
                    tally.failed(&error, &path);
                }
            }
        }
    }
}

//! Fetching files from a contact into a directory.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use cap_std::{ambient_authority, fs::Dir};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::task;

use super::{
    Options,
    record::Record,
    walk::{GetItem, Remote, Walk, strange},
};
use crate::{
    cli::{
        progress::Progress,
        remote::{Link, RemotePath},
        tally::{Tally, Through, Voice, Way},
    },
    client::peer::Peer,
    error::{Code, Error, printable},
    json::Value,
    root::{conflict::Conflict, tree::TreePath},
    transfer::receive::download::{Download, Downloaded},
    wire::record::MAX_BODY,
};

/// The most files that are under way at the same time.
const AT_ONCE: usize = 128;

/// How many sessions in a row may break before a file, or a block of one, has arrived.
const BROKEN: u32 = 3;

/// The most directories that are held open.
const DIRS: usize = 64;

/// A file that is no longer under way.
struct Came {
    remote: Remote,
    downloaded: Result<Downloaded, Error>,
    /// Bytes of it that were there when it was asked for.
    held: u64,
    took: Duration,
}

/// Files that are being fetched.
type Coming<'a> = FuturesUnordered<BoxFuture<'a, Came>>;

/// Something that is fetched into a directory: what the command and the shell share.
pub struct Fetch {
    options: Options,
    output: PathBuf,
    /// Where the files go; not made for a dry run.
    base: Option<Arc<Dir>>,
    progress: Arc<Progress>,
    tally: Tally,
    /// Bytes of the files that were fetched.
    bytes: u64,
}

/// A fetch at work on places of one contact.
struct Work<'a> {
    fetch: &'a mut Fetch,
    peer: &'a str,
    stops: Vec<Stop<'a>>,
    /// Whether it is the only place.
    only: bool,
    dirs: HashMap<String, Arc<Dir>>,
    record: Record,
    /// Files that had their last word, in whatever session.
    over: HashSet<(String, usize)>,
    /// Files that were begun and have not had it yet.
    begun: HashSet<(String, usize)>,
    /// The local paths of files that are under way.
    taken: HashSet<String>,
}

/// A place, and what is left to do there.
struct Stop<'a> {
    place: &'a RemotePath,
    /// Whether everything at the place is known.
    walked: bool,
    under_way: usize,
    /// Whether it was given up.
    failed: bool,
}

impl Stop<'_> {
    fn is_over(&self) -> bool {
        self.failed || self.walked && self.under_way == 0
    }
}

impl Fetch {
    /// Creates the directory if it does not exist.
    pub fn new(
        options: Options,
        output: &Path,
        progress: Arc<Progress>,
        voice: Voice,
    ) -> Result<Self, Error> {
        let at = |e: io::Error| Error::io("open", output, &e);
        let way = match options.dry_run {
            true => Way::DryGet,
            false => Way::Get,
        };
        let base = match options.dry_run {
            true => None,
            false => {
                fs::create_dir_all(output).map_err(at)?;
                Some(Dir::open_ambient_dir(output, ambient_authority()).map_err(at)?)
            }
        };
        Ok(Self {
            options,
            output: output.to_owned(),
            base: base.map(Arc::new),
            tally: Tally::new(way, voice, progress.clone()),
            progress,
            bytes: 0,
        })
    }

    /// Fetches what is at places of one contact, all in the same session as long as that lasts. An
    /// error that is not about one of several files is returned only if this is the `only` place.
    pub async fn places<'a>(
        &mut self,
        link: &mut Link,
        places: &[&'a RemotePath],
        only: bool,
    ) -> Result<(), Error> {
        let Some(first) = places.first() else {
            return Ok(());
        };
        let record = Record::open(&self.output, &first.peer, !self.options.dry_run)
            .map_err(|e| Error::io("open", &self.output, &e))?;
        let stop = |place: &&'a RemotePath| Stop {
            place,
            walked: false,
            under_way: 0,
            failed: false,
        };
        let mut work = Work {
            fetch: self,
            peer: &first.peer,
            stops: places.iter().map(stop).collect(),
            only,
            dirs: HashMap::new(),
            record,
            over: HashSet::new(),
            begun: HashSet::new(),
            taken: HashSet::new(),
        };
        match work.run(link).await {
            Err(error) if !only => {
                for stop in work.stops.iter().filter(|stop| !stop.is_over()) {
                    work.fetch.failed(&error, &stop.place.path);
                }
                Ok(())
            }
            result => result,
        }
    }

    /// Reports the outcome; returns what was kept for programs.
    pub fn end(self) -> (Result<(), Error>, Vec<Value>) {
        self.tally.end()
    }

    /// Counts and reports that something was not fetched.
    pub fn failed(&mut self, error: &Error, path: &str) {
        self.tally.failed(error, path, None);
    }
}

impl<'w> Work<'w> {
    /// Fetches, in as many sessions as it takes.
    async fn run(&mut self, link: &mut Link) -> Result<(), Error> {
        let (mut broken, mut was_cut) = (0, false);
        loop {
            let before = self.so_far();
            let peer = link.peer().await;
            let result = match &peer {
                Ok(peer) => self.session(peer).await,
                Err(error) => Err(error.clone()),
            };
            let Err(error) = result else {
                return Ok(());
            };
            // Beginning another session only helps if this one was opened and then broke.
            if !peer.is_ok_and(|peer| peer.is_over()) || error.code == Code::Integrity {
                return Err(match was_cut {
                    true => error.within("the connection was cut, what came so far is kept"),
                    false => error,
                });
            }
            was_cut = true;
            let (files, bytes) = self.so_far();
            let came = files > before.0 || bytes >= before.1 + MAX_BODY as u64;
            broken = if came { 0 } else { broken + 1 };
            if broken == BROKEN {
                return Err(error);
            }
        }
    }

    /// Files that had their last word, and bytes that arrived: a session may bring many bytes of a
    /// large file and break all the same.
    fn so_far(&self) -> (usize, u64) {
        (self.over.len(), self.fetch.progress.bytes_moved())
    }

    async fn session(&mut self, peer: &Peer) -> Result<(), Error> {
        self.fetch.progress.broke_off(self.fetch.bytes);
        self.taken.clear();
        let mut left = Vec::new();
        for (number, stop) in self.stops.iter_mut().enumerate() {
            if !stop.is_over() {
                (stop.walked, stop.under_way) = (false, 0);
                left.push((number, stop.place));
            }
        }
        let mut walk = Walk::new(peer, self.fetch.options.clone(), left);
        let mut coming = Coming::new();
        loop {
            tokio::select! {
                Some((number, found)) = walk.next() => {
                    let taken = match found {
                        Ok(found) => self.find(peer, number, found, &mut coming).await,
                        Err(error) => Err(error),
                    };
                    let Err(error) = taken else {
                        continue;
                    };
                    if self.only || peer.is_over() {
                        return Err(error);
                    }
                    walk.leave(number);
                    self.give_up(number, &error);
                }
                Some(came) = coming.next() => self.come(peer, came)?,
                else => return Ok(()),
            }
        }
    }

    /// Takes note of something found at a place.
    async fn find<'a>(
        &mut self,
        peer: &'a Peer,
        number: usize,
        found: GetItem,
        coming: &mut Coming<'a>,
    ) -> Result<(), Error> {
        match found {
            GetItem::Dir(_) if self.fetch.options.dry_run => Ok(()),
            GetItem::Dir(local) => self.dir(&local).map(drop),
            GetItem::File(remote) => self.begin(peer, remote, coming).await,
            GetItem::End => {
                if let Some(stop) = self.stops.get_mut(number) {
                    stop.walked = true;
                }
                Ok(())
            }
        }
    }

    /// Gives up on a place.
    fn give_up(&mut self, number: usize, error: &Error) {
        if let Some(stop) = self.stops.get_mut(number) {
            stop.failed = true;
            self.fetch.failed(error, &stop.place.path);
        }
    }

    /// Asks for a file, unless it need not be fetched.
    async fn begin<'a>(
        &mut self,
        peer: &'a Peer,
        remote: Remote,
        coming: &mut Coming<'a>,
    ) -> Result<(), Error> {
        let local = remote.local.join();
        // The outcome of one file decides what is done about another of the same name.
        while coming.len() >= AT_ONCE || self.taken.contains(&local) {
            let Some(came) = coming.next().await else {
                break;
            };
            self.come(peer, came)?;
        }
        if self.over.contains(&remote.key()) {
            return Ok(());
        }
        let conflict = match self.look(&remote) {
            Ok(Some(conflict)) => conflict,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.failed(remote, &error);
                return Ok(());
            }
        };
        if self.fetch.options.dry_run {
            self.conclude(&remote);
            let path = self.fetch.output.join(&local);
            self.fetch.tally.would(&remote.item(&path));
            return Ok(());
        }
        let (above, name) = remote
            .local
            .split_last()
            .ok_or_else(|| strange(&remote.path))?;
        let (dir, name) = (self.dir(&above)?, name.to_owned());
        if self.begun.insert(remote.key()) {
            self.fetch.progress.expect(&name, remote.size);
        }
        self.taken.insert(local);
        if let Some(stop) = self.stops.get_mut(remote.place) {
            stop.under_way += 1;
        }
        let (whose, begun) = (self.peer.to_owned(), Instant::now());
        let progress = self.fetch.progress.clone();
        coming.push(
            async move {
                let (path, size) = (remote.path.clone(), remote.size);
                let looking = task::spawn_blocking(move || {
                    Download::new(&dir, &name, conflict, (&whose, &path), size)
                });
                let download = match looking.await {
                    Ok(download) => download.map_err(|e| match e.kind() {
                        io::ErrorKind::WouldBlock => Error::new(
                            Code::Later,
                            "another m2y process is fetching it to the same place",
                        ),
                        _ => Error::new(Code::Failed, format!("cannot be stored here: {e}")),
                    }),
                    Err(_) => Err(Error::new(Code::Failed, "a thread failed")),
                };
                let held = download.as_ref().ok().and_then(Download::held);
                let held = held.map_or(0, |held| held.bytes);
                progress.held(held);
                let downloaded = match download {
                    Ok(download) => match peer.get(&remote.path, download) {
                        Ok(fetching) => fetching.downloaded().await,
                        Err(error) => Err(error),
                    },
                    Err(error) => Err(error),
                };
                Came {
                    remote,
                    downloaded,
                    held,
                    took: begun.elapsed(),
                }
            }
            .boxed(),
        );
        Ok(())
    }

    /// What to do about a file that is there already; `None` if this one need not be fetched.
    fn look(&mut self, remote: &Remote) -> Result<Option<Conflict>, Error> {
        let path = self.fetch.output.join(remote.local.join());
        let about = match fs::symlink_metadata(&path) {
            Ok(about) => about,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Some(self.fetch.options.conflict.conflict()));
            }
            Err(e) => return Err(Error::io("open", &path, &e)),
        };
        let nanos = about
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(about.mtime_nsec());
        let item = remote.item(&path);
        // File systems differ in the precision of their times.
        let same_time = nanos.abs_diff(remote.modified) < 1_000 || {
            about.mtime_nsec() == 0
                && nanos
                    == remote
                        .modified
                        .saturating_sub(remote.modified.rem_euclid(1_000_000_000))
        };
        if about.is_file() && about.len() == remote.size && same_time {
            self.conclude(remote);
            self.fetch.tally.same(&item);
            return Ok(None);
        }
        let all = self.fetch.options.all;
        let untouched = self.record.is_untouched(&remote.path, about.len(), nanos);
        match self.fetch.options.conflict {
            _ if about.is_dir() => Err(Error::new(
                Code::Failed,
                format!("{} is a directory", path.display()),
            )),
            // It is unchanged since it was fetched, and only the contact has changed it.
            on if on.conflict() == Conflict::Refuse && !on.skips() && all && untouched => {
                Ok(Some(Conflict::Overwrite))
            }
            on if on.skips() => {
                self.conclude(remote);
                self.fetch.tally.skipped(&item);
                Ok(None)
            }
            on if on.conflict() == Conflict::Refuse => {
                let sentence = format!(
                    "a different file {} exists: use --conflict overwrite, rename or skip",
                    path.display()
                );
                Err(Error::new(Code::Exists, sentence))
            }
            on => Ok(Some(on.conflict())),
        }
    }

    /// A directory below that of the command, created if it does not exist.
    fn dir(&mut self, path: &TreePath) -> Result<Arc<Dir>, Error> {
        let key = path.join();
        let missing = || Error::io("open", &self.fetch.output, &io::ErrorKind::NotFound.into());
        let base = self.fetch.base.clone().ok_or_else(missing)?;
        if key.is_empty() {
            return Ok(base);
        }
        if let Some(dir) = self.dirs.get(&key) {
            return Ok(dir.clone());
        }
        let opened = base.create_dir_all(&key).and_then(|()| base.open_dir(&key));
        let full = self.fetch.output.join(&key);
        let dir = Arc::new(opened.map_err(|e| Error::io("make", &full, &e))?);
        if self.dirs.len() >= DIRS {
            self.dirs.clear();
        }
        self.dirs.insert(key, dir.clone());
        Ok(dir)
    }

    /// Takes note of what became of a file. Fails if the session is over.
    fn come(&mut self, peer: &Peer, came: Came) -> Result<(), Error> {
        let Came {
            remote,
            downloaded,
            held,
            took,
        } = came;
        self.taken.remove(&remote.local.join());
        match downloaded {
            Ok(downloaded) => {
                self.leave(&remote);
                self.conclude(&remote);
                self.fetch.bytes += downloaded.size;
                // The part that was held may be of a different file, and was fetched again.
                let twice = held.saturating_sub(downloaded.resumed);
                self.fetch.progress.counted_twice(twice);
                if downloaded.name == remote.local.split_last().map_or("", |(_, name)| name) {
                    self.record.note(&remote);
                }
                let path = self.fetch.output.join(remote.local.join());
                let path = path.with_file_name(&downloaded.name);
                let through = Through {
                    resumed: downloaded.resumed,
                    started_over: downloaded.started_over,
                    crc: Some(downloaded.crc),
                    took,
                };
                self.fetch.tally.through(&remote.item(&path), &through);
                Ok(())
            }
            Err(error) if peer.is_over() && error.code != Code::Integrity => Err(error),
            Err(error) => {
                self.leave(&remote);
                // It was listed, or there would be nothing to fetch.
                let error = match error.code {
                    Code::NotFound => Error::new(
                        Code::NotFound,
                        "the contact does not let you fetch it, or has just removed it",
                    ),
                    _ => error,
                };
                self.failed(remote, &error);
                Ok(())
            }
        }
    }

    /// The file is no longer under way.
    fn leave(&mut self, remote: &Remote) {
        if let Some(stop) = self.stops.get_mut(remote.place) {
            stop.under_way = stop.under_way.saturating_sub(1);
        }
    }

    /// The file has had its last word.
    fn conclude(&mut self, remote: &Remote) {
        self.over.insert(remote.key());
        if self.begun.remove(&remote.key()) {
            self.fetch.progress.over();
        }
    }

    fn failed(&mut self, remote: Remote, error: &Error) {
        self.conclude(&remote);
        let error = error.clone().within(printable(&remote.path, 300));
        let file = self.fetch.output.join(remote.local.join());
        self.fetch.tally.failed(&error, &remote.path, Some(&file));
    }
}

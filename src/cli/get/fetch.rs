//! Files on their way from a contact to a directory.

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
    OnConflict, Options,
    record::Record,
    tally::{Tally, Unfetched, Voice},
};
use crate::{
    cli::{
        progress::Progress,
        remote::{Link, Place, about},
    },
    client::peer::Peer,
    error::{Code, Error, printable},
    json::Value,
    root::tree::TreePath,
    transfer::landing::{Conflict, Landed, Landing},
    wire::{record::MAX_BODY, request::Entry},
};

/// Files that are under way at the same time.
const AT_ONCE: usize = 128;

/// So many sessions in a row may break before a file or a block of one has come.
const BROKEN: u32 = 3;

/// Directories that are held open.
const DIRS: usize = 64;

/// A file of the contact's.
pub struct Remote {
    /// Its path there.
    pub path: String,
    /// Where it goes, below the directory of the command.
    pub local: TreePath,
    /// Its bytes.
    pub size: u64,
    /// When it changed last, in nanoseconds since 1970.
    pub modified: i64,
}

/// A file that is on its way no more.
struct Came {
    remote: Remote,
    landed: Result<Landed, Error>,
    /// Bytes of it that were there when it was asked for.
    held: u64,
    took: Duration,
}

/// Files on their way.
type Coming<'a> = FuturesUnordered<BoxFuture<'a, Came>>;

/// Something that is fetched to a directory: what the command and the shell share.
pub struct Fetch {
    options: Options,
    output: PathBuf,
    base: Arc<Dir>,
    progress: Arc<Progress>,
    tally: Tally,
    /// Files that had their last word, whatever session it was in.
    over: HashSet<String>,
    /// Files that were begun and did not have it.
    begun: HashSet<String>,
    /// Bytes of the files that were fetched.
    bytes: u64,
    /// What was fetched into the directory before, by contact: read once.
    records: HashMap<String, Record>,
}

/// What is fetched, at work on one place of a contact.
struct Work<'a> {
    fetch: &'a mut Fetch,
    place: &'a Place,
    dirs: HashMap<String, Arc<Dir>>,
    record: Record,
}

impl Fetch {
    /// Makes the directory, if it is not there.
    pub fn new(
        options: Options,
        output: &Path,
        progress: Arc<Progress>,
        voice: Voice,
    ) -> Result<Self, Error> {
        let at = |e: io::Error| Error::io("open", output, &e);
        fs::create_dir_all(output).map_err(at)?;
        let base = Dir::open_ambient_dir(output, ambient_authority()).map_err(at)?;
        Ok(Self {
            options,
            output: output.to_owned(),
            base: Arc::new(base),
            tally: Tally::new(voice, progress.clone()),
            progress,
            over: HashSet::new(),
            begun: HashSet::new(),
            bytes: 0,
            records: HashMap::new(),
        })
    }

    /// Fetches what lies at a place, in as many sessions as it takes. An error that is not
    /// about one file of several is returned only if the place is the `only` one.
    pub async fn place(&mut self, link: &mut Link, place: &Place, only: bool) -> Result<(), Error> {
        let record = match self.records.remove(&place.peer) {
            Some(record) => record,
            None => Record::open(&self.output, &place.peer)
                .map_err(|e| Error::io("open", &self.output, &e))?,
        };
        let mut work = Work {
            record,
            fetch: self,
            place,
            dirs: HashMap::new(),
        };
        let result = work.run(link).await;
        let record = work.record;
        self.records.insert(place.peer.clone(), record);
        match result {
            Err(error) if only => Err(error),
            Err(error) => {
                self.failed(&error, &place.path);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Says how it went; gives back what was kept for programs.
    pub fn end(self) -> (Result<(), Unfetched>, Vec<Value>) {
        self.tally.end()
    }

    /// Counts and says that something was not fetched.
    pub fn failed(&mut self, error: &Error, path: &str) {
        self.tally.failed(error, path);
    }
}

impl Work<'_> {
    /// Fetches, in as many sessions as it takes.
    async fn run(&mut self, link: &mut Link) -> Result<(), Error> {
        let mut broken = 0;
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
            // Only where a session came about and broke does it help to begin another one.
            if !peer.is_ok_and(|peer| peer.is_over()) || error.code == Code::Integrity {
                return Err(error);
            }
            let (files, bytes) = self.so_far();
            let came = files > before.0 || bytes >= before.1 + MAX_BODY as u64;
            broken = if came { 0 } else { broken + 1 };
            if broken == BROKEN {
                return Err(error);
            }
        }
    }

    /// Files that had their last word, and bytes that came: of a large file a session may
    /// bring many and break all the same.
    fn so_far(&self) -> (usize, u64) {
        (self.fetch.over.len(), self.fetch.progress.bytes_moved())
    }

    async fn session(&mut self, peer: &Peer) -> Result<(), Error> {
        let place = self.place;
        let Options { all, recursive, .. } = self.fetch.options;
        let mut coming = Coming::new();
        // What broke off counts when it is gone on with.
        let whole = self.fetch.bytes;
        self.fetch.progress.set_bytes(|_| whole);
        let entry = peer.stat(&place.path).await;
        let entry = entry.map_err(|e| match peer.is_over() {
            true => e,
            false => about(place, e),
        })?;
        let name = TreePath::parse(&place.path).and_then(|path| {
            let (_, last) = path.split_last()?;
            Some(last.to_owned())
        });
        if !entry.is_dir {
            let local = name.as_deref().and_then(TreePath::parse);
            let local = local.ok_or_else(|| strange(&place.path))?;
            let remote = Remote {
                path: place.path.clone(),
                local,
                size: entry.size,
                modified: entry.modified,
            };
            self.begin(peer, remote, &mut coming).await?;
        } else {
            if !recursive && !all {
                let sentence = "it is a directory: take -r to fetch what is in it, or --all";
                return Err(about(place, Error::new(Code::Usage, sentence)));
            }
            // As a copy would be called; everything, where it is the top directory.
            let below = name.filter(|_| !all).map(|name| format!("{name}/"));
            let mut listing = peer.list(&place.path, true)?;
            while let Some(entries) = listing.next().await {
                for entry in entries? {
                    let Entry {
                        path,
                        is_dir,
                        size,
                        modified,
                    } = entry;
                    let local = format!("{}{path}", below.as_deref().unwrap_or_default());
                    // A server cannot be trusted with where files go.
                    let local = TreePath::parse(&local).ok_or_else(|| strange(&path))?;
                    if is_dir {
                        self.dir(&local)?;
                        continue;
                    }
                    let path = match place.path.as_str() {
                        "" => path,
                        before => format!("{before}/{path}"),
                    };
                    let remote = Remote {
                        path,
                        local,
                        size,
                        modified,
                    };
                    self.begin(peer, remote, &mut coming).await?;
                }
            }
        }
        while let Some(over) = coming.next().await {
            self.over(peer, over)?;
        }
        Ok(())
    }

    /// Asks for a file, unless it need not come.
    async fn begin<'a>(
        &mut self,
        peer: &'a Peer,
        remote: Remote,
        coming: &mut Coming<'a>,
    ) -> Result<(), Error> {
        if self.fetch.over.contains(&remote.path) {
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
        let (above, name) = remote
            .local
            .split_last()
            .ok_or_else(|| strange(&remote.path))?;
        let (dir, name) = (self.dir(&above)?, name.to_owned());
        if self.fetch.begun.insert(remote.path.clone()) {
            self.fetch.progress.expect(&name, remote.size);
        }
        while coming.len() >= AT_ONCE {
            if let Some(over) = coming.next().await {
                self.over(peer, over)?;
            }
        }
        let (whose, begun) = (self.place.peer.clone(), Instant::now());
        let progress = self.fetch.progress.clone();
        coming.push(
            async move {
                let (path, size) = (remote.path.clone(), remote.size);
                let looking = task::spawn_blocking(move || {
                    Landing::new(&dir, &name, conflict, (&whose, &path), size)
                });
                let landing = match looking.await {
                    Ok(landing) => landing.map_err(|e| match e.kind() {
                        io::ErrorKind::WouldBlock => {
                            Error::new(Code::Later, "another m2y fetches it to the same place")
                        }
                        _ => Error::new(Code::Failed, format!("cannot be stored here: {e}")),
                    }),
                    Err(_) => Err(Error::new(Code::Failed, "a thread failed")),
                };
                let held = landing.as_ref().ok().and_then(Landing::held);
                let held = held.map_or(0, |held| held.bytes);
                if held > 0 {
                    progress.set_bytes(|bytes| bytes.saturating_add(held));
                }
                let landed = match landing {
                    Ok(landing) => match peer.get(&remote.path, landing) {
                        Ok(fetching) => fetching.landed().await,
                        Err(error) => Err(error),
                    },
                    Err(error) => Err(error),
                };
                Came {
                    remote,
                    landed,
                    held,
                    took: begun.elapsed(),
                }
            }
            .boxed(),
        );
        Ok(())
    }

    /// What to do about what is there; `None` where nothing is.
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
                return Ok(Some(match self.fetch.options.conflict {
                    OnConflict::Rename => Conflict::Rename,
                    OnConflict::Overwrite => Conflict::Overwrite,
                    _ => Conflict::Refuse,
                }));
            }
            Err(e) => return Err(Error::io("open", &path, &e)),
        };
        let nanos = about
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(about.mtime_nsec());
        // File systems keep times more or less exactly.
        let same_time = nanos.abs_diff(remote.modified) < 1_000 || {
            about.mtime_nsec() == 0
                && nanos == remote.modified - remote.modified.rem_euclid(1_000_000_000)
        };
        if about.is_file() && about.len() == remote.size && same_time {
            self.settle(remote);
            self.fetch.tally.same(remote, &path);
            return Ok(None);
        }
        let untouched = self.record.is_untouched(&remote.path, about.len(), nanos);
        match self.fetch.options.conflict {
            _ if about.is_dir() => Err(Error::new(
                Code::Failed,
                format!("{} is a directory", path.display()),
            )),
            OnConflict::Overwrite => Ok(Some(Conflict::Overwrite)),
            OnConflict::Rename => Ok(Some(Conflict::Rename)),
            // It is as it was fetched, and only the contact has changed it.
            OnConflict::Fail if self.fetch.options.all && untouched => {
                Ok(Some(Conflict::Overwrite))
            }
            OnConflict::Skip => {
                self.settle(remote);
                self.fetch.tally.skipped(remote, &path);
                Ok(None)
            }
            OnConflict::Fail => {
                self.fetch.tally.in_the_way();
                let sentence = format!(
                    "{} is there and is another file: take --conflict overwrite, rename or skip",
                    path.display()
                );
                Err(Error::new(Code::Failed, sentence))
            }
        }
    }

    /// A directory below that of the command, made if it is not there.
    fn dir(&mut self, path: &TreePath) -> Result<Arc<Dir>, Error> {
        let key = path.join();
        if key.is_empty() {
            return Ok(self.fetch.base.clone());
        }
        if let Some(dir) = self.dirs.get(&key) {
            return Ok(dir.clone());
        }
        let opened = self
            .fetch
            .base
            .create_dir_all(&key)
            .and_then(|()| self.fetch.base.open_dir(&key));
        let full = self.fetch.output.join(&key);
        let dir = Arc::new(opened.map_err(|e| Error::io("make", &full, &e))?);
        if self.dirs.len() >= DIRS {
            self.dirs.clear();
        }
        self.dirs.insert(key, dir.clone());
        Ok(dir)
    }

    /// Takes notice of what became of a file. An error where the session is over.
    fn over(&mut self, peer: &Peer, came: Came) -> Result<(), Error> {
        let Came {
            remote,
            landed,
            held,
            took,
        } = came;
        match landed {
            Ok(landed) => {
                self.settle(&remote);
                self.fetch.bytes += landed.size;
                // What was there may have been of another file, and came once more.
                let twice = held.saturating_sub(landed.resumed);
                if twice > 0 {
                    let progress = &self.fetch.progress;
                    progress.set_bytes(|bytes| bytes.saturating_sub(twice));
                }
                if landed.name == remote.local.split_last().map_or("", |(_, name)| name) {
                    self.record.note(&remote);
                }
                let path = self.fetch.output.join(remote.local.join());
                let path = path.with_file_name(&landed.name);
                self.fetch.tally.fetched(&remote, &path, &landed, took);
                Ok(())
            }
            Err(error) if peer.is_over() && error.code != Code::Integrity => Err(error),
            Err(error) => {
                self.failed(remote, &error);
                Ok(())
            }
        }
    }

    /// The file has had its last word.
    fn settle(&mut self, remote: &Remote) {
        self.fetch.over.insert(remote.path.clone());
        if self.fetch.begun.remove(&remote.path) {
            self.fetch.progress.over();
        }
    }

    fn failed(&mut self, remote: Remote, error: &Error) {
        self.settle(&remote);
        let error = error.clone().within(printable(&remote.path, 300));
        self.fetch.failed(&error, &remote.path);
    }
}

fn strange(path: &str) -> Error {
    let path = printable(path, 300);
    Error::new(
        Code::Failed,
        format!("the server shows a file under the path {path:?}, which no file here can have"),
    )
}

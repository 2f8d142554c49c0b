use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, IsTerminal, Write, stderr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cap_std::{ambient_authority, fs::Dir};
use clap::Args;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task;

use super::{
    Failure, output,
    remote::{Asker, Place, about},
};
use crate::{
    client::peer::Peer,
    error::{Code, Error, printable},
    json::{self, Map, Value},
    root::tree::TreePath,
    transfer::{
        Observer,
        landing::{Conflict, Landed, Landing},
    },
    wire::{record::MAX_BODY, request::Entry},
};

/// Files that are under way at the same time.
const AT_ONCE: usize = 128;

/// So many sessions in a row may break before a file or a block of one has come.
const BROKEN: u32 = 3;

/// The file that says which files of a directory were fetched, and as they were then.
const RECORD: &str = ".m2y-fetched";

/// Directories that are held open.
const DIRS: usize = 64;

/// Fetch files that a contact shares with you
///
/// What breaks off goes on where it was when you fetch it again. A file that is there
/// already and is the same is not fetched; one that is another is left, unless you say
/// with --conflict what to do. Times are kept.
///
///   m2y get roland-frei:photo/a.jpg
///   m2y get -o here -r roland-frei:photo/2026
///   m2y get --all roland-frei           what is new or has changed since the last time
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Get {
    #[command(flatten)]
    asker: Asker,
    /// Where the files go
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Fetch all that the contact shares; of what was fetched before and not touched since,
    /// what has changed
    #[arg(short, long)]
    all: bool,
    /// Fetch what is in directories too
    #[arg(short, long)]
    recursive: bool,
    /// Where there is another file of that name: leave it and fail, leave it, write over
    /// it, or take a name with a number
    #[arg(long, value_enum, default_value_t = OnConflict::Fail)]
    conflict: OnConflict,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
    /// Whose files, and which
    #[arg(required = true, value_name = "PEER[:PATH]", value_parser = Place::parse)]
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnConflict {
    Fail,
    Skip,
    Overwrite,
    Rename,
}

/// How far it is: what is shown, and the bytes of files that came, of whole ones or not.
struct Progress(Option<ProgressBar>, AtomicU64);

impl Progress {
    fn new(wanted: bool) -> Self {
        if !wanted || !stderr().is_terminal() {
            return Self(None, AtomicU64::new(0));
        }
        let bar = ProgressBar::new(0);
        let style = "{msg} {wide_bar} {percent:>3}% {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(Some(bar), AtomicU64::new(0))
    }

    fn apart(&self, print: impl FnOnce()) {
        match &self.0 {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Observer for Progress {
    fn moved(&self, bytes: u64) {
        self.1.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}

/// A file of the contact's.
struct Remote {
    path: String,
    /// Where it goes, below the directory of the command.
    local: TreePath,
    size: u64,
    modified: i64,
}

/// What became of the files.
#[derive(Default)]
struct Tally {
    fetched: u64,
    bytes: u64,
    same: u64,
    skipped: u64,
    failed: u64,
    first: Option<Error>,
    /// Files that had their last word, whatever session it was in.
    over: HashSet<String>,
}

/// A file on its way, and what became of it.
type Coming<'a> = BoxFuture<'a, (Remote, Result<Landed, Error>, Duration)>;

/// The command at work, on one contact.
struct Work<'a> {
    get: &'a Get,
    place: &'a Place,
    progress: Arc<Progress>,
    json: bool,
    dirs: HashMap<String, Arc<Dir>>,
    base: Arc<Dir>,
    record: Record,
    tally: &'a mut Tally,
}

impl Get {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let at = |e: io::Error| Error::io("open", &self.output, &e);
        fs::create_dir_all(&self.output).map_err(at)?;
        let base = Dir::open_ambient_dir(&self.output, ambient_authority()).map_err(at)?;
        let base = Arc::new(base);
        let begun = Instant::now();
        let mut tally = Tally::default();
        let progress = Arc::new(Progress::new(!self.no_progress && !json));
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let all = async {
            for place in &self.places {
                let mut work = Work {
                    get: &self,
                    place,
                    progress: progress.clone(),
                    json,
                    dirs: HashMap::new(),
                    base: base.clone(),
                    record: Record::open(&self.output, &place.peer).map_err(at)?,
                    tally: &mut tally,
                };
                if let Err(error) = work.run().await {
                    if self.places.len() == 1 {
                        return Err(error);
                    }
                    work.tally.fail(&error, &place.path, &progress, json);
                }
            }
            Ok::<_, Error>(())
        };
        let result = tokio::select! {
            result = all => result,
            _ = &mut interrupted => Err(Error::new(
                Code::Interrupted,
                "interrupted: what came so far is kept, fetch again to go on",
            )),
        };
        if let Some(bar) = &progress.0 {
            bar.finish_and_clear();
        }
        if tally.fetched + tally.same + tally.skipped + tally.failed > 0 {
            tally.summary(begun.elapsed(), json);
        }
        result?;
        match tally.first {
            None => Ok(()),
            Some(_) if tally.fetched + tally.same + tally.skipped > 0 => {
                let sentence = format!("{} not fetched", files(tally.failed));
                Err(Error::new(Code::Partly, sentence).into())
            }
            Some(error) => {
                let sentence = format!("{} not fetched", files(tally.failed));
                Err(Error::new(error.code, sentence).into())
            }
        }
    }
}

fn files(n: u64) -> String {
    match n {
        1 => "1 file".to_owned(),
        n => format!("{} files", output::count(n)),
    }
}

impl Tally {
    /// Counts and says that something was not fetched.
    fn fail(&mut self, error: &Error, path: &str, progress: &Progress, json: bool) {
        self.failed += 1;
        if json {
            output::object(&[
                ("status", "failed".into()),
                ("path", path.into()),
                ("code", error.code.word().into()),
                ("error", error.sentence.as_str().into()),
            ]);
        } else {
            let line = printable(&error.sentence, 8_192);
            progress.apart(|| eprintln!("m2y: {line}"));
        }
        self.first.get_or_insert(error.clone());
    }

    fn summary(&self, took: Duration, json: bool) {
        if json {
            output::object(&[
                ("status", "summary".into()),
                ("fetched", self.fetched.into()),
                ("bytes", self.bytes.into()),
                ("same", self.same.into()),
                ("skipped", self.skipped.into()),
                ("failed", self.failed.into()),
                ("seconds", took.as_secs_f64().into()),
            ]);
            return;
        }
        let mut line = format!(
            "fetched {}: {}",
            files(self.fetched),
            output::speed(self.bytes, took)
        );
        for (n, what) in [
            (self.same, "the same already"),
            (self.skipped, "skipped"),
            (self.failed, "failed"),
        ] {
            if n > 0 {
                line.push_str(&format!(", {} {what}", output::count(n)));
            }
        }
        output::line(line);
    }
}

impl Work<'_> {
    /// Fetches, in as many sessions as it takes.
    async fn run(&mut self) -> Result<(), Error> {
        let route = self.get.asker.route(&self.place.peer)?;
        let mut broken = 0;
        loop {
            let before = self.so_far();
            let observer: Arc<dyn Observer> = self.progress.clone();
            let peer = Peer::connect(&route, observer).await;
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
        let bytes = self.progress.1.load(Ordering::Relaxed);
        (self.tally.over.len(), bytes)
    }

    async fn session(&mut self, peer: &Peer) -> Result<(), Error> {
        let (get, place) = (self.get, self.place);
        let mut coming: FuturesUnordered<Coming<'_>> = FuturesUnordered::new();
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
            if !get.recursive && !get.all {
                let sentence = "it is a directory: take -r to fetch what is in it, or --all";
                return Err(about(place, Error::new(Code::Usage, sentence)));
            }
            // As a copy would be called; everything, where it is the top directory.
            let below = name.filter(|_| !get.all).map(|name| format!("{name}/"));
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
        coming: &mut FuturesUnordered<Coming<'a>>,
    ) -> Result<(), Error> {
        if self.tally.over.contains(&remote.path) {
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
        if let Some(bar) = &self.progress.0 {
            bar.inc_length(remote.size);
            bar.set_message(printable(&name, 30));
        }
        while coming.len() >= AT_ONCE {
            if let Some(over) = coming.next().await {
                self.over(peer, over)?;
            }
        }
        let (whose, begun) = (self.place.peer.clone(), Instant::now());
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
                let landed = match landing {
                    Ok(landing) => match peer.get(&remote.path, landing) {
                        Ok(fetching) => fetching.landed().await,
                        Err(error) => Err(error),
                    },
                    Err(error) => Err(error),
                };
                (remote, landed, begun.elapsed())
            }
            .boxed(),
        );
        Ok(())
    }

    /// What to do about what is there; `None` where nothing is.
    fn look(&mut self, remote: &Remote) -> Result<Option<Conflict>, Error> {
        let path = self.get.output.join(remote.local.join());
        let about = match fs::symlink_metadata(&path) {
            Ok(about) => about,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Some(match self.get.conflict {
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
            self.tally.same += 1;
            self.tally.over.insert(remote.path.clone());
            self.tell("same", remote, &path, &[]);
            return Ok(None);
        }
        let untouched = self.record.is_untouched(&remote.path, about.len(), nanos);
        match self.get.conflict {
            _ if about.is_dir() => Err(Error::new(
                Code::Failed,
                format!("{} is a directory", path.display()),
            )),
            OnConflict::Overwrite => Ok(Some(Conflict::Overwrite)),
            OnConflict::Rename => Ok(Some(Conflict::Rename)),
            // It is as it was fetched, and only the contact has changed it.
            OnConflict::Fail if self.get.all && untouched => Ok(Some(Conflict::Overwrite)),
            OnConflict::Skip => {
                self.tally.skipped += 1;
                self.tally.over.insert(remote.path.clone());
                self.tell("skipped", remote, &path, &[]);
                Ok(None)
            }
            OnConflict::Fail => Err(Error::new(
                Code::Failed,
                format!(
                    "{} is there and is another file: take --conflict overwrite, rename or skip",
                    path.display()
                ),
            )),
        }
    }

    /// A directory below that of the command, made if it is not there.
    fn dir(&mut self, path: &TreePath) -> Result<Arc<Dir>, Error> {
        let key = path.join();
        if key.is_empty() {
            return Ok(self.base.clone());
        }
        if let Some(dir) = self.dirs.get(&key) {
            return Ok(dir.clone());
        }
        let opened = self
            .base
            .create_dir_all(&key)
            .and_then(|()| self.base.open_dir(&key));
        let full = self.get.output.join(&key);
        let dir = Arc::new(opened.map_err(|e| Error::io("make", &full, &e))?);
        if self.dirs.len() >= DIRS {
            self.dirs.clear();
        }
        self.dirs.insert(key, dir.clone());
        Ok(dir)
    }

    /// Takes notice of what became of a file. An error where the session is over.
    fn over(
        &mut self,
        peer: &Peer,
        (remote, landed, took): (Remote, Result<Landed, Error>, Duration),
    ) -> Result<(), Error> {
        match landed {
            Ok(landed) => {
                self.tally.fetched += 1;
                self.tally.bytes += landed.size - landed.resumed;
                self.tally.over.insert(remote.path.clone());
                if landed.name == remote.local.split_last().map_or("", |(_, name)| name) {
                    self.record.note(&remote);
                }
                let path = self.get.output.join(remote.local.join());
                let path = path.with_file_name(&landed.name);
                if landed.started_over && !self.json {
                    let shown = printable(&remote.path, 300);
                    self.progress.apart(|| {
                        eprintln!("m2y: {shown} has changed since it was begun: it came from its beginning");
                    });
                }
                self.tell(
                    "fetched",
                    &remote,
                    &path,
                    &[
                        ("resumed", landed.resumed.into()),
                        ("startedOver", landed.started_over.into()),
                        ("crc", landed.crc.into()),
                        ("seconds", took.as_secs_f64().into()),
                    ],
                );
                Ok(())
            }
            Err(error) if peer.is_over() && error.code != Code::Integrity => Err(error),
            Err(error) => {
                self.failed(remote, &error);
                Ok(())
            }
        }
    }

    fn failed(&mut self, remote: Remote, error: &Error) {
        self.tally.over.insert(remote.path.clone());
        let (progress, json) = (self.progress.clone(), self.json);
        let error = error.clone().within(printable(&remote.path, 300));
        self.tally.fail(&error, &remote.path, &progress, json);
    }

    fn tell(&self, status: &str, remote: &Remote, file: &Path, more: &[(&str, Value)]) {
        if self.json {
            let mut fields = vec![
                ("status", status.into()),
                ("path", remote.path.as_str().into()),
                ("file", file.display().to_string().into()),
                ("bytes", remote.size.into()),
            ];
            fields.extend(more.iter().cloned());
            output::object(&fields);
        }
    }
}

fn strange(path: &str) -> Error {
    let path = printable(path, 300);
    Error::new(
        Code::Failed,
        format!("the server shows a file under the path {path:?}, which no file here can have"),
    )
}

/// Which files were fetched into a directory from a contact, and how they were then: by
/// that a file that nobody has touched since is known. A line a file, the last one counts.
struct Record {
    peer: String,
    file: File,
    known: HashMap<String, (u64, i64)>,
}

impl Record {
    fn open(dir: &Path, peer: &str) -> io::Result<Self> {
        let path = dir.join(RECORD);
        let mut known = HashMap::new();
        if let Ok(file) = File::open(&path) {
            for line in BufReader::new(file).lines() {
                // A line that was cut, or that somebody wrote, says nothing.
                let line = json::parse(line?.as_bytes()).unwrap_or_default();
                let field = |name| line.get(name);
                if field("peer").and_then(Value::as_str) == Some(peer)
                    && let Some(path) = field("path").and_then(Value::as_str)
                    && let Some(size) = field("size").and_then(Value::as_u64)
                    && let Some(modified) = field("modified").and_then(Value::as_i64)
                {
                    known.insert(path.to_owned(), (size, modified));
                }
            }
        }
        Ok(Self {
            peer: peer.to_owned(),
            file: OpenOptions::new().append(true).create(true).open(path)?,
            known,
        })
    }

    fn is_untouched(&self, path: &str, size: u64, modified: i64) -> bool {
        let known = self.known.get(path);
        known.is_some_and(|(len, time)| *len == size && time.abs_diff(modified) < 1_000_000_000)
    }

    fn note(&mut self, remote: &Remote) {
        let mut line = Map::new();
        line.insert("peer".to_owned(), self.peer.as_str().into());
        line.insert("path".to_owned(), remote.path.as_str().into());
        line.insert("size".to_owned(), remote.size.into());
        line.insert("modified".to_owned(), remote.modified.into());
        let line = format!("{}\n", json::canonical(&line));
        // Without it the file is only not replaced by itself.
        let _ = self.file.write_all(line.as_bytes());
    }
}

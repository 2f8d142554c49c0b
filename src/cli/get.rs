use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, IsTerminal, Write, stderr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
    remote::{Asker, Link, Place, about},
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

/// Objects that are kept for a program; what became of further files is only counted.
const KEPT: usize = 100_000;

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
    #[command(flatten)]
    options: Options,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
    /// Whose files, and which
    #[arg(required = true, value_name = "PEER[:PATH]", value_parser = Place::parse)]
    places: Vec<Place>,
}

/// What is fetched, and what is done about files that are there.
#[derive(Clone, Debug, Args)]
pub struct Options {
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnConflict {
    Fail,
    Skip,
    Overwrite,
    Rename,
}

/// How far it is, while something is fetched.
#[derive(Default)]
pub struct Progress {
    bar: Mutex<Option<ProgressBar>>,
    /// Bytes of files that came, of whole ones or not.
    came: AtomicU64,
}

impl Progress {
    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a bar from now on, where a person sees it.
    pub fn begin(&self) {
        if !stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(0);
        let style = "{msg} {wide_bar} {percent:>3}% {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        *self.bar() = Some(bar);
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }

    fn expect(&self, name: &str, bytes: u64) {
        if let Some(bar) = &*self.bar() {
            bar.inc_length(bytes);
            bar.set_message(printable(name, 30));
        }
    }

    fn apart(&self, print: impl FnOnce()) {
        match &*self.bar() {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Observer for Progress {
    fn moved(&self, bytes: u64) {
        self.came.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &*self.bar() {
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
    /// Those of the failed in whose place there is another file.
    in_the_way: u64,
    first: Option<Error>,
    /// Files that had their last word, whatever session it was in.
    over: HashSet<String>,
}

/// A file on its way, and what became of it.
type Coming<'a> = BoxFuture<'a, (Remote, Result<Landed, Error>, Duration)>;

/// To whom it is said what became of each file.
pub enum Voice {
    /// To people: only what they need to know.
    Lines,
    /// To programs: an object a line.
    Objects,
    /// To nobody yet: the objects are kept.
    Kept(Vec<Value>),
}

impl Voice {
    fn object(&mut self, fields: &[(&str, Value)]) {
        match self {
            Self::Lines => {}
            Self::Objects => output::object(fields),
            Self::Kept(kept) if kept.len() < KEPT => {
                let field = |(name, value): &(&str, Value)| ((*name).to_owned(), value.clone());
                kept.push(Value::Object(fields.iter().map(field).collect()));
            }
            Self::Kept(_) => {}
        }
    }
}

/// Something that is fetched to a directory: what the command and the shell share.
pub struct Fetch {
    options: Options,
    output: PathBuf,
    base: Arc<Dir>,
    progress: Arc<Progress>,
    voice: Voice,
    tally: Tally,
    begun: Instant,
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

impl Get {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let progress = Arc::new(Progress::default());
        if !self.no_progress && !json {
            progress.begin();
        }
        let voice = if json { Voice::Objects } else { Voice::Lines };
        let mut fetch = Fetch::new(self.options, &self.output, progress.clone(), voice)?;
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let all = async {
            for place in &self.places {
                let route = match self.asker.route(&place.peer) {
                    Ok(route) => route,
                    Err(error) if self.places.len() == 1 => return Err(error),
                    Err(error) => {
                        fetch.fail(&error, &place.path);
                        continue;
                    }
                };
                let mut link = Link::new(route, progress.clone(), false);
                fetch
                    .place(&mut link, place, self.places.len() == 1)
                    .await?;
            }
            Ok(())
        };
        let result = tokio::select! {
            result = all => result,
            _ = &mut interrupted => Err(Error::new(
                Code::Interrupted,
                "interrupted: what came so far is kept, fetch again to go on",
            )),
        };
        progress.end();
        let (ended, _) = fetch.end();
        result?;
        Ok(ended.map_err(|unfetched| unfetched.error)?)
    }
}

/// That something was not fetched.
pub struct Unfetched {
    /// The kind of the first trouble, and how many.
    pub error: Error,
    /// Whether all of them have another file in their place.
    pub differs: bool,
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
            progress,
            voice,
            tally: Tally::default(),
            begun: Instant::now(),
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
                self.fail(&error, &place.path);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Says how it went; gives back what was kept for programs.
    pub fn end(mut self) -> (Result<(), Unfetched>, Vec<Value>) {
        let tally = &self.tally;
        let whole = tally.fetched + tally.same + tally.skipped;
        if whole + tally.failed > 0 {
            let took = self.begun.elapsed();
            match &mut self.voice {
                Voice::Lines => output::line(tally.summary(took)),
                voice => voice.object(&tally.object(took)),
            }
        }
        let kept = match self.voice {
            Voice::Kept(kept) => kept,
            _ => Vec::new(),
        };
        let Some(first) = self.tally.first else {
            return (Ok(()), kept);
        };
        let sentence = format!("{} not fetched", files(self.tally.failed));
        let code = if whole > 0 { Code::Partly } else { first.code };
        let unfetched = Unfetched {
            error: Error::new(code, sentence),
            differs: self.tally.in_the_way == self.tally.failed,
        };
        (Err(unfetched), kept)
    }

    /// Counts and says that something was not fetched.
    fn fail(&mut self, error: &Error, path: &str) {
        self.tally.failed += 1;
        if let Voice::Lines = self.voice {
            let line = printable(&error.sentence, 8_192);
            self.progress.apart(|| eprintln!("m2y: {line}"));
        }
        self.voice.object(&[
            ("status", "failed".into()),
            ("path", path.into()),
            ("code", error.code.word().into()),
            ("error", error.sentence.as_str().into()),
        ]);
        self.tally.first.get_or_insert(error.clone());
    }
}

fn files(n: u64) -> String {
    match n {
        1 => "1 file".to_owned(),
        n => format!("{} files", output::count(n)),
    }
}

impl Tally {
    fn object(&self, took: Duration) -> [(&'static str, Value); 7] {
        [
            ("status", "summary".into()),
            ("fetched", self.fetched.into()),
            ("bytes", self.bytes.into()),
            ("same", self.same.into()),
            ("skipped", self.skipped.into()),
            ("failed", self.failed.into()),
            ("seconds", took.as_secs_f64().into()),
        ]
    }

    fn summary(&self, took: Duration) -> String {
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
        line
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
        let bytes = self.fetch.progress.came.load(Ordering::Relaxed);
        (self.fetch.tally.over.len(), bytes)
    }

    async fn session(&mut self, peer: &Peer) -> Result<(), Error> {
        let place = self.place;
        let Options { all, recursive, .. } = self.fetch.options;
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
        coming: &mut FuturesUnordered<Coming<'a>>,
    ) -> Result<(), Error> {
        if self.fetch.tally.over.contains(&remote.path) {
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
        self.fetch.progress.expect(&name, remote.size);
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
            self.fetch.tally.same += 1;
            self.fetch.tally.over.insert(remote.path.clone());
            self.tell("same", remote, &path, &[]);
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
                self.fetch.tally.skipped += 1;
                self.fetch.tally.over.insert(remote.path.clone());
                self.tell("skipped", remote, &path, &[]);
                Ok(None)
            }
            OnConflict::Fail => {
                self.fetch.tally.in_the_way += 1;
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
    fn over(
        &mut self,
        peer: &Peer,
        (remote, landed, took): (Remote, Result<Landed, Error>, Duration),
    ) -> Result<(), Error> {
        match landed {
            Ok(landed) => {
                self.fetch.tally.fetched += 1;
                self.fetch.tally.bytes += landed.size - landed.resumed;
                self.fetch.tally.over.insert(remote.path.clone());
                if landed.name == remote.local.split_last().map_or("", |(_, name)| name) {
                    self.record.note(&remote);
                }
                let path = self.fetch.output.join(remote.local.join());
                let path = path.with_file_name(&landed.name);
                if landed.started_over && matches!(self.fetch.voice, Voice::Lines) {
                    let shown = printable(&remote.path, 300);
                    self.fetch.progress.apart(|| {
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
        self.fetch.tally.over.insert(remote.path.clone());
        let error = error.clone().within(printable(&remote.path, 300));
        self.fetch.fail(&error, &remote.path);
    }

    fn tell(&mut self, status: &str, remote: &Remote, file: &Path, more: &[(&str, Value)]) {
        let mut fields = vec![
            ("status", status.into()),
            ("path", remote.path.as_str().into()),
            ("file", file.display().to_string().into()),
            ("bytes", remote.size.into()),
        ];
        fields.extend(more.iter().cloned());
        self.fetch.voice.object(&fields);
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
            for line in BufReader::new(file).split(b'\n') {
                // A line that was cut, within a letter perhaps, or that somebody wrote, says
                // nothing.
                let line = json::parse(&line?).unwrap_or_default();
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_was_cut_within_a_letter_says_what_its_other_lines_say() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"{\"path\":\"\xc3\n{\"modified\":7,\"path\":\"a\",\"peer\":\"r\",\"size\":3}\n";
        fs::write(dir.path().join(RECORD), text).unwrap();
        let record = Record::open(dir.path(), "r").unwrap();
        assert!(record.is_untouched("a", 3, 7) && !record.is_untouched("a", 4, 7));
        assert!(Record::open(dir.path(), "other").unwrap().known.is_empty());
    }
}

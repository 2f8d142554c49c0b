//! What the tests share: people with fixed keys, roots in temporary folders, real
//! servers on free ports.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
};

use m2y::{
    client::{self, Route},
    error::Error,
    event::{Event, EventId, Kind, Run, Subject},
    meta::{Meta, TransferId},
    observer::{Observer, TransferEnd, Unobserved},
    root::{Root, folder::Folder, meta_file, name::Name, user::User},
    server::{self, Server},
    store::{Store, Stores},
    transfer::send::send_job::SendJob,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub mod chunked;
pub mod member;
pub mod memory;
pub mod peer;
pub mod proxy;
pub mod relay;
pub mod relay_process;
pub mod s3;
pub mod samples;
pub mod showing;
pub mod store;
pub mod suite;
pub mod terminal;
pub mod times;
pub mod udp;

pub const M2Y: &str = env!("CARGO_BIN_EXE_m2y");

pub const ZHENQIANG: &str = "zhenqiang";
pub const ROLAND: &str = "roland-frei";
pub const PETER: &str = "peter-norton";

/// The private key of a fixed person, for tests only.
pub fn key(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/keys/{name}.pem"));
    fs::read_to_string(path).unwrap()
}

pub fn name(text: &str) -> Name {
    Name::user(text).unwrap()
}

/// Makes a user whose private key is there already.
pub fn person(root: &Root, who: &str) -> User {
    person_with_key(root, who, &key(who))
}

pub fn person_with_key(root: &Root, who: &str, pem: &str) -> User {
    let dir = root.path().join(format!("user/{who}/privateKey"));
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{who}.data"));
    fs::write(&path, pem).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let profile = format!(r#"{{"username": "{who}", "email": "{who}@example.org"}}"#);
    let created = User::create(root, who, profile.as_bytes(), 2048).unwrap();
    assert!(!created.new_keys);
    created.user
}

/// Lets two people know each other.
pub fn introduce(a: &User, b: &User) {
    for (user, other) in [(a, b), (b, a)] {
        let key = other.contact(other.name()).unwrap().key;
        user.add_contact(other.name(), &key, false).unwrap();
    }
}

/// Two people on two machines: each has a root of his own.
pub struct World {
    pub dir: TempDir,
    pub here: Root,
    pub there: Root,
    pub sender: User,
    pub receiver: User,
}

pub const OPEN: &str = "[OnMeta]\n[OnReceived]\n";

impl World {
    /// zhenqiang here, roland-frei there, and roland's folder `photo`.
    pub fn new(config: &str) -> Self {
        Self::within(tempfile::tempdir().unwrap(), config)
    }

    /// The same in memory, where the system has a place for that: for thousands of worlds.
    pub fn in_memory(config: &str) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self::within(dir.unwrap(), config)
    }

    fn within(dir: TempDir, config: &str) -> Self {
        let (here, _) = Root::init(&dir.path().join("here"), &[]).unwrap();
        let (there, _) = Root::init(&dir.path().join("there"), &[]).unwrap();
        let sender = person(&here, ZHENQIANG);
        let receiver = person(&there, ROLAND);
        introduce(&sender, &receiver);
        fs::write(there.path().join("m2y.ini"), "[hooks]\nexecutables = all\n").unwrap();
        let world = Self {
            dir,
            here,
            there,
            sender,
            receiver,
        };
        world.folder("photo", config);
        world
    }

    /// One more folder of the receiver's.
    pub fn folder(&self, folder: &str, config: &str) -> Folder {
        let folder = self.receiver.create_folder(&name(folder)).unwrap();
        fs::write(folder.path_of("m2y.config"), config).unwrap();
        folder
    }

    /// Gives the receiver four disks and the store `safe`, a stripe of them.
    pub fn stripe(&self) -> [PathBuf; 4] {
        let disks = ["one", "two", "three", "four"].map(|disk| self.dir.path().join(disk));
        for disk in &disks {
            fs::create_dir(disk).unwrap();
        }
        let ini = self.there.path().join("m2y.ini");
        let text = fs::read_to_string(&ini).unwrap();
        fs::write(ini, text + stripe_of(&disks).as_str()).unwrap();
        disks
    }

    /// Where the receiver's folder is.
    pub fn photo(&self) -> PathBuf {
        self.receiver.path().join("photo")
    }

    /// Puts a script or a program into the receiver's folder.
    pub fn script(&self, file: &str, text: &str) {
        let path = self.photo().join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A file at the sender's.
    pub fn file(&self, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(file);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A `.meta` for a file, in the sender's outbox.
    pub fn meta(&self, folder: &str, file: &Path) -> PathBuf {
        let dir = self.sender.outbox(&name("photo")).unwrap();
        meta_file::write(&dir, file, document(ZHENQIANG, ROLAND, folder)).unwrap()
    }

    /// Sends a file with the program, by a new `.meta`.
    pub fn send(&self, address: &str, folder: &str, file: &Path) -> Output {
        Command::new(M2Y)
            .args(["send", "--json", "--server", address, "--root"])
            .arg(self.here.path())
            .arg(self.meta(folder, file))
            .output()
            .unwrap()
    }

    /// Sends a file within this process.
    pub async fn deliver(&self, address: &str, file: &Path) -> Result<Meta, Error> {
        deliver(&self.meta("photo", file), address).await
    }

    /// The names in the receiver's folder that end so, sorted.
    pub fn arrived(&self, ending: &str) -> Vec<String> {
        names(&self.photo(), ending)
    }

    /// The `.failed` of the sender, read.
    pub fn failed(&self) -> Vec<Meta> {
        read_metas(&self.sender.path().join("photo"), ".failed")
    }

    /// The `.done` of the sender, read.
    pub fn done(&self) -> Vec<Meta> {
        read_metas(&self.sender.path().join("photo"), ".done")
    }
}

/// The sections of m2y.ini for four disks and the store `safe`, a stripe of them.
pub fn stripe_of(disks: &[PathBuf; 4]) -> String {
    let mut ini = String::new();
    for disk in disks {
        let name = disk.file_name().unwrap().to_str().unwrap();
        ini.push_str(&format!(
            "[store {name}]\nurl = file://{}\n",
            disk.display()
        ));
    }
    ini + "[store safe]\nstripe = one two three four\n"
}

pub fn names(dir: &Path, ending: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(ending))
        .collect();
    names.sort();
    names
}

pub fn read_metas(dir: &Path, ending: &str) -> Vec<Meta> {
    names(dir, ending)
        .iter()
        .map(|name| read_meta(&dir.join(name)))
        .collect()
}

pub fn read_meta(path: &Path) -> Meta {
    let text = fs::read(path).unwrap();
    Meta::from_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn document(from: &str, to: &str, folder: &str) -> Meta {
    Meta::new(from, to, folder, "")
}

/// An event about a file that zhenqiang sent, with an id of its own.
pub fn event(kind: Kind, folder: &Folder, file: &str) -> Event {
    let mut meta = document(ZHENQIANG, ROLAND, folder.name().as_str());
    meta.filename = file.to_owned();
    let id = EventId::new().unwrap();
    meta.id = Some(TransferId(id.0));
    Event {
        id,
        kind,
        config: folder.config().unwrap(),
        folder: folder.clone(),
        file: Some(format!("{file}.data")),
        subject: Some(Subject {
            meta,
            stem: file.to_owned(),
        }),
        asked: None,
        store: None,
    }
}

/// Sends what a `.meta` says, and makes it `.done` or `.failed`, as `m2y send` does.
pub async fn deliver(meta: &Path, address: &str) -> Result<Meta, Error> {
    let out = SendJob::open(meta)?;
    let route = Route::find(None, Some(address), &out)?;
    let result = client::deliver(&route, &out, &Unobserved).await;
    match &result {
        Ok(meta) => out.done(meta)?,
        Err(error) => out.failed(error)?,
    };
    result
}

/// Numbers that look random and are the same each time.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }
}

/// Bytes that look random and are the same each time.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A server as a process of its own, killed when this is dropped.
pub struct Process {
    pub child: Child,
    pub address: String,
}

impl Process {
    pub fn serve(root: &Root) -> Self {
        Self::start(root, "127.0.0.1:0", Stdio::null())
    }

    /// A server on an address that was free a moment ago.
    pub fn serve_at(root: &Root, address: &str) -> Self {
        Self::start(root, address, Stdio::null())
    }

    /// A server whose log goes to a file.
    pub fn serve_with_log(root: &Root, log: &Path) -> Self {
        Self::start(root, "127.0.0.1:0", fs::File::create(log).unwrap().into())
    }

    /// A server, and the lines of its log as they come.
    pub fn serve_with_lines(root: &Root) -> (Self, Receiver<String>) {
        Self::serve_with_lines_and(root, &[])
    }

    /// The same with variables in its environment.
    pub fn serve_with_lines_and(
        root: &Root,
        variables: &[(&str, String)],
    ) -> (Self, Receiver<String>) {
        let mut server = Self::start_with(root, "127.0.0.1:0", Stdio::piped(), variables);
        let log = BufReader::new(server.child.stderr.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in log.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        (server, lines)
    }

    fn start(root: &Root, listen: &str, log: Stdio) -> Self {
        Self::start_with(root, listen, log, &[])
    }

    fn start_with(root: &Root, listen: &str, log: Stdio, variables: &[(&str, String)]) -> Self {
        let mut child = Command::new(M2Y)
            .args(["serve", "--listen", listen, "--root"])
            .arg(root.path())
            .stdout(Stdio::piped())
            .env("NO_COLOR", "1")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("the server said {line:?}"))
            .to_owned();
        Self { child, address }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to go, and waits until it has gone.
    pub fn stop(mut self) -> Option<i32> {
        terminate(&self.child);
        self.child.wait().unwrap().code()
    }
}

pub fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Counts what a server does.
#[derive(Default)]
pub struct Counter {
    pub hooks: AtomicU64,
    pub bytes: AtomicU64,
    pub runs: Mutex<Vec<Run>>,
    pub failed: AtomicU64,
}

impl Counter {
    /// Transfers that failed, and that the server has let go of.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    pub fn hooks(&self) -> u64 {
        self.hooks.load(Ordering::SeqCst)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

impl Observer for Counter {
    fn moved(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    fn hook(&self, run: &Run) {
        self.hooks.fetch_add(1, Ordering::SeqCst);
        self.runs.lock().unwrap().push(run.clone());
    }

    fn ended(&self, how: TransferEnd) {
        if how == TransferEnd::Failed {
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A server in this process.
pub struct Local {
    pub address: String,
    pub counter: Arc<Counter>,
    pub shutdown: watch::Sender<bool>,
    pub serving: JoinHandle<()>,
}

impl Local {
    pub async fn serve(root: &Root) -> Self {
        Self::with(root, |server| server).await
    }

    pub async fn with(root: &Root, change: impl FnOnce(Server) -> Server) -> Self {
        let server = Server::new(root, &root.settings().unwrap()).unwrap();
        Self::of(server, change).await
    }

    /// A server whose folders keep their contents in these stores.
    pub async fn storing(
        root: &Root,
        store_of: impl Fn(&Folder) -> Arc<dyn Store> + Send + Sync + 'static,
    ) -> Self {
        let (settings, stores) = (root.settings().unwrap(), Stores::new(store_of));
        let server = Server::with_stores(root, &settings, &stores).unwrap();
        Self::of(server, |server| server).await
    }

    async fn of(server: Server, change: impl FnOnce(Server) -> Server) -> Self {
        let counter = Arc::new(Counter::default());
        let server = change(server.observed(counter.clone()));
        server.start_folders().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (shutdown, going_down) = watch::channel(false);
        Self {
            serving: tokio::spawn(server::run(listener, server, going_down)),
            address,
            counter,
            shutdown,
        }
    }

    /// Waits until every connection has ended.
    pub async fn stop(self) -> Arc<Counter> {
        let _ = self.shutdown.send(true);
        self.serving.await.unwrap();
        self.counter
    }
}

/// What a program printed, for messages of assertions.
pub fn said(output: &Output) -> String {
    format!(
        "{:?}\n{}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

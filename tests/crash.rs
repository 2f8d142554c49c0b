//! Servers and senders that die, at moments that look random and at every step of the way;
//! ACKs that are lost; disks that forget what was not flushed. What was acknowledged is
//! there and right, and what was not gets there in the end, once.
//!
//! The long ones: `cargo test --release --test crash -- --ignored --nocapture --test-threads 1`
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    collections::{HashMap, HashSet},
    env, fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    Local, M2Y, Process, Random, World, deliver, names, noise, read_meta,
    store::{Call, Moment, Watched},
};
use m2y::{
    client::{self, Route},
    error::Code,
    event::{Kind as EventKind, Run},
    journal::{self, Journal, delivered},
    meta::TransferId,
    observer::{Observer, Unobserved},
    root::Root,
    server::{self, Server},
    store::{Stores, local::LocalStore},
    transfer::send::send_job::SendJob,
    wire::record::{HEAD_LEN, Head, Kind},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the hook of a world does besides leaving a line in the inbox.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hook {
    /// It writes a file into the folder.
    Writes,
    /// It writes into the `.meta`.
    Marks,
}

/// A world whose hook leaves a line for each time that it runs, and one file for each id.
fn world() -> World {
    world_of(Hook::Writes)
}

fn world_of(hook: Hook) -> World {
    let world = World::new("[OnMeta]\nmeta.rhai\n[OnReceived]\nreceived.rhai\n");
    let ini = "[hooks]\nretry_delay = 50ms\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    world.script("meta.rhai", "meta.seen = true;");
    let does = match hook {
        Hook::Writes => "folder.write(`effect_${meta.id}.txt`, meta.filename);",
        Hook::Marks => "meta.mark = meta.filename;",
    };
    world.script("received.rhai", &format!("notify.inbox(meta.id); {does}"));
    world
}

/// Files at the sender's, each a piece of the same noise.
struct Files {
    noise: Vec<u8>,
    made: HashMap<String, usize>,
}

impl Files {
    fn new() -> Self {
        Self {
            noise: noise(8 << 20),
            made: HashMap::new(),
        }
    }

    /// One more file, to be sent.
    fn make(&mut self, world: &World, len: usize) -> PathBuf {
        let name = format!("f{}", self.made.len());
        let at = self.made.len() % 1_000;
        let file = world.file(&name, &self.noise[at..at + len]);
        self.made.insert(name, len);
        world.meta("photo", &file)
    }

    /// Checks that what is visible in the receiver's folder is right; returns the names of
    /// the files. What was looked at before is not looked at again.
    fn check(&self, world: &World, seen: &mut HashMap<String, String>) {
        for data in world.arrived(".data") {
            if seen.contains_key(&data) {
                continue;
            }
            let meta = read_meta(&world.photo().join(data.replace(".data", ".meta")));
            let len = self.made[&meta.filename];
            let at = meta.filename[1..].parse::<usize>().unwrap() % 1_000;
            let bytes = fs::read(world.photo().join(&data)).unwrap();
            assert!(bytes == self.noise[at..at + len], "{data} is wrong");
            assert_eq!(meta.filesize, Some(len as u64));
            seen.insert(data, meta.filename);
        }
    }

    /// Checks that all has come, once, and that hooks have run for each.
    fn all_delivered(&self, world: &World, hook: Hook) {
        let mut seen = HashMap::new();
        self.check(world, &mut seen);
        let files: HashSet<&String> = seen.values().collect();
        assert_eq!(
            (seen.len(), files.len()),
            (self.made.len(), self.made.len())
        );
        let mut ids: Vec<String> = (seen.keys())
            .map(|data| world.photo().join(data.replace(".data", ".meta")))
            .map(|meta| read_meta(&meta).id.unwrap().to_string())
            .collect();
        ids.sort();
        let inbox = world.receiver.path().join("inbox.log");
        until("every hook has run", || {
            let text = fs::read_to_string(&inbox).unwrap_or_default();
            ids.iter().all(|id| text.contains(id))
        });
        if hook == Hook::Marks {
            until("every hook has left its mark", || {
                seen.iter().all(|(data, file)| {
                    let meta = read_meta(&world.photo().join(data.replace(".data", ".meta")));
                    meta.extra.get("mark").is_some_and(|mark| mark == file)
                })
            });
            return assert_eq!(world.arrived(".partial"), [""; 0], "nothing hidden is left");
        }
        let effect = |id: &String| format!("effect_{id}.txt");
        let effects: Vec<String> = ids.iter().map(effect).collect();
        // A script writes it after its line in the inbox.
        until("every hook is through", || {
            world.arrived(".txt").len() >= effects.len()
        });
        assert_eq!(world.arrived(".txt"), effects);
        assert_eq!(world.arrived(".partial"), [""; 0], "nothing hidden is left");
    }
}

// Kills.

/// Which side dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Server,
    Client,
    Both,
}

/// What was acknowledged, by the names of the files.
fn done(world: &World) -> HashSet<String> {
    let folder = world.sender.path().join("photo");
    let names = names(&folder, ".done").into_iter();
    let name = |done: String| done.trim_end_matches(".done").to_owned();
    names.map(name).collect()
}

/// Sends all in one session and more, within this process.
async fn send_all(address: &str, metas: &[PathBuf]) {
    let outs: Vec<SendJob> = metas.iter().map(|m| SendJob::open(m).unwrap()).collect();
    let route = Route::find(None, Some(address), &outs[0]).unwrap();
    let (give, mut jobs) = mpsc::channel(outs.len());
    let (results, mut told) = mpsc::unbounded_channel();
    for out in outs {
        give.try_send(out).ok().unwrap();
    }
    drop(give);
    let stop = std::future::pending();
    let all = client::deliver_all(&route, &mut jobs, &results, &Unobserved, stop).await;
    drop(results);
    // What was not begun stays a .meta.
    let mut ended = 0;
    while jobs.try_recv().is_ok() {
        ended += 1;
    }
    assert!(ended == 0 || all.is_err());
    while let Some((out, result, _)) = told.recv().await {
        match result {
            Ok(meta) => drop(out.done(&meta).unwrap()),
            Err(error) => {
                assert!(
                    matches!(error.code, Code::Later | Code::Identity),
                    "{error}"
                );
                out.failed(&error).unwrap();
            }
        }
        ended += 1;
    }
    assert_eq!(ended, metas.len(), "each has a result");
}

/// `m2y send`, begun.
fn sending(address: &str, metas: &[PathBuf]) -> Child {
    Command::new(M2Y)
        .args(["send", "--server", address])
        .args(metas)
        .env_remove("M2Y_ROOT")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What is still to be sent, each a `.meta` again.
fn left(world: &World, metas: &mut Vec<PathBuf>) {
    metas.retain(|meta| {
        if meta.with_extension("done").exists() {
            // A sender that dies between the two has both; another attempt would tell.
            let _ = fs::remove_file(meta);
            return false;
        }
        let failed = meta.with_extension("failed");
        if meta.exists() {
            let _ = fs::remove_file(failed);
        } else {
            fs::rename(failed, meta).unwrap();
        }
        true
    });
    // What a writer that died left behind.
    for temporary in names(&world.sender.path().join("photo"), ".tmp") {
        let _ = fs::remove_file(world.sender.path().join("photo").join(temporary));
    }
}

async fn killed(who: Who, kills: usize) {
    let begun = Instant::now();
    let world = world();
    let mut files = Files::new();
    let (mut random, mut seen) = (Random(who as u64), HashMap::new());
    let mut server = Process::serve(&world.there);
    let (mut metas, mut done_kills, mut acknowledged) = (Vec::new(), 0, HashSet::new());
    // Within so many microseconds somebody dies: about as long as all of it takes, on a
    // machine that may have more to do.
    let mut within = 100_000;
    while done_kills < kills {
        while metas.len() < 4 {
            let len = [0, 1_000, 100_000, 2_000_000][random.index(4)];
            let len = len + random.index(len / 2 + 1);
            metas.push(files.make(&world, len));
        }
        let wait = Duration::from_micros(random.index(within) as u64);
        let (address, sent) = (server.address.clone(), metas.clone());
        let in_process = who == Who::Server;
        let task = in_process.then(|| {
            let address = address.clone();
            let sent = sent.clone();
            tokio::spawn(async move { send_all(&address, &sent).await })
        });
        let mut sender = (!in_process).then(|| sending(&address, &sent));
        tokio::time::sleep(wait).await;
        if who != Who::Server
            && let Some(sender) = &mut sender
        {
            done_kills += usize::from(sender.try_wait().unwrap().is_none());
            let _ = sender.kill();
        }
        if who != Who::Client {
            if who == Who::Both {
                tokio::time::sleep(Duration::from_micros(random.index(5_000) as u64)).await;
            }
            server.child.kill().unwrap();
            server.child.wait().unwrap();
            if who == Who::Server {
                done_kills += 1;
            }
        }
        if let Some(task) = task {
            task.await.unwrap();
        }
        if let Some(mut sender) = sender {
            sender.wait().unwrap();
        }
        // What is visible is right, and what was acknowledged is visible.
        files.check(&world, &mut seen);
        let before = acknowledged.len();
        acknowledged.extend(done(&world));
        within = match acknowledged.len() - before {
            0 => (within + within / 4).min(5_000_000),
            4 => (within - within / 4).max(10_000),
            _ => within,
        };
        let visible: HashSet<&String> = seen.values().collect();
        for file in &acknowledged {
            assert!(
                visible.contains(file),
                "{file} was acknowledged and is lost"
            );
        }
        left(&world, &mut metas);
        if who != Who::Client {
            server = tokio::task::block_in_place(|| Process::serve(&world.there));
        }
    }
    let finish = Instant::now();
    while !metas.is_empty() {
        send_all(&server.address, &metas).await;
        left(&world, &mut metas);
        assert!(finish.elapsed() < PATIENCE, "{metas:?} are not delivered");
    }
    tokio::task::block_in_place(|| files.all_delivered(&world, Hook::Writes));
    eprintln!(
        "{who:?}: {done_kills} kills, {} files, {:.0} s",
        files.made.len(),
        begun.elapsed().as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_fifteen_times_loses_nothing() {
    killed(Who::Server, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_killed_ten_times_loses_nothing() {
    killed(Who::Client, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_may_be_killed_five_times_and_nothing_is_lost() {
    killed(Who::Both, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_server_that_is_killed_a_thousand_times_loses_nothing() {
    killed(Who::Server, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_sender_that_is_killed_five_hundred_times_loses_nothing() {
    killed(Who::Client, 500).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn both_sides_may_be_killed_two_hundred_times_and_nothing_is_lost() {
    killed(Who::Both, 200).await;
}

// A server that dies at a step of its own: this program, started again.

/// Where the server of [`a_server_of_its_own`] has its root, where it writes its address,
/// and at which step it dies.
const ROOT: &str = "M2Y_CRASH_ROOT";
const SAYS: &str = "M2Y_CRASH_SAYS";
const STEP: &str = "M2Y_CRASH_STEP";

/// Dies when it comes to a step for so many times.
struct Death {
    step: String,
    left: Mutex<usize>,
}

impl Death {
    /// `append 3` is the third time.
    fn at(step: &str) -> Self {
        let (step, times) = step.rsplit_once(' ').unwrap();
        Self {
            step: step.to_owned(),
            left: Mutex::new(times.parse().unwrap()),
        }
    }

    fn comes_to(&self, step: &str) {
        if step != self.step {
            return;
        }
        let mut left = self.left.lock().unwrap();
        *left -= 1;
        if *left == 0 {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
            loop {
                std::thread::park();
            }
        }
    }
}

impl Observer for Death {
    fn step(&self, number: u8, what: fmt::Arguments<'_>) {
        let what = what.to_string();
        match what.contains("ACK") {
            true => self.comes_to("ack"),
            false => self.comes_to(&format!("step {number}")),
        }
    }

    fn hook(&self, run: &Run) {
        self.comes_to(&format!("hook {}", run.event.section()));
    }
}

/// A store at whose calls the server dies, and which notes what is flushed, so that the rest
/// can be lost.
fn mortal_store(inner: LocalStore, death: &Arc<Death>, flushed: &Path) -> Watched<LocalStore> {
    let (death, flushed) = (death.clone(), flushed.to_owned());
    Watched::new(inner, move |call, moment| {
        let (before, after) = match call {
            Call::Begin => (None, Some("begin")),
            Call::Append => (Some("append"), None),
            Call::Settle => (Some("settle"), Some("settled")),
            Call::Publish => (Some("publish"), Some("renamed")),
            Call::Remove => (Some("remove"), Some("removed")),
            // Until here the name may be lost.
            Call::SettleNames => (None, Some("published")),
            _ => (None, None),
        };
        let step = match moment {
            Moment::Before => before,
            Moment::After => after,
        };
        if let Some(step) = step {
            if ["settled", "published"].contains(&step) {
                fs::write(&flushed, step).unwrap();
            }
            death.comes_to(step);
        }
        Ok(())
    })
}

/// Not a test: the server that dies, when it is started by one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by other tests"]
async fn a_server_of_its_own() {
    let (Some(root), Some(says)) = (env::var_os(ROOT), env::var_os(SAYS)) else {
        return;
    };
    let (root, says) = (Root::open(Path::new(&root)).unwrap(), PathBuf::from(says));
    let death = Arc::new(Death::at(&env::var(STEP).unwrap()));
    let (mortal, flushed) = (death.clone(), says.with_extension("flushed"));
    let stores = Stores::new(move |folder| {
        let inner = LocalStore::new(folder.dir());
        Arc::new(mortal_store(inner, &mortal, &flushed))
    });
    let server = Server::with_stores(&root, &root.settings().unwrap(), &stores)
        .unwrap()
        .observed(death);
    server.start_folders().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let beside = says.with_extension("new");
    fs::write(&beside, address).unwrap();
    fs::rename(beside, says).unwrap();
    let (_stays, shutdown) = watch::channel(false);
    server::run(listener, server, shutdown).await;
}

/// A server of its own that dies at a step; its address, and where it notes what is flushed.
fn mortal(world: &World, step: &str) -> (Child, String, PathBuf) {
    let says = world.dir.path().join("says");
    let flushed = says.with_extension("flushed");
    let _ = (fs::remove_file(&says), fs::remove_file(&flushed));
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_server_of_its_own", "--ignored"])
        .env(ROOT, world.there.path())
        .env(SAYS, &says)
        .env(STEP, step)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("it listens", || says.exists());
    let address = fs::read_to_string(&says).unwrap();
    (child, address, flushed)
}

/// Every step of a transfer at which something changes or is told.
const STEPS: [&str; 18] = [
    "step 5 1",
    "step 6 1",
    "step 7 1",
    "hook OnMeta 1",
    "begin 1",
    "step 8 1",
    "step 9 1",
    "step 10 1",
    "append 1",
    "append 9",
    "settle 1",
    "settled 1",
    "publish 1",
    "renamed 1",
    "published 1",
    "step 15 1",
    "hook OnReceived 1",
    "ack 1",
];

/// What a loss of power leaves of what was not flushed.
#[derive(Clone, Copy, Debug)]
enum Lost {
    /// It was a crash of the server only.
    Nothing,
    /// The end of the file.
    End,
    /// Its length is kept, and there are zeros.
    Zeros,
    /// All of it.
    All,
}

/// Takes from the hidden file what was never flushed, and the name of one that was renamed
/// and not made durable.
fn lose(world: &World, flushed: &Path, lost: Lost, random: &mut Random) {
    let flushed = fs::read_to_string(flushed).unwrap_or_default();
    if flushed == "published" {
        return;
    }
    if flushed == "settled" {
        // The file is safe, and its name is not: it may have either.
        let journal = Journal::open(&Root::open(world.there.path()).unwrap()).unwrap();
        for open in delivered::open(&journal.reader().unwrap()).unwrap() {
            let at = world.photo().join(format!("{}.data", open.stem));
            if at.exists() && !matches!(lost, Lost::Nothing) {
                let hidden = format!(".{}-{}.partial", open.key.from, open.key.id);
                fs::rename(&at, world.photo().join(hidden)).unwrap();
            }
        }
        return;
    }
    for hidden in world.arrived(".partial") {
        let path = world.photo().join(hidden);
        let len = fs::metadata(&path).unwrap().len() as usize;
        let mut file = fs::File::options().append(true).open(&path).unwrap();
        let at = random.index(len + 1) as u64;
        match lost {
            Lost::Nothing => {}
            Lost::End => file.set_len(at).unwrap(),
            Lost::Zeros => {
                file.set_len(at).unwrap();
                file.write_all(&vec![0; len - at as usize]).unwrap();
            }
            Lost::All => fs::remove_file(&path).unwrap(),
        }
    }
}

async fn dies_at(step: &str, lost: Lost, random: &mut Random) {
    for hook in [Hook::Writes, Hook::Marks] {
        hook_dies_at(hook, step, lost, random).await;
    }
}

async fn hook_dies_at(hook: Hook, step: &str, lost: Lost, random: &mut Random) {
    let world = world_of(hook);
    let mut files = Files::new();
    let case = format!("{step}, {lost:?} is lost, the hook {hook:?}");
    let server = Process::serve(&world.there);
    let first = files.make(&world, 300_000);
    deliver(&first, &server.address).await.unwrap();
    assert_eq!(server.stop(), Some(0));

    let (mut child, address, flushed) = tokio::task::block_in_place(|| mortal(&world, step));
    let meta = files.make(&world, 1_000_000);
    let error = deliver(&meta, &address).await.unwrap_err();
    assert_eq!(error.code, Code::Later, "{case}: {error}");
    tokio::task::block_in_place(|| child.wait().unwrap());
    lose(&world, &flushed, lost, random);
    files.check(&world, &mut HashMap::new());
    assert!(!world.arrived(".data").is_empty(), "{case}");

    // It starts again, and before anybody asks it has done what was promised.
    let server = tokio::task::block_in_place(|| Process::serve(&world.there));
    for again in [&meta, &first] {
        for ending in ["failed", "done"] {
            let _ = fs::rename(again.with_extension(ending), again);
        }
        let sent = deliver(again, &server.address).await;
        sent.unwrap_or_else(|e| panic!("{case}: {e}"));
    }
    tokio::task::block_in_place(|| files.all_delivered(&world, hook));
    assert_eq!(server.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_server_left_of_a_file_that_nobody_sends_again_goes() {
    let world = world();
    let mut files = Files::new();
    let before = world.arrived("");
    let (mut child, address, _) = tokio::task::block_in_place(|| mortal(&world, "settle 1"));
    let meta = files.make(&world, 1_000);
    deliver(&meta, &address).await.unwrap_err();
    tokio::task::block_in_place(|| child.wait().unwrap());
    assert_eq!(world.arrived(".meta").len(), 1);
    // One that it had made, and had no time to write; and one that a person may write yet.
    let empty = world.photo().join("zhenqiang_21-11-2026_18-30-16_4.meta");
    let of_a_person = world.photo().join("album_1.meta");
    fs::write(&empty, "").unwrap();
    fs::write(&of_a_person, "").unwrap();
    let server = Process::serve(&world.there);
    let again = files.make(&world, 1_000);
    deliver(&again, &server.address).await.unwrap();
    tokio::task::block_in_place(|| {
        until("both are gone", || world.arrived(".meta").len() == 2);
    });
    assert!(!empty.exists() && of_a_person.exists());
    fs::remove_file(&of_a_person).unwrap();
    assert_eq!(server.stop(), Some(0));
    // That of a file which a person took away stays.
    let data = world.photo().join(&world.arrived(".data")[0]);
    fs::remove_file(&data).unwrap();
    let server = Process::serve(&world.there);
    let third = files.make(&world, 1_000);
    deliver(&third, &server.address).await.unwrap();
    assert_eq!(server.stop(), Some(0));
    assert!(data.with_extension("meta").exists());
    assert!(before.iter().all(|file| world.arrived("").contains(file)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_die_at_any_step() {
    let mut random = Random(1);
    for step in STEPS {
        dies_at(step, Lost::Nothing, &mut random).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_a_hook_rejected_stay_rejected_wherever_the_server_dies() {
    for step in ["published 1", "remove 1", "removed 1", "hook OnReceived 1"] {
        let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
        let script = "notify.inbox(`try ${state.add(\"n\", 1)}`); reject(\"a virus\");";
        world.script("hook.rhai", script);
        let (mut child, address, _) = tokio::task::block_in_place(|| mortal(&world, step));
        let meta = Files::new().make(&world, 1_000);
        let error = deliver(&meta, &address).await.unwrap_err();
        assert_eq!(error.code, Code::Later, "{step}: {error}");
        tokio::task::block_in_place(|| child.wait().unwrap());
        let server = tokio::task::block_in_place(|| Process::serve(&world.there));
        for _ in 0..2 {
            fs::rename(meta.with_extension("failed"), &meta).unwrap();
            let error = deliver(&meta, &server.address).await.unwrap_err();
            let told = (error.code, error.sentence.as_str());
            assert_eq!(told, (Code::Refused, "a virus"), "{step}");
        }
        assert_eq!(server.stop(), Some(0));
        assert!(world.arrived(".data").is_empty(), "{step}");
        let inbox = fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap();
        assert_eq!(inbox.lines().count(), 1, "{step}: {inbox}");
        assert!(inbox.contains(" try 1 ["), "{step}: {inbox}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meta_that_was_torn_while_hooks_wrote_into_it_comes_back() {
    let world = world_of(Hook::Marks);
    let mut files = Files::new();
    let (mut child, address, _) = tokio::task::block_in_place(|| mortal(&world, "published 1"));
    let meta = files.make(&world, 1_000);
    deliver(&meta, &address).await.unwrap_err();
    tokio::task::block_in_place(|| child.wait().unwrap());
    let torn = world.photo().join(&world.arrived(".meta")[0]);
    let text = fs::read(&torn).unwrap();
    fs::write(&torn, &text[..text.len() / 2]).unwrap();
    let server = tokio::task::block_in_place(|| Process::serve(&world.there));
    fs::rename(meta.with_extension("failed"), &meta).unwrap();
    deliver(&meta, &server.address).await.unwrap();
    tokio::task::block_in_place(|| files.all_delivered(&world, Hook::Marks));
    assert_eq!(server.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_of_power_at_a_step_costs_nothing_that_was_acknowledged() {
    let mut random = Random(2);
    for (step, lost) in [
        ("append 9", Lost::End),
        ("append 9", Lost::Zeros),
        ("settle 1", Lost::End),
        ("settle 1", Lost::Zeros),
        ("settle 1", Lost::All),
        ("renamed 1", Lost::End),
        ("publish 1", Lost::End),
    ] {
        dies_at(step, lost, &mut random).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_loss_of_power_at_any_step_costs_nothing_that_was_acknowledged() {
    let begun = Instant::now();
    let mut random = Random(3);
    let mut losses = 0;
    for round in 0..8 {
        let appends = format!("append {}", 1 + random.index(16));
        for step in STEPS.into_iter().chain([appends.as_str()]) {
            for lost in [Lost::End, Lost::Zeros, Lost::All] {
                dies_at(step, lost, &mut random).await;
                losses += 1;
            }
        }
        eprintln!("round {round}: {losses} losses, {:.0?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_id_in_two_folders_have_their_hooks_both() {
    let config = "[OnMeta]\n[OnReceived]\nbroken.rhai\n";
    let world = World::new(config);
    let other = world.folder("other", config);
    world.script("broken.rhai", "throw \"not yet\";");
    fs::write(other.path_of("broken.rhai"), "throw \"not yet\";").unwrap();
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"one");
    for folder in ["photo", "other"] {
        let meta = world.meta(folder, &file);
        let mut document = read_meta(&meta);
        document.id = Some(TransferId([7; 16]));
        fs::write(&meta, document.to_file()).unwrap();
        deliver(&meta, &server.address).await.unwrap();
    }
    server.stop().await;
    let journal = Journal::open(&world.there).unwrap();
    let tasks = journal::list(&journal.reader().unwrap(), None, 9).unwrap();
    let mut folders: Vec<_> = tasks
        .iter()
        .map(|entry| entry.task.folder.as_str())
        .collect();
    folders.sort_unstable();
    assert_eq!(folders, ["other", "photo"], "each is tried again");
}

// ACKs that are lost.

/// A relay that cuts where the server says that a file is safe, for so many connections;
/// later ones pass.
async fn forgetful(server: String, losses: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let lost = Arc::new(AtomicUsize::new(0));
    let count = lost.clone();
    tokio::spawn(async move {
        for number in 0.. {
            let (mut client, _) = listener.accept().await.unwrap();
            let (server, count) = (server.clone(), count.clone());
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(server).await.unwrap();
                if number >= losses {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                    return;
                }
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = upstream.split();
                let down = async {
                    let mut head = [0; 8];
                    from_server.read_exact(&mut head).await?;
                    let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                    let mut envelope = vec![0; len as usize];
                    from_server.read_exact(&mut envelope).await?;
                    // Where it was delivered before, this is what stands for the ACK.
                    if number > 0 {
                        return Ok(());
                    }
                    to_client
                        .write_all(&[head.as_slice(), &envelope].concat())
                        .await?;
                    loop {
                        let mut head = [0; HEAD_LEN];
                        from_server.read_exact(&mut head).await?;
                        let about = Head::decode(&head).unwrap();
                        let mut sealed = vec![0; about.record_len() - HEAD_LEN];
                        from_server.read_exact(&mut sealed).await?;
                        if about.kind == Kind::Ack {
                            return io::Result::Ok(());
                        }
                        to_client
                            .write_all(&[head.as_slice(), &sealed].concat())
                            .await?;
                    }
                };
                let up = async {
                    let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    done = down => done.unwrap(),
                    () = up => {}
                }
                count.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    (address, lost)
}

#[derive(Default)]
struct Hooks {
    meta: AtomicU64,
    received: AtomicU64,
}

impl Observer for Hooks {
    fn hook(&self, run: &Run) {
        match run.event {
            EventKind::Meta => self.meta.fetch_add(1, Ordering::SeqCst),
            EventKind::Received => self.received.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
    }
}

/// Loses the ACK of so many files, each `losses` times in a row.
async fn acks_lost(count: usize, losses: usize) {
    let begun = Instant::now();
    let world = world();
    let ini = "[server]\nmax_connections_per_address = 10000\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let hooks = Arc::new(Hooks::default());
    let watching = hooks.clone();
    let server = Local::with(&world.there, |server| server.observed(watching)).await;
    let mut files = Files::new();
    let slots = Arc::new(Semaphore::new(4));
    let mut running = JoinSet::new();
    for n in 0..count {
        let meta = files.make(&world, n % 5_000);
        let (address, slots) = (server.address.clone(), slots.clone());
        running.spawn(async move {
            let _slot = slots.acquire_owned().await.unwrap();
            let (relay, lost) = forgetful(address, losses).await;
            for loss in 1..=losses {
                let error = deliver(&meta, &relay).await.unwrap_err();
                assert_eq!(error.code, Code::Later, "{error}");
                assert_eq!(lost.load(Ordering::SeqCst), loss);
                fs::rename(meta.with_extension("failed"), &meta).unwrap();
            }
            deliver(&meta, &relay).await.unwrap();
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    server.stop().await;
    files.all_delivered(&world, Hook::Writes);
    let ran = (&hooks.meta, &hooks.received);
    let ran = (ran.0.load(Ordering::SeqCst), ran.1.load(Ordering::SeqCst));
    assert_eq!(
        ran,
        (count as u64, count as u64),
        "each hook once for each id"
    );
    let inbox = fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap();
    assert_eq!(inbox.lines().count(), count);
    eprintln!(
        "{count} files, each ACK lost {losses} times, {:.0} s",
        begun.elapsed().as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_acks_are_lost_and_each_file_is_delivered_once() {
    acks_lost(200, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_that_is_lost_fifty_times_in_a_row_is_of_one_file() {
    acks_lost(1, 50).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn ten_thousand_acks_are_lost_and_each_file_is_delivered_once() {
    acks_lost(10_000, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn an_ack_that_is_lost_ten_thousand_times_in_a_row_is_of_one_file() {
    acks_lost(1, 10_000).await;
}

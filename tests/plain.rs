//! A folder in a bucket whose layout is plain: each file is an object that other programs read.
//!
//! The servers are those of `members`; rclone is the other program, if it is on the PATH. What is not
//! there is reported as ignored.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use common::{
    M2Y, Process, ROLAND, World, ZHENQIANG, noise,
    s3::{self, S3Server, program},
    said,
    suite::{self, Made, PROMISES, bytes_of, partial, path, receive, stage},
};
use libtest_mimic::Arguments;
use m2y::{
    root::settings::store::{Bucket, Layout},
    store::{
        Contents, Existing, Reader, Store, Target,
        plain::{LIMITS, Limits, PlainStore},
    },
};
use tempfile::TempDir;

/// How long a server may take to say something.
const PATIENCE: Duration = Duration::from_secs(90);

/// Files of a directory that takes more than one page.
const MANY: usize = 1_100;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    let has_rclone = program("rclone").is_some();
    for server in s3::servers() {
        for (name, promise) in PROMISES {
            let fact = move |server: &S3Server| match name {
                "a_directory_of_ten_thousand_files_lists_each_once" => {
                    suite::a_directory_lists_each_once(MANY, made(server, name));
                }
                _ => promise(made(server, name)),
            };
            let fact = move |server: &S3Server| {
                fact(server);
                Ok(())
            };
            trials.push(s3::trial(&server, &format!("store::{name}"), fact));
        }
        for (name, needs_rclone, fact) in FACTS {
            let (kind, is_there, lazy) = &server;
            let is_there = *is_there && (has_rclone || !needs_rclone);
            let server = (*kind, is_there, lazy.clone());
            let fact = move |server: &S3Server| {
                fact(server);
                Ok(())
            };
            trials.push(s3::trial(&server, name, fact));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A fact with its name, and whether it needs rclone.
type Named = (&'static str, bool, fn(&S3Server));

const FACTS: [Named; 11] = [
    (
        "other_programs_read_what_came_and_m2y_what_they_wrote",
        true,
        other_programs_read_and_write,
    ),
    (
        "a_name_that_is_told_twice_makes_one_file",
        true,
        a_name_is_told_twice,
    ),
    (
        "what_broke_off_goes_on_in_another_process",
        false,
        what_broke_off_goes_on,
    ),
    (
        "a_file_of_short_and_of_many_pieces_is_whole",
        false,
        pieces_make_a_whole,
    ),
    ("a_large_file_moves", false, a_large_file_moves),
    (
        "a_long_piece_is_cut_on_the_server",
        true,
        a_long_piece_is_cut,
    ),
    (
        "a_layout_that_changes_under_a_folder_is_refused",
        false,
        a_changed_layout_is_refused,
    ),
    (
        "an_open_file_follows_its_name",
        false,
        an_open_file_follows_its_name,
    ),
    (
        "a_file_that_others_change_is_never_read_mixed",
        true,
        a_changed_file_is_not_mixed,
    ),
    ("a_folder_moves_in_and_out", false, a_folder_moves),
    (
        "people_and_scripts_see_a_folder_like_any_other",
        true,
        people_see_a_folder,
    ),
];

/// A folder in a bucket, and what it is below.
struct Place {
    bucket: Bucket,
    /// The folder's own directory.
    dir: TempDir,
}

impl Place {
    fn new(server: &S3Server, prefix: &str) -> Self {
        Self {
            bucket: Bucket {
                layout: Layout::Plain,
                ..server.bucket(&format!("plain-{prefix}"))
            },
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn limited(&self, server: &S3Server, limits: Limits) -> PlainStore {
        let authority = cap_std::ambient_authority();
        let dir = cap_std::fs::Dir::open_ambient_dir(self.dir.path(), authority).unwrap();
        let at = (ROLAND, "photo");
        let credentials = server.credentials();
        PlainStore::open(&dir, "cloud", &self.bucket, at, Some(&credentials), limits).unwrap()
    }

    /// As another process opens it.
    fn open(&self, server: &S3Server) -> PlainStore {
        self.limited(server, LIMITS)
    }

    /// What rclone calls the folder.
    fn remote(&self) -> String {
        format!(
            "s3:{}/{}/{ROLAND}/photo",
            self.bucket.name, self.bucket.prefix
        )
    }
}

fn made(server: &S3Server, name: &str) -> Made {
    let place = Place::new(server, name);
    (Arc::new(place.open(server)), Box::new(place))
}

/// Runs rclone, which takes its settings from variables.
fn rclone(server: &S3Server, args: &[&str], input: &[u8]) -> Output {
    let mut rclone = Command::new(program("rclone").unwrap());
    let credentials = server.credentials();
    rclone
        .args(["--config", "/dev/null"])
        .args(args)
        .env("RCLONE_CONFIG_S3_TYPE", "s3")
        .env("RCLONE_CONFIG_S3_PROVIDER", "Other")
        .env("RCLONE_CONFIG_S3_ENDPOINT", &server.endpoint)
        .env("RCLONE_CONFIG_S3_REGION", "us-east-1")
        .env("RCLONE_CONFIG_S3_ACCESS_KEY_ID", &credentials.key)
        .env("RCLONE_CONFIG_S3_SECRET_ACCESS_KEY", &*credentials.secret)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = rclone.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writing = thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let output = child.wait_with_output().unwrap();
    let _ = writing.join().unwrap();
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    output
}

fn free<'a>(at: &'a m2y::store::ContentPath, modified: i64) -> Target<'a> {
    Target {
        modified: Some(modified),
        ..Target::free(at)
    }
}

fn bytes(contents: &dyn Contents) -> Vec<u8> {
    let mut bytes = Vec::new();
    Reader::new(contents).read_to_end(&mut bytes).unwrap();
    bytes
}

fn other_programs_read_and_write(server: &S3Server) {
    let place = Place::new(server, "others");
    let store = place.open(server);
    store.make_dir(&path("sub")).unwrap();
    let at = path("sub/Gr\u{fc}\u{df}e + #1 100%.txt");
    let time = 1_546_214_399_000_000_000;
    let large = noise(20 << 20);
    receive(&store, "a", b"hello", &free(&at, time)).unwrap();
    stage(&store, "b", &large);
    let b = path("b.bin");
    store.publish(&partial("b"), &free(&b, time)).unwrap();
    let remote = place.remote();
    let listed = rclone(server, &["lsf", "-R", "--format", "pst", &remote], b"");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let seen = |line: &str| assert!(listed.contains(line), "{line}: {listed}");
    seen(&format!("b.bin;{};2018-12-3", large.len()));
    seen("sub/Gr\u{fc}\u{df}e + #1 100%.txt;5;2018-12-3");
    // Nothing but the mark of the directory is beside them.
    let names = rclone(server, &["lsf", "-R", "--files-only", &remote], b"");
    assert_eq!(String::from_utf8(names.stdout).unwrap().lines().count(), 3);
    let read = rclone(server, &["cat", &format!("{remote}/b.bin")], b"");
    assert!(read.stdout == large);
    let read = rclone(server, &["cat", &format!("{remote}/{at}")], b"");
    assert_eq!(read.stdout, b"hello");

    // The other way round, with a directory that nobody made.
    let theirs = format!("{remote}/new/deep/x.txt");
    rclone(server, &["rcat", &theirs], b"theirs");
    assert_eq!(bytes_of(&store, &path("new/deep/x.txt")), b"theirs");
    assert_eq!(suite::names(&store, &path("")), ["b.bin", "new", "sub"]);
    store
        .rename(&path("new"), &Target::free(&path("sub/moved")))
        .unwrap();
    let read = rclone(
        server,
        &["cat", &format!("{remote}/sub/moved/deep/x.txt")],
        b"",
    );
    assert_eq!(read.stdout, b"theirs");
    assert_eq!(store.totals().unwrap().0, 3);
}

fn a_name_is_told_twice(server: &S3Server) {
    let place = Place::new(server, "twice");
    let store = place.open(server);
    let (hidden, at) = (partial("a"), path("a.data"));
    let content = noise(20 << 20);
    stage(&store, "a", &content);
    // What a crash leaves that comes after the name, and before the pieces go.
    let (pieces, aside) = (
        format!("{}/.m2y", place.remote()),
        format!("{}-aside", place.remote()),
    );
    rclone(server, &["copy", &pieces, &aside], b"");
    store.publish(&hidden, &free(&at, 5_000_000_000)).unwrap();
    rclone(server, &["copy", &aside, &pieces], b"");
    let store = place.open(server);
    assert_eq!(store.held(&hidden).unwrap(), Some(content.len() as u64));
    store.publish(&hidden, &free(&at, 5_000_000_000)).unwrap();
    assert_eq!(store.held(&hidden).unwrap(), None);
    assert_eq!(suite::names(&store, &path("")), ["a.data"]);
    assert!(bytes_of(&store, &at) == content);
    // What is left of its pieces does not take its place.
    let over = Target {
        existing: Existing::Replace,
        ..free(&at, 5_000_000_000)
    };
    let only = |wanted: &str| {
        rclone(server, &["copy", &aside, &pieces, "--include", wanted], b"");
        place.open(server)
    };
    let store = only("*0000");
    assert_eq!(store.held(&hidden).unwrap(), Some(8 << 20));
    store.publish(&hidden, &over).unwrap();
    assert!(bytes_of(&store, &at) == content);
    let store = only("*{8388608,16777216}");
    assert_eq!(store.held(&hidden).unwrap(), None);
    assert_eq!(
        suite::kind(store.publish(&hidden, &over)),
        std::io::ErrorKind::NotFound
    );
    // Another file does not pass for it.
    let other = receive(&store, "b", b"other", &free(&at, 5_000_000_000));
    assert_eq!(suite::kind(other), std::io::ErrorKind::AlreadyExists);
}

fn what_broke_off_goes_on(server: &S3Server) {
    let place = Place::new(server, "resume");
    let content = noise(30 << 20);
    let hidden = partial("a");
    let store = place.open(server);
    stage(&store, "a", &content[..20 << 20]);
    drop(store);

    let store = place.open(server);
    let held = store.held(&hidden).unwrap().unwrap();
    assert_eq!(held, 20 << 20);
    let mut there = Vec::new();
    store
        .read(&hidden)
        .unwrap()
        .read_to_end(&mut there)
        .unwrap();
    assert!(there == content[..20 << 20]);
    // In the middle of a piece, as the sender wishes.
    let keep = (11 << 20) + 12_345;
    let mut sink = store.begin(&hidden, keep).unwrap();
    sink.append(&[&content[keep as usize..25 << 20]]).unwrap();
    drop((sink, store));

    let store = place.open(server);
    let mut keep = store.held(&hidden).unwrap().unwrap();
    while keep < 25 << 20 {
        // The last pieces were still on their way.
        thread::yield_now();
        keep = store.held(&hidden).unwrap().unwrap();
    }
    let mut sink = store.begin(&hidden, keep).unwrap();
    sink.append(&[&content[keep as usize..]]).unwrap();
    sink.settle().unwrap();
    drop(sink);
    store.publish(&hidden, &Target::free(&path("a"))).unwrap();
    assert!(bytes_of(&store, &path("a")) == content);
    let soon = std::time::SystemTime::now() + Duration::from_secs(86_400);
    assert_eq!(store.sweep(soon, false).unwrap(), 0);
}

fn pieces_make_a_whole(server: &S3Server) {
    let place = Place::new(server, "pieces");
    let limits = Limits { parts: 4, ..LIMITS };
    let store = place.limited(server, limits);
    let content = noise(50 << 20);
    // With many files at a time the pieces are too short for parts.
    let names: Vec<String> = (0..12).map(|n| format!("s{n}")).collect();
    let mut sinks: Vec<_> = names
        .iter()
        .map(|name| store.begin(&partial(name), 0).unwrap())
        .collect();
    for block in 0..10 {
        for (n, sink) in sinks.iter_mut().enumerate() {
            let start = (block << 20) + n;
            sink.append(&[&content[start..start + (1 << 20)]]).unwrap();
        }
    }
    sinks.iter_mut().for_each(|sink| sink.settle().unwrap());
    drop(sinks);
    for (n, name) in names.iter().enumerate() {
        store
            .publish(&partial(name), &Target::free(&path(name)))
            .unwrap();
        assert!(bytes_of(&store, &path(name)) == content[n..n + (10 << 20)]);
    }
    // Seven pieces, where four parts are all that the server takes.
    stage(&store, "a", &content);
    store
        .publish(&partial("a"), &Target::free(&path("a")))
        .unwrap();
    assert!(bytes_of(&store, &path("a")) == content);
    assert_eq!(store.totals().unwrap().0, 13);
}

/// As many pieces are, once they were joined.
fn a_long_piece_is_cut(server: &S3Server) {
    let place = Place::new(server, "cut");
    let store = place.open(server);
    let content = noise(30 << 20);
    let first = format!("{}/.m2y/partial/.a.partial/x/{:020}", place.remote(), 0);
    rclone(server, &["rcat", &first], &content[..25 << 20]);
    let hidden = partial("a");
    assert_eq!(store.held(&hidden).unwrap(), Some(25 << 20));
    let keep = (20 << 20) + 5;
    let mut sink = store.begin(&hidden, keep).unwrap();
    // No more than that is there, also for another process.
    assert_eq!(place.open(server).held(&hidden).unwrap(), Some(keep));
    sink.append(&[&content[keep as usize..]]).unwrap();
    sink.settle().unwrap();
    drop(sink);
    store.publish(&hidden, &Target::free(&path("a"))).unwrap();
    assert!(bytes_of(&store, &path("a")) == content);
}

fn a_changed_layout_is_refused(server: &S3Server) {
    let config = "[OnMeta]\n[OnReceived]\n[store]\nname = cloud\n";
    let clouded = Clouded::new(server, "layout", config);
    let ini = clouded.world.there.path().join("m2y.ini");
    let whole = fs::read_to_string(&ini).unwrap();
    let folder = format!("{ROLAND}:photo");
    let refused = |why: &str| {
        let listed = clouded.m2y(&["ls", &folder]);
        assert!(!listed.status.success());
        assert!(said(&listed).contains(why), "{}", said(&listed));
    };
    let config = |store: &str| {
        let text = format!("[OnMeta]\n[OnReceived]\n[store]\n{store}");
        fs::write(clouded.world.photo().join("m2y.config"), text).unwrap();
    };
    clouded.ok(&["ls", &folder]);
    // Sealed from now on, and back.
    fs::write(&ini, whole.replace("layout = plain\n", "")).unwrap();
    refused("put that line back into m2y.ini");
    fs::write(&ini, &whole).unwrap();
    clouded.ok(&["ls", &folder]);
    for line in ["keep = 30d", "readers = zhenqiang"] {
        config(&format!("name = cloud\n{line}\n"));
        refused("knows neither keep nor readers");
    }
    // The section is lost.
    fs::write(clouded.world.photo().join("m2y.config"), "[OnMeta]\n").unwrap();
    refused("put the [store] section back");
    // The other way round.
    config("name = cloud\n");
    clouded.ok(&["folder", "move", "photo", "--store", "sealed"]);
    clouded.ok(&["ls", &folder]);
    fs::write(&ini, format!("{whole}layout = plain\n")).unwrap();
    refused("are sealed there");
}

fn a_large_file_moves(server: &S3Server) {
    let place = Place::new(server, "large");
    let limits = Limits {
        longest: 40 << 20,
        ..LIMITS
    };
    let store = place.limited(server, limits);
    let content = noise(70 << 20);
    stage(&store, "a", &content);
    let time = 1_546_214_399_000_001_000;
    store
        .publish(&partial("a"), &free(&path("a"), time))
        .unwrap();
    store.rename(&path("a"), &Target::free(&path("b"))).unwrap();
    let stat = store.stat(&path("b")).unwrap().unwrap();
    assert_eq!((stat.size, stat.modified), (content.len() as u64, time));
    assert_eq!(store.stat(&path("a")).unwrap(), None);
    assert!(bytes_of(&store, &path("b")) == content);
    // Here and there, also over the ends of what is fetched at a time.
    let contents = store.open(&path("b")).unwrap();
    let mut read = vec![0; 3 << 20];
    for offset in [0, 69 << 20, (8 << 20) - 7, 1] {
        let mut filled = 0;
        let wanted = read.len().min(content.len() - offset);
        while filled < wanted {
            let more = contents.read_at(&mut read[filled..wanted], (offset + filled) as u64);
            filled += more.unwrap();
        }
        assert!(
            read[..wanted] == content[offset..offset + wanted],
            "{offset}"
        );
    }
}

fn an_open_file_follows_its_name(server: &S3Server) {
    let place = Place::new(server, "open");
    let store = place.open(server);
    let content = noise(3 << 20);
    receive(&store, "a", &content, &Target::free(&path("a"))).unwrap();
    let open = store.open(&path("a")).unwrap();
    let mut first = [0; 10];
    open.read_at(&mut first, 0).unwrap();
    store.rename(&path("a"), &Target::free(&path("b"))).unwrap();
    assert!(bytes(&*open) == content);
    store.make_dir(&path("d")).unwrap();
    store
        .rename(&path("b"), &Target::free(&path("d/b")))
        .unwrap();
    store.rename(&path("d"), &Target::free(&path("e"))).unwrap();
    let late = store.open(&path("e/b")).unwrap();
    let over = path("e/b");
    let over = Target {
        existing: Existing::Replace,
        ..Target::free(&over)
    };
    receive(&store, "c", b"new", &over).unwrap();
    assert_eq!(bytes_of(&store, &path("e/b")), b"new");
    let third = store.open(&path("e/b")).unwrap();
    drop(third);
    // The first that ends takes nothing from the other.
    drop(open);
    assert!(bytes(&*late) == content);
    assert_eq!(store.totals().unwrap().0, 1);
}

fn a_changed_file_is_not_mixed(server: &S3Server) {
    let place = Place::new(server, "changed");
    let store = place.open(server);
    let content = noise(3 << 20);
    receive(&store, "a", &content, &Target::free(&path("a"))).unwrap();
    let open = store.open(&path("a")).unwrap();
    let mut first = [0; 10];
    open.read_at(&mut first, 0).unwrap();
    rclone(
        server,
        &["rcat", &format!("{}/a", place.remote())],
        &noise(4 << 20)[1 << 20..],
    );
    let mut last = [0; 10];
    let error = open.read_at(&mut last, 2 << 20).unwrap_err();
    assert!(
        error.to_string().contains("changed by another program"),
        "{error}"
    );
}

/// A world whose receiver has the store `cloud` in a bucket.
struct Clouded<'a> {
    world: World,
    server: &'a S3Server,
    prefix: String,
}

impl<'a> Clouded<'a> {
    fn new(server: &'a S3Server, prefix: &str, config: &str) -> Self {
        let world = World::new(config);
        let ini = world.there.path().join("m2y.ini");
        let text = fs::read_to_string(&ini).unwrap();
        let prefix = format!("whole-{prefix}");
        let sections = format!(
            "[store cloud]\n{}layout = plain\n[store sealed]\n{}",
            server.section(&prefix),
            server.section(&format!("{prefix}-sealed"))
        );
        fs::write(&ini, text + sections.as_str()).unwrap();
        Self {
            world,
            server,
            prefix,
        }
    }

    fn m2y(&self, args: &[&str]) -> Output {
        let mut command = Command::new(M2Y);
        command
            .args(args)
            .env("M2Y_ROOT", self.world.there.path())
            .envs(self.server.variables());
        command.output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.m2y(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A server, and what waits until its log says something.
    fn serve(&self) -> (Process, impl FnMut(&str) + use<>) {
        let variables = self.server.variables();
        let (server, lines) = Process::serve_with_lines_and(&self.world.there, &variables);
        let hear = move |wanted: &str| {
            let mut heard = Vec::new();
            loop {
                match lines.recv_timeout(PATIENCE) {
                    Ok(line) if line.contains(wanted) => return,
                    Ok(line) => heard.push(line),
                    Err(_) => panic!("{wanted} is not in the log: {heard:#?}"),
                }
            }
        };
        (server, hear)
    }

    fn send(&self, server: &Process, name: &str, bytes: &[u8]) {
        let file = self.world.file(name, bytes);
        let sent = self.world.send(&server.address, "photo", &file);
        assert!(sent.status.success(), "{}", said(&sent));
    }

    fn remote(&self) -> String {
        format!("s3:{}/{}/{ROLAND}/photo", self.server.bucket, self.prefix)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        let to = tempfile::tempdir().unwrap();
        self.ok(&[
            "get",
            &format!("{ROLAND}:photo/{name}"),
            "-o",
            to.path().to_str().unwrap(),
        ]);
        fs::read(to.path().join(name)).unwrap()
    }
}

fn a_folder_moves(server: &S3Server) {
    let config = "[OnMeta]\n[OnReceived]\n[folder]\nnames = original\n";
    let clouded = Clouded::new(server, "moves", config);
    let (process, _hear) = clouded.serve();
    let large = noise(20 << 20);
    clouded.send(&process, "a.jpg", &large);
    clouded.send(&process, "b.jpg", b"small");
    // What is there already may be other files.
    let place = Place {
        bucket: Bucket {
            layout: Layout::Plain,
            ..server.bucket(&clouded.prefix)
        },
        dir: tempfile::tempdir().unwrap(),
    };
    let there = place.open(server);
    receive(&there, "x", b"theirs", &Target::free(&path("a.jpg"))).unwrap();
    let refused = clouded.m2y(&["folder", "move", "photo", "--store", "cloud"]);
    assert!(
        said(&refused).contains("may be other ones"),
        "{}",
        said(&refused)
    );
    there.remove(&path("a.jpg")).unwrap();
    for store in ["cloud", "sealed", "cloud", "local"] {
        let moved = clouded.ok(&["folder", "move", "photo", "--store", store]);
        assert!(
            moved.contains(&format!("is in {store}: moved 2 files")),
            "{moved}"
        );
        assert!(clouded.read("a.jpg") == large, "{store}");
        assert_eq!(clouded.read("b.jpg"), b"small", "{store}");
        let late = format!("{store}.jpg");
        clouded.send(&process, &late, b"late");
        assert_eq!(clouded.read(&late), b"late");
        clouded.ok(&["rm", &format!("{ROLAND}:photo/{late}")]);
    }
    // Nothing is left there.
    let left = place.open(server);
    assert_eq!(left.totals().unwrap(), (0, 0));
    let nothing = left.list(&path("")).unwrap().count();
    assert_eq!(nothing, 0);

    // What would put files out of sight is refused.
    let photo = clouded.world.photo().join("m2y.config");
    let text = fs::read_to_string(&photo).unwrap();
    fs::write(&photo, format!("{text}\n[store]\nname = cloud\n")).unwrap();
    let listed = clouded.m2y(&["ls", &format!("{ROLAND}:photo")]);
    assert!(!listed.status.success());
    assert!(
        said(&listed).contains("would be out of sight"),
        "{}",
        said(&listed)
    );
}

fn people_see_a_folder(server: &S3Server) {
    let config = format!(
        "[OnMeta]\n[OnReceived]\nlook.rhai\n[OnNew]\nsay.rhai\n[OnDeleted]\nsay.rhai\n\
         [folder]\nnames = original\n[share]\n{ZHENQIANG} = list get put\n[store]\nname = cloud\n"
    );
    let clouded = Clouded::new(server, "people", &config);
    clouded.world.script(
        "say.rhai",
        r#"log.info(`say ${event.name} ${event.file}`);"#,
    );
    clouded.world.script(
        "look.rhai",
        r#"log.info(`came ${folder.read(event.file)}`);"#,
    );
    let checked = clouded.ok(&["store", "check", "cloud"]);
    assert!(
        checked.contains("copy parts                 ok"),
        "{checked}"
    );
    let (process, mut hear) = clouded.serve();
    clouded.send(&process, "a.txt", b"from afar");
    hear("came from afar");
    hear("say OnNew a.txt");
    let remote = clouded.remote();
    let read = rclone(server, &["cat", &format!("{remote}/a.txt")], b"");
    assert_eq!(read.stdout, b"from afar");
    clouded.ok(&[
        "mv",
        &format!("{ROLAND}:photo/a.txt"),
        &format!("{ROLAND}:photo/b.txt"),
    ]);
    let listed = clouded.ok(&["ls", &format!("{ROLAND}:photo")]);
    assert!(
        listed.contains("b.txt") && !listed.contains("a.txt"),
        "{listed}"
    );
    assert_eq!(clouded.read("b.txt"), b"from afar");
    // The sender reads what another program wrote.
    rclone(
        server,
        &["rcat", &format!("{remote}/theirs.txt")],
        b"theirs",
    );
    let to = tempfile::tempdir().unwrap();
    let got = Command::new(M2Y)
        .args([
            "get",
            "--server",
            &process.address,
            "--user",
            ZHENQIANG,
            "--root",
        ])
        .arg(clouded.world.here.path())
        .arg("--output")
        .arg(to.path())
        .arg(format!("{ROLAND}:photo/theirs.txt"))
        .output()
        .unwrap();
    assert!(got.status.success(), "{}", said(&got));
    assert_eq!(fs::read(to.path().join("theirs.txt")).unwrap(), b"theirs");

    let status = clouded.ok(&["store", "status", "cloud"]);
    assert!(status.contains("2 files"), "{status}");
    for args in [
        &["store", "scrub", "cloud"][..],
        &["store", "repair", "cloud"],
        &["folder", "versions", "photo"],
    ] {
        let refused = clouded.m2y(args);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(
            said(&refused).contains("its layout is plain"),
            "{}",
            said(&refused)
        );
    }

    // The root is lost: the folder is made anew, and its files are there.
    drop(process);
    let photo = clouded.world.photo();
    fs::remove_dir_all(&photo).unwrap();
    let recovered = clouded.ok(&["store", "recover", "cloud", "--user", ROLAND]);
    assert!(recovered.contains("photo: 2 files"), "{recovered}");
    assert_eq!(clouded.read("b.txt"), b"from afar");
    assert!(!Path::exists(&photo.join("b.txt")));
}

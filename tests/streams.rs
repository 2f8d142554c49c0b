//! Live streams, standard input, and one input for several receivers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    io::{Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{
    M2Y, OPEN, PETER, Process, ROLAND, World, ZHENQIANG, introduce, name, names, noise, peer,
    person_with_key, read_metas,
    relay_process::{PATIENCE, wait_for_all},
    said,
    terminal::Terminal,
};
use m2y::{
    meta::{Meta, TransferId, Wire},
    root::{Root, conflict::Conflict},
    wire::{record::Kind, request::Request},
};
use rustix::pipe::{SpliceFlags, splice};

/// Takes messages and streams, and no files.
const TALK: &str = "[OnMeta]\n[folder]\ntakes = messages\n";

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "not {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn command(root: &Root, words: &[&str]) -> Command {
    let mut command = Command::new(M2Y);
    command.args(words).arg("--root").arg(root.path());
    command
}

/// A program whose input the test writes.
struct Sender {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Sender {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        Self { child, stdin }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn ends(mut self) -> Output {
        drop(self.stdin.take());
        self.child.wait_with_output().unwrap()
    }
}

/// A program that watches; what it writes is read from the other end of its standard output.
fn watch(root: &Root, words: &[&str]) -> Child {
    let mut watching = command(root, &["watch"]);
    watching.args(words).stdin(Stdio::null());
    let piped = watching.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

fn all_of(mut watching: Child) -> (Vec<u8>, Option<i32>, String) {
    let (mut bytes, mut words) = (Vec::new(), String::new());
    let mut stderr = watching.stderr.take().unwrap();
    let reading = thread::spawn(move || {
        stderr.read_to_string(&mut words).unwrap();
        words
    });
    let mut stdout = watching.stdout.take().unwrap();
    stdout.read_to_end(&mut bytes).unwrap();
    let code = watching.wait().unwrap().code();
    (bytes, code, reading.join().unwrap())
}

fn read_some(watching: &mut Child, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let stdout = watching.stdout.as_mut().unwrap();
    stdout.read_exact(&mut bytes).unwrap();
    bytes
}

fn talk(config: &str) -> World {
    let world = World::new(OPEN);
    world.folder("chat", config);
    world
}

fn theirs(world: &World) -> PathBuf {
    world.there.path().join(format!("user/{ROLAND}/chat"))
}

fn stream(world: &World, server: &Process, file: &str) -> Command {
    let mut streaming = command(&world.here, &["stream", file, ROLAND]);
    streaming.args(["--server", &server.address]);
    streaming
}

#[test]
fn standard_input_arrives_as_a_file_with_its_size_and_its_hooks() {
    let world = World::new("[OnMeta]\nsize.rhai\n[OnReceived]\nseen.rhai\n");
    world.script("size.rhai", "log.info(`at first ${meta.filesize}`);");
    world.script("seen.rhai", "log.info(`then ${meta.filesize}`);");
    let (server, lines) = Process::serve_with_lines(&world.there);
    let bytes = noise(1_000_001);
    let target = format!("{ROLAND}:photo");
    let mut sending = command(&world.here, &["send", "-", &target, "--name", "home.tar"]);
    let mut sender = Sender::start({
        sending.args(["--server", &server.address]);
        sending
    });
    for piece in bytes.chunks(77_777) {
        sender.write(piece);
    }
    let output = sender.ends();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains(&format!("sent home.tar to {ROLAND}: 1.0 MB")),
        "{}",
        said(&output)
    );
    wait_for_all(&lines, &["at first 4611686018427387904", "then 1000001"]);
    let arrived = world.arrived(".data");
    assert_eq!(arrived.len(), 1);
    assert!(fs::read(world.photo().join(&arrived[0])).unwrap() == bytes);
    let metas = read_metas(&world.photo(), ".meta");
    assert_eq!(metas[0].filename, "home.tar");
    assert_eq!(metas[0].filesize, Some(1_000_001));
    assert_eq!(metas[0].file_crc, Some(crc32fast::hash(&bytes)));
    // Nothing at all is a file, too.
    let mut empty = command(&world.here, &["send", "-", &target]);
    empty.args(["--server", &server.address]);
    let output = empty.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    until("both are there", || world.arrived(".data").len() == 2);
}

#[test]
fn what_cannot_be_read_again_is_not_there_in_part_and_its_sender_is_told() {
    let world = World::new(OPEN);
    let target = format!("{ROLAND}:photo");
    let home = world.file("home", &noise(9 << 20));
    // `tar c . | m2y send -`, whose server is killed at a third of it.
    let server = Process::serve(&world.there);
    let mut sending = command(&world.here, &["send", "-", &target, "--name", "home.tar"]);
    sending.args(["--server", &server.address]);
    let mut sender = Sender::start(sending);
    let mut tar = Command::new("tar")
        .args(["c", "-C"])
        .arg(home.parent().unwrap())
        .arg("home")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut from = tar.stdout.take().unwrap();
    let mut third = vec![0; 3 << 20];
    from.read_exact(&mut third).unwrap();
    sender.write(&third);
    let hidden = || {
        let entries = fs::read_dir(world.photo()).unwrap().flatten();
        let hidden = |path: PathBuf| path.metadata().map_or(0, |about| about.len());
        entries.map(|entry| hidden(entry.path())).sum::<u64>() > 1 << 20
    };
    until("a part is there", hidden);
    drop(server);
    // It may hear of that only when it writes on.
    let mut rest = Vec::new();
    from.read_to_end(&mut rest).unwrap();
    let _ = sender.stdin.as_mut().unwrap().write_all(&rest);
    let output = sender.ends();
    tar.wait().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(
        said(&output).contains("standard input cannot be read again"),
        "{}",
        said(&output)
    );
    assert!(world.arrived(".data").is_empty());
    let server = Process::serve(&world.there);
    let shown = command(&world.there, &["inbox"]).output().unwrap();
    assert!(!said(&shown).contains("home.tar"), "{}", said(&shown));
    // The same again is a new file, from its beginning.
    let mut sending = command(&world.here, &["send", "-", &target, "--name", "home.tar"]);
    sending.args(["--server", &server.address]);
    let mut sender = Sender::start(sending);
    sender.write(&third);
    sender.write(&rest);
    let output = sender.ends();
    assert!(output.status.success(), "{}", said(&output));
    let arrived = world.arrived(".data");
    assert_eq!(arrived.len(), 1);
    let there = fs::read(world.photo().join(&arrived[0])).unwrap();
    assert!(there == [third, rest].concat());
}

#[test]
fn limits_hold_for_what_has_no_size_yet() {
    let world = World::new("[OnMeta]\nsize.rhai\n");
    world.script(
        "size.rhai",
        r#"if meta.filesize > 20_000_000 { reject("larger than 20 MB"); }"#,
    );
    let ini = world.there.path().join("m2y.ini");
    fs::write(&ini, "[server]\nmax_filesize = 300K\n").unwrap();
    world.folder("other", OPEN);
    let server = Process::serve(&world.there);
    let send = |folder: &str, bytes: &[u8]| {
        let target = format!("{ROLAND}:{folder}");
        let mut sending = command(&world.here, &["send", "-", &target]);
        sending.args(["--server", &server.address]);
        let mut sender = Sender::start(sending);
        let _ = sender.stdin.as_mut().unwrap().write_all(bytes);
        sender.ends()
    };
    let output = send("photo", b"small");
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(
        said(&output).contains("larger than 20 MB"),
        "{}",
        said(&output)
    );
    let output = send("other", &noise(310_000));
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(said(&output).contains("too large"), "{}", said(&output));
    assert!(send("other", &noise(290_000)).status.success());
    let other = world.there.path().join(format!("user/{ROLAND}/other"));
    assert_eq!(names(&other, ".data").len(), 1);
}

/// The people of a root for several: each with a server.
fn three() -> (World, Vec<(Root, Process)>) {
    let world = World::new(OPEN);
    world.folder("chat", TALK);
    let mut all = Vec::new();
    let keys = [PETER, "stranger", ROLAND].map(common::key);
    for (who, key) in ["anna", "ben", "carla"].into_iter().zip(&keys) {
        let path = world.dir.path().join(who);
        let (root, _) = Root::init(&path, &[]).unwrap();
        let user = person_with_key(&root, who, key);
        introduce(&user, &world.sender);
        let folder = user.create_folder(&name("photo")).unwrap();
        fs::write(folder.path_of("m2y.config"), OPEN).unwrap();
        let folder = user.create_folder(&name("chat")).unwrap();
        fs::write(folder.path_of("m2y.config"), TALK).unwrap();
        let server = Process::serve(&root);
        let address = server.address.parse().unwrap();
        world.sender.set_addresses(&name(who), &address).unwrap();
        all.push((root, server));
    }
    (world, all)
}

#[test]
fn one_file_and_one_input_go_to_three_people() {
    let (world, people) = three();
    let file = world.file("film.mp4", &noise(3 << 20));
    let targets = ["anna:photo", "ben:photo", "carla:photo"];
    let mut sending = command(&world.here, &["send"]);
    let output = sending.arg(&file).args(targets).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for who in ["anna", "ben", "carla"] {
        assert!(
            said(&output).contains(&format!("to {who}: ")),
            "{}",
            said(&output)
        );
    }
    let mut again = command(&world.here, &["send"]);
    let output = again.arg(&file).args(targets).output().unwrap();
    assert!(
        said(&output).contains("3 identical files"),
        "{}",
        said(&output)
    );
    let bytes = noise(2_345_678);
    let mut sender = Sender::start({
        let mut sending = command(&world.here, &["send", "-"]);
        sending.args(targets);
        sending
    });
    sender.write(&bytes);
    let output = sender.ends();
    assert!(output.status.success(), "{}", said(&output));
    for ((root, _), who) in people.iter().zip(["anna", "ben", "carla"]) {
        let photo = root.path().join(format!("user/{who}/photo"));
        let mut sizes: Vec<_> = names(&photo, ".data")
            .iter()
            .map(|file| fs::read(photo.join(file)).unwrap())
            .collect();
        sizes.sort_by_key(Vec::len);
        assert!(sizes == [bytes.clone(), noise(3 << 20)], "{who}");
    }
    // One who is away does not keep the others from having it.
    let mut people = people.into_iter();
    let (_, server) = people.next().unwrap();
    server.stop();
    let mut sender = Sender::start({
        let mut sending = command(&world.here, &["send", "-"]);
        sending.args(targets);
        sending
    });
    sender.write(&bytes);
    let output = sender.ends();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("1 of 3 receivers did not get it"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_stream_is_watched_as_it_comes_and_ends_for_both() {
    let world = talk(TALK);
    let server = Process::serve(&world.there);
    let mut watching = watch(&world.there, &[ZHENQIANG, "--yes"]);
    let mut sender = Sender::start(stream(&world, &server, "-"));
    for n in 0..20 {
        let piece = format!("piece {n}\n");
        sender.write(piece.as_bytes());
        // It is there before the next one is written.
        assert_eq!(read_some(&mut watching, piece.len()), piece.as_bytes());
    }
    let bytes = noise(10 << 20);
    let writing = thread::spawn({
        let bytes = bytes.clone();
        move || {
            sender.write(&bytes);
            sender.ends()
        }
    });
    let (came, code, words) = all_of(watching);
    assert!(came == bytes);
    assert_eq!(code, Some(0), "{words}");
    let output = writing.join().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("streamed stream to"),
        "{}",
        said(&output)
    );
    // Nothing of it is kept.
    let mut kept = names(&theirs(&world), "");
    kept.retain(|file| file != "m2y.config");
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn a_person_is_asked_and_may_refuse() {
    let world = talk(TALK);
    let server = Process::serve(&world.there);
    let file = world.file("film.mp4", &noise(300_000));
    let mut watching = command(&world.there, &["watch", "--exec", "cat > seen"]);
    watching.current_dir(world.dir.path());
    let mut terminal = Terminal::start(watching);
    let streaming = |name: &str| {
        let mut streaming = stream(&world, &server, file.to_str().unwrap());
        streaming.args(["--name", name]);
        thread::spawn(move || streaming.output().unwrap())
    };
    let sender = streaming("film.mp4");
    terminal.shows("wants to stream film.mp4 to you. Watch it? [y/n]");
    terminal.press("n\r");
    let output = sender.join().unwrap();
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(said(&output).contains("not now"), "{}", said(&output));
    let sender = streaming("other.mp4");
    terminal.shows("wants to stream other.mp4 to you. Watch it? [y/n]");
    terminal.press("y\r");
    let output = sender.join().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let seen = world.dir.path().join("seen");
    until("all of it is there", || {
        fs::read(&seen).is_ok_and(|seen| seen == noise(300_000))
    });
}

#[test]
fn without_anybody_who_answers_a_stream_is_refused_after_thirty_seconds() {
    let world = talk(TALK);
    let server = Process::serve(&world.there);
    let begun = Instant::now();
    let mut sender = Sender::start(stream(&world, &server, "-"));
    sender.write(b"hello?");
    let output = sender.ends();
    assert!(begun.elapsed() >= Duration::from_secs(30));
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(
        said(&output).contains("nobody answered within 30 seconds"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_stream_that_is_cut_off_is_told_from_one_that_has_ended() {
    let world = talk(TALK);
    let server = Process::serve(&world.there);
    let watching = || watch(&world.there, &[ZHENQIANG, "--yes"]);
    // Its sender is killed.
    let mut viewer = watching();
    let mut sender = Sender::start(stream(&world, &server, "-"));
    sender.write(b"the beginning");
    assert_eq!(read_some(&mut viewer, 13), b"the beginning");
    sender.child.kill().unwrap();
    sender.child.wait().unwrap();
    let (rest, code, words) = all_of(viewer);
    assert!(rest.is_empty());
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains("was cut off"), "{words}");
    // Whoever watches leaves.
    let mut viewer = watching();
    let mut sender = Sender::start(stream(&world, &server, "-"));
    sender.write(b"the beginning");
    assert_eq!(read_some(&mut viewer, 13), b"the beginning");
    viewer.kill().unwrap();
    viewer.wait().unwrap();
    let _ = sender.stdin.as_mut().unwrap().write_all(&noise(1 << 20));
    let output = sender.ends();
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(
        said(&output).contains("nobody watches it any more")
            || said(&output).contains("left before its end"),
        "{}",
        said(&output)
    );
    // The server is killed.
    let mut viewer = watching();
    let mut sender = Sender::start(stream(&world, &server, "-"));
    sender.write(b"the beginning");
    assert_eq!(read_some(&mut viewer, 13), b"the beginning");
    drop(server);
    let (_, code, words) = all_of(viewer);
    assert_eq!(code, Some(5), "{words}");
    let output = sender.ends();
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
}

#[test]
fn a_slow_viewer_slows_the_sender_down_and_costs_no_memory() {
    let world = talk(TALK);
    let server = Process::serve(&world.there);
    let mut viewer = watch(&world.there, &[ZHENQIANG, "--yes"]);
    let mut sender = Sender::start(stream(&world, &server, "-"));
    sender.write(b"!");
    read_some(&mut viewer, 1);
    let written = write_until_full(&mut sender);
    let memory = resident(server.child.id());
    println!("{written} bytes are under way, the server has {memory} bytes");
    assert!(memory < 128 << 20, "{memory}");
    let reading = thread::spawn(move || all_of(viewer));
    let output = sender.ends();
    assert!(output.status.success(), "{}", said(&output));
    let (came, code, _) = reading.join().unwrap();
    assert_eq!((came.len() as u64, code), (written, Some(0)));
    // One who leaves while nothing more may be sent is heard of all the same.
    let mut viewer = watch(&world.there, &[ZHENQIANG, "--yes"]);
    let mut sender = Sender::start(stream(&world, &server, "-"));
    sender.write(b"!");
    read_some(&mut viewer, 1);
    write_until_full(&mut sender);
    viewer.kill().unwrap();
    viewer.wait().unwrap();
    let output = sender.ends();
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
}

/// Writes until nobody takes more; how many bytes.
fn write_until_full(sender: &mut Sender) -> u64 {
    let (bytes, mut written) = (noise(1 << 20), 0_u64);
    let stdin = sender.stdin.as_mut().unwrap();
    rustix::io::ioctl_fionbio(&*stdin, true).unwrap();
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_secs(2) {
        match stdin.write(&bytes) {
            Ok(n) => {
                written += n as u64;
                last = Instant::now();
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
        assert!(written < 64 << 20, "{written} bytes are under way");
    }
    written
}

#[test]
fn a_camera_is_seen_by_two_one_of_them_slow_and_one_who_comes_back() {
    let (world, people) = three();
    let [(anna, _a), (ben, _b), ..] = &people[..] else {
        panic!();
    };
    let fast = watch(anna, &[ZHENQIANG, "--yes"]);
    let mut slow = watch(ben, &[ZHENQIANG, "--yes"]);
    let mut streaming = command(
        &world.here,
        &["stream", "-", "anna", "ben", "--live", "--json"],
    );
    let mut sender = Sender::start({
        streaming.args(["--name", "camera"]);
        streaming
    });
    // 1 MB/s, in pieces as a camera makes them, each with its number.
    let stdin = sender.stdin.take().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let camera = thread::spawn(move || {
        let (mut stdin, mut number) = (stdin, 0_u64);
        while stopped.try_recv().is_err() {
            let mut piece = vec![0; 10_000];
            piece[..8].copy_from_slice(&number.to_be_bytes());
            if stdin.write_all(&piece).is_err() {
                break;
            }
            number += 1;
            thread::sleep(Duration::from_millis(10));
        }
        number
    });
    let seen = thread::spawn(move || all_of(fast));
    read_some(&mut slow, 10_000);
    // The slow one is cut off, and comes back.
    slow.kill().unwrap();
    slow.wait().unwrap();
    let mut back = watch(ben, &[ZHENQIANG, "--yes"]);
    read_some(&mut back, 10_000);
    stop.send(()).unwrap();
    let number = camera.join().unwrap();
    let behind = thread::spawn(move || all_of(back));
    let output = sender.ends();
    assert!(output.status.success(), "{}", said(&output));
    let (came, code, words) = seen.join().unwrap();
    assert_eq!(code, Some(0), "{words}");
    // Whoever is fast enough misses nothing after the first piece.
    // What was read at once was not cut where a piece ends.
    let pieces: Vec<u64> = came[came.len() % 10_000..]
        .chunks(10_000)
        .map(|piece| u64::from_be_bytes(piece[..8].try_into().unwrap()))
        .collect();
    assert_eq!(*pieces.last().unwrap(), number - 1);
    assert!(pieces.windows(2).all(|two| two[1] == two[0] + 1));
    let (_, code, words) = behind.join().unwrap();
    assert_eq!(code, Some(0), "{words}");
    let words = said(&output);
    assert!(
        words.contains("\"again\"") && words.contains("\"streamed\""),
        "{words}"
    );
}

#[test]
fn hooks_accept_a_stream_without_a_person_and_it_is_recorded() {
    let world = talk(
        "[OnMeta]\ncamera.rhai\n[OnReceived]\nseen.rhai\n[folder]\ntakes = messages\nrecord = yes\n",
    );
    let script = |file: &str, text: &str| fs::write(theirs(&world).join(file), text).unwrap();
    script(
        "camera.rhai",
        r#"
        if meta.kind == "stream" && meta.filename == "camera" { accept_stream(); }
        reject("only the camera");
        "#,
    );
    script(
        "seen.rhai",
        "log.info(`recorded ${meta.filesize} ${meta.incomplete == true}`);",
    );
    let (server, lines) = Process::serve_with_lines(&world.there);
    let camera = |name: &str| {
        let mut streaming = stream(&world, &server, "-");
        streaming.args(["--name", name]);
        Sender::start(streaming)
    };
    let output = camera("door").ends();
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    let bytes = noise(5 << 20);
    let mut sender = camera("camera");
    sender.write(&bytes);
    let output = sender.ends();
    assert!(output.status.success(), "{}", said(&output));
    wait_for_all(&lines, &["recorded 5242880 false"]);
    // One that is cut off is kept, and says so.
    let mut sender = camera("camera");
    sender.write(&bytes[..1_000_000]);
    let part = || {
        let entries = fs::read_dir(theirs(&world)).unwrap().flatten();
        let len = |path: PathBuf| path.metadata().map_or(0, |about| about.len());
        entries.map(|entry| len(entry.path())).sum::<u64>() >= 6_242_880
    };
    until("it is there", part);
    sender.child.kill().unwrap();
    sender.child.wait().unwrap();
    wait_for_all(&lines, &["recorded 1000000 true"]);
    // The server ends in the middle of one.
    let mut sender = camera("camera");
    sender.write(b"the beginning");
    until("three are there", || hidden(&theirs(&world)));
    server.stop();
    let _ = sender.ends();
    let recorded = names(&theirs(&world), ".data");
    assert_eq!(recorded.len(), 3, "{recorded:?}");
    let mut all: Vec<_> = recorded
        .iter()
        .map(|file| fs::read(theirs(&world).join(file)).unwrap())
        .collect();
    all.sort_by_key(Vec::len);
    assert!(
        all == [
            b"the beginning".to_vec(),
            bytes[..1_000_000].to_vec(),
            bytes
        ]
    );
    let metas = read_metas(&theirs(&world), ".meta");
    let incomplete = metas
        .iter()
        .filter(|meta| meta.extra.contains_key("incomplete"));
    assert_eq!(incomplete.count(), 2);
}

/// Bytes of memory that a process holds.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() << 10
}

/// Whether a file of 13 bytes is there under a name that nobody sees.
fn hidden(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).unwrap().flatten();
    entries.any(|entry| entry.metadata().is_ok_and(|about| about.len() == 13))
}

#[test]
fn a_chat_streams_a_file_and_watches_one() {
    let (world, people) = three();
    let (anna, _) = &people[0];
    let film = world.file("film.mp4", &noise(2 << 20));
    fs::copy(&film, film.with_file_name("other.mp4")).unwrap();
    let mut chat = command(&world.here, &["chat", "anna"]);
    chat.current_dir(film.parent().unwrap());
    let mut here = Terminal::start(chat);
    here.shows("/help lists the commands");
    let there = world.dir.path().join("there-chat");
    fs::create_dir(&there).unwrap();
    let mut chat = command(anna, &["chat", ZHENQIANG]);
    chat.current_dir(&there);
    let mut back = Terminal::start(chat);
    back.shows("/help lists the commands");
    here.press("/stream film.mp4\r");
    back.shows("wants to stream film.mp4: /y to watch it, /n to refuse");
    back.press("/n\r");
    here.shows("not now");
    here.press("/stream other.mp4\r");
    back.shows("wants to stream other.mp4: /y to watch it, /n to refuse");
    back.press("/y seen.mp4\r");
    here.shows("has watched other.mp4 to its end");
    back.shows("has ended: 2.1 MB");
    assert!(fs::read(there.join("seen.mp4")).unwrap() == noise(2 << 20));
    back.press("/y\r");
    back.shows("no stream is offered");
}

#[test]
fn a_stream_of_a_contact_who_asks_too_often_waits() {
    let world = talk(TALK);
    let server = Process::serve(&world.there);
    let asking: Vec<_> = (0..4)
        .map(|_| Sender::start(stream(&world, &server, "-")))
        .collect();
    let mut fifth = None;
    until("the fifth is told so", || {
        let mut streaming = stream(&world, &server, "-");
        let output = streaming.stdin(Stdio::null()).arg("--json");
        let mut child = output
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        for _ in 0..200 {
            if child.try_wait().unwrap().is_some() {
                let output = child.wait_with_output().unwrap();
                let is_it = said(&output).contains("wait for an answer already");
                fifth = Some(output);
                return is_it;
            }
            thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        false
    });
    assert_eq!(fifth.unwrap().status.code(), Some(5));
    for mut one in asking {
        one.child.kill().unwrap();
        one.child.wait().unwrap();
    }
}

/// How long pieces are under way that are written at this rate: the median and the 99th percentile,
/// in milliseconds.
fn delays(pieces: usize, len: usize, every: Duration) -> (f64, f64) {
    let world = talk(TALK);
    let server = Process::serve(&world.there);
    let mut viewer = watch(&world.there, &[ZHENQIANG, "--yes"]);
    let mut sender = Sender::start(stream(&world, &server, "-"));
    let begun = Instant::now();
    let reading = thread::spawn(move || {
        let mut times = Vec::new();
        for _ in 0..pieces {
            let piece = read_some(&mut viewer, len);
            let sent = u64::from_be_bytes(piece[..8].try_into().unwrap());
            times.push(begun.elapsed().as_nanos() as u64 - sent);
        }
        let _ = all_of(viewer);
        times
    });
    let mut piece = noise(len);
    for number in 0..pieces {
        let at = begun + every * u32::try_from(number).unwrap();
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let now = begun.elapsed().as_nanos() as u64;
        piece[..8].copy_from_slice(&now.to_be_bytes());
        sender.write(&piece);
    }
    let output = sender.ends();
    assert!(output.status.success(), "{}", said(&output));
    let mut times = reading.join().unwrap();
    // The first ones waited until somebody watched.
    let mut times = times.split_off(pieces / 10);
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100] as f64 / 1e6;
    (at(50), at(99))
}

#[test]
#[ignore = "takes half a minute, alone on the machine"]
fn how_long_a_piece_is_under_way() {
    let (median, worst) = delays(1_000, 1_024, Duration::from_micros(15_625));
    println!("64 KiB/s: {median:.2} ms, 99 of 100 below {worst:.2} ms");
    let (median, worst) = delays(1_000, 10_000, Duration::from_millis(10));
    println!("1 MB/s: {median:.2} ms, 99 of 100 below {worst:.2} ms");
}

/// Moves all bytes into a pipe or out of one; returns how many.
fn moved(from: impl AsFd, to: impl AsFd) -> u64 {
    let mut all = 0;
    for pipe in [from.as_fd(), to.as_fd()] {
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, 1 << 20);
    }
    loop {
        match splice(&from, None, &to, None, 1 << 20, SpliceFlags::MOVE).unwrap() {
            0 => return all,
            n => all += n as u64,
        }
    }
}

#[test]
#[ignore = "takes a minute and 2 GiB of memory, alone on the machine"]
fn how_fast_a_gibibyte_is_streamed() {
    const ALL: u64 = 1 << 30;
    let world = World::in_memory(OPEN);
    world.folder("chat", TALK);
    let server = Process::serve(&world.there);
    let piece = noise(1 << 20);
    let path = world.dir.path().join("gibibyte");
    let mut file = fs::File::create(&path).unwrap();
    for _ in 0..1_024 {
        file.write_all(&piece).unwrap();
    }
    let speed = |begun: Instant| ALL as f64 / 1e6 / begun.elapsed().as_secs_f64();
    let send = || {
        let target = format!("{ROLAND}:photo");
        let mut sending = command(&world.here, &["send", "--again"]);
        sending
            .arg(&path)
            .args([&target, "--server", &server.address]);
        let begun = Instant::now();
        assert!(sending.output().unwrap().status.success());
        let speed = speed(begun);
        for file in world.arrived(".data") {
            fs::remove_file(world.photo().join(file)).unwrap();
        }
        speed
    };
    let streamed = || {
        let mut viewer = watch(&world.there, &[ZHENQIANG, "--yes"]);
        let mut sending = stream(&world, &server, "-");
        let begun = Instant::now();
        let sending = sending.arg("--no-progress").stdin(Stdio::piped());
        let mut sender = sending.stdout(Stdio::null()).spawn().unwrap();
        // The cores are for the programs: here, the bytes are moved unseen.
        let (input, file) = (sender.stdin.take().unwrap(), fs::File::open(&path).unwrap());
        let feed = thread::spawn(move || moved(file, input));
        let null = fs::File::create("/dev/null").unwrap();
        assert_eq!(moved(viewer.stdout.take().unwrap(), null), ALL);
        let speed = speed(begun);
        assert_eq!(feed.join().unwrap(), ALL);
        assert!(sender.wait_with_output().unwrap().status.success());
        assert!(viewer.wait().unwrap().success());
        speed
    };
    send();
    for _ in 0..5 {
        let (sent, pipe) = (send(), streamed());
        println!(
            "send {sent:.0} MB/s, stream from a pipe to a pipe {pipe:.0} MB/s: {:.2}",
            pipe / sent
        );
    }
}

#[test]
fn whoever_watches_a_live_stream_slowly_misses_whole_pieces_which_are_counted() {
    const ALL: usize = 30_000_000;
    let world = talk(TALK);
    let server = Process::serve(&world.there);
    let mut viewer = watch(&world.there, &[ZHENQIANG, "--yes"]);
    let mut streaming = stream(&world, &server, "-");
    streaming.args(["--live", "--json"]);
    let mut sender = Sender::start(streaming);
    // Nothing is sent before somebody watches.
    let mut written = 0;
    let mut first = Vec::new();
    while first.is_empty() {
        sender.write(&[7; 1_000]);
        written += 1_000;
        thread::sleep(Duration::from_millis(20));
        let stdout = viewer.stdout.as_mut().unwrap();
        rustix::io::ioctl_fionbio(&*stdout, true).unwrap();
        let mut buffer = [0; 65_536];
        if let Ok(n) = stdout.read(&mut buffer) {
            first.extend_from_slice(&buffer[..n]);
        }
        rustix::io::ioctl_fionbio(&*stdout, false).unwrap();
    }
    // Nobody reads, and the input does not wait for that.
    sender.write(&noise(ALL));
    written += ALL;
    let reading = thread::spawn(move || all_of(viewer));
    let output = sender.ends();
    assert!(output.status.success(), "{}", said(&output));
    let (came, code, words) = reading.join().unwrap();
    assert_eq!(code, Some(0), "{words}");
    let over = String::from_utf8(output.stdout).unwrap();
    let over: serde_json::Value = serde_json::from_str(over.lines().last().unwrap()).unwrap();
    assert_eq!(over["status"], "streamed");
    let (pieces, dropped) = (&over["dropped_pieces"], &over["dropped_bytes"]);
    let (pieces, dropped) = (pieces.as_u64().unwrap(), dropped.as_u64().unwrap());
    assert!(
        pieces > 0 && dropped > 1_000_000,
        "{pieces} pieces, {dropped} bytes"
    );
    let all = (first.len() + came.len()) as u64;
    assert_eq!(over["bytes"].as_u64(), Some(all));
    // What came before anybody watched counts for nobody.
    assert!(all + dropped <= written as u64);
    assert!(all + dropped >= ALL as u64);
}

/// A stream that a program of its own sends, and the answer to it.
async fn raw(server: &Process, meta: Meta) -> (peer::Side, Wire) {
    let session = Wire {
        session: true,
        ..Wire::request(Meta::new(ZHENQIANG, ROLAND, "", ""))
    };
    let mut side = peer::open(&server.address, &session).await;
    let asked = Wire::request(meta);
    side.say(Kind::Meta, 1, asked.to_json().as_bytes()).await;
    let (_, body) = side.hear().await.unwrap();
    let answer = Wire::from_json(&body).unwrap();
    side.with_key(1, &answer);
    (side, answer)
}

fn camera() -> Meta {
    let id = TransferId([7; 16]);
    let mut meta = Meta::of_stream((ZHENQIANG, ROLAND), "chat", "camera", id);
    meta.datetime = "30-12-2018_23-59-59".to_owned();
    meta
}

/// The code of the error that ends a transfer.
async fn code_of(side: &mut peer::Side) -> String {
    loop {
        let (head, body) = side.hear().await.unwrap();
        if head.kind == Kind::Error {
            let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
            return error["code"].as_str().unwrap().to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_who_does_not_wait_for_the_viewer_is_cut_off() {
    let world = talk(TALK);
    let server = Process::serve(&world.there);
    let viewer = watch(&world.there, &[ZHENQIANG, "--yes"]);
    let (mut side, answer) = raw(&server, camera()).await;
    assert!(answer.filekey.is_some(), "{}", answer.meta.error);
    // Nobody reads: what the viewer's pipes and sockets take is far less than this.
    let block = noise(65_536);
    for _ in 0..200 {
        side.block(1, &block, false).await;
    }
    assert_eq!(code_of(&mut side).await, "integrity");
    let (_, code, words) = all_of(viewer);
    assert_eq!(code, Some(5), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_stays_whatever_ends_it_and_its_meta_is_right() {
    let config = "[OnMeta]\ncamera.rhai\n[folder]\ntakes = messages\nrecord = yes\n";
    let world = talk(config);
    let script = theirs(&world).join("camera.rhai");
    fs::write(script, "accept_stream();").unwrap();
    let ini = world.there.path().join("m2y.ini");
    fs::write(ini, "[server]\nmax_filesize = 300K\n").unwrap();
    let server = Process::serve(&world.there);
    // A checksum that is not the one of what came.
    let (mut side, answer) = raw(&server, camera()).await;
    assert!(answer.filekey.is_some(), "{}", answer.meta.error);
    side.block(1, b"what came", true).await;
    side.trailer(1, b"something else").await;
    assert_eq!(code_of(&mut side).await, "integrity");
    // More than is taken.
    let mut sender = Sender::start(stream(&world, &server, "-"));
    let bytes = noise(1 << 20);
    let _ = sender.stdin.as_mut().unwrap().write_all(&bytes);
    let output = sender.ends();
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(said(&output).contains("too large"), "{}", said(&output));
    until("both are there", || {
        names(&theirs(&world), ".data").len() == 2
    });
    for meta in read_metas(&theirs(&world), ".meta") {
        assert!(meta.extra.contains_key("incomplete"));
        let file = names(&theirs(&world), ".data").into_iter().find(|file| {
            let len = fs::metadata(theirs(&world).join(file)).unwrap().len();
            Some(len) == meta.filesize
        });
        let there = fs::read(theirs(&world).join(file.unwrap())).unwrap();
        assert_eq!(meta.file_crc, Some(crc32fast::hash(&there)));
        assert!(there == b"what came" || bytes.starts_with(&there));
    }
    // What is not recorded has no size to be limited.
    fs::write(theirs(&world).join("m2y.config"), TALK).unwrap();
    let viewer = watch(&world.there, &[ZHENQIANG, "--yes"]);
    let reading = thread::spawn(move || all_of(viewer));
    let mut sender = Sender::start(stream(&world, &server, "-"));
    sender.write(&bytes);
    let output = sender.ends();
    assert!(output.status.success(), "{}", said(&output));
    assert!(reading.join().unwrap().0 == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_calls_itself_a_stream_is_not_put_where_only_messages_go() {
    let world = talk(&format!("{TALK}[share]\n{ZHENQIANG} = list get put\n"));
    let server = Process::serve(&world.there);
    let session = Wire {
        session: true,
        ..Wire::request(Meta::new(ZHENQIANG, ROLAND, "", ""))
    };
    let mut side = peer::open(&server.address, &session).await;
    for (transfer, conflict) in (1..).zip([Conflict::Refuse, Conflict::Rename]) {
        let mut meta = camera();
        meta.filesize = Some(9);
        let put = Request::Put {
            path: "chat/a.txt".to_owned(),
            meta: Box::new(Wire::request(meta)),
            modified: 7,
            conflict,
        };
        side.say(Kind::Request, transfer, &put.to_body()).await;
        let (head, body) = side.hear().await.unwrap();
        assert_eq!(head.transfer, transfer);
        let answer = Wire::from_json(&body).unwrap();
        assert!(answer.filekey.is_none());
        assert!(
            answer.meta.error.contains("takes messages only"),
            "{}",
            answer.meta.error
        );
    }
}

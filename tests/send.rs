//! `m2y send` of many files: one session, a result for each, and what is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{
    M2Y, OPEN, Process, ROLAND, World, ZHENQIANG, names, noise, read_meta, relay::Relay, said,
};
use m2y::transfer::receive::decision::FILES;
use serde_json::Value;

fn send(world: &World, address: &str) -> Command {
    let mut command = Command::new(M2Y);
    command
        .args(["send", "--server", address])
        .env_remove("M2Y_ROOT")
        .env_remove("M2Y_SERVER")
        .current_dir(world.dir.path());
    command
}

/// `send`, of files themselves.
fn send_files(world: &World, address: &str) -> Command {
    let mut command = send(world, address);
    command
        .args(["--from", ZHENQIANG, "--to", ROLAND, "--folder", "photo"])
        .arg("--root")
        .arg(world.here.path());
    command
}

fn metas(world: &World, count: usize) -> Vec<PathBuf> {
    (0..count)
        .map(|n| {
            let file = world.file(&format!("f{n:03}.bin"), format!("file {n}").as_bytes());
            world.meta("photo", &file)
        })
        .collect()
}

/// Many `.meta` of one file of so many bytes.
fn metas_of_one(world: &World, len: usize, count: usize) -> Vec<PathBuf> {
    let file = world.file("f.bin", &noise(len));
    let first = world.meta("photo", &file);
    let text = fs::read(&first).unwrap();
    fs::remove_file(&first).unwrap();
    (0..count)
        .map(|n| {
            let path = first.with_file_name(format!("m{n:04}.meta"));
            fs::write(&path, &text).unwrap();
            path
        })
        .collect()
}

fn outbox(world: &World) -> PathBuf {
    world.sender.path().join("photo")
}

fn objects(output: &Output) -> Vec<Value> {
    String::from_utf8(output.stdout.clone())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn with<'a>(objects: &'a [Value], status: &str) -> Vec<&'a Value> {
    objects.iter().filter(|o| o["status"] == status).collect()
}

/// An address on which nobody listens: it was free a moment ago.
fn nobody() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    port.local_addr().unwrap().to_string()
}

#[test]
fn many_metas_go_through_one_connection() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let relay = Relay::before(server.address.clone(), usize::MAX);
    let metas = metas(&world, 300);
    let output = send(&world, &relay.address).args(&metas).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(relay.connections(), 1);
    assert_eq!(world.arrived(".data").len(), 300);
    assert_eq!(world.done().len(), 300);
    assert!(names(&outbox(&world), ".meta").is_empty());
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), 301);
    assert!(
        lines.contains("\nsent 300 files to roland-frei: 2.3 kB in "),
        "{lines}"
    );
}

#[test]
fn a_directory_stands_for_the_metas_in_it_that_are_its_users_own() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    metas(&world, 3);
    let outbox = outbox(&world);
    // From somebody else: one that arrived, one that was refused.
    let meta = common::document(ROLAND, ZHENQIANG, "photo").to_file();
    fs::write(outbox.join("arrived.meta"), &meta).unwrap();
    fs::write(outbox.join("arrived.data"), "x").unwrap();
    fs::write(outbox.join("refused.meta"), &meta).unwrap();
    fs::write(outbox.join(".hidden.meta"), "{}").unwrap();
    let output = send(&world, &server.address)
        .arg("--json")
        .arg(&outbox)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(world.done().len(), 3);
    let summary = objects(&output).pop().unwrap();
    assert_eq!(
        (&summary["sent"], &summary["failed"]),
        (&3.into(), &0.into())
    );
    assert_eq!(
        names(&outbox, ".meta"),
        [".hidden.meta", "arrived.meta", "refused.meta"]
    );
}

#[test]
fn some_are_refused_and_the_others_stored_with_an_object_for_each() {
    let world = World::new("[OnMeta]\nodd.rhai\n");
    world.script(
        "odd.rhai",
        "if meta.filename.ends_with(\"1.bin\") { throw \"no ones\"; }",
    );
    let server = Process::serve(&world.there);
    let relay = Relay::before(server.address.clone(), usize::MAX);
    let metas = metas(&world, 30);
    let output = send(&world, &relay.address)
        .arg("--json")
        .args(&metas)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert_eq!(relay.connections(), 1);
    let objects = objects(&output);
    assert_eq!(with(&objects, "sent").len(), 27);
    let failed = with(&objects, "failed");
    assert_eq!(failed.len(), 3);
    for object in failed {
        assert_eq!(object["code"], "refused");
        let sentence = object["error"].as_str().unwrap();
        assert!(
            sentence.starts_with("rejected by roland-frei: no ones ("),
            "{sentence}"
        );
        assert!(object["file"].as_str().unwrap().ends_with("1.meta"));
    }
    let summary = with(&objects, "summary")[0];
    let numbers = ["sent", "failed", "left", "skipped", "bytes"].map(|f| summary[f].as_u64());
    // "file 0" to "file 9" have 6 bytes, the others 7.
    assert_eq!(numbers, [27, 3, 0, 0, 9 * 6 + 18 * 7].map(Some));
    assert!(summary["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(world.arrived(".data").len(), 27);
    assert_eq!((world.done().len(), world.failed().len()), (27, 3));

    // All for one reason: that is the result.
    world.script("odd.rhai", "throw \"nothing today\";");
    let failed = names(&outbox(&world), ".failed");
    let failed: Vec<_> = failed
        .iter()
        .map(|name| outbox(&world).join(name))
        .collect();
    let output = send(&world, &relay.address).args(&failed).output().unwrap();
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(
        said(&output).contains("0 of 3 files sent, 3 failed"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_directory_recursively_keeps_where_its_files_were() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let holiday = world.dir.path().join("holiday");
    for (path, text) in [
        ("a.jpg", "1"),
        (".hidden", "2"),
        ("day1/a.jpg", "3"),
        ("day1/night/a.jpg", "4"),
        ("day2/own.meta", "5"),
    ] {
        let path = holiday.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    symlink("/etc", holiday.join("link")).unwrap();
    symlink("a.jpg", holiday.join("z.jpg")).unwrap();

    let output = send_files(&world, &server.address)
        .arg("holiday")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(
        said(&output).contains("holiday is a directory: add --recursive"),
        "{}",
        said(&output)
    );
    assert!(!outbox(&world).exists());

    let output = send_files(&world, &server.address)
        .args(["-r", "holiday"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("skipped 2 links and special files"),
        "{}",
        said(&output)
    );
    let mut arrived: Vec<_> = world
        .arrived(".meta")
        .iter()
        .map(|name| {
            let path = world.photo().join(name);
            let meta = read_meta(&path);
            let text = fs::read_to_string(path.with_extension("data")).unwrap();
            (
                meta.extra["path"].as_str().unwrap().to_owned(),
                meta.filename,
                text,
            )
        })
        .collect();
    arrived.sort();
    let expected = [
        ("holiday/.hidden", ".hidden", "2"),
        ("holiday/a.jpg", "a.jpg", "1"),
        ("holiday/day1/a.jpg", "a.jpg", "3"),
        ("holiday/day1/night/a.jpg", "a.jpg", "4"),
        ("holiday/day2/own.meta", "own.meta", "5"),
    ]
    .map(|(path, name, text)| (path.to_owned(), name.to_owned(), text.to_owned()));
    assert_eq!(arrived, expected);
    assert!(!outbox(&world).exists());

    // Of the sender's own folder, the files are sent, and nothing of m2y's.
    fs::create_dir(outbox(&world)).unwrap();
    fs::write(outbox(&world).join("others.done"), "{}").unwrap();
    fs::write(outbox(&world).join("mine.txt"), "6").unwrap();
    let output = send_files(&world, &server.address)
        .args(["-r", "--json"])
        .arg(outbox(&world))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        with(&objects(&output), "sent").len(),
        1,
        "{}",
        said(&output)
    );
}

/// All that is below a directory, with its contents.
fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(snapshot(&path)),
            false => all.push((path.clone(), fs::read(&path).unwrap())),
        }
        all.push((path, Vec::new()));
    }
    all.sort();
    all
}

#[test]
fn a_dry_run_connects_to_nobody_and_writes_nothing() {
    let world = World::new(OPEN);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    world.file("a.bin", b"hello");
    world.file("b.bin", b"hi");
    let before = snapshot(world.dir.path());
    let output = send_files(&world, &address)
        .args(["--dry-run", "--json", "a.bin", "b.bin"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let objects = objects(&output);
    let would = with(&objects, "would-send");
    assert_eq!(would.len(), 2);
    assert_eq!(would[0]["address"], address.as_str());
    assert_eq!(
        (&would[0]["to"], &would[0]["bytes"]),
        (&ROLAND.into(), &5.into())
    );
    let summary = with(&objects, "summary")[0];
    assert_eq!(
        (&summary["would-send"], &summary["bytes"]),
        (&2.into(), &7.into())
    );

    // What is wrong is found.
    let dry = |args: &[&str]| {
        let mut command = send_files(&world, &address);
        command.arg("--dry-run").args(args).output().unwrap()
    };
    assert_eq!(dry(&["missing"]).status.code(), Some(4));
    assert_eq!(dry(&["a.bin", "missing"]).status.code(), Some(3));
    let output = dry(&["a.bin", "b.bin"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.ends_with("would send 2 files to roland-frei: 7 bytes\n"),
        "{text}"
    );
    assert_eq!(snapshot(world.dir.path()), before);

    let metas = metas(&world, 2);
    let before = snapshot(world.dir.path());
    let output = send(&world, &address)
        .arg("--dry-run")
        .args(&metas)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(snapshot(world.dir.path()), before);
    let nobody_came = listener.accept().unwrap_err().kind();
    assert_eq!(nobody_came, std::io::ErrorKind::WouldBlock);
}

#[test]
fn the_limit_is_kept() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let files = ["a.bin", "b.bin"].map(|name| world.file(name, &noise(500_000)));
    let begun = Instant::now();
    let output = send_files(&world, &server.address)
        .args(["--limit", "500K"])
        .args(&files)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1_500), "{took:?}");
    for wrong in ["0", "fast", "1.5M", "10MB"] {
        let output = send_files(&world, &server.address)
            .args(["--limit", wrong])
            .args(&files)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(
            said(&output).contains("like 500K, 10M or 1G"),
            "{}",
            said(&output)
        );
    }
}

fn interrupt(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

/// A world whose receiver takes the file `f000.bin` at once, and others never.
fn slow() -> (World, Process) {
    let world = World::new("[OnMeta]\nslow.sh\n");
    world.script(
        "slow.sh",
        "#!/bin/sh\ncase $M2Y_FILENAME in f000.bin) ;; *) sleep 20 ;; esac\n",
    );
    let server = Process::serve(&world.there);
    (world, server)
}

/// Sends until a first line was read, then interrupts. Returns how many became `.failed`.
fn interrupted(world: &World, mut command: Command) -> usize {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.starts_with("sent f000.bin"), "{line}");
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("m2y: interrupted: 1 file sent, "), "{text}");
    assert_eq!(world.done().len(), 1);
    let failed = world.failed();
    assert!((1..=FILES as usize).contains(&failed.len()), "{text}");
    assert!(failed.iter().all(|meta| meta.error == "interrupted"));
    failed.len()
}

#[test]
fn an_interrupt_leaves_what_was_not_begun() {
    let (world, server) = slow();
    let metas = metas(&world, 400);
    let mut command = send(&world, &server.address);
    command.args(&metas);
    let failed = interrupted(&world, command);
    assert_eq!(names(&outbox(&world), ".meta").len(), 400 - 1 - failed);
    assert_eq!(names(&outbox(&world), "").len(), 400);
}

#[test]
fn after_an_interrupt_the_same_command_at_once_sends_the_rest() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let files: Vec<_> = (0..2_000)
        .map(|n| world.file(&format!("f{n:04}.bin"), format!("file {n}").as_bytes()))
        .collect();
    let mut child = send_files(&world, &server.address)
        .args(&files)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    interrupt(&child);
    // Not even a moment to let the server notice.
    let output = send_files(&world, &server.address)
        .args(&files)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    drop(out);
    child.wait().unwrap();
    assert_eq!(world.arrived(".data").len(), 2_000, "each once");
    assert!(!outbox(&world).exists());
    assert_eq!(sent_list(&world, &["-n", "5000"]).len(), 2_000);
    assert!(sent_list(&world, &["--failed"]).is_empty());
}

#[test]
fn an_interrupt_leaves_a_failed_one_that_was_not_begun_as_it_was() {
    let (world, server) = slow();
    let mut files = vec![metas(&world, 1)[0].clone()];
    for n in 0..400 {
        let meta = world.meta("photo", &world.file(&format!("g{n:03}.bin"), b"x"));
        let failed = meta.with_extension("failed");
        fs::rename(meta, &failed).unwrap();
        files.push(failed);
    }
    let mut command = send(&world, &server.address);
    command.args(&files);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(&outbox(&world), ".failed").len(), 400);
    let untouched = world.failed().iter().filter(|m| m.error.is_empty()).count();
    assert!(
        (400 - FILES as usize..400).contains(&untouched),
        "{untouched}"
    );
}

/// Sends one `.meta`, which succeeds.
fn sent(world: &World, address: &str, meta: &Path) {
    let output = send(world, address).arg(meta).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn the_meta_of_a_person_becomes_the_done_with_all_that_was_in_it() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let meta = metas(&world, 1).remove(0);
    // White space that a person left makes the document longer than what is written over it.
    let text = fs::read_to_string(&meta).unwrap();
    let text = text.replace('{', &format!("{{{}\"album\": \"sea\",", " ".repeat(2_000)));
    fs::write(&meta, text).unwrap();
    let (was, done) = (inode(&meta), meta.with_extension("done"));
    sent(&world, &server.address, &meta);
    assert_eq!(inode(&done), was);
    assert_eq!(names(&outbox(&world), ""), ["f000.done"]);
    let (document, crc) = (read_meta(&done), crc32fast::hash(b"file 0"));
    assert_eq!(document.extra["album"].as_str(), Some("sea"));
    assert_eq!(document.file_crc, Some(crc));
}

#[test]
fn what_else_has_the_contents_of_a_meta_is_not_written_to_when_it_is_sent() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let metas = metas(&world, 3);
    let (second, target) = (outbox(&world).join("second"), outbox(&world).join("target"));
    let texts: Vec<_> = metas.iter().map(|m| fs::read(m).unwrap()).collect();
    fs::hard_link(&metas[0], &second).unwrap();
    fs::rename(&metas[1], &target).unwrap();
    symlink("target", &metas[1]).unwrap();
    // One of many pages is not written over either: a kill could leave a part of each.
    let long = [texts[2].as_slice(), " ".repeat(10_000).as_bytes()].concat();
    fs::write(&metas[2], &long).unwrap();
    fs::hard_link(&metas[2], outbox(&world).join("long")).unwrap();
    for meta in &metas {
        sent(&world, &server.address, meta);
        let done = meta.with_extension("done");
        assert!(fs::symlink_metadata(&done).unwrap().is_file() && !meta.exists());
        assert!(read_meta(&done).file_crc.is_some());
    }
    assert!(fs::read(second).unwrap() == texts[0]);
    assert!(fs::read(target).unwrap() == texts[1]);
    assert!(fs::read(outbox(&world).join("long")).unwrap() == long);
}

#[test]
fn a_dead_server_is_tried_once() {
    let world = World::new(OPEN);
    // One that hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs_up = listener.local_addr().unwrap().to_string();
    let tried = Arc::new(AtomicU64::new(0));
    let counted = tried.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(client);
        }
    });
    for address in [nobody(), hangs_up] {
        let metas = metas(&world, 20);
        let output = send(&world, &address)
            .arg("--json")
            .args(&metas)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", said(&output));
        let objects = objects(&output);
        assert_eq!(with(&objects, "failed").len(), 1, "{}", said(&output));
        assert_eq!(with(&objects, "left").len(), 19);
        let summary = with(&objects, "summary")[0];
        assert_eq!(
            (&summary["failed"], &summary["left"]),
            (&1.into(), &19.into())
        );
        assert_eq!(names(&outbox(&world), ".failed").len(), 1);
        assert_eq!(names(&outbox(&world), ".meta").len(), 19);
        fs::remove_dir_all(outbox(&world)).unwrap();

        let files: Vec<_> = (0..20)
            .map(|n| world.file(&format!("{n}.txt"), b"x"))
            .collect();
        let output = send_files(&world, &address).args(&files).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", said(&output));
        assert!(
            said(&output)
                .contains("0 of 20 files sent, 1 failed, 19 not tried; run the same command"),
            "{}",
            said(&output)
        );
        assert!(!outbox(&world).exists());
        // Those that were not tried are known too.
        assert_eq!(sent_list(&world, &["--failed"]).len(), 20);
    }
    assert_eq!(tried.load(Ordering::SeqCst), 2);
}

#[test]
fn a_session_that_breaks_is_followed_by_another() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    // Each connection carries a few of the files, then it is cut.
    let relay = Relay::before(server.address.clone(), 400_000);
    // More than two sessions take at a time.
    let count = 2 * FILES as usize + 50;
    let metas = metas_of_one(&world, 20_000, count);
    let output = send(&world, &relay.address).args(&metas).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(relay.connections() > 1);
    assert_eq!(world.done().len(), count);
    // What was under way went on, and all are there once.
    assert_eq!(world.arrived(".data").len(), count);
}

#[test]
fn sessions_that_break_before_anything_arrives_are_few() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let relay = Relay::before(server.address.clone(), 3_000);
    // More than three sessions take at a time, and nothing of them gets through.
    let count = 3 * FILES as usize + 50;
    let metas = metas_of_one(&world, 1_000_000, count);
    let output = send(&world, &relay.address).args(&metas).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert_eq!(relay.connections(), 3);
    assert!(!names(&outbox(&world), ".meta").is_empty());
    assert!(world.done().is_empty());
}

/// What `m2y sent` says of the sender's root.
fn sent_list(world: &World, args: &[&str]) -> Vec<Value> {
    let output = Command::new(M2Y)
        .args(["--json", "sent", "--user", ZHENQIANG, "--root"])
        .arg(world.here.path())
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    objects(&output)
}

#[test]
fn the_same_command_skips_identical_files_and_sends_what_failed_or_changed() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    for n in 0..5 {
        world.file(&format!("f{n}.txt"), b"x");
    }
    let run = |address: &str, args: &[&str]| {
        let mut command = send_files(&world, address);
        command.arg("--json").args(args).output().unwrap()
    };
    let output = run(&server.address, &["f0.txt", "f1.txt"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(run(&nobody(), &["f2.txt"]).status.code(), Some(5));
    let failed = sent_list(&world, &["--failed"]);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["code"], "later");
    assert!(failed[0]["file"].as_str().unwrap().ends_with("/f2.txt"));
    let all = ["f0.txt", "f1.txt", "f2.txt", "f3.txt"];
    // It changed since.
    fs::write(world.dir.path().join("f1.txt"), "longer").unwrap();
    let dry = run(&server.address, &[&["--dry-run"], &all[..]].concat());
    assert_eq!(with(&objects(&dry), "skipped").len(), 1);
    let output = run(&server.address, &all);
    assert!(output.status.success(), "{}", said(&output));
    let told = objects(&output);
    assert_eq!(with(&told, "skipped").len(), 1, "{}", said(&output));
    let went = with(&told, "sent");
    assert_eq!(went.len(), 3);
    let is_retry = |one: &&&Value| one["id"] == failed[0]["id"];
    assert_eq!(went.iter().filter(is_retry).count(), 1, "the same transfer");
    assert_eq!(world.arrived(".data").len(), 5);
    assert!(sent_list(&world, &["--failed"]).is_empty());
    assert_eq!(sent_list(&world, &[]).len(), 4);
    assert!(!outbox(&world).exists(), "nothing beside the person's own");

    let mut command = send_files(&world, &server.address);
    let output = command.args(all).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "4 identical files skipped (--again sends them again)\n"
    );

    // With --again each is a new file, and is known as such afterwards.
    for again in [&["--again"][..], &["--conflict", "rename"]] {
        let before = world.arrived(".data").len();
        let output = run(&server.address, &[again, &all[..]].concat());
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(world.arrived(".data").len(), before + 4);
    }
}

#[test]
fn what_failed_is_sent_by_failed_alone() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    world.script(
        "hook.rhai",
        "if meta.filename == \"b.txt\" { reject(\"no b\"); }",
    );
    let server = Process::serve(&world.there);
    let holiday = world.dir.path().join("holiday");
    fs::create_dir(&holiday).unwrap();
    for name in ["a.txt", "b.txt", "c.txt"] {
        fs::write(holiday.join(name), name).unwrap();
    }
    symlink(holiday.join("b.txt"), world.dir.path().join("link.txt")).unwrap();
    let output = send_files(&world, &server.address)
        .args(["-r", "holiday"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let retry = |to: &[&str]| {
        let mut command = Command::new(M2Y);
        command.args(["--json", "send", "--failed", "--root"]);
        command.arg(world.here.path());
        command.args(["--from", ZHENQIANG, "--server", &server.address]);
        command.args(to).output().unwrap()
    };
    let output = retry(&[]);
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert_eq!(with(&objects(&output), "failed").len(), 1);
    // What was to go to somebody else is not meant.
    let output = retry(&["roland-frei:invoices"]);
    assert_eq!(with(&objects(&output), "summary")[0]["sent"], 0);
    world.script("hook.rhai", "");
    let output = retry(&["roland-frei:photo"]);
    assert!(output.status.success(), "{}", said(&output));
    let arrived = common::read_metas(&world.photo(), ".meta").into_iter();
    let arrived = arrived.filter(|meta| meta.error.is_empty());
    let mut paths: Vec<_> = arrived
        .map(|meta| meta.extra["path"].as_str().unwrap().to_owned())
        .collect();
    paths.sort();
    assert_eq!(paths, ["holiday/a.txt", "holiday/b.txt", "holiday/c.txt"]);
    assert!(sent_list(&world, &["--failed"]).is_empty());
    let output = retry(&["holiday/a.txt"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[test]
fn a_file_whose_contents_were_rejected_is_asked_for_again_or_forgotten() {
    let world = World::new("[OnMeta]\n[OnReceived]\nlook.rhai\n");
    world.script("look.rhai", "reject(\"not these\");");
    let server = Process::serve(&world.there);
    for name in ["a.txt", "b.txt"] {
        world.file(name, name.as_bytes());
    }
    let run = |name: &str| {
        let mut command = send_files(&world, &server.address);
        command.arg(name).output().unwrap()
    };
    for name in ["a.txt", "b.txt"] {
        assert_eq!(run(name).status.code(), Some(10));
    }
    // The server remembers that verdict for the transfer, so this has to be a new one.
    world.script("look.rhai", "");
    let output = run("a.txt");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(world.arrived(".data").len(), 1);
    assert_eq!(sent_list(&world, &["--failed"]).len(), 1);
    let forgot = sent_list(&world, &["--failed", "--forget"]);
    assert_eq!(forgot[0]["forgotten"], 1);
    assert!(sent_list(&world, &["--failed"]).is_empty());
    assert_eq!(
        sent_list(&world, &[]).len(),
        1,
        "what was sent is remembered"
    );
}

#[test]
fn the_same_command_after_a_kill_goes_on_where_the_file_stopped() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let bytes = noise(8 << 20);
    let file = world.file("big.bin", &bytes);
    let mut child = send_files(&world, &server.address)
        .args(["--limit", "4M"])
        .arg(&file)
        .spawn()
        .unwrap();
    let half = || {
        let partial = fs::read_dir(world.photo()).unwrap().find_map(|entry| {
            let path = entry.unwrap().path();
            let is_partial = path.extension().is_some_and(|e| e == "partial");
            is_partial.then(|| fs::metadata(path).map_or(0, |about| about.len()))
        });
        partial.unwrap_or_default() > 3 << 20
    };
    let begun = Instant::now();
    while !half() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing comes");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = send_files(&world, &server.address)
        .arg("--json")
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let resumed = objects(&output)[0]["resumed_from"].as_u64().unwrap();
    assert!(resumed > 2 << 20, "{}", said(&output));
    let data = world.arrived(".data");
    assert_eq!(data.len(), 1);
    assert_eq!(fs::read(world.photo().join(&data[0])).unwrap(), bytes);
}

#[test]
fn a_meta_that_was_interrupted_is_the_same_transfer_again() {
    let world = World::new("[OnMeta]\nwait.sh\n");
    world.script(
        "wait.sh",
        "#!/bin/sh\necho $M2Y_ID >> ../ids\nwhile [ ! -e ../go ]; do sleep 0.02; done\n",
    );
    let server = Process::serve(&world.there);
    let meta = &metas(&world, 1)[0];
    let ids = world.receiver.path().join("ids");
    let seen = || fs::read_to_string(&ids).unwrap_or_default();
    let mut child = send(&world, &server.address).arg(meta).spawn().unwrap();
    while seen().is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(meta.exists());
    fs::write(world.receiver.path().join("go"), "").unwrap();
    // The server may not have seen yet that nobody is there any more.
    let output = send(&world, &server.address).arg(meta).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let seen = seen();
    let ids: Vec<_> = seen.lines().collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(world.done()[0].id.unwrap().to_string(), ids[0]);
    assert_eq!(world.arrived(".data").len(), 1);
}

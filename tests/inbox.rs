//! What a receiver meets: files under their own names, `m2y inbox`, and what is left of those
//! that were refused.
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
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use common::{M2Y, OPEN, Process, ROLAND, World, ZHENQIANG, names, read_meta, said};
use m2y::{
    clock, journal::Journal, root::config::Config, store::Stores, transfer::receive::refused,
};
use serde_json::Value;

/// Files keep their names.
const ORIGINAL: &str = "[OnMeta]\n[OnReceived]\n[folder]\nnames = original\n";

fn send(world: &World, server: &Process, args: &[&str]) -> Output {
    Command::new(M2Y)
        .args(["send", "--json", "--from", ZHENQIANG, "--to", ROLAND])
        .args(["--folder", "photo", "--server", &server.address, "--root"])
        .arg(world.here.path())
        .args(args)
        .current_dir(world.dir.path())
        .output()
        .unwrap()
}

fn sent(world: &World, server: &Process, args: &[&str]) {
    let output = send(world, server, args);
    assert!(output.status.success(), "{}", said(&output));
}

fn inbox_command(world: &World, args: &[&str]) -> Command {
    let mut command = Command::new(M2Y);
    command
        .arg("inbox")
        .args(args)
        .env("M2Y_ROOT", world.there.path())
        .env("M2Y_USER", ROLAND)
        .current_dir(world.dir.path());
    command
}

/// What `m2y inbox` says to programs.
fn inbox(world: &World, args: &[&str]) -> Vec<Value> {
    let output = inbox_command(world, args).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn states(world: &World) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let entries = inbox(world, &[]).into_iter();
    entries
        .map(|entry| (text(&entry["filename"]), text(&entry["state"])))
        .collect()
}

fn read(world: &World, path: &str) -> String {
    fs::read_to_string(world.photo().join(path)).unwrap()
}

#[test]
fn a_folder_may_keep_the_names_and_the_tree_of_what_arrives() {
    let world = World::new(ORIGINAL);
    let server = Process::serve(&world.there);
    let day = world.dir.path().join("holiday/day1");
    fs::create_dir_all(&day).unwrap();
    fs::write(day.join("a.jpg"), "in a tree").unwrap();
    world.file("a.jpg", b"first");
    sent(&world, &server, &["a.jpg"]);
    sent(&world, &server, &["-r", "holiday"]);
    assert_eq!(read(&world, "a.jpg"), "first");
    assert_eq!(read(&world, "holiday/day1/a.jpg"), "in a tree");
    // A different file of that name gets a number.
    world.file("a.jpg", b"second one");
    sent(&world, &server, &["a.jpg"]);
    assert_eq!(read(&world, "a.jpg"), "first");
    let entries = inbox(&world, &[]);
    assert_eq!(entries.len(), 3);
    assert!(entries.iter().all(|entry| entry["state"] == "arrived"));
    let second = Path::new(entries[2]["path"].as_str().unwrap());
    assert_eq!(fs::read_to_string(second).unwrap(), "second one");
    assert!(second.starts_with(world.photo()) && second != world.photo().join("a.jpg"));

    assert!(world.arrived(".data").is_empty() && world.arrived(".meta").is_empty());
    let hidden = names(&world.photo().join(".received"), ".meta");
    assert_eq!(hidden.len(), 3);
    let meta = read_meta(&world.photo().join(".received").join(&hidden[0]));
    assert_eq!(meta.from, ZHENQIANG);
    assert!(meta.extra.contains_key("storedAs") && !meta.extra.contains_key("pendingPut"));
    // A file in the way of a directory.
    world.file("way", b"in the way");
    sent(&world, &server, &["way"]);
    let way = world.dir.path().join("deep/way");
    fs::create_dir_all(&way).unwrap();
    fs::write(way.join("x.txt"), "x").unwrap();
    let deep = world.dir.path().join("deep");
    let output = Command::new(M2Y)
        .args(["send", "-r", "--from", ZHENQIANG, "--to", ROLAND])
        .args(["--folder", "photo", "--server", &server.address, "--root"])
        .arg(world.here.path())
        .arg("way")
        .current_dir(&deep)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(read(&world, "way"), "in the way");
    let data = world.arrived(".data");
    assert_eq!(read(&world, &data[0]), "x");
    assert!(!read(&world, &world.arrived(".meta")[0]).contains("pendingPut"));

    // Its sender sees nothing of that.
    let output = send(&world, &server, &["--again", "a.jpg"]);
    assert!(!said(&output).contains("storedAs"), "{}", said(&output));
}

#[test]
fn a_name_that_is_m2ys_own_is_stored_with_sender_and_date() {
    let world = World::new(ORIGINAL);
    let server = Process::serve(&world.there);
    let own = "zhenqiang_01-01-2026_00-00-00.DATA";
    for name in [
        "m2y.config",
        "evil.rhai",
        ".hidden",
        "x.meta",
        "M2Y.CONFIG",
        own,
    ] {
        let dir = world.dir.path().join("files");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), "[OnMeta]\n").unwrap();
        sent(&world, &server, &[&format!("files/{name}")]);
    }
    assert_eq!(read(&world, "m2y.config"), ORIGINAL);
    assert_eq!(world.arrived(".data").len(), 6);
    for name in ["evil.rhai", ".hidden", "x.meta", "M2Y.CONFIG", own] {
        assert!(!world.photo().join(name).exists(), "{name}");
    }
    // A path that leads out is only text, as ever, and so is one that ends with another name
    // than scripts look at.
    for (filename, path) in [
        ("../../up.txt", "../../../up.txt"),
        ("good.jpg", "a/index.html"),
        ("a\u{1b}[31m.jpg", "a\u{1b}[31m.jpg"),
    ] {
        let meta = world.meta("photo", &world.file("f", b"x"));
        let mut document = read_meta(&meta);
        document.filename = filename.to_owned();
        document.extra.insert("path".to_owned(), path.into());
        let file = world.dir.path().join("f").display().to_string();
        document.extra.insert("sourcePath".to_owned(), file.into());
        fs::write(&meta, document.to_file()).unwrap();
        let output = Command::new(M2Y)
            .args(["send", "--server", &server.address, "--root"])
            .arg(world.here.path())
            .arg(&meta)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(world.arrived(".data").len(), 8);
    assert_eq!(read(&world, "good.jpg"), "x");
    assert!(!world.photo().join("a").exists());
    // What takes the place of a file is not taken for it.
    fs::write(world.photo().join("good.jpg"), "theirs").unwrap();
    let mut moved = inbox(&world, &[]).into_iter();
    let good = moved.rfind(|entry| entry["filename"] == "good.jpg");
    assert_eq!(good.unwrap()["state"], "moved");
}

#[test]
fn hooks_decide_before_a_file_gets_its_own_name() {
    let config = ORIGINAL.replace("[OnReceived]\n", "[OnReceived]\nlook.rhai\n");
    let world = World::new(&config);
    world.script(
        "look.rhai",
        r#"
            if meta.filename == "bad.txt" { reject("no bad ones"); }
            if meta.filename == "odd.txt" { quarantine("odd"); }
            if meta.filename == "late.txt" { throw "not now"; }
            meta.seen = "yes";
        "#,
    );
    let server = Process::serve(&world.there);
    for name in ["good.txt", "odd.txt", "late.txt", "bad.txt"] {
        world.file(name, name.as_bytes());
        let output = send(&world, &server, &[name]);
        let refused = name == "bad.txt";
        assert_eq!(output.status.success(), !refused, "{}", said(&output));
    }
    assert_eq!(read(&world, "good.txt"), "good.txt");
    for name in ["odd.txt", "late.txt", "bad.txt"] {
        assert!(!world.photo().join(name).exists(), "{name}");
    }
    let expect = [
        ("good.txt", "arrived"),
        ("odd.txt", "quarantine"),
        ("late.txt", "waiting"),
        ("bad.txt", "refused"),
    ];
    let expect = expect.map(|(name, state)| (name.to_owned(), state.to_owned()));
    assert_eq!(states(&world), expect);
    let hidden = names(&world.photo().join(".received"), ".meta");
    let meta = read_meta(&world.photo().join(".received").join(&hidden[0]));
    assert_eq!(meta.extra["seen"].as_str(), Some("yes"), "what hooks wrote");
}

#[test]
fn a_quota_counts_files_that_keep_their_names() {
    let config = ORIGINAL.replace("[OnMeta]\n", "[OnMeta]\nquota.rhai\n");
    let world = World::new(&config);
    world.script(
        "quota.rhai",
        r#"if folder.bytes_from(meta.from) + meta.filesize > 10 { reject("full"); }"#,
    );
    let server = Process::serve(&world.there);
    for (name, fits) in [("a.txt", true), ("b.txt", false), ("c", true)] {
        world.file(name, if fits { b"12345" } else { b"123456" });
        let output = send(&world, &server, &[name]);
        assert_eq!(output.status.success(), fits, "{name}: {}", said(&output));
    }
    // What its owner removes is free again.
    fs::remove_file(world.photo().join("a.txt")).unwrap();
    world.file("d", b"1234");
    sent(&world, &server, &["d"]);
}

#[test]
fn two_files_of_one_name_are_exported_beside_each_other() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    for text in ["one", "two"] {
        world.file("sea.jpg", text.as_bytes());
        sent(&world, &server, &["--again", "sea.jpg"]);
    }
    let numbers: Vec<String> = inbox(&world, &[])
        .iter()
        .map(|entry| entry["number"].to_string())
        .collect();
    // The user stands before the word as well as behind it.
    let export = [
        "--user",
        ROLAND,
        "export",
        "-o",
        "out",
        &numbers[0],
        &numbers[1],
    ];
    let exported = inbox_command(&world, &export).output().unwrap();
    assert!(exported.status.success(), "{}", said(&exported));
    let out = world.dir.path().join("out");
    assert_eq!(fs::read_to_string(out.join("sea.jpg")).unwrap(), "one");
    assert_eq!(fs::read_to_string(out.join("sea_2.jpg")).unwrap(), "two");
}

#[test]
fn the_inbox_lists_opens_and_exports_what_arrived() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let listed = inbox_command(&world, &[]).output().unwrap();
    assert_eq!(listed.stdout, b"nothing has arrived\n");
    for name in ["sea.jpg", "lake.jpg"] {
        sent(
            &world,
            &server,
            &[world.file(name, name.as_bytes()).to_str().unwrap()],
        );
    }
    let listed = inbox_command(&world, &["photo"]).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[0].contains("FROM  ") && lines[2].contains("lake.jpg"),
        "{text}"
    );
    let entries = inbox(&world, &["-n", "1"]);
    assert_eq!(entries.len(), 1);
    let number = entries[0]["number"].to_string();

    let exported = inbox_command(&world, &["export", &number, "-o", "out"])
        .output()
        .unwrap();
    assert!(exported.status.success(), "{}", said(&exported));
    let out = world.dir.path().join("out/lake.jpg");
    assert_eq!(fs::read_to_string(&out).unwrap(), "lake.jpg");
    fs::write(&out, "mine").unwrap();
    let again = inbox_command(&world, &["export", &number, "-o", "out"])
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert_eq!(fs::read_to_string(&out).unwrap(), "mine");

    let program = world.dir.path().join("viewer");
    fs::write(&program, "#!/bin/sh\nbasename \"$1\"; cat \"$1\"\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for _ in 0..2 {
        let opened = inbox_command(&world, &["open", &number])
            .env("M2Y_OPEN", &program)
            .env("TMPDIR", world.dir.path())
            .output()
            .unwrap();
        assert_eq!(opened.stdout, b"lake.jpg\nlake.jpg", "{}", said(&opened));
    }

    let none = inbox_command(&world, &["open", "999"]).output().unwrap();
    assert_eq!(none.status.code(), Some(4), "{}", said(&none));
    let data = world.arrived(".data");
    for file in data {
        fs::remove_file(world.photo().join(file)).unwrap();
    }
    assert_eq!(states(&world)[0].1, "moved");
    let gone = inbox_command(&world, &["export", &number])
        .output()
        .unwrap();
    assert_eq!(gone.status.code(), Some(4), "{}", said(&gone));
}

#[test]
fn a_watched_inbox_shows_what_arrives() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    sent(
        &world,
        &server,
        &[world.file("a.txt", b"a").to_str().unwrap()],
    );
    let mut watching = inbox_command(&world, &["--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["filename"], "a.txt");
    sent(
        &world,
        &server,
        &[world.file("b.txt", b"b").to_str().unwrap()],
    );
    assert_eq!(next()["filename"], "b.txt");
    common::terminate(&watching);
    let _ = watching.wait();
}

#[test]
fn the_meta_of_a_refused_file_stays_as_long_as_the_folder_says() {
    let world = World::new("[OnMeta]\nno.rhai\n[folder]\nkeep_refused = 2d\n");
    world.script("no.rhai", "reject(\"not today\");");
    let server = Process::serve(&world.there);
    let output = send(
        &world,
        &server,
        &[world.file("a.txt", b"a").to_str().unwrap()],
    );
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    let text = said(&inbox_command(&world, &[]).output().unwrap());
    assert!(text.contains("refused: not today"), "{text}");
    server.stop();
    // Somebody's own document stays in any case.
    let other = world.photo().join("other.meta");
    fs::copy(world.photo().join(&world.arrived(".meta")[0]), &other).unwrap();
    let journal = Journal::open(&world.there).unwrap();
    let after = |days: u64| {
        let now = clock::millis() + days * 86_400_000;
        refused::forget(&journal, &world.there, &Stores::default(), (0, now)).unwrap()
    };
    assert_eq!((after(1), world.arrived(".meta").len()), (0, 2));
    assert_eq!((after(3), world.arrived(".meta").len()), (1, 1));
    assert!(other.exists());
    assert_eq!(after(3), 0);
}

#[test]
fn what_is_wrong_in_the_section_of_a_folder_is_an_error_with_its_line() {
    let config = |line: &str| Config::parse(&format!("[OnMeta]\n[folder]\n{line}\n"));
    for good in ["names = dated", "names = original", "keep_refused = 12h"] {
        assert!(config(good).is_ok(), "{good}");
    }
    for (bad, why) in [
        ("names = own", "write dated or original"),
        ("keep_refused = long", "12h or 30d"),
        ("keep_refused = 91d", "at most 90d"),
        ("nmes = dated", "did you mean names?"),
    ] {
        let error = config(bad).unwrap_err();
        assert_eq!(error.line, 3);
        assert!(error.reason.contains(why), "{}", error.reason);
    }
}

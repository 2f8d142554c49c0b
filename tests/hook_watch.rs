//! `m2y hook watch`, by the program as a person uses it beside an editor.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    iter,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use common::{M2Y, Process, World, said, samples};
use m2y::{journal, root::Root};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Nothing that a test waits for takes so long, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program in a terminal beside the editor; killed when this is dropped.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(root: &Root, more: &[&str]) -> Self {
        let mut child = Command::new(M2Y)
            .args(["hook", "watch", "--user", common::ROLAND])
            .args(["--folder", "photo", "--root"])
            .arg(root.path())
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        Self { child, lines }
    }

    /// As scripts read it. The first round has been.
    fn json(root: &Root) -> (Self, Value) {
        let watch = Self::start(root, &["--json"]);
        let first = watch.round();
        (watch, first)
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("no line came")
    }

    /// The lines up to the one that contains this, and that one.
    #[track_caller]
    fn up_to(&self, text: &str) -> Vec<String> {
        let mut lines = vec![self.line()];
        while !lines.last().unwrap().contains(text) {
            lines.push(self.line());
        }
        lines
    }

    #[track_caller]
    fn round(&self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// The first round that is so: a save that takes several steps may be seen in between.
    #[track_caller]
    fn round_where(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            let round = self.round();
            if is_so(&round) {
                return round;
            }
        }
    }

    /// Presses Ctrl-C, and returns the exit code.
    fn interrupt(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Saves as most editors do: a new file takes the place of the old one.
fn save_by_rename(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, path).unwrap();
}

fn send(world: &World, server: &Process, name: &str) -> Output {
    let file = world.file(name, name.as_bytes());
    world.send(&server.address, "photo", &file)
}

#[track_caller]
fn sent(world: &World, server: &Process, name: &str) {
    let output = send(world, server, name);
    assert!(output.status.success(), "{}", said(&output));
}

/// Every file of a root with its checksum; without the index that readers of a journal share.
fn listing(root: &Root) -> Vec<(PathBuf, u32)> {
    fn walk(dir: &Path, all: &mut Vec<(PathBuf, u32)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, all);
            } else if path.is_file() {
                all.push((path.clone(), crc32fast::hash(&fs::read(&path).unwrap())));
            }
        }
    }
    let mut all = Vec::new();
    walk(root.path(), &mut all);
    all.retain(|(path, _)| !path.ends_with("journal.sqlite-shm"));
    all.sort();
    all
}

/// Every file of a root that a running server has at rest.
fn files(root: &Root) -> Vec<(PathBuf, u32)> {
    let mut all = listing(root);
    all.retain(|(path, _)| !path.to_string_lossy().contains("/journal.sqlite"));
    all
}

/// Every row of the journal, but when scripts ran last: a server writes that later.
fn journal(root: &Root) -> Vec<String> {
    let db = journal::look(root).unwrap().unwrap();
    let tables: Vec<String> = db
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'last_run'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(tables.contains(&"transfer".to_owned()), "{tables:?}");
    let mut rows = Vec::new();
    for table in tables {
        let mut all = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = all.column_count();
        let mut found = all.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let cells = (0..columns).map(|at| format!("{:?}", row.get_ref(at).unwrap()));
            rows.push(format!("{table} {}", cells.collect::<Vec<_>>().join(" ")));
        }
    }
    rows
}

fn texts(value: &Value) -> Vec<&str> {
    let values = value.as_array().unwrap().iter();
    values.map(|text| text.as_str().unwrap()).collect()
}

const DEEDS: &str = r#"
meta.album = "sea";
state.add("n", 1);
log.info("a line");
notify.inbox("came");
folder.rename(event.data_file, "sea.jpg");
notify.email("a@example.org", "s", "t");
"#;

/// How a round begins that has this script.
fn has_deeds(round: &Value) -> bool {
    let deeds = &round["events"][0]["runs"][1]["spared"];
    deeds.as_array().is_some_and(|deeds| !deeds.is_empty())
}

#[test]
fn the_last_three_events_are_run_dry_beside_a_server_and_after_it_and_nothing_changes() {
    let world = World::new("[OnMeta]\n[OnReceived]\nr.rhai\n");
    world.script("r.rhai", "");
    let server = Process::serve(&world.there);
    for name in ["a", "b", "c", "d"] {
        sent(&world, &server, name);
    }
    let (watch, first) = Watch::json(&world.there);
    assert_eq!(first["status"], "ok", "{first}");
    save_by_rename(&world.photo().join("r.rhai"), DEEDS);
    let before = (files(&world.there), journal(&world.there));
    let round = watch.round_where(has_deeds);
    let titles = round["events"].as_array().unwrap().iter();
    let titles: Vec<_> = titles
        .map(|event| event["title"].as_str().unwrap())
        .collect();
    assert_eq!(
        titles,
        ["d from zhenqiang", "c from zhenqiang", "b from zhenqiang"]
    );
    for event in round["events"].as_array().unwrap() {
        let (asked, received) = (&event["runs"][0], &event["runs"][1]);
        assert_eq!(asked["event"], "OnMeta");
        assert_eq!(asked["status"], "accepted");
        assert_eq!(received["event"], "OnReceived");
        assert_eq!(received["status"], "accepted", "{received}");
        assert_eq!(received["changed"]["album"], "sea");
        let deeds = texts(&received["spared"]);
        assert_eq!(
            deeds[..2],
            ["state.add(\"n\", 1)", "notify.inbox(\"came\")"]
        );
        assert!(deeds[2].ends_with(".data\", \"sea.jpg\")"), "{deeds:?}");
        let later = texts(&received["effects"]);
        assert_eq!(later, ["notify.email(\"a@example.org\", \"s\", \"t\")"]);
    }
    assert_eq!((files(&world.there), journal(&world.there)), before);

    assert_eq!(server.stop(), Some(0));
    let before = listing(&world.there);
    fs::write(world.photo().join("r.rhai"), "reject(\"no sea\");").unwrap();
    let round = watch.round_where(|round| !has_deeds(round) && round["status"] == "ok");
    let received = &round["events"][2]["runs"][1];
    assert_eq!(received["status"], "refused");
    assert_eq!(received["words"], "no sea");
    fs::write(world.photo().join("r.rhai"), DEEDS).unwrap();
    watch.round_where(has_deeds);
    assert_eq!(listing(&world.there), before);
    assert_eq!(watch.interrupt(), Some(0));
}

#[test]
fn scripts_find_a_file_under_its_arrival_name_after_a_hook_renamed_or_moved_it() {
    let world = World::new("[OnMeta]\n[OnReceived]\nr.rhai\n");
    world.folder("archive", "[OnMeta]\n");
    let script = "let name = meta.filename + \".jpg\";\n\
        folder.rename(event.data_file, name);\n\
        if meta.filename == \"b\" { folder.move_to(name, \"archive\"); }\n";
    world.script("r.rhai", script);
    let server = Process::serve(&world.there);
    for name in ["a", "b"] {
        sent(&world, &server, name);
    }
    assert!(world.photo().join("a.jpg").exists());
    assert!(world.receiver.path().join("archive/b.jpg").exists());
    let (watch, round) = Watch::json(&world.there);
    for (at, name) in ["b", "a"].into_iter().enumerate() {
        let event = &round["events"][at];
        let (asked, received) = (&event["runs"][0], &event["runs"][1]);
        assert_eq!(asked["status"], "accepted", "{event}");
        assert_eq!(received["status"], "accepted", "{event}");
        let deeds = texts(&received["spared"]);
        assert!(
            deeds[0].starts_with("folder.rename(\"zhenqiang_"),
            "{event}"
        );
        assert!(deeds[0].ends_with(&format!(".data\", \"{name}.jpg\")")));
    }
    // At OnMeta it has not come yet.
    let script = "let there = folder.list(\"*.jpg\");\n\
        if folder.exists(event.data_file) || there.len() > 0 { throw `${there.len()} files`; }";
    world.script("m.rhai", script);
    fs::remove_file(world.receiver.path().join("archive/b.jpg")).unwrap();
    fs::remove_file(world.receiver.path().join("archive/b.meta")).unwrap();
    let config = "[OnMeta]\nm.rhai\n[OnReceived]\nr.rhai\n";
    fs::write(world.photo().join("m2y.config"), config).unwrap();
    let round = watch.round_where(|round| !round["events"][0]["note"].is_null());
    assert_eq!(
        round["events"][1]["runs"][0]["status"], "accepted",
        "{round}"
    );
    assert_eq!(round["events"][0]["runs"][0]["words"], "1 files");
    let note = round["events"][0]["note"].as_str().unwrap();
    assert!(note.contains("in none of the user's folders"), "{note}");
}

#[test]
fn a_file_that_a_hook_sorted_into_a_directory_is_found_with_a_journal_and_without() {
    let world = World::new("[OnMeta]\n[OnReceived]\nsortPictures.rhai\n");
    let script = include_str!("../examples/hooks/sortPictures/sortPictures.rhai");
    world.script("sortPictures.rhai", script);
    let server = Process::serve(&world.there);
    let file = world.file("sea.jpg", &samples::photo());
    let output = world.send(&server.address, "photo", &file);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(server.stop(), Some(0));
    assert!(world.photo().join("2026/05/sea.meta").exists());
    assert!(world.photo().join("2026/05/sea.jpg").exists());
    for has_journal in [true, false] {
        if !has_journal {
            for name in common::names(world.there.path(), "") {
                if name.starts_with("journal.sqlite") {
                    fs::remove_file(world.there.path().join(name)).unwrap();
                }
            }
        }
        let (_watch, round) = Watch::json(&world.there);
        let event = &round["events"][0];
        assert_eq!(event["title"], "sea.jpg from zhenqiang");
        assert!(event["note"].is_null(), "{event}");
        let received = &event["runs"][1];
        assert_eq!(received["status"], "accepted", "{event}");
        // Its place is free again, and so is that of its .meta.
        let deeds = texts(&received["spared"]);
        let last = deeds.last().unwrap();
        assert!(last.ends_with(".data\", \"2026/05/sea.jpg\")"), "{deeds:?}");
    }
}

#[test]
fn what_was_refused_and_what_was_given_up_are_among_the_last_events() {
    let world = World::new("[OnMeta]\nm.rhai\n[OnReceived]\nr.rhai\n[OnNew]\nn.rhai\n");
    world.script(
        "m.rhai",
        "if meta.filename == \"bad\" { reject(\"bad name\"); }",
    );
    world.script("r.rhai", "");
    world.script("n.rhai", "if event.file == \"x.txt\" { nothing(); }");
    let ini = "[hooks]\nretry_limit = 1\n[watch]\nsettle = 50ms\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let (server, log) = Process::serve_with_lines(&world.there);
    let output = send(&world, &server, "bad");
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    fs::write(world.photo().join("x.txt"), "x").unwrap();
    let mut told = iter::from_fn(|| log.recv_timeout(PATIENCE).ok());
    assert!(told.any(|line| line.contains("[OnNew]: given up")));
    // The journal has it once the server has ended.
    assert_eq!(server.stop(), Some(0));
    let (watch, round) = Watch::json(&world.there);
    let (new, bad) = (&round["events"][0], &round["events"][1]);
    assert_eq!(round["events"].as_array().unwrap().len(), 2, "{round}");
    assert_eq!(
        new["title"], "OnNew x.txt, given up after 1 attempt",
        "{round}"
    );
    assert_eq!(new["runs"][0]["status"], "failed");
    let error = new["runs"][0]["runs"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("n.rhai:1:28: "), "{error}");
    assert_eq!(bad["title"], "bad from zhenqiang");
    assert_eq!(bad["runs"][0]["words"], "bad name");
    assert_eq!(bad["runs"].as_array().unwrap().len(), 1);
    save_by_rename(&world.photo().join("n.rhai"), "log.info(event.file);");
    let round = watch.round_where(|round| round["events"][0]["runs"][0]["status"] == "accepted");
    assert_eq!(texts(&round["events"][0]["runs"][0]["log"]), ["INFO x.txt"]);
}

#[test]
fn a_save_in_place_or_by_rename_shows_every_error_with_line_and_column() {
    let world = World::new("[OnMeta]\nm.rhai\n");
    world.script("m.rhai", "");
    let (watch, first) = Watch::json(&world.there);
    assert_eq!(first["check"]["found"], 0, "{first}");
    assert!(first["events"].as_array().unwrap().is_empty());
    let has_found = |round: &Value| round["check"]["found"] != 0;
    fs::write(
        world.photo().join("m.rhai"),
        "log.inf(\"x\");\nlet y = folder.sizes(\"a\");\n",
    )
    .unwrap();
    let round = watch.round_where(has_found);
    assert_eq!(round["status"], "failed");
    let found = round["check"]["findings"].as_array().unwrap();
    let places: Vec<_> = found.iter().map(|f| (&f["line"], &f["column"])).collect();
    assert_eq!(places, [(&1.into(), &5.into()), (&2.into(), &16.into())]);
    save_by_rename(&world.photo().join("m.rhai"), "log.info(\"x\");");
    watch.round_where(|round| round["status"] == "ok");
    save_by_rename(&world.photo().join("m2y.config"), "[OnMeta]\n[OnMetta]\n");
    let round = watch.round_where(has_found);
    assert_eq!(round["check"]["findings"][0]["line"], 2);
    let error = round["error"].as_str().unwrap();
    assert!(error.contains("m2y.config: line 2"), "{error}");
    fs::write(world.photo().join("m2y.config"), "[OnMeta]\nm.rhai\n").unwrap();
    watch.round_where(|round| round["status"] == "ok");
    // One for all folders.
    let shared = world.there.path().join("scripts");
    fs::create_dir_all(&shared).unwrap();
    fs::write(shared.join("lib.rhai"), "fn all() { 1 }").unwrap();
    watch.round();
}

#[test]
fn a_person_reads_the_time_the_errors_the_tests_that_fail_and_what_would_be_done() {
    let world = World::new("[OnMeta]\nm.rhai\n");
    world.script("m.rhai", "");
    let server = Process::serve(&world.there);
    sent(&world, &server, "a");
    world.script("m.rhai", "meta.album = \"sea\";");
    let watch = Watch::start(&world.there, &[]);
    let lines = watch.up_to("    meta.album");
    assert_eq!(lines[0], "");
    assert!(lines[1].ends_with(" UTC  roland-frei/photo"), "{lines:?}");
    assert_eq!(lines[2], "check result: ok. 2 files; no problems");
    assert_eq!(lines[3], "no tests (*_test.rhai)");
    assert!(lines[4].ends_with("  a from zhenqiang"), "{lines:?}");
    assert_eq!(lines[5], "  OnMeta accepted");
    assert!(
        lines[6].starts_with("    m.rhai: accepted in "),
        "{lines:?}"
    );
    assert_eq!(lines.last().unwrap(), "    meta.album = \"sea\"");
    world.script(
        "m_test.rhai",
        "fn test_good() {}\nfn test_bad() {\n    assert_eq(run(\"OnMeta\", meta()).meta.album, \"lake\");\n}\n",
    );
    let lines = watch.up_to("1 passed; 1 failed");
    let failed = lines
        .iter()
        .position(|line| line.ends_with("test_bad ... FAILED"));
    let reason = &lines[failed.unwrap() + 1];
    assert!(
        reason.contains("m_test.rhai:3:5: assert_eq(): \"sea\" is not \"lake\""),
        "{lines:?}"
    );
    assert!(!lines.iter().any(|line| line.contains("test_good")));
    world.script("m.rhai", "meta.album = \"lake\";\nnothing();\n");
    let error = "error: user/roland-frei/photo/m.rhai:2:1: there is no function nothing()";
    watch.up_to(error);
    watch.up_to("  OnMeta failed");
    let lines = watch.up_to("    m.rhai: failed in ");
    assert!(!lines.concat().contains('\u{1b}'), "{lines:?}");
}

#[test]
fn a_folder_that_goes_and_comes_back_is_waited_for() {
    let world = World::new("[OnMeta]\nm.rhai\n");
    world.script("m.rhai", "");
    let (watch, _) = Watch::json(&world.there);
    let away = world.receiver.path().join(".away");
    fs::rename(world.photo(), &away).unwrap();
    let round = watch.round();
    assert_eq!(round["status"], "waiting");
    let error = round["error"].as_str().unwrap();
    assert!(error.starts_with("cannot open folder photo of roland-frei: "));
    fs::write(away.join("m.rhai"), "nothing();").unwrap();
    fs::rename(&away, world.photo()).unwrap();
    let round = watch.round_where(|round| round["status"] != "waiting");
    assert_eq!(round["check"]["found"], 1);
    // It is watched again.
    fs::write(world.photo().join("m.rhai"), "").unwrap();
    watch.round_where(|round| round["status"] == "ok");
    let output = Command::new(M2Y)
        .args(["hook", "watch", "--user", common::ROLAND])
        .args(["--folder", "other", "--root"])
        .arg(world.there.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
}

#[test]
fn a_script_that_is_a_link_is_seen_when_the_file_behind_it_is_saved() {
    let world = World::new("[OnMeta]\nm.rhai\n");
    let behind = world.photo().join("mine");
    fs::create_dir(&behind).unwrap();
    fs::write(behind.join("m.rhai"), "").unwrap();
    symlink("mine/m.rhai", world.photo().join("m.rhai")).unwrap();
    let (watch, first) = Watch::json(&world.there);
    assert_eq!(first["status"], "ok", "{first}");
    fs::write(behind.join("m.rhai"), "nothing();").unwrap();
    watch.round_where(|round| round["check"]["found"] == 1);
}

#[test]
fn a_script_without_end_and_one_that_talks_without_end_are_stopped_and_the_watch_goes_on() {
    let world = World::new("[OnMeta]\nm.rhai\n");
    world.script("m.rhai", "");
    let server = Process::serve(&world.there);
    sent(&world, &server, "a");
    let (watch, _) = Watch::json(&world.there);
    save_by_rename(&world.photo().join("m.rhai"), "loop {}");
    let is =
        |word: &'static str| move |round: &Value| round["events"][0]["runs"][0]["status"] == word;
    let round = watch.round_where(is("failed"));
    let error = &round["events"][0]["runs"][0]["runs"][0]["error"];
    assert!(error.as_str().unwrap().starts_with("m.rhai:1:"), "{error}");
    world.script("m_test.rhai", "fn test_endless() { loop {} }");
    let round = watch.round_where(|round| round["test"]["failed"] == 1);
    assert_eq!(round["test"]["tests"][0]["test"], "test_endless");
    fs::remove_file(world.photo().join("m_test.rhai")).unwrap();
    let noise = "for i in 0..900 { log.info(\"noise\"); }\nreject(\"enough\");";
    save_by_rename(&world.photo().join("m.rhai"), noise);
    let round = watch.round_where(is("refused"));
    let log = texts(&round["events"][0]["runs"][0]["log"]);
    assert_eq!(log, ["INFO noise"; 20]);
    assert_eq!(watch.interrupt(), Some(0));
}

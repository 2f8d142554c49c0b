//! No event is lost, whatever ends the server.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::{Process, World};
use m2y::{
    journal::{
        self, Journal, Task,
        delivered::{self, Key, Stage, Transfer},
        prune,
    },
    meta::TransferId,
};
use tokio::sync::watch;

const CONFIG: &str = "[OnMeta]\n[OnReceived]\nhook.sh\n";

fn task(id: &str, part: u32, file: Option<&str>) -> Task {
    Task {
        id: id.to_owned(),
        kind: "OnNew".to_owned(),
        part,
        user: "roland-frei".to_owned(),
        folder: "photo".to_owned(),
        file: file.map(ToOwned::to_owned),
        body: m2y::json::Map::new(),
    }
}

fn due(journal: &Journal) -> Vec<String> {
    let db = journal.reader().unwrap();
    let due = journal::due(&db, m2y::clock::millis() + 1, 100, &[]).unwrap();
    due.into_iter()
        .map(|entry| format!("{}/{}", entry.task.id, entry.task.part))
        .collect()
}

#[test]
fn events_of_one_file_wait_for_each_other_and_others_do_not() {
    let world = World::new(CONFIG);
    let journal = Journal::open(&world.there).unwrap();
    let (first, second, other) = (
        task("a", 0, Some("x")),
        task("b", 0, Some("x")),
        task("c", 0, Some("y")),
    );
    let effect = task("a-OnNew", 1, None);
    let all = vec![first.clone(), second.clone(), other.clone(), effect];
    journal.add(true, all.clone()).wait().unwrap();
    // Added again, they are the same.
    journal.add(false, all).wait().unwrap();
    assert_eq!(due(&journal), ["a/0", "c/0", "a-OnNew/1"]);

    journal
        .failed(first.clone(), "no".to_owned(), Some(u64::MAX))
        .wait()
        .unwrap();
    assert_eq!(due(&journal), ["c/0", "a-OnNew/1"]);
    // One that was given up stands in nobody's way.
    journal
        .failed(first.clone(), "no".to_owned(), None)
        .wait()
        .unwrap();
    assert_eq!(due(&journal), ["b/0", "c/0", "a-OnNew/1"]);
    journal.done(&second).wait().unwrap();
    let came = vec![task("d", 0, Some("y"))];
    journal.add(true, came).wait().unwrap();
    journal.done(&other).wait().unwrap();
    assert_eq!(due(&journal), ["a-OnNew/1", "d/0"]);
}

#[test]
fn events_of_a_file_wait_until_the_hooks_of_its_arrival_have_run() {
    let world = World::new(CONFIG);
    let journal = Journal::open(&world.there).unwrap();
    let key = Key {
        user: "roland-frei".to_owned(),
        folder: "photo".to_owned(),
        from: "zhenqiang".to_owned(),
        id: TransferId([7; 16]),
    };
    let transfer = Transfer {
        key: key.clone(),
        stem: "x".to_owned(),
        filename: "x.png".to_owned(),
        filesize: 1,
        crc: 2,
        stage: Stage::Owed,
        meta: None,
        words: None,
    };
    journal
        .write(true, move |db| delivered::put(db, &transfer))
        .wait()
        .unwrap();
    let (of_it, of_another) = (task("a", 0, Some("x.data")), task("b", 0, Some("y.data")));
    journal.add(true, vec![of_it, of_another]).wait().unwrap();
    assert_eq!(due(&journal), ["b/0"]);

    journal
        .write(true, move |db| delivered::complete(db, &key))
        .wait()
        .unwrap();
    assert_eq!(due(&journal), ["a/0", "b/0"]);
    let db = journal.reader().unwrap();
    assert!(delivered::open(&db).unwrap().is_empty());
}

#[test]
fn a_write_that_fails_takes_none_of_the_others_with_it() {
    let world = World::new(CONFIG);
    let journal = Journal::open(&world.there).unwrap();
    let writes: Vec<_> = (0..100)
        .map(|n| {
            journal.write(n % 2 == 0, move |db| {
                db.execute("INSERT INTO state VALUES ('u', 'f', ?1, '1')", [n])?;
                match n % 3 {
                    0 => db.execute("INSERT INTO no_such_table VALUES (1)", []),
                    _ => Ok(0),
                }
            })
        })
        .collect();
    for (n, write) in (0..).zip(writes) {
        assert_eq!(write.wait().is_err(), n % 3 == 0, "{n}");
    }
    let db = journal.reader().unwrap();
    let count: i64 = db
        .query_row("SELECT count(*) FROM state", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 66);
}

#[test]
fn the_journal_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new(CONFIG);
    let journal = Journal::open(&world.there).unwrap();
    journal.add(true, vec![task("a", 0, None)]).wait().unwrap();
    for ending in ["", "-wal", "-shm"] {
        let path = world
            .there
            .path()
            .join(format!("{}{ending}", journal::FILE));
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}

fn events(world: &World, args: &[&str]) -> Output {
    Command::new(common::M2Y)
        .args(["events", "--json"])
        .args(args)
        .arg("--root")
        .arg(world.there.path())
        .output()
        .unwrap()
}

fn objects(output: &Output) -> Vec<m2y::json::Map<String, m2y::json::Value>> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|line| m2y::json::parse(line.as_bytes()).unwrap())
        .collect()
}

#[test]
fn what_was_given_up_is_listed_shown_tried_again_and_dropped_beside_a_running_server() {
    let world = World::new(CONFIG);
    world.script(
        "hook.sh",
        "#!/bin/sh\n(echo one; echo two; echo three; echo the disk is full) >&2\nexit 1\n",
    );
    let ini = "[hooks]\nexecutables = all\nretry_delay = 10ms\nretry_limit = 2\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let server = Process::serve(&world.there);
    let wait_for = |wanted: &[&str]| {
        let begun = Instant::now();
        loop {
            let listed = objects(&events(&world, &["list"]));
            let states: Vec<_> = listed
                .iter()
                .map(|e| e["state"].as_str().unwrap())
                .collect();
            if states == wanted {
                return listed;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{listed:?}");
        }
    };
    for name in ["a", "b"] {
        let output = world.send(&server.address, "photo", &world.file(name, b"x"));
        assert!(output.status.success(), "{}", common::said(&output));
    }
    let listed = wait_for(&["given up", "given up"]);
    assert_eq!(listed[0]["kind"], "OnReceived");
    assert_eq!(listed[0]["attempts"], 2);
    let error = listed[0]["error"].as_str().unwrap();
    assert!(
        error.contains("exit code 1; it said: two | three | the disk is full"),
        "{error}"
    );
    let numbers: Vec<_> = listed.iter().map(|e| e["number"].to_string()).collect();
    let shown = objects(&events(&world, &["show", &numbers[0]]));
    assert_eq!(
        shown[0]["file"].as_str().unwrap(),
        world.arrived(".data")[0]
    );

    // Mended, it is tried again by the server that runs, and no other event is.
    world.script("hook.sh", "#!/bin/sh\nexit 0\n");
    assert!(events(&world, &["replay", &numbers[0]]).status.success());
    wait_for(&["given up"]);
    assert!(events(&world, &["drop", &numbers[1]]).status.success());
    wait_for(&[]);
    assert_eq!(
        events(&world, &["show", &numbers[0]]).status.code(),
        Some(4)
    );
    assert_eq!(
        events(&world, &["drop", &numbers[0]]).status.code(),
        Some(4)
    );
    let metas = common::read_metas(&world.photo(), ".meta");
    let marked = metas
        .iter()
        .filter(|meta| meta.extra.contains_key("pendingHook"));
    assert_eq!(
        marked.count(),
        1,
        "the file stays marked whose event was dropped"
    );
}

#[test]
fn the_owner_sees_and_releases_what_is_in_quarantine() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    world.script("hook.rhai", "quarantine(`odd name ${meta.filename}`);");
    let server = Process::serve(&world.there);
    for name in ["a", "b"] {
        world.send(&server.address, "photo", &world.file(name, b"x"));
    }
    let folder = |args: &[&str]| {
        Command::new(common::M2Y)
            .args(["folder", "--json"])
            .args([&args[..1], &["--user", "roland-frei", "photo"], &args[1..]].concat())
            .arg("--root")
            .arg(world.there.path())
            .output()
            .unwrap()
    };
    let held = objects(&folder(&["quarantine"]));
    assert_eq!(held.len(), 2, "{held:?}");
    let reasons: Vec<_> = held.iter().map(|h| h["reason"].as_str().unwrap()).collect();
    assert!(reasons.contains(&"odd name a") && reasons.contains(&"odd name b"));
    assert!(world.arrived(".data").is_empty());
    let file = |n: usize| held[n]["file"].as_str().unwrap();
    assert!(folder(&["release", file(0)]).status.success());
    assert_eq!(world.arrived(".data"), [format!("{}.data", file(0))]);
    assert!(folder(&["drop", file(1)]).status.success());
    assert!(objects(&folder(&["quarantine"])).is_empty());
    assert_eq!(folder(&["release", file(1)]).status.code(), Some(4));
    assert_eq!(folder(&["drop", "../m2y"]).status.code(), Some(2));
}

/// Sends files while the server is killed again and again, at another moment each time.
/// In the end every file that was acknowledged is there and its hook has run.
fn killed(kills: u32) {
    let world = World::new(CONFIG);
    // Slow enough that a kill often comes between the file and the end of its hook.
    world.script(
        "hook.sh",
        "#!/bin/sh\nsleep 0.05\necho \"ran $M2Y_EVENT_ID $M2Y_ID\" >> ../runs.log\n",
    );
    let ini = "[hooks]\nexecutables = all\nretry_delay = 10ms\nretry_limit = 1000\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let mut acknowledged = HashSet::new();
    let outbox = world.sender.path().join("photo");
    let file = world.file("f", b"some bytes");
    for kill in 0..kills {
        let mut server = Process::serve(&world.there);
        let sending = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let begun = Instant::now();
                // A few files, until the server is gone.
                while begun.elapsed() < Duration::from_secs(10) {
                    let output = world.send(&server.address, "photo", &file);
                    if !output.status.success() {
                        break;
                    }
                }
            });
            // Not a wait for something: the kill has to come at another moment each time.
            std::thread::sleep(Duration::from_millis(u64::from(kill * 37 % 400)));
            let pid = rustix::process::Pid::from_child(&server.child);
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            sending.join()
        });
        sending.unwrap();
        server.child.wait().unwrap();
        for done in common::read_metas(&outbox, ".done") {
            acknowledged.insert(done.id.unwrap().to_string());
        }
    }
    let server = Process::serve(&world.there);
    // On a busy machine every attempt before may have been too short.
    let output = world.send(&server.address, "photo", &world.file("last", b"x"));
    assert!(output.status.success(), "{}", common::said(&output));
    let journal = Journal::open(&world.there).unwrap();
    let db = journal.reader().unwrap();
    let begun = Instant::now();
    while !journal::list(&db, None, 10).unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    server.stop();

    let runs = runs(&world.receiver.path().join("runs.log"));
    assert!(!acknowledged.is_empty());
    for id in &acknowledged {
        assert!(runs.contains_key(id), "the hook never ran for {id}");
    }
    // A hook that was killed while it ran may run twice, with the same event id.
    for (id, events) in &runs {
        let one: HashSet<_> = events.iter().collect();
        assert_eq!(one.len(), 1, "{id}: {events:?}");
    }
    let metas = common::read_metas(&world.photo(), ".meta");
    let there: HashSet<_> = metas
        .iter()
        .filter_map(|m| m.id.map(|id| id.to_string()))
        .collect();
    assert!(
        acknowledged.is_subset(&there),
        "an acknowledged file is gone"
    );
    // What was stored has its event, even where the server ended before it could say so.
    for data in common::names(&world.photo(), ".data") {
        let meta = world.photo().join(&data).with_extension("meta");
        let id = common::read_meta(&meta).id.unwrap().to_string();
        assert!(runs.contains_key(&id), "the hook never ran for {data}");
    }
    let twice = runs.values().filter(|events| events.len() > 1).count();
    eprintln!(
        "{kills} kills, {} acknowledged, {twice} hooks ran twice",
        acknowledged.len()
    );
}

/// Transfer ids with the event ids that their hooks were run for.
fn runs(path: &Path) -> HashMap<String, Vec<String>> {
    let mut runs = HashMap::<_, Vec<_>>::new();
    for line in fs::read_to_string(path).unwrap().lines() {
        let words: Vec<_> = line.split(' ').collect();
        runs.entry(words[2].to_owned())
            .or_default()
            .push(words[1].to_owned());
    }
    runs
}

#[test]
fn a_server_that_is_killed_loses_no_event() {
    killed(20);
}

#[test]
#[ignore = "takes a minute"]
fn a_server_that_is_killed_two_hundred_times_loses_no_event() {
    killed(200);
}

fn delivered(n: u32, stage: Stage) -> Transfer {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    Transfer {
        key: Key {
            user: "roland-frei".to_owned(),
            folder: "photo".to_owned(),
            from: "zhenqiang".to_owned(),
            id: TransferId(id),
        },
        stem: format!("zhenqiang_30-12-2018_23-59-59_{n}"),
        filename: "f".repeat(200),
        filesize: 1,
        crc: 1,
        stage,
        meta: None,
        words: None,
    }
}

async fn deliver_many(journal: &Journal, from: u32, count: u32) {
    let written = journal.quietly(false, move |db| {
        let all = (from..from + count).map(|n| delivered(n, Stage::Delivered));
        all.into_iter()
            .try_for_each(|transfer| delivered::put(db, &transfer))
    });
    written.committed().await.unwrap();
}

/// Milliseconds since 1970, in so many days.
fn in_days(days: u64) -> u64 {
    m2y::clock::millis() + days * 86_400_000
}

fn size_of(world: &World) -> u64 {
    let path = world.there.path().join(journal::FILE);
    // What a checkpoint has still to bring there does not count.
    let db = rusqlite::Connection::open(&path).unwrap();
    let ended: i64 = db
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(ended, 0, "somebody reads");
    fs::metadata(path).unwrap().len()
}

#[tokio::test]
async fn transfers_are_forgotten_after_ninety_days_and_those_with_work_left_are_not() {
    let world = World::new(CONFIG);
    let journal = Journal::open(&world.there).unwrap();
    let open = [delivered(1, Stage::Whole), delivered(2, Stage::Owed)];
    let rows = open.clone();
    let written = journal.quietly(false, move |db| {
        rows.iter().try_for_each(|row| delivered::put(db, row))?;
        delivered::put(db, &delivered(3, Stage::Refused))
    });
    written.committed().await.unwrap();
    assert_eq!(prune::prune(&journal, in_days(89)).await.unwrap(), 0);
    assert_eq!(prune::prune(&journal, in_days(91)).await.unwrap(), 1);
    let db = journal.reader().unwrap();
    assert_eq!(delivered::open(&db).unwrap(), open);
    let refused = delivered(3, Stage::Refused);
    assert_eq!(delivered::find(&db, &refused.key).unwrap(), None);
}

#[tokio::test]
async fn a_server_that_runs_for_months_prunes_its_journal_and_the_file_gets_smaller() {
    let world = World::new(CONFIG);
    let journal = Journal::open(&world.there).unwrap();
    deliver_many(&journal, 0, 10_000).await;
    let full = size_of(&world);
    let clock = Arc::new(AtomicU64::new(in_days(89)));
    let (stop, shutdown) = watch::channel(false);
    let (asked, mut passes) = watch::channel(0);
    let now = {
        let clock = clock.clone();
        move || {
            asked.send_modify(|passes| *passes += 1);
            clock.load(Ordering::SeqCst)
        }
    };
    let pause = Duration::from_millis(1);
    let pruning = tokio::spawn(prune::run_every(pause, journal.clone(), now, shutdown));
    let count = || {
        let db = journal.reader().unwrap();
        let count = "SELECT count(*) FROM transfer";
        db.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    passes.wait_for(|passes| *passes >= 3).await.unwrap();
    assert_eq!(count(), 10_000);
    clock.store(in_days(91), Ordering::SeqCst);
    // The first of them has ended when the second one begins.
    let before = *passes.borrow();
    let later = passes.wait_for(|passes| *passes >= before + 3);
    later.await.unwrap();
    assert_eq!(count(), 0);
    stop.send(true).unwrap();
    pruning.await.unwrap();
    let after = size_of(&world);
    assert!(after * 2 < full, "{after} of {full} bytes are left");
    // What others write meanwhile uses the pages that are left.
    deliver_many(&journal, 20_000, 2_000).await;
    assert!(size_of(&world) < full);
}

/// Hooks of one user that all wait for something are most of what is tried again.
#[test]
fn what_is_left_of_one_user_does_not_keep_that_of_another_one_waiting() {
    let world = World::new("[OnMeta]\n[OnNew]\nhook.sh\n");
    let anna = common::person_with_key(&world.there, "anna", &common::key(common::ZHENQIANG));
    let box_of_hers = anna.create_folder(&common::name("box")).unwrap();
    fs::write(box_of_hers.path_of("m2y.config"), "[OnNew]\ndone.rhai\n").unwrap();
    fs::write(
        box_of_hers.path_of("done.rhai"),
        "folder.write(\"done.txt\", event.file);",
    )
    .unwrap();
    world.script(
        "hook.sh",
        "#!/bin/sh\nwhile [ ! -e go ]; do sleep 0.05; done\n",
    );
    let mut tasks = Vec::new();
    for n in 0..100 {
        let file = format!("f{n}");
        fs::write(world.photo().join(&file), b"x").unwrap();
        tasks.push(task(&format!("r{n}"), 0, Some(&file)));
    }
    fs::write(box_of_hers.path_of("hers"), b"x").unwrap();
    tasks.push(Task {
        user: "anna".to_owned(),
        folder: "box".to_owned(),
        ..task("hers", 0, Some("hers"))
    });
    let journal = Journal::open(&world.there).unwrap();
    journal.add(true, tasks).wait().unwrap();
    drop(journal);
    let server = Process::serve(&world.there);
    let begun = Instant::now();
    while !box_of_hers.path_of("done.txt").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::yield_now();
    }
    // Hers was the last of them, and none of his has had its turn.
    for entry in objects(&events(&world, &["list", "--user", "roland-frei"])) {
        assert_eq!(entry["attempts"], 0, "{entry:?}");
    }
    fs::write(world.photo().join("go"), b"").unwrap();
    server.stop();
}

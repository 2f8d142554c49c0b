//! What the scripts of an event ask for happens once, whatever kills the server.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

use common::{Process, ROLAND, World};
use m2y::{
    hooks::{
        change::{from_body, to_body},
        inbox::Inboxes,
        redo::{Changer, Pass},
        self_changes::SelfChanges,
        transaction::Transaction,
    },
    journal::{self, Journal, script_state},
    store::{Reader, Stores},
};
use proptest::{collection::vec, prelude::*, sample::Index};

/// Counts at each event, writes, renames, appends, tells, mails; and a program, which may run
/// more than once, makes some of the attempts fail.
const CONFIG: &str = "[OnMeta]\nmeta.rhai\n[OnReceived]\nreceived.rhai\nsometimes.sh\nlast.rhai\n[OnNew]\nnew.rhai\n";

const META: &str = r#"
    let n = state.add("metas", 1);
    notify.inbox(`|meta ${meta.filename} ${n}`);
"#;

const RECEIVED: &str = r#"
    let n = state.add("received", 1);
    let name = meta.filename;
    if meta.run != () { throw "it was written before"; }
    meta.run = n;
    notify.inbox(`|received ${name} ${n}`);
    folder.write(`note ${name}.txt`, `${n}`);
    folder.append("all.csv", `${name},${n}` + "\n");
    notify.email("roland-frei@example.org", `mail ${name}`, "It is here.");
    if name.ends_with("7") { reject("no sevens"); }
    folder.rename(event.data_file, `kept ${name}.jpg`);
"#;

const LAST: &str = r#"
    folder.append("all.csv", `last ${meta.filename}` + "\n");
    state.add("last", 1);
"#;

const NEW: &str = r#"
    if event.file.starts_with("drop") {
        let n = state.add("new", 1);
        notify.inbox(`|new ${event.file} ${n}`);
        folder.append("new.csv", event.file + "\n");
    }
"#;

/// The lines of a file, none if it is not there.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Sends files, each until it has its last word, while the server is killed again and again at
/// another moment each time.
fn killed(kills: u32) {
    let world = World::new(CONFIG);
    for (name, text) in [
        ("meta.rhai", META),
        ("received.rhai", RECEIVED),
        ("last.rhai", LAST),
        ("new.rhai", NEW),
    ] {
        world.script(name, text);
    }
    // Every third attempt fails.
    world.script(
        "sometimes.sh",
        "#!/bin/sh\necho x >> ../runs; [ $(( $(wc -l < ../runs) % 3 )) -ne 0 ]\n",
    );
    let ini = "[watch]\nsettle = 20ms\n\
        [hooks]\nexecutables = all\nretry_delay = 10ms\nretry_limit = 100000\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let outbox = world.sender.path().join("photo");
    let mut files = 0;
    let begun = Instant::now();
    for kill in 0..=kills {
        let is_last = kill == kills;
        let mut server = Process::serve(&world.there);
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                loop {
                    // What had no last word is sent again.
                    let mut open = common::names(&outbox, ".meta");
                    for failed in common::names(&outbox, ".failed") {
                        let at = outbox.join(&failed);
                        if common::read_meta(&at).error != "no sevens" {
                            fs::rename(&at, at.with_extension("meta")).unwrap();
                            open.push(failed.replace(".failed", ".meta"));
                        }
                    }
                    if open.is_empty() {
                        if is_last {
                            return;
                        }
                        for _ in 0..5 {
                            files += 1;
                            let file = world.file(&format!("f{files}"), b"some bytes");
                            world.meta("photo", &file);
                        }
                        continue;
                    }
                    let paths = open.iter().map(|name| outbox.join(name));
                    let output = std::process::Command::new(common::M2Y)
                        .args(["send", "--server", &server.address, "--root"])
                        .arg(world.here.path())
                        .args(paths)
                        .output()
                        .unwrap();
                    let said = common::said(&output);
                    if !matches!(output.status.code(), Some(0 | 3 | 10)) && !is_last {
                        return;
                    }
                    assert!(begun.elapsed() < Duration::from_secs(3_600), "{said}");
                }
            });
            if !is_last {
                // Of a person, who knows nothing of servers.
                fs::write(world.photo().join(format!("drop{kill}")), "x").unwrap();
                // Not a wait for something: the kill has to come at another moment each time.
                std::thread::sleep(Duration::from_millis(20 + u64::from(kill * 37 % 300)));
                let pid = rustix::process::Pid::from_child(&server.child);
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
            sending.join().unwrap();
        });
        if is_last {
            let journal = Journal::open(&world.there).unwrap();
            let db = journal.reader().unwrap();
            let begun = Instant::now();
            let mails = |entries: &[journal::Entry]| entries.iter().all(|e| e.task.kind == "email");
            // A file is news when it has rested for a while.
            let is_over = || {
                let news = lines(&world.photo().join("new.csv")).len();
                mails(&journal::list(&db, None, 1_000_000).unwrap()) && news >= kills as usize
            };
            while !is_over() {
                let waits = || {
                    let waits = journal::list(&db, None, 1_000_000).unwrap();
                    let waits = waits.into_iter().filter(|e| e.task.kind != "email");
                    (
                        waits.collect::<Vec<_>>(),
                        lines(&world.photo().join("new.csv")),
                    )
                };
                assert!(begun.elapsed() < Duration::from_secs(60), "{:#?}", waits());
                // Of so many, some failed so often that they would wait for a quarter of an hour.
                let far = m2y::clock::millis() + 1_000;
                let far = waits().0.into_iter().filter(|entry| entry.due > far);
                let far: Vec<_> = far.map(|entry| entry.seq.to_string()).collect();
                if !far.is_empty() {
                    let replayed = std::process::Command::new(common::M2Y)
                        .args(["events", "replay", "--root"])
                        .arg(world.there.path())
                        .args(far)
                        .output()
                        .unwrap();
                    // One may be over by now.
                    assert!(
                        matches!(replayed.status.code(), Some(0 | 4)),
                        "{replayed:?}"
                    );
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            server.stop();
        } else {
            server.child.wait().unwrap();
        }
    }
    check(&world, files, kills);
    eprintln!("{kills} kills, {files} files, {:.0?}", begun.elapsed());
}

/// Each effect of each file is there exactly once.
fn check(world: &World, files: u64, drops: u32) {
    let photo = world.photo();
    let journal = Journal::open(&world.there).unwrap();
    let db = journal.reader().unwrap();
    let count = |key: &str| {
        let value = script_state::get(&db, ROLAND, "photo", key).unwrap();
        value.map_or(0, |value| value.as_u64().unwrap())
    };
    let all: BTreeSet<String> = (1..=files).map(|n| format!("f{n}")).collect();
    let (sevens, kept): (BTreeSet<_>, BTreeSet<_>) =
        all.iter().cloned().partition(|name| name.ends_with('7'));

    // The inbox, all files of it: each event once, each number once.
    let mut told: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
    let user = world.receiver.path();
    for name in common::names(&user, "")
        .iter()
        .filter(|name| name.starts_with("inbox.log"))
    {
        for line in lines(&user.join(name)) {
            let words = line.split_once('|').unwrap().1;
            let words = words.rsplit_once(" [").unwrap().0;
            let (event, rest) = words.split_once(' ').unwrap();
            let (file, n) = rest.rsplit_once(' ').unwrap();
            let entry = told.entry(event.to_owned()).or_default();
            entry.push((file.to_owned(), n.parse().unwrap()));
        }
    }
    let once = |event: &str, key: &str, expected: &BTreeSet<String>| {
        let told = told.get(event).cloned().unwrap_or_default();
        let names: Vec<_> = told.iter().map(|(name, _)| name.clone()).collect();
        let distinct: BTreeSet<_> = names.iter().cloned().collect();
        assert_eq!(&distinct, expected, "{event}");
        assert_eq!(
            names.len(),
            expected.len(),
            "{event}: a line is there twice"
        );
        let numbers: BTreeSet<_> = told.iter().map(|(_, n)| *n).collect();
        let whole: BTreeSet<_> = (1..=expected.len() as u64).collect();
        assert_eq!(numbers, whole, "{event}");
        assert_eq!(count(key), expected.len() as u64, "{key}");
    };
    once("meta", "metas", &all);
    once("received", "received", &all);
    let news: BTreeSet<_> = (0..drops).map(|n| format!("drop{n}")).collect();
    once("new", "new", &news);
    assert_eq!(count("last"), kept.len() as u64);

    // Files.
    let mut jpgs = common::names(&photo, ".jpg");
    jpgs.sort();
    let mut expected: Vec<_> = kept.iter().map(|name| format!("kept {name}.jpg")).collect();
    expected.sort();
    assert_eq!(jpgs, expected);
    assert!(common::names(&photo, ".data").is_empty());
    for name in &all {
        let note = photo.join(format!("note {name}.txt"));
        let n: u64 = fs::read_to_string(&note).unwrap().parse().unwrap();
        if kept.contains(name) {
            let meta = common::read_meta(&photo.join(format!("kept {name}.meta")));
            assert_eq!(meta.extra["run"], n, "{name}");
        }
    }
    let mut csv = lines(&photo.join("all.csv"));
    let mut expected: Vec<String> = Vec::new();
    for name in &all {
        let n = fs::read_to_string(photo.join(format!("note {name}.txt"))).unwrap();
        expected.push(format!("{name},{n}"));
    }
    expected.extend(kept.iter().map(|name| format!("last {name}")));
    csv.sort();
    expected.sort();
    assert_eq!(csv, expected);
    let mut csv = lines(&photo.join("new.csv"));
    csv.sort();
    assert_eq!(csv, news.iter().cloned().collect::<Vec<_>>());

    // Mails, which no server takes here.
    let entries = journal::list(&db, None, 1_000_000).unwrap();
    let mut mails: Vec<_> = entries
        .iter()
        .map(|entry| entry.task.body["subject"].as_str().unwrap().to_owned())
        .collect();
    mails.sort();
    let mut expected: Vec<_> = all.iter().map(|name| format!("mail {name}")).collect();
    expected.sort();
    assert_eq!(mails, expected);
    assert_eq!(
        common::names(&world.sender.path().join("photo"), ".failed").len(),
        sevens.len()
    );
}

#[test]
fn each_effect_of_a_script_happens_once_through_twelve_kills() {
    killed(12);
}

#[test]
#[ignore = "takes a quarter of an hour"]
fn each_effect_of_a_script_happens_once_through_a_thousand_kills() {
    killed(1_000);
}

#[derive(Clone, Debug)]
enum Op {
    Write(usize, u8),
    Append(usize, u8),
    Rename(usize, usize),
    Remove(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let name = || 0..NAMES.len();
    prop_oneof![
        (name(), any::<u8>()).prop_map(|(at, n)| Op::Write(at, n)),
        (name(), any::<u8>()).prop_map(|(at, n)| Op::Append(at, n)),
        (name(), name()).prop_map(|(from, to)| Op::Rename(from, to)),
        name().prop_map(Op::Remove),
    ]
}

const NAMES: [&str; 6] = ["a.txt", "b.txt", "c", "d.txt", "sub/e.txt", "sub/f"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A script sees the files as it made them, and so they are in the end, wherever the server
    /// ended while they were changed, and however often that happened.
    #[test]
    fn changes_that_are_cut_off_and_made_again_lead_to_the_same(
        ops in vec(op(), 1..12),
        cuts in vec(any::<Index>(), 0..4),
    ) {
        let world = World::new(common::OPEN);
        let folder = world.receiver.folder(&common::name("photo")).unwrap();
        fs::create_dir(folder.path_of("sub")).unwrap();
        let mut model: BTreeMap<String, String> = BTreeMap::new();
        // Of one length and one time: they are told apart all the same.
        for name in &NAMES[..5] {
            let text = name.chars().rev().take(1).collect::<String>();
            fs::write(folder.path_of(name), &text).unwrap();
            model.insert((*name).to_owned(), text);
        }
        let stores = Stores::default();
        let transaction = Transaction::new(&world.receiver, &stores);
        let photo = folder.name().clone();
        {
            let mut asked = transaction.lock();
            asked.files.enter(&folder);
            for op in &ops {
                let place = |at: usize| (photo.clone(), NAMES[at].to_owned());
                match *op {
                    Op::Write(at, n) => {
                        let text = format!("{n}\n");
                        asked.files.write(&photo, NAMES[at], &text).unwrap();
                        model.insert(NAMES[at].to_owned(), text);
                    }
                    Op::Append(at, n) => {
                        let text = format!("{n}\n");
                        asked.files.append(&photo, NAMES[at], &text).unwrap();
                        model.entry(NAMES[at].to_owned()).or_default().push_str(&text);
                    }
                    Op::Rename(from, to) => {
                        if model.contains_key(NAMES[to]) {
                            continue;
                        }
                        if let Some(text) = model.remove(NAMES[from]) {
                            asked.files.rename(place(from), place(to)).unwrap();
                            model.insert(NAMES[to].to_owned(), text);
                        }
                    }
                    Op::Remove(at) => {
                        if model.remove(NAMES[at]).is_some() {
                            asked.files.remove(&photo, NAMES[at]).unwrap();
                        }
                    }
                }
                for name in NAMES {
                    let seen = asked.files.stat(&photo, name).unwrap();
                    let text = model.get(name);
                    prop_assert_eq!(seen.map(|stat| stat.size as usize), text.map(String::len));
                    if let Some(text) = text {
                        let contents = asked.files.open(&photo, name).unwrap();
                        let mut read = String::new();
                        Reader::new(&*contents).read_to_string(&mut read).unwrap();
                        prop_assert_eq!(&read, text);
                    }
                }
            }
        }
        let Ok(changes) = transaction.take() else {
            // Names in a circle.
            return Ok(());
        };
        let changer = Changer::new(
            &stores,
            &Inboxes::new(1 << 20),
            &SelfChanges::new(Duration::ZERO, &Stores::default()),
        );
        let there = || {
            let mut there = BTreeMap::new();
            for name in NAMES {
                if let Ok(text) = fs::read_to_string(folder.path_of(name)) {
                    there.insert(name.to_owned(), text);
                }
            }
            there
        };
        // As the journal has them.
        let (all, _) = from_body(&to_body(&changes.files, &[])).unwrap();
        prop_assert_eq!(&all, &changes.files);
        let mut pass = Pass::First;
        for cut in cuts {
            let part = &all[..cut.index(all.len() + 1)];
            let made = changer.make(&world.receiver, &[part], pass);
            prop_assert!(made.error.is_none(), "{:?}", made.error);
            pass = Pass::Again;
        }
        for _ in 0..2 {
            let made = changer.make(&world.receiver, &[&all], pass);
            prop_assert!(made.error.is_none(), "{:?}", made.error);
            prop_assert_eq!(there(), model.clone(), "{:?}", all);
            pass = Pass::Again;
        }
    }
}

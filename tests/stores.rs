//! Folders whose contents are in a store: what their owners and the people who send to them see.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::mpsc::Receiver,
    time::Duration,
};

use common::{M2Y, Process, ROLAND, Random, World, ZHENQIANG, noise, person, said, stripe_of};
use m2y::root::Root;
use serde_json::Value;

const SHARE: &str = "[share]\nzhenqiang = list get put mkdir rm mv\n";

/// A world whose receiver has four disks, and a stripe of them.
struct Striped {
    world: World,
    disks: [PathBuf; 4],
}

impl Striped {
    fn new(config: &str) -> Self {
        let world = World::new(config);
        let disks = world.stripe();
        Self { world, disks }
    }

    /// Runs a command on the receiver's root.
    fn m2y(&self, args: &[&str]) -> Output {
        m2y(&self.world.there, args)
    }

    fn ok(&self, args: &[&str]) -> String {
        ok(self.m2y(args))
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        let said = self.ok(&[&["--json"], args].concat());
        said.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn send(&self, server: &Process, name: &str, bytes: &[u8]) {
        let file = self.world.file(name, bytes);
        let sent = self.world.send(&server.address, "photo", &file);
        let log = || fs::read_to_string(self.world.dir.path().join("log")).unwrap_or_default();
        assert!(sent.status.success(), "{}\n{}", said(&sent), log());
    }

    /// What the sender gets of a file that the receiver shares.
    fn get(&self, server: &Process, name: &str) -> Result<Vec<u8>, String> {
        let to = tempfile::tempdir().unwrap();
        let output = Command::new(M2Y)
            .args([
                "get",
                "--server",
                &server.address,
                "--user",
                ZHENQIANG,
                "--root",
            ])
            .arg(self.world.here.path())
            .arg("--output")
            .arg(to.path())
            .arg(format!("{ROLAND}:photo/{name}"))
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(fs::read(to.path().join(name)).unwrap()),
            false => Err(said(&output)),
        }
    }

    /// A disk is lost; what was on it is kept for [`Self::mount`].
    fn unmount(&self, disk: usize) {
        let at = &self.disks[disk];
        fs::rename(at, at.with_extension("away")).unwrap();
    }

    fn mount(&self, disk: usize) {
        let at = &self.disks[disk];
        fs::rename(at.with_extension("away"), at).unwrap();
    }
}

fn m2y(root: &Root, args: &[&str]) -> Output {
    let mut command = Command::new(M2Y);
    command.args(args).env("M2Y_ROOT", root.path());
    command.output().unwrap()
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Files below a directory, as paths.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut walk = vec![dir.to_owned()];
    while let Some(here) = walk.pop() {
        for entry in fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_striped_folder_survives_two_disks_and_the_root_too() {
    let config = format!(
        "[OnMeta]\n[OnReceived]\n[folder]\nnames = original\n{SHARE}[store]\nname = safe\n"
    );
    let striped = Striped::new(&config);
    let server =
        Process::serve_with_log(&striped.world.there, &striped.world.dir.path().join("log"));
    let (small, large) = (noise(353), noise(9 << 20));
    striped.send(&server, "small.jpg", &small);
    striped.send(&server, "large.mov", &large);
    striped.send(&server, "empty", b"");
    // The contents are on the disks only, and in no file that anybody else reads.
    let photo = striped.world.photo();
    assert!(!photo.join("small.jpg").exists() && !photo.join("large.mov").exists());
    for disk in &striped.disks {
        for file in files(disk) {
            let bytes = fs::read(&file).unwrap();
            assert!(!bytes.windows(64).any(|window| window == &small[..64]));
            assert!(!String::from_utf8_lossy(&bytes).contains("small.jpg"));
        }
    }
    // A fourth part that was late is a task, not yet a part.
    striped.ok(&["store", "repair", "safe"]);
    let status = striped.json(&["store", "status", "safe"]);
    assert_eq!(
        (&status[0]["files"], &status[0]["whole"]),
        (&3.into(), &3.into())
    );
    assert_eq!(striped.get(&server, "large.mov").unwrap(), large);

    for (a, b) in [(0, 1), (2, 3), (0, 3)] {
        striped.unmount(a);
        striped.unmount(b);
        let at = format!("without {a} and {b}");
        assert_eq!(striped.get(&server, "small.jpg").unwrap(), small, "{at}");
        assert_eq!(striped.get(&server, "large.mov").unwrap(), large, "{at}");
        // Nothing is acknowledged that could bear no further loss.
        let file = striped.world.file("later.jpg", &small);
        let sent = striped.world.send(&server.address, "photo", &file);
        assert_eq!(sent.status.code(), Some(5), "{at}: {}", said(&sent));
        striped.mount(a);
        striped.mount(b);
    }
    assert_eq!(server.stop(), Some(0));

    // Only the key and two disks are left.
    striped.unmount(1);
    striped.unmount(2);
    let (again, _) = Root::init(&striped.world.dir.path().join("again"), &[]).unwrap();
    person(&again, ROLAND);
    fs::write(again.path().join("m2y.ini"), stripe_of(&striped.disks)).unwrap();
    let said = ok(m2y(
        &again,
        &["--json", "store", "recover", "safe", "--user", ROLAND],
    ));
    let recovered: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(recovered["files"], 3, "{said}");
    assert_eq!(recovered["metas"], 3, "{said}");
    let metas = |photo: &Path| files(&photo.join(".received"));
    let there = again.path().join(format!("user/{ROLAND}/photo"));
    for (old, new) in metas(&photo).iter().zip(&metas(&there)) {
        assert_eq!(fs::read(old).unwrap(), fs::read(new).unwrap());
    }
    // It receives again as soon as three disks are there.
    striped.mount(1);
    let status = ok(m2y(&again, &["--json", "store", "status", "safe"]));
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["files"], &status["lost"]), (&3.into(), &0.into()));
}

#[test]
fn a_disk_that_was_lost_is_filled_again_and_a_damaged_one_is_found() {
    let striped = Striped::new(&format!(
        "[OnMeta]\n[OnReceived]\n{SHARE}[store]\nname = safe\n"
    ));
    let server =
        Process::serve_with_log(&striped.world.there, &striped.world.dir.path().join("log"));
    for n in 0..5 {
        striped.send(&server, &format!("f{n}"), &noise(1_000 + n));
    }
    server.stop();
    assert!(striped.ok(&["store", "scrub", "safe"]).contains("clean"));
    // A new disk in the place of the third.
    fs::remove_dir_all(&striped.disks[2]).unwrap();
    fs::create_dir(&striped.disks[2]).unwrap();
    striped.ok(&["store", "repair", "safe"]);
    assert!(striped.ok(&["store", "scrub", "safe"]).contains("clean"));
    // A bit of one share changes.
    let share = files(&striped.disks[0]);
    let share = share
        .iter()
        .find(|path| path.to_str().unwrap().contains("/c/"))
        .unwrap();
    let mut bytes = fs::read(share).unwrap();
    bytes[7] ^= 4;
    fs::write(share, bytes).unwrap();
    let scrubbed = striped.m2y(&["store", "scrub", "safe"]);
    assert_eq!(scrubbed.status.code(), Some(13), "{}", said(&scrubbed));
    assert!(
        said(&scrubbed).contains("one: 1 wrong"),
        "{}",
        said(&scrubbed)
    );
    striped.ok(&["store", "scrub", "safe", "--repair"]);
    assert!(striped.ok(&["store", "scrub", "safe"]).contains("clean"));
    striped.unmount(3);
    let scrubbed = striped.m2y(&["store", "scrub", "safe"]);
    assert_eq!(scrubbed.status.code(), Some(5), "{}", said(&scrubbed));
    let status = striped.ok(&["store", "status", "safe"]);
    assert!(
        status.contains("bear the loss of 1 more member"),
        "{status}"
    );
}

#[test]
fn a_folder_moves_to_a_store_and_back_while_files_arrive() {
    let config = format!("[OnMeta]\n[OnReceived]\n[folder]\nnames = original\n{SHARE}");
    let striped = Striped::new(&config);
    let server =
        Process::serve_with_log(&striped.world.there, &striped.world.dir.path().join("log"));
    let mut sent = Vec::new();
    let send = |n: u32, sent: &mut Vec<(String, Vec<u8>)>| {
        let (name, bytes) = (format!("f{n:02}"), noise(2_000 + n as usize));
        striped.send(&server, &name, &bytes);
        sent.push((name, bytes));
    };
    for n in 0..20 {
        send(n, &mut sent);
    }
    for (store, first) in [("safe", 20), ("one", 30), ("local", 40)] {
        let moving = std::thread::scope(|scope| {
            let moving =
                scope.spawn(|| striped.m2y(&["folder", "move", "photo", "--store", store]));
            for n in first..first + 10 {
                send(n, &mut sent);
                // Nothing is missing at any moment.
                let (name, bytes) = &sent[(n as usize * 7) % sent.len()];
                assert_eq!(
                    &striped.get(&server, name).unwrap(),
                    bytes,
                    "{store}: {name}"
                );
            }
            moving.join().unwrap()
        });
        ok(moving);
        for (name, bytes) in &sent {
            assert_eq!(
                &striped.get(&server, name).unwrap(),
                bytes,
                "{store}: {name}"
            );
        }
        let local = sent
            .iter()
            .filter(|(name, _)| striped.world.photo().join(name).exists());
        let expected = if store == "local" { sent.len() } else { 0 };
        assert_eq!(local.count(), expected, "{store}");
    }
    let config = fs::read_to_string(striped.world.photo().join("m2y.config")).unwrap();
    assert!(!config.contains("[store]") && !striped.world.photo().join(".store").exists());
    // The stripe has nothing of it any more.
    for disk in &striped.disks {
        assert_eq!(files(disk), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_file_that_is_renamed_while_its_folder_moves_keeps_its_document() {
    let config = format!("[OnMeta]\n[OnReceived]\n[folder]\nnames = original\n{SHARE}");
    let striped = Striped::new(&config);
    let server = Process::serve(&striped.world.there);
    striped.send(&server, "a.txt", b"with a document");
    let photo = striped.world.photo();
    let before = common::names(&photo.join(".received"), ".meta");
    assert_eq!(before.len(), 1);
    // The move has begun, and the file is not its first.
    let text = fs::read_to_string(photo.join("m2y.config")).unwrap();
    let begun = format!("{text}\n[store]\nname = one\nfrom = local\n");
    fs::write(photo.join("m2y.config"), begun).unwrap();
    let at = |name: &str| format!("{ROLAND}:photo/{name}");
    striped.ok(&["mv", &at("a.txt"), &at("b.txt")]);
    striped.ok(&["folder", "move", "photo", "--store", "one"]);
    drop(server);
    fs::remove_dir_all(&photo).unwrap();
    striped.ok(&["store", "recover", "one", "--user", ROLAND]);
    assert_eq!(common::names(&photo.join(".received"), ".meta"), before);
}

#[test]
fn what_was_removed_or_overwritten_can_be_had_back() {
    let config = format!(
        "[OnMeta]\n[OnReceived]\n[folder]\nnames = original\n{SHARE}[store]\nname = safe\nkeep = 30d\n"
    );
    let striped = Striped::new(&config);
    let server =
        Process::serve_with_log(&striped.world.there, &striped.world.dir.path().join("log"));
    let of_sender = |args: &[&str]| {
        let mut command = Command::new(M2Y);
        command
            .args(args)
            .args(["--server", &server.address, "--root"]);
        ok(command.arg(striped.world.here.path()).output().unwrap())
    };
    let put = |bytes: &[u8]| {
        let file = striped.world.file("plan.txt", bytes);
        of_sender(&[
            "put",
            "--conflict",
            "overwrite",
            file.to_str().unwrap(),
            "roland-frei:photo/plan.txt",
        ]);
    };
    put(b"first");
    put(b"second");
    of_sender(&["rm", "roland-frei:photo/plan.txt"]);
    assert!(striped.get(&server, "plan.txt").is_err());
    let versions = striped.json(&["folder", "versions", "photo"]);
    let sizes: Vec<u64> = versions
        .iter()
        .map(|one| one["size"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, [6, 5]);
    striped.ok(&["folder", "restore", "photo", "plan.txt", "--number", "2"]);
    assert_eq!(striped.get(&server, "plan.txt").unwrap(), b"first");
    let restored = striped.ok(&["folder", "restore", "photo", "plan.txt"]);
    assert!(restored.contains("plan_2.txt"), "{restored}");
    assert_eq!(striped.get(&server, "plan_2.txt").unwrap(), b"second");
    let nothing = striped.m2y(&["folder", "restore", "photo", "plan.txt"]);
    assert_eq!(nothing.status.code(), Some(4), "{}", said(&nothing));
}

#[test]
fn what_is_wrong_with_a_store_is_said_and_other_folders_work() {
    let striped = Striped::new(&format!("[OnMeta]\n[OnReceived]\n{SHARE}"));
    let ini = striped.world.there.path().join("m2y.ini");
    let mut text = fs::read_to_string(&ini).unwrap();
    text.push_str(
        "[store nobody]\nurl = s3://bucket\nendpoint = http://127.0.0.1:1\nallow_http = yes\n",
    );
    text.push_str("[store missing]\nurl = file:///no/such/disk\n");
    fs::write(&ini, text).unwrap();
    for (folder, store) in [("a", "nobody"), ("b", "missing"), ("c", "none")] {
        let config = format!("[OnMeta]\n[OnReceived]\n[store]\nname = {store}\n");
        striped.world.folder(folder, &config);
    }
    let server =
        Process::serve_with_log(&striped.world.there, &striped.world.dir.path().join("log"));
    for folder in ["a", "b", "c"] {
        let file = striped.world.file("x", b"1");
        let sent = striped.world.send(&server.address, folder, &file);
        assert_eq!(sent.status.code(), Some(5), "{folder}: {}", said(&sent));
    }
    striped.send(&server, "y", b"2");
    let missing = striped.m2y(&["store", "check", "missing"]);
    assert_eq!(missing.status.code(), Some(5));
    assert!(
        said(&missing).contains("create it, or mount the disk"),
        "{}",
        said(&missing)
    );
    let none = striped.m2y(&["store", "status", "saef"]);
    assert!(
        said(&none).contains("did you mean safe?"),
        "{}",
        said(&none)
    );
    // Files that are in a store do not seem to be gone when m2y.config is edited.
    let moved = striped.m2y(&["folder", "move", "photo", "--store", "safe"]);
    ok(moved);
    let config = striped.world.photo().join("m2y.config");
    fs::write(&config, format!("[OnMeta]\n[OnReceived]\n{SHARE}")).unwrap();
    let file = striped.world.file("z", b"3");
    let sent = striped.world.send(&server.address, "photo", &file);
    assert_eq!(sent.status.code(), Some(5), "{}", said(&sent));
}

#[test]
fn hooks_hear_of_a_disk_that_is_lost_and_comes_back_and_of_damage() {
    let striped = Striped::new(
        "[OnMeta]\n[OnReceived]\n[OnStore]\ntell.sh\nsay.rhai\n[store]\nname = safe\n",
    );
    striped.world.script(
        "tell.sh",
        "#!/bin/sh\necho \"$M2Y_CHANGE|$M2Y_STORE|$M2Y_MEMBER|$M2Y_TEXT\" >>\"$M2Y_ROOT/told\"\n",
    );
    striped.world.script(
        "say.rhai",
        "log.info(`${event.change}|${event.store}|${event.member}|${event.text}`);",
    );
    let server = Process::serve(&striped.world.there);
    striped.send(&server, "a", &noise(1_000));
    server.stop();
    let share = files(&striped.disks[0]);
    let share = share
        .iter()
        .find(|path| path.to_str().unwrap().contains("/c/"));
    let mut bytes = fs::read(share.unwrap()).unwrap();
    bytes[7] ^= 4;
    fs::write(share.unwrap(), bytes).unwrap();
    // The last scrub was in 1970.
    let index = striped.world.photo().join(".store/safe.sqlite");
    let index = rusqlite::Connection::open(index).unwrap();
    let noted = index.execute("UPDATE about SET value = 0 WHERE key = 'scrubbed'", []);
    assert_eq!(noted.unwrap(), 1);
    drop(index);
    striped.unmount(3);
    let (server, lines) = Process::serve_with_lines(&striped.world.there);
    let hear = |told: &str| {
        lines
            .iter()
            .inspect(|l| eprintln!("{l}"))
            .find(|line| line.contains(told))
            .unwrap()
    };
    hear("damage|safe|one|a scrub found damage: one: 1 wrong, 0 missing");
    // A program was told the same before.
    let told = fs::read_to_string(striped.world.there.path().join("told")).unwrap();
    assert!(
        told.contains("damage|safe|one|a scrub found damage"),
        "{told}"
    );
    hear("lost|safe|four|four: the directory");
    striped.mount(3);
    hear("back|safe|four|four answers again");
    server.stop();
    // Nothing is told twice.
    let (server, lines) = Process::serve_with_lines(&striped.world.there);
    striped.send(&server, "b", &noise(1_000));
    server.stop();
    assert!(!lines.iter().any(|line| line.contains("|safe|")));
}

/// The next thing that the script says is this.
fn hears(lines: &Receiver<String>, told: &str) {
    let said = lines.iter().find(|line| line.contains(" say "));
    let is_it = said.as_ref().is_some_and(|line| line.contains(told));
    assert!(is_it, "{told}: {said:?}");
}

#[test]
fn events_of_files_in_a_store_happen_whoever_changes_them() {
    let config = format!(
        "[OnMeta]\n[OnReceived]\n[OnNew]\nsay.rhai\n[OnChanged]\nsay.rhai\n[OnDeleted]\nsay.rhai\n\
         [folder]\nnames = original\n{SHARE}[store]\nname = safe\n"
    );
    let striped = Striped::new(&config);
    let says = "log.info(`say ${event.name} ${event.file}`);";
    striped.world.script("say.rhai", says);
    let own = |name: &str, bytes: &[u8]| {
        let file = striped.world.file(name, bytes);
        let to = format!("{ROLAND}:photo/{name}");
        let args = [
            "put",
            "--conflict",
            "overwrite",
            file.to_str().unwrap(),
            &to,
        ];
        striped.ok(&args);
    };
    let (server, lines) = Process::serve_with_lines(&striped.world.there);
    let hear = |told: &str| hears(&lines, told);
    striped.send(&server, "a", &noise(1_000));
    hear("say OnNew a");
    own("b", b"another process of the owner");
    hear("say OnNew b");
    own("b", b"once more");
    hear("say OnChanged b");
    striped.ok(&[
        "mv",
        &format!("{ROLAND}:photo/b"),
        &format!("{ROLAND}:photo/c"),
    ]);
    hear("say OnDeleted b");
    hear("say OnNew c");
    striped.ok(&["rm", &format!("{ROLAND}:photo/c")]);
    hear("say OnDeleted c");
    server.stop();
    // While no server runs.
    own("d", b"1");
    striped.ok(&["rm", &format!("{ROLAND}:photo/a")]);
    let (server, lines) = Process::serve_with_lines(&striped.world.there);
    let hear = |told: &str| hears(&lines, told);
    hear("say OnDeleted a");
    hear("say OnNew d");
    // A folder that moves has no other files for that.
    for (store, file) in [("local", "e"), ("safe", "f")] {
        striped.ok(&["folder", "move", "photo", "--store", store]);
        striped.send(&server, file, &noise(1_000));
        hear(&format!("say OnNew {file}"));
    }
    server.stop();
}

/// What a contact did with a folder's files: of each, what it may hold, in the order of what was
/// done. Of what was acknowledged there is one possibility. What was not may still happen when the
/// server starts again, but nothing goes back.
#[derive(Default)]
struct Model(BTreeMap<String, Vec<Option<Vec<u8>>>>);

impl Model {
    /// Something begins that changes a file into this.
    fn begins(&mut self, name: &str, into: Option<&[u8]>) {
        let may = self.0.entry(name.to_owned()).or_insert(vec![None]);
        may.push(into.map(<[u8]>::to_vec));
    }

    /// It was acknowledged.
    fn done(&mut self, name: &str, into: Option<&[u8]>) {
        self.0
            .insert(name.to_owned(), vec![into.map(<[u8]>::to_vec)]);
    }

    /// Compares the files of a directory with what there may be.
    fn check(&mut self, dir: &Path, when: &str) {
        for (name, may) in &mut self.0 {
            let is = fs::read(dir.join(name)).ok();
            let Some(at) = may.iter().position(|one| *one == is) else {
                let may: Vec<_> = may.iter().map(shown).collect();
                panic!("{when}: {name} is {:?}, and may be {may:?}", shown(&is));
            };
            may.drain(..at);
        }
        for file in files(dir) {
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(self.0.contains_key(name), "{when}: {name}");
        }
    }
}

/// The beginning of a file, which tells when it was written.
fn shown(bytes: &Option<Vec<u8>>) -> Option<String> {
    let first = |bytes: &Vec<u8>| String::from_utf8_lossy(&bytes[..bytes.len().min(5)]).into();
    bytes.as_ref().map(first)
}

#[test]
fn a_server_that_is_killed_at_any_moment_loses_nothing_acknowledged_and_brings_nothing_back() {
    let config = format!(
        "[OnMeta]\n[OnReceived]\n[folder]\nnames = original\n{SHARE}[store]\nname = safe\n"
    );
    let striped = Striped::new(&config);
    let mut model = Model::default();
    let mut random = Random(7);
    let of_owner = |root: &Root, to: &Path| {
        let to = [
            "get",
            "-r",
            "--output",
            to.to_str().unwrap(),
            "roland-frei:photo",
        ];
        ok(m2y(root, &to));
        to[3].to_owned() + "/photo"
    };
    for round in 0..12 {
        let server = Process::serve(&striped.world.there);
        let address = server.address.clone();
        let written = || files(&striped.disks[0]).len();
        // The moment is one of the writes to a disk, and some microseconds later.
        let (deadly, later) = (written() + 1 + random.index(12), random.below(3_000));
        let of_contact = |args: &[&str]| {
            let mut command = Command::new(M2Y);
            command
                .args(args)
                .args(["--user", ZHENQIANG, "--server", &address, "--root"]);
            let output = command.arg(striped.world.here.path()).output().unwrap();
            output.status.success()
        };
        std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                for step in 0.. {
                    let name = format!("f{}", random.below(5));
                    let at = format!("{ROLAND}:photo/{name}");
                    let bytes = noise(1 + random.index(200_000));
                    let bytes = [format!("{round} {step} ").as_bytes(), &bytes].concat();
                    let into = (random.below(4) > 0).then_some(&bytes[..]);
                    model.begins(&name, into);
                    let is_done = match into {
                        Some(bytes) => {
                            let file = striped.world.file(&name, bytes);
                            let file = file.to_str().unwrap();
                            of_contact(&["put", "--conflict", "overwrite", file, &at])
                        }
                        // One that is not there is an error, and then it is as it was.
                        None if model.0[&name].iter().all(Option::is_none) => continue,
                        None => of_contact(&["rm", &at]),
                    };
                    if !is_done {
                        return;
                    }
                    model.done(&name, into);
                }
            });
            let begun = std::time::Instant::now();
            while written() < deadly && begun.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_micros(later));
            drop(server);
            working.join().unwrap();
        });
        let got = tempfile::tempdir().unwrap();
        let got = of_owner(&striped.world.there, got.path());
        model.check(Path::new(&got), &format!("after round {round}"));
    }
    // What was under way when the last server was killed is in the root only. It is on the disks
    // before the next file is acknowledged.
    let server = Process::serve(&striped.world.there);
    striped.send(&server, "last", b"last");
    model.done("last", Some(b"last"));
    drop(server);
    for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
        striped.unmount(a);
        striped.unmount(b);
        let again = tempfile::tempdir().unwrap();
        let (again, _) = Root::init(&again.path().join("again"), &[]).unwrap();
        person(&again, ROLAND);
        fs::write(again.path().join("m2y.ini"), stripe_of(&striped.disks)).unwrap();
        ok(m2y(&again, &["store", "recover", "safe", "--user", ROLAND]));
        let got = tempfile::tempdir().unwrap();
        let got = of_owner(&again, got.path());
        model.check(Path::new(&got), &format!("without {a} and {b}"));
        striped.mount(a);
        striped.mount(b);
    }
}

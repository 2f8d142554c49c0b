//! One's own folders, through the commands that also work on those of contacts: with no server, and
//! beside one.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use common::{M2Y, PETER, Process, ROLAND, World, ZHENQIANG, name, noise, person, said};
use serde_json::Value;

const SHARE: &str = "[share]\nzhenqiang = list get put mkdir rm mv\n";

/// Roland, who works on the folder `photo`, and a directory from which he does.
struct Own {
    world: World,
    desk: PathBuf,
}

impl Own {
    fn new(config: &str) -> Self {
        let world = World::new(config);
        let desk = world.dir.path().join("desk");
        fs::create_dir(&desk).unwrap();
        Self { world, desk }
    }

    /// The same with contents on a stripe of four disks.
    fn striped(config: &str) -> Self {
        let own = Self::new(&format!("{config}[store]\nname = safe\n"));
        own.world.stripe();
        own
    }

    /// A folder in its own directory, and one in a store.
    fn both(config: &str) -> [Self; 2] {
        [Self::new(config), Self::striped(config)]
    }

    fn m2y(&self, args: &[&str]) -> Output {
        let mut command = Command::new(M2Y);
        command.args(args).current_dir(&self.desk);
        command.env("M2Y_ROOT", self.world.there.path());
        command.output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.m2y(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, args: &[&str], code: i32, words: &str) {
        let output = self.m2y(args);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(words), "{args:?}: {told}");
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        let said = self.ok(&[&["--json"], args].concat());
        said.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The paths in a directory and below.
    fn listed(&self, place: &str) -> Vec<String> {
        let said = self.ok(&["ls", "-R", place]);
        said.lines().map(str::to_owned).collect()
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.desk.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.desk.join(path)).unwrap()
    }

    fn modified(&self, path: &str) -> SystemTime {
        let about = fs::metadata(self.desk.join(path)).unwrap();
        about.modified().unwrap()
    }

    /// A command of the contact on these folders.
    fn contact(&self, server: &Process, args: &[&str]) -> Output {
        let mut command = Command::new(M2Y);
        command.args(args).args(["--user", ZHENQIANG]);
        command.args(["--server", &server.address]);
        command.env("M2Y_ROOT", self.world.here.path());
        command.current_dir(&self.desk).output().unwrap()
    }
}

/// Names in a directory, hidden ones too.
fn entries(at: &Path) -> Vec<String> {
    common::names(at, "")
}

#[test]
fn what_is_put_comes_back_equal_with_its_time() {
    for own in Own::both("") {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_890_120);
        let files = [
            ("small.jpg", noise(353)),
            ("large.mov", noise(3 << 20)),
            ("empty", Vec::new()),
        ];
        for (file, bytes) in &files {
            own.write(file, bytes);
            let opened = fs::File::open(own.desk.join(file)).unwrap();
            opened.set_modified(time).unwrap();
        }
        let put = own.json(&[
            "put",
            "small.jpg",
            "large.mov",
            "empty",
            "roland-frei:photo",
        ]);
        assert_eq!(
            (&put[3]["stored"], &put[3]["failed"]),
            (&3.into(), &0.into())
        );
        assert_eq!(put[0]["status"], "stored");

        let listed = own.json(&["ls", "roland-frei:photo"]);
        let shown: Vec<_> = listed.iter().map(|entry| &entry["path"]).collect();
        assert_eq!(shown, ["empty", "large.mov", "small.jpg"]);
        assert_eq!(listed[1]["size"], 3 << 20);
        assert_eq!(listed[1]["modified"], "2009-02-13T23:31:30.12Z");

        let fetched = own.json(&["get", "--output", "back", "-r", "roland-frei:photo"]);
        assert_eq!(fetched[3]["fetched"], 3, "{fetched:?}");
        for (file, bytes) in &files {
            let back = format!("back/photo/{file}");
            assert_eq!(own.read(&back), *bytes, "{file}");
            assert_eq!(own.modified(&back), time, "{file}");
        }
        // And what is the same goes neither way again.
        let again = own.json(&["get", "--output", "back", "-r", "roland-frei:photo"]);
        assert_eq!(again[3]["same"], 3);
        let again = own.json(&["put", "large.mov", "roland-frei:photo"]);
        assert_eq!(again[0]["status"], "same");
    }
}

#[test]
fn contents_are_where_the_folder_keeps_them_and_leave_nothing_beside() {
    let [local, striped] = Own::both("");
    for own in [&local, &striped] {
        own.write("a.jpg", b"12");
        own.ok(&["put", "a.jpg", "roland-frei:photo"]);
    }
    assert_eq!(entries(&local.world.photo()), ["a.jpg", "m2y.config"]);
    assert!(!striped.world.photo().join("a.jpg").exists());
    let status = striped.json(&["store", "status", "safe"]);
    assert_eq!(status[0]["files"], 1, "{status:?}");
}

#[test]
fn a_directory_goes_in_and_comes_out_whole() {
    for own in Own::both("") {
        for n in 0..70 {
            own.write(&format!("2026/day/{n:02}.jpg"), &noise(n));
        }
        own.write("2026/top.jpg", b"top");
        own.fails(&["put", "2026", "roland-frei:photo"], 2, "add -r");
        own.ok(&["put", "-r", "2026", "roland-frei:photo"]);
        assert_eq!(own.listed("roland-frei:photo").len(), 73);
        assert_eq!(own.listed("roland-frei:photo/2026/day").len(), 70);
        let top = own.ok(&["ls", "roland-frei"]);
        assert_eq!(top, "photo/\n");

        let would = own.ok(&[
            "get",
            "--dry-run",
            "-r",
            "-o",
            "back",
            "roland-frei:photo/2026",
        ]);
        assert!(would.contains("would fetch 71 files"), "{would}");
        assert!(!own.desk.join("back").exists());
        own.fails(&["get", "roland-frei:photo/2026"], 2, "add -r");
        own.ok(&["get", "-r", "-o", "back", "roland-frei:photo/2026"]);
        for n in 0..70 {
            assert_eq!(own.read(&format!("back/2026/day/{n:02}.jpg")), noise(n));
        }
        own.ok(&["get", "-o", "some", "roland-frei:photo/*/day/1?.jpg"]);
        assert_eq!(entries(&own.desk.join("some")).len(), 11);
    }
}

#[test]
fn a_different_file_stays_is_skipped_replaced_or_joined_as_one_says() {
    for own in Own::both("") {
        own.write("a.txt", b"first");
        own.ok(&["put", "a.txt", "roland-frei:photo"]);
        own.write("a.txt", b"second");
        own.fails(&["put", "a.txt", "roland-frei:photo"], 1, "--conflict");
        let put = |conflict| {
            let args = ["put", "--conflict", conflict, "a.txt", "roland-frei:photo"];
            own.json(&args).swap_remove(0)
        };
        assert_eq!(put("skip")["status"], "skipped");
        assert_eq!(put("rename")["path"], "photo/a_2.txt");
        own.ok(&["get", "-o", "back", "roland-frei:photo/a.txt"]);
        assert_eq!(own.read("back/a.txt"), b"first");
        own.write("a.txt", b"third");
        assert_eq!(put("overwrite")["path"], "photo/a.txt");
        own.fails(
            &["get", "-o", "back", "roland-frei:photo/a.txt"],
            1,
            "a different file",
        );
        own.ok(&[
            "get",
            "--conflict",
            "overwrite",
            "-o",
            "back",
            "roland-frei:photo/a.txt",
        ]);
        assert_eq!(own.read("back/a.txt"), b"third");
        own.ok(&["get", "-o", "back", "roland-frei:photo/a_2.txt"]);
        assert_eq!(own.read("back/a_2.txt"), b"second");
        // A directory is never replaced.
        own.ok(&["mkdir", "roland-frei:photo/dir"]);
        own.fails(
            &[
                "put",
                "--conflict",
                "overwrite",
                "-r",
                "a.txt",
                "roland-frei:photo/none/x",
            ],
            4,
            "there is no directory photo/none/x",
        );
        own.ok(&["put", "a.txt", "roland-frei:photo/dir"]);
        assert_eq!(own.listed("roland-frei:photo/dir"), ["a.txt"]);
    }
}

#[test]
fn files_and_directories_move_and_go() {
    for own in Own::both("") {
        for file in ["in/a.tmp", "in/b.tmp", "in/c.jpg"] {
            own.write(file, file.as_bytes());
        }
        own.ok(&["put", "-r", "in", "roland-frei:photo"]);
        own.ok(&["mkdir", "-p", "roland-frei:photo/x/y"]);
        own.ok(&["mv", "roland-frei:photo/in/a.tmp", "photo/d.tmp"]);
        own.ok(&["mv", "roland-frei:photo/d.tmp", "roland-frei:photo/x/y"]);
        own.fails(
            &["mv", "roland-frei:photo/in/b.tmp", "photo/in/c.jpg"],
            1,
            "exists",
        );
        own.fails(
            &["mv", "roland-frei:photo/in/b.tmp", "other/b"],
            2,
            "same folder",
        );
        own.fails(
            &["mv", "roland-frei:photo/none", "photo/b"],
            4,
            "no such file",
        );
        own.ok(&["mv", "roland-frei:photo/x", "photo/z"]);
        assert_eq!(
            own.listed("roland-frei:photo"),
            ["in/", "in/b.tmp", "in/c.jpg", "z/", "z/y/", "z/y/d.tmp"]
        );
        own.ok(&["get", "roland-frei:photo/z/y/d.tmp"]);
        assert_eq!(own.read("d.tmp"), b"in/a.tmp");

        own.fails(&["rm", "roland-frei:photo/z"], 1, "not empty");
        own.fails(&["rm", "roland-frei:photo"], 2, "whole folder");
        own.fails(
            &["rm", "-r", "roland-frei:photo"],
            10,
            "a folder itself stays",
        );
        own.fails(&["rm", "roland-frei:photo/*.none"], 4, "nothing matches");
        assert_eq!(own.listed("roland-frei:photo").len(), 6);
        own.ok(&["rm", "roland-frei:photo/in/*.tmp"]);
        own.ok(&["rm", "-r", "roland-frei:photo/z"]);
        own.ok(&["rm", "roland-frei:photo/in/c.jpg", "roland-frei:photo/in"]);
        assert_eq!(own.listed("roland-frei:photo"), [""; 0]);
    }
}

#[test]
fn hooks_that_reject_everything_do_not_stop_the_owner() {
    let sections = ["OnMeta", "OnReceived", "OnList", "OnGet", "OnSent"];
    let config: String = sections
        .iter()
        .map(|section| format!("[{section}]\nno.rhai\n"))
        .collect();
    for own in Own::both(&config) {
        own.world.script("no.rhai", "reject(\"no\");");
        own.write("a.jpg", b"12");
        own.ok(&["put", "a.jpg", "roland-frei:photo"]);
        assert_eq!(own.listed("roland-frei:photo"), ["a.jpg"]);
        own.ok(&["get", "-o", "back", "roland-frei:photo/a.jpg"]);
        own.ok(&["rm", "roland-frei:photo/a.jpg"]);
        assert!(!own.world.there.path().join("journal.sqlite").exists());
    }
}

#[test]
fn documents_of_m2y_are_neither_shown_nor_put() {
    let own = Own::new("[OnMeta]\ncheck.py\n");
    let photo = own.world.photo();
    for file in ["z.meta", "z.data", "s.rhai", ".hidden", "check.py"] {
        fs::write(photo.join(file), "12").unwrap();
    }
    assert_eq!(own.listed("roland-frei:photo"), ["z.data"]);
    own.fails(&["get", "roland-frei:photo/m2y.config"], 4, "no such file");
    own.fails(&["rm", "roland-frei:photo/z.meta"], 4, "no such file");
    own.write("x.jpg", b"12");
    for (to, words) in [
        ("s.rhai", "reserved"),
        ("m2y.config", "reserved"),
        ("check.py", "reserved"),
        (".x", "can have the path"),
    ] {
        let to = format!("roland-frei:photo/{to}");
        own.fails(&["put", "--conflict", "overwrite", "x.jpg", &to], 1, words);
    }
}

#[test]
fn who_has_no_such_folder_or_is_nobody_is_told_what_to_do() {
    let own = Own::new("");
    own.write("a.jpg", b"12");
    own.fails(
        &["ls", "roland-frei:photos"],
        4,
        "has no folder photos: create it with `m2y folder create photos`: did you mean photo?",
    );
    own.fails(
        &["put", "a.jpg", "roland-frei:photos"],
        4,
        "did you mean photo?",
    );
    own.fails(&["get", "roland-frei:photos/a"], 4, "did you mean photo?");
    own.fails(&["put", "a.jpg", "roland-frei"], 2, "a path is missing");
    own.fails(
        &["ls", "roland-fre:photo"],
        12,
        "this root has no user roland-fre",
    );
    own.fails(&["ls", "roland-fre:photo"], 12, "did you mean roland-frei?");
    own.fails(
        &["ls", "--server", "127.0.0.1:1", "roland-frei:photo"],
        2,
        "no server is asked: leave out --server",
    );
}

#[test]
fn a_user_of_the_root_who_is_no_contact_has_own_folders_too() {
    let own = Own::new("");
    let peter = person(&own.world.there, PETER);
    peter.create_folder(&name("docs")).unwrap();
    own.write("a.txt", b"12");
    own.ok(&["put", "--user", ROLAND, "a.txt", "peter-norton:docs"]);
    assert_eq!(fs::read(peter.path().join("docs/a.txt")).unwrap(), b"12");
    // A contact comes first: then the server of the contact is asked.
    common::introduce(&own.world.receiver, &peter);
    own.fails(
        &["ls", "--user", ROLAND, "peter-norton:docs"],
        2,
        "no address",
    );
}

#[test]
fn a_contact_sees_what_the_owner_puts_and_the_owner_what_the_contact_puts() {
    for own in Own::both(&format!("[OnMeta]\n[OnReceived]\n{SHARE}")) {
        let server = Process::serve(&own.world.there);
        let large = noise(2 << 20);
        own.write("mine.mov", &large);
        own.write("theirs.jpg", b"theirs");
        own.ok(&["put", "mine.mov", "roland-frei:photo"]);
        let put = own.contact(&server, &["put", "theirs.jpg", "roland-frei:photo"]);
        assert!(put.status.success(), "{}", said(&put));
        let ls = own.contact(&server, &["ls", "roland-frei:photo"]);
        assert_eq!(ls.stdout, b"mine.mov\ntheirs.jpg\n", "{}", said(&ls));
        assert_eq!(own.listed("roland-frei:photo"), ["mine.mov", "theirs.jpg"]);
        let get = own.contact(&server, &["get", "-o", "c", "roland-frei:photo/mine.mov"]);
        assert!(get.status.success(), "{}", said(&get));
        assert_eq!(own.read("c/mine.mov"), large);
        own.ok(&["get", "-o", "o", "roland-frei:photo/theirs.jpg"]);
        assert_eq!(own.read("o/theirs.jpg"), b"theirs");
        own.ok(&["mv", "roland-frei:photo/theirs.jpg", "photo/ours.jpg"]);
        own.ok(&["rm", "roland-frei:photo/mine.mov"]);
        let ls = own.contact(&server, &["ls", "roland-frei:photo"]);
        assert_eq!(ls.stdout, b"ours.jpg\n", "{}", said(&ls));
        assert_eq!(server.stop(), Some(0));
    }
}

//! `m2y hook`, by the program as a person uses it.
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
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use common::{M2Y, said};
use m2y::hooks::api;
use serde_json::Value;
use tempfile::TempDir;

const CONFIG: &str = "[OnMeta]\ncheckPermission.rhai\n[OnReceived]\nnotifyUser.rhai\n\
    [OnStartup]\n[OnNew]\n[permission]\nzhenqiang = always\n";

fn m2y(args: &[&str]) -> Output {
    Command::new(M2Y)
        .args(args)
        .env_remove("M2Y_ROOT")
        .output()
        .unwrap()
}

#[track_caller]
fn ends(code: i32, args: &[&str]) -> String {
    let output = m2y(args);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}: {}",
        said(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn objects(code: i32, args: &[&str]) -> Vec<Value> {
    let text = ends(code, args);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn program(path: &Path, script: &str) {
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A root with a user and a folder, as far as hooks need them: without keys.
struct Home(TempDir);

impl Home {
    fn new(config: &str) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(home.folder()).unwrap();
        fs::create_dir_all(home.root().join("scripts")).unwrap();
        let user = home.root().join("user/roland-frei/user.json");
        fs::write(user, "{\"username\": \"roland-frei\"}").unwrap();
        home.write("m2y.config", config);
        home
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn folder(&self) -> PathBuf {
        self.root().join("user/roland-frei/photo")
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.folder().join(file), text).unwrap();
    }

    fn args<'a>(&self, root: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["hook"];
        all.extend(args);
        all.extend(["--root", root]);
        all
    }

    #[track_caller]
    fn ends(&self, code: i32, args: &[&str]) -> String {
        let root = self.root();
        ends(code, &self.args(text(&root), args))
    }

    #[track_caller]
    #[allow(dead_code)]
    fn objects(&self, code: i32, args: &[&str]) -> Vec<Value> {
        let root = self.root();
        let mut args = self.args(text(&root), args);
        args.push("--json");
        objects(code, &args)
    }

    fn listing(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(dir: &Path, all: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => walk(&path, all),
                    false => all.push((path.clone(), fs::read(&path).unwrap())),
                }
            }
        }
        let mut all = Vec::new();
        walk(&self.root(), &mut all);
        all.sort();
        all
    }
}

/// A directory with hooks and tests, in no root.
fn directory(config: &str, tests: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("m2y.config"), config).unwrap();
    fs::write(dir.path().join("some_test.rhai"), tests).unwrap();
    dir
}

#[test]
fn every_example_of_what_tests_have_runs_as_a_test() {
    let mut tests = String::new();
    let mut count = 0;
    for function in api::functions().filter(|f| f.subject == "test") {
        count += 1;
        tests += &format!("fn test_{count}() {{\n{}\n}}\n", function.example);
    }
    let dir = directory(CONFIG, &tests);
    let said = ends(0, &["hook", "test", text(dir.path())]);
    assert!(count > 10);
    assert!(
        said.contains(&format!("test result: ok. {count} passed; 0 failed;")),
        "{said}"
    );
}

#[test]
fn tests_say_which_failed_and_where() {
    let dir = directory(
        CONFIG,
        "fn test_first() {\n    let sent = meta(#{ from: \"peter-norton\" });\n    let result = run(\"OnMeta\", sent);\n    assert_eq(result.outcome, \"accepted\");\n}\nfn test_second() {}\nfn helper(x) { x }\nfn test_third() { throw \"enough\"; }\n",
    );
    let said = ends(1, &["hook", "test", text(dir.path())]);
    assert!(
        said.contains("some_test.rhai: test_first ... FAILED"),
        "{said}"
    );
    assert!(
        said.contains("some_test.rhai: test_second ... ok"),
        "{said}"
    );
    assert!(
        said.contains("some_test.rhai:4:5: assert_eq(): \"refused\" is not \"accepted\""),
        "{said}"
    );
    assert!(
        said.contains("     4 |     assert_eq(result.outcome, \"accepted\");\n       |     ^"),
        "{said}"
    );
    assert!(
        said.contains("the last event was refused: no permission"),
        "{said}"
    );
    assert!(
        said.contains("some_test.rhai:8:19: thrown: enough"),
        "{said}"
    );
    assert!(
        said.contains("test result: FAILED. 1 passed; 2 failed; finished in "),
        "{said}"
    );

    let told = objects(1, &["hook", "test", "--json", text(dir.path())]);
    assert_eq!(told.len(), 4);
    assert_eq!(told[0]["status"], "failed");
    assert_eq!(told[0]["test"], "test_first");
    assert_eq!(
        (&told[0]["line"], &told[0]["column"]),
        (&4.into(), &5.into())
    );
    assert_eq!(told[1]["status"], "ok");
    assert_eq!(told[3]["status"], "summary");
    assert_eq!(
        (&told[3]["passed"], &told[3]["failed"]),
        (&1.into(), &2.into())
    );
}

#[test]
fn what_a_hook_does_at_once_happens_in_the_made_up_folder_and_the_rest_is_listed() {
    let tests = r#"
fn test_deeds() {
    make_folder("archive");
    let result = run("OnReceived", meta(#{ filename: "sea.jpg", datetime: "30-12-2018_23-59-59" }), "0123456789");
    assert_eq(result.error, "");
    assert_eq(result.outcome, "accepted");
    assert(has("archive/sea.jpg"));
    assert_eq(text("archive/sea.jpg"), "0123456789");
    assert(!has("zhenqiang_30-12-2018_23-59-59.data"));
    assert_eq(state.get("count"), 1);
    assert_eq(result.inbox, ["came"]);
    assert_eq(result.log, ["INFO a line", "WARN roland-frei@example.org"]);
    assert_eq(result.meta.album, "holiday");
    assert_eq(result.effects.len(), 2);
    assert_eq(result.effects[0], #{ kind: "email", to: "a@example.org", subject: "s", text: "t" });
    assert_eq(result.effects[1].kind, "send");
}
fn test_nothing_is_left_of_another_test() {
    assert_eq(state.get("count"), ());
    assert(folder.list("*.jpg").is_empty());
    state.set("count", 7);
    run("OnStartup");
    assert_eq(state.get("count"), 8);
}
fn test_failures_have_their_place() {
    let result = run_script("broken.rhai", "OnNew", meta());
    assert_eq(result.outcome, "failed");
    assert(result.error.contains("broken.rhai:1:"));
}
fn test_config_is_what_hooks_read() {
    config("album", "name", "sea");
    file("a.txt", "abc");
    assert_eq(run("OnNew", "a.txt").log, ["INFO sea of a.txt"]);
}
"#;
    let config = "[OnReceived]\nr.rhai\n[OnStartup]\ns.rhai\n[OnNew]\nn.rhai\n";
    let dir = directory(config, tests);
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(
        "r.rhai",
        r#"
folder.rename(event.data_file, "sea.jpg");
folder.move_to("sea.jpg", "archive");
state.add("count", 1);
notify.inbox("came");
log.info("a line");
log.warn(user.email);
meta.album = album();
notify.email("a@example.org", "s", "t");
folder.write("x.txt", "x");
send(#{ to: "zhenqiang", folder: "photo", file: "x.txt" });
"#,
    );
    write("lib.rhai", "fn album() { \"holiday\" }");
    write("s.rhai", "state.add(\"count\", 1);");
    write(
        "n.rhai",
        "log.info(`${config.get(\"album\", \"name\")} of ${event.file}`);",
    );
    write("broken.rhai", "nothing_of_that_name();");
    let said = ends(0, &["hook", "test", text(dir.path())]);
    assert!(
        said.contains("test result: ok. 4 passed; 0 failed"),
        "{said}"
    );
    assert!(!dir.path().join("x.txt").exists());
}

#[test]
fn a_program_is_started_only_where_that_is_asked_for() {
    let tests = "fn test_program() {\n    let result = run(\"OnStartup\");\n    assert_eq(result.outcome, \"accepted\");\n    print(result.log);\n    assert_eq(has(\"ran.txt\"), config_says());\n}\n";
    let skipped = tests.replace(
        "print(result.log);",
        "assert_eq(result.log, [\"INFO scan.sh: a program, not started\"]);",
    );
    let dir = directory("[OnStartup]\nscan.sh\n", &skipped);
    program(
        &dir.path().join("scan.sh"),
        "#!/bin/sh\necho ran > ran.txt\n",
    );
    fs::write(dir.path().join("lib.rhai"), "fn config_says() { false }").unwrap();
    ends(0, &["hook", "test", text(dir.path())]);

    fs::write(dir.path().join("some_test.rhai"), tests).unwrap();
    fs::write(dir.path().join("lib.rhai"), "fn config_says() { true }").unwrap();
    ends(0, &["hook", "test", "--programs", text(dir.path())]);
    assert!(!dir.path().join("ran.txt").exists());
}

#[test]
fn a_test_file_that_does_not_compile_fails_and_an_m2y_config_too() {
    let dir = directory(CONFIG, "fn test_a() {\n    let = 1;\n}\n");
    let said = ends(1, &["hook", "test", text(dir.path())]);
    assert!(said.contains("some_test.rhai:2:9:"), "{said}");
    assert!(said.contains("0 passed; 1 failed"), "{said}");

    let dir = directory("[OnMetta]\n", "fn test_a() {}\n");
    let output = m2y(&["hook", "test", text(dir.path())]);
    assert_eq!(output.status.code(), Some(1), "{}", common::said(&output));
    assert!(
        common::said(&output).contains("cannot read m2y.config: line 1"),
        "{}",
        common::said(&output)
    );
}

#[test]
fn the_tests_of_a_root_are_those_of_its_folders_and_of_its_scripts() {
    let home = Home::new("[OnMeta]\nshared.rhai\n");
    let shared = home.root().join("scripts");
    fs::write(shared.join("shared.rhai"), "reject(\"shared\");").unwrap();
    let of_shared = "fn test_shared() { assert_eq(run_script(\"shared.rhai\", \"OnMeta\", meta()).words, \"shared\"); }";
    fs::write(shared.join("shared_test.rhai"), of_shared).unwrap();
    home.write(
        "photo_test.rhai",
        "fn test_photo() { assert_eq(run(\"OnMeta\", meta()).words, \"shared\"); }",
    );
    let before = home.listing();
    let said = home.ends(0, &["test"]);
    assert!(
        said.contains("scripts/shared_test.rhai: test_shared ... ok"),
        "{said}"
    );
    assert!(said.contains("2 passed"), "{said}");
    let said = home.ends(0, &["test", "--user", "roland-frei", "--folder", "photo"]);
    assert!(
        said.contains("photo/photo_test.rhai: test_photo ... ok"),
        "{said}"
    );
    assert!(said.contains("1 passed"), "{said}");
    assert_eq!(home.listing(), before);
    home.ends(4, &["test", "--user", "roland-frei", "--folder", "other"]);
}

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

    /// Every file and its checksum; without the index that readers of a journal share.
    fn listing(&self) -> Vec<(PathBuf, u32)> {
        fn walk(dir: &Path, all: &mut Vec<(PathBuf, u32)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => walk(&path, all),
                    false => all.push((path.clone(), crc32fast::hash(&fs::read(&path).unwrap()))),
                }
            }
        }
        let mut all = Vec::new();
        walk(&self.root(), &mut all);
        all.retain(|(path, _)| !path.ends_with("journal.sqlite-shm"));
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

const META: &str = r#"{"from": "zhenqiang", "to": "roland-frei", "folder": "photo",
    "filename": "sea.jpg", "datetime": "30-12-2018_23-59-59", "filesize": 3}"#;

const PHOTO: [&str; 4] = ["--user", "roland-frei", "--folder", "photo"];

fn run_args<'a>(event: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", event];
    args.extend(PHOTO);
    args.extend(more);
    args
}

#[test]
fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    let home = Home::new("[OnReceived]\nr.rhai\nscan.sh\n");
    home.write(
        "r.rhai",
        "meta.album = \"sea\";\nstate.add(\"n\", 1);\nlog.info(\"a line\");\nnotify.inbox(\"came\");\nfolder.rename(event.data_file, \"sea.jpg\");\nnotify.email(\"a@example.org\", \"s\", \"t\");\n",
    );
    program(
        &home.folder().join("scan.sh"),
        "#!/bin/sh\necho > ran.txt\n",
    );
    fs::write(home.root().join("m2y.ini"), "[hooks]\nexecutables = all\n").unwrap();
    home.write("zhenqiang_30-12-2018_23-59-59.meta", META);
    home.write("zhenqiang_30-12-2018_23-59-59.data", "abc");
    let meta = home.folder().join("zhenqiang_30-12-2018_23-59-59.meta");
    let before = home.listing();
    let args = run_args("OnReceived", &["--meta", text(&meta)]);
    let said = home.ends(0, &args);
    for line in [
        "INFO a line",
        "INFO scan.sh: a program, not started",
        "r.rhai: accepted in ",
        "meta.album = \"sea\"",
        "would do state.add(\"n\", 1)",
        "would do notify.inbox(\"came\")",
        "would do folder.rename(\"zhenqiang_30-12-2018_23-59-59.data\", \"sea.jpg\")",
        "would do notify.email(\"a@example.org\", \"s\", \"t\")",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(said.ends_with("\naccepted\n"), "{said}");
    let told = home.objects(0, &args);
    assert_eq!(told[0]["changed"]["album"], "sea");
    assert_eq!(told[0]["spared"].as_array().unwrap().len(), 3);
    assert_eq!(home.listing(), before);

    // Neither is a journal changed that is there.
    let live = run_args("OnReceived", &["--meta", text(&meta), "--live"]);
    let said = home.ends(0, &live);
    assert!(said.contains("in the journal notify.email("), "{said}");
    assert!(home.folder().join("sea.jpg").exists());
    assert!(home.folder().join("ran.txt").exists());
    let inbox = fs::read_to_string(home.root().join("user/roland-frei/inbox.log")).unwrap();
    assert!(inbox.contains("came"));
    let waiting = ends(0, &["events", "list", "--root", text(&home.root())]);
    assert!(waiting.contains("a@example.org"), "{waiting}");
    home.write("zhenqiang_30-12-2018_23-59-59.meta", META);
    home.write("zhenqiang_30-12-2018_23-59-59.data", "abc");
    fs::remove_file(home.folder().join("sea.jpg")).unwrap();
    let before = home.listing();
    home.write(
        "r.rhai",
        "log.info(`${state.get(\"n\")}`); state.set(\"n\", 7);",
    );
    let changed = home.listing();
    assert_ne!(before, changed);
    let said = home.ends(0, &args);
    assert!(said.contains("INFO 1\n"), "{said}");
    assert_eq!(home.listing(), changed);
}

#[test]
fn the_exit_code_of_a_run_is_its_verdict() {
    let home = Home::new("[OnMeta]\nm.rhai\n");
    fs::write(home.0.path().join("f.meta"), META).unwrap();
    let meta = home.0.path().join("f.meta");
    let args = run_args("OnMeta", &["--meta", text(&meta)]);
    for (script, code, word) in [
        ("", 0, "accepted"),
        ("quarantine(\"why\")", 0, "quarantined"),
        ("reject(\"not today\")", 10, "refused"),
        ("let x = nothing();", 1, "failed"),
    ] {
        home.write("m.rhai", script);
        let said = home.ends(code, &args);
        assert!(said.ends_with(&format!("\n{word}\n")), "{said}");
    }
    home.write("other.rhai", "reject(\"other\");");
    let other = run_args(
        "OnReceived",
        &["--meta", text(&meta), "--script", "other.rhai"],
    );
    assert!(home.ends(10, &other).contains("other.rhai: refused"));
    home.ends(2, &run_args("OnMeta", &[]));
    home.ends(2, &run_args("OnNew", &[]));
    home.ends(2, &run_args("OnMetta", &[]));
    home.ends(4, &run_args("OnNew", &["--file", "gone.txt"]));
    assert!(
        home.ends(0, &run_args("OnStartup", &[]))
            .contains("no script runs")
    );
}

#[test]
fn a_check_of_what_is_in_order_finds_nothing() {
    let home = Home::new(CONFIG);
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks");
    for entry in fs::read_dir(hooks).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(
            &path,
            home.root().join("scripts").join(path.file_name().unwrap()),
        )
        .unwrap();
    }
    let mut number = 0;
    for function in api::functions() {
        number += 1;
        let (file, script) = match function.subject {
            "test" | "assert" => (
                format!("e{number}_test.rhai"),
                format!(
                    "fn test_it() {{ let meta = meta();\n{}\n}}",
                    function.example
                ),
            ),
            _ => {
                // An example asserts what a hook only looks at.
                let script = format!(
                    "{}\nfn assert(x) {{}}\nfn assert_eq(x, y) {{}}\n",
                    function.example
                );
                (format!("e{number}.rhai"), script)
            }
        };
        home.write(&file, &script);
    }
    let before = home.listing();
    let said = home.ends(0, &["check"]);
    assert!(said.contains("check result: ok. "), "{said}");
    assert_eq!(home.listing(), before);
}

#[test]
fn a_check_finds_what_is_wrong_and_says_what_was_meant() {
    let home = Home::new(
        "[OnReceived]\nchekPermission.rhai\nbad/name.rhai\nscan.sh\n\n[OnNew]\nok.rhai\n[Recieved]\n[eceived]\n[Changed]\nx.rhai\n[nDeleted]\n",
    );
    home.write("scan.sh", "#!/bin/sh\n");
    home.write("ok.rhai", "log.info(help(1));");
    home.write("lib.rhai", "fn help(x) { x }");
    home.write(
        "wrong.rhai",
        "log.inf(\"x\");\nlet size = folder.sizes(\"a\");\nfolder.rename(\"a\");\nlet file = event.fil;\nif file == () { rejct(\"no\"); }\nfolder.list().to_aray();\nlet x = text;\nif meta.anything == config.section { x += 1; }\nhelp(1, 2);\n",
    );
    home.write("broken.rhai", "let a = 1;\nlet = 2;\n");
    home.write("scope.rhai", "fn f() { folder.list() }\nf();");
    home.write("typo.rhai", "log.info(`${evnt.name}`);");
    home.write("w_test.rhai", "fn test_a() { asert(true); }");
    let said = home.ends(1, &["check"]);
    for line in [
        "note: user/roland-frei/photo/m2y.config: [OnMeta] is missing",
        "m2y.config:2: script \"chekPermission.rhai\" not found",
        "did you mean checkPermission.rhai?",
        "m2y.config:3: \"",
        "m2y.config:4: scan.sh: not run, programs of this folder are not allowed",
        "m2y.config:12: no script reads [nDeleted]: did you mean OnDeleted?",
        "wrong.rhai:1:5: there is no log.inf(): did you mean info?",
        "wrong.rhai:2:19: there is no folder.sizes(): did you mean size?",
        "wrong.rhai:3:8: folder.rename() takes 2 arguments, not 1",
        "wrong.rhai:4:18: event has no field fil, only name, folder, user, id, file, meta_file, data_file, contact, path, store, member, change, text: did you mean file?",
        "wrong.rhai:5:17: there is no function rejct(): did you mean reject?",
        "wrong.rhai:6:15: there is no function to_aray(): did you mean to_array?",
        "wrong.rhai:8:28: config has no field section: did you mean config.section()?",
        "wrong.rhai:9:1: help() takes 1 argument, not 2",
        "broken.rhai:2:5: ",
        "scope.rhai:1:10: a function does not see folder: give it to the function as an argument",
        "typo.rhai:1:13: unknown variable evnt: did you mean event?",
        "w_test.rhai:1:15: there is no function asert(): did you mean assert?",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(
        said.contains(" 5 | if file == () { rejct(\"no\"); }\n   |                 ^"),
        "{said}"
    );
    assert!(!said.contains("ok.rhai"), "{said}");
    let told = home.objects(1, &["check", "--user", "roland-frei"]);
    let summary = told.last().unwrap();
    let errors = told.iter().filter(|one| one["status"] == "error").count();
    assert_eq!(summary["found"], errors);
    assert_eq!(
        said.lines()
            .filter(|line| line.starts_with("error: "))
            .count(),
        errors
    );

    fs::write(home.root().join("m2y.ini"), "[hooks]\nexecutables = all\n").unwrap();
    assert!(home.ends(1, &["check"]).contains("chmod +x"));
    home.write("m2y.config", "\n[OnMetta]\n");
    let said = home.ends(1, &["check"]);
    assert!(
        said.contains("m2y.config:2: unknown event [OnMetta]"),
        "{said}"
    );
    assert!(said.contains("did you mean OnMeta?"), "{said}");
}

#[test]
fn a_list_says_what_runs_where_and_how_it_ended() {
    let home = Home::new("[OnMeta]\ncheckPermission.rhai\nm.rhai\n[OnNew]\ngone.rhai\nscan.sh\n");
    fs::write(home.root().join("scripts/m.rhai"), "reject(\"no\");").unwrap();
    program(&home.folder().join("scan.sh"), "#!/bin/sh\n");
    let before = home.listing();
    let said = home.ends(0, &["list"]);
    for line in [
        "roland-frei/photo  OnMeta      checkPermission.rhai  (bundled)  never ran",
        "roland-frei/photo  OnMeta      m.rhai  (scripts/)  never ran",
        "roland-frei/photo  OnNew       gone.rhai  (missing)  never ran",
        "roland-frei/photo  OnNew       scan.sh  (folder, a program)  never ran",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(home.listing(), before);
    fs::write(home.0.path().join("f.meta"), META).unwrap();
    let meta = home.0.path().join("f.meta");
    let run = run_args(
        "OnMeta",
        &["--meta", text(&meta), "--script", "m.rhai", "--live"],
    );
    home.ends(10, &run);
    let before = home.listing();
    let told = home.objects(0, &["list", "--user", "roland-frei"]);
    assert_eq!(told.len(), 4);
    assert_eq!(told[0]["verdict"], Value::Null);
    assert_eq!(
        (&told[1]["verdict"], &told[1]["words"]),
        (&"refused".into(), &"no".into())
    );
    assert!(told[1]["micros"].as_u64().unwrap() > 0);
    assert!(home.ends(0, &["list"]).contains("ms  refused: no"));
    assert_eq!(home.listing(), before);
}

#[test]
fn what_new_writes_passes_check_and_test_at_every_event() {
    let events = m2y::event::Kind::ALL.map(m2y::event::Kind::section);
    let home = Home::new("[OnMeta]\n");
    for event in events {
        let said = home.ends(0, &["new", &format!("my{event}"), "--event", event]);
        assert!(said.contains(&format!("below [{event}]:")), "{said}");
        let mut args = vec!["new", "own.rhai", "--event", event];
        args.extend(PHOTO);
        let said = home.ends(0, &args);
        assert!(said.contains("photo/own.rhai"), "{said}");
        let before = home.listing();
        home.ends(1, &args);
        assert_eq!(home.listing(), before, "something was overwritten");
        if event != "OnSchedule" {
            home.write(
                "m2y.config",
                &format!("[OnMeta]\n[{event}]\nown.rhai\nmy{event}.rhai\n"),
            );
        }
        home.ends(0, &["check"]);
        let said = home.ends(0, &["test"]);
        assert!(said.contains("photo/own_test.rhai: test_"), "{said}");
        fs::remove_file(home.folder().join("own.rhai")).unwrap();
        fs::remove_file(home.folder().join("own_test.rhai")).unwrap();
    }
    for name in ["lib", "a_test", "a/b", ".x", ""] {
        home.ends(2, &["new", name, "--event", "OnMeta"]);
    }
}

#[test]
fn the_reference_shows_every_function_and_writes_definitions() {
    let said = ends(0, &["hook", "api"]);
    for function in api::functions() {
        assert!(said.contains(function.signature), "{}", function.signature);
    }
    let told = objects(0, &["hook", "api", "folder", "--json"]);
    assert!(told.len() > 10 && told.iter().all(|one| one["subject"] == "folder"));
    let output = m2y(&["hook", "api", "foldr"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(common::said(&output).contains("did you mean folder?"));

    let dir = tempfile::tempdir().unwrap();
    ends(0, &["hook", "api", "--definitions", text(dir.path())]);
    let subjects: std::collections::BTreeSet<_> = api::functions().map(|f| f.subject).collect();
    for subject in subjects {
        let file = dir.path().join(format!("{subject}.d.rhai"));
        let file = fs::read_to_string(file).unwrap();
        assert!(file.starts_with("module static;\n"));
        let declared = file.lines().filter(|line| line.starts_with("fn ")).count();
        let described = api::functions().filter(|f| f.subject == subject).count();
        assert_eq!(declared, described, "{subject}");
    }
    let folder = fs::read_to_string(dir.path().join("folder.d.rhai")).unwrap();
    assert!(folder.contains("\nlet folder: Folder;\n"), "{folder}");
    assert!(
        folder.contains("\nfn rename(folder: Folder, from: ?, to: ?) -> ?;\n"),
        "{folder}"
    );
}

//! Scripts decide, and no script harms the server.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;
#[path = "hooks/hostile/mod.rs"]
mod hostile;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use common::{Local, Process, ROLAND, World, ZHENQIANG, read_meta, said};
use m2y::{
    error::{Code, Error},
    event::{Event, EventId, Kind, Outcome, Subject},
    hooks::{Hooks, Pinned, services::Services},
    journal::{self, Journal},
    meta::Meta,
    root::folder::Folder,
    store::{Stores, quarantine},
};

/// The m2y.config of the seed, to the letter but for the names of the scripts.
const SEED: &str = "[OnMeta]\ncheckPermission.rhai \n[OnStartup]\nresetAllFiles.rhai\n\
    [OnReceived]\nnotifyUser.rhai\n[OnNew]\n[OnChanged]\n[OnDeleted]\n[permission]\n\n";

/// Sends a small file to a server whose folder has this config and these scripts.
async fn sent(config: &str, scripts: &[(&str, &str)]) -> (World, Result<Meta, Error>, u64) {
    let world = World::new(config);
    for (name, text) in scripts {
        world.script(name, text);
    }
    let server = Local::serve(&world.there).await;
    let file = world.file("f.png", b"\x89PNG and so on");
    let result = world.deliver(&server.address, &file).await;
    let bytes = server.stop().await.bytes();
    (world, result, bytes)
}

/// One OnMeta script.
async fn on_meta(text: &str) -> (World, Result<Meta, Error>, u64) {
    sent("[OnMeta]\nhook.rhai\n", &[("hook.rhai", text)]).await
}

fn refused(result: &Result<Meta, Error>, words: &str) {
    let error = result.as_ref().expect_err("it was let in");
    assert_eq!(error.code, Code::Refused, "{error}");
    assert!(error.sentence.contains(words), "{error}");
}

/// Nobody decided: the sender tries again, and nothing of the file stays.
fn put_off(result: &Result<Meta, Error>) {
    let error = result.as_ref().expect_err("it was let in");
    assert_eq!(error.code, Code::Later, "{error}");
    assert_eq!(error.sentence, Outcome::FAILED);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_listed_with_always_may_send() {
    for word in ["always", "allways"] {
        let config = format!("{SEED}{ZHENQIANG}\t= {word}\npeter-norton\t= no\n");
        let (world, result, _) = sent(&config, &[]).await;
        result.unwrap();
        assert_eq!(world.arrived(".data").len(), 1);
        let inbox = fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap();
        assert_eq!(inbox.lines().count(), 1);
        assert!(
            inbox.contains("zhenqiang sent f.png (14 bytes) to photo"),
            "{inbox}"
        );
    }
}

#[test]
fn who_is_not_listed_or_listed_with_no_is_refused_before_a_byte_is_read() {
    for line in [
        "",
        "zhenqiang = no\n",
        "zhenqiang = Always\n",
        "zhenqiang\n",
        "roland-frei = always\n",
    ] {
        let world = World::new(&format!("{SEED}{line}"));
        let server = Process::serve(&world.there);
        let output = world.send(
            &server.address,
            "photo",
            &world.file("f", &common::noise(1 << 20)),
        );
        assert_eq!(
            output.status.code(),
            Some(10),
            "{line:?}: {}",
            said(&output)
        );
        assert_eq!(world.failed()[0].error, "no permission");
        assert!(world.arrived(".data").is_empty());
        assert!(world.arrived(".partial").is_empty());
        // The owner sees who was refused, and why.
        let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
        assert_eq!(
            (meta.from.as_str(), meta.error.as_str()),
            (ZHENQIANG, "no permission")
        );
        assert!(!world.receiver.path().join("inbox.log").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_file_is_not_read() {
    let (world, result, bytes) = sent(SEED, &[]).await;
    refused(&result, "no permission");
    assert_eq!(bytes, 0);
    // Sent again and again it takes the place of the record that is there.
    let server = Local::serve(&world.there).await;
    let outbox = world.sender.path().join("photo");
    for _ in 0..3 {
        fs::rename(outbox.join("f.failed"), outbox.join("f.meta")).unwrap();
        common::deliver(&outbox.join("f.meta"), &server.address)
            .await
            .unwrap_err();
    }
    server.stop().await;
    assert_eq!(world.arrived(".meta").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_run_in_their_order_and_the_first_refusal_stops() {
    let note = |n: u8| format!("notify.inbox(\"{n}\");");
    let (world, result, _) = sent(
        "[OnMeta]\na.rhai\nb.rhai\nc.rhai\nd.rhai\n",
        &[
            ("a.rhai", &note(1)),
            ("b.rhai", &note(2)),
            ("c.rhai", &format!("{} meta.error = \"enough\";", note(3))),
            ("d.rhai", &note(4)),
        ],
    )
    .await;
    refused(&result, "enough");
    let inbox = fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap();
    let order: Vec<_> = inbox
        .lines()
        .map(|l| l.split(' ').nth(1).unwrap())
        .collect();
    assert_eq!(order, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_sees_what_it_needs() {
    let script = r#"
        let seen = [
            meta.from, meta.to, meta.folder, meta.filename, meta.filesize, meta.error,
            meta.no_such_field, meta["filename"], event.name, event.folder, event.user,
            user.email, user.username, user["mobile phone"],
            config.get("album", "holiday"), config.get("album", "none"), config.has("album"),
            config.has("album", "holiday"), config.has("none"), config.section("album").len(),
            event.id.len() == 32, event.meta_file.ends_with(".meta"),
        ];
        throw `${seen}`;
    "#;
    let config = "[OnMeta]\nhook.rhai\n[album]\nholiday = sea side\nwork\n";
    let (_, result, _) = sent(config, &[("hook.rhai", script)]).await;
    let expected = "[\"zhenqiang\", \"roland-frei\", \"photo\", \"f.png\", 14, \"\", (), \"f.png\", \
        \"OnMeta\", \"photo\", \"roland-frei\", \"roland-frei@example.org\", \"roland-frei\", (), \
        \"sea side\", (), true, true, false, 2, true, true]";
    refused(&result, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_a_script_writes_are_kept_and_come_back_to_the_sender() {
    let script = r#"
        meta.album = "holiday";
        meta.tags = ["a", #{ b: 1, c: () }];
        let other = meta;
        other.note = "the same document";
        meta.camera = ();
    "#;
    let (world, result, _) = on_meta(script).await;
    let sent = result.unwrap();
    let stored = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    for meta in [&sent, &stored, &world.done()[0]] {
        assert_eq!(meta.extra["album"], "holiday");
        assert_eq!(meta.extra["tags"][1]["b"], 1);
        assert_eq!(meta.extra["note"], "the same document");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_the_sender_cannot_be_changed_by_a_script() {
    for line in [
        "meta.from = \"peter\";",
        "meta.filesize = 1;",
        "meta.id = \"\";",
        "meta.filekey = \"x\";",
        "meta[\"metaCRC\"] = 1;",
        "meta.resumeOffset = 1;",
        "meta.error = 5;",
        "meta.x = 1.5;",
        "meta.x = [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]];",
    ] {
        let (_, result, _) = on_meta(line).await;
        put_off(&result);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thrown_text_refuses_in_the_words_of_the_script() {
    let (_, result, _) = on_meta("fn no() { throw \"not on Sundays\"; }\nno();").await;
    refused(&result, "not on Sundays");
}

#[test]
fn a_hostile_script_is_stopped_in_under_a_second_and_harms_nobody() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    world.folder("other", "[OnMeta]\n[OnReceived]\n");
    let log = world.dir.path().join("log");
    let mut server = Process::serve_with_log(&world.there, &log);
    let mut wrong = Vec::new();
    let peak = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = peak();
    let beside = world.file("beside", &common::noise(300_000));
    for (number, (what, script, reason)) in hostile::all().enumerate() {
        // A folder of its own: what does not compile would leave what was before in force.
        let to = format!("photo{number}");
        let folder = world.folder(&to, "[OnMeta]\nhook.rhai\n");
        fs::write(folder.path_of("hook.rhai"), script).unwrap();
        hostile::lay_out(folder.path(), script);
        let file = world.file("f", b"x");
        let begun = Instant::now();
        let (output, other) = std::thread::scope(|scope| {
            let other = scope.spawn(|| world.send(&server.address, "other", &beside));
            (
                world.send(&server.address, &to, &file),
                other.join().unwrap(),
            )
        });
        let took = begun.elapsed();
        assert!(
            matches!(output.status.code(), Some(5 | 10)),
            "{what}: {}",
            said(&output)
        );
        assert!(other.status.success(), "beside {what}: {}", said(&other));
        assert!(took < Duration::from_secs(2), "{what} took {took:?}");
        // It fails for what it does, and not because it is no script at all.
        let logged = fs::read_to_string(&log).unwrap();
        let why = logged
            .lines()
            .rfind(|line| line.contains("[OnMeta]"))
            .unwrap();
        if !reason.split('|').any(|reason| why.contains(reason)) {
            wrong.push(format!("{what}: {why}"));
        }
        // The sender sees one sentence, and nothing of how the folder is made.
        let error = said(&output);
        assert!(
            !error.contains("hook")
                || error.contains(Outcome::FAILED)
                || error.contains(Outcome::LATER),
            "{what}: {error}"
        );
        assert!(!error.contains(".rhai"), "{what}: {error}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let grown = peak().saturating_sub(before);
    assert!(grown < 128 << 10, "{grown} KiB");
    assert!(server.is_alive());
    assert!(world.arrived(".data").is_empty());
}

/// Memory of this process at its peak, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_is_stopped_for_its_memory_leaves_none_to_the_next() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let hooks = Hooks::new(
        &world.there,
        &world.there.settings().unwrap(),
        &Services::default(),
    );
    let (_, script, _) = hostile::ENGINE
        .iter()
        .find(|(what, ..)| *what == "map and array of maps")
        .unwrap();
    world.script("hook.rhai", script);
    let folder = world.receiver.folder(&common::name("photo")).unwrap();
    let mut before = 0;
    for run in 0..100 {
        let verdict = hooks.fire(event(&folder), &Pinned::default()).await;
        let error = verdict.runs[0].error.as_deref().unwrap();
        assert!(error.contains("held too much memory"), "{error}");
        if run == 10 {
            before = peak();
        }
    }
    let grown = peak().saturating_sub(before);
    assert!(grown < 128 << 10, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn hostile_scripts_a_hundred_times_each_stay_within_time_and_memory() {
    let world = World::new("[OnMeta]\n");
    let hooks = Hooks::new(
        &world.there,
        &world.there.settings().unwrap(),
        &Services::default(),
    );
    let before = peak();
    let mut longest = Duration::ZERO;
    for (number, (what, script, _)) in hostile::all().enumerate() {
        // Of its own: what does not compile would leave what was before in force.
        let folder = world.folder(&format!("photo{number}"), "[OnMeta]\nhook.rhai\n");
        fs::write(folder.path_of("hook.rhai"), script).unwrap();
        hostile::lay_out(folder.path(), script);
        for _ in 0..100 {
            let verdict = hooks.fire(event(&folder), &Pinned::default()).await;
            assert!(verdict.outcome.objection().is_some(), "{what} was let in");
            let took = verdict.runs[0].took;
            assert!(took < Duration::from_millis(600), "{what}: {took:?}");
            longest = longest.max(took);
        }
    }
    let grown = peak().saturating_sub(before);
    eprintln!(
        "{} scripts, longest {longest:?}, memory at its peak {} MiB more",
        hostile::all().count(),
        grown >> 10
    );
    assert!(grown < 128 << 10, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_hostile_script_is_within_its_deadline() {
    for (what, script, _) in hostile::all() {
        let world = World::new("[OnMeta]\nhook.rhai\n");
        world.script("hook.rhai", script);
        hostile::lay_out(&world.photo(), script);
        let server = Local::serve(&world.there).await;
        let file = world.file("f", b"x");
        let result = world.deliver(&server.address, &file).await;
        assert!(result.is_err(), "{what} was let in");
        let counter = server.stop().await;
        let runs = counter.runs.lock().unwrap();
        assert_eq!(runs.len(), 1);
        assert!(
            runs[0].took < Duration::from_secs(1),
            "{what}: {:?}",
            runs[0].took
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_script_shadows_or_leaves_undecided_puts_off() {
    for script in [
        "false",
        "return false;",
        "if meta.filesize > 0 { return false; }",
        "\"no\"",
        "exit(\"no\");",
        "meta = #{ error: \"no\" };",
        "let meta = #{}; meta.error = \"no\";",
    ] {
        let (_, result, _) = on_meta(script).await;
        put_off(&result);
    }
    for script in [
        "true",
        "return;",
        "exit();",
        "14",
        "fn f(meta) { false } f(1); ()",
    ] {
        let (_, result, _) = on_meta(script).await;
        result.unwrap_or_else(|e| panic!("{script}: {e}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_function_of_m2y_can_be_caught_and_has_its_words() {
    let script = "try { meta.from = \"x\"; } catch (e) { throw `caught: ${e}`; }";
    let (_, result, _) = on_meta(script).await;
    refused(&result, "caught: meta.from cannot be changed by a hook");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_is_missing_puts_off() {
    for name in [
        "nowhere.rhai",
        "nowhere.sh",
        "../../../../bin/true",
        "/bin/true",
        "a b.rhai",
    ] {
        let (_, result, _) = sent(&format!("[OnMeta]\n{name}\n"), &[]).await;
        put_off(&result);
    }
}

#[test]
fn the_log_has_script_line_column_and_the_line_with_a_caret() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let mut child = Command::new(common::M2Y)
        .args(["serve", "--listen", "127.0.0.1:0", "--root"])
        .arg(world.there.path())
        .env("NO_COLOR", "1")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    use std::io::{BufRead, BufReader, Read};
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap();
    for script in [
        "// check\nfn share(n) {\n    100 / n\n}\nshare(0);\n",
        "let x = 1;\nlet y = ;\n",
    ] {
        world.script("hook.rhai", script);
        let output = world.send(address, "photo", &world.file("f", b"x"));
        assert_eq!(output.status.code(), Some(5));
        assert!(
            said(&output).contains("a hook of the folder failed, try later"),
            "{}",
            said(&output)
        );
    }
    let long = format!(
        "let a = 1;\n\t\tlet x = {}1 + \"a\".no();\n",
        "1 + ".repeat(60)
    );
    let arguments = format!("f({}1);", "1, ".repeat(20_000));
    for script in [
        "\n\tmeta.from = 1;\n",
        &long,
        &arguments,
        "\n\nparse_json(\"\\n\\n\\n  [1\");\n",
    ] {
        world.script("hook.rhai", script);
        let output = world.send(address, "photo", &world.file("f", b"x"));
        assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    }
    common::terminate(&child);
    let mut log = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    child.wait().unwrap();
    assert!(log.contains("hook.rhai:3:"), "{log}");
    assert!(log.contains("\n 3 |     100 / n\n   |         ^"), "{log}");
    assert!(log.contains("hook.rhai:2:9: "), "{log}");
    assert!(log.contains("\n 2 | let y = ;\n   |         ^"), "{log}");
    assert!(
        log.contains("hook.rhai:2:6: meta.from cannot be changed"),
        "{log}"
    );
    assert!(log.contains("\n 2 |  meta.from = 1;\n   |      ^"), "{log}");
    // Of a long line there is the part around the place.
    let (_, shown) = log
        .split_once("hook.rhai:2:259: Function not found: no")
        .unwrap();
    let shown: Vec<_> = shown.lines().skip(1).take(2).collect();
    let caret = shown[1].find('^').unwrap();
    assert_eq!(&shown[0][caret..], "no();", "{log}");
    assert!(
        log.contains("hook.rhai:1:1: a call can have 32 arguments"),
        "{log}"
    );
    assert!(log.contains("hook.rhai: Expecting ']'"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_script_is_the_one_that_runs_next() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"x");
    for word in ["one", "two", "six"] {
        world.script("hook.rhai", &format!("throw \"{word}\";"));
        refused(&world.deliver(&server.address, &file).await, word);
    }
    fs::write(world.photo().join("m2y.config"), "[OnMeta]\n").unwrap();
    world.deliver(&server.address, &file).await.unwrap();
}

#[test]
fn a_broken_edit_keeps_the_version_before_and_says_so_once() {
    let world = World::new("[OnMeta]\nhook.rhai\n[words]\nno = one\n");
    world.script("hook.rhai", "throw config.get(\"words\", \"no\");");
    let log = world.dir.path().join("log");
    let server = Process::serve_with_log(&world.there, &log);
    let file = world.file("f", b"x");
    let refused = || {
        let output = world.send(&server.address, "photo", &file);
        assert_eq!(output.status.code(), Some(10), "{}", said(&output));
        world.failed().pop().unwrap().error
    };
    assert_eq!(refused(), "one");
    world.script("hook.rhai", "throw config.get(;");
    assert_eq!((refused(), refused()), ("one".to_owned(), "one".to_owned()));
    fs::write(world.photo().join("m2y.config"), "[OnMetta]\n").unwrap();
    assert_eq!((refused(), refused()), ("one".to_owned(), "one".to_owned()));
    world.script("hook.rhai", "throw \"two\";");
    assert_eq!(refused(), "two");
    fs::write(
        world.photo().join("m2y.config"),
        "[OnMeta]\ncheckPermission.rhai\n",
    )
    .unwrap();
    assert_eq!(refused(), "no permission");
    server.stop();
    let log = fs::read_to_string(&log).unwrap();
    assert_eq!(log.matches("hook.rhai:1:18: ").count(), 1, "{log}");
    assert_eq!(log.matches("unknown event [OnMetta]").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_under_way_keeps_the_scripts_that_it_began_with() {
    let world = World::new("[OnMeta]\nedit.sh\nlast.rhai\n[OnReceived]\nhook.rhai\n");
    // Saved anew after the transfer has begun.
    world.script(
        "edit.sh",
        "#!/bin/sh\nfor f in hook last; do echo 'meta.version = 2; throw \"no\";' > $f.rhai; done\n",
    );
    world.script("hook.rhai", "meta.version = 1;");
    world.script("last.rhai", "meta.seen = 1;");
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"x");
    let sent = world.deliver(&server.address, &file).await.unwrap();
    let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    assert_eq!(
        (&meta.extra["version"], &sent.extra["seen"]),
        (&1.into(), &1.into())
    );
    refused(&world.deliver(&server.address, &file).await, "no");
}

#[test]
fn functions_of_lib_rhai_are_shared_and_their_errors_name_it() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let shared = world.there.path().join("scripts/lib.rhai");
    fs::write(
        &shared,
        "throw \"not run\";\nfn who() { \"root\" }\nfn both() { `both of ${who()}` }\n",
    )
    .unwrap();
    world.script("hook.rhai", "throw both();");
    let log = world.dir.path().join("log");
    let server = Process::serve_with_log(&world.there, &log);
    let file = world.file("f", b"x");
    let refused = || {
        let output = world.send(&server.address, "photo", &file);
        assert_eq!(output.status.code(), Some(10), "{}", said(&output));
        world.failed().pop().unwrap().error
    };
    let put_off = || {
        let output = world.send(&server.address, "photo", &file);
        assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    };
    assert_eq!(refused(), "both of root");
    world.script("lib.rhai", "fn who() { \"folder\" }\n");
    assert_eq!(refused(), "both of folder");
    world.script("hook.rhai", "fn who() { \"script\" }\nthrow both();");
    assert_eq!(refused(), "both of script");
    world.script("lib.rhai", "\nfn broken() { 1 / 0 }\n");
    world.script("hook.rhai", "broken();");
    put_off();
    server.stop();
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("] lib.rhai:2:17: Division by zero"), "{log}");
    assert!(
        log.contains("\n 2 | fn broken() { 1 / 0 }\n   |                 ^"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_only_where_the_settings_allow_them() {
    for (setting, in_folder, shared) in [
        ("", false, true),
        ("executables = none\n", false, false),
        ("executables = shared\n", false, true),
        ("executables = peter-norton\n", false, true),
        ("executables = peter-norton, roland-frei\n", true, true),
        ("executables = all\n", true, true),
    ] {
        let world = World::new("[OnMeta]\nhook.sh\n");
        let ini = format!("[hooks]\n{setting}");
        fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
        let server = Local::serve(&world.there).await;
        let file = world.file("f", b"x");
        world.script("hook.sh", "#!/bin/sh\nexit 0\n");
        let result = world.deliver(&server.address, &file).await;
        assert_eq!(result.is_ok(), in_folder, "{setting} {result:?}");
        let own = world.photo().join("hook.sh");
        fs::rename(own, world.there.path().join("scripts/hook.sh")).unwrap();
        let result = world.deliver(&server.address, &file).await;
        assert_eq!(result.is_ok(), shared, "{setting} {result:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_whose_startup_fails_takes_nothing_and_others_run() {
    for (script, words) in [
        ("throw \"no disk\";", "no disk"),
        ("launch();", Outcome::FAILED),
    ] {
        let world = World::new("[OnStartup]\nhook.rhai\n[OnMeta]\n");
        world.script("hook.rhai", script);
        world.folder("other", common::OPEN);
        let server = Local::serve(&world.there).await;
        let file = world.file("f", b"x");
        let error = world.deliver(&server.address, &file).await.unwrap_err();
        assert_eq!(error.code, Code::Later);
        assert!(error.sentence.contains(words), "{error}");
        assert!(world.arrived(".meta").is_empty());
        common::deliver(&world.meta("other", &file), &server.address)
            .await
            .unwrap();
        server.stop().await;
        world.script("hook.rhai", "");
        let server = Local::serve(&world.there).await;
        world.deliver(&server.address, &file).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_the_folder_goes_before_one_of_the_root_and_a_bundled_one() {
    let world = World::new("[OnMeta]\ncheckPermission.rhai\n");
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"x");
    refused(
        &world.deliver(&server.address, &file).await,
        "no permission",
    );
    let shared = world.there.path().join("scripts/checkPermission.rhai");
    fs::write(&shared, "throw \"from the root\";").unwrap();
    refused(
        &world.deliver(&server.address, &file).await,
        "from the root",
    );
    world.script("checkPermission.rhai", "throw \"from the folder\";");
    refused(
        &world.deliver(&server.address, &file).await,
        "from the folder",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_place_of_a_script_does_not_make_way_for_another_one() {
    type Put = fn(&World);
    let cases: [(&str, Put); 4] = [
        ("a directory in the folder", |world| {
            fs::create_dir(world.photo().join("checkPermission.rhai")).unwrap();
        }),
        ("a pipe in the folder", |world| {
            let path = world.photo().join("checkPermission.rhai");
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("a link that leads out", |world| {
            let path = world.photo().join("checkPermission.rhai");
            std::os::unix::fs::symlink("/dev/null", path).unwrap();
        }),
        ("a file in the place of scripts/", |world| {
            let scripts = world.there.path().join("scripts");
            fs::remove_dir_all(&scripts).unwrap();
            fs::write(scripts, "").unwrap();
        }),
    ];
    for (what, put) in cases {
        let world =
            World::new("[OnMeta]\ncheckPermission.rhai\n[permission]\nzhenqiang = always\n");
        let server = Local::serve(&world.there).await;
        let file = world.file("f", b"x");
        world.deliver(&server.address, &file).await.unwrap();
        put(&world);
        let result = world.deliver(&server.address, &file).await;
        assert!(result.is_err(), "{what}: the bundled script ran");
        put_off(&result);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_without_on_meta_lets_nobody_in() {
    for config in ["", "[permission]\npeter = no\n", "[OnReceived]\n"] {
        let (world, result, bytes) = sent(config, &[]).await;
        refused(&result, "this folder takes no files");
        assert_eq!((world.arrived(".meta").len(), bytes), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_does_not_follow_what_stands_in_the_place_of_the_inbox() {
    let config = "[OnMeta]\n[OnReceived]\nnotifyUser.rhai\n";
    for pipe in [true, false] {
        let world = World::new(config);
        let key = world.receiver.path().join("privateKey/roland-frei.data");
        let before = fs::read(&key).unwrap();
        let inbox = world.receiver.path().join("inbox.log");
        if pipe {
            assert!(
                Command::new("mkfifo")
                    .arg(&inbox)
                    .status()
                    .unwrap()
                    .success()
            );
        } else {
            std::os::unix::fs::symlink("privateKey/roland-frei.data", &inbox).unwrap();
        }
        let server = Local::serve(&world.there).await;
        let file = world.file("f", b"x");
        world.deliver(&server.address, &file).await.unwrap();
        assert_eq!(fs::read(&key).unwrap(), before);
        // The file is accepted all the same: only the notice is missing, and the log says so.
        let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
        assert!(!meta.extra.contains_key("pendingHook"));
        server.stop().await;
    }
}

/// An event of one of the receiver's folders.
fn event(folder: &Folder) -> Event {
    Event {
        id: EventId::new().unwrap(),
        kind: Kind::Meta,
        folder: folder.clone(),
        config: folder.config().unwrap(),
        file: Some("x.data".to_owned()),
        subject: Some(Subject {
            meta: common::document(ZHENQIANG, ROLAND, "photo"),
            stem: "x".to_owned(),
        }),
        asked: None,
        store: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_work_to_their_deadline_leave_other_users_their_turn() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    world.script(
        "hook.rhai",
        "let s = \"\"; s.pad(1000, ' '); loop { s.split(' '); }",
    );
    let peter = common::person(&world.there, common::PETER);
    let other = peter.create_folder(&common::name("other")).unwrap();
    fs::write(
        other.path_of("m2y.config"),
        "[OnMeta]\ncheckPermission.rhai\n",
    )
    .unwrap();
    let hooks = Hooks::new(
        &world.there,
        &world.there.settings().unwrap(),
        &Services::default(),
    );
    let busy = event(&world.receiver.folder(&common::name("photo")).unwrap());
    let mut stuck = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (hooks, busy) = (hooks.clone(), busy.clone());
        stuck.spawn(async move { hooks.fire(busy, &Pinned::default()).await });
    }
    // The first of them has run, so the others are in the queue.
    let first = stuck.join_next().await.unwrap().unwrap();
    assert_eq!(first.outcome, Outcome::Later);
    let verdict = hooks.fire(event(&other), &Pinned::default()).await;
    assert_eq!(
        verdict.outcome,
        Outcome::Refused("no permission".to_owned())
    );
    let mut ended = 0;
    while stuck.try_join_next().is_some() {
        ended += 1;
    }
    assert!(ended < 40, "{ended} went before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_after_the_file_is_safe_leaves_it_safe_and_marked() {
    for script in [
        "throw \"no\";",
        "meta.error = \"no\";",
        "loop { }",
        "1 / 0",
        "if {",
    ] {
        let (world, result, _) = sent(
            "[OnMeta]\n[OnReceived]\nhook.rhai\n",
            &[("hook.rhai", script)],
        )
        .await;
        result.unwrap_or_else(|e| panic!("{script}: {e}"));
        assert_eq!(world.arrived(".data").len(), 1);
        let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
        assert_eq!(meta.extra["pendingHook"], "OnReceived");
        assert_eq!(meta.error, "");
        assert!(!world.done()[0].extra.contains_key("pendingHook"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_failed_runs_again_when_the_server_starts() {
    let config = "[OnMeta]\n[OnReceived]\nhook.rhai\n";
    let world = World::new(config);
    patient(&world, "1h");
    world.script("hook.rhai", "launch();");
    let server = Local::serve(&world.there).await;
    world
        .deliver(&server.address, &world.file("f.png", b"x"))
        .await
        .unwrap();
    server.stop().await;
    world.script(
        "hook.rhai",
        "notify.inbox(meta.filename); meta.seen = true;",
    );
    // What is not due waits; a person does not have to.
    let journal = Journal::open(&world.there).unwrap();
    for _ in 0..2 {
        let server = Local::serve(&world.there).await;
        journal
            .write(true, |db| db.execute("UPDATE task SET due = 0", []))
            .committed()
            .await
            .unwrap();
        nothing_waits(&journal).await;
        server.stop().await;
    }
    let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    assert!(!meta.extra.contains_key("pendingHook"));
    assert_eq!(meta.extra["seen"], true);
    let inbox = fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap();
    assert_eq!(inbox.lines().count(), 1, "it ran once, and not again");
}

/// Sets the first pause before a hook is tried again.
fn patient(world: &World, delay: &str) {
    let ini = format!("[hooks]\nexecutables = all\nretry_delay = {delay}\nretry_limit = 3\n");
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
}

/// Waits until the journal has nothing that is to be tried.
async fn nothing_waits(journal: &Journal) {
    let db = journal.reader().unwrap();
    let begun = Instant::now();
    loop {
        let waiting = journal::list(&db, None, 100).unwrap();
        if waiting.iter().all(|entry| entry.dead) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{waiting:?}");
        // Another process would look as often.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_failed_is_tried_again_until_it_succeeds_or_is_given_up() {
    for (script, runs, dead) in [
        // Nothing of what failed stays.
        ("notify.inbox(\"x\"); throw \"no\";", 0, true),
        ("notify.inbox(\"x\");", 1, false),
    ] {
        let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
        patient(&world, "5ms");
        world.script("hook.rhai", script);
        let server = Local::serve(&world.there).await;
        let file = world.file("f.png", b"x");
        world.deliver(&server.address, &file).await.unwrap();
        let journal = Journal::open(&world.there).unwrap();
        nothing_waits(&journal).await;
        server.stop().await;
        let left = journal::list(&journal.reader().unwrap(), None, 10).unwrap();
        assert_eq!(left.len(), usize::from(dead), "{left:?}");
        let inbox = fs::read_to_string(world.receiver.path().join("inbox.log"));
        assert_eq!(inbox.unwrap_or_default().lines().count(), runs);
        if let Some(entry) = left.first() {
            assert_eq!((entry.attempts, entry.error.as_str()), (3, "no"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_quarantine_is_safe_and_out_of_sight_until_it_is_released() {
    for config in [
        "[OnMeta]\nhook.rhai\n",
        "[OnMeta]\n[OnReceived]\nhook.rhai\n",
    ] {
        let (world, result, _) = sent(config, &[("hook.rhai", "quarantine(\"looks odd\");")]).await;
        assert!(!result.unwrap().extra.contains_key("quarantine"));
        assert!(world.arrived(".data").is_empty() && world.arrived(".meta").is_empty());
        let folder = world.receiver.folder(&common::name("photo")).unwrap();
        let stems = quarantine::list(&*Stores::default().of(&folder), &folder).unwrap();
        assert_eq!(stems.len(), 1);
        quarantine::release(&*Stores::default().of(&folder), &folder, &stems[0].0).unwrap();
        let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
        assert_eq!(meta.extra["quarantine"], "looks odd");
        assert_eq!(
            fs::read(world.photo().join(&world.arrived(".data")[0]))
                .unwrap()
                .len(),
            14
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_quarantine_nothing_more_happens_to_a_file_but_a_check_may_still_refuse_it() {
    let hold = ("hold.rhai", "quarantine(\"looks odd\");");
    let config = "[OnMeta]\n[OnReceived]\nhold.rhai\nnext.rhai\n";
    let (world, result, _) = sent(config, &[hold, ("next.rhai", "notify.inbox(\"x\");")]).await;
    result.unwrap();
    assert!(!world.receiver.path().join("inbox.log").exists());

    let config = "[OnMeta]\nhold.rhai\nnext.rhai\n";
    let (_, result, _) = sent(config, &[hold, ("next.rhai", "reject(\"not you\");")]).await;
    refused(&result, "not you");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_event_that_fails_stays_and_the_next_attempt_begins_from_the_same_state() {
    let world = World::new("[OnMeta]\n[OnReceived]\nchange.rhai\nfail.sh\n");
    patient(&world, "5ms");
    let change = r#"
        if folder.exists("new.txt") || folder.exists("kept.data") { throw "it was done"; }
        if meta.seen != () { throw "it was written"; }
        meta.seen = state.add("n", 1);
        notify.inbox(`run ${meta.seen}`);
        folder.write("new.txt", "x");
        folder.rename(event.data_file, "kept.data");
    "#;
    world.script("change.rhai", change);
    // The third time it is there.
    let fail = "#!/bin/sh\n[ -s \"$M2Y_DATA\" ] || exit 3\ngrep -q '\"seen\": 1' \"$1\" || exit 4\n\
        echo x >> ../runs; [ $(wc -l < ../runs) -ge 3 ]\n";
    world.script("fail.sh", fail);
    let server = Local::serve(&world.there).await;
    let file = world.file("f.png", b"x");
    world.deliver(&server.address, &file).await.unwrap();
    let journal = Journal::open(&world.there).unwrap();
    nothing_waits(&journal).await;
    server.stop().await;
    let left = journal::list(&journal.reader().unwrap(), None, 10).unwrap();
    assert!(left.is_empty(), "{left:?}");
    let inbox = fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap();
    assert_eq!(inbox.lines().count(), 1, "{inbox}");
    assert!(inbox.contains(" run 1 [OnReceived "), "{inbox}");
    assert_eq!(fs::read(world.photo().join("new.txt")).unwrap(), b"x");
    let meta = read_meta(&world.photo().join("kept.meta"));
    assert_eq!(meta.extra["seen"], 1);
    assert_eq!(world.arrived(".data"), ["kept.data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_a_hook_rejects_are_gone_and_the_sender_hears_it_whenever_it_asks() {
    let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
    world.script(
        "hook.rhai",
        "state.add(\"refused\", 1); notify.inbox(\"refused\"); reject(\"a virus\");",
    );
    let server = Local::serve(&world.there).await;
    let file = world.file("f.png", b"x");
    refused(&world.deliver(&server.address, &file).await, "a virus");
    assert!(world.arrived(".data").is_empty());
    let record = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    assert_eq!(record.error, "a virus");
    // The same transfer again: no hook runs, whatever the script says by now.
    world.script("hook.rhai", "notify.inbox(\"accepted\");");
    let outbox = world.sender.path().join("photo");
    let failed = read_meta(&outbox.join("f.failed"));
    assert_eq!(failed.error, "a virus");
    fs::rename(outbox.join("f.failed"), outbox.join("f.meta")).unwrap();
    let again = common::deliver(&outbox.join("f.meta"), &server.address).await;
    refused(&again, "a virus");
    server.stop().await;
    assert!(world.arrived(".data").is_empty());
    let inbox = fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap();
    assert_eq!(inbox.lines().count(), 1, "{inbox}");
    let journal = Journal::open(&world.there).unwrap();
    let db = journal.reader().unwrap();
    let count = journal::script_state::get(&db, ROLAND, "photo", "refused").unwrap();
    assert_eq!(count, Some(1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_quarantine_is_acknowledged_unless_the_hook_wants_its_sender_to_know() {
    for (words, tells) in [
        ("quarantine(\"odd\");", false),
        ("quarantine(\"odd\", #{ tell: false });", false),
        ("quarantine(\"odd\", #{ tell: true });", true),
    ] {
        let config = "[OnMeta]\n[OnReceived]\nhook.rhai\n";
        let (world, result, _) = sent(config, &[("hook.rhai", words)]).await;
        match tells {
            true => refused(&result, "odd"),
            false => drop(result.unwrap()),
        }
        let folder = world.receiver.folder(&common::name("photo")).unwrap();
        let held = quarantine::list(&*Stores::default().of(&folder), &folder).unwrap();
        assert_eq!(held.len(), 1, "{words}");
    }
    let config = "[OnMeta]\n[OnReceived]\nhook.rhai\n";
    let hook = ("hook.rhai", "quarantine(\"odd\", #{ tel: true });");
    let (world, result, _) = sent(config, &[hook]).await;
    result.unwrap();
    let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    assert_eq!(meta.extra["pendingHook"], "OnReceived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_renamed_before_it_is_rejected_or_held_is_nowhere_in_sight() {
    for words in ["reject(\"a virus\");", "quarantine(\"odd\");"] {
        let rename = "folder.mkdir(\"in\"); folder.rename(event.data_file, \"in/photo.jpg\"); \
            folder.append(\"in/photo.jpg\", \"more\"); folder.append(\"log.txt\", \"seen\");";
        let config = "[OnMeta]\n[OnReceived]\nrename.rhai\nhook.rhai\n";
        let scripts = [("rename.rhai", rename), ("hook.rhai", words)];
        let (world, result, _) = sent(config, &scripts).await;
        assert_eq!(result.is_err(), words.starts_with("reject"), "{words}");
        assert!(world.arrived(".data").is_empty(), "{words}");
        assert_eq!(
            common::names(&world.photo().join("in"), ""),
            [""; 0],
            "{words}"
        );
        assert_eq!(fs::read(world.photo().join("log.txt")).unwrap(), b"seen");
        let folder = world.receiver.folder(&common::name("photo")).unwrap();
        let held = quarantine::list(&*Stores::default().of(&folder), &folder).unwrap();
        assert_eq!(held.len(), usize::from(result.is_ok()), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_cannot_work_leaves_what_was_before_in_force_until_it_can() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    world.script("hook.rhai", "reject(\"before\");");
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"x");
    refused(&world.deliver(&server.address, &file).await, "before");
    let config = world.photo().join("m2y.config");
    for edit in [
        "",
        "[OnMeta]\nhok.rhai\n",
        "[OnMeta]\n[OnRecieved]\n",
        "[OnMeta]\nbroken.rhai\n",
        "[OnMeta]\n[OnReceived]\nhook.rhai\nscan.sh\n",
        "[OnMeta]\n[share]\nzhenqiang = gte\n",
        "[OnMeta\n",
    ] {
        world.script("broken.rhai", "if {");
        fs::write(&config, edit).unwrap();
        refused(&world.deliver(&server.address, &file).await, "before");
    }
    // What is missing may come after the line that names it.
    fs::write(&config, "[OnMeta]\nlater.rhai\n").unwrap();
    refused(&world.deliver(&server.address, &file).await, "before");
    world.script("later.rhai", "reject(\"after\");");
    let begun = Instant::now();
    loop {
        let error = world.deliver(&server.address, &file).await.unwrap_err();
        if error.sentence == "after" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_breaks_the_meta_after_the_file_is_safe_does_not_lose_it() {
    for script in ["#!/bin/sh\necho '{' > \"$1\"\n", "#!/bin/sh\nrm \"$1\"\n"] {
        let (world, result, _) =
            sent("[OnMeta]\n[OnReceived]\nhook.sh\n", &[("hook.sh", script)]).await;
        let sent = result.unwrap();
        let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
        assert_eq!(meta.extra["pendingHook"], "OnReceived");
        assert_eq!((meta.id, meta.file_crc), (sent.id, sent.file_crc));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_word_decides_nothing() {
    let (_, result, _) = on_meta("throw \"\";").await;
    put_off(&result);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_sees_the_finished_file_before_the_sender_knows() {
    let check = "#!/bin/sh\nset -e\n[ \"$1\" = \"$M2Y_META\" ]\n[ -s \"$M2Y_DATA\" ]\n\
        [ \"$(pwd)\" = \"$(cd \"$(dirname \"$1\")\" && pwd)\" ]\n\
        [ \"$M2Y_EVENT $M2Y_FROM $M2Y_TO $M2Y_FOLDER $M2Y_FILENAME $M2Y_FILESIZE\" = \
        'OnReceived zhenqiang roland-frei photo f.png 14' ]\n\
        [ -z \"$SECRET_OF_THE_SERVER\" ]\n\
        cp \"$M2Y_DATA\" ../seen\n";
    let (world, result, _) =
        sent("[OnMeta]\n[OnReceived]\ncheck.sh\n", &[("check.sh", check)]).await;
    result.unwrap();
    let seen = fs::read(world.receiver.path().join("seen")).unwrap();
    assert_eq!(seen, b"\x89PNG and so on");
    let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    assert!(!meta.extra.contains_key("pendingHook"));
}

/// The seed's own way: a program is given the path of the .meta and writes into it.
const SH: &str = r#"#!/bin/sh
sed 's/"error": ""/"error": "no permission, says sh"/' "$1" > .new && mv .new "$1"
"#;

const PYTHON: &str = r#"#!/usr/bin/env python3
import json, sys
meta = json.load(open(sys.argv[1]))
meta["error"] = "no permission, says " + meta["to"]
meta["checked"] = True
meta["from"] = "somebody else"
json.dump(meta, open(sys.argv[1], "w"))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_script_that_writes_error_into_the_meta_refuses() {
    let (world, result, bytes) = sent("[OnMeta]\ncheck.sh\n", &[("check.sh", SH)]).await;
    refused(&result, "no permission, says sh");
    assert_eq!(bytes, 0);
    assert_eq!(world.failed()[0].error, "no permission, says sh");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_script_that_writes_error_into_the_meta_refuses() {
    let has_python = Command::new("python3")
        .arg("-V")
        .output()
        .is_ok_and(|o| o.status.success());
    if !has_python {
        eprintln!("there is no python3 here: this test does nothing");
        return;
    }
    let (world, result, _) = sent("[OnMeta]\ncheck.py\n", &[("check.py", PYTHON)]).await;
    refused(&result, "no permission, says roland-frei");
    let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    assert_eq!(meta.extra["checked"], true);
    assert_eq!(
        meta.from, ZHENQIANG,
        "a program changed a field of the sender"
    );
}

fn with_deadline(world: &World) {
    let ini = "[hooks]\nexecutables = all\nexecutable_deadline = 500ms\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
}

/// Whether a process that wrote its id into a file is gone.
fn is_gone(file: &Path) -> bool {
    let id = fs::read_to_string(file).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", id.trim()));
    // One that nobody waits for any more is gone too.
    status.map_or(true, |s| s.contains("State:\tZ") || s.contains("State:\tX"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_or_hangs_puts_off_within_its_deadline_and_leaves_no_orphan() {
    let cases = [
        ("exits 1", "#!/bin/sh\necho why not >&2\nexit 1\n"),
        ("kills itself", "#!/bin/sh\nkill -9 $$\n"),
        ("hangs", "#!/bin/sh\necho $$ > ../pid\nexec sleep 600\n"),
        (
            "ignores signals",
            "#!/bin/sh\necho $$ > ../pid\ntrap '' TERM INT HUP\nwhile :; do sleep 1; done\n",
        ),
        (
            "hangs with a child",
            "#!/bin/sh\nsleep 600 &\necho $! > ../pid\nwait\n",
        ),
        (
            "leaves a child that keeps the pipe open, and fails",
            "#!/bin/sh\nsleep 600 &\necho $! > ../pid\nexit 1\n",
        ),
        ("floods its output", "#!/bin/sh\nexec yes\n"),
        ("breaks the meta", "#!/bin/sh\necho '{' > \"$1\"\n"),
        (
            "makes the meta a pipe",
            "#!/bin/sh\nrm \"$1\"; mkfifo \"$1\"\n",
        ),
        ("removes the meta", "#!/bin/sh\nrm \"$1\"\n"),
        (
            "makes the meta huge",
            "#!/bin/sh\nhead -c 1000000 /dev/zero > \"$1\"\n",
        ),
        ("has no interpreter", "#!/no/such/program\n"),
        ("is no program", "just text\n"),
    ];
    for (what, script) in cases {
        let world = World::new("[OnMeta]\nhook\n");
        world.script("hook", script);
        with_deadline(&world);
        let server = Local::serve(&world.there).await;
        let begun = Instant::now();
        let file = world.file("f", b"x");
        let result = world.deliver(&server.address, &file).await;
        put_off(&result);
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{what} took {:?}",
            begun.elapsed()
        );
        let pid = world.receiver.path().join("pid");
        if pid.exists() {
            while !is_gone(&pid) {
                assert!(
                    begun.elapsed() < Duration::from_secs(10),
                    "{what} left an orphan"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        server.stop().await;
        assert!(world.arrived(".data").is_empty(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_leaves_a_child_and_succeeds_lets_in_and_the_child_goes() {
    let script = "#!/bin/sh\nsleep 600 &\necho $! > ../pid\nexit 0\n";
    let (world, result, _) = sent("[OnMeta]\nhook.sh\n", &[("hook.sh", script)]).await;
    result.unwrap();
    let begun = Instant::now();
    while !is_gone(&world.receiver.path().join("pid")) {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "an orphan was left"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_without_run_bit_puts_off() {
    let world = World::new("[OnMeta]\nhook.sh\n");
    world.script("hook.sh", "#!/bin/sh\nexit 0\n");
    fs::set_permissions(
        world.photo().join("hook.sh"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"x");
    put_off(&world.deliver(&server.address, &file).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_cannot_be_read_puts_off_and_other_folders_run() {
    let world = World::new("[OnMetta]\ncheckPermission.rhai\n");
    world.folder("other", common::OPEN);
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"x");
    let error = world.deliver(&server.address, &file).await.unwrap_err();
    assert_eq!(error.code, Code::Later);
    assert!(
        !error.sentence.contains("OnMetta"),
        "the sender sees the config: {error}"
    );
    let other = world.meta("other", &file);
    common::deliver(&other, &server.address).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_start_what_failed_is_made_ready_again_and_old_partials_go() {
    let world = World::new(SEED);
    let photo = world.photo();
    let meta = |from: &str, error: &str| {
        let mut meta = common::document(from, ZHENQIANG, "x");
        meta.filename = "f".to_owned();
        meta.error = error.to_owned();
        meta.to_file()
    };
    fs::write(photo.join("mine.failed"), meta(ROLAND, "no connection")).unwrap();
    fs::write(photo.join("both.failed"), meta(ROLAND, "old")).unwrap();
    fs::write(photo.join("both.meta"), meta(ROLAND, "")).unwrap();
    fs::write(photo.join("foreign.failed"), meta(ZHENQIANG, "x")).unwrap();
    fs::write(photo.join("broken.failed"), "{").unwrap();
    for name in ["refused", "new", "kept"] {
        fs::write(
            photo.join(name).with_extension("meta"),
            meta(ZHENQIANG, "no"),
        )
        .unwrap();
    }
    fs::write(photo.join("asked.meta"), meta(ZHENQIANG, "")).unwrap();
    fs::write(photo.join("kept.data"), "").unwrap();
    for (name, days) in [
        (".old.partial", 8),
        (".new.partial", 6),
        (".old.tmp", 8),
        ("refused.meta", 8),
        ("kept.meta", 8),
        ("asked.meta", 8),
        ("both.meta", 8),
    ] {
        let path = photo.join(name);
        let file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        let when = std::time::SystemTime::now() - Duration::from_secs(days * 86_400);
        file.set_modified(when).unwrap();
    }
    let old = fs::File::create(photo.join("old.data")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH).unwrap();
    let server = Local::serve(&world.there).await;
    assert_eq!(server.stop().await.hooks(), 1);
    assert_eq!(
        world.arrived(""),
        [
            ".new.partial",
            "asked.meta",
            "both.failed",
            "both.meta",
            "broken.failed",
            "foreign.failed",
            "kept.data",
            "kept.meta",
            "m2y.config",
            "mine.meta",
            "new.meta",
            "old.data"
        ]
    );
    assert_eq!(read_meta(&photo.join("mine.meta")).error, "");
}

#[test]
fn no_hook_runs_where_the_server_cannot_listen() {
    let world = World::new(SEED);
    let failed = world.photo().join("mine.failed");
    let meta = common::document(ROLAND, ZHENQIANG, "x");
    fs::write(&failed, meta.to_file()).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = Command::new(common::M2Y)
        .args([
            "serve",
            "--listen",
            &taken.local_addr().unwrap().to_string(),
            "--root",
        ])
        .arg(world.there.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(failed.exists());
}

#[test]
fn what_stands_in_the_place_of_the_lock_is_not_written_to() {
    let world = World::new(SEED);
    let key = world.receiver.path().join("privateKey/roland-frei.data");
    let before = fs::read(&key).unwrap();
    let lock = world.there.path().join(".serve.lock");
    std::os::unix::fs::symlink("user/roland-frei/privateKey/roland-frei.data", lock).unwrap();
    let output = Command::new(common::M2Y)
        .args(["serve", "--listen", "127.0.0.1:0", "--root"])
        .arg(world.there.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(".serve.lock"), "{}", said(&output));
    assert_eq!(fs::read(&key).unwrap(), before);
}

/// The first code block of a language in the README.
fn from_readme(language: &str) -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_of_the_readme_does_what_it_says() {
    let world = World::new(&from_readme("ini"));
    world.script("onlyPictures.rhai", &from_readme("rust"));
    let server = Local::serve(&world.there).await;
    let deliver = async |name: &str, len: usize| {
        let file = world.file(name, &common::noise(len));
        world.deliver(&server.address, &file).await
    };
    refused(&deliver("a.txt", 1).await, "only pictures, please");
    refused(&deliver("b.jpg", 20_000_001).await, "too large");
    let meta = deliver("c.jpg", 20_000_000).await.unwrap();
    assert_eq!(meta.extra["album"], "from zhenqiang");
    assert!(world.receiver.path().join("inbox.log").exists());
}

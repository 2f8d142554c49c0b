//! `m2y hook` in folders with a great many files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use common::{M2Y, Process, World, said};
use m2y::root::Root;
use serde_json::Value;

#[test]
fn scripts_beside_more_files_than_a_test_copies_are_tested() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..1_500 {
        fs::write(dir.path().join(format!("zhenqiang_{n}.data")), "x").unwrap();
    }
    let scripts: Vec<String> = (0..20).map(|n| format!("s{n}.rhai")).collect();
    for (n, script) in scripts.iter().enumerate() {
        fs::write(dir.path().join(script), format!("meta.s{n} = true;")).unwrap();
    }
    let config = format!("[OnMeta]\n{}\n", scripts.join("\n"));
    fs::write(dir.path().join("m2y.config"), config).unwrap();
    let test = "fn test_all() { assert_eq(run(\"OnMeta\", meta()).outcome, \"accepted\"); }";
    fs::write(dir.path().join("all_test.rhai"), test).unwrap();
    let output = Command::new(M2Y)
        .args(["hook", "test"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("1 passed"), "{}", said(&output));
}

/// The first round of a watch.
fn round(root: &Root) -> Value {
    let mut watch = Command::new(M2Y)
        .args(["hook", "watch", "--json", "--user", common::ROLAND])
        .args(["--folder", "photo", "--root"])
        .arg(root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let read = BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line);
    watch.kill().unwrap();
    watch.wait().unwrap();
    read.unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_file_behind_two_thousand_newer_ones_is_said_to_be_not_among_them() {
    let world = World::new("[OnMeta]\n[OnReceived]\nr.rhai\n");
    let script = "folder.mkdir(\"sub\"); folder.rename(event.data_file, \"sub/a.txt\");";
    world.script("r.rhai", script);
    let server = Process::serve(&world.there);
    let file = world.file("a", b"x");
    let output = world.send(&server.address, "photo", &file);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(server.stop(), Some(0));
    let sub = world.photo().join("sub");
    assert!(sub.join("a.meta").exists());
    for n in 0..2_000 {
        fs::write(sub.join(format!("{n}.meta")), "").unwrap();
    }
    let note = &round(&world.there)["events"][0]["note"];
    let words = "OnReceived is not run: the file was not found among the first 2,000 .meta files";
    assert!(note.as_str().unwrap().starts_with(words), "{note}");
    fs::remove_file(sub.join("7.meta")).unwrap();
    let found = round(&world.there);
    assert!(found["events"][0]["note"].is_null(), "{found}");
    fs::remove_file(sub.join("a.meta")).unwrap();
    let note = &round(&world.there)["events"][0]["note"];
    let words = "OnReceived is not run: the file is in none of the user's folders";
    assert!(note.as_str().unwrap().starts_with(words), "{note}");
}

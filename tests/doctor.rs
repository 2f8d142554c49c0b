//! What `m2y doctor` finds, with the real program.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use common::{M2Y, OPEN, Process, ROLAND, World, name, said};
use serde_json::Value;

/// What the doctor says: its exit code, and each finding with its check and its state.
fn doctor(root: &Path, args: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = Command::new(M2Y)
        .args(["doctor", "--json", "--root"])
        .arg(root)
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let found: Vec<Value> = found.collect();
    assert!(!found.is_empty(), "{}", said(&output));
    (output.status.code(), found)
}

/// The findings about something that are problems.
fn problems<'a>(found: &'a [Value], check: &str) -> Vec<&'a str> {
    let of = |one: &&Value| one["check"] == check && one["status"] == "problem";
    let text = |one: &'a Value| one["text"].as_str().unwrap();
    found.iter().filter(of).map(text).collect()
}

#[test]
fn a_root_in_good_order_has_no_problems_and_a_contact_is_tried() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let (code, found) = doctor(world.there.path(), &[]);
    assert_eq!(code, Some(0), "{found:?}");
    let has = |found: &[Value], check: &str| found.iter().any(|one| one["check"] == check);
    for check in ["settings", "clock", "keys", "server", "hooks"] {
        assert!(has(&found, check), "{check}: {found:?}");
    }
    // A dead address beside a good one is only worth a word.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let dead = silent.local_addr().unwrap();
    drop(silent);
    let list = format!("{}, {dead}", server.address).parse().unwrap();
    world.sender.set_addresses(&name(ROLAND), &list).unwrap();
    let (code, found) = doctor(world.here.path(), &[ROLAND]);
    assert_eq!(code, Some(0), "{found:?}");
    let note = |one: &Value| one["status"] == "note" && one["check"] == "address";
    assert!(found.iter().any(note), "{found:?}");
    assert!(has(&found, "session"), "{found:?}");
    // Without any, it is a problem.
    let list = dead.to_string().parse().unwrap();
    world.sender.set_addresses(&name(ROLAND), &list).unwrap();
    let (code, found) = doctor(world.here.path(), &[ROLAND]);
    assert_eq!(code, Some(1));
    assert_eq!(problems(&found, "address").len(), 1, "{found:?}");
}

#[test]
fn each_problem_is_named_with_what_to_do() {
    let world = World::new(OPEN);
    let root = world.there.path();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let ini = format!(
        "[server]\nlisten = {}\n[store gone]\nurl = file:///proc/nothing/here\n",
        taken.local_addr().unwrap()
    );
    fs::write(root.join("m2y.ini"), ini).unwrap();
    world.script("wrong.rhai", "let x = nothing_like_this();");
    let config = "[OnMeta]\nwrong.rhai\n[OnReceived]\n";
    fs::write(world.photo().join("m2y.config"), config).unwrap();
    let key = root.join(format!("user/{ROLAND}/privateKey/{ROLAND}.data"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, found) = doctor(root, &[]);
    assert_eq!(code, Some(1));
    assert!(
        problems(&found, "keys")[0].contains("chmod 600"),
        "{found:?}"
    );
    for check in ["ports", "store", "hooks"] {
        assert_eq!(problems(&found, check).len(), 1, "{check}: {found:?}");
    }
    fs::write(root.join("m2y.ini"), "[server]\nlissten = x\n").unwrap();
    let (_, found) = doctor(root, &[]);
    let settings = problems(&found, "settings");
    assert!(settings[0].contains("did you mean listen"), "{found:?}");
}

#[test]
fn a_relay_that_does_not_answer_is_a_problem() {
    let world = World::new(OPEN);
    common::introduce(&world.sender, &world.receiver);
    let gone = "127.0.0.1:9".parse().unwrap();
    world.sender.set_addresses(&name(ROLAND), &gone).unwrap();
    world.sender.set_relay(&name(ROLAND), true).unwrap();
    let (code, found) = doctor(world.here.path(), &[]);
    assert_eq!(code, Some(1));
    assert_eq!(problems(&found, "relay").len(), 1, "{found:?}");
    // A server that is none says so.
    let server = Process::serve(&world.there);
    let address = server.address.parse().unwrap();
    world.sender.set_addresses(&name(ROLAND), &address).unwrap();
    let (_, found) = doctor(world.here.path(), &[]);
    let words = problems(&found, "relay")[0];
    assert!(words.contains("is no relay"), "{words}");
}

//! What scripts ask of servers while nothing is to change.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;
mod servers;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use common::{Local, M2Y, World, said};
use hyper::{Response, body::Bytes};
use serde_json::Value;
use servers::http::Http;

const WHY: &str = "http.post() is not sent in a dry run";

/// A world whose script gets, posts, and goes on, and the server that it asks.
async fn asking(more: &str) -> (World, Http) {
    let http = Http::start(Response::new(Bytes::from("yes")), None).await;
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let ini = format!("[webhook]\nallow = {}\n", http.address);
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let script = format!(
        "log.info(http.get(\"http://{0}/get\").text());\n\
         http.post(\"http://{0}/post\", \"x\");\n\
         log.info(\"after\");\n{more}",
        http.address
    );
    world.script("hook.rhai", &script);
    (world, http)
}

fn methods(http: &Http) -> Vec<String> {
    let heard = http.heard().into_iter();
    heard.map(|one| one.method).collect()
}

fn dry_run(world: &World, meta: &Path, more: &[&str]) -> std::process::Output {
    Command::new(M2Y)
        .args(["hook", "run", "OnMeta", "--user", common::ROLAND])
        .args(["--folder", "photo", "--root"])
        .arg(world.there.path())
        .arg("--meta")
        .arg(meta)
        .args(more)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_gets_and_does_not_post_and_that_is_no_failure() {
    let (world, http) = asking("").await;
    let meta = world.meta("photo", &world.file("f", b"x"));
    let output = dry_run(&world, &meta, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["status"], "not run further");
    assert_eq!(told["words"], WHY);
    assert_eq!(told["runs"][0]["verdict"], "not run further");
    let error = told["runs"][0]["error"].as_str().unwrap();
    assert!(error.starts_with("hook.rhai:2:"), "{error}");
    assert_eq!(told["log"], serde_json::json!(["INFO yes"]));
    assert!(
        told["spared"][0]
            .as_str()
            .unwrap()
            .starts_with("http.post(")
    );
    assert_eq!(methods(&http), ["GET"]);

    let output = dry_run(&world, &meta, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.ends_with(&format!("\nnot run further: {WHY}\n")),
        "{text}"
    );
    assert!(text.contains("hook.rhai: not run further in "), "{text}");
    assert!(!text.contains("failed"), "{text}");

    // What fails by itself has failed.
    world.script("hook.rhai", "nothing();");
    let output = dry_run(&world, &meta, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(methods(&http), ["GET", "GET"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_gets_and_does_not_post_and_that_is_no_failure() {
    let (world, http) = asking("meta.album = \"sea\";").await;
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"x");
    let meta = world.deliver(&server.address, &file).await.unwrap();
    assert_eq!(meta.extra["album"], "sea");
    server.stop().await;
    assert_eq!(methods(&http), ["GET", "POST"]);
    let mut watch = Command::new(M2Y)
        .args(["hook", "watch", "--json", "--user", common::ROLAND])
        .args(["--folder", "photo", "--root"])
        .arg(world.there.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let read = BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line);
    watch.kill().unwrap();
    watch.wait().unwrap();
    read.unwrap();
    let round: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(round["status"], "ok");
    let run = &round["events"][0]["runs"][0];
    assert_eq!(run["status"], "not run further", "{round}");
    assert_eq!(run["words"], WHY);
    assert_eq!(methods(&http), ["GET", "POST", "GET"]);
}

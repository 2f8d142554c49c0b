//! What scripts reach beyond their folder: servers of the web, what a sender sent before, and
//! the digest of a file that has just come.
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
    net::TcpListener as StdListener,
    thread,
    time::{Duration, Instant, SystemTime},
};

use common::{Local, Process, World, relay::Relay};
use hyper::{Response, StatusCode, body::Bytes, header};
use m2y::{error::Code, hooks::folder_files::Files, json::Value, meta::Meta, store::Stores};
use servers::http::{Heard, Http};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

const CONFIG: &str = "[OnMeta]\nhook.rhai\n";

fn settings(world: &World, hooks: &str, allow: &str) {
    let ini = format!("[hooks]\nexecutables = all\n{hooks}[webhook]\nallow = {allow}\n");
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
}

fn json(text: &str) -> Response<Bytes> {
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(Bytes::from(text.to_owned()))
        .unwrap()
}

/// Delivers a file to a folder whose [OnMeta] is this script.
async fn on_meta(world: &World, script: &str) -> Result<Meta, m2y::error::Error> {
    world.script("hook.rhai", script);
    let server = Local::serve(&world.there).await;
    let result = world
        .deliver(&server.address, &world.file("f.png", b"x"))
        .await;
    server.stop().await;
    result
}

/// What a request said that failed.
async fn why(world: &World, request: &str) -> String {
    let script = format!("try {{ {request}; }} catch (e) {{ meta.why = e.to_string(); }}");
    let meta = on_meta(world, &script).await.unwrap();
    meta.extra["why"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_decides_by_what_a_server_answers() {
    let http = Http::start(json(r#"{"clean": false, "found": ["EICAR"]}"#), None).await;
    let world = World::new(CONFIG);
    settings(&world, "", &http.address.to_string());
    let script = format!(
        r#"
let answer = http.get("http://{}/scan?name=x", #{{ "x-token": "secret" }});
if answer.status != 200 || !answer.type.starts_with("application/json") {{ throw "no"; }}
if !answer.json().clean {{ reject(`${{answer.json("/found/0")}} in ${{answer.text().len()}}`); }}
"#,
        http.address
    );
    let error = on_meta(&world, &script).await.unwrap_err();
    assert_eq!(error.code, Code::Refused);
    assert!(error.sentence.contains("EICAR in 36"), "{error}");
    let heard = http.heard();
    assert_eq!(heard.len(), 1);
    assert_eq!(
        (heard[0].method.as_str(), heard[0].path.as_str()),
        ("GET", "/scan?name=x")
    );
    assert_eq!(heard[0].headers["x-token"], "secret");
    assert_eq!(heard[0].headers[header::HOST], http.address.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_asks_only_hosts_that_are_listed_and_private_addresses_only_where_these_are() {
    let http = Http::start(json("{}"), None).await;
    let port = http.address.port();
    let world = World::new(CONFIG);
    let get = |host: &str| format!("http.get(\"http://{host}:{port}/\")");
    for (allow, host, words) in [
        ("example.org", "127.0.0.1", "put 127.0.0.1"),
        ("example.org", "localhost", "put localhost"),
        (
            &*format!("localhost:{port}"),
            "localhost",
            "is not a public address",
        ),
        (
            &*format!("*.example.org:{port}"),
            "example.org",
            "put example.org",
        ),
    ] {
        settings(&world, "", allow);
        let why = why(&world, &get(host)).await;
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(http.connections(), 0);
    settings(
        &world,
        "",
        &format!("localhost:{port}, 127.0.0.1:{port}, [::1]:{port}"),
    );
    on_meta(&world, &get("localhost")).await.unwrap();
    assert_eq!(http.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = Http::start(json("{}"), None).await;
    let answer = Response::builder()
        .status(StatusCode::FOUND)
        .header(header::LOCATION, format!("http://{}/", elsewhere.address))
        .body(Bytes::new());
    let http = Http::start(answer.unwrap(), None).await;
    let world = World::new(CONFIG);
    settings(
        &world,
        "",
        &format!("{}, {}", http.address, elsewhere.address),
    );
    let script = format!(
        "meta.status = http.get(\"http://{}/\").status;",
        http.address
    );
    let meta = on_meta(&world, &script).await.unwrap();
    assert_eq!(meta.extra["status"], 302);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_or_is_not_text_is_an_error_and_a_large_one_comes_in_lines() {
    for (body, words) in [
        (vec![b'x'; 65_537], "more than 65536 bytes"),
        (vec![0xff, 0xfe], "not UTF-8"),
    ] {
        let http = Http::start(Response::new(body.into()), None).await;
        let world = World::new(CONFIG);
        settings(&world, "", &http.address.to_string());
        let why = why(&world, &format!("http.get(\"http://{}/\")", http.address)).await;
        assert!(why.contains(words), "{why}");
    }
    let text = "0123456789\n".repeat(5_000);
    let http = Http::start(Response::new(text.into()), None).await;
    let world = World::new(CONFIG);
    settings(&world, "", &http.address.to_string());
    let script = format!(
        "let n = 0; for line in http.get(\"http://{}/\").lines() {{ n += 1; }} meta.lines = n;",
        http.address
    );
    assert_eq!(
        on_meta(&world, &script).await.unwrap().extra["lines"],
        5_000
    );
    let why = why(
        &world,
        &format!("http.get(\"http://{}/\").text()", http.address),
    )
    .await;
    assert!(why.contains("take lines()"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_more_scripts_than_there_are_threads_wait_for_a_server_others_are_not_held_up() {
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = slow.local_addr().unwrap();
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let other = world.folder("other", "[OnMeta]\nquick.rhai\n");
    fs::write(other.path_of("quick.rhai"), "meta.quick = true;").unwrap();
    settings(&world, "script_deadline = 50ms\n", &address.to_string());
    world.script(
        "hook.rhai",
        &format!("meta.body = http.get(\"http://{address}/\").text();"),
    );
    let server = Local::serve(&world.there).await;
    // Two threads for each core run scripts; so many of one user may wait.
    let count = (2 * thread::available_parallelism().unwrap().get() + 1).min(96);
    let mut waiting = Vec::new();
    for n in 0..count {
        let file = world.file(&format!("slow{n}"), b"x");
        let (meta, at) = (world.meta("photo", &file), server.address.clone());
        waiting.push(tokio::spawn(
            async move { common::deliver(&meta, &at).await },
        ));
    }
    let mut streams = Vec::new();
    for _ in 0..count {
        let accepted = timeout(Duration::from_secs(20), slow.accept()).await;
        streams.push(accepted.expect("too few scripts ask").unwrap().0);
    }
    for n in 0..8 {
        let file = world.file(&format!("quick{n}"), b"y");
        let meta = world.meta("other", &file);
        let meta = common::deliver(&meta, &server.address).await.unwrap();
        assert_eq!(meta.extra["quick"], true);
    }
    // Those that waited wait still: a server has five seconds.
    for mut stream in streams {
        let mut request = [0; 1_024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
            .await
            .unwrap();
    }
    for waiting in waiting {
        let meta = waiting.await.unwrap().unwrap();
        assert_eq!(meta.extra["body"], "hi");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_costs_a_script_its_patience_and_not_more() {
    let silent = StdListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let world = World::new(CONFIG);
    // Where there is less than five seconds left, that is what the server has.
    settings(
        &world,
        "executable_deadline = 300ms\n",
        &address.to_string(),
    );
    let script = format!("loop {{ try {{ http.get(\"http://{address}/\"); }} catch (e) {{}} }}");
    let begun = Instant::now();
    let error = on_meta(&world, &script).await.unwrap_err();
    assert_eq!(error.code, Code::Later, "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_known_again_by_its_key_when_the_hook_runs_again() {
    let http = Http::start(json(r#"{"id": 7}"#), None).await;
    let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
    let hooks = "retry_delay = 20ms\nretry_limit = 1000\n";
    settings(&world, hooks, &http.address.to_string());
    world.script(
        "hook.rhai",
        &format!(
            r#"
let first = http.post("http://{0}/a", #{{ name: meta.filename }});
let second = http.post("http://{0}/a", "text");
if !folder.exists("go") {{ throw "not yet"; }}
http.post("http://{0}/done", `${{first.json().id}}`);
"#,
            http.address
        ),
    );
    let server = Local::serve(&world.there).await;
    let file = world.file("f.png", b"x");
    world.deliver(&server.address, &file).await.unwrap();
    http.until(|heard| heard.len() >= 4).await;
    fs::write(world.photo().join("go"), "").unwrap();
    let is_done = |heard: &[Heard]| heard.last().is_some_and(|last| last.path == "/done");
    http.until(is_done).await;
    server.stop().await;
    let heard = http.heard();
    let key = |n: usize| heard[n].headers["idempotency-key"].clone();
    assert_eq!(key(0), key(2));
    assert_eq!(key(1), key(3));
    assert_ne!(key(0), key(1));
    assert_eq!(heard[0].body, r#"{"name":"f.png"}"#);
    assert_eq!(heard[0].headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(heard[1].body, "text");
    assert_eq!(heard.last().unwrap().body, "7");
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// To hash 8 MiB takes longer than the scripts of this folder may wait.
const IMPATIENT: &str = "executable_deadline = 1ms\n";

const NOTES_THE_DIGEST: &str = "meta.computed = hash.sha256(event.data_file);";

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_of_a_file_that_has_just_come_is_known_without_reading_it() {
    let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
    world.script("hook.rhai", NOTES_THE_DIGEST);
    settings(&world, IMPATIENT, "");
    let server = Local::serve(&world.there).await;
    let bytes = common::noise(8 << 20);
    let file = world.file("f.bin", &bytes);
    let meta = world.meta("photo", &file);
    // What a sender says of it counts for nothing.
    let mut forged = common::read_meta(&meta);
    forged.extra.insert("sha256".to_owned(), "00".into());
    fs::write(&meta, forged.to_file()).unwrap();
    common::deliver(&meta, &server.address).await.unwrap();
    server.stop().await;
    let metas = common::read_metas(&world.photo(), ".meta");
    assert_eq!(metas[0].extra["computed"], digest(&bytes));
    assert_eq!(metas[0].extra["sha256"], digest(&bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_goes_on_where_a_transfer_broke_off() {
    let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
    world.script("hook.rhai", NOTES_THE_DIGEST);
    settings(&world, IMPATIENT, "");
    let server = Local::serve(&world.there).await;
    let bytes = common::noise(10_000_000);
    let file = world.file("f.bin", &bytes);
    let meta = world.meta("photo", &file);
    let relay = Relay::before(server.address.clone(), 5_000_000);
    common::deliver(&meta, &relay.address).await.unwrap_err();
    // As `m2y reset` does.
    let failed = meta.with_extension("failed");
    let mut again = common::read_meta(&failed);
    again.error.clear();
    fs::write(&meta, again.to_file()).unwrap();
    fs::remove_file(failed).unwrap();
    let left = common::names(&world.photo(), ".partial").len() + hidden(&world);
    assert!(left > 0, "nothing is there to go on with");
    common::deliver(&meta, &server.address).await.unwrap();
    server.stop().await;
    let metas = common::read_metas(&world.photo(), ".meta");
    assert_eq!(metas[0].extra["computed"], digest(&bytes));
}

fn hidden(world: &World) -> usize {
    let all = common::names(&world.photo(), "");
    all.iter().filter(|name| name.starts_with('.')).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_whose_scripts_do_not_ask_for_digests_has_none() {
    let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
    world.script("hook.rhai", "meta.seen = true;");
    let server = Local::serve(&world.there).await;
    world
        .deliver(&server.address, &world.file("f", b"x"))
        .await
        .unwrap();
    server.stop().await;
    let metas = common::read_metas(&world.photo(), ".meta");
    assert_eq!(metas[0].extra["seen"], true);
    assert!(!metas[0].extra.contains_key("sha256"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_since_it_came_has_the_digest_that_it_has_now() {
    let world = World::new("[OnMeta]\n[OnReceived]\nchange\nhook.rhai\n");
    world.script("hook.rhai", NOTES_THE_DIGEST);
    world.script(
        "change",
        "#!/bin/sh\nprintf changed > \"${1%.meta}.data\"\n",
    );
    let server = Local::serve(&world.there).await;
    world
        .deliver(&server.address, &world.file("f", b"content"))
        .await
        .unwrap();
    server.stop().await;
    let metas = common::read_metas(&world.photo(), ".meta");
    assert_eq!(metas[0].extra["computed"], digest(b"changed"));
    assert_eq!(metas[0].extra["sha256"], digest(b"content"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_hashed_although_that_takes_longer_than_a_script_may() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    world.script("hook.rhai", "meta.large = hash.sha256(\"large\");");
    settings(&world, "script_deadline = 10ms\n", "");
    let bytes = common::noise(200 << 20);
    fs::write(world.photo().join("large"), &bytes).unwrap();
    let server = Local::serve(&world.there).await;
    let meta = world
        .deliver(&server.address, &world.file("f", b"x"))
        .await
        .unwrap();
    server.stop().await;
    assert_eq!(meta.extra["large"], digest(&bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_knows_what_its_sender_has_sent_so_far() {
    let world = World::new("[OnMeta]\nhook.rhai\n[OnReceived]\nreceived.rhai\n");
    world.script(
        "hook.rhai",
        "meta.count = sender.count(1); meta.bytes = sender.bytes(366);
         meta.is_new = sender.first_seen == ();
         if sender.first_seen != () && time.now() - sender.first_seen > 60 { throw \"when?\"; }",
    );
    world.script(
        "received.rhai",
        "meta.count = sender.count(1); if meta.filename == \"bad\" { reject(\"bad\"); }",
    );
    world.folder("other", "[OnMeta]\n");
    let server = Process::serve(&world.there);
    let mut seen = Vec::new();
    for (name, len) in [("a", 10), ("bad", 1_000), ("b", 100), ("c", 5)] {
        let file = world.file(name, &common::noise(len));
        // Another folder is none of this one's business.
        common::deliver(&world.meta("other", &file), &server.address)
            .await
            .unwrap();
        let sent = world.deliver(&server.address, &file).await;
        assert_eq!(sent.is_err(), name == "bad");
        if let Ok(meta) = sent {
            let of = |field: &str| meta.extra[field].clone();
            seen.push((of("count"), of("bytes"), of("is_new")));
        }
    }
    let expected = [(0, 0, true), (1, 10, false), (2, 110, false)];
    let expected = expected.map(|(n, b, new)| (Value::from(n), Value::from(b), Value::from(new)));
    assert_eq!(seen, expected);
    let metas = common::read_metas(&world.photo(), ".meta");
    let last = metas.iter().find(|meta| meta.filename == "c").unwrap();
    assert_eq!(
        last.extra["count"], 3,
        "at [OnReceived] the file itself counts"
    );
    // It is kept with the journal.
    assert_eq!(server.stop(), Some(0));
    let server = Process::serve(&world.there);
    let file = world.file("d", b"x");
    let meta = world.deliver(&server.address, &file).await.unwrap();
    assert_eq!(meta.extra["bytes"], 115);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_stands_in_the_meta_and_goes_where_the_file_goes() {
    let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
    world.folder("archive", "[OnMeta]\n");
    world.script(
        "hook.rhai",
        r#"
for name in folder.list("*.data") {
    folder.set_tag(name, "seen", (folder.tags(name).seen ?? 0) + 1);
}
if meta.filename == "b" {
    folder.rename(event.data_file, "b.txt");
    folder.set_tag("b.txt", "renamed", true);
    folder.move_to("b.txt", "archive");
}
"#,
    );
    let server = Local::serve(&world.there).await;
    for name in ["a", "b"] {
        world
            .deliver(&server.address, &world.file(name, b"x"))
            .await
            .unwrap();
    }
    server.stop().await;
    let here = common::read_metas(&world.photo(), ".meta");
    assert_eq!(here.len(), 1);
    assert_eq!(here[0].extra["folderTags"]["seen"], 2);
    let there = common::read_meta(&world.receiver.path().join("archive/b.meta"));
    assert_eq!(there.extra["folderTags"]["seen"], 1);
    assert_eq!(there.extra["folderTags"]["renamed"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_neither_a_senders_to_set_nor_another_events_before_the_file_is_accepted() {
    let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
    settings(&world, "retry_delay = 1h\n", "");
    world.script(
        "hook.rhai",
        r#"
if meta.filename == "waits" { throw "not yet"; }
let tags = folder.tags(event.data_file);
for name in folder.list("*.data") {
    if name != event.data_file {
        try { folder.set_tag(name, "by", "another one"); } catch (e) { tags.why = e.to_string(); }
    }
}
meta.tags = tags;
"#,
    );
    let server = Local::serve(&world.there).await;
    let waits = world.file("waits", b"x");
    world.deliver(&server.address, &waits).await.unwrap();
    let file = world.file("f", b"x");
    let meta = world.meta("photo", &file);
    let mut forged = common::read_meta(&meta);
    let seen = serde_json::json!({ "seen": true });
    forged.extra.insert("folderTags".to_owned(), seen);
    fs::write(&meta, forged.to_file()).unwrap();
    common::deliver(&meta, &server.address).await.unwrap();
    server.stop().await;
    let metas = common::read_metas(&world.photo(), ".meta");
    assert_eq!(metas.len(), 2);
    for meta in metas {
        assert_eq!(meta.extra.get("folderTags"), None);
        if meta.filename == "f" {
            let tags = meta.extra["tags"].as_object().unwrap();
            assert_eq!(tags.len(), 1, "{tags:?}");
            let why = tags["why"].as_str().unwrap();
            assert!(why.contains("is not accepted yet"), "{why}");
        }
    }
}

#[test]
fn a_file_that_was_written_again_is_a_different_version_whatever_its_time_says() {
    let world = World::new(CONFIG);
    let folder = world.receiver.folder(&common::name("photo")).unwrap();
    let files = Files::new(&folder, &Stores::default());
    let path = world.photo().join("a.bin");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let write = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
        files.version("a.bin").unwrap().unwrap()
    };
    let good = write(b"good");
    assert!(!good.has_rested());
    // The clock of the file system ticks.
    let mut evil = write(b"evil");
    while evil.changed == good.changed {
        evil = write(b"evil");
    }
    assert_eq!((evil.size, evil.modified), (good.size, good.modified));
    assert_ne!(evil, good);
}

//! What hooks ask for is done after their verdict, once, and whatever is down at first.
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
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use common::{
    Local, PETER, ROLAND, World, ZHENQIANG, introduce, name, names, person, read_metas,
    relay::Relay,
};
use hyper::{Response, StatusCode, body::Bytes};
use m2y::{
    client::outbox,
    journal::{self, Journal},
    root::Root,
    root::settings::live::Live,
    traffic::Traffic,
};
use servers::{
    http::Http,
    smtp::{Smtp, Ways},
};
use tokio::{sync::watch, task::JoinHandle};

/// Waits until `there` says something, which others bring about.
async fn until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = there() {
            return value;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn settings(world: &World, text: &str) {
    let ini = format!("[hooks]\nretry_delay = 20ms\nretry_limit = 1000\n{text}");
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
}

/// The journal's tasks, each as its kind and how often it was tried.
fn waiting(journal: &Journal) -> Vec<(String, u32)> {
    let listed = journal::list(&journal.reader().unwrap(), None, 100).unwrap();
    let facts = listed.into_iter().map(|e| (e.task.kind, e.attempts));
    facts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_mail_server_delays_nobody_and_gets_the_mail_when_it_lives_again() {
    let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
    world.script(
        "hook.rhai",
        "notify.email(user.email, \"Für dich\", `${meta.filename} von ${meta.from}`);",
    );
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let port = address.port();
    settings(
        &world,
        &format!(
            "[smtp]\nhost = 127.0.0.1\nport = {port}\nsecurity = none\nfrom = m2y@example.org\n"
        ),
    );
    let server = Local::serve(&world.there).await;
    let file = world.file("f.png", b"x");
    // The sender has his ACK while nobody answers at the port.
    world.deliver(&server.address, &file).await.unwrap();
    let journal = Journal::open(&world.there).unwrap();
    until("it was never tried", || {
        waiting(&journal)
            .iter()
            .any(|(kind, tried)| kind == "email" && *tried > 1)
            .then_some(())
    })
    .await;
    // What waits outlives the server.
    server.stop().await;
    let smtp = Smtp::start_on(TcpListener::bind(address).unwrap(), Ways::default());
    let server = Local::serve(&world.there).await;
    until("nothing came", || {
        waiting(&journal).is_empty().then_some(())
    })
    .await;
    server.stop().await;
    let mails = smtp.arrived();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].to, ["roland-frei@example.org"]);
    let text = String::from_utf8_lossy(&mails[0].data).into_owned();
    assert!(text.contains("f.png von zhenqiang"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_posted_once_for_each_event_that_is_decided_and_never_for_one_that_fails() {
    let http = Http::start(Response::new(Bytes::new()), None).await;
    let world = World::new("[OnMeta]\nhook.rhai\nno.rhai\n[OnReceived]\nhook.rhai\n");
    world.script(
        "hook.rhai",
        &format!(
            "notify.webhook(\"http://{}/hook\", #{{ event: event.name, file: meta.filename }});",
            http.address
        ),
    );
    world.script(
        "no.rhai",
        "if meta.filename == \"no\" { reject(\"no\"); } if meta.filename == \"fails\" { 1 / 0; }",
    );
    settings(&world, &format!("[webhook]\nallow = {}\n", http.address));
    let server = Local::serve(&world.there).await;
    world
        .deliver(&server.address, &world.file("no", b"x"))
        .await
        .unwrap_err();
    world
        .deliver(&server.address, &world.file("fails", b"x"))
        .await
        .unwrap_err();
    world
        .deliver(&server.address, &world.file("yes", b"x"))
        .await
        .unwrap();
    let journal = Journal::open(&world.there).unwrap();
    until("nothing was posted", || {
        (http.heard().len() >= 3 && waiting(&journal).is_empty()).then_some(())
    })
    .await;
    server.stop().await;
    let mut bodies: Vec<_> = http
        .heard()
        .iter()
        .map(|heard| String::from_utf8(heard.body.to_vec()).unwrap())
        .collect();
    bodies.sort();
    assert_eq!(
        bodies,
        [
            r#"{"event":"OnMeta","file":"no"}"#,
            r#"{"event":"OnMeta","file":"yes"}"#,
            r#"{"event":"OnReceived","file":"yes"}"#
        ]
    );
    // By this a server knows a repeated attempt: each event has its own.
    let heard = http.heard();
    let key = |n: usize| heard[n].headers["idempotency-key"].clone();
    assert_ne!(key(0), key(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_other_side_refuses_for_good_waits_for_a_person() {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::NOT_FOUND;
    let http = Http::start(answer, None).await;
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let post = format!("notify.webhook(\"http://{}/\", #{{}});", http.address);
    world.script("hook.rhai", &post);
    settings(&world, &format!("[webhook]\nallow = {}\n", http.address));
    let server = Local::serve(&world.there).await;
    world
        .deliver(&server.address, &world.file("f", b"x"))
        .await
        .unwrap();
    let journal = Journal::open(&world.there).unwrap();
    let db = journal.reader().unwrap();
    let dead = until("it was not given up", || {
        let listed = journal::list(&db, None, 10).unwrap();
        listed.into_iter().find(|entry| entry.dead)
    })
    .await;
    assert_eq!(dead.attempts, 1);
    assert!(dead.error.contains("404"), "{}", dead.error);
    assert_eq!(http.heard().len(), 1);
    server.stop().await;
}

struct Outbox {
    shutdown: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl Outbox {
    fn run(root: &Root) -> Self {
        let (shutdown, stopping) = watch::channel(false);
        let settings = root.settings().unwrap();
        let running = tokio::spawn(outbox::run(
            root.clone(),
            Live::new(settings),
            Traffic::default(),
            stopping,
        ));
        Self { shutdown, running }
    }

    async fn stop(self) {
        self.shutdown.send(true).unwrap();
        self.running.await.unwrap();
    }
}

/// zhenqiang's folder `photo` sends by itself, to a server at `address`.
fn automatic(world: &World, address: &str) -> std::path::PathBuf {
    let folder = world.sender.create_folder(&name("photo")).unwrap();
    fs::write(
        folder.path_of("m2y.config"),
        "[OnMeta]\n[outbox]\nauto = yes\n",
    )
    .unwrap();
    world
        .sender
        .set_addresses(&name(ROLAND), &address.parse().unwrap())
        .unwrap();
    let ini = "[hooks]\nretry_delay = 20ms\nretry_limit = 4\n";
    fs::write(world.here.path().join("m2y.ini"), ini).unwrap();
    folder.path().to_owned()
}

fn put(folder: &Path, file: &str, meta: &str) {
    fs::write(folder.join(file), file).unwrap();
    fs::write(folder.join(file).with_extension("meta"), meta).unwrap();
}

fn request(file: &str) -> String {
    format!(
        r#"{{"from": "{ZHENQIANG}", "to": "{ROLAND}", "folder": "photo", "filename": "{file}"}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meta_in_a_folder_that_sends_by_itself_is_sent() {
    let world = World::new(common::OPEN);
    let server = Local::serve(&world.there).await;
    let folder = automatic(&world, &server.address);
    put(&folder, "before.jpg", &request("before.jpg"));
    let outbox = Outbox::run(&world.here);
    put(&folder, "after.jpg", &request("after.jpg"));
    // Neither a record of a file that was refused, nor one that arrived, is to be sent.
    let foreign = request("x").replace(ZHENQIANG, PETER);
    fs::write(folder.join("refused.meta"), &foreign).unwrap();
    put(&folder, "arrived.data", &request("x"));
    until("they were not sent", || {
        (world.done().len() == 2).then_some(())
    })
    .await;
    outbox.stop().await;
    assert_eq!(world.arrived(".data").len(), 2);
    assert!(folder.join("refused.meta").exists() && folder.join("arrived.meta").exists());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_tries_again_while_nobody_listens_and_fails_after_its_limit() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    world.script("hook.rhai", "reject(\"no\");");
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let folder = automatic(&world, &address.to_string());
    put(&folder, "a.jpg", &request("a.jpg"));
    // One that is not begun, because nothing came of the one before, was tried too.
    put(&folder, "behind.jpg", &request("behind.jpg"));
    let outbox = Outbox::run(&world.here);
    let failed = until("it goes on for ever", || {
        let failed = world.failed();
        (failed.len() == 2).then_some(failed)
    })
    .await;
    for failed in failed {
        assert!(failed.error.contains("connect"), "{}", failed.error);
    }
    // What is refused fails at once.
    let server = Local::serve(&world.there).await;
    world
        .sender
        .set_addresses(&name(ROLAND), &server.address.parse().unwrap())
        .unwrap();
    put(&folder, "b.jpg", &request("b.jpg"));
    until("it was not refused", || {
        world.failed().into_iter().find(|meta| meta.error == "no")
    })
    .await;
    outbox.stop().await;
    assert_eq!(server.stop().await.hooks(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_files_that_wait_for_one_person_go_in_one_connection() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    world.script(
        "hook.rhai",
        "if meta.filename == \"f07\" { reject(\"no\"); }",
    );
    let server = Local::serve(&world.there).await;
    let relay = Relay::before(server.address.clone(), usize::MAX);
    let folder = automatic(&world, &relay.address);
    for n in 0..50 {
        put(&folder, &format!("f{n:02}"), &request(&format!("f{n:02}")));
    }
    let outbox = Outbox::run(&world.here);
    until("they were not sent", || {
        names(&folder, ".meta").is_empty().then_some(())
    })
    .await;
    outbox.stop().await;
    assert_eq!(relay.connections(), 1);
    // The one that was refused did not disturb the others.
    assert_eq!(world.done().len(), 49);
    assert_eq!(names(&folder, ".failed"), ["f07.failed"]);
    assert_eq!(world.arrived(".data").len(), 49);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_does_not_answer_holds_up_nobody_else_and_what_is_for_him_stays_a_meta() {
    let world = World::new(common::OPEN);
    let peter = person(&world.there, PETER);
    introduce(&world.sender, &peter);
    let into = peter.create_folder(&name("photo")).unwrap();
    fs::write(into.path_of("m2y.config"), common::OPEN).unwrap();
    let server = Local::serve(&world.there).await;
    // Connections come about, and nobody says a word in them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = automatic(&world, &silent.local_addr().unwrap().to_string());
    world
        .sender
        .set_addresses(&name(PETER), &server.address.parse().unwrap())
        .unwrap();
    // More than are opened for one person at a time.
    for n in 0..100 {
        put(&folder, &format!("f{n:02}"), &request(&format!("f{n:02}")));
    }
    let last = request("last").replace(ROLAND, PETER);
    put(&folder, "last", &last);
    let outbox = Outbox::run(&world.here);
    until("it was not sent", || {
        folder.join("last.done").exists().then_some(())
    })
    .await;
    outbox.shutdown.send(true).unwrap();
    drop(silent);
    outbox.running.await.unwrap();
    assert_eq!(names(&folder, ".meta").len(), 100);
    assert_eq!(names(into.path(), ".data").len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_sends_no_file_from_outside_of_its_users_folders() {
    let world = World::new(common::OPEN);
    let server = Local::serve(&world.there).await;
    let folder = automatic(&world, &server.address);
    let key = world
        .sender
        .path()
        .join(format!("privateKey/{ZHENQIANG}.data"));
    let secret = world.file("secret", b"of somebody else");
    std::os::unix::fs::symlink(&key, folder.join("link.jpg")).unwrap();
    for (n, source) in [
        &secret,
        &key,
        &folder.join("../privateKey/zhenqiang.data"),
        &folder.join("link.jpg"),
    ]
    .into_iter()
    .enumerate()
    {
        let meta =
            request("x").replace('}', &format!(r#", "sourcePath": "{}"}}"#, source.display()));
        fs::write(folder.join(format!("m{n}.meta")), meta).unwrap();
    }
    let outbox = Outbox::run(&world.here);
    put(&folder, "good.jpg", &request("good.jpg"));
    until("the good one was not sent", || {
        (world.done().len() == 1).then_some(())
    })
    .await;
    let failed = until("the others go on for ever", || {
        let failed = world.failed();
        (failed.len() == 4).then_some(failed)
    })
    .await;
    assert!(failed.iter().all(|meta| !meta.error.is_empty()));
    outbox.stop().await;
    assert_eq!(world.done().len(), 1);
    assert_eq!(world.arrived(".data").len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_hands_a_file_on_to_a_second_person_once() {
    let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n[outbox]\nauto = yes\n");
    world.script(
        "hook.rhai",
        &format!("send(#{{ to: \"{PETER}\", folder: \"in\", file: event.file }});"),
    );
    settings(&world, "");
    let peter = person(&world.there, PETER);
    introduce(&world.receiver, &peter);
    let into = peter.create_folder(&name("in")).unwrap();
    fs::write(into.path_of("m2y.config"), common::OPEN).unwrap();
    let server = Local::serve(&world.there).await;
    world
        .receiver
        .set_addresses(&name(PETER), &server.address.parse().unwrap())
        .unwrap();
    let outbox = Outbox::run(&world.there);
    world
        .deliver(&server.address, &world.file("f.png", b"handed on"))
        .await
        .unwrap();
    let metas = until("it was not handed on", || {
        // A .meta is written before its file is there.
        let there = names(into.path(), ".data").len() == 1;
        there.then(|| read_metas(into.path(), ".meta"))
    })
    .await;
    outbox.stop().await;
    server.stop().await;
    assert_eq!(
        (metas[0].from.as_str(), metas[0].filename.as_str()),
        (ROLAND, "f.png")
    );
    let data = names(into.path(), ".data");
    assert_eq!(fs::read(into.path_of(&data[0])).unwrap(), b"handed on");
    assert_eq!(world.arrived(".done").len(), 1);
}

//! The server's own console: what it says of itself, and what it can be told to do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{
    M2Y, OPEN, Process, ROLAND, World, ZHENQIANG, document, names, noise,
    peer::{self, Side},
    relay_process::{RelayProcess, attending, wait_for},
    said,
    terminal::Terminal,
};
use m2y::{
    guide::PAGES,
    meta::{Features, TransferId, Wire},
    root::Root,
    wire::record::{Kind, MAX_BODY},
};
use serde_json::{Value, json};

/// How long something may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the client here can do.
const CAN: Features = Features {
    resume: true,
    files: 256,
    requests: true,
};

/// Waits until `there` says something, which others bring about.
fn until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(there) = there() {
            return there;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn connect(root: &Path) -> UnixStream {
    let stream = UnixStream::connect(root.join("control.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What a server answers to these bytes, up to the end of the connection.
fn answer(root: &Path, request: &[u8]) -> String {
    let mut stream = connect(root);
    // A server that has heard enough does not read the rest.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut piece = [0; 4_096];
    while let Ok(n @ 1..) = stream.read(&mut piece) {
        answer.extend(&piece[..n]);
    }
    String::from_utf8(answer).unwrap()
}

/// The status and the object of an answer, after the page: any client could do this.
fn ask(root: &Path, method: &str, path: &str, body: &str) -> (u16, Value) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = answer(root, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).expect(&answer))
}

fn status(root: &Root) -> Value {
    let (code, said) = ask(root.path(), "GET", "/v1/status", "");
    assert_eq!(code, 200, "{said}");
    said
}

fn m2y(root: &Root, args: &[&str]) -> Output {
    Command::new(M2Y)
        .args(args)
        .arg("--root")
        .arg(root.path())
        .output()
        .unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Opens a session without a file.
async fn session(address: &str) -> Side {
    let asking = Wire {
        session: true,
        ..peer::request(document(ZHENQIANG, ROLAND, ""), CAN)
    };
    peer::open(address, &asking).await
}

fn offer(number: u32, filename: &str, len: usize) -> Wire {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    let mut meta = peer::meta(1, len);
    meta.filename = filename.to_owned();
    meta.id = Some(TransferId(id));
    peer::request(meta, CAN)
}

/// Offers a file, and sends the first block of it.
async fn begin(side: &mut Side, transfer: u32, offer: &Wire) {
    side.say(Kind::Meta, transfer, offer.to_json().as_bytes())
        .await;
    let (head, body) = side.hear().await.unwrap();
    assert_eq!((head.kind, head.transfer), (Kind::Answer, transfer));
    side.with_key(transfer, &Wire::from_json(&body).unwrap());
    side.block(transfer, &noise(MAX_BODY), false).await;
}

/// Sends the rest of a file of three blocks, and waits until it is safe.
async fn complete(side: &mut Side, transfer: u32) {
    let block = noise(MAX_BODY);
    side.block(transfer, &block, false).await;
    side.block(transfer, &block, true).await;
    side.trailer(transfer, &block.repeat(3)).await;
    assert_eq!(side.hear().await.unwrap().0.kind, Kind::Ack);
}

const SIZE: usize = 3 * MAX_BODY;

/// Waits until one transfer has this many bytes.
fn until_moved(root: &Root, bytes: usize) -> Value {
    until("a transfer under way", || {
        let said = status(root);
        let is_there = said["transfers"][0]["bytes"] == json!(bytes);
        is_there.then_some(said)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_users_a_session_and_a_transfer_with_its_bytes() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let mut side = session(&server.address).await;
    begin(&mut side, 1, &offer(1, "sea.jpg", SIZE)).await;
    let said = until_moved(&world.there, MAX_BODY);
    let user = json!({"user": ROLAND, "contacts": 1, "folders": ["photo"]});
    assert_eq!(said["users"], json!([user]));
    assert_eq!(said["addresses"], json!([server.address]));
    assert_eq!(said["pid"], json!(server.child.id()));
    assert_eq!(said["relay"], Value::Null);
    for number in ["tasks", "workers", "threads", "memory"] {
        assert!(said["process"][number].as_u64().unwrap() > 0, "{said}");
    }
    let open = &said["sessions"][0];
    assert_eq!(
        (&open["contact"], &open["user"]),
        (&ZHENQIANG.into(), &ROLAND.into())
    );
    assert!(open["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    let transfer = &said["transfers"][0];
    assert_eq!(transfer["name"], "sea.jpg");
    assert_eq!(
        (&transfer["direction"], &transfer["stage"]),
        (&"in".into(), &"moving".into())
    );
    assert_eq!(
        (&transfer["contact"], &transfer["folder"]),
        (&ZHENQIANG.into(), &"photo".into())
    );
    assert_eq!(
        (&transfer["size"], &transfer["hook"]),
        (&json!(SIZE), &Value::Null)
    );
    assert_eq!(said["received_bytes"], json!(MAX_BODY));
    // The command says the same, to people and to programs.
    let text = printed(&m2y(&world.there, &["status"]));
    for part in [
        "roland-frei  1 contact  photo",
        "zhenqiang > roland-frei  33%",
        "photo/sea.jpg",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let object = printed(&m2y(&world.there, &["status", "--json"]));
    let object: Value = serde_json::from_str(&object).unwrap();
    assert_eq!(object["transfers"][0]["bytes"], json!(MAX_BODY));
    // What is over is not shown any more.
    complete(&mut side, 1).await;
    let said = until("nothing under way", || {
        let said = status(&world.there);
        (said["transfers"] == json!([])).then_some(said)
    });
    assert_eq!(said["received_bytes"], json!(SIZE));
    drop(side);
    until("nobody there", || {
        (status(&world.there)["sessions"] == json!([])).then_some(())
    });
}

#[test]
fn without_a_server_the_commands_say_so_and_that_one_may_try_later() {
    let world = World::new(OPEN);
    for command in ["status", "stop", "reload"] {
        let output = m2y(&world.there, &[command]);
        assert_eq!(
            output.status.code(),
            Some(5),
            "{command}: {}",
            said(&output)
        );
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(why.contains("no server is running for /"), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }
    // A socket that a killed server left is none.
    let mut server = Process::serve(&world.there);
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert!(world.there.path().join("control.sock").exists());
    assert_eq!(m2y(&world.there, &["status"]).status.code(), Some(5));
}

/// A program that waits until a file is there.
fn wait_for_file(go: &Path) -> String {
    format!(
        "#!/bin/sh\nuntil [ -e {} ]; do sleep 0.01; done\n",
        go.display()
    )
}

#[test]
fn transfers_that_wait_for_a_hook_say_for_which_on_both_sides() {
    let world = World::new("[OnMeta]\ndecide.sh\n[OnReceived]\ntake.sh\n");
    let go = ["decide", "take"].map(|word| {
        let go = world.dir.path().join(word);
        world.script(&format!("{word}.sh"), &wait_for_file(&go));
        go
    });
    let there = Process::serve(&world.there);
    // The outbox of the sender's server sends.
    world
        .sender
        .set_addresses(world.receiver.name(), &there.address.parse().unwrap())
        .unwrap();
    let folder = world.sender.outbox(&common::name("photo")).unwrap();
    let file = folder.join("sea.jpg");
    fs::write(&file, noise(SIZE)).unwrap();
    let meta = world.meta("photo", &file);
    let config = meta.with_file_name("m2y.config");
    fs::write(config, "[OnMeta]\n[outbox]\nauto = yes\n").unwrap();
    let _here = Process::serve(&world.here);
    let shown = |root: &Root, stage: &str| {
        until(stage, || {
            let said = status(root);
            let one = said["transfers"][0].clone();
            (one["stage"] == stage).then_some(one)
        })
    };
    let deciding = shown(&world.there, "deciding");
    assert_eq!(
        (&deciding["hook"], &deciding["bytes"]),
        (&"OnMeta".into(), &json!(0))
    );
    let text = printed(&m2y(&world.there, &["status"]));
    assert!(text.contains("1 waiting for hooks"), "{text}");
    fs::write(&go[0], "").unwrap();
    let hooks = shown(&world.there, "hooks");
    assert_eq!(
        (&hooks["hook"], &hooks["bytes"]),
        (&"OnReceived".into(), &json!(SIZE))
    );
    let theirs = shown(&world.here, "hooks");
    assert_eq!(
        (&theirs["direction"], &theirs["bytes"]),
        (&"out".into(), &json!(SIZE))
    );
    assert_eq!(
        (&theirs["contact"], &theirs["name"]),
        (&ROLAND.into(), &"sea.jpg".into())
    );
    fs::write(&go[1], "").unwrap();
    for root in [&world.here, &world.there] {
        until("nothing under way", || {
            (status(root)["transfers"] == json!([])).then_some(())
        });
    }
    assert_eq!(world.arrived(".data").len(), 1);
}

#[test]
fn what_a_contact_fetches_is_shown_with_its_bytes() {
    let world = World::new("[OnMeta]\n[OnReceived]\n[share]\nzhenqiang = list get\n");
    fs::write(world.photo().join("sea.jpg"), noise(4_000_000)).unwrap();
    let server = Process::serve(&world.there);
    let mut fetching = Command::new(M2Y)
        .args([
            "get",
            "--server",
            &server.address,
            "--limit",
            "1M",
            "--user",
            ZHENQIANG,
        ])
        .arg(format!("{ROLAND}:photo/sea.jpg"))
        .arg("--root")
        .arg(world.here.path())
        .current_dir(world.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let one = until("half of it", || {
        let one = status(&world.there)["transfers"][0].clone();
        (one["bytes"].as_u64()? > 1_000_000).then_some(one)
    });
    assert_eq!(
        (&one["direction"], &one["name"]),
        (&"out".into(), &"photo/sea.jpg".into())
    );
    assert_eq!(one["size"], json!(4_000_000));
    assert!(one["rate"].as_u64().unwrap() > 0, "{one}");
    assert!(fetching.wait().unwrap().success());
    until("nothing under way", || {
        (status(&world.there)["transfers"] == json!([])).then_some(())
    });
}

#[test]
fn events_that_were_given_up_are_counted() {
    let world = World::new("[OnMeta]\n[OnReceived]\nfail.sh\n");
    world.script("fail.sh", "#!/bin/sh\nexit 1\n");
    let ini = "[hooks]\nexecutables = all\nretry_limit = 1\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let server = Process::serve(&world.there);
    world.send(&server.address, "photo", &world.file("a", b"a"));
    until("a dead event", || {
        (status(&world.there)["events"]["dead"] == 1).then_some(())
    });
    let text = printed(&m2y(&world.there, &["status"]));
    assert!(text.contains("0 waiting, 1 dead: see m2y events"), "{text}");
}

#[test]
fn the_health_of_stores_is_shown() {
    let world = World::new("[OnMeta]\n[OnReceived]\n[store]\nname = safe\n");
    let disks = world.stripe();
    fs::remove_dir(&disks[3]).unwrap();
    let _server = Process::serve(&world.there);
    let store = until("the first look at the stores", || {
        let store = status(&world.there)["stores"][0].clone();
        store.is_object().then_some(store)
    });
    assert_eq!(store["store"], "safe");
    let silent = json!({"name": "four", "answers": false});
    assert!(
        store["members"].as_array().unwrap().contains(&silent),
        "{store}"
    );
    assert_eq!((&store["degraded"], &store["lost"]), (&json!(0), &json!(0)));
    let text = printed(&m2y(&world.there, &["status"]));
    assert!(
        text.contains("3 of 4 members here (four silent), 0 degraded, 0 lost"),
        "{text}"
    );
}

#[test]
fn a_different_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can start a program as a different user");
        return;
    }
    let world = World::new(OPEN);
    let _server = Process::serve(&world.there);
    let socket = world.there.path().join("control.sock");
    let mode = || fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    open(world.dir.path(), 0o755).unwrap();
    open(world.there.path(), 0o755).unwrap();
    let program = world.dir.path().join("m2y");
    fs::hard_link(M2Y, &program)
        .or_else(|_| fs::copy(M2Y, &program).map(drop))
        .unwrap();
    let as_nobody = || {
        Command::new(&program)
            .args(["status", "--root"])
            .arg(world.there.path())
            .current_dir("/")
            .uid(65_534)
            .gid(65_534)
            .output()
            .unwrap()
    };
    // Twice the same words: by the mode of the file, and by whom the kernel says it is.
    for mode in [0o600, 0o666] {
        open(&socket, mode).unwrap();
        let output = as_nobody();
        assert_eq!(
            output.status.code(),
            Some(10),
            "{mode:o}: {}",
            said(&output)
        );
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(
            why.contains("only the user that the server runs as"),
            "{why}"
        );
    }
    assert_eq!(m2y(&world.there, &["status"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_lets_a_transfer_finish_and_waits_until_the_server_is_gone() {
    let world = World::new(OPEN);
    let mut server = Process::serve(&world.there);
    let mut side = session(&server.address).await;
    begin(&mut side, 1, &offer(1, "sea.jpg", SIZE)).await;
    until_moved(&world.there, MAX_BODY);
    let stopping = {
        let root = world.there.clone();
        thread::spawn(move || m2y(&root, &["stop"]))
    };
    // Until the end it says what it does.
    until("no new connections", || {
        std::net::TcpStream::connect(&server.address).err()
    });
    assert_eq!(status(&world.there)["transfers"][0]["name"], "sea.jpg");
    assert!(!stopping.is_finished());
    complete(&mut side, 1).await;
    drop(side);
    let stopped = stopping.join().unwrap();
    assert_eq!(stopped.status.code(), Some(0), "{}", said(&stopped));
    assert_eq!(printed(&stopped), "the server has stopped\n");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(!world.there.path().join("control.sock").exists());
    assert_eq!(names(&world.photo(), ".data").len(), 1);
    assert_eq!(m2y(&world.there, &["stop"]).status.code(), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_now_waits_for_no_transfer() {
    let world = World::new(OPEN);
    let mut server = Process::serve(&world.there);
    let mut side = session(&server.address).await;
    begin(&mut side, 1, &offer(1, "sea.jpg", SIZE)).await;
    until_moved(&world.there, MAX_BODY);
    let stopped = m2y(&world.there, &["stop", "--now", "--json"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", said(&stopped));
    assert_eq!(printed(&stopped), "{\"status\":\"stopped\"}\n");
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
    // It starts again where it was.
    assert!(Process::serve(&world.there).is_alive());
}

#[test]
fn a_chat_that_receives_is_not_stopped_but_says_what_it_does() {
    let world = World::new(OPEN);
    let mut chat = Command::new(M2Y)
        .args(["chat", "--root"])
        .arg(world.there.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let socket = world.there.path().join("control.sock");
    until("the chat receives", || UnixStream::connect(&socket).ok());
    let stopped = m2y(&world.there, &["stop"]);
    assert_eq!(stopped.status.code(), Some(10), "{}", said(&stopped));
    let why = String::from_utf8_lossy(&stopped.stderr);
    assert!(why.contains("leave it instead"), "{why}");
    assert_eq!(status(&world.there)["pid"], json!(chat.id()));
    drop(chat.stdin.take());
    assert!(chat.wait().unwrap().success());
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_takes_over_what_has_changed_and_cuts_no_transfer() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let mut side = session(&server.address).await;
    begin(&mut side, 1, &offer(1, "sea.jpg", SIZE)).await;
    let ini = world.there.path().join("m2y.ini");
    let text = "[server]\nmax_filesize = 1K\nlisten = 127.0.0.1:1\n[hooks]\nexecutables = all\n";
    fs::write(&ini, text).unwrap();
    let reloaded = m2y(&world.there, &["reload"]);
    assert_eq!(
        printed(&reloaded),
        "changed: server.max_filesize\nneeds a restart: server.listen\n"
    );
    // What begins is judged by the new setting; what has begun goes on.
    let large = offer(2, "large", SIZE).to_json();
    side.say(Kind::Meta, 2, large.as_bytes()).await;
    let (_, answer) = side.hear().await.unwrap();
    let answer = Wire::from_json(&answer).unwrap();
    assert!(
        answer.filekey.is_none() && answer.meta.error.contains("1024"),
        "{}",
        answer.meta.error
    );
    // A file that cannot be read changes nothing, and the sentence says why.
    fs::write(&ini, "[server]\nmax_filesiz = 1G\n").unwrap();
    let broken = m2y(&world.there, &["reload"]);
    assert_eq!(broken.status.code(), Some(1), "{}", said(&broken));
    let why = String::from_utf8_lossy(&broken.stderr);
    assert!(
        why.contains("max_filesiz: unknown setting: did you mean max_filesize?"),
        "{why}"
    );
    let (code, error) = ask(world.there.path(), "POST", "/v1/reload", "");
    assert_eq!((code, &error["code"]), (500, &"failed".into()), "{error}");
    side.say(Kind::Meta, 3, offer(3, "large", SIZE).to_json().as_bytes())
        .await;
    let (_, answer) = side.hear().await.unwrap();
    assert!(Wire::from_json(&answer).unwrap().filekey.is_none());
    // A mail server whose password is missing is found out before anything changes.
    let text =
        "[smtp]\nhost = localhost\nfrom = m2y@example.org\nusername = m2y\npassword_file = none\n";
    fs::write(&ini, text).unwrap();
    let broken = m2y(&world.there, &["reload"]);
    assert_eq!(broken.status.code(), Some(1), "{}", said(&broken));
    fs::write(&ini, "[hooks]\nexecutables = all\n").unwrap();
    let reloaded = m2y(&world.there, &["reload", "--json"]);
    let object: Value = serde_json::from_str(&printed(&reloaded)).unwrap();
    let expected =
        json!({"status": "done", "changed": ["server.max_filesize"], "needs_restart": []});
    assert_eq!(object, expected);
    assert_eq!(
        printed(&m2y(&world.there, &["reload"])),
        "m2y.ini has not changed\n"
    );
    complete(&mut side, 1).await;
    begin(&mut side, 4, &offer(4, "large", SIZE)).await;
    complete(&mut side, 4).await;
}

#[test]
fn a_hangup_has_m2y_ini_read_again() {
    let world = World::new(OPEN);
    let (server, lines) = Process::serve_with_lines(&world.there);
    let hangup = || {
        let pid = rustix::process::Pid::from_child(&server.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    };
    let ini = world.there.path().join("m2y.ini");
    fs::write(&ini, "[server]\nmax_connections = none\n").unwrap();
    hangup();
    wait_for(&lines, "everything stays as it was set");
    fs::write(&ini, "[server]\nmax_connections = 10\n").unwrap();
    hangup();
    wait_for(&lines, "read m2y.ini again");
    assert_eq!(m2y(&world.there, &["status"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_connections_holds_as_soon_as_it_is_reloaded() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let first = session(&server.address).await;
    fs::write(
        world.there.path().join("m2y.ini"),
        "[server]\nmax_connections = 1\n",
    )
    .unwrap();
    m2y(&world.there, &["reload"]);
    let sent = world.send(&server.address, "photo", &world.file("a", b"a"));
    assert_eq!(sent.status.code(), Some(5), "{}", said(&sent));
    fs::write(world.there.path().join("m2y.ini"), "").unwrap();
    m2y(&world.there, &["reload"]);
    let sent = world.send(&server.address, "photo", &world.file("b", b"b"));
    assert_eq!(sent.status.code(), Some(0), "{}", said(&sent));
    drop(first);
}

#[test]
fn requests_that_are_wrong_are_answered_and_do_no_harm() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let root = world.there.path();
    let first = |request: &[u8]| {
        let answer = answer(root, request);
        answer.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        first(b"{\"ask\":\"slot\"}\r\n\r\n"),
        "HTTP/1.1 400 Bad Request"
    );
    assert_eq!(first(&noise(10_000)), "HTTP/1.1 400 Bad Request");
    let long = format!(
        "GET /v1/status HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    assert!(
        first(long.as_bytes()).contains(" 431 "),
        "{}",
        first(long.as_bytes())
    );
    let many = format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert!(
        first(many.as_bytes()).contains(" 431 "),
        "{}",
        first(many.as_bytes())
    );
    let wrong = |method: &str, path: &str, body: &str| {
        let (status, said) = ask(root, method, path, body);
        assert!(said["error"].is_string(), "{said}");
        (status, said["code"].as_str().unwrap().to_owned())
    };
    for (method, path, body, expected) in [
        ("GET", "/", "", (404, "not-found")),
        ("GET", "/v2/status", "", (404, "not-found")),
        ("POST", "/v1/status", "", (405, "usage")),
        ("GET", "/v1/stop", "", (405, "usage")),
        ("DELETE", "/v1/stop", "", (405, "usage")),
        ("POST", "/v1/stop", "now", (400, "usage")),
        ("POST", "/v1/stop", "{\"now\":1}", (400, "usage")),
        (
            "POST",
            "/v1/stop",
            "{\"now\":true,\"now\":true}",
            (400, "usage"),
        ),
        ("POST", "/v1/stop", &"x".repeat(70_000), (413, "usage")),
        ("POST", "/v1/slot", "", (426, "usage")),
        ("GET", "/v1/relay", "", (404, "failed")),
    ] {
        let (status, code) = wrong(method, path, body);
        assert_eq!((status, code.as_str()), expected, "{method} {path}");
    }
    // A client that is slow, or says nothing, is not waited for.
    let begun = Instant::now();
    let slow = [
        "",
        "GET /v1/sta",
        "POST /v1/stop HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    ];
    let mut slow = slow.map(|said| {
        let mut stream = connect(root);
        stream.write_all(said.as_bytes()).unwrap();
        stream
    });
    assert_eq!(status(&world.there)["pid"], json!(server.child.id()));
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains(" 202 "));
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(status(&world.there)["pid"], json!(server.child.id()));
}

#[test]
fn a_thousand_programs_that_say_nothing_do_not_hurt_the_server() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let silent: Vec<_> = (0..1_000).map(|_| connect(world.there.path())).collect();
    // Files come in as before.
    let sent = world.send(&server.address, "photo", &world.file("a", b"a"));
    assert_eq!(sent.status.code(), Some(0), "{}", said(&sent));
    // Who comes now hears that there are too many, or has a turn after those who said nothing.
    let answered = until("an answer", || {
        let mut stream = connect(world.there.path());
        let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("no answer at all"),
            _ => {}
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let is_busy = answer.contains(" 503 ") && answer.contains("\"code\":\"later\"");
        assert!(
            answer.is_empty() || is_busy || answer.contains(" 200 "),
            "{answer}"
        );
        answer.contains(" 200 ").then_some(answer)
    });
    assert!(answered.contains("\"version\""));
    drop(silent);
    status(&world.there);
}

#[test]
fn a_slot_is_an_upgraded_connection_as_the_page_says() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let mut stream = connect(world.there.path());
    let request =
        "POST /v1/slot HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: m2y-slot\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut heard = String::new();
    let mut piece = [0; 1_024];
    while !heard.ends_with('\n') || !heard.contains("\"slot\"") {
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "{heard}");
        heard += std::str::from_utf8(&piece[..n]).unwrap();
    }
    let (head, line) = heard.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101 Switching Protocols"),
        "{head}"
    );
    let object: Value = serde_json::from_str(line).unwrap();
    assert_eq!(object["addresses"], json!([server.address]));
    assert!(object["slot"].as_u64().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn control_characters_in_a_file_name_are_harmless_on_the_screen() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let mut side = session(&server.address).await;
    let name = "a\x1b[31m\x07\n\u{202e}gpj.exe";
    begin(&mut side, 1, &offer(1, name, SIZE)).await;
    let said = until_moved(&world.there, MAX_BODY);
    // Programs get the name as it is.
    assert_eq!(said["transfers"][0]["name"], name);
    let text = printed(&m2y(&world.there, &["status"]));
    let line = text.lines().last().unwrap();
    assert!(
        line.ends_with("a\\u{1b}[31m\\u{7}\\n\\u{202e}gpj.exe"),
        "{text}"
    );
    assert!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{text}");
    let mut terminal = watching(&world.there, (24, 120));
    terminal.until("the name", |lines| {
        lines.iter().any(|line| line.contains("gpj.exe"))
    });
    terminal.press("q");
    assert_eq!(terminal.end(), Some(0));
    let written = String::from_utf8(terminal.written.clone()).unwrap();
    assert!(!written.contains("\x1b[31m") && !written.contains('\u{202e}'));
}

fn watching(root: &Root, size: (u16, u16)) -> Terminal {
    let mut command = Command::new(M2Y);
    command
        .args(["status", "--watch", "--root"])
        .arg(root.path());
    Terminal::sized(command, size)
}

const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

#[tokio::test(flavor = "multi_thread")]
async fn watch_draws_anew_and_leaves_the_terminal_as_it_was() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let mut side = session(&server.address).await;
    begin(&mut side, 1, &offer(1, "sea.jpg", SIZE)).await;
    until_moved(&world.there, MAX_BODY);
    let has = |lines: &[String], part: &str| lines.iter().any(|line| line.contains(part));
    for end in ["q", "\x03"] {
        let mut terminal = watching(&world.there, (24, 100));
        terminal.until("a third", |lines| has(lines, "photo/sea.jpg"));
        assert!(!terminal.echoes(), "keys are not shown");
        // Fewer rows, fewer lines.
        terminal.resize(10, 60);
        let lines = terminal.until("fewer lines", |lines| {
            lines.len() <= 10 && has(lines, "m2y ")
        });
        assert!(
            lines.iter().all(|line| line.chars().count() <= 60),
            "{lines:#?}"
        );
        terminal.press(end);
        assert_eq!(terminal.end(), Some(0));
        assert!(terminal.written.ends_with(LEAVE.as_bytes()));
        assert!(terminal.echoes(), "the keyboard is as it was");
        assert!(terminal.lines().is_empty(), "{:#?}", terminal.lines());
    }
    let mut terminal = watching(&world.there, (24, 100));
    terminal.until("a third", |lines| has(lines, " 33%"));
    side.block(1, &noise(MAX_BODY), false).await;
    terminal.until("two thirds", |lines| has(lines, " 66%"));
    // The server goes away: it says so where the person is again.
    drop(server);
    terminal.until("no server", |lines| has(lines, "no server is running"));
    assert_eq!(terminal.end(), Some(5));
    assert!(terminal.echoes());
}

#[test]
fn watch_prints_an_object_a_second_for_programs() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let mut watching = Command::new(M2Y)
        .args(["status", "--watch", "--json", "--root"])
        .arg(world.there.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(watching.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(lines);
    for _ in 0..3 {
        let object: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(object["pid"], json!(server.child.id()));
    }
    drop(server);
    let last = lines.last().unwrap().unwrap();
    let object: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(
        (&object["status"], &object["code"]),
        (&"error".into(), &"later".into())
    );
    assert_eq!(watching.wait().unwrap().code(), Some(5));
    // Without a terminal there is nothing to draw on.
    let output = m2y(&world.there, &["status", "--watch"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[test]
fn a_relay_shows_who_attends_and_a_member_where() {
    let relay = RelayProcess::start();
    let world = World::new(OPEN);
    relay.join(&world.there, ROLAND);
    let (_server, _lines) = attending(&world.there);
    let root = Root::open(&relay.root()).unwrap();
    let said = status(&root);
    assert_eq!(said["relay"]["members"], 1);
    assert_eq!(said["relay"]["present"][0]["name"], ROLAND);
    assert_eq!(
        (&said["relay"]["pairs"], &said["relay"]["letters"]),
        (&json!(0), &json!(0))
    );
    let text = printed(&m2y(&root, &["status"]));
    assert!(
        text.contains("1 of 1 member here, 0 pairs, 0 letters held"),
        "{text}"
    );
    assert!(text.contains("roland-frei  at this relay"), "{text}");
    let member = status(&world.there);
    let place = &member["attending"][0];
    assert_eq!(
        (&place["user"], &place["relay"]),
        (&ROLAND.into(), &"relay".into())
    );
    let text = printed(&m2y(&world.there, &["status"]));
    assert!(text.contains("roland-frei  at the relay relay"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_transfers_under_way_are_all_in_the_answer() {
    const SESSIONS: u32 = 4;
    const EACH: u32 = 250;
    let world = World::in_memory(OPEN);
    let server = Process::serve(&world.there);
    let mut sides = Vec::new();
    for number in 0..SESSIONS {
        let mut side = session(&server.address).await;
        for transfer in 1..=EACH {
            let id = number * EACH + transfer;
            begin(&mut side, transfer, &offer(id, &format!("f{id}"), SIZE)).await;
        }
        sides.push(side);
    }
    let (took, said) = until("all of them", || {
        let begun = Instant::now();
        let said = status(&world.there);
        let took = begun.elapsed();
        let transfers = said["transfers"].as_array().unwrap();
        let moved = |one: &Value| one["bytes"] == json!(MAX_BODY);
        (transfers.iter().filter(|one| moved(one)).count() == 1_000).then_some((took, said))
    });
    assert_eq!(said["transfers"].as_array().unwrap().len(), 1_000);
    assert_eq!(said["sessions"].as_array().unwrap().len(), 4);
    let mut times: Vec<Duration> = (0..51)
        .map(|_| {
            let begun = Instant::now();
            answer(
                world.there.path(),
                b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
            );
            begun.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "GET /v1/status with 1,000 transfers under way: median {:?}, slowest {:?} of 51 ({took:?} for the first)",
        times[25], times[50]
    );
    assert!(times[25] < Duration::from_secs(1), "{times:?}");
    // A screen has room for some of them, and says how many more there are.
    let mut terminal = watching(&world.there, (24, 80));
    terminal.until("the rest in one line", |lines| {
        lines.len() <= 24 && lines.iter().any(|line| line.contains("more"))
    });
    drop(sides);
    until("nothing under way", || {
        (status(&world.there)["transfers"] == json!([])).then_some(())
    });
}

/// A line whose figures, units and times are alike whenever it is drawn.
fn alike(line: &str) -> String {
    let word = |word: &str| -> String {
        let (word, comma) = match word.strip_suffix(',') {
            Some(word) => (word, ","),
            None => (word, ""),
        };
        let alike = match word {
            "byte" | "bytes" | "kB" | "MB" | "GB" => "B".to_owned(),
            "bytes/s" | "kB/s" | "MB/s" => "B/s".to_owned(),
            "worker" | "workers" => "workers".to_owned(),
            _ if word.starts_with(|c: char| c.is_ascii_digit()) => {
                let rest =
                    word.trim_start_matches(|c: char| c.is_ascii_digit() || ".:".contains(c));
                match rest {
                    "s" | "m" | "h" | "d" => "T".to_owned(),
                    rest => format!("0{rest}"),
                }
            }
            word => word.to_owned(),
        };
        alike + comma
    };
    let mut words: Vec<String> = line.split_whitespace().map(word).collect();
    words.dedup_by(|one, before| one == before && one == "T");
    words.join(" ")
}

#[test]
fn the_screen_in_the_guide_is_what_watch_draws() {
    let page = PAGES.iter().find(|page| page.topic == "console").unwrap();
    let (_, screen) = page.text.split_once("```screen\n").unwrap();
    let (screen, _) = screen.split_once("```").unwrap();
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let file = world.file("sea.jpg", &noise(4_000_000));
    let mut sending = Command::new(M2Y)
        .args(["send", "--limit", "500K", "--server", &server.address])
        .arg(&file)
        .arg(format!("{ROLAND}:photo"))
        .env("M2Y_ROOT", world.here.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut terminal = watching(&world.there, (24, 80));
    // Its speed is known, too.
    let lines = terminal.until("a file on its way", |lines| {
        let row = lines.last().map(String::as_str).unwrap_or_default();
        row.contains("photo/sea.jpg") && row.contains("kB/s") && !row.contains(" 0%")
    });
    let root = world.there.path().display().to_string();
    let drawn: Vec<_> = lines
        .iter()
        .map(|line| alike(&line.replace(&root, "/srv/m2y")))
        .collect();
    let shown: Vec<_> = screen.lines().map(alike).collect();
    assert_eq!(drawn, shown, "{lines:#?}");
    terminal.press("q");
    assert_eq!(terminal.end(), Some(0));
    let _ = sending.kill();
    let _ = sending.wait();
}

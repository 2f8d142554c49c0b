//! What an administrator sees of a server: its log, its metrics, what it tells systemd.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Read, Write},
    net::TcpStream,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use common::{M2Y, PETER, World, ZHENQIANG, person, said, terminate};
use serde_json::Value;

/// A server that is killed when this is dropped; its log goes to a file.
struct Serving {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
    address: String,
}

impl Serving {
    fn start(world: &World, args: &[&str]) -> Self {
        Self::with(world, args, |_| {})
    }

    fn with(world: &World, args: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let log = world.dir.path().join("log");
        let mut command = Command::new(M2Y);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(world.there.path())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut serving = Self {
            child,
            said,
            log,
            address: String::new(),
        };
        serving.address = serving.says("listening on ");
        serving
    }

    /// The next line that it prints, behind `begin`.
    fn says(&mut self, begin: &str) -> String {
        let line = self.said.next().unwrap().unwrap();
        let rest = line.strip_prefix(begin);
        rest.unwrap_or_else(|| panic!("the server said {line:?}"))
            .to_owned()
    }

    /// Asks it to go, waits until it has gone, and reads its log.
    fn stop(mut self) -> String {
        terminate(&self.child);
        assert!(self.child.wait().unwrap().success());
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every line of a log as an object.
fn objects(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .inspect(|value: &Value| assert!(value.is_object(), "{value}"))
        .collect()
}

fn is_word(value: &Value, field: &str, word: &str) -> bool {
    value[field].as_str() == Some(word)
}

/// Refuses what its sender calls `no`, whatever the bytes.
const PICKY: &str = "if meta.filename == \"no\" { throw \"not this\\none\"; }";

#[test]
fn with_log_format_json_every_line_is_an_object_and_every_transfer_has_one() {
    let world = World::new("[OnMeta]\npicky.rhai\nbroken.rhai\n[OnReceived]\n");
    world.script("picky.rhai", PICKY);
    world.script(
        "broken.rhai",
        "if meta.filename == \"broken\" { launch(); }",
    );
    let serving = Serving::start(&world, &["--log-format", "json"]);
    for (name, code) in [("yes", 0), ("no", 10), ("broken", 5)] {
        let file = world.file(name, b"twelve bytes");
        let sent = world.send(&serving.address, "photo", &file);
        assert_eq!(sent.status.code(), Some(code), "{}", said(&sent));
    }
    let log = objects(&serving.stop());
    let transfers: Vec<_> = log
        .iter()
        .filter(|line| line["verdict"].is_string())
        .collect();
    assert_eq!(transfers.len(), 3, "{log:#?}");
    let done = &world.done()[0];
    for (line, verdict) in transfers.iter().zip(["received", "refused", "failed"]) {
        assert!(is_word(line, "verdict", verdict), "{line}");
        assert!(is_word(line, "level", "INFO"), "{line}");
        assert!(is_word(line, "from", "zhenqiang"), "{line}");
        assert!(is_word(line, "to", "roland-frei"), "{line}");
        assert!(is_word(line, "folder", "photo"), "{line}");
        // Of what was put off nothing stays, and so it has no name.
        let stem = line["stem"].as_str().unwrap_or_default();
        assert_eq!(
            stem.starts_with("zhenqiang_"),
            verdict != "failed",
            "{line}"
        );
        assert_eq!(line["bytes"], 12, "{line}");
        assert!(line["seconds"].as_f64().unwrap() > 0.0, "{line}");
        assert_eq!(line["id"].as_str().unwrap().len(), 32, "{line}");
        assert!(line["timestamp"].is_string(), "{line}");
    }
    assert!(is_word(transfers[0], "id", &done.id.unwrap().to_string()));
    assert!(is_word(transfers[0], "message", "received"));
    let words = transfers[1]["message"].as_str().unwrap();
    assert!(words.starts_with("refused: not this"), "{words}");
    // What a script breaks at is shown with its line and a caret, in one object all the same.
    let place = log
        .iter()
        .find(|line| is_word(line, "level", "WARN"))
        .unwrap();
    assert!(place["message"].as_str().unwrap().contains("launch(); }\n"));
}

#[test]
fn a_transfer_that_breaks_off_has_its_line_too() {
    let world = World::new(common::OPEN);
    let mut serving = Serving::start(&world, &["--log-format", "json"]);
    // A pipe in front of the server that breaks after so many bytes.
    let front = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = front.local_addr().unwrap().to_string();
    let server = serving.address.clone();
    let breaking = std::thread::spawn(move || {
        let (sender, _) = front.accept().unwrap();
        let server = TcpStream::connect(server).unwrap();
        let (mut back, mut to_sender) = (server.try_clone().unwrap(), sender.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut to_sender));
        let _ = std::io::copy(&mut (&sender).take(1 << 20), &mut &server);
        let _ = server.shutdown(std::net::Shutdown::Both);
        let _ = sender.shutdown(std::net::Shutdown::Both);
    });
    let file = world.file("large", &common::noise(4 << 20));
    let sent = world.send(&address, "photo", &file);
    assert_eq!(sent.status.code(), Some(5), "{}", said(&sent));
    breaking.join().unwrap();
    terminate(&serving.child);
    assert!(serving.child.wait().unwrap().success());
    let log = objects(&fs::read_to_string(&serving.log).unwrap());
    let line = log.iter().find(|line| line["verdict"].is_string()).unwrap();
    assert!(is_word(line, "verdict", "failed"), "{line}");
    assert_eq!(line["bytes"], 4 << 20, "{line}");
    assert!(line["id"].is_string() && line["seconds"].is_f64(), "{line}");
}

#[test]
fn m2y_ini_and_the_environment_choose_the_format_too_and_the_flag_beats_them() {
    let world = World::new(common::OPEN);
    let ini = world.there.path().join("m2y.ini");
    fs::write(ini, "[server]\nlog_format = json\n").unwrap();
    assert!(!objects(&Serving::start(&world, &[]).stop()).is_empty());
    let text = Serving::start(&world, &["--log-format", "text"]).stop();
    assert!(text.contains(" INFO serving"), "{text}");
    let text = Serving::with(&world, &[], |command| {
        command.env("M2Y_LOG_FORMAT", "text");
    })
    .stop();
    assert!(text.contains(" INFO serving"), "{text}");
}

#[test]
fn an_error_that_ends_the_server_is_an_object_of_the_log_too() {
    let world = World::new(common::OPEN);
    let taken = Serving::start(&world, &[]);
    let output = Command::new(M2Y)
        .args(["serve", "--log-format", "json", "--listen", &taken.address])
        .arg("--root")
        .arg(world.here.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let log = objects(std::str::from_utf8(&output.stderr).unwrap());
    let last = log.last().unwrap();
    assert!(is_word(last, "level", "ERROR"), "{last}");
    assert!(is_word(last, "code", "failed"), "{last}");
    let words = last["message"].as_str().unwrap();
    assert!(words.starts_with("cannot listen on "), "{words}");
}

/// Status and body of what an HTTP server answers.
fn ask(address: &str, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: m2y\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse();
    (status.unwrap(), body.to_owned())
}

/// The samples of /metrics; every other line must be a comment about one of them.
fn samples(address: &str) -> Vec<(String, f64)> {
    let (status, page) = ask(address, "GET", "/metrics");
    assert_eq!(status, 200);
    page.lines()
        .filter(|line| !line.starts_with("# HELP m2y_") && !line.starts_with("# TYPE m2y_"))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn sample(samples: &[(String, f64)], name: &str) -> f64 {
    let found: Vec<_> = samples.iter().filter(|(known, _)| known == name).collect();
    assert_eq!(found.len(), 1, "{name}: {samples:#?}");
    found[0].1
}

fn serve_with_metrics(world: &World) -> (Serving, String) {
    let mut serving = Serving::start(world, &["--metrics", "127.0.0.1:0"]);
    let metrics = serving.says("metrics on ");
    (serving, metrics)
}

#[test]
fn metrics_tell_how_the_stores_of_folders_are() {
    let world = World::new("[OnMeta]\n[OnReceived]\n[store]\nname = safe\n");
    let disks = world.stripe();
    fs::remove_dir(&disks[3]).unwrap();
    let (serving, metrics) = serve_with_metrics(&world);
    let up = |member: &str| format!("m2y_store_member_up{{store=\"safe\",member=\"{member}\"}}");
    // They are there after the first look.
    let seen = loop {
        let seen = samples(&metrics);
        if seen.iter().any(|(name, _)| *name == up("one")) {
            break seen;
        }
        std::thread::yield_now();
    };
    let answers = ["one", "two", "three", "four"].map(|member| sample(&seen, &up(member)));
    assert_eq!(answers, [1.0, 1.0, 1.0, 0.0]);
    for name in ["degraded_files", "lost_files"] {
        let name = format!("m2y_store_{name}{{store=\"safe\"}}");
        assert_eq!(sample(&seen, &name), 0.0);
    }
    serving.stop();
}

#[test]
fn metrics_count_transfers_hooks_strangers_and_the_work_of_private_keys() {
    let world = World::new("[OnMeta]\npicky.rhai\n[OnReceived]\nbroken.rhai\n");
    world.script("picky.rhai", PICKY);
    world.script("broken.rhai", "launch();");
    let ini = world.there.path().join("m2y.ini");
    fs::write(ini, "[hooks]\nretry_limit = 1\n").unwrap();
    let (serving, metrics) = serve_with_metrics(&world);
    for (name, value) in samples(&metrics) {
        assert_eq!(value, 0.0, "{name}");
    }
    let yes = world.file("yes", b"twelve bytes");
    let sent = world.send(&serving.address, "photo", &yes);
    assert!(sent.status.success(), "{}", said(&sent));
    let sent = world.send(&serving.address, "photo", &world.file("no", b"x"));
    assert_eq!(sent.status.code(), Some(10), "{}", said(&sent));
    let outbox = world.sender.path().join("photo");
    let done = &common::names(&outbox, ".done")[0];
    let again = outbox.join("again.meta");
    fs::copy(outbox.join(done), &again).unwrap();
    let send = |meta: &Path| {
        Command::new(M2Y)
            .args(["send", "--server", &serving.address, "--root"])
            .arg(world.here.path())
            .arg(meta)
            .output()
            .unwrap()
    };
    let sent = send(&again);
    assert!(sent.status.success(), "{}", said(&sent));

    // And one that is fetched.
    let ready = world.receiver.path().join("outgoing").join(ZHENQIANG);
    fs::create_dir_all(&ready).unwrap();
    fs::write(ready.join("ready.txt"), "seven..").unwrap();
    let fetched = Command::new(M2Y)
        .args(["get", "--server", &serving.address, "--root"])
        .arg(world.here.path())
        .args(["-o", "fetched", "roland-frei:ready.txt"])
        .current_dir(world.dir.path())
        .output()
        .unwrap();
    assert!(fetched.status.success(), "{}", said(&fetched));

    let seen = samples(&metrics);
    for (name, value) in [
        ("m2y_openings_total{result=\"known\"}", 4.0),
        ("m2y_openings_total{result=\"turned_away\"}", 0.0),
        ("m2y_transfers_total{result=\"received\"}", 1.0),
        ("m2y_transfers_total{result=\"refused\"}", 1.0),
        ("m2y_transfers_total{result=\"failed\"}", 0.0),
        ("m2y_transfers_total{result=\"delivered_before\"}", 1.0),
        ("m2y_transfers_total{result=\"fetched\"}", 1.0),
        ("m2y_received_bytes_total", 12.0),
        ("m2y_sent_bytes_total", 7.0),
        (
            "m2y_hooks_total{event=\"OnMeta\",verdict=\"accepted\"}",
            1.0,
        ),
        ("m2y_hooks_total{event=\"OnMeta\",verdict=\"refused\"}", 1.0),
        (
            "m2y_hooks_total{event=\"OnReceived\",verdict=\"failed\"}",
            1.0,
        ),
        ("m2y_hook_seconds_bucket{le=\"+Inf\"}", 3.0),
        ("m2y_hook_seconds_bucket{le=\"30\"}", 3.0),
        ("m2y_hook_seconds_count", 3.0),
        ("m2y_tasks_pending", 0.0),
        ("m2y_tasks_dead", 1.0),
        // One to open a meta, one to sign the answer.
        ("m2y_private_key_operations_total", 8.0),
    ] {
        assert_eq!(sample(&seen, name), value, "{name}");
    }
    assert!(sample(&seen, "m2y_hook_seconds_sum") > 0.0);

    // Somebody whom roland does not know, and something that is no opening.
    let peter = person(&world.here, PETER);
    let key = world.receiver.contact(world.receiver.name()).unwrap().key;
    peter
        .add_contact(world.receiver.name(), &key, false)
        .unwrap();
    let meta = common::document(PETER, common::ROLAND, "photo");
    let dir = peter.outbox(&common::name("photo")).unwrap();
    let sent = send(&m2y::root::meta_file::write(&dir, &yes, meta).unwrap());
    assert_eq!(sent.status.code(), Some(12), "{}", said(&sent));
    let mut stream = TcpStream::connect(&serving.address).unwrap();
    stream.write_all(&[0x55; 256]).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    let seen = samples(&metrics);
    for (name, value) in [
        ("m2y_openings_total{result=\"known\"}", 4.0),
        ("m2y_openings_total{result=\"turned_away\"}", 2.0),
        ("m2y_private_key_operations_total", 8.0),
    ] {
        assert_eq!(sample(&seen, name), value, "{name}");
    }
    for (name, _) in &seen {
        assert!(
            !name.contains("roland") && !name.contains("photo"),
            "{name}"
        );
    }
}

#[test]
fn the_metrics_port_answers_what_it_knows_and_nothing_else() {
    let world = World::new(common::OPEN);
    let (serving, metrics) = serve_with_metrics(&world);
    assert_eq!(ask(&metrics, "GET", "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(ask(&metrics, "HEAD", "/healthz"), (200, String::new()));
    assert_eq!(ask(&metrics, "GET", "/").0, 404);
    assert_eq!(
        ask(&metrics, "GET", "/../user/roland-frei/user.json").0,
        404
    );
    assert_eq!(ask(&metrics, "POST", "/metrics").0, 405);
    // What is too long is not read to its end, so the writing may fail.
    let mut stream = TcpStream::connect(&metrics).unwrap();
    let _ = stream.write_all(&[b'x'; 1 << 20]);
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(ask(&metrics, "GET", "/healthz").0, 200);
    serving.stop();
}

#[test]
fn readers_of_metrics_that_say_nothing_are_let_go_and_keep_nobody_out() {
    let world = World::new(common::OPEN);
    let (_serving, metrics) = serve_with_metrics(&world);
    let idle: Vec<_> = (0..16)
        .map(|_| TcpStream::connect(&metrics).unwrap())
        .collect();
    assert_eq!(ask(&metrics, "GET", "/healthz").0, 200);
    for mut stream in idle {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn with_json_the_address_of_metrics_is_an_object_and_m2y_ini_may_ask_for_it() {
    let world = World::new(common::OPEN);
    let ini = world.there.path().join("m2y.ini");
    fs::write(ini, "[server]\nmetrics = 127.0.0.1:0\n").unwrap();
    let mut serving = Serving::start(&world, &[]);
    let taken = serving.says("metrics on ");
    serving.stop();
    let mut child = Command::new(M2Y)
        .args(["serve", "--json", "--listen", "127.0.0.1:0", "--root"])
        .arg(world.there.path())
        .args(["--metrics", &taken])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut object = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert!(is_word(&object(), "status", "listening"));
    let second = object();
    assert!(is_word(&second, "status", "metrics"), "{second}");
    assert!(is_word(&second, "address", &taken), "{second}");
    // Who takes the same port is told so before any hook ran.
    let other = Command::new(M2Y)
        .args(["serve", "--listen", "127.0.0.1:0", "--metrics", &taken])
        .arg("--root")
        .arg(world.here.path())
        .output()
        .unwrap();
    terminate(&child);
    child.wait().unwrap();
    assert_eq!(other.status.code(), Some(1), "{}", said(&other));
    let words = format!("cannot listen on {taken}: ");
    assert!(String::from_utf8_lossy(&other.stderr).contains(&words));
}

#[test]
fn the_units_of_systemd_are_some_and_leave_time_to_go_down() {
    check_unit("m2y.service", &["serve"]);
    check_unit("m2y-relay.service", &["relay", "serve"]);
}

/// A unit that runs this command.
fn check_unit(name: &str, command: &[&str]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd");
    let text = fs::read_to_string(dir.join(name)).unwrap();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key}"))
    };
    let stop: u64 = value("TimeoutStopSec=").parse().unwrap();
    let deadline = m2y::root::settings::Settings::default().shutdown_deadline;
    assert!(stop >= deadline.as_secs() + 10);
    // Its flags are flags of the program.
    let start = format!("ExecStart=/usr/local/bin/m2y {} ", command.join(" "));
    let words = value(&start);
    let output = Command::new(M2Y)
        .args(command)
        .args(["--root", "/proc/nowhere/at/all"])
        .args(words.split_whitespace())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let analyze = Command::new("systemd-analyze").arg("--version").output();
    if analyze.is_err() || !Path::new("/bin/true").exists() {
        eprintln!("there is no systemd-analyze here: it is not asked");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join(name);
    fs::write(&copy, text.replace("/usr/local/bin/m2y", "/bin/true")).unwrap();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&copy)
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", said(&verified));
    let about_it = String::from_utf8_lossy(&verified.stderr);
    assert!(!about_it.contains(name), "{about_it}");
}

/// The next thing that systemd would be told.
fn told(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let len = socket.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..len].to_vec()).unwrap()
}

#[test]
fn systemd_hears_when_the_server_is_ready_and_when_it_goes_and_healthz_says_so_too() {
    let world = World::new("[OnMeta]\n[OnReceived]\nwait.sh\n");
    // Whoever opens a pipe to write waits until somebody reads, and so for the hook.
    let gate = world.dir.path().join("gate");
    let made = Command::new("mkfifo").arg(&gate).status().unwrap();
    assert!(made.success());
    let program = format!("#!/bin/sh\nexec cat '{}'\n", gate.display());
    world.script("wait.sh", &program);
    let path = world.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut serving = Serving::with(&world, &["--metrics", "127.0.0.1:0"], |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    let metrics = serving.says("metrics on ");
    assert_eq!(told(&socket), "READY=1");
    assert_eq!(ask(&metrics, "GET", "/healthz").0, 200);
    let file = world.file("f", b"x");
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| world.send(&serving.address, "photo", &file));
        let gate = fs::OpenOptions::new().write(true).open(&gate).unwrap();
        assert_eq!(sample(&samples(&metrics), "m2y_connections"), 1.0);
        assert_eq!(sample(&samples(&metrics), "m2y_tasks_pending"), 1.0);
        terminate(&serving.child);
        assert_eq!(told(&socket), "STOPPING=1");
        let going = ask(&metrics, "GET", "/healthz");
        assert_eq!(going, (503, "shutting down\n".to_owned()));
        // What is under way finishes.
        drop(gate);
        let sent = sending.join().unwrap();
        assert!(sent.status.success(), "{}", said(&sent));
    });
    assert!(serving.child.wait().unwrap().success());
}

#[test]
fn systemd_is_told_at_an_abstract_socket_too_and_one_that_is_gone_stops_nobody() {
    let world = World::new(common::OPEN);
    let name = format!("m2y-test-{}", world.dir.path().display());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    let start = || {
        Serving::with(&world, &[], |command| {
            command.env("NOTIFY_SOCKET", format!("@{name}"));
        })
    };
    let serving = start();
    assert_eq!(told(&socket), "READY=1");
    let mut reload = Command::new(M2Y);
    reload.args(["reload", "--root"]).arg(world.there.path());
    assert!(reload.status().unwrap().success());
    let reloading = told(&socket);
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(told(&socket), "READY=1");
    serving.stop();
    assert_eq!(told(&socket), "STOPPING=1");
    drop(socket);
    let log = start().stop();
    assert!(log.contains("cannot tell systemd READY=1"), "{log}");
}

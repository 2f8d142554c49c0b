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
    io::{BufRead, BufReader, Lines, Read},
    net::TcpStream,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use common::{M2Y, World, said, terminate};
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
    for (name, code) in [("yes", 0), ("no", 10), ("broken", 10)] {
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
    for (line, verdict) in transfers.iter().zip(["received", "refused", "refused"]) {
        assert!(is_word(line, "verdict", verdict), "{line}");
        assert!(is_word(line, "level", "INFO"), "{line}");
        assert!(is_word(line, "from", "zhenqiang"), "{line}");
        assert!(is_word(line, "to", "roland-frei"), "{line}");
        assert!(is_word(line, "folder", "photo"), "{line}");
        let stem = line["stem"].as_str().unwrap();
        assert!(stem.starts_with("zhenqiang_"), "{line}");
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

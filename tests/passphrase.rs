//! A private key with a passphrase: who has it works as before, and nobody else.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use common::{M2Y, Process, ROLAND, World, names, said, terminal::Terminal};
use m2y::root::Root;

const SECRET: &str = "correct horse battery";

/// A world whose receiver's key has a passphrase, and a file with it.
struct Locked {
    world: World,
    file: PathBuf,
}

impl Locked {
    fn new(config: &str) -> Self {
        let world = World::new(config);
        let file = secret(&world, "secret", SECRET);
        let mut command = m2y(&world.there, &["user", "passwd"]);
        command.env("M2Y_NEW_PASSPHRASE_FILE", &file);
        ok(command);
        Self { world, file }
    }

    fn key(&self) -> PathBuf {
        self.world
            .receiver
            .path()
            .join(format!("privateKey/{ROLAND}.data"))
    }

    fn on_terminal(&self, args: &[&str]) -> Terminal {
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait", M2Y])
            .args(args)
            .env("M2Y_ROOT", self.world.there.path())
            .env_remove("M2Y_PASSPHRASE_FILE");
        Terminal::start(command)
    }

    fn with(&self, args: &[&str]) -> Command {
        let mut command = m2y(&self.world.there, args);
        command.env("M2Y_PASSPHRASE_FILE", &self.file);
        command
    }
}

fn prompt() -> String {
    format!("Passphrase of user/{ROLAND}/privateKey/{ROLAND}.data:")
}

fn secret(world: &World, name: &str, text: &str) -> PathBuf {
    let file = world.file(name, format!("{text}\n").as_bytes());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn m2y(root: &Root, args: &[&str]) -> Command {
    let mut command = Command::new(M2Y);
    command
        .args(args)
        .env("M2Y_ROOT", root.path())
        .env_remove("M2Y_PASSPHRASE_FILE")
        .stdin(Stdio::null());
    command
}

fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs without a terminal, whatever this test has.
fn alone(command: Command) -> Output {
    let mut alone = Command::new("setsid");
    alone
        .arg("--wait")
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => alone.env(name, value),
            None => alone.env_remove(name),
        };
    }
    alone.output().unwrap()
}

fn folder() -> String {
    format!("{ROLAND}:photo")
}

#[test]
fn a_locked_key_opens_with_its_passphrase_only() {
    let locked = Locked::new("[OnMeta]\n");
    let key = fs::read_to_string(locked.key()).unwrap();
    assert!(key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    assert_eq!(
        fs::metadata(locked.key()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    ok(locked.with(&["ls", &folder()]));

    let refused = alone(m2y(&locked.world.there, &["ls", &folder()]));
    assert_eq!(refused.status.code(), Some(12), "{}", said(&refused));
    let sentence = "privateKey/roland-frei.data: it has a passphrase, and nobody can be asked for it: \
                    name a file with it in M2Y_PASSPHRASE_FILE";
    assert!(said(&refused).contains(sentence), "{}", said(&refused));
    let mut wrong = locked.with(&["ls", &folder()]);
    wrong.env(
        "M2Y_PASSPHRASE_FILE",
        secret(&locked.world, "wrong", "correct horse"),
    );
    let refused = wrong.output().unwrap();
    assert_eq!(refused.status.code(), Some(12), "{}", said(&refused));
    assert!(
        said(&refused).contains("wrong is wrong"),
        "{}",
        said(&refused)
    );
    fs::set_permissions(&locked.file, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = locked.with(&["ls", &folder()]).output().unwrap();
    assert!(
        said(&refused).contains("must be 0600 (chmod 600"),
        "{}",
        said(&refused)
    );
    fs::set_permissions(&locked.file, fs::Permissions::from_mode(0o600)).unwrap();

    // It is changed by who knows it, and taken away.
    let mut short = locked.with(&["user", "passwd"]);
    short.env(
        "M2Y_NEW_PASSPHRASE_FILE",
        secret(&locked.world, "short", "short"),
    );
    assert_eq!(short.output().unwrap().status.code(), Some(2));
    let refused = alone(m2y(&locked.world.there, &["user", "passwd", "--remove"]));
    assert_eq!(refused.status.code(), Some(12));
    assert_eq!(fs::read_to_string(locked.key()).unwrap(), key);
    ok(locked.with(&["user", "passwd", "--remove"]));
    let key = fs::read_to_string(locked.key()).unwrap();
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
    ok(m2y(&locked.world.there, &["ls", &folder()]));
}

#[test]
fn openssl_opens_it_too() {
    let locked = Locked::new("[OnMeta]\n");
    let openssl = Command::new("openssl")
        .args(["pkey", "-noout", "-check", "-in"])
        .arg(locked.key())
        .arg("-passin")
        .arg(format!("file:{}", locked.file.display()))
        .output();
    match openssl {
        Ok(checked) => assert!(checked.status.success(), "{}", said(&checked)),
        Err(e) => println!("openssl is not there: {e}"),
    }
}

#[test]
fn a_server_gets_it_as_a_credential_and_hooks_do_not() {
    let config = "[OnMeta]\n[OnReceived]\ntell.sh\n";
    let locked = Locked::new(config);
    locked.world.script(
        "tell.sh",
        "#!/bin/sh\nenv >\"$M2Y_ROOT/part\" && mv \"$M2Y_ROOT/part\" \"$M2Y_ROOT/told\"\n",
    );
    let credentials = locked.world.dir.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("m2y-passphrase"), SECRET).unwrap();
    let variables = [
        ("CREDENTIALS_DIRECTORY", credentials.display().to_string()),
        ("M2Y_PASSPHRASE_FILE", String::new()),
    ];
    let (server, lines) = Process::serve_with_lines_and(&locked.world.there, &variables);
    let file = locked.world.file("a.txt", b"1");
    let sent = locked.world.send(&server.address, "photo", &file);
    assert!(sent.status.success(), "{}", said(&sent));
    assert_eq!(locked.world.arrived(".data").len(), 1);
    let told = locked.world.there.path().join("told");
    while !told.exists() {
        std::thread::yield_now();
    }
    let pid = server.child.id();
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    server.stop();
    let told = fs::read_to_string(told).unwrap();
    assert!(told.contains("M2Y_EVENT=OnReceived"), "{told}");
    let log: Vec<String> = lines.iter().collect();
    let secrets = [SECRET, "CREDENTIALS_DIRECTORY", "M2Y_PASSPHRASE_FILE"];
    for secret in secrets {
        assert!(!told.contains(secret), "{told}");
        assert!(!log.join("\n").contains(secret), "{log:#?}");
        assert!(!String::from_utf8_lossy(&command).contains(secret));
    }
}

#[test]
fn a_server_that_dies_leaves_its_memory_to_nobody() {
    let locked = Locked::new("[OnMeta]\n");
    let dir = tempfile::tempdir().unwrap();
    let dies = |root: &Root| {
        // As on a machine where every program leaves a core dump.
        let serve = "ulimit -c unlimited; exec \"$0\" serve --listen 127.0.0.1:0 --root \"$1\"";
        let mut child = Command::new("sh")
            .args(["-c", serve, M2Y])
            .arg(root.path())
            .env("M2Y_PASSPHRASE_FILE", &locked.file)
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
        child.wait().unwrap().core_dumped()
    };
    assert!(!dies(&locked.world.there));
    // The other has no passphrase, and shows whether this machine makes core dumps at all.
    println!("without a passphrase: {}", dies(&locked.world.here));
}

#[test]
fn it_is_asked_for_on_the_terminal_and_not_shown() {
    let locked = Locked::new("[OnMeta]\n");
    let (prompt, on_terminal) = (prompt(), |args: &[&str]| locked.on_terminal(args));
    let mut terminal = on_terminal(&["ls", &folder()]);
    terminal.shows(&prompt);
    terminal.press("not this\n");
    terminal.shows(&prompt);
    terminal.press(&format!("{SECRET}\n"));
    assert_eq!(terminal.end(), Some(0));
    let written = String::from_utf8_lossy(&terminal.written).into_owned();
    assert!(
        !written.contains("not this") && !written.contains(SECRET),
        "{written}"
    );

    let mut terminal = on_terminal(&["ls", &folder()]);
    for wrong in ["one\n", "two\n"] {
        terminal.shows(&prompt);
        terminal.press(wrong);
    }
    terminal.shows("the passphrase is wrong");
    assert_eq!(terminal.end(), Some(12));

    let mut terminal = on_terminal(&["user", "passwd"]);
    terminal.shows(&prompt);
    terminal.press(&format!("{SECRET}\n"));
    for text in ["New passphrase:", "Once more:"] {
        terminal.shows(text);
        terminal.press("a new one, longer\n");
    }
    terminal.shows("the private key has a new passphrase");
    assert_eq!(terminal.end(), Some(0));
    fs::write(&locked.file, "a new one, longer").unwrap();
    ok(locked.with(&["ls", &folder()]));
}

#[test]
fn a_new_key_pair_has_the_same_passphrase() {
    let locked = Locked::new("[OnMeta]\n");
    let rotate = ["contact", "rotate", "--bits", "2048"];
    ok(locked.with(&rotate));
    let dir = locked.key();
    let dir: &Path = dir.parent().unwrap();
    let keys = names(dir, ".data");
    assert_eq!(keys.len(), 2);
    for key in &keys {
        let text = fs::read_to_string(dir.join(key)).unwrap();
        assert!(
            text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"),
            "{key}"
        );
    }
    ok(locked.with(&["ls", &folder()]));
    // One question is enough for both.
    let mut terminal = locked.on_terminal(&["user", "passwd"]);
    terminal.shows(&prompt());
    terminal.press(&format!("{SECRET}\n"));
    for text in ["New passphrase:", "Once more:"] {
        terminal.shows(text);
        terminal.press(&format!("{SECRET}\n"));
    }
    terminal.shows("the private key has a new passphrase");
    assert_eq!(terminal.end(), Some(0));
    // All keys are changed together.
    let told = ok(locked.with(&["--json", "user", "passwd", "--remove"]));
    assert!(told.contains("\"keys\":2"), "{told}");
    ok(m2y(&locked.world.there, &["ls", &folder()]));
}

//! A relay as a process, and servers that attend there.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use m2y::root::Root;
use serde_json::Value;
use tempfile::TempDir;

use super::{M2Y, Process, key, person_with_key, said, showing::Showing};

/// How long something may take that takes no time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A relay as a process, killed when this is dropped.
pub struct RelayProcess {
    pub dir: TempDir,
    pub child: Child,
    _said: BufReader<ChildStdout>,
    pub address: String,
}

impl RelayProcess {
    pub fn start() -> Self {
        Self::with("")
    }

    /// A relay whose m2y.ini has this text.
    pub fn with(ini: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m2y");
        // A new key takes its time.
        let (made, _) = Root::init(&root, &[]).unwrap();
        person_with_key(&made, "relay", &key("stranger"));
        fs::write(root.join("m2y.ini"), ini).unwrap();
        let (child, said, address) = Self::run(&root, "127.0.0.1:0");
        Self {
            dir,
            child,
            _said: said,
            address,
        }
    }

    fn run(root: &Path, listen: &str) -> (Child, BufReader<ChildStdout>, String) {
        let mut child = Command::new(M2Y)
            .args(["relay", "serve", "--listen", listen, "--root"])
            .arg(root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect(&line);
        let address = address.to_owned();
        (child, said, address)
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("m2y")
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again where it was.
    pub fn restart(&mut self) {
        let (child, said, address) = Self::run(&self.root(), &self.address);
        assert_eq!(address, self.address);
        (self.child, self._said) = (child, said);
    }

    pub fn command(&self, args: &[&str]) -> Output {
        Command::new(M2Y)
            .arg("relay")
            .args(args)
            .arg("--root")
            .arg(self.root())
            .output()
            .unwrap()
    }

    /// Makes a user of a root a member.
    pub fn join(&self, root: &Root, who: &str) {
        let invite = Showing::start(&["relay", "invite", who], &self.root());
        let output = Command::new(M2Y)
            .args(["relay", "join", &invite.code, "--root"])
            .arg(root.path())
            .env("M2Y_USER", who)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(invite.ends().0, Some(0));
    }

    /// The address of a member.
    pub fn of(&self, who: &str) -> String {
        format!("relay://{}/{who}", self.address)
    }

    pub fn active(&self) -> Vec<String> {
        let output = self.command(&["active", "--json"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let member = |line: &str| {
            let object: Value = serde_json::from_str(line).unwrap();
            object["member"].as_str().unwrap_or_default().to_owned()
        };
        text.lines().map(member).collect()
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Joins a relay with a code.
pub fn join(root: &Path, code: &str) -> Output {
    Command::new(M2Y)
        .args(["relay", "join", code, "--root"])
        .arg(root)
        .output()
        .unwrap()
}

/// A server, once it attends.
pub fn attending(root: &Root) -> (Process, Receiver<String>) {
    let (server, lines) = Process::serve_with_lines(root);
    wait_for(&lines, "attending");
    (server, lines)
}

pub fn wait_for(lines: &Receiver<String>, words: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let line = lines.recv_timeout(left);
        if line.expect(words).contains(words) {
            return;
        }
    }
}

/// Waits for lines with all these words, in whichever order.
pub fn wait_for_all(lines: &Receiver<String>, words: &[&str]) {
    let mut words = words.to_vec();
    let until = Instant::now() + PATIENCE;
    while !words.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let line = lines.recv_timeout(left);
        let line = line.unwrap_or_else(|_| panic!("{words:?}"));
        words.retain(|words| !line.contains(words));
    }
}

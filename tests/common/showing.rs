//! A program that shows a code and waits until it is used.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::Value;

use super::M2Y;

/// Killed when this is dropped.
pub struct Showing {
    child: Child,
    said: BufReader<ChildStdout>,
    pub code: String,
}

impl Showing {
    /// Starts a command that shows a code, for a root.
    pub fn start(command: &[&str], root: &Path) -> Self {
        let mut child = Command::new(M2Y)
            .args(command)
            .args(["--json", "--root"])
            .arg(root)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let shown: Value = serde_json::from_str(&line).unwrap_or_default();
        let Some(code) = shown["code"].as_str().filter(|_| shown["seconds"] == 600) else {
            let mut why = String::new();
            let mut errors = child.stderr.take().unwrap();
            errors.read_to_string(&mut why).unwrap();
            panic!("{line:?} {why}");
        };
        Self {
            code: code.to_owned(),
            child,
            said,
        }
    }

    /// How it ends: its exit code, and the last object or the error.
    pub fn ends(mut self) -> (Option<i32>, Value, String) {
        let (mut rest, mut errors) = (String::new(), String::new());
        self.said.read_to_string(&mut rest).unwrap();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut errors).unwrap();
        let status = self.child.wait().unwrap();
        let last = rest.lines().last().unwrap_or_default();
        let last = serde_json::from_str(last).unwrap_or_default();
        (status.code(), last, errors)
    }

    pub fn address(&self) -> &str {
        self.code.split_once('@').unwrap().1
    }

    pub fn slot(&self) -> u64 {
        self.code.split_once('-').unwrap().0.parse().unwrap()
    }

    pub fn words(&self) -> &str {
        let secret = self.code.split_once('@').unwrap().0;
        secret.split_once('-').unwrap().1
    }

    /// The same code with other words.
    pub fn guess(&self) -> String {
        use m2y::wire::words::WORDS;
        let other = WORDS.iter().find(|word| !self.code.contains(*word));
        let (slot, address, other) = (self.slot(), self.address(), other.unwrap());
        format!("{slot}-{other}-{other}@{address}")
    }
}

impl Drop for Showing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

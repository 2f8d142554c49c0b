//! What the guide tells people to do works, command by command.
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
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use m2y::guide::PAGES;
use tempfile::TempDir;

/// A block of commands.
#[derive(Debug, PartialEq, Eq)]
struct Block<'a> {
    /// Whose shell runs it.
    who: &'a str,
    /// Whether it runs until it is stopped.
    serves: bool,
    commands: &'a str,
}

/// The blocks of a page that begin with three backticks and `sh`.
fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, block)) = rest.split_once("\n```sh ") {
        let (head, block) = block.split_once('\n').unwrap();
        let (commands, after) = block.split_once("```").unwrap();
        let mut words = head.split(' ');
        blocks.push(Block {
            who: words.next().unwrap(),
            serves: words.next() == Some("serve"),
            commands,
        });
        rest = after;
    }
    blocks
}

/// Two people on one machine: each has a home, and they share a directory, as if by mail.
struct People {
    dir: TempDir,
    address: String,
    server: Option<Child>,
}

impl People {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for who in ["roland", "zhenqiang", "mail"] {
            fs::create_dir(dir.path().join(who)).unwrap();
        }
        // The server of the guide has an address that is written down before it listens.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            address: free.local_addr().unwrap().to_string(),
            dir,
            server: None,
        }
    }

    fn root_of(&self, who: &str) -> PathBuf {
        self.dir.path().join(who).join("m2y")
    }

    fn command(&self, block: &Block<'_>) -> Command {
        let commands = block
            .commands
            .replace("roland.example.org:5000", &self.address)
            .replace("0.0.0.0:5000", &self.address);
        let home = self.dir.path().join(block.who);
        let bin = Path::new(common::M2Y).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command
            .args(["-euc", &commands])
            .current_dir(self.dir.path().join("mail"))
            .env("HOME", &home)
            .env("M2Y_ROOT", self.root_of(block.who))
            .env_remove("M2Y_USER")
            .env_remove("M2Y_SERVER")
            .env("PATH", path);
        command
    }

    fn run(&mut self, topic: &str, block: &Block<'_>) {
        let mut command = self.command(block);
        if !block.serves {
            let output = command.output().unwrap();
            let said = common::said(&output);
            assert!(
                output.status.success(),
                "{topic}: {}\n{said}",
                block.commands
            );
            return;
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        self.server = Some(child);
    }
}

impl Drop for People {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            common::terminate(server);
            let _ = server.wait();
        }
    }
}

#[test]
fn every_command_of_the_guide_works() {
    let mut people = People::new();
    let mut ran = 0;
    for page in PAGES {
        for block in blocks(page.text) {
            people.run(page.topic, &block);
            ran += 1;
        }
    }
    assert!(ran >= 12, "only {ran} blocks");
    let photo = people.root_of("roland").join("user/roland-frei/photo");
    assert_eq!(common::names(&photo, ".data").len(), 4);
}

#[test]
fn the_guide_is_in_the_program() {
    let guide = |args: &[&str]| {
        let output = Command::new(common::M2Y).arg("guide").args(args).output();
        let output = output.unwrap();
        (output.status.code(), common::said(&output))
    };
    let (code, topics) = guide(&[]);
    assert_eq!(code, Some(0));
    for page in PAGES {
        assert!(topics.contains(page.topic), "{topics}");
        let (code, text) = guide(&[page.topic]);
        assert_eq!(code, Some(0));
        assert!(text.contains(page.text), "{}", page.topic);
    }
    let (code, said) = guide(&["nonsense"]);
    assert_eq!(code, Some(4));
    assert!(said.contains("first-steps"), "{said}");
}

#[test]
fn blocks_of_commands_are_found() {
    let page = "# A\n\n```sh roland serve\nm2y serve\n```\n\n```text\n$ m2y ls\n```\n";
    let block = Block {
        who: "roland",
        serves: true,
        commands: "m2y serve\n",
    };
    assert_eq!(blocks(page), [block]);
}

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

/// A block of a page, with what is done there.
#[derive(Debug, PartialEq, Eq)]
struct Block<'a> {
    kind: Kind,
    /// Whose shell runs it.
    who: &'a str,
    text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Commands, one after the other.
    Commands,
    /// A server, which runs until it is stopped.
    Server,
    /// A program that shows a code, and waits until it is used.
    Pairing,
    /// What a person sees: commands behind `$ `, or behind a prompt of `m2y shell`, and what
    /// they print.
    Screen,
}

/// The blocks of a page that begin with three backticks and `sh NAME` or `console NAME`.
fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, block)) = rest.split_once("\n```") {
        let (head, block) = block.split_once('\n').unwrap();
        let (text, after) = block.split_once("```").unwrap();
        rest = after;
        let words: Vec<&str> = head.split(' ').collect();
        let (kind, who) = match words.as_slice() {
            ["sh", who] => (Kind::Commands, who),
            ["sh", who, "serve"] => (Kind::Server, who),
            ["sh", who, "pair"] => (Kind::Pairing, who),
            ["console", who] => (Kind::Screen, who),
            _ => continue,
        };
        blocks.push(Block { kind, who, text });
    }
    blocks
}

/// A command of a screen, and what it prints.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    command: String,
    printed: String,
}

/// The commands of a screen. What is typed into one `m2y shell` is one command.
fn shown(screen: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    let mut in_shell = false;
    for line in screen.lines() {
        let typed = line.strip_prefix("$ ");
        let prompt = line
            .strip_prefix("roland-frei:/")
            .and_then(|rest| rest.split_once("> "));
        if let Some(command) = typed {
            in_shell = false;
            all.push(Shown {
                command: command.to_owned(),
                printed: String::new(),
            });
        } else if let Some((_, command)) = prompt {
            if !in_shell {
                all.push(Shown {
                    command: "m2y shell roland-frei <<'END'\n".to_owned(),
                    printed: String::new(),
                });
            }
            in_shell = true;
            all.last_mut().unwrap().command += &format!("{command}\n");
        } else {
            let last = all.last_mut().expect("a command comes first");
            last.printed += line;
            last.printed += "\n";
        }
    }
    for shown in &mut all {
        if shown.command.contains("<<'END'") {
            shown.command += "END\n";
        }
    }
    all
}

/// Text whose numbers, times and columns are alike whenever and wherever it is printed.
fn alike(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let mut alike = String::new();
        let mut number = false;
        for c in line
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
        {
            let goes_on = number && matches!(c, '.' | ',' | ':' | '-');
            if c.is_ascii_digit() || goes_on {
                if !number {
                    alike.push('0');
                }
                number = true;
            } else {
                alike.push(c);
                number = false;
            }
        }
        alike
    };
    text.lines().map(line).collect()
}

/// Two people on one machine: each has a home, and they share a directory, as if by mail.
struct People {
    dir: TempDir,
    address: String,
    server: Option<Child>,
    /// Who shows the code that is to be used next, and the code.
    pairing: Option<(Child, String)>,
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
            pairing: None,
        }
    }

    fn root_of(&self, who: &str) -> PathBuf {
        self.dir.path().join(who).join("m2y")
    }

    fn command(&self, block: &Block<'_>) -> Command {
        let code = self.pairing.as_ref().map(|(_, code)| code.as_str());
        let commands = block
            .text
            .replace(CODE, code.unwrap_or(CODE))
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
        if block.kind == Kind::Screen {
            for Shown { command, printed } in shown(block.text) {
                let one = Block {
                    text: &command,
                    ..*block
                };
                let output = self.command(&one).output().unwrap();
                let bytes = [output.stdout, output.stderr].concat();
                let said = String::from_utf8(bytes).unwrap();
                assert_eq!(alike(&said), alike(&printed), "{topic}: {command}\n{said}");
                let fails = printed.lines().any(|line| line.starts_with("m2y: "));
                assert_eq!(
                    output.status.success(),
                    !fails,
                    "{topic}: {command}\n{said}"
                );
            }
            return;
        }
        let mut command = self.command(block);
        if block.kind == Kind::Commands {
            let output = command.output().unwrap();
            let said = common::said(&output);
            assert!(output.status.success(), "{topic}: {}\n{said}", block.text);
            return;
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        if block.kind == Kind::Pairing {
            let shown = line.replace(&self.address, "roland.example.org:5000");
            assert_eq!(alike(&shown.replace(code_in(&shown), CODE)), alike(SHOWN));
            let code = code_in(&line).to_owned();
            // It says more when the code is used.
            std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
            self.pairing = Some((child, code));
            return;
        }
        assert!(line.starts_with("listening on "), "{line}");
        self.server = Some(child);
    }
}

/// The code of the guide.
const CODE: &str = "7-lantern-orbit@roland.example.org:5000";

/// What a person sees who makes it.
const SHOWN: &str = "Share this code with one person (valid for 10 minutes, one attempt):   7-lantern-orbit@roland.example.org:5000";

/// The code in a line.
fn code_in(line: &str) -> &str {
    line.split_whitespace().last().unwrap()
}

impl Drop for People {
    fn drop(&mut self) {
        if let Some((pairing, _)) = &mut self.pairing {
            let _ = pairing.kill();
            let _ = pairing.wait();
        }
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
    assert!(ran >= 18, "only {ran} blocks");
    let photo = people.root_of("roland").join("user/roland-frei/photo");
    assert_eq!(common::names(&photo, ".data").len(), 5);
}

#[test]
fn the_commands_of_the_readme_bring_a_file_from_one_to_the_other() {
    let readme = fs::read_to_string("README.md").unwrap();
    let mut people = People::new();
    fs::write(people.dir.path().join("mail/myfoto.jpg"), "sea").unwrap();
    let blocks = blocks(&readme);
    let mut commands = 0;
    for block in &blocks {
        commands += block
            .text
            .lines()
            .filter(|line| line.starts_with("m2y "))
            .count();
        people.run("README.md", block);
    }
    let photo = people.root_of("roland").join("user/roland-frei/photo");
    assert_eq!(common::names(&photo, ".data").len(), 1);
    // With `cargo install` on both sides at most ten.
    assert!((1..=8).contains(&commands), "{commands} commands");
}

#[test]
fn every_command_that_is_mentioned_exists() {
    let readme = fs::read_to_string("README.md").unwrap();
    let pages = PAGES.iter().map(|page| (page.topic, page.text));
    let mut mentioned = 0;
    for (topic, text) in pages.chain([("README.md", readme.as_str())]) {
        // Within a paragraph a command may be broken over two lines.
        for (at, span) in text.split('`').enumerate() {
            let span = span.split_whitespace().collect::<Vec<_>>().join(" ");
            if at % 2 == 0 || !span.starts_with("m2y ") || span.contains("```") {
                continue;
            }
            mentioned += 1;
            let words: Vec<&str> = span.split(' ').skip(1).collect();
            let names: Vec<&str> = words
                .iter()
                .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()))
                .copied()
                .collect();
            // The words that are no names of commands may be anything but unknown flags.
            let mut known = None;
            for len in (1..=names.len()).rev() {
                let mut help = Command::new(common::M2Y);
                let output = help.args(&names[..len]).arg("--help").output().unwrap();
                if output.status.success() {
                    known = Some(String::from_utf8(output.stdout).unwrap());
                    break;
                }
            }
            let flags = words.iter().filter(|word| word.starts_with("--"));
            let help = match (known, names.is_empty()) {
                (Some(help), _) => help,
                (None, true) => continue,
                (None, false) => panic!("{topic}: {span} is no command"),
            };
            for flag in flags {
                let flag = flag.split(['=', '.', ',']).next().unwrap();
                assert!(help.contains(flag), "{topic}: {span}: {flag} is unknown");
            }
        }
    }
    assert!(mentioned > 40, "{mentioned}");
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
        kind: Kind::Server,
        who: "roland",
        text: "m2y serve\n",
    };
    assert_eq!(blocks(page), [block]);
    let screen = "$ m2y ls\na 12.5 kB\nroland-frei:/> cd b\nroland-frei:/b> ls\nc\n";
    let [ls, shell] = shown(screen).try_into().unwrap();
    assert_eq!((&*ls.command, &*ls.printed), ("m2y ls", "a 12.5 kB\n"));
    assert_eq!(
        shell.command,
        "m2y shell roland-frei <<'END'\ncd b\nls\nEND\n"
    );
    assert_eq!(shell.printed, "c\n");
    assert_eq!(alike("a   12.5 kB"), alike("a 7 kB"));
    assert_ne!(alike("a 7 kB"), alike("b 7 kB"));
}

//! `m2y shell` against a real server: batches, objects, and a person at a terminal.
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
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use common::{M2Y, Process, ROLAND, World, ZHENQIANG, noise, said, terminal::Terminal};
use serde_json::{Value, json};

const SHARED: &str = "[OnMeta]\n[OnReceived]\n[share]\nzhenqiang = list get put mkdir rm mv\n";

/// Roland's server, which shows the folder `photo`, and a directory of zhenqiang's.
struct Home {
    world: World,
    server: Process,
}

impl Home {
    fn new() -> Self {
        let world = World::new(SHARED);
        for (path, bytes) in [
            ("a.jpg", &b"one"[..]),
            ("b.jpg", b"three"),
            ("*.jpg", b"star"),
            ("with blank.txt", b"blank"),
            ("2026/may/c.jpg", b"c"),
            ("2026/june.txt", b"june"),
        ] {
            let path = world.photo().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        fs::create_dir(world.dir.path().join("local")).unwrap();
        let server = Process::serve(&world.there);
        Self { world, server }
    }

    fn local(&self) -> PathBuf {
        self.world.dir.path().join("local")
    }

    fn command(&self, address: &str, args: &[&str]) -> Command {
        let mut command = Command::new(M2Y);
        command
            .args(["shell", "--user", ZHENQIANG, "--server", address, "--root"])
            .arg(self.world.here.path())
            .args(args)
            .env("SHELL", "/bin/sh")
            .env_remove("M2Y_LOG")
            .current_dir(self.local());
        command
    }

    /// Runs a batch that comes by standard input.
    fn batch(&self, args: &[&str], lines: &str) -> Output {
        let mut child = self
            .command(&self.server.address, args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A shell that ended at an error does not read the rest.
        let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn ok(&self, lines: &str) -> String {
        let output = self.batch(&[ROLAND], lines);
        assert!(output.status.success(), "{lines}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, code: i32, lines: &str) -> String {
        let output = self.batch(&[ROLAND], lines);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{lines}: {}",
            said(&output)
        );
        String::from_utf8(output.stderr).unwrap()
    }

    /// The answers to lines, each of which may fail.
    fn answers(&self, lines: &[&str]) -> Vec<Value> {
        let text: String = lines.iter().map(|line| format!("-{line}\n")).collect();
        let output = self.batch(&["--json", ROLAND], &text);
        let text = std::str::from_utf8(&output.stdout).unwrap();
        let answers: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(answers.len(), lines.len(), "{}", said(&output));
        answers
    }
}

#[test]
fn every_command_of_the_table_does_what_it_says() {
    let home = Home::new();
    let here = home.local().canonicalize().unwrap();
    let said = home.ok("# the table\npwd\nls\ncd photo\npwd\nls /photo/2026\nmkdir new\nls -l\n");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["/", "photo/"]);
    assert_eq!(lines[2..5], ["/photo", "june.txt", "may/"]);
    assert_eq!(lines[5], "made /photo/new");
    assert!(
        said.contains("              3  20") && said.contains("  a.jpg\n"),
        "{said}"
    );
    assert!(home.world.photo().join("new").is_dir());

    let said = home.ok("lpwd\nlmkdir sub\nlcd sub\nlpwd\nlcd ..\nlls\nlls sub\nexit\nno-command\n");
    let (top, sub) = (
        here.display().to_string(),
        here.join("sub").display().to_string(),
    );
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [&top, "made sub", &sub, "sub/"]
    );

    let said = home.ok("help\n");
    for command in [
        "pwd", "cd", "ls", "mkdir", "lpwd", "lcd", "lmkdir", "lls", "help", "exit", "get", "put",
        "mget", "cat", "rmdir",
    ] {
        assert!(
            said.lines()
                .any(|l| l.split([' ', ',']).next() == Some(command)),
            "{command}: {said}"
        );
    }
    assert!(home.ok("help ls\n").contains("--recursive"));

    let said = home.ok("cd /photo/2026\nget june.txt\nget -r may\n");
    assert_eq!(said.matches("fetched 1 file: ").count(), 2, "{said}");
    assert_eq!(fs::read(here.join("june.txt")).unwrap(), b"june");
    assert_eq!(fs::read(here.join("may/c.jpg")).unwrap(), b"c");
    assert!(home.ok("get photo/2026/june.txt\n").contains("1 identical"));
    fs::write(here.join("to put.txt"), "put").unwrap();
    let said = home.ok("cd photo/2026\nput 'to put.txt'\nput *put* --to may\nput -r may\n");
    assert_eq!(said.matches("stored 1 file: ").count(), 2, "{said}");
    assert!(said.contains("1 identical"), "{said}");
    for path in ["2026/to put.txt", "2026/may/to put.txt"] {
        assert_eq!(fs::read(home.world.photo().join(path)).unwrap(), b"put");
    }
    let said = home.fails(2, "put june.txt\n");
    assert!(said.contains("files lie in folders"), "{said}");
    let said = home.fails(4, "cd photo\nput *.none\n");
    assert!(said.contains("nothing matches *.none"), "{said}");
}

#[test]
fn files_are_looked_at_moved_and_removed() {
    let home = Home::new();
    assert_eq!(
        home.ok("find /photo *.txt\n"),
        "2026/june.txt\nwith blank.txt\n"
    );
    assert_eq!(
        home.ok("find /photo '*.txt'\n"),
        "2026/june.txt\nwith blank.txt\n"
    );
    assert_eq!(
        home.ok("du photo/2026\n"),
        "5 bytes, files: 2, directories: 1\n"
    );
    assert_eq!(
        home.ok("cd photo\ntree 2026\n"),
        "├── june.txt\n└── may/\n    └── c.jpg\n"
    );
    assert!(
        home.ok("stat photo/a.jpg\n")
            .starts_with("/photo/a.jpg: file, 3 bytes, changed 20")
    );
    home.ok("cd photo\nmv a.jpg z.jpg\nmv z.jpg b.jpg 2026\nrm 2026/z.jpg\nrm 'with blank.txt'\n");
    let photo = home.world.photo();
    assert!(!photo.join("a.jpg").exists() && !photo.join("2026/z.jpg").exists());
    assert!(!photo.join("with blank.txt").exists() && photo.join("2026/b.jpg").exists());
    assert_eq!(
        home.ok("! echo $((6 * 7))\nhistory\n"),
        "42\n    1  ! echo $((6 * 7))\n    2  history\n"
    );
}

#[test]
fn a_batch_ends_at_the_first_error_unless_a_dash_stands_before_it() {
    let home = Home::new();
    let output = home.batch(&[ROLAND], "pwd\ncd nowhere\nlpwd\n");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/\n");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "m2y: line 2: /nowhere: no such file or directory\n"
    );

    let output = home.batch(&[ROLAND], "-cd nowhere\n- cd nowhere\npwd\n");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/\n");

    fs::write(
        home.local().join("batch"),
        "# of a file\ncd photo\npwd\nls nothing*",
    )
    .unwrap();
    let output = home.batch(&["-b", "batch", ROLAND], "not read\n");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/photo\n");

    let output = home.batch(&["roland-frei:photo/2026"], "pwd\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/photo/2026\n");
    let output = home.batch(&["roland-frei:nowhere"], "pwd\n");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
}

#[test]
fn what_is_quoted_is_one_name_and_no_pattern() {
    let home = Home::new();
    for lines in [
        "get \"photo/with blank.txt\"\n",
        "get 'photo/with blank.txt'\n",
        "get photo/with\\ blank.txt\n",
        "get photo/w?th*.txt\n",
    ] {
        home.ok(lines);
        fs::remove_file(home.local().join("with blank.txt")).unwrap();
    }
    assert_eq!(home.ok("cd photo\nls *.jpg\n"), "*.jpg\na.jpg\nb.jpg\n");
    assert_eq!(
        home.ok("cd photo\nls '*.jpg'\nls [ab].jpg\n"),
        "*.jpg\na.jpg\nb.jpg\n"
    );
    assert_eq!(home.ok("ls photo/2026/*/c*\n"), "photo/2026/may/c.jpg\n");
    assert_eq!(
        home.ok("cd photo\nls *6\nls -R *6\n"),
        "2026/\n2026/\n2026/june.txt\n2026/may/\n2026/may/c.jpg\n"
    );
    home.ok("cd photo\nrm '*.jpg'\nget *.jpg\n");
    assert_eq!(common::names(&home.local(), ".jpg"), ["a.jpg", "b.jpg"]);
    assert_eq!(home.ok("lls [b]*\n"), "b.jpg\n");
    home.fails(4, "lls '[b]*'\n");
}

#[test]
fn what_people_know_from_sftp_and_other_shells_works_here() {
    let home = Home::new();
    let here = home.local();
    fs::create_dir(here.join("sub")).unwrap();
    home.ok("get photo/a.jpg mine.jpg\nget photo/b.jpg sub\nget photo/2026/june.txt sub/june\n");
    for (path, bytes) in [
        ("mine.jpg", &b"one"[..]),
        ("sub/b.jpg", b"three"),
        ("sub/june", b"june"),
    ] {
        assert_eq!(fs::read(here.join(path)).unwrap(), bytes, "{path}");
    }
    home.ok("get -r photo/2026 year\n");
    assert_eq!(fs::read(here.join("year/may/c.jpg")).unwrap(), b"c");
    let said = home.fails(2, "get photo/?.jpg one\n");
    assert!(said.contains("several files need a directory"), "{said}");
    home.ok("cd photo\nmget a.jpg b.jpg\n");
    assert_eq!(fs::read(here.join("b.jpg")).unwrap(), b"three");

    assert_eq!(home.ok("cat photo/a.jpg photo/2026/june.txt\n"), "onejune");
    let answers = home.answers(&["cat photo/a.jpg"]);
    assert_eq!(answers[0]["content"], json!(["one"]));
    let said = home.fails(2, "cat photo/2026\n");
    assert!(said.contains("is a directory"), "{said}");

    let said = home.ok("dir photo/2026\nls -lh photo/a.jpg\n");
    assert!(
        said.contains("june.txt\n") && said.contains(" 3 bytes  "),
        "{said}"
    );
    home.ok("mkdir photo/new\nrmdir photo/new\nrename photo/a.jpg photo/z.jpg\n?\nbye\n");
    assert!(home.world.photo().join("z.jpg").exists());
    let said = home.fails(2, "rmdir photo/z.jpg\n");
    assert!(said.contains("remove it with rm"), "{said}");
    assert_eq!(home.ok("quit\nnonsense\n"), "");
    for (other, here) in [("delete", "rm"), ("upload", "put"), ("cp", "get")] {
        let said = home.fails(2, &format!("{other} x\n"));
        assert!(said.contains(&format!("did you mean {here}?")), "{said}");
    }
}

#[test]
fn what_is_written_wrong_gets_one_line_that_helps() {
    let home = Home::new();
    for (line, words) in [
        ("pdw", "did you mean pwd?"),
        ("frobnicate", "`help` lists all"),
        ("get", "`help get` shows its usage"),
        ("ls --colour", "`help ls` shows its usage"),
        ("get 'a b", "unclosed quote"),
        ("cd photo/a.jpg", "is a file"),
        ("get photo/2026", "-r"),
        ("help mkdri", "did you mean mkdir?"),
        ("!", "a command is missing"),
    ] {
        let said = home.fails(2, &format!("{line}\n"));
        assert_eq!(said.lines().count(), 1, "{line}: {said}");
        assert!(said.contains(words), "{line}: {said}");
    }
}

#[test]
fn for_programs_each_command_is_answered_with_one_object() {
    let home = Home::new();
    fs::write(home.local().join("b.jpg"), "mine").unwrap();
    let answers = home.answers(&[
        "cd photo",
        "pwd",
        "ls 2026",
        "mkdir 2026",
        "rm 2026",
        "mv a.jpg b.jpg",
        "get b.jpg",
        "get a.jpg",
        "stat nothing",
        "put x",
        "put b.jpg",
        "put b.jpg --to mine.jpg",
        "put b.jpg nothing --to 2026",
        "pdw",
        "du 2026",
        "! echo hi; exit 3",
        "! echo hi",
        "mkdir /else",
        "exit",
    ]);
    let codes: Vec<u64> = answers
        .iter()
        .map(|a| a["status_code"].as_u64().unwrap())
        .collect();
    assert_eq!(
        codes,
        [
            200, 200, 200, 409, 409, 409, 409, 200, 404, 404, 409, 200, 207, 400, 200, 500, 200,
            404, 200
        ],
        "{answers:#?}"
    );
    assert_eq!(
        answers[0],
        json!({"status_code": 200, "status_message": "OK", "content": null})
    );
    assert_eq!(answers[1]["content"], "/photo");
    let june = &answers[2]["content"][0];
    assert_eq!(
        (&june["path"], &june["type"], &june["size"]),
        (&json!("june.txt"), &json!("file"), &json!(4))
    );
    assert!(june["modified"].as_str().unwrap().ends_with('Z'), "{june}");
    assert_eq!(answers[2]["content"][1]["type"], "dir");
    assert!(answers[3]["content"].is_null());
    assert_eq!(answers[7]["content"][0]["status"], "fetched");
    let stored = &answers[11]["content"][0];
    assert_eq!(stored["status"], "stored");
    assert_eq!(stored["path"], "photo/mine.jpg");
    assert_eq!(
        answers[14]["content"],
        json!({"bytes": 9, "files": 3, "dirs": 1})
    );
    assert_eq!(
        answers[16]["content"],
        json!({"exit": 0, "stdout": "hi\n", "stderr": ""})
    );
}

#[test]
fn the_command_fetches_what_the_shell_fetches() {
    let home = Home::new();
    let get = |args: &[&str]| {
        let mut command = Command::new(M2Y);
        command
            .args(["get", "--json", "--user", ZHENQIANG, "--root"])
            .arg(home.world.here.path())
            .args(["--server", &home.server.address])
            .args(args)
            .current_dir(home.local());
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let objects: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (objects, output.status.code())
    };
    let (objects, code) = get(&["-r", "roland-frei:photo/2026", "roland-frei:photo/nothing"]);
    assert_eq!(code, Some(3), "{objects:#?}");
    let (ends, mut files): (Vec<&Value>, Vec<&Value>) = objects
        .iter()
        .partition(|o| o["status"] == "summary" || o["status"] == "error");
    files.sort_by_key(|o| o["status"].as_str());
    let statuses: Vec<&str> = files.iter().filter_map(|o| o["status"].as_str()).collect();
    assert_eq!(statuses, ["failed", "fetched", "fetched"], "{objects:#?}");
    assert_eq!(files[0]["code"], "not-found");
    assert_eq!((ends.len(), &ends[0]["fetched"]), (2, &json!(2)));
    assert!(home.ok("get -r photo/2026\n").contains("2 identical"));
    fs::write(home.local().join("2026/june.txt"), "mine").unwrap();
    let (objects, code) = get(&["-r", "roland-frei:photo/2026"]);
    assert_eq!(code, Some(3), "{objects:#?}");
    assert!(
        home.fails(3, "get -r photo/2026\n")
            .contains("use --conflict")
    );
    let answer = &home.answers(&["get -r photo/2026"])[0];
    assert_eq!(answer["status_code"], 207, "{answer}");
    let statuses = answer["content"].as_array().unwrap().iter();
    let mut statuses: Vec<&str> = statuses.filter_map(|o| o["status"].as_str()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["failed", "same", "summary"], "{answer}");
    let (objects, code) = get(&["-r", "--conflict", "overwrite", "roland-frei:photo/2026"]);
    assert_eq!(code, Some(0), "{objects:#?}");
    assert_eq!(
        fs::read(home.local().join("2026/june.txt")).unwrap(),
        b"june"
    );
    let (objects, code) = get(&["roland-frei:nothing"]);
    assert_eq!((objects.len(), code), (1, Some(4)), "{objects:#?}");
}

/// A shell that is asked line by line.
struct Session {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Session {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            to: child.stdin.take(),
            from: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn ask(&mut self, line: &str) -> Value {
        writeln!(self.to.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.from.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{line}: {e}: {answer:?}"))
    }

    /// What it said on standard error, and its code.
    fn end(mut self) -> (String, Option<i32>) {
        drop(self.to.take());
        let mut said = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (said, self.child.wait().unwrap().code())
    }
}

/// A way to whichever server runs now.
fn way(server: Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let address = server.lock().unwrap().clone();
            let Ok(server) = TcpStream::connect(address) else {
                continue;
            };
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = from.shutdown(std::net::Shutdown::Both);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    address
}

#[test]
fn after_a_cut_the_shell_is_where_it_was() {
    let mut home = Home::new();
    let address = Arc::new(Mutex::new(home.server.address.clone()));
    let way = way(address.clone());
    let mut shell = Session::start(home.command(&way, &["--json", ROLAND]));
    assert_eq!(shell.ask("cd photo/2026")["status_code"], 200);
    home.server.child.kill().unwrap();
    home.server.child.wait().unwrap();
    let answer = shell.ask("-ls");
    assert_eq!(answer["status_code"], 502, "{answer}");
    home.server = Process::serve(&home.world.there);
    *address.lock().unwrap() = home.server.address.clone();
    let answer = shell.ask("ls");
    assert_eq!(answer["content"][0]["path"], "june.txt", "{answer}");
    assert_eq!(shell.ask("pwd")["content"], "/photo/2026");
    let (said, code) = shell.end();
    assert!(
        said.contains("the connection was cut, connected again"),
        "{said}"
    );
    assert_eq!(code, Some(3));
}

#[test]
fn a_signal_ends_a_batch() {
    let home = Home::new();
    let mut shell = Session::start(home.command(&home.server.address, &["--json", ROLAND]));
    assert_eq!(shell.ask("pwd")["content"], "/");
    let pid = rustix::process::Pid::from_child(&shell.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(shell.child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_person_has_a_prompt_completion_and_keys_that_clear_and_end() {
    let home = Home::new();
    let mut terminal = Terminal::start(home.command(&home.server.address, &[ROLAND]));
    terminal.shows("roland-frei:/> ");
    terminal.press("pwd\r");
    terminal.shows("\r\n/\r\n");
    terminal.shows("roland-frei:/> ");
    // By Tab the whole name is there, with the slash of a directory.
    terminal.press("cd pho\t");
    terminal.shows("cd photo/");
    terminal.press("2026\r");
    terminal.shows("roland-frei:/photo/2026> ");
    terminal.press("lmkdir nev");
    terminal.shows("nev");
    terminal.press("\x03");
    terminal.shows("roland-frei:/photo/2026> ");
    terminal.press("stat ju\t");
    terminal.shows("stat june.txt ");
    terminal.press("\r");
    terminal.shows("/photo/2026/june.txt: file, 4 bytes");
    terminal.shows("roland-frei:/photo/2026> ");
    terminal.press("cd ../with\t\r");
    terminal.shows("is a file: cd goes to directories");
    terminal.shows("roland-frei:/photo/2026> ");
    terminal.press("exit\r");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    assert!(!home.local().join("nev").exists());

    let history = home.world.sender.path().join(".shell_history");
    let mode = fs::metadata(&history).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        fs::read_to_string(&history)
            .unwrap()
            .contains("stat june.txt")
    );
    let mut terminal = Terminal::start(home.command(&home.server.address, &[ROLAND]));
    terminal.shows("roland-frei:/> ");
    terminal.press("history\r");
    terminal.shows("stat june.txt");
    terminal.shows("roland-frei:/> ");
    // Ctrl-D.
    terminal.press("\x04");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
}

#[test]
fn ctrl_c_ends_a_command_and_not_the_shell() {
    let home = Home::new();
    fs::write(home.world.photo().join("big"), noise(64 << 20)).unwrap();
    let mut terminal = Terminal::start(home.command(&home.server.address, &[ROLAND]));
    terminal.shows("roland-frei:/> ");
    let server = rustix::process::Pid::from_child(&home.server.child);
    let tell = |signal| rustix::process::kill_process(server, signal).unwrap();
    tell(rustix::process::Signal::STOP);
    terminal.press("get photo/big\r");
    terminal.shows("\r\n");
    // There is no controlling terminal here that would make a signal of the key.
    let shell = rustix::process::Pid::from_child(&terminal.child);
    // The command takes signals only once it is at work, and until then nothing is lost:
    // the program took them over when it began.
    loop {
        rustix::process::kill_process(shell, rustix::process::Signal::INT).unwrap();
        terminal.more(Duration::from_millis(100));
        if terminal.has_shown("m2y: interrupted") {
            break;
        }
    }
    terminal.shows("roland-frei:/> ");
    tell(rustix::process::Signal::CONT);
    terminal.press("stat photo/big\r");
    terminal.shows("/photo/big: file, 67,108,864 bytes");
    // What was interrupted is in nobody's hand any more.
    terminal.press("get photo/big\r");
    terminal.shows("fetched 1 file: ");
    terminal.press("cd photo\r");
    terminal.shows("roland-frei:/photo> ");
    terminal.press("put big --to again\r");
    terminal.shows("stored 1 file: ");
    let again = fs::read(home.world.photo().join("again")).unwrap();
    assert!(again == noise(64 << 20));
    terminal.press("exit\r");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
}

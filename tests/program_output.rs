//! What programs that run as hooks write: the log at debug, and the errors of those that fail.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use common::{M2Y, Process, World};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What is left of a program that ran at OnStartup.
struct Ran {
    world: World,
    log: String,
    /// `null` where it did not fail.
    error: Value,
    took: Duration,
}

impl Ran {
    #[track_caller]
    fn new(level: &str, script: &str) -> Self {
        let world = World::new("[OnStartup]\nhook.sh\n");
        world.script("hook.sh", &format!("#!/bin/sh\n{script}\n"));
        let ini = "[hooks]\nexecutables = all\nexecutable_deadline = 3s\n";
        fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
        let begun = Instant::now();
        let output = Command::new(M2Y)
            .args(["hook", "run", "OnStartup", "--live", "--json"])
            .args(["--user", common::ROLAND, "--folder", "photo", "--root"])
            .arg(world.there.path())
            .env("M2Y_LOG", level)
            .output()
            .unwrap();
        let took = begun.elapsed();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        Self {
            world,
            log: String::from_utf8(output.stderr).unwrap(),
            error: told["runs"][0]["error"].clone(),
            took,
        }
    }

    #[track_caller]
    fn error(&self) -> &str {
        self.error.as_str().unwrap()
    }

    /// The lines of the log that the program wrote.
    fn lines(&self) -> Vec<&str> {
        let of_program = |line: &&str| line.contains("script=roland-frei/photo/hook.sh");
        self.log
            .lines()
            .filter(|line| line.contains("DEBUG"))
            .filter(of_program)
            .collect()
    }
}

#[test]
fn what_a_program_writes_is_in_the_log_at_debug_line_by_line() {
    let script = "echo one; echo; echo two; printf 'no end' >&2";
    let ran = Ran::new("debug", script);
    assert!(ran.error.is_null(), "{}", ran.error);
    let lines = ran.lines();
    for (text, stream) in [("one", "stdout"), ("two", "stdout"), ("no end", "stderr")] {
        let stream = format!("stream=\"{stream}\"");
        let is_it = |line: &&&str| line.contains(&format!(" {text} ")) && line.contains(&stream);
        assert_eq!(lines.iter().filter(is_it).count(), 1, "{}", ran.log);
    }
    assert_eq!(Ran::new("info", script).lines(), [""; 0]);
}

#[test]
fn the_last_three_lines_are_in_the_error_of_a_program_that_fails_is_killed_or_hangs() {
    let said = "for n in 1 2 3 4; do echo line $n >&2; done; ";
    for (end, what) in [
        ("exit 3", "hook.sh: ended with exit code 3"),
        ("kill -9 $$", "hook.sh: ended with signal 9"),
        (
            "exec sleep 600",
            "hook.sh: killed after 3s, with all that it had started",
        ),
    ] {
        let ran = Ran::new("warn", &format!("{said}{end}"));
        let wanted = format!("{what}; it said: line 2 | line 3 | line 4");
        assert_eq!(ran.error(), wanted);
    }
    let ran = Ran::new("warn", "exit 3");
    assert_eq!(
        ran.error(),
        "hook.sh: ended with exit code 3; it wrote nothing"
    );
}

#[test]
fn the_log_of_a_server_has_the_last_lines_of_a_program_that_fails() {
    let world = World::new("[OnMeta]\nhook.sh\n");
    world.script("hook.sh", "#!/bin/sh\necho the disk is full\nexit 1\n");
    let log = world.dir.path().join("log");
    let server = Process::serve_with_log(&world.there, &log);
    let output = world.send(&server.address, "photo", &world.file("a", b"x"));
    assert_eq!(output.status.code(), Some(5), "{}", common::said(&output));
    assert_eq!(server.stop(), Some(0));
    let log = fs::read_to_string(&log).unwrap();
    let line =
        "roland-frei/photo [OnMeta] hook.sh: ended with exit code 1; it said: the disk is full";
    assert!(log.contains(line), "{log}");
    // Nothing of it is for the sender.
    assert!(!common::said(&output).contains("disk"));
}

#[test]
fn ten_megabytes_of_output_are_read_and_little_of_it_is_kept() {
    for flood in [
        "yes | head -c 10000000",
        "head -c 10000000 /dev/zero | tr '\\0' x",
    ] {
        let ran = Ran::new("debug", &format!("{flood}; exit 1"));
        assert!(
            ran.error()
                .starts_with("hook.sh: ended with exit code 1; it said: ")
        );
        assert!(ran.error().len() < 2_000, "{}", ran.error().len());
        let lines = ran.lines();
        assert_eq!(lines.len(), 1_001, "{flood}");
        assert!(lines[1_000].contains("(further output is left out)"));
        assert!(lines.iter().all(|line| line.len() < 1_000));
    }
}

#[test]
fn binary_output_is_printable_in_the_log_and_in_the_error() {
    let ran = Ran::new(
        "debug",
        "head -c 100000 /dev/urandom; printf '\\n\\033[2J'; exit 1",
    );
    assert!(!ran.lines().is_empty());
    let steers = |c: char| c.is_control() && c != '\n';
    assert!(!ran.log.contains(steers), "{:?}", ran.log);
    assert!(!ran.error().contains(|c: char| c.is_control()));
    assert!(ran.error().ends_with("\\u{1b}[2J"), "{}", ran.error());
}

#[test]
fn a_child_that_holds_the_output_open_does_not_hold_up_the_hook() {
    let ran = Ran::new("debug", "sleep 600 & echo bye; exit 1");
    assert!(ran.error().ends_with("it said: bye"), "{}", ran.error());
    assert!(ran.took < Duration::from_secs(60), "{:?}", ran.took);

    let has_setsid = Command::new("setsid").arg("true").status();
    if !has_setsid.is_ok_and(|status| status.success()) {
        eprintln!("there is no setsid here: the rest of the test does nothing");
        return;
    }
    // Out of the program's group, so it is not killed with it.
    let ran = Ran::new(
        "debug",
        "setsid sleep 600 & echo $! > ../pid; echo bye; exit 1",
    );
    let pid = fs::read_to_string(ran.world.receiver.path().join("pid")).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    assert!(ran.error().ends_with("it said: bye"), "{}", ran.error());
    assert!(ran.took < Duration::from_secs(60), "{:?}", ran.took);
}

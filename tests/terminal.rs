//! What a person sees on a real terminal.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::process::Command;

use common::{M2Y, OPEN, Process, ROLAND, World, ZHENQIANG, noise, terminal::Terminal};

/// A folder in which everything may be fetched.
const SHARED: &str = "[OnMeta]\n[OnReceived]\n[share]\nzhenqiang = list get\n";

fn command(world: &World, server: &Process, name: &str) -> Command {
    let mut command = Command::new(M2Y);
    command
        .args([name, "--server", &server.address])
        .env("M2Y_ROOT", world.here.path())
        .env("M2Y_USER", ZHENQIANG)
        .env_remove("NO_COLOR")
        .current_dir(world.dir.path());
    command
}

/// `m2y send` of what is in the directory, so slowly that there is something to see.
fn send(world: &World, server: &Process, files: &[&str]) -> Command {
    let mut command = command(world, server, "send");
    command.args(["--limit", "2M"]).args(files);
    command.arg(format!("{ROLAND}:photo"));
    command
}

/// Whether a line has all of these.
fn has(lines: &[String], parts: &[&str]) -> bool {
    let fits = |line: &String| parts.iter().all(|part| line.contains(part));
    lines.iter().any(fits)
}

/// Whether no line is wider than the terminal, and none was broken into two.
fn is_whole(lines: &[String], columns: usize) -> bool {
    lines.iter().all(|line| line.chars().count() <= columns) && lines.len() <= 3
}

#[test]
fn one_file_has_a_bar_with_name_percent_size_speed_and_time() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    world.file("sea.jpg", &noise(4_000_000));
    let mut terminal = Terminal::start(send(&world, &server, &["sea.jpg"]));
    let lines = terminal.until("half of it", |lines| {
        has(lines, &["sea.jpg", "█░", "/4.0 MB", "MB/s"])
    });
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(is_whole(&lines, 80), "{lines:#?}");
    assert_eq!(terminal.end(), Some(0));
    let lines = terminal.lines();
    assert_eq!(lines.len(), 1, "the bar is gone: {lines:#?}");
    assert!(
        lines[0].starts_with("sent sea.jpg to roland-frei: 4.0 MB in "),
        "{lines:#?}"
    );
}

#[test]
fn many_files_have_a_bar_for_all_and_one_for_the_present() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let names = ["a.bin", "b.bin", "c.bin", "d.bin"];
    for name in names {
        world.file(name, &noise(1_000_000));
    }
    let mut terminal = Terminal::start(send(&world, &server, &names));
    terminal.until("both bars", |lines| {
        has(lines, &["/4 files", "/4.0 MB"]) && has(lines, &[".bin", "/1.0 MB"])
    });
    assert_eq!(terminal.end(), Some(0));
    let lines = terminal.lines();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(
        lines[4].starts_with("sent 4 files to roland-frei: 4.0 MB in "),
        "{lines:#?}"
    );
}

#[test]
fn a_file_that_is_fetched_has_a_bar() {
    let world = World::new(SHARED);
    let server = Process::serve(&world.there);
    std::fs::write(world.photo().join("lake.jpg"), noise(4_000_000)).unwrap();
    let mut get = command(&world, &server, "get");
    get.args(["--limit", "2M", "roland-frei:photo/lake.jpg"]);
    let mut terminal = Terminal::start(get);
    terminal.until("a bar", |lines| {
        has(lines, &["lake.jpg", "█░", "/4.0 MB", "MB/s"])
    });
    assert_eq!(terminal.end(), Some(0));
    let lines = terminal.lines();
    assert!(
        lines[0].starts_with("fetched 1 file: 4.0 MB in "),
        "{lines:#?}"
    );
}

#[test]
fn a_narrow_terminal_has_a_line_that_fits() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let name = "a name that is much longer than a terminal is wide.jpg";
    world.file(name, &noise(4_000_000));
    let mut terminal = Terminal::sized(send(&world, &server, &[name]), (10, 40));
    let lines = terminal.until("a line", |lines| has(lines, &["a name that", "%", "MB/s"]));
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(is_whole(&lines, 40), "{lines:#?}");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn a_terminal_that_gets_narrow_has_a_line_that_fits() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    world.file("sea.jpg", &noise(6_000_000));
    let mut terminal = Terminal::start(send(&world, &server, &["sea.jpg"]));
    terminal.until("a bar", |lines| has(lines, &["sea.jpg", "█"]));
    terminal.resize(24, 40);
    // What was written in the very moment of the change may stay above it.
    terminal.until("a line without a bar", |lines| {
        let last = lines.last().is_some_and(|line| !line.contains('█'));
        last && has(lines, &["sea.jpg", "%", "MB/s"])
    });
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn a_dumb_terminal_and_no_color_get_text_alone() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    world.file("sea.jpg", &noise(400_000));
    let mut dumb = send(&world, &server, &["sea.jpg"]);
    dumb.env("TERM", "dumb");
    let mut terminal = Terminal::start(dumb);
    assert_eq!(terminal.end(), Some(0));
    assert!(!terminal.written.contains(&0x1b), "{:?}", terminal.lines());
    assert!(terminal.lines()[0].starts_with("sent sea.jpg"));

    let mut plain = send(&world, &server, &["--again", "sea.jpg"]);
    plain.env("NO_COLOR", "1");
    let mut terminal = Terminal::start(plain);
    assert_eq!(terminal.end(), Some(0));
    let written = String::from_utf8_lossy(&terminal.written).into_owned();
    let colours = written.split("\x1b[").skip(1);
    let is_colour = |code: &str| {
        code.split(|c: char| !c.is_ascii_digit() && c != ';')
            .next()
            .is_some_and(|digits| {
                code[digits.len()..].starts_with('m') && !matches!(digits, "" | "0")
            })
    };
    assert!(!colours.clone().any(is_colour), "{written:?}");
}

#[test]
fn the_shell_shows_a_prompt_and_what_is_there() {
    let world = World::new(SHARED);
    let server = Process::serve(&world.there);
    std::fs::write(world.photo().join("lake.jpg"), "lake").unwrap();
    let mut shell = command(&world, &server, "shell");
    shell.arg(ROLAND);
    let mut terminal = Terminal::start(shell);
    terminal.until("a prompt", |lines| lines == ["roland-frei:/>"]);
    terminal.press("cd photo\r");
    terminal.until("a prompt", |lines| has(lines, &["roland-frei:/photo>"]));
    terminal.press("ls\r");
    terminal.until("the file", |lines| has(lines, &["lake.jpg"]));
    terminal.press("bye\r");
    assert_eq!(terminal.end(), Some(0));
}

//! The inbox of a user keeps every line, and does not grow for ever.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::{fs, sync::Barrier, thread};

use common::World;
use m2y::hooks::inbox::Inboxes;

const MAX: u64 = 2_048;

fn line(n: usize) -> String {
    format!("line number {n:04} of many\n")
}

/// The names of the files, from the oldest on, and their lines together.
fn read(world: &World) -> (Vec<String>, Vec<String>) {
    let dir = world.receiver.path();
    let names = (1..=9).rev().map(|n| format!("inbox.log.{n}"));
    let names = names.chain(["inbox.log".to_owned()]);
    let names: Vec<_> = names.filter(|name| dir.join(name).exists()).collect();
    let text = names.iter().map(|name| fs::read_to_string(dir.join(name)));
    let text: String = text.map(Result::unwrap).collect();
    (
        names,
        text.lines().map(|line| format!("{line}\n")).collect(),
    )
}

#[test]
fn a_full_inbox_makes_way_and_five_are_kept() {
    let world = World::new("");
    let inboxes = Inboxes::new(MAX);
    for n in 0..1_000 {
        inboxes.write(&world.receiver, &line(n)).unwrap();
    }
    let (names, lines) = read(&world);
    assert_eq!(names.len(), 6);
    assert_eq!(names[0], "inbox.log.5");
    for name in &names {
        let len = world.receiver.path().join(name).metadata().unwrap().len();
        assert!(len <= MAX, "{name}: {len}");
    }
    let first = 1_000 - lines.len();
    assert!(lines.len() as u64 * line(0).len() as u64 > 5 * (MAX - 100));
    let expected: Vec<_> = (first..1_000).map(line).collect();
    assert_eq!(lines, expected);
}

#[test]
fn writers_that_rotate_at_the_same_time_lose_no_line() {
    const WRITERS: usize = 4;
    const LINES: usize = 90;
    for _ in 0..20 {
        let world = World::new("");
        let barrier = Barrier::new(WRITERS);
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (world, barrier) = (&world, &barrier);
                scope.spawn(move || {
                    // Each has files of its own open, as a process of its own would.
                    let inboxes = Inboxes::new(MAX);
                    barrier.wait();
                    for n in 0..LINES {
                        let line = line(writer * LINES + n);
                        inboxes.write(&world.receiver, &line).unwrap();
                    }
                });
            }
        });
        let (names, mut lines) = read(&world);
        assert!(names.len() > 1, "{names:?}");
        lines.sort();
        let expected: Vec<_> = (0..WRITERS * LINES).map(line).collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn after_a_crash_between_two_renames_no_file_is_lost() {
    let world = World::new("");
    let dir = world.receiver.path();
    for (name, n) in [("inbox.log.4", 1), ("inbox.log.3", 2), ("inbox.log", 3)] {
        fs::write(dir.join(name), line(n)).unwrap();
    }
    Inboxes::new(30).write(&world.receiver, &line(4)).unwrap();
    let (names, lines) = read(&world);
    assert_eq!(
        names,
        ["inbox.log.4", "inbox.log.3", "inbox.log.1", "inbox.log"]
    );
    assert_eq!(lines, [1, 2, 3, 4].map(line));
}

#[test]
fn an_inbox_that_was_taken_away_begins_anew_and_one_that_cannot_be_rotated_grows() {
    let world = World::new("");
    let dir = world.receiver.path();
    let inboxes = Inboxes::new(30);
    inboxes.write(&world.receiver, &line(1)).unwrap();
    fs::remove_file(dir.join("inbox.log")).unwrap();
    inboxes.write(&world.receiver, &line(2)).unwrap();
    assert_eq!(read(&world).1, [line(2)]);
    for n in 1..=5 {
        fs::create_dir(dir.join(format!("inbox.log.{n}"))).unwrap();
        fs::write(dir.join(format!("inbox.log.{n}/x")), "").unwrap();
    }
    inboxes.write(&world.receiver, &line(3)).unwrap();
    let text = fs::read_to_string(dir.join("inbox.log")).unwrap();
    assert!(text.ends_with(&line(3)));
}

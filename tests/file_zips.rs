//! What `file.zip()` tells of an archive is what its directory says, and what a sender made up
//! ends in an error.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use common::samples::{self, Held, Listed};
use m2y::hooks::api::file::{Entries, Trouble, zip_of};

fn zip(bytes: &[u8]) -> Result<Entries, Trouble> {
    zip_of(&Held(bytes.to_vec()))
}

fn names(bytes: &[u8]) -> Vec<String> {
    let entries = zip(bytes).unwrap();
    entries.iter().map(|entry| entry.name.clone()).collect()
}

#[track_caller]
fn is_told<T: std::fmt::Debug>(result: Result<T, Trouble>, words: &str) {
    match result {
        Err(Trouble::Is(what)) => assert!(what.contains(words), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_zip_tells_names_and_sizes() {
    let entries = zip(&samples::papers()).unwrap();
    let seen: Vec<_> = entries
        .iter()
        .map(|e| (e.name.as_str(), e.size, e.packed, e.encrypted))
        .collect();
    assert_eq!(
        seen,
        [
            ("letters/first.txt", 1_000, 1_000, false),
            ("b.txt", 234, 234, false)
        ]
    );
    assert!(names(&samples::zip(&[])).is_empty());
}

#[test]
fn a_zip_behind_other_data_or_before_a_comment_is_found() {
    let plain = samples::papers();
    let prefixed = [b"#!/bin/sh\nexec unzip $0\n".as_slice(), &plain].concat();
    assert_eq!(names(&prefixed), names(&plain));
    let (data, listed) = samples::zip_data(&[(b"a", 0, b"x")]);
    let comment = vec![b'c'; 65_535];
    let commented = samples::zip_of(data, &listed, &comment);
    assert_eq!(names(&commented), ["a"]);
}

#[test]
fn a_zip_in_the_form_for_large_ones_tells_large_sizes() {
    let entries = zip(&samples::zip64(1 << 40)).unwrap();
    let entry = entries.iter().next().unwrap();
    assert_eq!((entry.size, entry.packed), (1 << 40, 3));
    assert!(zip(&samples::zip64(u64::MAX)).is_ok());
}

#[test]
fn entries_with_a_password_are_told() {
    let (data, listed) = samples::zip_data(&[(b"a", 1, b"x"), (b"b", 0, b"y")]);
    let entries = zip(&samples::zip_of(data, &listed, b"")).unwrap();
    let seen: Vec<_> = entries.iter().map(|entry| entry.encrypted).collect();
    assert_eq!(seen, [true, false]);
}

#[test]
fn names_in_a_zip_are_text_that_can_be_shown() {
    let archive = samples::zip(&[
        (b"../../etc/passwd", b""),
        (b"a\x1b[2J\0\n", b""),
        (b"caf\x82.txt", b""),
        ("gepj\u{202e}.exe".as_bytes(), b""),
    ]);
    assert_eq!(
        names(&archive),
        [
            "../../etc/passwd",
            "a\\u{1b}[2J\\u{0}\\n",
            "caf\u{fffd}.txt",
            "gepj\\u{202e}.exe"
        ]
    );
    // Nothing is cut off: the end of a name tells most.
    let long = vec![b'x'; 512];
    assert_eq!(names(&samples::zip(&[(&long, b"")]))[0].len(), 512);
    let longer = vec![b'x'; 513];
    is_told(zip(&samples::zip(&[(&longer, b"")])), "longer than 512");
}

#[test]
fn a_thousand_entries_are_listed_and_no_more() {
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("{n}.txt")).collect();
        let entries: Vec<_> = names
            .iter()
            .map(|name| (name.as_bytes(), b"x".as_slice()))
            .collect();
        samples::zip(&entries)
    };
    assert_eq!(names(&many(1_000)).len(), 1_000);
    is_told(zip(&many(1_001)), "more than 1,000 entries");
    // One that says that it has fewer than it has.
    let mut archive = many(1_001);
    let at = archive.len() - 22;
    archive[at + 8..at + 12].copy_from_slice(&[1, 0, 1, 0]);
    is_told(zip(&archive), "more than 1,000 entries");
}

#[test]
fn a_directory_of_more_than_a_mebibyte_is_not_read() {
    let (data, mut listed) = samples::zip_data(&[(&b"a"[..], 0, &b"x"[..]); 20]);
    for entry in &mut listed {
        entry.extra = vec![0; 60_000];
    }
    is_told(
        zip(&samples::zip_of(data, &listed, b"")),
        "directory of more than 1 MiB",
    );
}

#[test]
fn entries_that_share_bytes_are_refused() {
    let (data, listed) = samples::zip_data(&[(b"a", 0, b"xxxx"), (b"b", 0, b"yyyy")]);
    let wrong = |change: fn(&mut [Listed])| {
        let mut listed = listed.clone();
        change(&mut listed);
        zip(&samples::zip_of(data.clone(), &listed, b""))
    };
    assert!(wrong(|_| {}).is_ok());
    for change in [
        |all: &mut [Listed]| all[1].at = all[0].at,
        |all: &mut [Listed]| all[0].packed += 2,
        |all: &mut [Listed]| all[1].packed += 2,
        |all: &mut [Listed]| all[1].at = 1_000_000,
        |all: &mut [Listed]| all[0].packed = u32::MAX,
    ] {
        is_told(wrong(change), "overlapping");
    }
}

#[test]
fn a_zip_that_is_cut_off_or_counts_wrong_is_broken() {
    let whole = samples::papers();
    for len in 0..whole.len() {
        is_told(zip(&whole[..len]), "zip archive");
    }
    let mut archive = whole;
    let at = archive.len() - 22;
    archive[at + 10] = 1;
    is_told(zip(&archive), "different number of entries");
    is_told(zip(b"abc"), "is not a zip archive");
    is_told(zip(b""), "is not a zip archive");
}

//! A great many files that somebody made up for what `file` tells: no panic, no hang, little
//! memory.
//!
//! `cargo test --release --test fuzz_files -- --ignored --nocapture` takes a million for each
//! function. Every file follows from a seed and a number; both are printed with one that fails,
//! and `M2Y_FUZZ_SEED` takes another seed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use common::{
    Random,
    samples::{self, CANON, Held},
};
use m2y::hooks::api::file::{Trouble, image_of, kind_of, zip_of};

/// Files for each function in the normal suite, and where it takes minutes.
const FEW: u64 = 5_000;
const MANY: u64 = 1_000_000;

/// The longest that one call may take, on a machine that does other work too.
const MAX_TIME: Duration = Duration::from_secs(1);

/// The most memory that one call may ask for in all, in bytes.
const MAX_MEMORY: u64 = 4 << 20;

/// The longest file.
const MAX_INPUT: usize = 200_000;

/// A place and a length within so many bytes; most lengths are short.
fn range(random: &mut Random, len: usize) -> std::ops::Range<usize> {
    let from = random.index(len + 1);
    let most = match random.below(4) {
        0 => len - from,
        _ => 24.min(len - from),
    };
    from..from + random.index(most + 1)
}

/// A number that parsers find hard.
fn number(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => 0,
        1 => 1 << random.below(64),
        2 => (1 << random.below(64)) - 1,
        3 => u64::MAX - random.below(64),
        4 => random.below(70_000),
        5 => random.below(300),
        6 => 0xffff_ffff - random.below(64),
        _ => random.below(u64::MAX),
    }
}

fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.index(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let (len, at) = (bytes.len(), random.index(bytes.len() + 1));
        match random.below(12) {
            0 | 1 if at < len => bytes[at] ^= 1 << random.below(8),
            2 if at < len => bytes[at] = random.below(256) as u8,
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(range(random, len))),
            5 => {
                let piece = bytes[range(random, len)].to_vec();
                let times = 1 + random.index(20);
                bytes.splice(at..at, piece.repeat(times));
            }
            6 => {
                let other = &seeds[random.index(seeds.len())];
                let piece = other[range(random, other.len())].to_vec();
                let end = (at + random.index(piece.len() + 1)).min(len);
                bytes.splice(at..end, piece);
            }
            7 => {
                let noise: Vec<u8> = (0..random.below(40))
                    .map(|_| random.below(256) as u8)
                    .collect();
                bytes.splice(at..at, noise);
            }
            8 => {
                let other = &seeds[random.index(seeds.len())];
                bytes.extend(other);
            }
            // A number of two, four or eight bytes, in one of the two orders.
            _ => {
                let width = [2, 4, 8][random.index(3)];
                let number = number(random);
                let bytes_of = match random.below(2) {
                    0 => number.to_le_bytes()[..width].to_vec(),
                    _ => number.to_be_bytes()[8 - width..].to_vec(),
                };
                let end = (at + width).min(len);
                bytes[at..end].copy_from_slice(&bytes_of[..end - at]);
            }
        }
    }
    bytes.truncate(MAX_INPUT);
    bytes
}

/// Bytes that this thread has asked the allocator for.
fn allocated() -> u64 {
    tikv_jemalloc_ctl::thread::allocatedp::read().unwrap().get()
}

/// Has `tell` tell of many files; how many of them it knew comes back.
fn fuzz(what: &str, seeds: &[Vec<u8>], count: u64, tell: fn(&Held) -> Result<(), Trouble>) {
    let good = seeds
        .iter()
        .filter(|seed| tell(&Held(seed.to_vec())).is_ok());
    let good = good.count();
    assert!(good * 5 >= seeds.len() * 4, "{good} of {}", seeds.len());
    let seed = std::env::var("M2Y_FUZZ_SEED").map_or(1, |seed| seed.parse().unwrap());
    let (mut known, mut longest, mut largest) = (0, Duration::ZERO, 0);
    let begun = Instant::now();
    for number in 0..count {
        let mut random = Random((seed + number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let held = Held(mutated(seeds, &mut random));
        let (before, at) = (allocated(), Instant::now());
        let told = catch_unwind(AssertUnwindSafe(|| tell(&held)));
        let (took, grown) = (at.elapsed(), allocated() - before);
        match told {
            Ok(Ok(())) => known += 1,
            Ok(Err(Trouble::Is(_))) => {}
            Ok(Err(other)) => panic!("{what} {number} of seed {seed}: {other:?}"),
            Err(_) => panic!("{what} {number} of seed {seed} panics: {:02x?}", held.0),
        }
        assert!(took < MAX_TIME, "{what} {number} of seed {seed}: {took:?}");
        assert!(
            grown < MAX_MEMORY,
            "{what} {number} of seed {seed}: {grown} bytes"
        );
        longest = longest.max(took);
        largest = largest.max(grown);
    }
    eprintln!(
        "{what}: {count} files in {:?}, {known} of them known; longest {longest:?}, \
         most memory {largest} bytes",
        begun.elapsed()
    );
    // Mutations that break everything would test nothing.
    assert!(known > count / 50 && known < count, "{known} of {count}");
}

fn pictures() -> Vec<Vec<u8>> {
    let (little, big) = (
        samples::tiff(&CANON, true, None),
        samples::tiff(&CANON, false, None),
    );
    let mut big_tiff = b"II\x2b\0\x08\0\0\0\x10\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
    for tag in [0_u16, 1] {
        big_tiff.extend((0x100 + tag).to_le_bytes());
        big_tiff.extend(b"\x03\0\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0");
    }
    vec![
        samples::photo(),
        samples::jpeg(&big, (4, 5)),
        samples::jpeg(&samples::tiff_of_many_fields(40), (4, 5)),
        samples::png(&little, (4, 5)),
        samples::webp(&big, (4, 5)),
        samples::webp_lossy((4, 5)),
        samples::heif(b"heic", &little, (4, 5)),
        samples::heif(b"avif", &big, (4, 5)),
        samples::tiff(&CANON, true, Some((4, 5))),
        samples::tiff(&CANON, false, Some((4, 5))),
        samples::raw(true, &[(1, 2, 3), (0, 4, 5)]),
        big_tiff,
        samples::gif((4, 5)),
        samples::bmp((4, 5)),
        samples::qoi((4, 5)),
        samples::jxl(&little),
        b"\xff\x0a\x4f\x02\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
    ]
}

fn archives() -> Vec<Vec<u8>> {
    let (data, listed) = samples::zip_data(&[(b"a", 1, b"xxxx"), (b"b/", 0, b"")]);
    vec![
        samples::papers(),
        samples::zip(&[]),
        samples::zip(&[(&b"../../x"[..], &b"y"[..]); 12]),
        samples::zip64(1 << 40),
        samples::zip_of(data, &listed, b"a comment"),
        [b"#!/bin/sh\n".as_slice(), &samples::papers()].concat(),
    ]
}

fn any() -> Vec<Vec<u8>> {
    let document = samples::zip(&[
        (b"[Content_Types].xml", b"<Types/>"),
        (b"_rels/.rels", b"<Relationships/>"),
        (b"word/document.xml", b"<w:document/>"),
        (b"word/styles.xml", b"<w:styles/>"),
    ]);
    let mut all = [pictures(), archives()].concat();
    all.extend([
        document,
        samples::pdf(),
        samples::tar(),
        "grüezi mitenand\n".repeat(20).into_bytes(),
        b"<?xml version=\"1.0\"?><a/>".to_vec(),
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0".to_vec(),
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0\0\0".to_vec(),
        b"ID3\x03\0\0\0\0\0\x21".to_vec(),
        b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x1f\x42\x86\x81\x01\x42\x82\x84webm".to_vec(),
        b"\0\0\0\x18ftypisom\0\0\0\0isommp41".to_vec(),
    ]);
    all
}

fn kinds(count: u64) {
    fuzz("file.kind", &any(), count, |held| match kind_of(held)? {
        "application/octet-stream" => Err(Trouble::Is("nothing is known of it")),
        _ => Ok(()),
    });
}

fn images(count: u64) {
    fuzz("file.image", &pictures(), count, |held| {
        let image = image_of(held)?;
        if let Some(camera) = image.exif.camera {
            assert!(!camera.contains(char::is_control) && camera.len() < 2_000);
        }
        Ok(())
    });
}

fn zips(count: u64) {
    fuzz("file.zip", &archives(), count, |held| {
        let entries = zip_of(held)?;
        let packed: u64 = entries.iter().map(|entry| entry.packed).sum();
        assert!(packed <= held.0.len() as u64, "more than there is");
        for entry in entries.iter() {
            assert!(!entry.name.contains(char::is_control));
        }
        Ok(())
    });
}

#[test]
fn a_kind_is_told_of_whatever_comes() {
    kinds(FEW);
}

#[test]
fn a_picture_is_told_of_whatever_comes() {
    images(FEW);
}

#[test]
fn an_archive_is_told_of_whatever_comes() {
    zips(FEW);
}

#[test]
#[ignore = "takes minutes"]
fn a_kind_is_told_of_a_million_files() {
    kinds(MANY);
}

#[test]
#[ignore = "takes minutes"]
fn a_picture_is_told_of_a_million_files() {
    images(MANY);
}

#[test]
#[ignore = "takes minutes"]
fn an_archive_is_told_of_a_million_files() {
    zips(MANY);
}

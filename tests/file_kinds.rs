//! What `file` tells of files is what they hold, and what a sender made up ends in an error.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    io,
    time::{Duration, Instant},
};

use common::samples::{self, CANON, Camera, Held, Listed};
use m2y::{
    hooks::api::file::{Entries, Exif, Image, Trouble, image_of, kind_of, zip_of},
    store::{Contents, Kind, Stat},
};

fn kind(bytes: &[u8]) -> &'static str {
    kind_of(&Held(bytes.to_vec())).unwrap()
}

fn image(bytes: &[u8]) -> Result<Image, Trouble> {
    image_of(&Held(bytes.to_vec()))
}

#[track_caller]
fn size(bytes: &[u8]) -> (u64, u64) {
    let image = image(bytes).unwrap();
    (image.width, image.height)
}

fn exif(bytes: &[u8]) -> Exif {
    image(bytes).unwrap().exif
}

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

/// 10:11:12 on 7 May 2026, as if in UTC.
const TAKEN: i64 = 1_778_148_672;

fn canon() -> Exif {
    Exif {
        taken: Some(TAKEN),
        offset: Some(7_200),
        camera: Some("Canon EOS R5".to_owned()),
        orientation: Some(6),
    }
}

#[test]
fn a_kind_is_told_by_what_a_file_holds() {
    let exif = samples::tiff(&CANON, true, None);
    for (bytes, expected) in [
        (samples::photo(), "image/jpeg"),
        (samples::png(&[], (1, 1)), "image/png"),
        (samples::webp(&exif, (1, 1)), "image/webp"),
        (samples::heif(b"heic", &exif, (1, 1)), "image/heif"),
        (samples::heif(b"avif", &exif, (1, 1)), "image/avif"),
        (samples::gif((1, 1)), "image/gif"),
        (samples::bmp((1, 1)), "image/bmp"),
        (samples::jxl(&exif), "image/jxl"),
        (samples::tiff(&CANON, false, Some((1, 1))), "image/tiff"),
        (samples::pdf(), "application/pdf"),
        (samples::papers(), "application/zip"),
        (samples::tar(), "application/x-tar"),
        (b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), "application/gzip"),
        (b"<!doctype html>\n<p>x".to_vec(), "text/html"),
        (b"#!/bin/sh\nexit 0\n".to_vec(), "text/x-shellscript"),
        (
            b"MZ\x90\0\x03\0\0\0".to_vec(),
            "application/vnd.microsoft.portable-executable",
        ),
        // Word, Excel and installers share it.
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0".to_vec(),
            "application/x-ole-storage",
        ),
    ] {
        assert_eq!(kind(&bytes), expected);
    }
    let document = samples::zip(&[
        (b"[Content_Types].xml", b"<Types/>"),
        (b"_rels/.rels", b"<Relationships/>"),
        (b"word/document.xml", b"<w:document/>"),
        (b"word/styles.xml", b"<w:styles/>"),
    ]);
    assert_eq!(
        kind(&document),
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    );
}

#[test]
fn what_is_utf_8_without_nul_is_text_and_the_rest_is_bytes() {
    assert_eq!(kind(b""), "text/plain");
    assert_eq!(kind("grüezi\n".as_bytes()), "text/plain");
    assert_eq!(kind(b"\xff\xfe\0"), "application/octet-stream");
    assert_eq!(kind(b"caf\xe9"), "application/octet-stream");
    assert_eq!(kind(b"a\0b"), "application/octet-stream");
    // Letters that other kinds begin with are none in a text.
    for text in ["BMX bikes", "BC is a province", "MZ", "ID3 tags", "GIF89a"] {
        assert_eq!(kind(text.as_bytes()), "text/plain", "{text}");
    }
}

#[test]
fn a_character_that_the_end_of_the_look_cuts_leaves_a_text_a_text() {
    for len in 65_500..65_600 {
        let mut text = "x".repeat(len);
        text.push('€');
        assert_eq!(kind(text.as_bytes()), "text/plain", "{len}");
        // At the end of a file it is broken.
        let cut = &text.as_bytes()[..text.len() - 1];
        let expected = match cut.len() {
            ..=65_536 => "application/octet-stream",
            _ => "text/plain",
        };
        assert_eq!(kind(cut), expected, "{len}");
    }
}

#[test]
fn every_format_of_pictures_tells_its_size() {
    let exif = samples::tiff(&CANON, true, None);
    assert_eq!(size(&samples::photo()), (4_032, 3_024));
    assert_eq!(size(&samples::png(&[], (70_000, 3))), (70_000, 3));
    assert_eq!(size(&samples::webp(&exif, (1_000, 20))), (1_000, 20));
    assert_eq!(size(&samples::webp_lossy((1_000, 20))), (1_000, 20));
    assert_eq!(size(&samples::gif((5, 6))), (5, 6));
    assert_eq!(size(&samples::bmp((5, 6))), (5, 6));
    assert_eq!(size(&samples::qoi((5, 6))), (5, 6));
    assert_eq!(size(&samples::jxl(&exif)), (64, 64));
    for brand in [b"heic", b"avif"] {
        assert_eq!(size(&samples::heif(brand, &exif, (4_000, 9))), (4_000, 9));
    }
    for little in [true, false] {
        let tiff = samples::tiff(&CANON, little, Some((123, 45)));
        assert_eq!(size(&tiff), (123, 45));
    }
    // Rows from top to bottom.
    assert_eq!(size(&samples::bmp((5, -6))), (5, 6));
}

#[test]
fn every_format_that_has_exif_tells_when_and_by_what_it_was_taken() {
    for little in [true, false] {
        let tiff = samples::tiff(&CANON, little, None);
        let marked = [b"Exif\0\0".as_slice(), &tiff].concat();
        for picture in [
            samples::jpeg(&tiff, (1, 1)),
            samples::png(&tiff, (1, 1)),
            samples::webp(&tiff, (1, 1)),
            samples::webp(&marked, (1, 1)),
            samples::tiff(&CANON, little, Some((1, 1))),
        ] {
            assert_eq!(exif(&picture), canon());
        }
        // The size of these is that of the picture as it is shown.
        let shown = Exif {
            orientation: None,
            ..canon()
        };
        for picture in [
            samples::heif(b"heic", &tiff, (1, 1)),
            samples::heif(b"avif", &tiff, (1, 1)),
            samples::jxl(&tiff),
        ] {
            assert_eq!(exif(&picture), shown);
        }
    }
}

#[test]
fn exif_behind_large_tables_and_long_pictures_is_found() {
    let tiff = samples::tiff(&CANON, true, None);
    // A JPEG whose first segments are as long as segments can be.
    let mut jpeg = b"\xff\xd8".to_vec();
    for _ in 0..100 {
        jpeg.extend(b"\xff\xe2\xff\xff");
        jpeg.resize(jpeg.len() + 65_533, 7);
    }
    jpeg.extend(&samples::jpeg(&tiff, (9, 8))[2..]);
    assert_eq!((size(&jpeg), exif(&jpeg)), ((9, 8), canon()));
    // A TIFF whose directory lies at its end, as most programs write it.
    let mut long = vec![0; 5 << 20];
    let tiff = samples::tiff(&CANON, true, Some((9, 8)));
    let by = long.len() as u32 - 8;
    long[..8].copy_from_slice(&tiff[..8]);
    long[4..8].copy_from_slice(&(8 + by).to_le_bytes());
    long.extend(&tiff[8..]);
    assert_eq!(size(&long), (9, 8));
}

#[test]
fn a_clock_that_was_not_set_or_cannot_be_is_unknown() {
    for taken in [
        "0000:00:00 00:00:00",
        "    :  :     :  :  ",
        "2026:13:01 00:00:00",
        "2026:02:30 00:00:00",
        "2026:05:07 24:00:00",
        "2026:05:07 10:11",
        "2026:05:07",
        "+026:05:07 10:11:12",
        "yesterday, at about",
        "ü026:05:07 10:11:1ü",
        "",
    ] {
        let camera = Camera { taken, ..CANON };
        let picture = samples::jpeg(&samples::tiff(&camera, true, None), (1, 1));
        let exif = exif(&picture);
        assert_eq!((exif.taken, exif.offset), (None, None), "{taken}");
    }
}

#[test]
fn a_picture_without_the_time_of_its_taking_has_that_of_its_scan() {
    let camera = Camera {
        taken: "",
        digitized: "1999-12-31 23:59:59",
        ..CANON
    };
    let picture = samples::jpeg(&samples::tiff(&camera, true, None), (1, 1));
    let exif = exif(&picture);
    assert_eq!((exif.taken, exif.offset), (Some(946_684_799), None));
}

#[test]
fn an_offset_is_east_or_west_of_utc_or_unknown() {
    for (offset, expected) in [
        ("+02:00", Some(7_200)),
        ("-09:30", Some(-34_200)),
        ("+00:00", Some(0)),
        ("+25:00", None),
        ("+02:60", None),
        ("+2:00", None),
        ("02:00", None),
        ("Z", None),
        ("   :  ", None),
        ("+-1:00", None),
    ] {
        let camera = Camera { offset, ..CANON };
        let picture = samples::jpeg(&samples::tiff(&camera, true, None), (1, 1));
        assert_eq!(exif(&picture).offset, expected, "{offset}");
    }
}

#[test]
fn a_camera_is_named_once_and_in_characters_that_can_be_shown() {
    let long = "x".repeat(500);
    for (make, model, expected) in [
        ("Canon", "Canon EOS R5", Some("Canon EOS R5")),
        ("NIKON CORPORATION", "NIKON D90", Some("NIKON D90")),
        ("Apple", "iPhone 15", Some("Apple iPhone 15")),
        ("Apple", "", Some("Apple")),
        ("", "iPhone 15", Some("iPhone 15")),
        ("  ", "", None),
        ("a\u{1b}[2J", "b\u{202e}", Some("a\\u{1b}[2J b\\u{202e}")),
        (&long, "", Some(&long[..64])),
    ] {
        let camera = Camera {
            make,
            model,
            ..CANON
        };
        let picture = samples::jpeg(&samples::tiff(&camera, true, None), (1, 1));
        assert_eq!(exif(&picture).camera.as_deref(), expected);
    }
}

#[test]
fn an_orientation_is_1_to_8_or_unknown() {
    for (orientation, expected) in [(1, Some(1)), (8, Some(8)), (9, None), (u16::MAX, None)] {
        let camera = Camera {
            orientation,
            ..CANON
        };
        let picture = samples::jpeg(&samples::tiff(&camera, true, None), (1, 1));
        assert_eq!(exif(&picture).orientation, expected);
    }
}

#[test]
fn what_is_no_picture_is_told_so() {
    for bytes in [
        b"".to_vec(),
        b"abc".to_vec(),
        b"\xff\xd8\xff\xe0".to_vec(),
        b"\x89PNG\r\n\x1a\n and so on".to_vec(),
        samples::pdf(),
        samples::papers(),
        // A film begins with the same box as HEIF.
        b"\0\0\0\x18ftypisom\0\0\0\0isommp41\0\0\0\x08free\0\0\0\x08mdat".to_vec(),
    ] {
        is_told(image(&bytes), "is not a picture");
    }
}

#[test]
fn a_picture_that_is_broken_off_tells_less_or_fails_and_never_more() {
    let exif = samples::tiff(&CANON, true, None);
    for whole in [
        samples::photo(),
        samples::png(&exif, (4, 5)),
        samples::webp(&exif, (4, 5)),
        samples::heif(b"heic", &exif, (4, 5)),
        samples::tiff(&CANON, false, Some((4, 5))),
        samples::jxl(&exif),
    ] {
        let known = image(&whole).unwrap();
        for len in 0..whole.len() {
            match image(&whole[..len]) {
                Err(Trouble::Is(_)) => {}
                Ok(cut) => {
                    assert_eq!((cut.width, cut.height), (known.width, known.height));
                    let taken = cut.exif.taken;
                    assert!(taken.is_none() || taken == known.exif.taken);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Bytes that this thread has asked the allocator for.
fn allocated() -> u64 {
    tikv_jemalloc_ctl::thread::allocatedp::read().unwrap().get()
}

#[test]
fn exif_that_leads_to_a_great_many_fields_costs_next_to_nothing() {
    // Read in full, these would be 2.25 million fields, and in a PNG a thousand times as many.
    let tiff = samples::tiff_of_many_fields(1_500);
    let begun = (Instant::now(), allocated());
    assert_eq!(exif(&samples::jpeg(&tiff, (1, 1))), Exif::default());
    let tiff = samples::tiff_of_many_fields(30_000);
    assert_eq!(exif(&samples::png(&tiff, (1, 1))), Exif::default());
    assert!(begun.0.elapsed() < Duration::from_millis(200));
    // The files themselves were copied.
    assert!(allocated() - begun.1 < 8 << 20);
}

#[test]
fn directories_that_lead_back_to_themselves_are_read_once() {
    let mut tiff = samples::tiff(&CANON, true, None);
    // The second directory is the first one.
    let at = tiff.windows(2).position(|two| two == [0x69, 0x87]).unwrap();
    tiff[at + 8..at + 12].copy_from_slice(&8_u32.to_le_bytes());
    let exif = exif(&samples::jpeg(&tiff, (1, 1)));
    assert_eq!(exif.camera.as_deref(), Some("Canon EOS R5"));
    assert_eq!(exif.taken, None);
}

#[test]
fn numbers_that_lead_out_of_the_file_are_of_nothing_known() {
    let whole = samples::tiff(&CANON, true, None);
    for at in 0..whole.len() - 4 {
        for number in [0, 1, 0x7fff_ffff, 0xffff_fffe, u32::MAX] {
            let mut tiff = whole.clone();
            tiff[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
            let picture = image(&samples::jpeg(&tiff, (1, 1))).unwrap();
            assert_eq!(picture.width, 1);
        }
    }
}

#[test]
fn items_in_pieces_of_no_bytes_are_not_counted_for_hours() {
    let exif = samples::tiff(&CANON, true, None);
    let mut heif = samples::heif(b"heic", &exif, (1, 1));
    let at = heif.windows(4).position(|four| four == b"iloc").unwrap();
    heif[at + 8] = 0;
    heif[at + 10..at + 18].copy_from_slice(&[0xff; 8]);
    let begun = Instant::now();
    let _ = image(&heif);
    assert!(begun.elapsed() < Duration::from_secs(1));
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

/// Contents that cannot be read, though they have a size.
struct Broken;

impl Contents for Broken {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat {
            kind: Kind::File,
            size: 1 << 40,
            modified: 0,
        })
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::Error::other("the disk is gone"))
    }

    fn version(&self) -> io::Result<String> {
        Ok(String::new())
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_cannot_be_read_is_told_in_the_words_of_the_disk() {
    for trouble in [
        kind_of(&Broken).map(|_| ()),
        image_of(&Broken).map(|_| ()),
        zip_of(&Broken).map(|_| ()),
    ] {
        let Err(Trouble::Io(error)) = trouble else {
            panic!("{trouble:?}");
        };
        assert_eq!(error.to_string(), "the disk is gone");
    }
}

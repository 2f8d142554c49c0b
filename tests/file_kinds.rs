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
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use common::samples::{self, CANON, Camera, Held};
use m2y::{
    hooks::api::file::{Exif, Image, Trouble, image_of, kind_of, zip_of},
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
    image(bytes).unwrap().size.unwrap()
}

fn exif(bytes: &[u8]) -> Exif {
    image(bytes).unwrap().exif
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
fn a_file_of_boxes_is_told_by_its_brands() {
    let boxes = |brand: &[u8; 4], others: &[&[u8; 4]]| {
        let mut bytes = (16 + 4 * others.len() as u32).to_be_bytes().to_vec();
        bytes.extend([b"ftyp".as_slice(), brand, &[0; 4]].concat());
        others.iter().for_each(|other| bytes.extend(*other));
        bytes.extend(b"\0\0\0\x10free....isom");
        bytes
    };
    for (brand, others, expected) in [
        (b"3gp4", &[b"isom"][..], "video/3gpp"),
        (b"3gp5", &[], "video/3gpp"),
        (b"3ge6", &[], "video/3gpp"),
        (b"3g2a", &[b"isom"], "video/3gpp2"),
        (b"crx ", &[b"crx ", b"isom"], "image/x-canon-cr3"),
        (b"XAVC", &[b"XAVC"], "video/mp4"),
        (b"abcd", &[b"efgh", b"mp42"], "video/mp4"),
        (b"abcd", &[b"mp41"], "video/mp4"),
        (b"abcd", &[b"isom"], "video/mp4"),
        (b"isom", &[], "video/mp4"),
        (b"qt  ", &[], "video/quicktime"),
        (b"M4A ", &[b"mp42"], "audio/m4a"),
        (b"M4B ", &[b"mp42", b"isom"], "audio/m4a"),
        (b"mif1", &[b"heix"], "image/heif"),
        (b"hevc", &[b"msf1"], "image/heif"),
        (b"mif1", &[b"avif"], "image/avif"),
        (b"abcd", &[b"efgh"], "application/octet-stream"),
        // The brand behind the box is none of its.
        (b"abcd", &[], "application/octet-stream"),
    ] {
        let bytes = boxes(brand, others);
        assert_eq!(kind(&bytes), expected, "{brand:?}");
        for len in 0..bytes.len() {
            let _ = kind(&bytes[..len]);
        }
        // A box that is longer than the file, or shorter than its own head.
        for len in [0, 1, 7, 8, 15, u32::MAX] {
            let mut bytes = bytes.clone();
            bytes[..4].copy_from_slice(&len.to_be_bytes());
            let _ = kind(&bytes);
        }
    }
}

#[test]
fn every_picture_whose_size_is_told_is_of_the_kind_of_pictures() {
    let exif = samples::tiff(&CANON, true, None);
    for bytes in [
        samples::photo(),
        samples::png(&[], (1, 1)),
        samples::gif((1, 1)),
        samples::webp(&exif, (1, 1)),
        samples::bmp((1, 1)),
        samples::qoi((1, 1)),
        samples::jxl(&exif),
        samples::raw(true, &[]),
        samples::tiff(&CANON, false, Some((1, 1))),
        samples::heif(b"heix", &exif, (1, 1)),
        samples::heif(b"hevc", &exif, (1, 1)),
        samples::heif(b"avif", &exif, (1, 1)),
    ] {
        assert!(image(&bytes).is_ok());
        let kind = kind(&bytes);
        assert!(kind.starts_with("image/"), "{kind}");
    }
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
fn a_bmp_is_one_by_its_second_header_and_not_by_two_letters() {
    // The oldest one has numbers of two bytes.
    let old = b"BM\x1a\0\0\0\0\0\0\0\x1a\0\0\0\x0c\0\0\0\x05\0\x06\0\x01\0\x18\0";
    assert_eq!((kind(old), size(old)), ("image/bmp", (5, 6)));
    for len in 0..=255 {
        // As numbers of two bytes, 5 and 6.
        let mut bmp = samples::bmp((0x0006_0005, 6));
        bmp[14] = len;
        match len {
            12 | 40 | 52 | 56 | 64 | 108 | 124 => {
                assert_eq!(kind(&bmp), "image/bmp", "{len}");
                assert!(image(&bmp).is_ok(), "{len}");
            }
            _ => {
                assert_eq!(kind(&bmp), "application/octet-stream", "{len}");
                is_told(image(&bmp), "is not a picture");
            }
        }
    }
    for none in [(-5, 6), (i32::MIN, 6), (0, 6), (5, 0)] {
        is_told(image(&samples::bmp(none)), "is not a picture");
    }
    is_told(
        image(b"BM\0\x01\x02 and so on, for long enough"),
        "is not a picture",
    );
}

#[test]
fn a_raw_file_has_the_size_of_its_own_picture_and_not_that_of_its_thumbnail() {
    let raw = |within: &[(u32, u32, u32)]| {
        let both = [true, false].map(|little| image(&samples::raw(little, within)).unwrap().size);
        assert_eq!(both[0], both[1]);
        both[0]
    };
    let full = (0, 6_000, 4_000);
    assert_eq!(raw(&[full]), Some((6_000, 4_000)));
    assert_eq!(
        raw(&[(1, 1_620, 1_080), full, (0, 9, 9)]),
        Some((6_000, 4_000))
    );
    // What is not found is not known.
    assert_eq!(raw(&[]), None);
    assert_eq!(raw(&[(1, 1_620, 1_080)]), None);
    let mut ninth = vec![(1, 1_620, 1_080); 8];
    ninth.push(full);
    assert_eq!(raw(&ninth), None);
    assert_eq!(raw(&ninth[1..]), Some((6_000, 4_000)));
}

#[test]
fn a_raw_file_whose_pictures_lead_out_of_it_or_back_is_of_no_known_size() {
    let whole = samples::raw(true, &[(1, 5, 6), (1, 7, 8)]);
    for at in 8..whole.len() - 4 {
        for number in [0, 1, 8, 0x7fff_ffff, 0xffff_fffe, u32::MAX] {
            let mut raw = whole.clone();
            raw[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
            let _ = image(&raw);
        }
    }
    let mut raw = whole;
    let at = raw.len() - 2 * 42 - 8;
    raw[at..at + 4].copy_from_slice(&8_u32.to_le_bytes());
    raw[at + 4..at + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(image(&raw).unwrap().size, None);
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
        samples::raw(false, &[(1, 5, 6), (0, 7, 8)]),
    ] {
        let known = image(&whole).unwrap();
        for len in 0..whole.len() {
            match image(&whole[..len]) {
                Err(Trouble::Is(_)) => {}
                Ok(cut) => {
                    assert!(cut.size.is_none() || cut.size == known.size);
                    let taken = cut.exif.taken;
                    assert!(taken.is_none() || taken == known.exif.taken);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Contents in memory, and how many bytes of them were read.
struct Counted {
    held: Held,
    read: AtomicU64,
}

impl Contents for Counted {
    fn stat(&self) -> io::Result<Stat> {
        self.held.stat()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.held.read_at(buffer, offset)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn version(&self) -> io::Result<String> {
        self.held.version()
    }

    fn settle(&self) -> io::Result<()> {
        self.held.settle()
    }
}

/// Bytes that this thread has asked the allocator for.
fn allocated() -> u64 {
    tikv_jemalloc_ctl::thread::allocatedp::read().unwrap().get()
}

#[test]
fn exif_that_leads_to_a_great_many_fields_costs_next_to_nothing() {
    // Read in full, these would be 2.25 million fields, and in a PNG a thousand times as many.
    let (few, many) = (
        samples::tiff_of_many_fields(1_500),
        samples::tiff_of_many_fields(30_000),
    );
    for picture in [samples::jpeg(&few, (1, 1)), samples::png(&many, (1, 1))] {
        let counted = Counted {
            held: Held(picture),
            read: AtomicU64::new(0),
        };
        let before = allocated();
        assert_eq!(image_of(&counted).unwrap().exif, Exif::default());
        assert!(allocated() - before < 1 << 20);
        let read = counted.read.load(Ordering::Relaxed);
        assert!(read < 64 << 10, "{read} bytes");
    }
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
            assert_eq!(picture.size, Some((1, 1)));
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

//! Against what `file` tells of files that somebody made up.

use super::Hostile;
use crate::common::{self, samples};

/// Scripts that look into the files of [`made_up`].
pub const FILES: &[Hostile] = &[
    (
        "picture of 18 quintillion pixels",
        "let p = file.image(\"huge.png\"); let pixels = p.width * p.height;",
        "overflow",
    ),
    (
        "EXIF that leads back to itself",
        "loop { file.image(\"circle.jpg\"); }",
        "operations|stopped|look at",
    ),
    (
        "EXIF of two million fields",
        "loop { file.image(\"fields.jpg\"); }",
        "operations|stopped|look at",
    ),
    (
        "EXIF of a thousand million fields",
        "loop { file.image(\"fields.png\"); }",
        "operations|stopped|look at",
    ),
    (
        "JPEG of nothing but segments",
        "file.image(\"segments.jpg\");",
        "within 1 MiB",
    ),
    (
        "TIFF of 18 quintillion fields",
        "file.image(\"fields.tif\");",
        "is not a picture|within 1 MiB",
    ),
    (
        "HEIF whose items have 65,535 pieces",
        "loop { file.image(\"pieces.heic\"); }",
        "operations|stopped|look at",
    ),
    (
        "zip that says it has 65,535 entries",
        "file.zip(\"count.zip\");",
        "more than 1,000 entries",
    ),
    (
        "zip whose directory has 4 GiB",
        "file.zip(\"directory.zip\");",
        "damaged zip archive",
    ),
    ("zip bomb", "file.zip(\"bomb.zip\");", "overlapping"),
    (
        "zip of more bytes than a number holds",
        "let n = 0; for e in file.zip(\"large.zip\") { n += e.size; n += e.size; }",
        "overflow",
    ),
    (
        "names in a zip that lead above",
        "for e in file.zip(\"names.zip\") { folder.write(e.name, \"x\"); }",
        "plain names",
    ),
    (
        "name in a zip that is m2y.config",
        "let e = file.zip(\"config.zip\")[0]; folder.write(e.name, \"x\");",
        "cannot be changed",
    ),
    (
        "name in a zip that clears the terminal",
        "for c in file.zip(\"control.zip\")[0].name { if c < ' ' { accept(); } } folder.read(\"shown\");",
        "is not there",
    ),
    (
        "names in a zip that are long",
        "file.zip(\"long.zip\");",
        "longer than 512 bytes",
    ),
    (
        "entry that is not there",
        "file.zip(\"full.zip\")[1000];",
        "there are 1000",
    ),
    (
        "entries in an endless loop",
        "loop { for e in file.zip(\"full.zip\") { } }",
        "operations|stopped|look at",
    ),
    (
        "entries kept without an end",
        "let a = []; loop { a.push(file.zip(\"full.zip\")); }",
        "operations|stopped|look at|memory|Size of array",
    ),
    (
        "entries put together without an end",
        "let a = []; loop { for e in file.zip(\"full.zip\") { a.push(e); } }",
        "too large|operations|stopped|memory",
    ),
    (
        "picture of no bytes",
        "file.image(\"none.jpg\");",
        "is not a picture",
    ),
    (
        "zip of no bytes",
        "file.zip(\"none.jpg\");",
        "is not a zip archive",
    ),
    (
        "kind of a directory",
        "file.kind(\"dir.d\");",
        "not a regular file",
    ),
    (
        "zip that is a link",
        "file.zip(\"link.l\");",
        "not a regular file",
    ),
    (
        "picture that is a pipe",
        "file.image(\"pipe.p\");",
        "not a regular file",
    ),
    (
        "kind of a key",
        "file.kind(\"../../privateKey/roland-frei.data\");",
        "plain names",
    ),
    (
        "picture that is not there",
        "file.image(\"no.jpg\");",
        "is not there",
    ),
    (
        "kinds in an endless loop",
        "loop { file.kind(\"noise.bin\"); }",
        "operations|stopped|look at",
    ),
    (
        "pictures and zips in an endless loop that catches",
        "loop { try { file.image(\"noise.bin\"); } catch { } try { file.zip(\"noise.bin\"); } catch { } }",
        "operations|stopped|look at",
    ),
];

/// Files that somebody made up to harm who looks into them.
pub fn made_up() -> Vec<(&'static str, Vec<u8>)> {
    let exif = samples::tiff(&samples::CANON, true, None);
    let mut circle = exif.clone();
    let at = exif.windows(2).position(|two| two == [0x69, 0x87]).unwrap();
    circle[at + 8..at + 12].copy_from_slice(&8_u32.to_le_bytes());
    let mut pieces = samples::heif(b"heic", &exif, (1, 1));
    let at = pieces.windows(4).position(|four| four == b"iloc").unwrap();
    pieces[at + 8] = 0;
    pieces[at + 10..at + 18].copy_from_slice(&[0xff; 8]);
    let mut tiff = b"II\x2b\0\x08\0\0\0\x10\0\0\0\0\0\0\0".to_vec();
    tiff.extend([0xff; 8]);
    for _ in 0..80_000 {
        tiff.extend(b"\x01\0\x03\0\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0");
    }
    let (data, mut listed) = samples::zip_data(&[(b"a", 0, &[0; 1_000])]);
    listed = vec![listed.remove(0); 500];
    let bomb = samples::zip_of(data, &listed, b"");
    let names: Vec<String> = (0..1_000).map(|n| format!("{n}.txt")).collect();
    let full: Vec<_> = names.iter().map(|n| (n.as_bytes(), &b"x"[..])).collect();
    let mut count = samples::papers();
    count.truncate(count.len() - 22);
    let directory = [&count[..], &samples::zip_end(1, u32::MAX, 0, b"")].concat();
    count.extend(samples::zip_end(u16::MAX - 1, 100, 0, b""));
    let config = samples::zip(&[(b"m2y.config", b"")]);
    vec![
        ("huge.png", samples::png(&[], (u32::MAX, u32::MAX))),
        ("circle.jpg", samples::jpeg(&circle, (1, 1))),
        (
            "fields.jpg",
            samples::jpeg(&samples::tiff_of_many_fields(1_500), (1, 1)),
        ),
        (
            "fields.png",
            samples::png(&samples::tiff_of_many_fields(32_000), (1, 1)),
        ),
        (
            "segments.jpg",
            [b"\xff\xd8", &b"\xff\xe2\0\x02".repeat(500_000)[..]].concat(),
        ),
        ("fields.tif", tiff),
        ("pieces.heic", pieces),
        ("count.zip", count),
        ("directory.zip", directory),
        ("bomb.zip", bomb),
        ("large.zip", samples::zip64(u64::MAX)),
        ("names.zip", samples::zip(&[(b"../../x.txt", b"")])),
        ("config.zip", config),
        ("control.zip", samples::zip(&[(b"a\x1b[2J\n", b"")])),
        ("long.zip", samples::zip(&[(&[b'x'; 60_000], b"")])),
        ("full.zip", samples::zip(&full)),
        ("none.jpg", Vec::new()),
        ("noise.bin", common::noise(2 << 20)),
    ]
}

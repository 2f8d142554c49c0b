//! The media type of a file, by what it holds.

use std::io::Read;

use super::{Trouble, image::BMP_HEADERS, window::Window};
use crate::store::Contents;

/// Bytes at the beginning that are looked at.
const HEAD: u64 = 65_536;

/// The type of a file that is not recognised.
const BYTES: &str = "application/octet-stream";

const TEXT: &str = "text/plain";

/// Older Office documents and installers share this format; telling them apart takes more than
/// their first bytes.
const OLE: (&[u8], &str) = (
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "application/x-ole-storage",
);

/// Types whose files may be plain text. Some of the others are recognised by two letters: a text
/// that begins with `BMX` would be a picture.
const WRITTEN: [&str; 7] = [
    "application/pdf",
    "application/postscript",
    "application/rtf",
    "application/x-x509-ca-cert",
    "text/html",
    "text/x-shellscript",
    "text/xml",
];

/// The media type of contents.
pub(super) fn of(contents: &dyn Contents) -> Result<&'static str, Trouble> {
    // Twice as much, because a read is charged for what it asks, not for what it gets.
    let mut window = Window::new(contents, 2 * HEAD).map_err(Trouble::Io)?;
    let mut head = Vec::new();
    let read = window.by_ref().take(HEAD).read_to_end(&mut head);
    if let Err(e) = read {
        return Err(Trouble::of(&mut window, e));
    }
    let goes_on = window.size() > head.len() as u64;
    Ok(of_head(&head, goes_on))
}

fn of_head(head: &[u8], goes_on: bool) -> &'static str {
    let (magic, ole) = OLE;
    if head.starts_with(magic) {
        return ole;
    }
    let known = infer::get(head).map(|known| known.mime_type());
    let known = known.filter(|known| *known != "image/bmp" || is_bmp(head));
    match is_text(head, goes_on) {
        true => known
            .filter(|known| WRITTEN.contains(known))
            .unwrap_or(TEXT),
        false => known
            .or_else(|| of_boxes(head))
            .unwrap_or_else(|| rest(head)),
    }
}

fn is_bmp(head: &[u8]) -> bool {
    let len = head.get(14..).and_then(|len| len.first_chunk());
    len.is_some_and(|len| BMP_HEADERS.contains(&u32::from_le_bytes(*len)))
}

/// The type of a file that begins with the brands of what it is compatible with.
fn of_boxes(head: &[u8]) -> Option<&'static str> {
    let (len, rest) = head.split_first_chunk()?;
    let brands = rest.strip_prefix(b"ftyp")?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    let (brand, _) = brands.split_first_chunk::<4>()?;
    match brand {
        b"3g2a" | b"3g2b" | b"3g2c" => return Some("video/3gpp2"),
        [b'3', b'g', ..] => return Some("video/3gpp"),
        b"crx " => return Some("image/x-canon-cr3"),
        b"XAVC" => return Some("video/mp4"),
        b"M4B " | b"M4P " => return Some("audio/m4a"),
        b"mif1" | b"msf1" | b"heis" | b"heim" | b"hevc" | b"hevm" | b"hevs" | b"hevx" => {
            return Some("image/heif");
        }
        _ => {}
    }
    // After the first brand comes its version.
    let others = brands.get(8..len.saturating_sub(8).min(brands.len()))?;
    let (others, _) = others.as_chunks::<4>();
    let is_film = |brand: &[u8; 4]| matches!(brand, b"mp41" | b"mp42" | b"isom");
    others.iter().any(is_film).then_some("video/mp4")
}

/// The type of pictures that `file.image()` reads and that are not recognised so far.
fn rest(head: &[u8]) -> &'static str {
    match head {
        [b'q', b'o', b'i', b'f', ..] => "image/qoi",
        [b'I', b'I', 0x2b, 0, ..] | [b'M', b'M', 0, 0x2b, ..] => "image/tiff",
        _ => BYTES,
    }
}

/// Whether it is UTF-8 without NUL; if the contents continue, the last character may be cut.
fn is_text(head: &[u8], goes_on: bool) -> bool {
    let is_utf8 = match str::from_utf8(head) {
        Ok(_) => true,
        Err(e) => goes_on && e.error_len().is_none(),
    };
    is_utf8 && !head.contains(&0)
}

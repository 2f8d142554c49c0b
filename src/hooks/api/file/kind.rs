//! The media type of a file, by what it holds.

use std::io::Read;

use super::{Trouble, window::Window};
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
    match is_text(head, goes_on) {
        true => known
            .filter(|known| WRITTEN.contains(known))
            .unwrap_or(TEXT),
        false => known.unwrap_or(BYTES),
    }
}

/// Whether it is UTF-8 without NUL; where the contents go on, the last character may be cut.
fn is_text(head: &[u8], goes_on: bool) -> bool {
    let is_utf8 = match str::from_utf8(head) {
        Ok(_) => true,
        Err(e) => goes_on && e.error_len().is_none(),
    };
    is_utf8 && !head.contains(&0)
}

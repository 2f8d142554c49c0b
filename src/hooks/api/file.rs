//! `file`: what the files of a folder are, by their contents.
//!
//! The files come from senders. So each parser reads through a window that closes when the script
//! has to stop or the parser reads too much, and a panic of a parser only fails the function.

mod blocks;
mod exif;
mod image;
mod kind;
mod tiff;
mod window;
mod zip;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use rhai::{Engine, EvalAltResult, Map};

use super::{
    folder,
    function::{Function, Made, fail, shown},
};
use crate::store::Contents;
pub use exif::Exif;
pub use image::Image;
use window::{Fault, Window};
pub use zip::{Entries, Entry, Iter};

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "file",
        "file.kind(name)",
        "The media type of a file by its first 65,536 bytes, whatever its name: image/jpeg, application/pdf, video/mp4 and about ninety others. UTF-8 text without NUL is text/plain unless it is HTML, XML, a shell script, PDF, PostScript, RTF or a certificate. A file that is not recognised is application/octet-stream. The rest of the file is not checked.",
        r#"
assert_eq(file.kind("abc.txt"), "text/plain");
if !file.kind("myfoto.jpg").starts_with("image/") { reject("not a picture"); }
"#,
    ),
    Function::new(
        "file",
        "file.image(name)",
        "What a picture says about itself: #{width, height, taken, offset, camera, orientation}; what is unknown is (). width and height are in pixels, as stored. A TIFF that begins with a thumbnail, as many raw files do, has those of its own picture; if that is not found, they are (). taken is the time on the camera's clock as seconds for time.format() in UTC, which then gives the local date of the picture. offset is how many seconds this clock was ahead of UTC: taken - offset is the moment itself. camera is make and model. orientation is 1 to 8 as in EXIF; from 5 on, the picture is shown with width and height swapped. In HEIF, AVIF and JPEG XL, width and height are as shown, and orientation is (). Reads JPEG, PNG, GIF, WebP, HEIF, AVIF, JPEG XL, TIFF, BMP and QOI, and fails for any other file. The sender can make up all of it.",
        r#"
let picture = file.image("myfoto.jpg");
assert_eq([picture.width, picture.height], [4032, 3024]);
assert_eq(time.format(picture.taken, "%Y/%m"), "2026/05");
assert_eq(time.format(picture.taken - picture.offset, "%H:%M"), "08:11");
assert_eq(picture.camera, "Canon EOS R5");
"#,
    ),
    Function::new(
        "file",
        "file.zip(name)",
        "The entries of a zip archive, from its directory; nothing is unpacked. Each is #{name, size, packed, encrypted}: size is the number of bytes that it claims to unpack to, packed its size in the archive. A name has at most 512 bytes and may be a path that leads anywhere: text.file_name() makes a safe name of it. Fails if the file is not a zip archive, is damaged, has more than 1,000 entries, or has overlapping entries, as a zip bomb does. For what you can do with them, see entries.",
        r#"
let bytes = 0;
for entry in file.zip("papers.zip") {
    if entry.encrypted || text.extension(entry.name) == "exe" { reject("this archive is not accepted"); }
    bytes += entry.size;
}
assert_eq(bytes, 1_234);
"#,
    ),
    Function::new(
        "entries",
        "entries.len()",
        "How many entries there are. A `for` goes through all of them.",
        r#"
let entries = file.zip("papers.zip");
assert_eq(entries.len(), 2);
for entry in entries { log.info(`${entry.name}: ${entry.size} bytes`); }
"#,
    ),
    Function::new(
        "entries",
        "entries.is_empty()",
        "Whether the archive is empty.",
        r#"
if file.zip("papers.zip").is_empty() { reject("it is empty"); }
"#,
    ),
    Function::new(
        "entries",
        "entries[index]",
        "The entry at an index, counted from 0.",
        r#"
assert_eq(file.zip("papers.zip")[0].name, "letters/first.txt");
"#,
    ),
];

/// The media type of contents, by their first 65,536 bytes.
///
/// # Errors
/// Only if they cannot be read, or the script has to stop.
pub fn kind_of(contents: &dyn Contents) -> Result<&'static str, Trouble> {
    kind::of(contents)
}

/// The size of a picture, and what its camera wrote. Reads at most 2 MiB.
///
/// # Errors
/// If it is not a picture of a known format, is cut off before its size, or cannot be read.
pub fn image_of(contents: &dyn Contents) -> Result<Image, Trouble> {
    image::of(contents)
}

/// The entries of a zip archive, from its directory.
///
/// # Errors
/// If it is not a zip archive, is damaged, has overlapping entries, is too large to list (1,000
/// entries, names of 512 bytes, a directory of 1 MiB), or cannot be read.
pub fn zip_of(contents: &dyn Contents) -> Result<Entries, Trouble> {
    zip::of(contents)
}

/// Why a function of `file` failed.
#[derive(Debug)]
pub enum Trouble {
    /// What is wrong with the file; a sentence that begins with its name.
    Is(&'static str),
    /// It cannot be read.
    Io(io::Error),
    /// The script has to stop.
    Stop(Box<EvalAltResult>),
}

impl Trouble {
    /// The reason for an error of reading.
    fn of(window: &mut Window<'_>, error: io::Error) -> Self {
        window.take_fault().map_or(Self::Io(error), Into::into)
    }

    fn into_failure(self, call: &str, name: &str) -> Box<EvalAltResult> {
        let name = shown(name);
        match self {
            Self::Is(what) => fail(format!("{call}: {name} {what}")),
            Self::Io(error) => fail(format!("{call}: {name} cannot be used: {error}")),
            Self::Stop(stop) => stop,
        }
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Stop(stop) => Self::Stop(stop),
            Fault::Io(error) => Self::Io(error),
            Fault::Budget => Self::Is("cannot be understood within 1 MiB of reading"),
        }
    }
}

/// `file` in a script.
#[derive(Clone)]
pub struct Handle(folder::Handle);

impl Handle {
    pub(super) fn new(folder: &folder::Handle) -> Self {
        Self(folder.clone())
    }

    fn kind(&mut self, name: &str) -> Made<&'static str> {
        self.told("file.kind()", name, kind_of)
    }

    fn image(&mut self, name: &str) -> Made<Map> {
        let image = self.told("file.image()", name, image_of)?;
        Ok(image.to_map())
    }

    fn zip(&mut self, name: &str) -> Made<Entries> {
        self.told("file.zip()", name, zip_of)
    }

    fn told<T>(
        &self,
        call: &str,
        name: &str,
        tell: fn(&dyn Contents) -> Result<T, Trouble>,
    ) -> Made<T> {
        let contents = self.0.open(call, name)?;
        contained(|| tell(&*contents)).map_err(|trouble| trouble.into_failure(call, name))
    }
}

/// Turns a panic of a parser into an error about its file. Only the parser's own values, which
/// are gone then, could be left inconsistent.
fn contained<T>(tell: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(tell)).unwrap_or(Err(Trouble::Is("cannot be parsed")))
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn register(engine: &mut Engine) {
    zip::register(engine);
    engine
        .register_type_with_name::<Handle>("File")
        .register_fn("kind", |file: &mut Handle, name: &str| {
            file.kind(name).map(str::to_owned)
        })
        .register_fn("image", Handle::image)
        .register_fn("zip", Handle::zip);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::panic)]
    fn a_parser_that_panics_is_a_function_that_fails() {
        let trouble = contained::<()>(|| panic!("a parser"));
        assert!(matches!(trouble, Err(Trouble::Is(_))), "{trouble:?}");
    }
}

//! `file`: what the files of a folder are, told from what they hold.
//!
//! What comes from a sender is taken to pieces here, so each parser reads through a window that
//! ends when the script has to stop or when a parser wants too much, and a parser that panics
//! is a function that fails.

mod blocks;
mod exif;
mod image;
mod kind;
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
        "The media type of a file by its first 65,536 bytes, whatever its name: image/jpeg, application/pdf, application/zip, video/mp4 and some ninety others. UTF-8 text is text/plain unless it is text/html, text/xml, text/x-shellscript or a document that is written as text; what nothing is known of is application/octet-stream. It tells how a file begins, not that all of it is as it should be.",
        r#"
assert_eq(file.kind("abc.txt"), "text/plain");
if !file.kind("myfoto.jpg").starts_with("image/") { reject("no picture"); }
"#,
    ),
    Function::new(
        "file",
        "file.image(name)",
        "What a picture tells of itself: #{width, height, taken, offset, camera, orientation}, where () is unknown. width and height are pixels, as stored. taken is what the camera's clock showed, in seconds for time.format() of UTC, so that it gives the date at the place of the picture; offset is how many seconds that clock was ahead of UTC, so that the moment was taken - offset. camera is make and model. orientation is that of EXIF, 1 to 8: from 5 on, width and height change places when the picture is shown. It reads JPEG, PNG, GIF, WebP, HEIF, AVIF, JPEG XL, TIFF, BMP and QOI, and fails for any other file. All of it is what the sender says.",
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
        "What a zip archive holds, as its directory says; nothing is unpacked. For each entry #{name, size, packed, encrypted}: size is its bytes when it is unpacked, packed those in the archive. A name is at most 512 bytes and may be a path that leads anywhere: text.file_name() makes it a name of a file. It fails for a file that is no zip archive, for more than 1,000 entries, and for entries that share their bytes, as those of a zip bomb do. For what the entries can do, see entries.",
        r#"
let bytes = 0;
for entry in file.zip("papers.zip") {
    if entry.encrypted || text.extension(entry.name) == "exe" { reject("no such archive"); }
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
        "Whether there is no entry.",
        r#"
if file.zip("papers.zip").is_empty() { reject("there is nothing in it"); }
"#,
    ),
    Function::new(
        "entries",
        "entries[index]",
        "The entry at a place, the first at 0.",
        r#"
assert_eq(file.zip("papers.zip")[0].name, "letters/first.txt");
"#,
    ),
];

/// The media type of contents, by how they begin.
pub fn kind_of(contents: &dyn Contents) -> Result<&'static str, Trouble> {
    kind::of(contents)
}

/// What the picture that contents are tells of itself.
pub fn image_of(contents: &dyn Contents) -> Result<Image, Trouble> {
    image::of(contents)
}

/// What the zip archive that contents are says it holds.
pub fn zip_of(contents: &dyn Contents) -> Result<Entries, Trouble> {
    zip::of(contents)
}

/// Why nothing can be told of a file.
#[derive(Debug)]
pub enum Trouble {
    /// What it is, or is not; to be read behind its name.
    Is(&'static str),
    /// It cannot be read.
    Io(io::Error),
    /// The script has to stop.
    Stop(Box<EvalAltResult>),
}

impl Trouble {
    /// What an error of reading was.
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
            Fault::Budget => Self::Is("tells nothing in the first 1,048,576 bytes that are read"),
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

/// Turns a panic of a parser into trouble with its file. The parser's own values are all that
/// it may leave half done.
fn contained<T>(tell: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(tell)).unwrap_or(Err(Trouble::Is("breaks what reads such files")))
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

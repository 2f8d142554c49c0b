//! What a camera wrote into a picture: the few EXIF fields that scripts need.
//!
//! A general EXIF reader keeps as many fields as a file makes it find: overlapping directories
//! turn 64 KiB into millions of fields. This one reads two directories, looks for eight fields,
//! and keeps only their values.

use std::io;

use imagesize::ImageType;
use jiff::{civil::DateTime, tz::TimeZone};

use super::{
    blocks::{self, Block},
    window::Window,
};
use crate::error::printable;

/// Fields of one directory; cameras write some sixty.
const MAX_FIELDS: u16 = 512;

/// Bytes of a text that are looked at.
const MAX_TEXT: usize = 64;

/// The types of a field: a text, and numbers of two and four bytes.
const ASCII: u16 = 2;
const SHORT: u16 = 3;
const LONG: u16 = 4;

/// When and by what a picture was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exif {
    /// What the camera's clock showed when the picture was taken, in seconds since 1970 as if
    /// that clock were in UTC.
    pub taken: Option<i64>,
    /// Seconds that the camera's clock was ahead of UTC.
    pub offset: Option<i64>,
    /// The make and model of the camera.
    pub camera: Option<String>,
    /// How the picture has to be turned to stand upright, 1 to 8.
    pub orientation: Option<i64>,
}

/// Reads the EXIF of a picture. Fields that are missing or damaged are unknown; whether reading
/// failed, the window knows.
pub(super) fn of(window: &mut Window<'_>, format: ImageType) -> Exif {
    let mut found = Found::default();
    if let Ok(Some(block)) = blocks::find(window, format) {
        // Where the document is damaged, the fields found before count.
        let _ = read(window, block, &mut found);
    }
    found.exif()
}

fn read(window: &mut Window<'_>, block: Block, found: &mut Found) -> io::Result<()> {
    let little = match &window.bytes::<4>(block.start)? {
        b"II\x2a\0" => true,
        b"MM\0\x2a" => false,
        _ => return Ok(()),
    };
    let mut tiff = Tiff {
        window,
        block,
        little,
        found,
    };
    let first = tiff.u32(4)?;
    tiff.directory(first, Tiff::of_picture)?;
    match tiff.found.taking {
        Some(taking) => tiff.directory(taking, Tiff::of_taking),
        None => Ok(()),
    }
}

/// Values as they were found.
#[derive(Default)]
struct Found {
    make: Option<String>,
    model: Option<String>,
    orientation: Option<i64>,
    /// Where the directory about the taking begins.
    taking: Option<u32>,
    original: Option<i64>,
    digitized: Option<i64>,
    original_offset: Option<i64>,
    digitized_offset: Option<i64>,
}

impl Found {
    fn exif(self) -> Exif {
        let (taken, offset) = match self.original {
            Some(original) => (Some(original), self.original_offset),
            None => (self.digitized, self.digitized_offset),
        };
        Exif {
            taken,
            offset: offset.filter(|_| taken.is_some()),
            camera: camera(self.make, self.model),
            orientation: self.orientation,
        }
    }
}

/// A field of a directory.
struct Field {
    tag: u16,
    kind: u16,
    count: u32,
    /// Where its value stands, or where it is told where that stands.
    at: u64,
}

/// A TIFF document, which is what EXIF is; places count from its beginning.
struct Tiff<'w, 'c> {
    window: &'w mut Window<'c>,
    block: Block,
    little: bool,
    found: &'w mut Found,
}

impl Tiff<'_, '_> {
    fn bytes<const N: usize>(&mut self, at: u64) -> io::Result<[u8; N]> {
        let from = self.block.start.saturating_add(at);
        match from.saturating_add(N as u64) > self.block.end {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => self.window.bytes(from),
        }
    }

    fn u16(&mut self, at: u64) -> io::Result<u16> {
        let bytes = self.bytes(at)?;
        Ok(match self.little {
            true => u16::from_le_bytes(bytes),
            false => u16::from_be_bytes(bytes),
        })
    }

    fn u32(&mut self, at: u64) -> io::Result<u32> {
        let bytes = self.bytes(at)?;
        Ok(match self.little {
            true => u32::from_le_bytes(bytes),
            false => u32::from_be_bytes(bytes),
        })
    }

    /// Looks at each field of one directory, and does not follow those it leads to.
    fn directory(
        &mut self,
        at: u32,
        look: fn(&mut Self, &Field) -> io::Result<()>,
    ) -> io::Result<()> {
        let at = u64::from(at);
        let count = self.u16(at)?.min(MAX_FIELDS);
        for n in 0..u64::from(count) {
            let at = at + 2 + 12 * n;
            let field = Field {
                tag: self.u16(at)?,
                kind: self.u16(at + 2)?,
                count: self.u32(at + 4)?,
                at: at + 8,
            };
            match look(self, &field) {
                // A value outside of the document is as good as missing.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                looked => looked?,
            }
        }
        Ok(())
    }

    fn of_picture(&mut self, field: &Field) -> io::Result<()> {
        match field.tag {
            0x010f => self.found.make = self.text(field)?,
            0x0110 => self.found.model = self.text(field)?,
            0x0112 => {
                let turned = self
                    .number(field)?
                    .filter(|turned| (1..=8).contains(turned));
                self.found.orientation = turned.map(i64::from);
            }
            0x8769 => self.found.taking = self.number(field)?,
            _ => {}
        }
        Ok(())
    }

    fn of_taking(&mut self, field: &Field) -> io::Result<()> {
        match field.tag {
            0x9003 => self.found.original = self.text(field)?.as_deref().and_then(moment),
            0x9004 => self.found.digitized = self.text(field)?.as_deref().and_then(moment),
            0x9011 => self.found.original_offset = self.text(field)?.as_deref().and_then(offset),
            0x9012 => self.found.digitized_offset = self.text(field)?.as_deref().and_then(offset),
            _ => {}
        }
        Ok(())
    }

    fn number(&mut self, field: &Field) -> io::Result<Option<u32>> {
        Ok(match (field.kind, field.count) {
            (SHORT, 1) => Some(self.u16(field.at)?.into()),
            (LONG, 1) => Some(self.u32(field.at)?),
            _ => None,
        })
    }

    /// The beginning of a text, up to a NUL.
    fn text(&mut self, field: &Field) -> io::Result<Option<String>> {
        if field.kind != ASCII {
            return Ok(None);
        }
        let at = match field.count {
            0..=4 => field.at,
            _ => self.u32(field.at)?.into(),
        };
        let mut text = Vec::new();
        for n in 0..u64::from(field.count).min(MAX_TEXT as u64) {
            match self.bytes(at.saturating_add(n))? {
                [0] => break,
                [byte] => text.push(byte),
            }
        }
        let text = String::from_utf8_lossy(&text);
        let text = text.trim();
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }
}

/// Make and model in one; most models begin with their make.
fn camera(make: Option<String>, model: Option<String>) -> Option<String> {
    let camera = match (make, model) {
        (Some(make), Some(model)) => {
            let first = make.split(' ').next().unwrap_or_default().to_lowercase();
            match model.to_lowercase().starts_with(&first) {
                true => model,
                false => format!("{make} {model}"),
            }
        }
        (make, model) => make.or(model)?,
    };
    Some(printable(&camera, 2 * MAX_TEXT))
}

/// Seconds since 1970 of `2026:05:07 10:11:12`, read as UTC; `None` for the zeros or blanks of a
/// clock that was never set.
fn moment(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i16> {
        let digits = text.get(from..to)?;
        let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
        is_number.then(|| digits.parse().ok())?
    };
    let part = |from: usize| -> Option<i8> { number(from, from + 2)?.try_into().ok() };
    let year = number(0, 4).filter(|year| *year > 0)?;
    let shown = DateTime::new(year, part(5)?, part(8)?, part(11)?, part(14)?, part(17)?, 0);
    let shown = shown.ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(shown.timestamp().as_second())
}

/// Seconds of `+02:00`.
fn offset(text: &str) -> Option<i64> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+')?),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |text: &str, limit: i64| {
        let is_number = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_digit());
        let number: i64 = is_number.then(|| text.parse().ok())??;
        (number < limit).then_some(number)
    };
    Some(sign * (number(hours, 24)? * 3_600 + number(minutes, 60)? * 60))
}

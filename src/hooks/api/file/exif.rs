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
    tiff::{Field, MAX_TEXT, Tiff},
    window::Window,
};
use crate::error::printable;

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
        // If the document is damaged, the fields found before count.
        let _ = read(window, block, &mut found);
    }
    found.exif()
}

fn read(window: &mut Window<'_>, block: Block, found: &mut Found) -> io::Result<()> {
    let Some(mut tiff) = Tiff::open(window, block)? else {
        return Ok(());
    };
    let first = tiff.first()?;
    tiff.directory(first, |tiff, field| found.of_picture(tiff, field))?;
    match found.taking {
        Some(taking) => tiff.directory(taking, |tiff, field| found.of_taking(tiff, field)),
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

    fn of_picture(&mut self, tiff: &mut Tiff<'_, '_>, field: &Field) -> io::Result<()> {
        match field.tag {
            0x010f => self.make = tiff.text(field)?,
            0x0110 => self.model = tiff.text(field)?,
            0x0112 => {
                let turned = tiff
                    .number(field)?
                    .filter(|turned| (1..=8).contains(turned));
                self.orientation = turned.map(i64::from);
            }
            0x8769 => self.taking = tiff.number(field)?,
            _ => {}
        }
        Ok(())
    }

    fn of_taking(&mut self, tiff: &mut Tiff<'_, '_>, field: &Field) -> io::Result<()> {
        match field.tag {
            0x9003 => self.original = tiff.text(field)?.as_deref().and_then(moment),
            0x9004 => self.digitized = tiff.text(field)?.as_deref().and_then(moment),
            0x9011 => self.original_offset = tiff.text(field)?.as_deref().and_then(offset),
            0x9012 => self.digitized_offset = tiff.text(field)?.as_deref().and_then(offset),
            _ => {}
        }
        Ok(())
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

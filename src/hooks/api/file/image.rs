//! What a picture says about itself; nothing is decoded.

use imagesize::ImageType;
use rhai::{Dynamic, Map};

use super::{
    Trouble,
    exif::{self, Exif},
    whole,
    window::{Fault, Window},
};
use crate::store::Contents;

/// Bytes that are read to find the size, and again to find the EXIF.
const BUDGET: u64 = 1 << 20;

const UNKNOWN: &str = "is not a picture that m2y can read: it must be JPEG, PNG, GIF, WebP, HEIF, AVIF, JPEG XL, TIFF, BMP or QOI, and not cut off";

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels from left to right as the file says, before `orientation` turns it.
    pub width: u64,
    /// Pixels from top to bottom, likewise.
    pub height: u64,
    /// What the camera wrote.
    pub exif: Exif,
}

impl Image {
    /// The map that a script gets.
    pub(super) fn to_map(&self) -> Map {
        fn or_unit<T: Into<Dynamic>>(value: Option<T>) -> Dynamic {
            value.map_or(Dynamic::UNIT, Into::into)
        }
        let exif = self.exif.clone();
        Map::from_iter([
            ("width".into(), whole(self.width).into()),
            ("height".into(), whole(self.height).into()),
            ("taken".into(), or_unit(exif.taken)),
            ("offset".into(), or_unit(exif.offset)),
            ("camera".into(), or_unit(exif.camera)),
            ("orientation".into(), or_unit(exif.orientation)),
        ])
    }
}

/// Reads a picture's size and EXIF.
pub(super) fn of(contents: &dyn Contents) -> Result<Image, Trouble> {
    let mut window = Window::new(contents, BUDGET).map_err(Trouble::Io)?;
    let size = imagesize::reader_type(&mut window)
        .and_then(|format| Ok((format, format.reader_size(&mut window)?)));
    let (format, size) = size.map_err(|_| match window.take_fault() {
        Some(fault) => fault.into(),
        None => Trouble::Is(UNKNOWN),
    })?;
    let mut window = Window::new(contents, BUDGET).map_err(Trouble::Io)?;
    let mut exif = exif::of(&mut window, format);
    match window.take_fault() {
        // EXIF further into the file is not found.
        None | Some(Fault::Budget) => {}
        Some(fault) => return Err(fault.into()),
    }
    let mut height = size.height as u64;
    match format {
        // These formats rotate by themselves, and their size is the one after rotation.
        ImageType::Heif(_) | ImageType::Jxl => exif.orientation = None,
        // A negative height means rows from top to bottom.
        ImageType::Bmp => {
            let signed = u32::try_from(height).unwrap_or_default().cast_signed();
            height = signed.unsigned_abs().into();
        }
        _ => {}
    }
    Ok(Image {
        width: size.width as u64,
        height,
        exif,
    })
}

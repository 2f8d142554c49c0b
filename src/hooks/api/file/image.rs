//! What a picture says about itself; nothing is decoded.

use std::io;

use imagesize::{ImageResult, ImageType};
use rhai::{Dynamic, Map};

use super::{
    Trouble,
    exif::{self, Exif},
    tiff, whole,
    window::{Fault, Window},
};
use crate::store::Contents;

/// Bytes that are read to find the size, and again to find the EXIF.
const BUDGET: u64 = 1 << 20;

const UNKNOWN: &str = "is not a picture that m2y can read: it must be JPEG, PNG, GIF, WebP, HEIF, AVIF, JPEG XL, TIFF, BMP or QOI, and not cut off";

/// The lengths of the second header of a BMP. Its first one has nothing else to recognise it by:
/// everything that begins with `BM` would be a picture.
pub(super) const BMP_HEADERS: [u32; 7] = [12, 40, 52, 56, 64, 108, 124];

/// Pixels from left to right and from top to bottom.
pub(super) type Size = (u64, u64);

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels from left to right and from top to bottom as the file says, before `orientation`
    /// turns it; `None` if the file only says those of a thumbnail.
    pub size: Option<(u64, u64)>,
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
            ("width".into(), or_unit(self.size.map(|size| whole(size.0)))),
            (
                "height".into(),
                or_unit(self.size.map(|size| whole(size.1))),
            ),
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
    let (format, size) = measure(&mut window).map_err(|_| match window.take_fault() {
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
    // These formats rotate by themselves, and their size is the one after rotation.
    if matches!(format, ImageType::Heif(_) | ImageType::Jxl) {
        exif.orientation = None;
    }
    Ok(Image { size, exif })
}

fn measure(window: &mut Window<'_>) -> ImageResult<(ImageType, Option<Size>)> {
    let format = imagesize::reader_type(&mut *window)?;
    if format == ImageType::Bmp {
        return Ok((format, Some(of_bmp(window)?)));
    }
    let size = format.reader_size(window)?;
    let size = (size.width as u64, size.height as u64);
    let size = match format {
        ImageType::Tiff => tiff::full_size(window, size)?,
        _ => Some(size),
    };
    Ok((format, size))
}

fn of_bmp(window: &mut Window<'_>) -> io::Result<Size> {
    let len = u32::from_le_bytes(window.bytes(14)?);
    let (width, height) = match len {
        12 => (
            u16::from_le_bytes(window.bytes(18)?).into(),
            u16::from_le_bytes(window.bytes(20)?).into(),
        ),
        _ => (
            i32::from_le_bytes(window.bytes(18)?),
            i32::from_le_bytes(window.bytes(22)?),
        ),
    };
    if !BMP_HEADERS.contains(&len) || width < 1 || height == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // A negative height means rows from top to bottom.
    Ok((width.unsigned_abs().into(), height.unsigned_abs().into()))
}

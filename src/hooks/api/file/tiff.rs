//! TIFF documents: EXIF is one, and so are many pictures and the raw files of most cameras.

use std::io;

use super::{blocks::Block, image::Size, window::Window};

/// Fields of one directory; cameras write some sixty.
const MAX_FIELDS: u16 = 512;

/// Bytes of a text that are looked at.
pub(super) const MAX_TEXT: usize = 64;

/// Pictures within the first one that are looked at.
const MAX_WITHIN: u32 = 8;

/// The types of a field: a text, numbers of two and four bytes, and the place of a directory.
const ASCII: u16 = 2;
const SHORT: u16 = 3;
const LONG: u16 = 4;
const IFD: u16 = 13;

/// A field of a directory.
pub(super) struct Field {
    pub(super) tag: u16,
    kind: u16,
    count: u32,
    /// Where its value is, or the place of its value.
    at: u64,
}

/// A TIFF document; places count from its beginning.
pub(super) struct Tiff<'w, 'c> {
    window: &'w mut Window<'c>,
    block: Block,
    little: bool,
}

impl<'w, 'c> Tiff<'w, 'c> {
    /// The document in a part of a file; `None` if there is none, or one with places of eight
    /// bytes.
    pub(super) fn open(window: &'w mut Window<'c>, block: Block) -> io::Result<Option<Self>> {
        let little = match &window.bytes::<4>(block.start)? {
            b"II\x2a\0" => true,
            b"MM\0\x2a" => false,
            _ => return Ok(None),
        };
        Ok(Some(Self {
            window,
            block,
            little,
        }))
    }

    /// Where the first directory begins.
    pub(super) fn first(&mut self) -> io::Result<u32> {
        self.u32(4)
    }

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
    pub(super) fn directory(
        &mut self,
        at: u32,
        mut look: impl FnMut(&mut Self, &Field) -> io::Result<()>,
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

    pub(super) fn number(&mut self, field: &Field) -> io::Result<Option<u32>> {
        Ok(match (field.kind, field.count) {
            (SHORT, 1) => Some(self.u16(field.at)?.into()),
            (LONG, 1) => Some(self.u32(field.at)?),
            _ => None,
        })
    }

    /// The beginning of a text, up to a NUL.
    pub(super) fn text(&mut self, field: &Field) -> io::Result<Option<String>> {
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

    /// The places of the first directories that a field leads to.
    fn places(&mut self, field: &Field) -> io::Result<Vec<u32>> {
        if !matches!(field.kind, LONG | IFD) {
            return Ok(Vec::new());
        }
        let at = match field.count {
            0 | 1 => field.at,
            _ => self.u32(field.at)?.into(),
        };
        let places = 0..field.count.min(MAX_WITHIN);
        places
            .map(|n| self.u32(at.saturating_add(4 * u64::from(n))))
            .collect()
    }

    /// What a directory says about its picture. If it is cut off, what it says before that.
    fn picture(&mut self, at: u32) -> io::Result<Picture> {
        let mut picture = Picture::default();
        let read = self.directory(at, |tiff, field| {
            match field.tag {
                0x00fe => picture.is_reduced = tiff.number(field)?.is_some_and(|kind| kind & 1 > 0),
                0x0100 => picture.width = tiff.number(field)?,
                0x0101 => picture.height = tiff.number(field)?,
                0x014a => picture.within = tiff.places(field)?,
                _ => {}
            }
            Ok(())
        });
        match read {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
            read => read?,
        }
        Ok(picture)
    }
}

/// A picture of a document.
#[derive(Default)]
struct Picture {
    /// Whether it is a smaller version of another one.
    is_reduced: bool,
    width: Option<u32>,
    height: Option<u32>,
    /// Where the directories of the pictures that belong to it begin.
    within: Vec<u32>,
}

/// The size of the picture that a file is about, given that of its first one. Raw files begin with
/// a thumbnail, and their own picture belongs to that; `None` if it is not found.
pub(super) fn full_size(window: &mut Window<'_>, first: Size) -> io::Result<Option<Size>> {
    let block = Block {
        start: 0,
        end: window.size(),
    };
    let Some(mut tiff) = Tiff::open(window, block)? else {
        return Ok(Some(first));
    };
    let at = tiff.first()?;
    let picture = tiff.picture(at)?;
    if !picture.is_reduced {
        return Ok(Some(first));
    }
    for at in picture.within {
        let picture = tiff.picture(at)?;
        if let (false, Some(width), Some(height)) =
            (picture.is_reduced, picture.width, picture.height)
        {
            return Ok(Some((width.into(), height.into())));
        }
    }
    Ok(None)
}

//! Where the EXIF of a picture is, in each format that has one.

use std::io;

use imagesize::ImageType;

use super::window::Window;

/// What EXIF in a JPEG begins with; some programs write it into other formats too.
const MARK: &[u8; 6] = b"Exif\0\0";

/// Bytes of a file, from `start` to before `end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Finds the TIFF document that holds the EXIF, if there is one.
pub(super) fn find(window: &mut Window<'_>, format: ImageType) -> io::Result<Option<Block>> {
    let found = match format {
        ImageType::Jpeg => in_jpeg(window),
        ImageType::Png => in_png(window),
        ImageType::Webp => in_webp(window),
        ImageType::Heif(_) => in_heif(window),
        ImageType::Jxl => in_jxl(window),
        ImageType::Tiff => Ok(Some(Block {
            start: 0,
            end: window.size(),
        })),
        _ => Ok(None),
    };
    match found {
        // The picture is cut off.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        found => found,
    }
}

/// Without the mark at its beginning.
fn unmarked(window: &mut Window<'_>, block: Block) -> io::Result<Block> {
    let is_marked = window.bytes::<6>(block.start)? == *MARK;
    Ok(Block {
        start: block.start + if is_marked { MARK.len() as u64 } else { 0 },
        ..block
    })
}

fn in_jpeg(window: &mut Window<'_>) -> io::Result<Option<Block>> {
    let mut at = 2;
    loop {
        let [mark, kind] = window.bytes::<2>(at)?;
        match (mark, kind) {
            // Padding.
            (0xff, 0xff) => at += 1,
            // Markers without a length.
            (0xff, 0x01 | 0xd0..=0xd8) => at += 2,
            // The picture's data begins, or the file ends.
            (0xff, 0xda | 0xd9) => return Ok(None),
            (0xff, _) => {
                let len = u64::from(u16::from_be_bytes(window.bytes(at + 2)?));
                let block = Block {
                    start: at + 4,
                    end: at + 2 + len.max(2),
                };
                if kind == 0xe1 && len > 8 && window.bytes::<6>(block.start)? == *MARK {
                    return unmarked(window, block).map(Some);
                }
                at = block.end;
            }
            _ => return Ok(None),
        }
    }
}

fn in_png(window: &mut Window<'_>) -> io::Result<Option<Block>> {
    let mut at = 8_u64;
    loop {
        let len = u64::from(u32::from_be_bytes(window.bytes(at)?));
        let start = at + 8;
        let block = Block {
            start,
            end: start + len,
        };
        match &window.bytes(at + 4)? {
            b"eXIf" => return unmarked(window, block).map(Some),
            b"IEND" => return Ok(None),
            // The checksum follows.
            _ => at = block.end + 4,
        }
    }
}

fn in_webp(window: &mut Window<'_>) -> io::Result<Option<Block>> {
    let mut at = 12_u64;
    loop {
        let kind = window.bytes::<4>(at)?;
        let len = u64::from(u32::from_le_bytes(window.bytes(at + 4)?));
        let start = at + 8;
        let block = Block {
            start,
            end: start + len,
        };
        if &kind == b"EXIF" {
            return unmarked(window, block).map(Some);
        }
        at = block.end + len % 2;
    }
}

/// A box of a file that is made of boxes: what kind it is, and what it holds.
struct Boxed {
    kind: [u8; 4],
    block: Block,
}

/// The box at a place; `None` at the end of its parent, and if the bytes are not a box.
fn box_at(window: &mut Window<'_>, within: Block) -> io::Result<Option<Boxed>> {
    let at = within.start;
    if within.end.saturating_sub(at) < 8 {
        return Ok(None);
    }
    let kind = window.bytes(at + 4)?;
    let (head, len) = match u32::from_be_bytes(window.bytes(at)?) {
        0 => (8, within.end - at),
        1 => (16, u64::from_be_bytes(window.bytes(at + 8)?)),
        len => (8, len.into()),
    };
    let end = at.checked_add(len).filter(|end| *end <= within.end);
    Ok(end.filter(|_| len >= head).map(|end| Boxed {
        kind,
        block: Block {
            start: at + head,
            end,
        },
    }))
}

/// What the first box of a kind holds.
fn find_box(
    window: &mut Window<'_>,
    mut within: Block,
    kind: &[u8; 4],
) -> io::Result<Option<Block>> {
    while let Some(found) = box_at(window, within)? {
        if found.kind == *kind {
            return Ok(Some(found.block));
        }
        within.start = found.block.end;
    }
    Ok(None)
}

fn in_jxl(window: &mut Window<'_>) -> io::Result<Option<Block>> {
    let whole = Block {
        start: 0,
        end: window.size(),
    };
    match find_box(window, whole, b"Exif")? {
        Some(block) => behind_offset(window, block).map(Some),
        None => Ok(None),
    }
}

/// What follows the number of bytes before the TIFF document.
fn behind_offset(window: &mut Window<'_>, block: Block) -> io::Result<Block> {
    let skipped = u64::from(u32::from_be_bytes(window.bytes(block.start)?));
    Ok(Block {
        start: block.start + 4 + skipped,
        ..block
    })
}

/// In HEIF, EXIF is an item: one box has its number, another its place.
fn in_heif(window: &mut Window<'_>) -> io::Result<Option<Block>> {
    let whole = Block {
        start: 0,
        end: window.size(),
    };
    let Some(mut meta) = find_box(window, whole, b"meta")? else {
        return Ok(None);
    };
    // A version and flags.
    meta.start += 4;
    let Some(item) = exif_item(window, meta)? else {
        return Ok(None);
    };
    let Some(block) = item_place(window, meta, item)? else {
        return Ok(None);
    };
    behind_offset(window, block).map(Some)
}

/// The number of the item that is EXIF.
fn exif_item(window: &mut Window<'_>, meta: Block) -> io::Result<Option<u32>> {
    let Some(mut items) = find_box(window, meta, b"iinf")? else {
        return Ok(None);
    };
    let [version, ..] = window.bytes::<4>(items.start)?;
    items.start += if version == 0 { 6 } else { 8 };
    while let Some(item) = box_at(window, items)? {
        let start = item.block.start;
        let [version, ..] = window.bytes::<4>(start)?;
        let (id, kind_at) = match version {
            2 => (u16::from_be_bytes(window.bytes(start + 4)?).into(), 8),
            3 => (u32::from_be_bytes(window.bytes(start + 4)?), 10),
            _ => (0, 8),
        };
        if item.kind == *b"infe" && version > 1 && &window.bytes(start + kind_at)? == b"Exif" {
            return Ok(Some(id));
        }
        items.start = item.block.end;
    }
    Ok(None)
}

/// Where an item is that is in one piece.
fn item_place(window: &mut Window<'_>, meta: Block, item: u32) -> io::Result<Option<Block>> {
    let Some(places) = find_box(window, meta, b"iloc")? else {
        return Ok(None);
    };
    let [version, _, _, _, sizes, more] = window.bytes::<6>(places.start)?;
    let mut places = Numbers {
        window,
        at: places.start + 6,
        end: places.end,
    };
    let (offset, len, base) = (sizes >> 4, sizes & 15, more >> 4);
    let index = if version == 0 { 0 } else { more & 15 };
    let wide = if version < 2 { 2 } else { 4 };
    for _ in 0..places.next(wide)? {
        let id = places.next(wide)?;
        let method = if version == 0 {
            0
        } else {
            places.next(2)? & 15
        };
        places.next(2)?;
        let base = places.next(base)?;
        let pieces = places.next(2)?;
        let mut block = None;
        // Extents of zero bytes could be counted for hours.
        let told = if index + offset + len == 0 { 0 } else { pieces };
        for _ in 0..told {
            places.next(index)?;
            let start = base.checked_add(places.next(offset)?);
            let end = start.zip(Some(places.next(len)?));
            block = end.and_then(|(start, len)| {
                let end = start.checked_add(len)?;
                Some(Block { start, end })
            });
        }
        if id == u64::from(item) {
            // With the other methods the offset is within another item or box.
            return Ok(block.filter(|_| pieces == 1 && method == 0));
        }
    }
    Ok(None)
}

/// Numbers one after the other.
struct Numbers<'w, 'c> {
    window: &'w mut Window<'c>,
    at: u64,
    end: u64,
}

impl Numbers<'_, '_> {
    /// The next number, of this many bytes; 0 if it has none.
    fn next(&mut self, bytes: u8) -> io::Result<u64> {
        let mut number = 0_u64;
        for _ in 0..bytes {
            if self.at >= self.end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let [byte] = self.window.bytes(self.at)?;
            number = (number << 8) | u64::from(byte);
            self.at += 1;
        }
        Ok(number)
    }
}

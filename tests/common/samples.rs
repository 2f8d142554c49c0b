//! Files of many kinds, made byte by byte: small, valid where nothing else is said, and with
//! numbers that a test can choose.

use std::io;

use m2y::store::{Contents, Kind, Stat};

/// Contents that lie in memory.
pub struct Held(pub Vec<u8>);

impl Contents for Held {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat {
            kind: Kind::File,
            size: self.0.len() as u64,
            modified: 0,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = self.0.len().min(offset.try_into().unwrap_or(usize::MAX));
        let rest = &self.0[from..];
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn version(&self) -> io::Result<String> {
        Ok(String::new())
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What a camera writes; an empty text leaves the field out, and so does orientation 0.
#[derive(Clone, Copy)]
pub struct Camera<'a> {
    pub make: &'a str,
    pub model: &'a str,
    pub orientation: u16,
    pub taken: &'a str,
    pub digitized: &'a str,
    pub offset: &'a str,
}

pub const CANON: Camera<'static> = Camera {
    make: "Canon",
    model: "Canon EOS R5",
    orientation: 6,
    taken: "2026:05:07 10:11:12",
    digitized: "",
    offset: "+02:00",
};

/// Numbers in one byte order.
struct Bytes {
    little: bool,
    bytes: Vec<u8>,
}

impl Bytes {
    fn u16(&mut self, n: u16) {
        let bytes = match self.little {
            true => n.to_le_bytes(),
            false => n.to_be_bytes(),
        };
        self.bytes.extend(bytes);
    }

    fn u32(&mut self, n: u32) {
        let bytes = match self.little {
            true => n.to_le_bytes(),
            false => n.to_be_bytes(),
        };
        self.bytes.extend(bytes);
    }
}

/// A field of a TIFF directory: its tag, and a number of two bytes, some of four, or a text.
enum Field<'a> {
    Short(u16, u16),
    Long(u16, u32),
    Longs(u16, &'a [u32]),
    Text(u16, &'a str),
}

fn directory(out: &mut Bytes, fields: &[Field<'_>]) {
    let mut texts = Vec::new();
    let behind = out.bytes.len() + 2 + 12 * fields.len() + 4;
    out.u16(fields.len() as u16);
    for field in fields {
        match field {
            Field::Short(tag, n) => {
                out.u16(*tag);
                out.u16(3);
                out.u32(1);
                out.u16(*n);
                out.u16(0);
            }
            Field::Long(tag, n) => {
                out.u16(*tag);
                out.u16(4);
                out.u32(1);
                out.u32(*n);
            }
            Field::Longs(tag, numbers) => {
                out.u16(*tag);
                out.u16(4);
                out.u32(numbers.len() as u32);
                out.u32((behind + texts.len()) as u32);
                let mut longs = Bytes {
                    little: out.little,
                    bytes: Vec::new(),
                };
                numbers.iter().for_each(|n| longs.u32(*n));
                texts.extend(longs.bytes);
            }
            Field::Text(tag, text) => {
                out.u16(*tag);
                out.u16(2);
                out.u32((text.len() as u32 + 1).max(5));
                out.u32((behind + texts.len()) as u32);
                texts.extend(text.bytes());
                // One of up to four bytes would stand in the field itself.
                texts.extend([0; 5]);
            }
        }
    }
    out.u32(0);
    out.bytes.extend(texts);
}

/// A TIFF document: EXIF, and with a size a picture of its own.
pub fn tiff(camera: &Camera<'_>, little: bool, size: Option<(u32, u32)>) -> Vec<u8> {
    let mut out = Bytes {
        little,
        bytes: if little { b"II".into() } else { b"MM".into() },
    };
    out.u16(42);
    out.u32(8);
    let mut fields = Vec::new();
    if let Some((width, height)) = size {
        fields.extend([Field::Long(0x100, width), Field::Long(0x101, height)]);
    }
    for (tag, text) in [(0x010f, camera.make), (0x0110, camera.model)] {
        if !text.is_empty() {
            fields.push(Field::Text(tag, text));
        }
    }
    if camera.orientation > 0 {
        fields.push(Field::Short(0x0112, camera.orientation));
    }
    // The second directory lies behind the first one and its texts.
    fields.push(Field::Long(0x8769, 0));
    let mut first = Bytes {
        little,
        bytes: out.bytes.clone(),
    };
    directory(&mut first, &fields);
    fields.pop();
    fields.push(Field::Long(0x8769, first.bytes.len() as u32));
    directory(&mut out, &fields);
    let taking: Vec<_> = [
        (0x9003, camera.taken),
        (0x9004, camera.digitized),
        (0x9011, camera.offset),
    ]
    .into_iter()
    .filter(|(_, text)| !text.is_empty())
    .map(|(tag, text)| Field::Text(tag, text))
    .collect();
    directory(&mut out, &taking);
    out.bytes
}

/// A raw file: a thumbnail of 160 x 120, and the pictures that belong to it, each with its kind
/// (1 for a smaller version) and its size.
pub fn raw(little: bool, within: &[(u32, u32, u32)]) -> Vec<u8> {
    let mut out = Bytes {
        little,
        bytes: if little { b"II".into() } else { b"MM".into() },
    };
    out.u16(42);
    out.u32(8);
    let many = within.len() > 1;
    let from = 8 + 2 + 12 * 4 + 4 + if many { 4 * within.len() } else { 0 };
    let of_one = 2 + 12 * 3 + 4;
    let places: Vec<u32> = (0..within.len())
        .map(|n| (from + of_one * n) as u32)
        .collect();
    let pictures = match *places {
        // A single one stands in the field itself.
        [place] => Field::Long(0x014a, place),
        _ => Field::Longs(0x014a, &places),
    };
    let thumbnail = [
        Field::Long(0x00fe, 1),
        Field::Long(0x0100, 160),
        Field::Long(0x0101, 120),
        pictures,
    ];
    directory(&mut out, &thumbnail);
    for (kind, width, height) in within {
        let fields = [
            Field::Long(0x00fe, *kind),
            Field::Long(0x0100, *width),
            Field::Long(0x0101, *height),
        ];
        directory(&mut out, &fields);
    }
    out.bytes
}

/// EXIF that leads a reader of all fields to `n * n` of them.
pub fn tiff_of_many_fields(n: u16) -> Vec<u8> {
    let count = usize::from(n);
    let mut out = Bytes {
        little: false,
        bytes: b"MM\0\x2a\0\0\0\x08".into(),
    };
    let children = 8 + 2 + 12 * count + 4;
    out.u16(n);
    for child in 0..count {
        out.u16(0x8769);
        out.u16(4);
        out.u32(1);
        out.u32((children + 2 * child) as u32);
    }
    out.u32(0);
    for _ in 0..count {
        out.u16(n);
    }
    while out.bytes.len() < children + 2 + 12 * count {
        out.u16(0x1000);
    }
    let end = out.bytes.len() + 2 * count + 8;
    out.bytes.resize(end, 0);
    out.bytes
}

pub fn jpeg(exif: &[u8], (width, height): (u16, u16)) -> Vec<u8> {
    let mut bytes = b"\xff\xd8".to_vec();
    bytes.extend(b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x48\0\x48\0\0");
    if !exif.is_empty() {
        bytes.extend(b"\xff\xe1");
        bytes.extend((exif.len() as u16 + 8).to_be_bytes());
        bytes.extend(b"Exif\0\0");
        bytes.extend(exif);
    }
    bytes.extend(b"\xff\xc0\0\x11\x08");
    bytes.extend(height.to_be_bytes());
    bytes.extend(width.to_be_bytes());
    bytes.extend(b"\x03\x01\x22\0\x02\x11\x01\x03\x11\x01");
    bytes.extend(b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0\x3f\0\x12\x34\xff\xd9");
    bytes
}

/// The picture that a camera takes.
pub fn photo() -> Vec<u8> {
    jpeg(&tiff(&CANON, true, None), (4_032, 3_024))
}

fn chunk(out: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    out.extend((data.len() as u32).to_be_bytes());
    let from = out.len();
    out.extend(kind);
    out.extend(data);
    let sum = crc32fast::hash(&out[from..]);
    out.extend(sum.to_be_bytes());
}

pub fn png(exif: &[u8], (width, height): (u32, u32)) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut head = width.to_be_bytes().to_vec();
    head.extend(height.to_be_bytes());
    head.extend([8, 2, 0, 0, 0]);
    chunk(&mut bytes, b"IHDR", &head);
    chunk(&mut bytes, b"IDAT", &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]);
    if !exif.is_empty() {
        chunk(&mut bytes, b"eXIf", exif);
    }
    chunk(&mut bytes, b"IEND", &[]);
    bytes
}

pub fn webp(exif: &[u8], (width, height): (u32, u32)) -> Vec<u8> {
    let mut body = b"WEBPVP8X\x0a\0\0\0\x08\0\0\0".to_vec();
    body.extend(&(width - 1).to_le_bytes()[..3]);
    body.extend(&(height - 1).to_le_bytes()[..3]);
    body.extend(b"VP8L\x05\0\0\0\x2f\0\0\0\0\0");
    body.extend(b"EXIF");
    body.extend((exif.len() as u32).to_le_bytes());
    body.extend(exif);
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// WebP as older programs write it, without EXIF.
pub fn webp_lossy((width, height): (u16, u16)) -> Vec<u8> {
    let mut bytes = b"RIFF\x16\0\0\0WEBPVP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a".to_vec();
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes
}

pub fn gif((width, height): (u16, u16)) -> Vec<u8> {
    let mut bytes = b"GIF89a".to_vec();
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend([0, 0, 0, 0x3b]);
    bytes
}

pub fn bmp((width, height): (i32, i32)) -> Vec<u8> {
    let mut bytes = b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend([1, 0, 24, 0]);
    bytes.resize(58, 0);
    bytes
}

pub fn qoi((width, height): (u32, u32)) -> Vec<u8> {
    let mut bytes = b"qoif".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([3, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes
}

fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend(kind);
    bytes.extend(body);
    bytes
}

/// HEIF of a brand, as phones write it: `heic`, `avif`.
pub fn heif(brand: &[u8; 4], exif: &[u8], (width, height): (u32, u32)) -> Vec<u8> {
    let kind = boxed(b"ftyp", &[brand, &[0; 4], b"mif1", brand]);
    let item = |id: u16, kind: &[u8; 4]| {
        boxed(
            b"infe",
            &[&[2, 0, 0, 0], &id.to_be_bytes(), &[0, 0], kind, &[0]],
        )
    };
    let items = boxed(
        b"iinf",
        &[&[0; 4], &[0, 2], &item(1, b"hvc1"), &item(7, b"Exif")],
    );
    let size = boxed(
        b"ispe",
        &[&[0; 4], &width.to_be_bytes(), &height.to_be_bytes()],
    );
    let properties = boxed(b"iprp", &[&boxed(b"ipco", &[&size])]);
    let meta = |from: u32| {
        let place = |id: u16, from: u32, len: u32| {
            let mut bytes = id.to_be_bytes().to_vec();
            bytes.extend([0, 0, 0, 1]);
            bytes.extend(from.to_be_bytes());
            bytes.extend(len.to_be_bytes());
            bytes
        };
        let places = boxed(
            b"iloc",
            &[
                &[0; 4],
                &[0x44, 0],
                &[0, 2],
                &place(1, 0, 4),
                &place(7, from, exif.len() as u32 + 10),
            ],
        );
        boxed(b"meta", &[&[0; 4], &items, &places, &properties])
    };
    let from = kind.len() + meta(0).len() + 8;
    let data = boxed(b"mdat", &[&[0, 0, 0, 6], b"Exif\0\0", exif]);
    [kind, meta(from as u32), data].concat()
}

/// JPEG XL of 64 by 64, in a container.
pub fn jxl(exif: &[u8]) -> Vec<u8> {
    let picture = b"\xff\x0a\x4f\x02\0\0\0\0\0\0\0\0\0\0\0\0";
    [
        b"\0\0\0\x0cJXL \r\n\x87\n".to_vec(),
        boxed(b"ftyp", &[b"jxl \0\0\0\0jxl "]),
        boxed(b"Exif", &[&[0; 4], exif]),
        boxed(b"jxlc", &[picture]),
    ]
    .concat()
}

pub fn pdf() -> Vec<u8> {
    b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n".to_vec()
}

/// A tar archive of one empty file.
pub fn tar() -> Vec<u8> {
    let mut bytes = vec![0; 1_536];
    bytes[..5].copy_from_slice(b"a.txt");
    bytes[257..265].copy_from_slice(b"ustar\x0000");
    bytes
}

/// What the directory of an archive says of an entry, and where its data lies.
#[derive(Clone)]
pub struct Listed {
    pub name: Vec<u8>,
    pub flags: u16,
    pub packed: u32,
    pub size: u32,
    pub at: u32,
    pub extra: Vec<u8>,
}

impl Listed {
    /// The record in the directory.
    pub fn record(&self) -> Vec<u8> {
        let mut bytes = b"PK\x01\x02\x14\0\x14\0".to_vec();
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend([0; 10]);
        bytes.extend(self.packed.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend((self.extra.len() as u16).to_le_bytes());
        bytes.extend([0; 10]);
        bytes.extend(self.at.to_le_bytes());
        bytes.extend(&self.name);
        bytes.extend(&self.extra);
        bytes
    }
}

/// The record at the end of an archive.
pub fn zip_end(count: u16, directory: u32, at: u32, comment: &[u8]) -> Vec<u8> {
    let mut bytes = b"PK\x05\x06\0\0\0\0".to_vec();
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(directory.to_le_bytes());
    bytes.extend(at.to_le_bytes());
    bytes.extend((comment.len() as u16).to_le_bytes());
    bytes.extend(comment);
    bytes
}

/// The data of entries with what stands before it, and what the directory says of them.
pub fn zip_data(entries: &[(&[u8], u16, &[u8])]) -> (Vec<u8>, Vec<Listed>) {
    let (mut bytes, mut listed) = (Vec::new(), Vec::new());
    for (name, flags, data) in entries {
        listed.push(Listed {
            name: name.to_vec(),
            flags: *flags,
            packed: data.len() as u32,
            size: data.len() as u32,
            at: bytes.len() as u32,
            extra: Vec::new(),
        });
        bytes.extend(b"PK\x03\x04\x14\0");
        bytes.extend(flags.to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(crc32fast::hash(data).to_le_bytes());
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(*name);
        bytes.extend(*data);
    }
    (bytes, listed)
}

/// An archive with this directory behind that data.
pub fn zip_of(data: Vec<u8>, listed: &[Listed], comment: &[u8]) -> Vec<u8> {
    let directory: Vec<u8> = listed.iter().flat_map(Listed::record).collect();
    let end = zip_end(
        listed.len() as u16,
        directory.len() as u32,
        data.len() as u32,
        comment,
    );
    [data, directory, end].concat()
}

/// An archive whose entries are not compressed.
pub fn zip(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, data)| (*name, 0, *data))
        .collect();
    let (data, listed) = zip_data(&entries);
    zip_of(data, &listed, b"")
}

/// The archive of the examples.
pub fn papers() -> Vec<u8> {
    zip(&[
        (b"letters/first.txt", &[b'a'; 1_000]),
        (b"b.txt", &[b'b'; 234]),
    ])
}

/// An archive in the form for large ones, with one entry that says it has `size` bytes.
pub fn zip64(size: u64) -> Vec<u8> {
    let (mut bytes, mut listed) = zip_data(&[(b"large.bin", 0, b"abc")]);
    let mut extra = b"\x01\0\x10\0".to_vec();
    extra.extend(size.to_le_bytes());
    extra.extend(3_u64.to_le_bytes());
    listed[0].extra = extra;
    (listed[0].size, listed[0].packed) = (u32::MAX, u32::MAX);
    let at = bytes.len() as u64;
    let record = listed[0].record();
    bytes.extend(&record);
    let end = bytes.len() as u64;
    bytes.extend(b"PK\x06\x06");
    bytes.extend(44_u64.to_le_bytes());
    bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [1, 1, record.len() as u64, at] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(b"PK\x06\x07\0\0\0\0");
    bytes.extend(end.to_le_bytes());
    bytes.extend([1, 0, 0, 0]);
    bytes.extend(zip_end(u16::MAX, u32::MAX, u32::MAX, b""));
    bytes
}

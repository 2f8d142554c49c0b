//! The entries of a zip archive, from its directory; nothing is unpacked.

use std::{cell::RefCell, io, sync::Arc};

use rawzip::{ErrorKind, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipArchive, ZipLocator};
use rhai::{Engine, Map};

use super::{
    Trouble, whole,
    window::{Fault, Window},
};
use crate::{
    error::printable,
    hooks::{
        api::function::{Made, fail},
        call,
    },
    store::Contents,
};

/// Entries of an archive.
const MAX_ENTRIES: usize = 1_000;

/// Bytes of the name of an entry.
const MAX_NAME: usize = 512;

/// Bytes of the directory.
const MAX_DIRECTORY: u64 = 1 << 20;

/// Bytes at the end that are searched for the directory's end record: 22 of its own, and a
/// comment of at most 65,535.
const MAX_END: u64 = 65_557;

/// Bytes that are read: the directory and its end, parts of them twice.
const BUDGET: u64 = MAX_DIRECTORY + 4 * MAX_END;

/// Bytes of the header before each entry's data, at least.
const HEADER: u64 = 30;

/// What an archive says of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name as the archive has it, possibly a path that leads anywhere.
    pub name: String,
    /// Bytes when unpacked, as the archive claims.
    pub size: u64,
    /// Bytes in the archive.
    pub packed: u64,
    /// Whether a password is needed.
    pub encrypted: bool,
}

impl Entry {
    fn to_map(&self) -> Map {
        Map::from_iter([
            ("name".into(), self.name.as_str().into()),
            ("size".into(), whole(self.size).into()),
            ("packed".into(), whole(self.packed).into()),
            ("encrypted".into(), self.encrypted.into()),
        ])
    }
}

/// The entries of an archive, in a script. Not an array, because Rhai adds up all texts and maps
/// in an array and would stop at some eighty entries.
#[derive(Clone, Debug)]
pub struct Entries(Arc<[Entry]>);

impl Entries {
    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    fn at(&mut self, index: i64) -> Made<Map> {
        let entry = usize::try_from(index).ok().and_then(|n| self.0.get(n));
        entry.map(Entry::to_map).ok_or_else(|| {
            let len = self.0.len();
            fail(format!("entries[{index}]: there are {len}, from 0 on"))
        })
    }
}

impl IntoIterator for Entries {
    type Item = Map;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        Iter {
            entries: self.0,
            next: 0,
        }
    }
}

/// Goes through entries.
pub struct Iter {
    entries: Arc<[Entry]>,
    next: usize,
}

impl Iterator for Iter {
    type Item = Map;

    fn next(&mut self) -> Option<Map> {
        let entry = self.entries.get(self.next)?;
        self.next += 1;
        Some(entry.to_map())
    }
}

/// A window in the form that the zip parser reads from.
struct Shared<'a>(RefCell<Window<'a>>);

impl ReaderAt for Shared<'_> {
    fn read_at(&self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.borrow_mut().read_at(room, offset)
    }
}

/// The entries of the archive in `contents`.
pub(super) fn of(contents: &dyn Contents) -> Result<Entries, Trouble> {
    let window = Window::new(contents, BUDGET).map_err(Trouble::Io)?;
    let size = window.size();
    let shared = Shared(RefCell::new(window));
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive = ZipLocator::new()
        .max_search_space(MAX_END)
        .locate_in_reader(&shared, &mut buffer, size)
        .map_err(|(_, e)| trouble(&shared, &e))?;
    let told = archive.entries_hint();
    if told > MAX_ENTRIES as u64 {
        return Err(Trouble::Is("has more than 1,000 entries"));
    }
    let directory = archive.directory_offset();
    if archive.eocd_offset().saturating_sub(directory) > MAX_DIRECTORY {
        return Err(Trouble::Is("has a directory of more than 1 MiB"));
    }
    let (entries, places) = listed(&archive, &shared, &mut buffer)?;
    // Programs would disagree about what it holds.
    if entries.len() as u64 != told {
        return Err(Trouble::Is(
            "is a damaged zip archive: it claims a different number of entries than it lists",
        ));
    }
    if overlap(places, directory) {
        return Err(Trouble::Is(
            "is a zip archive with overlapping entries, as in a zip bomb",
        ));
    }
    Ok(Entries(entries.into()))
}

/// Where the data of an entry begins at the earliest, and how much of it there is.
type Place = (u64, u64);

fn listed(
    archive: &ZipArchive<&Shared<'_>>,
    shared: &Shared<'_>,
    buffer: &mut [u8],
) -> Result<(Vec<Entry>, Vec<Place>), Trouble> {
    let (mut entries, mut places) = (Vec::new(), Vec::new());
    let mut iter = archive.entries(buffer);
    while let Some(entry) = iter.next_entry().map_err(|e| trouble(shared, &e))? {
        call::go_on().map_err(Trouble::Stop)?;
        if entries.len() >= MAX_ENTRIES {
            return Err(Trouble::Is("has more than 1,000 entries"));
        }
        let path = entry.file_path();
        let name = path.as_ref();
        if name.len() > MAX_NAME {
            return Err(Trouble::Is(
                "has an entry whose name is longer than 512 bytes",
            ));
        }
        places.push((entry.local_header_offset(), entry.compressed_size_hint()));
        entries.push(Entry {
            name: printable(&String::from_utf8_lossy(name), MAX_NAME),
            size: entry.uncompressed_size_hint(),
            packed: entry.compressed_size_hint(),
            encrypted: entry.flags().is_encrypted(),
        });
    }
    Ok((entries, places))
}

/// Whether entries overlap each other or the directory.
fn overlap(mut places: Vec<Place>, directory: u64) -> bool {
    places.sort_unstable();
    let ends = places.iter().map(|(start, packed)| {
        let start = start.saturating_add(HEADER);
        start.saturating_add(*packed)
    });
    let starts = places.iter().skip(1).map(|(start, _)| *start);
    ends.zip(starts.chain([directory]))
        .any(|(end, next)| end > next)
}

/// Why an archive cannot be read.
fn trouble(shared: &Shared<'_>, error: &rawzip::Error) -> Trouble {
    match (shared.0.borrow_mut().take_fault(), error.kind()) {
        (Some(Fault::Budget), _) => Trouble::Is("has a directory of more than 1 MiB"),
        (Some(fault), _) => fault.into(),
        (None, ErrorKind::MissingEndOfCentralDirectory) => Trouble::Is("is not a zip archive"),
        (None, _) => Trouble::Is("is a damaged zip archive"),
    }
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Entries>("Entries")
        .register_iterator::<Entries>()
        .register_fn("len", |entries: &mut Entries| entries.0.len() as i64)
        .register_fn("is_empty", |entries: &mut Entries| entries.0.is_empty())
        .register_indexer_get(Entries::at);
}

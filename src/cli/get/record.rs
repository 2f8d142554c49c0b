//! Which files were fetched into a directory, and their state at the time.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::Path,
};

use super::walk::Remote;
use crate::json::{self, Map, Value};

/// The file that records which files of a directory were fetched, and their state at the time.
const RECORD: &str = ".m2y-fetched";

/// What was fetched from a contact, to recognise files that nobody has touched since. There is one
/// line per entry, and the last one for a file counts.
pub struct Record {
    peer: String,
    /// Where lines are appended, if that is allowed.
    file: Option<File>,
    known: HashMap<String, (u64, i64)>,
}

impl Record {
    /// The record in a directory, about what came from a contact.
    pub fn open(dir: &Path, peer: &str, writes: bool) -> io::Result<Self> {
        let path = dir.join(RECORD);
        let mut known = HashMap::new();
        if let Ok(file) = File::open(&path) {
            for line in BufReader::new(file).split(b'\n') {
                // A line that was cut short, perhaps within a character, or that somebody else
                // wrote says nothing.
                let line = json::parse(&line?).unwrap_or_default();
                let field = |name| line.get(name);
                if field("peer").and_then(Value::as_str) == Some(peer)
                    && let Some(path) = field("path").and_then(Value::as_str)
                    && let Some(size) = field("size").and_then(Value::as_u64)
                    && let Some(modified) = field("modified").and_then(Value::as_i64)
                {
                    known.insert(path.to_owned(), (size, modified));
                }
            }
        }
        Ok(Self {
            peer: peer.to_owned(),
            file: match writes {
                true => Some(OpenOptions::new().append(true).create(true).open(path)?),
                false => None,
            },
            known,
        })
    }

    /// Whether a file with this size and time had the same ones when it was fetched.
    pub fn is_untouched(&self, path: &str, size: u64, modified: i64) -> bool {
        let known = self.known.get(path);
        known.is_some_and(|(len, time)| *len == size && time.abs_diff(modified) < 1_000_000_000)
    }

    /// Records that the file was fetched.
    pub fn note(&mut self, remote: &Remote) {
        let mut line = Map::new();
        line.insert("peer".to_owned(), self.peer.as_str().into());
        line.insert("path".to_owned(), remote.path.as_str().into());
        line.insert("size".to_owned(), remote.size.into());
        line.insert("modified".to_owned(), remote.modified.into());
        let line = format!("{}\n", json::canonical(&line));
        if let Some(file) = &mut self.file {
            // Without the line, the file is only not replaced automatically.
            let _ = file.write_all(line.as_bytes());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_record_that_was_cut_within_a_letter_says_what_its_other_lines_say() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"{\"path\":\"\xc3\n{\"modified\":7,\"path\":\"a\",\"peer\":\"r\",\"size\":3}\n";
        fs::write(dir.path().join(RECORD), text).unwrap();
        let record = Record::open(dir.path(), "r", true).unwrap();
        assert!(record.is_untouched("a", 3, 7) && !record.is_untouched("a", 4, 7));
        assert!(
            Record::open(dir.path(), "other", true)
                .unwrap()
                .known
                .is_empty()
        );
    }
}

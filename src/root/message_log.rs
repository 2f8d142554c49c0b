//! `messages.ndjson`: the messages of a folder, those that came and those that its user sent, one
//! JSON object a line.
//!
//! Lines are only ever added. What became of a message that was sent is a line of its own, which
//! names the message by its `id`:
//!
//! ```text
//! {"at":"2026-11-27T19:40:12.031Z","from":"roland-frei","id":"5f…","text":"hello?","to":"zhenqiang"}
//! {"at":"2026-11-27T19:40:12.044Z","id":"5f…","state":"delivered"}
//! ```

use std::{
    collections::HashSet,
    io::{self, Read, Seek, SeekFrom, Write},
};

use cap_std::fs::{Dir, File, MetadataExt, OpenOptions, OpenOptionsExt};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use rustix::fs::OFlags;

use super::file;
use crate::{
    clock,
    json::{self, Map, Value},
    message::{AUTOMATIC, TEXT},
    meta::{DATETIME, Meta, QUARANTINE, TransferId},
};

/// The file, in its folder.
pub const FILE: &str = "messages.ndjson";

/// The longest line: a text whose every byte is escaped, and what is around it.
const MAX_LINE: usize = 131_072;

/// Bytes that are read at once.
const PIECE: usize = 262_144;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedMessage {
    /// Its id.
    pub id: TransferId,
    /// When it came, or when it was to be sent: milliseconds since 1970.
    pub at: u64,
    /// When its sender wrote it, in seconds since 1970, if that is known.
    pub sent: Option<i64>,
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// What it says.
    pub text: String,
    /// Whether a script wrote it.
    pub is_automatic: bool,
    /// Why a hook wants it out of sight.
    pub quarantine: Option<String>,
}

/// What became of a message that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentState {
    /// Its receiver has it.
    Delivered,
    /// It waits at the receiver's relay.
    Left,
    /// It will not arrive, and why.
    Failed(String),
    /// It has to be sent once more.
    Again,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A message.
    Message(LoggedMessage),
    /// What became of the message of this id.
    State(TransferId, SentState),
}

impl LoggedMessage {
    /// A message that comes now; `None` for a meta that is not one.
    pub fn of(meta: &Meta) -> Option<Self> {
        let sent = DateTime::strptime(DATETIME, &meta.datetime).ok();
        let sent = sent.and_then(|time| TimeZone::UTC.to_timestamp(time).ok());
        Some(Self {
            id: meta.id?,
            at: clock::millis(),
            sent: sent.map(Timestamp::as_second),
            from: meta.from.clone(),
            to: meta.to.clone(),
            text: meta.message()?.ok()?.to_owned(),
            is_automatic: meta.is_automatic(),
            quarantine: meta
                .extra
                .get(QUARANTINE)
                .and_then(Value::as_str)
                .map(str::to_owned),
        })
    }

    /// A message that is written now.
    pub fn written(id: TransferId, (from, to): (&str, &str), text: String) -> Self {
        Self {
            id,
            at: clock::millis(),
            sent: None,
            from: from.to_owned(),
            to: to.to_owned(),
            text,
            is_automatic: false,
            quarantine: None,
        }
    }

    /// Its line.
    pub fn line(&self) -> String {
        let mut line = Map::new();
        let mut put = |field: &str, value: Value| line.insert(field.to_owned(), value);
        put("at", moment(self.at).into());
        if let Some(sent) = self.sent.and_then(|sent| Timestamp::from_second(sent).ok()) {
            put("sent", sent.to_string().into());
        }
        put("from", self.from.as_str().into());
        put("to", self.to.as_str().into());
        put("id", self.id.to_string().into());
        put(TEXT, self.text.as_str().into());
        if self.is_automatic {
            put(AUTOMATIC, true.into());
        }
        if let Some(reason) = &self.quarantine {
            put(QUARANTINE, reason.as_str().into());
        }
        json::canonical(&line) + "\n"
    }
}

impl SentState {
    /// The line that says it of a message.
    pub fn line(&self, id: TransferId) -> String {
        let mut line = Map::new();
        let mut put = |field: &str, value: &str| line.insert(field.to_owned(), value.into());
        put("at", &moment(clock::millis()));
        put("id", &id.to_string());
        put("state", self.word());
        if let Self::Failed(why) = self {
            put("error", why);
        }
        json::canonical(&line) + "\n"
    }

    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Left => "left",
            Self::Failed(_) => "failed",
            Self::Again => "again",
        }
    }
}

impl Entry {
    /// Reads a line; `None` for one that says something else.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = json::parse(line).ok()?;
        let text = |field: &str| line.get(field).and_then(Value::as_str);
        let id = text("id")?.parse().ok()?;
        if let Some(state) = text("state") {
            return Some(Self::State(
                id,
                match state {
                    "delivered" => SentState::Delivered,
                    "left" => SentState::Left,
                    "again" => SentState::Again,
                    "failed" => SentState::Failed(text("error").unwrap_or_default().to_owned()),
                    _ => return None,
                },
            ));
        }
        let time = |field| text(field)?.parse::<Timestamp>().ok();
        Some(Self::Message(LoggedMessage {
            id,
            at: u64::try_from(time("at")?.as_millisecond()).unwrap_or_default(),
            sent: time("sent").map(Timestamp::as_second),
            from: text("from")?.to_owned(),
            to: text("to")?.to_owned(),
            text: text(TEXT)?.to_owned(),
            is_automatic: line.get(AUTOMATIC) == Some(&Value::Bool(true)),
            quarantine: text(QUARANTINE).map(str::to_owned),
        }))
    }
}

fn moment(millis: u64) -> String {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}

/// Adds whole lines to the log of a folder. Returns the file, to be flushed.
pub fn append(dir: &Dir, lines: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // What people say to each other is for nobody else on the machine.
    options.append(true).create(true).mode(0o600);
    options.custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed());
    let mut file = dir.open_with(FILE, &options)?;
    let about = file.metadata()?;
    if !about.is_file() {
        let what = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut text = String::new();
    match about.len() {
        0 => file::sync(dir)?,
        // A program that was killed left a part of a line.
        _ if !ends_with_line(dir)? => text.push('\n'),
        _ => {}
    }
    // In one piece: other programs add lines too.
    text.push_str(lines);
    file.write_all(text.as_bytes())?;
    Ok(file)
}

fn ends_with_line(dir: &Dir) -> io::Result<bool> {
    let (mut file, _) = file::open(dir, FILE)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The senders and ids of the messages in the last bytes of the log.
pub fn last_ids(dir: &Dir, bytes: u64) -> io::Result<HashSet<(String, TransferId)>> {
    let mut ids = HashSet::new();
    let mut reader = match Reader::open(dir)? {
        Some(reader) => reader,
        None => return Ok(ids),
    };
    reader.skip_to_last(bytes)?;
    while let Some(entry) = reader.next_entry()? {
        if let Entry::Message(message) = entry {
            ids.insert((message.from, message.id));
        }
    }
    Ok(ids)
}

/// What comes into the log of a folder from now on, whatever its owner does with the file.
pub struct Follower {
    dir: Dir,
    reader: Option<Reader>,
}

impl Follower {
    /// Follows the log of a folder.
    pub fn new(dir: &Dir) -> io::Result<Self> {
        let mut reader = Reader::open(dir)?;
        if let Some(reader) = &mut reader {
            reader.skip_to_last(0)?;
        }
        Ok(Self {
            dir: dir.try_clone()?,
            reader,
        })
    }

    /// What has come since.
    pub fn news(&mut self) -> io::Result<Vec<Entry>> {
        let mut news = Vec::new();
        loop {
            if let Some(reader) = &mut self.reader {
                while let Some(entry) = reader.next_entry()? {
                    news.push(entry);
                }
                if reader.is_current(&self.dir)? {
                    return Ok(news);
                }
            }
            // A new file, or one that was emptied.
            self.reader = Reader::open(&self.dir)?;
            if self.reader.is_none() {
                return Ok(news);
            }
        }
    }
}

/// Reads the entries of a log, in their order; lines that are added later, too.
pub struct Reader {
    file: File,
    /// Read and not yet returned.
    buffer: Vec<u8>,
    at: usize,
    /// Whether the next line is the rest of a longer one.
    is_cut: bool,
}

impl Reader {
    /// Opens the log of a folder; `None` if there is none.
    pub fn open(dir: &Dir) -> io::Result<Option<Self>> {
        match file::open(dir, FILE) {
            Ok((file, _)) => Ok(Some(Self {
                file,
                buffer: Vec::new(),
                at: 0,
                is_cut: false,
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the log still is the file that is being read, and has what was read of it.
    fn is_current(&mut self, dir: &Dir) -> io::Result<bool> {
        let at = self.file.stream_position()?;
        match dir.metadata(FILE) {
            Ok(now) => Ok(now.ino() == self.file.metadata()?.ino() && now.len() >= at),
            // There will be another one.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Skips what is before the last bytes.
    pub fn skip_to_last(&mut self, bytes: u64) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        let from = len.saturating_sub(bytes);
        // The line that this is in the middle of is none of the last.
        self.is_cut = from > 0;
        self.file.seek(SeekFrom::Start(from.saturating_sub(1)))?;
        self.buffer.clear();
        self.at = 0;
        Ok(())
    }

    /// The next entry; `None` if there is no further one yet. Lines that are no entries are skipped.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        loop {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let entry = match self.is_cut {
                    true => None,
                    false => rest.get(..end).and_then(Entry::parse),
                };
                self.is_cut = false;
                self.at += end + 1;
                if entry.is_some() {
                    return Ok(entry);
                }
                continue;
            }
            if rest.len() > MAX_LINE {
                self.is_cut = true;
                self.at = self.buffer.len();
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            let mut more = (&mut self.file).take(PIECE as u64);
            if more.read_to_end(&mut self.buffer)? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cap_std::ambient_authority;

    use super::*;

    fn message(n: u8, text: &str) -> LoggedMessage {
        LoggedMessage {
            id: TransferId([n; 16]),
            at: 1_767_225_600_123,
            sent: Some(1_767_225_599),
            from: "zhenqiang".to_owned(),
            to: "roland-frei".to_owned(),
            text: text.to_owned(),
            is_automatic: n == 2,
            quarantine: None,
        }
    }

    #[test]
    fn what_is_added_is_read_again_whatever_is_between() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(temporary.path(), ambient_authority()).unwrap();
        assert!(Reader::open(&dir).unwrap().is_none());
        let texts = ["a\nb", "\u{202e}\u{0}", &"\u{1}".repeat(16_384)];
        let all: Vec<_> = (1..).zip(texts).map(|(n, text)| message(n, text)).collect();
        append(&dir, &all[0].line()).unwrap();
        let mut reader = Reader::open(&dir).unwrap().unwrap();
        assert_eq!(
            reader.next_entry().unwrap(),
            Some(Entry::Message(all[0].clone()))
        );
        assert_eq!(reader.next_entry().unwrap(), None);
        // A program dies in the middle of a line, and somebody writes nonsense.
        let mut file = file::append(&dir, FILE).unwrap();
        file.write_all(&vec![b'x'; MAX_LINE * 3]).unwrap();
        let state = SentState::Failed("no folder chat".to_owned());
        let lines = [all[1].line(), all[2].line(), state.line(all[1].id)].concat();
        append(&dir, &lines).unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            entries.push(entry);
        }
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[1], Entry::Message(all[2].clone()));
        assert_eq!(entries[2], Entry::State(all[1].id, state));
        let tail = (all[2].line().len() + 200) as u64;
        let ids = last_ids(&dir, tail).unwrap();
        let key = |n: usize| ("zhenqiang".to_owned(), all[n].id);
        assert!(ids.contains(&key(2)) && !ids.contains(&key(1)));
        assert_eq!(last_ids(&dir, u64::MAX).unwrap().len(), 3);
        assert_eq!(dir.metadata(FILE).unwrap().mode() & 0o777, 0o600);
    }
}

//! What a client asks about the files that the other side shows it, and what it is told.

use zeroize::Zeroizing;

use super::WireError;
use crate::{
    json::{self, Map, Value},
    meta::{FileKey, TransferId, Wire},
    root::conflict::Conflict,
};

/// Bytes of a digest.
const DIGEST_LEN: usize = 32;

/// Bytes of a reply from which on no further entry is added.
const PAGE: usize = 24_576;

/// Entries of one reply.
const PAGE_ENTRIES: usize = 512;

/// Replies of one listing that a server sends before the first of them is acknowledged: a client
/// that reads slowly has this many at hand, and continues with files meanwhile.
pub const PAGES_AHEAD: usize = 8;

/// What a client can ask for.
#[derive(Clone)]
pub enum Request {
    /// What a directory contains, or a file itself.
    List {
        /// Where.
        path: String,
        /// Whether to include its subdirectories.
        recursive: bool,
    },
    /// What a path is.
    Stat {
        /// Where.
        path: String,
    },
    /// The contents of a file.
    Get {
        /// Which.
        path: String,
        /// The number of this attempt.
        id: TransferId,
        /// The key for its blocks.
        filekey: FileKey,
        /// The part of it that an earlier attempt got.
        held: Option<Held>,
    },
    /// Permission to send a file, and a path for it.
    Put {
        /// Which path.
        path: String,
        /// What is known of the file.
        meta: Box<Wire>,
        /// When it changed last, in nanoseconds since 1970.
        modified: i64,
        /// What to do if there is a different file at that path.
        conflict: Conflict,
    },
    /// A new directory.
    MakeDir {
        /// Where.
        path: String,
    },
    /// The removal of a file or an empty directory.
    Remove {
        /// Which.
        path: String,
    },
    /// How many bytes still fit where files may be put.
    Room {
        /// Where.
        path: String,
    },
    /// A new path for a file or directory; it must be free.
    Rename {
        /// Which.
        path: String,
        /// The new one.
        to: String,
    },
}

/// The part of a file that arrived before a transfer broke off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// How much of it.
    pub bytes: u64,
    /// The SHA-256 of that.
    pub digest: [u8; DIGEST_LEN],
    /// Of which version of the file.
    pub version: String,
}

/// Why a request cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A field is missing or of another form.
    #[error("the request cannot be read: {0}")]
    Unreadable(String),
    /// A request of a later version.
    #[error("this server does not know the request {0:?}")]
    Unknown(String),
}

impl Request {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::List { .. } => "list",
            Self::Stat { .. } => "stat",
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
            Self::MakeDir { .. } => "mkdir",
            Self::Remove { .. } => "remove",
            Self::Room { .. } => "room",
            Self::Rename { .. } => "rename",
        }
    }

    /// Which path it is about.
    pub fn path(&self) -> &str {
        match self {
            Self::List { path, .. }
            | Self::Stat { path }
            | Self::Get { path, .. }
            | Self::Put { path, .. }
            | Self::MakeDir { path }
            | Self::Remove { path }
            | Self::Room { path }
            | Self::Rename { path, .. } => path,
        }
    }

    /// The body of its record.
    pub fn to_body(&self) -> Zeroizing<Vec<u8>> {
        let mut document = Map::new();
        let mut put = |field: &str, value: Value| document.insert(field.to_owned(), value);
        put("request", self.word().into());
        put("path", self.path().into());
        match self {
            Self::List { recursive, .. } => {
                if *recursive {
                    put("recursive", true.into());
                }
            }
            Self::Get {
                id, filekey, held, ..
            } => {
                put("id", id.to_string().into());
                put("filekey", hex::encode(*filekey.0).into());
                if let Some(held) = held {
                    let mut part = Map::new();
                    part.insert("bytes".to_owned(), held.bytes.into());
                    part.insert("sha256".to_owned(), hex::encode(held.digest).into());
                    part.insert("version".to_owned(), held.version.as_str().into());
                    put("held", Value::Object(part));
                }
            }
            Self::Put {
                meta,
                modified,
                conflict,
                ..
            } => {
                put("meta", Value::Object(meta.to_document()));
                put("modified", (*modified).into());
                put("conflict", conflict.word().into());
            }
            Self::Rename { to, .. } => {
                put("to", to.as_str().into());
            }
            Self::Stat { .. } | Self::MakeDir { .. } | Self::Remove { .. } | Self::Room { .. } => {}
        }
        Zeroizing::new(json::canonical(&document).into_bytes())
    }

    /// Reads the body of a record. Unknown fields are ignored.
    pub fn from_body(body: &[u8]) -> Result<Self, RequestError> {
        let unreadable = |why: &str| RequestError::Unreadable(why.to_owned());
        let document = json::parse(body).map_err(|e| unreadable(&e.to_string()))?;
        let text = |field: &'static str| {
            document
                .get(field)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or_else(|| unreadable(&format!("the field {field:?} must be text")))
        };
        let word = text("request")?;
        let path = text("path");
        Ok(match word.as_str() {
            "list" => Self::List {
                path: path?,
                recursive: document.get("recursive").and_then(Value::as_bool) == Some(true),
            },
            "stat" => Self::Stat { path: path? },
            "get" => {
                let mut filekey = Zeroizing::new([0; 32]);
                hex::decode_to_slice(Zeroizing::new(text("filekey")?).as_str(), &mut *filekey)
                    .map_err(|_| unreadable("filekey must be 64 hexadecimal digits"))?;
                let id = text("id")?.parse();
                Self::Get {
                    path: path?,
                    id: id.map_err(|_| unreadable("id must be 32 hexadecimal digits"))?,
                    filekey: FileKey(filekey),
                    held: document.get("held").and_then(Held::from_value),
                }
            }
            "put" => {
                let meta = document.get("meta").and_then(Value::as_object).cloned();
                let meta =
                    meta.ok_or_else(|| unreadable("the field \"meta\" must be an object"))?;
                let modified = document.get("modified").and_then(Value::as_i64);
                let conflict = match document.get("conflict") {
                    None => Some(Conflict::default()),
                    Some(word) => word.as_str().and_then(Conflict::from_word),
                };
                Self::Put {
                    path: path?,
                    meta: Box::new(
                        Wire::from_document(meta).map_err(|e| unreadable(&e.to_string()))?,
                    ),
                    modified: modified
                        .ok_or_else(|| unreadable("the field \"modified\" must be a number"))?,
                    conflict: conflict.ok_or_else(|| {
                        unreadable("conflict must be \"refuse\", \"overwrite\" or \"rename\"")
                    })?,
                }
            }
            "mkdir" => Self::MakeDir { path: path? },
            "remove" => Self::Remove { path: path? },
            "room" => Self::Room { path: path? },
            "rename" => Self::Rename {
                path: path?,
                to: text("to")?,
            },
            _ => return Err(RequestError::Unknown(word)),
        })
    }
}

impl Held {
    /// What cannot be read counts as nothing: the file is sent from its beginning.
    fn from_value(value: &Value) -> Option<Self> {
        let part = value.as_object()?;
        let mut digest = [0; DIGEST_LEN];
        hex::decode_to_slice(part.get("sha256")?.as_str()?, &mut digest).ok()?;
        Some(Self {
            bytes: part.get("bytes")?.as_u64()?,
            digest,
            version: part.get("version")?.as_str()?.to_owned(),
        })
    }
}

/// A file or a directory, as the other side shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the one asked for; empty for that one itself.
    pub path: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes of a file.
    pub size: u64,
    /// When it changed last, in nanoseconds since 1970.
    pub modified: i64,
}

impl Entry {
    fn to_value(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("path".to_owned(), self.path.as_str().into());
        let kind = if self.is_dir { "dir" } else { "file" };
        entry.insert("type".to_owned(), kind.into());
        entry.insert("size".to_owned(), self.size.into());
        entry.insert("modified".to_owned(), self.modified.into());
        Value::Object(entry)
    }

    fn from_value(value: &Value) -> Option<Self> {
        let entry = value.as_object()?;
        Some(Self {
            path: entry.get("path")?.as_str()?.to_owned(),
            is_dir: entry.get("type")?.as_str()? == "dir",
            size: entry.get("size")?.as_u64()?,
            modified: entry.get("modified")?.as_i64()?,
        })
    }
}

/// The file that follows in blocks behind this reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// Bytes of the whole file.
    pub size: u64,
    /// When it changed last, in nanoseconds since 1970.
    pub modified: i64,
    /// A text that differs for every version of the file.
    pub version: String,
    /// Where the blocks begin.
    pub offset: u64,
}

/// The answer to a request that may be fulfilled; otherwise there is an *error*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// Some of what was asked for.
    Entries {
        /// In the order of the directory.
        entries: Vec<Entry>,
        /// Whether a further reply follows.
        more: bool,
    },
    /// This many bytes still fit.
    Room(u64),
    /// The file follows.
    Coming(Coming),
    /// A file that was put somewhere is stored.
    Stored {
        /// Its path.
        path: String,
        /// Whether it was there already.
        same: bool,
    },
}

impl Reply {
    /// Where a file that was put somewhere is.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Stored { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The body of its record.
    pub fn to_body(&self) -> Vec<u8> {
        let mut document = Map::new();
        let mut put = |field: &str, value: Value| document.insert(field.to_owned(), value);
        match self {
            Self::Done => {}
            Self::Entries { entries, more } => {
                let entries = entries.iter().map(Entry::to_value).collect();
                put("entries", Value::Array(entries));
                put("more", (*more).into());
            }
            Self::Room(bytes) => {
                put("room", (*bytes).into());
            }
            Self::Coming(file) => {
                put("filesize", file.size.into());
                put("modified", file.modified.into());
                put("version", file.version.as_str().into());
                put("resumeOffset", file.offset.into());
            }
            Self::Stored { path, same } => {
                put("path", path.as_str().into());
                put("same", (*same).into());
            }
        }
        json::canonical(&document).into_bytes()
    }

    /// Reads the body of a record.
    pub fn from_body(body: &[u8]) -> Result<Self, WireError> {
        let document = json::parse(body).map_err(|_| WireError::Record)?;
        let field = |name| document.get(name).ok_or(WireError::Record);
        if let Some(entries) = document.get("entries") {
            let entries = entries.as_array().ok_or(WireError::Record)?;
            return Ok(Self::Entries {
                entries: entries
                    .iter()
                    .map(|entry| Entry::from_value(entry).ok_or(WireError::Record))
                    .collect::<Result<_, _>>()?,
                more: document.get("more").and_then(Value::as_bool) == Some(true),
            });
        }
        if let Some(path) = document.get("path") {
            return Ok(Self::Stored {
                path: path.as_str().ok_or(WireError::Record)?.to_owned(),
                same: document.get("same").and_then(Value::as_bool) == Some(true),
            });
        }
        if let Some(room) = document.get("room") {
            return Ok(Self::Room(room.as_u64().ok_or(WireError::Record)?));
        }
        if document.contains_key("filesize") {
            let size = field("filesize")?.as_u64().ok_or(WireError::Record)?;
            let offset = field("resumeOffset")?.as_u64().ok_or(WireError::Record)?;
            if i64::try_from(size).is_err() || (offset > 0 && offset >= size) {
                return Err(WireError::Record);
            }
            return Ok(Self::Coming(Coming {
                size,
                modified: field("modified")?.as_i64().ok_or(WireError::Record)?,
                version: field("version")?
                    .as_str()
                    .filter(|version| version.len() <= 128)
                    .ok_or(WireError::Record)?
                    .to_owned(),
                offset,
            }));
        }
        Ok(Self::Done)
    }
}

/// Entries that go into one reply.
#[derive(Default)]
pub struct Page {
    entries: Vec<Entry>,
    len: usize,
}

impl Page {
    /// Puts an entry in.
    pub fn push(&mut self, entry: Entry) {
        // Every character may be escaped.
        self.len += 96 + entry.path.len() * 6;
        self.entries.push(entry);
    }

    /// Whether the next entry belongs in another reply.
    pub fn is_full(&self) -> bool {
        self.len >= PAGE || self.entries.len() >= PAGE_ENTRIES
    }

    /// The reply.
    pub fn reply(self, more: bool) -> Reply {
        Reply::Entries {
            entries: self.entries,
            more,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::wire::record::MAX_BODY;

    #[test]
    fn what_is_asked_comes_back() {
        let held = Held {
            bytes: 65_536,
            digest: [7; 32],
            version: "v".to_owned(),
        };
        let get = Request::Get {
            path: "a/\u{e9}.jpg".to_owned(),
            id: TransferId([3; 16]),
            filekey: FileKey(Zeroizing::new([9; 32])),
            held: Some(held.clone()),
        };
        let Request::Get {
            path,
            id,
            filekey,
            held: back,
        } = Request::from_body(&get.to_body()).unwrap()
        else {
            panic!("another request");
        };
        assert_eq!(
            (path.as_str(), id.0, back),
            ("a/\u{e9}.jpg", [3; 16], Some(held))
        );
        assert_eq!(*filekey.0, [9; 32]);
        for body in [
            &b"{}"[..],
            b"{\"request\":\"get\",\"path\":\"a\"}",
            b"{\"request\":\"list\"}",
            b"[",
        ] {
            let error = Request::from_body(body).err().unwrap();
            assert!(matches!(error, RequestError::Unreadable(_)), "{error}");
        }
        let error = Request::from_body(b"{\"request\":\"sing\"}").err().unwrap();
        assert_eq!(error, RequestError::Unknown("sing".to_owned()));
    }

    #[test]
    fn a_full_page_fits_into_a_record() {
        let mut page = Page::default();
        let mut many = 0;
        while !page.is_full() {
            let path = "\u{1}".repeat(4_096);
            page.push(Entry {
                path,
                is_dir: false,
                size: u64::MAX >> 1,
                modified: i64::MIN,
            });
            many += 1;
        }
        let reply = page.reply(true);
        assert!(reply.to_body().len() <= MAX_BODY, "{many}");
        assert_eq!(Reply::from_body(&reply.to_body()).unwrap(), reply);
    }

    #[test]
    fn a_file_that_comes_begins_within_itself() {
        let coming = |size, offset| {
            Reply::Coming(Coming {
                size,
                modified: -1,
                version: "x".to_owned(),
                offset,
            })
        };
        for (size, offset, good) in [(0, 0, true), (9, 8, true), (9, 9, false), (0, 1, false)] {
            let reply = coming(size, offset);
            let back = Reply::from_body(&reply.to_body());
            assert_eq!(back.is_ok(), good, "{size} {offset}");
        }
    }
}

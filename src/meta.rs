//! The `.meta` document: what a sender says of a file, and what became of it.
//!
//! The same JSON object travels sealed and is kept in the folder. On the way it also carries
//! `filekey` ([`Wire`]), which never reaches a disk.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use zeroize::Zeroizing;

use crate::json::{self, JsonError, Map, Value};

/// The largest `.meta` file that is read, in bytes: what fits into an envelope, what
/// hooks may add, and every character of `error` escaped.
pub const MAX_LEN: u64 = 262_144;

/// Up to this size a `.meta` is written for people; a larger one without white space.
const MAX_PRETTY: usize = 65_536;

/// The longest text that a field of the protocol may hold, in bytes.
pub const MAX_TEXT: usize = 4_096;

/// [`MAX_TEXT`] in words.
pub const TEXT: &str = "text of at most 4096 bytes";
const _: () = assert!(MAX_TEXT == 4_096, "TEXT says another number");

/// How `datetime` is written: `30-12-2018_23-59-59`, in UTC.
pub const DATETIME: &str = "%d-%m-%Y_%H-%M-%S";

/// Fields that belong to the protocol; every other one is kept as it is.
pub const FIXED: [&str; 10] = [
    "from", "to", "folder", "filename", "datetime", "filesize", "filekey", "fileCRC", "metaCRC",
    "id",
];

/// Fields that the wire owns and no file keeps.
const REPLY: [&str; 8] = [
    "resumeOffset",
    "errorCode",
    "delivered",
    "wireFeatures",
    "wireSession",
    "wireAttend",
    "wireAddresses",
    "wireBox",
];

/// In a sender's `.meta`: the file, if it is not beside it.
pub const SOURCE_PATH: &str = "sourcePath";

/// In a sender's `.meta`: which version of the file the `id` stands for.
pub const SOURCE_VERSION: &str = "sourceVersion";

/// In a receiver's `.meta`: the event whose hooks have to run, or run again.
pub const PENDING_HOOK: &str = "pendingHook";

/// In a receiver's `.meta`: why a hook wants the file out of sight.
pub const QUARANTINE: &str = "quarantine";

/// In a receiver's `.meta`: which path the file gets, once its hooks have run.
pub const PENDING_PUT: &str = "pendingPut";

/// In a receiver's `.meta`: which path the file got.
pub const STORED_AS: &str = "storedAs";

/// In a receiver's `.meta`: what hooks keep for the file.
pub const FOLDER_TAGS: &str = "folderTags";

/// Fields that never leave the machine.
const LOCAL: [&str; 7] = [
    SOURCE_PATH,
    SOURCE_VERSION,
    PENDING_HOOK,
    QUARANTINE,
    PENDING_PUT,
    STORED_AS,
    FOLDER_TAGS,
];

/// Why a document is not a meta.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// Not JSON as m2y accepts it.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A field is not there.
    #[error("the field {0:?} is missing")]
    Missing(&'static str),
    /// A field holds something else.
    #[error("the field {field:?} must be {must}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it must hold.
        must: &'static str,
    },
    /// The checksum does not match the document.
    #[error("metaCRC is {claimed}, the document has {computed}")]
    Checksum {
        /// What the document says.
        claimed: u32,
        /// What it has.
        computed: u32,
    },
}

/// The id of a transfer: 16 random bytes, the same for every attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransferId(pub [u8; 16]);

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TransferId {
    type Err = MetaError;

    fn from_str(text: &str) -> Result<Self, MetaError> {
        let wrong = MetaError::Field {
            field: "id",
            must: "32 lower-case hexadecimal digits",
        };
        let mut id = [0; 16];
        if text.bytes().any(|b| b.is_ascii_uppercase())
            || hex::decode_to_slice(text, &mut id).is_err()
        {
            return Err(wrong);
        }
        Ok(Self(id))
    }
}

/// The key that a receiver makes for one attempt to send one file; wiped on drop.
#[derive(Clone)]
pub struct FileKey(pub Zeroizing<[u8; 32]>);

/// What a sender says of a file.
///
/// `from`, `to`, `folder` and `filename` are text as the other side wrote it; code that makes a
/// path of one checks it first ([`crate::root::name::Name`]), and no code makes one of `filename`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// The receiver's m2y-folder.
    pub folder: String,
    /// The name of the file at the sender's.
    pub filename: String,
    /// When it was sent, `30-12-2018_23-59-59`, UTC; empty until it is sent.
    pub datetime: String,
    /// Bytes of the file, if known.
    pub filesize: Option<u64>,
    /// CRC-32 of the file, if known.
    pub file_crc: Option<u32>,
    /// Empty, or why the file was refused or could not be sent.
    pub error: String,
    /// The id of the transfer, once it has one.
    pub id: Option<TransferId>,
    /// Every further field.
    pub extra: Map<String, Value>,
}

impl Meta {
    /// A document that says who sends what to whom, and nothing else yet.
    pub fn new(from: &str, to: &str, folder: &str, filename: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            folder: folder.to_owned(),
            filename: filename.to_owned(),
            datetime: String::new(),
            filesize: None,
            file_crc: None,
            error: String::new(),
            id: None,
            extra: Map::new(),
        }
    }

    /// Reads a `.meta` file. `metaCRC` is not checked: people edit these files.
    pub fn from_file(text: &[u8]) -> Result<Self, MetaError> {
        let mut document = json::parse(text)?;
        document.remove("filekey");
        document.remove("metaCRC");
        Self::from_document(document)
    }

    /// Writes the `.meta` file: every field, for people to read, `filekey` empty.
    pub fn to_file(&self) -> Vec<u8> {
        let document = self.document("");
        let pretty = json::pretty(&document);
        match pretty.len() {
            0..=MAX_PRETTY => pretty,
            _ => json::canonical(&document),
        }
        .into_bytes()
    }

    fn from_document(mut document: Map<String, Value>) -> Result<Self, MetaError> {
        let required = |document: &mut Map<_, _>, field| {
            text(document, field)?.ok_or(MetaError::Missing(field))
        };
        Ok(Self {
            from: required(&mut document, "from")?,
            to: required(&mut document, "to")?,
            folder: required(&mut document, "folder")?,
            filename: required(&mut document, "filename")?,
            datetime: match text(&mut document, "datetime")?.unwrap_or_default() {
                empty if empty.is_empty() => empty,
                datetime => check_datetime(datetime)?,
            },
            filesize: number(&mut document, "filesize")?,
            file_crc: checksum(&mut document, "fileCRC")?,
            error: text(&mut document, "error")?.unwrap_or_default(),
            id: match text(&mut document, "id")? {
                Some(id) if !id.is_empty() => Some(id.parse()?),
                _ => None,
            },
            extra: document,
        })
    }

    /// The document with its checksum.
    fn document(&self, filekey: &str) -> Map<String, Value> {
        let mut document = self.extra.clone();
        let known = |n: Option<u64>| n.map_or(Value::from(""), Value::from);
        for (field, value) in [
            ("from", self.from.as_str().into()),
            ("to", self.to.as_str().into()),
            ("folder", self.folder.as_str().into()),
            ("filename", self.filename.as_str().into()),
            ("datetime", self.datetime.as_str().into()),
            ("filesize", known(self.filesize)),
            ("fileCRC", known(self.file_crc.map(u64::from))),
            ("error", self.error.as_str().into()),
            (
                "id",
                self.id.map(|id| id.to_string()).unwrap_or_default().into(),
            ),
            ("filekey", filekey.into()),
            ("metaCRC", "".into()),
        ] {
            document.insert(field.to_owned(), value);
        }
        let crc = crc32fast::hash(json::canonical(&document).as_bytes());
        document.insert("metaCRC".to_owned(), crc.into());
        document
    }
}

/// A meta on its way, sealed.
#[derive(Clone)]
pub struct Wire {
    /// The document without what only the wire has.
    pub meta: Meta,
    /// The key that the receiver made for this attempt.
    pub filekey: Option<FileKey>,
    /// In a reply: bytes that are already safe at the receiver's.
    pub offset: u64,
    /// In a reply with an `error`: what kind of error, for programs.
    pub code: String,
    /// In a reply: the file is safe already, from an earlier attempt.
    pub delivered: bool,
    /// What the writer can do beyond one file sent from its beginning.
    pub features: Features,
    /// In an opening: there is no file, only a session is asked for.
    pub session: bool,
    /// In an opening to a relay: what the member wants to hear. In a reply: it will.
    pub attend: Option<Attend>,
    /// In an opening and its answer: where the writer is reached, if the writer says so.
    pub announced: Option<Announcement>,
}

/// Where somebody is reached, for one contact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// The addresses of the server, as texts.
    pub addresses: Vec<String>,
    /// The box at a relay for letters, as JSON.
    pub letter_box: Option<Map<String, Value>>,
}

/// What a member wants to hear of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attend {
    /// Who calls.
    Calls,
    /// Who wants to use a code.
    Code,
    /// What letters there are.
    Letters,
}

impl Attend {
    const ALL: [Self; 3] = [Self::Calls, Self::Code, Self::Letters];

    fn word(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Code => "code",
            Self::Letters => "letters",
        }
    }
}

/// What a side of a session can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// An interrupted transfer can resume where the receiver is.
    pub resume: bool,
    /// In a reply: this many transfers may be under way in this session at the same time; 0 if
    /// there is only the one of the opening.
    pub files: u32,
    /// In a reply: answers requests.
    pub requests: bool,
}

impl Features {
    fn to_value(self) -> Value {
        let mut features = Map::new();
        if self.resume {
            features.insert("resume".to_owned(), true.into());
        }
        if self.files > 0 {
            features.insert("files".to_owned(), self.files.into());
        }
        if self.requests {
            features.insert("requests".to_owned(), true.into());
        }
        Value::Object(features)
    }

    /// What is unknown is a feature of a later version.
    fn from_value(value: Option<&Value>) -> Self {
        let of = |name| value?.as_object()?.get(name);
        Self {
            resume: of("resume").and_then(Value::as_bool).unwrap_or_default(),
            requests: of("requests").and_then(Value::as_bool).unwrap_or_default(),
            files: of("files")
                .and_then(Value::as_u64)
                .map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        }
    }
}

impl Wire {
    /// A meta on its way to the receiver.
    pub fn request(meta: Meta) -> Self {
        Self {
            meta,
            filekey: None,
            offset: 0,
            code: String::new(),
            delivered: false,
            features: Features::default(),
            session: false,
            attend: None,
            announced: None,
        }
    }

    /// The canonical JSON.
    pub fn to_json(&self) -> Zeroizing<String> {
        Zeroizing::new(json::canonical(&self.to_document()))
    }

    /// The document.
    pub fn to_document(&self) -> Map<String, Value> {
        let key = Zeroizing::new(match &self.filekey {
            Some(key) => hex::encode(*key.0),
            None => String::new(),
        });
        let mut meta = self.meta.clone();
        if self.offset > 0 || self.filekey.is_some() {
            meta.extra
                .insert("resumeOffset".to_owned(), self.offset.into());
        }
        if self.delivered {
            meta.extra.insert("delivered".to_owned(), true.into());
        }
        if self.features != Features::default() {
            let features = self.features.to_value();
            meta.extra.insert("wireFeatures".to_owned(), features);
        }
        if self.session {
            meta.extra.insert("wireSession".to_owned(), true.into());
        }
        if let Some(attend) = self.attend {
            meta.extra
                .insert("wireAttend".to_owned(), attend.word().into());
        }
        if let Some(announced) = &self.announced {
            let addresses = announced.addresses.clone();
            meta.extra
                .insert("wireAddresses".to_owned(), addresses.into());
            if let Some(letter_box) = &announced.letter_box {
                meta.extra
                    .insert("wireBox".to_owned(), letter_box.clone().into());
            }
        }
        if !self.code.is_empty() {
            meta.extra
                .insert("errorCode".to_owned(), self.code.as_str().into());
        }
        meta.document(&key)
    }

    /// Reads a meta off the wire and checks its `metaCRC`.
    pub fn from_json(canonical: &[u8]) -> Result<Self, MetaError> {
        Self::from_document(json::parse(canonical)?)
    }

    /// The same for a document.
    pub fn from_document(mut document: Map<String, Value>) -> Result<Self, MetaError> {
        let claimed = checksum(&mut document, "metaCRC")?.ok_or(MetaError::Missing("metaCRC"))?;
        document.insert("metaCRC".to_owned(), "".into());
        let computed = crc32fast::hash(json::canonical(&document).as_bytes());
        if claimed != computed {
            return Err(MetaError::Checksum { claimed, computed });
        }
        document.remove("metaCRC");
        let filekey = match text(&mut document, "filekey")?.map(Zeroizing::new) {
            Some(key) if !key.is_empty() => {
                let mut bytes = Zeroizing::new([0; 32]);
                hex::decode_to_slice(key.as_str(), &mut *bytes).map_err(|_| MetaError::Field {
                    field: "filekey",
                    must: "64 hexadecimal digits",
                })?;
                Some(FileKey(bytes))
            }
            _ => None,
        };
        let features = Features::from_value(document.remove("wireFeatures").as_ref());
        let attend = document.remove("wireAttend");
        let addresses = document.remove("wireAddresses");
        let letter_box = match document.remove("wireBox") {
            Some(Value::Object(letter_box)) => Some(letter_box),
            _ => None,
        };
        let announced = addresses.as_ref().and_then(Value::as_array).map(|all| {
            let texts = all.iter().filter_map(Value::as_str);
            Announcement {
                addresses: texts.map(str::to_owned).collect(),
                letter_box,
            }
        });
        Ok(Self {
            filekey,
            features,
            delivered: document.remove("delivered") == Some(Value::Bool(true)),
            session: document.remove("wireSession") == Some(Value::Bool(true)),
            announced,
            attend: attend.and_then(|said| {
                let mut all = Attend::ALL.into_iter();
                all.find(|attend| said == attend.word())
            }),
            offset: number(&mut document, "resumeOffset")?.unwrap_or_default(),
            code: text(&mut document, "errorCode")?.unwrap_or_default(),
            meta: Meta::from_document(document)?,
        })
    }
}

/// The present moment in the form of `datetime`.
pub fn datetime_now() -> String {
    datetime_of(Timestamp::now())
}

/// A moment in the form of `datetime`.
pub fn datetime_of(moment: Timestamp) -> String {
    let time = TimeZone::UTC.to_datetime(moment);
    time.strftime(DATETIME).to_string()
}

/// Whether a further field may have this name: not one of the protocol's, and not
/// one that stays on the machine.
pub fn is_extra(field: &str) -> bool {
    let taken = [FIXED.as_slice(), &REPLY, &LOCAL];
    field != "error" && !taken.iter().any(|fields| fields.contains(&field))
}

/// `datetime` becomes part of a file name, so only its exact form passes.
fn check_datetime(text: String) -> Result<String, MetaError> {
    match DateTime::strptime(DATETIME, &text) {
        Ok(parsed) if parsed.strftime(DATETIME).to_string() == text => Ok(text),
        _ => Err(MetaError::Field {
            field: "datetime",
            must: "a moment in UTC, like 30-12-2018_23-59-59",
        }),
    }
}

fn text(
    document: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<String>, MetaError> {
    match document.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= MAX_TEXT => Ok(Some(text)),
        Some(_) => Err(MetaError::Field { field, must: TEXT }),
    }
}

fn number(
    document: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<u64>, MetaError> {
    let value = document.remove(field);
    let number = match &value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        // The seed leaves open whether numbers are quoted, so both are read.
        Some(Value::String(text)) => decimal(text),
        Some(Value::Number(number)) => number.as_u64(),
        Some(_) => None,
    };
    match number {
        Some(number) if i64::try_from(number).is_ok() => Ok(Some(number)),
        _ => Err(MetaError::Field {
            field,
            must: "a whole number from 0 to 9223372036854775807",
        }),
    }
}

/// Reads `0|[1-9][0-9]*`: a number has one spelling.
fn decimal(text: &str) -> Option<u64> {
    let is_digits = text.bytes().all(|b| b.is_ascii_digit());
    let is_padded = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| is_digits && !is_padded)
}

fn checksum(
    document: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<u32>, MetaError> {
    number(document, field)?
        .map(|n| {
            u32::try_from(n).map_err(|_| MetaError::Field {
                field,
                must: "a CRC-32, a whole number from 0 to 4294967295",
            })
        })
        .transpose()
}

//! What happens to a folder, and what its hooks say to that: plain data.

use std::{fmt, sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use crate::{
    crypto::{CryptoError, random},
    journal::delivered::Key,
    json::{Map, Value},
    meta::{Meta, TransferId},
    root::{config::Config, folder::Folder},
};

/// The events of a folder, each a section of m2y.config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The server starts.
    Startup,
    /// Somebody asks to send a file; hooks may refuse.
    Meta,
    /// A file is stored safely; its sender does not know yet.
    Received,
    /// A file appeared.
    New,
    /// A file changed.
    Changed,
    /// A file disappeared.
    Deleted,
    /// A time of `[OnSchedule]` has come.
    Schedule,
    /// A contact wants to see what there is; hooks may refuse, and hide files.
    List,
    /// A contact wants to fetch a file; hooks may refuse.
    Get,
    /// A contact has fetched a file, and has it safely.
    Sent,
    /// A member of the folder's store is lost or back, or a scrub found damage.
    Store,
    /// A message came, and is safe.
    Message,
}

impl Kind {
    /// Every event, in the order in which an m2y.config has them.
    pub const ALL: [Self; 12] = [
        Self::Meta,
        Self::Startup,
        Self::Received,
        Self::New,
        Self::Changed,
        Self::Deleted,
        Self::Schedule,
        Self::List,
        Self::Get,
        Self::Sent,
        Self::Store,
        Self::Message,
    ];

    /// The event of that section.
    pub fn of_section(section: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.section() == section)
    }

    /// Whether its hooks may refuse, in whatever words: the person who asks hears them. At
    /// `[OnReceived]` only `reject` refuses, and anything else they say leaves the file pending.
    pub fn asks(self) -> bool {
        matches!(self, Self::Meta | Self::List | Self::Get | Self::Startup)
    }

    /// The section of m2y.config that names its scripts.
    pub fn section(self) -> &'static str {
        match self {
            Self::Startup => "OnStartup",
            Self::Meta => "OnMeta",
            Self::Received => "OnReceived",
            Self::New => "OnNew",
            Self::Changed => "OnChanged",
            Self::Deleted => "OnDeleted",
            Self::Schedule => "OnSchedule",
            Self::List => "OnList",
            Self::Get => "OnGet",
            Self::Sent => "OnSent",
            Self::Store => "OnStore",
            Self::Message => "OnMessage",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section())
    }
}

/// What identifies an event: the same for every attempt to run its hooks, so that a hook can tell
/// whether it has done its work before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId(pub [u8; 16]);

impl EventId {
    /// A new one.
    pub fn new() -> Result<Self, CryptoError> {
        random().map(Self)
    }

    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).ok()?;
        Some(Self(id))
    }
}

impl From<&Key> for EventId {
    /// Events of a transfer have one id, which their kinds tell apart. It is not the id of the
    /// transfer alone: that is its sender's choice, for any number of folders.
    fn from(key: &Key) -> Self {
        let mut hash = Sha256::new();
        for name in [&key.user, &key.folder, &key.from] {
            // No name holds a line break.
            hash.update(name.as_bytes());
            hash.update(b"\n");
        }
        hash.update(key.id.0);
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        Self(id)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// One event.
#[derive(Clone)]
pub struct Event {
    /// What identifies it.
    pub id: EventId,
    /// Which.
    pub kind: Kind,
    /// Where.
    pub folder: Folder,
    /// The folder's m2y.config, as it was when the transfer began.
    pub config: Arc<Config>,
    /// The name of the file in the folder, if it is about one that is there or was.
    pub file: Option<String>,
    /// What is known of the file, if it came from somebody.
    pub subject: Option<Subject>,
    /// Who lists, fetches or puts, and what, if a contact does.
    pub asked: Option<Asked>,
    /// What happened to the folder's store, at [`Kind::Store`].
    pub store: Option<StoreNews>,
}

impl Event {
    /// An event of the folder itself, about no file and nobody.
    pub fn of_folder(kind: Kind, folder: Folder, config: Arc<Config>) -> Result<Self, CryptoError> {
        Ok(Self {
            id: EventId::new()?,
            kind,
            folder,
            config,
            file: None,
            subject: None,
            asked: None,
            store: None,
        })
    }
}

/// What happened to the store of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreNews {
    /// The name of the store in m2y.ini.
    pub store: String,
    /// The name of the member; empty if it is about several.
    pub member: String,
    /// What happened.
    pub change: StoreChange,
    /// The same in a sentence.
    pub text: String,
}

impl StoreNews {
    /// What a script that is tried out hears: of a member `disk` of the store `safe`, unless it
    /// is told otherwise.
    pub fn made_up(change: Option<StoreChange>) -> Self {
        let change = change.unwrap_or(StoreChange::Lost);
        Self {
            store: "safe".to_owned(),
            member: "disk".to_owned(),
            change,
            text: match change {
                StoreChange::Lost => "disk: it does not answer",
                StoreChange::Back => "disk answers again",
                StoreChange::Damage => "a scrub found damage: disk: 1 wrong, 0 missing",
            }
            .to_owned(),
        }
    }
}

/// How a store changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreChange {
    /// A member does not answer any more.
    Lost,
    /// A member answers again.
    Back,
    /// A scrub found parts that are wrong or missing.
    Damage,
}

impl StoreChange {
    /// Every change.
    pub const ALL: [Self; 3] = [Self::Lost, Self::Back, Self::Damage];

    /// The change of that word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|change| change.word() == word)
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Back => "back",
            Self::Damage => "damage",
        }
    }
}

/// What a contact asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The contact's name.
    pub contact: String,
    /// Below the folder, as the contact wrote it; empty for the folder itself.
    pub path: String,
}

/// What the name of the `.meta` of a message begins with, which is there while a program runs.
pub const MESSAGE_STEM: &str = ".message-";

/// The file that an event is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What the sender says of it.
    pub meta: Meta,
    /// Its name in the folder without `.meta` and `.data`.
    pub stem: String,
}

impl Subject {
    /// A message, which has no file. Its names are hidden ones, for programs that read a `.meta`.
    pub fn of_message(meta: Meta, id: TransferId) -> Self {
        Self {
            meta,
            stem: format!("{MESSAGE_STEM}{id}"),
        }
    }

    /// The name of the `.meta` file in the folder.
    pub fn meta_file(&self) -> String {
        format!("{}.meta", self.stem)
    }

    /// The name of the `.data` file in the folder.
    pub fn data_file(&self) -> String {
        format!("{}.data", self.stem)
    }
}

/// What the hooks of a folder said to an event.
#[derive(Clone)]
pub struct Verdict {
    /// The subject's meta before them.
    pub before: Option<Meta>,
    /// The subject's meta, with what the hooks wrote into it.
    pub meta: Option<Meta>,
    /// The stem of its names, which a hook may have changed.
    pub stem: Option<String>,
    /// Where it is; a hook may have moved it.
    pub folder: Folder,
    /// Its name there.
    pub file: Option<String>,
    /// What they decided.
    pub outcome: Outcome,
    /// Which scripts ran, in their order.
    pub runs: Vec<Run>,
    /// What they asked for that is done later, now that they have decided.
    pub effects: Vec<Effect>,
    /// Lines for the user's inbox.
    pub inbox: Vec<String>,
    /// Whether the decision has taken effect, and what they asked for is in the journal.
    pub is_settled: bool,
    /// Whether the sender is told that the file went into quarantine.
    pub tells_sender: bool,
    /// Whether a stream is accepted without asking anybody.
    pub accepts_stream: bool,
    /// Patterns of what a contact is not to see.
    pub hidden: Vec<String>,
    /// The path below its folder that the file got, if its sender wanted one.
    pub placed: Option<String>,
}

/// Something that a hook asks for and that is done after its verdict, so that no dead mail server
/// delays a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An e-mail.
    Email {
        /// The address.
        to: String,
        /// The subject, one line.
        subject: String,
        /// The text.
        text: String,
    },
    /// A JSON document for a web server.
    Webhook {
        /// `http` or `https`.
        url: String,
        /// What is posted.
        body: Map<String, Value>,
    },
    /// A file of the folder for another person.
    Send {
        /// The contact.
        to: String,
        /// The contact's folder.
        folder: String,
        /// The name of the file in the folder of the event.
        file: String,
        /// Further fields of the `.meta` that goes with it.
        fields: Map<String, Value>,
    },
    /// A message for another person, written by a script.
    Message {
        /// The contact.
        to: String,
        /// The contact's folder.
        folder: String,
        /// What it says.
        text: String,
    },
}

impl Effect {
    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Email { .. } => "email",
            Self::Webhook { .. } => "webhook",
            Self::Send { .. } => "send",
            Self::Message { .. } => "message",
        }
    }

    /// Its facts, as a document.
    pub fn to_document(&self) -> Map<String, Value> {
        let mut document = Map::new();
        let mut put = |field: &str, value: Value| document.insert(field.to_owned(), value);
        match self {
            Self::Email { to, subject, text } => {
                put("to", to.as_str().into());
                put("subject", subject.as_str().into());
                put("text", text.as_str().into());
            }
            Self::Webhook { url, body } => {
                put("url", url.as_str().into());
                put("body", Value::Object(body.clone()));
            }
            Self::Send {
                to,
                folder,
                file,
                fields,
            } => {
                put("to", to.as_str().into());
                put("folder", folder.as_str().into());
                put("file", file.as_str().into());
                if !fields.is_empty() {
                    put("fields", Value::Object(fields.clone()));
                }
            }
            Self::Message { to, folder, text } => {
                put("to", to.as_str().into());
                put("folder", folder.as_str().into());
                put("text", text.as_str().into());
            }
        }
        document
    }

    /// Reads what [`Effect::kind`] and [`Effect::to_document`] wrote.
    pub fn from_document(kind: &str, document: &Map<String, Value>) -> Option<Self> {
        let text = |field| Some(document.get(field)?.as_str()?.to_owned());
        match kind {
            "email" => Some(Self::Email {
                to: text("to")?,
                subject: text("subject")?,
                text: text("text")?,
            }),
            "webhook" => Some(Self::Webhook {
                url: text("url")?,
                body: document.get("body")?.as_object()?.clone(),
            }),
            "send" => Some(Self::Send {
                to: text("to")?,
                folder: text("folder")?,
                file: text("file")?,
                fields: match document.get("fields") {
                    Some(fields) => fields.as_object()?.clone(),
                    None => Map::new(),
                },
            }),
            "message" => Some(Self::Message {
                to: text("to")?,
                folder: text("folder")?,
                text: text("text")?,
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Effect {
    /// As the call would be written in a script.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Email { to, subject, text } => {
                write!(f, "notify.email({to:?}, {subject:?}, {text:?})")
            }
            Self::Webhook { url, body } => {
                let body = crate::json::canonical(body);
                write!(f, "notify.webhook({url:?}, #{body})")
            }
            Self::Send {
                to,
                folder,
                file,
                fields,
            } => {
                write!(f, "send(#{{to: {to:?}, folder: {folder:?}, file: {file:?}")?;
                if !fields.is_empty() {
                    write!(f, ", fields: #{}", crate::json::canonical(fields))?;
                }
                f.write_str("})")
            }
            Self::Message { text, .. } => write!(f, "reply({text:?})"),
        }
    }
}

/// What a hook, or all of them, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing against it.
    Accepted,
    /// Refused, in the hook's own words.
    Refused(String),
    /// The file is accepted, but kept out of sight until somebody releases it; why.
    Quarantined(String),
    /// The hook is missing, broken, or exceeded its limits. What went wrong is in the log; the peer
    /// is told [`Outcome::FAILED`].
    Failed,
    /// There was no time or no room to run the hook; the peer is told
    /// [`Outcome::LATER`].
    Later,
}

impl Outcome {
    /// What a peer hears of a hook that failed.
    pub const FAILED: &str = "a hook of the folder failed, try later";

    /// The word for it, and the hook's own words.
    pub fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Accepted => ("accepted", ""),
            Self::Refused(words) => ("refused", words),
            Self::Quarantined(words) => ("quarantined", words),
            Self::Failed => ("failed", ""),
            Self::Later => ("put off", ""),
        }
    }

    /// What a peer hears if hooks ran out of time.
    pub const LATER: &str = "a hook of the folder ran out of time, try later";

    /// Why not, for the peer.
    pub fn objection(&self) -> Option<&str> {
        match self {
            Self::Accepted | Self::Quarantined(_) => None,
            Self::Refused(words) => Some(words),
            Self::Failed | Self::Later => self.failure(),
        }
    }

    /// Why there is no decision, for the peer: the hook did not come to one, and may when it runs
    /// again. `None` if it decided.
    pub fn failure(&self) -> Option<&'static str> {
        match self {
            Self::Accepted | Self::Refused(_) | Self::Quarantined(_) => None,
            Self::Failed => Some(Self::FAILED),
            Self::Later => Some(Self::LATER),
        }
    }
}

/// One script that ran.
#[derive(Clone, Debug)]
pub struct Run {
    /// For which event.
    pub event: Kind,
    /// Its name in m2y.config.
    pub script: String,
    /// How long it took.
    pub took: Duration,
    /// What it decided.
    pub outcome: Outcome,
    /// Why it failed, with the place in the script: for the owner, not for a peer.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::config::EVENT_SECTIONS;

    #[test]
    fn every_event_has_its_section_in_an_m2y_config() {
        assert_eq!(Kind::ALL.map(Kind::section), EVENT_SECTIONS);
    }
}

//! What happens to a folder, and what its hooks say to that: plain data.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    meta::Meta,
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
    /// A file went.
    Deleted,
}

impl Kind {
    /// The section of m2y.config that names its scripts.
    pub fn section(self) -> &'static str {
        match self {
            Self::Startup => "OnStartup",
            Self::Meta => "OnMeta",
            Self::Received => "OnReceived",
            Self::New => "OnNew",
            Self::Changed => "OnChanged",
            Self::Deleted => "OnDeleted",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section())
    }
}

/// One event.
#[derive(Clone)]
pub struct Event {
    /// Which.
    pub kind: Kind,
    /// Where.
    pub folder: Folder,
    /// The folder's m2y.config, as it was when the transfer began.
    pub config: Arc<Config>,
    /// Which file, but for [`Kind::Startup`].
    pub subject: Option<Subject>,
}

/// The file that an event is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What the sender says of it.
    pub meta: Meta,
    /// Its name in the folder without `.meta` and `.data`.
    pub stem: String,
}

impl Subject {
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
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The subject's meta, with what the hooks wrote into it.
    pub meta: Option<Meta>,
    /// What they decided.
    pub outcome: Outcome,
    /// Which scripts ran, in their order.
    pub runs: Vec<Run>,
}

/// What a hook, or all of them, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing against it.
    Accepted,
    /// Refused, in the hook's own words.
    Refused(String),
    /// The hook is missing, broken, or ran out of its limits. What went wrong is
    /// in the log; the peer is told [`Outcome::FAILED`].
    Failed,
    /// There was no time or no room to run the hook; the peer is told
    /// [`Outcome::LATER`].
    Later,
}

impl Outcome {
    /// What a peer hears of a hook that failed.
    pub const FAILED: &str = "a hook of the folder failed";

    /// What a peer hears where hooks found no time.
    pub const LATER: &str = "a hook of the folder ran out of time, try later";

    /// Why not, for the peer.
    pub fn objection(&self) -> Option<&str> {
        match self {
            Self::Accepted => None,
            Self::Refused(words) => Some(words),
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
}

//! The tree on disk: users, keys, contacts, folders and their settings.
//!
//! ```text
//! ROOT/
//!   m2y.ini                            settings of the server
//!   journal.sqlite                     what still has to happen, what has come, what scripts keep
//!   hash2user/<16 hex digits>.txt      SHA-256(username)[..8] -> username
//!   scripts/                           scripts for all folders
//!   user/NAME/
//!     user.json                        the profile
//!     privateKey/NAME.data             PEM PKCS#8, mode 0600
//!     privateKey/NAME.before-*.data    a key that was in use before, see [`rotation`]
//!     pubKey/NAME.data                 PEM SPKI: the own key, and each contact's
//!     contacts.ini                     [CONTACT] address = host:port
//!     .requests/<32 hex digits>        requests to be a contact, not answered yet
//!     .openings/CONTACT                by which a recorded opening is known again
//!     .puts/<32 hex digits>            which attempt to put a large file is under way
//!     FOLDER/m2y.config                what makes a directory an m2y-folder
//!     FOLDER/.quarantine/              files that a hook put out of sight
//! ```
//!
//! Everything below the root is reached through a directory handle that no name
//! and no symbolic link leads out of (`cap-std`).

pub mod config;
pub mod conflict;
pub mod contact;
pub mod destination;
pub mod file;
pub mod folder;
pub mod meta_file;
pub mod name;
pub mod quarantine;
pub mod request;
pub mod rotation;
pub mod settings;
pub mod share;
pub mod tree;
pub mod user;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use cap_std::{ambient_authority, fs::Dir};
use tracing::warn;

use crate::{
    crypto::CryptoError,
    error::{Code, Error},
    json::JsonError,
};
use config::{Config, ConfigError};
use file::Stamp;
use folder::Folder;
use name::{Name, NameError, NameHash};
use settings::Settings;
use user::User;

/// Scripts that come with m2y, as `init` writes them to `ROOT/scripts/`.
pub type BundledScripts<'a> = &'a [(&'a str, &'a str)];

/// What can be wrong with the tree.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A word that is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The operating system refused.
    #[error("cannot {action} {path}: {}", why(.source))]
    Io {
        /// What was tried: `open`, `create`, `write`.
        action: &'static str,
        /// Below the root, or the root itself.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A private key that others could read.
    #[error("cannot open {path}: mode is {mode:04o}, must be 0600 (chmod 600 {full})")]
    Mode {
        /// Below the root.
        path: String,
        /// Permission bits.
        mode: u32,
        /// For the command that mends it.
        full: String,
    },
    /// A key file that holds no key.
    #[error("cannot use {path}: {source}")]
    Key {
        /// Below the root, or as the person named it.
        path: String,
        /// What is wrong with it.
        source: CryptoError,
    },
    /// A document that cannot be read.
    #[error("cannot read {path}: {reason}")]
    Document {
        /// Below the root, or as the person named it.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody of that name.
    #[error(
        "there is no user {0} in this root: make one with `m2y user create`, or name another root with --root"
    )]
    NoUser(Name),
    /// A directory among the users that is empty, or that `user create` did not finish.
    #[error(
        "{0} has no user.json and so is no user: make it one with `m2y user create`, or take it away"
    )]
    Unfinished(String),
    /// No key of that name in `pubKey/`.
    #[error("{user} has no contact {contact}: add the key with `m2y contact add`")]
    NoContact {
        /// Whose contact is missing.
        user: Name,
        /// Who it is.
        contact: Name,
    },
    /// No such directory, or one without m2y.config.
    #[error("no such folder")]
    NoFolder,
    /// Another key is there under this name.
    #[error(
        "{name} already has another key, {old}; compare the new one, {new}, with {name} in person, then repeat with --replace"
    )]
    OtherKey {
        /// Whose key.
        name: Name,
        /// What is there.
        old: String,
        /// What was to be written.
        new: String,
    },
    /// A card in one's own name with another key, or something else that is done with
    /// others only.
    #[error("{0} is your own name, and nobody is a contact of their own")]
    Oneself(Name),
    /// Two names, one hash: no server could tell them apart.
    #[error("the user name {new} has the same hash as {old}: choose another name")]
    HashTaken {
        /// Whose hash it is.
        old: String,
        /// Who cannot have it.
        new: Name,
    },
}

impl RootError {
    /// The value, `None` where there is none; an error only where the machine was at
    /// fault and could not look.
    pub fn unless_shortage<T>(found: Result<T, Self>) -> Result<Option<T>, Self> {
        match found {
            Err(Self::Io { source, .. }) if !file::is_shortage(&source) => Ok(None),
            Err(error @ Self::Io { .. }) => Err(error),
            found => Ok(found.ok()),
        }
    }
}

/// Why the operating system refused, in words that say what to mend.
fn why(source: &io::Error) -> String {
    if file::led_out(source) {
        "a symbolic link leads out of the root, or of the user's directory, and must not".to_owned()
    } else {
        source.to_string()
    }
}

impl RootError {
    fn io(action: &'static str, path: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    fn document(path: impl Into<String>, reason: impl ToString) -> Self {
        Self::Document {
            path: path.into(),
            reason: reason.to_string(),
        }
    }

    fn config(path: impl Into<String>, error: ConfigError) -> Self {
        Self::document(path, error)
    }

    fn json(path: impl Into<String>, error: JsonError) -> Self {
        Self::document(path, error)
    }
}

impl From<RootError> for Error {
    fn from(error: RootError) -> Self {
        let code = match &error {
            RootError::NoUser(_) | RootError::NoFolder => Code::NotFound,
            RootError::NoContact { .. }
            | RootError::Mode { .. }
            | RootError::Key { .. }
            | RootError::OtherKey { .. }
            | RootError::Oneself(_) => Code::Identity,
            _ => Code::Failed,
        };
        Self::new(code, error.to_string())
    }
}

/// The directories of users that somebody has open.
type Dirs = Mutex<HashMap<Name, Weak<Dir>>>;

/// What each m2y.config says.
type Configs = Mutex<HashMap<(Name, Name), ReadConfig>>;

/// An m2y.config that was read.
#[derive(Clone)]
struct ReadConfig {
    /// The version that it was read from.
    stamp: Stamp,
    config: Arc<Config>,
    /// A later version that cannot be read, and of which somebody was told.
    broken: Option<Stamp>,
}

/// An open root directory.
#[derive(Clone)]
pub struct Root {
    dir: Arc<Dir>,
    path: Arc<Path>,
    /// Whether the log was told what in `user/` is no user: a server lists its users
    /// more than once.
    told: Arc<AtomicBool>,
    /// The m2y.config of each folder, as it was when it could be read last.
    configs: Arc<Configs>,
    /// Shared, so that ten thousand sessions of one user rest on one descriptor.
    dirs: Arc<Dirs>,
}

impl Root {
    /// Opens a root that exists.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let fail = |source| RootError::Io {
            action: "open the root",
            path: format!("{} (make it with `m2y init --root ...`)", path.display()),
            source,
        };
        let full = path.canonicalize().map_err(fail)?;
        let dir = Dir::open_ambient_dir(&full, ambient_authority()).map_err(fail)?;
        Ok(Self {
            dir: Arc::new(dir),
            path: full.into(),
            told: Arc::default(),
            configs: Arc::default(),
            dirs: Arc::default(),
        })
    }

    /// Makes a root, or what is missing in one; overwrites nothing.
    ///
    /// Returns the files that were written, below the root.
    pub fn init(
        path: &Path,
        scripts: BundledScripts<'_>,
    ) -> Result<(Self, Vec<String>), RootError> {
        std::fs::create_dir_all(path)
            .map_err(RootError::io("create", path.display().to_string()))?;
        let root = Self::open(path)?;
        let mut written = Vec::new();
        for dir in ["hash2user", "scripts", "user"] {
            root.dir
                .create_dir_all(dir)
                .map_err(RootError::io("create", dir))?;
        }
        let in_scripts = root
            .dir
            .open_dir("scripts")
            .map_err(RootError::io("open", "scripts"))?;
        let mut offer = |dir: &Dir, name: &str, at: String, text: &str| {
            match file::create(dir, name, 0o644, text.as_bytes()) {
                Ok(()) => written.push(at),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(RootError::io("write", at)(e)),
            }
            Ok(())
        };
        offer(
            &root.dir,
            "m2y.ini",
            "m2y.ini".to_owned(),
            SETTINGS_TEMPLATE,
        )?;
        for (name, text) in scripts {
            offer(&in_scripts, name, format!("scripts/{name}"), text)?;
        }
        Ok((root, written))
    }

    /// Where it is, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory handle.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Reads m2y.ini; a missing one gives the defaults.
    pub fn settings(&self) -> Result<Settings, RootError> {
        match file::read_text(&self.dir, "m2y.ini", settings::MAX_LEN) {
            Ok(text) => {
                Settings::parse(&text).map_err(|reason| RootError::document("m2y.ini", reason))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(e) => Err(RootError::io("open", "m2y.ini")(e)),
        }
    }

    /// Opens the directory of a user.
    pub fn user(&self, name: &Name) -> Result<User, RootError> {
        User::open(self, name)
    }

    /// Every user, sorted by name: directories with a user.json. What else looks like
    /// one stops nobody; the log is told, once for this root.
    pub fn users(&self) -> Result<Vec<User>, RootError> {
        let mut names: Vec<Name> = self
            .dir
            .read_dir("user")
            .map_err(RootError::io("open", "user"))?
            .filter_map(|entry| Name::user(entry.ok()?.file_name().to_str()?).ok())
            .collect();
        names.sort();
        let told = self.told.swap(true, Ordering::Relaxed);
        let user = |name| match self.finished(name) {
            Ok(user) => user,
            Err(reason) => {
                if !told {
                    warn!("{reason}: passed over");
                }
                None
            }
        };
        Ok(names.iter().filter_map(user).collect())
    }

    /// Every m2y-folder of every user; an error for one that cannot be opened.
    pub fn folders(&self) -> Result<Vec<Result<Folder, RootError>>, RootError> {
        let mut folders = Vec::new();
        for user in self.users()? {
            folders.extend(user.folders()?);
        }
        Ok(folders)
    }

    /// Opens the user of an entry in `user/`; `None` for a file that lies there. An
    /// error for what looks like a user and is none.
    pub fn finished(&self, name: &Name) -> Result<Option<User>, RootError> {
        let at = format!("user/{name}");
        let about = self
            .dir
            .metadata(&at)
            .map_err(RootError::io("open", at.clone()))?;
        if !about.is_dir() {
            return Ok(None);
        }
        let user = self.user(name)?;
        // It is written last. One that is there and cannot be read still belongs to
        // somebody whose keys must be in order.
        match user.dir().symlink_metadata("user.json") {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(RootError::Unfinished(at)),
            _ => Ok(Some(user)),
        }
    }

    /// Finds a user name by the hash in a header; `None` where there is none. An error
    /// only where the machine could not look.
    pub fn name_of(&self, hash: &NameHash) -> Result<Option<Name>, RootError> {
        let path = hash_path(hash);
        let text = match file::read_text(&self.dir, &path, name::MAX_LEN as u64 + 2) {
            Err(e) if file::is_shortage(&e) => return Err(RootError::io("open", path)(e)),
            read => read.unwrap_or_default(),
        };
        let name = Name::user(text.trim_end()).ok();
        Ok(name.filter(|name| name.hash() == *hash))
    }

    /// Enters a name under its hash, once.
    fn remember_name(&self, name: &Name) -> Result<(), RootError> {
        let path = hash_path(&name.hash());
        match file::read_text(&self.dir, &path, 1024) {
            Ok(old) if old.trim_end() == name.as_str() => return Ok(()),
            Ok(old) => {
                return Err(RootError::HashTaken {
                    old: old.trim_end().to_owned(),
                    new: name.clone(),
                });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(RootError::io("open", path)(e)),
        }
        let dir = self
            .dir
            .open_dir("hash2user")
            .map_err(RootError::io("open", "hash2user"))?;
        let entry = format!("{}.txt", hex::encode(name.hash()));
        file::replace(&dir, &entry, 0o644, format!("{name}\n").as_bytes())
            .map_err(RootError::io("write", path))
    }

    /// Opens an m2y-folder of a user.
    pub fn folder(&self, user: &Name, folder: &Name) -> Result<Folder, RootError> {
        self.user(user)?.folder(folder)
    }

    /// Finds the root, user and folder that a path like
    /// `ROOT/user/NAME/FOLDER/x.meta` lies in.
    pub fn around(path: &Path) -> Option<PathBuf> {
        let full = path.canonicalize().ok()?;
        let folder = full.parent()?;
        let user = folder.parent()?;
        let users = user.parent()?;
        (users.file_name()? == "user").then(|| users.parent().map(Path::to_path_buf))?
    }
}

fn hash_path(hash: &NameHash) -> String {
    format!("hash2user/{}.txt", hex::encode(hash))
}

const SETTINGS_TEMPLATE: &str = "\
# Settings of the m2y server. Take away a '#' to change one; where nothing else is
# said, the line shows the default.
[server]
# listen = 127.0.0.1:5000
# max_connections = 4096
# max_connections_per_address = 256
# opening_deadline = 10s
# How old the opening of a session may be, by this machine's clock: one that somebody held
# back for longer does nothing.
# opening_max_age = 30d
# idle_deadline = 60s
# shutdown_deadline = 20s
# Bytes of the largest file that is taken; as large as the disk, unless it is set.
# max_filesize = 20G
# The log on standard error: text for people, or json, an object a line.
# log_format = text
# Where /metrics (for Prometheus) and /healthz are read: nowhere, unless it is set.
# metrics = 127.0.0.1:9090
[hooks]
# script_deadline = 500ms
# executable_deadline = 30s
# Programs as hooks: none, shared (only in ROOT/scripts/), all, or names of users with
# commas between, in whose folders they may be too. A program does what it wants.
# executables = shared
# A hook that failed after a file was safe, an e-mail, a webhook: tried again after this
# time, then after four times as long, and so on (at most an hour), so many times in all.
# retry_delay = 5s
# retry_limit = 12
# The mail server for notify.email(). Without a host no e-mail goes out; host, from,
# username, password_file and ca_file are examples.
[smtp]
# host = mail.example.org
# from = m2y@example.org
# It is starttls, tls or none; none only for a mail server on this machine itself.
# security = starttls
# With tls it is 465, with none 25.
# port = 587
# username = m2y
# A file with mode 0600, below the root unless it begins with /. The variable
# M2Y_SMTP_PASSWORD beats it.
# password_file = smtp-password
# Certificates (PEM) of an authority of your own, trusted beside the system's.
# ca_file = ca.pem
# deadline = 30s
# Where notify.webhook() may post: nowhere, unless it is set. A host without a port has
# 80 and 443; *.example.net is every host below example.net, but not itself. allow and
# ca_file are examples.
[webhook]
# allow = hooks.example.org, intranet:8080, *.example.net
# ca_file = ca.pem
# deadline = 10s
[watch]
# A file that appeared or changed is an event when it has been closed and then rested so
# long; one that is never closed, when it has rested 60 times as long.
# settle = 500ms
";

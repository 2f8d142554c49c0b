//! The tree on disk: users, keys, contacts, folders and their settings.
//!
//! ```text
//! ROOT/
//!   m2y.ini                            settings of the server
//!   journal.sqlite                     what still has to happen, what arrived, what scripts keep
//!   hash2user/<16 hex digits>.txt      SHA-256(username)[..8] -> username
//!   scripts/                           scripts for all folders
//!   user/NAME/
//!     user.json                        the profile
//!     privateKey/NAME.data             PEM PKCS#8, mode 0600
//!     privateKey/NAME.before-*.data    a key that was in use before, see [`rotation`]
//!     pubKey/NAME.data                 PEM SPKI: the own key, and each contact's
//!     contacts.ini                     [CONTACT] address = host:port
//!     .requests/<32 hex digits>        requests to be a contact, not answered yet
//!     .openings/CONTACT                by which a replayed opening is recognised
//!     .puts/<32 hex digits>            which attempt to put a large file is under way
//!     FOLDER/m2y.config                what makes a directory an m2y-folder
//!     FOLDER/.quarantine/              files that a hook put out of sight
//! ```
//!
//! Everything below the root is reached through a directory handle that no name
//! and no symbolic link leads out of (`cap-std`).

pub mod boxes;
mod certificate;
pub mod config;
pub mod conflict;
pub mod contact;
mod contact_book;
pub mod contact_request;
pub mod destination;
mod error;
pub mod file;
pub mod folder;
pub mod folder_rules;
pub mod folder_store;
mod ini_text;
pub mod introductions;
pub mod invitation;
pub mod message_log;
pub mod meta_file;
pub mod name;
pub mod passphrases;
pub mod prekeys;
mod relay_key;
pub mod rotation;
pub mod schedule;
pub mod settings;
pub mod share;
pub mod tree;
pub mod user;
mod users;
pub mod version;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicBool},
};

use cap_std::{ambient_authority, fs::Dir};

pub use self::error::RootError;
use config::{Config, ReadConfig};
use folder::Folder;
use name::Name;
use settings::Settings;

/// Scripts that come with m2y, as `init` writes them to `ROOT/scripts/`.
pub type BundledScripts<'a> = &'a [(&'a str, &'a str)];

/// The directories of users that are open.
type Dirs = Mutex<HashMap<Name, Weak<Dir>>>;

/// What each m2y.config says.
type Configs = Mutex<HashMap<(Name, Name), ReadConfig>>;

/// Says what is wrong with an edited m2y.config besides its syntax; the first one is what was
/// in force before, whose faults are known.
pub type Examiner = dyn Fn(&Folder, &Config, &Config) -> Result<(), String> + Send + Sync;

/// An open root directory.
#[derive(Clone)]
pub struct Root {
    dir: Arc<Dir>,
    path: Arc<Path>,
    /// Whether the log was told what in `user/` is not a user: a server lists its users more than
    /// once.
    told: Arc<AtomicBool>,
    /// The m2y.config of each folder, as it was when it could last be read.
    configs: Arc<Configs>,
    /// Only modules above this one know whether an edited m2y.config can work.
    examiner: Arc<Mutex<Option<Arc<Examiner>>>>,
    /// Shared, so that ten thousand sessions of one user share one descriptor.
    dirs: Arc<Dirs>,
}

impl Root {
    /// Opens a root that exists.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let fail = |source| RootError::Io {
            action: "open the root",
            path: format!("{} (create it with `m2y init --user NAME`)", path.display()),
            source,
        };
        let full = path.canonicalize().map_err(fail)?;
        let dir = Dir::open_ambient_dir(&full, ambient_authority()).map_err(fail)?;
        Ok(Self {
            dir: Arc::new(dir),
            path: full.into(),
            told: Arc::default(),
            configs: Arc::default(),
            examiner: Arc::default(),
            dirs: Arc::default(),
        })
    }

    /// Has each m2y.config that is edited from now on examined before it takes effect.
    pub fn examine_edits(&self, examiner: Arc<Examiner>) {
        *self.examiner.lock().unwrap_or_else(PoisonError::into_inner) = Some(examiner);
    }

    fn examiner(&self) -> Option<Arc<Examiner>> {
        let examiner = self.examiner.lock().unwrap_or_else(PoisonError::into_inner);
        examiner.clone()
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

    /// Finds the root, user and folder that a path like `ROOT/user/NAME/FOLDER/x.meta` is in.
    pub fn around(path: &Path) -> Option<PathBuf> {
        let full = path.canonicalize().ok()?;
        let folder = full.parent()?;
        let user = folder.parent()?;
        let users = user.parent()?;
        (users.file_name()? == "user").then(|| users.parent().map(Path::to_path_buf))?
    }
}

pub(crate) const SETTINGS_TEMPLATE: &str = "\
# Settings of the m2y server. Take away a '#' to change one; where nothing else is
# said, the line shows the default.
[server]
# Addresses to listen on, with commas between: HOST:PORT takes plain sessions and TLS,
# quic://HOST:PORT takes QUIC.
# listen = 127.0.0.1:5000
# Where others reach this server, for the cards that `m2y pair` gives them: found out, unless it
# is set. The line is an example.
# address = example.org:5000, quic://example.org:5000
# max_connections = 4096
# max_connections_per_address = 256
# opening_deadline = 10s
# How old the opening of a session may be, by this machine's clock: one that somebody held
# back for longer has no effect.
# opening_max_age = 30d
# idle_deadline = 60s
# shutdown_deadline = 20s
# How many messages of one contact are taken each second, after a burst of two seconds' worth:
# further ones wait.
# messages_per_second = 5000
# The largest file that is accepted, in bytes: limited only by the disk, unless it is set.
# max_filesize = 20G
# The log on standard error: text for people, or json, one object a line.
# log_format = text
# The address of /metrics (for Prometheus) and /healthz: none, unless it is set.
# metrics = 127.0.0.1:9090
# What the server proves itself with over TLS and QUIC: files in PEM, below the root unless a
# path begins with /. Without a key, it is in the file of the certificate. Without both, the
# server makes a certificate, whose fingerprint belongs to the addresses that others use.
[tls]
# certificate = /etc/letsencrypt/live/example.org/fullchain.pem
# key = /etc/letsencrypt/live/example.org/privkey.pem
# no if a network card or its driver loses what QUIC sends: then each packet is cut here.
[quic]
# gso = yes
[hooks]
# script_deadline = 500ms
# executable_deadline = 30s
# Programs as hooks: none, shared (only in ROOT/scripts/), all, or user names separated by
# commas, whose folders may have them too. A program can do anything.
# executables = shared
# A hook that failed after a file was safe, an e-mail or a webhook is retried after this
# time, then after four times as long, and so on (at most an hour), this many times in all.
# retry_delay = 5s
# retry_limit = 12
# The mail server for notify.email(). Without a host, no e-mail is sent; host, from,
# username, password_file and ca_file are examples.
[smtp]
# host = mail.example.org
# from = m2y@example.org
# starttls, tls or none; none only for a mail server on this machine itself.
# security = starttls
# With tls the default is 465, with none 25.
# port = 587
# username = m2y
# A file with mode 0600, below the root unless its path begins with /. The variable
# M2Y_SMTP_PASSWORD takes precedence over it.
# password_file = smtp-password
# Certificates (PEM) of an authority of your own, trusted in addition to the system's.
# ca_file = ca.pem
# deadline = 30s
# Where notify.webhook() may post, and which servers http.get() and http.post() may ask:
# none, unless it is set. A host without a port allows 80 and 443; *.example.net is every
# host below example.net, but not example.net itself. An address that is not public, like
# 10.0.0.7, must itself be listed for http, whatever name leads to it. allow and ca_file are
# examples.
[webhook]
# allow = hooks.example.org, intranet:8080, *.example.net
# ca_file = ca.pem
# deadline = 10s
# A relay lets people meet who cannot reach each other: see `m2y guide reach`.
[relay]
# enabled = no
# The user of this root whose contacts are the members.
# user = relay
# Whether people who are no members may call members.
# guests = yes
# Pairs that are joined at the same time: in all, of one member, of the callers of one host.
# max_pairs = 1024
# pairs_per_member = 64
# pairs_per_address = 32
# Bytes a second that each pair may move: as many as come, unless it is set.
# rate = 100M
# Whether letters are kept for members who are away, and for how long.
# letters = yes
# keep = 14d
# What may wait for one member, and how much of it one contact may leave.
# max_letters = 1000
# max_letter_bytes = 4G
# box_letters = 100
# box_bytes = 1G
# Who may see whether the users of this root are at their relays: contacts or nobody; and whether
# other members of a relay may see that they are members, see `m2y relay who`.
[presence]
# show = contacts
# listed = no
[folder]
# The size in bytes at which a user's inbox.log becomes inbox.log.1; five such files are kept.
# inbox_max = 10M
[watch]
# A file that appeared or changed is an event once it has been closed and then left alone
# for this long; one that is never closed, once it has been left alone for 60 times as long.
# settle = 500ms
# The user for commands without --user: the only user of the root, unless it is set.
[client]
# user = zhenqiang
";

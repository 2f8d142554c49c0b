//! What a server says of itself, and what it can be told to do.

use std::{
    collections::HashMap,
    fs, process,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::{
    runtime::{Handle, RuntimeMetrics},
    sync::mpsc,
    task,
    time::sleep,
};
use tracing::{error, info};

use super::{Server, systemd};
use crate::{
    clock,
    control::{self, object},
    error::{Code, Error},
    journal::{self, letters, mailbox},
    json::{Map, Value},
    pairing::slots::Slots,
    relay::hub::Hub,
    root::{
        name::{Name, NameHash},
        settings::{Change, Settings},
        user::User,
    },
    traffic::Transfer,
    transport::Address,
    viewers::Viewers,
};

/// How long the answer has until the server stops.
const ANSWERED: Duration = Duration::from_millis(20);

/// A server as programs of its machine see it. Clones are the same one.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    server: Server,
    addresses: Vec<Address>,
    begun: Instant,
    /// When it began, in milliseconds since 1970.
    at: u64,
    journal: Mutex<Connection>,
    /// m2y.ini as it was last read, but for what needs a restart: that is as it was at the start.
    read: Mutex<Settings>,
    /// Where it is said that the server is to stop, and whether at once; nowhere, if it stops with
    /// the program that it belongs to.
    stop: Option<mpsc::UnboundedSender<bool>>,
}

impl Console {
    /// The console of a server that listens on these addresses and began with this m2y.ini.
    pub fn new(
        server: &Server,
        addresses: Vec<Address>,
        read: Settings,
        stop: Option<mpsc::UnboundedSender<bool>>,
    ) -> Result<Self, Error> {
        let journal = server.receiver.hooks.journal().reader();
        let journal = journal.map_err(|e| Error::new(Code::Failed, e.to_string()))?;
        Ok(Self(Arc::new(Inner {
            server: server.clone(),
            addresses,
            begun: Instant::now(),
            at: clock::millis(),
            journal: Mutex::new(journal),
            read: Mutex::new(read),
            stop,
        })))
    }

    /// Reads m2y.ini again; returns what has changed. If it cannot be used, everything stays as it
    /// is.
    pub fn reload(&self) -> Result<Vec<Change>, Error> {
        systemd::tell_reloading();
        let changes = self.reload_now();
        systemd::tell("READY=1");
        match &changes {
            Ok(changes) => {
                let keys: Vec<_> = changes.iter().map(|change| change.key.as_str()).collect();
                info!(changed = keys.join(", "), "read m2y.ini again");
            }
            Err(error) => error!("everything stays as it was set: {error}"),
        }
        changes
    }

    fn reload_now(&self) -> Result<Vec<Change>, Error> {
        let inner = &self.0;
        let mut read = inner.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = inner.server.root.settings()?;
        let changes = new.changes_since(&read);
        let mut next = new.clone();
        next.keep_fixed(&inner.server.settings.now());
        inner.server.set(next)?;
        new.keep_fixed(&read);
        *read = new;
        Ok(changes)
    }
}

#[async_trait]
impl control::console::Console for Console {
    fn addresses(&self) -> &[Address] {
        &self.0.addresses
    }

    fn slots(&self) -> &Slots {
        self.0.server.slots()
    }

    fn viewers(&self) -> &Viewers {
        self.0.server.viewers()
    }

    fn hub(&self) -> Option<&Hub> {
        self.0.server.hub()
    }

    async fn status(&self) -> Result<Map<String, Value>, Error> {
        let (console, runtime) = (self.clone(), Handle::current().metrics());
        let looked = task::spawn_blocking(move || console.0.status(&runtime)).await;
        looked.map_err(|_| lost())
    }

    async fn reload(&self) -> Result<Vec<Change>, Error> {
        let console = self.clone();
        let reloaded = task::spawn_blocking(move || Self::reload(&console)).await;
        reloaded.map_err(|_| lost())?
    }

    fn stop(&self, now: bool) -> Result<(), Error> {
        let stop = self.0.stop.as_ref().ok_or_else(|| {
            let sentence = "an `m2y chat` receives for this root: leave it instead";
            Error::new(Code::Refused, sentence)
        })?;
        let stop = stop.clone();
        tokio::spawn(async move {
            // The answer comes first.
            sleep(ANSWERED).await;
            let _ = stop.send(now);
        });
        Ok(())
    }
}

fn lost() -> Error {
    Error::new(Code::Failed, "a thread of the server stopped")
}

impl Inner {
    /// All of it. It reads the disk.
    fn status(&self, runtime: &RuntimeMetrics) -> Map<String, Value> {
        let metrics = &self.server.metrics;
        let root = self.server.root.path().display().to_string();
        let addresses = self.addresses.iter().map(|address| address.to_string());
        let (waiting, dead) = self.count("events", journal::counts).unwrap_or_default();
        let left = self.count("letters", letters::count_left);
        object([
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("pid", process::id().into()),
            ("root", root.into()),
            ("started", self.at.into()),
            ("uptime", self.begun.elapsed().as_secs().into()),
            ("addresses", array(addresses, Value::from)),
            ("process", of_process(runtime)),
            ("users", array(self.users(), Value::Object)),
            ("connections", metrics.connections().into()),
            ("sessions", self.sessions()),
            ("attending", self.attending()),
            ("relay", self.relay()),
            ("received_bytes", metrics.received_bytes().into()),
            ("sent_bytes", metrics.sent_bytes().into()),
            (
                "transfers",
                array(self.server.traffic().transfers(), |one| of_transfer(&one)),
            ),
            (
                "events",
                Value::Object(object([("waiting", waiting.into()), ("dead", dead.into())])),
            ),
            (
                "letters",
                Value::Object(object([("left", left.unwrap_or_default().into())])),
            ),
            ("stores", metrics.stores.listed()),
        ])
    }

    /// What the journal says; the log says why it says nothing.
    fn count<T>(
        &self,
        what: &str,
        count: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Option<T> {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        count(&journal)
            .inspect_err(|e| error!("the status lacks the {what} of the journal: {e}"))
            .ok()
    }

    fn users(&self) -> Vec<Map<String, Value>> {
        let users = self.server.root.users().unwrap_or_else(|error| {
            error!("the status lacks the users: {error}");
            Vec::new()
        });
        users.iter().map(of_user).collect()
    }

    fn sessions(&self) -> Value {
        array(self.server.traffic().sessions(), |session| {
            Value::Object(object([
                ("user", session.user.as_str().into()),
                ("contact", session.contact.as_str().into()),
                ("address", session.address.as_str().into()),
                ("seconds", session.age().as_secs().into()),
            ]))
        })
    }

    fn attending(&self) -> Value {
        array(self.server.traffic().places(), |place| {
            Value::Object(object([
                ("user", place.user.as_str().into()),
                ("relay", place.relay.as_str().into()),
                ("seconds", place.age().as_secs().into()),
            ]))
        })
    }

    /// Who attends here, if this is a relay.
    fn relay(&self) -> Value {
        let Some(relay) = &self.server.relay else {
            return Value::Null;
        };
        let contacts = relay.user().contact_names().unwrap_or_default();
        let names: HashMap<NameHash, &Name> =
            contacts.iter().map(|name| (name.hash(), name)).collect();
        let (all, pairs) = relay.hub().all();
        let member = |(hash, since): (NameHash, Duration)| {
            // One that was just removed has no name any more.
            let name = names.get(&hash).map(|name| name.as_str());
            (name.unwrap_or("-").to_owned(), since.as_secs())
        };
        let mut present: Vec<_> = all.into_iter().map(member).collect();
        present.sort();
        let held = self.count("letters", mailbox::held).unwrap_or_default();
        Value::Object(object([
            ("user", relay.user().name().as_str().into()),
            ("members", contacts.len().into()),
            (
                "present",
                array(present, |(name, seconds)| {
                    Value::Object(object([("name", name.into()), ("seconds", seconds.into())]))
                }),
            ),
            ("pairs", pairs.into()),
            ("letters", held.letters.into()),
            ("letter_bytes", held.bytes.into()),
        ]))
    }
}

fn array<T>(all: impl IntoIterator<Item = T>, one: impl Fn(T) -> Value) -> Value {
    Value::Array(all.into_iter().map(one).collect())
}

fn of_user(user: &User) -> Map<String, Value> {
    let contacts = user.contact_names().unwrap_or_default();
    let folders = user.folder_names().unwrap_or_default();
    object([
        ("user", user.name().as_str().into()),
        ("contacts", contacts.len().into()),
        (
            "folders",
            array(folders, |folder| folder.as_str().to_owned().into()),
        ),
    ])
}

fn of_transfer(transfer: &Transfer) -> Value {
    let (file, stage) = (&transfer.file, transfer.stage());
    Value::Object(object([
        ("direction", file.direction.word().into()),
        ("user", file.user.as_str().into()),
        ("contact", file.contact.as_str().into()),
        ("folder", file.folder.as_str().into()),
        ("name", file.name.as_str().into()),
        ("bytes", transfer.bytes().into()),
        ("size", file.size.into()),
        ("rate", transfer.rate().into()),
        ("seconds", transfer.age().as_secs().into()),
        ("stage", stage.word().into()),
        ("hook", stage.hook().into()),
    ]))
}

/// Tasks, threads and memory.
fn of_process(runtime: &RuntimeMetrics) -> Value {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |field: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.and_then(|word| word.parse().ok()).unwrap_or_default()
    };
    Value::Object(object([
        ("tasks", runtime.num_alive_tasks().into()),
        ("workers", runtime.num_workers().into()),
        ("threads", number("Threads:").into()),
        ("memory", number("VmRSS:").saturating_mul(1_024).into()),
    ]))
}

//! A made-up root with one folder, in which events happen for real.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rhai::{Dynamic, Map};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{answers::Answers, message::is_message};
use crate::{
    clock,
    delivery::http::Answered,
    event::{Asked, Event, EventId, Kind, Outcome, StoreChange, StoreNews, Subject, Verdict},
    hooks::{
        Hooks, Pinned,
        api::{
            function::{Made, fail},
            state::MemoryState,
            value::{from_dynamic, to_dynamic},
        },
        decide::Unrecorded,
        engine,
        inbox::INBOX,
        notes::{Mode, Notes},
        received::changes_of,
        redo::Pass,
        services::Services,
        transaction::Transaction,
    },
    json::{self, Value},
    meta::{self, Meta},
    root::{
        Root,
        config::Config,
        file,
        folder::{CONFIG, Folder},
        meta_file,
        name::Name,
        settings::{Programs, Settings},
    },
    store::Stores,
};

/// The ending of a file with tests.
pub const ENDING: &str = "_test.rhai";

/// Files of a directory that are copied for a test.
const MAX_FILES: usize = 1_000;

/// The largest program that is copied, in bytes.
const MAX_PROGRAM: u64 = 64 << 20;

/// The largest file that a test looks at, in bytes.
pub(super) const MAX_TEXT: u64 = 1 << 20;

/// How many files of one sender in one second are told apart.
const MAX_CLASHES: u32 = 1_000;

/// The made-up user, contact and folder.
const USER: &str = "roland-frei";
const CONTACT: &str = "zhenqiang";
const FOLDER: &str = "photo";

/// A public key whose private one nobody has; a contact needs one.
const KEY: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA0v4Zd0E7bUUvg/9pTQsz
G1NlsCi/2CH4k1IgftBkGkxRANBMsF0kIXf28R1+TSIaI4Ya1D6TJSwgtLUsRK93
ID3Y5W6Mi0JkD3evWuhOev5swBtqpBzzlzBjte4ctHWZ1kogTfSXsYYX7EHPS8Y6
kRCOQgQE6G88qlbitBtKzi0+xzFCFiFGxvVijJKUK7Cy+uoKcXb8kMPqw620uDi2
+Wk0IC7hCCWom1G+J30AF5C8fZhZaUO4VU5Zz3VqvZjhM/96DqcdQoTsyOYtPwJX
AU6cictfQthhyR2W4BWesn2ddLiuveiMV1kgsb0gT9O0mm70r/1AIx/v34jpxR0D
2wIDAQAB
-----END PUBLIC KEY-----
";

/// Where the tested hooks are.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The directory with the scripts, and perhaps an m2y.config.
    pub dir: PathBuf,
    /// The scripts for all folders, if there are any.
    pub shared: Option<PathBuf>,
    /// Whether programs are started.
    pub programs: bool,
}

impl Suite {
    /// The files with tests, sorted.
    pub fn files(&self) -> io::Result<Vec<String>> {
        let mut files: Vec<String> = fs::read_dir(&self.dir)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(ENDING) && !name.starts_with('.'))
            .take(MAX_FILES)
            .collect();
        files.sort();
        Ok(files)
    }
}

/// What an event is about.
pub enum What {
    /// The folder.
    Nothing,
    /// A file of the folder.
    File(String),
    /// A file that was sent.
    Sent(Map),
}

/// An event that is to happen.
pub struct Happening<'a> {
    /// The only script that runs, if not all of the section do.
    pub script: Option<&'a str>,
    /// The section.
    pub event: &'a str,
    /// What it is about.
    pub what: What,
    /// The content of the file.
    pub content: Option<Vec<u8>>,
}

fn texts(lines: Vec<String>) -> Dynamic {
    let lines = lines.into_iter().map(Dynamic::from);
    lines.collect::<Vec<_>>().into()
}

/// A made-up root, with one folder.
pub struct Sandbox {
    dir: TempDir,
    root: Root,
    folder: Folder,
    hooks: Hooks,
    /// What its hooks and the test reach.
    pub(super) services: Services,
    answers: Arc<Answers>,
    state: Arc<MemoryState>,
    /// What the test itself asks for.
    pub(super) transaction: Transaction,
    config: Mutex<Config>,
    runtime: Handle,
    programs: bool,
    /// What the last event said, if it did not go through.
    last: Mutex<Option<String>>,
}

impl Sandbox {
    pub(super) fn new(suite: &Suite, runtime: &Handle) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("m2y-test-").tempdir()?;
        let at = dir.path();
        let user = at.join("user").join(USER);
        let photo = user.join(FOLDER);
        fs::create_dir_all(at.join("scripts"))?;
        fs::create_dir_all(user.join("pubKey"))?;
        fs::create_dir_all(&photo)?;
        let profile = format!(
            "{{\"username\": \"{USER}\", \"realname\": \"Roland Frei\", \"email\": \"{USER}@example.org\"}}"
        );
        fs::write(user.join("user.json"), profile)?;
        fs::write(user.join(format!("pubKey/{CONTACT}.data")), KEY)?;
        fs::write(photo.join(CONFIG), "")?;
        copy(&suite.dir, &photo)?;
        if let Some(shared) = &suite.shared {
            copy(shared, &at.join("scripts"))?;
        }
        let broken = |e: &dyn std::fmt::Display| io::Error::other(e.to_string());
        let root = Root::open(at).map_err(|e| broken(&e))?;
        let name = |text| Name::folder(text).map_err(|e| broken(&e));
        let folder = root
            .folder(&name(USER)?, &name(FOLDER)?)
            .map_err(|e| broken(&e))?;
        let config = folder.read_config().map_err(|e| {
            let sentence = e.to_string();
            let rest = sentence.split_once(CONFIG).map_or("", |(_, rest)| rest);
            io::Error::other(format!("cannot read {CONFIG}{rest}"))
        })?;
        let settings = Settings {
            executables: Programs::All,
            ..Settings::default()
        };
        let answers = Arc::new(Answers::default());
        let state = Arc::new(MemoryState::default());
        let services = Services::new(state.clone()).with_web(answers.clone());
        // What a hook asks the runtime for has to be asked from inside it.
        let _entered = runtime.enter();
        Ok(Self {
            transaction: Transaction::new(folder.user(), &Stores::default()),
            hooks: Hooks::new(&root, &settings, &services),
            dir,
            root,
            folder,
            services,
            answers,
            state,
            config: Mutex::new(config),
            runtime: runtime.clone(),
            programs: suite.programs,
            last: Mutex::default(),
        })
    }

    /// What the last event said, if it did not go through.
    pub(super) fn note(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    /// Makes what the test asked for so far take effect: the next step must see it.
    fn settle(&self, call: &str) -> Made<()> {
        let wrong = |e: &dyn std::fmt::Display| fail(format!("{call}: {e}"));
        let changes = self.transaction.take().map_err(|e| wrong(&e))?;
        Unrecorded::new(&self.services.state, self.hooks.changer())
            .make(self.folder.user(), &changes)
            .map_err(|e| wrong(&e))
    }

    fn config(&self) -> Config {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.clone()
    }

    pub(super) fn event(
        &self,
        kind: Kind,
        file: Option<String>,
        subject: Option<Subject>,
    ) -> io::Result<Event> {
        let id = subject.as_ref().and_then(|subject| subject.meta.id);
        let id = match id {
            Some(id) => EventId(id.0),
            None => EventId::new().map_err(|e| io::Error::other(e.to_string()))?,
        };
        let is_asked = matches!(kind, Kind::List | Kind::Get | Kind::Sent);
        let change = match &file {
            Some(word) if kind == Kind::Store => StoreChange::of_word(word),
            _ => None,
        };
        Ok(Event {
            id,
            kind,
            folder: self.folder.clone(),
            config: Arc::new(self.config()),
            // In a test it is the sender of the made-up metas who asks.
            asked: is_asked.then(|| Asked {
                contact: "zhenqiang".to_owned(),
                path: file.clone().unwrap_or_default(),
            }),
            file: file.filter(|_| !is_asked && kind != Kind::Store),
            subject,
            store: (kind == Kind::Store).then(|| StoreNews::made_up(change)),
        })
    }

    /// A made-up meta with these fields.
    pub(super) fn meta(&self, mut fields: Map) -> Made<Map> {
        let id = EventId::new().map_err(|e| fail(format!("meta(): {e}")))?;
        for (field, value) in [
            ("from", CONTACT.into()),
            ("to", USER.into()),
            ("folder", FOLDER.into()),
            ("filename", "file.txt".into()),
            ("datetime", meta::datetime_now().into()),
            ("filesize", 4_i64.into()),
            ("id", id.to_string().into()),
        ] {
            fields.entry(field.into()).or_insert(value);
        }
        self.read_meta("meta()", &fields)?;
        Ok(fields)
    }

    pub(super) fn read_meta(&self, call: &str, fields: &Map) -> Made<Meta> {
        let wrong = |e: &dyn std::fmt::Display| fail(format!("{call}: {e}"));
        let value = from_dynamic(&Dynamic::from(fields.clone())).map_err(|e| wrong(&e))?;
        Meta::from_file(value.to_string().as_bytes()).map_err(|e| wrong(&e))
    }

    /// Where a file of the folder is, at a path in it, or at `FOLDER/PATH` of another folder.
    fn place(&self, call: &str, path: &str) -> Made<PathBuf> {
        let user = self.folder.user().path();
        let other = path.split_once('/').map(|(folder, _)| user.join(folder));
        let mut place = match other {
            Some(other) if other.join(CONFIG).is_file() => user.to_owned(),
            _ => user.join(FOLDER),
        };
        for name in path.split('/') {
            file::check_name(name).map_err(|e| fail(format!("{call}: {path:?} {e}")))?;
            place.push(name);
        }
        Ok(place)
    }

    pub(super) fn write(&self, call: &str, name: &str, bytes: &[u8]) -> Made<()> {
        self.settle(call)?;
        let path = self.place(call, name)?;
        fs::write(path, bytes).map_err(|e| fail(format!("{call}: cannot write {name:?}: {e}")))
    }

    pub(super) fn has(&self, name: &str) -> Made<bool> {
        self.settle("has()")?;
        let about = self.place("has()", name)?.symlink_metadata();
        Ok(about.is_ok_and(|about| about.is_file()))
    }

    pub(super) fn text(&self, name: &str) -> Made<String> {
        self.settle("text()")?;
        let path = self.place("text()", name)?;
        let cannot = |e: &dyn std::fmt::Display| fail(format!("text(): cannot read {name:?}: {e}"));
        let about = path.metadata().map_err(|e| cannot(&e))?;
        if about.len() > MAX_TEXT || !about.is_file() {
            return Err(cannot(&"it is not a regular file of at most 1 MiB"));
        }
        fs::read_to_string(path).map_err(|e| cannot(&e))
    }

    /// From now on a server gives this answer.
    pub(super) fn answer(&self, url: &str, status: i64, body: &Dynamic) -> Made<()> {
        let wrong = |why: &dyn std::fmt::Display| fail(format!("answer(): {why}"));
        let status = u16::try_from(status)
            .ok()
            .filter(|n| (100..600).contains(n));
        let status = status.ok_or_else(|| wrong(&"the status must be 100 to 599"))?;
        let (media_type, body) = match body.clone().into_string() {
            Ok(text) => ("text/plain", text),
            Err(_) => {
                let value = from_dynamic(body).map_err(|e| wrong(&e))?;
                ("application/json", value.to_string())
            }
        };
        let answered = Answered {
            status,
            media_type: media_type.to_owned(),
            body: body.into(),
        };
        self.answers.set(url, answered);
        Ok(())
    }

    /// Records that a file came from a contact some days ago.
    pub(super) fn sent_before(&self, from: &str, bytes: i64, days: i64) -> Made<()> {
        let wrong = || fail("sent(): bytes and days must not be below 0");
        let bytes = u64::try_from(bytes).map_err(|_| wrong())?;
        let days = u64::try_from(days).map_err(|_| wrong())?;
        let at = clock::millis().saturating_sub(days.saturating_mul(86_400_000));
        self.state.came(&self.folder, from, bytes, at);
        Ok(())
    }

    pub(super) fn make_folder(&self, name: &str) -> Made<()> {
        let wrong = |e: &dyn std::fmt::Display| fail(format!("make_folder(): {e}"));
        let name = Name::folder(name).map_err(|e| wrong(&e))?;
        let path = self.folder.user().path().join(name.as_str());
        fs::create_dir_all(&path).map_err(|e| wrong(&e))?;
        fs::write(path.join(CONFIG), "[OnMeta]\n").map_err(|e| wrong(&e))
    }

    pub(super) fn set_config(&self, section: &str, key: &str, value: &str) -> Made<()> {
        let wrong = |e: &dyn std::fmt::Display| fail(format!("config(): {e}"));
        let mut config = self.config();
        config.set(section, key, value);
        let text = config.to_string();
        // As a person would have to write it: what cannot be read back cannot be set.
        let read = Config::parse(&text).map_err(|e| wrong(&e.reason))?;
        fs::write(self.folder.path_of(CONFIG), &text).map_err(|e| wrong(&e))?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// Makes an event happen; returns what came of it.
    pub(super) fn run(&self, call: &str, happening: Happening<'_>) -> Made<Map> {
        self.settle(call)?;
        let wrong = |why: &dyn std::fmt::Display| fail(format!("{call}: {why}"));
        let kind = Kind::of_section(happening.event).ok_or_else(|| {
            let events: Vec<_> = Kind::ALL.into_iter().map(Kind::section).collect();
            wrong(&format!(
                "unknown event {:?}: the events are {}",
                happening.event,
                events.join(", ")
            ))
        })?;
        let (file, subject) = self.prepare(call, kind, happening.what, happening.content)?;
        let mut event = self
            .event(kind, file.clone(), subject)
            .map_err(|e| wrong(&e))?;
        if let Some(script) = happening.script {
            let mut config = self.config();
            config.only(kind.section(), script);
            event.config = Arc::new(config);
        }
        let notes = Notes::default();
        let known = self.inbox().len();
        let verdict = self.fire(event, notes.clone()).map_err(|e| wrong(&e))?;
        let error = verdict.runs.iter().rev().find_map(|run| run.error.clone());
        let error = error.unwrap_or_default();
        self.remember(&verdict.outcome, &error);
        let mut result = Map::new();
        let (outcome, words) = verdict.outcome.words();
        result.insert("outcome".into(), outcome.into());
        result.insert("words".into(), words.to_owned().into());
        result.insert("error".into(), error.into());
        let meta = verdict.meta.as_ref();
        result.insert("meta".into(), meta.map_or(Dynamic::UNIT, shown));
        result.insert("file".into(), file.map_or(Dynamic::UNIT, Dynamic::from));
        result.insert("log".into(), texts(notes.take().log));
        result.insert("inbox".into(), texts(self.inbox().split_off(known)));
        let effects: Vec<Dynamic> = verdict
            .effects
            .iter()
            .map(|effect| {
                let mut document = effect.to_document();
                document.insert("kind".to_owned(), effect.kind().into());
                to_dynamic(&Value::Object(document))
            })
            .collect();
        result.insert("effects".into(), effects.into());
        Ok(result)
    }

    /// Sets up what an event is about; returns the name of the file, and what is known of it.
    fn prepare(
        &self,
        call: &str,
        kind: Kind,
        what: What,
        content: Option<Vec<u8>>,
    ) -> Made<(Option<String>, Option<Subject>)> {
        let wrong = |why: &dyn std::fmt::Display| fail(format!("{call}: {why}"));
        match what {
            What::File(word) if kind == Kind::Store => match StoreChange::of_word(&word) {
                Some(_) => Ok((Some(word), None)),
                None => Err(wrong(&format!(
                    "{kind} is about a change of the store: lost, back or damage, not {word:?}"
                ))),
            },
            What::File(text) if kind == Kind::Message => self.message(call, Err(text)),
            What::Sent(fields) if kind == Kind::Message || is_message(&fields) => {
                self.message(call, Ok(fields))
            }
            What::Nothing
                if matches!(
                    kind,
                    Kind::Startup | Kind::Schedule | Kind::List | Kind::Store
                ) =>
            {
                Ok((None, None))
            }
            What::Nothing => {
                let made = match kind {
                    Kind::Meta | Kind::Received => {
                        "a meta, as meta(#{filename: \"a.jpg\"}) makes one"
                    }
                    _ => "the name of a file, or a meta, as meta(#{filename: \"a.jpg\"}) makes one",
                };
                Err(wrong(&format!(
                    "{kind} is about a file: after it write {made}"
                )))
            }
            What::File(_) if matches!(kind, Kind::Meta | Kind::Received) => Err(wrong(&format!(
                "{kind} is about a file that was sent: it takes a meta, as meta(#{{filename: \"a.jpg\"}}) makes one"
            ))),
            What::File(name) => {
                if kind != Kind::Deleted && !self.has(&name)? {
                    return Err(wrong(&format!(
                        "{name:?} is not in the folder: create it with file({name:?}, \"...\")"
                    )));
                }
                let subject = self.sent(&name);
                Ok((Some(name), subject))
            }
            What::Sent(fields) => {
                let mut meta = self.read_meta(call, &self.meta(fields)?)?;
                if let Some(content) = &content {
                    meta.filesize = Some(content.len() as u64);
                }
                let subject = self
                    .arrive(meta, kind, &content.unwrap_or_else(|| b"test".to_vec()))
                    .map_err(|e| wrong(&e))?;
                Ok((Some(subject.data_file()), Some(subject)))
            }
        }
    }

    /// Fires an event, and stores what its hooks wrote into the `.meta`.
    fn fire(&self, event: Event, notes: Notes) -> io::Result<Verdict> {
        let kind = event.kind;
        let mode = Mode {
            live: true,
            programs: self.programs,
            notes: Some(notes),
        };
        self.runtime.block_on(async {
            let mut verdict = self.hooks.fire_as(event, &Pinned::default(), &mode).await;
            if kind == Kind::Received {
                let changes = changes_of(&mut verdict);
                let (user, changer) = (self.folder.user(), self.hooks.changer());
                changer.make(user, &[&changes], Pass::First);
            }
            Ok(verdict)
        })
    }

    fn remember(&self, outcome: &Outcome, error: &str) {
        let (word, words) = outcome.words();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = match (outcome, words) {
            (Outcome::Accepted, _) => None,
            (_, "") => Some(format!("{word}: {error}")),
            (_, words) => Some(format!("{word}: {words}")),
        };
    }

    /// What is known of a file that was sent and is in the folder.
    fn sent(&self, name: &str) -> Option<Subject> {
        let (stem, _) = name.rsplit_once('.')?;
        Some(Subject {
            meta: meta_file::of_stem(self.folder.dir(), stem)?,
            stem: stem.to_owned(),
        })
    }

    /// Sets up what a sender's file is at an event.
    fn arrive(&self, meta: Meta, kind: Kind, content: &[u8]) -> io::Result<Subject> {
        let from = Name::user(&meta.from).map_err(|e| io::Error::other(e.to_string()))?;
        for clash in 1..MAX_CLASHES {
            let stem = match clash {
                1 => format!("{from}_{}", meta.datetime),
                n => format!("{from}_{}_{n}", meta.datetime),
            };
            let subject = Subject {
                meta: meta.clone(),
                stem,
            };
            let path = self.folder.path_of(&subject.meta_file());
            if path.exists() {
                continue;
            }
            if kind != Kind::Deleted {
                fs::write(path, subject.meta.to_file())?;
            }
            if !matches!(kind, Kind::Meta | Kind::Deleted) {
                fs::write(self.folder.path_of(&subject.data_file()), content)?;
            }
            return Ok(subject);
        }
        Err(io::Error::other("too many files of one second"))
    }

    /// The lines of the inbox, without their times and events.
    fn inbox(&self) -> Vec<String> {
        let path = self.root.path().join("user").join(USER).join(INBOX);
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = |line: &str| {
            let line = line.split_once(' ').map_or("", |(_, rest)| rest);
            let words = line.rsplit_once(" [").map_or(line, |(words, _)| words);
            words.to_owned()
        };
        text.lines().map(line).collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A hook may have taken away the right to remove what is in its folder.
        let user = self.dir.path().join("user").join(USER).join(FOLDER);
        let _ = fs::set_permissions(user, fs::Permissions::from_mode(0o755));
    }
}

/// A meta as a script sees it.
fn shown(meta: &Meta) -> Dynamic {
    let mut document = json::parse(&meta.to_file()).unwrap_or_default();
    for field in ["filekey", "metaCRC"] {
        document.remove(field);
    }
    to_dynamic(&Value::Object(document))
}

/// Copies what hooks are made of: m2y.config, scripts, programs.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let files = fs::read_dir(from)?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.to_owned();
        // Of the file that a link leads to: scripts may be shared that way.
        let about = path.metadata().ok()?;
        let is_program = about.permissions().mode() & 0o111 != 0 && about.len() <= MAX_PROGRAM;
        let is_script = name.ends_with(".rhai") && about.len() <= engine::MAX_SOURCE;
        let is_tool = name == CONFIG || is_script || is_program;
        (about.is_file() && !name.starts_with('.') && is_tool).then_some((path, name))
    });
    for (path, name) in files.take(MAX_FILES) {
        fs::copy(path, to.join(name))?;
    }
    Ok(())
}

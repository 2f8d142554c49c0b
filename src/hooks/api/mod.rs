//! What is in scope of a script, one file for each subject.

pub mod actions;
pub mod assert;
pub mod config;
pub mod csv;
pub mod decision;
pub mod file;
pub mod folder;
pub mod function;
pub mod hash;
pub mod http;
pub mod json;
pub mod log;
pub mod meta;
pub mod names;
pub mod notify;
pub mod regex;
pub mod send;
pub mod sender;
pub mod state;
pub mod test;
pub mod text;
pub mod time;
pub mod value;

use rhai::{Dynamic, Engine, Map, Scope};

use actions::Actions;
pub use function::Function;
use value::to_dynamic;

use super::{report::HookError, services::Services};
use crate::{
    event::Event,
    json::{self as document, Value},
    meta::Meta,
};

/// The values that a hook may have in scope, and what Rhai itself puts there.
pub const HOOK_SCOPE: [&str; 17] = [
    "meta", "config", "file", "folder", "hash", "http", "sender", "notify", "state", "text", "csv",
    "json", "time", "log", "event", "user", "this",
];

/// Every function, by subject.
pub fn functions() -> impl Iterator<Item = &'static Function> {
    [
        config::FUNCTIONS,
        csv::FUNCTIONS,
        meta::FUNCTIONS,
        decision::FUNCTIONS,
        file::FUNCTIONS,
        folder::FUNCTIONS,
        names::FUNCTIONS,
        hash::FUNCTIONS,
        http::FUNCTIONS,
        json::FUNCTIONS,
        log::FUNCTIONS,
        notify::FUNCTIONS,
        send::FUNCTIONS,
        sender::FUNCTIONS,
        state::FUNCTIONS,
        text::FUNCTIONS,
        regex::FUNCTIONS,
        time::FUNCTIONS,
        assert::FUNCTIONS,
        test::FUNCTIONS,
    ]
    .into_iter()
    .flatten()
}

/// Registers every function of every subject, except those that only tests of scripts have.
pub fn register(engine: &mut Engine) {
    function::register(engine);
    config::register(engine);
    csv::register(engine);
    decision::register(engine);
    file::register(engine);
    folder::register(engine);
    hash::register(engine);
    http::register(engine);
    json::register(engine);
    log::register(engine);
    meta::register(engine);
    names::register(engine);
    notify::register(engine);
    regex::register(engine);
    send::register(engine);
    sender::register(engine);
    state::register(engine);
    text::register(engine);
    time::register(engine);
}

/// The values that one call of a script works with.
pub struct Handles {
    meta: Option<meta::Handle>,
    config: config::Handle,
    file: file::Handle,
    folder: folder::Handle,
    hash: hash::Handle,
    http: http::Handle,
    sender: sender::Handle,
    notify: notify::Handle,
    send: send::Handle,
    state: state::Handle,
    time: time::Handle,
    log: log::Log,
    event: Map,
    user: Map,
}

impl Handles {
    /// The values for an event; `profile` is that of the folder's user.
    pub fn new(
        event: &Event,
        profile: &document::Map<String, Value>,
        log: &log::Log,
        actions: &Actions,
        services: &Services,
    ) -> Self {
        let subject = event.subject.as_ref();
        let meta = subject.map(|subject| meta::Handle::new(&subject.meta));
        let folder = folder::Handle::new(event, actions, &services.state, meta.as_ref());
        let mut facts = Map::new();
        facts.insert("name".into(), event.kind.section().into());
        facts.insert("folder".into(), event.folder.name().as_str().into());
        facts.insert("user".into(), event.folder.user().name().as_str().into());
        facts.insert("id".into(), event.id.to_string().into());
        if let Some(file) = &event.file {
            facts.insert("file".into(), file.as_str().into());
        }
        if let Some(asked) = &event.asked {
            facts.insert("contact".into(), asked.contact.as_str().into());
            facts.insert("path".into(), asked.path.as_str().into());
        }
        if let Some(news) = &event.store {
            facts.insert("store".into(), news.store.as_str().into());
            facts.insert("member".into(), news.member.as_str().into());
            facts.insert("change".into(), news.change.word().into());
            facts.insert("text".into(), news.text.as_str().into());
        }
        if let Some(Ok(text)) = event.subject.as_ref().and_then(|s| s.meta.message()) {
            facts.insert("text".into(), text.into());
        } else if let Some(subject) = &event.subject {
            facts.insert("meta_file".into(), subject.meta_file().into());
            facts.insert("data_file".into(), subject.data_file().into());
        }
        Self {
            meta,
            config: config::Handle::new(&event.config),
            file: file::Handle::new(&folder),
            hash: hash::Handle::new(&folder, &services.digests),
            http: http::Handle::new(event, actions, &services.web),
            sender: sender::Handle::new(event, &services.state),
            send: send::Handle::new(event, &folder, actions),
            state: state::Handle::new(&event.folder, actions, &services.state),
            time: time::Handle::now(),
            folder,
            notify: notify::Handle::new(event, actions),
            log: log.clone(),
            event: facts,
            user: profile
                .iter()
                .map(|(field, value)| (field.as_str().into(), to_dynamic(value)))
                .collect(),
        }
    }

    /// Puts the values that the script names into a fresh scope: there are many, and a script needs
    /// a few.
    pub fn enter(&self, scope: &mut Scope<'_>, is_named: impl Fn(&str) -> bool) {
        // What the script leaves there is always looked at.
        match &self.meta {
            Some(meta) => scope.push("meta", meta.clone()),
            None => scope.push("meta", ()),
        };
        let mut push = |name: &'static str, value: &dyn Fn() -> Dynamic| {
            if is_named(name) {
                scope.push_dynamic(name, value());
            }
        };
        push("config", &|| Dynamic::from(self.config.clone()));
        push("folder", &|| Dynamic::from(self.folder.clone()));
        push("file", &|| Dynamic::from(self.file.clone()));
        push("hash", &|| Dynamic::from(self.hash.clone()));
        push("http", &|| Dynamic::from(self.http.clone()));
        push("sender", &|| Dynamic::from(self.sender.clone()));
        push("notify", &|| Dynamic::from(self.notify.clone()));
        push("state", &|| Dynamic::from(self.state.clone()));
        push("text", &|| Dynamic::from(text::Handle));
        push("csv", &|| Dynamic::from(csv::Handle));
        push("json", &|| Dynamic::from(json::Handle));
        push("time", &|| Dynamic::from(self.time.clone()));
        push("log", &|| Dynamic::from(self.log.clone()));
        push("event", &|| Dynamic::from(self.event.clone()));
        push("user", &|| Dynamic::from(self.user.clone()));
    }

    /// Puts the values that a test of hooks works with into a fresh scope.
    pub(super) fn enter_test(&self, scope: &mut Scope<'_>) {
        scope
            .push("folder", self.folder.clone())
            .push("file", self.file.clone())
            .push("hash", self.hash.clone())
            .push("http", self.http.clone())
            .push("state", self.state.clone())
            .push("text", text::Handle)
            .push("csv", csv::Handle)
            .push("json", json::Handle)
            .push("time", self.time.clone())
            .push("log", self.log.clone());
    }

    /// Runs a script that can call standalone functions, like `send`.
    pub fn during<T>(&self, run: impl FnOnce() -> T) -> T {
        self.send.during(run)
    }

    /// The meta as the script left it in `scope`.
    pub fn left(&self, script: &str, scope: &Scope<'_>) -> Result<Option<Meta>, HookError> {
        let Some(meta) = &self.meta else {
            return Ok(None);
        };
        // What is written to a different value of that name would be lost.
        let there = scope.get("meta").map(|value| value.is::<meta::Handle>());
        if there != Some(true) {
            return Err(HookError::Shadowed {
                script: script.to_owned(),
                variable: "meta",
            });
        }
        Ok(Some(meta.get()))
    }
}

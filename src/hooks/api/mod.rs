//! What is in scope of a script, one file for each subject.

pub mod config;
pub mod decision;
pub mod deeds;
pub mod folder;
pub mod log;
pub mod meta;
pub mod notify;

use std::{fmt, sync::Arc};

use rhai::{Dynamic, Engine, EvalAltResult, Map, Position, Scope};

use deeds::Deeds;

use super::report::HookError;
use crate::{
    event::Event,
    json::{self, JsonError, Value},
    meta::Meta,
};

/// Registers every function of every subject.
pub fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Failure>("Failure")
        .register_fn("to_string", |failure: &mut Failure| failure.to_string())
        .register_fn("to_debug", |failure: &mut Failure| failure.to_string());
    config::register(engine);
    decision::register(engine);
    folder::register(engine);
    log::register(engine);
    meta::register(engine);
    notify::register(engine);
}

/// The values that one call of a script works with.
pub struct Handles {
    meta: Option<meta::Handle>,
    config: config::Handle,
    folder: folder::Handle,
    notify: notify::Handle,
    log: log::Log,
    event: Map,
    user: Map,
}

impl Handles {
    /// The values for an event; `profile` is that of the folder's user.
    pub fn new(
        event: &Event,
        profile: &json::Map<String, Value>,
        log: &log::Log,
        deeds: &Deeds,
    ) -> Self {
        let mut facts = Map::new();
        facts.insert("name".into(), event.kind.section().into());
        facts.insert("folder".into(), event.folder.name().as_str().into());
        facts.insert("user".into(), event.folder.user().name().as_str().into());
        facts.insert("id".into(), event.id.to_string().into());
        if let Some(file) = &event.file {
            facts.insert("file".into(), file.as_str().into());
        }
        if let Some(subject) = &event.subject {
            facts.insert("meta_file".into(), subject.meta_file().into());
            facts.insert("data_file".into(), subject.data_file().into());
        }
        Self {
            meta: event.subject.as_ref().map(|s| meta::Handle::new(&s.meta)),
            config: config::Handle::new(&event.config),
            folder: folder::Handle::new(&event.folder, deeds),
            notify: notify::Handle::new(event.folder.user(), deeds),
            log: log.clone(),
            event: facts,
            user: profile
                .iter()
                .map(|(field, value)| (field.as_str().into(), to_dynamic(value)))
                .collect(),
        }
    }

    /// Puts the values into a fresh scope.
    pub fn enter(&self, scope: &mut Scope<'_>) {
        match &self.meta {
            Some(meta) => scope.push("meta", meta.clone()),
            None => scope.push("meta", ()),
        };
        scope
            .push("config", self.config.clone())
            .push("folder", self.folder.clone())
            .push("notify", self.notify.clone())
            .push("log", self.log.clone())
            .push("event", self.event.clone())
            .push("user", self.user.clone());
    }

    /// The meta as the script left it in `scope`.
    pub fn left(&self, script: &str, scope: &Scope<'_>) -> Result<Option<Meta>, HookError> {
        let Some(meta) = &self.meta else {
            return Ok(None);
        };
        // What is said to another value that bears the name would be lost.
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

/// An error of a function of ours: the script may catch it; the caller puts in its
/// place.
#[derive(Clone, Debug)]
pub struct Failure(Arc<str>);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// [`Failure`], as a function returns it.
pub fn fail(sentence: impl Into<Arc<str>>) -> Box<EvalAltResult> {
    let failure = Dynamic::from(Failure(sentence.into()));
    Box::new(EvalAltResult::ErrorRuntime(failure, Position::NONE))
}

fn to_dynamic(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match n.as_i64() {
            Some(n) => n.into(),
            None => n.to_string().into(),
        },
        Value::String(s) => s.as_str().into(),
        Value::Array(items) => items.iter().map(to_dynamic).collect::<Vec<_>>().into(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.as_str().into(), to_dynamic(value)))
            .collect::<Map>()
            .into(),
    }
}

fn from_dynamic(value: &Dynamic) -> Result<Value, JsonError> {
    fn convert(value: &Dynamic, depth: usize) -> Value {
        if let Ok(b) = value.as_bool() {
            b.into()
        } else if let Ok(n) = value.as_int() {
            n.into()
        } else if let Ok(n) = value.as_float() {
            n.into()
        } else if let (Ok(items), Some(depth)) = (value.as_array_ref(), depth.checked_sub(1)) {
            items.iter().map(|item| convert(item, depth)).collect()
        } else if let (Ok(map), Some(depth)) = (value.as_map_ref(), depth.checked_sub(1)) {
            let entries = map
                .iter()
                .map(|(key, value)| (key.to_string(), convert(value, depth)));
            Value::Object(entries.collect())
        } else if value.is_unit() {
            Value::Null
        } else {
            value.to_string().into()
        }
    }
    // One deeper than is allowed, so that the check sees what is too deep.
    let value = convert(value, json::MAX_DEPTH + 1);
    json::check(&value)?;
    Ok(value)
}

//! What is in scope of a script, one file for each subject.

pub mod assert;
pub mod config;
pub mod decision;
pub mod deeds;
pub mod folder;
pub mod hash;
pub mod log;
pub mod meta;
pub mod names;
pub mod notify;
pub mod send;
pub mod state;
pub mod test;
pub mod text;
pub mod time;

use std::{fmt, sync::Arc};

use rhai::{Dynamic, Engine, EvalAltResult, Map, Position, Scope};

use deeds::Deeds;
use state::State;

use super::report::HookError;
use crate::{
    error::printable,
    event::{Event, Kind},
    json::{self, JsonError, Value},
    meta::Meta,
};

/// One function of a script, described where it is registered.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// What it is about, which is also the name of the value that it is called on.
    pub subject: &'static str,
    /// How a script calls it.
    pub signature: &'static str,
    /// What it does.
    pub says: &'static str,
    /// A few lines that run as they are.
    pub example: &'static str,
    /// The events that it makes sense for; none means all.
    pub events: &'static [Kind],
}

impl Function {
    const fn new(
        subject: &'static str,
        signature: &'static str,
        says: &'static str,
        example: &'static str,
    ) -> Self {
        Self {
            subject,
            signature,
            says,
            example,
            events: &[],
        }
    }

    const fn only_at(mut self, events: &'static [Kind]) -> Self {
        self.events = events;
        self
    }
}

/// Every function, by subject.
pub fn functions() -> impl Iterator<Item = &'static Function> {
    [
        config::FUNCTIONS,
        meta::FUNCTIONS,
        decision::FUNCTIONS,
        folder::FUNCTIONS,
        names::FUNCTIONS,
        hash::FUNCTIONS,
        log::FUNCTIONS,
        notify::FUNCTIONS,
        send::FUNCTIONS,
        state::FUNCTIONS,
        text::FUNCTIONS,
        time::FUNCTIONS,
        assert::FUNCTIONS,
        test::FUNCTIONS,
    ]
    .into_iter()
    .flatten()
}

/// What a function of ours returns.
pub(super) type Made<T> = Result<T, Box<EvalAltResult>>;

/// Registers every function of every subject, but for what only tests of scripts have.
pub fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Failure>("Failure")
        .register_fn("to_string", |failure: &mut Failure| failure.to_string())
        .register_fn("to_debug", |failure: &mut Failure| failure.to_string());
    config::register(engine);
    decision::register(engine);
    folder::register(engine);
    hash::register(engine);
    log::register(engine);
    meta::register(engine);
    names::register(engine);
    notify::register(engine);
    send::register(engine);
    state::register(engine);
    text::register(engine);
    time::register(engine);
}

/// The values that one call of a script works with.
pub struct Handles {
    meta: Option<meta::Handle>,
    config: config::Handle,
    folder: folder::Handle,
    hash: hash::Handle,
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
        profile: &json::Map<String, Value>,
        log: &log::Log,
        deeds: &Deeds,
        state: &Arc<dyn State>,
    ) -> Self {
        let folder = folder::Handle::new(event, deeds);
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
        if let Some(subject) = &event.subject {
            facts.insert("meta_file".into(), subject.meta_file().into());
            facts.insert("data_file".into(), subject.data_file().into());
        }
        Self {
            meta: event.subject.as_ref().map(|s| meta::Handle::new(&s.meta)),
            config: config::Handle::new(&event.config),
            hash: hash::Handle::new(&folder),
            send: send::Handle::new(&folder, deeds),
            state: state::Handle::new(&event.folder, deeds, state),
            time: time::Handle::now(),
            folder,
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
            .push("hash", self.hash.clone())
            .push("notify", self.notify.clone())
            .push("state", self.state.clone())
            .push("text", text::Handle)
            .push("time", self.time.clone())
            .push("log", self.log.clone())
            .push("event", self.event.clone())
            .push("user", self.user.clone());
    }

    /// Puts the values that a test of hooks works with into a fresh scope.
    pub(super) fn enter_test(&self, scope: &mut Scope<'_>) {
        scope
            .push("folder", self.folder.clone())
            .push("hash", self.hash.clone())
            .push("state", self.state.clone())
            .push("text", text::Handle)
            .push("time", self.time.clone())
            .push("log", self.log.clone());
    }

    /// Runs a script that can call the functions which stand alone, like `send`.
    pub fn during<T>(&self, run: impl FnOnce() -> T) -> T {
        self.send.during(run)
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
    Box::new(EvalAltResult::ErrorRuntime(
        failure(sentence),
        Position::NONE,
    ))
}

/// [`Failure`] as a value.
pub fn failure(sentence: impl Into<Arc<str>>) -> Dynamic {
    Dynamic::from(Failure(sentence.into()))
}

pub(super) fn to_dynamic(value: &Value) -> Dynamic {
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

pub(super) fn from_dynamic(value: &Dynamic) -> Result<Value, JsonError> {
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

/// A text of a script as an error shows it: whatever a sender put into it.
fn shown(text: &str) -> String {
    format!("\"{}\"", printable(text, 80))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{any::TypeId, collections::BTreeSet};

    use super::*;
    use crate::hooks::limits;

    /// The value that it is called on, its name, how many arguments follow.
    type Call = (String, String, usize);

    fn call(subject: &str, name: &str, arguments: usize) -> Call {
        (subject.to_owned(), name.to_owned(), arguments)
    }

    /// What descriptions say that there is.
    fn described() -> BTreeSet<Call> {
        functions()
            .map(|function| {
                let signature = function.signature;
                let Some((name, arguments)) = signature.split_once('(') else {
                    // `meta.field`, `meta.field = value`, `names[index]`
                    return match signature.contains('=') {
                        true => call(function.subject, "index$set$", 2),
                        false => call(function.subject, "index$get$", 1),
                    };
                };
                let arguments = arguments.strip_suffix(')').unwrap();
                let count = match arguments {
                    "" => 0,
                    map if map.starts_with("#{") => 1,
                    list => list.split(',').count(),
                };
                match name.split_once('.') {
                    Some((subject, name)) => {
                        assert_eq!(subject, function.subject, "{signature}");
                        call(subject, name, count)
                    }
                    None => call("", name, count),
                }
            })
            .collect()
    }

    /// What the engine says that there is.
    fn registered() -> BTreeSet<Call> {
        let mut engine = limits::engine();
        assert::register(&mut engine);
        test::register(&mut engine, &test::Stage::default());
        let subjects = [
            (TypeId::of::<config::Handle>(), "config"),
            (TypeId::of::<folder::Handle>(), "folder"),
            (TypeId::of::<hash::Handle>(), "hash"),
            (TypeId::of::<log::Log>(), "log"),
            (TypeId::of::<meta::Handle>(), "meta"),
            (TypeId::of::<names::Names>(), "names"),
            (TypeId::of::<notify::Handle>(), "notify"),
            (TypeId::of::<state::Handle>(), "state"),
            (TypeId::of::<text::Handle>(), "text"),
            (TypeId::of::<time::Handle>(), "time"),
        ];
        let of = |function: rhai::FuncInfo<'_>| {
            let about = function.metadata;
            let first = about.param_types.first();
            let subject = subjects.iter().find(|(of, _)| first == Some(of));
            Some(match subject {
                Some((_, subject)) => call(subject, &about.name, about.num_params - 1),
                None => call("", &about.name, about.num_params),
            })
        };
        engine
            .collect_fn_metadata(None, of, false)
            .into_iter()
            .collect()
    }

    #[test]
    fn every_registered_function_is_described_and_every_described_one_registered() {
        // What an error prints as, and what stands in the place of Rhai's own.
        let exempt = [
            call("", "to_string", 1),
            call("", "to_debug", 1),
            call("", "sleep", 1),
            call("", "replace", 3),
        ];
        let mut registered = registered();
        for call in &exempt {
            assert!(registered.remove(call), "{call:?} is not there");
        }
        let described = described();
        let undescribed: Vec<_> = registered.difference(&described).collect();
        let unregistered: Vec<_> = described.difference(&registered).collect();
        assert!(
            undescribed.is_empty(),
            "without a description: {undescribed:?}"
        );
        assert!(unregistered.is_empty(), "described only: {unregistered:?}");
        assert_eq!(
            functions().count(),
            described.len(),
            "one is described twice"
        );
    }

    #[test]
    fn descriptions_are_sentences_with_an_example() {
        for function in functions() {
            assert!(function.says.ends_with('.'), "{}", function.signature);
            assert!(
                !function.example.trim().is_empty(),
                "{}",
                function.signature
            );
        }
    }
}

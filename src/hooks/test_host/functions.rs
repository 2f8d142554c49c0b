//! What only tests of hooks can call, as `api/test.rs` describes it.

use std::sync::{Arc, Mutex, PoisonError};

use rhai::{Array, Dynamic, Engine, Map};

use super::sandbox::{Happening, Sandbox, What};
use crate::hooks::api::function::{Made, fail};

/// The made-up root of the test that runs; clones share one place.
#[derive(Clone, Default)]
pub struct Stage(Arc<Mutex<Option<Arc<Sandbox>>>>);

impl Stage {
    /// Puts a made-up root there, or removes it.
    pub fn set(&self, sandbox: Option<Arc<Sandbox>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sandbox;
    }

    fn sandbox(&self) -> Made<Arc<Sandbox>> {
        let sandbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sandbox.clone().ok_or_else(|| fail("no test is running"))
    }

    fn run(
        &self,
        script: Option<&str>,
        event: &str,
        what: Dynamic,
        content: Option<Dynamic>,
    ) -> Made<Map> {
        let call = match script {
            Some(_) => "run_script()",
            None => "run()",
        };
        let what = if what.is_unit() {
            What::Nothing
        } else if what.is_string() {
            What::File(what.into_string().unwrap_or_default())
        } else {
            let map = what.try_cast::<Map>();
            What::Sent(map.ok_or_else(|| {
                fail(format!(
                    "{call}: it takes a meta, as meta(#{{...}}) makes one, or the name of a file"
                ))
            })?)
        };
        let content = content.map(|c| content_of(call, c)).transpose()?;
        let happening = Happening {
            script,
            event,
            what,
            content,
        };
        self.sandbox()?.run(call, happening)
    }
}

fn content_of(call: &str, content: Dynamic) -> Made<Vec<u8>> {
    if content.is_string() {
        return Ok(content.into_string().unwrap_or_default().into_bytes());
    }
    let wrong = || {
        fail(format!(
            "{call}: the content must be text, or an array of numbers from 0 to 255"
        ))
    };
    let numbers = content.try_cast::<Array>().ok_or_else(wrong)?;
    let byte = |n: &Dynamic| n.as_int().ok().and_then(|n| u8::try_from(n).ok());
    numbers
        .iter()
        .map(byte)
        .collect::<Option<_>>()
        .ok_or_else(wrong)
}

/// Registers them: an ordinary hook does not have them.
pub fn register(engine: &mut Engine, stage: &Stage) {
    let at = || stage.clone();
    let (s, t, u, v, w) = (at(), at(), at(), at(), at());
    engine
        .register_fn("meta", move || s.sandbox()?.meta(Map::new()))
        .register_fn("meta", move |fields: Map| t.sandbox()?.meta(fields))
        .register_fn("file", move |name: &str, text: &str| {
            u.sandbox()?.write("file()", name, text.as_bytes())
        })
        .register_fn("bytes", move |name: &str, numbers: Array| {
            let content = content_of("bytes()", numbers.into())?;
            v.sandbox()?.write("bytes()", name, &content)
        })
        .register_fn("has", move |name: &str| w.sandbox()?.has(name));
    let (s, t, u) = (at(), at(), at());
    engine
        .register_fn("text", move |name: &str| s.sandbox()?.text(name))
        .register_fn("make_folder", move |name: &str| {
            t.sandbox()?.make_folder(name)
        })
        .register_fn("config", move |section: &str, key: &str, value: Dynamic| {
            u.sandbox()?.set_config(section, key, &value.to_string())
        });
    let (s, t) = (at(), at());
    engine
        .register_fn("answer", move |url: &str, status: i64, body: Dynamic| {
            s.sandbox()?.answer(url, status, &body)
        })
        .register_fn("sent", move |from: &str, bytes: i64, days: i64| {
            t.sandbox()?.sent_before(from, bytes, days)
        });
    let (s, t, u) = (at(), at(), at());
    engine
        .register_fn("run", move |event: &str| {
            s.run(None, event, Dynamic::UNIT, None)
        })
        .register_fn("run", move |event: &str, what: Dynamic| {
            t.run(None, event, what, None)
        })
        .register_fn(
            "run",
            move |event: &str, what: Dynamic, content: Dynamic| {
                u.run(None, event, what, Some(content))
            },
        );
    let (s, t, u) = (at(), at(), at());
    engine
        .register_fn("run_script", move |script: &str, event: &str| {
            s.run(Some(script), event, Dynamic::UNIT, None)
        })
        .register_fn(
            "run_script",
            move |script: &str, event: &str, what: Dynamic| t.run(Some(script), event, what, None),
        )
        .register_fn(
            "run_script",
            move |script: &str, event: &str, what: Dynamic, content: Dynamic| {
                u.run(Some(script), event, what, Some(content))
            },
        );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{any::TypeId, collections::BTreeSet};

    use super::*;
    use crate::hooks::{
        api::{
            assert, config, csv, file, folder, functions, hash, http, json, log, meta, names,
            notify, sender, state, text, time,
        },
        engine,
    };

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
                    // `answer.status`
                    let property = signature.split_once('.').map(|(_, name)| name);
                    return match property.filter(|name| *name != "field") {
                        _ if signature.contains('=') => call(function.subject, "index$set$", 2),
                        Some(name) => call(function.subject, &format!("get${name}"), 0),
                        None => call(function.subject, "index$get$", 1),
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
        let mut engine = engine::engine();
        assert::register(&mut engine);
        register(&mut engine, &Stage::default());
        let subjects = [
            (TypeId::of::<config::Handle>(), "config"),
            (TypeId::of::<file::Handle>(), "file"),
            (TypeId::of::<file::Entries>(), "entries"),
            (TypeId::of::<folder::Handle>(), "folder"),
            (TypeId::of::<hash::Handle>(), "hash"),
            (TypeId::of::<http::Handle>(), "http"),
            (TypeId::of::<http::Answer>(), "answer"),
            (TypeId::of::<sender::Handle>(), "sender"),
            (TypeId::of::<log::Log>(), "log"),
            (TypeId::of::<meta::Handle>(), "meta"),
            (TypeId::of::<names::Names>(), "names"),
            (TypeId::of::<csv::Handle>(), "csv"),
            (TypeId::of::<json::Handle>(), "json"),
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
        // What an error prints as, and what replaces Rhai's own.
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

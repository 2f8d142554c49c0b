//! The script host: compiles Rhai, keeps what it compiled, runs it.
//!
//! A script compiles once and runs in a fresh scope each time, inside the fence of
//! `engine.rs`; calls run in parallel without a lock.

use std::{
    collections::{HashMap, HashSet},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use rhai::{AST, Dynamic, Engine, Scope};

use super::{
    api::{
        HOOK_SCOPE, Handles,
        actions::{Actions, Touched},
        assert,
        decision::Decision,
        log::Log,
    },
    call::{Call, Limits},
    engine,
    notes::Mode,
    report::{HookError, compile_error, place, run_error},
    services::Services,
    transaction::Transaction,
};
use tracing::warn;

use crate::{
    event::{Event, Kind},
    json::{Map, Value},
    meta::Meta,
    root::{file::Stamp, settings::live::Live},
};

/// Compiled scripts that are kept; beyond that, the cache starts anew.
const MAX_CACHED: usize = 4_096;

/// What a script did.
pub struct Ran {
    /// The meta as the script left it.
    pub meta: Option<Meta>,
    /// What it decided by the function that it ended with.
    pub decision: Decision,
    /// The files that it changed.
    pub touched: Vec<Touched>,
}

impl Ran {
    /// Nothing against it, and nothing done.
    pub fn accepted(meta: Option<Meta>) -> Self {
        Self {
            meta,
            decision: Decision::Accept,
            touched: Vec::new(),
        }
    }
}

/// A script as it was found, with the functions that it shares with others.
pub struct Source {
    /// Its name in m2y.config.
    pub name: String,
    /// What it is cached under.
    pub key: PathBuf,
    /// The shared functions, then the script.
    pub parts: Vec<Part>,
}

/// A text that a script is made of.
pub struct Part {
    /// Its name, for messages.
    pub name: String,
    /// What tells that it has changed; `None` for what is compiled in.
    pub stamp: Option<Stamp>,
    /// Reads it.
    pub read: Box<dyn FnOnce() -> io::Result<String> + Send>,
}

/// A script that can run.
pub struct Compiled {
    texts: Vec<Text>,
    ast: AST,
    /// Whether it asks for the SHA-256 of files.
    pub(super) hashes: bool,
    /// The values that it names.
    named: HashSet<&'static str>,
}

/// A text that was compiled, for messages.
struct Text {
    name: String,
    text: String,
    functions: HashSet<String>,
}

/// What is known of a script.
struct Cached {
    stamps: Vec<Option<Stamp>>,
    compiled: Arc<Compiled>,
    /// A later version that does not compile, and that was reported.
    broken: Option<Vec<Option<Stamp>>>,
}

/// Compiles scripts and runs them.
pub struct Host {
    engine: Engine,
    limits: Live<Limits>,
    services: Services,
    compiled: RwLock<HashMap<PathBuf, Cached>>,
}

impl Host {
    /// A host that lets a script run for as long as the limits say and reach what the services
    /// have.
    pub fn new(limits: Limits, services: Services) -> Self {
        Self::with_engine(engine::engine(), limits, services)
    }

    /// [`Host::new`] for scripts that test others: they can `assert` too.
    pub fn for_tests(limits: Limits, services: Services) -> Self {
        let mut engine = engine::engine();
        assert::register(&mut engine);
        Self::with_engine(engine, limits, services)
    }

    /// [`Host::new`] with an engine that has more than that of hooks.
    pub(super) fn with_engine(engine: Engine, limits: Limits, services: Services) -> Self {
        Self {
            engine,
            limits: Live::new(limits),
            services,
            compiled: RwLock::default(),
        }
    }

    /// Changes the limits of scripts that begin from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.replace(limits);
    }

    /// Runs a script for an event, whose scripts ask for what they want in a transaction; calls
    /// `lengthen` when it has worked for long, or is about to wait for something: that returns
    /// whether it holds nobody else up now.
    ///
    /// Blocks for as long as the script runs, so it belongs on a thread that may
    /// block, with a stack of at least 2 MiB.
    // Six parameters, all different at each of its callers: a struct would only name them a
    // second time.
    pub fn run(
        &self,
        name: &str,
        compiled: &Compiled,
        (event, profile): (&Event, &Map<String, Value>),
        transaction: &Transaction,
        mode: &Mode,
        lengthen: impl Fn() -> bool + 'static,
    ) -> Result<Ran, HookError> {
        let (name, limits) = (name.to_owned(), *self.limits.now());
        // Whatever panics below only loses this call's own values.
        catch_unwind(AssertUnwindSafe(|| {
            let log = Log::new(event, &name, mode.notes.clone());
            let actions = Actions::new(transaction, mode.notes.is_some());
            let handles = Handles::new(event, profile, &log, &actions, &self.services);
            let mut scope = Scope::new();
            handles.enter(&mut scope, |value| compiled.named.contains(value));
            let print = Box::new(move |text: &str| log.info(text));
            let result = Call::watch(limits, print, Box::new(lengthen), || {
                handles.during(|| {
                    self.engine
                        .eval_ast_with_scope::<Dynamic>(&mut scope, &compiled.ast)
                })
            });
            // Recorded even for a script that failed.
            if let Some(notes) = mode.notes.as_ref().filter(|_| !mode.live) {
                notes.spared(&actions.take_calls());
            }
            let result = result.map_err(|deadline| HookError::Deadline {
                script: name.clone(),
                deadline,
            })?;
            let value = result.map_err(|e| {
                let deadline = limits.deadline;
                run_error(&name, |function| compiled.text_of(function), deadline, *e)
            })?;
            let decision = decided(&name, event.kind, value)?;
            let meta = handles.left(&name, &scope)?;
            Ok(Ran {
                meta,
                decision,
                touched: actions.take_touched(),
            })
        }))
        .unwrap_or(Err(HookError::Panic))
    }

    /// Compiles a script, unless that was done before. If it was changed into something that does
    /// not compile, this is the version before, and the log says so once.
    pub fn compiled(&self, source: Source) -> Result<Arc<Compiled>, HookError> {
        let stamps: Vec<_> = source.parts.iter().map(|part| part.stamp).collect();
        let cached = self
            .compiled
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&source.key)
            .filter(|cached| cached.stamps == stamps || cached.broken.as_ref() == Some(&stamps))
            .map(|cached| cached.compiled.clone());
        if let Some(compiled) = cached {
            return Ok(compiled);
        }
        let key = source.key.clone();
        let result = self.compile(source);
        let mut cache = self
            .compiled
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match (result, cache.get_mut(&key)) {
            (Ok(compiled), _) => {
                if cache.len() >= MAX_CACHED {
                    cache.clear();
                }
                let cached = Cached {
                    stamps,
                    compiled: compiled.clone(),
                    broken: None,
                };
                cache.insert(key, cached);
                Ok(compiled)
            }
            (Err(error @ HookError::Script(_)), Some(cached)) => {
                warn!(
                    "{error}; the previous version of {} stays in force",
                    key.display()
                );
                cached.broken = Some(stamps);
                Ok(cached.compiled.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Compiles a script anew.
    pub(super) fn compile(&self, source: Source) -> Result<Arc<Compiled>, HookError> {
        let mut texts = Vec::new();
        let mut whole = AST::empty();
        let shared = source.parts.len().saturating_sub(1);
        for (index, part) in source.parts.into_iter().enumerate() {
            let name = part.name;
            let text = (part.read)().map_err(|source| HookError::Unreadable {
                script: name.clone(),
                source,
            })?;
            let ast = self
                .engine
                .compile(&text)
                .map_err(|e| compile_error(&name, &text, &e))?;
            engine::inspect(&ast).map_err(|(sentence, at)| place(&name, &text, &sentence, at))?;
            let functions = ast.iter_functions().map(|f| f.name.to_owned()).collect();
            // Only the functions of what is shared: its statements would run each time.
            whole = whole.merge(&match index < shared {
                true => ast.clone_functions_only(),
                false => ast,
            });
            texts.push(Text {
                name,
                text,
                functions,
            });
        }
        let mentions = |word: &str| texts.iter().any(|text| text.text.contains(word));
        Ok(Arc::new(Compiled {
            hashes: mentions("sha256"),
            named: HOOK_SCOPE
                .into_iter()
                .filter(|name| mentions(name))
                .collect(),
            texts,
            ast: whole,
        }))
    }
}

impl Compiled {
    /// Whether a word is anywhere in it.
    pub fn mentions(&self, word: &str) -> bool {
        self.texts.iter().any(|text| text.text.contains(word))
    }

    /// The texts that it is made of.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(|text| text.text.as_str())
    }

    /// What it was compiled to.
    pub(super) fn ast(&self) -> &AST {
        &self.ast
    }

    /// The text that has a function, or else the script itself.
    pub(super) fn text_of(&self, function: Option<&str>) -> (&str, &str) {
        let with = |text: &&Text| function.is_some_and(|f| text.functions.contains(f));
        // A function of the script takes precedence over a shared one of the same name.
        let text = self.texts.iter().rev().find(with).or(self.texts.last());
        text.map_or(("", ""), |text| (&text.name, &text.text))
    }
}

/// What the value that a script ended with says. `false` or a text is meant to refuse, but would
/// not.
fn decided(script: &str, kind: Kind, value: Dynamic) -> Result<Decision, HookError> {
    if value.is::<Decision>() {
        return Ok(value.cast());
    }
    if kind == Kind::Meta && (value.is_string() || value.as_bool() == Ok(false)) {
        return Err(HookError::Undecided {
            script: script.to_owned(),
            value: value.to_string(),
        });
    }
    Ok(Decision::Accept)
}

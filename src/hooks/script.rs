//! The script host: compiles Rhai, keeps what it compiled, runs it.
//!
//! A script compiles once and runs in a fresh scope each time, inside the fence of
//! [`limits`]; calls run in parallel without a lock.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use rhai::{AST, Dynamic, Engine, Scope};

use super::{
    api::{
        Handles, assert,
        decision::Decision,
        deeds::{Deeds, Touched},
        log::Log,
        state::State,
    },
    limits::{self, Call},
    report::{HookError, compile_error, place, run_error},
};
use crate::{
    event::{Effect, Event, Kind},
    json::{Map, Value},
    meta::Meta,
};

/// Compiled scripts that are kept; beyond, the cache starts anew.
const MAX_CACHED: usize = 4_096;

/// What a script did.
pub struct Ran {
    /// The meta as the script left it.
    pub meta: Option<Meta>,
    /// What it decided by the function that it ended with.
    pub decision: Decision,
    /// What is to be done after the verdict.
    pub effects: Vec<Effect>,
    /// Where the run was not live: what it would have done.
    pub spared: Vec<String>,
    /// The files that it changed.
    pub touched: Vec<Touched>,
}

/// A script as it was found.
pub struct Source {
    /// Its name in m2y.config.
    pub name: String,
    /// What it is cached under.
    pub key: PathBuf,
    /// By which a change is noticed.
    pub stamp: Stamp,
    /// Reads its text.
    pub read: Box<dyn FnOnce() -> io::Result<String> + Send>,
}

/// By which a change of a script is noticed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// It is compiled in.
    Bundled,
    /// A file.
    File {
        /// Which file it is: editors write a new one and rename it.
        inode: u64,
        /// Its length.
        len: u64,
        /// When it changed last, in seconds and nanoseconds.
        changed: (i64, i64),
    },
}

struct Compiled {
    stamp: Stamp,
    text: String,
    ast: AST,
}

/// Compiles scripts and runs them.
pub struct Host {
    engine: Engine,
    deadline: Duration,
    state: Arc<dyn State>,
    compiled: RwLock<HashMap<PathBuf, Arc<Compiled>>>,
}

impl Host {
    /// A host that lets a script run for at most `deadline` and keeps its values in
    /// `state`.
    pub fn new(deadline: Duration, state: Arc<dyn State>) -> Self {
        Self::with_engine(limits::engine(), deadline, state)
    }

    /// [`Host::new`] for scripts that test others: they can `assert` too.
    pub fn for_tests(deadline: Duration, state: Arc<dyn State>) -> Self {
        let mut engine = limits::engine();
        assert::register(&mut engine);
        Self::with_engine(engine, deadline, state)
    }

    fn with_engine(engine: Engine, deadline: Duration, state: Arc<dyn State>) -> Self {
        Self {
            engine,
            deadline,
            state,
            compiled: RwLock::default(),
        }
    }

    /// Runs a script for an event; where it is not `live`, without doing anything but
    /// deciding.
    ///
    /// Blocks for as long as the script runs, so it belongs on a thread that may
    /// block, with a stack of at least 2 MiB.
    pub fn run(
        &self,
        source: Source,
        event: &Event,
        profile: &Map<String, Value>,
        live: bool,
    ) -> Result<Ran, HookError> {
        let name = source.name.clone();
        // Whatever panics below only loses this call's own values.
        catch_unwind(AssertUnwindSafe(|| {
            let compiled = self.compiled(source)?;
            let log = Log::new(event, &name);
            let deeds = Deeds::new(live);
            let handles = Handles::new(event, profile, &log, &deeds, &self.state);
            let mut scope = Scope::new();
            handles.enter(&mut scope);
            let until = Instant::now() + self.deadline;
            let result = Call::watch(until, log, || {
                handles.during(|| {
                    self.engine
                        .eval_ast_with_scope::<Dynamic>(&mut scope, &compiled.ast)
                })
            });
            let value = result.map_err(|e| run_error(&name, &compiled.text, self.deadline, *e))?;
            // The last step of a script meets no further step that would notice.
            if Instant::now() > until {
                return Err(HookError::Deadline {
                    script: name,
                    deadline: self.deadline,
                });
            }
            let decision = decided(&name, event.kind, value)?;
            let meta = handles.left(&name, &scope)?;
            let (effects, spared) = deeds.take();
            Ok(Ran {
                meta,
                decision,
                effects,
                spared,
                touched: deeds.take_touched(),
            })
        }))
        .unwrap_or(Err(HookError::Panic))
    }

    fn compiled(&self, source: Source) -> Result<Arc<Compiled>, HookError> {
        let cached = self
            .compiled
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&source.key)
            .filter(|compiled| compiled.stamp == source.stamp)
            .cloned();
        if let Some(compiled) = cached {
            return Ok(compiled);
        }
        let name = source.name;
        let text = (source.read)().map_err(|source| HookError::Unreadable {
            script: name.clone(),
            source,
        })?;
        let ast = self
            .engine
            .compile(&text)
            .map_err(|e| compile_error(&name, &text, &e))?;
        limits::inspect(&ast).map_err(|(sentence, at)| place(&name, &text, &sentence, at))?;
        let compiled = Arc::new(Compiled {
            stamp: source.stamp,
            text,
            ast,
        });
        let mut cache = self
            .compiled
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(source.key, compiled.clone());
        Ok(compiled)
    }
}

/// What the value says that a script ended with. `false` or a text means to refuse, and
/// would not.
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

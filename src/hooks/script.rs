//! The script host: Rhai, fenced in.
//!
//! Rhai's own limits are no wall by themselves, so every one of them is set in one
//! place (`engine`), what they miss is taken out of the language, and a deadline
//! on the clock stops whatever is left. A script compiles once and runs in a fresh
//! scope each time; calls run in parallel without a lock.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use rhai::{
    AST, Dynamic, Engine, EvalAltResult, ImmutableString, Position, Scope,
    packages::{
        BasicArrayPackage, BasicMapPackage, BasicMathPackage, CorePackage, LogicPackage,
        MoreStringPackage, Package,
    },
};

use super::{
    api::{self, Handles, log::Log},
    report::{HookError, compile_error, run_error},
};
use crate::{event::Event, meta::Meta};

/// The largest script, in bytes. A call with as many arguments as fit into it is one
/// step of Rhai's, which no deadline interrupts.
pub const MAX_SOURCE: u64 = 16_384;

/// The longest text that a script can hold, in bytes.
pub const MAX_STRING: usize = 4_096;

/// Compiled scripts that are kept; beyond, the cache starts anew.
const MAX_CACHED: usize = 4_096;

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
    compiled: RwLock<HashMap<PathBuf, Arc<Compiled>>>,
}

/// What the host knows of the script that runs on a thread.
struct Call {
    until: Instant,
    log: Log,
}

thread_local! {
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

impl Host {
    /// A host that lets a script run for at most `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Self {
            engine: engine(),
            deadline,
            compiled: RwLock::default(),
        }
    }

    /// Runs a script for an event and returns the meta as the script left it.
    ///
    /// Blocks for as long as the script runs, so it belongs on a thread that may
    /// block, with a stack of at least 2 MiB.
    pub fn run(&self, source: Source, event: &Event) -> Result<Option<Meta>, HookError> {
        let name = source.name.clone();
        let log = Log::new(event, &name);
        let handles = Handles::new(event, &log);
        // Whatever panics below only loses this call's own values.
        catch_unwind(AssertUnwindSafe(|| {
            let compiled = self.compiled(source)?;
            let mut scope = Scope::new();
            handles.enter(&mut scope);
            let until = Instant::now() + self.deadline;
            CALL.set(Some(Call { until, log }));
            let result = self.engine.run_ast_with_scope(&mut scope, &compiled.ast);
            CALL.set(None);
            result.map_err(|e| run_error(&name, &compiled.text, self.deadline, *e))?;
            // The last step of a script meets no further step that would notice.
            if Instant::now() > until {
                return Err(HookError::Deadline {
                    script: name.clone(),
                    deadline: self.deadline,
                });
            }
            Ok(())
        }))
        .unwrap_or_else(|_| {
            CALL.set(None);
            Err(HookError::Panic)
        })?;
        handles.meta()
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

/// Every limit of every script, in one place.
fn engine() -> Engine {
    let mut engine = Engine::new_raw();
    // No blobs, no bit fields, no clock; files and network only through `api`.
    for package in [
        CorePackage::new().as_shared_module(),
        LogicPackage::new().as_shared_module(),
        BasicMathPackage::new().as_shared_module(),
        BasicArrayPackage::new().as_shared_module(),
        BasicMapPackage::new().as_shared_module(),
        MoreStringPackage::new().as_shared_module(),
    ] {
        engine.register_global_module(package);
    }
    engine
        .set_max_operations(200_000)
        .set_max_call_levels(32)
        .set_max_expr_depths(64, 32)
        .set_max_variables(256)
        .set_max_functions(256)
        .set_max_string_size(MAX_STRING)
        .set_max_array_size(1_024)
        .set_max_map_size(256)
        .set_max_strings_interned(256)
        // `eval` escapes what was compiled; `curry` grows without a check.
        .disable_symbol("eval")
        .disable_symbol("curry")
        .on_progress(|_| {
            let over = CALL.with_borrow(|call| {
                call.as_ref()
                    .is_some_and(|call| Instant::now() > call.until)
            });
            over.then(|| Dynamic::from("deadline"))
        })
        .on_print(log_line)
        .on_debug(|text, _, _| log_line(text));
    replace_unchecked(&mut engine);
    api::register(&mut engine);
    engine
}

fn log_line(text: &str) {
    CALL.with_borrow(|call| {
        if let Some(call) = call {
            call.log.info(text);
        }
    });
}

/// Puts checked functions in the place of those that ignore a limit: `sleep` the
/// deadline, `replace` the length of texts until after it has allocated.
fn replace_unchecked(engine: &mut Engine) {
    fn sleep(wanted: Duration) {
        let left = CALL.with_borrow(|call| {
            call.as_ref()
                .map(|call| call.until.saturating_duration_since(Instant::now()))
        });
        // A little more than is left, so that the next step meets the deadline.
        let most = left.unwrap_or_default() + Duration::from_millis(1);
        std::thread::sleep(wanted.min(most));
    }
    engine
        .register_fn("sleep", |seconds: i64| {
            sleep(Duration::from_secs(seconds.max(0).unsigned_abs()));
        })
        .register_fn("sleep", |seconds: f64| {
            sleep(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        });

    type Replaced = Result<(), Box<EvalAltResult>>;
    fn replace(text: &mut ImmutableString, find: &str, put: &str) -> Replaced {
        let grown = text
            .matches(find)
            .count()
            .saturating_mul(put.len())
            .saturating_add(text.len());
        if grown > MAX_STRING.saturating_mul(2) {
            return Err(Box::new(EvalAltResult::ErrorDataTooLarge(
                "Length of string".to_owned(),
                Position::NONE,
            )));
        }
        *text = text.replace(find, put).into();
        Ok(())
    }
    engine
        .register_fn("replace", |t: &mut ImmutableString, f: &str, p: &str| {
            replace(t, f, p)
        })
        .register_fn("replace", |t: &mut ImmutableString, f: &str, p: char| {
            replace(t, f, &p.to_string())
        })
        .register_fn("replace", |t: &mut ImmutableString, f: char, p: &str| {
            replace(t, &f.to_string(), p)
        })
        .register_fn("replace", |t: &mut ImmutableString, f: char, p: char| {
            replace(t, &f.to_string(), &p.to_string())
        });
}

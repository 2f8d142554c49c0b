//! The fence around every script: what it may use, and who stops it.
//!
//! Rhai's own limits are no wall by themselves, so all of them are set in one place
//! ([`engine`]), what they miss is taken out of the language, and while a script runs a
//! [`Call`] watches the clock and the memory of the process.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    os::unix::fs::FileExt,
    sync::LazyLock,
    time::{Duration, Instant},
};

use rhai::{
    AST, ASTNode, Dynamic, Engine, EvalAltResult, Expr, ImmutableString, Position, Stmt,
    packages::{
        BasicArrayPackage, BasicMapPackage, BasicMathPackage, CorePackage, LogicPackage,
        MoreStringPackage, Package,
    },
};

use super::api::{self, log::Log};

/// The largest script, in bytes.
pub const MAX_SOURCE: u64 = 65_536;

/// The longest text that a script can hold, in bytes.
pub const MAX_STRING: usize = 4_096;

/// Arguments of one call. A call is one step of Rhai's, which no deadline interrupts,
/// however many arguments it has.
const MAX_ARGUMENTS: usize = 32;

/// Bytes of fresh memory that a script may touch. Rhai checks the item that is put into
/// an array or a map by index, not what holds it, so a few lines can grow without an end.
const MAX_FRESH: u64 = 8 << 20;

/// Bytes that the process may grow by while a script runs, whoever makes it grow: where
/// pages are huge, touching one is counted as little.
const MAX_GROWTH: u64 = 64 << 20;

/// Steps of a script from one look at the memory to the next.
const MEMORY_STEPS: u64 = 128;

/// From when on a script has worked for long.
const LONG: Duration = Duration::from_millis(10);

/// Why a script was stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its time was over.
    Deadline,
    /// The process grew too much while it ran.
    Memory,
}

/// What is known of the script that runs on a thread.
pub struct Call {
    until: Instant,
    log: Log,
    begun: Instant,
    /// Turns the script into one that has worked for long; away once it was tried.
    lengthen: Cell<Option<Box<dyn FnOnce()>>>,
    /// The memory when it was first looked at.
    memory: Cell<Option<Memory>>,
}

thread_local! {
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

impl Call {
    /// Watches over the script that is run inside `run`, which ends at `until`; calls
    /// `lengthen` once it has worked for long.
    pub fn watch<T>(
        until: Instant,
        log: Log,
        lengthen: Box<dyn FnOnce()>,
        run: impl FnOnce() -> T,
    ) -> T {
        /// Takes the call off the thread, whatever panics.
        struct Over;
        impl Drop for Over {
            fn drop(&mut self) {
                CALL.set(None);
            }
        }
        CALL.set(Some(Self {
            until,
            log,
            begun: Instant::now(),
            lengthen: Cell::new(Some(lengthen)),
            memory: Cell::new(None),
        }));
        let _over = Over;
        run()
    }

    /// Why the script has to stop after so many steps, if it has to.
    fn stop(&self, steps: u64) -> Option<Stop> {
        let now = Instant::now();
        if now > self.until {
            return Some(Stop::Deadline);
        }
        if now.duration_since(self.begun) > LONG
            && let Some(lengthen) = self.lengthen.take()
        {
            lengthen();
        }
        if !steps.is_multiple_of(MEMORY_STEPS) {
            return None;
        }
        let now = Memory::now();
        let Some(before) = self.memory.get() else {
            self.memory.set(Some(now));
            return None;
        };
        let too_much = now.fresh.saturating_sub(before.fresh) > MAX_FRESH
            || now.resident.saturating_sub(before.resident) > MAX_GROWTH;
        too_much.then_some(Stop::Memory)
    }
}

/// For functions of ours that take long: an error as soon as the script has to stop,
/// one that no `catch` of the script's catches.
pub fn go_on() -> Result<(), Box<EvalAltResult>> {
    // Only the clock: what works here does not make the script grow.
    match CALL.with_borrow(|call| call.as_ref()?.stop(1)) {
        None => Ok(()),
        Some(stop) => Err(Box::new(EvalAltResult::ErrorTerminated(
            Dynamic::from(stop),
            Position::NONE,
        ))),
    }
}

/// What the system tells of memory, in bytes; nothing where it does not.
#[derive(Clone, Copy)]
struct Memory {
    /// Touched for the first time by this thread.
    fresh: u64,
    /// Held by the process.
    resident: u64,
}

impl Memory {
    fn now() -> Self {
        static PROCESS: LazyLock<Option<File>> =
            LazyLock::new(|| File::open("/proc/self/statm").ok());
        thread_local! {
            static THREAD: Option<File> = File::open("/proc/thread-self/stat").ok();
        }
        let page = rustix::param::page_size() as u64;
        // proc(5): the second field of statm; of stat the tenth, the eighth after the
        // name, which alone may hold blanks and brackets.
        let faults = THREAD.with(|file| field(file.as_ref()?, |text| text.rsplit(')').next(), 8));
        let pages = PROCESS
            .as_ref()
            .and_then(|file| field(file, |text| Some(text), 1));
        Self {
            fresh: faults.unwrap_or_default().saturating_mul(page),
            resident: pages.unwrap_or_default().saturating_mul(page),
        }
    }
}

/// A number in a file of `/proc`, counted from 0 behind `start`.
fn field(file: &File, start: impl Fn(&str) -> Option<&str>, number: usize) -> Option<u64> {
    let mut text = [0; 512];
    let len = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..len)?).ok()?;
    start(text)?.split(' ').nth(number)?.trim_end().parse().ok()
}

/// Every limit of every script, in one place.
pub fn engine() -> Engine {
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
        .on_progress(|steps| {
            let stop = CALL.with_borrow(|call| call.as_ref()?.stop(steps));
            stop.map(Dynamic::from)
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

/// What must be true of a compiled script before it runs; a sentence if it is not.
pub fn inspect(ast: &AST) -> Result<(), (String, Position)> {
    let mut found = None;
    ast.walk(&mut |path| {
        let call = match path.last() {
            Some(ASTNode::Expr(Expr::FnCall(call, at) | Expr::MethodCall(call, at))) => (call, *at),
            Some(ASTNode::Stmt(Stmt::FnCall(call, at))) => (call, *at),
            _ => return true,
        };
        let (call, at) = call;
        if call.args.len() > MAX_ARGUMENTS {
            let sentence = format!("a call can have {MAX_ARGUMENTS} arguments");
            found = Some((sentence, at));
        }
        found.is_none()
    });
    found.map_or(Ok(()), Err)
}

/// Puts functions of ours in the place of those that ignore a limit: `sleep` the
/// deadline, `replace` the length of texts until after it has allocated.
fn replace_unchecked(engine: &mut Engine) {
    // A sender waits meanwhile, and so does every other script in the queue.
    fn sleep() -> Result<(), Box<EvalAltResult>> {
        Err(api::fail(
            "sleep(): a hook cannot sleep, a sender waits for it",
        ))
    }
    engine
        .register_fn("sleep", |_: i64| sleep())
        .register_fn("sleep", |_: f64| sleep());

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

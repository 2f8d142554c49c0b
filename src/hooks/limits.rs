//! The fence around every script: what it may use, and who stops it.
//!
//! Rhai's own limits are no wall by themselves, so all of them are set in one place
//! ([`engine`]), what they miss is taken out of the language, and while a script runs a
//! [`Call`] watches the clock and what the script holds of memory. The allocator counts that
//! for each thread: what the system tells of pages is blind to memory that was used before.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use rhai::{
    AST, ASTNode, Dynamic, Engine, EvalAltResult, Expr, ImmutableString, Position, Stmt,
    packages::{
        BasicArrayPackage, BasicMapPackage, BasicMathPackage, CorePackage, LogicPackage,
        MoreStringPackage, Package,
    },
};

use tikv_jemalloc_ctl::thread::{ThreadLocal, allocatedp, deallocatedp};

use super::api::{self, log::Log};
use crate::meta::MAX_TEXT;

/// The largest script, in bytes.
pub const MAX_SOURCE: u64 = 65_536;

/// The longest text that a script can hold, in bytes: the longest that a sender may write
/// into a field, and as much again around it.
const MAX_STRING: usize = 2 * MAX_TEXT;

/// Arguments of one call. A call is one step of Rhai's, which no deadline interrupts,
/// however many arguments it has.
const MAX_ARGUMENTS: usize = 32;

/// Bytes that a script may hold. Rhai checks the item that is put into an array or a map
/// by index, not what holds it, so a few lines can grow without an end.
const MAX_HELD: i64 = 8 << 20;

/// Bytes that all scripts may hold that run at the same time.
const MAX_HELD_BY_ALL: i64 = 64 << 20;

/// What a script holds is counted for all in such steps.
const SHARE: i64 = 1 << 20;

/// From when on a script has worked for long.
const LONG: Duration = Duration::from_millis(5);

/// Why a script was stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its time was over.
    Deadline,
    /// It held too much memory, or all scripts together did.
    Memory,
}

/// What is known of the script that runs on a thread.
pub struct Call {
    until: Instant,
    log: Log,
    begun: Instant,
    /// Turns the script into one that has worked for long; away once it was tried.
    lengthen: Cell<Option<Box<dyn FnOnce()>>>,
    /// What it holds; nothing where the allocator does not count.
    memory: Option<Memory>,
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
            memory: Memory::watch(),
        }));
        let _over = Over;
        run()
    }

    /// Why the script has to stop, if it has to.
    fn stop(&self) -> Option<Stop> {
        let now = Instant::now();
        if now > self.until {
            return Some(Stop::Deadline);
        }
        if now.duration_since(self.begun) > LONG
            && let Some(lengthen) = self.lengthen.take()
        {
            lengthen();
        }
        let memory = self.memory.as_ref()?;
        memory.is_too_much().then_some(Stop::Memory)
    }
}

/// For functions of ours that take long: an error as soon as the script has to stop,
/// one that no `catch` of the script's catches.
pub fn go_on() -> Result<(), Box<EvalAltResult>> {
    match CALL.with_borrow(|call| call.as_ref()?.stop()) {
        None => Ok(()),
        Some(stop) => Err(Box::new(EvalAltResult::ErrorTerminated(
            Dynamic::from(stop),
            Position::NONE,
        ))),
    }
}

/// What the allocator counts of a thread, in bytes since the thread began.
struct Counts {
    allocated: ThreadLocal<u64>,
    freed: ThreadLocal<u64>,
}

impl Counts {
    fn of_thread() -> Option<Self> {
        Some(Self {
            allocated: allocatedp::read().ok()?,
            freed: deallocatedp::read().ok()?,
        })
    }

    /// Bytes that the thread took and did not give back; what others freed of it counts
    /// as held, and what it freed of others as given back.
    fn held(&self) -> i64 {
        self.allocated
            .get()
            .wrapping_sub(self.freed.get())
            .cast_signed()
    }
}

/// What all scripts hold that run now, in bytes, counted in steps of [`SHARE`].
static HELD_BY_ALL: AtomicI64 = AtomicI64::new(0);

/// What a script holds.
struct Memory {
    counts: Counts,
    before: i64,
    /// What it counts for in [`HELD_BY_ALL`].
    shared: Cell<i64>,
}

impl Memory {
    fn watch() -> Option<Self> {
        let counts = Counts::of_thread()?;
        Some(Self {
            before: counts.held(),
            counts,
            shared: Cell::new(0),
        })
    }

    fn is_too_much(&self) -> bool {
        let held = self.counts.held().saturating_sub(self.before);
        if held > MAX_HELD {
            return true;
        }
        let shared = self.shared.get();
        if held.abs_diff(shared) < SHARE.unsigned_abs() {
            return false;
        }
        self.shared.set(held);
        let before = HELD_BY_ALL.fetch_add(held - shared, Ordering::Relaxed);
        // Who grows last has to go; one that holds little is not to blame.
        held > shared && before + held - shared > MAX_HELD_BY_ALL
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        HELD_BY_ALL.fetch_sub(self.shared.get(), Ordering::Relaxed);
    }
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
        .on_progress(|_| {
            let stop = CALL.with_borrow(|call| call.as_ref()?.stop());
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

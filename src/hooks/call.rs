//! The call of a script that runs on a thread: its deadline, and the memory that it holds.
//!
//! The allocator counts memory for each thread: what the system tells about pages misses memory
//! that was used before.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use super::api::function::Made;
use rhai::{Dynamic, EvalAltResult, Position};
use tikv_jemalloc_ctl::thread::{ThreadLocal, allocatedp, deallocatedp};

/// Bytes that a script may hold. Rhai checks the item that is put into an array or a map by index,
/// not what holds it, so a few lines can grow without limit.
const MAX_HELD: i64 = 8 << 20;

/// Bytes that all scripts running at the same time may hold.
const MAX_HELD_BY_ALL: i64 = 64 << 20;

/// What a script holds is counted for all in steps of this size.
const SHARE: i64 = 1 << 20;

/// After this time a script has worked for long.
const LONG: Duration = Duration::from_millis(5);

/// Why a script was stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its time, which was this long, was over.
    Deadline(Duration),
    /// It held too much memory, or all scripts together did.
    Memory,
    /// There was no room for something that takes long.
    Busy,
}

/// Time that a script has.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For its own steps.
    pub deadline: Duration,
    /// For everything that it waits for: a large file to be read, a server to answer.
    pub patience: Duration,
}

/// What is known of the script that runs on a thread.
pub struct Call {
    limits: Limits,
    until: Cell<Instant>,
    /// What is left of its patience, and whether it waits now.
    patience: Cell<Duration>,
    waits: Cell<bool>,
    /// Takes what the script prints.
    print: Box<dyn Fn(&str)>,
    begun: Instant,
    /// Turns the script into one that works for long; returns whether it is one now.
    lengthen: Box<dyn Fn() -> bool>,
    /// Whether that was tried because it had worked for long.
    is_long: Cell<bool>,
    /// What it holds; `None` if the allocator does not count.
    memory: Option<Memory>,
}

thread_local! {
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

impl Call {
    /// Watches over the script that is run inside `run`; `print` takes what it prints. Calls
    /// `lengthen` when it has worked for long, or is about to wait: that returns whether it holds
    /// nobody else up now. Fails if its time was over at its last step, after which no further one
    /// would notice.
    pub fn watch<T>(
        limits: Limits,
        print: Box<dyn Fn(&str)>,
        lengthen: Box<dyn Fn() -> bool>,
        run: impl FnOnce() -> T,
    ) -> Result<T, Duration> {
        /// Takes the call off the thread, even after a panic.
        struct Over;
        impl Drop for Over {
            fn drop(&mut self) {
                CALL.set(None);
            }
        }
        let begun = Instant::now();
        CALL.set(Some(Self {
            limits,
            until: Cell::new(begun + limits.deadline),
            patience: Cell::new(limits.patience),
            waits: Cell::new(false),
            print,
            begun,
            lengthen,
            is_long: Cell::new(false),
            memory: Memory::watch(),
        }));
        let _over = Over;
        let ran = run();
        let until = CALL.with_borrow(|call| call.as_ref().map(|call| call.until.get()));
        match until.is_some_and(|until| Instant::now() > until) {
            true => Err(limits.deadline),
            false => Ok(ran),
        }
    }

    /// Why the script has to stop, if it has to.
    fn stop(&self) -> Option<Stop> {
        let now = Instant::now();
        if now > self.until.get() {
            return Some(Stop::Deadline(match self.waits.get() {
                true => self.limits.patience,
                false => self.limits.deadline,
            }));
        }
        if now.duration_since(self.begun) > LONG && !self.is_long.replace(true) {
            (self.lengthen)();
        }
        let memory = self.memory.as_ref()?;
        memory.is_too_much().then_some(Stop::Memory)
    }
}

/// Until it is dropped, time counts against the patience of a script instead of its deadline.
struct Waiting {
    since: Instant,
    /// What was left of its deadline.
    left: Duration,
}

impl Waiting {
    fn begin() -> Result<Self, Stop> {
        let since = Instant::now();
        CALL.with_borrow(|call| {
            let Some(call) = call else {
                return Ok(Self {
                    since,
                    left: Duration::ZERO,
                });
            };
            if !(call.lengthen)() {
                return Err(Stop::Busy);
            }
            call.is_long.set(true);
            let left = call.until.get().saturating_duration_since(since);
            call.waits.set(true);
            call.until.set(since + call.patience.get());
            Ok(Self { since, left })
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        CALL.with_borrow(|call| {
            if let Some(call) = call {
                let left = call.patience.get();
                call.patience.set(left.saturating_sub(self.since.elapsed()));
                call.waits.set(false);
                call.until.set(Instant::now() + self.left);
            }
        });
    }
}

/// Does something that takes long for the script that runs on this thread: it takes a place among
/// those that work for long, and its time counts against the script's patience instead of its
/// deadline. `work` is told what is left of that, and calls [`go_on`] where it can.
pub fn wait<T>(work: impl FnOnce(Duration) -> Made<T>) -> Made<T> {
    let waiting = Waiting::begin().map_err(stopped)?;
    let left = CALL.with_borrow(|call| call.as_ref().map(|call| call.patience.get()));
    let done = work(left.unwrap_or_default());
    go_on()?;
    drop(waiting);
    done
}

fn stopped(stop: Stop) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorTerminated(
        Dynamic::from(stop),
        Position::NONE,
    ))
}

/// Why the script that runs on this thread has to stop, if it has to.
pub fn stop() -> Option<Stop> {
    CALL.with_borrow(|call| call.as_ref()?.stop())
}

/// Takes what the script that runs on this thread prints.
pub fn print(text: &str) {
    CALL.with_borrow(|call| {
        if let Some(call) = call {
            (call.print)(text);
        }
    });
}

/// For functions of ours that take long: an error as soon as the script has to stop,
/// one that no `catch` of the script's catches.
pub fn go_on() -> Result<(), Box<EvalAltResult>> {
    match stop() {
        None => Ok(()),
        Some(stop) => Err(stopped(stop)),
    }
}

/// What the allocator counts for a thread, in bytes since the thread began.
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

    /// Bytes that the thread took and did not give back; what others freed of it counts as held,
    /// and what it freed of theirs as given back.
    fn held(&self) -> i64 {
        self.allocated
            .get()
            .wrapping_sub(self.freed.get())
            .cast_signed()
    }
}

/// What all running scripts hold, in bytes, counted in steps of [`SHARE`].
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
        // The script that grows last has to go; one that holds little is not to blame.
        held > shared && before + held - shared > MAX_HELD_BY_ALL
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        HELD_BY_ALL.fetch_sub(self.shared.get(), Ordering::Relaxed);
    }
}

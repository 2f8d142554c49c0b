//! The threads that scripts run on.
//!
//! They belong to scripts alone: one that works to its deadline takes neither a thread of
//! the network nor one of the disk, and memory that it let go of is what the next one on
//! the thread takes. There are as many as scripts run at once, which `slots.rs` bounds.

use std::{
    collections::VecDeque,
    hint,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// Stack of each: the deepest recursion that a script's limits allow needs a part of it.
const STACK: usize = 8 << 20;

/// The priority of a script that has worked for long (nice(2)): about a tenth of the
/// time that others get.
const LOW: i32 = 10;

/// How long a thread waits for the next script.
const IDLE: Duration = Duration::from_secs(10);

/// How long one of them, and whoever waits for it, keeps looking before it sleeps: to
/// wake a thread costs several times what a short script does. Half the time that two
/// blocks take on their way.
const SPIN: Duration = Duration::from_micros(40);

/// Lets all else on the machine go before this thread, for good.
pub fn lower_priority() -> Thread {
    match rustix::process::setpriority_process(None, LOW) {
        Ok(()) => Thread::Worn,
        Err(_) => Thread::Fresh,
    }
}

/// Whether the thread may serve another script after this one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// It is as it was.
    Fresh,
    /// It was given a lower priority, which it cannot take back.
    Worn,
}

type Work = Box<dyn FnOnce() -> Thread + Send>;

/// Threads that run scripts. Copies of it are the same ones.
#[derive(Clone, Default)]
pub struct Workers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
    /// Work in the queue, for the thread that looks without the lock.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    /// Threads that wait for work.
    idle: usize,
    /// Whether one of them keeps looking and needs no call.
    looking: bool,
    /// Work that a thread has taken and not ended.
    running: usize,
}

/// Keeps looking for a while until `there` is true.
fn spin(there: impl Fn() -> bool) {
    static SEVERAL: LazyLock<bool> =
        LazyLock::new(|| thread::available_parallelism().is_ok_and(|cores| cores.get() > 1));
    if !*SEVERAL {
        return;
    }
    let begun = Instant::now();
    while !there() && begun.elapsed() < SPIN {
        for _ in 0..16 {
            hint::spin_loop();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next work; `None` if none came for a while.
    fn next(&self) -> Option<Work> {
        let (mut queue, mut looked) = (self.queue(), false);
        loop {
            if let Some(work) = queue.work.pop_front() {
                queue.running += 1;
                self.waiting.store(queue.work.len(), Ordering::Relaxed);
                return Some(work);
            }
            queue.idle += 1;
            if !looked && queue.running == 0 && !queue.looking {
                looked = true;
                queue.looking = true;
                drop(queue);
                spin(|| self.waiting.load(Ordering::Relaxed) > 0);
                queue = self.queue();
                queue.looking = false;
                queue.idle -= 1;
                continue;
            }
            let (woken, waited) = self
                .news
                .wait_timeout(queue, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.idle -= 1;
            if waited.timed_out() && queue.work.is_empty() {
                return None;
            }
        }
    }
}

impl Workers {
    /// Runs `work` on one of the threads; `None` if it panicked, or there is no thread.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> (T, Thread) + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        let guarded = move || match catch_unwind(AssertUnwindSafe(work)) {
            Ok((value, thread)) => {
                let _ = done.send(value);
                thread
            }
            Err(_) => Thread::Fresh,
        };
        let alone = self.give(Box::new(guarded));
        // Beside others the thread has better things to do.
        if alone {
            spin(|| !result.is_empty());
        }
        result.await.ok()
    }

    /// Puts work into the queue; returns whether there is no other.
    fn give(&self, work: Work) -> bool {
        let mut queue = self.0.queue();
        queue.work.push_back(work);
        let waiting = queue.work.len();
        let alone = waiting == 1 && queue.running == 0;
        self.0.waiting.store(waiting, Ordering::Relaxed);
        if queue.idle >= waiting {
            // The one that looks takes the first.
            if waiting > usize::from(queue.looking) {
                self.0.news.notify_one();
            }
            return alone;
        }
        drop(queue);
        let shared = self.0.clone();
        let spawned = thread::Builder::new()
            .name("script".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                while let Some(work) = shared.next() {
                    let thread = work();
                    shared.queue().running -= 1;
                    if let Thread::Worn = thread {
                        break;
                    }
                }
            });
        if spawned.is_err() {
            // Out of threads: whoever waits is told so, and no work is left behind.
            let mut queue = self.0.queue();
            drop(queue.work.pop_back());
            self.0.waiting.store(queue.work.len(), Ordering::Relaxed);
        }
        alone
    }
}

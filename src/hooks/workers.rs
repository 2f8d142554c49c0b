//! The threads that scripts run on.
//!
//! They belong to scripts alone: one that works to its deadline takes neither a thread of
//! the network nor one of the disk, and memory that it let go of is what the next one on
//! the thread takes. There are as many as scripts run at once, which `slots.rs` bounds.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

/// Stack of each: the deepest recursion that a script's limits allow needs a part of it.
const STACK: usize = 8 << 20;

/// The priority of a script that has worked for long (nice(2)): about a tenth of the
/// time that others get.
const LOW: i32 = 10;

/// How long a thread waits for the next script.
const IDLE: Duration = Duration::from_secs(10);

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
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    /// Threads that wait for work.
    idle: usize,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next work; `None` if none came for a while.
    fn next(&self) -> Option<Work> {
        let mut queue = self.queue();
        loop {
            if let Some(work) = queue.work.pop_front() {
                return Some(work);
            }
            queue.idle += 1;
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
        self.give(Box::new(guarded));
        result.await.ok()
    }

    fn give(&self, work: Work) {
        let mut queue = self.0.queue();
        queue.work.push_back(work);
        if queue.idle >= queue.work.len() {
            self.0.news.notify_one();
            return;
        }
        drop(queue);
        let shared = self.0.clone();
        let spawned = thread::Builder::new()
            .name("script".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                while let Some(work) = shared.next() {
                    if let Thread::Worn = work() {
                        break;
                    }
                }
            });
        if spawned.is_err() {
            // Out of threads: whoever waits is told so, and no work is left behind.
            drop(self.0.queue().work.pop_back());
        }
    }
}

//! The threads that scripts run on.
//!
//! They are few and belong to scripts alone: a script that works to its deadline takes
//! neither a thread of the network nor one of the disk, and memory that it let go of is
//! what the next one on the thread takes.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::sync::oneshot;

/// Stack of each: the deepest recursion that a script's limits allow needs a part of it.
const STACK: usize = 8 << 20;

type Work = Box<dyn FnOnce() + Send>;

/// Threads that wait for work; they end when the last of these is dropped.
#[derive(Clone)]
pub struct Workers {
    work: mpsc::Sender<Work>,
}

impl Workers {
    /// So many threads, or as many of them as the system gives.
    pub fn new(count: usize) -> Self {
        let (work, waiting) = mpsc::channel::<Work>();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..count {
            let waiting = waiting.clone();
            let next = move || {
                let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.recv().ok()
            };
            // Work that panics is the only thing that ends early, see `run`.
            let _ = thread::Builder::new()
                .name("script".to_owned())
                .stack_size(STACK)
                .spawn(move || {
                    while let Some(work) = next() {
                        work();
                    }
                });
        }
        Self { work }
    }

    /// Runs `work` on one of the threads; `None` if it panicked, or there is no thread.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        let guarded = move || {
            let work = std::panic::AssertUnwindSafe(work);
            if let Ok(value) = std::panic::catch_unwind(work) {
                let _ = done.send(value);
            }
        };
        self.work.send(Box::new(guarded)).ok()?;
        result.await.ok()
    }
}

//! Work of one session that waits for a disk, done by one thread at a time.
//!
//! With many small things under way, a thread for each of them would spend its time on waking and
//! being woken. Here a thread that is already running takes along what came meanwhile, and does it
//! in order.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::{
    sync::{Semaphore, oneshot},
    task,
};

use crate::{
    error::{Code, Error},
    store::batch::BatchQueue,
};

type Work = Box<dyn FnOnce() + Send>;

/// Long work of one session that runs at the same time: however much a contact asks for, it leaves
/// the disk threads to others.
const LONG: usize = 2;

/// The queue of one session. Clones are the same one.
#[derive(Clone)]
pub struct DiskQueue {
    work: BatchQueue<(), Work>,
    long: Arc<Semaphore>,
}

impl Default for DiskQueue {
    fn default() -> Self {
        Self {
            work: BatchQueue::default(),
            long: Arc::new(Semaphore::new(LONG)),
        }
    }
}

impl DiskQueue {
    /// Does work that waits for a disk where waiting holds nobody up.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        let work: Work = Box::new(move || {
            let _ = done.send(work());
        });
        if self.work.submit(&(), work) {
            let this = self.clone();
            task::spawn_blocking(move || this.lead());
        }
        result.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Does work that may take as long as it takes to read a large file, so that nothing
    /// else of the session waits for it.
    pub async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _turn = self.long.acquire().await.map_err(|_| lost())?;
        task::spawn_blocking(work)
            .await
            .unwrap_or_else(|_| Err(lost()))
    }

    fn lead(&self) {
        while let Some(waiting) = self.work.next_batch(&(), usize::MAX) {
            for work in waiting {
                // If work panics, its future learns that from its channel.
                let _ = catch_unwind(AssertUnwindSafe(work));
            }
        }
    }
}

fn lost() -> Error {
    Error::new(Code::Failed, "the server failed, try later")
}

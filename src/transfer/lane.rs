//! Work of one session that waits for a disk, done by one thread at a time.
//!
//! With many small files under way, a thread for each piece of work would spend its time
//! on waking and being woken. Here whoever comes while another one's work is done leaves
//! its own in a queue, and the thread takes all of that in one go. What it has to look up
//! for that, it looks up once for all, and again after a moment.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, oneshot},
    task,
};

use crate::{
    error::{Code, Error},
    hooks::Pinned,
    root::{config::Config, folder::Folder},
    store::{Store, batch::BatchQueue},
};

/// How old what was looked up may be: less than a person needs to save a file and send
/// another one.
const FRESH: Duration = Duration::from_millis(10);

/// A folder as it is now, for transfers that begin.
#[derive(Clone)]
pub struct Place {
    /// The folder.
    pub folder: Folder,
    /// Its m2y.config.
    pub config: Arc<Config>,
    /// Its scripts.
    pub pinned: Pinned,
    /// Where contents go.
    pub store: Arc<dyn Store>,
    /// Bytes that fit there, if that can be told.
    pub room: Option<u64>,
}

/// What was looked up for the work that is done in one go, by the names of folders.
pub type Places = HashMap<String, Result<Place, Error>>;

type Work = Box<dyn FnOnce(&mut Places) + Send>;

/// Places, and since when they are known.
type Known = Option<(Instant, Places)>;

/// Work of one session that takes long which goes on at the same time: however much a
/// contact asks for, it leaves the threads of the disk to others.
const LONG: usize = 2;

/// The queue of one session. Copies of it are the same one.
#[derive(Clone)]
pub struct Lane {
    work: BatchQueue<(), Work>,
    known: Arc<Mutex<Known>>,
    crowd: Arc<AtomicBool>,
    long: Arc<Semaphore>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            work: BatchQueue::default(),
            known: Arc::default(),
            crowd: Arc::default(),
            long: Arc::new(Semaphore::new(LONG)),
        }
    }
}

impl Lane {
    /// From now on there are many transfers under way.
    pub fn is_a_crowd(&self) {
        self.crowd.store(true, Ordering::Relaxed);
    }

    /// Whether there are.
    pub fn crowd(&self) -> bool {
        self.crowd.load(Ordering::Relaxed)
    }

    /// Nothing is under way: a session that only waits holds no folder open.
    pub fn rest(&self) {
        *self.known() = None;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does work that waits for a disk where waiting holds nobody up.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Places) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = oneshot::channel();
        let work: Work = Box::new(move |places| {
            let _ = done.send(work(places));
        });
        if self.work.submit(&(), work) {
            let this = self.clone();
            task::spawn_blocking(move || this.lead());
        }
        let lost = || Error::new(Code::Failed, "the server failed, try later");
        result.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Does work that may take as long as it takes to read a large file, so that nothing
    /// else of the session waits for it.
    pub async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let lost = || Error::new(Code::Failed, "the server failed, try later");
        let _turn = self.long.acquire().await.map_err(|_| lost())?;
        task::spawn_blocking(work)
            .await
            .unwrap_or_else(|_| Err(lost()))
    }

    fn lead(&self) {
        while let Some(waiting) = self.work.next_batch(&(), usize::MAX) {
            let mut known = self.known();
            let _ = known.take_if(|(since, _)| since.elapsed() >= FRESH);
            let (_, places) = known.get_or_insert_with(|| (Instant::now(), Places::new()));
            for work in waiting {
                // Who waits for work that panics is told by its channel.
                let _ = catch_unwind(AssertUnwindSafe(|| work(places)));
            }
        }
    }
}

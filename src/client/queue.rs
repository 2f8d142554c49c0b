//! The queue of a route: files that are open and wait for one of its sessions.
//!
//! The code that opens files adds them at its end, and they are sent from the [`Front`].

use std::{
    borrow::Borrow,
    sync::{Arc, OnceLock},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Route, deliver_all};
use crate::{
    error::Error,
    observer::Observer,
    session::asker::{Jobs, Sent},
    transfer::send::send_job::SendJob,
};

/// An open file, and what its opener knows it by.
pub struct QueuedFile<T> {
    /// The file.
    pub out: SendJob,
    /// What it is known by.
    pub known: T,
    /// Lets it be open.
    pub permit: OwnedSemaphorePermit,
}

impl<T> Borrow<SendJob> for QueuedFile<T> {
    fn borrow(&self) -> &SendJob {
        &self.out
    }
}

/// What became of a file.
pub enum Delivery<T> {
    /// It was sent, or failed.
    Over(Sent<QueuedFile<T>>),
    /// It was not begun, because nothing reaches its receiver.
    Left(QueuedFile<T>, Error),
}

/// Takes files for a route.
pub struct Queue<T> {
    jobs: mpsc::Sender<QueuedFile<T>>,
    dead: Arc<OnceLock<Error>>,
}

/// Where the files of a queue are sent.
pub struct Front<T> {
    jobs: Jobs<QueuedFile<T>>,
    dead: Arc<OnceLock<Error>>,
}

impl<T> Queue<T> {
    /// A queue with room for this many.
    pub fn new(room: usize) -> (Self, Front<T>) {
        let (give, jobs) = mpsc::channel(room);
        let dead = Arc::new(OnceLock::new());
        let queue = Self {
            jobs: give,
            dead: dead.clone(),
        };
        (queue, Front { jobs, dead })
    }

    /// Why nothing of it is sent any longer.
    pub fn dead(&self) -> Option<&Error> {
        self.dead.get()
    }

    /// Hands over a file, once there is room. It comes back if nothing is sent any longer.
    pub async fn give(&self, job: QueuedFile<T>) -> Result<(), QueuedFile<T>> {
        self.jobs.send(job).await.map_err(|refused| refused.0)
    }
}

impl<T: Send> Front<T> {
    /// Sends all, until the queue is gone or no session can be opened, and reports what became of
    /// each: see [`deliver_all`].
    pub async fn run(
        mut self,
        route: &Route,
        observer: &dyn Observer,
        stop: impl Future<Output = Error> + Send,
        mut tell: impl FnMut(Delivery<T>),
    ) {
        let (results, mut over) = mpsc::unbounded_channel();
        let all = async {
            let results = results;
            deliver_all(route, &mut self.jobs, &results, observer, stop).await
        };
        let told = async {
            while let Some(sent) = over.recv().await {
                tell(Delivery::Over(sent));
            }
        };
        let (ended, ()) = tokio::join!(all, told);
        if let Err(error) = ended {
            self.leave(&error, tell).await;
        }
    }

    /// Sends nothing more.
    pub async fn leave(mut self, error: &Error, mut tell: impl FnMut(Delivery<T>)) {
        let _ = self.dead.set(error.clone());
        self.jobs.close();
        while let Some(job) = self.jobs.recv().await {
            tell(Delivery::Left(job, error.clone()));
        }
    }
}

//! How many hooks run at once, so that none takes the machine away from a transfer.
//!
//! Scripts work, so there are few slots for each core, and no user's scripts take more
//! than half of them. Programs mostly wait, so there are more of those. Whoever finds no
//! slot waits outside the deadline of the hook, and not for ever.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::root::name::Name;

/// How long a hook waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// Programs of one user, and of all.
const PROGRAMS: (usize, usize) = (16, 64);

/// The slots of a server.
#[derive(Clone)]
pub struct Slots {
    /// For scripts.
    pub scripts: Shares,
    /// For programs.
    pub programs: Shares,
}

impl Default for Slots {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let (of_one, of_all) = PROGRAMS;
        Self {
            scripts: Shares::new(cores, cores * 2),
            programs: Shares::new(of_one, of_all),
        }
    }
}

/// Slots of one kind.
#[derive(Clone)]
pub struct Shares {
    of_all: Arc<Semaphore>,
    count: usize,
    of_one: usize,
    users: Arc<Mutex<HashMap<Name, Arc<Semaphore>>>>,
}

/// A slot, until it is dropped.
pub struct Slot {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Shares {
    fn new(of_one: usize, of_all: usize) -> Self {
        Self {
            of_all: Arc::new(Semaphore::new(of_all)),
            count: of_all,
            of_one,
            users: Arc::default(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Waits for a slot; `None` if there was none for too long.
    pub async fn take(&self, user: &Name) -> Option<Slot> {
        let of_user = self
            .users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(user.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(self.of_one)))
            .clone();
        let both = async {
            // In this order, a user who waits for his own share keeps nobody else waiting.
            let of_one = of_user.acquire_owned().await.ok()?;
            let of_all = self.of_all.clone().acquire_owned().await.ok()?;
            Some(Slot {
                _of_one: of_one,
                _of_all: of_all,
            })
        };
        timeout(PATIENCE, both).await.ok().flatten()
    }
}

//! How many programs and long scripts run at once, so that none takes the machine away
//! from a transfer.
//!
//! Programs mostly wait, and long scripts have a low priority, so there are many slots for each; no
//! user has all. A hook that finds no slot waits outside its deadline, and not forever.

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
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Programs of one user, and of all.
const PROGRAMS: (usize, usize) = (16, 64);

/// Long scripts of one user, and of all.
const LONG: (usize, usize) = (96, 192);

/// The slots of a server.
#[derive(Clone)]
pub struct Slots {
    /// For scripts that have worked for long.
    pub long: Shares,
    /// For programs.
    pub programs: Shares,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            long: Shares::new(LONG),
            programs: Shares::new(PROGRAMS),
        }
    }
}

/// Slots of one kind.
#[derive(Clone)]
pub struct Shares {
    of_all: Arc<Semaphore>,
    of_one: usize,
    users: Arc<Mutex<HashMap<Name, Arc<Semaphore>>>>,
}

/// A slot, until it is dropped.
pub struct Slot {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Shares {
    fn new((of_one, of_all): (usize, usize)) -> Self {
        Self {
            of_all: Arc::new(Semaphore::new(of_all)),
            of_one,
            users: Arc::default(),
        }
    }

    fn of_user(&self, user: &Name) -> Arc<Semaphore> {
        self.users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(user.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(self.of_one)))
            .clone()
    }

    /// A slot, if one is free.
    pub fn try_take(&self, user: &Name) -> Option<Slot> {
        Some(Slot {
            _of_one: self.of_user(user).try_acquire_owned().ok()?,
            _of_all: self.of_all.clone().try_acquire_owned().ok()?,
        })
    }

    /// Waits for a slot; `None` if there was none for too long.
    pub async fn take(&self, user: &Name) -> Option<Slot> {
        let of_user = self.of_user(user);
        let both = async {
            // In this order, a user who waits for their own share keeps nobody else waiting.
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

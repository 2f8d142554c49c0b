//! Tasks in lease: each is worked on by one at a time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::journal::Task;

/// Tasks that are being worked on; nobody else takes them.
#[derive(Clone, Default)]
pub struct Leases(Arc<Mutex<HashSet<(String, String, u32)>>>);

/// A task in lease, until it is dropped.
pub struct Lease {
    tasks: Leases,
    task: (String, String, u32),
}

impl Leases {
    /// Takes a task; `None` if it is leased already.
    pub fn take(&self, task: &Task) -> Option<Lease> {
        let task = (task.id.clone(), task.kind.clone(), task.part);
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.insert(task.clone()).then(|| Lease {
            tasks: self.clone(),
            task,
        })
    }

    /// How many are leased.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut tasks = self.tasks.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.remove(&self.task);
    }
}

//! Tasks in hand: each is worked on by one at a time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::journal::Task;

/// Tasks that somebody works on; nobody else takes them.
#[derive(Clone, Default)]
pub struct InHand(Arc<Mutex<HashSet<(String, String, u32)>>>);

/// A task in hand, until it is dropped.
pub struct Hand {
    tasks: InHand,
    task: (String, String, u32),
}

impl InHand {
    /// Takes a task; `None` if it is in another hand.
    pub fn take(&self, task: &Task) -> Option<Hand> {
        let task = (task.id.clone(), task.kind.clone(), task.part);
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.insert(task.clone()).then(|| Hand {
            tasks: self.clone(),
            task,
        })
    }

    /// How many are in hand.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut tasks = self.tasks.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.remove(&self.task);
    }
}

//! Batching with a leader and followers: the first one to submit work does it, along with what
//! others submit meanwhile.
//!
//! A lone caller waits for nobody. With hundreds at a time, one thread does in one go what would
//! cost each of them a thread, a flush and a lookup.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Waiting work, grouped by what can be done together. Clones share one queue.
pub struct BatchQueue<K, T>(Arc<Mutex<HashMap<K, Vec<T>>>>);

impl<K, T> Clone for BatchQueue<K, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, T> Default for BatchQueue<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone, T> BatchQueue<K, T> {
    /// Submits work. `true` makes the caller the leader: it has to take batches by
    /// [`Self::next_batch`] until there are no more. `false` means that a leader is already at
    /// work.
    #[must_use]
    pub fn submit(&self, key: &K, work: T) -> bool {
        let mut queues = self.lock();
        let leads = !queues.contains_key(key);
        queues.entry(key.clone()).or_default().push(work);
        leads
    }

    /// What was submitted since the last batch, at most `most` pieces. After `None` the caller no
    /// longer leads: the next one to submit does.
    pub fn next_batch(&self, key: &K, most: usize) -> Option<Vec<T>> {
        let mut queues = self.lock();
        let waiting = queues.get_mut(key)?;
        if waiting.is_empty() {
            queues.remove(key);
            return None;
        }
        Some(waiting.drain(..waiting.len().min(most)).collect())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Vec<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_leads_until_a_batch_is_empty() {
        let queue = BatchQueue::default();
        assert!(queue.submit(&"a", 1));
        assert!(!queue.submit(&"a", 2) && queue.submit(&"b", 3));
        assert_eq!(queue.next_batch(&"a", 1), Some(vec![1]));
        assert!(!queue.submit(&"a", 4));
        assert_eq!(queue.next_batch(&"a", 9), Some(vec![2, 4]));
        assert!(!queue.submit(&"a", 5));
        assert_eq!(queue.next_batch(&"a", 9), Some(vec![5]));
        assert_eq!(queue.next_batch(&"a", 9), None);
        assert!(queue.submit(&"a", 6));
    }
}

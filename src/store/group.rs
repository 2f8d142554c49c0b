//! Work that is done for many at once: whoever comes first does it, and takes along what
//! others bring meanwhile. With one at a time nobody waits for anybody; with hundreds, one
//! thread does for all what would cost each a thread, a flush, a lookup.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What waits, by what can be done together. Copies of it are the same one.
pub struct Groups<K, T>(Arc<Mutex<HashMap<K, Vec<T>>>>);

impl<K, T> Clone for Groups<K, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, T> Default for Groups<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone, T> Groups<K, T> {
    /// Brings a piece of work. `true` for who has to do it, by [`Self::next`] until that
    /// has no more; for all others somebody else is at it.
    #[must_use]
    pub fn bring(&self, key: &K, work: T) -> bool {
        let mut groups = self.lock();
        let leads = !groups.contains_key(key);
        groups.entry(key.clone()).or_default().push(work);
        leads
    }

    /// What has come since the last time, at most so much; `None` when nothing has, and
    /// then the next one who comes has to do it.
    pub fn next(&self, key: &K, most: usize) -> Option<Vec<T>> {
        let mut groups = self.lock();
        let waiting = groups.get_mut(key)?;
        if waiting.is_empty() {
            groups.remove(key);
            return None;
        }
        Some(waiting.drain(..waiting.len().min(most)).collect())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Vec<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

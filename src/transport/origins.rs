//! How many connections each host has.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::Peer;

/// Counts connections of each host, up to a limit.
#[derive(Clone)]
pub struct Origins {
    most: usize,
    counts: Arc<Mutex<HashMap<Peer, usize>>>,
}

impl Origins {
    /// At most this many for one host.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            counts: Arc::default(),
        }
    }

    /// Counts a connection; `None` if there are too many.
    pub fn count(&self, peer: &Peer) -> Option<Counted> {
        let origin = peer.origin();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(origin.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Counted {
            origin,
            origins: self.clone(),
        })
    }
}

/// A connection that counts until this is dropped.
pub struct Counted {
    origin: Peer,
    origins: Origins,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let counts = &self.origins.counts;
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.origin);
            }
        }
    }
}

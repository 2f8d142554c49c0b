//! How many connections there may be, in all and from one host.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Peer;

/// Counts connections, or what else peers take room with. Clones count together.
#[derive(Clone)]
pub struct Admission {
    all: Arc<Semaphore>,
    most: usize,
    each: usize,
    origins: Arc<Mutex<HashMap<Peer, usize>>>,
}

impl Admission {
    /// At most so many in all, and so many of one [origin](Peer::origin).
    pub fn new(all: usize, each: usize) -> Self {
        let most = all.min(Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(most)),
            most,
            each,
            origins: Arc::default(),
        }
    }

    /// Counts one more; `None` if there are too many.
    pub fn admit(&self, peer: &Peer) -> Option<Admitted> {
        let permit = self.all.clone().try_acquire_owned().ok()?;
        let origin = peer.origin();
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let count = origins.entry(origin.clone()).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Admitted {
            origin,
            origins: self.origins.clone(),
            _permit: permit,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.most.saturating_sub(self.all.available_permits())
    }
}

/// Counts until it is dropped.
pub struct Admitted {
    origin: Peer,
    origins: Arc<Mutex<HashMap<Peer, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = origins.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                origins.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_its_share_and_what_is_dropped_makes_room() {
        let admission = Admission::new(3, 2);
        let peer = |text: &str| Peer::Ip(text.parse().unwrap());
        let first = admission.admit(&peer("192.0.2.1:1")).unwrap();
        let _second = admission.admit(&peer("192.0.2.1:2")).unwrap();
        assert!(admission.admit(&peer("192.0.2.1:3")).is_none());
        let _third = admission.admit(&peer("192.0.2.2:1")).unwrap();
        assert!(admission.admit(&peer("192.0.2.3:1")).is_none(), "full");
        assert_eq!(admission.count(), 3);
        drop(first);
        assert!(admission.admit(&peer("192.0.2.1:4")).is_some());
    }
}

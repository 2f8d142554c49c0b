//! How many connections there may be, in all and from one host.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Peer;

/// Counts connections, or what else peers take room with. Clones count together.
#[derive(Clone)]
pub struct Admission(Arc<Mutex<Inner>>);

struct Inner {
    most: usize,
    each: usize,
    all: usize,
    origins: HashMap<Peer, usize>,
}

impl Admission {
    /// At most so many in all, and so many of one [origin](Peer::origin).
    pub fn new(all: usize, each: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            most: all,
            each,
            all: 0,
            origins: HashMap::new(),
        })))
    }

    /// Changes how many there may be. Those that are there stay.
    pub fn limit(&self, all: usize, each: usize) {
        let mut inner = self.lock();
        (inner.most, inner.each) = (all, each);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more; `None` if there are too many.
    pub fn admit(&self, peer: &Peer) -> Option<Admitted> {
        let mut inner = self.lock();
        if inner.all >= inner.most {
            return None;
        }
        let (origin, each) = (peer.origin(), inner.each);
        let of_origin = inner.origins.get(&origin).copied().unwrap_or_default();
        if of_origin >= each {
            return None;
        }
        inner.origins.insert(origin.clone(), of_origin + 1);
        inner.all += 1;
        Some(Admitted {
            origin,
            of: self.clone(),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().all
    }
}

/// Counts until it is dropped.
pub struct Admitted {
    origin: Peer,
    of: Admission,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut inner = self.of.lock();
        inner.all = inner.all.saturating_sub(1);
        if let Some(count) = inner.origins.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                inner.origins.remove(&self.origin);
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
        admission.limit(1, 2);
        assert!(admission.admit(&peer("192.0.2.3:1")).is_none(), "fewer now");
        assert_eq!(admission.count(), 2, "those that are there stay");
    }
}

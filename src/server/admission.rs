//! How many connections there may be.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{root::settings::Settings, transport::Peer};

/// Counts connections, in all and for one address.
pub struct Admission {
    all: Arc<Semaphore>,
    each: usize,
    origins: Arc<Mutex<HashMap<Peer, usize>>>,
}

impl Admission {
    /// The caps of `settings`.
    pub fn new(settings: &Settings) -> Self {
        Self {
            all: Arc::new(Semaphore::new(
                settings.max_connections.min(Semaphore::MAX_PERMITS),
            )),
            each: settings.max_per_address,
            origins: Arc::default(),
        }
    }

    /// Counts a connection; `None` if there are too many.
    pub fn admit(&self, peer: &Peer) -> Option<Admitted> {
        let origin = peer.origin();
        let permit = self.all.clone().try_acquire_owned().ok()?;
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
}

/// A connection that counts until this is dropped.
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

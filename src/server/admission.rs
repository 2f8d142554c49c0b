//! How many connections there may be.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    root::settings::Settings,
    transport::{
        Peer,
        origins::{Counted, Origins},
    },
};

/// Counts connections, in all and for one address.
pub struct Admission {
    all: Arc<Semaphore>,
    origins: Origins,
}

impl Admission {
    /// The caps of `settings`.
    pub fn new(settings: &Settings) -> Self {
        Self {
            all: Arc::new(Semaphore::new(
                settings.max_connections.min(Semaphore::MAX_PERMITS),
            )),
            origins: Origins::new(settings.max_per_address),
        }
    }

    /// Counts a connection; `None` if there are too many.
    pub fn admit(&self, peer: &Peer) -> Option<Admitted> {
        let permit = self.all.clone().try_acquire_owned().ok()?;
        Some(Admitted {
            _counted: self.origins.count(peer)?,
            _permit: permit,
        })
    }
}

/// A connection that counts until this is dropped.
pub struct Admitted {
    _counted: Counted,
    _permit: OwnedSemaphorePermit,
}

//! How many connections there may be.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::root::settings::Settings;

/// Counts connections, in all and for one address.
pub struct Admission {
    all: Arc<Semaphore>,
    each: usize,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Admission {
    /// The caps of `settings`.
    pub fn new(settings: &Settings) -> Self {
        Self {
            all: Arc::new(Semaphore::new(
                settings.max_connections.min(Semaphore::MAX_PERMITS),
            )),
            each: settings.max_per_address,
            addresses: Arc::default(),
        }
    }

    /// Counts a connection; `None` if there are too many.
    pub fn admit(&self, address: IpAddr) -> Option<Admitted> {
        let address = network(address);
        let permit = self.all.clone().try_acquire_owned().ok()?;
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = addresses.entry(address).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Admitted {
            address,
            addresses: self.addresses.clone(),
            _permit: permit,
        })
    }
}

/// A connection that counts until this is dropped.
pub struct Admitted {
    address: IpAddr,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: with IPv6 a host has a whole /64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

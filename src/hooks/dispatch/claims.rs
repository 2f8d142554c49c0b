//! Which files decisions are changing right now: nobody else changes the same ones meanwhile.

use std::{
    collections::HashSet,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use crate::{
    hooks::transaction::files::Place,
    root::{name::Name, user::User},
};

/// Files that a decision is changing right now.
#[derive(Clone, Default)]
pub struct Claims(Arc<Shared>);

#[derive(Default)]
struct Shared {
    claimed: Mutex<HashSet<(Name, Place)>>,
    freed: Condvar,
}

/// A claim, until it is dropped.
pub struct Claim {
    claims: Claims,
    places: Vec<(Name, Place)>,
}

impl Claims {
    /// Waits until nobody else changes these files.
    pub fn claim(&self, user: &User, places: Vec<Place>) -> Claim {
        let of = |place: Place| (user.name().clone(), place);
        let places: Vec<_> = places.into_iter().map(of).collect();
        let Shared { claimed, freed } = &*self.0;
        let mut claimed = claimed.lock().unwrap_or_else(PoisonError::into_inner);
        while places.iter().any(|place| claimed.contains(place)) {
            claimed = freed.wait(claimed).unwrap_or_else(PoisonError::into_inner);
        }
        claimed.extend(places.iter().cloned());
        Claim {
            claims: self.clone(),
            places,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Shared { claimed, freed } = &*self.claims.0;
        let mut claimed = claimed.lock().unwrap_or_else(PoisonError::into_inner);
        for place in &self.places {
            claimed.remove(place);
        }
        freed.notify_all();
    }
}

//! Who decides when: the events of a user side by side, until one of them has begun again too
//! often because others were faster; then that one alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::root::name::Name;

/// Users whose turns are remembered.
const MAX_USERS: usize = 4_096;

/// The turns of all users. Clones are the same one.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<Name, Turn>>>);

/// The turn of a user: taken for reading by an event that decides, for writing by one that runs
/// again alone.
pub type Turn = Arc<RwLock<()>>;

impl Turns {
    /// The turn of a user.
    pub fn of(&self, user: &Name) -> Turn {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= MAX_USERS && !turns.contains_key(user) {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        turns.entry(user.clone()).or_default().clone()
    }
}

//! What a script does besides deciding: at once, or after the verdict.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use rhai::EvalAltResult;

use super::fail;
use crate::event::Effect;

/// Effects that one run of a script may ask for.
const MAX_EFFECTS: usize = 32;

/// The deeds of one run of a script. Copies of it are the same list.
#[derive(Clone)]
pub struct Deeds {
    live: bool,
    queued: Arc<Mutex<Vec<Effect>>>,
    spared: Arc<Mutex<Vec<String>>>,
}

impl Deeds {
    /// An empty list. Where a run is not `live`, nothing is done, and what would have
    /// been is written down.
    pub fn new(live: bool) -> Self {
        Self {
            live,
            queued: Arc::default(),
            spared: Arc::default(),
        }
    }

    /// Asks for something that is done after the verdict.
    pub fn queue(&self, effect: Effect) -> Result<(), Box<EvalAltResult>> {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        if queued.len() >= MAX_EFFECTS {
            let sentence = format!("a script can send at most {MAX_EFFECTS} things in one run");
            return Err(fail(sentence));
        }
        queued.push(effect);
        Ok(())
    }

    /// Does something at once; where the run is not live, returns `otherwise` and writes
    /// down `what`, a call as it would stand in a script.
    pub fn act<T>(
        &self,
        what: impl FnOnce() -> String,
        otherwise: T,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if self.live {
            return act();
        }
        let mut spared = self.spared.lock().unwrap_or_else(PoisonError::into_inner);
        if spared.len() < MAX_EFFECTS {
            spared.push(what());
        }
        Ok(otherwise)
    }

    /// What was asked for, and what would have been done.
    pub fn take(&self) -> (Vec<Effect>, Vec<String>) {
        let take = |list: &Mutex<Vec<_>>| {
            std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner))
        };
        let queued =
            std::mem::take(&mut *self.queued.lock().unwrap_or_else(PoisonError::into_inner));
        (queued, take(&self.spared))
    }
}

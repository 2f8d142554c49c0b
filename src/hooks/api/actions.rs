//! What a script does besides deciding: at once, or after the verdict.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhai::EvalAltResult;

use super::function::fail;
use crate::{event::Effect, hooks::inbox::Inboxes, root::name::Name, store::Stores};

/// Effects that one run of a script may ask for.
const MAX_EFFECTS: usize = 32;

/// Files that one run of a script may change.
const MAX_TOUCHED: usize = 1_024;

/// A file that a script changed: what m2y does itself is no event of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The folder of the file, one of the user's.
    pub folder: Name,
    /// The name of the file.
    pub name: String,
    /// What was done to it.
    pub how: Touch,
}

/// What a script did to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touch {
    /// It is new, or has new contents.
    Written,
    /// It is gone.
    Removed,
    /// It has another name, or is in another folder, from now on.
    Renamed {
        /// The folder where it is now.
        folder: Name,
        /// The name that it has now.
        name: String,
    },
}

/// The actions of one run of a script. Copies of it are the same list.
#[derive(Clone)]
pub struct Actions {
    live: bool,
    inboxes: Inboxes,
    stores: Stores,
    queued: Arc<Mutex<Vec<Effect>>>,
    spared: Arc<Mutex<Vec<String>>>,
    touched: Arc<Mutex<Vec<Touched>>>,
}

impl Actions {
    /// An empty list. Where a run is not `live`, nothing is done, and what would have
    /// been is written down.
    pub fn new(live: bool, inboxes: &Inboxes, stores: &Stores) -> Self {
        Self {
            live,
            inboxes: inboxes.clone(),
            stores: stores.clone(),
            queued: Arc::default(),
            spared: Arc::default(),
            touched: Arc::default(),
        }
    }

    /// Whether what changes something is done, or only written down.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Where notices go.
    pub(super) fn inboxes(&self) -> &Inboxes {
        &self.inboxes
    }

    /// Where contents rest.
    pub(super) fn stores(&self) -> &Stores {
        &self.stores
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
    pub fn act<T, E>(
        &self,
        what: impl FnOnce() -> String,
        otherwise: T,
        act: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        if self.live {
            return act();
        }
        let mut spared = self.spared.lock().unwrap_or_else(PoisonError::into_inner);
        if spared.len() < MAX_EFFECTS {
            spared.push(what());
        }
        Ok(otherwise)
    }

    /// Whether one more file may be changed; asked before it is.
    pub fn may_touch(&self) -> Result<(), Box<EvalAltResult>> {
        if self.touched().len() < MAX_TOUCHED {
            return Ok(());
        }
        let sentence = format!("a script can change at most {MAX_TOUCHED} files in one run");
        Err(fail(sentence))
    }

    /// Remembers a file that was changed.
    pub fn touch(&self, touched: Touched) {
        self.touched().push(touched);
    }

    /// Takes the list of the files that were changed, in the order of the changes.
    pub fn take_touched(&self) -> Vec<Touched> {
        std::mem::take(&mut *self.touched())
    }

    fn touched(&self) -> MutexGuard<'_, Vec<Touched>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
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

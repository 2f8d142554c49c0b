//! What a script does besides deciding: all of it after the decision of the event.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhai::EvalAltResult;

use super::function::fail;
use crate::{
    event::Effect,
    hooks::transaction::{Asked, Transaction},
    root::name::Name,
    store::Stores,
};

/// Effects that one run of a script may ask for.
const MAX_EFFECTS: usize = 32;

/// Files that one run of a script may change.
const MAX_TOUCHED: usize = 1_024;

/// A file that a script changed: what m2y does itself is not an event of the folder.
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
    /// It has a different name, or is in a different folder, from now on.
    Renamed {
        /// The folder where it is now.
        folder: Name,
        /// The name that it has now.
        name: String,
    },
}

/// The actions of one run of a script. Clones share one list.
#[derive(Clone)]
pub struct Actions {
    transaction: Transaction,
    run: Arc<Mutex<OfRun>>,
}

/// What one run has done.
#[derive(Default)]
struct OfRun {
    effects: usize,
    touched: Vec<Touched>,
    /// What it asked for, as calls of a script; `None` if nobody wants to know.
    calls: Option<Vec<String>>,
}

impl Actions {
    /// An empty list, of a run that belongs to a transaction. `told` says whether what the run asks
    /// for is to be recorded as calls.
    pub fn new(transaction: &Transaction, told: bool) -> Self {
        let run = OfRun {
            calls: told.then(Vec::new),
            ..OfRun::default()
        };
        Self {
            transaction: transaction.clone(),
            run: Arc::new(Mutex::new(run)),
        }
    }

    /// Where contents are stored.
    pub(super) fn stores(&self) -> Stores {
        self.transaction().files.stores().clone()
    }

    /// What the scripts of the event have asked for.
    pub(super) fn transaction(&self) -> MutexGuard<'_, Asked> {
        self.transaction.lock()
    }

    fn run(&self) -> MutexGuard<'_, OfRun> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for something that is done after the verdict.
    pub fn queue(&self, effect: Effect) -> Result<(), Box<EvalAltResult>> {
        let mut run = self.run();
        if run.effects >= MAX_EFFECTS {
            let sentence = format!("a script can send at most {MAX_EFFECTS} things in one run");
            return Err(fail(sentence));
        }
        run.effects += 1;
        self.transaction().queue(effect);
        Ok(())
    }

    /// Records what was asked for, as a call would be written in a script.
    pub fn note(&self, call: impl FnOnce() -> String) {
        if let Some(calls) = &mut self.run().calls
            && calls.len() < MAX_EFFECTS
        {
            calls.push(call());
        }
    }

    /// Whether one more file may be changed; asked before it is.
    pub fn may_touch(&self) -> Result<(), Box<EvalAltResult>> {
        if self.run().touched.len() < MAX_TOUCHED {
            return Ok(());
        }
        let sentence = format!("a script can change at most {MAX_TOUCHED} files in one run");
        Err(fail(sentence))
    }

    /// Remembers a file that was changed.
    pub fn touch(&self, touched: Touched) {
        self.run().touched.push(touched);
    }

    /// Takes the list of the files that were changed, in the order of the changes.
    pub fn take_touched(&self) -> Vec<Touched> {
        std::mem::take(&mut self.run().touched)
    }

    /// What was asked for, as calls of a script.
    pub fn take_calls(&self) -> Vec<String> {
        self.run().calls.take().unwrap_or_default()
    }
}

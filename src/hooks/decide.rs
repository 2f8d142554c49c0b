//! The decision about an event, and everything that its scripts asked for, take effect together.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{
    api::state::State,
    change::Change,
    pinned::Pinned,
    redo::{Changer, Pass},
    transaction::Changes,
};
use crate::{
    event::{EventId, Kind, Verdict},
    journal::{Task, delivered::Key},
    meta::{Meta, PENDING_PUT},
    root::{config::Config, folder::Folder, user::User},
};

/// What the journal identifies an event by.
#[derive(Clone)]
pub struct Record {
    /// The folder that it is about.
    pub folder: Folder,
    /// Which event.
    pub kind: Kind,
    /// Its id.
    pub id: EventId,
    /// The event as a task.
    pub task: Task,
    /// What stands for it in the journal until it is decided.
    pub stands: Stands,
    /// What its scripts are told of the folder, and which they are.
    pub rules: Rules,
}

/// The rules by which an event is decided: the m2y.config and the scripts, as they were when
/// its transfer began.
#[derive(Clone)]
pub struct Rules {
    /// What m2y.config says.
    pub config: Arc<Config>,
    /// The scripts.
    pub pinned: Pinned,
}

impl Rules {
    /// A digest of them and of what a sender asks: what is decided about the same by the same
    /// rules need not be decided again.
    pub fn basis(&self, asked: &Meta) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut add = |text: &[u8]| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        add(self.config.to_string().as_bytes());
        for text in self.pinned.texts() {
            add(text.as_bytes());
        }
        // When the sender asks, and where the file would go, is not part of what is asked.
        let mut asked = asked.clone();
        asked.datetime.clear();
        asked.extra.remove(PENDING_PUT);
        add(&asked.to_file());
        hash.finalize().into()
    }
}

/// What stands for an event in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stands {
    /// Nothing: whatever asked asks again.
    Nothing,
    /// A task.
    Task,
    /// A transfer whose hooks still have to run.
    Transfer(Key),
}

/// Why a decision did not take effect: no part of it did.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// Something that the scripts looked at has changed meanwhile; they are to run again.
    #[error("what the scripts looked at has changed meanwhile")]
    Conflict,
    /// It cannot be recorded.
    #[error("{0}")]
    Failed(String),
}

/// Makes decisions take effect: all of one, or nothing. It may wait for a disk.
pub trait Decide: Send + Sync {
    /// Makes the decision of a verdict take effect, and what its scripts asked for.
    fn decide(
        &self,
        record: Option<&Arc<Record>>,
        verdict: &mut Verdict,
        changes: Changes,
    ) -> Result<(), Undecided>;
}

/// Makes decisions that no journal knows of take effect: in a test of hooks, or in a program that
/// uses the library.
pub struct Unrecorded {
    state: Arc<dyn State>,
    changer: Changer,
}

impl Unrecorded {
    /// Values go to `state`, files are changed by `changer`.
    pub fn new(state: &Arc<dyn State>, changer: &Changer) -> Self {
        Self {
            state: state.clone(),
            changer: changer.clone(),
        }
    }

    /// Makes changes that a user's scripts asked for.
    pub fn make(&self, user: &User, changes: &Changes) -> Result<(), Undecided> {
        let failed = |e: &dyn std::fmt::Display| Undecided::Failed(e.to_string());
        if !changes.values.is_empty() {
            let made = self.state.apply(user.name(), &changes.values);
            if !made.map_err(|e| failed(&e))? {
                return Err(Undecided::Conflict);
            }
        }
        let mut list = changes.files.clone();
        list.extend(told(&changes.inbox));
        let made = self.changer.make(user, &[&list], Pass::First);
        if let Some(error) = made.error {
            return Err(failed(&error));
        }
        self.changer
            .flush(user, list.iter())
            .map_err(|e| failed(&e))
    }
}

impl Decide for Unrecorded {
    fn decide(
        &self,
        _: Option<&Arc<Record>>,
        verdict: &mut Verdict,
        changes: Changes,
    ) -> Result<(), Undecided> {
        let user = verdict.folder.user().clone();
        self.make(&user, &changes)?;
        verdict.effects = changes.effects;
        Ok(())
    }
}

/// Lines for the inbox, as one change.
pub fn told(lines: &[String]) -> Option<Change> {
    (!lines.is_empty()).then(|| Change::Tell(lines.concat()))
}

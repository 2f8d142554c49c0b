//! How each script last ended, for `m2y hook list`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    clock,
    event::Verdict,
    journal::{
        Journal, Pending, Task,
        last_run::{self, LastRun},
    },
};

/// What ran since the last write. It is only shown to people, so the journal gets it a moment
/// later, however often a script runs meanwhile.
#[derive(Clone, Default)]
pub struct LastRuns(Arc<Mutex<HashMap<Script, LastRun>>>);

/// Whose folder, the folder, the event, the script.
type Script = (String, String, String, String);

impl LastRuns {
    /// Remembers how the scripts of events ended.
    pub fn note(&self, fired: &[(&Task, &Verdict)]) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = clock::millis();
        for (task, verdict) in fired {
            for run in &verdict.runs {
                let (verdict, words) = run.outcome.words();
                let script = (
                    task.user.clone(),
                    task.folder.clone(),
                    run.event.section().to_owned(),
                    run.script.clone(),
                );
                let ended = LastRun {
                    time,
                    micros: u64::try_from(run.took.as_micros()).unwrap_or(u64::MAX),
                    verdict: verdict.to_owned(),
                    words: run.error.as_deref().unwrap_or(words).to_owned(),
                };
                last.insert(script, ended);
            }
        }
    }

    /// Records what is new; `None` if nothing is.
    pub fn write(&self, journal: &Journal) -> Option<Pending<()>> {
        let last = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (!last.is_empty()).then(|| {
            journal.quietly(false, move |db| {
                last.iter()
                    .try_for_each(|((user, folder, event, script), run)| {
                        last_run::put(db, [user, folder, event, script], run)
                    })
            })
        })
    }
}

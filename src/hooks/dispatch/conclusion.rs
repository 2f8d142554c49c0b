//! The end of a leased event: what its hooks left in the `.meta` is stored, and then the
//! journal says that the event is done or has to be tried again.

use std::time::Duration;

use tokio::{task, time::sleep};
use tracing::{error, warn};

use super::{Dispatcher, effect::effects_of, lease::Lease, rebuild::moved, record::ToRecord};
use crate::{
    event::{Kind, Verdict},
    journal::{Done, Task, delivered::Key},
    meta::Meta,
    root::deferred_meta::DeferredMeta,
};

/// What is to be written down of a leased event when its hooks have run.
pub struct Owing {
    /// The event.
    pub task: Task,
    /// Its `.meta` before that.
    pub before: Option<Meta>,
    /// The `.meta`, where it waited for the hooks.
    pub deferred: Option<DeferredMeta>,
    /// The transfer that stands for the task in the journal, if one does.
    pub owed: Option<Key>,
    /// How often it was tried before.
    pub attempts: u32,
    /// Nobody else works on it meanwhile.
    pub lease: Lease,
}

impl Owing {
    /// Whether what hooks left of the `.meta` is safe in the folder.
    fn is_recorded(&self) -> bool {
        self.deferred.as_ref().is_none_or(DeferredMeta::is_safe)
    }
}

/// Writes the `.meta` of files whose hooks take long.
pub async fn write_deferred(owing: &[Option<Owing>]) {
    let deferred = owing
        .iter()
        .flatten()
        .filter_map(|one| one.deferred.clone());
    let deferred: Vec<_> = deferred.collect();
    let writing = move || deferred.iter().try_for_each(DeferredMeta::write);
    if let Ok(Err(error)) = task::spawn_blocking(writing).await {
        // It is tried again when the hooks have run.
        warn!("cannot write a .meta: {error}");
    }
}

impl Dispatcher {
    /// Stores what the hooks of leased events wrote into their `.meta`, and writes into the
    /// journal that they are done, or have to be tried again.
    pub(super) async fn conclude(&self, mut over: Vec<(Owing, &mut Verdict)>) {
        let fired: Vec<_> = over.iter().map(|(owing, v)| (&owing.task, &**v)).collect();
        self.last_runs.note(&fired);
        self.record(&mut over).await;
        let (stored, failed): (Vec<_>, Vec<_>) =
            over.into_iter().partition(|(owing, _)| owing.is_recorded());
        for (owing, verdict) in failed {
            tokio::spawn(self.clone().conclude_later(owing, verdict.clone()));
        }
        self.write_down(stored).await;
    }

    /// [`Self::conclude`] of a file whose `.meta` cannot be stored now: it is safe in the
    /// journal, where the next server finds it if this one never can.
    async fn conclude_later(self, owing: Owing, mut verdict: Verdict) {
        let mut over = vec![(owing, &mut verdict)];
        let (mut pause, mut tries) = (Duration::ZERO, 0);
        while !over.iter().all(|(owing, _)| owing.is_recorded()) {
            pause = self.retry.pause(tries).unwrap_or(pause);
            sleep(pause).await;
            tries += 1;
            self.record(&mut over).await;
        }
        self.write_down(over).await;
    }

    /// Stores what hooks wrote into the `.meta` of files that were received.
    async fn record(&self, over: &mut [(Owing, &mut Verdict)]) {
        let received = over
            .iter_mut()
            .filter(|(owing, _)| owing.task.kind == Kind::Received.section())
            .map(|(owing, verdict)| ToRecord {
                before: owing.before.as_ref(),
                deferred: owing.deferred.clone(),
                verdict,
            });
        for stored in self
            .records
            .store_all(self.self_changes(), received.collect())
            .await
        {
            if let Err(error) = stored {
                // The file is delivered all the same.
                error!("cannot store what [OnReceived] wrote into a .meta: {error}");
            }
        }
    }

    /// Writes into the journal how the hooks of leased events ended.
    async fn write_down(&self, over: Vec<(Owing, &mut Verdict)>) {
        let (mut done, mut written, mut leases) = (Vec::new(), Vec::new(), Vec::new());
        for (owing, verdict) in over {
            let Owing {
                task,
                owed,
                attempts,
                lease,
                ..
            } = owing;
            leases.push(lease);
            match verdict.outcome.objection() {
                None => done.push(Done {
                    came: effects_of(&task, &verdict.effects),
                    task,
                    owed,
                }),
                Some(words) => {
                    let why = verdict.runs.last().and_then(|run| run.error.clone());
                    let why = why.unwrap_or_else(|| words.to_owned());
                    // A hook may have renamed the file before another one failed.
                    written.push(self.fail(moved(task, verdict), owed, attempts, why, None));
                }
            }
        }
        if !done.is_empty() {
            written.push(self.journal.done_all(done));
        }
        for written in written {
            if let Err(error) = written.committed().await {
                error!("{error}");
            }
        }
        drop(leases);
    }
}

//! The dispatcher: no event is lost, whatever fails.
//!
//! What has to happen is in the [journal](crate::journal) before it happens, and leaves it when
//! it has happened. What failed is tried again, later each time, until it is given up and waits
//! for a person (`m2y events`). Events of one file happen in their order. What hooks ask
//! for (e-mail, webhooks, files for others) goes the same way after their verdict, so that no
//! service that is down delays a transfer.

mod claims;
mod decider;
mod effect;
mod last_run;
mod lease;
mod plan;
mod rebuild;
mod retry;
mod unflushed;

use std::sync::Arc;

use tokio::{
    sync::watch,
    task::{self},
};
use tracing::error;

use super::{
    Heard, Hooks, Pinned,
    batch::Verdicts,
    decide::{Record, Rules, Stands},
    digests::Digests,
    firing::ToFire,
    notes::Mode,
    received::put_away,
    script_state::JournalState,
    self_changes::SelfChanges,
    services::Services,
    transaction::Changes,
    web::OnRuntime,
};
use crate::{
    delivery::{Client, Mailer, Webhook},
    error::{Code, Error},
    event::{Event, Outcome, Subject, Verdict},
    journal::{
        Journal, JournalError,
        delivered::{Key, Transfer},
    },
    meta::QUARANTINE,
    root::{
        Root,
        config::Config,
        folder::Folder,
        settings::{Retry, Settings, live::Live},
    },
    store::Stores,
};
use decider::Decider;
use effect::Courier;
use last_run::LastRuns;
use lease::{Lease, Leases};
use plan::Plan;
pub use rebuild::{BEFORE, Gone, asked_of, rebuild, task_of, task_of_received};
use rebuild::{key_of, undecided};

/// Fires events, and sees to it that their hooks run.
#[derive(Clone)]
pub struct Dispatcher {
    hooks: Hooks,
    root: Root,
    journal: Journal,
    courier: Courier,
    retry: Live<Retry>,
    /// Shared with webhooks and scripts.
    client: Client,
    leases: Leases,
    last_runs: LastRuns,
    decider: Decider,
}

/// An event that nobody else works on meanwhile.
pub struct LeasedEvent {
    event: Event,
    pinned: Pinned,
    record: Arc<Record>,
    attempts: u32,
    lease: Lease,
}

impl LeasedEvent {
    /// The event.
    pub fn event_mut(&mut self) -> &mut Event {
        &mut self.event
    }

    fn split(self) -> (Leased, ToFire) {
        let Self {
            event,
            pinned,
            mut record,
            attempts,
            lease,
        } = self;
        if record.task.file != event.file {
            // The file was renamed after its event was leased.
            let mut renamed = (*record).clone();
            renamed.task = task_of(&event);
            record = Arc::new(renamed);
        }
        let leased = Leased {
            record: record.clone(),
            attempts,
            lease,
        };
        let record = Some(record);
        (
            leased,
            ToFire {
                record,
                ..ToFire::all(event, pinned)
            },
        )
    }
}

/// What is known of a leased event while its hooks run.
struct Leased {
    record: Arc<Record>,
    attempts: u32,
    lease: Lease,
}

fn record_of(event: &Event, pinned: &Pinned, stands: Stands) -> Arc<Record> {
    Arc::new(Record {
        folder: event.folder.clone(),
        kind: event.kind,
        id: event.id,
        task: task_of(event),
        stands,
        rules: Rules {
            config: event.config.clone(),
            pinned: pinned.clone(),
        },
    })
}

impl Dispatcher {
    /// A dispatcher for a root whose folders keep their contents in themselves.
    pub fn new(root: &Root, settings: &Settings) -> Result<Self, Error> {
        Self::with_stores(root, settings, &Stores::default())
    }

    /// [`Self::new`] for a root whose folders keep their contents in these stores.
    pub fn with_stores(root: &Root, settings: &Settings, stores: &Stores) -> Result<Self, Error> {
        let unusable = |e: JournalError| Error::new(Code::Failed, e.to_string());
        let journal = Journal::open(root).map_err(unusable)?;
        let state = Arc::new(JournalState::new(&journal).map_err(unusable)?);
        let client = Client::new(&settings.webhook, root.path())?;
        let services = Services::new(state).with_web(OnRuntime::here(&client));
        let hooks = Hooks::with_stores(root, settings, &services, stores);
        let decider = Decider::new(&journal, hooks.changer(), stores);
        let mailer = mailer(settings, root)?;
        Ok(Self {
            hooks: hooks.decided_by(Arc::new(decider.clone())),
            root: root.clone(),
            journal,
            courier: Courier {
                root: root.clone(),
                mailer: Live::new(mailer),
                webhook: Webhook::new(&client),
            },
            retry: Live::new(settings.retry),
            client,
            leases: Leases::default(),
            last_runs: LastRuns::default(),
            decider,
        })
    }

    /// Goes on with other settings: for what begins from now on. If they cannot be used, nothing
    /// changes.
    pub fn set(&self, settings: &Settings) -> Result<(), Error> {
        let mailer = mailer(settings, &self.root)?;
        let client = Client::new(&settings.webhook, self.root.path())?;
        self.client.become_like(&client);
        self.courier.mailer.replace(mailer);
        self.retry.replace(settings.retry);
        self.hooks.set(settings);
        Ok(())
    }

    /// Tells `heard` of every hook, whatever it ran for.
    #[must_use]
    pub fn heard(mut self, heard: Heard) -> Self {
        self.hooks = self.hooks.heard(heard);
        self
    }

    /// Digests that scripts need not compute.
    pub fn digests(&self) -> &Digests {
        self.hooks.digests()
    }

    /// Where the contents of folders are stored.
    pub fn stores(&self) -> &Stores {
        self.hooks.stores()
    }

    /// What hooks themselves do to the files of their folders.
    pub fn self_changes(&self) -> &SelfChanges {
        self.hooks.self_changes()
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The scripts of a folder as they are now, for a transfer that begins.
    ///
    /// Reads files, so it belongs on a thread that may block.
    pub fn pin(&self, folder: &Folder, config: &Config) -> Pinned {
        self.hooks.pin(folder, config)
    }

    /// Fires an event that decides about something that does not exist yet; whatever asked asks
    /// again if it fails.
    pub async fn fire(&self, event: Event, pinned: &Pinned) -> Verdict {
        self.fire_only(ToFire::all(event, pinned.clone())).await
    }

    /// [`Self::fire`] for when not all scripts of the section are to run.
    pub async fn fire_only(&self, event: ToFire) -> Verdict {
        self.fire_once(event, &Mode::LIVE).await
    }

    async fn fire_once(&self, mut event: ToFire, mode: &Mode) -> Verdict {
        let record = record_of(&event.event, &event.pinned, Stands::Nothing);
        event.record = Some(record.clone());
        let mut verdict = self.hooks.fire_batch(vec![event], mode).only().await;
        self.conclude_fired(vec![(record, &mut verdict)]).await;
        verdict
    }

    /// [`Self::fire`] for many events of one user, in one hand-over to a thread for scripts if
    /// those are quick. Reports each verdict as soon as it is there, with the index of its event:
    /// none waits for a slow script or a program of another one.
    pub async fn fire_each(
        &self,
        events: Vec<(Event, Pinned)>,
        mut tell: impl FnMut(usize, Verdict),
    ) {
        let (mut records, mut to_fire) = (Vec::new(), Vec::new());
        for (event, pinned) in events {
            let record = record_of(&event, &pinned, Stands::Nothing);
            records.push(record.clone());
            to_fire.push(ToFire {
                record: Some(record),
                ..ToFire::all(event, pinned)
            });
        }
        let mut batch = self.hooks.fire_batch(to_fire, &Mode::LIVE);
        while batch.left() > 0 {
            let mut verdicts = batch.next().await;
            let fired = verdicts.iter_mut().filter_map(|(place, verdict)| {
                let record = records.get(*place)?.clone();
                Some((record, verdict))
            });
            self.conclude_fired(fired.collect()).await;
            for (place, verdict) in verdicts {
                tell(place, verdict);
            }
        }
    }

    /// Remembers how scripts ended, and makes what they asked for take effect.
    async fn conclude_fired(&self, fired: Vec<(Arc<Record>, &mut Verdict)>) {
        let ended: Vec<_> = fired
            .iter()
            .map(|(record, v)| (&record.task, &**v))
            .collect();
        self.last_runs.note(&ended);
        let (mut plans, mut verdicts) = (Vec::new(), Vec::new());
        for (record, verdict) in fired {
            // Nothing stays of what hooks did without coming to a decision, and nobody tries again.
            if !verdict.is_settled && verdict.outcome.failure().is_none() {
                let changes = asked_for(verdict);
                plans.push(Plan::new(Some(&record), verdict, changes, None));
                verdicts.push(verdict);
            }
        }
        if let Err(error) = self.decider.settle(plans).await {
            error!("what hooks asked for is lost: {error}");
            for verdict in verdicts {
                verdict.outcome = Outcome::Later;
            }
        }
    }

    /// Fires an event because a person asks for it, outside any transfer: once, and only what its
    /// hooks ask for is tried again.
    pub async fn fire_by_hand(&self, event: Event, mode: &Mode) -> Verdict {
        let to_fire = ToFire::all(event, Pinned::default());
        let verdict = self.fire_once(to_fire, mode).await;
        // Waited for: the person may look at it next.
        if let Some(noted) = self.last_runs.write(&self.journal)
            && let Err(error) = noted.committed().await
        {
            error!("{error}");
        }
        self.settle_changes().await;
        verdict
    }

    /// Returns when all that hooks changed survives a loss of power.
    pub async fn settle_changes(&self) {
        let decider = self.decider.clone();
        let _ = task::spawn_blocking(move || decider.flush()).await;
    }

    /// Repeats the changes that hooks asked for and that an earlier server did not finish. It
    /// belongs before everything else. It waits for a disk.
    pub fn redo(&self) -> Result<(), JournalError> {
        self.decider.redo(&self.root)
    }

    /// Leases the event of a file that arrives before it happens; `None` if no hook waits for it,
    /// or if it is leased already. The transfer belongs in the journal as one that owes it; then it
    /// happens in [`Self::run_leased`], or when the server starts again.
    pub fn lease(&self, event: Event, pinned: Pinned, transfer: &Key) -> Option<LeasedEvent> {
        if let Some(file) = &event.file {
            self.self_changes()
                .arrives(&event.folder, &event.config, file);
        }
        if event.config.scripts(event.kind.section()).is_empty() {
            return None;
        }
        let record = record_of(&event, &pinned, Stands::Transfer(transfer.clone()));
        let lease = self.leases.take(&record.task)?;
        Some(LeasedEvent {
            event,
            pinned,
            record,
            attempts: 0,
            lease,
        })
    }

    /// Runs the hooks of a file that is stored, although the attempt that brought it failed before
    /// they could run.
    pub fn take_over(&self, transfer: &Transfer) {
        let (key, task) = (transfer.key.clone(), task_of_received(transfer));
        drop(self.journal.take_over(key, task));
    }

    /// Puts a file out of sight if `[OnMeta]` asked for that; no other hook runs.
    pub async fn hide_if_asked(&self, folder: &Folder, subject: &Subject) {
        if !subject.meta.extra.contains_key(QUARANTINE) {
            return;
        }
        let (own, store) = (self.self_changes().clone(), self.stores().of(folder));
        let (folder, stem) = (folder.clone(), subject.stem.clone());
        let hidden = task::spawn_blocking(move || put_away(&*store, &own, &folder, &stem)).await;
        if !matches!(hidden, Ok(Ok(()))) {
            error!("cannot put a file into quarantine: {hidden:?}");
        }
    }

    /// Runs the hooks of an event that was leased. If they come to no decision, the event stays in
    /// the journal and is tried again.
    pub async fn run_leased(&self, leased: LeasedEvent) -> Verdict {
        let (leased, event) = leased.split();
        let batch = self.hooks.fire_batch(vec![event], &Mode::LIVE);
        let mut verdict = batch.only().await;
        self.conclude(vec![(leased, &mut verdict)]).await;
        verdict
    }

    /// [`Self::run_leased`] for many events of one user, in one hand-over to a thread for scripts
    /// if those are quick. Reports verdicts, with the indexes of their events, as soon as what they
    /// say is stored: none waits for a slow script or a program of another event.
    pub async fn run_leased_each(&self, leased: Vec<LeasedEvent>, mut tell: impl FnMut(Verdicts)) {
        let (leased, events): (Vec<_>, Vec<_>) = leased.into_iter().map(LeasedEvent::split).unzip();
        let mut leased: Vec<_> = leased.into_iter().map(Some).collect();
        let mut batch = self.hooks.fire_batch(events, &Mode::LIVE);
        while batch.left() > 0 {
            let mut verdicts = batch.next().await;
            let over = verdicts
                .iter_mut()
                .filter_map(|(place, verdict)| Some((leased.get_mut(*place)?.take()?, verdict)));
            self.conclude(over.collect()).await;
            tell(verdicts);
        }
    }

    /// Makes what the hooks of leased events decided take effect, or records that they have to run
    /// again.
    async fn conclude(&self, over: Vec<(Leased, &mut Verdict)>) {
        let fired: Vec<_> = over
            .iter()
            .map(|(leased, v)| (&leased.record.task, &**v))
            .collect();
        self.last_runs.note(&fired);
        let (mut plans, mut verdicts, mut leases) = (Vec::new(), Vec::new(), Vec::new());
        for (leased, verdict) in over {
            let Leased {
                record,
                attempts,
                lease,
            } = leased;
            leases.push(lease);
            if verdict.is_settled {
                continue;
            }
            let attempt = verdict.outcome.failure().map(|words| {
                let why = verdict.runs.last().and_then(|run| run.error.clone());
                let why = why.unwrap_or_else(|| words.to_owned());
                let mut attempt = self.attempt(&record.task, attempts, why, None);
                attempt.task = undecided(attempt.task, verdict);
                attempt
            });
            let changes = asked_for(verdict);
            let plan = Plan::new(Some(&record), verdict, changes, attempt);
            plans.push(plan);
            verdicts.push(verdict);
        }
        match self.decider.settle(plans).await {
            Ok(paths) => {
                for (verdict, path) in verdicts.into_iter().zip(paths) {
                    verdict.placed = path;
                }
            }
            Err(error) => {
                // They run again when the server starts again.
                error!("what hooks decided is lost: {error}");
                for verdict in verdicts {
                    verdict.outcome = Outcome::Later;
                }
            }
        }
        drop(leases);
    }
}

/// What sends e-mails, if there is a mail server.
fn mailer(settings: &Settings, root: &Root) -> Result<Option<Mailer>, Error> {
    let smtp = settings.smtp.as_ref();
    Ok(smtp
        .map(|smtp| Mailer::new(smtp, root.path()))
        .transpose()?)
}

/// What hooks asked for that has not taken effect: only what can wait for others.
fn asked_for(verdict: &mut Verdict) -> Changes {
    Changes {
        inbox: std::mem::take(&mut verdict.inbox),
        effects: std::mem::take(&mut verdict.effects),
        ..Changes::default()
    }
}

/// Returns when `stop` turns true; never, if nobody can turn it any more.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

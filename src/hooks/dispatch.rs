//! The dispatcher: no event is lost, whatever fails.
//!
//! What has to happen is in the [journal] before it happens, and leaves it when it has
//! happened. What failed is tried again, later each time, until it is given up and waits
//! for a person (`m2y events`). Events of one file happen in their order. What hooks ask
//! for (e-mail, webhooks, files for others) goes the same way after their verdict, so that
//! nothing which is down delays a transfer.

mod effect;
mod last_run;
mod lease;
mod rebuild;
mod record;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::Connection;
use tokio::{
    sync::watch,
    task::{self, JoinSet},
    time::{interval, sleep},
};
use tracing::{error, info, warn};

use super::{
    Heard, Hooks, Pinned, batch::Verdicts, firing::ToFire, notes::Mode, script_state::JournalState,
    self_changes::SelfChanges,
};
use crate::{
    clock,
    delivery::{Mailer, Webhook},
    error::{Code, Error, printable},
    event::{Event, Kind, Subject, Verdict},
    journal::{
        self, Done, Entry, Journal, JournalError, Pending, Task,
        delivered::{Key, Transfer},
    },
    meta::{Meta, QUARANTINE},
    root::{
        Root,
        config::Config,
        folder::Folder,
        settings::{Retry, Settings},
    },
    store::Stores,
};
use effect::{Courier, effects_of};
use last_run::LastRuns;
use lease::{Lease, Leases};
use rebuild::{Gone, moved, rebuild};
pub use rebuild::{asked_of, task_of, task_of_received};
pub use record::Records;
use record::{ToRecord, put_away};

/// Tasks that are tried again at the same time; hooks have fewer slots.
const AT_ONCE: usize = 64;

/// How often the journal is looked into for what another process wrote.
const LOOK: Duration = Duration::from_secs(1);

/// Fires events, and sees to it that their hooks run.
#[derive(Clone)]
pub struct Dispatcher {
    hooks: Hooks,
    root: Root,
    journal: Journal,
    courier: Courier,
    retry: Retry,
    leases: Leases,
    last_runs: LastRuns,
    records: Records,
}

/// An event that nobody else works on meanwhile.
pub struct LeasedEvent {
    event: Event,
    pinned: Pinned,
    task: Task,
    /// The transfer that stands for the task in the journal, if one does.
    owed: Option<Key>,
    attempts: u32,
    lease: Lease,
}

impl LeasedEvent {
    /// The event.
    pub fn event_mut(&mut self) -> &mut Event {
        &mut self.event
    }

    fn split(self) -> (Owing, ToFire) {
        let Self {
            event,
            pinned,
            task,
            owed,
            attempts,
            lease,
        } = self;
        let owing = Owing {
            task,
            before: event.subject.as_ref().map(|subject| subject.meta.clone()),
            owed,
            attempts,
            lease,
        };
        (owing, ToFire::all(event, pinned))
    }
}

/// What is to be written down of a leased event when its hooks have run.
struct Owing {
    task: Task,
    /// Its `.meta` before that.
    before: Option<Meta>,
    owed: Option<Key>,
    attempts: u32,
    lease: Lease,
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
        let mailer = settings
            .smtp
            .as_ref()
            .map(|smtp| Mailer::new(smtp, root.path()))
            .transpose()?;
        Ok(Self {
            hooks: Hooks::with_stores(root, settings, state, stores),
            root: root.clone(),
            journal,
            courier: Courier {
                root: root.clone(),
                mailer,
                webhook: Webhook::new(&settings.webhook, root.path())?,
            },
            retry: settings.retry,
            leases: Leases::default(),
            last_runs: LastRuns::default(),
            records: Records::new(stores),
        })
    }

    /// Lets somebody hear of every hook, whatever it ran for.
    #[must_use]
    pub fn heard(mut self, heard: Heard) -> Self {
        self.hooks = self.hooks.heard(heard);
        self
    }

    /// Where the contents of folders rest.
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

    /// Fires an event that decides about something which is not there yet; whoever asked
    /// asks again if it fails.
    pub async fn fire(&self, event: Event, pinned: &Pinned) -> Verdict {
        self.fire_only(ToFire::all(event, pinned.clone())).await
    }

    /// [`Self::fire`], where not all scripts of the section are to run.
    pub async fn fire_only(&self, event: ToFire) -> Verdict {
        let task = task_of(&event.event);
        let batch = self.hooks.fire_batch(vec![event], &Mode::LIVE);
        let verdict = batch.only().await;
        self.note_fired(&[(&task, &verdict)]).await;
        verdict
    }

    /// [`Self::fire`] for many events of one user, in one hand-over to a thread for scripts
    /// where those are quick. Tells each verdict as soon as it is there, with the place of
    /// its event: none waits for a slow script or a program of another one.
    pub async fn fire_each(
        &self,
        events: Vec<(Event, Pinned)>,
        mut tell: impl FnMut(usize, Verdict),
    ) {
        let tasks: Vec<Task> = events.iter().map(|(event, _)| task_of(event)).collect();
        let events = events
            .into_iter()
            .map(|(event, pinned)| ToFire::all(event, pinned));
        let mut batch = self.hooks.fire_batch(events.collect(), &Mode::LIVE);
        while batch.left() > 0 {
            let verdicts = batch.next().await;
            let fired: Vec<_> = verdicts
                .iter()
                .filter_map(|(place, verdict)| Some((tasks.get(*place)?, verdict)))
                .collect();
            self.note_fired(&fired).await;
            for (place, verdict) in verdicts {
                tell(place, verdict);
            }
        }
    }

    /// Remembers how scripts ended, and writes down what they asked for.
    async fn note_fired(&self, fired: &[(&Task, &Verdict)]) {
        self.last_runs.note(fired);
        let effects: Vec<Task> = fired
            .iter()
            .filter(|(_, verdict)| verdict.outcome.objection().is_none())
            .flat_map(|(task, verdict)| effects_of(task, &verdict.effects))
            .collect();
        if effects.is_empty() {
            return;
        }
        if let Err(error) = self.journal.add(true, effects).committed().await {
            error!("what a hook asked for is lost: {error}");
        }
    }

    /// Fires an event because a person asks for it, outside of any transfer: once, and
    /// nothing is tried again but what its hooks ask for.
    pub async fn fire_by_hand(&self, event: Event, mode: &Mode) -> Verdict {
        let task = task_of(&event);
        let mut verdict = self.hooks.fire_as(event, &Pinned::default(), mode).await;
        // Waited for: the person may look at it next.
        self.last_runs.note(&[(&task, &verdict)]);
        if let Some(noted) = self.last_runs.write(&self.journal)
            && let Err(error) = noted.committed().await
        {
            error!("{error}");
        }
        if task.kind == Kind::Received.section()
            && let records = &self.records
            && let Err(error) = records.store(self.self_changes(), &mut verdict).await
        {
            error!("cannot store what hooks wrote into a .meta: {error}");
        }
        self.note_fired(&[(&task, &verdict)]).await;
        verdict
    }

    /// Leases the event of a file that arrives before it happens; `None` if no hook waits
    /// for it, or if it is leased already. The transfer belongs into the
    /// journal as one that owes it; then it happens by [`Self::run_leased`], or when the server
    /// starts again.
    pub fn lease(&self, event: Event, pinned: Pinned, transfer: &Key) -> Option<LeasedEvent> {
        if let Some(file) = &event.file {
            self.self_changes()
                .arrives(&event.folder, &event.config, file);
        }
        if event.config.scripts(event.kind.section()).is_empty() {
            return None;
        }
        let task = task_of(&event);
        let lease = self.leases.take(&task)?;
        Some(LeasedEvent {
            event,
            pinned,
            task,
            owed: Some(transfer.clone()),
            attempts: 0,
            lease,
        })
    }

    /// Runs the hooks of a file that is stored, although the attempt which brought it failed
    /// before they could run.
    pub fn take_over(&self, transfer: &Transfer) {
        let (key, task) = (transfer.key.clone(), task_of_received(transfer));
        drop(self.journal.take_over(key, task));
    }

    /// Puts a file out of sight for which `[OnMeta]` asked that, and no other hook runs.
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

    /// Runs the hooks of an event that was leased, and stores what they wrote into the
    /// `.meta`. Where they object, the event stays in the journal and is tried again.
    pub async fn run_leased(&self, leased: LeasedEvent) -> Verdict {
        let (owing, event) = leased.split();
        let batch = self.hooks.fire_batch(vec![event], &Mode::LIVE);
        let mut verdict = batch.only().await;
        self.conclude(vec![(owing, &mut verdict)]).await;
        verdict
    }

    /// [`Self::run_leased`] for many events of one user, in one hand-over to a thread for
    /// scripts where those are quick. Tells verdicts, with the places of their events, as
    /// soon as what they say is stored: none waits for a slow script or a program of another
    /// event.
    pub async fn run_leased_each(&self, leased: Vec<LeasedEvent>, mut tell: impl FnMut(Verdicts)) {
        let (owing, events): (Vec<_>, Vec<_>) = leased.into_iter().map(LeasedEvent::split).unzip();
        let mut owing: Vec<_> = owing.into_iter().map(Some).collect();
        let mut batch = self.hooks.fire_batch(events, &Mode::LIVE);
        while batch.left() > 0 {
            let mut verdicts = batch.next().await;
            let over = verdicts
                .iter_mut()
                .filter_map(|(place, verdict)| Some((owing.get_mut(*place)?.take()?, verdict)));
            self.conclude(over.collect()).await;
            tell(verdicts);
        }
    }

    /// Stores what the hooks of leased events wrote into their `.meta`, and writes into the
    /// journal that they are done, or have to be tried again.
    async fn conclude(&self, mut over: Vec<(Owing, &mut Verdict)>) {
        let fired: Vec<_> = over.iter().map(|(owing, v)| (&owing.task, &**v)).collect();
        self.last_runs.note(&fired);
        let received = over
            .iter_mut()
            .filter(|(owing, _)| owing.task.kind == Kind::Received.section())
            .map(|(owing, verdict)| ToRecord {
                before: owing.before.as_ref(),
                // Only of a file that has its name still does the journal know the .meta.
                is_backed: owing.owed.is_some() && owing.task.file == verdict.file,
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

    /// Tries what is waiting, again and again, until `shutdown` turns true.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let reader = match self.journal.reader() {
            Ok(reader) => Arc::new(Mutex::new(reader)),
            Err(error) => return error!("nothing is tried again: {error}"),
        };
        let mut tasks = JoinSet::new();
        let (mut entries, mut pause) = (VecDeque::new(), LOOK);
        let mut tick = interval(LOOK);
        loop {
            // Not for each task that ends: while some are left, nothing else gets its turn.
            if entries.is_empty() {
                let looked = self.look(&reader).await;
                (entries, pause) = (looked.0.into(), looked.1);
            }
            while tasks.len() < AT_ONCE
                && let Some(entry) = entries.pop_front()
            {
                if let Some(lease) = self.leases.take(&entry.task) {
                    let (this, reader) = (self.clone(), reader.clone());
                    tasks.spawn(async move {
                        // Between the look and the lease another one may have done it.
                        if still_there(reader, &entry).await {
                            this.again(entry, lease).await;
                        }
                    });
                }
            }
            tokio::select! {
                () = self.journal.news.notified(), if tasks.len() < AT_ONCE => {}
                Some(_) = tasks.join_next() => {}
                () = sleep(pause) => {}
                _ = tick.tick() => drop(self.last_runs.write(&self.journal)),
                () = stopped(&mut shutdown) => break,
            }
        }
        while tasks.join_next().await.is_some() {}
        if let Some(written) = self.last_runs.write(&self.journal)
            && let Err(error) = written.committed().await
        {
            error!("{error}");
        }
    }

    /// What is due, and how long nothing more will be.
    async fn look(&self, reader: &Arc<Mutex<Connection>>) -> (Vec<Entry>, Duration) {
        let (reader, leases) = (reader.clone(), self.leases.len());
        let looked = task::spawn_blocking(move || {
            let db = reader.lock().unwrap_or_else(PoisonError::into_inner);
            let (now, limit) = (clock::millis(), AT_ONCE.saturating_add(leases));
            let due = journal::due(&db, now, u32::try_from(limit).unwrap_or(u32::MAX))?;
            Ok::<_, rusqlite::Error>((due, journal::next_due(&db, now)?, now))
        });
        match looked.await {
            Ok(Ok((due, next, now))) => {
                let until = next.map(|next| Duration::from_millis(next.saturating_sub(now)));
                (due, until.unwrap_or(LOOK).min(LOOK))
            }
            Ok(Err(error)) => {
                error!("{}", JournalError::from(error));
                (Vec::new(), LOOK)
            }
            Err(_) => (Vec::new(), LOOK),
        }
    }

    async fn again(&self, entry: Entry, lease: Lease) {
        let Entry { task, attempts, .. } = entry;
        let written = if task.part > 0 {
            match self.courier.carry_out(&task).await {
                Ok(()) => self.journal.done(&task, None, Vec::new()),
                Err(failure) if failure.permanent => self.give_up(task, None, failure.sentence),
                Err(failure) => self.fail(task, None, attempts, failure.sentence, failure.pause),
            }
        } else {
            let (root, asked) = (self.root.clone(), task.clone());
            let stores = self.stores().clone();
            let rebuilt = task::spawn_blocking(move || rebuild(&root, &stores, &asked)).await;
            match rebuilt.unwrap_or_else(|_| Err(Gone::Later("the server failed".to_owned()))) {
                Ok(event) => {
                    let leased = LeasedEvent {
                        event,
                        pinned: Pinned::default(),
                        task,
                        owed: None,
                        attempts,
                        lease,
                    };
                    self.run_leased(leased).await;
                    return;
                }
                Err(Gone::Forget(why)) => {
                    info!(id = %task.id, event = %task.kind, "forgotten: {why}");
                    self.journal.done(&task, None, Vec::new())
                }
                Err(Gone::Later(why)) => self.fail(task, None, attempts, why, None),
            }
        };
        if let Err(error) = written.committed().await {
            error!("{error}");
        }
        drop(lease);
    }

    /// Writes down that an attempt failed, and when the next one is: not before
    /// `at_least` is over.
    fn fail(
        &self,
        task: Task,
        owed: Option<Key>,
        attempts: u32,
        why: String,
        at_least: Option<Duration>,
    ) -> Pending<()> {
        let Some(pause) = self.retry.pause(attempts) else {
            return self.give_up(task, owed, why);
        };
        let pause = pause.max(at_least.unwrap_or_default());
        let (user, folder) = (&task.user, &task.folder);
        info!(
            id = %task.id,
            "{user}/{folder} [{}]: tried again in {pause:?}: {}",
            task.kind, printable(&why, 400)
        );
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let due = clock::millis().saturating_add(pause);
        self.journal.failed(task, owed, why, Some(due))
    }

    /// Writes down that no further attempt makes sense until a person says so.
    fn give_up(&self, task: Task, owed: Option<Key>, why: String) -> Pending<()> {
        let (user, folder) = (&task.user, &task.folder);
        warn!(
            id = %task.id,
            "{user}/{folder} [{}]: given up, see m2y events: {}",
            task.kind, printable(&why, 400)
        );
        self.journal.failed(task, owed, why, None)
    }
}

async fn still_there(reader: Arc<Mutex<Connection>>, entry: &Entry) -> bool {
    let seq = entry.seq;
    let found = task::spawn_blocking(move || {
        let db = reader.lock().unwrap_or_else(PoisonError::into_inner);
        journal::find(&db, seq)
    });
    match found.await {
        Ok(Ok(found)) => found.as_ref() == Some(entry),
        _ => false,
    }
}

/// Returns when `stop` turns true; never, if nobody can turn it any more.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

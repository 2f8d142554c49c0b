//! What is tried again: events whose hooks came to no decision, and what hooks asked for.

use std::{
    collections::{HashMap, VecDeque},
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
    Dispatcher, LeasedEvent,
    lease::Lease,
    rebuild::{Gone, rebuild},
    record_of, stopped,
};
use crate::{
    clock,
    error::printable,
    hooks::{Pinned, decide::Stands},
    journal::{self, Entry, JournalError, Task, delivered},
};

/// Tasks that are tried again at the same time: of all users, and of one, whose hooks may all
/// wait for a server that does not answer.
const AT_ONCE: usize = 64;
const OF_ONE: usize = 32;

/// How often to check the journal for what another process wrote.
const LOOK: Duration = Duration::from_secs(1);

/// What is recorded of a failed attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The event, about the file where it is now.
    pub task: Task,
    /// Why it failed.
    pub why: String,
    /// When the next attempt is, in milliseconds since 1970; `None` if there is none.
    pub due: Option<u64>,
}

impl Attempt {
    /// Keeps the task, to be tried when it is due. If a transfer stood for it until now, it stands
    /// for itself from here on.
    pub fn write(&self, db: &Connection, stands: &Stands) -> rusqlite::Result<()> {
        match stands {
            Stands::Nothing => return Ok(()),
            Stands::Transfer(key) => {
                delivered::complete(db, key)?;
                journal::insert(db, [&self.task])?;
            }
            Stands::Task => {}
        }
        journal::fail(db, &self.task, &self.why, self.due)
    }
}

/// No further attempt makes sense until a person says so.
pub fn give_up(task: &Task, why: String) -> Attempt {
    let (user, folder) = (&task.user, &task.folder);
    warn!(
        id = %task.id,
        "{user}/{folder} [{}]: given up, see m2y events: {}",
        task.kind, printable(&why, 400)
    );
    Attempt {
        task: task.clone(),
        why,
        due: None,
    }
}

impl Dispatcher {
    /// Tries what is waiting, again and again, until `shutdown` turns true.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let reader = match self.journal.reader() {
            Ok(reader) => Arc::new(Mutex::new(reader)),
            Err(error) => return error!("nothing is tried again: {error}"),
        };
        let mut tasks = JoinSet::new();
        let (mut entries, mut pause) = (VecDeque::new(), LOOK);
        let mut users = Users::default();
        let mut tick = interval(LOOK);
        loop {
            // Not for each task that ends: while some can begin, nothing else gets its turn.
            if users.next_of(&entries).is_none() {
                let (looked, until) = self.look(&reader, users.busy()).await;
                // Those that are left are of users who are busy.
                entries.extend(looked);
                pause = until;
            }
            while tasks.len() < AT_ONCE
                && let Some(place) = users.next_of(&entries)
                && let Some(entry) = entries.remove(place)
            {
                if let Some(lease) = self.leases.take(&entry.task) {
                    let (this, reader) = (self.clone(), reader.clone());
                    let one_of_the_user = users.begin(&entry.task.user);
                    tasks.spawn(async move {
                        let _until_it_ends = one_of_the_user;
                        // Between the look and the lease another process may have done it.
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
                _ = tick.tick() => {
                    drop(self.last_runs.write(&self.journal));
                    let decider = self.decider.clone();
                    tasks.spawn(async move {
                        let _ = task::spawn_blocking(move || decider.flush_unless_busy()).await;
                    });
                }
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

    /// What is due for all users but these, and how long until more is.
    async fn look(
        &self,
        reader: &Arc<Mutex<Connection>>,
        but_of: Vec<String>,
    ) -> (Vec<Entry>, Duration) {
        let (reader, leases) = (reader.clone(), self.leases.len());
        let looked = task::spawn_blocking(move || {
            let db = reader.lock().unwrap_or_else(PoisonError::into_inner);
            let (now, limit) = (clock::millis(), AT_ONCE.saturating_add(leases));
            let due = journal::due(&db, now, u32::try_from(limit).unwrap_or(u32::MAX), &but_of)?;
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
        let failed = |attempt: Attempt| {
            let Attempt { task, why, due } = attempt;
            self.journal.failed(task, why, due)
        };
        let written = if task.part > 0 {
            match self.courier.carry_out(&task).await {
                Ok(()) => self.journal.done(&task),
                Err(failure) if failure.permanent => failed(give_up(&task, failure.sentence)),
                Err(failure) => {
                    failed(self.attempt(&task, attempts, failure.sentence, failure.pause))
                }
            }
        } else {
            let (root, asked) = (self.root.clone(), task.clone());
            let stores = self.stores().clone();
            let rebuilt = task::spawn_blocking(move || rebuild(&root, &stores, &asked)).await;
            match rebuilt.unwrap_or_else(|_| Err(Gone::Later("the server failed".to_owned()))) {
                Ok(event) => {
                    let leased = LeasedEvent {
                        record: record_of(&event, &Pinned::default(), Stands::Task),
                        event,
                        pinned: Pinned::default(),
                        attempts,
                        lease,
                    };
                    self.run_leased(leased).await;
                    return;
                }
                Err(Gone::Forget(why)) => {
                    info!(id = %task.id, event = %task.kind, "forgotten: {why}");
                    self.journal.done(&task)
                }
                Err(Gone::Later(why)) => failed(self.attempt(&task, attempts, why, None)),
            }
        };
        if let Err(error) = written.committed().await {
            error!("{error}");
        }
        drop(lease);
    }

    /// A failed attempt, and when the next one is: not before `at_least` is over.
    pub(super) fn attempt(
        &self,
        task: &Task,
        attempts: u32,
        why: String,
        at_least: Option<Duration>,
    ) -> Attempt {
        let Some(pause) = self.retry.now().pause(attempts) else {
            return give_up(task, why);
        };
        let pause = pause.max(at_least.unwrap_or_default());
        let (user, folder) = (&task.user, &task.folder);
        info!(
            id = %task.id,
            "{user}/{folder} [{}]: tried again in {pause:?}: {}",
            task.kind, printable(&why, 400)
        );
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Attempt {
            task: task.clone(),
            why,
            due: Some(clock::millis().saturating_add(pause)),
        }
    }
}

/// Whose tasks are being tried again.
#[derive(Default)]
struct Users(HashMap<String, Arc<()>>);

impl Users {
    /// Records that a task of a user begins; it has ended when what this returns is dropped.
    fn begin(&mut self, user: &str) -> Arc<()> {
        self.0.retain(|_, tasks| Arc::strong_count(tasks) > 1);
        self.0.entry(user.to_owned()).or_default().clone()
    }

    fn may_begin(&self, user: &str) -> bool {
        let tasks = self.0.get(user);
        tasks.is_none_or(|tasks| Arc::strong_count(tasks) <= OF_ONE)
    }

    /// The index of the first task that may begin.
    fn next_of(&self, entries: &VecDeque<Entry>) -> Option<usize> {
        let of_user = |entry: &Entry| self.may_begin(&entry.task.user);
        entries.iter().position(of_user)
    }

    /// Users for whom no further task may begin.
    fn busy(&self) -> Vec<String> {
        let busy = self.0.keys().filter(|user| !self.may_begin(user));
        busy.cloned().collect()
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

//! Makes decisions take effect: one write to the journal has the decision and everything that the
//! scripts asked for, and a list of what is done outside it; then that is done.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tracing::{debug, error};

use super::{
    claims::Claims,
    plan::{Plan, Rows, write},
    unflushed::{Again, MAX_ATTEMPTS, MAX_UNFLUSHED, PAUSES, Rest, Unflushed},
};
use crate::{
    event::{Effect, Verdict},
    hooks::{
        change::{Change, from_body, to_body},
        decide::{Decide, Record, Undecided},
        folder_files::Files,
        received::is_placed,
        redo::{Changer, Pass},
        transaction::{Changes, files::Touched},
    },
    journal::{
        self, Journal, JournalError, Withheld,
        redo::{self, Redo},
    },
    root::{Root, RootError, name::Name, user::User},
    store::Stores,
};

/// Makes decisions take effect. Clones are the same one.
#[derive(Clone)]
pub struct Decider {
    journal: Journal,
    changer: Changer,
    stores: Stores,
    claims: Claims,
    unflushed: Arc<Mutex<Rest>>,
    /// Held during a flush, so that others wait until it is done.
    flushing: Arc<Mutex<()>>,
}

impl Decider {
    /// Writes into `journal`, and makes changes with `changer`.
    pub fn new(journal: &Journal, changer: &Changer, stores: &Stores) -> Self {
        Self {
            journal: journal.clone(),
            changer: changer.clone(),
            stores: stores.clone(),
            claims: Claims::default(),
            unflushed: Arc::default(),
            flushing: Arc::default(),
        }
    }

    /// Makes plans of one user take effect together; their scripts touched nothing that others may
    /// touch too. Returns for each the path that its file got, if its sender wants one.
    pub(super) async fn settle(&self, plans: Vec<Plan>) -> Result<Vec<Option<String>>, String> {
        let nothing = vec![None; plans.len()];
        if plans.iter().all(Plan::is_empty) {
            return Ok(nothing);
        }
        if plans.iter().any(|plan| plan.decided.is_some()) {
            self.journal.expect_decisions();
        }
        let plans: Arc<[Plan]> = plans.into();
        let _withheld = self.withhold_all(&plans);
        let durable = plans.iter().any(Plan::is_durable);
        let written = {
            let plans = plans.clone();
            self.journal.decide(durable, move |db| write(db, &plans))
        };
        let rows = written.committed().await.map_err(|e| e.to_string())?;
        let rows = rows.unwrap_or_default();
        if rows.is_empty() {
            return Ok(nothing);
        }
        let this = self.clone();
        let making = tokio::task::spawn_blocking(move || {
            let paths = this.make(&plans, rows);
            this.flush_if_many();
            paths
        });
        making.await.map_err(|e| e.to_string())
    }

    /// Hides files that are to be removed or moved, until that is done: from the decision on the
    /// journal no longer says that they are pending.
    fn withhold<'a>(&self, user: &User, changes: impl Iterator<Item = &'a Change>) -> Withheld {
        let places = changes.filter_map(Change::withholds);
        let places =
            places.map(|(folder, file)| (user.name().to_string(), folder.to_string(), file));
        self.journal.withhold(places.collect())
    }

    /// [`Self::withhold`] for plans of one user.
    fn withhold_all(&self, plans: &[Plan]) -> Option<Withheld> {
        let changes = plans.iter().flat_map(|plan| plan.changes.iter());
        Some(self.withhold(&plans.first()?.user, changes))
    }

    /// Makes the changes of plans.
    fn make(&self, plans: &[Plan], rows: Rows) -> Vec<Option<String>> {
        let mut paths = vec![None; plans.len()];
        for (seq, of) in rows {
            let list: Vec<&Plan> = of.iter().filter_map(|at| plans.get(*at)).collect();
            let Some(first) = list.first() else {
                continue;
            };
            let changes: Vec<&[Change]> = list.iter().map(|plan| &*plan.changes).collect();
            let made = self.changer.make(&first.user, &changes, Pass::First);
            let row = Unflushed {
                seq,
                user: first.user.clone(),
                changes: changes.concat().into(),
                then: match first.waits() {
                    true => first.tasks.clone(),
                    false => Vec::new(),
                },
                again: None,
                withheld: None,
            };
            let path = made.paths.first().cloned().flatten();
            for (at, path) in of.into_iter().zip(made.paths) {
                if let Some(place) = paths.get_mut(at) {
                    *place = path;
                }
            }
            let failed = made.error.map(|error| (made.failed, error));
            self.remember(row, failed, path.as_deref());
        }
        paths
    }

    /// Keeps a row until its changes are safe. If some could not be made, only these are kept, to
    /// be made again.
    fn remember(
        &self,
        mut row: Unflushed,
        failed: Option<(Vec<Change>, io::Error)>,
        path: Option<&str>,
    ) {
        match failed {
            Some((changes, error)) => {
                let user = row.user.name();
                error!(%user, "cannot do what hooks asked for, tried again: {error}");
                let (seq, body) = (row.seq, to_body(&changes, &row.then));
                // The row must no longer say what was made.
                if let Err(error) = self.changer.flush(&row.user, row.changes.iter()) {
                    error!(%user, "cannot flush what hooks changed: {error}");
                }
                row.withheld = Some(self.withhold(&row.user, changes.iter()));
                row.changes = changes.into();
                row.again = Some(Again::first());
                drop(
                    self.journal
                        .quietly(false, move |db| redo::update(db, seq, &body)),
                );
            }
            None => self.add_tasks(&mut row, path),
        }
        self.unflushed().add(row);
    }

    /// Adds the tasks that waited for changes, about the file where it is now.
    fn add_tasks(&self, row: &mut Unflushed, path: Option<&str>) {
        let mut tasks = std::mem::take(&mut row.then);
        if tasks.is_empty() {
            return;
        }
        let arrived = row.changes.iter().find_map(|change| match change {
            Change::Put { place, .. } => Some(format!("{}.data", place.1)),
            _ => None,
        });
        if let Some(path) = path {
            for task in &mut tasks {
                if let Some(mut effect) = Effect::from_document(&task.kind, &task.body) {
                    is_placed(std::slice::from_mut(&mut effect), arrived.as_deref(), path);
                    task.body = effect.to_document();
                }
            }
        }
        let (seq, body) = (row.seq, to_body(&row.changes, &[]));
        let written = {
            let tasks = tasks.clone();
            self.journal.write(true, move |db| {
                journal::insert(db, &tasks)?;
                redo::update(db, seq, &body)
            })
        };
        if let Err(error) = written.wait() {
            error!("{error}");
            row.then = tasks;
            row.again = Some(Again::first());
        }
    }

    /// Retries changes that could not be made; returns whether nothing is left to make.
    fn make_again(&self, row: &mut Unflushed) -> bool {
        let Some(again) = row.again else {
            return true;
        };
        if Instant::now() < again.when {
            return false;
        }
        let places = row.changes.iter().flat_map(Change::places);
        let _claim = self.claims.claim(&row.user, places.collect());
        let made = self.changer.make(&row.user, &[&row.changes], Pass::Again);
        row.again = None;
        if let Some(error) = made.error {
            let user = row.user.name();
            // What nobody may see stays hidden, and is retried forever.
            let hides = made
                .failed
                .iter()
                .any(|change| change.withholds().is_some());
            if hides || again.attempts < MAX_ATTEMPTS {
                let pause = again.pause.saturating_mul(2).min(PAUSES.1);
                row.changes = made.failed.into();
                row.again = Some(Again {
                    when: Instant::now() + pause,
                    pause,
                    attempts: again.attempts + 1,
                });
                return false;
            }
            error!(%user, "given up what hooks asked for: {error}: {:?}", made.failed);
        }
        let path = made.paths.into_iter().next().flatten();
        self.add_tasks(row, path.as_deref());
        row.withheld = None;
        row.again.is_none()
    }

    fn unflushed(&self) -> MutexGuard<'_, Rest> {
        self.unflushed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn flush_if_many(&self) {
        let made = |row: &&Unflushed| row.again.is_none();
        if self.unflushed().rows.iter().filter(made).count() >= MAX_UNFLUSHED {
            self.flush();
        }
    }

    /// Returns when all changes that were made survive a loss of power. It waits for a disk.
    pub fn flush(&self) {
        let flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.flush_now(flushing);
    }

    /// [`Self::flush`], unless a flush is running.
    pub fn flush_unless_busy(&self) {
        if let Ok(flushing) = self.flushing.try_lock() {
            self.flush_now(flushing);
        }
    }

    fn flush_now(&self, _flushing: MutexGuard<'_, ()>) {
        let rows = std::mem::take(&mut self.unflushed().rows);
        let mut users: BTreeMap<Name, (User, Vec<Unflushed>)> = BTreeMap::new();
        for mut row in rows {
            // Changes that are left of a row have different places than all of it.
            let before = row.again.map(|_| row.changes.clone());
            let is_made = self.make_again(&mut row);
            if let Some(before) = before {
                let after = std::mem::replace(&mut row.changes, before);
                self.unflushed().forget(&row);
                row.changes = after;
                if !is_made {
                    self.unflushed().add(row);
                    continue;
                }
                self.unflushed().count(&row, |count, displaces| {
                    count.0 += 1;
                    count.1 += usize::from(displaces);
                });
            }
            let of = users.entry(row.user.name().clone());
            of.or_insert_with(|| (row.user.clone(), Vec::new()))
                .1
                .push(row);
        }
        let mut done = Vec::new();
        for (user, rows) in users.into_values() {
            let changes = rows.iter().flat_map(|row| row.changes.iter());
            match self.changer.flush(&user, changes) {
                Ok(()) => done.extend(rows),
                Err(error) => {
                    error!(user = %user.name(), "cannot flush what hooks changed: {error}");
                    self.unflushed().rows.extend(rows);
                }
            }
        }
        if done.is_empty() {
            return;
        }
        let seqs: Vec<i64> = done.iter().map(|row| row.seq).collect();
        let removed = self.journal.quietly(false, move |db| {
            seqs.iter().try_for_each(|seq| redo::remove(db, *seq))
        });
        if let Err(error) = removed.wait() {
            error!("{error}");
        }
        let mut unflushed = self.unflushed();
        done.iter().for_each(|row| unflushed.forget(row));
    }

    /// Repeats the changes of decisions that an earlier server took and did not finish. It belongs
    /// before everything else that looks into the journal or the folders.
    pub fn redo(&self, root: &Root) -> Result<(), JournalError> {
        let rows = redo::list(&self.journal.reader()?)?;
        for Redo { seq, user, body } in rows {
            let name = Name::user(&user).ok();
            let user = match name.as_ref().map(|name| root.user(name)) {
                Some(Ok(user)) => Some(user),
                Some(Err(RootError::NoUser(_))) | None => None,
                Some(Err(error)) => {
                    // The next start may find the user.
                    error!("{error}");
                    continue;
                }
            };
            let Some((user, (changes, tasks))) = user.zip(from_body(&body)) else {
                error!("the journal has changes for nobody: row {seq}");
                drop(self.journal.quietly(false, move |db| redo::remove(db, seq)));
                continue;
            };
            let made = self.changer.make(&user, &[&changes], Pass::Again);
            let row = Unflushed {
                seq,
                user,
                changes: changes.into(),
                then: tasks,
                again: None,
                withheld: None,
            };
            let path = made.paths.into_iter().next().flatten();
            let failed = made.error.map(|error| (made.failed, error));
            self.remember(row, failed, path.as_deref());
        }
        self.flush();
        Ok(())
    }

    /// Whether files are what they were when scripts touched them.
    fn holds(&self, user: &User, touched: &Touched) -> bool {
        touched.iter().all(|((folder, name), before)| {
            let Ok(opened) = user.folder(folder) else {
                return false;
            };
            let now = Files::new(&opened, &self.stores).identity(name);
            let holds = now.is_ok_and(|now| now == *before);
            if !holds {
                debug!(user = %user.name(), %folder, "{name} has changed while scripts ran");
            }
            holds
        })
    }
}

impl Decide for Decider {
    fn decide(
        &self,
        record: Option<&Arc<Record>>,
        verdict: &mut Verdict,
        changes: Changes,
    ) -> Result<(), Undecided> {
        let touched = changes.touched.clone();
        let plan = Plan::new(record, verdict, changes, None);
        if self.unflushed().meets(&plan.user, &plan.changes) {
            // Those before it have to be safe first.
            self.flush();
        }
        if plan.decided.is_some() {
            self.journal.expect_decisions();
        }
        let user = plan.user.clone();
        // Until it is done, nobody else changes the same files.
        let places = plan.changes.iter().flat_map(Change::places);
        let claim = self.claims.claim(&user, places.collect());
        if !self.holds(&user, &touched) {
            return Err(Undecided::Conflict);
        }
        let durable = plan.is_durable();
        let plans: Arc<[Plan]> = [plan].into();
        let _withheld = self.withhold_all(&plans);
        let written = {
            let plans = plans.clone();
            self.journal.decide(durable, move |db| write(db, &plans))
        };
        let rows = written
            .wait()
            .map_err(|e| Undecided::Failed(e.to_string()))?
            .ok_or(Undecided::Conflict)?;
        verdict.placed = self.make(&plans, rows).into_iter().next().flatten();
        // A flush may wait for the claim.
        drop(claim);
        self.flush_if_many();
        Ok(())
    }
}

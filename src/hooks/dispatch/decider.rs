//! Makes decisions take effect: one write of the journal has the decision and all that the
//! scripts asked for, and a list of what is done outside of it; then that is done.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tracing::{debug, error};

use super::{effect::effects_of, key_of, retry::Attempt};
use crate::{
    event::{Effect, Kind, Outcome, Verdict},
    hooks::{
        api::state::MAX_KEYS,
        decide::{Decide, Record, Stands, Undecided, told},
        folder_files::Files,
        received::{changes_of, is_placed},
        redo::{Change, Changer, Pass, from_body, to_body},
        transaction::{Changes, files::Place, files::Touched},
    },
    journal::{
        self, Journal, JournalError, Task, Withheld,
        decided::{self, Decided},
        delivered,
        redo::{self, Redo},
        script_state::{self, Edits},
    },
    meta::QUARANTINE,
    root::{Root, RootError, name::Name, user::User},
    store::Stores,
};

/// Makes decisions take effect. Copies of it are the same one.
#[derive(Clone)]
pub struct Decider {
    journal: Journal,
    changer: Changer,
    stores: Stores,
    claims: Claims,
    unflushed: Arc<Mutex<Rest>>,
    /// Taken by who flushes, so that others wait until it is done.
    flushing: Arc<Mutex<()>>,
}

/// Changes that were made and do not survive a loss of power yet, or could not be made: their
/// row of the journal has to stay.
struct Unflushed {
    seq: i64,
    user: User,
    changes: Arc<[Change]>,
    /// Tasks that wait for them.
    then: Vec<Task>,
    /// When they are made again, where they could not be.
    again: Option<Again>,
    /// Files that stay hidden until then.
    withheld: Option<Withheld>,
}

/// All that was made and is not safe yet.
#[derive(Default)]
struct Rest {
    rows: Vec<Unflushed>,
    /// The places of these changes: how many there are at each, and how many displace a file.
    places: HashMap<(Name, Place), (usize, usize)>,
}

impl Rest {
    fn add(&mut self, row: Unflushed) {
        self.count(&row, |count, displaces| {
            count.0 += 1;
            count.1 += usize::from(displaces);
        });
        self.rows.push(row);
    }

    /// Forgets the places of a row that was taken out.
    fn forget(&mut self, row: &Unflushed) {
        self.count(row, |count, displaces| {
            count.0 = count.0.saturating_sub(1);
            count.1 = count.1.saturating_sub(usize::from(displaces));
        });
        let user = row.user.name();
        for place in row.changes.iter().flat_map(Change::places) {
            let key = (user.clone(), place);
            if self.places.get(&key).is_some_and(|count| count.0 == 0) {
                self.places.remove(&key);
            }
        }
    }

    fn count(&mut self, row: &Unflushed, mut each: impl FnMut(&mut (usize, usize), bool)) {
        let user = row.user.name();
        for change in row.changes.iter() {
            for place in change.places() {
                let count = self.places.entry((user.clone(), place)).or_default();
                each(count, change.displaces());
            }
        }
    }

    /// Whether a decision about files could not be told from one of these, if both were made
    /// again.
    fn meets(&self, user: &User, changes: &[Change]) -> bool {
        !self.places.is_empty()
            && changes.iter().any(|change| {
                let places = change.places().into_iter();
                let mut counts =
                    places.filter_map(|place| self.places.get(&(user.name().clone(), place)));
                counts.any(|(_, displacing)| change.displaces() || *displacing > 0)
            })
    }
}

/// The next attempt at changes that could not be made.
#[derive(Clone, Copy)]
struct Again {
    when: Instant,
    pause: Duration,
    attempts: u32,
}

/// How long changes that could not be made wait at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Attempts at changes until they are given up.
const MAX_ATTEMPTS: u32 = 20;

/// Rows whose changes wait for a flush before one is made at once.
const MAX_UNFLUSHED: usize = 1_024;

/// What is written into the journal about one event whose hooks have run.
pub(super) struct Plan {
    record: Option<Arc<Record>>,
    user: User,
    /// The transfer that brought the file, where it is about one.
    transfer: Option<delivered::Key>,
    values: BTreeMap<String, Edits>,
    changes: Arc<[Change]>,
    tasks: Vec<Task>,
    /// What the sender is told instead of an ACK, now and whenever it asks again.
    words: Option<String>,
    /// What `[OnMeta]` decided, where the next attempt of the transfer has to go by it.
    decided: Option<Decided>,
    /// When the hooks run again, where they came to no decision.
    attempt: Option<Attempt>,
}

impl Plan {
    /// The plan for an event. Where it came to no decision, `attempt` says how it goes on.
    pub(super) fn new(
        record: Option<&Arc<Record>>,
        verdict: &mut Verdict,
        changes: Changes,
        attempt: Option<Attempt>,
    ) -> Self {
        let Changes {
            values,
            files,
            inbox,
            effects,
            ..
        } = changes;
        let transfer = verdict.meta.as_ref().zip(record).and_then(key_of);
        let mut list = files;
        if record.is_some_and(|record| record.kind == Kind::Received) {
            list.extend(changes_of(verdict));
        }
        list.extend(told(&inbox));
        let words = match &verdict.outcome {
            Outcome::Refused(words) => Some(words.clone()),
            Outcome::Quarantined(reason) if verdict.tells_sender => Some(reason.clone()),
            _ => None,
        };
        let is_received = record.is_some_and(|record| record.kind == Kind::Received);
        let tasks = record.map(|record| effects_of(&record.task, &effects));
        verdict.effects = effects;
        let asks_nothing = values.is_empty() && list.is_empty() && verdict.effects.is_empty();
        let decided = match record {
            Some(record) if record.kind == Kind::Meta && !asks_nothing => decided(record, verdict),
            _ => None,
        };
        Self {
            user: verdict.folder.user().clone(),
            record: record.cloned(),
            transfer,
            values,
            changes: list.into(),
            tasks: tasks.unwrap_or_default(),
            words: words.filter(|_| is_received),
            decided,
            attempt,
        }
    }

    /// Whether it says nothing that the journal does not know.
    fn is_empty(&self) -> bool {
        let stands = self.record.as_ref().map(|record| &record.stands);
        matches!(stands, None | Some(Stands::Nothing))
            && self.values.is_empty()
            && self.changes.is_empty()
            && self.tasks.is_empty()
    }

    /// Whether the tasks have to wait until the file has the path that its sender wants.
    fn waits(&self) -> bool {
        !self.tasks.is_empty() && self.changes.iter().any(|c| matches!(c, Change::Put { .. }))
    }

    /// Whether it has to survive a loss of power before its changes are made. A `.meta` need
    /// not: as long as its transfer waits for hooks, that has what it said before them.
    fn is_durable(&self) -> bool {
        let is_meta = |change: &Change| matches!(change, Change::Meta { .. });
        let stands = self.record.as_ref().map(|record| &record.stands);
        let of_transfer = matches!(stands, Some(Stands::Transfer(_)));
        if self.attempt.is_some() {
            return false;
        }
        // What [OnMeta] counted goes with the file that it let come; else nothing follows that
        // would make it safe.
        let is_last = stands == Some(&Stands::Nothing) && self.decided.is_none();
        (is_last && !self.values.is_empty())
            || self.words.is_some()
            || !self.tasks.is_empty()
            || !self.changes.iter().all(is_meta)
            || !(of_transfer || self.changes.is_empty())
    }

    /// Writes all but the changes; returns whether there may be something to do after it.
    fn write(&self, db: &Connection) -> rusqlite::Result<bool> {
        script_state::apply(db, self.user.name().as_str(), &self.values)?;
        if !self.waits() {
            journal::insert(db, &self.tasks)?;
        }
        let Some(record) = &self.record else {
            return Ok(false);
        };
        if let Some(attempt) = &self.attempt {
            attempt.write(db, &record.stands)?;
            return Ok(true);
        }
        if let (Some(decided), Some(key)) = (&self.decided, &self.transfer) {
            decided::put(db, key, decided)?;
        }
        let mut is_completed = false;
        if let Stands::Transfer(key) = &record.stands {
            is_completed = delivered::complete(db, key)?;
        }
        if !is_completed && record.stands != Stands::Nothing {
            journal::remove(db, &record.task)?;
        }
        if let (Some(words), Some(key)) = (&self.words, &self.transfer) {
            delivered::reject(db, key, words)?;
        }
        Ok(!self.tasks.is_empty() || journal::is_waited_for(db, &record.task)?)
    }
}

/// A decision to let a file come by which the next attempt goes. One to refuse it is not
/// remembered: who sends it again wants it to be looked at again.
fn decided(record: &Record, verdict: &Verdict) -> Option<Decided> {
    let (asked, meta) = (verdict.before.as_ref()?, verdict.meta.as_ref()?);
    let mut meta = meta.clone();
    match &verdict.outcome {
        Outcome::Accepted => {}
        Outcome::Quarantined(reason) => {
            let reason = reason.as_str().into();
            meta.extra.insert(QUARANTINE.to_owned(), reason);
        }
        Outcome::Refused(_) | Outcome::Failed | Outcome::Later => return None,
    }
    Some(Decided {
        basis: record.rules.basis(asked),
        meta: String::from_utf8(meta.to_file()).ok()?,
    })
}

/// What a write of plans gave: the rows of their changes, where they have any.
type Rows = Vec<(i64, Vec<usize>)>;

/// Writes plans, or nothing where values are not what the scripts read.
fn write(db: &Connection, plans: &[Plan]) -> rusqlite::Result<(Option<Rows>, bool)> {
    for plan in plans {
        let user = plan.user.name().as_str();
        if !script_state::can_apply(db, user, &plan.values, MAX_KEYS)? {
            return Ok((None, false));
        }
    }
    let (mut rows, mut news) = (Rows::new(), false);
    let mut together = Vec::new();
    for (at, plan) in plans.iter().enumerate() {
        news |= plan.write(db)?;
        if plan.waits() {
            let body = to_body(&plan.changes, &plan.tasks);
            rows.push((redo::add(db, plan.user.name().as_str(), &body)?, vec![at]));
        } else if !plan.changes.is_empty() {
            together.push(at);
        }
    }
    if let Some(first) = together.first().and_then(|at| plans.get(*at)) {
        let all: Vec<Change> = together
            .iter()
            .filter_map(|at| plans.get(*at))
            .flat_map(|plan| plan.changes.iter().cloned())
            .collect();
        let body = to_body(&all, &[]);
        let seq = redo::add(db, first.user.name().as_str(), &body)?;
        rows.push((seq, together));
    }
    Ok((Some(rows), news))
}

impl Decider {
    /// Writes into a journal, and makes changes by that.
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

    /// Has plans of one user take effect together, whose scripts touched nothing that others
    /// may touch too. Returns for each the path that its file got, if its sender wants one.
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
        let making = tokio::task::spawn_blocking(move || this.make(&plans, rows));
        making.await.map_err(|e| e.to_string())
    }

    /// Hides files that are to go, or to get another place, until that is done: from the
    /// decision on the journal does not say any more that they are pending.
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
        self.flush_if_many();
        paths
    }

    /// Keeps a row until its changes are safe. Of those that could not all be made only these
    /// are kept, to be made again.
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
                row.withheld = Some(self.withhold(&row.user, changes.iter()));
                row.changes = changes.into();
                row.again = Some(Again {
                    when: Instant::now() + PAUSES.0,
                    pause: PAUSES.0,
                    attempts: 1,
                });
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
        let written = self.journal.write(true, move |db| {
            journal::insert(db, &tasks)?;
            redo::update(db, seq, &body)
        });
        if let Err(error) = written.wait() {
            // The row has them, for the next start.
            error!("{error}");
        }
    }

    /// Makes changes again that could not be made; returns whether nothing is left to make.
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
            if again.attempts < MAX_ATTEMPTS {
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
        true
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
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = std::mem::take(&mut self.unflushed().rows);
        let mut users: BTreeMap<Name, (User, Vec<Unflushed>)> = BTreeMap::new();
        for mut row in rows {
            // Changes that are left of a row have other places than all of it.
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

    /// Makes the changes again of decisions that a server before this one took and did not
    /// live to see done. It belongs before everything else that looks into the journal or the
    /// folders.
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
        let _claim = self.claims.claim(&user, places.collect());
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
        Ok(())
    }
}

/// Files that a decision changes just now.
#[derive(Clone, Default)]
struct Claims(Arc<(Mutex<HashSet<(Name, Place)>>, Condvar)>);

/// A claim, until it is dropped.
struct Claim {
    claims: Claims,
    places: Vec<(Name, Place)>,
}

impl Claims {
    /// Waits until nobody else changes these files.
    fn claim(&self, user: &User, places: Vec<Place>) -> Claim {
        let of = |place: Place| (user.name().clone(), place);
        let places: Vec<_> = places.into_iter().map(of).collect();
        let (lock, freed) = &*self.0;
        let mut claimed = lock.lock().unwrap_or_else(PoisonError::into_inner);
        while places.iter().any(|place| claimed.contains(place)) {
            claimed = freed.wait(claimed).unwrap_or_else(PoisonError::into_inner);
        }
        claimed.extend(places.iter().cloned());
        Claim {
            claims: self.clone(),
            places,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let (lock, freed) = &*self.claims.0;
        let mut claimed = lock.lock().unwrap_or_else(PoisonError::into_inner);
        for place in &self.places {
            claimed.remove(place);
        }
        freed.notify_all();
    }
}

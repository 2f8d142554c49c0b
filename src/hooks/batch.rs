//! Events on their way through their scripts, one or many in one hand-over to a thread.
//!
//! A thread takes a parcel of events of one user and runs them one after the other, script
//! by script. Scripts take microseconds and a hand-over costs more than that, so one
//! hand-over serves all. Two things end it early: an event that needs a program leaves the parcel
//! and continues by itself, and a parcel that has used up its `BUDGET` comes back. What is left of
//! it then continues in two halves at the same time, so that a slow script holds up the other
//! events for a few budgets at most.

#![expect(
    clippy::vec_box,
    reason = "a firing is large, and moves from parcel to parcel and from thread to thread"
)]

use std::{
    cell::RefCell,
    collections::VecDeque,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use cap_std::fs::Dir;
use futures_util::FutureExt;
use tokio::{
    sync::mpsc,
    task::{self, JoinSet},
    time::timeout_at,
};
use tracing::warn;

use super::{
    Hooks,
    decide::Undecided,
    firing::{Firing, Progress, ToFire},
    folder_files::Files,
    lookup::{Hook, find},
    notes::Mode,
    report::HookError,
    script::{Compiled, Ran},
    slots::PATIENCE,
    workers::Seat,
};
use crate::{
    event::{Event, Subject, Verdict},
    json::{Map, Value},
    root::file,
};

/// How long one hand-over may keep a thread until others share what is left of it. It is
/// the time after which a single script counts as long (see `call.rs`): hundreds of quick
/// scripts fit into it, and a person does not notice it.
const BUDGET: Duration = Duration::from_millis(5);

/// After this many conflicts an event decides while no other event of its user does.
const PATIENT: u32 = 3;

/// How often the scripts of an event begin again because others were faster.
const MAX_CONFLICTS: u32 = 32;

/// Verdicts, each with the index of its event in the batch.
pub type Verdicts = Vec<(usize, Verdict)>;

/// Events that are fired together. [`Batch::next`] returns their verdicts.
pub struct Batch {
    hooks: Hooks,
    mode: Mode,
    left: usize,
    /// Those that no script waits for.
    over: Verdicts,
    returning: mpsc::UnboundedSender<Vec<Box<Firing>>>,
    returned: mpsc::UnboundedReceiver<Vec<Box<Firing>>>,
    /// What was handed to the threads, and when.
    tickets: VecDeque<(u64, Instant)>,
    /// Programs that run for events of the batch, and events that wait for a slot.
    beside: Option<JoinSet<()>>,
}

impl Batch {
    pub(super) fn new(hooks: &Hooks, mode: &Mode, events: Vec<ToFire>) -> Self {
        let (returning, returned) = mpsc::unbounded_channel();
        let mut batch = Self {
            hooks: hooks.clone(),
            mode: mode.clone(),
            left: events.len(),
            over: Vec::new(),
            returning,
            returned,
            tickets: VecDeque::new(),
            beside: None,
        };
        let mut ready = Vec::with_capacity(events.len());
        for (place, to_fire) in events.into_iter().enumerate() {
            let firing = Firing::new(place, to_fire, &hooks.stores);
            match firing.progress {
                Progress::Over => batch.over.push(firing.verdict()),
                _ => ready.push(firing),
            }
        }
        batch.hand_over(ready);
        batch
    }

    /// How many events have not had their verdict yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Waits for the next verdicts; forever, if there are none [left](Self::left).
    pub async fn next(&mut self) -> Verdicts {
        let mut over = mem::take(&mut self.over);
        while over.is_empty() {
            let mut ready = Vec::new();
            let heard = &self.hooks.heard.clone();
            for mut firing in self.come_back().await {
                match mem::replace(&mut firing.progress, Progress::Ready) {
                    Progress::Ready => {}
                    Progress::Undecided => firing.progress = Progress::Undecided,
                    Progress::Over => firing.progress = Progress::Over,
                    Progress::Program(path) => {
                        self.start(firing, path);
                        continue;
                    }
                    Progress::Waits => {
                        self.wait_for_slot(firing);
                        continue;
                    }
                    Progress::Ended(result) => firing.has_run(*result, &self.mode, heard),
                    Progress::Unserved => {
                        let script = firing.script.clone();
                        let busy = Err(HookError::Busy { script });
                        firing.has_run(busy, &self.mode, heard);
                    }
                    Progress::Panicked => {
                        let panic = Err(HookError::Panic);
                        firing.has_run(panic, &self.mode, heard);
                    }
                }
                match firing.progress {
                    Progress::Over => over.push(firing.verdict()),
                    _ => ready.push(firing),
                }
            }
            let half = ready.split_off(ready.len() / 2);
            self.hand_over(ready);
            self.hand_over(half);
        }
        self.left = self.left.saturating_sub(over.len());
        over
    }

    /// Waits for the one verdict of a batch of one.
    pub(super) async fn only(mut self) -> Verdict {
        loop {
            if let Some((_, verdict)) = self.next().await.pop() {
                return verdict;
            }
        }
    }

    /// Hands events to a thread for scripts.
    fn hand_over(&mut self, firings: Vec<Box<Firing>>) {
        let Some(first) = firings.first() else {
            return;
        };
        let user = first.event.folder.user().name().clone();
        let parcel = Parcel {
            ready: firings.into(),
            done: Vec::new(),
            has_begun: false,
            returning: self.returning.clone(),
        };
        let (hooks, mode) = (self.hooks.clone(), self.mode.clone());
        let work = move |seat: &Rc<Seat>| parcel.run(&hooks, &mode, seat);
        let ticket = self.hooks.workers.give(&user, Box::new(work));
        self.tickets.push_back((ticket, Instant::now()));
    }

    /// Waits for events that come back from a thread or a program. Those whose turn on a
    /// thread does not come for a long time are taken back.
    async fn come_back(&mut self) -> Vec<Box<Firing>> {
        loop {
            let back = match self.tickets.front() {
                None => self.returned.recv().await,
                Some((_, since)) => {
                    let patience = (*since + PATIENCE).into();
                    match timeout_at(patience, self.returned.recv()).await {
                        Ok(back) => back,
                        Err(_) => {
                            // What has begun ends by itself.
                            let ticket = self.tickets.pop_front();
                            if let Some((ticket, _)) = ticket {
                                self.hooks.workers.take_back(ticket);
                            }
                            continue;
                        }
                    }
                }
            };
            match back {
                Some(firings) => return firings,
                // It cannot be closed: the other end is here too.
                None => std::future::pending().await,
            }
        }
    }

    /// Waits for a slot for an event, alongside everything else, and makes its scripts begin again.
    fn wait_for_slot(&mut self, mut firing: Box<Firing>) {
        let (hooks, returning) = (self.hooks.clone(), self.returning.clone());
        let user = firing.event.folder.user().name().clone();
        self.beside.get_or_insert_default().spawn(async move {
            if firing.slot.is_none() {
                firing.slot = hooks.slots.long.take(&user).await.map(Arc::new);
            }
            match firing.slot {
                Some(_) => firing.begin_again(&hooks.stores),
                None => firing.progress = Progress::Unserved,
            }
            let _ = returning.send(vec![firing]);
        });
    }

    /// Runs a program for an event, alongside everything else.
    fn start(&mut self, mut firing: Box<Firing>, path: PathBuf) {
        let (hooks, returning) = (self.hooks.clone(), self.returning.clone());
        self.beside.get_or_insert_default().spawn(async move {
            let started = hooks.start(&path, &mut firing);
            let ended = AssertUnwindSafe(started).catch_unwind().await;
            firing.progress = Progress::Ended(Box::new(ended.unwrap_or(Err(HookError::Panic))));
            let _ = returning.send(vec![firing]);
        });
    }
}

/// Events that one thread takes in one go. Whatever becomes of it, they come back.
struct Parcel {
    ready: VecDeque<Box<Firing>>,
    done: Vec<Box<Firing>>,
    has_begun: bool,
    returning: mpsc::UnboundedSender<Vec<Box<Firing>>>,
}

impl Parcel {
    /// Runs the scripts of the events, on a thread for scripts.
    fn run(mut self, hooks: &Hooks, mode: &Mode, seat: &Rc<Seat>) {
        self.has_begun = true;
        let turn = Turn {
            mode,
            seat,
            begun: Instant::now(),
            parcel: Rc::new(RefCell::new(self)),
        };
        loop {
            let Some(mut firing) = turn.parcel.borrow_mut().ready.pop_front() else {
                break;
            };
            let advanced = catch_unwind(AssertUnwindSafe(|| hooks.advance(&mut firing, &turn)));
            if advanced.is_err() {
                firing.progress = Progress::Panicked;
            }
            turn.parcel.borrow_mut().done.push(firing);
            if turn.is_over() {
                break;
            }
        }
    }

    fn hand_back(&mut self) {
        let mut back = mem::take(&mut self.done);
        back.extend(mem::take(&mut self.ready));
        if !back.is_empty() {
            // Nobody may wait for them any more.
            let _ = self.returning.send(back);
        }
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        if !self.has_begun {
            for firing in &mut self.ready {
                // What was decided has to take effect, however long that waits.
                if matches!(firing.progress, Progress::Ready) {
                    firing.progress = Progress::Unserved;
                }
            }
        }
        self.hand_back();
    }
}

/// The turn of a parcel on a thread.
struct Turn<'a> {
    mode: &'a Mode,
    seat: &'a Rc<Seat>,
    begun: Instant,
    parcel: Rc<RefCell<Parcel>>,
}

impl Turn<'_> {
    fn is_over(&self) -> bool {
        self.seat.has_left() || self.begun.elapsed() > BUDGET
    }
}

/// How far a thread gets with a script.
enum Step {
    Ran(Box<Ran>),
    Start(PathBuf),
}

impl Hooks {
    /// Runs the scripts of an event until it needs a program, it is over, or the turn is.
    fn advance(&self, firing: &mut Firing, turn: &Turn<'_>) {
        loop {
            match firing.progress {
                Progress::Ready => self.run_next(firing, turn, true),
                Progress::Undecided => self.decide(firing, turn),
                _ => return,
            }
            if turn.is_over() {
                return;
            }
        }
    }

    /// Runs the script whose turn it is, unless that is a program.
    fn run_next(&self, firing: &mut Firing, turn: &Turn<'_>, may_wait: bool) {
        firing.since = Instant::now();
        let result = match self.step(firing, turn, may_wait) {
            Err(HookError::Busy { .. }) => {
                firing.progress = Progress::Waits;
                return;
            }
            Ok(Step::Start(path)) if turn.mode.programs => {
                firing.progress = Progress::Program(path);
                return;
            }
            Ok(Step::Start(_)) => {
                if let Some(notes) = &turn.mode.notes {
                    let script = &firing.script;
                    notes.line("INFO", &format!("{script}: a program, not started"));
                }
                let subject = firing.event.subject.as_ref();
                Ok(Ran::accepted(subject.map(|subject| subject.meta.clone())))
            }
            Ok(Step::Ran(ran)) => Ok(*ran),
            Err(error) => Err(error),
        };
        firing.has_run(result, turn.mode, &self.heard);
    }

    /// Makes what was decided take effect. If something that the scripts looked at has changed
    /// meanwhile, they begin again; after a few times while nobody else decides. Scripts that have
    /// to wait for something do not keep the others waiting for that.
    fn decide(&self, firing: &mut Firing, turn: &Turn<'_>) {
        let of_user = self.turns.of(firing.event.folder.user().name());
        if firing.conflicts < PATIENT {
            let _with_others = of_user.read().unwrap_or_else(PoisonError::into_inner);
            return self.decide_now(firing);
        }
        let _alone = of_user.write().unwrap_or_else(PoisonError::into_inner);
        self.decide_now(firing);
        while matches!(firing.progress, Progress::Ready | Progress::Undecided) {
            match firing.progress {
                Progress::Undecided => self.decide_now(firing),
                _ => self.run_next(firing, turn, false),
            }
        }
    }

    fn decide_now(&self, firing: &mut Firing) {
        let (mut verdict, changes) = firing.undecided();
        let record = firing.record.as_ref();
        match self.decider.decide(record, &mut verdict, changes) {
            Ok(()) => firing.settle(verdict),
            Err(Undecided::Conflict) if firing.conflicts < MAX_CONFLICTS => {
                firing.conflicts += 1;
                firing.begin_again(&self.stores);
            }
            Err(error) => firing.fail_as(verdict, error.to_string()),
        }
    }

    /// Finds what a line names, and runs it if it is a script: the result is busy if it has to wait
    /// for something but may not, or has no slot for that.
    fn step(
        &self,
        firing: &mut Firing,
        turn: &Turn<'_>,
        may_wait: bool,
    ) -> Result<Step, HookError> {
        let compiled = match firing.pinned.scripts.get(&firing.script) {
            Some(compiled) => compiled.clone(),
            None => {
                let folder = &firing.event.folder;
                match find(&self.root, folder, &self.programs.now(), &firing.script)? {
                    Hook::Script(source) => self.scripts.compiled(source)?,
                    Hook::Program(path) => return Ok(Step::Start(path)),
                }
            }
        };
        let lengthen = {
            let (seat, long) = (turn.seat.clone(), self.slots.long.clone());
            let user = firing.event.folder.user().name().clone();
            let (parcel, slot) = (turn.parcel.clone(), firing.slot.clone());
            move || {
                // The others need not wait for this one.
                parcel.borrow_mut().hand_back();
                if !seat.has_left()
                    && let Some(slot) = slot.clone().or_else(|| long.try_take(&user).map(Arc::new))
                {
                    seat.leave(slot);
                }
                may_wait && seat.has_left()
            }
        };
        let ran = self.run_script(firing, &compiled, turn.mode, lengthen)?;
        Ok(Step::Ran(Box::new(ran)))
    }

    fn run_script(
        &self,
        firing: &mut Firing,
        compiled: &Compiled,
        mode: &Mode,
        lengthen: impl Fn() -> bool + 'static,
    ) -> Result<Ran, HookError> {
        let none = Map::new();
        let event = &firing.event;
        let profile = match compiled.mentions("user") {
            true => firing.profile.get_or_insert_with(|| profile_of(event)),
            false => &none,
        };
        let about = (event, profile);
        self.scripts.run(
            &firing.script,
            compiled,
            about,
            &firing.transaction,
            mode,
            lengthen,
        )
    }

    /// Runs a program.
    async fn start(&self, program: &Path, firing: &mut Firing) -> Result<Ran, HookError> {
        let (event, name) = (&firing.for_program(), &firing.script);
        let user = event.folder.user().name();
        let busy = || HookError::Busy {
            script: name.clone(),
        };
        let _slot = self.slots.programs.take(user).await.ok_or_else(busy)?;
        if let Some(subject) = event.subject.clone()
            && firing.on_disk.as_ref() != Some(&subject.meta)
        {
            let (dir, name) = (event.folder.dir().clone(), name.clone());
            // Leaves the threads of the network to the network.
            task::spawn_blocking(move || write_meta(&dir, &name, &subject))
                .await
                .unwrap_or(Err(HookError::Panic))?;
        }
        let _own = self.self_changes.program(&event.folder);
        let ended = self.executables.run(program, event, &self.stores).await;
        let (transaction, digests) = (firing.transaction.clone(), self.digests.clone());
        let file = event.file.clone();
        let files = Files::new(&event.folder, &self.stores);
        let looking = task::spawn_blocking(move || {
            // What it did to files that scripts before it looked at is no reason to begin again.
            let _ = transaction.refresh();
            // It may have written so soon that the time of the last change is the same.
            if let Some(version) = file.and_then(|file| files.version(&file).ok()?) {
                digests.remove(&version);
            }
        });
        let _ = looking.await;
        if let Some(subject) = event.subject.as_ref().filter(|s| s.meta.is_message()) {
            let (dir, meta) = (event.folder.dir().clone(), subject.meta_file());
            let _ = task::spawn_blocking(move || dir.remove_file(meta)).await;
            return ended.map(Ran::accepted);
        }
        let meta = ended?;
        firing.on_disk.clone_from(&meta);
        Ok(Ran::accepted(meta))
    }
}

fn profile_of(event: &Event) -> Map<String, Value> {
    let user = event.folder.user();
    // A profile that cannot be read does not hold up a hook that does not need it.
    user.profile().unwrap_or_else(|error| {
        warn!(user = %user.name(), "{error}");
        Map::new()
    })
}

/// Writes what scripts made of a meta to the disk, for a program that comes after them.
fn write_meta(dir: &Dir, script: &str, subject: &Subject) -> Result<(), HookError> {
    let file = subject.meta_file();
    let mode = if subject.meta.is_message() {
        0o600
    } else {
        0o644
    };
    file::replace(dir, &file, mode, &subject.meta.to_file()).map_err(|source| {
        HookError::Unwritable {
            script: script.to_owned(),
            file,
            source,
        }
    })
}

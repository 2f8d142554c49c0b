//! Events on their way through their scripts, one or many in one hand-over to a thread.
//!
//! A thread takes a parcel of events of one user and runs them one after the other, script
//! by script. Scripts take microseconds and a hand-over costs more than that, so one
//! hand-over serves all. Two things end it early: an event that needs a program leaves the
//! parcel and goes on by itself, and a parcel that has used up its [`BUDGET`] comes back.
//! What is left of it then goes on in two halves at the same time, so that a slow script
//! holds up the other events for a few budgets at most.

use std::{
    cell::RefCell,
    collections::VecDeque,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
    vec,
};

use cap_std::fs::Dir;
use futures_util::FutureExt;
use tokio::{
    sync::mpsc,
    task::{self, JoinSet},
    time::timeout_at,
};
use tracing::{debug, info, warn};

use super::{
    Hooks, Pinned,
    api::{
        decision::Decision,
        deeds::{Touch, Touched},
    },
    lookup::{Found, find},
    notes::Mode,
    own::Own,
    report::HookError,
    script::{Compiled, Ran},
    slots::PATIENCE,
    workers::Seat,
};
use crate::{
    error::printable,
    event::{Event, Kind, Outcome, Run, Subject, Verdict},
    json::{Map, Value},
    meta::Meta,
    root::{file, folder::Folder, name::Name},
};

/// How long one hand-over may keep a thread until others share what is left of it. It is
/// the time after which a single script counts as long (see `limits.rs`): hundreds of quick
/// scripts fit into it, and a person does not notice it.
const BUDGET: Duration = Duration::from_millis(5);

/// An event on its way through its scripts.
struct Firing {
    /// Its place in the batch.
    place: usize,
    event: Event,
    pinned: Pinned,
    /// The script whose turn it is.
    script: String,
    /// Those after it.
    scripts: vec::IntoIter<String>,
    /// Since when it is that script's turn.
    since: Instant,
    progress: Progress,
    /// The profile of the folder's user, once a script has asked for it.
    profile: Option<Map<String, Value>>,
    /// What a program finds in the `.meta`; scripts may be ahead of it.
    on_disk: Option<Meta>,
    so_far: SoFar,
}

/// How far an event is.
enum Progress {
    /// The script whose turn it is can run on a thread for scripts.
    Ready,
    /// It is this program's turn.
    Program(PathBuf),
    /// The program has ended.
    Ended(Result<Ran, HookError>),
    /// The turn of the script did not come, or there was no thread.
    Unserved,
    /// The thread panicked at the script.
    Panicked,
    /// All scripts have run, or one objected.
    Over,
}

/// What the scripts of an event have said so far.
struct SoFar {
    outcome: Outcome,
    runs: Vec<Run>,
    effects: Vec<crate::event::Effect>,
    quarantine: Option<String>,
    hidden: Vec<String>,
}

/// Verdicts, each with the place of its event in the batch.
pub type Verdicts = Vec<(usize, Verdict)>;

/// An event to be fired, and the scripts that are to run for it.
pub struct ToFire {
    /// What happened.
    pub event: Event,
    /// Of those that m2y.config names.
    pub scripts: Vec<String>,
    /// Those that are read already.
    pub pinned: Pinned,
}

impl ToFire {
    /// An event for which all scripts of its section run.
    pub fn all(event: Event, pinned: Pinned) -> Self {
        Self {
            scripts: event.config.scripts(event.kind.section()),
            event,
            pinned,
        }
    }
}

impl Firing {
    fn new(place: usize, to_fire: ToFire) -> Box<Self> {
        let ToFire {
            event,
            scripts,
            pinned,
        } = to_fire;
        let has_program = scripts.iter().any(|script| !script.ends_with(".rhai"));
        let subject = event.subject.as_ref().filter(|_| has_program);
        let mut firing = Self {
            place,
            on_disk: subject.map(|subject| subject.meta.clone()),
            event,
            pinned,
            script: String::new(),
            scripts: scripts.into_iter(),
            since: Instant::now(),
            progress: Progress::Ready,
            profile: None,
            so_far: SoFar {
                outcome: Outcome::Accepted,
                runs: Vec::new(),
                effects: Vec::new(),
                quarantine: None,
                hidden: Vec::new(),
            },
        };
        firing.turn();
        Box::new(firing)
    }

    /// It is the next script's turn, if there is one.
    fn turn(&mut self) {
        match self.scripts.next() {
            Some(script) => {
                self.script = script;
                self.since = Instant::now();
                self.progress = Progress::Ready;
            }
            None => self.progress = Progress::Over,
        }
    }

    /// What a script did becomes that of the event; returns what it decided.
    fn follow(&mut self, ran: Ran) -> Outcome {
        self.so_far.effects.extend(ran.effects);
        for touched in &ran.touched {
            follow(&mut self.event, touched);
        }
        let words = ran.meta.as_ref().map(|meta| meta.error.clone());
        if let (Some(subject), Some(meta)) = (&mut self.event.subject, ran.meta) {
            subject.meta = meta;
        }
        match (ran.decision, words.unwrap_or_default()) {
            (Decision::Reject(reason), _) => Outcome::Refused(reason),
            (_, words) if !words.is_empty() => Outcome::Refused(words),
            (Decision::Quarantine(reason), _) => {
                self.so_far.quarantine = Some(reason.clone());
                Outcome::Quarantined(reason)
            }
            (Decision::Hide(patterns), _) => {
                self.so_far.hidden.extend(patterns);
                Outcome::Accepted
            }
            (Decision::Accept, _) => Outcome::Accepted,
        }
    }

    fn verdict(self) -> (usize, Verdict) {
        let SoFar {
            mut outcome,
            runs,
            effects,
            quarantine,
            hidden,
        } = self.so_far;
        if let (Outcome::Accepted, Some(reason)) = (&outcome, quarantine) {
            outcome = Outcome::Quarantined(reason);
        }
        let event = self.event;
        let (meta, stem) = event
            .subject
            .map(|subject| {
                let mut meta = subject.meta;
                if let Some(words) = outcome.objection() {
                    meta.error = words.to_owned();
                }
                (meta, subject.stem)
            })
            .unzip();
        let verdict = Verdict {
            meta,
            stem,
            folder: event.folder,
            file: event.file,
            outcome,
            runs,
            effects,
            hidden,
            placed: None,
        };
        (self.place, verdict)
    }
}

/// Events that are fired together. What has its verdict comes by [`Batch::next`].
pub struct Batch {
    hooks: Hooks,
    mode: Mode,
    crowd: bool,
    left: usize,
    /// Those that no script waits for.
    over: Verdicts,
    returning: mpsc::UnboundedSender<Vec<Box<Firing>>>,
    returned: mpsc::UnboundedReceiver<Vec<Box<Firing>>>,
    /// What was handed to the threads, and when.
    tickets: VecDeque<(u64, Instant)>,
    /// Programs that run for events of the batch.
    programs: Option<JoinSet<()>>,
}

impl Batch {
    pub(super) fn new(hooks: &Hooks, mode: &Mode, events: Vec<ToFire>) -> Self {
        let (returning, returned) = mpsc::unbounded_channel();
        let mut batch = Self {
            hooks: hooks.clone(),
            mode: mode.clone(),
            crowd: events.iter().any(|to_fire| to_fire.pinned.crowd),
            left: events.len(),
            over: Vec::new(),
            returning,
            returned,
            tickets: VecDeque::new(),
            programs: None,
        };
        let mut ready = Vec::with_capacity(events.len());
        for (place, to_fire) in events.into_iter().enumerate() {
            let firing = Firing::new(place, to_fire);
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

    /// Waits for the next verdicts; for ever, if there are none [left](Self::left).
    pub async fn next(&mut self) -> Verdicts {
        let mut over = mem::take(&mut self.over);
        while over.is_empty() {
            let mut ready = Vec::new();
            for mut firing in self.come_back().await {
                match mem::replace(&mut firing.progress, Progress::Ready) {
                    Progress::Ready => {}
                    Progress::Over => firing.progress = Progress::Over,
                    Progress::Program(path) => {
                        self.start(firing, path);
                        continue;
                    }
                    Progress::Ended(result) => self.hooks.has_run(&mut firing, result, &self.mode),
                    Progress::Unserved => {
                        let script = firing.script.clone();
                        let busy = Err(HookError::Busy { script });
                        self.hooks.has_run(&mut firing, busy, &self.mode);
                    }
                    Progress::Panicked => {
                        let panic = Err(HookError::Panic);
                        self.hooks.has_run(&mut firing, panic, &self.mode);
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
        let returned = &self.returned;
        let ticket = self
            .hooks
            .workers
            .give(&user, self.crowd, Box::new(work), || !returned.is_empty());
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
                            ticket.map(|(ticket, _)| self.hooks.workers.take_back(ticket));
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

    /// Runs a program for an event, beside all else.
    fn start(&mut self, mut firing: Box<Firing>, path: PathBuf) {
        let (hooks, returning) = (self.hooks.clone(), self.returning.clone());
        let programs = self.programs.get_or_insert_default();
        programs.spawn(async move {
            let started = hooks.start(&path, &mut firing);
            let ended = AssertUnwindSafe(started).catch_unwind().await;
            firing.progress = Progress::Ended(ended.unwrap_or(Err(HookError::Panic)));
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
                firing.progress = Progress::Unserved;
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
        while matches!(firing.progress, Progress::Ready) {
            firing.since = Instant::now();
            let result = match self.step(firing, turn) {
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
            self.has_run(firing, result, turn.mode);
            if turn.is_over() {
                return;
            }
        }
    }

    /// Finds what a line names, and runs it if it is a script.
    fn step(&self, firing: &mut Firing, turn: &Turn<'_>) -> Result<Step, HookError> {
        let compiled = match firing.pinned.scripts.get(&firing.script) {
            Some(compiled) => compiled.clone(),
            None => {
                let folder = &firing.event.folder;
                match find(&self.root, folder, &self.programs, &firing.script)? {
                    Found::Script(source) => self.scripts.compiled(source)?,
                    Found::Executable(path) => return Ok(Step::Start(path)),
                }
            }
        };
        let lengthen = {
            let (seat, long) = (turn.seat.clone(), self.slots.long.clone());
            let user = firing.event.folder.user().name().clone();
            let parcel = turn.parcel.clone();
            move || {
                // The others need not wait for this one.
                parcel.borrow_mut().hand_back();
                if let Some(slot) = long.try_take(&user) {
                    seat.leave(slot);
                }
            }
        };
        let ran = self.run_script(firing, &compiled, turn.mode, lengthen)?;
        for touched in &ran.touched {
            note(&self.own, &firing.event.folder, touched);
        }
        Ok(Step::Ran(Box::new(ran)))
    }

    fn run_script(
        &self,
        firing: &mut Firing,
        compiled: &Compiled,
        mode: &Mode,
        lengthen: impl FnOnce() + 'static,
    ) -> Result<Ran, HookError> {
        let none = Map::new();
        let event = &firing.event;
        let profile = match compiled.mentions("user") {
            true => firing.profile.get_or_insert_with(|| profile_of(event)),
            false => &none,
        };
        self.scripts
            .run_as(&firing.script, compiled, event, profile, mode, lengthen)
    }

    /// Takes down how a script ended. It is the next one's turn then, or the event is over.
    fn has_run(&self, firing: &mut Firing, result: Result<Ran, HookError>, mode: &Mode) {
        let why = result.as_ref().err().map(ToString::to_string);
        let outcome = match result {
            Ok(ran) => firing.follow(ran),
            Err(error) => {
                if !matches!(error, HookError::Thrown(_)) && mode.notes.is_none() {
                    // Not as fields: those would stand behind the caret.
                    let (folder, kind) = (&firing.event.folder, firing.event.kind);
                    let user = folder.user().name();
                    warn!("{user}/{} [{kind}] {error}", folder.name());
                }
                error.outcome()
            }
        };
        let run = Run {
            event: firing.event.kind,
            script: mem::take(&mut firing.script),
            took: firing.since.elapsed(),
            outcome: outcome.clone(),
            error: why,
        };
        if mode.notes.is_none() {
            log_run(&firing.event, &run);
            (self.heard)(&run);
        }
        firing.so_far.runs.push(run);
        // A check at [OnMeta] may still refuse what another one put into quarantine;
        // later, nothing more is to happen to a file that somebody has to look at.
        let is_held = matches!(outcome, Outcome::Quarantined(_));
        let is_over = outcome.objection().is_some() || (is_held && firing.event.kind != Kind::Meta);
        firing.so_far.outcome = outcome;
        match is_over {
            true => firing.progress = Progress::Over,
            false => firing.turn(),
        }
    }

    /// Runs a program.
    async fn start(&self, program: &Path, firing: &mut Firing) -> Result<Ran, HookError> {
        let (event, name) = (&firing.event, &firing.script);
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
        let _own = self.own.program(&event.folder);
        let meta = self.executables.run(program, event).await?;
        firing.on_disk.clone_from(&meta);
        Ok(Ran::accepted(meta))
    }
}

/// Takes what a script did to a file as no news.
fn note(own: &Own, folder: &Folder, touched: &Touched) {
    let noted = |name: &Name, file: &str| {
        if name == folder.name() {
            own.note(folder, file);
        } else if let Ok(folder) = folder.user().folder(name) {
            own.note(&folder, file);
        }
    };
    noted(&touched.folder, &touched.name);
    if let Touch::Renamed { folder, name } = &touched.how {
        noted(folder, name);
    }
}

/// Keeps an event with its file where a script gave that another name or folder.
fn follow(event: &mut Event, touched: &Touched) {
    let is_ours =
        event.file.as_ref() == Some(&touched.name) && *event.folder.name() == touched.folder;
    let Touch::Renamed { folder, name } = &touched.how else {
        return;
    };
    if !is_ours {
        return;
    }
    if let Ok(folder) = event.folder.user().folder(folder) {
        event.folder = folder;
    }
    if let Some(subject) = &mut event.subject {
        let stem = name.strip_suffix(".data");
        let stem = stem.or_else(|| name.rsplit_once('.').map(|(stem, _)| stem));
        subject.stem = stem.unwrap_or(name).to_owned();
    }
    event.file = Some(name.clone());
}

fn profile_of(event: &Event) -> Map<String, Value> {
    let user = event.folder.user();
    // A hook that needs none is not held up by a profile that cannot be read.
    user.profile().unwrap_or_else(|error| {
        warn!(user = %user.name(), "{error}");
        Map::new()
    })
}

/// Writes down what scripts made of a meta, for a program that comes after them.
fn write_meta(dir: &Arc<Dir>, script: &str, subject: &Subject) -> Result<(), HookError> {
    let file = subject.meta_file();
    file::replace(dir, &file, 0o644, &subject.meta.to_file()).map_err(|source| {
        HookError::Unwritable {
            script: script.to_owned(),
            file,
            source,
        }
    })
}

fn log_run(event: &Event, run: &Run) {
    let (verdict, words) = run.outcome.words();
    let colon = if words.is_empty() { "" } else { ": " };
    let id = event.subject.as_ref().and_then(|s| s.meta.id);
    macro_rules! log {
        ($level:ident) => {
            $level!(
                event = %run.event,
                user = %event.folder.user().name(),
                folder = %event.folder.name(),
                script = %printable(&run.script, 80),
                micros = run.took.as_micros() as u64,
                id = id.map(tracing::field::display),
                "hook {verdict}{colon}{}", printable(words, 200)
            )
        };
    }
    // A transfer that goes well has a line of its own.
    match (run.event, &run.outcome) {
        (Kind::Meta | Kind::Received | Kind::List | Kind::Get, Outcome::Accepted) => log!(debug),
        _ => log!(info),
    }
}

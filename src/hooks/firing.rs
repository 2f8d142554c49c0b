//! An event on its way through its scripts.

use std::{mem, path::PathBuf, sync::Arc, time::Instant};

use tracing::{debug, info, warn};

use super::{
    api::{
        actions::{Touch, Touched},
        decision::Decision,
    },
    decide::Record,
    lookup::is_program,
    notes::Mode,
    pinned::Pinned,
    report::HookError,
    script::Ran,
    slots::Slot,
    transaction::{Changes, Transaction, files::Place},
};
use crate::{
    error::printable,
    event::{Event, Kind, Outcome, Run, Subject, Verdict},
    json::{Map, Value},
    meta::Meta,
    root::folder::Folder,
    store::Stores,
};

/// Hears of every hook that ran in earnest.
pub type Heard = Arc<dyn Fn(&Run) + Send + Sync>;

/// An event on its way through its scripts.
pub(super) struct Firing {
    /// Its index in the batch.
    pub(super) place: usize,
    pub(super) event: Event,
    pub(super) pinned: Pinned,
    /// What the journal identifies it by, if it knows it.
    pub(super) record: Option<Arc<Record>>,
    /// What its scripts have asked for so far.
    pub(super) transaction: Transaction,
    /// What it was before them.
    origin: Origin,
    /// The script whose turn it is.
    pub(super) script: String,
    scripts: Vec<String>,
    /// How many of them have had their turn.
    turns: usize,
    /// How often they had to begin again.
    pub(super) conflicts: u32,
    /// Its place among those that work for long, if it had to wait for that.
    pub(super) slot: Option<Arc<Slot>>,
    /// Since when it is that script's turn.
    pub(super) since: Instant,
    pub(super) progress: Progress,
    /// The profile of the folder's user, once a script has asked for it.
    pub(super) profile: Option<Map<String, Value>>,
    /// What a program finds in the `.meta`; scripts may be ahead of it.
    pub(super) on_disk: Option<Meta>,
    so_far: SoFar,
    /// Why the last script came to no decision.
    why: Option<String>,
    /// What was decided, once that has taken effect.
    settled: Option<Verdict>,
}

/// What an event was about before its scripts ran.
pub(super) struct Origin {
    folder: Folder,
    file: Option<String>,
    subject: Option<Subject>,
}

/// How far an event is.
pub(super) enum Progress {
    /// The script whose turn it is can run on a thread for scripts.
    Ready,
    /// A script has to wait for something but may not do that where it is: the scripts begin again
    /// once the event has a place among those that take long.
    Waits,
    /// It is this program's turn.
    Program(PathBuf),
    /// The program has ended.
    Ended(Box<Result<Ran, HookError>>),
    /// The turn of the script did not come, or there was no thread.
    Unserved,
    /// The thread panicked at the script.
    Panicked,
    /// All scripts have run, or one objected. What they decided still has to take effect, on a
    /// thread for scripts.
    Undecided,
    /// Nothing is left to do for it.
    Over,
}

/// What the scripts of an event have said so far.
struct SoFar {
    outcome: Outcome,
    runs: Vec<Run>,
    quarantine: Option<String>,
    tells_sender: bool,
    accepts_stream: bool,
    hidden: Vec<String>,
    changes: Changes,
}

impl SoFar {
    fn nothing() -> Self {
        Self {
            outcome: Outcome::Accepted,
            runs: Vec::new(),
            quarantine: None,
            tells_sender: false,
            accepts_stream: false,
            hidden: Vec::new(),
            changes: Changes::default(),
        }
    }
}

/// An event to be fired, and the scripts that are to run for it.
pub struct ToFire {
    /// What happened.
    pub event: Event,
    /// Of those that m2y.config names.
    pub scripts: Vec<String>,
    /// Those that are read already.
    pub pinned: Pinned,
    /// What the journal identifies it by, if it knows it: then the caller makes sure that what is
    /// decided takes effect where that can wait for others.
    pub record: Option<Arc<Record>>,
    /// Files that the scripts find at other places than on the disk. Only for events that happened
    /// before, and for which nothing is done.
    pub displaced: Vec<Displaced>,
}

/// A file that was somewhere else when an event happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Displaced {
    /// Where it is on the disk.
    pub now: Place,
    /// Where it was; `None` if it had not arrived yet.
    pub then: Option<Place>,
}

impl ToFire {
    /// An event for which all scripts of its section run.
    pub fn all(event: Event, pinned: Pinned) -> Self {
        Self {
            scripts: event.config.scripts(event.kind.section()),
            event,
            pinned,
            record: None,
            displaced: Vec::new(),
        }
    }
}

impl Firing {
    pub(super) fn new(place: usize, to_fire: ToFire, stores: &Stores) -> Box<Self> {
        let ToFire {
            event,
            scripts,
            pinned,
            record,
            displaced,
        } = to_fire;
        let has_program = scripts.iter().any(|script| is_program(script));
        // The .meta of a message is only there while a program runs.
        let is_on_disk = |subject: &&Subject| has_program && !subject.meta.is_message();
        let subject = event.subject.as_ref().filter(is_on_disk);
        let transaction = Transaction::new(event.folder.user(), stores);
        for file in displaced {
            transaction.displace(file);
        }
        let mut firing = Self {
            place,
            on_disk: subject.map(|subject| subject.meta.clone()),
            record,
            transaction,
            origin: Origin {
                folder: event.folder.clone(),
                file: event.file.clone(),
                subject: event.subject.clone(),
            },
            event,
            pinned,
            script: String::new(),
            scripts,
            turns: 0,
            conflicts: 0,
            slot: None,
            since: Instant::now(),
            progress: Progress::Ready,
            profile: None,
            so_far: SoFar::nothing(),
            why: None,
            settled: None,
        };
        firing.turn();
        if matches!(firing.progress, Progress::Undecided) {
            // No script runs.
            firing.progress = Progress::Over;
        }
        Box::new(firing)
    }

    /// It is the next script's turn, if there is one.
    fn turn(&mut self) {
        match self.scripts.get(self.turns) {
            Some(script) => {
                self.script.clone_from(script);
                self.turns += 1;
                self.since = Instant::now();
                self.progress = Progress::Ready;
            }
            None => self.progress = Progress::Undecided,
        }
    }

    /// All scripts run again: what they looked at has changed meanwhile, or one of them could
    /// not wait where it was.
    pub(super) fn begin_again(&mut self, stores: &Stores) {
        self.take_back();
        self.transaction = self.transaction.anew(self.event.folder.user(), stores);
        self.so_far = SoFar::nothing();
        self.turns = 0;
        self.turn();
    }

    /// Makes the event be about what it was about before its scripts.
    fn take_back(&mut self) {
        let Origin {
            folder,
            file,
            subject,
        } = &self.origin;
        self.event.folder.clone_from(folder);
        self.event.file.clone_from(file);
        self.event.subject.clone_from(subject);
    }

    /// A program is to see the file where it is: what scripts asked for is not done yet. The
    /// `.meta` has what they wrote into it.
    pub(super) fn for_program(&self) -> Event {
        let mut event = self.event.clone();
        event.folder.clone_from(&self.origin.folder);
        event.file.clone_from(&self.origin.file);
        if let (Some(subject), Some(before)) = (&mut event.subject, &self.origin.subject) {
            subject.stem.clone_from(&before.stem);
        }
        event
    }

    /// What a script said refuses nothing at this event: it is why there is no decision.
    fn no_decision(&mut self, words: String) -> Outcome {
        self.why = Some(words);
        Outcome::Failed
    }

    /// What a script did becomes that of the event; returns what it decided.
    fn follow(&mut self, ran: Ran) -> Outcome {
        for touched in &ran.touched {
            follow(&mut self.event, touched);
        }
        let words = ran.meta.as_ref().map(|meta| meta.error.clone());
        if let (Some(subject), Some(meta)) = (&mut self.event.subject, ran.meta) {
            subject.meta = meta;
        }
        let may_reject = self.event.kind.asks() || self.event.kind == Kind::Received;
        match (ran.decision, words.unwrap_or_default()) {
            (Decision::Reject(reason), _) if may_reject => Outcome::Refused(reason),
            (Decision::Reject(words), _) => self.no_decision(words),
            (_, words) if !words.is_empty() && !self.event.kind.asks() => self.no_decision(words),
            (_, words) if !words.is_empty() => Outcome::Refused(words),
            (Decision::Quarantine { reason, tell }, _) => {
                self.so_far.quarantine = Some(reason.clone());
                self.so_far.tells_sender = tell;
                Outcome::Quarantined(reason)
            }
            (Decision::Hide(patterns), _) => {
                self.so_far.hidden.extend(patterns);
                Outcome::Accepted
            }
            (Decision::AcceptStream, _) => {
                self.so_far.accepts_stream = true;
                Outcome::Accepted
            }
            (Decision::Accept, _) => Outcome::Accepted,
        }
    }

    /// Records how a script ended. It is the next one's turn then, or the event is over.
    pub(super) fn has_run(&mut self, result: Result<Ran, HookError>, mode: &Mode, heard: &Heard) {
        self.why = result.as_ref().err().map(ToString::to_string);
        let outcome = match result {
            Ok(ran) => self.follow(ran),
            Err(error) => {
                if !matches!(error, HookError::Thrown(_)) && mode.notes.is_none() {
                    // Not as fields: those would follow the caret.
                    let (folder, kind) = (&self.event.folder, self.event.kind);
                    let user = folder.user().name();
                    warn!("{user}/{} [{kind}] {error}", folder.name());
                }
                match error.outcome() {
                    Outcome::Refused(words) if !self.event.kind.asks() => self.no_decision(words),
                    outcome => outcome,
                }
            }
        };
        let run = Run {
            event: self.event.kind,
            script: mem::take(&mut self.script),
            took: self.since.elapsed(),
            outcome: outcome.clone(),
            error: self.why.take(),
        };
        if mode.notes.is_none() {
            log_run(&self.event, &run);
            heard(&run);
        }
        self.so_far.runs.push(run);
        // A check at [OnMeta] may still refuse what another one put into quarantine;
        // later, nothing more is to happen to a file that somebody has to look at.
        let is_held = matches!(outcome, Outcome::Quarantined(_));
        let is_over = outcome.objection().is_some() || (is_held && self.event.kind != Kind::Meta);
        self.so_far.outcome = outcome;
        match is_over {
            true => self.progress = Progress::Undecided,
            false => self.turn(),
        }
        if matches!(self.progress, Progress::Undecided) {
            self.end(mode);
        }
    }

    /// Takes what the scripts asked for, which they can no longer change. If it may wait until
    /// others are decided, or there is nothing, the event is over.
    fn end(&mut self, mode: &Mode) {
        // A folder that does not start has decided nothing.
        let failed = self.so_far.outcome.failure().is_some()
            || (self.event.kind == Kind::Startup && self.so_far.outcome.objection().is_some());
        match self.transaction.take() {
            Ok(changes) if !failed => self.so_far.changes = changes,
            Ok(_) => self.so_far.changes = Changes::default(),
            Err(why) => self.fail(why),
        }
        let changes = &self.so_far.changes;
        let can_wait = self.record.is_some() && !changes.are_shared();
        if !mode.live || can_wait || changes.is_empty() {
            self.progress = Progress::Over;
        }
    }

    /// What was decided cannot take effect.
    pub(super) fn fail_as(&mut self, verdict: Verdict, why: String) {
        self.so_far.runs = verdict.runs;
        self.fail(why);
    }

    /// There is no decision after all.
    fn fail(&mut self, why: String) {
        let (folder, kind) = (&self.event.folder, self.event.kind);
        warn!("{}/{} [{kind}] {why}", folder.user().name(), folder.name());
        if let Some(run) = self.so_far.runs.last_mut() {
            run.outcome = Outcome::Failed;
            run.error = Some(why);
        }
        self.so_far.outcome = Outcome::Failed;
        self.so_far.changes = Changes::default();
        self.progress = Progress::Over;
    }

    /// What the scripts asked for that still has to take effect, and the verdict without that.
    pub(super) fn undecided(&mut self) -> (Verdict, Changes) {
        let changes = mem::take(&mut self.so_far.changes);
        (self.take_verdict(), changes)
    }

    /// The decision has taken effect.
    pub(super) fn settle(&mut self, mut verdict: Verdict) {
        verdict.is_settled = true;
        self.settled = Some(verdict);
        self.progress = Progress::Over;
    }

    pub(super) fn verdict(mut self) -> (usize, Verdict) {
        let verdict = self.settled.take();
        let verdict = verdict.unwrap_or_else(|| self.take_verdict());
        (self.place, verdict)
    }

    fn take_verdict(&mut self) -> Verdict {
        if self.so_far.outcome.failure().is_some() {
            // Nothing of what they did stays.
            self.take_back();
        }
        let so_far = mem::replace(&mut self.so_far, SoFar::nothing());
        let mut outcome = so_far.outcome;
        if let (Outcome::Accepted, Some(reason)) = (&outcome, so_far.quarantine) {
            outcome = Outcome::Quarantined(reason);
        }
        let is_quarantined = matches!(outcome, Outcome::Quarantined(_));
        let subject = self.event.subject.clone();
        let (meta, stem) = subject
            .map(|subject| {
                let mut meta = subject.meta;
                if let Outcome::Refused(words) = &outcome {
                    meta.error.clone_from(words);
                }
                (meta, subject.stem)
            })
            .unzip();
        let before = self.origin.subject.as_ref();
        Verdict {
            before: before.map(|subject| subject.meta.clone()),
            meta,
            stem,
            folder: self.event.folder.clone(),
            file: self.event.file.clone(),
            outcome,
            runs: so_far.runs,
            effects: so_far.changes.effects,
            inbox: so_far.changes.inbox,
            is_settled: false,
            tells_sender: is_quarantined && so_far.tells_sender,
            accepts_stream: so_far.accepts_stream,
            hidden: so_far.hidden,
            placed: None,
        }
    }
}

/// Keeps an event with its file if a script renamed or moved that.
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
        let dot = name
            .rsplit_once('.')
            .filter(|(_, ending)| !ending.contains('/'));
        let stem = stem.or_else(|| dot.map(|(stem, _)| stem));
        subject.stem = stem.unwrap_or(name).to_owned();
    }
    event.file = Some(name.clone());
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

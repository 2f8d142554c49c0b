//! An event on its way through its scripts.

use std::{mem, path::PathBuf, time::Instant, vec};

use tracing::{debug, info, warn};

use super::{
    api::{
        actions::{Touch, Touched},
        decision::Decision,
    },
    lookup::is_program,
    notes::Mode,
    pinned::Pinned,
    report::HookError,
    script::Ran,
};
use crate::{
    error::printable,
    event::{Effect, Event, Kind, Outcome, Run, Verdict},
    json::{Map, Value},
    meta::Meta,
};

/// Hears of every hook that ran in earnest.
pub type Heard = std::sync::Arc<dyn Fn(&Run) + Send + Sync>;

/// An event on its way through its scripts.
pub(super) struct Firing {
    /// Its place in the batch.
    pub(super) place: usize,
    pub(super) event: Event,
    pub(super) pinned: Pinned,
    /// The script whose turn it is.
    pub(super) script: String,
    /// Those after it.
    scripts: vec::IntoIter<String>,
    /// Since when it is that script's turn.
    pub(super) since: Instant,
    pub(super) progress: Progress,
    /// The profile of the folder's user, once a script has asked for it.
    pub(super) profile: Option<Map<String, Value>>,
    /// What a program finds in the `.meta`; scripts may be ahead of it.
    pub(super) on_disk: Option<Meta>,
    so_far: SoFar,
}

/// How far an event is.
pub(super) enum Progress {
    /// The script whose turn it is can run on a thread for scripts.
    Ready,
    /// It is this program's turn.
    Program(PathBuf),
    /// The program has ended.
    Ended(Box<Result<Ran, HookError>>),
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
    effects: Vec<Effect>,
    quarantine: Option<String>,
    hidden: Vec<String>,
}

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
    pub(super) fn new(place: usize, to_fire: ToFire) -> Box<Self> {
        let ToFire {
            event,
            scripts,
            pinned,
        } = to_fire;
        let has_program = scripts.iter().any(|script| is_program(script));
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

    /// Takes down how a script ended. It is the next one's turn then, or the event is over.
    pub(super) fn has_run(&mut self, result: Result<Ran, HookError>, mode: &Mode, heard: &Heard) {
        let why = result.as_ref().err().map(ToString::to_string);
        let outcome = match result {
            Ok(ran) => self.follow(ran),
            Err(error) => {
                if !matches!(error, HookError::Thrown(_)) && mode.notes.is_none() {
                    // Not as fields: those would stand behind the caret.
                    let (folder, kind) = (&self.event.folder, self.event.kind);
                    let user = folder.user().name();
                    warn!("{user}/{} [{kind}] {error}", folder.name());
                }
                error.outcome()
            }
        };
        let run = Run {
            event: self.event.kind,
            script: mem::take(&mut self.script),
            took: self.since.elapsed(),
            outcome: outcome.clone(),
            error: why,
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
            true => self.progress = Progress::Over,
            false => self.turn(),
        }
    }

    pub(super) fn verdict(self) -> (usize, Verdict) {
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

//! The hook host: fires an event, runs what m2y.config names for it, gets a verdict.
//!
//! A line of a section names a script. It is looked for in the folder, then in
//! `ROOT/scripts/`, then among the [bundled] ones. `.rhai` runs inside
//! ([`script`]); anything else is a program ([`external`]). No lock is held while
//! one runs, and none can end the process or hold up another transfer.

pub mod api;
pub mod bundled;
pub mod check;
pub mod dispatch;
pub mod external;
pub mod kept;
mod limits;
pub mod lookup;
pub mod notes;
pub mod own;
pub mod report;
pub mod schedule;
pub mod script;
mod slots;
pub mod startup;
pub mod trial;
pub mod watch;
mod workers;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, OnceLock},
    time::Instant,
};

use cap_std::fs::Dir;
use tokio::task;
use tracing::{debug, info, warn};

use crate::{
    error::printable,
    event::{Event, Kind, Outcome, Run, Subject, Verdict},
    json::{Map, Value},
    meta::Meta,
    root::{
        Root,
        config::Config,
        file,
        folder::Folder,
        name::Name,
        settings::{Programs, Settings},
    },
};
use api::{
    decision::Decision,
    deeds::{Touch, Touched},
    state::State,
};
use lookup::{Found, find};
use notes::Mode;
use own::Own;
use report::HookError;
use script::{Compiled, Ran};
use slots::Slots;
use workers::{Seat, Unserved, Workers};

/// Runs the hooks of every folder of a root.
#[derive(Clone)]
pub struct Hooks {
    root: Root,
    scripts: Arc<script::Host>,
    executables: external::Host,
    programs: Arc<Programs>,
    slots: Slots,
    workers: Workers,
    own: Own,
    heard: Heard,
}

/// Hears of every hook that ran in earnest.
pub type Heard = Arc<dyn Fn(&Run) + Send + Sync>;

/// The scripts that a transfer began with: edited meanwhile, they hold for the next one.
#[derive(Clone, Default)]
pub struct Pinned {
    scripts: Arc<HashMap<String, Arc<Compiled>>>,
    crowd: bool,
}

impl Pinned {
    /// The same of one among many: nobody waits for it alone.
    #[must_use]
    pub fn in_a_crowd(self, crowd: bool) -> Self {
        Self { crowd, ..self }
    }
}

impl Hooks {
    /// A host with the limits of `settings`.
    pub fn new(root: &Root, settings: &Settings, state: Arc<dyn State>) -> Self {
        let slots = Slots::default();
        Self {
            root: root.clone(),
            workers: Workers::default(),
            scripts: Arc::new(script::Host::new(settings.script_deadline, state)),
            executables: external::Host::new(settings.executable_deadline),
            programs: Arc::new(settings.executables.clone()),
            slots,
            own: Own::new(settings.settle),
            heard: Arc::new(|_| {}),
        }
    }

    /// The scripts of a folder as they are now. What cannot be read or does not compile
    /// is left out: it is looked for again when its turn comes.
    pub fn pin(&self, folder: &Folder, config: &Config) -> Pinned {
        let sections = [Kind::Meta, Kind::Received].map(Kind::section);
        let names = sections.iter().flat_map(|section| config.scripts(section));
        let compiled = names.filter_map(|name| {
            match find(&self.root, folder, &self.programs, &name).ok()? {
                Found::Script(source) => Some((name, self.scripts.compiled(source).ok()?)),
                Found::Executable(_) => None,
            }
        });
        Pinned {
            scripts: Arc::new(compiled.collect()),
            crowd: false,
        }
    }

    /// Lets somebody hear of every hook, whatever it ran for.
    #[must_use]
    pub fn heard(mut self, heard: Heard) -> Self {
        self.heard = heard;
        self
    }

    /// What the hooks themselves do to the files of their folders.
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// Runs the scripts of an event in their order, until one objects.
    pub async fn fire(&self, event: Event, pinned: &Pinned) -> Verdict {
        self.fire_as(event, pinned, &Mode::LIVE).await
    }

    /// [`Hooks::fire`], in the given mode.
    pub async fn fire_as(&self, event: Event, pinned: &Pinned, mode: &Mode) -> Verdict {
        let scripts = event.config.scripts(event.kind.section());
        self.fire_scripts(event, scripts, pinned, mode).await
    }

    /// [`Hooks::fire_as`] with only these scripts: of `[OnSchedule]` not all are due.
    pub async fn fire_scripts(
        &self,
        event: Event,
        scripts: Vec<String>,
        pinned: &Pinned,
        mode: &Mode,
    ) -> Verdict {
        let mut event = Arc::new(event);
        let mut runs = Vec::new();
        let mut outcome = Outcome::Accepted;
        let profile = Profile::default();
        // What a program finds in the .meta; scripts may be ahead of it.
        let mut on_disk = event.subject.as_ref().map(|subject| subject.meta.clone());
        let mut effects = Vec::new();
        let (mut quarantine, mut hidden) = (None, Vec::new());
        for name in scripts {
            let begun = Instant::now();
            let result = self
                .run(&name, &event, pinned, &profile, &mut on_disk, mode)
                .await;
            let why = result.as_ref().err().map(ToString::to_string);
            outcome = match result {
                Ok(ran) => {
                    effects.extend(ran.effects);
                    // Nobody else has it any more.
                    let event = Arc::make_mut(&mut event);
                    for touched in &ran.touched {
                        follow(event, touched);
                    }
                    let words = ran.meta.as_ref().map(|m| m.error.clone());
                    if let (Some(subject), Some(meta)) = (&mut event.subject, ran.meta) {
                        subject.meta = meta;
                    }
                    match (ran.decision, words.unwrap_or_default()) {
                        (Decision::Reject(reason), _) => Outcome::Refused(reason),
                        (_, words) if !words.is_empty() => Outcome::Refused(words),
                        (Decision::Quarantine(reason), _) => {
                            quarantine = Some(reason.clone());
                            Outcome::Quarantined(reason)
                        }
                        (Decision::Hide(patterns), _) => {
                            hidden.extend(patterns);
                            Outcome::Accepted
                        }
                        (Decision::Accept, _) => Outcome::Accepted,
                    }
                }
                Err(error) => {
                    if !matches!(error, HookError::Thrown(_)) && mode.notes.is_none() {
                        // Not as fields: those would stand behind the caret.
                        let folder = &event.folder;
                        warn!(
                            "{}/{} [{}] {error}",
                            folder.user().name(),
                            folder.name(),
                            event.kind
                        );
                    }
                    error.outcome()
                }
            };
            let run = Run {
                event: event.kind,
                script: name,
                took: begun.elapsed(),
                outcome: outcome.clone(),
                error: why,
            };
            if mode.notes.is_none() {
                log_run(&event, &run);
                (self.heard)(&run);
            }
            runs.push(run);
            // A check at [OnMeta] may still refuse what another one put into quarantine;
            // later, nothing more is to happen to a file that somebody has to look at.
            let is_held = matches!(outcome, Outcome::Quarantined(_));
            if outcome.objection().is_some() || (is_held && event.kind != Kind::Meta) {
                break;
            }
        }
        if let (Outcome::Accepted, Some(reason)) = (&outcome, quarantine) {
            outcome = Outcome::Quarantined(reason);
        }
        let event = Arc::unwrap_or_clone(event);
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
        Verdict {
            meta,
            stem,
            folder: event.folder,
            file: event.file,
            outcome,
            runs,
            effects,
            hidden,
            placed: None,
        }
    }

    /// Finds what a line names, and runs it if it is a script: on a thread of its own.
    fn step(
        &self,
        name: &str,
        event: &Event,
        pinned: Option<Arc<Compiled>>,
        profile: &Profile,
        seat: &Rc<Seat>,
        mode: &Mode,
    ) -> Result<Step, HookError> {
        let compiled = match pinned {
            Some(compiled) => compiled,
            None => match find(&self.root, &event.folder, &self.programs, name)? {
                Found::Script(source) => self.scripts.compiled(source)?,
                Found::Executable(path) => return Ok(Step::Start(path)),
            },
        };
        let lengthen = {
            let (seat, long) = (seat.clone(), self.slots.long.clone());
            let user = event.folder.user().name().clone();
            move || {
                if let Some(slot) = long.try_take(&user) {
                    seat.leave(slot);
                }
            }
        };
        let none = Map::new();
        let profile = match compiled.mentions("user") {
            true => profile.get_or_init(|| profile_of(event)),
            false => &none,
        };
        let ran = self
            .scripts
            .run_as(name, &compiled, event, profile, mode, lengthen)?;
        for touched in &ran.touched {
            note(&self.own, &event.folder, touched);
        }
        Ok(Step::Done(Box::new(ran)))
    }

    /// Runs one script.
    async fn run(
        &self,
        name: &str,
        event: &Arc<Event>,
        pinned: &Pinned,
        profile: &Profile,
        on_disk: &mut Option<Meta>,
        mode: &Mode,
    ) -> Result<Ran, HookError> {
        let user = event.folder.user().name();
        let busy = || HookError::Busy {
            script: name.to_owned(),
        };
        let crowd = pinned.crowd;
        let step = {
            let (this, name, event) = (self.clone(), name.to_owned(), event.clone());
            let (profile, pinned) = (profile.clone(), pinned.scripts.get(&name).cloned());
            let mode = mode.clone();
            let work = move |seat: &Rc<Seat>| {
                let step = this.step(&name, &event, pinned, &profile, seat, &mode);
                drop(event);
                step
            };
            match self.workers.run(user, crowd, work).await {
                Ok(step) => step?,
                Err(Unserved::Busy) => return Err(busy()),
                Err(Unserved::Panic) => return Err(HookError::Panic),
            }
        };
        let program = match step {
            Step::Done(ran) => return Ok(*ran),
            Step::Start(program) => program,
        };
        if !mode.programs {
            if let Some(notes) = &mode.notes {
                notes.line("INFO", &format!("{name}: a program, not started"));
            }
            return Ok(Ran::accepted(
                event.subject.as_ref().map(|s| s.meta.clone()),
            ));
        }
        // Seldom, and ten times as large as all else that waits here.
        Box::pin(self.start(name, &program, event, on_disk)).await
    }

    /// Runs a program.
    async fn start(
        &self,
        name: &str,
        program: &Path,
        event: &Event,
        on_disk: &mut Option<Meta>,
    ) -> Result<Ran, HookError> {
        let user = event.folder.user().name();
        let busy = || HookError::Busy {
            script: name.to_owned(),
        };
        let _slot = self.slots.programs.take(user).await.ok_or_else(busy)?;
        if let Some(subject) = event.subject.clone()
            && on_disk.as_ref() != Some(&subject.meta)
        {
            let (dir, name) = (event.folder.dir().clone(), name.to_owned());
            blocking(move || write_meta(&dir, &name, &subject)).await?;
        }
        let _own = self.own.program(&event.folder);
        let meta = self.executables.run(program, event).await?;
        on_disk.clone_from(&meta);
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

/// The profile of a folder's user, read once for all scripts of an event.
type Profile = Arc<OnceLock<Map<String, Value>>>;

fn profile_of(event: &Event) -> Map<String, Value> {
    let user = event.folder.user();
    // A hook that needs none is not held up by a profile that cannot be read.
    user.profile().unwrap_or_else(|error| {
        warn!(user = %user.name(), "{error}");
        Map::new()
    })
}

/// How far a thread of the disk gets with a hook.
enum Step {
    Done(Box<Ran>),
    Start(PathBuf),
}

/// Leaves the threads of the network to the network. A panic ends the task only.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HookError> + Send + 'static,
) -> Result<T, HookError> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(HookError::Panic),
    }
}

/// Writes down what scripts made of a meta, for a program that comes after them.
fn write_meta(dir: &Dir, script: &str, subject: &Subject) -> Result<(), HookError> {
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

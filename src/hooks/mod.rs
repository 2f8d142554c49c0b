//! The hook host: fires an event, runs what m2y.config names for it, gets a verdict.
//!
//! A line of a section names a script. It is looked for in the folder, then in
//! `ROOT/scripts/`, then among the [bundled] ones. `.rhai` runs inside
//! ([`script`]); anything else is a program ([`external`]). No lock is held while
//! one runs, and none can end the process or hold up another transfer.

pub mod api;
pub mod batch;
pub mod bundled;
mod call;
pub mod change;
pub mod check;
pub mod decide;
pub mod digests;
pub mod dispatch;
mod engine;
pub mod external;
pub mod firing;
pub mod folder_files;
pub mod inbox;
pub mod lookup;
pub mod notes;
mod pinned;
pub mod received;
pub mod recent;
pub mod redo;
pub mod report;
pub mod schedule;
pub mod script;
pub mod script_state;
pub mod self_changes;
pub mod services;
mod slots;
pub mod startup;
pub mod test_host;
pub mod transaction;
mod turns;
pub mod watch;
pub mod web;
mod workers;

use std::{collections::HashMap, sync::Arc};

use crate::{
    event::{Event, Kind, Verdict},
    root::{
        Examiner, Root,
        config::Config,
        folder::Folder,
        settings::{Programs, Settings, live::Live},
    },
    store::Stores,
};
use batch::Batch;
pub use call::Limits;
use decide::{Decide, Unrecorded};
use digests::Digests;
pub use firing::Heard;
use firing::{Displaced, ToFire};
use inbox::Inboxes;
use lookup::{Hook, find};
use notes::{Mode, Notes};
pub use pinned::Pinned;
use redo::Changer;
use self_changes::SelfChanges;
use services::Services;
use slots::Slots;
use turns::Turns;
use workers::Workers;

/// Runs the hooks of every folder of a root.
#[derive(Clone)]
pub struct Hooks {
    root: Root,
    scripts: Arc<script::Host>,
    executables: external::Host,
    programs: Live<Programs>,
    slots: Slots,
    workers: Workers,
    self_changes: SelfChanges,
    digests: Digests,
    stores: Stores,
    changer: Changer,
    decider: Arc<dyn Decide>,
    turns: Turns,
    heard: Heard,
}

impl Hooks {
    /// A host with the limits of `settings`, for folders that keep their contents in
    /// themselves.
    pub fn new(root: &Root, settings: &Settings, services: &Services) -> Self {
        Self::with_stores(root, settings, services, &Stores::default())
    }

    /// [`Self::new`] for folders that keep their contents in these stores.
    pub fn with_stores(
        root: &Root,
        settings: &Settings,
        services: &Services,
        stores: &Stores,
    ) -> Self {
        let slots = Slots::default();
        let self_changes = SelfChanges::new(settings.settle, stores);
        let changer = Changer::new(stores, &Inboxes::new(settings.inbox_max), &self_changes);
        let decider = Arc::new(Unrecorded::new(&services.state, &changer));
        let scripts = Arc::new(script::Host::new(limits(settings), services.clone()));
        let programs = Live::new(settings.executables.clone());
        root.examine_edits(examiner(&scripts, &programs));
        Self {
            root: root.clone(),
            workers: Workers::default(),
            scripts,
            digests: services.digests.clone(),
            stores: stores.clone(),
            executables: external::Host::new(settings.executable_deadline),
            programs,
            slots,
            self_changes,
            changer,
            decider,
            turns: Turns::default(),
            heard: Arc::new(|_| {}),
        }
    }

    /// Goes on with other settings: for what begins from now on.
    pub fn set(&self, settings: &Settings) {
        self.scripts.set_limits(limits(settings));
        self.executables.set_deadline(settings.executable_deadline);
        self.programs.replace(settings.executables.clone());
        self.changer.inboxes().set_max(settings.inbox_max);
    }

    /// The scripts of a folder as they are now. What cannot be read or does not compile
    /// is left out: it is looked for again when its turn comes.
    pub fn pin(&self, folder: &Folder, config: &Config) -> Pinned {
        let sections = [Kind::Meta, Kind::Received].map(Kind::section);
        let names = sections.iter().flat_map(|section| config.scripts(section));
        let compiled = names.filter_map(|name| {
            match find(&self.root, folder, &self.programs.now(), &name).ok()? {
                Hook::Script(source) => Some((name, self.scripts.compiled(source).ok()?)),
                Hook::Program(_) => None,
            }
        });
        let scripts: HashMap<_, _> = compiled.collect();
        Pinned {
            hashes: scripts.values().any(|script| script.hashes),
            scripts: Arc::new(scripts),
        }
    }

    /// Tells `heard` of every hook, whatever it ran for.
    #[must_use]
    pub fn heard(mut self, heard: Heard) -> Self {
        self.heard = heard;
        self
    }

    /// Makes decisions take effect through `decider`.
    #[must_use]
    pub(super) fn decided_by(mut self, decider: Arc<dyn Decide>) -> Self {
        self.decider = decider;
        self
    }

    /// What makes the changes that scripts ask for.
    pub(super) fn changer(&self) -> &Changer {
        &self.changer
    }

    /// Where the contents of folders are stored.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Digests that scripts need not compute.
    pub fn digests(&self) -> &Digests {
        &self.digests
    }

    /// What the hooks themselves do to the files of their folders.
    pub fn self_changes(&self) -> &SelfChanges {
        &self.self_changes
    }

    /// Runs the scripts of an event in their order, until one objects.
    pub async fn fire(&self, event: Event, pinned: &Pinned) -> Verdict {
        self.fire_as(event, pinned, &Mode::LIVE).await
    }

    /// [`Hooks::fire`], in the given mode.
    pub async fn fire_as(&self, event: Event, pinned: &Pinned, mode: &Mode) -> Verdict {
        let to_fire = ToFire::all(event, pinned.clone());
        self.fire_batch(vec![to_fire], mode).only().await
    }

    /// Runs the scripts of an event that happened before, and does nothing of what they ask for.
    /// They find the files where these were then.
    async fn rehearse(&self, event: Event, displaced: Vec<Displaced>, notes: &Notes) -> Verdict {
        let mode = Mode {
            live: false,
            programs: false,
            notes: Some(notes.clone()),
        };
        let to_fire = ToFire {
            displaced,
            ..ToFire::all(event, Pinned::default())
        };
        self.fire_batch(vec![to_fire], &mode).only().await
    }

    /// Runs the scripts of many events of one user, in one hand-over to a thread if they are quick.
    /// Each is on its own: none hears of what becomes of the others.
    pub fn fire_batch(&self, events: Vec<ToFire>, mode: &Mode) -> Batch {
        Batch::new(self, mode, events)
    }
}

fn limits(settings: &Settings) -> Limits {
    Limits {
        deadline: settings.script_deadline,
        patience: settings.executable_deadline,
    }
}

/// Says which script of an m2y.config is missing or does not compile.
fn examiner(scripts: &Arc<script::Host>, programs: &Live<Programs>) -> Arc<Examiner> {
    // The root may outlive the host.
    let (scripts, programs) = (Arc::downgrade(scripts), programs.clone());
    Arc::new(move |folder, before, config| {
        let Some(scripts) = scripts.upgrade() else {
            return Ok(());
        };
        let programs = programs.now();
        let root = folder.user().root();
        for kind in Kind::ALL {
            let known = before.scripts(kind.section());
            let lines = config.scripts(kind.section()).into_iter();
            // An edit that takes a right away takes effect, whatever else was wrong before.
            for line in lines.filter(|line| !known.contains(line)) {
                if let Some(wrong) = check::wrong_with(&line, root, folder, &programs) {
                    return Err(format!("[{kind}] {wrong}"));
                }
                if let Ok(Hook::Script(source)) = find(root, folder, &programs, &line) {
                    let compiled = scripts.compiled(source);
                    compiled.map_err(|error| format!("[{kind}] {error}"))?;
                }
            }
        }
        Ok(())
    })
}

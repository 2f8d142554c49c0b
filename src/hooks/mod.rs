//! The hook host: fires an event, runs what m2y.config names for it, gets a verdict.
//!
//! A line of a section names a script. It is looked for in the folder, then in
//! `ROOT/scripts/`, then among the [bundled] ones. `.rhai` runs inside
//! ([`script`]); anything else is a program ([`external`]). No lock is held while
//! one runs, and none can end the process or hold up another transfer.

mod api;
pub mod bundled;
pub mod external;
pub mod report;
pub mod script;

use std::{io, sync::Arc, time::Instant};

use cap_std::fs::{Dir, MetadataExt};
use tokio::task;
use tracing::{info, warn};

use crate::{
    error::printable,
    event::{Event, Outcome, Run, Subject, Verdict},
    meta::Meta,
    root::{Root, file, name::Name, settings::Settings},
};
use report::HookError;
use script::{Source, Stamp};

/// Runs the hooks of every folder of a root.
#[derive(Clone)]
pub struct Hooks {
    root: Root,
    scripts: Arc<script::Host>,
    executables: external::Host,
}

impl Hooks {
    /// A host with the limits of `settings`.
    pub fn new(root: &Root, settings: &Settings) -> Self {
        Self {
            root: root.clone(),
            scripts: Arc::new(script::Host::new(settings.script_deadline)),
            executables: external::Host::new(settings.executable_deadline),
        }
    }

    /// Runs the scripts of an event in their order, until one objects.
    pub async fn fire(&self, mut event: Event) -> Verdict {
        let mut runs = Vec::new();
        let mut outcome = Outcome::Accepted;
        // What a program finds in the .meta; scripts may be ahead of it.
        let mut on_disk = event.subject.as_ref().map(|subject| subject.meta.clone());
        for name in event.config.scripts(event.kind.section()) {
            let begun = Instant::now();
            let result = self.run(&name, &event, &mut on_disk).await;
            outcome = match result {
                Ok(meta) => {
                    let words = meta.as_ref().map(|m| m.error.clone()).unwrap_or_default();
                    if let (Some(subject), Some(meta)) = (&mut event.subject, meta) {
                        subject.meta = meta;
                    }
                    match words.is_empty() {
                        true => Outcome::Accepted,
                        false => Outcome::Refused(words),
                    }
                }
                Err(HookError::Thrown(words)) if !words.is_empty() => {
                    // What fits into a field of a meta, whatever the characters.
                    Outcome::Refused(words.chars().take(1_000).collect())
                }
                Err(error) => {
                    // Not as fields: those would stand behind the caret.
                    let folder = &event.folder;
                    warn!(
                        "{}/{} [{}] {error}",
                        folder.user().name(),
                        folder.name(),
                        event.kind
                    );
                    Outcome::Failed
                }
            };
            let run = Run {
                event: event.kind,
                script: name,
                took: begun.elapsed(),
                outcome: outcome.clone(),
            };
            log_run(&event, &run);
            runs.push(run);
            if outcome != Outcome::Accepted {
                break;
            }
        }
        let meta = event.subject.map(|subject| {
            let mut meta = subject.meta;
            if let Some(words) = outcome.objection() {
                meta.error = words.to_owned();
            }
            meta
        });
        Verdict {
            meta,
            outcome,
            runs,
        }
    }

    /// Runs one script and returns the meta as the script left it.
    async fn run(
        &self,
        name: &str,
        event: &Event,
        on_disk: &mut Option<Meta>,
    ) -> Result<Option<Meta>, HookError> {
        let found = {
            let (name, event, root) = (name.to_owned(), event.clone(), self.root.clone());
            blocking(move || find(&root, &event, &name)).await?
        };
        match found {
            Found::Script(source) => {
                let (host, event) = (self.scripts.clone(), event.clone());
                blocking(move || host.run(source, &event)).await
            }
            Found::Executable(path) => {
                let event = event.clone();
                if let Some(subject) = event.subject.clone()
                    && on_disk.as_ref() != Some(&subject.meta)
                {
                    let dir = event.folder.dir().clone();
                    blocking(move || write_meta(&dir, &subject)).await?;
                }
                let meta = self.executables.run(&path, &event).await?;
                on_disk.clone_from(&meta);
                Ok(meta)
            }
        }
    }
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
fn write_meta(dir: &Dir, subject: &Subject) -> Result<(), HookError> {
    let name = subject.meta_file();
    file::replace(dir, &name, 0o644, &subject.meta.to_file()).map_err(|source| {
        HookError::Unreadable {
            script: name,
            source,
        }
    })
}

fn log_run(event: &Event, run: &Run) {
    let verdict = match &run.outcome {
        Outcome::Accepted => "accepted".to_owned(),
        Outcome::Refused(words) => format!("refused: {}", printable(words, 200)),
        Outcome::Failed => "failed".to_owned(),
    };
    let id = event.subject.as_ref().and_then(|s| s.meta.id);
    info!(
        event = %run.event,
        user = %event.folder.user().name(),
        folder = %event.folder.name(),
        script = %printable(&run.script, 80),
        micros = run.took.as_micros() as u64,
        id = id.map(tracing::field::display),
        "hook {verdict}"
    );
}

enum Found {
    Script(Source),
    Executable(std::path::PathBuf),
}

fn find(root: &Root, event: &Event, name: &str) -> Result<Found, HookError> {
    let missing = || HookError::Missing(printable(name, 80));
    // The rules for names keep a line of m2y.config from pointing elsewhere.
    let file = Name::user(name).map_err(|_| missing())?;
    let is_script = name.ends_with(".rhai");
    let shared = root.dir().open_dir("scripts");
    let in_folder = (&**event.folder.dir(), event.folder.path_of(file.as_str()));
    let in_shared = shared
        .as_ref()
        .ok()
        .map(|dir| (dir, root.path().join("scripts").join(file.as_str())));
    let places = [Some(in_folder), in_shared].into_iter().flatten();
    for (dir, path) in places {
        let about = match dir.metadata(file.as_str()) {
            Ok(about) if about.is_file() => about,
            Ok(_) => continue,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => {
                return Err(HookError::Unreadable {
                    script: name.to_owned(),
                    source,
                });
            }
        };
        if !is_script {
            return Ok(Found::Executable(path));
        }
        let stamp = Stamp::File {
            inode: about.ino(),
            len: about.len(),
            changed: (about.ctime(), about.ctime_nsec()),
        };
        let dir = dir.try_clone().map_err(|source| HookError::Unreadable {
            script: name.to_owned(),
            source,
        })?;
        let file = file.clone();
        let read = move || file::read_text(&dir, file.as_str(), script::MAX_SOURCE);
        return Ok(Found::Script(Source {
            name: name.to_owned(),
            key: path,
            stamp,
            read: Box::new(read),
        }));
    }
    let (name, text) = bundled::find(name).ok_or_else(missing)?;
    Ok(Found::Script(Source {
        name: name.to_owned(),
        key: name.into(),
        stamp: Stamp::Bundled,
        read: Box::new(|| Ok(text.to_owned())),
    }))
}

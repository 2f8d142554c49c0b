//! The `.meta` of a file that was received, as its hooks left it.

use std::{io, path::PathBuf};

use tokio::{sync::oneshot, task};

use crate::{
    event::{Outcome, Verdict},
    hooks::own::Own,
    json::Value,
    meta::{Meta, PENDING_HOOK, QUARANTINE},
    root::{file, folder::Folder},
    store::{group::Groups, journal::Task, local, quarantine},
};

/// From this many on, one flush of everything is cheaper than one for each.
const MANY: usize = 3;

/// Stores the records of files, those of one folder together.
#[derive(Clone, Default)]
pub struct Records(Groups<PathBuf, Waiting>);

struct Waiting {
    record: Record,
    done: oneshot::Sender<io::Result<()>>,
}

/// A `.meta` to be stored.
struct Record {
    own: Own,
    folder: Folder,
    stem: String,
    text: Vec<u8>,
    /// Whether the file goes out of sight after that.
    hide: bool,
}

impl Records {
    /// Stores what hooks wrote into the `.meta` of a file that was received, if it is not
    /// what was in it `before`: where they object, with a mark that they have to run again.
    pub async fn store(
        &self,
        own: &Own,
        task: &Task,
        before: Option<&Meta>,
        verdict: &mut Verdict,
    ) -> io::Result<()> {
        let programs_ran = verdict
            .runs
            .iter()
            .any(|run| !run.script.ends_with(".rhai"));
        let (Some(meta), Some(stem)) = (&mut verdict.meta, verdict.stem.clone()) else {
            return Ok(());
        };
        meta.error.clear();
        meta.extra.remove(PENDING_HOOK);
        if verdict.outcome.objection().is_some() {
            let pending = Value::from(task.kind.as_str());
            meta.extra.insert(PENDING_HOOK.to_owned(), pending);
        }
        if let Outcome::Quarantined(reason) = &verdict.outcome {
            let reason = Value::from(reason.as_str());
            meta.extra.insert(QUARANTINE.to_owned(), reason);
        }
        let hide = verdict.outcome.objection().is_none() && meta.extra.contains_key(QUARANTINE);
        if before == Some(meta) && !programs_ran && !hide {
            return Ok(());
        }
        let folder = verdict.folder.path().to_owned();
        let (done, result) = oneshot::channel();
        let record = Record {
            own: own.clone(),
            folder: verdict.folder.clone(),
            stem,
            text: meta.to_file(),
            hide,
        };
        if self.0.bring(&folder, Waiting { record, done }) {
            let this = self.clone();
            task::spawn_blocking(move || this.lead(&folder));
        }
        let lost = |_| Err(io::Error::other("the thread that stores it failed"));
        result.await.unwrap_or_else(lost)
    }

    fn lead(&self, folder: &PathBuf) {
        while let Some(group) = self.0.next(folder, usize::MAX) {
            let many = group.len() >= MANY;
            let mut flushed = Ok(());
            let mut stored = Vec::with_capacity(group.len());
            for Waiting { record, done } in group {
                stored.push((record.write(!many), record, done));
            }
            if let (true, Some((_, record, _))) = (many, stored.first()) {
                flushed = local::settle_all(record.folder.dir());
            }
            for (written, record, done) in stored {
                let flushed = flushed
                    .as_ref()
                    .map_err(|e| io::Error::new(e.kind(), e.to_string()));
                let result = written.and_then(|()| {
                    flushed?;
                    match record.hide {
                        true => put_away(&record.own, &record.folder, &record.stem),
                        false => Ok(()),
                    }
                });
                let _ = done.send(result);
            }
        }
    }
}

impl Record {
    fn write(&self, durably: bool) -> io::Result<()> {
        let dir = self.folder.dir();
        let name = format!("{}.meta", self.stem);
        // A hook may have taken the file away, and its .meta with it.
        if !file::exists(dir, &name)? && !file::exists(dir, &format!("{}.data", self.stem))? {
            return Ok(());
        }
        match durably {
            true => file::replace(dir, &name, 0o644, &self.text),
            false => file::replace_unflushed(dir, &name, 0o644, &self.text),
        }
    }
}

/// Puts a file out of sight, which is no deed of a person.
pub fn put_away(own: &Own, folder: &Folder, stem: &str) -> io::Result<()> {
    let hidden = quarantine::hide(folder.dir(), stem);
    own.note(folder, &format!("{stem}.data"));
    hidden
}

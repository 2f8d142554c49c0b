//! The `.meta` of a file that was received, as its hooks left it.

use std::io;

use tokio::task;

use crate::{
    event::{Outcome, Verdict},
    hooks::own::Own,
    json::Value,
    meta::{self, PENDING_HOOK, QUARANTINE},
    root::{file, folder::Folder},
    store::{journal::Task, quarantine},
};

/// Stores what hooks wrote into the `.meta` of a file that was received: where they
/// object, with a mark that they have to run again.
pub async fn store_meta(own: &Own, task: &Task, verdict: &mut Verdict) -> io::Result<()> {
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
    let (own, folder, text) = (own.clone(), verdict.folder.clone(), meta.to_file());
    let work = move || {
        let dir = folder.dir();
        let name = format!("{stem}.meta");
        match file::read(dir, &name, meta::MAX_LEN) {
            Ok(there) if there == text => {}
            // A hook has taken the file away, and its .meta with it.
            Err(e)
                if e.kind() == io::ErrorKind::NotFound
                    && !file::exists(dir, &format!("{stem}.data"))? =>
            {
                return Ok(());
            }
            _ => file::replace(dir, &name, 0o644, &text)?,
        }
        match hide {
            true => put_away(&own, &folder, &stem),
            false => Ok(()),
        }
    };
    task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// Puts a file out of sight, which is no deed of a person.
pub fn put_away(own: &Own, folder: &Folder, stem: &str) -> io::Result<()> {
    let hidden = quarantine::hide(folder.dir(), stem);
    own.note(folder, &format!("{stem}.data"));
    hidden
}

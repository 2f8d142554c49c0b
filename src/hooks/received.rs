//! What becomes of a file that was received, and of its `.meta`, when its hooks have run.

use std::io;

use super::{change::Change, lookup::is_program, self_changes::SelfChanges};
use crate::{
    event::{Effect, Kind, Outcome, Verdict},
    json::Value,
    meta::{PENDING_HOOK, PENDING_PUT, QUARANTINE},
    root::{destination::Destination, folder::Folder},
    store::{Store, quarantine},
};

/// What has to be done after what the hooks asked for.
///
/// If they did not come to a decision, the file stays with a mark that they have to run again. A
/// file that they refuse is removed, and its `.meta` stays and says why. Otherwise the file goes
/// into quarantine, or gets its path if its sender wants one, or stays where the hooks left it.
pub fn changes_of(verdict: &mut Verdict) -> Vec<Change> {
    let programs_ran = verdict.runs.iter().any(|run| is_program(&run.script));
    let folder = verdict.folder.name().clone();
    let (Some(meta), Some(stem)) = (&mut verdict.meta, verdict.stem.clone()) else {
        return Vec::new();
    };
    meta.error.clear();
    meta.extra.remove(PENDING_HOOK);
    let mut changes = Vec::new();
    let mut place = None;
    match &verdict.outcome {
        Outcome::Failed | Outcome::Later => {
            let pending = Value::from(Kind::Received.section());
            meta.extra.insert(PENDING_HOOK.to_owned(), pending);
        }
        Outcome::Refused(words) => {
            meta.error.clone_from(words);
            meta.extra.remove(PENDING_PUT);
            let file = verdict.file.clone();
            changes.extend(file.map(|file| Change::Reject((folder.clone(), file))));
        }
        Outcome::Quarantined(reason) => {
            let reason = Value::from(reason.as_str());
            meta.extra.insert(QUARANTINE.to_owned(), reason);
        }
        Outcome::Accepted => {}
    }
    if verdict.outcome.objection().is_none() {
        let destination = Destination::open(meta);
        let file = verdict.file.as_deref();
        if meta.extra.contains_key(QUARANTINE) {
            place = Some(Change::Hide((folder.clone(), stem.clone())));
        } else if destination.is_some()
            && Destination::is_untouched(meta, &verdict.folder, &stem, file)
        {
            let text = String::from_utf8_lossy(&meta.to_file()).into_owned();
            place = Some(Change::Put {
                place: (folder.clone(), stem.clone()),
                text,
            });
        } else {
            // A hook moved it.
            meta.extra.remove(PENDING_PUT);
        }
    }
    // Until a file has the path that its sender wants, its .meta says which; then that is removed.
    let is_put = matches!(place, Some(Change::Put { .. }));
    if !is_put && (verdict.before.as_ref() != Some(&*meta) || programs_ran) {
        let text = String::from_utf8_lossy(&meta.to_file()).into_owned();
        let place = (folder, stem);
        changes.push(Change::Meta { place, text });
    }
    changes.extend(place);
    changes
}

/// A file got its path. What its hooks asked for is done later, with the file where it is now.
pub fn is_placed(effects: &mut [Effect], file: Option<&str>, path: &str) {
    for effect in effects {
        if let Effect::Send { file: sent, .. } = effect
            && file == Some(sent)
        {
            path.clone_into(sent);
        }
    }
}

/// Puts a file out of sight, which is not the deed of a person.
pub fn put_away(
    store: &dyn Store,
    self_changes: &SelfChanges,
    folder: &Folder,
    stem: &str,
) -> io::Result<()> {
    let hidden = quarantine::hide(store, folder, stem);
    self_changes.note(folder, &format!("{stem}.data"));
    hidden
}

//! What is written into the journal about events whose hooks have run, all of it in one write.

use std::{collections::BTreeMap, sync::Arc};

use rusqlite::Connection;

use super::{effect::effects_of, key_of, retry::Attempt};
use crate::{
    event::{Kind, Outcome, Verdict},
    hooks::{
        api::state::MAX_KEYS,
        change::{Change, to_body},
        decide::{Record, Stands, told},
        received::changes_of,
        transaction::Changes,
    },
    journal::{
        self, Task,
        decided::{self, Decided},
        delivered, redo,
        script_state::{self, Edits},
    },
    json::Value,
    meta::{Meta, QUARANTINE},
    root::user::User,
};

/// What is written into the journal about one event whose hooks have run.
pub struct Plan {
    record: Option<Arc<Record>>,
    pub user: User,
    /// The transfer that brought the file, if it is about one.
    transfer: Option<delivered::Key>,
    values: BTreeMap<String, Edits>,
    pub changes: Arc<[Change]>,
    pub tasks: Vec<Task>,
    /// What the sender is told instead of an ACK, now and whenever it asks again.
    words: Option<String>,
    /// What `[OnMeta]` decided, if the next attempt at the transfer has to follow it.
    pub decided: Option<Decided>,
    /// When the hooks run again, if they came to no decision.
    attempt: Option<Attempt>,
}

impl Plan {
    /// The plan for an event. If it came to no decision, `attempt` says how it continues.
    pub fn new(
        record: Option<&Arc<Record>>,
        verdict: &mut Verdict,
        changes: Changes,
        attempt: Option<Attempt>,
    ) -> Self {
        let Changes {
            values,
            files,
            inbox,
            effects,
            ..
        } = changes;
        let transfer = verdict.meta.as_ref().zip(record).and_then(key_of);
        let mut list = files;
        if let Some(record) = record.filter(|record| record.kind == Kind::Received) {
            if is_hidden(verdict) {
                go_back(record, verdict, &mut list);
            }
            list.extend(changes_of(verdict));
        }
        list.extend(told(&inbox));
        let words = match &verdict.outcome {
            Outcome::Refused(words) => Some(words.clone()),
            Outcome::Quarantined(reason) if verdict.tells_sender => Some(reason.clone()),
            _ => None,
        };
        let is_received = record.is_some_and(|record| record.kind == Kind::Received);
        let tasks = record.map(|record| effects_of(&record.task, &effects));
        verdict.effects = effects;
        let asks_nothing = values.is_empty() && list.is_empty() && verdict.effects.is_empty();
        let decided = match record {
            Some(record) if record.kind == Kind::Meta && !asks_nothing => decided(record, verdict),
            _ => None,
        };
        Self {
            user: verdict.folder.user().clone(),
            record: record.cloned(),
            transfer,
            values,
            changes: list.into(),
            tasks: tasks.unwrap_or_default(),
            words: words.filter(|_| is_received),
            decided,
            attempt,
        }
    }

    /// Whether it says nothing that the journal does not know.
    pub fn is_empty(&self) -> bool {
        let stands = self.record.as_ref().map(|record| &record.stands);
        matches!(stands, None | Some(Stands::Nothing))
            && self.values.is_empty()
            && self.changes.is_empty()
            && self.tasks.is_empty()
    }

    /// Whether the tasks have to wait until the file has the path that its sender wants.
    pub fn waits(&self) -> bool {
        !self.tasks.is_empty() && self.changes.iter().any(|c| matches!(c, Change::Put { .. }))
    }

    /// Whether it has to survive a loss of power before its changes are made. A `.meta` need
    /// not: as long as its transfer waits for hooks, that has what it said before them.
    pub fn is_durable(&self) -> bool {
        let is_meta = |change: &Change| matches!(change, Change::Meta { .. });
        let stands = self.record.as_ref().map(|record| &record.stands);
        let of_transfer = matches!(stands, Some(Stands::Transfer(_)));
        if self.attempt.is_some() {
            return false;
        }
        // What [OnMeta] counted goes with the file that it accepted; otherwise nothing follows that
        // would make it safe.
        let is_last = stands == Some(&Stands::Nothing) && self.decided.is_none();
        (is_last && !self.values.is_empty())
            || self.words.is_some()
            || !self.tasks.is_empty()
            || !self.changes.iter().all(is_meta)
            || !(of_transfer || self.changes.is_empty())
    }

    /// Writes everything but the changes; returns whether there may be something to do after it.
    fn write(&self, db: &Connection) -> rusqlite::Result<bool> {
        script_state::apply(db, self.user.name().as_str(), &self.values)?;
        if !self.waits() {
            journal::insert(db, &self.tasks)?;
        }
        let Some(record) = &self.record else {
            return Ok(false);
        };
        if let Some(attempt) = &self.attempt {
            attempt.write(db, &record.stands)?;
            return Ok(true);
        }
        if let (Some(decided), Some(key)) = (&self.decided, &self.transfer) {
            decided::put(db, key, decided)?;
        }
        let mut is_completed = false;
        if let Stands::Transfer(key) = &record.stands {
            is_completed = delivered::complete(db, key)?;
        }
        if !is_completed && record.stands != Stands::Nothing {
            journal::remove(db, &record.task)?;
        }
        if let (Some(words), Some(key)) = (&self.words, &self.transfer) {
            delivered::reject(db, key, words)?;
        }
        Ok(!self.tasks.is_empty() || journal::is_waited_for(db, &record.task)?)
    }
}

/// Whether a file that was received must no longer be seen.
fn is_hidden(verdict: &Verdict) -> bool {
    let held = |meta: &Meta| meta.extra.contains_key(QUARANTINE);
    match &verdict.outcome {
        Outcome::Refused(_) | Outcome::Quarantined(_) => true,
        Outcome::Accepted => verdict.meta.as_ref().is_some_and(held),
        Outcome::Failed | Outcome::Later => false,
    }
}

/// A file that goes out of sight keeps the name with which it arrived, under which nobody sees
/// it: what scripts wanted to do with it before is void.
fn go_back(record: &Record, verdict: &mut Verdict, changes: &mut Vec<Change>) {
    let stem = record.task.body.get("stem").and_then(Value::as_str);
    let (Some(stem), Some(file)) = (stem, &record.task.file) else {
        return;
    };
    let folder = record.folder.name();
    let mut places = vec![
        (folder.clone(), file.clone()),
        (folder.clone(), format!("{stem}.meta")),
    ];
    for change in &*changes {
        if let Change::Move { from, to, .. } = change
            && places.contains(from)
        {
            places.push(to.clone());
        }
    }
    changes.retain(|change| !change.places().iter().any(|place| places.contains(place)));
    verdict.folder = record.folder.clone();
    verdict.file = Some(file.clone());
    verdict.stem = Some(stem.to_owned());
}

/// A decision to accept a file, which the next attempt follows. One to refuse it is not remembered:
/// a person who sends it again wants it to be looked at again.
fn decided(record: &Record, verdict: &Verdict) -> Option<Decided> {
    let (asked, meta) = (verdict.before.as_ref()?, verdict.meta.as_ref()?);
    let mut meta = meta.clone();
    match &verdict.outcome {
        Outcome::Accepted => {}
        Outcome::Quarantined(reason) => {
            let reason = reason.as_str().into();
            meta.extra.insert(QUARANTINE.to_owned(), reason);
        }
        Outcome::Refused(_) | Outcome::Failed | Outcome::Later => return None,
    }
    Some(Decided {
        basis: record.rules.basis(asked),
        meta: String::from_utf8(meta.to_file()).ok()?,
    })
}

/// What a write of plans gave: the rows of their changes, if they have any.
pub type Rows = Vec<(i64, Vec<usize>)>;

/// Writes plans, or nothing if values are not what the scripts read.
pub fn write(db: &Connection, plans: &[Plan]) -> rusqlite::Result<(Option<Rows>, bool)> {
    for plan in plans {
        let user = plan.user.name().as_str();
        if !script_state::can_apply(db, user, &plan.values, MAX_KEYS)? {
            return Ok((None, false));
        }
    }
    let (mut rows, mut news) = (Rows::new(), false);
    let mut together = Vec::new();
    for (at, plan) in plans.iter().enumerate() {
        news |= plan.write(db)?;
        if plan.waits() {
            let body = to_body(&plan.changes, &plan.tasks);
            rows.push((redo::add(db, plan.user.name().as_str(), &body)?, vec![at]));
        } else if !plan.changes.is_empty() {
            together.push(at);
        }
    }
    if let Some(first) = together.first().and_then(|at| plans.get(*at)) {
        let all: Vec<Change> = together
            .iter()
            .filter_map(|at| plans.get(*at))
            .flat_map(|plan| plan.changes.iter().cloned())
            .collect();
        let body = to_body(&all, &[]);
        let seq = redo::add(db, first.user.name().as_str(), &body)?;
        rows.push((seq, together));
    }
    Ok((Some(rows), news))
}

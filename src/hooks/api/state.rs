//! `state`: small values that a folder's scripts keep from one event to the next.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rhai::{Dynamic, Engine};

use super::{
    actions::Actions,
    function::{Function, Made, fail},
    names::Names,
    text,
    value::{from_dynamic, to_dynamic},
};
use crate::{
    journal::{
        script_state::Edits,
        sent::{Sent, day},
    },
    json::Value,
    root::{folder::Folder, name::Name},
};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 128;

/// The largest value, in bytes of its JSON.
pub const MAX_VALUE: usize = 4_096;

/// Keys of one folder.
pub const MAX_KEYS: usize = 1_000;

/// Values that the scripts of one event may look at.
const MAX_READS: usize = 1_024;

/// Why a value cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another key would be one too many.
    #[error("the folder keeps {MAX_KEYS} values already: remove one with state.remove(key)")]
    Full,
    /// `add` to something other than a number.
    #[error("the value under this key is not a number: set one with state.set(key, 0)")]
    NoNumber,
    /// A sum that no number holds.
    #[error("the sum is too large for a number: begin anew with state.set(key, 0)")]
    Overflow,
    /// What keeps the values failed.
    #[error("the values of the folder cannot be reached: {0}")]
    Unreachable(String),
}

/// What is remembered for scripts. A value belongs to a key of a folder of a user.
///
/// Calls come from several threads at once.
pub trait State: Send + Sync {
    /// The value, if there is one.
    fn get(&self, user: &Name, folder: &Name, key: &str) -> Result<Option<Value>, StateError>;

    /// Every key that has a value, sorted.
    fn keys(&self, user: &Name, folder: &Name) -> Result<Vec<String>, StateError>;

    /// Applies edits of folders, by their names: all of them, or none if somebody has meanwhile
    /// changed what the scripts had read, or a folder would have more than [`MAX_KEYS`]. Returns
    /// whether they were applied.
    fn apply(&self, user: &Name, edits: &BTreeMap<String, Edits>) -> Result<bool, StateError>;

    /// Whether the hooks of a file that arrived still have to accept it, or what they decided is
    /// being done.
    fn is_pending(&self, user: &Name, folder: &Name, file: &str) -> Result<bool, StateError>;

    /// What a contact sent into a folder from a day on, counted from 1970.
    fn sent(
        &self,
        user: &Name,
        folder: &Name,
        sender: &str,
        from_day: u64,
    ) -> Result<Sent, StateError>;
}

type Values = BTreeMap<String, Value>;

/// Values that last only as long as the process.
#[derive(Default)]
pub struct MemoryState {
    values: Mutex<BTreeMap<(String, String), Values>>,
    sent: Mutex<Vec<Came>>,
}

/// A file that arrived in a folder.
struct Came {
    user: Name,
    folder: Name,
    from: String,
    /// In milliseconds since 1970.
    at: u64,
    bytes: u64,
}

impl MemoryState {
    // Edits are applied under one lock, and a panic between two of them is none of ours.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Values>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a file of a contact arrived in a folder at a time in milliseconds since 1970.
    pub fn came(&self, folder: &Folder, from: &str, bytes: u64, at: u64) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push(Came {
            user: folder.user().name().clone(),
            folder: folder.name().clone(),
            from: from.to_owned(),
            at,
            bytes,
        });
    }
}

impl State for MemoryState {
    fn get(&self, user: &Name, folder: &Name, key: &str) -> Result<Option<Value>, StateError> {
        let of = (user.to_string(), folder.to_string());
        Ok(self.lock().get(&of).and_then(|v| v.get(key)).cloned())
    }

    fn keys(&self, user: &Name, folder: &Name) -> Result<Vec<String>, StateError> {
        let of = (user.to_string(), folder.to_string());
        let keys = self.lock().get(&of).map(|v| v.keys().cloned().collect());
        Ok(keys.unwrap_or_default())
    }

    fn apply(&self, user: &Name, edits: &BTreeMap<String, Edits>) -> Result<bool, StateError> {
        let mut folders = self.lock();
        let mut edited = Vec::new();
        for (folder, edits) in edits {
            let of = (user.to_string(), folder.clone());
            let mut values = folders.get(&of).cloned().unwrap_or_default();
            let is_same = edits
                .reads
                .iter()
                .all(|(key, before)| values.get(key) == before.as_ref());
            let keys = edits.keys.as_ref();
            if !is_same || keys.is_some_and(|keys| !values.keys().eq(keys)) {
                return Ok(false);
            }
            for (key, value) in &edits.writes {
                match value {
                    Some(value) => values.insert(key.clone(), value.clone()),
                    None => values.remove(key),
                };
            }
            if values.len() > MAX_KEYS {
                return Ok(false);
            }
            edited.push((of, values));
        }
        folders.extend(edited);
        Ok(true)
    }

    fn is_pending(&self, _: &Name, _: &Name, _: &str) -> Result<bool, StateError> {
        Ok(false)
    }

    fn sent(
        &self,
        user: &Name,
        folder: &Name,
        sender: &str,
        from_day: u64,
    ) -> Result<Sent, StateError> {
        let mut sum = Sent::default();
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let of_sender =
            |came: &&Came| came.user == *user && came.folder == *folder && came.from == sender;
        for came in sent.iter().filter(of_sender) {
            sum.first = Some(sum.first.map_or(came.at, |first| first.min(came.at)));
            if day(came.at) >= from_day {
                sum.files += 1;
                sum.bytes = sum.bytes.saturating_add(came.bytes);
            }
        }
        Ok(sum)
    }
}

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "state",
        "state.get(key)",
        "The value that the folder's scripts keep under a key, or () if it is missing.",
        r#"
state.set("last", meta.filename);
assert_eq(state.get("last"), meta.filename);
assert_eq(state.get("nothing"), ());
"#,
    ),
    Function::new(
        "state",
        "state.get(key, default)",
        "The value that the folder's scripts keep under a key, or the default if it is missing.",
        r#"
assert_eq(state.get("album", "unsorted"), "unsorted");
"#,
    ),
    Function::new(
        "state",
        "state.set(key, value)",
        "Stores a value under a key: text, a whole number, true or false, or an array or a map of them, of at most 4 KiB as JSON, under at most 1,000 keys for a folder. () removes it.",
        r#"
state.set("seen", #{ from: meta.from, at: time.now() });
assert_eq(state.get("seen").from, meta.from);
"#,
    ),
    Function::new(
        "state",
        "state.add(key, n)",
        "Adds to the whole number under a key (0 if it is missing) and returns the sum. Two events never get the same sum.",
        r#"
let files_today = state.add(`files ${time.date()}`, 1);
if files_today > 100 { reject("enough for today"); }
assert_eq(files_today, 1);
"#,
    ),
    Function::new(
        "state",
        "state.remove(key)",
        "Removes the value under a key; returns whether there was one.",
        r#"
state.set("album", "holiday");
assert(state.remove("album"));
assert(!state.remove("album"));
"#,
    ),
    Function::new(
        "state",
        "state.keys(pattern)",
        "The keys that match the pattern, sorted. * stands for any number of characters, ? for one. For what you can do with them, see names.",
        r#"
let this_month = time.format(time.now(), "%Y-%m");
for key in state.keys("files ????-??") {
    if key != "files " + this_month { state.remove(key); }
}
"#,
    ),
];

/// `state` in a script.
#[derive(Clone)]
pub struct Handle {
    folder: Folder,
    actions: Actions,
    state: Arc<dyn State>,
}

impl Handle {
    pub(super) fn new(folder: &Folder, actions: &Actions, state: &Arc<dyn State>) -> Self {
        Self {
            folder: folder.clone(),
            actions: actions.clone(),
            state: state.clone(),
        }
    }

    /// What is under a key, with what the scripts of the event have written.
    fn find(&self, call: &str, key: &str) -> Made<Option<Value>> {
        checked(call, key)?;
        let (user, folder) = (self.folder.user().name(), self.folder.name());
        let mut transaction = self.actions.transaction();
        let values = transaction.values(folder);
        if let Some(written) = values.writes.get(key) {
            return Ok(written.clone());
        }
        if let Some(known) = values.reads.get(key) {
            return Ok(known.clone());
        }
        if values.reads.len() >= MAX_READS {
            return Err(fail(format!(
                "{call}: the scripts of one event can look at {MAX_READS} values"
            )));
        }
        let found = self.state.get(user, folder, key).map_err(failed(call))?;
        values.reads.insert(key.to_owned(), found.clone());
        Ok(found)
    }

    fn put(&self, call: &str, key: &str, value: Option<Value>) -> Made<()> {
        let is_new = value.is_some() && self.find(call, key)?.is_none();
        let (user, folder) = (self.folder.user().name(), self.folder.name());
        let mut transaction = self.actions.transaction();
        if is_new {
            let there = self.state.keys(user, folder).map_err(failed(call))?;
            if transaction.values(folder).merged(there).len() >= MAX_KEYS {
                return Err(failed(call)(StateError::Full));
            }
        }
        let values = transaction.values(folder);
        values.writes.insert(key.to_owned(), value);
        Ok(())
    }

    fn get(&mut self, key: &str) -> Made<Dynamic> {
        let value = self.find("state.get()", key)?;
        Ok(value.as_ref().map_or(Dynamic::UNIT, to_dynamic))
    }

    fn get_or(&mut self, key: &str, default: Dynamic) -> Made<Dynamic> {
        let value = self.find("state.get()", key)?;
        Ok(value.as_ref().map_or(default, to_dynamic))
    }

    fn set(&mut self, key: &str, value: Dynamic) -> Made<()> {
        let call = "state.set()";
        if value.is_unit() {
            return self.take(call, key).map(|_| ());
        }
        checked(call, key)?;
        let value = from_dynamic(&value).map_err(|e| fail(format!("{call}: {e}")))?;
        let text = value.to_string();
        if text.len() > MAX_VALUE {
            return Err(fail(format!(
                "{call}: the value has {} bytes as JSON, and may have {MAX_VALUE}",
                text.len()
            )));
        }
        self.put(call, key, Some(value))?;
        self.actions.note(|| format!("state.set({key:?}, {text})"));
        Ok(())
    }

    fn add(&mut self, key: &str, n: i64) -> Made<i64> {
        let call = "state.add()";
        let value = self.find(call, key)?;
        let sum = sum(value.as_ref(), n).map_err(failed(call))?;
        self.put(call, key, Some(sum.into()))?;
        self.actions.note(|| format!("state.add({key:?}, {n})"));
        Ok(sum)
    }

    fn remove(&mut self, key: &str) -> Made<bool> {
        self.take("state.remove()", key)
    }

    fn keys(&mut self, pattern: &str) -> Made<Names> {
        let call = "state.keys()";
        if pattern.len() > MAX_KEY {
            return Err(fail(format!("{call}: the pattern is longer than any key")));
        }
        let (user, folder) = (self.folder.user().name(), self.folder.name());
        let mut transaction = self.actions.transaction();
        let values = transaction.values(folder);
        let there = match &values.keys {
            Some(known) => known.clone(),
            None => self.state.keys(user, folder).map_err(failed(call))?,
        };
        values.keys = Some(there.clone());
        let keys = values.merged(there).into_iter();
        let like = keys.filter(|key| text::matches(key, pattern));
        Ok(Names::new(like.map(Into::into).collect()))
    }

    fn take(&self, call: &str, key: &str) -> Made<bool> {
        let was_there = self.find(call, key)?.is_some();
        if was_there {
            self.put(call, key, None)?;
        }
        self.actions.note(|| format!("state.remove({key:?})"));
        Ok(was_there)
    }
}

/// What `add` makes of the existing value.
fn sum(value: Option<&Value>, n: i64) -> Result<i64, StateError> {
    let old = match value {
        None => 0,
        Some(value) => value.as_i64().ok_or(StateError::NoNumber)?,
    };
    old.checked_add(n).ok_or(StateError::Overflow)
}

fn checked(call: &str, key: &str) -> Made<()> {
    if key.is_empty() || key.len() > MAX_KEY || key.chars().any(char::is_control) {
        return Err(fail(format!(
            "{call}: a key must have 1 to {MAX_KEY} bytes, on one line"
        )));
    }
    Ok(())
}

fn failed(call: &str) -> impl FnOnce(StateError) -> Box<rhai::EvalAltResult> {
    move |e| fail(format!("{call}: {e}"))
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("State")
        .register_fn("get", Handle::get)
        .register_fn("get", Handle::get_or)
        .register_fn("set", Handle::set)
        .register_fn("add", Handle::add)
        .register_fn("remove", Handle::remove)
        .register_fn("keys", Handle::keys);
}

//! `state`: small values that a folder's scripts keep from one event to the next.

use std::{
    collections::{BTreeMap, HashMap},
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
    json::Value,
    root::{folder::Folder, name::Name},
};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 128;

/// The largest value, in bytes of its JSON.
pub const MAX_VALUE: usize = 4_096;

/// Keys of one folder.
pub const MAX_KEYS: usize = 1_000;

/// Why a value cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another key would be one too many.
    #[error("the folder keeps {MAX_KEYS} values already: take one away with state.remove(key)")]
    Full,
    /// `add` to something else than a number.
    #[error("there is no number under this key: put one there with state.set(key, 0)")]
    NoNumber,
    /// A sum that no number holds.
    #[error("the sum is too large for a number: begin anew with state.set(key, 0)")]
    Overflow,
    /// What keeps the values failed.
    #[error("the values of the folder cannot be reached: {0}")]
    Unreachable(String),
}

/// Where the values are kept. A value belongs to a key of a folder of a user.
///
/// Keys and values were checked before; an implementation keeps [`MAX_KEYS`]. Calls
/// come from several threads at once.
pub trait State: Send + Sync {
    /// The value, where there is one.
    fn get(&self, user: &Name, folder: &Name, key: &str) -> Result<Option<Value>, StateError>;

    /// Puts a value in the place of the one that is there, if any.
    fn set(&self, user: &Name, folder: &Name, key: &str, value: Value) -> Result<(), StateError>;

    /// Adds to a whole number, 0 where there is none, and returns the new one. Of two
    /// calls at once none is lost.
    fn add(&self, user: &Name, folder: &Name, key: &str, n: i64) -> Result<i64, StateError>;

    /// Takes a value away; whether there was one.
    fn remove(&self, user: &Name, folder: &Name, key: &str) -> Result<bool, StateError>;

    /// Every key that has a value, sorted.
    fn keys(&self, user: &Name, folder: &Name) -> Result<Vec<String>, StateError>;
}

/// What `add` makes of the value that is there.
pub fn sum(value: Option<&Value>, n: i64) -> Result<i64, StateError> {
    let old = match value {
        None => 0,
        Some(value) => value.as_i64().ok_or(StateError::NoNumber)?,
    };
    old.checked_add(n).ok_or(StateError::Overflow)
}

type Values = BTreeMap<String, Value>;

/// Values that are gone with the process.
#[derive(Default)]
pub struct MemoryState(Mutex<HashMap<(Name, Name), Values>>);

impl MemoryState {
    // Every change is one insertion, so what a panic leaves is whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<(Name, Name), Values>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn insert(values: &mut Values, key: &str, value: Value) -> Result<(), StateError> {
    if values.len() >= MAX_KEYS && !values.contains_key(key) {
        return Err(StateError::Full);
    }
    values.insert(key.to_owned(), value);
    Ok(())
}

impl State for MemoryState {
    fn get(&self, user: &Name, folder: &Name, key: &str) -> Result<Option<Value>, StateError> {
        let of = (user.clone(), folder.clone());
        Ok(self.lock().get(&of).and_then(|v| v.get(key)).cloned())
    }

    fn set(&self, user: &Name, folder: &Name, key: &str, value: Value) -> Result<(), StateError> {
        let of = (user.clone(), folder.clone());
        insert(self.lock().entry(of).or_default(), key, value)
    }

    fn add(&self, user: &Name, folder: &Name, key: &str, n: i64) -> Result<i64, StateError> {
        let of = (user.clone(), folder.clone());
        let mut folders = self.lock();
        let values = folders.entry(of).or_default();
        let sum = sum(values.get(key), n)?;
        insert(values, key, sum.into())?;
        Ok(sum)
    }

    fn remove(&self, user: &Name, folder: &Name, key: &str) -> Result<bool, StateError> {
        let of = (user.clone(), folder.clone());
        let removed = self.lock().get_mut(&of).and_then(|v| v.remove(key));
        Ok(removed.is_some())
    }

    fn keys(&self, user: &Name, folder: &Name) -> Result<Vec<String>, StateError> {
        let of = (user.clone(), folder.clone());
        let keys = self.lock().get(&of).map(|v| v.keys().cloned().collect());
        Ok(keys.unwrap_or_default())
    }
}

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "state",
        "state.get(key)",
        "The value that the folder's scripts keep under a key, or () where there is none.",
        r#"
state.set("last", meta.filename);
assert_eq(state.get("last"), meta.filename);
assert_eq(state.get("nothing"), ());
"#,
    ),
    Function::new(
        "state",
        "state.get(key, default)",
        "The value that the folder's scripts keep under a key, or the default where there is none.",
        r#"
assert_eq(state.get("album", "unsorted"), "unsorted");
"#,
    ),
    Function::new(
        "state",
        "state.set(key, value)",
        "Keeps a value under a key: text, a whole number, true or false, an array or a map of them, of at most 4 KiB as JSON, under at most 1,000 keys for a folder. () takes it away.",
        r#"
state.set("seen", #{ from: meta.from, at: time.now() });
assert_eq(state.get("seen").from, meta.from);
"#,
    ),
    Function::new(
        "state",
        "state.add(key, n)",
        "Adds to the whole number under a key, 0 where there is none, and returns the new one. No two events at once get the same one.",
        r#"
let files_today = state.add(`files ${time.date()}`, 1);
if files_today > 100 { reject("enough for today"); }
assert_eq(files_today, 1);
"#,
    ),
    Function::new(
        "state",
        "state.remove(key)",
        "Takes the value under a key away; whether there was one.",
        r#"
state.set("album", "holiday");
assert(state.remove("album"));
assert(!state.remove("album"));
"#,
    ),
    Function::new(
        "state",
        "state.keys(pattern)",
        "The keys that are as the pattern says, sorted. * stands for any characters or none, ? for one. For what they can do, see names.",
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

    fn names(&self) -> (&Name, &Name) {
        (self.folder.user().name(), self.folder.name())
    }

    fn find(&self, key: &str) -> Made<Option<Value>> {
        checked("state.get()", key)?;
        let (user, folder) = self.names();
        self.state
            .get(user, folder, key)
            .map_err(failed("state.get()"))
    }

    fn get(&mut self, key: &str) -> Made<Dynamic> {
        let value = self.find(key)?;
        Ok(value.as_ref().map_or(Dynamic::UNIT, to_dynamic))
    }

    fn get_or(&mut self, key: &str, default: Dynamic) -> Made<Dynamic> {
        let value = self.find(key)?;
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
        let (user, folder) = self.names();
        self.actions
            .act(
                || format!("state.set({key:?}, {text})"),
                (),
                || self.state.set(user, folder, key, value),
            )
            .map_err(failed(call))
    }

    fn add(&mut self, key: &str, n: i64) -> Made<i64> {
        let call = "state.add()";
        checked(call, key)?;
        let (user, folder) = self.names();
        let add = || self.state.add(user, folder, key, n);
        if self.actions.is_live() {
            return add().map_err(failed(call));
        }
        let value = self.state.get(user, folder, key).map_err(failed(call))?;
        let otherwise = sum(value.as_ref(), n).map_err(failed(call))?;
        self.actions
            .act(|| format!("state.add({key:?}, {n})"), otherwise, add)
            .map_err(failed(call))
    }

    fn remove(&mut self, key: &str) -> Made<bool> {
        self.take("state.remove()", key)
    }

    fn keys(&mut self, pattern: &str) -> Made<Names> {
        let call = "state.keys()";
        if pattern.len() > MAX_KEY {
            return Err(fail(format!("{call}: the pattern is longer than any key")));
        }
        let (user, folder) = self.names();
        let keys = self.state.keys(user, folder).map_err(failed(call))?;
        let like = keys.into_iter().filter(|key| text::matches(key, pattern));
        Ok(Names::new(like.map(Into::into).collect()))
    }

    fn take(&self, call: &str, key: &str) -> Made<bool> {
        checked(call, key)?;
        let (user, folder) = self.names();
        let there = !self.actions.is_live()
            && self
                .state
                .get(user, folder, key)
                .map_err(failed(call))?
                .is_some();
        self.actions
            .act(
                || format!("state.remove({key:?})"),
                there,
                || self.state.remove(user, folder, key),
            )
            .map_err(failed(call))
    }
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

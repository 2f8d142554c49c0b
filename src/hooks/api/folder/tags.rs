//! Small values that are kept for a file that arrived, in the `folderTags` of its `.meta`: a field
//! that no sender can set and that no `.meta` takes along.

use rhai::{Dynamic, Map};

use super::{
    Handle,
    rules::{cannot, path_of, refuse},
};
use crate::{
    hooks::api::{
        actions::Touch,
        function::{Made, fail, shown},
        meta,
        value::{from_dynamic, to_dynamic},
    },
    json::{self, Value},
    meta::{FOLDER_TAGS, Meta},
};

/// Tags of one file.
const MAX_TAGS: usize = 32;

/// The longest name of a tag, in bytes.
const MAX_NAME: usize = 64;

/// The largest value of a tag, in bytes of its JSON.
const MAX_VALUE: usize = 1_024;

impl Handle {
    pub(super) fn tags(&mut self, name: &str) -> Made<Map> {
        let (_, meta) = self.tagged("folder.tags()", name)?;
        let tags = of(&meta);
        Ok(tags
            .iter()
            .map(|(tag, value)| (tag.as_str().into(), to_dynamic(value)))
            .collect())
    }

    pub(super) fn set_tag(&mut self, name: &str, tag: &str, value: Dynamic) -> Made<()> {
        let call = "folder.set_tag()";
        if tag.is_empty() || tag.len() > MAX_NAME || tag.chars().any(char::is_control) {
            return Err(fail(format!(
                "{call}: the name of a tag must have 1 to {MAX_NAME} bytes, on one line"
            )));
        }
        let value = match value.is_unit() {
            true => None,
            false => Some(from_dynamic(&value).map_err(|e| fail(format!("{call}: {e}")))?),
        };
        let len = value.as_ref().map_or(0, |value| value.to_string().len());
        if len > MAX_VALUE {
            return Err(fail(format!(
                "{call}: the value has {len} bytes as JSON, and may have {MAX_VALUE}"
            )));
        }
        let (file, mut meta) = self.tagged(call, name)?;
        let mut tags = of(&meta);
        let text = value.as_ref().map_or("()".to_owned(), Value::to_string);
        match value {
            Some(value) => tags.insert(tag.to_owned(), value),
            None => tags.remove(tag),
        };
        if tags.len() > MAX_TAGS {
            return Err(fail(format!(
                "{call}: {} may have {MAX_TAGS} tags",
                shown(name)
            )));
        }
        match tags.is_empty() {
            true => meta.extra.remove(FOLDER_TAGS),
            false => meta
                .extra
                .insert(FOLDER_TAGS.to_owned(), Value::Object(tags)),
        };
        self.actions
            .note(|| format!("folder.set_tag({name:?}, {tag:?}, {text})"));
        if let Some(own) = self.own_at(&file) {
            return own.set_extra(FOLDER_TAGS, meta.extra.remove(FOLDER_TAGS));
        }
        if self.is_pending(call, name)? {
            return Err(refuse(
                call,
                name,
                "is not accepted yet: its own hooks are still at work, and may set tags",
            ));
        }
        self.actions.may_touch()?;
        let text = String::from_utf8(meta.to_file())
            .map_err(|_| refuse(call, &file, "is not UTF-8 text"))?;
        let mut transaction = self.actions.transaction();
        let written = transaction.files.write(self.folder.name(), &file, &text);
        drop(transaction);
        written.map_err(|e| cannot(call, &file, &e))?;
        self.touch(&file, Touch::Written);
        Ok(())
    }

    /// The `.meta` of a file that arrived, and what it says for the scripts of the event.
    fn tagged(&self, call: &str, name: &str) -> Made<(String, Meta)> {
        let name = &path_of(call, name)?;
        self.about(call, name)?;
        let none = || {
            refuse(
                call,
                name,
                "has no .meta: only files that a contact sent have tags",
            )
        };
        let file = self.meta_of(name).ok_or_else(none)?;
        let meta = match self.own_at(&file) {
            Some(own) => own.get(),
            None => {
                // Before it is read: if it changes after that, the scripts run again.
                let _ = self.stat(&file);
                self.read_meta(&file).ok_or_else(none)?
            }
        };
        if meta.from == self.folder.user().name().as_str() {
            return Err(none());
        }
        Ok((file, meta))
    }

    /// Whether the file's own hooks may still write its `.meta`.
    fn is_pending(&self, call: &str, name: &str) -> Made<bool> {
        let name = path_of(call, name)?;
        let origin = {
            let mut transaction = self.actions.transaction();
            transaction.files.origin(self.folder.name(), &name)
        };
        let Some((folder, name)) = origin else {
            return Ok(false);
        };
        let user = self.folder.user().name();
        let is_pending = self.state.is_pending(user, &folder, &name);
        is_pending.map_err(|e| fail(format!("{call}: {e}")))
    }

    /// What scripts make of the `.meta` of the event's file, if that is what has this name now.
    fn own_at(&self, name: &str) -> Option<&meta::Handle> {
        let (place, own) = self.own.as_deref()?;
        let mut transaction = self.actions.transaction();
        let origin = transaction.files.origin(self.folder.name(), name)?;
        (origin == *place).then_some(own)
    }
}

fn of(meta: &Meta) -> json::Map<String, Value> {
    let tags = meta.extra.get(FOLDER_TAGS).and_then(Value::as_object);
    tags.cloned().unwrap_or_default()
}

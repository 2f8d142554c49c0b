//! `meta`: the document of the file that the event is about.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rhai::{Dynamic, Engine};

use super::{
    function::{Function, Made, fail},
    value::{from_dynamic, to_dynamic},
};
use crate::{
    event::Kind,
    json::Value,
    message,
    meta::{MAX_TEXT, Meta, TEXT, is_extra},
};

/// Bytes of all further fields together that a script may leave: more than a sender can send, so
/// that no sender can make a script fail that way.
const MAX_EXTRA: usize = 98_304;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "meta",
        "meta.field",
        "A field of the .meta: from, to, folder, filename, datetime, filesize, fileCRC, id, error, and any further one; () if it is missing. A message has kind, which is \"message\", and text; a stream has the kind \"stream\". While the sender does not know how large a file is (a stream, or standard input), filesize at OnMeta is 4611686018427387904, so that whatever limits sizes refuses it. At events without a received file or message, meta is ().",
        r#"
assert_eq(meta.from, "zhenqiang");
assert_eq(meta["no such field"], ());
"#,
    )
    .only_at(&[Kind::Meta, Kind::Received, Kind::Message]),
    Function::new(
        "meta",
        "meta.field = value",
        "Sets meta.error, which refuses the file with these words, or a further field, which is kept in the .meta and sent back to the sender; () removes it.",
        r#"
meta.album = "holiday";
meta.tags = ["sea", #{ year: 2018 }];
assert_eq(meta.tags[1].year, 2018);
"#,
    )
    .only_at(&[Kind::Meta, Kind::Received]),
];

/// `meta` in a script. Clones share one document.
#[derive(Clone)]
pub struct Handle(Arc<Mutex<Meta>>);

impl Handle {
    pub(super) fn new(meta: &Meta) -> Self {
        Self(Arc::new(Mutex::new(meta.clone())))
    }

    /// The document as it is now.
    pub fn get(&self) -> Meta {
        self.lock().clone()
    }

    // Never held while a script runs: only inside the functions below.
    fn lock(&self) -> MutexGuard<'_, Meta> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn field(&mut self, field: &str) -> Dynamic {
        let meta = self.lock();
        let number = |n: Option<u64>| match n.and_then(|n| i64::try_from(n).ok()) {
            Some(n) => n.into(),
            None => Dynamic::UNIT,
        };
        match field {
            "from" => meta.from.as_str().into(),
            "to" => meta.to.as_str().into(),
            "folder" => meta.folder.as_str().into(),
            "filename" => meta.filename.as_str().into(),
            "datetime" => meta.datetime.as_str().into(),
            "error" => meta.error.as_str().into(),
            "filesize" => number(Some(meta.size_for_hooks())),
            "fileCRC" => number(meta.file_crc.map(u64::from)),
            "id" => meta.id.map_or(Dynamic::UNIT, |id| id.to_string().into()),
            _ => meta.extra.get(field).map_or(Dynamic::UNIT, to_dynamic),
        }
    }

    fn set(&mut self, field: &str, value: Dynamic) -> Made<()> {
        let mut meta = self.lock();
        if field == "error" {
            meta.error = match value.into_string() {
                Ok(text) if text.len() <= MAX_TEXT => text,
                _ => return Err(fail(format!("meta.error must be {TEXT}"))),
            };
            return Ok(());
        }
        let is_fixed = meta.is_message() && message::FIELDS.contains(&field);
        if is_fixed || !is_extra(field) {
            return Err(fail(format!("meta.{field} cannot be changed by a hook")));
        }
        drop(meta);
        if value.is_unit() {
            return self.set_extra(field, None);
        }
        let value = from_dynamic(&value).map_err(|e| fail(format!("meta.{field}: {e}")))?;
        self.set_extra(field, Some(value))
    }

    /// Puts a value into a further field, or removes the one that is there.
    pub(super) fn set_extra(&self, field: &str, value: Option<Value>) -> Made<()> {
        let mut meta = self.lock();
        let Some(value) = value else {
            meta.extra.remove(field);
            return Ok(());
        };
        let before = meta.extra.insert(field.to_owned(), value);
        let len: usize = meta
            .extra
            .iter()
            .map(|(field, value)| field.len() + value.to_string().len())
            .sum();
        if len > MAX_EXTRA {
            match before {
                Some(before) => meta.extra.insert(field.to_owned(), before),
                None => meta.extra.remove(field),
            };
            return Err(fail(format!(
                "meta.{field}: all further fields together may have {MAX_EXTRA} bytes"
            )));
        }
        Ok(())
    }
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Meta")
        .register_indexer_get(|meta: &mut Handle, field: &str| meta.field(field))
        .register_indexer_set(|meta: &mut Handle, field: &str, value: Dynamic| {
            meta.set(field, value)
        });
}

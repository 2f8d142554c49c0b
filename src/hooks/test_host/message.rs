//! Messages that a test of hooks makes up.

use rhai::Map;

use super::sandbox::Sandbox;
use crate::{
    event::Subject,
    hooks::api::function::{Made, fail},
    message::{KIND, MESSAGE, TEXT},
};

impl Sandbox {
    /// A message: with these fields of its meta, or with this text alone.
    pub(super) fn message(
        &self,
        call: &str,
        what: Result<Map, String>,
    ) -> Made<(Option<String>, Option<Subject>)> {
        let mut fields = what.unwrap_or_else(|text| Map::from([(TEXT.into(), text.into())]));
        fields.insert(KIND.into(), MESSAGE.into());
        fields.insert("filesize".into(), 0_i64.into());
        fields.entry("filename".into()).or_insert("".into());
        let meta = self.read_meta(call, &self.meta(fields)?)?;
        if let Some(Err(wrong)) = meta.message() {
            return Err(fail(format!("{call}: {wrong}")));
        }
        let id = meta
            .id
            .ok_or_else(|| fail(format!("{call}: the meta has no id")))?;
        Ok((None, Some(Subject::of_message(meta, id))))
    }
}

/// Whether a made-up meta is that of a message.
pub(super) fn is_message(fields: &Map) -> bool {
    let kind = fields
        .get(KIND)
        .and_then(|kind| kind.clone().into_string().ok());
    kind.as_deref() == Some(MESSAGE)
}

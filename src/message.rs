//! A message: a meta with a text and no bytes after it.

use crate::{
    json::Value,
    meta::{Meta, TransferId},
};

/// The field that says that a meta is about something other than a file.
pub const KIND: &str = "kind";

/// What [`KIND`] is for a message.
pub const MESSAGE: &str = "message";

/// The field with the text.
pub const TEXT: &str = "text";

/// The field that is `true` if a script wrote the message: no script answers it.
pub const AUTOMATIC: &str = "automatic";

/// What a message says, which no hook changes.
pub const FIELDS: [&str; 3] = [KIND, TEXT, AUTOMATIC];

/// The longest text, in bytes of UTF-8.
pub const MAX_TEXT: usize = 16_384;

/// Why a meta is not a message, although it says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// There is none.
    #[error("a message needs a text: the field \"text\" is missing or empty")]
    NoText,
    /// It is too long.
    #[error("a message has at most {MAX_TEXT} bytes, this one has {0}: send a file instead")]
    TooLong(usize),
    /// It has bytes after the meta.
    #[error("a message has no bytes: its filesize must be 0 or missing")]
    HasBytes,
}

/// Checks a text that is to be sent.
pub fn check(text: &str) -> Result<(), MessageError> {
    match text.len() {
        0 => Err(MessageError::NoText),
        len if len > MAX_TEXT => Err(MessageError::TooLong(len)),
        _ => Ok(()),
    }
}

impl Meta {
    /// A message; fails if the text is empty or too long.
    pub fn of_message(
        (from, to): (&str, &str),
        folder: &str,
        id: TransferId,
        text: &str,
    ) -> Result<Self, MessageError> {
        check(text)?;
        let mut meta = Self::new(from, to, folder, "");
        meta.id = Some(id);
        meta.filesize = Some(0);
        meta.extra.insert(KIND.to_owned(), MESSAGE.into());
        meta.extra.insert(TEXT.to_owned(), text.into());
        Ok(meta)
    }

    /// Whether it says that it is a message.
    pub fn is_message(&self) -> bool {
        self.extra.get(KIND).and_then(Value::as_str) == Some(MESSAGE)
    }

    /// The text, if it is a message; an error if it says so but is not.
    pub fn message(&self) -> Option<Result<&str, MessageError>> {
        self.is_message().then(|| {
            if self.filesize.is_some_and(|bytes| bytes > 0) {
                return Err(MessageError::HasBytes);
            }
            let text = self.extra.get(TEXT).and_then(Value::as_str);
            let text = text.ok_or(MessageError::NoText)?;
            check(text).map(|()| text)
        })
    }

    /// Whether it is a message that a script wrote.
    pub fn is_automatic(&self) -> bool {
        self.extra.get(AUTOMATIC) == Some(&Value::Bool(true))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_is_a_message_if_it_says_so_and_has_a_text_alone() {
        let id = TransferId([7; 16]);
        let meta = Meta::of_message(("a", "b"), "chat", id, "hello?").unwrap();
        assert_eq!(meta.message(), Some(Ok("hello?")));
        let read = Meta::from_file(&meta.to_file()).unwrap();
        assert_eq!(read, meta);
        let mut file = meta.clone();
        file.extra.insert(KIND.to_owned(), "photo".into());
        assert_eq!(file.message(), None);
        let mut long = meta.clone();
        let text = "x".repeat(MAX_TEXT + 1);
        long.extra.insert(TEXT.to_owned(), text.into());
        assert_eq!(
            long.message(),
            Some(Err(MessageError::TooLong(MAX_TEXT + 1)))
        );
        let mut heavy = meta.clone();
        heavy.filesize = Some(1);
        assert_eq!(heavy.message(), Some(Err(MessageError::HasBytes)));
        let mut empty = meta;
        empty.extra.remove(TEXT);
        assert_eq!(empty.message(), Some(Err(MessageError::NoText)));
    }
}

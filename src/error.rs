//! What callers and peers may see of an error: a code and a sentence.
//!
//! Each layer has errors of its own, with all that the log wants to know. At the
//! edge they become an [`Error`], for a person at a terminal or for the peer.

use std::{fmt, io, path::Path};

/// What kind of trouble it is: the exit code of the program, a word on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Something went wrong, and trying again unchanged will not help.
    Failed,
    /// The command was written wrong.
    Usage,
    /// Some of several went wrong.
    Partly,
    /// What was named is not there.
    NotFound,
    /// It may work later: no connection, no room, too busy, shutting down.
    Later,
    /// The other side refuses it.
    Refused,
    /// A key or an identity is missing or does not match.
    Identity,
    /// The bytes are not those that were sent.
    Integrity,
    /// Something of that name exists already.
    Exists,
    /// The person stopped it.
    Interrupted,
}

impl Code {
    /// The exit code of the program.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::Exists => 1,
            Self::Usage => 2,
            Self::Partly => 3,
            Self::NotFound => 4,
            Self::Later => 5,
            Self::Refused => 10,
            Self::Identity => 12,
            Self::Integrity => 13,
            Self::Interrupted => 130,
        }
    }

    /// The word for it, on the wire and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Partly => "partly",
            Self::NotFound => "not-found",
            Self::Later => "later",
            Self::Refused => "refused",
            Self::Identity => "identity",
            Self::Integrity => "integrity",
            Self::Exists => "exists",
            Self::Interrupted => "interrupted",
        }
    }

    /// Reads a peer's word; an unknown one is a plain failure.
    pub fn from_word(word: &str) -> Self {
        [
            Self::Later,
            Self::Refused,
            Self::Integrity,
            Self::NotFound,
            Self::Exists,
        ]
        .into_iter()
        .find(|code| code.word() == word)
        .unwrap_or(Self::Failed)
    }
}

/// One sentence for a person or a peer, and what kind of trouble it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of trouble.
    pub code: Code,
    /// One sentence that says what to do.
    pub sentence: String,
}

impl Error {
    /// An error from its parts.
    pub fn new(code: Code, sentence: impl Into<String>) -> Self {
        Self {
            code,
            sentence: sentence.into(),
        }
    }

    /// What the system said when something was tried (`open`, `write`) on a path.
    pub fn io(action: &str, path: &Path, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => Code::NotFound,
            _ => Code::Failed,
        };
        // A directory handle refuses that way; the error itself speaks of a filesystem, which tells
        // nobody what to fix.
        let led_out =
            error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none();
        let why = match led_out {
            true => {
                "it is a symbolic link that leads out of its directory, and must not".to_owned()
            }
            false => error.to_string(),
        };
        Self::new(code, format!("cannot {action} {}: {why}", path.display()))
    }

    /// Puts what was being done in front of the sentence.
    #[must_use]
    pub fn within(self, what: impl fmt::Display) -> Self {
        Self::new(self.code, format!("{what}: {}", self.sentence))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Error {}

/// A text from a peer or a script, safe to print on one line of a terminal.
///
/// Control characters, and those that change the direction of text, are shown
/// by their code; the text ends with an ellipsis after `limit` characters.
pub fn printable(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let mut rest = text.chars();
    for c in rest.by_ref().take(limit) {
        let invisible = matches!(
            c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        );
        if c.is_control() || invisible {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if rest.next().is_some() {
        out.push('…');
    }
    out
}

/// `: did you mean x?`, or nothing if nothing is like it.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let distance =
        |one: &str| strsim::damerau_levenshtein(&word.to_lowercase(), &one.to_lowercase());
    let near = known
        .into_iter()
        .filter(|one| *one != word)
        .map(|one| (distance(one), one))
        .min();
    match near {
        // A third of a word may be wrong, and in a short one a letter.
        Some((wrong, one)) if wrong <= (word.chars().count() / 3).max(1) => {
            format!(": did you mean {one}?")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_steer_the_terminal() {
        assert_eq!(
            printable("no\u{1b}[2J\n\u{202e}x", 80),
            "no\\u{1b}[2J\\n\\u{202e}x"
        );
        assert_eq!(printable("abcdef", 3), "abc…");
    }

    #[test]
    fn words_come_back_as_codes() {
        assert_eq!(Code::from_word(Code::Later.word()), Code::Later);
        assert_eq!(Code::from_word("interrupted"), Code::Failed);
    }
}

//! The names of users and folders: the only words from outside that become paths.
//!
//! They may be written in any script, but each in one: with the letters of two, a name could
//! pass for a different one ([UTS 39], single-script names). Two spellings of one name cannot
//! both be names, because only the composed one is (NFC).
//!
//! [UTS 39]: https://www.unicode.org/reports/tr39/

use std::fmt;

use sha2::{Digest, Sha256};
use unicode_normalization::{UnicodeNormalization, is_nfc};
use unicode_security::{GeneralSecurityProfile, MixedScript};

/// The longest name, in characters.
pub const MAX_LEN: usize = 64;

/// The longest name, in bytes: with what m2y adds, it has to fit into the name of a file.
pub const MAX_BYTES: usize = 192;

/// First 8 bytes of SHA-256 over a user's name: where a peer's header points.
pub type NameHash = [u8; 8];

/// Directories of a user that m2y itself uses, and for what.
const RESERVED: [(&str, &str); 3] = [
    ("privateKey", "it holds your key"),
    ("pubKey", "it holds the keys of your contacts"),
    (
        "outgoing",
        "what lies in outgoing/NAME is what the contact NAME may fetch",
    ),
];

/// A checked name: letters of one script, digits, `.`, `_`, `-`; 1 to 64 of them, in NFC, no
/// leading dot. Such a name is one path component on every system.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Letters of several scripts.
    #[error("{0:?} cannot be a name: its letters belong to more than one script")]
    Scripts(String),
    /// Nothing, too much, a leading dot, or a character outside the set.
    #[error(
        "{0:?} cannot be a name: use 1 to {MAX_LEN} letters, digits, '.', '_' or '-', and do not begin with '.'"
    )]
    Form(String),
    /// A directory that m2y itself uses.
    #[error("a folder cannot be called {name:?}: m2y uses this directory itself, {purpose}")]
    Reserved {
        /// The name.
        name: String,
        /// For what m2y uses it.
        purpose: &'static str,
    },
}

impl Name {
    /// Checks the name of a user.
    pub fn user(text: &str) -> Result<Self, NameError> {
        let fits = |c: char| {
            let is_plain = c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            is_plain || !c.is_ascii() && c.identifier_allowed()
        };
        // A combining mark without a letter before it would join what precedes the name.
        let begins = |c: char| c.is_ascii() && c != '.' || c.is_alphanumeric();
        let shown = || text.chars().take(MAX_LEN).collect();
        if !text.starts_with(begins)
            || text.len() > MAX_BYTES
            || text.chars().count() > MAX_LEN
            || !text.chars().all(fits)
            || !is_nfc(text)
        {
            return Err(NameError::Form(shown()));
        }
        if !text.is_ascii() && !text.is_single_script() {
            return Err(NameError::Scripts(shown()));
        }
        Ok(Self(text.into()))
    }

    /// What a person typed, spelled as names are: some keyboards and systems write a letter and
    /// its accent one after the other.
    pub fn composed(text: &str) -> String {
        text.nfc().collect()
    }

    /// Checks the name of an m2y-folder.
    pub fn folder(text: &str) -> Result<Self, NameError> {
        let name = Self::user(text)?;
        let is_reserved = |(name, _): &&(&str, &str)| name.eq_ignore_ascii_case(text);
        if let Some((_, purpose)) = RESERVED.iter().find(is_reserved) {
            return Err(NameError::Reserved {
                name: text.to_owned(),
                purpose,
            });
        }
        Ok(name)
    }

    /// Checks the name of a script: the same rules keep a line of m2y.config from
    /// pointing elsewhere.
    pub fn script(text: &str) -> Result<Self, NameError> {
        Self::user(text)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hash that stands for this user in a header.
    pub fn hash(&self) -> NameHash {
        let digest = Sha256::digest(self.0.as_bytes());
        digest.first_chunk().copied().unwrap_or_default()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_seed_are_names() {
        for text in ["zhenqiang", "roland-frei", "a", "A.b_c-9", &"x".repeat(64)] {
            assert_eq!(Name::user(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn names_are_written_in_any_one_script() {
        for text in [
            "jürg",
            "振强",
            "ヤマダ-太郎",
            "Ирина_2",
            "αλέξης",
            "ëlif",
            "김철수",
            "देवी",
            &"é".repeat(64),
        ] {
            assert_eq!(Name::user(text).unwrap().as_str(), text);
        }
        let spelled = Name::composed("ju\u{308}rg");
        assert_eq!(Name::user(&spelled).unwrap().as_str(), "jürg");
    }

    #[test]
    fn names_that_pass_for_others_are_none() {
        for text in [
            // Cyrillic letters among Latin ones.
            "r\u{43e}land-frei",
            "zhenq\u{456}ang",
            // Not composed.
            "ju\u{308}rg",
            // A mark first, characters without a width, letters that are only look-alikes.
            "\u{301}a",
            "a\u{200b}b",
            "a\u{ad}b",
            "\u{1d4fb}oland",
            "ﬁn",
            "a\u{2215}b",
            "\u{ff0e}\u{ff0e}",
            &"é".repeat(65),
            &"𠮷".repeat(64),
        ] {
            assert!(Name::user(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_could_leave_a_directory_is_no_name() {
        let long = "x".repeat(300);
        for text in [
            "",
            ".",
            "..",
            ".ssh",
            "a/b",
            "/",
            "a\\b",
            "a\0b",
            "a\nb",
            "a b",
            "a:b",
            "~root",
            "-\u{202e}x",
            &long,
        ] {
            assert!(Name::user(text).is_err(), "{text:?}");
            assert!(Name::folder(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn key_directories_are_no_folders() {
        for text in ["privateKey", "pubKey", "PUBKEY"] {
            assert!(Name::folder(text).is_err());
        }
    }

    #[test]
    fn the_hash_is_the_head_of_sha256() {
        // printf roland-frei | sha256sum
        let hash = hex::encode(Name::user("roland-frei").unwrap().hash());
        assert_eq!(hash, SHA256_OF_ROLAND_FREI);
    }

    const SHA256_OF_ROLAND_FREI: &str = "f52fe1060363e796";
}

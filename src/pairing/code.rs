//! A code, as people tell it.

use std::{fmt, str::FromStr};

use crate::{
    crypto::{self, CryptoError},
    error::did_you_mean,
    transport::{Address, AddressError},
    wire::words::WORDS,
};

/// The largest number of a slot.
pub const MAX_SLOT: u64 = 999;

/// A code: `7-lantern-orbit@roland.example.org:5000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// Which code it is at its host.
    pub slot: u64,
    /// What makes it secret: two words with a hyphen between.
    pub password: String,
    /// Where its host is.
    pub address: Address,
}

/// Two words, drawn at random, with a hyphen between.
pub fn draw() -> Result<String, CryptoError> {
    let words = crypto::random::<2>()?.map(|index| WORDS.get(usize::from(index)));
    Ok(words
        .map(|word| word.copied().unwrap_or_default())
        .join("-"))
}

/// A text that is not a code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCode {
    /// It has another form.
    #[error(
        "{0:?} is not a code: it looks like 7-lantern-orbit@example.org:5000, and `m2y pair` without a code makes one"
    )]
    Form(String),
    /// A word that no code has.
    #[error("no code has the word {word:?}{near}")]
    Word {
        /// As it was typed.
        word: String,
        /// What may be meant.
        near: String,
    },
    /// What comes after the @.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl FromStr for Code {
    type Err = NoCode;

    fn from_str(text: &str) -> Result<Self, NoCode> {
        let form = || NoCode::Form(text.to_owned());
        let (secret, address) = text.trim().split_once('@').ok_or_else(form)?;
        let (slot, words) = secret.split_once('-').ok_or_else(form)?;
        let slot = slot
            .parse()
            .ok()
            .filter(|slot| (1..=MAX_SLOT).contains(slot));
        let slot = slot.ok_or_else(form)?;
        let words = words.to_ascii_lowercase();
        let (first, second) = words.split_once('-').ok_or_else(form)?;
        for word in [first, second] {
            if WORDS.binary_search(&word).is_err() {
                return Err(NoCode::Word {
                    word: word.to_owned(),
                    near: did_you_mean(word, WORDS),
                });
            }
        }
        Ok(Self {
            slot,
            address: Address::with_default_port(address)?,
            password: words,
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}@{}", self.slot, self.password, self.address)
    }
}

/// The ways to go on typing a code: the words that may come next.
pub fn completions(typed: &str) -> Vec<String> {
    if typed.contains('@') {
        return Vec::new();
    }
    let Some((before, word)) = typed.rsplit_once('-') else {
        return Vec::new();
    };
    // The address comes after the second word, and nobody but the owner knows it.
    let end = match before.matches('-').count() {
        0 => "-",
        1 => "@",
        _ => return Vec::new(),
    };
    let fitting = WORDS.iter().filter(|other| other.starts_with(word));
    fitting
        .map(|word| format!("{before}-{word}{end}"))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_it_is_told() {
        let text = "7-lantern-orbit@roland.example.org:5000";
        let code: Code = text.parse().unwrap();
        assert_eq!(code.to_string(), text);
        let told: Code = " 7-Lantern-ORBIT@roland.example.org ".parse().unwrap();
        assert_eq!(told, code);
        let why = |text: &str| text.parse::<Code>().unwrap_err().to_string();
        assert_eq!(
            why("7-lantren-orbit@h"),
            "no code has the word \"lantren\": did you mean lantern?"
        );
        for bad in [
            "",
            "7-lantern@h",
            "lantern-orbit@h",
            "0-lantern-orbit@h",
            "7-lantern-orbit",
        ] {
            assert!(why(bad).contains("is not a code"), "{bad}");
        }
        assert!(why("7-lantern-orbit@a b").contains("is not an address"));
    }

    #[test]
    fn codes_are_different_and_can_be_completed() {
        let drawn: Vec<_> = (0..50).map(|_| draw().unwrap()).collect();
        assert!(drawn.iter().any(|words| *words != drawn[0]));
        assert_eq!(completions("7-lant"), ["7-lantern-"]);
        assert_eq!(completions("7-lantern-orb"), ["7-lantern-orbit@"]);
        assert_eq!(completions("7-").len(), 256);
        assert!(completions("7").is_empty() && completions("7-a-b@h").is_empty());
    }
}

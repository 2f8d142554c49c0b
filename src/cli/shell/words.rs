//! Splits lines as a POSIX shell does: words, quotes, patterns.
//!
//! A word is kept as a pattern: a quoted `*`, `?` or `[` is put in brackets, which tells it apart
//! from one that is meant as a pattern.

use crate::{
    cli::pattern::{LITERAL, literal},
    error::{Code, Error},
};

/// The words of a line, and how it ends.
struct Scan {
    words: Vec<String>,
    /// Where the last word begins, if the line ends within one.
    last: Option<usize>,
    /// The quote or backslash that is not closed.
    open: Option<char>,
}

fn scan(line: &str) -> Scan {
    let mut words = Vec::new();
    let mut word: Option<(usize, String)> = None;
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        if quote.is_none() && !escaped && matches!(c, ' ' | '\t' | '\n') {
            words.extend(word.take().map(|(_, text)| text));
            continue;
        }
        let (_, text) = word.get_or_insert_with(|| (at, String::new()));
        let literal = escaped || quote.is_some();
        match (quote, c) {
            (None, _) | (Some('"'), '"' | '\\' | '$' | '`') if escaped => {}
            // Between double quotes, a backslash stands for itself except before those.
            (Some('"'), _) if escaped => text.push('\\'),
            (None | Some('"'), '\\') => {
                escaped = true;
                continue;
            }
            (None, '"' | '\'') => {
                quote = Some(c);
                continue;
            }
            (Some(open), _) if open == c => {
                quote = None;
                continue;
            }
            _ => {}
        }
        escaped = false;
        match LITERAL.iter().find(|(meta, _)| literal && *meta == c) {
            Some((_, written)) => text.push_str(written),
            None => text.push(c),
        }
    }
    let last = word.as_ref().map(|(at, _)| *at);
    words.extend(word.map(|(_, text)| text));
    Scan {
        words,
        last,
        open: quote.or(escaped.then_some('\\')),
    }
}

/// The words of a line, each as a pattern.
pub fn split(line: &str) -> Result<Vec<String>, Error> {
    let Scan { words, open, .. } = scan(line);
    match open {
        None => Ok(words),
        Some('\\') => Err(Error::new(
            Code::Usage,
            "the line ends with a backslash: put a character behind it",
        )),
        Some(quote) => Err(Error::new(
            Code::Usage,
            format!("unclosed quote: add {quote} at the end of the word"),
        )),
    }
}

/// For a line that is being typed: the words before the last, where the last begins, and its text.
pub fn unfinished(line: &str) -> (Vec<String>, usize, String) {
    let Scan {
        mut words, last, ..
    } = scan(line);
    match last {
        Some(at) => {
            let word = words.pop().unwrap_or_default();
            (words, at, literal(&word))
        }
        None => (words, line.len(), String::new()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::pattern::{is_pattern, matches, pattern};

    proptest! {
        #[test]
        fn words_are_those_of_a_shell(line in "[ab \\\\\"'*?\\[\\]/$]{0,16}") {
            let words = split(&line).map(|words| {
                words.iter().map(|word| literal(word)).collect::<Vec<_>>()
            });
            // `shell_words` takes `#` for a comment, and a backslash at the end for itself. Here, a
            // pattern that only one name can match is that name.
            let theirs = shell_words::split(&line);
            let bare = line.replace(['\\', '"', '\''], "");
            let one = LITERAL.iter().any(|(_, written)| bare.contains(written));
            if !line.ends_with('\\') && !one {
                prop_assert_eq!(words.ok(), theirs.ok());
            }
        }

        #[test]
        fn what_is_quoted_is_one_word_again(name in "[^\0\r\n]{1,12}") {
            let words = split(&shell_words::quote(&name)).unwrap();
            prop_assert!(!is_pattern(&words[0]));
            prop_assert_eq!(words.iter().map(|w| literal(w)).collect::<Vec<_>>(), [name]);
        }
    }

    #[test]
    fn only_what_is_not_quoted_is_a_pattern() {
        for (line, is) in [
            ("*.jpg", true),
            ("a?", true),
            ("[ab]", true),
            ("[ab", false),
            ("\\*.jpg", false),
            ("'*'.jpg", false),
            ("\"a?\"*", true),
            ("'[ab]'", false),
        ] {
            assert_eq!(is_pattern(&split(line).unwrap()[0]), is, "{line}");
        }
        let star = pattern(&split("'*'?").unwrap()[0]).unwrap();
        assert!(matches(&star, "*a") && !matches(&star, "ba"));
    }

    #[test]
    fn a_line_that_is_being_written_has_a_last_word() {
        let of = |line: &str| {
            let (words, at, text) = unfinished(line);
            (words.len(), at, text)
        };
        assert_eq!(of("get ph"), (1, 4, "ph".to_owned()));
        assert_eq!(of("get 'a b"), (1, 4, "a b".to_owned()));
        assert_eq!(of("get 'a b/'c"), (1, 4, "a b/c".to_owned()));
        assert_eq!(of("get "), (1, 4, String::new()));
    }
}

//! Regular expressions, as functions of `text`.

use std::{cell::RefCell, collections::VecDeque};

use regex::{Regex, RegexBuilder};
use rhai::{Array, Dynamic, Engine};

use super::{
    function::{Function, Made, fail},
    text::Handle,
};
use crate::hooks::{call, engine::MAX_STRING};

/// The longest pattern, in bytes.
const MAX_PATTERN: usize = 512;

/// Bytes of a compiled pattern: it takes time for each byte of a text.
const MAX_COMPILED: usize = 1 << 17;

/// How deep groups may be nested.
const MAX_NESTED: u32 = 32;

/// The most bytes that one match may become: those of the replacement times those found.
const MAX_EXPANDED: usize = 1 << 20;

/// Compiled patterns that a thread keeps.
const KEPT: usize = 16;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "text",
        "text.regex_match(text, pattern)",
        "Whether a regular expression matches somewhere in a text; ^ and $ anchor it. The pattern has at most 512 bytes, in the syntax of Rust's regex crate: without look-around and backreferences, so that no text takes long.",
        r#"
assert(text.regex_match("IMG_2041.JPG", `(?i)^img_\d{4}[.]jpe?g$`));
assert(!text.regex_match("IMG.JPG", `\d`));
"#,
    ),
    Function::new(
        "text",
        "text.regex_find(text, pattern)",
        "The first match of a regular expression, as an array: the whole match, then each group, with () for a group that took no part in it. () if nothing matches.",
        r#"
let found = text.regex_find("invoice 2026-017.pdf", `(\d{4})-(\d+)`);
assert_eq(found, ["2026-017", "2026", "017"]);
assert_eq(text.regex_find("letter.pdf", `\d`), ());
"#,
    ),
    Function::new(
        "text",
        "text.regex_replace(text, pattern, with)",
        "The text with every match of a regular expression replaced; $1 and ${name} stand for groups, $$ for a dollar.",
        r#"
assert_eq(text.regex_replace("a  b   c", ` +`, "_"), "a_b_c");
assert_eq(text.regex_replace("30-12-2018", `(\d+)-(\d+)-(\d+)`, "$3/$2/$1"), "2018/12/30");
"#,
    ),
];

thread_local! {
    /// The most recently used patterns: a script has the same for each file.
    static COMPILED: RefCell<VecDeque<(String, Regex)>> = const { RefCell::new(VecDeque::new()) };
}

fn compiled(call: &str, pattern: &str) -> Made<Regex> {
    if pattern.len() > MAX_PATTERN {
        return Err(fail(format!(
            "{call}: the pattern may have {MAX_PATTERN} bytes"
        )));
    }
    COMPILED.with_borrow_mut(|kept| {
        if let Some((_, regex)) = kept.iter().find(|(known, _)| known == pattern) {
            return Ok(regex.clone());
        }
        let regex = RegexBuilder::new(pattern)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_COMPILED)
            .nest_limit(MAX_NESTED)
            .build()
            .map_err(|error| {
                let why = match error {
                    regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
                    // The last line says what; those before it show where.
                    error => {
                        let text = error.to_string();
                        text.lines().last().unwrap_or_default().to_owned()
                    }
                };
                fail(format!("{call}: the pattern cannot be used: {why}"))
            })?;
        kept.truncate(KEPT - 1);
        kept.push_front((pattern.to_owned(), regex.clone()));
        Ok(regex)
    })
}

fn find(text: &str, pattern: &str) -> Made<Dynamic> {
    let regex = compiled("text.regex_find()", pattern)?;
    Ok(match regex.captures(text) {
        None => Dynamic::UNIT,
        Some(found) => found
            .iter()
            .map(|group| group.map_or(Dynamic::UNIT, |group| group.as_str().to_owned().into()))
            .collect::<Array>()
            .into(),
    })
}

fn replace(text: &str, pattern: &str, with: &str) -> Made<String> {
    let function = "text.regex_replace()";
    let regex = compiled(function, pattern)?;
    let (mut replaced, mut end) = (String::new(), 0);
    for found in regex.captures_iter(text) {
        call::go_on()?;
        let Some(whole) = found.get(0) else {
            continue;
        };
        replaced.push_str(text.get(end..whole.start()).unwrap_or_default());
        // A group may occur there many times, and be as long as the text.
        if with.len().saturating_mul(whole.len().max(1)) > MAX_EXPANDED {
            return Err(fail(format!(
                "{function}: what is to be put there is too long"
            )));
        }
        found.expand(with, &mut replaced);
        end = whole.end();
        if replaced.len() > MAX_STRING {
            return Err(fail(format!(
                "{function}: the text would have more than {MAX_STRING} bytes"
            )));
        }
    }
    replaced.push_str(text.get(end..).unwrap_or_default());
    Ok(replaced)
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_fn(
            "regex_match",
            |_: &mut Handle, text: &str, pattern: &str| -> Made<bool> {
                Ok(compiled("text.regex_match()", pattern)?.is_match(text))
            },
        )
        .register_fn("regex_find", |_: &mut Handle, text: &str, pattern: &str| {
            find(text, pattern)
        })
        .register_fn(
            "regex_replace",
            |_: &mut Handle, text: &str, pattern: &str, with: &str| replace(text, pattern, with),
        );
}

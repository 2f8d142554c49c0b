//! `text`: what hooks do with texts but Rhai has no function for.

use rhai::{Array, Engine, ImmutableString};

use super::function::{Function, Made, fail};
use crate::root::{file, folder::CONFIG};

/// The widest that a text is padded to, in characters.
const MAX_WIDTH: usize = 256;

/// Lines that an array may hold.
const MAX_LINES: usize = 1_000;

/// The longest name that `text.file_name` makes, in bytes: it leaves room for an ending.
const MAX_FILE_NAME: usize = 200;

/// Endings with a meaning of their own in a folder.
const TAKEN: [&str; 6] = [".meta", ".data", ".left", ".done", ".failed", ".rhai"];

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "text",
        "text.matches(text, pattern)",
        "Whether the whole text matches the pattern: * stands for any number of characters, ? for one.",
        r#"
assert(text.matches("scan-007.pdf", "scan-???.p*"));
assert(!text.matches("a.jpg", "*.JPG"));
"#,
    ),
    Function::new(
        "text",
        "text.extension(name)",
        "The ending of a file name in lower case, without the dot; empty if there is none.",
        r#"
assert_eq(text.extension("IMG_1.JPG"), "jpg");
assert_eq(text.extension("README"), "");
"#,
    ),
    Function::new(
        "text",
        "text.stem(name)",
        "A file name without its ending.",
        r#"
assert_eq(text.stem("archive.tar.gz"), "archive.tar");
assert_eq(text.stem("README"), "README");
"#,
    ),
    Function::new(
        "text",
        "text.file_name(text)",
        "Makes a file name of whatever a sender wrote: drops what comes before the last / or \\, and leading dots; what a name cannot contain becomes _.",
        r#"
assert_eq(text.file_name("../../etc/passwd"), "passwd");
assert_eq(text.file_name("evil.rhai"), "evil.rhai_");
folder.rename(event.data_file, text.file_name(meta.filename));
"#,
    ),
    Function::new(
        "text",
        "text.lines(text)",
        "The lines of a text, without their line endings; at most 1,000.",
        r#"
assert_eq(text.lines("a\r\nb\n"), ["a", "b"]);
"#,
    ),
    Function::new(
        "text",
        "text.one_line(text)",
        "The text on one line: line breaks and other control characters become spaces.",
        r#"
assert_eq(text.one_line("a\nb"), "a b");
notify.email("me@example.org", text.one_line(`got ${meta.filename}`), "It has arrived.");
"#,
    ),
    Function::new(
        "text",
        "text.pad_left(value, width)",
        "The value padded on the left to that width: a number with zeros, a text with spaces.",
        r#"
assert_eq(text.pad_left(7, 3), "007");
assert_eq(text.pad_left("7", 3), "  7");
"#,
    ),
];

/// `text` in a script.
#[derive(Clone, Copy)]
pub struct Handle;

/// Whether the whole text matches the pattern.
pub(crate) fn matches(text: &str, pattern: &str) -> bool {
    // On a mismatch the last star takes one more character; earlier ones need not.
    let (mut rest, mut wanted) = (text.chars(), pattern.chars());
    let mut star = None;
    loop {
        let before = rest.clone();
        match (rest.next(), wanted.next()) {
            (None, None) => return true,
            (_, Some('*')) => {
                rest = before.clone();
                star = Some((before, wanted.clone()));
            }
            (Some(_), Some('?')) => {}
            (Some(a), Some(b)) if a == b => {}
            (None, Some(_)) => return false,
            _ => {
                let Some((taken, behind)) = &mut star else {
                    return false;
                };
                if taken.next().is_none() {
                    return false;
                }
                rest = taken.clone();
                wanted = behind.clone();
            }
        }
    }
}

/// The stem and the ending of a name; a leading dot does not begin an ending.
pub(super) fn split(name: &str) -> (&str, &str) {
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => (stem, ending),
        _ => (name, ""),
    }
}

fn lines(text: &str) -> Made<Array> {
    let lines: Array = text
        .lines()
        .take(MAX_LINES + 1)
        .map(|line| line.into())
        .collect();
    if lines.len() > MAX_LINES {
        return Err(fail(format!(
            "text.lines(): there are more than {MAX_LINES}"
        )));
    }
    Ok(lines)
}

fn one_line(text: &str) -> String {
    let blank = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    // A line ending of two characters counts as one.
    text.replace("\r\n", "\n")
        .chars()
        .map(|c| if blank(c) { ' ' } else { c })
        .collect()
}

fn file_name(text: &str) -> String {
    let last = text.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name = String::new();
    for c in last.trim().trim_start_matches('.').chars() {
        let c = if c.is_control() { '_' } else { c };
        if name.len() + c.len_utf8() > MAX_FILE_NAME {
            break;
        }
        name.push(c);
    }
    let lower = name.to_ascii_lowercase();
    if TAKEN.iter().any(|ending| lower.ends_with(ending))
        || lower == CONFIG
        || file::check_name(&name).is_err()
    {
        name.push('_');
    }
    name
}

fn pad(text: &str, width: i64, with: char) -> Made<String> {
    let width = usize::try_from(width)
        .ok()
        .filter(|width| *width <= MAX_WIDTH)
        .ok_or_else(|| {
            fail(format!(
                "text.pad_left(): the width must be 0 to {MAX_WIDTH}"
            ))
        })?;
    let missing = width.saturating_sub(text.chars().count());
    let mut padded: String = std::iter::repeat_n(with, missing).collect();
    padded.push_str(text);
    Ok(padded)
}

fn pad_number(n: i64, width: i64) -> Made<String> {
    match n < 0 {
        false => pad(&n.to_string(), width, '0'),
        true => {
            let digits = n.unsigned_abs().to_string();
            Ok(format!(
                "-{}",
                pad(&digits, width.saturating_sub(1).max(0), '0')?
            ))
        }
    }
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Text")
        .register_fn("matches", |_: &mut Handle, text: &str, pattern: &str| {
            matches(text, pattern)
        })
        .register_fn("extension", |_: &mut Handle, name: &str| {
            split(name).1.to_lowercase()
        })
        .register_fn("stem", |_: &mut Handle, name: &str| {
            ImmutableString::from(split(name).0)
        })
        .register_fn("file_name", |_: &mut Handle, text: &str| file_name(text))
        .register_fn("lines", |_: &mut Handle, text: &str| lines(text))
        .register_fn("one_line", |_: &mut Handle, text: &str| one_line(text))
        .register_fn("pad_left", |_: &mut Handle, n: i64, width: i64| {
            pad_number(n, width)
        })
        .register_fn("pad_left", |_: &mut Handle, text: &str, width: i64| {
            pad(text, width, ' ')
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_a_shell_does() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "*", true),
            ("a", "", false),
            ("a", "?", true),
            ("", "?", false),
            ("abc", "a*c", true),
            ("abcbc", "a*bc", true),
            ("abcb", "a*bc", false),
            ("a.tar.gz", "*.gz", true),
            ("müll.jpg", "m?ll.*", true),
            ("mississippi", "m*iss*ip*i", true),
            ("mississippi", "m*iss*ix*", false),
            ("abc", "***", true),
        ] {
            assert_eq!(matches(text, pattern), expected, "{text} {pattern}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let begun = std::time::Instant::now();
        let (text, pattern) = ("a".repeat(4_096), "a*".repeat(1_000) + "b");
        assert!(!matches(&text, &pattern));
        assert!(begun.elapsed().as_millis() < 1_000);
    }

    #[test]
    fn what_a_sender_wrote_becomes_a_name() {
        for (text, name) in [
            ("a b.jpg", "a b.jpg"),
            ("..\\..\\x.txt", "x.txt"),
            ("/", "_"),
            ("", "_"),
            ("...", "_"),
            (".bashrc", "bashrc"),
            ("a\0b\nc", "a_b_c"),
            ("x.META", "x.META_"),
            ("m2y.config", "m2y.config_"),
        ] {
            assert_eq!(file_name(text), name, "{text:?}");
        }
        let long = file_name(&"ü".repeat(500));
        assert!(long.len() <= MAX_FILE_NAME && long.chars().all(|c| c == 'ü'));
    }
}

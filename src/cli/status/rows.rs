//! Values of an answer as text, and lists of rows under a heading.

use crate::{cli::output::count, error::printable, json::Value};

/// Characters of a name that a row shows.
const NAME: usize = 120;

/// A list under its heading.
pub(super) struct Part {
    heading: String,
    rows: Vec<String>,
}

impl Part {
    pub(super) fn new(heading: String, rows: Vec<String>) -> Self {
        Self { heading, rows }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The heading and so many rows; the last of them says how many more there are.
    pub(super) fn lines(&self, rows: usize) -> Vec<String> {
        let mut lines = vec![self.heading.clone()];
        let shown = match rows < self.rows.len() {
            true => rows.saturating_sub(1),
            false => rows,
        };
        lines.extend(self.rows.iter().take(shown).map(|row| format!("  {row}")));
        if shown < self.rows.len() && rows > 0 {
            let rest = count((self.rows.len() - shown) as u64);
            lines.push(format!("  and {rest} more"));
        }
        lines
    }
}

/// A text that is harmless on a terminal.
pub(super) fn shown(text: &str, most: usize) -> String {
    printable(text, most)
}

/// The text of a field; an empty one if there is none.
pub(super) fn text(of: &Value, field: &str) -> String {
    let text = of.get(field).and_then(Value::as_str);
    shown(text.unwrap_or_default(), NAME)
}

/// The number of a field.
pub(super) fn number(of: &Value, field: &str) -> u64 {
    of.get(field).and_then(Value::as_u64).unwrap_or_default()
}

/// The list of a field.
pub(super) fn list<'a>(of: &'a Value, field: &str) -> &'a [Value] {
    let list = of.get(field).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

/// A list of texts, with commas between.
pub(super) fn words(list: &[Value]) -> String {
    let words = list.iter().filter_map(Value::as_str);
    let words: Vec<_> = words.map(|word| shown(word, NAME)).collect();
    words.join(", ")
}

/// The sum of a field.
pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Value>, field: &str) -> u64 {
    all.map(|one| number(one, field))
        .fold(0, u64::saturating_add)
}

/// `1 task`, `1,204 tasks`.
pub(super) fn counted(n: u64, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{} {what}s", count(n)),
    }
}

/// `12s`, `3m 20s`, `5h 3m`, `12d 4h`.
pub(super) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (minutes, hours, days) {
        (0, ..) => format!("{seconds}s"),
        (_, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (_, _, 0) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_its_two_largest_units() {
        assert_eq!(
            [7, 200, 18_180, 1_051_200].map(age),
            ["7s", "3m 20s", "5h 3m", "12d 4h"]
        );
    }

    #[test]
    fn a_list_that_is_cut_says_how_much_is_missing() {
        let rows = (0..2_000).map(|n| n.to_string()).collect();
        let part = Part::new("numbers".to_owned(), rows);
        assert_eq!(part.lines(3), ["numbers", "  0", "  1", "  and 1,998 more"]);
        assert_eq!(part.lines(0), ["numbers"]);
        assert_eq!(part.lines(2_000).len(), 2_001);
    }
}

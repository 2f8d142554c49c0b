//! `m2y.config`: which scripts run at which event of a folder, and their settings.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use ini::{Ini, ParseOption};

use super::{file::Stamp, folder_rules, folder_store, schedule::Line, share};
use crate::error::did_you_mean;

/// The largest m2y.config, in bytes.
pub const MAX_LEN: u64 = 65_536;

/// The most scripts of one event, so that the time they take together is bounded.
const MAX_SCRIPTS: usize = 32;

/// The sections that name scripts.
pub const EVENT_SECTIONS: [&str; 12] = [
    "OnMeta",
    "OnStartup",
    "OnReceived",
    "OnNew",
    "OnChanged",
    "OnDeleted",
    "OnSchedule",
    "OnList",
    "OnGet",
    "OnSent",
    "OnStore",
    "OnMessage",
];

/// The sections for what happens to the files of a folder.
const FILE_SECTIONS: [&str; 3] = ["OnNew", "OnChanged", "OnDeleted"];

/// The section whose lines are times and the scripts that run then.
const SCHEDULE: &str = "OnSchedule";

/// How long until a broken version is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Marks the end of a value; a control character, which no line may hold.
const END: char = '\u{1f}';

/// Why a text is not an m2y.config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ConfigError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// The sections of an INI file in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    sections: Vec<Section>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Section {
    name: String,
    lines: Vec<(String, String)>,
}

impl Config {
    /// Reads an m2y.config.
    ///
    /// A section that looks like an event but is not one is an error: a check under a mistyped
    /// heading would otherwise never run.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config = Self::parse_ini(text)?;
        match config.faults(text).into_iter().next() {
            Some(fault) => Err(fault),
            None => Ok(config),
        }
    }

    /// Everything wrong with the text of a readable m2y.config.
    pub fn faults(&self, text: &str) -> Vec<ConfigError> {
        let mut faults = Vec::new();
        let mut seen = HashSet::new();
        for (line, heading) in headings(text) {
            // A section may continue under a further heading, thousands of times.
            if !seen.insert(heading) {
                continue;
            }
            if EVENT_SECTIONS.contains(&heading) {
                if self.scripts(heading).len() > MAX_SCRIPTS {
                    let reason = format!("an event can have {MAX_SCRIPTS} scripts");
                    faults.push(ConfigError { line, reason });
                }
            } else if means_event(heading) {
                let reason = format!(
                    "unknown event [{heading}]: the events are {}{}",
                    EVENT_SECTIONS.join(", "),
                    did_you_mean(heading, EVENT_SECTIONS),
                );
                faults.push(ConfigError { line, reason });
            }
        }
        for (line, words) in lines_of(text, SCHEDULE) {
            let (time, scripts) = words.split_once('=').unwrap_or((words, ""));
            if let Err(reason) = Line::parse(time, scripts) {
                faults.push(ConfigError { line, reason });
            }
        }
        for (line, words) in lines_of(text, share::SECTION) {
            let (_, words) = words.split_once('=').unwrap_or((words, ""));
            if let Err(reason) = share::Rights::parse(unquoted(words.trim())) {
                faults.push(ConfigError { line, reason });
            }
        }
        for (line, words) in lines_of(text, folder_rules::SECTION) {
            if let Err(reason) = folder_rules::check(words) {
                faults.push(ConfigError { line, reason });
            }
        }
        for (line, words) in lines_of(text, folder_store::SECTION) {
            if let Err(reason) = folder_store::check(words) {
                faults.push(ConfigError { line, reason });
            }
        }
        faults
    }

    /// Reads any INI file whose lines need no `=`.
    ///
    /// `rust-ini` takes everything up to the next `=` or `:` for one key, so
    /// each line goes to it under a number of its own, and gets its key back afterwards; and it
    /// takes a `\` at the end of a line for a continuation, so no line ends in one.
    pub fn parse_ini(text: &str) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut keys = Vec::new();
        let mut numbered = String::with_capacity(text.len());
        for (index, line) in text.lines().enumerate() {
            let fail = |reason: &str| ConfigError {
                line: index + 1,
                reason: reason.to_owned(),
            };
            let line = line.trim();
            if line.contains(|c: char| c.is_control() && c != '\t') {
                return Err(fail("it holds a control character"));
            }
            if line.is_empty() || line.starts_with(['#', ';']) {
                numbered.push('\n');
            } else if let Some(heading) = line.strip_prefix('[') {
                let name = heading
                    .strip_suffix(']')
                    .ok_or_else(|| fail("a section must end with ']'"))?
                    .trim();
                if name.is_empty() || name.contains(['[', ']']) {
                    return Err(fail("a section must be a name between '[' and ']'"));
                }
                numbered.push_str(&format!("[{name}]\n"));
            } else {
                let (key, value) = line.split_once('=').unwrap_or((line, ""));
                if key.trim().is_empty() {
                    return Err(fail("a name must stand before '='"));
                }
                numbered.push_str(&format!("{}={}{END}\n", keys.len(), value.trim()));
                keys.push(key.trim().to_owned());
            }
        }
        let options = ParseOption {
            enabled_quote: false,
            enabled_escape: false,
            ..ParseOption::default()
        };
        let ini = Ini::load_from_str_opt(&numbered, options).map_err(|e| ConfigError {
            line: e.line,
            reason: e.msg.to_string(),
        })?;
        let mut config = Self::default();
        for (name, lines) in &ini {
            if name.is_none() && lines.is_empty() {
                continue;
            }
            let section = config.entry(name.unwrap_or_default());
            for (number, value) in lines.iter() {
                let key = number.parse().ok().and_then(|n: usize| keys.get(n));
                if let Some(key) = key {
                    let value = unquoted(value.trim_end_matches(END).trim_end());
                    section.lines.push((key.clone(), value.to_owned()));
                }
            }
        }
        Ok(config)
    }

    /// The section of that name, made if it is missing; a repeated one is continued.
    fn entry(&mut self, name: &str) -> &mut Section {
        let index = match self.sections.iter().position(|s| s.name == name) {
            Some(index) => index,
            None => {
                self.sections.push(Section {
                    name: name.to_owned(),
                    lines: Vec::new(),
                });
                self.sections.len() - 1
            }
        };
        // The index is of an element that was found or pushed just now.
        #[allow(clippy::indexing_slicing)]
        &mut self.sections[index]
    }

    /// The value of a key; empty for a line without `=`. Of repeated keys, the last.
    pub fn get(&self, section: &str, key: &str) -> Option<&str> {
        self.section(section)
            .filter(|(k, _)| *k == key)
            .last()
            .map(|(_, value)| value)
    }

    /// Whether there is such a section.
    pub fn has(&self, section: &str) -> bool {
        self.sections.iter().any(|s| s.name == section)
    }

    /// The lines of a section in their order, as key and value.
    pub fn section(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.sections
            .iter()
            .filter(move |s| s.name == name)
            .flat_map(|s| &s.lines)
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The names of the sections in their order.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|s| s.name.as_str())
    }

    /// Whether a script waits for changes to the files of the folder.
    pub fn waits_for_files(&self) -> bool {
        let mut sections = FILE_SECTIONS.iter();
        sections.any(|section| self.section(section).next().is_some())
    }

    /// The scripts that a section names, in order; for `[OnSchedule]` those of every line.
    pub fn scripts(&self, section: &str) -> Vec<String> {
        if section == SCHEDULE {
            return self.schedule().flat_map(|line| line.scripts).collect();
        }
        self.section(section)
            .map(|(key, _)| key.to_owned())
            .collect()
    }

    /// The scripts and programs of all events: files of the folder's own directory that are no
    /// contents.
    pub fn hooks(&self) -> BTreeSet<String> {
        let sections = EVENT_SECTIONS.iter();
        sections.flat_map(|section| self.scripts(section)).collect()
    }

    /// The lines of `[OnSchedule]`.
    pub fn schedule(&self) -> impl Iterator<Item = Line> {
        self.section(SCHEDULE)
            .filter_map(|(time, scripts)| Line::parse(time, scripts).ok())
    }
}

/// Whether the author of the heading meant an event: `OnMetta`, `onmeta`, but not `only`.
fn means_event(heading: &str) -> bool {
    let Some(rest) = heading
        .get(..2)
        .filter(|on| on.eq_ignore_ascii_case("on"))
        .and_then(|_| heading.get(2..))
    else {
        return false;
    };
    let heading = heading.to_lowercase();
    let near = |event: &str| strsim::levenshtein(&heading, &event.to_lowercase()) <= 1;
    rest.starts_with(char::is_uppercase) || EVENT_SECTIONS.iter().any(|event| near(event))
}

/// The lines under a heading that are not comments, with their numbers.
pub fn lines_of<'a>(text: &'a str, section: &str) -> impl Iterator<Item = (usize, &'a str)> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim_start_matches('\u{feff}').trim();
        if let Some(heading) = line.strip_prefix('[') {
            inside = heading.strip_suffix(']').map(str::trim) == Some(section);
            return None;
        }
        let says = !line.is_empty() && !line.starts_with(['#', ';']);
        (inside && says).then_some((index + 1, line))
    })
}

impl Config {
    /// Sets a value, or adds the line.
    pub fn set(&mut self, section: &str, key: &str, value: &str) {
        let lines = &mut self.entry(section).lines;
        match lines.iter_mut().rev().find(|(known, _)| known == key) {
            Some((_, known)) => value.clone_into(known),
            None => lines.push((key.to_owned(), value.to_owned())),
        }
    }

    /// Removes all lines of a section but one.
    pub fn only(&mut self, section: &str, key: &str) {
        // In the schedule, a script follows its time.
        let line = match section {
            SCHEDULE => ("* * * * *", key),
            _ => (key, ""),
        };
        self.entry(section).lines = vec![(line.0.to_owned(), line.1.to_owned())];
    }
}

impl fmt::Display for Config {
    /// As an m2y.config that says the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            if !section.name.is_empty() {
                writeln!(f, "[{}]", section.name)?;
            }
            for (key, value) in &section.lines {
                match value.as_str() {
                    "" => writeln!(f, "{key}")?,
                    // Otherwise its marks would be taken for quotes around a value.
                    value if value.starts_with(['"', '\'']) || value.trim() != value => {
                        writeln!(f, "{key} = \"{value}\"")?;
                    }
                    value => writeln!(f, "{key} = {value}")?,
                }
            }
        }
        Ok(())
    }
}

fn headings(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let name = line
            .trim_start_matches('\u{feff}')
            .trim()
            .strip_prefix('[')?
            .strip_suffix(']')?;
        Some((index + 1, name.trim()))
    })
}

pub(super) fn unquoted(value: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

/// An m2y.config that was read.
#[derive(Clone)]
pub(super) struct ReadConfig {
    /// The version that it was read from.
    pub(super) stamp: Stamp,
    /// What it says.
    pub(super) config: Arc<Config>,
    /// A later version that is broken and was logged.
    pub(super) broken: Option<Broken>,
}

/// A version that was found to be broken.
#[derive(Clone, Copy)]
pub(super) struct Broken {
    /// Which one.
    pub(super) stamp: Stamp,
    /// When it was looked at.
    pub(super) looked: Instant,
    /// When a name in the folder had changed last at that time, in seconds and nanoseconds.
    pub(super) folder: Option<(i64, i64)>,
}

impl ReadConfig {
    /// Whether that version was found to be broken a moment ago. What it lacks may appear without a
    /// further edit.
    pub(super) fn is_known_broken(&self, version: Stamp, folder: Option<(i64, i64)>) -> bool {
        self.broken.is_some_and(|broken| {
            broken.stamp == version
                && broken.folder == folder
                && broken.looked.elapsed() < LOOK_AGAIN
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SEED: &str = "[OnMeta]\nm2yCheckPermission.py \n[OnStartup]\nm2yResetAllFiles.py\n\
        [OnReceived]\nm2yNotifyUser.py\n[OnNew]\n[OnChanged]\n[OnDeleted]\n[permission]\n\n\
        roland-frei\t= allways\npeter-norton\t= no\n";

    #[test]
    fn the_config_of_the_seed_is_read_to_the_letter() {
        let config = Config::parse(SEED).unwrap();
        assert_eq!(config.scripts("OnMeta"), ["m2yCheckPermission.py"]);
        assert_eq!(config.scripts("OnStartup"), ["m2yResetAllFiles.py"]);
        assert_eq!(config.scripts("OnReceived"), ["m2yNotifyUser.py"]);
        assert!(config.has("OnNew") && config.scripts("OnNew").is_empty());
        assert_eq!(config.get("permission", "roland-frei"), Some("allways"));
        assert_eq!(config.get("permission", "peter-norton"), Some("no"));
        assert_eq!(config.get("permission", "somebody"), None);
        assert_eq!(config.sections().count(), 7);
    }

    #[test]
    fn windows_lines_marks_and_comments_do_not_matter() {
        let text = "\u{feff}# first\r\n[OnMeta]\r\n; a comment\r\n  a.rhai\r\n\r\nb.rhai\r\n";
        assert_eq!(
            Config::parse(text).unwrap().scripts("OnMeta"),
            ["a.rhai", "b.rhai"]
        );
    }

    #[test]
    fn colons_quotes_and_backslashes_stay_in_keys_and_values() {
        let text = "[x]\ndir = a\\\nhttp://a:1 = C:\\dir\n*/10 * * * * = d.rhai\nq = \"a = b\"\nu = \"open\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.get("x", "dir"), Some("a\\"));
        assert_eq!(config.get("x", "http://a:1"), Some("C:\\dir"));
        assert_eq!(config.get("x", "*/10 * * * *"), Some("d.rhai"));
        assert_eq!(config.get("x", "q"), Some("a = b"));
        assert_eq!(config.get("x", "u"), Some("\"open"));
    }

    #[test]
    fn a_mistyped_event_is_an_error_with_its_line() {
        for heading in ["OnMetta", "onmeta", "OnReceive"] {
            let error = Config::parse(&format!("\n[{heading}]\nx.rhai")).unwrap_err();
            assert_eq!(error.line, 2);
            assert!(error.reason.contains("OnMeta"), "{error}");
        }
        for heading in ["permission", "on", "online", "only pictures", "one", "once"] {
            assert!(
                Config::parse(&format!("[{heading}]\n")).is_ok(),
                "{heading}"
            );
        }
    }

    #[test]
    fn an_event_has_at_most_so_many_scripts() {
        let lines = |n| format!("[x]\n[OnMeta]\n{}", "a.rhai\n".repeat(n));
        assert_eq!(
            Config::parse(&lines(MAX_SCRIPTS))
                .unwrap()
                .scripts("OnMeta")
                .len(),
            32
        );
        assert_eq!(Config::parse(&lines(MAX_SCRIPTS + 1)).unwrap_err().line, 2);
    }

    #[test]
    fn a_line_of_a_schedule_names_a_time_and_scripts() {
        let text = "[OnSchedule]\n*/10 * * * * = a.rhai\n# no\n0 3 1 * 1-5 = b.rhai  c.py\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.scripts("OnSchedule"), ["a.rhai", "b.rhai", "c.py"]);
        for line in [
            "* * * * = a",
            "* * * * * * = a",
            "60 * * * * = a",
            "x",
            "* * * * *",
            "* * 32 * * = a",
            "= a",
            "*/0 * * * * = a",
            "\u{e9}\u{df} * * * * = a",
        ] {
            let text = format!("[OnMeta]\n\n[OnSchedule]\n{line}\n");
            let error = Config::parse(&text).unwrap_err();
            assert_eq!(error.line, 4, "{line}: {error}");
        }
    }

    #[test]
    fn broken_lines_are_errors_with_their_line() {
        for (text, line) in [("[a]\n[b", 2), ("= x", 1), ("[]", 1), ("a\n\0", 2)] {
            assert_eq!(Config::parse(text).unwrap_err().line, line, "{text:?}");
        }
    }
}

//! What is wrong with an m2y.config, or worth a thought.

use std::{os::unix::fs::PermissionsExt, path::Path};

use super::{Checker, names, read};
use crate::{
    error::did_you_mean,
    event::Kind,
    hooks::{
        bundled,
        lookup::{Hook, find, is_program},
        report::HookError,
    },
    root::{
        Root,
        config::{self, Config, lines_of},
        folder::Folder,
        folder_rules, folder_store,
        name::Name,
        settings::Programs,
        share,
    },
};

/// The section that checkPermission.rhai reads.
const PERMISSION: &str = "permission";

/// The sections that m2y itself knows, besides the events.
const OWN: [&str; 5] = [
    PERMISSION,
    share::SECTION,
    folder_rules::SECTION,
    folder_store::SECTION,
    "outbox",
];

/// What may follow a name in [`PERMISSION`].
const WORDS: [&str; 3] = ["always", "allways", "no"];

impl Checker {
    /// Checks the text of an m2y.config.
    pub(super) fn config(
        &mut self,
        at: &str,
        text: &str,
        (root, folder): (&Root, &Folder),
        programs: &Programs,
    ) {
        if text.len() as u64 > config::MAX_LEN {
            return self.whole(at, format!("it may have {} bytes", config::MAX_LEN));
        }
        let config = match Config::parse_ini(text) {
            Ok(config) => config,
            Err(error) => return self.in_line(at, error.line, error.reason, false),
        };
        for fault in config.faults(text) {
            self.in_line(at, fault.line, fault.reason, false);
        }
        if !config.has("OnMeta") {
            let message = "[OnMeta] is missing, so this folder takes no files: add it, empty if every contact may send";
            self.in_line(at, 0, message.to_owned(), true);
        }
        self.sections(at, text, &config, (root, folder));
        for kind in Kind::ALL {
            for script in config.scripts(kind.section()) {
                let line = line_of(text, kind.section(), Some(&script));
                if let Some(message) = wrong_with(&script, root, folder, programs) {
                    self.in_line(at, line, message, false);
                } else if is_hidden(&script, root, folder) {
                    let message = format!("this folder's {script} hides ROOT/scripts/{script}");
                    self.in_line(at, line, message, true);
                }
            }
        }
        self.people(at, text, &config, folder);
    }

    /// Sections that nobody reads.
    fn sections(
        &mut self,
        at: &str,
        text: &str,
        config: &Config,
        (root, folder): (&Root, &Folder),
    ) {
        let scripts = texts(root, folder);
        let known = || Kind::ALL.map(Kind::section).into_iter().chain(OWN);
        for section in config.sections() {
            let is_read = || {
                let quoted = ['"', '\'', '`'].map(|mark| format!("{mark}{section}{mark}"));
                scripts
                    .iter()
                    .any(|text| quoted.iter().any(|section| text.contains(section)))
            };
            if section.is_empty() || known().any(|known| known == section) || is_read() {
                continue;
            }
            let line = line_of(text, section, None);
            // One that looks like an event is a fault of the config.
            if config.faults(text).iter().any(|fault| fault.line == line) {
                continue;
            }
            let hint = did_you_mean(section, known());
            let message = format!("no script reads [{section}]{hint}");
            self.in_line(at, line, message, hint.is_empty());
        }
    }

    /// Names that nobody has, and words without a meaning.
    fn people(&mut self, at: &str, text: &str, config: &Config, folder: &Folder) {
        let user = folder.user();
        let contacts: Vec<String> = user
            .contacts()
            .into_iter()
            .flatten()
            .filter_map(|contact| Some(contact.ok()?.name.to_string()))
            .collect();
        for section in [PERMISSION, share::SECTION] {
            for (line, words) in lines_of(text, section) {
                let name = words.split_once('=').map_or(words, |(name, _)| name).trim();
                let value = config.get(section, name).unwrap_or_default();
                if section == PERMISSION && !WORDS.contains(&value) {
                    let message = format!(
                        "{name} = {value} lets nobody in: write {name} = always, or {name} = no"
                    );
                    self.in_line(at, line, message, false);
                }
                let is_known = name == user.name().as_str()
                    || Name::user(name).is_ok_and(|name| user.contact(&name).is_ok());
                if !is_known {
                    let hint = did_you_mean(name, contacts.iter().map(String::as_str));
                    let message = format!("{} has no contact {name}{hint}", user.name());
                    self.in_line(at, line, message, true);
                }
            }
        }
    }
}

/// Whether a script of the folder hides one for all folders.
fn is_hidden(script: &str, root: &Root, folder: &Folder) -> bool {
    folder.path_of(script).is_file() && root.path().join("scripts").join(script).is_file()
}

/// The texts of all scripts that a folder can have.
fn texts(root: &Root, folder: &Folder) -> Vec<String> {
    let of = |dir: &Path| {
        let names = names(dir).unwrap_or_default().into_iter();
        let scripts = names.filter(|name| !is_program(name));
        let texts = scripts.filter_map(|name| read(dir, &name).ok());
        texts.collect::<Vec<_>>()
    };
    let mut texts = of(folder.path());
    texts.extend(of(&root.path().join("scripts")));
    texts.extend(bundled::ALL.iter().map(|(_, text)| (*text).to_owned()));
    texts
}

/// What is wrong with a line of an event, as far as its script can be looked at from
/// there.
pub fn wrong_with(
    script: &str,
    root: &Root,
    folder: &Folder,
    programs: &Programs,
) -> Option<String> {
    match find(root, folder, programs, script) {
        Ok(Hook::Script(_)) => None,
        Ok(Hook::Program(path)) => {
            let mode = path.metadata().ok()?.permissions().mode();
            (mode & 0o111 == 0)
                .then(|| format!("{script} is not executable: chmod +x {}", path.display()))
        }
        Err(error @ HookError::Missing(_)) => {
            let here = names(folder.path()).unwrap_or_default();
            let shared = names(&root.path().join("scripts")).unwrap_or_default();
            let bundled = bundled::ALL.iter().map(|(name, _)| (*name).to_owned());
            let all: Vec<String> = here.into_iter().chain(shared).chain(bundled).collect();
            let hint = did_you_mean(script, all.iter().map(String::as_str));
            Some(format!("{error}{hint}"))
        }
        Err(error) => Some(error.to_string()),
    }
}

/// The line of a section, or of a line in it; 0 if it cannot be found.
fn line_of(text: &str, section: &str, key: Option<&str>) -> usize {
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start_matches('\u{feff}').trim();
        if let Some(heading) = line.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            inside = heading.trim() == section;
            if inside && key.is_none() {
                return index + 1;
            }
        } else if inside && let Some(key) = key {
            let (left, right) = line.split_once('=').unwrap_or((line, ""));
            if left.trim() == key || right.split_whitespace().any(|word| word == key) {
                return index + 1;
            }
        }
    }
    0
}

//! Finds what is wrong with hooks before they run.

mod calls;
mod config;

use std::{collections::BTreeSet, fs, io, path::Path};

use rhai::{AST, Engine, ParseErrorType, Scope};

use super::{
    api::{HOOK_SCOPE, assert},
    engine,
    lookup::SHARED,
    report::place,
    test_host::{self, Stage},
};
use crate::root::{
    Root,
    folder::{CONFIG, Folder},
    settings::Programs,
};
use calls::{Wrong, calls, own_functions, undefined};
pub(super) use config::wrong_with;

/// Files of one directory that are looked at.
const MAX_FILES: usize = 1_000;

/// Errors that are reported of one script that does not compile.
const MAX_ERRORS: usize = 50;

/// Something that is wrong, or worth a thought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, below the root.
    pub file: String,
    /// Counted from 1; 0 if it is about the whole file.
    pub line: usize,
    /// Counted from 1; 0 if it is about the whole line.
    pub column: usize,
    /// What is wrong, and what to do.
    pub message: String,
    /// The place for people, with a caret; without the file.
    pub shown: String,
    /// Whether it is only worth a thought.
    pub note: bool,
}

/// What a test has in scope.
const TEST_SCOPE: [&str; 10] = [
    "file", "folder", "hash", "http", "state", "text", "csv", "json", "time", "log",
];

/// Finds what is wrong in the folders of a root.
pub struct Checker {
    hooks: Known,
    tests: Known,
    /// Files that were looked at.
    pub files: usize,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// An engine and the functions that it has, by name and number of arguments.
struct Known {
    engine: Engine,
    functions: BTreeSet<(String, usize)>,
    variables: &'static [&'static str],
    /// A test sees what is in scope; a function of a hook does not.
    functions_see_nothing: bool,
}

impl Known {
    fn new(mut engine: Engine, variables: &'static [&'static str]) -> Self {
        engine.set_strict_variables(true);
        let functions = engine.collect_fn_metadata(
            None,
            |f| Some((f.metadata.name.to_string(), f.metadata.num_params)),
            true,
        );
        Self {
            functions: functions.into_iter().collect(),
            engine,
            functions_see_nothing: variables == HOOK_SCOPE,
            variables,
        }
    }
}

impl Default for Checker {
    fn default() -> Self {
        let mut with_tests = engine::engine();
        assert::register(&mut with_tests);
        test_host::register(&mut with_tests, &Stage::default());
        Self {
            hooks: Known::new(engine::engine(), &HOOK_SCOPE),
            tests: Known::new(with_tests, &TEST_SCOPE),
            files: 0,
            findings: Vec::new(),
        }
    }
}

impl Checker {
    /// Checks the m2y.config of a folder, what it names, and every script there.
    pub fn folder(&mut self, root: &Root, folder: &Folder, programs: &Programs) {
        let below = format!("user/{}/{}", folder.user().name(), folder.name());
        let at = format!("{below}/{CONFIG}");
        self.files += 1;
        match fs::read_to_string(folder.path_of(CONFIG)) {
            Ok(text) => self.config(&at, &text, (root, folder), programs),
            Err(e) => self.whole(&at, format!("cannot read it: {e}")),
        }
        let scripts = root.path().join("scripts");
        self.scripts(&below, folder.path(), &[&scripts, folder.path()]);
    }

    /// Checks the scripts for all folders.
    pub fn shared(&mut self, root: &Root) {
        let scripts = root.path().join("scripts");
        if scripts.is_dir() {
            self.scripts("scripts", &scripts, &[&scripts]);
        }
    }

    fn whole(&mut self, file: &str, message: String) {
        self.in_line(file, 0, message, false);
    }

    fn in_line(&mut self, file: &str, line: usize, message: String, note: bool) {
        let place = if line == 0 {
            String::new()
        } else {
            format!("{line}: ")
        };
        self.findings.push(Finding {
            file: file.to_owned(),
            line,
            column: 0,
            shown: format!("{place}{message}"),
            message,
            note,
        });
    }

    /// Checks every script of a directory, whose shared functions are in `libs`.
    fn scripts(&mut self, below: &str, dir: &Path, libs: &[&Path]) {
        let names = match names(dir) {
            Ok(names) => names,
            Err(e) => return self.whole(below, format!("cannot read it: {e}")),
        };
        let mut shared = BTreeSet::new();
        for lib in libs {
            let text = fs::read_to_string(lib.join(SHARED)).unwrap_or_default();
            if let Ok(ast) = self.hooks.engine.compile(text) {
                shared.extend(own_functions(&ast));
            }
        }
        for name in names.iter().filter(|name| name.ends_with(".rhai")) {
            let file = format!("{below}/{name}");
            self.files += 1;
            match read(dir, name) {
                Ok(text) => self.script(&file, name, &text, &shared),
                Err(e) => self.whole(&file, format!("cannot read it: {e}")),
            }
        }
    }

    fn script(&mut self, file: &str, name: &str, text: &str, shared: &BTreeSet<(String, usize)>) {
        let known = match name.ends_with(test_host::ENDING) {
            true => &self.tests,
            false => &self.hooks,
        };
        let mut found = Vec::new();
        let (ast, errors) = compile(known, text);
        found.extend(errors);
        if let Some(ast) = ast {
            if let Err((sentence, at)) = engine::inspect(&ast) {
                found.push((sentence, at));
            }
            found.extend(calls(&ast, known, shared));
        }
        found.sort_by_key(|(_, at)| (at.line(), at.position()));
        for (message, at) in found {
            let shown = place(name, text, &message, at).to_string();
            let shown = shown.strip_prefix(&format!("{name}:")).unwrap_or(&shown);
            self.findings.push(Finding {
                file: file.to_owned(),
                line: at.line().unwrap_or_default(),
                column: at.position().unwrap_or_default(),
                shown: shown.trim_start().to_owned(),
                message,
                note: false,
            });
        }
    }
}

/// Compiles a script with everything wrong left out of it, and reports what that was.
fn compile(known: &Known, text: &str) -> (Option<AST>, Vec<Wrong>) {
    let mut scope = Scope::new();
    for variable in known.variables {
        scope.push(*variable, ());
    }
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut errors = Vec::new();
    while errors.len() < MAX_ERRORS {
        let error = match known.engine.compile_with_scope(&scope, lines.join("\n")) {
            Ok(ast) => return (Some(ast), errors),
            Err(error) => error,
        };
        let at = error.position();
        if let ParseErrorType::VariableUndefined(variable) = error.err_type() {
            errors.push((undefined(variable, known.variables), at));
            if !scope.contains(variable) {
                scope.push(variable.clone(), ());
                continue;
            }
        } else {
            errors.push((error.err_type().to_string(), at));
        }
        // What is left of the line keeps the blocks around it whole.
        let line = at.line().and_then(|line| lines.get_mut(line - 1));
        match line {
            Some(line)
                if line
                    .chars()
                    .any(|c| !c.is_whitespace() && !"{}".contains(c)) =>
            {
                line.retain(|c| "{}".contains(c));
            }
            _ => break,
        }
    }
    (None, errors)
}

/// The names in a directory that are not hidden, sorted.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .take(MAX_FILES)
        .collect();
    names.sort();
    Ok(names)
}

fn read(dir: &Path, name: &str) -> io::Result<String> {
    let dir = cap_std::fs::Dir::open_ambient_dir(dir, cap_std::ambient_authority())?;
    crate::root::file::read_text(&dir, name, engine::MAX_SOURCE)
}

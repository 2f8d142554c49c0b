//! What can be seen to be wrong with hooks before they run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use rhai::{AST, ASTNode, Engine, Expr, FnCallExpr, Position, Scope, Stmt};

use super::{
    api::{self, assert},
    bundled, engine,
    lookup::{Hook, SHARED, find},
    report::{HookError, compile_error, place},
    test_host::{self, Stage},
};
use crate::{
    error::printable,
    event::Kind,
    root::{
        Root,
        config::{self, Config},
        folder::{CONFIG, Folder},
        settings::Programs,
    },
};

/// Files of one directory that are looked at.
const MAX_FILES: usize = 1_000;

/// Something that is wrong, or worth a thought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, below the root.
    pub file: String,
    /// Counted from 1; 0 where it is about the whole file.
    pub line: usize,
    /// Counted from 1; 0 where it is about the whole line.
    pub column: usize,
    /// What is wrong, and what to do.
    pub message: String,
    /// The place for people, with a caret; without the file.
    pub shown: String,
    /// Whether it is only worth a thought.
    pub note: bool,
}

/// The fields of `event`.
const EVENT: [&str; 9] = [
    "name",
    "folder",
    "user",
    "id",
    "file",
    "meta_file",
    "data_file",
    "contact",
    "path",
];

/// What every hook has in scope, and what a test has.
const HOOK_SCOPE: [&str; 12] = [
    "meta", "config", "folder", "hash", "notify", "state", "text", "time", "log", "event", "user",
    "this",
];
const TEST_SCOPE: [&str; 6] = ["folder", "hash", "state", "text", "time", "log"];

/// Functions that are a part of the language, for whatever arguments.
const LANGUAGE: [&str; 8] = [
    "print",
    "debug",
    "type_of",
    "Fn",
    "call",
    "is_def_var",
    "is_def_fn",
    "to_string",
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
    /// Looks at the m2y.config of a folder, what it names, and every script there.
    pub fn folder(&mut self, root: &Root, folder: &Folder, programs: &Programs) {
        let below = format!("user/{}/{}", folder.user().name(), folder.name());
        let at = format!("{below}/{CONFIG}");
        self.files += 1;
        match fs::read_to_string(folder.path_of(CONFIG)) {
            Ok(text) => self.config(&at, &text, root, folder, programs),
            Err(e) => self.whole(&at, format!("cannot read it: {e}")),
        }
        let scripts = root.path().join("scripts");
        self.scripts(&below, folder.path(), &[&scripts, folder.path()]);
    }

    /// Looks at the scripts for all folders.
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

    fn config(&mut self, at: &str, text: &str, root: &Root, folder: &Folder, programs: &Programs) {
        if text.len() as u64 > config::MAX_LEN {
            return self.whole(at, format!("it may have {} bytes", config::MAX_LEN));
        }
        let config = match Config::parse(text) {
            Ok(config) => config,
            Err(e) => {
                let heading = text
                    .lines()
                    .nth(e.line.saturating_sub(1))
                    .unwrap_or_default();
                let heading = heading.trim().trim_matches(['[', ']']);
                let hint = match e.reason.starts_with("there is no event") {
                    true => did_you_mean(heading, Kind::ALL.map(Kind::section)),
                    false => String::new(),
                };
                return self.in_line(at, e.line, format!("{}{hint}", e.reason), false);
            }
        };
        if !config.has("OnMeta") {
            let message = "there is no [OnMeta], so no file is taken: write one, and leave it empty if every contact may send";
            self.in_line(at, 0, message.to_owned(), true);
        }
        for section in config.sections() {
            let hint = did_you_mean(section, Kind::ALL.map(Kind::section));
            if Kind::of_section(section).is_none() && !hint.is_empty() {
                let message = format!("no event is called [{section}], so nothing runs{hint}");
                self.in_line(at, line_of(text, section, None), message, false);
            }
        }
        for kind in Kind::ALL {
            for script in config.scripts(kind.section()) {
                let line = line_of(text, kind.section(), Some(&script));
                if let Some(message) = wrong_with(&script, root, folder, programs) {
                    self.in_line(at, line, message, false);
                }
            }
        }
    }

    /// Looks at every script of a directory, whose shared functions lie in `libs`.
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
        let mut scope = Scope::new();
        for variable in known.variables {
            scope.push(*variable, ());
        }
        match known.engine.compile_with_scope(&scope, text) {
            Ok(ast) => {
                if let Err((sentence, at)) = engine::inspect(&ast) {
                    found.push((sentence, at));
                }
                found.extend(calls(&ast, known, shared));
            }
            Err(error) => {
                let HookError::Script(place) = compile_error(name, text, &error) else {
                    return;
                };
                let (_, message, line, column) = place.parts();
                let at = match (u16::try_from(line), u16::try_from(column)) {
                    (Ok(line), Ok(column)) if line > 0 => Position::new(line, column),
                    _ => Position::NONE,
                };
                let mut message = message.to_owned();
                if let rhai::ParseErrorType::VariableUndefined(variable) = error.err_type() {
                    message = undefined(variable, known.variables);
                }
                found.push((message, at));
            }
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

fn undefined(variable: &str, known: &[&str]) -> String {
    if known.contains(&variable) {
        return format!(
            "a function does not see {variable}: give it to the function as an argument"
        );
    }
    let hint = did_you_mean(variable, known.iter().copied());
    format!("there is no variable {variable}{hint}")
}

/// What is wrong with a line of an event, as far as its script can be looked at from
/// there.
fn wrong_with(script: &str, root: &Root, folder: &Folder, programs: &Programs) -> Option<String> {
    match find(root, folder, programs, script) {
        Ok(Hook::Script(_)) => None,
        Ok(Hook::Program(path)) => {
            let mode = path.metadata().ok()?.permissions().mode();
            (mode & 0o111 == 0).then(|| {
                format!(
                    "{script} is a program that nobody may run: chmod +x {}",
                    path.display()
                )
            })
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

/// `: did you mean x?`, or nothing where nothing is like it.
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

fn own_functions(ast: &AST) -> BTreeSet<(String, usize)> {
    ast.iter_functions()
        .map(|function| (function.name.to_owned(), function.params.len()))
        .collect()
}

type Wrong = (String, Position);

/// The names that a script gives to values of its own: a value of the host with such a name
/// is hidden.
fn declared(ast: &AST) -> BTreeSet<String> {
    let mut declared: BTreeSet<String> = ast
        .iter_functions()
        .flat_map(|function| {
            function
                .params
                .iter()
                .map(|p| (*p).to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    ast.walk(&mut |path| {
        if let Some(ASTNode::Stmt(statement)) = path.last() {
            match statement {
                Stmt::Var(it, ..) => {
                    declared.insert(it.0.name.to_string());
                }
                Stmt::For(it, ..) => {
                    declared.insert(it.0.name.to_string());
                }
                Stmt::TryCatch(it, ..) => {
                    if let Expr::Variable(name, ..) = &it.expr {
                        declared.insert(name.1.to_string());
                    }
                }
                _ => {}
            }
        }
        true
    });
    declared
}

/// Calls of functions and uses of fields that are not there.
fn calls(ast: &AST, known: &Known, shared: &BTreeSet<(String, usize)>) -> Vec<Wrong> {
    let mut own = own_functions(ast);
    own.extend(shared.iter().cloned());
    let methods = methods();
    let declared = declared(ast);
    let mut found = Vec::new();
    if known.functions_see_nothing {
        ast.clone_functions_only().walk(&mut |path| {
            if let Some(ASTNode::Expr(Expr::Variable(name, _, at))) = path.last()
                && !declared.contains(name.1.as_str())
                && known.variables.contains(&name.1.as_str())
            {
                found.push((undefined(&name.1, known.variables), *at));
            }
            true
        });
    }
    let mut seen = BTreeSet::new();
    ast.walk(&mut |path| {
        match path.last() {
            Some(ASTNode::Expr(Expr::Dot(chain, ..))) => {
                if let Expr::Variable(name, ..) = &chain.lhs
                    && !declared.contains(name.1.as_str())
                    && known.variables.contains(&name.1.as_str())
                {
                    let next = match &chain.rhs {
                        Expr::Dot(rest, ..) | Expr::Index(rest, ..) => &rest.lhs,
                        next => next,
                    };
                    let (at, wrong) = member(&name.1, next, &methods);
                    seen.insert((at.line(), at.position()));
                    found.extend(wrong.map(|wrong| (wrong, at)));
                }
            }
            Some(ASTNode::Expr(Expr::MethodCall(call, at)))
                if seen.insert((at.line(), at.position())) =>
            {
                let count = call.args.len();
                let name = call.name.as_str();
                let there = known.functions.contains(&(name.to_owned(), count + 1))
                    || own.contains(&(name.to_owned(), count))
                    || LANGUAGE.contains(&name);
                if !there {
                    let all = known.functions.iter().chain(&own);
                    found.push((missing(name, count, all, 1, ""), *at));
                }
            }
            Some(ASTNode::Expr(Expr::FnCall(call, at)) | ASTNode::Stmt(Stmt::FnCall(call, at)))
                if !is_known(call, known, &own, &declared) =>
            {
                let all = known.functions.iter().chain(&own);
                found.push((missing(&call.name, call.args.len(), all, 0, ""), *at));
            }
            _ => {}
        }
        true
    });
    found
}

fn is_known(
    call: &FnCallExpr,
    known: &Known,
    own: &BTreeSet<(String, usize)>,
    declared: &BTreeSet<String>,
) -> bool {
    let name = call.name.as_str();
    let key = (name.to_owned(), call.args.len());
    call.op_token.is_some()
        || known.functions.contains(&key)
        || own.contains(&key)
        || LANGUAGE.contains(&name)
        || declared.contains(name)
}

/// The functions of each value in scope, by name and number of arguments.
fn methods() -> BTreeMap<&'static str, BTreeSet<(String, usize)>> {
    let mut methods: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for function in api::functions() {
        let Some((head, arguments)) = function.signature.split_once('(') else {
            continue;
        };
        let Some((subject, name)) = head.split_once('.') else {
            continue;
        };
        let count = match arguments.trim_end_matches(')') {
            "" => 0,
            map if map.starts_with("#{") => 1,
            list => list.split(',').count(),
        };
        let of: &mut BTreeSet<(String, usize)> = methods.entry(subject).or_default();
        of.insert((name.to_owned(), count));
    }
    methods
}

/// What is wrong with a field or function of a value in scope, and where it stands.
fn member(
    subject: &str,
    member: &Expr,
    methods: &BTreeMap<&'static str, BTreeSet<(String, usize)>>,
) -> (Position, Option<String>) {
    let at = member.position();
    let of = methods.get(subject);
    let wrong = match member {
        Expr::MethodCall(call, ..) => of.and_then(|of| {
            let (name, count) = (call.name.as_str(), call.args.len());
            let there = of.contains(&(name.to_owned(), count)) || LANGUAGE.contains(&name);
            (!there).then(|| missing(name, count, of.iter(), 0, &format!("{subject}.")))
        }),
        Expr::Property(property, ..) => {
            let field = property.2.as_str();
            match (subject, of) {
                ("event", _) if !EVENT.contains(&field) => {
                    let hint = did_you_mean(field, EVENT);
                    let all = EVENT.join(", ");
                    Some(format!("event has no field {field}, only {all}{hint}"))
                }
                (_, Some(of)) => {
                    let names: Vec<String> = of
                        .iter()
                        .map(|(name, _)| format!("{subject}.{name}()"))
                        .collect();
                    let word = format!("{subject}.{field}()");
                    let hint = match names.contains(&word) {
                        true => format!(": did you mean {word}?"),
                        false => did_you_mean(&word, names.iter().map(String::as_str)),
                    };
                    Some(format!("{subject} has no field {field}{hint}"))
                }
                _ => None,
            }
        }
        _ => None,
    };
    (at, wrong)
}

/// `less` of the arguments of what is known is the value that it is called on.
fn missing<'a>(
    name: &str,
    count: usize,
    known: impl Iterator<Item = &'a (String, usize)> + Clone,
    less: usize,
    subject: &str,
) -> String {
    let name = &printable(name, 80);
    let mut counts: Vec<String> = known
        .clone()
        .filter(|(one, _)| one == name)
        .filter_map(|(_, count)| Some(count.checked_sub(less)?.to_string()))
        .collect();
    counts.dedup();
    if !counts.is_empty() {
        let noun = if counts == ["1"] {
            "argument"
        } else {
            "arguments"
        };
        let counts = counts.join(" or ");
        return format!("{subject}{name}() takes {counts} {noun}, not {count}");
    }
    let plain = |name: &&str| name.starts_with(|c: char| c.is_alphabetic()) && !name.contains('$');
    let hint = did_you_mean(name, known.map(|(one, _)| one.as_str()).filter(plain));
    let of = if subject.is_empty() {
        "no function"
    } else {
        "no"
    };
    format!("there is {of} {subject}{name}(){hint}")
}

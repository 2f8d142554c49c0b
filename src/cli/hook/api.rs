use std::{collections::BTreeMap, fs, path::PathBuf};

use clap::Args;

use crate::{
    cli::{Failure, output},
    error::{Code, Error, did_you_mean},
    hooks::api::{Function, functions},
    json::Value,
};

/// Show every function that a script can call, with examples
///
/// Functions are grouped by the value that they are called on:
/// config, csv, meta, decision, file, entries, folder, names, hash, http, answer, json, log,
/// notify, send, sender, state, text, time; and for tests of hooks assert and test.
#[derive(Debug, Args)]
pub struct Api {
    /// Only this subject or function: `folder`, `folder.rename`, `reject`
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Write definition files for editors into this directory instead, one per subject
    #[arg(long, value_name = "DIR")]
    definitions: Option<PathBuf>,
}

impl Api {
    pub(super) fn run(self, json: bool) -> Result<(), Failure> {
        let mut subjects: BTreeMap<&str, Vec<&Function>> = BTreeMap::new();
        for function in functions() {
            subjects.entry(function.subject).or_default().push(function);
        }
        if let Some(name) = &self.name {
            only(name, &mut subjects)?;
        }
        if let Some(dir) = &self.definitions {
            fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, &e))?;
        }
        for (subject, functions) in &subjects {
            if let Some(dir) = &self.definitions {
                let path = dir.join(format!("{subject}.d.rhai"));
                fs::write(&path, definitions(subject, functions))
                    .map_err(|e| Error::io("write", &path, &e))?;
                match json {
                    true => output::object(&[("wrote", path.display().to_string().into())]),
                    false => output::line(format_args!("wrote {}", path.display())),
                }
                continue;
            }
            for function in functions {
                match json {
                    true => object(function),
                    false => print(function),
                }
            }
        }
        Ok(())
    }
}

/// Keeps only what has that name: a subject, a function, or a function of a subject.
fn only(name: &str, subjects: &mut BTreeMap<&str, Vec<&Function>>) -> Result<(), Error> {
    if subjects.contains_key(name) {
        subjects.retain(|subject, _| *subject == name);
        return Ok(());
    }
    let is_named = |function: &&Function| {
        let head = head(function);
        head == name || head.rsplit_once('.').is_some_and(|(_, last)| last == name)
    };
    let known: Vec<&str> = subjects.values().flatten().map(|f| head(f)).collect();
    let all = subjects.keys().copied().chain(known);
    let hint = did_you_mean(name, all);
    for functions in subjects.values_mut() {
        functions.retain(is_named);
    }
    let all: Vec<&str> = subjects.keys().copied().collect();
    let sentence = format!(
        "unknown function or subject {name:?}: the subjects are {}{hint}",
        all.join(", ")
    );
    subjects.retain(|_, functions| !functions.is_empty());
    match subjects.is_empty() {
        true => Err(Error::new(Code::NotFound, sentence)),
        false => Ok(()),
    }
}

/// The name of a function, with the value that it is called on.
fn head(function: &Function) -> &'static str {
    let signature = function.signature;
    signature.split(['(', ' ']).next().unwrap_or(signature)
}

fn events(function: &Function) -> Vec<&'static str> {
    let events = function.events.iter();
    events.map(|event| event.section()).collect()
}

fn object(function: &Function) {
    let events = events(function).into_iter().map(Value::from).collect();
    output::object(&[
        ("subject", function.subject.into()),
        ("signature", function.signature.into()),
        ("says", function.says.into()),
        ("example", function.example.trim().into()),
        ("events", Value::Array(events)),
    ]);
}

fn print(function: &Function) {
    output::line(function.signature);
    output::line(format_args!("    {}", function.says));
    let events = events(function);
    if !events.is_empty() {
        output::line(format_args!("    At {}.", events.join(", ")));
    }
    output::line("");
    for line in function.example.trim().lines() {
        output::line(format_args!("        {line}"));
    }
    output::line("");
}

/// A Rhai definition file for one subject.
fn definitions(subject: &str, functions: &[&Function]) -> String {
    let mut text = "module static;\n".to_owned();
    let kind = capitalised(subject);
    // What a function returns is not a value in scope.
    let is_returned = matches!(subject, "names" | "entries" | "answer");
    if functions.iter().any(|f| f.signature.contains('.')) && !is_returned {
        text += &format!("\nlet {subject}: {kind};\n");
    }
    for function in functions {
        text.push('\n');
        for line in function.says.lines().chain(["", "```rhai"]) {
            text += format!("/// {line}").trim_end();
            text.push('\n');
        }
        for line in function.example.trim().lines().chain(["```"]) {
            text += format!("/// {line}").trim_end();
            text.push('\n');
        }
        text += &declaration(subject, &kind, function.signature);
        text.push('\n');
    }
    text
}

fn declaration(subject: &str, kind: &str, signature: &str) -> String {
    let Some((head, arguments)) = signature.split_once('(') else {
        let property = signature.split_once('.').map(|(_, name)| name);
        return match property.filter(|name| *name != "field") {
            _ if signature.contains('=') => {
                format!("fn index set({subject}: {kind}, key: ?, value: ?);")
            }
            Some(name) => format!("fn get {name}({subject}: {kind}) -> ?;"),
            None => format!("fn index get({subject}: {kind}, key: ?) -> ?;"),
        };
    };
    let arguments = arguments.trim_end_matches(')');
    let mut parameters: Vec<String> = Vec::new();
    let name = match head.split_once('.') {
        Some((_, name)) => {
            parameters.push(format!("{subject}: {kind}"));
            name
        }
        None => head,
    };
    if arguments.starts_with("#{") {
        parameters.push("fields: Map".to_owned());
    } else {
        let names = arguments
            .split(',')
            .map(str::trim)
            .filter(|a| !a.is_empty());
        parameters.extend(names.map(|argument| match argument.starts_with("#{") {
            true => "options: Map".to_owned(),
            false => format!("{argument}: ?"),
        }));
    }
    format!("fn {name}({}) -> ?;", parameters.join(", "))
}

fn capitalised(word: &str) -> String {
    let mut rest = word.chars();
    let first = rest.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(rest).collect()
}

//! Calls of functions and uses of fields that do not exist, in a script that compiles.

use std::collections::{BTreeMap, BTreeSet};

use rhai::{AST, ASTNode, Expr, FnCallExpr, Position, Stmt};

use super::Known;
use crate::{
    error::{did_you_mean, printable},
    hooks::api,
};

/// The fields of `event`.
const EVENT: [&str; 13] = [
    "name",
    "folder",
    "user",
    "id",
    "file",
    "meta_file",
    "data_file",
    "contact",
    "path",
    "store",
    "member",
    "change",
    "text",
];

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

/// Something that is wrong, and where.
pub type Wrong = (String, Position);

/// A variable that does not exist.
pub fn undefined(variable: &str, known: &[&str]) -> String {
    if known.contains(&variable) {
        return format!(
            "a function does not see {variable}: give it to the function as an argument"
        );
    }
    let hint = did_you_mean(variable, known.iter().copied());
    format!("unknown variable {variable}{hint}")
}

/// The functions of a script, by name and number of arguments.
pub fn own_functions(ast: &AST) -> BTreeSet<(String, usize)> {
    ast.iter_functions()
        .map(|function| (function.name.to_owned(), function.params.len()))
        .collect()
}

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

/// Calls of functions and uses of fields that do not exist.
pub fn calls(ast: &AST, known: &Known, shared: &BTreeSet<(String, usize)>) -> Vec<Wrong> {
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

/// Whether a value in scope has a field of that name.
fn has_field(subject: &str, field: &str) -> bool {
    let of = api::functions().filter(|function| function.subject == subject);
    let mut fields = of.filter_map(|function| function.signature.split_once('.'));
    fields.any(|(_, name)| name == field)
}

/// What is wrong with a field or function of a value in scope, and where that is.
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
                (_, Some(_)) if has_field(subject, field) => None,
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

/// `less` of the arguments of known functions are the value that they are called on.
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

//! The engine that scripts run in, and the fence around it.
//!
//! Rhai's own limits are not a wall by themselves, so all of them are set in one place
//! ([`engine`]), what they miss is removed from the language, and a [`call`] watches the clock and
//! the memory while a script runs.

use rhai::{
    AST, ASTNode, Dynamic, Engine, EvalAltResult, Expr, ImmutableString, Position, Stmt,
    packages::{
        BasicArrayPackage, BasicMapPackage, BasicMathPackage, CorePackage, LogicPackage,
        MoreStringPackage, Package,
    },
};

use super::{
    api::{self, function::fail},
    call,
};
use crate::meta::MAX_TEXT;

/// The largest script, in bytes.
pub const MAX_SOURCE: u64 = 65_536;

/// The longest text that a script can hold, in bytes: the longest that a sender may write
/// into a field, and as much again around it.
pub const MAX_STRING: usize = 2 * MAX_TEXT;

/// Arguments of one call. A call is one step of Rhai's, which no deadline interrupts,
/// however many arguments it has.
const MAX_ARGUMENTS: usize = 32;

/// Every limit of every script, in one place.
pub fn engine() -> Engine {
    let mut engine = Engine::new_raw();
    // No blobs, no bit fields, no clock; files and network only through `api`.
    for package in [
        CorePackage::new().as_shared_module(),
        LogicPackage::new().as_shared_module(),
        BasicMathPackage::new().as_shared_module(),
        BasicArrayPackage::new().as_shared_module(),
        BasicMapPackage::new().as_shared_module(),
        MoreStringPackage::new().as_shared_module(),
    ] {
        engine.register_global_module(package);
    }
    engine
        .set_max_operations(200_000)
        .set_max_call_levels(32)
        .set_max_expr_depths(64, 32)
        .set_max_variables(256)
        .set_max_functions(256)
        .set_max_string_size(MAX_STRING)
        .set_max_array_size(1_024)
        .set_max_map_size(256)
        .set_max_strings_interned(256)
        // `eval` escapes what was compiled; `curry` grows without a check.
        .disable_symbol("eval")
        .disable_symbol("curry")
        .on_progress(|_| call::stop().map(Dynamic::from))
        .on_print(call::print)
        .on_debug(|text, _, _| call::print(text));
    replace_unchecked(&mut engine);
    api::register(&mut engine);
    engine
}

/// What must be true of a compiled script before it runs; a sentence if it is not.
pub fn inspect(ast: &AST) -> Result<(), (String, Position)> {
    let mut found = None;
    ast.walk(&mut |path| {
        let call = match path.last() {
            Some(ASTNode::Expr(Expr::FnCall(call, at) | Expr::MethodCall(call, at))) => (call, *at),
            Some(ASTNode::Stmt(Stmt::FnCall(call, at))) => (call, *at),
            _ => return true,
        };
        let (call, at) = call;
        if call.args.len() > MAX_ARGUMENTS {
            let sentence = format!("a call can have {MAX_ARGUMENTS} arguments");
            found = Some((sentence, at));
        }
        found.is_none()
    });
    found.map_or(Ok(()), Err)
}

/// Replaces functions that ignore a limit with ours: `sleep` ignores the deadline, `replace` the
/// length of texts until after it has allocated.
fn replace_unchecked(engine: &mut Engine) {
    // A sender waits meanwhile, and so does every other script in the queue.
    fn sleep() -> Result<(), Box<EvalAltResult>> {
        Err(fail("sleep(): a hook cannot sleep, a sender waits for it"))
    }
    engine
        .register_fn("sleep", |_: i64| sleep())
        .register_fn("sleep", |_: f64| sleep());

    type Replaced = Result<(), Box<EvalAltResult>>;
    fn replace(text: &mut ImmutableString, find: &str, put: &str) -> Replaced {
        let grown = text
            .matches(find)
            .count()
            .saturating_mul(put.len())
            .saturating_add(text.len());
        if grown > MAX_STRING.saturating_mul(2) {
            return Err(Box::new(EvalAltResult::ErrorDataTooLarge(
                "Length of string".to_owned(),
                Position::NONE,
            )));
        }
        *text = text.replace(find, put).into();
        Ok(())
    }
    engine
        .register_fn("replace", |t: &mut ImmutableString, f: &str, p: &str| {
            replace(t, f, p)
        })
        .register_fn("replace", |t: &mut ImmutableString, f: &str, p: char| {
            replace(t, f, &p.to_string())
        })
        .register_fn("replace", |t: &mut ImmutableString, f: char, p: &str| {
            replace(t, &f.to_string(), p)
        })
        .register_fn("replace", |t: &mut ImmutableString, f: char, p: char| {
            replace(t, &f.to_string(), &p.to_string())
        });
}

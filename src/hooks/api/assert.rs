//! `assert`: what scripts that test other scripts expect.

use rhai::{Dynamic, Engine};

use super::function::{Function, Made, fail};
use crate::error::printable;

/// Characters of a value that a failure shows.
const SHOWN: usize = 200;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "assert",
        "assert(condition)",
        "Fails unless the condition is true. Available only in tests of hooks.",
        "assert(1 + 1 == 2);",
    ),
    Function::new(
        "assert",
        "assert(condition, text)",
        "Fails with the text unless the condition is true. Available only in tests of hooks.",
        r#"assert(meta.filesize > 0, "an empty file");"#,
    ),
    Function::new(
        "assert",
        "assert_eq(left, right)",
        "Fails unless both have the same type and value, and shows them. Available only in tests of hooks.",
        "assert_eq([1, 2].len(), 2);",
    ),
];

/// Registers them: an ordinary hook does not have them.
pub fn register(engine: &mut Engine) {
    engine
        .register_fn("assert", |holds: bool| match holds {
            true => Ok(()),
            false => Err(fail("assert(): it does not hold")),
        })
        .register_fn("assert", |holds: bool, text: &str| match holds {
            true => Ok(()),
            false => Err(fail(format!("assert(): {}", printable(text, SHOWN)))),
        })
        .register_fn("assert_eq", equal);
}

fn equal(left: Dynamic, right: Dynamic) -> Made<()> {
    // As they are printed: so 1 is not "1", and arrays and maps are compared deeply.
    let (a, b) = (format!("{left:?}"), format!("{right:?}"));
    if left.type_name() == right.type_name() && a == b {
        return Ok(());
    }
    let (a, b) = (printable(&a, SHOWN), printable(&b, SHOWN));
    Err(fail(format!("assert_eq(): {a} is not {b}")))
}

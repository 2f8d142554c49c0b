//! `json`: documents as text (RFC 8259).

use rhai::{Array, Dynamic, Engine, Map};

use super::{
    function::{Function, Made, fail},
    value::from_dynamic,
};
use crate::json::{self, Value};

/// Items of an array in a document.
const MAX_ITEMS: usize = 1_024;

/// Fields of an object in a document.
const MAX_FIELDS: usize = 256;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "json",
        "json.parse(text)",
        "The value that a JSON text stands for: maps, arrays, texts, numbers, true, false, and () for null. At most 16 levels, 1,024 items and 256 fields.",
        r#"
let order = json.parse(`{"id": 7, "items": [{"name": "bolt", "price": 1.5}]}`);
assert_eq(order.id, 7);
assert_eq(order.items[0].price, 1.5);
"#,
    ),
    Function::new(
        "json",
        "json.to_json(value)",
        "A value as JSON, on one line.",
        r#"
folder.write("last.json", json.to_json(#{ from: meta.from, sizes: [meta.filesize] }));
assert_eq(json.to_json(#{ a: [1, true, ()], b: "x" }), `{"a":[1,true,null],"b":"x"}`);
"#,
    ),
];

/// `json` in a script.
#[derive(Clone)]
pub struct Handle;

fn parse(text: &str) -> Made<Dynamic> {
    let call = "json.parse()";
    to_value(call, read(call, text)?)
}

/// Reads a document, for a call.
pub(super) fn read(call: &str, text: &str) -> Made<Value> {
    serde_json::from_str(text).map_err(|e| fail(format!("{call}: it is not JSON: {e}")))
}

/// A document, or a part of one, as a value of a script.
pub(super) fn to_value(call: &str, value: Value) -> Made<Dynamic> {
    to_dynamic(value, json::MAX_DEPTH).ok_or_else(|| {
        fail(format!(
            "{call}: a document may have {} levels, {MAX_ITEMS} items and {MAX_FIELDS} fields",
            json::MAX_DEPTH
        ))
    })
}

/// A value for a script; `None` if it is too deep or too large.
fn to_dynamic(value: Value, depth: usize) -> Option<Dynamic> {
    Some(match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(b) => b.into(),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => n.into(),
            (None, Some(n)) => n.into(),
            (None, None) => n.to_string().into(),
        },
        Value::String(text) => text.into(),
        Value::Array(items) if items.len() <= MAX_ITEMS => {
            let depth = depth.checked_sub(1)?;
            let items = items.into_iter().map(|item| to_dynamic(item, depth));
            items.collect::<Option<Array>>()?.into()
        }
        Value::Object(fields) if fields.len() <= MAX_FIELDS => {
            let depth = depth.checked_sub(1)?;
            let fields = fields
                .into_iter()
                .map(|(field, value)| Some((field.into(), to_dynamic(value, depth)?)));
            fields.collect::<Option<Map>>()?.into()
        }
        Value::Array(_) | Value::Object(_) => return None,
    })
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Json")
        .register_fn("parse", |_: &mut Handle, text: &str| parse(text))
        .register_fn(
            "to_json",
            |_: &mut Handle, value: Dynamic| -> Made<String> {
                let value =
                    from_dynamic(&value).map_err(|e| fail(format!("json.to_json(): {e}")))?;
                Ok(value.to_string())
            },
        );
}

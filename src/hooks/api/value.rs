//! Values of a script as JSON, and the other way.

use rhai::{Dynamic, Map};

use crate::json::{self, JsonError, Value};

/// What a script sees of a value.
pub fn to_dynamic(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match n.as_i64() {
            Some(n) => n.into(),
            None => n.to_string().into(),
        },
        Value::String(s) => s.as_str().into(),
        Value::Array(items) => items.iter().map(to_dynamic).collect::<Vec<_>>().into(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.as_str().into(), to_dynamic(value)))
            .collect::<Map>()
            .into(),
    }
}

/// What a value of a script is as JSON.
pub fn from_dynamic(value: &Dynamic) -> Result<Value, JsonError> {
    fn convert(value: &Dynamic, depth: usize) -> Value {
        if let Ok(b) = value.as_bool() {
            b.into()
        } else if let Ok(n) = value.as_int() {
            n.into()
        } else if let Ok(n) = value.as_float() {
            n.into()
        } else if let (Ok(items), Some(depth)) = (value.as_array_ref(), depth.checked_sub(1)) {
            items.iter().map(|item| convert(item, depth)).collect()
        } else if let (Ok(map), Some(depth)) = (value.as_map_ref(), depth.checked_sub(1)) {
            let entries = map
                .iter()
                .map(|(key, value)| (key.to_string(), convert(value, depth)));
            Value::Object(entries.collect())
        } else if value.is_unit() {
            Value::Null
        } else {
            value.to_string().into()
        }
    }
    // One deeper than is allowed, so that the check sees what is too deep.
    let value = convert(value, json::MAX_DEPTH + 1);
    json::check(&value)?;
    Ok(value)
}

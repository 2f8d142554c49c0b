//! JSON from strangers: one object, no duplicate keys, bounded depth, whole numbers.
//!
//! The rules make a document mean the same in every language, so that a checksum
//! over its canonical form ([`canonical`]) can be computed by any peer.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
pub use serde_json::{Map, Value};

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 16;

/// Why a text is not a document that m2y accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

/// Reads one object.
pub fn parse(text: &[u8]) -> Result<Map<String, Value>, JsonError> {
    let fail = |e: serde_json::Error| JsonError(format!("not a JSON document: {e}"));
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Strict(MAX_DEPTH).deserialize(&mut reader).map_err(fail)?;
    reader.end().map_err(fail)?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(JsonError("not a JSON object, must be {...}".to_owned())),
    }
}

/// The part of a text from the first `{` to the last `}`: the object in a mail. The whole text if
/// there is none.
pub fn outermost(text: &[u8]) -> &[u8] {
    let first = text.iter().position(|b| *b == b'{');
    let last = text.iter().rposition(|b| *b == b'}');
    first
        .zip(last)
        .and_then(|(first, last)| text.get(first..=last))
        .unwrap_or(text)
}

/// The bytes of a text in hexadecimal digits; `None` if they are not just as many.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// Writes keys in the order of their code points, without spaces.
///
/// Strings escape only `"`, `\` and what is below U+0020 (`\b \f \n \r \t`, otherwise `\u00xx`);
/// everything else is UTF-8 as it is.
pub fn canonical(document: &Map<String, Value>) -> String {
    // serde_json's map is a BTreeMap here (feature preserve_order is off), and a
    // map with string keys of plain values cannot fail to be written.
    serde_json::to_string(document).unwrap_or_default()
}

/// Writes a document for people to read.
pub fn pretty(document: &Map<String, Value>) -> String {
    let mut text = serde_json::to_string_pretty(document).unwrap_or_default();
    text.push('\n');
    text
}

/// Says whether a value nests at most [`MAX_DEPTH`] deep and holds no fraction.
pub fn check(value: &Value) -> Result<(), JsonError> {
    fn walk(value: &Value, depth: usize) -> Result<(), JsonError> {
        match value {
            Value::Number(n) if n.is_f64() => Err(not_whole(n.as_f64().unwrap_or_default())),
            Value::Array(_) | Value::Object(_) if depth == 0 => Err(too_deep()),
            Value::Array(items) => items.iter().try_for_each(|v| walk(v, depth - 1)),
            Value::Object(map) => map.values().try_for_each(|v| walk(v, depth - 1)),
            _ => Ok(()),
        }
    }
    walk(value, MAX_DEPTH)
}

/// Says what is wrong with a number that was read as a fraction. It is named only if the fraction
/// is sure to be the number that was written.
fn not_whole(number: f64) -> JsonError {
    JsonError(if number.fract() == 0.0 {
        "a number is outside -2^63 to 2^64 - 1, is -0, or has a point or an exponent: write it as text"
            .to_owned()
    } else {
        format!("{number} is not a whole number: write it as text, \"{number}\"")
    })
}

fn too_deep() -> JsonError {
    JsonError(format!("nested more than {MAX_DEPTH} deep"))
}

/// Deserializes a value that may nest this deep.
struct Strict(usize);

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl Strict {
    fn inner<E: de::Error>(&self) -> Result<Strict, E> {
        match self.0.checked_sub(1) {
            Some(depth) => Ok(Strict(depth)),
            None => Err(E::custom(too_deep())),
        }
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Err(E::custom(not_whole(v)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self.inner()?)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format!("the key {key:?} stands twice")));
            }
            let value = entries.next_value_seed(self.inner()?)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_spaces_dropped() {
        let map = parse(r#" { "b" : [1, -2], "a" : "é\u0007\n" } "#.as_bytes()).unwrap();
        assert_eq!(canonical(&map), "{\"a\":\"é\\u0007\\n\",\"b\":[1,-2]}");
    }

    #[test]
    fn doubled_keys_are_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"x":[{"a":1,"a":1}]}"#] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("the key \"a\" stands twice"), "{error}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_deep_recursion() {
        let text = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(
            parse(text.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("deep")
        );
    }

    #[test]
    fn fractions_are_refused_with_the_way_to_write_them() {
        let error = parse(br#"{"lat":47.5}"#).unwrap_err().to_string();
        assert!(error.contains("write it as text, \"47.5\""), "{error}");
    }

    #[test]
    fn a_number_that_is_too_large_is_not_taken_for_another() {
        for text in [
            "18446744073709551616",
            "-9223372036854775809",
            "-0",
            "1e3",
            "1.0",
        ] {
            let error = parse(format!("{{\"n\":{text}}}").as_bytes()).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("a number is outside"), "{text}: {error}");
            assert!(!error.contains("000"), "{text}: {error}");
        }
        assert!(parse(br#"{"n":18446744073709551615,"m":-9223372036854775808}"#).is_ok());
    }

    #[test]
    fn an_object_in_a_mail_is_found() {
        for (text, object) in [
            ("{}", "{}"),
            ("\u{feff}Hello,\r\n {\"a\": {}}\r\n-- \r\nme", "{\"a\": {}}"),
            ("} no {", "} no {"),
            ("", ""),
        ] {
            assert_eq!(outermost(text.as_bytes()), object.as_bytes(), "{text}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "1", "null", "{} x", "{", "\u{feff}{}", "NaN"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}

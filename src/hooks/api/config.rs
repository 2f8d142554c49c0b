//! `config`: the folder's m2y.config.

use std::sync::Arc;

use rhai::{Dynamic, Engine, Map};

use super::function::{Function, Made, fail, shown};
use crate::root::config::Config;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "config",
        "config.get(section, key)",
        "A value of the folder's m2y.config as text, or () if it is missing.",
        r#"
assert_eq(config.get("permission", "zhenqiang"), "always");
assert_eq(config.get("permission", "nobody"), ());
"#,
    ),
    Function::new(
        "config",
        "config.get(section, key, default)",
        "A value of the folder's m2y.config as text, or the default if it is missing.",
        r#"
assert_eq(config.get("album", "prefix", "album"), "album");
"#,
    ),
    Function::new(
        "config",
        "config.number(section, key, default)",
        "A value of the folder's m2y.config as a whole number, or the default if it is missing. The suffixes K, M, G and T mean thousands, millions and so on, and Ki, Mi, Gi and Ti powers of 1,024, as in 500M or 64Ki. Anything else is an error, which says where the value is.",
        r#"
if meta.filesize > config.number("album", "most", 500_000_000) { reject("too large"); }
assert_eq(config.number("album", "most", 20), 20);
"#,
    ),
    Function::new(
        "config",
        "config.number(section, key)",
        "The same, with () if it is missing.",
        r#"
let most = config.number("pictures", "most");
if most != () && meta.filesize > most { reject("too large"); }
"#,
    ),
    Function::new(
        "config",
        "config.has(section)",
        "Whether m2y.config has a section, empty or not.",
        r#"
assert(config.has("permission"));
"#,
    ),
    Function::new(
        "config",
        "config.has(section, key)",
        "Whether a section of m2y.config has a key, or a line with that text.",
        r#"
assert(!config.has("permission", "nobody"));
"#,
    ),
    Function::new(
        "config",
        "config.section(name)",
        "A section of m2y.config as a map of texts; empty if it is missing.",
        r#"
for name in config.section("permission").keys() { log.info(name); }
"#,
    ),
];

/// `config` in a script.
#[derive(Clone)]
pub struct Handle(Arc<Config>);

impl Handle {
    pub(super) fn new(config: &Arc<Config>) -> Self {
        Self(config.clone())
    }
}

fn number(config: &mut Handle, section: &str, key: &str) -> Made<Option<i64>> {
    let Some(value) = config.0.get(section, key) else {
        return Ok(None);
    };
    match whole(value) {
        Some(number) => Ok(Some(number)),
        None => {
            let value = shown(value);
            Err(fail(format!(
                "config.number(): {value} is not a whole number like 20, 500M or 64Ki: see {key} under [{section}] in m2y.config"
            )))
        }
    }
}

/// Reads a whole number, with or without a unit after it.
fn whole(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 8] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("K", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    for (unit, factor) in UNITS {
        let cut = text.len().checked_sub(unit.len());
        let parts = cut.and_then(|cut| Some((text.get(..cut)?, text.get(cut..)?)));
        if let Some((number, end)) = parts
            && end.eq_ignore_ascii_case(unit)
        {
            // With a minus no unit makes sense.
            let number: u64 = number.trim().parse().ok()?;
            return i64::try_from(number).ok()?.checked_mul(factor);
        }
    }
    text.parse().ok()
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Config")
        .register_fn(
            "get",
            |config: &mut Handle, section: &str, key: &str| match config.0.get(section, key) {
                Some(value) => value.to_owned().into(),
                None => Dynamic::UNIT,
            },
        )
        .register_fn(
            "get",
            |config: &mut Handle, section: &str, key: &str, default: Dynamic| match config
                .0
                .get(section, key)
            {
                Some(value) => value.to_owned().into(),
                None => default,
            },
        )
        .register_fn(
            "number",
            |config: &mut Handle, section: &str, key: &str| -> Made<Dynamic> {
                let number = number(config, section, key)?;
                Ok(number.map_or(Dynamic::UNIT, Dynamic::from))
            },
        )
        .register_fn(
            "number",
            |config: &mut Handle, section: &str, key: &str, default: i64| -> Made<i64> {
                Ok(number(config, section, key)?.unwrap_or(default))
            },
        )
        .register_fn("has", |config: &mut Handle, section: &str| {
            config.0.has(section)
        })
        .register_fn("has", |config: &mut Handle, section: &str, key: &str| {
            config.0.get(section, key).is_some()
        })
        .register_fn("section", |config: &mut Handle, name: &str| {
            config
                .0
                .section(name)
                .map(|(key, value)| (key.into(), value.into()))
                .collect::<Map>()
        });
}

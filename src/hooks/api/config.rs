//! `config`: the folder's m2y.config.

use std::sync::Arc;

use rhai::{Dynamic, Engine, Map};

use super::function::{Function, Made, fail, shown};
use crate::root::{config::Config, settings};

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "config",
        "config.get(section, key)",
        "A value of the folder's m2y.config as text, or () where there is none.",
        r#"
assert_eq(config.get("permission", "zhenqiang"), "always");
assert_eq(config.get("permission", "nobody"), ());
"#,
    ),
    Function::new(
        "config",
        "config.get(section, key, default)",
        "A value of the folder's m2y.config as text, or the default where there is none.",
        r#"
assert_eq(config.get("album", "prefix", "album"), "album");
"#,
    ),
    Function::new(
        "config",
        "config.number(section, key, default)",
        "A value of the folder's m2y.config as a whole number, or the default where there is none. K, M, G and T behind it count bytes, as in 500M. Anything else fails, and says where it stands.",
        r#"
if meta.filesize > config.number("album", "most", 500_000_000) { reject("too large"); }
assert_eq(config.number("album", "most", 20), 20);
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
        "Whether a section of m2y.config has a key, or a line of that text.",
        r#"
assert(!config.has("permission", "nobody"));
"#,
    ),
    Function::new(
        "config",
        "config.section(name)",
        "A section of m2y.config as a map of texts; empty where there is none.",
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

fn number(config: &mut Handle, section: &str, key: &str, default: i64) -> Made<i64> {
    let Some(value) = config.0.get(section, key) else {
        return Ok(default);
    };
    // With a minus no unit makes sense.
    let plain = value.parse().ok();
    let number = plain.or_else(|| i64::try_from(settings::bytes(value).ok()?).ok());
    number.ok_or_else(|| {
        let value = shown(value);
        fail(format!(
            "config.number(): {value} is no whole number like 20 or 500M: see {key} under [{section}] in m2y.config"
        ))
    })
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
        .register_fn("number", number)
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

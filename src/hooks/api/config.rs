//! `config`: the folder's m2y.config.

use std::sync::Arc;

use rhai::{Dynamic, Engine, Map};

use super::Function;
use crate::root::config::Config;

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

//! `config`: the folder's m2y.config.

use std::sync::Arc;

use rhai::{Dynamic, Engine, Map};

use crate::root::config::Config;

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
        // config.get(section, key): the value, or () where there is none
        .register_fn(
            "get",
            |config: &mut Handle, section: &str, key: &str| match config.0.get(section, key) {
                Some(value) => value.to_owned().into(),
                None => Dynamic::UNIT,
            },
        )
        // config.has(section)
        .register_fn("has", |config: &mut Handle, section: &str| {
            config.0.has(section)
        })
        // config.has(section, key)
        .register_fn("has", |config: &mut Handle, section: &str, key: &str| {
            config.0.get(section, key).is_some()
        })
        // config.section(name): a map; empty where there is none
        .register_fn("section", |config: &mut Handle, name: &str| {
            config
                .0
                .section(name)
                .map(|(key, value)| (key.into(), value.into()))
                .collect::<Map>()
        });
}

//! The scripts that a transfer began with.

use std::{collections::HashMap, sync::Arc};

use super::script::Compiled;

/// The scripts that a transfer began with: edited meanwhile, they hold for the next one.
#[derive(Clone, Default)]
pub struct Pinned {
    pub(super) scripts: Arc<HashMap<String, Arc<Compiled>>>,
}

//! The scripts that a transfer began with.

use std::{collections::HashMap, sync::Arc};

use super::script::Compiled;

/// The scripts that a transfer began with: if edited meanwhile, they apply to the next one.
#[derive(Clone, Default)]
pub struct Pinned {
    pub(super) scripts: Arc<HashMap<String, Arc<Compiled>>>,
    /// Whether one of them asks for SHA-256 digests.
    pub(super) hashes: bool,
}

impl Pinned {
    /// Whether the digest of a file is to be computed while it arrives.
    pub fn wants_sha256(&self) -> bool {
        self.hashes
    }

    /// The texts of the scripts, in the order of their names.
    pub(super) fn texts(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.scripts.iter().collect();
        names.sort_by_key(|(name, _)| *name);
        let scripts = names.into_iter();
        scripts.flat_map(|(_, script)| script.texts()).collect()
    }
}

//! What scripts reach beyond the files of their folder.

use std::sync::Arc;

use super::{
    api::{
        http::{NoWeb, Web},
        state::{MemoryState, State},
    },
    digests::Digests,
};

/// What scripts reach beyond the files of their folder. Clones are the same one.
#[derive(Clone)]
pub struct Services {
    /// What they keep, and what is known of their senders.
    pub state: Arc<dyn State>,
    /// Digests that are known already.
    pub digests: Digests,
    /// Web servers.
    pub web: Arc<dyn Web>,
}

impl Services {
    /// Services that keep values in `state`, and reach no server.
    pub fn new(state: Arc<dyn State>) -> Self {
        Self {
            state,
            digests: Digests::default(),
            web: Arc::new(NoWeb),
        }
    }

    /// The same, with web servers.
    #[must_use]
    pub fn with_web(mut self, web: Arc<dyn Web>) -> Self {
        self.web = web;
        self
    }
}

impl Default for Services {
    /// Services that keep values until the process ends.
    fn default() -> Self {
        Self::new(Arc::new(MemoryState::default()))
    }
}

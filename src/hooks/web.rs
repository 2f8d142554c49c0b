//! Web servers for scripts, whose threads wait for the answers.

use std::{sync::Arc, time::Duration};

use hyper::Method;
use tokio::runtime::Handle;

use super::api::http::Web;
use crate::delivery::{
    Client,
    http::{Answered, Asked},
};

/// Why a run that changes nothing does not post.
pub const NOT_POSTED: &str = "this run changes nothing, and so nothing is posted";

/// Asks servers by means of a runtime; the script's own thread waits.
pub struct OnRuntime {
    client: Client,
    runtime: Option<Handle>,
    posts: bool,
}

impl OnRuntime {
    /// Asks on the runtime that this is called from.
    pub fn here(client: &Client) -> Arc<Self> {
        Arc::new(Self {
            client: client.clone(),
            runtime: Handle::try_current().ok(),
            posts: true,
        })
    }

    /// [`Self::here`] for runs that change nothing: it gets but does not post.
    pub fn only_get(client: &Client) -> Arc<Self> {
        Arc::new(Self {
            client: client.clone(),
            runtime: Handle::try_current().ok(),
            posts: false,
        })
    }
}

impl Web for OnRuntime {
    fn ask(&self, asked: &Asked, deadline: Duration) -> Result<Answered, String> {
        if !self.posts && asked.method != Method::GET {
            return Err(NOT_POSTED.to_owned());
        }
        let runtime = self.runtime.as_ref().ok_or("there is no runtime here")?;
        let answer = self.client.ask(asked, deadline);
        runtime.block_on(answer).map_err(|e| e.to_string())
    }
}

//! What a running server tells programs of its machine, and does for them.

use async_trait::async_trait;

use crate::{
    error::Error,
    json::{Map, Value},
    pairing::slots::Slots,
    relay::hub::Hub,
    root::settings::Change,
    transport::Address,
    viewers::Viewers,
};

/// A running server, as programs of its machine see it.
#[async_trait]
pub trait Console: Send + Sync + 'static {
    /// Where it listens.
    fn addresses(&self) -> &[Address];

    /// Where codes are kept open.
    fn slots(&self) -> &Slots;

    /// Who watches streams.
    fn viewers(&self) -> &Viewers;

    /// The hub, if it is a relay.
    fn hub(&self) -> Option<&Hub>;

    /// What goes on: the answer to `GET /v1/status`.
    async fn status(&self) -> Result<Map<String, Value>, Error>;

    /// Reads m2y.ini again; returns what has changed.
    async fn reload(&self) -> Result<Vec<Change>, Error>;

    /// Begins to shut down, or stops at once.
    fn stop(&self, now: bool) -> Result<(), Error>;
}

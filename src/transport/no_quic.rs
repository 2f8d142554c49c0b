//! QUIC where it cannot be had: Graviola, which does the arithmetic of TLS in such a build, has no
//! support for it.

use super::{Address, Identity, Link, Listener, Listening, Pin, Place, TransportError};

/// Refuses.
#[derive(Clone, Copy, Default)]
pub(super) struct Dialer;

impl Dialer {
    pub(super) fn new(_gso: bool) -> Self {
        Self
    }

    pub(super) async fn dial(
        &self,
        address: &Address,
        _place: &Place,
        _pin: Option<Pin>,
    ) -> Result<Link, TransportError> {
        Err(missing(address))
    }
}

pub(super) async fn listen(
    address: &Address,
    _place: &Place,
    _identity: &Identity,
    _listening: &Listening,
) -> Result<Box<dyn Listener>, TransportError> {
    Err(missing(address))
}

fn missing(address: &Address) -> TransportError {
    TransportError::Unsupported {
        address: address.clone(),
        what: "QUIC, which this m2y was built without: build it with default features",
    }
}

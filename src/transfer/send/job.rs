//! What a session needs to know about a file that it is to send.

use std::{borrow::Borrow, sync::Arc};

use zeroize::Zeroizing;

use super::{feed::Feed, send_job::SendJob};
use crate::{
    error::Error,
    meta::{Features, Meta, Wire},
    root::version::Version,
    store::Contents,
    wire::{record::Kind, request::Reply},
};

/// What this sender can do.
pub const FEATURES: Features = Features {
    resume: true,
    files: 0,
    requests: false,
};

/// A file to be sent, and how permission for that is requested.
pub trait Job {
    /// What is said of the file; an error if that is wrong.
    fn meta(&self) -> Result<Meta, Error>;

    /// The record that asks for permission.
    fn ask(&self, meta: &Meta) -> (Kind, Zeroizing<Vec<u8>>);

    /// The open file, and the version to be sent.
    fn source(&self) -> (Arc<dyn Contents>, Version);

    /// Where its bytes come from, if they are sent as they come.
    fn feed(&self) -> Option<Feed> {
        None
    }

    /// The receiver has this much of it from before.
    fn held(&mut self, _bytes: u64) {}

    /// What the receiver said when it was safe, if that was more than an ACK.
    fn stored(&mut self, _reply: Reply) {}
}

impl<T: Borrow<SendJob>> Job for T {
    fn meta(&self) -> Result<Meta, Error> {
        self.borrow().request()
    }

    fn ask(&self, meta: &Meta) -> (Kind, Zeroizing<Vec<u8>>) {
        let request = Wire {
            features: FEATURES,
            ..Wire::request(meta.clone())
        };
        let json = request.to_json().as_bytes().to_vec();
        (Kind::Meta, Zeroizing::new(json))
    }

    fn source(&self) -> (Arc<dyn Contents>, Version) {
        self.borrow().source()
    }

    fn feed(&self) -> Option<Feed> {
        self.borrow().feed().cloned()
    }

    fn held(&mut self, bytes: u64) {
        (*self).borrow().held(bytes);
    }
}

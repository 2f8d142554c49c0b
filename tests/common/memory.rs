//! A transport that lives in memory: what a server and a client need of a network, and
//! nothing that only TCP has.

use std::io;

use futures_util::future::BoxFuture;
use m2y::transport::{Address, Dialer, Incoming, Link, Listener, Peer, TransportError};
use tokio::{
    io::{DuplexStream, duplex, split},
    sync::mpsc,
};

/// Bytes that a pipe holds: less than a record, so that nobody may count on more.
const PIPE: usize = 4_096;

/// Accepts the links that its [`MemoryDialer`] makes.
pub struct MemoryListener(mpsc::UnboundedReceiver<Link>);

/// Makes links to one [`MemoryListener`], whatever the address.
pub struct MemoryDialer(mpsc::UnboundedSender<Link>);

/// A listener, and what dials it.
pub fn memory() -> (MemoryListener, MemoryDialer) {
    let (dialled, accepted) = mpsc::unbounded_channel();
    (MemoryListener(accepted), MemoryDialer(dialled))
}

fn link(pipe: DuplexStream, peer: &str) -> Link {
    let (reader, writer) = split(pipe);
    Link {
        reader: Box::new(reader),
        writer: Box::new(writer),
        peer: Peer::Named(peer.to_owned()),
    }
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        Box::pin(async {
            match self.0.recv().await {
                Some(link) => Ok(link.into()),
                // Nobody can dial any more.
                None => std::future::pending().await,
            }
        })
    }

    fn address(&self) -> io::Result<Address> {
        Ok("memory:1".parse().expect("an address"))
    }
}

impl MemoryDialer {
    /// A new link.
    pub fn link(&self) -> io::Result<Link> {
        let (here, there) = duplex(PIPE);
        let dialled = self.0.send(link(there, "a client in memory"));
        dialled.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(link(here, "a server in memory"))
    }
}

impl Dialer for MemoryDialer {
    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Link, TransportError>> {
        Box::pin(async {
            self.link().map_err(|source| TransportError::Connect {
                address: address.clone(),
                source,
            })
        })
    }
}

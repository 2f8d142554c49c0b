//! How two machines reach each other: an [`Address`] is dialled or listened on, and each
//! connection is a [`Link`] of two halves.
//!
//! A link carries bytes in order, in both directions, and ends when a half is shut down or
//! dropped. It need not be secret or authentic: the session on top of it is. TCP is the only
//! kind of address so far. A further one needs a variant of [`Address`] and a file beside
//! `tcp`.

mod address;
pub(crate) mod resolve;
mod tcp;
pub mod tls;

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

pub use address::{Address, AddressError};

use crate::error::{Code, Error};

/// The incoming half of a link.
pub type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;

/// The outgoing half of a link.
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// One connection, before anything was said on it.
pub struct Link {
    /// What the peer sends.
    pub reader: ReadHalf,
    /// What the peer gets.
    pub writer: WriteHalf,
    /// Who is at the other end, as far as the transport can tell.
    pub peer: Peer,
}

/// The other end of a link, for the log and for counting. It proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A host and a port of an IP network.
    Ip(SocketAddr),
    /// A peer of a transport without IP addresses.
    Named(String),
}

impl Peer {
    /// What counts as one peer, however many connections it has: a host; with IPv6 a whole
    /// /64, because a host has all of its addresses.
    #[must_use]
    pub fn origin(&self) -> Self {
        match self {
            Self::Ip(address) => {
                let host = match address.ip() {
                    IpAddr::V4(host) => host.into(),
                    IpAddr::V6(host) => match host.to_ipv4_mapped() {
                        Some(host) => host.into(),
                        None => {
                            let network = host.to_bits() & !u128::from(u64::MAX);
                            IpAddr::V6(Ipv6Addr::from_bits(network))
                        }
                    },
                };
                Self::Ip(SocketAddr::new(host, 0))
            }
            Self::Named(name) => Self::Named(name.clone()),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// Accepts links.
pub trait Listener: Send {
    /// Waits for the next link. Nothing is lost if the future is dropped. After an error
    /// the listener can be asked again.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Link>>;

    /// Where it listens, as a client may dial it.
    fn address(&self) -> io::Result<Address>;
}

impl<L: Listener + ?Sized> Listener for Box<L> {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Link>> {
        (**self).accept()
    }

    fn address(&self) -> io::Result<Address> {
        (**self).address()
    }
}

/// Makes links to addresses.
pub trait Dialer: Send + Sync {
    /// Connects to `address`.
    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Link, TransportError>>;
}

/// Dials every kind of address that there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

impl Dialer for Direct {
    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Link, TransportError>> {
        Box::pin(dial(address))
    }
}

/// Why a link could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer cannot be reached, or refuses.
    #[error(
        "cannot connect to {address}: {} (is the server running, and is the address right?)",
        reason(source)
    )]
    Connect {
        /// Where to.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// The peer did not answer.
    #[error("cannot connect to {address}: no answer within {after:?}")]
    Silent {
        /// Where to.
        address: Address,
        /// How long the wait was.
        after: Duration,
    },
    /// The address is taken, or not one of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
}

/// What the system says, without the number of the error.
fn reason(source: &io::Error) -> String {
    let text = source.to_string();
    let plain = text.split(" (os error").next().unwrap_or(&text);
    plain.to_lowercase()
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        let code = match &error {
            TransportError::Connect { .. } | TransportError::Silent { .. } => Code::Later,
            TransportError::Listen { .. } => Code::Failed,
        };
        Self::new(code, error.to_string())
    }
}

/// Connects to an address.
pub async fn dial(address: &Address) -> Result<Link, TransportError> {
    match address {
        Address::Tcp(host) => tcp::dial(address, host).await,
    }
}

/// Listens on an address. With TCP, port 0 takes any free port.
pub async fn listen(address: &Address) -> Result<Box<dyn Listener>, TransportError> {
    match address {
        Address::Tcp(host) => tcp::listen(address, host).await,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_peer_whatever_its_port() {
        let origin = |text: &str| Peer::Ip(text.parse().unwrap()).origin();
        assert_eq!(origin("192.0.2.1:5"), origin("192.0.2.1:6"));
        assert_eq!(origin("192.0.2.1:5"), origin("[::ffff:192.0.2.1]:5"));
        assert_ne!(origin("192.0.2.1:5"), origin("192.0.2.2:5"));
        assert_eq!(origin("[2001:db8::1]:5"), origin("[2001:db8::2]:5"));
        assert_ne!(origin("[2001:db8::1]:5"), origin("[2001:db8:0:1::1]:5"));
    }
}

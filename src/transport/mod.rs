//! How two machines reach each other: an [`Address`] is dialled or listened on, and each
//! connection is a [`Link`] of two halves.
//!
//! A link carries bytes in order, in both directions, and ends when a half is shut down or
//! dropped. It need not be secret or authentic: the session on top of it is. TLS and QUIC are
//! there to get through networks, and [`race`] takes the first of several addresses that answers.

mod address;
pub mod admission;
pub mod certificate;
#[cfg(feature = "aws-lc")]
mod quic;
#[cfg(not(feature = "aws-lc"))]
#[path = "no_quic.rs"]
mod quic;
pub mod race;
pub(crate) mod resolve;
mod tcp;
pub mod tls;
mod verdict;

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, select_all},
};
use tokio::io::{AsyncRead, AsyncWrite};

pub use address::{Address, AddressError, Addresses, MAX_ADDRESSES, PORT, Pin, Place};
pub use certificate::Identity;

use crate::error::{Code, Error};
use admission::Admission;

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

/// A connection that somebody makes. What both sides have to say before there is a link, as TLS
/// does, is said in [`Incoming::link`].
pub struct Incoming {
    /// Who is at the other end.
    pub peer: Peer,
    link: BoxFuture<'static, io::Result<Link>>,
}

impl Incoming {
    /// A connection from a peer, which becomes a link.
    pub fn new(peer: Peer, link: impl Future<Output = io::Result<Link>> + Send + 'static) -> Self {
        Self {
            peer,
            link: link.boxed(),
        }
    }

    /// Waits until there is a link. It takes as long as the peer likes.
    pub async fn link(self) -> io::Result<Link> {
        self.link.await
    }
}

impl From<Link> for Incoming {
    fn from(link: Link) -> Self {
        Self::new(link.peer.clone(), async { Ok(link) })
    }
}

/// Accepts connections.
pub trait Listener: Send {
    /// Waits for the next connection. Nothing is lost if the future is dropped. After an error
    /// the listener can be asked again.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>>;

    /// Where it listens, as a client may dial it.
    fn address(&self) -> io::Result<Address>;
}

impl<L: Listener + ?Sized> Listener for Box<L> {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        (**self).accept()
    }

    fn address(&self) -> io::Result<Address> {
        (**self).address()
    }
}

/// Accepts what any of several listeners accepts. The address is that of the first.
impl Listener for Vec<Box<dyn Listener>> {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        if self.is_empty() {
            return std::future::pending().boxed();
        }
        let any = select_all(self.iter_mut().map(|listener| listener.accept()));
        any.map(|(accepted, _, _)| accepted).boxed()
    }

    fn address(&self) -> io::Result<Address> {
        let first = self.first().ok_or(io::ErrorKind::NotFound)?;
        first.address()
    }
}

/// Makes links to addresses.
pub trait Dialer: Send + Sync {
    /// Connects to `address`.
    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Link, TransportError>>;
}

/// Dials every kind of address that there is. Sessions with one QUIC address share a connection.
#[derive(Clone, Default)]
pub struct Direct(quic::Dialer);

impl Direct {
    /// A dialer; `gso` says whether the system may cut what QUIC sends into packets.
    pub fn new(gso: bool) -> Self {
        Self(quic::Dialer::new(gso))
    }
}

impl Dialer for Direct {
    fn dial<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, Result<Link, TransportError>> {
        Box::pin(async move {
            match address {
                Address::Tcp(place) | Address::Relay(place, _) => tcp::dial(address, place).await,
                Address::Tls(place, pin) => tcp::dial_tls(address, place, *pin).await,
                Address::Quic(place, pin) => self.0.dial(address, place, *pin).await,
            }
        })
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
    /// The peer does not prove who it is.
    #[error("cannot trust {address}: {reason}")]
    Untrusted {
        /// Where to.
        address: Address,
        /// Why, and what to do.
        reason: String,
    },
    /// None of several addresses leads to the peer.
    #[error("cannot connect to any of its addresses: {}", list(.0))]
    Unreachable(Vec<race::Tried>),
    /// This build of m2y does not have the transport.
    #[error("{address} needs {what}")]
    Unsupported {
        /// Which address.
        address: Address,
        /// What is missing.
        what: &'static str,
    },
    /// The address is taken, or not one of this machine.
    #[error("cannot listen on {address}: {}", reason(source))]
    Listen {
        /// Where.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
}

impl TransportError {
    /// That an address cannot be reached, and what the system says.
    fn connect(address: &Address, source: io::Error) -> Self {
        Self::Connect {
            address: address.clone(),
            source,
        }
    }

    /// Why, without the address and what to do.
    fn reason(&self) -> String {
        match self {
            Self::Connect { source, .. } | Self::Listen { source, .. } => reason(source),
            Self::Silent { .. } => "no answer".to_owned(),
            Self::Untrusted { reason, .. } => reason.clone(),
            Self::Unsupported { what, .. } => format!("needs {what}"),
            Self::Unreachable(tried) => list(tried),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Connect { .. } | Self::Silent { .. } => Code::Later,
            Self::Untrusted { .. } => Code::Identity,
            Self::Listen { .. } | Self::Unsupported { .. } => Code::Failed,
            // One that may work later counts for more than those that will not.
            Self::Unreachable(tried) => {
                let codes = || tried.iter().map(|tried| tried.error.code());
                match codes().any(|code| code == Code::Later) {
                    true => Code::Later,
                    false => codes().next().unwrap_or(Code::Later),
                }
            }
        }
    }
}

fn list(tried: &[race::Tried]) -> String {
    let each: Vec<_> = tried.iter().map(ToString::to_string).collect();
    each.join("; ")
}

/// What the system says, without the number of the error.
fn reason(source: &io::Error) -> String {
    let text = source.to_string();
    let plain = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = plain.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// What a listener needs besides its address.
#[derive(Clone)]
pub struct Listening {
    /// What proves who listens; without it only plain TCP is possible.
    pub identity: Option<Identity>,
    /// Whether the system may cut what QUIC sends into packets.
    pub gso: bool,
    /// QUIC connections: how many there may be.
    pub admission: Admission,
}

impl Listening {
    /// Plain TCP only.
    pub fn plain() -> Self {
        Self {
            identity: None,
            gso: true,
            admission: Admission::new(0, 0),
        }
    }
}

/// Listens on an address. Port 0 takes any free port. A TCP port takes TLS too, if there is an
/// identity.
pub async fn listen(
    address: &Address,
    listening: &Listening,
) -> Result<Box<dyn Listener>, TransportError> {
    match (address, &listening.identity) {
        (Address::Tcp(_), identity) => tcp::listen(address, identity.as_ref()).await,
        (Address::Tls(..), Some(identity)) => tcp::listen(address, Some(identity)).await,
        (Address::Quic(place, _), Some(identity)) => {
            quic::listen(address, place, identity, listening).await
        }
        (Address::Relay(..), _) => Err(TransportError::Unsupported {
            address: address.clone(),
            what: "no listener: join the relay with `m2y relay join`",
        }),
        (_, None) => Err(TransportError::Unsupported {
            address: address.clone(),
            what: "TLS, which is not possible on this machine",
        }),
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

//! TCP, and TLS over it: the only module that names its sockets.
//!
//! A listener takes both on one port. The first byte tells them apart: a TLS record begins with 22,
//! and the header of an opening with 0.

use std::{io, time::Duration};

use futures_util::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::split,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    Address, Incoming, Link, Listener, Peer, Pin, Place, TransportError, certificate::Identity,
    resolve, verdict::Verdict,
};

/// How long a connection may take to be made, TLS included.
const CONNECT: Duration = Duration::from_secs(20);

/// How long a peer may be silent before the system asks whether it is there.
const ALIVE: Duration = Duration::from_secs(60);

/// The first byte of a TLS connection: the type of a handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

pub(super) async fn dial(address: &Address, place: &Place) -> Result<Link, TransportError> {
    within(address, async {
        let connecting = async { plain(connect(place).await?) };
        connecting
            .await
            .map_err(|e| TransportError::connect(address, e))
    })
    .await
}

pub(super) async fn dial_tls(
    address: &Address,
    place: &Place,
    pin: Option<Pin>,
) -> Result<Link, TransportError> {
    within(address, async {
        let verdict = Verdict::default();
        let connecting = async {
            let stream = connect(place).await?;
            let (config, name) = verdict.tls_client(place, pin).await?;
            let peer = Peer::Ip(stream.peer_addr()?);
            let connector = tokio_rustls::TlsConnector::from(config);
            let (reader, writer) = split(connector.connect(name, stream).await?);
            Ok(Link {
                reader: Box::new(reader),
                writer: Box::new(writer),
                peer,
            })
        };
        connecting.await.map_err(|e| verdict.error(address, e))
    })
    .await
}

/// Tries for as long as is sensible.
pub(super) async fn within(
    address: &Address,
    dialling: impl Future<Output = Result<Link, TransportError>>,
) -> Result<Link, TransportError> {
    timeout(CONNECT, dialling).await.unwrap_or_else(|_| {
        Err(TransportError::Silent {
            address: address.clone(),
            after: CONNECT,
        })
    })
}

async fn connect(place: &Place) -> io::Result<TcpStream> {
    let addresses = resolve::look_up(&place.host, place.port).await?;
    let stream = resolve::connect(addresses).await?;
    prepare(&stream);
    Ok(stream)
}

pub(super) async fn listen(
    address: &Address,
    identity: Option<&Identity>,
) -> Result<Box<dyn Listener>, TransportError> {
    let place = address.place();
    let listening = async {
        let addresses = resolve::look_up(&place.host, place.port).await?;
        TcpListener::bind(addresses.as_slice()).await
    };
    let listener = listening.await.map_err(|source| TransportError::Listen {
        address: address.clone(),
        source,
    })?;
    Ok(Box::new(Port {
        listener,
        identity: identity.cloned(),
        is_tls: matches!(address, Address::Tls(..)),
    }))
}

/// Plain TCP alone.
impl Listener for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        Box::pin(accept(self, None))
    }

    fn address(&self) -> io::Result<Address> {
        place(self).map(Address::Tcp)
    }
}

async fn accept(listener: &TcpListener, identity: Option<&Identity>) -> io::Result<Incoming> {
    let (stream, peer) = listener.accept().await?;
    prepare(&stream);
    Ok(Incoming::new(
        Peer::Ip(peer),
        greet(stream, identity.cloned()),
    ))
}

fn place(listener: &TcpListener) -> io::Result<Place> {
    Ok(Place::from(listener.local_addr()?))
}

/// A port that is listened on.
struct Port {
    listener: TcpListener,
    /// What proves who listens here; without it there is no TLS.
    identity: Option<Identity>,
    /// Whether it was asked for as one for TLS.
    is_tls: bool,
}

impl Listener for Port {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        Box::pin(accept(&self.listener, self.identity.as_ref()))
    }

    fn address(&self) -> io::Result<Address> {
        let place = place(&self.listener)?;
        Ok(match (&self.identity, self.is_tls) {
            (Some(identity), true) => Address::Tls(place, identity.pin()),
            _ => Address::Tcp(place),
        })
    }
}

/// Finds out what the peer speaks.
async fn greet(stream: TcpStream, identity: Option<Identity>) -> io::Result<Link> {
    let mut first = [0];
    let Some(identity) = identity else {
        return plain(stream);
    };
    if stream.peek(&mut first).await? == 0 || first != [HANDSHAKE] {
        return plain(stream);
    }
    let peer = Peer::Ip(stream.peer_addr()?);
    let (reader, writer) = split(identity.acceptor().accept(stream).await?);
    Ok(Link {
        reader: Box::new(reader),
        writer: Box::new(writer),
        peer,
    })
}

fn prepare(stream: &TcpStream) {
    // Records are written whole, so nothing is gained by waiting for more of one.
    let _ = stream.set_nodelay(true);
    // The system then notices a peer that vanished without a word, within two or three minutes.
    let keepalive = TcpKeepalive::new()
        .with_time(ALIVE)
        .with_interval(ALIVE / 4);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

fn plain(stream: TcpStream) -> io::Result<Link> {
    let peer = Peer::Ip(stream.peer_addr()?);
    let (reader, writer) = stream.into_split();
    Ok(Link {
        reader: Box::new(reader),
        writer: Box::new(writer),
        peer,
    })
}

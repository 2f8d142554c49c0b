//! TCP: the only module that names its sockets.

use std::{io, time::Duration};

use futures_util::future::BoxFuture;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Address, Link, Listener, Peer, TransportError};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);

pub(super) async fn dial(address: &Address, host: &str) -> Result<Link, TransportError> {
    let failed = |source| TransportError::Connect {
        address: address.clone(),
        source,
    };
    let stream = match timeout(CONNECT, TcpStream::connect(host)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => {
            return Err(TransportError::Silent {
                address: address.clone(),
                after: CONNECT,
            });
        }
    };
    let peer = stream.peer_addr().map_err(failed)?;
    Ok(link(stream, Peer::Ip(peer)))
}

pub(super) async fn listen(
    address: &Address,
    host: &str,
) -> Result<Box<dyn Listener>, TransportError> {
    match TcpListener::bind(host).await {
        Ok(listener) => Ok(Box::new(listener)),
        Err(source) => Err(TransportError::Listen {
            address: address.clone(),
            source,
        }),
    }
}

impl Listener for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Link>> {
        Box::pin(async {
            let (stream, peer) = Self::accept(self).await?;
            Ok(link(stream, Peer::Ip(peer)))
        })
    }

    fn address(&self) -> io::Result<Address> {
        Ok(Address::Tcp(self.local_addr()?.to_string()))
    }
}

fn link(stream: TcpStream, peer: Peer) -> Link {
    // Records are written whole, so nothing is gained by waiting for more of one.
    let _ = stream.set_nodelay(true);
    // The system then notices a peer that vanished without a word.
    let _ = SockRef::from(&stream).set_keepalive(true);
    let (reader, writer) = stream.into_split();
    Link {
        reader: Box::new(reader),
        writer: Box::new(writer),
        peer,
    }
}

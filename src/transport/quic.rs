//! QUIC: a connection over UDP, with a stream for each session. It survives a change of address.
//!
//! What a peer may cost before anybody knows who it is: an opening has 65,560 bytes at most, so a
//! connection begins with a window of a little more, and gets a wide one when more than a refusal was
//! said to it. While many handshakes are under way, a peer first has to show that packets
//! reach it where it says it is (RFC 9000, section 8.1), which costs the listener no memory. 0-RTT
//! stays off: an opening must not be repeated.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin as Pinned,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, RecvStream, SendStream,
    ServerConfig, TokioRuntime, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    Address, Identity, Incoming, Link, Listener, Listening, Peer, Pin, Place, TransportError,
    admission::Admission, resolve, tcp::within, verdict::Verdict,
};

/// The name of what is spoken inside (RFC 7301).
const ALPN: &[u8] = b"m2y/1";

/// How long a connection survives without a packet from the other side.
const IDLE: Duration = Duration::from_secs(30);

/// How often a client shows that it is still there.
const ALIVE: Duration = Duration::from_secs(10);

/// How long a listener keeps a connection on which there is no session.
const UNUSED: Duration = Duration::from_secs(10);

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes under way from which on a peer must first show where it is.
const CROWDED: usize = 32;

/// Handshakes under way at the same time.
const HANDSHAKES: usize = 512;

/// Sessions that one connection may have at the same time.
const STREAMS: u32 = 64;

/// Bytes that may be under way to us before we know who sends them: more than an opening.
const NARROW: u32 = 96 << 10;

/// Bytes of ours after which a peer is somebody to whom more than a refusal was said.
const KNOWN: u64 = 512;

/// Bytes that may be under way in a stream.
const STREAM_WINDOW: u32 = 8 << 20;

/// Bytes that may be under way in all streams of a connection.
const WIDE: u32 = 16 << 20;

/// Bytes of the socket's buffers, as far as the system allows.
const SOCKET_BUFFER: usize = 4 << 20;

/// How long the end of a stream waits for the peer to have everything.
const LAST_BYTES: Duration = Duration::from_secs(3);

fn transport(gso: bool, alive: Option<Duration>) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(alive)
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(NARROW.into())
        .send_window(u64::from(STREAM_WINDOW))
        .enable_segmentation_offload(gso);
    Arc::new(config)
}

/// A connection that ends with the last of its streams.
struct Held {
    connection: Connection,
    /// A client's, which is there for this connection only.
    _endpoint: Option<Endpoint>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.connection.close(0_u32.into(), b"");
    }
}

impl Held {
    fn link(self: Arc<Self>, (sender, receiver): (SendStream, RecvStream)) -> Link {
        let peer = Peer::Ip(self.connection.remote_address());
        Link {
            reader: Box::new(Reading {
                stream: receiver,
                _held: self.clone(),
            }),
            writer: Box::new(Writing {
                stream: sender,
                said: 0,
                ending: None,
                held: self,
            }),
            peer,
        }
    }
}

struct Reading {
    stream: RecvStream,
    _held: Arc<Held>,
}

impl AsyncRead for Reading {
    fn poll_read(
        mut self: Pinned<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pinned::new(&mut self.stream), context, buffer)
    }
}

struct Writing {
    stream: SendStream,
    /// Bytes that were written.
    said: u64,
    /// Waits until the peer has everything.
    ending: Option<BoxFuture<'static, ()>>,
    held: Arc<Held>,
}

impl AsyncWrite for Writing {
    fn poll_write(
        mut self: Pinned<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = AsyncWrite::poll_write(Pinned::new(&mut self.stream), context, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            let said = self.said + *written as u64;
            if self.said <= KNOWN && said > KNOWN {
                self.held.connection.set_receive_window(WIDE.into());
            }
            self.said = said;
        }
        polled
    }

    fn poll_flush(self: Pinned<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection sends by itself.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        mut self: Pinned<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let ending = match self.ending.take() {
            Some(ending) => ending,
            None => {
                // Ended before, or given up by the peer.
                let _ = self.stream.finish();
                let stopped = self.stream.stopped();
                // A connection that is dropped forgets what is still under way.
                Box::pin(async move {
                    let _ = timeout(LAST_BYTES, stopped).await;
                })
            }
        };
        let ending = self.ending.insert(ending);
        ending.as_mut().poll(context).map(Ok)
    }
}

/// Dials, and uses one connection for all sessions with an address.
#[derive(Clone)]
pub(super) struct Dialer {
    gso: bool,
    connections: Arc<Mutex<HashMap<Address, Weak<Held>>>>,
}

impl Default for Dialer {
    fn default() -> Self {
        Self::new(true)
    }
}

impl Dialer {
    pub(super) fn new(gso: bool) -> Self {
        Self {
            gso,
            connections: Arc::default(),
        }
    }

    pub(super) async fn dial(
        &self,
        address: &Address,
        place: &Place,
        pin: Option<Pin>,
    ) -> Result<Link, TransportError> {
        within(address, async {
            let verdict = Verdict::default();
            let dialled = async {
                let held = match self.known(address) {
                    Some(held) => held,
                    None => self.connect(address, place, pin, &verdict).await?,
                };
                let streams = held.connection.open_bi().await?;
                Ok(held.link(streams))
            };
            dialled.await.map_err(|e| verdict.error(address, e))
        })
        .await
    }

    /// A connection that other sessions use.
    fn known(&self, address: &Address) -> Option<Arc<Held>> {
        let mut connections = lock(&self.connections);
        connections.retain(|_, held| held.strong_count() > 0);
        let held = connections.get(address)?.upgrade()?;
        held.connection.close_reason().is_none().then_some(held)
    }

    async fn connect(
        &self,
        address: &Address,
        place: &Place,
        pin: Option<Pin>,
        verdict: &Verdict,
    ) -> io::Result<Arc<Held>> {
        let (tls, name) = verdict.tls_client(place, pin).await?;
        let mut tls = Arc::unwrap_or_clone(tls);
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(transport(self.gso, Some(ALIVE)));
        let name = name.to_str();
        let addresses = resolve::look_up(&place.host, place.port).await?;
        let attempts = addresses.into_iter().map(|to| {
            let (config, name) = (config.clone(), name.to_string());
            let attempt = async move {
                let endpoint = endpoint(any(to), None)?;
                let connecting = endpoint.connect_with(config, to, &name);
                let connection = connecting.map_err(io::Error::other)?.await?;
                Ok(Held {
                    connection,
                    _endpoint: Some(endpoint),
                })
            };
            attempt.boxed()
        });
        let held = Arc::new(resolve::first(attempts.collect()).await?);
        lock(&self.connections).insert(address.clone(), Arc::downgrade(&held));
        Ok(held)
    }
}

/// Any port of this machine from which `to` can be reached.
fn any(to: SocketAddr) -> SocketAddr {
    let host: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    (host, 0).into()
}

fn endpoint(at: SocketAddr, server: Option<ServerConfig>) -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    // As much as the system allows: what does not fit is lost.
    let _ = SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER);
    let _ = SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&at.into())?;
    let socket = UdpSocket::from(socket);
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new(EndpointConfig::default(), server, socket, runtime)
}

pub(super) async fn listen(
    address: &Address,
    place: &Place,
    identity: &Identity,
    listening: &Listening,
) -> Result<Box<dyn Listener>, TransportError> {
    let bound = async {
        let mut tls = identity.config().clone();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = ServerConfig::with_crypto(Arc::new(tls));
        config
            .transport_config(transport(listening.gso, None))
            .max_incoming(HANDSHAKES);
        let addresses = resolve::look_up(&place.host, place.port).await?;
        let at = addresses.first().copied();
        endpoint(at.ok_or(io::ErrorKind::NotFound)?, Some(config))
    };
    let endpoint = bound.await.map_err(|source| TransportError::Listen {
        address: address.clone(),
        source,
    })?;
    let (give, sessions) = mpsc::channel(STREAMS as usize);
    let accepting = Accepting {
        endpoint: endpoint.clone(),
        admission: listening.admission.clone(),
        handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
        give,
    };
    Ok(Box::new(Port {
        endpoint,
        pin: identity.pin(),
        sessions,
        accepting: tokio::spawn(accepting.run()),
    }))
}

struct Port {
    endpoint: Endpoint,
    pin: Option<Pin>,
    sessions: mpsc::Receiver<Incoming>,
    accepting: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        // Sessions that have begun go on, on connections that are there.
        self.accepting.abort();
        self.endpoint.set_server_config(None);
    }
}

impl Listener for Port {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        Box::pin(async {
            match self.sessions.recv().await {
                Some(incoming) => Ok(incoming),
                None => std::future::pending().await,
            }
        })
    }

    fn address(&self) -> io::Result<Address> {
        let place = Place::from(self.endpoint.local_addr()?);
        Ok(Address::Quic(place, self.pin))
    }
}

/// Takes connections.
struct Accepting {
    endpoint: Endpoint,
    admission: Admission,
    handshakes: Arc<Semaphore>,
    give: mpsc::Sender<Incoming>,
}

impl Accepting {
    async fn run(self) {
        while let Some(incoming) = self.endpoint.accept().await {
            let under_way = HANDSHAKES - self.handshakes.available_permits();
            if under_way >= CROWDED && !incoming.remote_address_validated() && incoming.may_retry()
            {
                let _ = incoming.retry();
                continue;
            }
            let peer = Peer::Ip(incoming.remote_address());
            let free = self.handshakes.clone().try_acquire_owned();
            let (Ok(handshake), Some(admitted)) = (free, self.admission.admit(&peer)) else {
                incoming.refuse();
                continue;
            };
            let give = self.give.clone();
            tokio::spawn(async move {
                let Ok(connecting) = incoming.accept() else {
                    return;
                };
                let connected = timeout(HANDSHAKE, connecting).await;
                drop(handshake);
                if let Ok(Ok(connection)) = connected {
                    serve(connection, give).await;
                }
                drop(admitted);
            });
        }
    }
}

/// Hands over the streams of a connection, until it ends or nobody uses it.
async fn serve(connection: Connection, give: mpsc::Sender<Incoming>) {
    let held = Arc::new(Held {
        connection,
        _endpoint: None,
    });
    loop {
        tokio::select! {
            streams = held.connection.accept_bi() => {
                let Ok(streams) = streams else {
                    return;
                };
                let incoming = Incoming::from(held.clone().link(streams));
                if give.send(incoming).await.is_err() {
                    break;
                }
            }
            () = sleep(UNUSED) => if Arc::strong_count(&held) == 1 {
                return;
            },
        }
    }
    // Nobody takes new sessions; those that there are go on.
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

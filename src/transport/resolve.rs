//! Names of hosts, and connections to the first of their addresses that answers.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{net::TcpStream, sync::Semaphore, task, time::timeout};

use super::race;

/// The time for one address, so that a dead one leaves some for the next.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names that are looked up at the same time. The system's resolver keeps a thread for as long as
/// it likes, even if nobody waits any more, and the disks need these threads too.
const LOOKUPS: usize = 16;

/// Looks up the addresses of a host: at least one.
pub(crate) async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    static FREE: Semaphore = Semaphore::const_new(LOOKUPS);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let one = FREE.acquire().await.map_err(io::Error::other)?;
    let host = host.to_owned();
    let looking_up = task::spawn_blocking(move || {
        let _until_it_ends = one;
        (host.as_str(), port).to_socket_addrs().map(Vec::from_iter)
    });
    match looking_up.await.map_err(io::Error::other)?? {
        addresses if addresses.is_empty() => Err(nowhere()),
        addresses => Ok(addresses),
    }
}

fn nowhere() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name leads to no address")
}

/// The first that succeeds of attempts to reach the addresses of one host, or the last error.
pub(super) async fn first<T>(attempts: Vec<BoxFuture<'_, io::Result<T>>>) -> io::Result<T> {
    let ended = race::first(attempts).await;
    ended.map_err(|errors| errors.into_iter().next_back().unwrap_or_else(nowhere))
}

/// Connects to the first one of these addresses that answers.
pub(crate) async fn connect(
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> io::Result<TcpStream> {
    let attempt = |address| async move {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    };
    let attempts = addresses
        .into_iter()
        .map(|address| attempt(address).boxed());
    let stream = first(attempts.collect()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether something takes connections at an address. It waits for the answer, and is not for
/// asynchronous code that does much else.
pub(crate) fn answers(address: SocketAddr, within: Duration) -> bool {
    std::net::TcpStream::connect_timeout(&address, within).is_ok()
}

//! Tells systemd the state of the server, as in sd_notify(3).

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

/// Sends a state like `READY=1` to the service manager; without `NOTIFY_SOCKET`, to nobody.
pub fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    if let Err(e) = send(&socket, state) {
        warn!("cannot tell systemd {state} at NOTIFY_SOCKET {socket:?}: {e}");
    }
}

/// Says that the settings are being read again, until `READY=1` says that they were.
pub fn tell_reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = now.tv_sec.saturating_mul(1_000_000) + now.tv_nsec / 1_000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

// The crate `sd-notify` mistakes an abstract socket for a path.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    // A listener that does not listen must not delay files.
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

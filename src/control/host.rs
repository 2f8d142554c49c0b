//! The side of the server: who may connect, and for how long.

use std::{convert::Infallible, fs, io, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    answer::{self, Turned},
    console::Console,
    path,
};
use crate::{
    error::{Code, Error},
    root::Root,
};

/// Programs that are answered at the same time. Those that hold a slot are not among them.
const PROGRAMS: usize = 256;

/// Programs that hear at the same time why they are not answered; further ones hear nothing.
const TURNED: usize = 64;

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(5);

/// How long a request may take as a whole, from the connection to the last byte of its answer.
const WHOLE: Duration = Duration::from_secs(20);

/// The same for one that is turned away.
const BRIEF: Duration = Duration::from_secs(1);

/// Bytes of the head of a request; hyper accepts no less.
const MAX_HEAD: usize = 8_192;

/// A socket that programs can connect to. There must be no other server.
pub struct Control {
    listener: UnixListener,
    root: Root,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(path(self.root.dir()));
    }
}

impl Control {
    /// Listens.
    pub fn bind(root: &Root) -> Result<Self, Error> {
        let bound = || {
            let path = path(root.dir());
            // One that a killed server left.
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = bound().map_err(|e| {
            let root = root.path().display();
            Error::new(
                Code::Failed,
                format!("cannot listen on {root}/control.sock: {e}"),
            )
        })?;
        Ok(Self {
            listener,
            root: root.clone(),
        })
    }

    /// Answers until it is dropped.
    pub async fn run(&self, console: Arc<dyn Console>) {
        let room = Arc::new(Semaphore::new(PROGRAMS));
        let turned = Arc::new(Semaphore::new(TURNED));
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of descriptors, mostly: those that are answered will free some.
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let why = match may_ask(&stream) {
                false => Turned::Stranger,
                true => match room.clone().try_acquire_owned() {
                    Ok(place) => {
                        let console = console.clone();
                        tokio::spawn(async move {
                            serve(stream, console).await;
                            drop(place);
                        });
                        continue;
                    }
                    Err(_) => Turned::Busy,
                },
            };
            if let Ok(place) = turned.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    turn_away(stream, why).await;
                    drop(place);
                });
            }
        }
    }
}

/// Bytes that wait in a connection, at most: as many as in a pipe to a viewer.
const SEND_BUFFER: usize = 1 << 20;

/// Whether whoever connected is the user that the server runs as, or root.
fn may_ask(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let peer = stream.peer_cred();
    peer.is_ok_and(|peer| [own, 0].contains(&peer.uid()))
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.keep_alive(false)
        .half_close(true)
        .max_buf_size(MAX_HEAD)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD);
    http
}

/// Answers one request. A connection that becomes that of a slot goes on by itself.
async fn serve(stream: UnixStream, console: Arc<dyn Console>) {
    // A stream goes on while its viewer is not running; the system may allow less.
    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    let service = service_fn(move |request: Request<Incoming>| {
        let console = console.clone();
        async move { Ok::<_, Infallible>(answer::answer(request, console).await) }
    });
    let serving = http().serve_connection(TokioIo::new(stream), service);
    match timeout(WHOLE, serving.with_upgrades()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a program at control.sock: {error}"),
        Err(_) => debug!("a program at control.sock took too long"),
    }
}

/// Says why nothing is answered.
async fn turn_away(stream: UnixStream, why: Turned) {
    let service =
        service_fn(
            move |_: Request<Incoming>| async move { Ok::<_, Infallible>(answer::turned(why)) },
        );
    let serving = http().serve_connection(TokioIo::new(stream), service);
    let _ = timeout(BRIEF, serving).await;
}

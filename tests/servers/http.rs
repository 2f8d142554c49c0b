//! An HTTP server that notes what it is sent and answers as it is told.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Heard {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub struct Http {
    pub address: SocketAddr,
    heard: Arc<watch::Sender<Vec<Heard>>>,
    connections: Arc<AtomicUsize>,
}

impl Http {
    pub async fn start(answer: Response<Bytes>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            heard: Arc::default(),
            connections: Arc::default(),
        };
        let (heard, connections) = (server.heard.clone(), server.connections.clone());
        let (head, body) = answer.into_parts();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (heard, head, body, tls) =
                    (heard.clone(), head.clone(), body.clone(), tls.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (heard, head, body) = (heard.clone(), head.clone(), body.clone());
                    async move {
                        let (asked, sent) = request.into_parts();
                        let sent = sent.collect().await.unwrap().to_bytes();
                        let one = Heard {
                            method: asked.method.to_string(),
                            path: asked.uri.to_string(),
                            headers: asked.headers,
                            body: sent,
                        };
                        heard.send_modify(|heard| heard.push(one));
                        Ok::<_, Infallible>(Response::from_parts(head, Full::new(body)))
                    }
                });
                tokio::spawn(async move {
                    let server = http1::Builder::new();
                    // A client that goes away is none of the server's business.
                    if let Some(tls) = tls {
                        let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else {
                            return;
                        };
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    } else {
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        server
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.borrow().clone()
    }

    /// Waits until what was heard is so.
    pub async fn until(&self, mut is: impl FnMut(&[Heard]) -> bool) {
        let mut heard = self.heard.subscribe();
        heard.wait_for(|heard| is(heard)).await.unwrap();
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

//! HTTP/1.1 requests to object stores, over connections that are kept and used again.

use std::{
    fmt, io,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, future::BoxFuture};
use http_body_util::BodyExt;
use hyper::{Method, Uri};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
        HttpResponse, HttpResponseBody, HttpService,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use tower_service::Service;

use super::SLOWEST;
use crate::transport::{
    resolve::{connect, look_up},
    tls::Trust,
};

/// How long a server may take until its answer begins, apart from the time that the bytes of the
/// request take.
const ANSWER: Duration = Duration::from_secs(30);

/// The same where the server has to copy something first, or to put parts together.
const WORK: Duration = Duration::from_secs(300);

/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(20);

/// Connections without requests that are kept to one server.
const KEPT: usize = 16;

/// Makes the client of a bucket.
#[derive(Clone)]
pub struct Connector {
    /// Whom https trusts; `None` if this machine has no TLS.
    trust: Option<Trust>,
    /// The one host that may be asked without TLS, besides those of this machine and its network
    /// card, where credentials come from.
    plain: Option<String>,
}

impl Connector {
    /// A connector that trusts these authorities, and speaks without TLS to this host only.
    pub fn new(trust: Option<Trust>, plain: Option<String>) -> Self {
        Self { trust, plain }
    }

    fn may_be_plain(&self, host: &str) -> bool {
        let is_near = |address: IpAddr| match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_loopback(),
            IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
        };
        self.plain.as_deref() == Some(host) || host.parse().is_ok_and(is_near)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(KEPT)
            .pool_timer(TokioTimer::new())
            .build(self.clone());
        Ok(HttpClient::new(Requests(client)))
    }
}

/// A connection, plain or with TLS.
pub struct Stream(Box<dyn Io>);

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        async move {
            let is_secure = uri.scheme_str() == Some("https");
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            if !is_secure && !this.may_be_plain(host) {
                let sentence = format!("{host} would be asked without TLS");
                return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
            }
            let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
            let stream = connect(look_up(host, port).await?).await?;
            let stream: Box<dyn Io> = match (is_secure, this.trust) {
                (false, _) => Box::new(stream),
                (true, Some(trust)) => Box::new(trust.secure(host, stream).await?),
                (true, None) => return Err(io::ErrorKind::Unsupported.into()),
            };
            Ok(TokioIo::new(Stream(stream)))
        }
        .boxed()
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Whether the answer of a request comes only when the server has moved bytes itself.
fn makes_server_work(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.headers().contains_key("x-amz-copy-source")
        || request.method() == Method::POST && query.contains("uploadId")
}

/// Sends requests.
#[derive(Debug)]
struct Requests(Client<Connector, HttpRequestBody>);

#[async_trait]
impl HttpService for Requests {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let len = request.body().content_length() as u64;
        let answer = match makes_server_work(&request) {
            true => WORK,
            false => ANSWER,
        };
        let patience = answer + Duration::from_secs(len / SLOWEST);
        let answer = match timeout(patience, self.0.request(request)).await {
            Ok(answer) => answer.map_err(|e| {
                let kind = match e.is_connect() {
                    true => HttpErrorKind::Connect,
                    false => HttpErrorKind::Interrupted,
                };
                HttpError::new(kind, e)
            })?,
            Err(_) => {
                let sentence = format!("no answer within {} s", patience.as_secs());
                let late = io::Error::new(io::ErrorKind::TimedOut, sentence);
                return Err(HttpError::new(HttpErrorKind::Timeout, late));
            }
        };
        let (head, body) = answer.into_parts();
        let broken = |e| HttpError::new(HttpErrorKind::Interrupted, e);
        let body = HttpResponseBody::new(body.map_err(broken));
        Ok(HttpResponse::from_parts(head, body))
    }
}

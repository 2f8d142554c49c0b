//! Requests to web servers (RFC 9110), over HTTP/1.1 on a connection of their own.

use std::{
    error::Error as _,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use url::{Position, Url};

use super::SetupError;
use crate::{
    error::printable,
    root::settings::{self, live::Live},
    transport::{
        resolve::{connect, look_up},
        tls::Trust,
    },
};

/// The longest body of an answer, in bytes.
pub const MAX_BODY: usize = 65_536;

/// How m2y names itself.
pub(super) const USER_AGENT: &str = concat!("m2y/", env!("CARGO_PKG_VERSION"));

/// Headers that say how a request is sent, which is not for a script to decide.
const OWN_HEADERS: [HeaderName; 6] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
];

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What is to be done.
    pub method: Method,
    /// To which address.
    pub url: String,
    /// Names and values of headers.
    pub headers: Vec<(String, String)>,
    /// What goes with it.
    pub body: Bytes,
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The status code.
    pub status: u16,
    /// The media type that the answer names, as in `text/plain; charset=utf-8`; empty if none.
    pub media_type: String,
    /// Its body, at most [`MAX_BODY`] bytes.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The URL is not one of a web server.
    #[error("the URL {0}")]
    Url(String),
    /// The administrator has not allowed it.
    #[error(
        "requests may not go to {host}: if they should, put {host} behind `allow =` under [webhook] in m2y.ini"
    )]
    Forbidden {
        /// The host, and the port if it is not the usual one.
        host: String,
    },
    /// The name resolves into a network that only this machine reaches.
    #[error(
        "{host} leads to {address}, which is not a public address: to allow it, add {address} to `allow =` under [webhook] in m2y.ini"
    )]
    Private {
        /// The name.
        host: String,
        /// The address that it resolves to, as the list of m2y.ini would need it.
        address: String,
    },
    /// A header that cannot be sent.
    #[error("{0} cannot be a header of the request")]
    Header(String),
    /// The server cannot be reached, or its answer cannot be read.
    #[error("cannot ask {host}: {source}")]
    Unreachable {
        /// The host.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// It took too long.
    #[error("{host} did not answer within {deadline:?}")]
    Late {
        /// The host.
        host: String,
        /// The time that it had.
        deadline: Duration,
    },
    /// The answer is too long.
    #[error("{host} answered with more than {MAX_BODY} bytes")]
    Long {
        /// The host.
        host: String,
    },
}

/// Asks servers that m2y.ini allows.
#[derive(Clone)]
pub struct Client(Live<Rules>);

/// What may be asked, and who is trusted.
#[derive(Clone)]
struct Rules {
    settings: settings::Webhook,
    /// Whom https trusts; `None` if nothing may be asked anyway, so that m2y still runs on a
    /// machine without TLS.
    trust: Option<Trust>,
}

impl Client {
    /// Takes the settings and reads the certificates that they name; a relative path
    /// starts at `base`, the root.
    pub fn new(settings: &settings::Webhook, base: &Path) -> Result<Self, SetupError> {
        Ok(Self(Live::new(Rules::new(settings, base)?)))
    }

    /// Asks what `other` may ask, from now on, and so do all clones.
    pub fn become_like(&self, other: &Self) {
        self.0.replace(Rules::clone(&other.0.now()));
    }

    /// The settings.
    pub(super) fn settings(&self) -> settings::Webhook {
        self.0.now().settings.clone()
    }

    /// Asks once, and reads the whole answer. Redirects are not followed: their targets were not
    /// allowed.
    pub async fn ask(&self, asked: &Asked, deadline: Duration) -> Result<Answered, RequestError> {
        let target = Target::new(&asked.url).map_err(RequestError::Url)?;
        let request = target.request(asked)?;
        let host = || printable(&target.authority, 300);
        if !self.0.now().settings.allows(&target.host, target.port) {
            return Err(RequestError::Forbidden {
                host: target.line(),
            });
        }
        let answering = async {
            let addresses = target.addresses().await?;
            let mut hidden = addresses.iter().map(SocketAddr::ip);
            if let Some(address) = hidden.find(|to| !self.may_reach(*to, target.port)) {
                return Ok(Err(RequestError::Private {
                    host: host(),
                    address: line_of(&written(address), target.port),
                }));
            }
            // To those that were checked: if looked up again, a name may lead elsewhere.
            let (head, answer) = self.exchange(&target, addresses, request).await?;
            let body = answer.read(MAX_BODY).await?;
            Ok(body.map_or_else(
                || Err(RequestError::Long { host: host() }),
                |body| {
                    let media_type = head.1.get(header::CONTENT_TYPE);
                    let media_type = media_type.and_then(|value| value.to_str().ok());
                    Ok(Answered {
                        status: head.0.as_u16(),
                        media_type: media_type.unwrap_or_default().to_owned(),
                        body,
                    })
                },
            ))
        };
        match timeout_at(Instant::now() + deadline, answering).await {
            Ok(answered) => answered.unwrap_or_else(|source: io::Error| {
                Err(RequestError::Unreachable {
                    host: host(),
                    source,
                })
            }),
            Err(_) => Err(RequestError::Late {
                host: host(),
                deadline,
            }),
        }
    }

    /// Whether requests may go to an address: a public one, or one that is listed itself.
    fn may_reach(&self, address: IpAddr, port: u16) -> bool {
        is_public(address) || self.0.now().settings.allows(&written(address), port)
    }

    /// Sends a request to the first of these addresses that answers, and waits until the
    /// answer begins.
    pub(super) async fn exchange(
        &self,
        target: &Target,
        addresses: Vec<SocketAddr>,
        request: Request<Full<Bytes>>,
    ) -> io::Result<((StatusCode, HeaderMap), Answer)> {
        let stream = connect(addresses).await?;
        if !target.secure {
            return exchange(stream, request).await;
        }
        let rules = self.0.now();
        let trust = rules.trust.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let stream = trust.secure(target.bare_host(), stream).await?;
        exchange(stream, request).await
    }
}

impl Rules {
    fn new(settings: &settings::Webhook, base: &Path) -> Result<Self, SetupError> {
        let trust = if settings.allow.is_empty() {
            None
        } else {
            Some(Trust::load(settings.ca_file.as_ref(), base)?)
        };
        Ok(Self {
            settings: settings.clone(),
            trust,
        })
    }
}

/// What a URL says.
pub(super) struct Target {
    secure: bool,
    /// As it stands in a URL: an IPv6 address has brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The host, and the port if it is not the usual one.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
}

impl Target {
    /// Reads a URL; says what is wrong with it, and does not repeat it, since it may be secret.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let url =
            Url::parse(text).map_err(|e| format!("is not a URL ({e}): write https://host/path"))?;
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("must begin with https:// or http://".to_owned()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must hold no user name and no password before the host".to_owned());
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err("names no host".to_owned());
        };
        Ok(Self {
            secure,
            host: host.to_owned(),
            port,
            authority: url[Position::BeforeHost..Position::AfterPort].to_owned(),
            path: url[Position::BeforePath..Position::AfterQuery].to_owned(),
        })
    }

    /// Where it leads: at least one address.
    pub(super) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        look_up(self.bare_host(), self.port).await
    }

    /// As a resolver and a certificate know it.
    fn bare_host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// What the list of m2y.ini would need.
    pub(super) fn line(&self) -> String {
        line_of(&self.host, self.port)
    }

    fn request(&self, asked: &Asked) -> Result<Request<Full<Bytes>>, RequestError> {
        let mut request = Request::builder()
            .method(asked.method.clone())
            .uri(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::CONNECTION, "close");
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        for (name, value) in &asked.headers {
            let wrong = || RequestError::Header(format!("{:?}", printable(name, 80)));
            let header = HeaderName::try_from(name).map_err(|_| wrong())?;
            let value = HeaderValue::try_from(value).map_err(|_| wrong())?;
            if OWN_HEADERS.contains(&header) {
                return Err(wrong());
            }
            headers.insert(header, value);
        }
        if let Some(all) = request.headers_mut() {
            all.extend(headers);
        }
        request
            .body(Full::new(asked.body.clone()))
            .map_err(|_| RequestError::Url("holds what none can".to_owned()))
    }
}

/// What the list of m2y.ini needs for a host and a port.
fn line_of(host: &str, port: u16) -> String {
    match port {
        80 | 443 => printable(host, 300),
        _ => printable(&format!("{host}:{port}"), 300),
    }
}

/// An address as a URL writes it.
fn written(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => url::Host::<&str>::Ipv6(v6).to_string(),
    }
}

/// The rest of an answer.
pub(super) struct Answer {
    body: Incoming,
    /// Moves its bytes, and ends with it.
    _connection: JoinSet<()>,
}

impl Answer {
    /// Its bytes; `None` if there are more than `most`.
    async fn read(mut self, most: usize) -> io::Result<Option<Bytes>> {
        let mut read = Vec::new();
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(with_cause)?;
            let bytes = frame.data_ref().map_or(&[][..], |bytes| bytes);
            if read.len().saturating_add(bytes.len()) > most {
                return Ok(None);
            }
            read.extend_from_slice(bytes);
        }
        Ok(Some(read.into()))
    }

    /// Reads and drops it, up to a length.
    pub(super) async fn drain(self) {
        let _ = self.read(MAX_BODY).await;
    }
}

/// Sends a request and waits until the answer begins.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> io::Result<((StatusCode, HeaderMap), Answer)> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_BODY)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(with_cause)?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // An error reaches the caller through the answer.
        let _ = connection.await;
    });
    let (head, body) = sender
        .send_request(request)
        .await
        .map_err(with_cause)?
        .into_parts();
    let answer = Answer {
        body,
        _connection: driver,
    };
    Ok(((head.status, head.headers), answer))
}

/// The library's errors name what failed, and their cause why.
fn with_cause(error: hyper::Error) -> io::Error {
    io::Error::other(match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

/// Whether an address is reached over the public internet, according to the special-purpose
/// registries of IANA (RFC 6890 and what came after it).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !matches!(
                (a, b, c),
                (0 | 10 | 127 | 224.., ..)
                    | (100, 64..=127, _)
                    | (169, 254, _)
                    | (172, 16..=31, _)
                    | (192, 0, 0 | 2)
                    | (192, 88, 99)
                    | (192, 168, _)
                    | (198, 18 | 19, _)
                    | (198, 51, 100)
                    | (203, 0, 113)
            )
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            let [.., w, x, y, z] = v6.octets();
            match (a, b) {
                // They carry an IPv4 address: at their end, or after their first part.
                (0, 0) => v6
                    .to_ipv4_mapped()
                    .is_some_and(|v4| is_public(IpAddr::V4(v4))),
                (0x64, 0xff9b) => c == 0 && is_public(IpAddr::from([w, x, y, z])),
                (0x2002, _) => {
                    let ([w, x], [y, z]) = (b.to_be_bytes(), c.to_be_bytes());
                    is_public(IpAddr::from([w, x, y, z]))
                }
                (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => false,
                (0x2000..=0x3fff, _) => true,
                _ => false,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_list_admits_an_address_as_an_error_tells_it() {
        for (address, port) in [
            ("10.0.0.7", 8080),
            ("10.0.0.7", 443),
            ("fd12::1", 443),
            ("fd12::1", 8080),
            ("::ffff:10.0.0.1", 9),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let list = line_of(&written(address), port);
            let mut settings = settings::Webhook::default();
            settings.allow.push(list.parse().unwrap());
            assert!(settings.allows(&written(address), port), "{list}");
        }
    }

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for text in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "192.0.1.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2a00::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.9.10",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::808:808",
            "2002:7f00:1::1",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
            "3fff::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }
}

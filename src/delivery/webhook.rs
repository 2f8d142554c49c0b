//! Webhooks: a JSON document, posted to a host that m2y.ini allows.

use std::{error::Error as _, io, path::Path, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use url::{Position, Url};

use super::{DeliveryError, DeliveryId, SetupError, connection::connect, tls::Trust};
use crate::{
    error::printable,
    json::{self, Map, Value},
    root::settings,
};

/// The longest answer that is read, in bytes: what it says does not matter.
const MAX_ANSWER: usize = 65_536;

/// The longest pause that a server can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(86_400);

/// How m2y names itself.
const USER_AGENT: &str = concat!("m2y/", env!("CARGO_PKG_VERSION"));

/// Posts webhooks.
#[derive(Clone)]
pub struct Webhook {
    settings: settings::Webhook,
    /// Whom https trusts; nobody where nothing may be posted anyway, so that a machine
    /// without TLS is one that m2y still runs on.
    trust: Option<Trust>,
}

impl Webhook {
    /// Takes the settings and reads the certificates that they name; a relative path
    /// starts at `base`, the root.
    pub fn new(settings: &settings::Webhook, base: &Path) -> Result<Self, SetupError> {
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

    /// Makes one attempt to post a document.
    pub async fn post(
        &self,
        url: &str,
        body: &Map<String, Value>,
        id: DeliveryId,
    ) -> Result<(), DeliveryError> {
        let target = Target::new(url)?;
        if !self.settings.allows(&target.host, target.port) {
            let (name, line) = (printable(&target.authority, 300), target.line());
            return Err(DeliveryError::permanent(format!(
                "webhooks may not go to {name}: if they should, put {line} behind `allow =` under [webhook] in m2y.ini"
            )));
        }
        let request = target.request(body, id)?;
        let until = Instant::now() + self.settings.deadline;
        let answered = timeout_at(until, self.attempt(&target, request)).await;
        let (status, headers, rest) = match answered {
            Ok(answer) => answer.map_err(|e| target.unreachable(&e))?,
            Err(_) => {
                return Err(DeliveryError::late(
                    &target.authority,
                    self.settings.deadline,
                ));
            }
        };
        // What is read is dropped, and a server that never ends has said enough.
        let _ = timeout_at(until, rest.drain()).await;
        judge(&target.authority, status, &headers)
    }

    async fn attempt(
        &self,
        target: &Target,
        request: Request<Full<Bytes>>,
    ) -> io::Result<(StatusCode, HeaderMap, Answer)> {
        let stream = connect(target.bare_host(), target.port, false).await?;
        if !target.secure {
            return exchange(stream, request).await;
        }
        let trust = self.trust.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let stream = trust.secure(target.bare_host(), stream).await?;
        exchange(stream, request).await
    }
}

/// What a URL says.
struct Target {
    secure: bool,
    /// As it stands in a URL: an IPv6 address has brackets.
    host: String,
    port: u16,
    /// The host, and the port where it is not the usual one.
    authority: String,
    /// Path and query.
    path: String,
}

impl Target {
    fn new(text: &str) -> Result<Self, DeliveryError> {
        // The URL may be secret, and so it is not repeated.
        let bad = |why: &str| DeliveryError::permanent(format!("the URL of the webhook {why}"));
        let url = Url::parse(text)
            .map_err(|e| bad(&format!("is none ({e}): write https://host/path")))?;
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(bad("must begin with https:// or http://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad(
                "must hold no user name and no password before the host",
            ));
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(bad("names no host"));
        };
        Ok(Self {
            secure,
            host: host.to_owned(),
            port,
            authority: url[Position::BeforeHost..Position::AfterPort].to_owned(),
            path: url[Position::BeforePath..Position::AfterQuery].to_owned(),
        })
    }

    /// As a resolver and a certificate know it.
    fn bare_host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// What the list of m2y.ini would need.
    fn line(&self) -> String {
        if self.port == 80 || self.port == 443 {
            printable(&self.host, 300)
        } else {
            printable(&format!("{}:{}", self.host, self.port), 300)
        }
    }

    fn request(
        &self,
        body: &Map<String, Value>,
        id: DeliveryId,
    ) -> Result<Request<Full<Bytes>>, DeliveryError> {
        Request::post(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .header("idempotency-key", id.to_string())
            .body(Full::new(Bytes::from(json::canonical(body))))
            .map_err(|_| DeliveryError::permanent("the URL of the webhook holds what none can"))
    }

    fn unreachable(&self, error: &io::Error) -> DeliveryError {
        let why = printable(&error.to_string(), super::QUOTED);
        DeliveryError::transient(format!("cannot post to {}: {why}", self.authority))
    }
}

/// The rest of an answer.
struct Answer {
    body: Incoming,
    /// Moves its bytes, and ends with it.
    _connection: JoinSet<()>,
}

impl Answer {
    async fn drain(mut self) {
        let mut left = MAX_ANSWER;
        while let Some(Ok(frame)) = self.body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }
}

/// Sends a request and waits until the answer begins. What the answer says beyond that
/// matters to nobody, and least of all where it redirects to: that host was not allowed.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> io::Result<(StatusCode, HeaderMap, Answer)> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_ANSWER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(with_cause)?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Whoever waits for the answer hears of it.
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
    Ok((head.status, head.headers, answer))
}

/// The library's errors name what failed, and their cause why.
fn with_cause(error: hyper::Error) -> io::Error {
    io::Error::other(match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

/// What a status means for the next attempt.
fn judge(server: &str, status: StatusCode, headers: &HeaderMap) -> Result<(), DeliveryError> {
    if status.is_success() {
        return Ok(());
    }
    let answered = format!("{server} answered {}", status.as_u16());
    if status.is_redirection() {
        return Err(DeliveryError::permanent(format!(
            "{answered}, a redirect, and m2y follows none: post to the address that it leads to"
        )));
    }
    let later = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    if !later {
        return Err(DeliveryError::permanent(format!(
            "{answered}: look at the URL and at what is posted"
        )));
    }
    Err(DeliveryError {
        retry_after: headers
            .get(header::RETRY_AFTER)
            .and_then(|value| pause(value.to_str().ok()?, Timestamp::now())),
        ..DeliveryError::transient(format!("{answered}, try later"))
    })
}

/// Reads a Retry-After: seconds, or a date.
fn pause(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let pause = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number has are a long time.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let then = DateTimeParser::new().parse_timestamp(text).ok()?;
        Duration::try_from(then.duration_since(now)).unwrap_or_default()
    };
    Some(pause.min(MAX_PAUSE))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date_and_at_most_a_day() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("Sat, 06 Nov 2094 08:48:37 GMT", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(pause(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn statuses_say_whether_to_try_again() {
        for (status, permanent) in [
            (408, false),
            (425, false),
            (429, false),
            (500, false),
            (503, false),
            (301, true),
            (307, true),
            (400, true),
            (401, true),
            (404, true),
            (410, true),
        ] {
            let error = judge(
                "h",
                StatusCode::from_u16(status).unwrap(),
                &HeaderMap::new(),
            );
            assert_eq!(error.unwrap_err().permanent, permanent, "{status}");
        }
        for status in [200, 201, 202, 204] {
            assert!(
                judge(
                    "h",
                    StatusCode::from_u16(status).unwrap(),
                    &HeaderMap::new()
                )
                .is_ok()
            );
        }
    }
}

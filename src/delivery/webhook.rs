//! Webhooks: a JSON document, posted to a host that m2y.ini allows.

use std::{io, time::Duration};

use http_body_util::Full;
use hyper::{HeaderMap, Request, StatusCode, body::Bytes, header};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use tokio::time::{Instant, timeout_at};

use super::{
    DeliveryError, DeliveryId,
    http::{Client, Target, USER_AGENT},
};
use crate::{
    error::printable,
    json::{self, Map, Value},
};

/// The longest pause that a server can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(86_400);

/// Posts webhooks.
#[derive(Clone)]
pub struct Webhook(Client);

impl Webhook {
    /// Posts to the servers that a client may ask.
    pub fn new(client: &Client) -> Self {
        Self(client.clone())
    }

    /// Makes one attempt to post a document.
    pub async fn post(
        &self,
        url: &str,
        body: &Map<String, Value>,
        id: DeliveryId,
    ) -> Result<(), DeliveryError> {
        let wrong = |why: String| DeliveryError::permanent(format!("the URL of the webhook {why}"));
        let target = Target::new(url).map_err(wrong)?;
        let settings = self.0.settings();
        if !settings.allows(&target.host, target.port) {
            let (name, line) = (printable(&target.authority, 300), target.line());
            return Err(DeliveryError::permanent(format!(
                "webhooks may not go to {name}: if they should, put {line} behind `allow =` under [webhook] in m2y.ini"
            )));
        }
        let request = request(&target, body, id)?;
        let until = Instant::now() + settings.deadline;
        let asked = async {
            let addresses = target.addresses().await?;
            self.0.exchange(&target, addresses, request).await
        };
        let ((status, headers), rest) = match timeout_at(until, asked).await {
            Ok(answer) => answer.map_err(|e| unreachable(&target, &e))?,
            Err(_) => return Err(DeliveryError::late(&target.authority, settings.deadline)),
        };
        // What is read is dropped, and a server that never ends has said enough.
        let _ = timeout_at(until, rest.drain()).await;
        judge(&target.authority, status, &headers)
    }
}

fn request(
    target: &Target,
    body: &Map<String, Value>,
    id: DeliveryId,
) -> Result<Request<Full<Bytes>>, DeliveryError> {
    Request::post(&target.path)
        .header(header::HOST, &target.authority)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .header("idempotency-key", id.to_string())
        .body(Full::new(Bytes::from(json::canonical(body))))
        .map_err(|_| DeliveryError::permanent("the URL of the webhook holds what none can"))
}

fn unreachable(target: &Target, error: &io::Error) -> DeliveryError {
    let why = printable(&error.to_string(), super::QUOTED);
    DeliveryError::transient(format!("cannot post to {}: {why}", target.authority))
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
        // More digits than a number can have mean a long time.
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

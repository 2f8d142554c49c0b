//! Requests, and what is answered.

use std::{io, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE},
    upgrade::{OnUpgrade, Upgraded},
};

use super::{SLOT, VIEWER, console::Console, kept_slot, kept_viewer, object};
use crate::{
    error::{Code, Error},
    json::{self, Map, Value, canonical},
    relay::hub::Hub,
    root::{name::Name, settings::Change},
    transport::Address,
};

/// Bytes of the body of a request.
const MAX_BODY: usize = 65_536;

/// What there is.
const PATHS: [(&str, Method); 7] = [
    ("/v1/addresses", Method::GET),
    ("/v1/relay", Method::GET),
    ("/v1/reload", Method::POST),
    ("/v1/slot", Method::POST),
    ("/v1/status", Method::GET),
    ("/v1/stop", Method::POST),
    ("/v1/watch", Method::POST),
];

/// Why a program is not answered.
#[derive(Clone, Copy)]
pub(super) enum Turned {
    /// It runs as a different user.
    Stranger,
    /// There are too many.
    Busy,
}

type Answer = Response<Full<Bytes>>;

/// What is wrong with a request, or went wrong.
struct Fault(StatusCode, Error);

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let status = match error.code {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Later => StatusCode::SERVICE_UNAVAILABLE,
            Code::Refused | Code::Exists => StatusCode::CONFLICT,
            Code::Usage => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error)
    }
}

fn usage(status: StatusCode, sentence: impl Into<String>) -> Fault {
    Fault(status, Error::new(Code::Usage, sentence))
}

/// Answers a request.
pub(super) async fn answer(request: Request<Incoming>, console: Arc<dyn Console>) -> Answer {
    match answered(request, console).await {
        Ok(answer) => answer,
        Err(fault) => fault.answer(),
    }
}

/// Says why there is no answer.
pub(super) fn turned(why: Turned) -> Answer {
    let (status, code, sentence) = match why {
        Turned::Stranger => (
            StatusCode::FORBIDDEN,
            Code::Refused,
            "only the user that the server runs as may ask it",
        ),
        Turned::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            Code::Later,
            "the server is answering too many programs already: try again in some seconds",
        ),
    };
    Fault(status, Error::new(code, sentence)).answer()
}

impl Fault {
    fn answer(self) -> Answer {
        let Self(status, Error { code, sentence }) = self;
        let said = object([("error", sentence.into()), ("code", code.word().into())]);
        let mut answer = told(&said);
        *answer.status_mut() = status;
        answer
    }
}

fn told(said: &Map<String, Value>) -> Answer {
    let mut answer = Response::new(Full::from(canonical(said) + "\n"));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

async fn answered(
    mut request: Request<Incoming>,
    console: Arc<dyn Console>,
) -> Result<Answer, Fault> {
    let (path, method) = (request.uri().path().to_owned(), request.method().clone());
    let Some((_, right)) = PATHS.iter().find(|(known, _)| *known == path) else {
        let known: Vec<_> = PATHS.iter().map(|(path, _)| *path).collect();
        let sentence = format!("unknown path: use one of {}", known.join(", "));
        return Err(Fault(
            StatusCode::NOT_FOUND,
            Error::new(Code::NotFound, sentence),
        ));
    };
    if method != *right {
        let sentence = format!("{path} needs {right}");
        let mut answer = usage(StatusCode::METHOD_NOT_ALLOWED, sentence).answer();
        if let Ok(right) = HeaderValue::from_str(right.as_str()) {
            answer.headers_mut().insert(ALLOW, right);
        }
        return Ok(answer);
    }
    match path.as_str() {
        "/v1/addresses" => Ok(told(&object([("addresses", listed(console.addresses()))]))),
        "/v1/relay" => match console.hub() {
            Some(hub) => Ok(told(&present(hub))),
            None => {
                let sentence = "the running server is not a relay";
                Err(Fault(
                    StatusCode::NOT_FOUND,
                    Error::new(Code::Failed, sentence),
                ))
            }
        },
        "/v1/status" => Ok(told(&console.status().await?)),
        "/v1/reload" => {
            body(request).await?;
            Ok(told(&reloaded(&console.reload().await?)))
        }
        "/v1/stop" => {
            let asked = body(request).await?;
            let now = match asked.get("now") {
                None => false,
                Some(Value::Bool(now)) => *now,
                Some(_) => {
                    let sentence = "now must be true or false";
                    return Err(usage(StatusCode::BAD_REQUEST, sentence));
                }
            };
            console.stop(now)?;
            let mut answer = told(&object([("pid", std::process::id().into())]));
            *answer.status_mut() = StatusCode::ACCEPTED;
            Ok(answer)
        }
        "/v1/watch" => watch(request, console).await,
        _ => slot(&mut request, console),
    }
}

/// The object in the body of a request; an empty one, if the body is empty.
async fn body(request: Request<Incoming>) -> Result<Map<String, Value>, Fault> {
    let limited = Limited::new(request.into_body(), MAX_BODY);
    let read = limited.collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            let sentence = format!("the body has more than {MAX_BODY} bytes");
            return usage(StatusCode::PAYLOAD_TOO_LARGE, sentence);
        }
        let sentence = format!("the body cannot be read: {error}");
        usage(StatusCode::BAD_REQUEST, sentence)
    })?;
    let text = read.to_bytes();
    if text.is_empty() {
        return Ok(Map::new());
    }
    let parsed = json::parse(&text);
    parsed.map_err(|e| usage(StatusCode::BAD_REQUEST, format!("the body is {e}")))
}

/// Opens a slot, and lets the connection become that of its owner.
fn slot(request: &mut Request<Incoming>, console: Arc<dyn Console>) -> Result<Answer, Fault> {
    wants(request, SLOT)?;
    let opened = console.slots().open();
    let opened = opened.map_err(|e| Error::new(Code::Failed, e.to_string()))?;
    let slot = opened.ok_or_else(|| {
        let sentence = "the server has too many codes already: try again in some minutes";
        Error::new(Code::Later, sentence)
    })?;
    let upgrading = hyper::upgrade::on(request);
    let addresses = listed(console.addresses());
    let keep = move |upgraded| kept_slot::keep(slot, addresses, upgraded);
    Ok(switched(upgrading, SLOT, keep))
}

/// Lets the connection become that of a program which watches streams.
async fn watch(mut request: Request<Incoming>, console: Arc<dyn Console>) -> Result<Answer, Fault> {
    wants(&request, VIEWER)?;
    let upgrading = hyper::upgrade::on(&mut request);
    let asked = body(request).await?;
    let name = |field: &'static str| {
        let text = asked
            .get(field)
            .map(|name| name.as_str().unwrap_or_default());
        let name = text.map(Name::user).transpose();
        name.map_err(|e| usage(StatusCode::BAD_REQUEST, format!("{field}: {e}")))
    };
    let Some(user) = name("user")? else {
        let sentence = "user is missing: whose streams are to be watched";
        return Err(usage(StatusCode::BAD_REQUEST, sentence));
    };
    let viewer = console.viewers().wait(&user, name("from")?.as_ref());
    let viewer = viewer.ok_or_else(|| {
        let sentence = "too many programs wait for streams already";
        Error::new(Code::Later, sentence)
    })?;
    let keep = move |upgraded| kept_viewer::keep(viewer, upgraded);
    Ok(switched(upgrading, VIEWER, keep))
}

/// Fails unless the connection is to become this.
fn wants(request: &Request<Incoming>, protocol: &str) -> Result<(), Fault> {
    let wanted = request.headers().get(UPGRADE);
    if wanted.is_some_and(|wanted| wanted.as_bytes() == protocol.as_bytes()) {
        return Ok(());
    }
    let path = request.uri().path();
    let sentence = format!("{path} needs the headers Connection: upgrade and Upgrade: {protocol}");
    Err(usage(StatusCode::UPGRADE_REQUIRED, sentence))
}

/// Lets the connection become something else, which is kept from then on.
fn switched<F>(
    upgrading: OnUpgrade,
    protocol: &'static str,
    keep: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Answer
where
    F: Future<Output = io::Result<()>> + Send,
{
    tokio::spawn(async move {
        // The client may have disconnected.
        let upgraded = tokio::time::timeout(UPGRADED, upgrading).await;
        if let Ok(Ok(upgraded)) = upgraded {
            let _ = keep(upgraded).await;
        }
    });
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    answer
}

/// How long it may take until a connection has been upgraded.
const UPGRADED: Duration = Duration::from_secs(5);

fn listed(addresses: &[Address]) -> Value {
    let addresses = addresses.iter().map(|address| address.to_string().into());
    Value::Array(addresses.collect())
}

/// Who attends, by the hash of the name, and for how long.
fn present(hub: &Hub) -> Map<String, Value> {
    let (all, pairs) = hub.all();
    let one = |(hash, since): ([u8; 8], Duration)| {
        let fields = [
            ("hash", hex::encode(hash).into()),
            ("seconds", since.as_secs().into()),
        ];
        Value::Object(object(fields))
    };
    object([
        ("present", Value::Array(all.into_iter().map(one).collect())),
        ("pairs", pairs.into()),
    ])
}

/// What was taken over, and what was not.
fn reloaded(changes: &[Change]) -> Map<String, Value> {
    let keys = |needs_restart: bool| {
        let some = changes
            .iter()
            .filter(|change| change.needs_restart == needs_restart);
        Value::Array(some.map(|change| change.key.as_str().into()).collect())
    };
    object([("changed", keys(false)), ("needs_restart", keys(true))])
}

//! A question of a program, and its answer.

use std::{collections::HashMap, error, io, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE},
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

use super::path;
use crate::{
    error::{Code, Error, printable},
    json::{self, Map, Value, canonical},
    root::{Root, name::Name, settings::Change},
    transport::Address,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer, in bytes: it may list all members of a relay.
const MAX_ANSWER: usize = 64 << 20;

pub(super) fn failed(e: impl Into<Box<dyn error::Error + Send + Sync>>) -> Error {
    let sentence = format!("cannot ask the server, which is running: {}", e.into());
    Error::new(Code::Failed, sentence)
}

/// Sends a request to the server of a root and waits until its answer begins; `None` if none is
/// running.
async fn send(
    root: &Root,
    request: Request<Full<Bytes>>,
) -> Result<Option<Response<Incoming>>, Error> {
    let stream = match UnixStream::connect(path(root.dir())).await {
        Ok(stream) => stream,
        Err(e) if is_nobody(&e) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let sentence = "only the user that the server runs as may ask it";
            return Err(Error::new(Code::Refused, sentence));
        }
        Err(e) => return Err(failed(e)),
    };
    let asking = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, or with the connection that it becomes.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await
    };
    let answered = timeout(PATIENCE, asking).await;
    let answered = answered.map_err(|_| failed(io::Error::from(io::ErrorKind::TimedOut)))?;
    answered.map(Some).map_err(failed)
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn request(method: Method, path: &str) -> hyper::http::request::Builder {
    let request = Request::builder().method(method).uri(path);
    request.header(HOST, "localhost")
}

/// The object in an answer, or the error.
async fn read(answer: Response<Incoming>) -> Result<Map<String, Value>, Error> {
    let status = answer.status();
    let reading = Limited::new(answer.into_body(), MAX_ANSWER).collect();
    let read = timeout(PATIENCE, reading).await;
    let read = read.map_err(|_| failed(io::Error::from(io::ErrorKind::TimedOut)))?;
    let said = json::parse(&read.map_err(failed)?.to_bytes());
    if status.is_success() {
        return said.map_err(failed);
    }
    let said = said.unwrap_or_default();
    let word = |field: &str| said.get(field).and_then(Value::as_str);
    let code = Code::from_word(word("code").unwrap_or_default());
    Err(match word("error") {
        Some(sentence) => Error::new(code, printable(sentence, 1_000)),
        None => failed(format!("it answers with the status {status}")),
    })
}

async fn ask(
    root: &Root,
    method: Method,
    path: &str,
    body: Option<Map<String, Value>>,
) -> Result<Option<Map<String, Value>>, Error> {
    let mut head = request(method, path);
    if body.is_some() {
        head = head.header(CONTENT_TYPE, "application/json");
    }
    let body = body.map(|body| canonical(&body)).unwrap_or_default();
    let request = head.body(Full::from(body)).map_err(failed)?;
    match send(root, request).await? {
        Some(answer) => read(answer).await.map(Some),
        None => Ok(None),
    }
}

/// Asks for a connection that carries something else from then on.
pub(super) async fn upgrade(
    root: &Root,
    path: &str,
    protocol: &str,
    body: Option<Map<String, Value>>,
) -> Result<Option<hyper::upgrade::Upgraded>, Error> {
    let head = request(Method::POST, path);
    let head = head.header(CONNECTION, "upgrade").header(UPGRADE, protocol);
    let body = body.map(|body| canonical(&body)).unwrap_or_default();
    let request = head.body(Full::from(body)).map_err(failed)?;
    let Some(answer) = send(root, request).await? else {
        return Ok(None);
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let said = read(answer).await?;
        return Err(failed(format!("it answers {}", canonical(&said))));
    }
    let upgraded = hyper::upgrade::on(answer).await;
    upgraded.map(Some).map_err(failed)
}

/// Where the server of a root listens; `None` if none is running.
pub async fn addresses(root: &Root) -> Result<Option<Vec<Address>>, Error> {
    let said = ask(root, Method::GET, "/v1/addresses", None).await?;
    Ok(said.map(|said| listed(&said)))
}

/// The addresses in an answer.
pub(super) fn listed(said: &Map<String, Value>) -> Vec<Address> {
    let addresses = said.get("addresses").and_then(Value::as_array);
    let addresses = addresses.into_iter().flatten().filter_map(Value::as_str);
    addresses.filter_map(|text| text.parse().ok()).collect()
}

/// What goes on at the server of a root; `None` if none is running.
pub async fn status(root: &Root) -> Result<Option<Map<String, Value>>, Error> {
    ask(root, Method::GET, "/v1/status", None).await
}

/// Has the server of a root read m2y.ini again; returns what has changed, or `None` if none is
/// running.
pub async fn reload(root: &Root) -> Result<Option<Vec<Change>>, Error> {
    let Some(said) = ask(root, Method::POST, "/v1/reload", None).await? else {
        return Ok(None);
    };
    let keys = |field: &str, needs_restart: bool| -> Vec<Change> {
        let keys = said.get(field).and_then(Value::as_array);
        let keys = keys.into_iter().flatten().filter_map(Value::as_str);
        keys.map(|key| Change {
            key: key.to_owned(),
            needs_restart,
        })
        .collect()
    };
    let changes = [keys("changed", false), keys("needs_restart", true)];
    Ok(Some(changes.concat()))
}

/// Tells the server of a root to stop; `false` if none is running.
pub async fn stop(root: &Root, now: bool) -> Result<bool, Error> {
    let body = super::object([("now", now.into())]);
    let said = ask(root, Method::POST, "/v1/stop", Some(body)).await?;
    Ok(said.is_some())
}

/// Who attends at a relay.
pub struct Present {
    /// The hash of each member's name, in hexadecimal digits, and for how many seconds it has attended.
    pub members: HashMap<String, u64>,
    /// Pairs that are joined.
    pub pairs: u64,
}

impl Present {
    /// For how many seconds a member has attended, if it does.
    pub fn seconds_of(&self, member: &Name) -> Option<u64> {
        self.members.get(&hex::encode(member.hash())).copied()
    }
}

/// Who attends at the relay of a root; `None` if no server is running.
pub async fn relay(root: &Root) -> Result<Option<Present>, Error> {
    let Some(said) = ask(root, Method::GET, "/v1/relay", None).await? else {
        return Ok(None);
    };
    let all = said.get("present").and_then(Value::as_array);
    let one = |one: &Value| {
        let hash = one.get("hash")?.as_str()?.to_owned();
        Some((hash, one.get("seconds")?.as_u64()?))
    };
    Ok(Some(Present {
        members: all.into_iter().flatten().filter_map(one).collect(),
        pairs: said
            .get("pairs")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
    }))
}

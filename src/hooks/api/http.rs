//! `http`: asks web servers while a script runs, and waits for the answer.

use std::{sync::Arc, time::Duration};

use hyper::{Method, body::Bytes};
use rhai::{Dynamic, Engine, Map};
use sha2::{Digest, Sha256};

use super::{
    actions::Actions,
    folder::lines::{Lines, OpenFiles},
    function::{Function, Made, fail},
    json,
    value::from_dynamic,
};
use crate::{
    delivery::http::{Answered, Asked},
    error::printable,
    event::{Event, EventId, Kind},
    hooks::{call, engine::MAX_STRING, transaction::files::Text},
};

/// The time that a server has for its answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Requests that the scripts of one event can make.
const MAX_REQUESTS: usize = 8;

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 65_536;

/// Headers of one request.
const MAX_HEADERS: usize = 16;

/// Asks servers.
///
/// Calls come from several threads at once, and block until there is an answer.
pub trait Web: Send + Sync {
    /// The answer to a request or, in words, why there is none.
    fn ask(&self, asked: &Asked, deadline: Duration) -> Result<Answered, String>;
}

/// No server.
pub struct NoWeb;

impl Web for NoWeb {
    fn ask(&self, _: &Asked, _: Duration) -> Result<Answered, String> {
        Err("no web server can be asked here".to_owned())
    }
}

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "http",
        "http.get(url)",
        "Asks a server while the script waits, and returns its answer, of at most 64 KiB; see answer. Only hosts under [webhook] allow in m2y.ini are asked, and addresses that are not public only if they are listed too. A server has 5 seconds, the scripts of an event can make 8 requests, including those without an answer, and redirects are not followed. If there is no answer, it fails, which try and catch can handle.",
        r#"
let answer = http.get("https://example.org/holidays.json");
assert_eq(answer.status, 200);
if answer.json().closed { reject("we are closed"); }
"#,
    ),
    Function::new(
        "http",
        "http.get(url, headers)",
        "The same, with request headers as a map of texts.",
        r#"
let answer = http.get("https://example.org/holidays.json", #{ authorization: "Bearer 1234" });
assert_eq(answer.type, "application/json");
"#,
    ),
    Function::new(
        "http",
        "http.post(url, body)",
        "Posts a text, or a map or an array as JSON, while the script waits, and returns the answer as http.get() does. It is posted at once, whatever the hooks decide, and again when they run again; the header idempotency-key is then the same for the same text, unless you set it. If you need no answer, notify.webhook() is better: it is posted once the hooks have decided, and tried again if the server does not answer.",
        r#"
let answer = http.post("https://example.org/scan", #{ name: meta.filename });
if answer.status != 200 { throw "the scanner does not answer"; }
"#,
    ),
    Function::new(
        "http",
        "http.post(url, body, headers)",
        "The same, with request headers as a map of texts.",
        r#"
http.post("https://example.org/scan", "one line", #{ "content-type": "text/csv" });
"#,
    ),
    Function::new(
        "answer",
        "answer.status",
        "The status code of a server's answer, like 200 or 404.",
        r#"
let answer = http.get("https://example.org/holidays.json");
if answer.status != 200 { throw `the calendar answers ${answer.status}`; }
"#,
    ),
    Function::new(
        "answer",
        "answer.type",
        "The media type of a server's answer, with its parameters; empty if there is none.",
        r#"
let answer = http.get("https://example.org/holidays.json");
assert(answer.type.starts_with("application/json"));
"#,
    ),
    Function::new(
        "answer",
        "answer.text()",
        "A server's answer as text, of at most 8 KiB.",
        r#"
let answer = http.get("https://example.org/holidays.json");
assert(answer.text().contains("closed"));
"#,
    ),
    Function::new(
        "answer",
        "answer.lines()",
        "A server's answer line by line, as folder.lines() returns a file.",
        r#"
for line in http.get("https://example.org/holidays.json").lines() { log.info(line); }
"#,
    ),
    Function::new(
        "answer",
        "answer.json()",
        "The value of a server's JSON answer, as json.parse() returns it.",
        r#"
let answer = http.get("https://example.org/holidays.json");
assert_eq(answer.json().days[1], "2026-12-26");
"#,
    ),
    Function::new(
        "answer",
        "answer.json(pointer)",
        "A part of a server's JSON answer, by a JSON Pointer (RFC 6901) like /days/0; () if it is missing. For answers that are too large for one value.",
        r#"
let answer = http.get("https://example.org/holidays.json");
assert_eq(answer.json("/days/0"), "2026-12-25");
assert_eq(answer.json("/nights/0"), ());
"#,
    ),
];

/// What a server answered, in a script.
#[derive(Clone)]
pub struct Answer {
    status: u16,
    media_type: String,
    body: Arc<str>,
}

impl Answer {
    fn text(&mut self) -> Made<String> {
        match self.body.len() > MAX_STRING {
            true => Err(fail(format!(
                "answer.text(): the answer has {} bytes, and a text may have {MAX_STRING}: take lines() or json(pointer)",
                self.body.len()
            ))),
            false => Ok(self.body.to_string()),
        }
    }

    fn lines(&mut self) -> Made<Lines> {
        let text = Box::new(Text(self.body.clone()));
        Lines::new("answer.lines()", "the answer", text, &OpenFiles::default())
    }

    fn json(&mut self, pointer: &str) -> Made<Dynamic> {
        let call = "answer.json()";
        let document = json::read(call, &self.body)?;
        match document.pointer(pointer) {
            Some(part) => json::to_value(call, part.clone()),
            None => Ok(Dynamic::UNIT),
        }
    }
}

/// `http` in a script.
#[derive(Clone)]
pub struct Handle {
    /// The event, by which a server recognises a repeated request.
    event: (EventId, Kind),
    actions: Actions,
    web: Arc<dyn Web>,
}

impl Handle {
    pub(super) fn new(event: &Event, actions: &Actions, web: &Arc<dyn Web>) -> Self {
        Self {
            event: (event.id, event.kind),
            actions: actions.clone(),
            web: web.clone(),
        }
    }

    fn get(&mut self, url: &str, headers: &Map) -> Made<Answer> {
        let call = "http.get()";
        self.ask(
            call,
            Asked {
                method: Method::GET,
                url: url.to_owned(),
                headers: texts(call, headers)?,
                body: Bytes::new(),
            },
        )
    }

    fn post(&mut self, url: &str, body: &Dynamic, headers: &Map) -> Made<Answer> {
        let call = "http.post()";
        let mut headers = texts(call, headers)?;
        let (media_type, body) = match body.clone().into_string() {
            Ok(text) => ("text/plain; charset=utf-8", text),
            Err(_) => {
                let value = from_dynamic(body).map_err(|e| fail(format!("{call}: {e}")))?;
                ("application/json", value.to_string())
            }
        };
        if body.len() > MAX_BODY {
            return Err(fail(format!("{call}: the body may have {MAX_BODY} bytes")));
        }
        let has = |headers: &[(String, String)], wanted: &str| {
            headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(wanted))
        };
        if !has(&headers, "content-type") {
            headers.push(("content-type".to_owned(), media_type.to_owned()));
        }
        if !has(&headers, "idempotency-key") {
            // The same request of the event again, and no other one.
            let number = self.actions.transaction().requests.made();
            let said = Sha256::digest(format!("{url}\n{body}"));
            let said = said.get(..8).map(hex::encode).unwrap_or_default();
            let (id, kind) = &self.event;
            let key = format!("{id}-{kind}-{number}-{said}");
            headers.push(("idempotency-key".to_owned(), key));
        }
        self.actions
            .note(|| format!("http.post({url:?}, {:?})", printable(&body, 400)));
        self.ask(
            call,
            Asked {
                method: Method::POST,
                url: url.to_owned(),
                headers,
                body: body.into(),
            },
        )
    }

    fn ask(&self, call: &str, asked: Asked) -> Made<Answer> {
        let known = {
            let mut transaction = self.actions.transaction();
            if transaction.requests.made() >= MAX_REQUESTS {
                return Err(fail(format!(
                    "{call}: the scripts of one event can make {MAX_REQUESTS} requests"
                )));
            }
            transaction.requests.recall(&asked)
        };
        let answered = match known {
            Some(known) => known,
            None => call::wait(|left| {
                let answered = self.web.ask(&asked, left.min(DEADLINE));
                let mut transaction = self.actions.transaction();
                transaction.requests.remember(asked, answered.clone());
                Ok(answered)
            })?,
        };
        let answered = answered.map_err(|why| fail(format!("{call}: {why}")))?;
        let body = String::from_utf8(answered.body.into())
            .map_err(|_| fail(format!("{call}: the answer is not UTF-8 text")))?;
        Ok(Answer {
            status: answered.status,
            media_type: printable(&answered.media_type, 200),
            body: body.into(),
        })
    }
}

/// Headers, as a script names them.
fn texts(call: &str, headers: &Map) -> Made<Vec<(String, String)>> {
    if headers.len() > MAX_HEADERS {
        return Err(fail(format!(
            "{call}: a request may have {MAX_HEADERS} headers"
        )));
    }
    let text = |(name, value): (&rhai::Identifier, &Dynamic)| {
        let value = value.clone().into_string().map_err(|_| {
            fail(format!(
                "{call}: the headers must be a map of texts, and {name} is not one"
            ))
        })?;
        Ok((name.to_string(), value))
    };
    headers.iter().map(text).collect()
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Http")
        .register_fn("get", |http: &mut Handle, url: &str| {
            http.get(url, &Map::new())
        })
        .register_fn("get", |http: &mut Handle, url: &str, headers: Map| {
            http.get(url, &headers)
        })
        .register_fn("post", |http: &mut Handle, url: &str, body: Dynamic| {
            http.post(url, &body, &Map::new())
        })
        .register_fn(
            "post",
            |http: &mut Handle, url: &str, body: Dynamic, headers: Map| {
                http.post(url, &body, &headers)
            },
        );
    engine
        .register_type_with_name::<Answer>("Answer")
        .register_get("status", |answer: &mut Answer| i64::from(answer.status))
        .register_get("type", |answer: &mut Answer| answer.media_type.clone())
        .register_fn("text", Answer::text)
        .register_fn("lines", Answer::lines)
        .register_fn("json", |answer: &mut Answer| answer.json(""))
        .register_fn("json", Answer::json);
}

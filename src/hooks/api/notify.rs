//! `notify`: tells the user something.

use rhai::{Dynamic, Engine, Map};

use super::{
    actions::Actions,
    function::{Function, Made, fail, shown},
    value::from_dynamic,
};
use crate::{
    error::printable,
    event::{Effect, Event},
    hooks::transaction::MAX_LINES,
    json::Value,
    meta::datetime_now,
};

/// The longest address, in bytes (RFC 5321).
const MAX_ADDRESS: usize = 254;

/// The longest subject of an e-mail, in bytes.
const MAX_SUBJECT: usize = 500;

/// The longest text of an e-mail, in bytes.
const MAX_MAIL: usize = 4_096;

/// The longest URL, in bytes.
const MAX_URL: usize = 2_048;

/// The largest document for a web server, in bytes of its JSON.
const MAX_BODY: usize = 16_384;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "notify",
        "notify.inbox(text)",
        "Writes a line into the user's inbox.log, with the time and the id of the event; a full one becomes inbox.log.1.",
        r#"
notify.inbox(`${meta.from} sent ${meta.filename}`);
"#,
    ),
    Function::new(
        "notify",
        "notify.email(to, subject, text)",
        "Sends an e-mail, once the hooks of the event have decided. The subject is one line of at most 500 bytes, the text has at most 4,096.",
        r#"
let what = `${meta.from} sent ${meta.filename}`;
notify.email(user.email, text.one_line(what), "It lies in " + meta.folder);
"#,
    ),
    Function::new(
        "notify",
        "notify.webhook(url, map)",
        "Posts the map as JSON, at most 16 KiB, to an http or https URL, once the hooks of the event have decided.",
        r#"
notify.webhook("https://example.org/hook", #{ from: meta.from, size: meta.filesize });
"#,
    ),
];

/// `notify` in a script.
#[derive(Clone)]
pub struct Handle {
    /// The event, as it follows each line of the inbox.
    event: String,
    actions: Actions,
}

impl Handle {
    pub(super) fn new(event: &Event, actions: &Actions) -> Self {
        Self {
            event: format!("[{} {}]", event.kind, event.id),
            actions: actions.clone(),
        }
    }

    fn inbox(&mut self, text: &str) -> Made<()> {
        let (time, event) = (datetime_now(), &self.event);
        let line = format!("{time} {} {event}\n", printable(text, 1_000));
        if !self.actions.transaction().tell(line) {
            return Err(fail(format!(
                "notify.inbox(): the scripts of one event can write {MAX_LINES} lines"
            )));
        }
        self.actions.note(|| format!("notify.inbox({text:?})"));
        Ok(())
    }

    fn email(&mut self, to: &str, subject: &str, text: &str) -> Made<()> {
        let call = "notify.email()";
        if !is_address(to) {
            return Err(fail(format!(
                "{call}: {} is not an address like somebody@example.org",
                shown(to)
            )));
        }
        // A line break would begin another header of the e-mail.
        if subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control) {
            return Err(fail(format!(
                "{call}: the subject must be one line of at most {MAX_SUBJECT} bytes: text.one_line() makes it one"
            )));
        }
        if text.len() > MAX_MAIL || text.contains('\0') {
            return Err(fail(format!(
                "{call}: the text may have {MAX_MAIL} bytes, and no NUL"
            )));
        }
        self.actions.queue(Effect::Email {
            to: to.to_owned(),
            subject: subject.to_owned(),
            text: text.to_owned(),
        })
    }

    fn webhook(&mut self, url: &str, map: Map) -> Made<()> {
        let call = "notify.webhook()";
        is_url(url).map_err(|why| fail(format!("{call}: {} {why}", shown(url))))?;
        let body = from_dynamic(&Dynamic::from(map)).map_err(|e| fail(format!("{call}: {e}")))?;
        if body.to_string().len() > MAX_BODY {
            return Err(fail(format!(
                "{call}: the map may have {MAX_BODY} bytes as JSON"
            )));
        }
        match body {
            Value::Object(body) => self.actions.queue(Effect::Webhook {
                url: url.to_owned(),
                body,
            }),
            _ => Err(fail(format!("{call}: the second argument must be a map"))),
        }
    }
}

/// Whether mail can go there. What it may hold is narrow: the code that sends the mail puts it into
/// a header and into a command.
fn is_address(text: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"<>()[],;:\\\"".contains(c);
    let domain =
        |text: &str| text.split('.').all(|label| !label.is_empty()) && !text.starts_with('-');
    text.len() <= MAX_ADDRESS
        && text.chars().all(plain)
        && text.split_once('@').is_some_and(|(name, at)| {
            !name.is_empty() && !name.starts_with('-') && !at.contains('@') && domain(at)
        })
}

/// Says whether a text is a URL of a web server; why not, if it is not. Only forms that every
/// program reads in the same way pass.
fn is_url(text: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_graphic() && !"\\\"<>^`{|}".contains(c);
    if text.len() > MAX_URL || !text.chars().all(plain) {
        return Err("is not a URL: use printable ASCII characters, at most 2048");
    }
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or("is not a web address: begin it with https:// or http://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must not hold a name or a password before the host");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (address, port) = v6.split_once(']').ok_or("has no host")?;
            let known = address.parse::<std::net::Ipv6Addr>().is_ok();
            (if known { "v6" } else { "" }, port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || host.starts_with(['.', '-']) || !host.chars().all(of_host) {
        return Err("has no host");
    }
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    match port {
        Some(port) if !digits(port) || port.parse::<u16>().is_err() => Err("has no port"),
        None if authority.starts_with('[') && !authority.ends_with(']') => Err("has no port"),
        _ => Ok(()),
    }
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Notify")
        .register_fn("inbox", Handle::inbox)
        .register_fn("email", Handle::email)
        .register_fn("webhook", Handle::webhook);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_are_addresses() {
        for text in [
            "a@b",
            "roland.frei+x@mail.example.org",
            "müller@example.org",
        ] {
            assert!(is_address(text), "{text:?}");
        }
        for text in [
            "",
            "a",
            "@b",
            "a@",
            "a@b@c",
            "a b@c",
            "a@b\n",
            "a@b\r\nBcc: x@y",
            "a@b,c@d",
            "<a@b>",
            "-oX@b",
            "a@-b",
            "a@b..c",
            "a@.b",
            "a\0@b",
        ] {
            assert!(!is_address(text), "{text:?}");
        }
        assert!(!is_address(&format!("{}@b", "a".repeat(300))));
    }

    #[test]
    fn only_plain_urls_of_web_servers_are_urls() {
        for text in [
            "http://a",
            "https://example.org:8443/x?y=z#w",
            "http://[::1]:80/",
            "http://127.0.0.1/",
        ] {
            assert_eq!(is_url(text), Ok(()), "{text:?}");
        }
        for text in [
            "",
            "http://",
            "http:///x",
            "ftp://a",
            "file:///etc/passwd",
            "HTTP://a",
            "a.org",
            "http://user:pw@a/",
            "http://a@b",
            "http://a\\@b",
            "http://a b",
            "http://a\n",
            "http://[::1",
            "http://[x]/",
            "http://[::1]x",
            "http://a:b/",
            "http://a:99999/",
            "http://a:+80/",
            "http://a:/",
            "http://.a/",
            "javascript:alert(1)",
        ] {
            assert!(is_url(text).is_err(), "{text:?}");
        }
    }
}

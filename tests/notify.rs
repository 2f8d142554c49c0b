//! E-mails and webhooks reach real servers, and only those that they may reach.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod servers;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::Duration,
};

use hyper::{Response, body::Bytes};
use m2y::{
    delivery::{Client, DeliveryError, DeliveryId, Mailer, PASSWORD_VARIABLE, SetupError, Webhook},
    json::{self, Map, Value},
    root::settings::Settings,
};
use mail_parser::MessageParser;
use servers::{
    ANOTHER, AUTHORITY, authority_pem,
    http::Http,
    smtp::{Mail, PASSWORD, Smtp, USERNAME, Ways},
    tls,
};
use tempfile::TempDir;

const SUBJECT: &str =
    "Grüße aus Zürich: 3 Fotos für 振強 sind da, und der Betreff ist länger als eine Zeile";
const TEXT: &str =
    "Guten Tag,\n\nÄpfel, Öl und Übermut: 100 €.\n.\n..ein Punkt am Anfang\nEnde = Schluss\n";

fn id() -> DeliveryId {
    DeliveryId::new([0xab; 16], 3)
}

const ID: &str = "abababababababababababababababab-3";

/// Settings that stand in an m2y.ini, with files beside it.
struct World(TempDir);

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), authority_pem(AUTHORITY)).unwrap();
        fs::write(dir.path().join("other.pem"), authority_pem(ANOTHER)).unwrap();
        let world = Self(dir);
        world.password(PASSWORD, 0o600);
        world
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn password(&self, text: &str, mode: u32) {
        let path = self.path().join("password");
        let _ = fs::remove_file(&path);
        fs::write(&path, format!("{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mailer(&self, server: SocketAddr, lines: &str) -> Result<Mailer, SetupError> {
        let text = format!(
            "[smtp]\nhost = 127.0.0.1\nport = {}\nfrom = m2y <m2y@example.org>\n{lines}",
            server.port()
        );
        Mailer::new(&Settings::parse(&text).unwrap().smtp.unwrap(), self.path())
    }

    async fn mail(&self, server: SocketAddr, lines: &str) -> Result<(), DeliveryError> {
        let mailer = self.mailer(server, lines).unwrap();
        mailer.send("roland@example.org", SUBJECT, TEXT, id()).await
    }

    fn webhook(&self, lines: &str) -> Webhook {
        let settings = Settings::parse(&format!("[webhook]\n{lines}")).unwrap();
        Webhook::new(&Client::new(&settings.webhook, self.path()).unwrap())
    }

    async fn post(&self, server: &Http, url: &str) -> Result<(), DeliveryError> {
        let allow = format!("allow = 127.0.0.1:{}", server.address.port());
        self.webhook(&allow).post(url, &body(), id()).await
    }
}

fn body() -> Map<String, Value> {
    json::parse("{\"text\":\"Grüße\",\"n\":[1,2]}".as_bytes()).unwrap()
}

fn answer(status: u16) -> Response<Bytes> {
    Response::builder()
        .status(status)
        .body(Bytes::from("hello"))
        .unwrap()
}

fn url(server: &Http) -> String {
    format!("http://{}/hook?token=secret", server.address)
}

fn transient(result: Result<(), DeliveryError>, words: &str) -> DeliveryError {
    let error = result.unwrap_err();
    assert!(
        !error.permanent && error.sentence.contains(words),
        "{error:?}"
    );
    error
}

fn permanent(result: Result<(), DeliveryError>, words: &str) -> DeliveryError {
    let error = result.unwrap_err();
    assert!(
        error.permanent && error.sentence.contains(words),
        "{error:?}"
    );
    error
}

const PLAIN: &str = "security = none";

// E-mails.

fn headers(mail: &Mail) -> String {
    let text = String::from_utf8(mail.data.clone()).unwrap();
    text.split("\r\n\r\n").next().unwrap().to_owned()
}

#[tokio::test]
async fn umlauts_arrive_intact_in_subject_and_text() {
    let server = Smtp::start(Ways::default());
    World::new().mail(server.address, PLAIN).await.unwrap();
    let mail = &server.arrived()[0];
    assert_eq!(mail.from, "m2y@example.org");
    assert_eq!(mail.to, ["roland@example.org"]);
    assert!(mail.data.is_ascii());
    let message = MessageParser::default().parse(&mail.data).unwrap();
    assert_eq!(message.subject().unwrap(), SUBJECT);
    let text = message.body_text(0).unwrap().replace("\r\n", "\n");
    assert_eq!(text.trim_end(), TEXT.trim_end());
    let from = message.from().unwrap().first().unwrap();
    assert_eq!(
        (from.name(), from.address()),
        (Some("m2y"), Some("m2y@example.org"))
    );
}

#[tokio::test]
async fn an_email_says_that_a_machine_wrote_it_and_every_attempt_has_the_same_id() {
    let server = Smtp::start(Ways::default());
    let world = World::new();
    for _ in 0..2 {
        world.mail(server.address, PLAIN).await.unwrap();
    }
    for mail in server.arrived() {
        let headers = headers(&mail);
        for line in [
            &format!("Message-ID: <{ID}@example.org>"),
            "Auto-Submitted: auto-generated",
            "Content-Type: text/plain; charset=utf-8",
        ] {
            assert!(headers.lines().any(|l| l == line), "{line}\n{headers}");
        }
        let message = MessageParser::default().parse(&mail.data).unwrap();
        let age = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            .abs_diff(message.date().unwrap().to_timestamp().cast_unsigned());
        assert!(age < 300, "{headers}");
    }
}

#[tokio::test]
async fn a_subject_cannot_become_a_header_nor_a_text_a_command() {
    let server = Smtp::start(Ways::default());
    let mailer = World::new().mailer(server.address, PLAIN).unwrap();
    let subject = "x\r\nBcc: eve@example.org\r\n\r\nbody\u{0}\u{2028}ü\nBcc: eve@example.org";
    let text = "a\r\n.\r\nMAIL FROM:<eve@example.org>\n.\nb\r.\rc";
    mailer
        .send("roland@example.org", subject, text, id())
        .await
        .unwrap();
    let arrived = server.arrived();
    assert_eq!(arrived.len(), 1);
    let message = MessageParser::default().parse(&arrived[0].data).unwrap();
    assert!(message.bcc().is_none());
    assert!(
        message
            .subject()
            .unwrap()
            .starts_with("x  Bcc: eve@example.org")
    );
    assert!(
        message
            .body_text(0)
            .unwrap()
            .contains("MAIL FROM:<eve@example.org>")
    );
}

#[tokio::test]
async fn what_is_no_address_is_refused_before_connecting() {
    let nobody = free_port().await;
    let mailer = World::new().mailer(nobody, PLAIN).unwrap();
    for to in [
        "",
        "roland",
        "@example.org",
        "roland@",
        "a@example.org, b@example.org",
        "a@example.org\r\nRCPT TO:<b@example.org>",
        "Roland <a@example.org>",
        "\"a\r\nb\"@example.org",
        "a@exa mple.org",
    ] {
        permanent(
            mailer.send(to, "s", "t", id()).await,
            "is not an e-mail address",
        );
    }
}

#[tokio::test]
async fn a_domain_with_umlauts_is_written_so_that_every_server_knows_it() {
    let server = Smtp::start(Ways::default());
    let mailer = World::new().mailer(server.address, PLAIN).unwrap();
    mailer
        .send("info@müller.example", "s", "t", id())
        .await
        .unwrap();
    assert_eq!(server.arrived()[0].to, ["info@xn--mller-kva.example"]);
    // This server cannot do the same for the part before the '@'.
    permanent(
        mailer.send("müller@example.org", "s", "t", id()).await,
        "SMTPUTF8",
    );
}

#[test]
fn plain_text_to_another_machine_is_refused_at_the_start() {
    let text = "[smtp]\nhost = mail.example.org\nfrom = a@example.org\nsecurity = none";
    let error = Settings::parse(text).unwrap_err();
    assert!(error.contains("use starttls or tls"), "{error}");
    // Nor does a program get there that makes its settings itself.
    let text = "[smtp]\nhost = localhost\nfrom = a@example.org\nsecurity = none";
    let mut smtp = Settings::parse(text).unwrap().smtp.unwrap();
    smtp.host = "192.0.2.1".to_owned();
    let error = Mailer::new(&smtp, Path::new("/"))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("use starttls or tls"), "{error}");
}

#[tokio::test]
async fn starttls_and_tls_trust_an_authority_of_ones_own() {
    for (wrapped, security) in [(false, "starttls"), (true, "tls")] {
        let server = Smtp::start(Ways {
            tls: Some(tls(&["127.0.0.1"])),
            wrapped,
            ..Ways::default()
        });
        let lines = format!("security = {security}\nca_file = ca.pem");
        World::new().mail(server.address, &lines).await.unwrap();
        let mail = &server.arrived()[0];
        assert!(mail.secret);
        assert_eq!(mail.to, ["roland@example.org"]);
    }
}

#[tokio::test]
async fn a_server_without_a_good_certificate_gets_neither_login_nor_email() {
    for (hosts, ca, why) in [
        (&["127.0.0.1"][..], "other.pem", "invalid peer certificate"),
        (
            &["127.0.0.2", "mail.example.org"][..],
            "ca.pem",
            "not valid for name",
        ),
    ] {
        for (wrapped, security) in [(false, "starttls"), (true, "tls")] {
            let server = Smtp::start(Ways {
                tls: Some(tls(hosts)),
                wrapped,
                login: true,
                ..Ways::default()
            });
            let lines = format!(
                "security = {security}\nca_file = {ca}\nusername = {USERNAME}\npassword_file = password"
            );
            // An administrator can mend that; until then it waits.
            transient(World::new().mail(server.address, &lines).await, why);
            assert!(server.arrived().is_empty());
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_offer_starttls_gets_no_email() {
    let server = Smtp::start(Ways::default());
    let error = World::new().mail(server.address, "ca_file = ca.pem").await;
    transient(error, "STARTTLS");
    assert!(server.arrived().is_empty());
}

#[tokio::test]
async fn what_stands_in_plain_text_behind_starttls_is_not_believed() {
    let server = Smtp::start(Ways {
        tls: Some(tls(&["127.0.0.1"])),
        forged: Some("250 forged\r\n"),
        ..Ways::default()
    });
    let result = World::new().mail(server.address, "ca_file = ca.pem").await;
    transient(result, "does not begin TLS");
    assert!(server.arrived().is_empty());
}

#[tokio::test]
async fn the_password_logs_in() {
    let server = Smtp::start(Ways {
        tls: Some(tls(&["127.0.0.1"])),
        login: true,
        ..Ways::default()
    });
    let lines = format!("ca_file = ca.pem\nusername = {USERNAME}\npassword_file = password");
    World::new().mail(server.address, &lines).await.unwrap();
    let mail = &server.arrived()[0];
    assert!(mail.login && mail.secret);
}

#[tokio::test]
async fn a_wrong_password_waits_to_be_mended_and_is_not_repeated() {
    let server = Smtp::start(Ways {
        login: true,
        ..Ways::default()
    });
    let world = World::new();
    world.password("hunter2", 0o400);
    let lines = format!("{PLAIN}\nusername = {USERNAME}\npassword_file = password");
    let mailer = world.mailer(server.address, &lines).unwrap();
    let send = || mailer.send("roland@example.org", "s", "t", id());
    let error = transient(send().await, "refuses the login (535)");
    assert!(!error.sentence.contains("hunter2"), "{error}");
    assert!(server.arrived().is_empty());
    // The new one works without a restart.
    world.password(PASSWORD, 0o600);
    send().await.unwrap();
    assert_eq!(server.arrived().len(), 1);
}

#[tokio::test]
async fn a_password_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let world = World::new();
    let nobody = free_port().await;
    let lines = format!("{PLAIN}\nusername = {USERNAME}\npassword_file = password");
    let mailer = |lines: &str| world.mailer(nobody, lines).map(|_| ());
    for mode in [0o644, 0o640, 0o604] {
        world.password(PASSWORD, mode);
        let error = mailer(&lines).unwrap_err().to_string();
        assert!(error.contains("chmod 600 /"), "{error}");
        assert!(!error.contains(PASSWORD), "{error}");
    }
    for mode in [0o600, 0o400] {
        world.password(PASSWORD, mode);
        mailer(&lines).unwrap();
    }
    world.password("", 0o600);
    assert!(matches!(mailer(&lines), Err(SetupError::Password(_))));
    let missing = format!("{PLAIN}\nusername = {USERNAME}\npassword_file = none");
    assert!(matches!(mailer(&missing), Err(SetupError::Io { .. })));
    let without = format!("{PLAIN}\nusername = {USERNAME}");
    assert!(matches!(mailer(&without), Err(SetupError::NoPassword)));
}

/// Runs itself again with the variable: a process cannot safely change its own.
#[test]
fn the_variable_beats_the_file() {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "with_the_variable", "--ignored"])
        .env(PASSWORD_VARIABLE, PASSWORD)
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
#[ignore = "run by the_variable_beats_the_file"]
async fn with_the_variable() {
    if std::env::var_os(PASSWORD_VARIABLE).is_none() {
        return;
    }
    let server = Smtp::start(Ways {
        login: true,
        ..Ways::default()
    });
    let world = World::new();
    world.password("hunter2", 0o600);
    let lines = format!("{PLAIN}\nusername = {USERNAME}\npassword_file = password");
    world.mail(server.address, &lines).await.unwrap();
    assert!(server.arrived()[0].login);
}

#[tokio::test]
async fn a_server_that_is_busy_is_tried_again_and_a_mailbox_that_is_not_there_is_not() {
    let world = World::new();
    let busy = Smtp::start(Ways {
        greeting: Some("421 too busy"),
        ..Ways::default()
    });
    transient(world.mail(busy.address, PLAIN).await, "too busy");
    for (code, words, lasting) in [
        (550, "5.1.1 no such user", true),
        (451, "4.7.1 greylisted", false),
    ] {
        let server = Smtp::start(Ways {
            recipient: Some((code, words)),
            ..Ways::default()
        });
        let error = world.mail(server.address, PLAIN).await.unwrap_err();
        assert_eq!(error.permanent, lasting, "{error}");
        assert!(
            error.sentence.contains(&format!("{code} {words}")),
            "{error}"
        );
        assert!(server.arrived().is_empty());
    }
}

/// The address of a port on which nobody listens.
async fn free_port() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    listener.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again() {
    let world = World::new();
    let nobody = free_port().await;
    transient(world.mail(nobody, PLAIN).await, "refused");
    let webhook = world.webhook(&format!("allow = {nobody}"));
    let result = webhook
        .post(&format!("http://{nobody}/"), &body(), id())
        .await;
    transient(result, "refused");
}

#[tokio::test]
async fn a_server_that_never_speaks_ends_at_the_deadline() {
    let world = World::new();
    let silent = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let address = silent.local_addr().unwrap();
    for security in ["none", "starttls", "tls"] {
        let lines = format!("security = {security}\ndeadline = 300ms\nca_file = ca.pem");
        let result = world.mail(address, &lines).await;
        transient(result, "did not answer within 300ms");
    }
    let webhook = world.webhook(&format!("allow = {address}\ndeadline = 300ms"));
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{address}/");
        let result = webhook.post(&url, &body(), id()).await;
        transient(result, "did not answer within 300ms");
    }
}

#[tokio::test]
async fn an_email_that_arrived_counts_though_the_server_says_no_goodbye() {
    let server = Smtp::start(Ways {
        stays: true,
        ..Ways::default()
    });
    let lines = format!("{PLAIN}\ndeadline = 20s");
    World::new().mail(server.address, &lines).await.unwrap();
    assert_eq!(server.arrived().len(), 1);
}

#[tokio::test]
async fn a_server_that_never_stops_talking_is_left() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while std::io::Write::write_all(&mut stream, &[b'x'; 65_536]).is_ok() {}
    });
    let result = World::new().mail(address, PLAIN).await;
    transient(result, "says more than a server should");
}

// Webhooks.

#[tokio::test]
async fn a_webhook_is_posted_as_the_script_said() {
    let server = Http::start(answer(204), None).await;
    World::new().post(&server, &url(&server)).await.unwrap();
    let heard = &server.heard()[0];
    assert_eq!(
        (heard.method.as_str(), heard.path.as_str()),
        ("POST", "/hook?token=secret")
    );
    assert_eq!(json::parse(&heard.body).unwrap(), body());
    for (name, value) in [
        ("host", server.address.to_string()),
        ("content-type", "application/json".to_owned()),
        ("idempotency-key", ID.to_owned()),
        ("user-agent", format!("m2y/{}", env!("CARGO_PKG_VERSION"))),
        ("content-length", heard.body.len().to_string()),
    ] {
        assert_eq!(heard.headers[name], value.as_str(), "{name}");
    }
}

#[tokio::test]
async fn a_host_that_is_not_on_the_list_sees_no_connection() {
    let server = Http::start(answer(200), None).await;
    let world = World::new();
    let port = server.address.port();
    for list in [
        "",
        "allow = 127.0.0.1, example.org",
        "allow = localhost:1, 127.0.0.1:1",
    ] {
        let result = world.webhook(list).post(&url(&server), &body(), id()).await;
        let error = permanent(result, &format!("put 127.0.0.1:{port} behind `allow =`"));
        assert!(!error.sentence.contains("secret"), "{error}");
    }
    assert_eq!(server.connections(), 0);
    // The line that the error names is the one that helps, however the host is spelt.
    world.post(&server, &url(&server)).await.unwrap();
    let spelt = format!("http://0x7f.1:{port}/");
    world.post(&server, &spelt).await.unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_url_that_hides_its_host_or_is_none_is_refused() {
    let server = Http::start(answer(200), None).await;
    let world = World::new();
    let port = server.address.port();
    for url in [
        format!("http://allowed.example@127.0.0.1:{port}/"),
        format!("http://user:secret@127.0.0.1:{port}/"),
        format!("ftp://127.0.0.1:{port}/secret"),
        "file:///etc/secret".to_owned(),
        "http://".to_owned(),
        "secret".to_owned(),
    ] {
        let error = permanent(world.post(&server, &url).await, "the URL of the webhook");
        assert!(!error.sentence.contains("secret"), "{error}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Http::start(answer(200), None).await;
    for status in [301, 302, 303, 307, 308] {
        let mut redirect = answer(status);
        let location = format!("http://{}/", target.address).parse().unwrap();
        redirect.headers_mut().insert("location", location);
        let server = Http::start(redirect, None).await;
        let world = World::new();
        let allow = format!("allow = {}, {}", server.address, target.address);
        let result = world
            .webhook(&allow)
            .post(&url(&server), &body(), id())
            .await;
        permanent(result, &format!("answered {status}, a redirect"));
    }
    assert_eq!(target.connections(), 0);
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_again() {
    let world = World::new();
    for (status, header, expected) in [
        (503, Some("120"), Some(Duration::from_secs(120))),
        (429, Some("7"), Some(Duration::from_secs(7))),
        (500, None, None),
        (408, Some("whenever"), None),
    ] {
        let mut busy = answer(status);
        if let Some(header) = header {
            busy.headers_mut()
                .insert("retry-after", header.parse().unwrap());
        }
        let server = Http::start(busy, None).await;
        let error = transient(
            world.post(&server, &url(&server)).await,
            &format!("answered {status}"),
        );
        assert_eq!(error.retry_after, expected);
        assert!(!error.sentence.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_page_that_is_not_there_is_not_tried_again() {
    let server = Http::start(answer(404), None).await;
    let result = World::new().post(&server, &url(&server)).await;
    permanent(result, "answered 404");
}

#[tokio::test]
async fn a_huge_answer_does_no_harm() {
    let huge = Response::new(Bytes::from(vec![b'x'; 64 << 20]));
    let server = Http::start(huge, None).await;
    World::new().post(&server, &url(&server)).await.unwrap();
}

#[tokio::test]
async fn a_head_without_an_end_does_no_harm() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nx: ");
        while std::io::Write::write_all(&mut stream, &[b'x'; 65_536]).is_ok() {}
    });
    let webhook = World::new().webhook(&format!("allow = {address}"));
    let result = webhook
        .post(&format!("http://{address}/"), &body(), id())
        .await;
    transient(result, "cannot post to");
}

#[tokio::test]
async fn https_trusts_an_authority_of_ones_own_and_no_other() {
    let world = World::new();
    for (hosts, ca, why) in [
        (&["127.0.0.1", "localhost"][..], "ca.pem", None),
        (
            &["127.0.0.1"][..],
            "other.pem",
            Some("invalid peer certificate"),
        ),
        (&["example.org"][..], "ca.pem", Some("not valid for name")),
    ] {
        let server = Http::start(answer(200), Some(tls(hosts))).await;
        let lines = format!("allow = {}\nca_file = {ca}", server.address);
        let url = format!("https://{}/hook", server.address);
        let result = world.webhook(&lines).post(&url, &body(), id()).await;
        match why {
            None => {
                result.unwrap();
                assert_eq!(server.heard()[0].path, "/hook");
            }
            Some(why) => {
                transient(result, why);
                assert!(server.heard().is_empty());
            }
        }
    }
}

#[test]
fn a_file_without_certificates_is_an_error_at_the_start() {
    let world = World::new();
    fs::write(world.path().join("empty.pem"), "").unwrap();
    for file in ["empty.pem", "password", "none.pem"] {
        let text = format!("[webhook]\nallow = example.org\nca_file = {file}");
        let settings = Settings::parse(&text).unwrap();
        let error = Client::new(&settings.webhook, world.path()).err().unwrap();
        assert!(error.to_string().contains(file), "{error}");
    }
}

// A server in another language, which .ci/run starts.

#[tokio::test]
#[ignore = "needs an SMTP server at M2Y_TEST_SMTP=host:port, see .ci/run"]
async fn another_server_takes_an_email() {
    let Ok(address) = std::env::var("M2Y_TEST_SMTP") else {
        return;
    };
    let address: SocketAddr = address.parse().expect("M2Y_TEST_SMTP must be address:port");
    World::new().mail(address, PLAIN).await.unwrap();
}

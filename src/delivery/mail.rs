//! E-mails, handed to one mail server that m2y.ini names.

use std::{
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use lettre::{
    Address, Message,
    address::Envelope,
    message::{
        Mailbox, SinglePart,
        header::{Header, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters},
        extension::ClientId,
    },
};
use rustix::fs::OFlags;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use super::{DeliveryError, DeliveryId, PASSWORD_VARIABLE, QUOTED, SetupError, replies::Replies};
use crate::{
    error::printable,
    root::settings::{Security, Smtp},
    transport::{
        resolve::{connect, look_up},
        tls::{self, TlsError, Trust},
    },
};

/// The most that a mail server may say to one e-mail, its certificates included, in bytes.
const MAX_REPLIES: usize = 262_144;

/// The longest password, in bytes.
const MAX_PASSWORD: u64 = 1_024;

/// The time for a goodbye: the e-mail is delivered whether the server says it or not.
const GOODBYE: Duration = Duration::from_secs(1);

/// Sends e-mails.
#[derive(Clone)]
pub struct Mailer {
    smtp: Smtp,
    from: Mailbox,
    password: Password,
    secured: Secured,
}

/// Where the password comes from. A file is read for each e-mail, so that a new
/// password works at once, and none stays in memory.
#[derive(Clone)]
enum Password {
    None,
    Variable,
    File(PathBuf),
}

/// How TLS is begun.
#[derive(Clone)]
enum Secured {
    No,
    StartTls(TlsParameters),
    Tls(Box<Trust>),
}

impl Mailer {
    /// Takes the settings, and checks whether the password and the certificates that they name are
    /// there; a relative path starts at `base`, the root.
    pub fn new(smtp: &Smtp, base: &Path) -> Result<Self, SetupError> {
        let settings = |reason: String| SetupError::Settings {
            section: "[smtp]",
            reason,
        };
        smtp.check().map_err(|must| settings(must.to_owned()))?;
        let sender: Option<Mailbox> = smtp.from.parse().ok();
        let from = sender
            .and_then(|s| Some(Mailbox::new(s.name, address(s.email.as_ref())?)))
            .ok_or_else(|| {
                settings("from must be an e-mail address like m2y@example.org".to_owned())
            })?;
        let password = Password::find(smtp, base)?;
        // It is better to hear of it now than with the first e-mail.
        password.read()?;
        let secured = match smtp.security {
            Security::None => Secured::No,
            Security::Tls => Secured::Tls(Box::new(Trust::load(smtp.ca_file.as_ref(), base)?)),
            Security::StartTls => {
                let trust = Trust::load(smtp.ca_file.as_ref(), base)?;
                Secured::StartTls(parameters(&smtp.host, &trust)?)
            }
        };
        Ok(Self {
            smtp: smtp.clone(),
            from,
            password,
            secured,
        })
    }

    /// Makes one attempt to hand an e-mail to the mail server.
    pub async fn send(
        &self,
        to: &str,
        subject: &str,
        text: &str,
        id: DeliveryId,
    ) -> Result<(), DeliveryError> {
        let (envelope, message) = self.message(to, subject, text, id)?;
        let until = Instant::now() + self.smtp.deadline;
        let handed_over = timeout_at(until, self.hand_over(&envelope, &message)).await;
        let mut connection =
            handed_over.map_err(|_| DeliveryError::late(self.server(), self.smtp.deadline))??;
        // The server has it: nothing that goes wrong from here on may send it twice.
        let _ = timeout(GOODBYE, connection.quit()).await;
        Ok(())
    }

    fn message(
        &self,
        to: &str,
        subject: &str,
        text: &str,
        id: DeliveryId,
    ) -> Result<(Envelope, Vec<u8>), DeliveryError> {
        let bad = || {
            let to = printable(to, QUOTED);
            DeliveryError::permanent(format!("{to:?} is not an e-mail address"))
        };
        let recipient = address(to.trim()).ok_or_else(bad)?;
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![recipient.clone()])
            .map_err(|_| bad())?;
        // A line break would end the header and begin another one.
        let subject: String = subject
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, recipient))
            .subject(subject)
            .date_now()
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .header(AutoSubmitted)
            .singlepart(SinglePart::plain(text.to_owned()))
            .map_err(|e| DeliveryError::permanent(format!("cannot write the e-mail: {e}")))?;
        Ok((envelope, message.formatted()))
    }

    /// Everything up to the server's word that it has the e-mail.
    async fn hand_over(
        &self,
        envelope: &Envelope,
        message: &[u8],
    ) -> Result<AsyncSmtpConnection, DeliveryError> {
        let mut connection = self.connect().await?;
        self.log_in(&mut connection).await?;
        connection
            .send(envelope, message)
            .await
            .map_err(|e| DeliveryError {
                // Not even sent: the address has letters that this server does not know.
                permanent: e.is_permanent() || e.is_client(),
                ..self.said("does not take the e-mail", &e)
            })?;
        Ok(connection)
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, DeliveryError> {
        // In clear only to this machine, whatever the name leads to.
        let only_here = matches!(self.secured, Secured::No);
        let addresses = look_up(&self.smtp.host, self.smtp.port()).await;
        let addresses = addresses.map_err(|e| self.unreachable(&e))?.into_iter();
        let stream = connect(addresses.filter(|to| !only_here || to.ip().is_loopback()))
            .await
            .map_err(|e| self.unreachable(&e))?;
        let peer = stream.peer_addr().map_err(|e| self.unreachable(&e))?;
        let name = ClientId::default();
        let greeted = match &self.secured {
            Secured::Tls(trust) => {
                let secure = trust.secure(&self.smtp.host, stream).await;
                let secure = secure.map_err(|e| self.unreachable(&e))?;
                greet(secure, peer, &name).await
            }
            Secured::No | Secured::StartTls(_) => greet(stream, peer, &name).await,
        };
        let mut connection = greeted.map_err(|e| self.said("does not serve", &e))?;
        if let Secured::StartTls(parameters) = &self.secured {
            connection
                .starttls(parameters.clone(), &name)
                .await
                .map_err(|e| self.said("does not begin TLS", &e))?;
        }
        Ok(connection)
    }

    /// A refused login is not the fault of the e-mail: it waits until somebody has fixed the
    /// password, and is not lost.
    async fn log_in(&self, connection: &mut AsyncSmtpConnection) -> Result<(), DeliveryError> {
        let Some(username) = &self.smtp.username else {
            return Ok(());
        };
        let source = self.password.clone();
        let password = tokio::task::spawn_blocking(move || source.read())
            .await
            .map_err(|_| DeliveryError::transient("cannot read the password, try later"))?
            .map_err(|e| DeliveryError::transient(e.to_string()))?
            .unwrap_or_default();
        let credentials = Credentials::new(username.clone(), password.to_string());
        match connection.auth(DEFAULT_MECHANISMS, &credentials).await {
            Ok(_) => Ok(()),
            // What it says in words may repeat what it was told.
            Err(e) => Err(match e.status() {
                Some(code) => DeliveryError::transient(format!(
                    "{} refuses the login ({code}): look at username and password",
                    self.server()
                )),
                None => self.said("does not let m2y log in", &e),
            }),
        }
    }

    fn server(&self) -> String {
        format!("the mail server {}:{}", self.smtp.host, self.smtp.port())
    }

    fn unreachable(&self, error: &io::Error) -> DeliveryError {
        let why = printable(&error.to_string(), QUOTED);
        DeliveryError::transient(format!("cannot reach {}: {why}", self.server()))
    }

    /// A reply that begins with 5 will be the same the next time; everything else may pass.
    fn said(&self, what: &str, error: &lettre::transport::smtp::Error) -> DeliveryError {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        let why = match (error.status(), cause) {
            (Some(code), Some(words)) => format!("{code} {words}"),
            (Some(code), None) => code.to_string(),
            (None, Some(words)) => words,
            (None, None) => error.to_string(),
        };
        let sentence = format!("{} {what}: {}", self.server(), printable(&why, QUOTED));
        if error.is_permanent() {
            DeliveryError::permanent(sentence)
        } else {
            DeliveryError::transient(sentence)
        }
    }
}

/// Reads an address. The domain becomes ASCII, which every mail server knows.
fn address(text: &str) -> Option<Address> {
    if text.contains(char::is_control) {
        return None;
    }
    let given: Address = text.parse().ok()?;
    match url::Host::parse(given.domain()) {
        Ok(url::Host::Domain(domain)) => Address::new(given.user(), domain).ok(),
        _ => Some(given),
    }
}

async fn greet<S>(
    stream: S,
    peer: SocketAddr,
    name: &ClientId,
) -> Result<AsyncSmtpConnection, lettre::transport::smtp::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Sync + Unpin + 'static,
    S: std::fmt::Debug,
{
    let stream = Box::new(Replies::new(stream, peer, MAX_REPLIES));
    AsyncSmtpConnection::connect_with_transport(stream, name).await
}

fn parameters(host: &str, trust: &Trust) -> Result<TlsParameters, SetupError> {
    let fail = |e: lettre::transport::smtp::Error| TlsError::Unavailable(e.to_string());
    tls::install_default()?;
    let mut builder =
        TlsParameters::builder(host.to_owned()).certificate_store(CertificateStore::None);
    for root in trust.roots() {
        let certificate = Certificate::from_der(root.to_vec()).map_err(fail)?;
        builder = builder.add_root_certificate(certificate);
    }
    Ok(builder.build().map_err(fail)?)
}

impl Password {
    /// The variable takes precedence over the file, as everywhere.
    fn find(smtp: &Smtp, base: &Path) -> Result<Self, SetupError> {
        if smtp.username.is_none() {
            Ok(Self::None)
        } else if std::env::var_os(PASSWORD_VARIABLE).is_some_and(|value| !value.is_empty()) {
            Ok(Self::Variable)
        } else if let Some(file) = &smtp.password_file {
            Ok(Self::File(base.join(file)))
        } else {
            Err(SetupError::NoPassword)
        }
    }

    fn read(&self) -> Result<Option<Zeroizing<String>>, SetupError> {
        match self {
            Self::None => Ok(None),
            Self::Variable => match std::env::var(PASSWORD_VARIABLE) {
                Ok(password) => Ok(Some(Zeroizing::new(password))),
                Err(_) => Err(SetupError::NoPassword),
            },
            Self::File(path) => read_secret(path).map(Some),
        }
    }
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, SetupError> {
    let fail = |source| SetupError::Io {
        path: path.to_owned(),
        source,
    };
    let bad = || SetupError::Password(path.to_owned());
    // Opening a pipe would otherwise wait for its other end.
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(fail)?;
    // Of the file that is read, not of the one that may have taken its name since.
    let about = file.metadata().map_err(fail)?;
    if !about.is_file() {
        return Err(bad());
    }
    let mode = about.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SetupError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_PASSWORD as usize + 1));
    file.take(MAX_PASSWORD + 1)
        .read_to_string(&mut text)
        .map_err(fail)?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.len() as u64 > MAX_PASSWORD || line.contains(char::is_control) {
        return Err(bad());
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// Tells answering machines not to answer (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

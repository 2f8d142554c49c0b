//! Doing what scripts ask for beyond this machine: one attempt at one e-mail or one webhook, and
//! whether another one makes sense. Waiting, retrying and remembering are the business of the
//! caller.
//!
//! A server gets a whole attempt's deadline and no more, may answer only so many bytes, and is
//! believed only as far as its certificate goes. No error holds a password, or the path of a URL,
//! which is a password where chat services hand out addresses.

pub mod http;
pub mod mail;
mod replies;
pub mod webhook;

use std::{fmt, io, path::PathBuf, time::Duration};

use crate::{
    error::{Code, Error},
    transport::tls::TlsError,
};
pub use http::Client;
pub use mail::Mailer;
pub use webhook::Webhook;

/// The variable that holds the password for the mail server.
pub const PASSWORD_VARIABLE: &str = "M2Y_SMTP_PASSWORD";

/// The longest reply of a server that is repeated in an error, in characters.
const QUOTED: usize = 200;

/// What a server recognises a repeated attempt by.
///
/// Every attempt at one delivery has the same, and no two deliveries share one. A transfer's
/// `[OnMeta]` and `[OnReceived]` are events of one id, so the numbers of what they ask for run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryId {
    event: [u8; 16],
    index: u32,
}

impl DeliveryId {
    /// The id of what hooks asked for as number `index` under the id of an event.
    pub fn new(event: [u8; 16], index: u32) -> Self {
        Self { event, index }
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", hex::encode(self.event), self.index)
    }
}

/// Why an e-mail or a webhook was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct DeliveryError {
    /// Whether trying again unchanged will not help.
    pub permanent: bool,
    /// One sentence that says what to do.
    pub sentence: String,
    /// The time for which the server asked to be left alone, at most a day.
    pub retry_after: Option<Duration>,
}

impl DeliveryError {
    fn permanent(sentence: impl Into<String>) -> Self {
        Self {
            permanent: true,
            sentence: sentence.into(),
            retry_after: None,
        }
    }

    fn transient(sentence: impl Into<String>) -> Self {
        Self {
            permanent: false,
            ..Self::permanent(sentence)
        }
    }

    fn late(server: impl fmt::Display, deadline: Duration) -> Self {
        Self::transient(format!("{server} did not answer within {deadline:?}"))
    }
}

/// Why m2y.ini names something that cannot be used; the server does not start with it.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The settings do not fit each other.
    #[error("m2y.ini: {section}: {reason}")]
    Settings {
        /// With brackets.
        section: &'static str,
        /// What to do.
        reason: String,
    },
    /// A file that cannot be read.
    #[error("cannot open {}, which m2y.ini names: {source}", .path.display())]
    Io {
        /// As it was opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A password that others could read.
    #[error("cannot open {path}: mode is {mode:04o}, must be 0600 (chmod 600 {path})", path = .path.display())]
    Mode {
        /// As it was opened.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// A file that is not a password.
    #[error("cannot use {}: it must hold the password in its first line, and nothing else", .0.display())]
    Password(PathBuf),
    /// A login without a password.
    #[error(
        "m2y.ini: [smtp] username has no password: name a file with password_file, or set {PASSWORD_VARIABLE}"
    )]
    NoPassword,
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<SetupError> for Error {
    fn from(error: SetupError) -> Self {
        let code = match &error {
            SetupError::Mode { .. } => Code::Identity,
            _ => Code::Failed,
        };
        Self::new(code, error.to_string())
    }
}

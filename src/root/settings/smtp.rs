//! `[smtp]` of m2y.ini: the mail server that e-mails are handed to.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::{UNKNOWN, duration};

/// How e-mails go out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smtp {
    /// The mail server: a name or an address, without brackets.
    pub host: String,
    /// Its port, if it is not the usual one of [`Smtp::security`].
    pub port: Option<u16>,
    /// The sender: `m2y@example.org`, or `m2y <m2y@example.org>`.
    pub from: String,
    /// How the connection is secured.
    pub security: Security,
    /// The user to log in as; no login, unless it is set.
    pub username: Option<String>,
    /// A file that holds the password; a relative path starts at the root.
    pub password_file: Option<PathBuf>,
    /// Certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Time for one e-mail, from the name of the host to the last reply.
    pub deadline: Duration,
}

/// How a connection to a mail server is secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// It begins in plain text and switches to TLS before anything is said.
    #[default]
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// Plain text, to this machine only.
    None,
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: None,
            from: String::new(),
            security: Security::default(),
            username: None,
            password_file: None,
            ca_file: None,
            deadline: Duration::from_secs(30),
        }
    }
}

impl Smtp {
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        if value.is_empty() {
            return Err("it must have a value");
        }
        match key {
            "host" => self.host = host(value)?,
            "port" => self.port = Some(port(value)?),
            "from" => self.from = value.to_owned(),
            "security" => {
                self.security = match value {
                    "starttls" => Security::StartTls,
                    "tls" => Security::Tls,
                    "none" => Security::None,
                    _ => return Err("it must be starttls, tls or none"),
                }
            }
            "username" => self.username = Some(value.to_owned()),
            "password_file" => self.password_file = Some(value.into()),
            "password" => {
                return Err(
                    "m2y.ini holds no password: put it into a file with mode 0600 and name that with password_file",
                );
            }
            "ca_file" => self.ca_file = Some(value.into()),
            "deadline" => self.deadline = duration(value)?,
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }

    /// Says what is missing, or what does not go together.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.host.is_empty() {
            return Err("host is missing: name the mail server");
        }
        if self.from.is_empty() {
            return Err("from is missing: name the address that e-mails come from");
        }
        if self.security == Security::None && !is_this_machine(&self.host) {
            return Err(
                "security = none is only for a mail server on this machine (localhost): use starttls or tls",
            );
        }
        if self.password_file.is_some() && self.username.is_none() {
            return Err("username is missing: password_file is of no use without it");
        }
        Ok(())
    }

    /// The port, or the usual one.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.security {
            Security::StartTls => 587,
            Security::Tls => 465,
            Security::None => 25,
        })
    }
}

/// Whether it names this machine and no other, whatever a name server says.
fn is_this_machine(host: &str) -> bool {
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Reads a name or an address, an IPv6 one with or without brackets.
fn host(text: &str) -> Result<String, &'static str> {
    const MUST: &str = "it must be the name or the address of a host, without a port";
    let bare = text.trim_matches(['[', ']']);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    match url::Host::parse(text) {
        Ok(host) => Ok(host.to_string()),
        Err(_) => Err(MUST),
    }
}

pub(super) fn port(text: &str) -> Result<u16, &'static str> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("a port must be a number from 1 to 65535"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::root::settings::Settings;

    fn smtp(lines: &str) -> Result<Smtp, String> {
        Settings::parse(&format!("[smtp]\n{lines}")).map(|s| s.smtp.unwrap())
    }

    #[test]
    fn a_section_without_a_line_is_no_mail_server() {
        assert_eq!(Settings::parse("[smtp]\n").unwrap().smtp, None);
    }

    #[test]
    fn the_port_follows_the_security() {
        for (lines, expected) in [
            ("security = starttls", 587),
            ("security = tls", 465),
            ("security = none", 25),
            ("security = none\nport = 2525", 2525),
        ] {
            let smtp = smtp(&format!("host = localhost\nfrom = a@example.org\n{lines}")).unwrap();
            assert_eq!(smtp.port(), expected, "{lines}");
        }
    }

    #[test]
    fn plain_text_goes_only_to_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "[::1]",
        ] {
            let lines = format!("host = {host}\nfrom = a@example.org\nsecurity = none");
            assert!(smtp(&lines).is_ok(), "{host}");
        }
        for host in [
            "mail.example.org",
            "10.0.0.1",
            "localhost.example.org",
            "0.0.0.0",
        ] {
            let lines = format!("host = {host}\nfrom = a@example.org\nsecurity = none");
            let error = smtp(&lines).unwrap_err();
            assert!(error.contains("use starttls or tls"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (lines, word) in [
            ("from = a@example.org", "host is missing"),
            ("host = localhost", "from is missing"),
            (
                "host = h\nfrom = a@example.org\npassword_file = p",
                "username is missing",
            ),
            ("host = h:25", "without a port"),
            ("host = smtp://h", "without a port"),
            ("port = 0", "1 to 65535"),
            ("security = ssl", "starttls, tls or none"),
        ] {
            let error = smtp(lines).unwrap_err();
            assert!(error.contains(word), "{lines}: {error}");
        }
    }

    #[test]
    fn a_password_in_the_settings_is_refused_and_not_repeated() {
        for key in ["password", "smtp_password"] {
            let error = smtp(&format!("{key} = hunter2")).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(smtp("password = x").unwrap_err().contains("password_file"));
    }
}

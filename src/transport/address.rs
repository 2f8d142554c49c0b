//! Where a server is reached, as people write it.

use std::{fmt, str::FromStr};

/// The longest host, in bytes.
const MAX_HOST: usize = 255;

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `HOST:PORT`, over TCP. The host is a name, an IPv4 address or an IPv6 address.
    Tcp(String),
}

impl Address {
    /// Any free port of this machine, out of reach for others.
    pub fn any_local_port() -> Self {
        Self::Tcp("127.0.0.1:0".to_owned())
    }
}

/// A text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address: write HOST:PORT, like example.org:5000")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let is_host = |host: &str| {
            let may = |c: char| {
                c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '%')
            };
            (1..=MAX_HOST).contains(&host.len()) && host.chars().all(may)
        };
        let is_port =
            |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
        match text.rsplit_once(':') {
            Some((host, port)) if is_host(host) && is_port(port) => Ok(Self::Tcp(text.to_owned())),
            _ => Err(AddressError(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_was_written() {
        for text in [
            "example.org:5000",
            "127.0.0.1:0",
            "[::1]:5000",
            "[fe80::1%eth0]:65535",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_host_and_port_is_refused() {
        for text in [
            "",
            "example.org",
            ":5000",
            "example.org:",
            "example.org:+5000",
            "example.org:65536",
            "example.org:5000 ",
            "exam ple:1",
            "a/b:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}

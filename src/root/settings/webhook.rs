//! `[webhook]` of m2y.ini: where scripts may post to.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use super::{UNKNOWN, duration, smtp::port};

/// The most hosts on the list, so that searching it is bounded.
const MAX_HOSTS: usize = 1_000;

/// Where and how webhooks are posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The hosts that may be posted to; none, unless it is set.
    pub allow: Vec<AllowedHost>,
    /// Time for one webhook, from the name of the host to the answer.
    pub deadline: Duration,
    /// Certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Webhook {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deadline: Duration::from_secs(10),
            ca_file: None,
        }
    }
}

impl Webhook {
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "allow" => {
                let hosts = value.split(',').map(str::trim).filter(|h| !h.is_empty());
                for host in hosts {
                    if self.allow.len() == MAX_HOSTS {
                        return Err("it can name 1000 hosts");
                    }
                    self.allow.push(host.parse()?);
                }
            }
            "deadline" => self.deadline = duration(value)?,
            "ca_file" if value.is_empty() => return Err("it must have a value"),
            "ca_file" => self.ca_file = Some(value.into()),
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }

    /// Whether a host, as [`url::Url`] writes it, may be posted to on this port.
    pub fn allows(&self, host: &str, port: u16) -> bool {
        self.allow.iter().any(|allowed| allowed.admits(host, port))
    }
}

/// One host of the list, or all below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    /// As [`url::Url`] writes it, so that one host has one spelling.
    name: String,
    /// Whether it stands for every host below `name`.
    below: bool,
    /// Which port; without one the ports of http and https.
    port: Option<u16>,
}

impl AllowedHost {
    fn admits(&self, host: &str, port: u16) -> bool {
        let named = if self.below {
            host.strip_suffix(&self.name)
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty())
        } else {
            host == self.name
        };
        let reached = match self.port {
            Some(only) => port == only,
            None => port == 80 || port == 443,
        };
        named && reached
    }
}

impl FromStr for AllowedHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const MUST: &str = "it must be hosts between commas, each like example.org, example.org:8080 or *.example.org";
        let (below, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        // The colons of an IPv6 address are between brackets.
        let (name, number) = match rest.rsplit_once(':') {
            Some((name, number)) if !number.ends_with(']') => (name, Some(port(number)?)),
            _ => (rest, None),
        };
        let name = match url::Host::parse(name) {
            Ok(url::Host::Domain(name)) if !name.contains('*') => name,
            Ok(address @ (url::Host::Ipv4(_) | url::Host::Ipv6(_))) if !below => {
                address.to_string()
            }
            _ => return Err(MUST),
        };
        Ok(Self {
            name,
            below,
            port: number,
        })
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        write!(f, "{below}{}", self.name)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn allows(list: &str, host: &str, port: u16) -> bool {
        let mut webhook = Webhook::default();
        webhook.set("allow", list).unwrap();
        webhook.allows(host, port)
    }

    #[test]
    fn nothing_is_allowed_unless_it_is_listed() {
        assert!(!Webhook::default().allows("example.org", 443));
        assert!(!allows("", "example.org", 443));
        assert!(!allows("example.org", "example.net", 443));
        assert!(!allows("example.org", "www.example.org", 443));
        assert!(!allows("example.org", "badexample.org", 443));
    }

    #[test]
    fn a_host_without_a_port_has_those_of_http_and_https() {
        let list = "Example.org, b:8080 ,[::1]:9,10.0.0.1";
        for (host, port) in [
            ("example.org", 80),
            ("example.org", 443),
            ("b", 8080),
            ("[::1]", 9),
            ("10.0.0.1", 443),
        ] {
            assert!(allows(list, host, port), "{host}:{port}");
        }
        for (host, port) in [("example.org", 8080), ("b", 443), ("[::1]", 443)] {
            assert!(!allows(list, host, port), "{host}:{port}");
        }
    }

    #[test]
    fn a_star_stands_for_every_host_below_and_not_for_the_host_itself() {
        let list = "*.example.org, *.example.net:444";
        assert!(allows(list, "a.example.org", 443));
        assert!(allows(list, "a.b.example.org", 443));
        assert!(allows(list, "a.example.net", 444));
        for (host, port) in [
            ("example.org", 443),
            (".example.org", 443),
            ("badexample.org", 443),
            ("a.example.net", 443),
        ] {
            assert!(!allows(list, host, port), "{host}:{port}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "*",
            "*.",
            "a.*.b",
            "http://a",
            "a/b",
            "a:0",
            "a:x",
            "::1",
            "*.10.0.0.1",
            "a b",
        ] {
            assert!(text.parse::<AllowedHost>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_is_written_as_it_is_read() {
        for text in ["example.org", "*.example.org:8080", "[::1]:80"] {
            assert_eq!(text.parse::<AllowedHost>().unwrap().to_string(), text);
        }
    }
}

//! Where a server is reached, as people write it.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use sha2::{Digest, Sha256};

/// The longest host, in bytes.
const MAX_HOST: usize = 255;

/// The most addresses of one server.
pub const MAX_ADDRESSES: usize = 8;

/// The port of a server whose address names none.
pub const PORT: u16 = 5000;

/// What stands before the digits of a pin.
const PIN: &str = "sha256=";

/// The SHA-256 of a certificate in DER: a server that shows another certificate is not the one
/// that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// The pin of a certificate, which is in DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PIN}{}", hex::encode(self.0))
    }
}

/// A host and a port. The host is a name, an IPv4 address or an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The host, an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `HOST:PORT`: TCP.
    Tcp(Place),
    /// `tls://HOST:PORT`: TLS over TCP, for networks that let nothing else through.
    Tls(Place, Option<Pin>),
    /// `quic://HOST:PORT`: QUIC, over UDP.
    Quic(Place, Option<Pin>),
    /// `relay://HOST:PORT/NAME`: the member NAME of a relay.
    Relay(Place, String),
}

impl Address {
    /// Any free port of this machine, out of reach for others.
    pub fn any_local_port() -> Self {
        Self::Tcp(Place {
            host: "127.0.0.1".to_owned(),
            port: 0,
        })
    }

    /// The host and the port.
    pub fn place(&self) -> &Place {
        match self {
            Self::Tcp(place)
            | Self::Tls(place, _)
            | Self::Quic(place, _)
            | Self::Relay(place, _) => place,
        }
    }

    /// Whether only this machine can connect to it.
    pub fn is_local(&self) -> bool {
        let host = &self.place().host;
        let ip = host.parse::<IpAddr>();
        ip.map_or(host == "localhost", |ip| ip.is_loopback())
    }

    /// An address that may leave its port out.
    pub fn with_default_port(text: &str) -> Result<Self, AddressError> {
        Self::read(text, Some(PORT))
    }

    /// When it is tried: all of TCP before all of TLS, and so on.
    fn rank(&self) -> u8 {
        match self {
            Self::Tcp(_) => 0,
            Self::Tls(..) => 1,
            Self::Quic(..) => 2,
            Self::Relay(..) => 3,
        }
    }

    fn read(text: &str, port: Option<u16>) -> Result<Self, AddressError> {
        let bad = || AddressError::Form(text.to_owned());
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        if scheme == Some("relay") {
            let (place, name) = rest.split_once('/').ok_or_else(bad)?;
            let place = read_place(place, port).map_err(|_| bad())?;
            return match is_name(name) {
                true => Ok(Self::Relay(place, name.to_owned())),
                false => Err(bad()),
            };
        }
        let (place, fragment) = match rest.split_once('#') {
            Some((place, fragment)) => (place, Some(fragment)),
            None => (rest, None),
        };
        let place = read_place(place, port).map_err(|ambiguous| match ambiguous {
            true => AddressError::Ambiguous(text.to_owned()),
            false => bad(),
        })?;
        let pin = fragment
            .map(|pin| read_pin(pin).ok_or_else(bad))
            .transpose()?;
        match (scheme, pin) {
            (None, None) => Ok(Self::Tcp(place)),
            (Some("tls"), pin) => Ok(Self::Tls(place, pin)),
            (Some("quic"), pin) => Ok(Self::Quic(place, pin)),
            _ => Err(bad()),
        }
    }
}

/// Whether a text can be the name of a member. What names are exactly, those know who have users.
fn is_name(text: &str) -> bool {
    let never = |c: char| c.is_control() || c.is_whitespace() || "/,#".contains(c);
    (1..=MAX_HOST).contains(&text.len()) && !text.starts_with('.') && !text.contains(never)
}

fn read_pin(text: &str) -> Option<Pin> {
    let mut pin = [0; 32];
    hex::decode_to_slice(text.strip_prefix(PIN)?, &mut pin).ok()?;
    Some(Pin(pin))
}

/// Reads a host and a port. `Err(true)` is for an IPv6 address without brackets, whose end may be
/// a port or not.
fn read_place(text: &str, default: Option<u16>) -> Result<Place, bool> {
    let is_v6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    if default.is_some() && is_v6(text) {
        let shorter = text.rsplit_once(':');
        return match (shorter.is_some_and(|(host, _)| is_v6(host)), default) {
            (false, Some(port)) => Ok(Place {
                host: text.to_owned(),
                port,
            }),
            _ => Err(true),
        };
    }
    let (host, port) = match (text.rsplit_once(':'), default) {
        (Some((host, port)), _) if !port.ends_with(']') => {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            let port = port.parse().ok().filter(|_| digits);
            (host, port.ok_or(false)?)
        }
        (_, Some(port)) => (text, port),
        (_, None) => return Err(false),
    };
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').ok_or(false)?,
        None => host,
    };
    let may = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if !(1..=MAX_HOST).contains(&host.len()) || !host.chars().all(may) {
        return Err(false);
    }
    Ok(Place {
        host: host.to_owned(),
        port,
    })
}

/// A text that is not an address, or not a list of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It has another form.
    #[error(
        "{0:?} is not an address: write HOST:PORT, like example.org:5000, or tls://HOST:PORT, quic://HOST:PORT or relay://HOST:PORT/NAME"
    )]
    Form(String),
    /// An IPv6 address that may end with a port.
    #[error("{0:?} may be a host with a port or without: write [HOST]:PORT")]
    Ambiguous(String),
    /// Too many.
    #[error("{0} addresses are too many: at most {MAX_ADDRESSES}")]
    TooMany(usize),
    /// None at all.
    #[error("an address is missing: write HOST:PORT, like example.org:5000")]
    Missing,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::read(text, None)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, pin) = match self {
            Self::Tcp(_) => ("", &None),
            Self::Tls(_, pin) => ("tls://", pin),
            Self::Quic(_, pin) => ("quic://", pin),
            Self::Relay(place, name) => return write!(f, "relay://{place}/{name}"),
        };
        write!(f, "{scheme}{}", self.place())?;
        match pin {
            Some(pin) => write!(f, "#{pin}"),
            None => Ok(()),
        }
    }
}

/// Where one server is reached: at least one address. As text, they have commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(Vec<Address>);

impl Addresses {
    /// A list of one to [`MAX_ADDRESSES`]; one that comes twice counts once.
    pub fn new(addresses: impl IntoIterator<Item = Address>) -> Result<Self, AddressError> {
        let mut list = Vec::new();
        for address in addresses {
            if !list.contains(&address) {
                list.push(address);
            }
        }
        match list.len() {
            0 => Err(AddressError::Missing),
            1..=MAX_ADDRESSES => Ok(Self(list)),
            many => Err(AddressError::TooMany(many)),
        }
    }

    /// A list of addresses that may leave their ports out.
    pub fn with_default_ports(text: &str) -> Result<Self, AddressError> {
        Self::read(text, Address::with_default_port)
    }

    fn read(
        text: &str,
        read: impl Fn(&str) -> Result<Address, AddressError>,
    ) -> Result<Self, AddressError> {
        let each = text.split(',').map(|one| read(one.trim()));
        Self::new(each.collect::<Result<Vec<_>, _>>()?)
    }

    /// Those of these texts whose kind is known here: a later version may have more.
    pub fn known<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<Address> {
        let known = texts.into_iter().filter_map(|text| text.parse().ok());
        known.take(MAX_ADDRESSES).collect()
    }

    /// In the order in which they were written.
    pub fn iter(&self) -> impl Iterator<Item = &Address> {
        self.0.iter()
    }

    /// In the order in which they are tried: TCP, TLS, QUIC, relays.
    pub fn in_turn(&self) -> Vec<&Address> {
        let mut turn: Vec<_> = self.0.iter().collect();
        turn.sort_by_key(|address| address.rank());
        turn
    }

    /// The first of TCP: what programs understand that know no other kind.
    pub fn plain(&self) -> Option<&Address> {
        self.0
            .iter()
            .find(|address| matches!(address, Address::Tcp(_)))
    }
}

impl FromStr for Addresses {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::read(text, str::parse)
    }
}

impl From<Address> for Addresses {
    fn from(address: Address) -> Self {
        Self(vec![address])
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for address in &self.0 {
            write!(f, "{comma}{address}")?;
            comma = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_was_written() {
        let pinned = format!("tls://example.org:443#sha256={}", "0a".repeat(32));
        for text in [
            "example.org:5000",
            "127.0.0.1:0",
            "[::1]:5000",
            "[fe80::1%eth0]:65535",
            "tls://example.org:443",
            "quic://[::1]:5000",
            "relay://example.org:5000/roland-frei",
            &pinned,
            &pinned.replace("tls", "quic"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
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
            "h\n[x]:1",
            "[::1:5000",
            "http://example.org:80",
            "tls://",
            "relay://example.org:5000",
            "relay://example.org:5000/",
            "relay://example.org:5000/../x",
            "tls://example.org:443#",
            "tls://example.org:443#sha256=0a",
            "example.org:443#sha256=0a",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let pin = format!("example.org:5000#sha256={}", "0a".repeat(32));
        assert!(pin.parse::<Address>().is_err(), "plain TCP checks no pin");
    }

    #[test]
    fn an_address_without_a_port_gets_the_usual_one() {
        for (text, full) in [
            ("example.org", "example.org:5000"),
            ("example.org:80", "example.org:80"),
            ("::1", "[::1]:5000"),
            ("[::1]", "[::1]:5000"),
            ("[::1]:80", "[::1]:80"),
            ("10.0.0.1", "10.0.0.1:5000"),
            ("tls://example.org", "tls://example.org:5000"),
            ("quic://::1", "quic://[::1]:5000"),
            ("relay://h/roland-frei", "relay://h:5000/roland-frei"),
        ] {
            let address = Address::with_default_port(text).unwrap();
            assert_eq!(address.to_string(), full);
        }
        for bad in [
            "",
            ":",
            "h:x",
            "h:70000",
            "a b",
            "host:",
            "::1:5000",
            "2001:db8::7:5000",
        ] {
            assert!(Address::with_default_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_is_tried_in_the_order_of_kinds_and_shown_in_its_own() {
        let text = "quic://a:1, tls://b:2, c:3, d:4";
        let list: Addresses = text.parse().unwrap();
        assert_eq!(list.to_string(), text);
        let turn: Vec<_> = list.in_turn().iter().map(ToString::to_string).collect();
        assert_eq!(turn, ["c:3", "d:4", "tls://b:2", "quic://a:1"]);
        assert_eq!(list.plain().unwrap().to_string(), "c:3");
        let twice = Addresses::with_default_ports("a, a:5000,b").unwrap();
        assert_eq!(twice.to_string(), "a:5000, b:5000");
        let many = (0..9).map(|n| format!("h:{n}")).collect::<Vec<_>>();
        assert!(many.join(",").parse::<Addresses>().is_err());
        assert!("a:1,,b:2".parse::<Addresses>().is_err());
    }
}

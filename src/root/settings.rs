//! `m2y.ini`: settings of the whole server. Every key has a default.

mod change;
pub mod live;
mod relay;
mod smtp;
pub mod store;
mod webhook;

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use super::{SETTINGS_TEMPLATE, config::Config, name::Name};
use crate::{error::did_you_mean, transport::Addresses};
pub use change::Change;
pub use relay::{Quota, RelaySettings};
pub use smtp::{Security, Smtp};
pub use webhook::{AllowedHost, Webhook};

/// What is said about a key that would be ignored.
const UNKNOWN: &str = "unknown setting";

/// Seconds of a day.
const DAY: u64 = 86_400;

/// The largest m2y.ini, in bytes.
pub const MAX_LEN: u64 = 65_536;

/// What an administrator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `[server] listen`: addresses to listen on; port 0 takes any free one.
    pub listen: Vec<String>,
    /// `[server] address`: where others reach the server.
    pub addresses: Option<Addresses>,
    /// `[server] max_connections`: connections in all.
    pub max_connections: usize,
    /// `[server] max_connections_per_address`: connections from one address.
    pub max_per_address: usize,
    /// `[server] opening_deadline`: time for a whole opening to arrive.
    pub opening_deadline: Duration,
    /// `[server] opening_max_age`: how old an opening may be, by the clock of the server.
    pub opening_max_age: Duration,
    /// `[server] idle_deadline`: time in which a peer must move a byte.
    pub idle_deadline: Duration,
    /// `[server] shutdown_deadline`: time for what is under way to finish.
    pub shutdown_deadline: Duration,
    /// `[server] messages_per_second`: how many messages of one contact are taken, after a burst.
    pub message_rate: usize,
    /// `[server] max_filesize`: bytes of the largest file that is accepted.
    pub max_filesize: u64,
    /// `[server] metrics`: host and port that serve metrics; without it nothing does.
    pub metrics: Option<String>,
    /// `[server] log_format`: what the log looks like.
    pub log_format: LogFormat,
    /// `[tls] certificate` and `key`: what the server proves itself with over TLS and QUIC;
    /// without them it makes a certificate.
    pub tls: Tls,
    /// `[quic] gso`: whether the system cuts what QUIC sends into packets.
    pub quic_gso: bool,
    /// `[hooks] script_deadline`: time that one script may run.
    pub script_deadline: Duration,
    /// `[hooks] executable_deadline`: time that one executable may run.
    pub executable_deadline: Duration,
    /// `[hooks] executables`: where programs that run as hooks may be.
    pub executables: Programs,
    /// `[hooks] retry_delay` and `retry_limit`: when failed attempts are repeated.
    pub retry: Retry,
    /// `[smtp]`: how e-mails go out; without it none do.
    pub smtp: Option<Smtp>,
    /// `[webhook]`: what may be posted where.
    pub webhook: Webhook,
    /// `[relay]`: whether the server is a relay, and what it allows.
    pub relay: RelaySettings,
    /// `[presence]`: who may see whether the users are there.
    pub presence: Presence,
    /// `[watch] settle`: how long a file has to rest until its change is an event.
    pub settle: Duration,
    /// Bytes of an inbox.log until it is rotated.
    pub inbox_max: u64,
    /// `[client] user`: the user that commands act for if they name none.
    pub user: Option<Name>,
    /// `[store NAME]`: places where contents may be stored, by their names.
    pub stores: BTreeMap<String, store::Place>,
}

/// Who may see whether the users are at their relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// `show`: whether contacts may.
    pub show: bool,
    /// `listed`: whether other members of a relay may see that they are members.
    pub listed: bool,
}

/// The files that a server proves itself with. A relative path starts at the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificate and those between it and an authority, in PEM.
    pub certificate: Option<PathBuf>,
    /// Its private key, in PEM; without a file of its own it is in that of the certificate.
    pub key: Option<PathBuf>,
}

/// What the log of a server looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("it must be text or json"),
        }
    }
}

/// When failed attempts are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The pause after the first attempt that failed.
    pub delay: Duration,
    /// Attempts before giving up.
    pub limit: u32,
}

/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(3_600);

impl Retry {
    /// The pause after a failed attempt with this many before it, each four times as long as the
    /// last one, up to an hour; `None` if it was the last attempt.
    pub fn pause(&self, before: u32) -> Option<Duration> {
        if before.saturating_add(1) >= self.limit {
            return None;
        }
        let factor = 4_u32.saturating_pow(before.min(16));
        Some(self.delay.saturating_mul(factor).min(MAX_PAUSE))
    }
}

/// Where programs that run as hooks may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programs {
    /// Nowhere.
    None,
    /// In `ROOT/scripts/`, which belongs to the administrator.
    Shared,
    /// There, and in the folders of these users.
    SharedAnd(Vec<Name>),
    /// There, and in every folder.
    All,
}

impl Programs {
    /// Whether a program in a folder of this user may run.
    pub fn in_folder_of(&self, user: &Name) -> bool {
        match self {
            Self::None | Self::Shared => false,
            Self::SharedAnd(users) => users.contains(user),
            Self::All => true,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:5000".to_owned()],
            addresses: None,
            max_connections: 4096,
            max_per_address: 256,
            message_rate: 5_000,
            opening_deadline: Duration::from_secs(10),
            opening_max_age: Duration::from_secs(30 * DAY),
            idle_deadline: Duration::from_secs(60),
            shutdown_deadline: Duration::from_secs(20),
            max_filesize: i64::MAX as u64,
            metrics: None,
            log_format: LogFormat::Text,
            tls: Tls::default(),
            quic_gso: true,
            script_deadline: Duration::from_millis(500),
            executable_deadline: Duration::from_secs(30),
            executables: Programs::Shared,
            retry: Retry {
                delay: Duration::from_secs(5),
                limit: 12,
            },
            smtp: None,
            webhook: Webhook::default(),
            relay: RelaySettings::default(),
            presence: Presence {
                show: true,
                listed: false,
            },
            settle: Duration::from_millis(500),
            inbox_max: 10 << 20,
            user: None,
            stores: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Reads m2y.ini. An unknown key is an error: otherwise it would be ignored.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config = Config::parse_ini(text).map_err(|e| e.to_string())?;
        let mut settings = Self::default();
        let mut stores = store::Sections::default();
        for section in config.sections() {
            if let Some(name) = section.strip_prefix(store::SECTION) {
                stores.begin(name);
                for (key, value) in config.section(section) {
                    let set = stores.set(name, key, value);
                    set.map_err(|_| unknown(text, section, key, store::KEYS))?;
                }
                continue;
            }
            if known().all(|(known, _)| known != section) {
                let line = line_of(text, section, None);
                let near = did_you_mean(section, known().map(|(section, _)| section));
                return Err(format!("line {line}: unknown section [{section}]{near}"));
            }
            for (key, value) in config.section(section) {
                settings.set(section, key, value).map_err(|must| {
                    if must == UNKNOWN {
                        return unknown(text, section, key, keys_of(section));
                    }
                    // Errors are also read by people who may not know the password.
                    if key.contains("password") {
                        format!("[{section}] {key}: {must}")
                    } else {
                        format!("[{section}] {key} = {value}: {must}")
                    }
                })?;
            }
        }
        if settings.tls.key.is_some() && settings.tls.certificate.is_none() {
            return Err("[tls] has a key and no certificate".to_owned());
        }
        if let Some(smtp) = &settings.smtp {
            smtp.check().map_err(|must| format!("[smtp] {must}"))?;
        }
        settings.stores = stores.places()?;
        Ok(settings)
    }

    fn set(&mut self, section: &str, key: &str, value: &str) -> Result<(), &'static str> {
        match (section, key) {
            ("server", "listen") => {
                self.listen = value.split(',').map(|one| one.trim().to_owned()).collect();
            }
            ("server", "address") => {
                let addresses = Addresses::with_default_ports(value);
                self.addresses = Some(addresses.map_err(|_| {
                    "it must be an address like example.org:5000, or several with commas between"
                })?);
            }
            ("server", "max_connections") => self.max_connections = count(value)?,
            ("server", "max_connections_per_address") => self.max_per_address = count(value)?,
            ("server", "opening_deadline") => self.opening_deadline = duration(value)?,
            ("server", "opening_max_age") => self.opening_max_age = age(value)?,
            ("server", "idle_deadline") => self.idle_deadline = duration(value)?,
            ("server", "shutdown_deadline") => self.shutdown_deadline = duration(value)?,
            ("server", "messages_per_second") => self.message_rate = count(value)?,
            ("server", "max_filesize") => self.max_filesize = bytes(value)?,
            ("server", "metrics") => self.metrics = Some(value.to_owned()),
            ("server", "log_format") => self.log_format = value.parse()?,
            ("tls", "certificate") => self.tls.certificate = Some(value.into()),
            ("tls", "key") => self.tls.key = Some(value.into()),
            ("quic", "gso") => self.quic_gso = yes_or_no(value)?,
            ("hooks", "script_deadline") => self.script_deadline = duration(value)?,
            ("hooks", "executable_deadline") => self.executable_deadline = duration(value)?,
            ("hooks", "executables") => self.executables = programs(value)?,
            ("hooks", "retry_delay") => self.retry.delay = duration(value)?,
            ("hooks", "retry_limit") => {
                self.retry.limit = u32::try_from(count(value)?).unwrap_or(u32::MAX);
            }
            ("folder", "inbox_max") => self.inbox_max = bytes(value)?,
            ("client", "user") => {
                let name = Name::user(value.trim());
                self.user = Some(name.map_err(|_| "it must be the name of a user")?);
            }
            ("watch", "settle") => self.settle = duration(value)?,
            ("presence", "show") => {
                self.presence.show = match value.trim() {
                    "contacts" => true,
                    "nobody" => false,
                    _ => return Err("it must be contacts or nobody"),
                };
            }
            ("presence", "listed") => self.presence.listed = yes_or_no(value)?,
            ("relay", key) => self.relay.set(key, value)?,
            ("smtp", key) => self.smtp.get_or_insert_default().set(key, value)?,
            ("webhook", key) => self.webhook.set(key, value)?,
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }
}

/// The sections and keys of the template, which has every one.
fn known() -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut section = "";
    SETTINGS_TEMPLATE.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            return Some((section, ""));
        }
        let (key, _) = line.trim_start_matches("# ").split_once(" = ")?;
        let is_key = key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        is_key.then_some((section, key))
    })
}

/// That a section has no such key, with its line and the nearest that there is.
fn unknown<'a>(
    text: &str,
    section: &str,
    key: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    let line = line_of(text, section, Some(key));
    let near = did_you_mean(key, known);
    format!("line {line}: [{section}] {key}: {UNKNOWN}{near}")
}

/// The keys of a section.
fn keys_of(section: &str) -> impl Iterator<Item = &'static str> {
    let of = move |(of, key): (&'static str, &'static str)| {
        (of == section && !key.is_empty()).then_some(key)
    };
    known().filter_map(of)
}

/// The number of the line with the heading of a section, or with a key of it.
fn line_of(text: &str, section: &str, key: Option<&str>) -> usize {
    let heading = format!("[{section}]");
    let mut lines = text.lines().map(str::trim_start).zip(1..);
    let Some((_, at)) = lines.find(|(line, _)| line.starts_with(&heading)) else {
        return 1;
    };
    let Some(key) = key else {
        return at;
    };
    let is_key = |line: &str| {
        let word = line.split(['=', ' ', '\t']).next();
        word == Some(key)
    };
    lines
        .find(|(line, _)| is_key(line))
        .map_or(at, |(_, at)| at)
}

/// Reads `none`, `shared`, `all`, or names of users.
fn programs(text: &str) -> Result<Programs, &'static str> {
    match text.trim() {
        "none" => Ok(Programs::None),
        "shared" => Ok(Programs::Shared),
        "all" => Ok(Programs::All),
        users => users
            .split(',')
            .map(|user| Name::user(user.trim()))
            .collect::<Result<_, _>>()
            .map(Programs::SharedAnd)
            .map_err(|_| "it must be none, shared, all, or names of users with commas between"),
    }
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text.trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("it must be yes or no"),
    }
}

fn count(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("it must be a whole number above 0"),
    }
}

/// Reads `500ms`, `10s`, `5m`, `1h`, or a plain number of seconds.
fn duration(text: &str) -> Result<Duration, &'static str> {
    const MUST: &str = "it must be a time like 500ms, 10s, 5m or 1h, above 0 and at most a day";
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| MUST)?;
    let scale = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(MUST),
    };
    let time = Duration::from_millis(number.saturating_mul(scale));
    if time.is_zero() || time > Duration::from_secs(DAY) {
        return Err(MUST);
    }
    Ok(time)
}

/// Reads days, `30d`, or a time as in [`duration`].
pub(super) fn age(text: &str) -> Result<Duration, &'static str> {
    const MUST: &str = "it must be a time like 12h or 30d, above 0 and at most 3650d";
    let Some(days) = text.trim().strip_suffix('d') else {
        return duration(text).map_err(|_| MUST);
    };
    match days.trim().parse() {
        Ok(days @ 1..=3650) => Ok(Duration::from_secs(days * DAY)),
        _ => Err(MUST),
    }
}

/// Reads a plain number, or one with `K`, `M`, `G` or `T` (powers of 1024).
pub(crate) fn bytes(text: &str) -> Result<u64, &'static str> {
    const MUST: &str = "it must be a number of bytes like 500M or 20G";
    let (number, shift) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(MUST),
            };
            (text.get(..at).unwrap_or_default(), shift)
        }
        _ => (text, 0),
    };
    let number: u64 = number.trim().parse().map_err(|_| MUST)?;
    number
        .checked_mul(1 << shift)
        .filter(|n| i64::try_from(*n).is_ok())
        .ok_or(MUST)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
    }

    #[test]
    fn every_line_of_the_template_is_a_setting() {
        let template = SETTINGS_TEMPLATE;
        assert_eq!(Settings::parse(template).unwrap(), Settings::default());
        let lines: Vec<_> = template
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") => rest,
                _ => line,
            })
            .collect();
        let settings = Settings::parse(&lines.join("\n")).unwrap();
        assert_eq!(settings.smtp.unwrap().host, "mail.example.org");
        assert_eq!(settings.webhook.allow.len(), 3);
    }

    #[test]
    fn what_is_unknown_has_its_line_and_what_it_is_like() {
        let why = |text| Settings::parse(text).unwrap_err();
        assert_eq!(
            why("[server]\n\nidle_deadlin = 60s\n"),
            "line 3: [server] idle_deadlin: unknown setting: did you mean idle_deadline?"
        );
        assert_eq!(
            why("# mail\n[smpt]\nhost = x\n"),
            "line 2: unknown section [smpt]: did you mean smtp?"
        );
    }

    #[test]
    fn units_are_read() {
        let text = "[server]\nopening_deadline = 500ms\nidle_deadline = 2m\nmax_filesize=20G\n";
        let settings = Settings::parse(text).unwrap();
        assert_eq!(settings.opening_deadline, Duration::from_millis(500));
        let age = |text: &str| Settings::parse(&format!("[server]\nopening_max_age = {text}\n"));
        let of = |text| age(text).unwrap().opening_max_age;
        assert_eq!(of("7d"), Duration::from_secs(7 * 86_400));
        assert_eq!(of("90m"), Duration::from_secs(90 * 60));
        for text in ["0d", "d", "4000d", "30x", "-1d"] {
            assert!(age(text).is_err(), "{text}");
        }
        assert_eq!(settings.idle_deadline, Duration::from_secs(120));
        assert_eq!(settings.max_filesize, 20 << 30);
    }

    #[test]
    fn what_would_be_ignored_is_an_error() {
        for text in [
            "[server]\nlissten = x",
            "[server]\nmax_connections = 0",
            "[hooks]\nscript_deadline = soon",
            "[server]\nmax_filesize = 99999999999T",
            "[smtp]\nserver = x",
            "[webhook]\nallowed = x",
            "[server]\nlog_format = xml",
            "[server]\naddress = http://example.org",
            "[tls]\nkey = key.pem",
            "[quic]\ngso = maybe",
            "[relay]\nenabled = on",
            "[relay]\nuser = ../x",
            "[relay]\nmax_pairs = 0",
            "[relay]\nrate = 0",
            "[relay]\nguest = yes",
            "[relay]\nkeep = forever",
            "[relay]\nbox_letters = 0",
            "[presence]\nshow = friends",
        ] {
            assert!(Settings::parse(text).is_err(), "{text}");
        }
    }
}

//! What differs between two versions of m2y.ini, and what of it a running server takes over.

use super::Settings;

/// A setting that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Section and key, with a point between.
    pub key: String,
    /// Whether it only takes effect when the server starts again.
    pub needs_restart: bool,
}

/// One or several keys that are one value.
struct Row {
    key: &'static str,
    is_same: fn(&Settings, &Settings) -> bool,
    /// For those that need a restart: keeps the value that is running.
    keep: Option<fn(&mut Settings, &Settings)>,
}

/// A setting that takes effect at once.
macro_rules! at_once {
    ($key:literal, $($field:tt).+) => {
        Row {
            key: $key,
            is_same: |one, other| one.$($field).+ == other.$($field).+,
            keep: None,
        }
    };
}

/// A setting that takes effect when the server starts again.
macro_rules! at_start {
    ($key:literal, $($field:tt).+) => {
        Row {
            key: $key,
            is_same: |one, other| one.$($field).+ == other.$($field).+,
            keep: Some(|new, running| new.$($field).+.clone_from(&running.$($field).+)),
        }
    };
}

/// One of the keys of `[smtp]`, which is there or not.
macro_rules! of_smtp {
    ($key:literal, $field:ident) => {
        Row {
            key: $key,
            is_same: |one, other| {
                let of = |settings: &Settings| settings.smtp.as_ref().map(|s| s.$field.clone());
                of(one) == of(other)
            },
            keep: None,
        }
    };
}

/// All keys but those of `[store NAME]`.
const ROWS: &[Row] = &[
    at_start!("server.listen", listen),
    at_once!("server.address", addresses),
    at_once!("server.max_connections", max_connections),
    at_once!("server.max_connections_per_address", max_per_address),
    at_once!("server.messages_per_second", message_rate),
    at_once!("server.opening_deadline", opening_deadline),
    at_once!("server.opening_max_age", opening_max_age),
    at_once!("server.idle_deadline", idle_deadline),
    at_once!("server.shutdown_deadline", shutdown_deadline),
    at_once!("server.max_filesize", max_filesize),
    at_start!("server.metrics", metrics),
    at_start!("server.log_format", log_format),
    at_start!("tls.certificate", tls.certificate),
    at_start!("tls.key", tls.key),
    at_start!("quic.gso", quic_gso),
    at_once!("hooks.script_deadline", script_deadline),
    at_once!("hooks.executable_deadline", executable_deadline),
    at_once!("hooks.executables", executables),
    at_once!("hooks.retry_delay", retry.delay),
    at_once!("hooks.retry_limit", retry.limit),
    of_smtp!("smtp.host", host),
    of_smtp!("smtp.port", port),
    of_smtp!("smtp.from", from),
    of_smtp!("smtp.security", security),
    of_smtp!("smtp.username", username),
    of_smtp!("smtp.password_file", password_file),
    of_smtp!("smtp.ca_file", ca_file),
    of_smtp!("smtp.deadline", deadline),
    at_once!("webhook.allow", webhook.allow),
    at_once!("webhook.deadline", webhook.deadline),
    at_once!("webhook.ca_file", webhook.ca_file),
    at_start!("relay.enabled", relay.enabled),
    at_start!("relay.user", relay.user),
    at_once!("relay.guests", relay.guests),
    at_once!("relay.max_pairs", relay.max_pairs),
    at_once!("relay.pairs_per_member", relay.pairs_per_member),
    at_once!("relay.pairs_per_address", relay.pairs_per_address),
    at_once!("relay.rate", relay.rate),
    at_start!("relay.letters", relay.letters),
    at_once!("relay.keep", relay.keep),
    at_once!("relay.max_letters", relay.per_member.letters),
    at_once!("relay.max_letter_bytes", relay.per_member.bytes),
    at_once!("relay.box_letters", relay.per_box.letters),
    at_once!("relay.box_bytes", relay.per_box.bytes),
    at_once!("presence.show", presence.show),
    at_once!("presence.listed", presence.listed),
    at_start!("watch.settle", settle),
    at_once!("folder.inbox_max", inbox_max),
    at_once!("client.user", user),
];

impl Settings {
    /// What has changed since the `old` ones, in the order of the template.
    pub fn changes_since(&self, old: &Self) -> Vec<Change> {
        let changed = ROWS.iter().filter(|row| !(row.is_same)(self, old));
        let mut changes: Vec<_> = changed
            .map(|row| Change {
                key: row.key.to_owned(),
                needs_restart: row.keep.is_some(),
            })
            .collect();
        let names = old.stores.keys().chain(self.stores.keys());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (before, now) = (old.stores.get(name), self.stores.get(name));
            if before != now {
                changes.push(Change {
                    key: format!("store {name}"),
                    // Folders hold the place that they were opened with.
                    needs_restart: before.is_some(),
                });
            }
        }
        changes
    }

    /// Keeps what cannot take effect before the server starts again as the `running` ones have it.
    pub fn keep_fixed(&mut self, running: &Self) {
        for keep in ROWS.iter().filter_map(|row| row.keep) {
            keep(self, running);
        }
        for (name, place) in &running.stores {
            self.stores.insert(name.clone(), place.clone());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{super::known, *};

    #[test]
    fn every_key_of_the_template_has_its_row() {
        let is_key = |(section, key): &(&str, &str)| {
            !key.is_empty() && !section.starts_with(super::super::store::SECTION)
        };
        for (section, key) in known().filter(is_key) {
            let key = format!("{section}.{key}");
            assert!(ROWS.iter().any(|row| row.key == key), "{key}");
        }
    }

    #[test]
    fn what_has_changed_is_named_and_what_needs_a_restart_is_kept() {
        let old = Settings::parse("[server]\nlisten = a:1\nmax_filesize = 1M\n").unwrap();
        let text = "[server]\nlisten = b:1\nmax_filesize = 2M\n[store disk]\nurl = file:///disk\n";
        let mut new = Settings::parse(text).unwrap();
        let changes: Vec<_> = new
            .changes_since(&old)
            .into_iter()
            .map(|change| (change.key, change.needs_restart))
            .collect();
        let expected = [
            ("server.listen".to_owned(), true),
            ("server.max_filesize".to_owned(), false),
            ("store disk".to_owned(), false),
        ];
        assert_eq!(changes, expected);
        new.keep_fixed(&old);
        assert_eq!((&new.listen, new.max_filesize), (&old.listen, 2 << 20));
        assert!(old.changes_since(&old).is_empty());
    }
}

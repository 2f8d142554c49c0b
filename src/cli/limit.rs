//! How fast a command may transfer.

use std::{num::NonZeroU64, sync::Arc};

use clap::Args;

use crate::session::pace::Pace;

/// How fast files move at most.
#[derive(Debug, Args)]
pub struct Limit {
    /// Cap the speed of all files together, in bytes a second: 500K, 10M, 1G
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit: Option<NonZeroU64>,
}

impl Limit {
    /// The pace that all connections share; `None` without a limit.
    pub fn pace(&self) -> Option<Arc<Pace>> {
        self.limit.map(|rate| Arc::new(Pace::new(rate)))
    }
}

/// Parses bytes per second: `500K`, `10M`, `1G`, `1500`.
pub fn rate(text: &str) -> Result<NonZeroU64, String> {
    let wrong = || "must be bytes a second, 1 or more, like 500K, 10M or 1G".to_owned();
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1_000),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1_000_000),
            None => match text.strip_suffix(['G', 'g']) {
                Some(digits) => (digits, 1_000_000_000),
                None => (text, 1),
            },
        },
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let rate = number.checked_mul(unit).ok_or_else(wrong)?;
    NonZeroU64::new(rate).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_a_decimal_unit_or_none() {
        for (text, bytes) in [
            ("1500", 1_500),
            ("500K", 500_000),
            ("10m", 10_000_000),
            ("1G", 1_000_000_000),
        ] {
            assert_eq!(rate(text).unwrap().get(), bytes, "{text}");
        }
        for text in [
            "",
            "0",
            "M",
            "-1",
            "+1",
            "1.5M",
            "10MB",
            "10 M",
            "99999999999999999999",
            "99999999999999999G",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}

//! `[relay]`: what a relay allows.

use std::{num::NonZeroU64, time::Duration};

use super::{DAY, UNKNOWN, age, bytes, count, yes_or_no};
use crate::root::name::Name;

/// What a relay allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// `enabled`: whether the server is a relay.
    pub enabled: bool,
    /// `user`: the user of the root whose contacts are the members.
    pub user: Option<Name>,
    /// `guests`: whether people may call who are no members.
    pub guests: bool,
    /// `max_pairs`: pairs in all.
    pub max_pairs: usize,
    /// `pairs_per_member`: pairs of one member.
    pub pairs_per_member: usize,
    /// `pairs_per_address`: pairs of the callers of one host.
    pub pairs_per_address: usize,
    /// `rate`: bytes a second that a pair may move; without it as many as come.
    pub rate: Option<NonZeroU64>,
    /// `letters`: whether letters are kept for members.
    pub letters: bool,
    /// `keep`: how long a letter waits, and a receipt after it.
    pub keep: Duration,
    /// `max_letters` and `max_letter_bytes`: what waits for one member.
    pub per_member: Quota,
    /// `box_letters` and `box_bytes`: what one contact of a member may leave.
    pub per_box: Quota,
}

/// What may lie somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Letters.
    pub letters: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            enabled: false,
            user: None,
            guests: true,
            max_pairs: 1_024,
            pairs_per_member: 64,
            pairs_per_address: 32,
            rate: None,
            letters: true,
            keep: Duration::from_secs(14 * DAY),
            per_member: Quota {
                letters: 1_000,
                bytes: 4 << 30,
            },
            per_box: Quota {
                letters: 100,
                bytes: 1 << 30,
            },
        }
    }
}

impl RelaySettings {
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "enabled" => self.enabled = yes_or_no(value)?,
            "user" => {
                let name = Name::user(value.trim());
                self.user = Some(name.map_err(|_| "it must be the name of a user")?);
            }
            "guests" => self.guests = yes_or_no(value)?,
            "max_pairs" => self.max_pairs = count(value)?,
            "pairs_per_member" => self.pairs_per_member = count(value)?,
            "pairs_per_address" => self.pairs_per_address = count(value)?,
            "rate" => {
                let rate = NonZeroU64::new(bytes(value)?);
                self.rate = Some(rate.ok_or("it must be above 0")?);
            }
            "letters" => self.letters = yes_or_no(value)?,
            "keep" => self.keep = age(value)?,
            "max_letters" => self.per_member.letters = count(value)? as u64,
            "max_letter_bytes" => self.per_member.bytes = bytes(value)?,
            "box_letters" => self.per_box.letters = count(value)? as u64,
            "box_bytes" => self.per_box.bytes = bytes(value)?,
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }
}

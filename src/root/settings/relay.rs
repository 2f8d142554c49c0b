//! `[relay]`: what a relay allows.

use std::num::NonZeroU64;

use super::{UNKNOWN, bytes, count, yes_or_no};
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
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }
}

//! The prekeys of a user: enough of them, and none that are too old.

use tracing::warn;

use crate::{
    clock,
    crypto::{SysRng, keys::PrivateKey},
    error::Error,
    root::{
        name::Name,
        prekeys::{Prekey as Secret, Prekeys},
        user::User,
    },
    wire::{
        WireError,
        letter::{self, Prekey, PrekeyKind},
        post::PREKEYS,
        session::Share,
    },
};

/// The age of the prekey of a day from which on it is replaced, in milliseconds.
const DAY: u64 = 86_400_000;

/// How long the private half of a prekey is kept at most, in milliseconds: longer than letters wait
/// that were sealed for the prekey of a day.
pub(super) const KEPT: u64 = 31 * DAY;

/// The same for prekeys of one letter that were handed out and not used.
const KEPT_ONCE: u64 = 90 * DAY;

/// The age at which all prekeys of one letter are replaced at the relay: the last letter for one of them
/// can wait for long after that.
const RENEWED: u64 = 45 * DAY;

/// Private halves that are kept at most.
const MOST: usize = 2_000;

/// The prekeys of a user after some were made.
pub(super) struct Replenished {
    /// The private halves of all.
    pub(super) prekeys: Prekeys,
    /// The new ones, to be published.
    pub(super) public: Vec<Prekey>,
    /// Whether those that the relay has are worth nothing any more.
    pub(super) replace: bool,
}

/// Makes what is missing at a relay that has so many prekeys for one letter each, and has one for the
/// day or not. The private halves are safe when this returns. It waits for a disk.
pub(super) fn replenish(
    (user, relay): (&User, &Name),
    private: &PrivateKey,
    (once, has_daily): (usize, bool),
) -> Result<Replenished, Error> {
    let read = user.prekeys(relay, private)?;
    let is_lost = read.is_none();
    if is_lost {
        warn!(user = %user.name(), %relay, "the prekeys cannot be opened: there are new ones, and letters that wait are sent again");
    }
    let mut prekeys = read.unwrap_or_default();
    let now = clock::millis();
    let is_young = |key: &Secret, most| now.saturating_sub(key.time) < most;
    let count = prekeys.once.len() + prekeys.daily.len();
    prekeys.daily.retain(|key| is_young(key, KEPT));
    prekeys.once.retain(|key| is_young(key, KEPT_ONCE));
    let surplus = prekeys.once.len().saturating_sub(MOST);
    prekeys.once.drain(..surplus);
    // What the relay has without a private half, or with one that is about to go, is worth nothing.
    let replace = is_lost
        || now.saturating_sub(prekeys.renewed) > RENEWED
        || prekeys.once.len() < once
        || (prekeys.daily.is_empty() && has_daily);
    // Numbers are not used again, even if the file was lost.
    prekeys.next = prekeys.next.max(now.saturating_mul(1_000));
    let newest = prekeys.daily.last();
    let wants_daily = replace || !has_daily || !newest.is_some_and(|key| is_young(key, DAY));
    let missing = match replace {
        true => PREKEYS,
        false if once < PREKEYS / 2 => PREKEYS - once,
        false => 0,
    };
    if replace {
        prekeys.renewed = now;
    }
    let mut public = Vec::new();
    for _ in 0..missing {
        let (secret, key) = make(PrekeyKind::Once, &mut prekeys.next, now, private)?;
        prekeys.once.push(secret);
        public.push(key);
    }
    if wants_daily {
        let (secret, key) = make(PrekeyKind::Daily, &mut prekeys.next, now, private)?;
        prekeys.daily.push(secret);
        public.push(key);
    }
    // The private halves first: a public one without is of no use to anybody.
    if !public.is_empty() || prekeys.once.len() + prekeys.daily.len() != count {
        user.set_prekeys(relay, private.public(), &prekeys)?;
    }
    Ok(Replenished {
        prekeys,
        public,
        replace,
    })
}

/// A new prekey: its private half, and what is published.
fn make(
    kind: PrekeyKind,
    next: &mut u64,
    now: u64,
    private: &PrivateKey,
) -> Result<(Secret, Prekey), Error> {
    let number = *next;
    *next = next.saturating_add(1);
    let secret = letter::new_prekey(&mut SysRng).map_err(WireError::from)?;
    let public = Share::from_secret(&secret).public;
    let key = Prekey::sign(kind, number, now, public, private, &mut SysRng)?;
    let secret = Secret {
        number,
        time: now,
        secret,
    };
    Ok((secret, key))
}

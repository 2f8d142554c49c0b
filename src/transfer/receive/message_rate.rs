//! How many messages a second a contact may send: more of them wait, and with them the session in
//! which they come.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::receiver::Parties;

/// What a contact who was silent may send at once: that of so much time.
const BURST: Duration = Duration::from_secs(2);

/// The longest time that messages wait, however many have come.
const MOST: Duration = Duration::from_secs(60);

/// Contacts that are remembered before those are forgotten who have been silent.
const MANY: usize = 1_024;

/// The user and the contact.
type Pair = (String, String);

/// The token buckets of all contacts: when each will have had the time for what it sent.
#[derive(Default)]
pub struct MessageRate(Mutex<HashMap<Pair, Instant>>);

impl MessageRate {
    /// Waits until this many messages of a contact may be decided about, at `rate` a second.
    pub async fn wait(&self, parties: &Parties, messages: usize, rate: usize) {
        let pair = (parties.user.name().to_string(), parties.from.to_string());
        sleep_until(self.take(pair, messages, rate, Instant::now())).await;
    }

    /// Takes so many tokens, and returns when all of them will be there.
    fn take(&self, pair: Pair, messages: usize, rate: usize, now: Instant) -> Instant {
        let mut paid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        if paid.len() >= MANY {
            paid.retain(|_, paid| *paid > earliest);
        }
        let cost = (messages as f64 / rate.max(1) as f64).min(MOST.as_secs_f64());
        let paid = paid.entry(pair).or_insert(earliest);
        *paid = ((*paid).max(earliest) + Duration::from_secs_f64(cost)).min(now + MOST);
        *paid
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_has_a_burst_and_then_its_rate_and_no_other_waits_for_it() {
        let rate = MessageRate::default();
        let pair = |from: &str| ("roland-frei".to_owned(), from.to_owned());
        let now = Instant::now();
        for _ in 0..200 {
            assert!(rate.take(pair("flood"), 1, 100, now) <= now);
        }
        let until = rate.take(pair("flood"), 1, 100, now);
        let wait = until.duration_since(now).as_secs_f64();
        assert!((wait - 0.01).abs() < 1e-6, "{wait}");
        assert!(rate.take(pair("other"), 1, 100, now) <= now);
        // However many come together, all of them are waited for.
        let until = rate.take(pair("other"), 299, 100, now);
        let wait = until.duration_since(now).as_secs_f64();
        assert!((wait - 1.0).abs() < 1e-6, "{wait}");
        let until = rate.take(pair("other"), usize::MAX, 1, now);
        assert_eq!(until, now + MOST);
    }
}

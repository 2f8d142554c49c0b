//! Bytes that move, and how fast.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How long is counted until a rate stands, in milliseconds.
const WINDOW: u64 = 1_000;

/// How much has moved, and the rate of the last second. One thread at a time writes.
///
/// What reads does not have to come back for a rate: the writer itself takes note of the time, once
/// a second, and of how much had moved by then.
pub(super) struct Progress {
    bytes: AtomicU64,
    /// When the present window began, in milliseconds, and how much had moved by then.
    since: AtomicU64,
    before: AtomicU64,
    /// The rate of the window before that.
    rate: AtomicU64,
}

impl Progress {
    /// So much is there before it begins.
    pub(super) fn new(held: u64) -> Self {
        Self {
            bytes: AtomicU64::new(held),
            since: AtomicU64::new(0),
            before: AtomicU64::new(held),
            rate: AtomicU64::new(0),
        }
    }

    /// So much is there, this many milliseconds after the beginning.
    pub(super) fn reach(&self, bytes: u64, now: u64) {
        self.bytes.store(bytes, Relaxed);
        let took = now.saturating_sub(self.since.load(Relaxed));
        if took >= WINDOW {
            let moved = bytes.saturating_sub(self.before.load(Relaxed));
            self.rate.store(per_second(moved, took), Relaxed);
            self.before.store(bytes, Relaxed);
            self.since.store(now, Relaxed);
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Bytes a second: of the present window, and of as much of the one before as makes it a whole
    /// one.
    pub(super) fn rate(&self, now: u64) -> u64 {
        let since = self.since.load(Relaxed);
        let took = now.saturating_sub(since);
        let moved = self.bytes().saturating_sub(self.before.load(Relaxed));
        if since == 0 || took >= WINDOW {
            return per_second(moved, took);
        }
        let rest = u128::from(self.rate.load(Relaxed)) * u128::from(WINDOW - took);
        let rest = u64::try_from(rest / u128::from(WINDOW)).unwrap_or(u64::MAX);
        moved.saturating_add(rest)
    }
}

fn per_second(bytes: u64, millis: u64) -> u64 {
    let rate = u128::from(bytes) * 1_000 / u128::from(millis.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_has_its_rate_at_any_time() {
        let progress = Progress::new(5_000);
        // A hundred bytes each millisecond.
        for now in 1..=4_000 {
            progress.reach(5_000 + now * 100, now);
            let rate = progress.rate(now);
            assert!((99_000..=101_000).contains(&rate), "{rate} after {now} ms");
        }
    }

    #[test]
    fn the_rate_of_what_stands_still_goes_down() {
        let progress = Progress::new(0);
        for now in 1..=2_000 {
            progress.reach(now * 100, now);
        }
        let rates: Vec<_> = (2..=12).map(|s| progress.rate(s * 1_000)).collect();
        assert!(rates.is_sorted_by(|a, b| a >= b), "{rates:?}");
        assert_eq!(rates.last(), Some(&0));
    }

    #[test]
    fn what_was_there_before_is_not_counted() {
        let progress = Progress::new(1 << 40);
        assert_eq!(progress.rate(0), 0);
        progress.reach((1 << 40) + 10, 100);
        assert_eq!(progress.rate(100), 100);
    }
}

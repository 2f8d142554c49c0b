//! The lines of the log that strangers cause: a few a minute, then only a count.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::{error, info};

use crate::transport::Peer;

/// Lines that are written in full before the rest is only counted.
const LINES: u32 = 10;

/// How long one count lasts.
const MINUTE: Duration = Duration::from_secs(60);

/// Writes why peers were turned away, at most [`LINES`] a minute and a sum.
#[derive(Clone, Default)]
pub struct StrangerLog {
    /// What strangers did.
    attempts: Arc<Limit>,
    /// What failed at the server while it looked at one: it must not drown among these.
    faults: Arc<Limit>,
}

impl StrangerLog {
    /// A peer is turned away because of what it sent.
    pub fn turned_away(&self, peer: &Peer, why: impl fmt::Display) {
        if let Some(suppressing) = self.attempts.count(Instant::now()) {
            self.sum_up_later(suppressing);
        } else {
            info!(%peer, "turned away: {why}");
        }
    }

    /// A peer is turned away because the server failed.
    pub fn failed(&self, peer: &Peer, why: impl fmt::Display) {
        if let Some(suppressing) = self.faults.count(Instant::now()) {
            self.sum_up_later(suppressing);
        } else {
            error!(%peer, "turned away: {why}");
        }
    }

    /// Writes the sums of what was not written.
    pub fn sum_up(&self) {
        match self.attempts.take() {
            0 => {}
            more => info!(more, "{more} more were turned away"),
        }
        match self.faults.take() {
            0 => {}
            more => error!(
                more,
                "{more} more were turned away because the server failed"
            ),
        }
    }

    fn sum_up_later(&self, suppressing: Suppressing) {
        if let Suppressing::First(rest) = suppressing {
            let log = self.clone();
            tokio::spawn(async move {
                sleep(rest).await;
                log.sum_up();
            });
        }
    }
}

/// A line that is only counted.
#[derive(Debug, PartialEq, Eq)]
enum Suppressing {
    /// The first one of this minute; this much of the minute is left.
    First(Duration),
    Another,
}

/// Counts the lines of a minute.
#[derive(Default)]
struct Limit(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    /// When this minute began.
    since: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl Limit {
    /// `None` if the line is to be written.
    fn count(&self, now: Instant) -> Option<Suppressing> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = *counts.since.get_or_insert(now);
        let mut passed = now.saturating_duration_since(begun);
        if passed >= MINUTE {
            counts.since = Some(now);
            counts.written = 0;
            passed = Duration::ZERO;
        }
        if counts.written < LINES {
            counts.written += 1;
            return None;
        }
        counts.suppressed += 1;
        Some(match counts.suppressed {
            1 => Suppressing::First(MINUTE - passed),
            _ => Suppressing::Another,
        })
    }

    fn take(&self) -> u64 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut counts.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_ten_lines_a_minute_the_rest_is_counted() {
        let limit = Limit::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        for _ in 0..LINES {
            assert_eq!(limit.count(at(0)), None);
        }
        let rest = Duration::from_secs(50);
        assert_eq!(limit.count(at(10)), Some(Suppressing::First(rest)));
        assert_eq!(limit.count(at(59)), Some(Suppressing::Another));
        assert_eq!(limit.take(), 2);
        assert_eq!(limit.take(), 0);
        // The next minute has lines of its own.
        assert_eq!(limit.count(at(60)), None);
    }
}

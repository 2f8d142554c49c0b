//! How fast to write or read, if that is to be slower than the network.

use std::{
    num::NonZeroU64,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Time whose share of bytes is moved at once: short enough to be steady, long enough for a timer
/// that fires late.
const STEP: Duration = Duration::from_millis(50);

/// The most bytes that are moved at once.
const MOST: u64 = 262_144;

/// A limit in bytes per second, which all connections that share it keep together.
#[derive(Debug)]
pub struct Pace {
    rate: NonZeroU64,
    /// When everything that was moved will have had its time.
    paid: Mutex<Instant>,
}

impl Pace {
    /// At most this many bytes per second.
    pub fn new(rate: NonZeroU64) -> Self {
        Self {
            rate,
            paid: Mutex::new(Instant::now()),
        }
    }

    /// Waits until something may be moved; returns how many bytes at most. Nothing is
    /// lost if the future is dropped.
    pub async fn leave(&self) -> usize {
        loop {
            let paid = *self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            if paid <= Instant::now() {
                break;
            }
            sleep_until(paid).await;
        }
        let step = self.rate.get().saturating_mul(STEP.as_millis() as u64) / 1_000;
        usize::try_from(step.clamp(1, MOST)).unwrap_or(usize::MAX)
    }

    /// How long nothing may be moved, for a thread that waits by itself.
    pub fn rest(&self) -> Duration {
        let paid = *self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        paid.saturating_duration_since(Instant::now())
    }

    /// This many bytes were moved. The unused part of the last moment counts too.
    pub fn spend(&self, bytes: usize) {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let from = (*paid).max(now.checked_sub(STEP).unwrap_or(now));
        *paid = from + Duration::from_secs_f64(bytes as f64 / self.rate.get() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_takes_at_least_the_time_that_the_limit_wants() {
        let pace = Pace::new(NonZeroU64::new(10_000).unwrap());
        let begun = Instant::now();
        let mut left = 5_000;
        while left > 0 {
            let step = pace.leave().await.min(left);
            pace.spend(step);
            left -= step;
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(400), "{took:?}");
    }
}

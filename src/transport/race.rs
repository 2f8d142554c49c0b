//! Attempts that race: the next one begins a little later, and the first that succeeds wins.

use std::{fmt, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};

use super::{Address, Dialer, Link, TransportError};

/// How much later the next attempt begins, unless one fails before that (RFC 8305, section 8).
const LATER: Duration = Duration::from_millis(250);

/// An attempt that failed.
#[derive(Debug)]
pub struct Tried {
    /// Where to.
    pub address: Address,
    /// How long it took.
    pub took: Duration,
    /// Why.
    pub error: TransportError,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reason, took) = (self.error.reason(), self.took.as_secs_f64());
        write!(f, "{}: {reason} ({took:.1} s)", self.address)
    }
}

/// Connects to the first address that answers, and says which it is. They are tried in this order.
pub async fn dial<'a>(
    dialer: &dyn Dialer,
    turn: &[&'a Address],
) -> Result<(Link, &'a Address), TransportError> {
    if let [only] = turn {
        return Ok((dialer.dial(only).await?, only));
    }
    let mut attempts = Vec::new();
    for address in turn.iter().copied() {
        let attempt = async move {
            let begun = Instant::now();
            let dialled = dialer.dial(address).await.map(|link| (link, address));
            dialled.map_err(|error| Tried {
                address: address.clone(),
                took: begun.elapsed(),
                error,
            })
        };
        attempts.push(attempt.boxed());
    }
    first(attempts).await.map_err(TransportError::Unreachable)
}

/// The result of the first attempt that succeeds, or the errors of all in the order in which they
/// came. The other attempts are given up.
pub(super) async fn first<T, E>(attempts: Vec<BoxFuture<'_, Result<T, E>>>) -> Result<T, Vec<E>> {
    let mut waiting = attempts.into_iter().peekable();
    let mut running = FuturesUnordered::new();
    let mut errors = Vec::new();
    running.extend(waiting.next());
    loop {
        tokio::select! {
            ended = running.next() => match ended {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => {
                    errors.push(error);
                    running.extend(waiting.next());
                }
                None => return Err(errors),
            },
            () = sleep(LATER), if waiting.peek().is_some() => running.extend(waiting.next()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Attempt = BoxFuture<'static, Result<u32, u32>>;

    fn after(seconds: u64, result: Result<u32, u32>) -> Attempt {
        let attempt = async move {
            sleep(Duration::from_secs(seconds)).await;
            result
        };
        attempt.boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_answers_wins_and_a_silent_one_delays_the_next_by_a_quarter_second() {
        let begun = Instant::now();
        let silent = vec![after(1_000, Ok(1)), after(0, Ok(2))];
        assert_eq!(first(silent).await, Ok(2));
        assert_eq!(begun.elapsed().as_millis(), 250);
        // One that fails makes room for the next at once.
        let begun = Instant::now();
        assert_eq!(first(vec![after(0, Err(1)), after(0, Ok(2))]).await, Ok(2));
        assert_eq!(begun.elapsed().as_millis(), 0);
        // Nobody is given up for being slow.
        let slow = vec![after(5, Ok(1)), after(1, Err(2)), after(60, Ok(3))];
        assert_eq!(first(slow).await, Ok(1));
        let none = vec![after(2, Err(1)), after(1, Err(2))];
        assert_eq!(first(none).await, Err(vec![2, 1]));
    }
}

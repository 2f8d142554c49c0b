//! A slot that somebody else keeps: a server, or a relay.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinHandle},
    time::timeout,
};

use super::slots::Attempt;

/// Attempts that wait for the owner: one too many is over at once, so that those who are at it are not
/// kept waiting.
const WAITING: usize = 8;

/// How long the last messages may take.
const LAST: Duration = Duration::from_secs(5);

/// A slot that somebody else keeps.
pub struct RemoteSlot {
    /// Its number.
    pub number: u64,
    /// Those who want to use the code.
    pub attempts: mpsc::Receiver<Attempt>,
    close: oneshot::Sender<()>,
    work: JoinHandle<()>,
}

impl RemoteSlot {
    /// A slot whose messages are carried by what `carry` makes: it hands over attempts until the slot
    /// is closed, and then what the owner said last.
    pub fn new<W: Future<Output = ()> + Send + 'static>(
        number: u64,
        carry: impl FnOnce(mpsc::Sender<Attempt>, oneshot::Receiver<()>) -> W,
    ) -> Self {
        let (give, attempts) = mpsc::channel(WAITING);
        let (close, closed) = oneshot::channel();
        Self {
            number,
            attempts,
            close,
            work: task::spawn(carry(give, closed)),
        }
    }

    /// Waits until the other side has everything that was said, and closes the slot.
    pub async fn close(self) {
        drop((self.attempts, self.close));
        let _ = timeout(LAST, self.work).await;
    }
}

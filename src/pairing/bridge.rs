//! Messages of several attempts on one connection: between the host of a code and its owner.

use std::collections::HashMap;

use tokio::{sync::mpsc, task};

use super::slots::Attempt;
use crate::{error::printable, transport::Peer};

/// Frames that wait to be written.
const WAITING: usize = 16;

/// A message of an attempt, or its end.
pub struct Frame {
    /// Which attempt.
    pub attempt: u32,
    /// What was said; nothing if the attempt is over.
    pub message: Option<Vec<u8>>,
}

/// The attempts of a connection.
pub struct Bridge {
    out: mpsc::Sender<Frame>,
    attempts: HashMap<u32, mpsc::Sender<Vec<u8>>>,
}

impl Bridge {
    /// A bridge without attempts, and the frames that are to be written. These end when the bridge is
    /// gone and all attempts are over.
    pub fn new() -> (Self, mpsc::Receiver<Frame>) {
        let (out, frames) = mpsc::channel(WAITING);
        let bridge = Self {
            out,
            attempts: HashMap::new(),
        };
        (bridge, frames)
    }

    /// From now on, messages `from` here go there as those of an attempt, and those from there come
    /// here.
    pub fn join(
        &mut self,
        attempt: u32,
        mut from: mpsc::Receiver<Vec<u8>>,
        to: mpsc::Sender<Vec<u8>>,
    ) {
        // What is over is forgotten, however many the other side begins.
        self.attempts.retain(|_, to| !to.is_closed());
        self.attempts.insert(attempt, to);
        let out = self.out.clone();
        task::spawn(async move {
            let mut message = from.recv().await;
            loop {
                let is_over = message.is_none();
                let sent = out.send(Frame { attempt, message }).await;
                if is_over || sent.is_err() {
                    return;
                }
                message = from.recv().await;
            }
        });
    }

    /// An attempt that begins there, for the owner of the code. `from` says where the joiner is, as far
    /// as the host knows.
    pub fn begin(&mut self, attempt: u32, from: &str, first: Vec<u8>) -> Attempt {
        let (to_owner, incoming) = mpsc::channel(1);
        let (outgoing, from_owner) = mpsc::channel(1);
        self.join(attempt, from_owner, to_owner);
        let named = |_| Peer::Named(printable(from, 64));
        Attempt {
            from: from.parse().map_or_else(named, Peer::Ip),
            first,
            incoming,
            outgoing,
        }
    }

    /// Whether there is an attempt with this number.
    pub fn has(&self, attempt: u32) -> bool {
        self.attempts.contains_key(&attempt)
    }

    /// Takes a frame from there.
    pub fn take(&mut self, frame: Frame) {
        let Frame { attempt, message } = frame;
        let given = match (self.attempts.get(&attempt), message) {
            // Both sides take turns, so that more than one message is one that does not belong here.
            (Some(to), Some(message)) => to.try_send(message).is_ok(),
            _ => false,
        };
        if !given {
            self.attempts.remove(&attempt);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_go_both_ways_and_what_is_over_is_forgotten() {
        let (mut bridge, mut frames) = Bridge::new();
        let mut one = bridge.begin(1, "192.0.2.1:5", b"first".to_vec());
        assert_eq!(one.from.to_string(), "192.0.2.1:5");
        bridge.take(Frame {
            attempt: 1,
            message: Some(b"second".to_vec()),
        });
        assert_eq!(one.incoming.recv().await.unwrap(), b"second");
        one.outgoing.send(b"third".to_vec()).await.unwrap();
        let said = frames.recv().await.unwrap();
        assert_eq!(
            (said.attempt, said.message.unwrap()),
            (1, b"third".to_vec())
        );
        drop(one);
        assert!(frames.recv().await.unwrap().message.is_none());
        for attempt in 2..1_000 {
            drop(bridge.begin(attempt, "\u{1b}[2J", Vec::new()));
            frames.recv().await.unwrap();
        }
        assert!(bridge.attempts.len() < 3, "{}", bridge.attempts.len());
        // Of one that is over, and of one that never was, nothing is heard.
        for attempt in [1, 5_000] {
            bridge.take(Frame {
                attempt,
                message: Some(Vec::new()),
            });
        }
    }
}

//! Messages of several attempts on one connection: between the host of a code and its owner.

use std::collections::HashMap;

use tokio::{sync::mpsc, task};

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

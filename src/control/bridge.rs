//! Messages of several attempts on one connection.

use std::collections::HashMap;

use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::{self, JoinHandle},
};

use crate::json::{Map, Value, canonical};

/// Objects that wait to be written.
const WAITING: usize = 16;

/// Where objects go.
pub(super) type Lines = mpsc::Sender<Map<String, Value>>;

/// Writes objects as lines, until nobody has any more.
pub(super) fn writer(mut to: impl AsyncWrite + Send + Unpin + 'static) -> (Lines, JoinHandle<()>) {
    let (lines, mut waiting) = mpsc::channel::<Map<String, Value>>(WAITING);
    let writing = task::spawn(async move {
        while let Some(object) = waiting.recv().await {
            let line = canonical(&object) + "\n";
            if to.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    (lines, writing)
}

/// An object with these fields.
pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    fields.collect()
}

/// The attempts of a connection.
pub(super) struct Bridge {
    lines: Lines,
    attempts: HashMap<u64, mpsc::Sender<Vec<u8>>>,
}

impl Bridge {
    pub(super) fn new(lines: Lines) -> Self {
        Self {
            lines,
            attempts: HashMap::new(),
        }
    }

    /// From now on, messages `from` here go there as those of an attempt, and those from there come
    /// here.
    pub(super) fn join(
        &mut self,
        attempt: u64,
        mut from: mpsc::Receiver<Vec<u8>>,
        to: mpsc::Sender<Vec<u8>>,
    ) {
        self.attempts.insert(attempt, to);
        let lines = self.lines.clone();
        task::spawn(async move {
            while let Some(message) = from.recv().await {
                let message = hex::encode(message);
                let said = object([("attempt", attempt.into()), ("message", message.into())]);
                if lines.send(said).await.is_err() {
                    return;
                }
            }
            let over = object([("attempt", attempt.into()), ("over", true.into())]);
            let _ = lines.send(over).await;
        });
    }

    /// Takes an object from there, about an attempt.
    pub(super) fn take(&mut self, said: &Map<String, Value>) {
        let Some(attempt) = said.get("attempt").and_then(Value::as_u64) else {
            return;
        };
        let message = said.get("message").and_then(Value::as_str);
        let message = message.and_then(|text| hex::decode(text).ok());
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

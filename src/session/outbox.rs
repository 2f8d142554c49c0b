//! Records that wait to be written, sealed in their order.

use crate::wire::{
    WireError,
    record::{Kind, Stream},
};

/// What one side has to say.
pub struct Outbox {
    records: Stream,
    bytes: Vec<u8>,
    /// How many of the bytes are written.
    written: usize,
}

impl Outbox {
    /// An empty one; `records` seals what goes into it.
    pub fn new(records: Stream) -> Self {
        Self {
            records,
            bytes: Vec::new(),
            written: 0,
        }
    }

    /// Seals a record after those that wait.
    pub fn say(&mut self, kind: Kind, transfer: u32, body: &[u8]) -> Result<(), WireError> {
        self.records
            .record_into(&mut self.bytes, kind, transfer, body)
    }

    /// What is to be written next.
    pub fn pending(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// This many more bytes were written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(bytes);
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
        }
    }

    /// Drops what waits: nobody reads it.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.written)
    }

    /// Whether everything is written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Releases memory.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.bytes = Vec::new();
        }
    }
}

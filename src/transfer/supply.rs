//! Files on their way out of a server's session, to who fetches them.
//!
//! One buffer at a time is made, on a thread for just as long as that takes, while the one
//! before it is written: a peer that reads slowly holds two buffers and no thread. Small
//! files share a buffer.

use std::collections::{HashSet, VecDeque};

use tokio::task::{self, JoinHandle};

use super::{
    BUFFER, LARGE_FILE,
    sealing::{Attempt, Blocks},
};
use crate::{
    error::{Code, Error},
    wire::record::MAX_RECORD,
};

/// What was made.
pub struct Made {
    /// Of which the first `used` bytes are whole records.
    pub buffer: Vec<u8>,
    /// Bytes of records.
    pub used: usize,
    /// Bytes of files.
    pub body: u64,
    /// Files of which there is nothing more to make: their CRC-32, or why not.
    pub ended: Vec<(u32, Result<u32, Error>)>,
    rest: VecDeque<Blocks>,
}

/// The files of a session.
#[derive(Default)]
pub struct Supply {
    waiting: VecDeque<Blocks>,
    work: Option<JoinHandle<Made>>,
    spare: Vec<u8>,
    /// Files that nobody wants any more, and of which blocks are being made.
    given_up: HashSet<u32>,
}

impl Supply {
    /// Has a file made when those before it are.
    pub fn give(&mut self, attempt: Attempt) {
        self.waiting.push_back(Blocks::new(attempt));
    }

    /// Makes nothing more of a file. Whether blocks of it may be among those that are being
    /// made: then it ends with them.
    pub fn give_up(&mut self, transfer: u32) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|blocks| blocks.transfer() != transfer);
        let is_made = self.work.is_some() && self.waiting.len() == before;
        if is_made {
            self.given_up.insert(transfer);
        }
        is_made
    }

    /// Begins with the next buffer, unless one is made already.
    pub fn proceed(&mut self) {
        if self.work.is_none() && !self.waiting.is_empty() {
            let files = std::mem::take(&mut self.waiting);
            let buffer = std::mem::take(&mut self.spare);
            self.work = Some(task::spawn_blocking(move || make(files, buffer)));
        }
    }

    /// What was made next; never, if nothing is. `None` if a thread of ours failed, and with
    /// it all files. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Made> {
        let made = match &mut self.work {
            Some(work) => work.await,
            None => return std::future::pending().await,
        };
        self.work = None;
        let mut made = made.ok()?;
        let given_up = std::mem::take(&mut self.given_up);
        made.ended
            .retain(|(transfer, _)| !given_up.contains(transfer));
        let rest = std::mem::take(&mut made.rest).into_iter();
        // Before those that came meanwhile.
        for blocks in rest
            .rev()
            .filter(|blocks| !given_up.contains(&blocks.transfer()))
        {
            self.waiting.push_front(blocks);
        }
        let over = |transfer| (transfer, Err(Error::new(Code::Later, "given up")));
        made.ended.extend(given_up.into_iter().map(over));
        Some(made)
    }

    /// Takes a buffer back.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.spare = buffer;
    }

    /// Nothing is under way: a session that rests holds no buffer.
    pub fn rest(&mut self) {
        self.spare = Vec::new();
    }
}

/// Bytes of a buffer for a large file: a thread takes longer to begin than to seal a small
/// one.
const LARGE_BUFFER: usize = 4 * BUFFER;

fn make(files: VecDeque<Blocks>, buffer: Vec<u8>) -> Made {
    let mut made = Made {
        buffer,
        used: 0,
        body: 0,
        ended: Vec::new(),
        rest: files,
    };
    let most = match made.rest.front() {
        Some(blocks) if blocks.left() >= LARGE_FILE => LARGE_BUFFER,
        _ => BUFFER,
    };
    while made.used + MAX_RECORD <= most
        && let Some(mut blocks) = made.rest.pop_front()
    {
        let transfer = blocks.transfer();
        match blocks.fill(&mut made.buffer, made.used, most) {
            Ok((used, body)) => {
                made.used = used;
                made.body += body;
                match blocks.is_whole() {
                    true => made.ended.push((transfer, Ok(blocks.crc()))),
                    false => made.rest.push_front(blocks),
                }
            }
            Err(error) => made.ended.push((transfer, Err(error))),
        }
    }
    made
}

//! The outgoing files of a session.
//!
//! One buffer at a time is sealed, on a thread for just as long as that takes, while the one
//! before it is written: a peer that reads slowly holds two buffers and no thread. Small
//! files share a buffer.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use tokio::{
    sync::Notify,
    task::{self, JoinHandle},
};

use super::LARGE_FILE;
use crate::{
    error::{Code, Error},
    transfer::send::{
        blocks::{Attempt, Blocks},
        feed_blocks::FeedBlocks,
    },
    wire::record::MAX_RECORD,
};

/// Bytes of a buffer: four records, so that a system call moves about 256 KiB.
const BUFFER: usize = 4 * MAX_RECORD;

/// Bytes of a buffer for a large file: starting on a thread takes longer than sealing a small one
/// (`benches/side_by_side.sh`).
const LARGE_BUFFER: usize = 4 * BUFFER;

/// A buffer of sealed blocks.
pub struct Sealed {
    /// Its first `used` bytes are whole records.
    pub buffer: Vec<u8>,
    /// Bytes of records.
    pub used: usize,
    /// Bytes of each file in it, by transfer.
    pub moved: Vec<(u32, u64)>,
    /// Files that end with it: their CRC-32, or why no more blocks of them come.
    pub ended: Vec<(u32, Result<u32, Error>)>,
    rest: VecDeque<Blocks>,
    feeds: Vec<FeedBlocks>,
}

/// The files of a session.
#[derive(Default)]
pub struct UploadQueue {
    waiting: VecDeque<Blocks>,
    /// What is sent as it comes.
    feeds: Vec<FeedBlocks>,
    /// Told when there may be more of it.
    woken: Arc<Notify>,
    work: Option<JoinHandle<Sealed>>,
    spare: Vec<u8>,
    /// Files that nobody wants any more, but whose blocks are being sealed.
    given_up: HashSet<u32>,
}

impl UploadQueue {
    /// Queues a file, to be sealed after those before it.
    pub fn push(&mut self, attempt: Attempt) {
        self.waiting.push_back(Blocks::new(attempt));
    }

    /// Sends this from now on as it comes.
    pub fn push_feed(&mut self, feed: FeedBlocks) {
        feed.begin(&self.woken);
        self.feeds.push(feed);
    }

    /// Seals nothing more of a file. Returns whether it still ends with a buffer that is being
    /// sealed: if not, nothing more is heard of it.
    pub fn give_up(&mut self, transfer: u32) -> bool {
        let before = self.waiting.len() + self.feeds.len();
        self.waiting.retain(|blocks| blocks.transfer() != transfer);
        self.feeds.retain(|feed| feed.transfer() != transfer);
        let after = self.waiting.len() + self.feeds.len();
        let is_sealed = self.work.is_some() && after == before;
        if is_sealed {
            self.given_up.insert(transfer);
        }
        is_sealed
    }

    /// Drops all files.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.feeds.clear();
        self.work = None;
    }

    /// Begins the next buffer, unless one is being sealed.
    pub fn proceed(&mut self) {
        let is_ready = !self.waiting.is_empty() || self.feeds.iter().any(FeedBlocks::is_ready);
        if self.work.is_none() && is_ready {
            let files = std::mem::take(&mut self.waiting);
            let feeds = std::mem::take(&mut self.feeds);
            let buffer = std::mem::take(&mut self.spare);
            self.work = Some(task::spawn_blocking(move || seal(files, feeds, buffer)));
        }
    }

    /// The next buffer; never, if none is being sealed. `None` if a thread of ours failed, and
    /// with it all files. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Sealed> {
        let sealed = loop {
            if let Some(work) = &mut self.work {
                break work.await;
            }
            if self.feeds.is_empty() {
                return std::future::pending().await;
            }
            self.woken.notified().await;
            self.proceed();
        };
        self.work = None;
        let mut sealed = sealed.ok()?;
        let given_up = std::mem::take(&mut self.given_up);
        let is_wanted = |transfer: &u32| !given_up.contains(transfer);
        sealed.ended.retain(|(transfer, _)| is_wanted(transfer));
        let rest = std::mem::take(&mut sealed.rest).into_iter();
        // Before those that came meanwhile.
        for blocks in rest.rev().filter(|blocks| is_wanted(&blocks.transfer())) {
            self.waiting.push_front(blocks);
        }
        let feeds = std::mem::take(&mut sealed.feeds).into_iter();
        self.feeds
            .extend(feeds.filter(|feed| is_wanted(&feed.transfer())));
        let over = |transfer| (transfer, Err(Error::new(Code::Later, "given up")));
        sealed.ended.extend(given_up.into_iter().map(over));
        Some(sealed)
    }

    /// Takes a buffer back.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.spare = buffer;
    }

    /// Releases memory: an idle session holds no buffer.
    pub fn shrink(&mut self) {
        self.spare = Vec::new();
    }
}

fn seal(files: VecDeque<Blocks>, feeds: Vec<FeedBlocks>, buffer: Vec<u8>) -> Sealed {
    let mut sealed = Sealed {
        buffer,
        used: 0,
        moved: Vec::new(),
        ended: Vec::new(),
        rest: files,
        feeds: Vec::with_capacity(feeds.len()),
    };
    // First, because somebody watches them.
    for mut feed in feeds {
        let transfer = feed.transfer();
        match feed.fill(&mut sealed.buffer, sealed.used, LARGE_BUFFER) {
            Ok((used, body)) => {
                sealed.used = used;
                sealed.moved.push((transfer, body));
                match feed.is_whole() {
                    true => sealed.ended.push((transfer, Ok(feed.crc()))),
                    false => sealed.feeds.push(feed),
                }
            }
            Err(error) => sealed.ended.push((transfer, Err(error))),
        }
    }
    let most = match sealed.rest.front() {
        Some(blocks) if blocks.left() >= LARGE_FILE => LARGE_BUFFER,
        _ => BUFFER,
    };
    while sealed.used + MAX_RECORD <= most
        && let Some(mut blocks) = sealed.rest.pop_front()
    {
        let transfer = blocks.transfer();
        match blocks.fill(&mut sealed.buffer, sealed.used, most) {
            Ok((used, body)) => {
                sealed.used = used;
                sealed.moved.push((transfer, body));
                match blocks.is_whole() {
                    true => sealed.ended.push((transfer, Ok(blocks.crc()))),
                    false => sealed.rest.push_front(blocks),
                }
            }
            Err(error) => sealed.ended.push((transfer, Err(error))),
        }
    }
    sealed
}

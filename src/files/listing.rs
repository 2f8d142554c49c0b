//! A listing, a part at a time: however long it is, little of it is in memory.

use std::collections::VecDeque;

use super::{Answer, tree::Walk};
use crate::{
    store::{Kind, Stat},
    wire::request::{Entry, Page},
};

/// A listing in progress.
pub struct Listing {
    /// Entries that are there already.
    pub ready: VecDeque<Entry>,
    /// Directories that are still to be read, each with the prefix of its paths.
    pub walks: VecDeque<(String, Walk)>,
}

impl Listing {
    /// The next part. It may wait for a disk.
    pub fn page(mut self: Box<Self>) -> Answer {
        let mut page = Page::default();
        while !page.is_full() {
            if let Some(entry) = self.ready.pop_front() {
                page.push(entry);
                continue;
            }
            let Some((before, walk)) = self.walks.front_mut() else {
                return Answer::Page(page.reply(false), None);
            };
            match walk.advance() {
                Some((path, stat)) => page.push(entry(format!("{before}{path}"), &stat)),
                None => drop(self.walks.pop_front()),
            }
        }
        Answer::Page(page.reply(true), Some(self))
    }
}

/// The entry of a path.
pub fn entry(path: String, stat: &Stat) -> Entry {
    Entry {
        path,
        is_dir: stat.kind == Kind::Directory,
        size: stat.size,
        modified: stat.modified,
    }
}

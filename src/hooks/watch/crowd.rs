//! Many events at once.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Lets the thread of inotify sleep half of the time while events come in crowds: each wakes it,
/// which costs many times what it does with one. The system's queue holds what comes meanwhile.
pub struct Crowd {
    since: Instant,
    events: u32,
}

impl Crowd {
    const WHILE: Duration = Duration::from_millis(4);

    /// How many events within that time are a crowd.
    const MANY: u32 = 64;

    /// Nothing has come yet.
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            events: 0,
        }
    }

    /// One more has come.
    pub fn passes(&mut self) {
        self.events += 1;
        if self.since.elapsed() < Self::WHILE {
            return;
        }
        if self.events >= Self::MANY {
            thread::sleep(Self::WHILE);
        }
        *self = Self::new();
    }
}

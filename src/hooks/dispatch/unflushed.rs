//! Changes of decisions that are not safe yet, or could not be made: their rows of the journal stay
//! until they are.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    hooks::{change::Change, transaction::files::Place},
    journal::{Task, Withheld},
    root::{name::Name, user::User},
};

/// Changes that were made but do not survive a loss of power yet, or could not be made: their row
/// of the journal has to stay.
pub struct Unflushed {
    pub seq: i64,
    pub user: User,
    pub changes: Arc<[Change]>,
    /// Tasks that wait for them.
    pub then: Vec<Task>,
    /// When they are made again, if they could not be.
    pub again: Option<Again>,
    /// Files that stay hidden until then.
    pub withheld: Option<Withheld>,
}

/// Everything that was made but is not safe yet.
#[derive(Default)]
pub struct Rest {
    pub rows: Vec<Unflushed>,
    /// The places of these changes: how many there are at each, and how many displace a file.
    places: HashMap<(Name, Place), (usize, usize)>,
}

impl Rest {
    pub fn add(&mut self, row: Unflushed) {
        self.count(&row, |count, displaces| {
            count.0 += 1;
            count.1 += usize::from(displaces);
        });
        self.rows.push(row);
    }

    /// Forgets the places of a row that was removed.
    pub fn forget(&mut self, row: &Unflushed) {
        self.count(row, |count, displaces| {
            count.0 = count.0.saturating_sub(1);
            count.1 = count.1.saturating_sub(usize::from(displaces));
        });
        let user = row.user.name();
        for place in row.changes.iter().flat_map(Change::places) {
            let key = (user.clone(), place);
            if self.places.get(&key).is_some_and(|count| count.0 == 0) {
                self.places.remove(&key);
            }
        }
    }

    pub fn count(&mut self, row: &Unflushed, mut each: impl FnMut(&mut (usize, usize), bool)) {
        let user = row.user.name();
        for change in row.changes.iter() {
            for place in change.places() {
                let count = self.places.entry((user.clone(), place)).or_default();
                each(count, change.displaces());
            }
        }
    }

    /// Whether a decision about files could not be told from one of these, if both were made
    /// again.
    pub fn meets(&self, user: &User, changes: &[Change]) -> bool {
        !self.places.is_empty()
            && changes.iter().any(|change| {
                let places = change.places().into_iter();
                let mut counts =
                    places.filter_map(|place| self.places.get(&(user.name().clone(), place)));
                counts.any(|(_, displacing)| change.displaces() || *displacing > 0)
            })
    }
}

/// The next attempt at changes that could not be made.
#[derive(Clone, Copy)]
pub struct Again {
    pub when: Instant,
    pub pause: Duration,
    pub attempts: u32,
}

impl Again {
    /// The second attempt.
    pub fn first() -> Self {
        Self {
            when: Instant::now() + PAUSES.0,
            pause: PAUSES.0,
            attempts: 1,
        }
    }
}

/// How long changes that could not be made wait at first, and at most.
pub const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Attempts at changes before they are given up.
pub const MAX_ATTEMPTS: u32 = 20;

/// Rows whose changes wait for a flush before one is made at once.
pub const MAX_UNFLUSHED: usize = 1_024;

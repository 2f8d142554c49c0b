//! The threads that scripts run on, and who is next.
//!
//! They belong to scripts alone: one that works to its deadline takes neither a thread of the
//! network nor one of the disk, and the next one on the thread takes the memory that it let go of.
//! Scripts keep a core busy, so there are few threads for each core, and no user's scripts take
//! more than half of them. A script that works for long leaves its place to the next one, so that
//! even a crowd that works to its deadline keeps nobody waiting.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::slots::Slot;
use crate::root::name::Name;

/// Stack of each: the deepest recursion that a script's limits allow needs a part of it.
const STACK: usize = 8 << 20;

/// How long a thread waits for the next script.
const IDLE: Duration = Duration::from_secs(10);

static CORES: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(2, usize::from));

/// Scripts to run.
pub type Work = Box<dyn FnOnce(&Rc<Seat>) + Send>;

/// Threads that run scripts. Clones are the same ones.
#[derive(Clone)]
pub struct Workers(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
    of_one: usize,
    of_all: usize,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<QueuedWork>,
    tickets: u64,
    /// Threads that wait for work.
    idle: usize,
    /// Scripts that run and have not left their place, of each user and in all.
    running: HashMap<Name, usize>,
    all: usize,
}

struct QueuedWork {
    ticket: u64,
    user: Name,
    work: Work,
}

/// The place of a script among those that run.
pub struct Seat {
    shared: Arc<Shared>,
    user: Name,
    /// What it took in exchange for its place when it left.
    left: Cell<Option<Arc<Slot>>>,
}

impl Seat {
    /// Whether it was left.
    pub fn has_left(&self) -> bool {
        let slot = self.left.take();
        let has_left = slot.is_some();
        self.left.set(slot);
        has_left
    }

    /// Leaves the place to the next one, for another one among those that take long.
    pub fn leave(&self, slot: Arc<Slot>) {
        self.left.set(Some(slot));
        let mut queue = self.shared.queue();
        queue.ended(&self.user);
        self.shared.call(queue);
    }
}

impl Queue {
    /// The index of the next work whose user may run one more.
    fn runnable(&self, of_one: usize, of_all: usize) -> Option<usize> {
        if self.all >= of_all {
            return None;
        }
        let may_run = |waiting: &QueuedWork| {
            let running = self.running.get(&waiting.user).copied();
            running.unwrap_or_default() < of_one
        };
        self.work.iter().position(may_run)
    }

    fn ended(&mut self, user: &Name) {
        self.all = self.all.saturating_sub(1);
        if let Some(running) = self.running.get_mut(user) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(user);
            }
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next work; `None` if none came for a while.
    fn next(&self) -> Option<QueuedWork> {
        let mut queue = self.queue();
        loop {
            if let Some(place) = queue.runnable(self.of_one, self.of_all)
                && let Some(waiting) = queue.work.remove(place)
            {
                *queue.running.entry(waiting.user.clone()).or_default() += 1;
                queue.all += 1;
                return Some(waiting);
            }
            queue.idle += 1;
            let (woken, waited) = self
                .news
                .wait_timeout(queue, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.idle -= 1;
            if waited.timed_out() && queue.runnable(self.of_one, self.of_all).is_none() {
                return None;
            }
        }
    }

    /// Calls a thread for what can run, if there is any and none comes by itself.
    fn call(self: &Arc<Self>, queue: MutexGuard<'_, Queue>) {
        if queue.runnable(self.of_one, self.of_all).is_none() {
            return;
        }
        if queue.idle >= queue.work.len() || queue.idle + queue.all >= self.of_all {
            self.news.notify_one();
            return;
        }
        drop(queue);
        let shared = self.clone();
        let spawned = thread::Builder::new()
            .name("script".to_owned())
            .stack_size(STACK)
            .spawn(move || shared.serve());
        if spawned.is_err() {
            // Out of threads: waiting callers are told so, if no thread is left to come.
            let mut queue = self.queue();
            if queue.idle + queue.all == 0 {
                let lost = std::mem::take(&mut queue.work);
                drop(queue);
                drop(lost);
            }
        }
    }

    /// What a thread does.
    fn serve(self: Arc<Self>) {
        while let Some(QueuedWork { user, work, .. }) = self.next() {
            let seat = Rc::new(Seat {
                shared: self.clone(),
                user,
                left: Cell::new(None),
            });
            // Whatever panics, the thread keeps serving.
            let _ = catch_unwind(AssertUnwindSafe(|| work(&seat)));
            if seat.left.take().is_none() {
                self.queue().ended(&seat.user);
            }
        }
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::default(),
            news: Condvar::new(),
            of_one: *CORES,
            of_all: *CORES * 2,
        }))
    }
}

impl Workers {
    /// Puts `work` for a user into the queue; one of the threads runs it when its turn
    /// comes. Returns its ticket. Work that does not run is dropped.
    pub fn give(&self, user: &Name, work: Work) -> u64 {
        let shared = &self.0;
        let mut queue = shared.queue();
        queue.tickets += 1;
        let (ticket, user) = (queue.tickets, user.clone());
        queue.work.push_back(QueuedWork { ticket, user, work });
        shared.call(queue);
        ticket
    }

    /// Drops work whose turn has not come.
    pub fn take_back(&self, ticket: u64) {
        let mut queue = self.0.queue();
        if let Some(place) = queue.work.iter().position(|w| w.ticket == ticket) {
            let taken = queue.work.remove(place);
            drop(queue);
            drop(taken);
        }
    }
}

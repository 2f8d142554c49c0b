//! Opens the files to send, a few ahead of the network, and hands each to the queue of its route.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
};

use super::plan::{Item, Plan};
use crate::{
    client::{
        Route,
        letters::Leave,
        queue::{self, Queue},
    },
    error::{Code, Error},
    journal::outgoing::Outgoing,
    meta::{Meta, TransferId},
    observer::Observer,
    root::{Root, RootError, name::Name},
    session::{asker::Sent, pace::Pace},
    transfer::{
        receive::decision::FILES,
        send::{
            job_file::{JobFile, LastDir},
            outgoing::{Next, OutgoingLog, template},
            shared_file::ReadCache,
            source_file::{SourceFile, SourceFiles},
        },
    },
};

/// Files that are open at the same time: those that a receiver allows to be under way, and some
/// that wait. Each takes two descriptors, a resumed one three, and systems allow a program 1,024.
const AT_HAND: usize = FILES as usize + 64;
const _: () = assert!(AT_HAND * 3 < 1_000, "too many descriptors");

/// An open file, with the path that was given or found.
pub type QueuedPath = queue::QueuedFile<PathBuf>;

/// What became of a file.
pub enum Report {
    /// It was sent, or failed.
    Over(Box<Sent<QueuedPath>>),
    /// It could not be started, and is unchanged.
    Failed(PathBuf, Error),
    /// It was not tried, because its receiver cannot be reached.
    Left(PathBuf, Option<Box<QueuedPath>>, Error),
    /// It was sent before, and has not changed since.
    Skipped(PathBuf, Box<Outgoing>),
}

/// Finds routes, each of them once.
pub struct Routes<T> {
    /// The root, unless each `.meta` is in one.
    pub root: Option<PathBuf>,
    /// The server, unless the contact's address is known.
    pub server: Option<String>,
    known: HashMap<(PathBuf, String, String), Result<T, Error>>,
    /// The directory of the previous `.meta`, and the root around it.
    around: Option<(PathBuf, PathBuf)>,
}

impl<T> Routes<T> {
    /// No routes yet.
    pub fn new(root: Option<PathBuf>, server: Option<String>) -> Self {
        Self {
            root,
            server,
            known: HashMap::new(),
            around: None,
        }
    }

    /// What `make` returned for the route of a `.meta` at `path`.
    pub fn find(
        &mut self,
        path: &Path,
        meta: &Meta,
        make: impl FnOnce(Route) -> T,
    ) -> Result<&mut T, Error> {
        let root = match &self.root {
            Some(root) => root.clone(),
            None => self.around(path)?,
        };
        let key = (root, meta.from.clone(), meta.to.clone());
        let server = self.server.as_deref();
        let found = self
            .known
            .entry(key)
            .or_insert_with_key(|(root, from, to)| {
                let name = Name::user(from).map_err(RootError::from)?;
                let user = Root::open(root)?.user(&name)?;
                Ok(make(Route::to(&user, to, server)?))
            });
        found.as_mut().map_err(|error| error.clone())
    }

    fn around(&mut self, path: &Path) -> Result<PathBuf, Error> {
        if let (Some((dir, root)), Some(parent)) = (&self.around, path.parent())
            && dir == parent
        {
            return Ok(root.clone());
        }
        let root = Root::around(path).ok_or_else(|| {
            let path = path.display();
            let sentence = format!("{path} does not lie in a root: name one with --root");
            Error::new(Code::Usage, sentence)
        })?;
        if let Some(parent) = path.parent() {
            self.around = Some((parent.to_owned(), root.clone()));
        }
        Ok(root)
    }
}

/// Opens files one after the other.
pub struct Producer {
    /// What to send.
    pub plan: Plan,
    /// What is known about the files, if they were named themselves.
    pub named: Option<Named>,
    /// The routes so far.
    pub routes: Routes<Queue<PathBuf>>,
    /// What every queue needs.
    pub tools: Tools,
    /// Limits the number of open files.
    pub at_hand: Arc<Semaphore>,
    last_dir: LastDir,
    sources: SourceFiles,
    /// What was read of files for several receivers.
    cache: ReadCache,
    /// Transfers of named files that this run has begun.
    begun: HashSet<Option<TransferId>>,
}

/// What is common to files that a person names.
pub struct Named {
    /// What is known about them.
    pub log: OutgoingLog,
    /// The common part of their metas, for each receiver.
    pub templates: Vec<Meta>,
    /// Whether files that were sent before are sent again.
    pub again: bool,
}

/// The outcome of a plan.
pub struct Produced {
    /// Links and special files that were skipped.
    pub passed_over: u64,
    /// Whether it was completed.
    pub ended: bool,
    /// What was recorded about the files.
    pub log: Option<OutgoingLog>,
}

/// What every queue needs.
#[derive(Clone)]
pub struct Tools {
    /// The runtime on which queues are sent.
    pub handle: Handle,
    /// Receives what became of each file.
    pub outcomes: mpsc::UnboundedSender<Report>,
    /// Observes the progress.
    pub observer: Arc<dyn Observer>,
    /// Turns true when the person interrupts.
    pub stop: watch::Receiver<bool>,
    /// How fast all queues together may write.
    pub pace: Option<Arc<Pace>>,
    /// When files are left as letters, unless a server was named.
    pub leave: Option<Leave>,
}

/// Why a file is not being sent.
enum Not {
    Failed(Error),
    Left(Option<Box<QueuedPath>>, Error),
    Skipped(Box<Outgoing>),
    /// It is not this user's to send.
    Other,
}

impl From<Error> for Not {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Producer {
    /// A producer that has not opened anything yet.
    pub fn new(
        plan: Plan,
        named: Option<Named>,
        routes: Routes<Queue<PathBuf>>,
        tools: Tools,
    ) -> Self {
        Self {
            plan,
            named,
            routes,
            tools,
            at_hand: Arc::new(Semaphore::new(AT_HAND)),
            last_dir: LastDir::default(),
            sources: SourceFiles::default(),
            cache: ReadCache::default(),
            begun: HashSet::new(),
        }
    }

    /// Opens all files, and waits if the network is behind.
    pub fn run(mut self) -> Produced {
        let mut ended = true;
        while let Some(found) = self.plan.next() {
            if *self.tools.stop.borrow() {
                ended = false;
                break;
            }
            let (path, not) = match found {
                Ok(item) => (item.path.clone(), self.send(&item)),
                Err((path, error)) => (path, vec![Not::Failed(error)]),
            };
            for not in not {
                let outcome = match not {
                    Not::Failed(error) => Report::Failed(path.clone(), error),
                    Not::Left(job, error) => Report::Left(path.clone(), job, error),
                    Not::Skipped(done) => Report::Skipped(path.clone(), done),
                    Not::Other => continue,
                };
                let _ = self.tools.outcomes.send(outcome);
            }
        }
        Produced {
            passed_over: self.plan.passed_over,
            ended,
            log: self.named.map(|named| named.log),
        }
    }

    /// Sends a file to each receiver; returns why it is not being sent to some of them.
    fn send(&mut self, item: &Item) -> Vec<Not> {
        let Some(named) = &self.named else {
            return self
                .send_document(&item.path, item)
                .err()
                .into_iter()
                .collect();
        };
        let failed = item.failed.as_deref();
        let templates = match failed {
            Some(failed) => vec![template(failed)],
            None => named.templates.clone(),
        };
        let mut source = match self.sources.open(&item.path) {
            Ok(source) => source,
            Err(error) => return templates.iter().map(|_| error.clone().into()).collect(),
        };
        if let Some(failed) = failed {
            source = source.called(failed.what.name.clone());
        }
        if templates.len() > 1 {
            source = source.shared(&self.cache);
        }
        let sent = templates
            .iter()
            .map(|template| self.send_to(template, item, source.clone()));
        sent.filter_map(Result::err).collect()
    }

    fn send_to(&mut self, template: &Meta, item: &Item, source: SourceFile) -> Result<(), Not> {
        let Some(named) = &self.named else {
            return Err(Not::Other);
        };
        let tools = &self.tools;
        let make = |route| tools.queue(route);
        let queue = self.routes.find(&item.path, template, make)?;
        let within = item.within.as_deref();
        let out = match named.log.next(template, source, within, named.again)? {
            Next::Sent(before) => return Err(Not::Skipped(before)),
            Next::Send(out) => *out,
        };
        // It was named twice.
        if !self.begun.insert(out.meta().id) {
            return Err(Not::Other);
        }
        if let Some(error) = queue.dead() {
            out.leave(error)?;
            return Err(Not::Left(None, error.clone()));
        }
        let permit = permit(&self.tools.handle, &self.at_hand)?;
        let job = QueuedPath {
            out,
            known: item.path.clone(),
            permit,
        };
        tools.give(queue, job)
    }

    /// Sends what a `.meta` or a `.failed` says.
    fn send_document(&mut self, path: &Path, item: &Item) -> Result<(), Not> {
        let job_file = JobFile::read(path, &mut self.last_dir)?;
        if is_of_another(item, job_file.meta()) {
            return Err(Not::Other);
        }
        let tools = &self.tools;
        let queue = self
            .routes
            .find(path, job_file.meta(), |route| tools.queue(route))?;
        if let Some(error) = queue.dead() {
            return Err(Not::Left(None, error.clone()));
        }
        let permit = permit(&self.tools.handle, &self.at_hand)?;
        let job = QueuedPath {
            out: job_file.open()?,
            known: item.path.clone(),
            permit,
        };
        tools.give(queue, job)
    }
}

/// Whether a `.meta` that was found in a user's outbox is the record of what somebody else wanted
/// to send there.
pub fn is_of_another(item: &Item, meta: &Meta) -> bool {
    item.owner
        .as_ref()
        .is_some_and(|owner| **owner != meta.from)
}

/// Waits until one more file may be open.
fn permit(handle: &Handle, at_hand: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
    let closed = |_| Error::new(Code::Failed, "internal error: the send queue is closed");
    handle
        .block_on(at_hand.clone().acquire_owned())
        .map_err(closed)
}

impl Tools {
    /// Starts sending on a route.
    pub fn queue(&self, route: Route) -> Queue<PathBuf> {
        let (queue, front) = Queue::new(AT_HAND);
        let mut route = route.paced(self.pace.clone()).persistent();
        if let Some(leave) = self.leave {
            route = route.leaving(leave);
        }
        let mut tools = self.clone();
        self.handle.spawn(async move {
            let stop = async {
                // Without a sender, nobody can interrupt any more.
                if tools.stop.wait_for(|stop| *stop).await.is_err() {
                    std::future::pending::<()>().await;
                }
                Error::new(Code::Interrupted, "interrupted")
            };
            let tell = |outcome| {
                let outcome = match outcome {
                    queue::Delivery::Over(sent) => Report::Over(Box::new(sent)),
                    queue::Delivery::Left(job, error) => {
                        Report::Left(job.known.clone(), Some(Box::new(job)), error)
                    }
                };
                let _ = tools.outcomes.send(outcome);
            };
            front.run(&route, &*tools.observer, stop, tell).await;
        });
        queue
    }

    /// Puts a file into a queue, and waits while the queue is full.
    fn give(&self, queue: &Queue<PathBuf>, job: QueuedPath) -> Result<(), Not> {
        self.handle.block_on(queue.give(job)).map_err(|job| {
            let gone = || Error::new(Code::Failed, "internal error: the send queue is closed");
            let error = queue.dead().cloned().unwrap_or_else(gone);
            Not::Left(Some(Box::new(job)), error)
        })
    }
}

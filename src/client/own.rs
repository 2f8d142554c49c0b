//! A session with oneself: what commands ask of a contact's server is answered in this process,
//! from the folders of a user of this root. There is no server, no network and no hook.

mod copy;

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::{self, JoinSet},
};

use self::copy::{Copying, Failure};
use crate::{
    error::{Code, Error},
    files::{
        Answer,
        own::{Begun, OwnFiles, OwnPut, refused},
    },
    meta::Meta,
    observer::Observer,
    root::user::User,
    session::{
        asker::{Ask, Get, Jobs, Replies, Sent, Told},
        pace::Pace,
    },
    store::{
        ContentPath, Sink, Store,
        flush::{self, Unflushed},
    },
    transfer::{
        receive::{
            download::{Downloaded, complete, not_stored},
            error::ReceiveError,
            target::Target,
            wanted::Wanted,
        },
        send::{job::Job, put::Put, put_bytes::PutBytes},
    },
    wire::request::{PAGES_AHEAD, Reply, Request},
};

/// Files that are made durable together.
const TOGETHER: usize = 32;

/// How many such groups are under way at the same time: most stores wait for disks or networks.
const AT_ONCE: usize = 4;

/// How often a slow thread looks whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(50);

/// The way to the folders of a user of this root.
#[derive(Clone)]
pub struct OwnRoute {
    files: OwnFiles,
    pace: Option<Arc<Pace>>,
}

/// Who answers in a session.
#[derive(Clone)]
struct Answering {
    route: OwnRoute,
    observer: Arc<dyn Observer>,
}

/// Where the outcome of a file that is fetched goes.
type Done = oneshot::Sender<Result<Downloaded, Error>>;

/// A file whose bytes are in its folder, hidden, and not durable yet.
struct Copied {
    put: Box<OwnPut>,
    crc: u32,
}

impl OwnRoute {
    /// The way to the folders of a user whose private key this process can read.
    pub fn to(user: &User) -> Result<Self, Error> {
        Ok(Self {
            files: OwnFiles::open(user, &super::stores())?,
            pace: None,
        })
    }

    /// Whose folders they are.
    pub fn user(&self) -> &User {
        self.files.user()
    }

    /// The same way, on which nothing moves faster than this.
    #[must_use]
    pub fn paced(self, pace: Option<Arc<Pace>>) -> Self {
        Self { pace, ..self }
    }
}

/// Answers until nobody asks any more.
pub async fn answer(
    route: OwnRoute,
    observer: Arc<dyn Observer>,
    mut asks: mpsc::UnboundedReceiver<Ask<PutBytes>>,
) {
    let answering = Answering { route, observer };
    let mut listings: HashMap<u32, Arc<Semaphore>> = HashMap::new();
    let (mut last, mut together) = (0_u32, Vec::new());
    let mut tasks = JoinSet::new();
    while asks.recv_many(&mut together, TOGETHER).await > 0 {
        while tasks.try_join_next().is_some() {}
        listings.retain(|_, ahead| Arc::strong_count(ahead) > 1);
        let (mut gets, mut jobs, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for ask in together.drain(..) {
            match ask {
                Ask::Request(request, replies) => {
                    last = last.wrapping_add(1);
                    let ahead = Arc::new(Semaphore::new(PAGES_AHEAD));
                    listings.insert(last, ahead.clone());
                    let answering = answering.clone();
                    tasks.spawn(answering.reply(request, (last, replies), ahead));
                }
                Ask::Taken(listing) => {
                    if let Some(ahead) = listings.get(&listing) {
                        ahead.add_permits(1);
                    }
                }
                Ask::Get(get) => gets.push(*get),
                Ask::Put(job, tell) => {
                    jobs.push(*job);
                    told.push(Some(tell));
                }
                Ask::Send(job) => {
                    jobs.push(job);
                    told.push(None);
                }
            }
        }
        if !gets.is_empty() {
            let answering = answering.clone();
            tasks.spawn_blocking(move || answering.fetch_all(gets));
        }
        if !jobs.is_empty() {
            let answering = answering.clone();
            tasks.spawn_blocking(move || answering.store_and_tell(jobs, told));
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Puts all that come as `jobs` into the folders of a user, and reports what became of each.
pub async fn put_all(
    route: &OwnRoute,
    jobs: &mut Jobs<Put>,
    results: &mpsc::UnboundedSender<Sent<Put>>,
    observer: &Arc<dyn Observer>,
) -> Result<(), Error> {
    let answering = Answering {
        route: route.clone(),
        observer: observer.clone(),
    };
    let mut tasks = JoinSet::new();
    let joined = |done: Option<Result<(), task::JoinError>>| match done {
        Some(Err(_)) => Err(Error::new(
            Code::Failed,
            "a thread that stores files failed",
        )),
        _ => Ok(()),
    };
    let mut together = Vec::new();
    while jobs.recv_many(&mut together, TOGETHER).await > 0 {
        if tasks.len() >= AT_ONCE {
            joined(tasks.join_next().await)?;
        }
        let (answering, results) = (answering.clone(), results.clone());
        let jobs = std::mem::take(&mut together);
        tasks.spawn_blocking(move || {
            // A person who interrupts the command wants none of it.
            let is_wanted = || !results.is_closed();
            for sent in answering.store_all(jobs, &is_wanted) {
                let _ = results.send(sent);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        joined(Some(done))?;
    }
    Ok(())
}

impl Answering {
    /// Answers a request; of a listing, not more than its reader can take.
    async fn reply(
        self,
        request: Request,
        (transfer, replies): (u32, Replies),
        ahead: Arc<Semaphore>,
    ) {
        let files = self.route.files;
        let mut answer = blocking(move || files.answer(&request)).await;
        loop {
            let (reply, rest) = match answer {
                Ok(Answer::Reply(reply)) => (Ok(reply), None),
                Ok(Answer::Page(reply, rest)) => (Ok(reply), rest),
                Ok(Answer::File(_) | Answer::Put(_)) => (Err(lost()), None),
                Err(error) => (Err(error), None),
            };
            let sent = replies.send(reply.map(|reply| (transfer, reply)));
            let Some(rest) = rest.filter(|_| sent.is_ok()) else {
                return;
            };
            tokio::select! {
                permit = ahead.acquire() => match permit {
                    Ok(permit) => permit.forget(),
                    Err(_) => return,
                },
                () = replies.closed() => return,
            }
            answer = blocking(move || Ok(rest.page())).await;
        }
    }

    /// Fetches files, which become durable together.
    fn fetch_all(&self, gets: Vec<Get>) {
        let (mut told, mut whole): (Vec<Done>, Vec<_>) = (Vec::new(), Vec::new());
        for get in gets {
            let Get { path, wanted, done } = get;
            match self.fetch(&path, wanted, &done) {
                Ok((Wanted::File(download), crc)) => {
                    told.push(done);
                    whole.push((*download, crc));
                }
                // If nobody listens any more, nobody misses it.
                Ok((Wanted::Part(part), crc)) => drop(done.send(Ok(part.downloaded(crc)))),
                Err(error) => drop(done.send(Err(error))),
            }
        }
        for (done, downloaded) in told.into_iter().zip(complete(whole)) {
            let _ = done.send(downloaded.map_err(|e| not_stored(&e)));
        }
    }

    /// Copies a file to where it is wanted; returns its CRC-32.
    fn fetch(&self, path: &str, mut wanted: Wanted, done: &Done) -> Result<(Wanted, u32), Error> {
        let found = self.route.files.get(path, wanted.held())?;
        let (size, offset) = (found.coming.size, found.coming.offset);
        let crc = wanted.expect(found.coming).map_err(|e| not_stored(&e))?;
        let copying = Copying {
            contents: &*found.contents,
            version: &found.version,
            bytes: offset..size,
            crc,
        };
        let is_wanted = || !done.is_closed();
        let copied = wanted
            .sink()
            .map_err(Failure::Sink)
            .and_then(|sink| self.copy(copying, &mut **sink, &is_wanted, &|_| {}));
        match copied {
            Ok(crc) => Ok((wanted, crc)),
            Err(Failure::Source(error)) => Err(error),
            Err(Failure::Sink(error)) => {
                let told = not_stored(&error);
                wanted.end(&ReceiveError::Store(error), None);
                Err(told)
            }
        }
    }

    fn copy(
        &self,
        copying: Copying<'_>,
        sink: &mut dyn Sink,
        is_wanted: &dyn Fn() -> bool,
        copied: &dyn Fn(u64),
    ) -> Result<u32, Failure> {
        let begins = copying.bytes.start;
        let mut at = begins;
        let pace = self.route.pace.as_deref();
        let copying = copying.run(sink, |bytes| {
            if let Some(pace) = pace {
                pace.spend(bytes);
                // A timer would end with the runtime, which waits for this thread.
                while is_wanted() && !pace.rest().is_zero() {
                    thread::sleep(pace.rest().min(GLANCE));
                }
            }
            at += bytes as u64;
            self.observer.moved(bytes as u64);
            copied(at);
            is_wanted()
        });
        if copying.is_err() {
            self.observer.undone(at - begins);
        }
        copying
    }

    fn store_and_tell(&self, jobs: Vec<PutBytes>, told: Vec<Option<Told<PutBytes>>>) {
        let stored = self.store_all(jobs, &|| true);
        for (sent, tell) in stored.into_iter().zip(told) {
            if let Some(tell) = tell {
                // If nobody listens any more, the file is there all the same.
                drop(tell.send(sent));
            }
        }
    }

    /// Stores files, which become durable together; returns what became of each, in their order.
    fn store_all<J: Job>(&self, mut jobs: Vec<J>, is_wanted: &dyn Fn() -> bool) -> Vec<Sent<J>> {
        let begun = Instant::now();
        let mut results: Vec<Result<Meta, Error>> = Vec::with_capacity(jobs.len());
        let mut copied = Vec::new();
        for (at, job) in jobs.iter_mut().enumerate() {
            let taken = self.take(job, is_wanted);
            results.push(taken.map(|(meta, new)| {
                copied.extend(new.map(|new| (at, new)));
                meta
            }));
        }
        for (at, placed) in place_all(copied) {
            let (Some(job), Some(result)) = (jobs.get_mut(at), results.get_mut(at)) else {
                continue;
            };
            match (placed, result) {
                (Ok((path, crc)), Ok(meta)) => {
                    meta.file_crc = Some(crc);
                    job.stored(Reply::Stored { path, same: false });
                }
                (Err(error), result) => *result = Err(error),
                (Ok(_), Err(_)) => {}
            }
        }
        let took: Duration = begun.elapsed();
        let sent = jobs.into_iter().zip(results);
        sent.map(|(job, result)| (job, result, took)).collect()
    }

    /// Copies the bytes of a file into its folder, unless it is there already.
    fn take<J: Job>(
        &self,
        job: &mut J,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(Meta, Option<Copied>), Error> {
        let meta = job.meta()?;
        let (_, asked) = job.ask(&meta);
        let Ok(Request::Put {
            path,
            modified,
            conflict,
            ..
        }) = Request::from_body(&asked)
        else {
            return Err(lost());
        };
        let files = &self.route.files;
        let mut put = match files.put(&path, (meta.filesize, modified), conflict)? {
            Begun::New(put) => put,
            Begun::Same => {
                job.stored(Reply::Stored { path, same: true });
                return Ok((meta, None));
            }
        };
        let (contents, version) = job.source();
        let copying = Copying {
            contents: &*contents,
            version: &version.key(),
            bytes: 0..version.len(),
            crc: crc32fast::Hasher::new(),
        };
        let copied = |bytes| self.observer.file(&meta, bytes);
        let crc = self.copy(copying, put.sink(), is_wanted, &copied);
        let crc = crc.map_err(|failure| match failure {
            Failure::Source(error) => error,
            Failure::Sink(error) => refused(&error),
        })?;
        Ok((meta, Some(Copied { put, crc })))
    }
}

/// What became of a file: its path, the name of the folder first, and its CRC-32.
type Placed = Result<(String, u32), Error>;

/// Makes files durable and publishes them; returns what became of each, by its number.
fn place_all(mut copied: Vec<(usize, Copied)>) -> Vec<(usize, Placed)> {
    let mut unflushed: Vec<Unflushed<'_>> = copied
        .iter_mut()
        .map(|(_, one)| Unflushed {
            sink: Some(one.put.sink()),
            document: None,
        })
        .collect();
    let flushed = flush::flush(&mut unflushed);
    let mut placed = Vec::with_capacity(copied.len());
    let mut names: HashMap<String, (Arc<dyn Store>, Vec<ContentPath>)> = HashMap::new();
    for ((at, one), flushed) in copied.iter_mut().zip(flushed) {
        let result = flushed.map_err(|e| refused(&e));
        let result = result.and_then(|()| one.put.place()).map(|path| {
            let (folder, store) = one.put.folder();
            let folder = folder.name().to_string();
            let shown = (folder.clone(), format!("{folder}/{path}"));
            let same = names.entry(folder);
            let (_, paths) = same.or_insert_with(|| (store.clone(), Vec::new()));
            paths.push(path);
            shown
        });
        placed.push((*at, one.crc, result));
    }
    let settled: HashMap<String, io::Result<()>> = names
        .into_iter()
        .map(|(folder, (store, paths))| (folder, store.settle_names(&paths)))
        .collect();
    let over = placed.into_iter().map(|(at, crc, result)| {
        let result = result.and_then(|(folder, path)| match settled.get(&folder) {
            Some(Err(error)) => Err(refused(error)),
            _ => Ok((path, crc)),
        });
        (at, result)
    });
    over.collect()
}

fn lost() -> Error {
    Error::new(Code::Failed, "m2y failed to answer itself")
}

/// Does work that waits for a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(lost()))
}

//! The files of a contact, as the contact's server shows them: a session for requests. A user's own
//! files are reached through one too, which this process answers itself.

use std::{
    mem,
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Opened, Route, open_asking,
    own::{self, OwnRoute},
};
use crate::{
    error::{Code, Error},
    observer::Observer,
    session::asker::{Ask, Asker, Asks, Begin, Get},
    transfer::{
        receive::{
            download::{Download, Downloaded},
            wanted::{Part, Wanted},
        },
        send::put_bytes::PutBytes,
    },
    wire::request::{Entry, Reply, Request},
};

/// A session with a contact's server. Clones are the same one; it ends when the last of them is
/// dropped.
#[derive(Clone)]
pub struct Peer {
    asks: mpsc::UnboundedSender<Ask<PutBytes>>,
    /// Why the session ended, once it did.
    over: Arc<OnceLock<Error>>,
    work: Arc<Work>,
    is_own: bool,
}

/// The task of a session. When nobody holds the session any more, it continues until it has said
/// *close*.
struct Work(Option<JoinHandle<()>>);

impl Drop for Work {
    fn drop(&mut self) {
        let mut ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
        ending.retain(|task| !task.is_finished());
        ending.extend(self.0.take());
    }
}

/// Sessions of this process that nobody holds any more: [`wait_for_ends`].
static ENDING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// How long a process waits at most for its sessions to say *close*.
const CLOSING: Duration = Duration::from_secs(1);

/// Waits for a moment until every session that nobody holds any more has said *close*: a
/// process that ends before that looks to the server as if the connection was cut.
pub async fn wait_for_ends() {
    let ending = mem::take(&mut *ENDING.lock().unwrap_or_else(PoisonError::into_inner));
    let _ = timeout(CLOSING, join_all(ending)).await;
}

/// A listing in progress.
pub struct Listing {
    replies: mpsc::UnboundedReceiver<Result<(u32, Reply), Error>>,
    asks: mpsc::UnboundedSender<Ask<PutBytes>>,
    over: Arc<OnceLock<Error>>,
    done: bool,
}

/// A file that is being fetched.
pub struct Fetching {
    downloaded: oneshot::Receiver<Result<Downloaded, Error>>,
    over: Arc<OnceLock<Error>>,
}

fn gone(over: &OnceLock<Error>) -> Error {
    let unknown = || Error::new(Code::Later, "the connection was closed");
    over.get().cloned().unwrap_or_else(unknown)
}

fn different() -> Error {
    Error::new(Code::Failed, "the answer is to a different request")
}

impl Peer {
    /// Opens a session.
    pub async fn connect(route: &Route, observer: Arc<dyn Observer>) -> Result<Self, Error> {
        let Opened {
            connection,
            keys,
            reply,
            ..
        } = open_asking(route, &*observer).await?;
        let (asks, mut asked) = mpsc::unbounded_channel();
        let over = Arc::new(OnceLock::new());
        let (files, patience) = (reply.features.files, route.idle());
        let work = tokio::spawn({
            let over = over.clone();
            async move {
                let stop = std::future::pending();
                tokio::pin!(stop);
                let asks = Asks::Any(&mut asked);
                let asker = Asker::new(keys, &*observer, files, asks, stop);
                let begin = Begin {
                    answered: None,
                    first: Vec::new(),
                };
                if let Some(error) = asker.run(connection, patience, begin).await.error {
                    let _ = over.set(error);
                }
            }
        });
        Ok(Self {
            asks,
            over,
            work: Arc::new(Work(Some(work))),
            is_own: false,
        })
    }

    /// A session with oneself.
    pub fn own(route: OwnRoute, observer: Arc<dyn Observer>) -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        let work = tokio::spawn(own::answer(route, observer, asked));
        Self {
            asks,
            over: Arc::default(),
            work: Arc::new(Work(Some(work))),
            is_own: true,
        }
    }

    /// Whether it is a session with oneself: what is refused there is refused for no contact's
    /// sake.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// Ends the session at once, whatever is under way; files resume later where they are.
    pub fn hang_up(&self) {
        if let Some(work) = &self.work.0 {
            work.abort();
        }
    }

    /// Whether the session has ended by itself.
    pub fn is_over(&self) -> bool {
        self.asks.is_closed()
    }

    fn ask(&self, ask: Ask<PutBytes>) -> Result<(), Error> {
        let asked = self.asks.send(ask);
        asked.map_err(|_| gone(&self.over))
    }

    /// What is in a directory, in the order in which it is found; for a file, the file itself.
    pub fn list(&self, path: &str, recursive: bool) -> Result<Listing, Error> {
        let path = path.to_owned();
        self.replies(Request::List { path, recursive })
    }

    fn replies(&self, request: Request) -> Result<Listing, Error> {
        let (replies, wanted) = mpsc::unbounded_channel();
        self.ask(Ask::Request(request, replies))?;
        Ok(Listing {
            replies: wanted,
            asks: self.asks.clone(),
            over: self.over.clone(),
            done: false,
        })
    }

    /// What a path is.
    pub async fn stat(&self, path: &str) -> Result<Entry, Error> {
        let path = path.to_owned();
        let mut replies = self.replies(Request::Stat { path })?;
        let entry = replies.next().await.transpose()?;
        let entry = entry.and_then(|entries| entries.into_iter().next());
        entry.ok_or_else(|| Error::new(Code::Failed, "the answer does not mention the path"))
    }

    async fn change(&self, request: Request) -> Result<(), Error> {
        let mut replies = self.replies(request)?;
        replies.next().await.transpose().map(drop)
    }

    /// How many bytes still fit into the folder of a path, for a user who may put files there.
    pub async fn room(&self, path: &str) -> Result<u64, Error> {
        let path = path.to_owned();
        let mut replies = self.replies(Request::Room { path })?;
        match replies.replies.recv().await {
            Some(Ok((_, Reply::Room(bytes)))) => Ok(bytes),
            Some(Ok(_)) => Err(different()),
            Some(Err(error)) => Err(error),
            None => Err(gone(&self.over)),
        }
    }

    /// Makes a directory.
    pub async fn make_dir(&self, path: &str) -> Result<(), Error> {
        let path = path.to_owned();
        self.change(Request::MakeDir { path }).await
    }

    /// Removes a file or an empty directory.
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        let path = path.to_owned();
        self.change(Request::Remove { path }).await
    }

    /// Moves a file or directory.
    pub async fn rename(&self, path: &str, to: &str) -> Result<(), Error> {
        let (path, to) = (path.to_owned(), to.to_owned());
        self.change(Request::Rename { path, to }).await
    }

    /// Puts bytes at their path; returns when they are safe there, and what the contact said.
    pub async fn put(&self, put: PutBytes) -> Result<PutBytes, Error> {
        let (told, sent) = oneshot::channel();
        self.ask(Ask::Put(Box::new(put), told))?;
        let (put, result, _) = sent.await.map_err(|_| gone(&self.over))?;
        result.map(|_| put)
    }

    /// Reads these bytes of a file, as far as it has them, or all of it. Fails if that is more than
    /// `most`. What comes before them has to be transferred too.
    pub async fn read(
        &self,
        path: &str,
        range: Option<Range<u64>>,
        most: u64,
    ) -> Result<Vec<u8>, Error> {
        let (part, bytes) = Part::new(range, most);
        let fetching = self.fetch(path, Wanted::Part(Box::new(part)))?;
        bytes.after(fetching.downloaded().await)
    }

    /// Asks for a file.
    pub fn get(&self, path: &str, download: Download) -> Result<Fetching, Error> {
        self.fetch(path, Wanted::File(Box::new(download)))
    }

    fn fetch(&self, path: &str, wanted: Wanted) -> Result<Fetching, Error> {
        let (done, downloaded) = oneshot::channel();
        let get = Get {
            path: path.to_owned(),
            wanted,
            done,
        };
        self.ask(Ask::Get(Box::new(get)))?;
        Ok(Fetching {
            downloaded,
            over: self.over.clone(),
        })
    }
}

impl Listing {
    /// The next entries; `None` when there are no more.
    pub async fn next(&mut self) -> Option<Result<Vec<Entry>, Error>> {
        if self.done {
            return None;
        }
        match self.replies.recv().await {
            Some(Ok((transfer, Reply::Entries { entries, more }))) => {
                self.done = !more;
                if more {
                    // If the session is over, the next reply says so.
                    let _ = self.asks.send(Ask::Taken(transfer));
                }
                Some(Ok(entries))
            }
            Some(Ok((_, Reply::Done))) => {
                self.done = true;
                Some(Ok(Vec::new()))
            }
            other => {
                self.done = true;
                Some(Err(match other {
                    Some(Err(error)) => error,
                    Some(Ok(_)) => different(),
                    None => gone(&self.over),
                }))
            }
        }
    }
}

impl Drop for Listing {
    /// The server holds a listing that waits for us: it continues, and is told then that nobody
    /// wants the rest.
    fn drop(&mut self) {
        self.replies.close();
        let (_, closed) = mpsc::unbounded_channel();
        let (mut replies, asks) = (mem::replace(&mut self.replies, closed), self.asks.clone());
        let draining = async move {
            while let Some(reply) = replies.recv().await {
                if let Ok((transfer, Reply::Entries { more: true, .. })) = reply {
                    let _ = asks.send(Ask::Taken(transfer));
                }
            }
        };
        // One may just be coming. `try_recv` would park this thread until it is there, and might take
        // the wake-up of a `block_on` on it.
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(draining));
        }
    }
}

impl Fetching {
    /// Waits until the file is safe.
    pub async fn downloaded(self) -> Result<Downloaded, Error> {
        self.downloaded
            .await
            .unwrap_or_else(|_| Err(gone(&self.over)))
    }
}

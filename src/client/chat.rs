//! Messages to a contact: they go out in their order, and each is in the log of the user's own folder
//! before it leaves.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    future::pending,
};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot},
    task,
};

use super::{Route, lost, sending::deliver_all};
use crate::{
    clock,
    crypto::random,
    error::{Code, Error},
    meta::{Meta, TransferId, datetime_of},
    observer::Unobserved,
    root::{
        RootError, file,
        folder::Folder,
        message_log::{self, Entry, LoggedMessage, Reader, SentState},
        name::Name,
    },
    session::asker::Sent,
    transfer::send::send_job::SendJob,
};

/// Messages that are on their way at the same time.
const AHEAD: usize = 256;

/// Messages that become durable together.
const TOGETHER: usize = 64;

/// Bytes of the log in which messages are looked for that an earlier process did not send.
const TAIL: u64 = 4 << 20;

/// How old such a message may be, in milliseconds: its receiver remembers for longer what it has.
const OLDEST: u64 = 30 * 86_400_000;

/// Who talks to whom, and where.
#[derive(Clone)]
pub struct Talk {
    /// The way to the contact.
    pub route: Route,
    /// The user's own folder, with the log.
    pub here: Folder,
    /// The name of the contact's folder.
    pub there: Name,
}

/// What became of a message, or that it is on its way.
#[derive(Debug)]
pub struct Outcome {
    /// The message.
    pub message: LoggedMessage,
    /// What became of it, and why it failed.
    pub state: Result<SentState, Error>,
}

/// A message, and the caller that waits for its outcome.
struct Said {
    message: LoggedMessage,
    told: Option<oneshot::Sender<Outcome>>,
}

/// Sends messages to a contact. Clones are the same one.
#[derive(Clone)]
pub struct Chat {
    from: Name,
    to: Name,
    messages: mpsc::Sender<Said>,
}

/// The tasks of a chat.
pub struct Sending {
    tasks: [task::JoinHandle<()>; 3],
    _lock: Option<File>,
}

impl Sending {
    /// Returns when everything that was said has had its outcome, and nobody can say more.
    pub async fn is_over(self) {
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

impl Chat {
    /// Begins. What an earlier process was killed over goes out first. Outcomes that nobody waits for
    /// go to `outcomes`.
    pub async fn begin(
        talk: Talk,
        outcomes: mpsc::UnboundedSender<Outcome>,
    ) -> Result<(Self, Sending), Error> {
        let (messages, said) = mpsc::channel(AHEAD);
        let (jobs, to_send) = mpsc::channel(AHEAD);
        let (results, sent) = mpsc::unbounded_channel();
        let from = talk.route.user().name().clone();
        let to = Name::user(talk.route.peer()).map_err(RootError::from)?;
        let (here, peer) = (talk.here.clone(), to.clone());
        let looking = task::spawn_blocking(move || {
            let lock = only_one(&here, &peer)?;
            let left = match lock {
                Some(_) => unsent(&here, peer.as_str())?,
                None => Vec::new(),
            };
            Ok::<_, Error>((lock, left))
        });
        let (lock, left) = looking.await.map_err(lost)??;
        let logging = tokio::spawn(log_and_queue(
            talk.clone(),
            left,
            said,
            jobs,
            outcomes.clone(),
        ));
        let sending = tokio::spawn(send(talk.route.clone(), to_send, results));
        let concluding = tokio::spawn(conclude(sent, outcomes));
        let tasks = [logging, sending, concluding];
        let sending = Sending { tasks, _lock: lock };
        let chat = Self { from, to, messages };
        Ok((chat, sending))
    }

    /// Says something. Returns as soon as it is this text's turn to be logged.
    pub async fn say(&self, text: &str) -> Result<(), Error> {
        self.give(text, None).await
    }

    /// Says something, and waits for what becomes of it.
    pub async fn say_and_wait(&self, text: &str) -> Result<Outcome, Error> {
        let (told, outcome) = oneshot::channel();
        self.give(text, Some(told)).await?;
        let gone = |_| Error::new(Code::Failed, "the message has no outcome");
        outcome.await.map_err(gone)
    }

    async fn give(&self, text: &str, told: Option<oneshot::Sender<Outcome>>) -> Result<(), Error> {
        crate::message::check(text).map_err(|e| Error::new(Code::Usage, e.to_string()))?;
        let id = random().map_err(|e| Error::new(Code::Later, e.to_string()))?;
        let parties = (self.from.as_str(), self.to.as_str());
        let message = LoggedMessage::written(TransferId(id), parties, text.to_owned());
        let given = self.messages.send(Said { message, told }).await;
        given.map_err(|_| Error::new(Code::Failed, "messages can no longer be sent"))
    }
}

/// A message on its way.
struct Job {
    job: SendJob,
    message: LoggedMessage,
    told: Option<oneshot::Sender<Outcome>>,
}

impl std::borrow::Borrow<SendJob> for Job {
    fn borrow(&self) -> &SendJob {
        &self.job
    }
}

/// Tells the caller that waits for it, or the common channel. If nobody listens any more, the log has it.
fn tell(
    told: Option<oneshot::Sender<Outcome>>,
    all: &mpsc::UnboundedSender<Outcome>,
    message: LoggedMessage,
    state: Result<SentState, Error>,
) {
    let outcome = Outcome { message, state };
    match told {
        Some(told) => drop(told.send(outcome)),
        None => drop(all.send(outcome)),
    }
}

/// Puts messages into the log, and hands them on.
async fn log_and_queue(
    talk: Talk,
    left: Vec<LoggedMessage>,
    mut said: mpsc::Receiver<Said>,
    jobs: mpsc::Sender<Job>,
    outcomes: mpsc::UnboundedSender<Outcome>,
) {
    let unasked = |message| Said {
        message,
        told: None,
    };
    let mut ready: Vec<Said> = left.into_iter().map(unasked).collect();
    loop {
        for Said { message, told } in ready.drain(..) {
            let job = match job_of(&talk, &message) {
                Ok(job) => Job { job, message, told },
                Err(error) => {
                    tell(told, &outcomes, message, Err(error));
                    continue;
                }
            };
            if jobs.send(job).await.is_err() {
                return;
            }
        }
        if said.recv_many(&mut ready, TOGETHER).await == 0 {
            return;
        }
        let lines: String = ready.iter().map(|said| said.message.line()).collect();
        let here = talk.here.clone();
        let written = task::spawn_blocking(move || {
            let at = here.path_of(message_log::FILE);
            let written = message_log::append(here.dir(), &lines);
            let flushed = written.and_then(|file| file.sync_data());
            flushed.map_err(|e| Error::io("write", &at, &e))
        });
        if let Err(error) = written.await.map_err(lost).and_then(|written| written) {
            for Said { message, told } in ready.drain(..) {
                tell(told, &outcomes, message, Err(error.clone()));
            }
        }
    }
}

fn job_of(talk: &Talk, message: &LoggedMessage) -> Result<SendJob, Error> {
    let parties = (message.from.as_str(), message.to.as_str());
    let meta = Meta::of_message(parties, talk.there.as_str(), message.id, &message.text);
    let mut meta = meta.map_err(|e| Error::new(Code::Usage, e.to_string()))?;
    let at = i64::try_from(message.at).unwrap_or(i64::MAX);
    let at = Timestamp::from_millisecond(at).unwrap_or_else(|_| Timestamp::now());
    meta.datetime = datetime_of(at);
    SendJob::message(&talk.here, meta)
}

/// Sends messages in as few sessions as it takes, each opened when there is something to send.
async fn send(
    route: Route,
    mut jobs: mpsc::Receiver<Job>,
    results: mpsc::UnboundedSender<Sent<Job>>,
) {
    // It returns with an error if it cannot reach anybody; the next message tries again.
    while !(jobs.is_closed() && jobs.is_empty()) {
        let sending = deliver_all(&route, &mut jobs, &results, &Unobserved, pending());
        if sending.await.is_ok() {
            return;
        }
    }
}

/// Records what became of messages.
async fn conclude(
    mut sent: mpsc::UnboundedReceiver<Sent<Job>>,
    outcomes: mpsc::UnboundedSender<Outcome>,
) {
    let mut together = Vec::new();
    while sent.recv_many(&mut together, TOGETHER).await > 0 {
        let (some, outcomes) = (std::mem::take(&mut together), outcomes.clone());
        let recording = task::spawn_blocking(move || {
            for (job, result, _) in some {
                let recorded = match &result {
                    Ok(meta) => job.job.done(meta),
                    Err(error) => job.job.failed(error),
                };
                let state = match (result, job.job.is_left()) {
                    (Err(error), _) => Err(error),
                    (Ok(_), true) => Ok(SentState::Left),
                    (Ok(_), false) => Ok(SentState::Delivered),
                };
                tell(job.told, &outcomes, job.message, recorded.and(state));
            }
        });
        let _ = recording.await;
    }
}

/// Keeps other chats with a contact from sending what an earlier process left; `None` if another one is
/// running, which may be sending it.
fn only_one(here: &Folder, peer: &Name) -> Result<Option<File>, Error> {
    let name = format!(".chat-{peer}.lock");
    let at = |e: std::io::Error| Error::io("open", &here.path_of(&name), &e);
    let lock = file::append(here.dir(), &name).map_err(at)?.into_std();
    Ok(lock.try_lock().is_ok().then_some(lock))
}

/// The messages to a contact that have no outcome in the log, or that have to be sent again.
fn unsent(here: &Folder, peer: &str) -> Result<Vec<LoggedMessage>, Error> {
    let at = |e: std::io::Error| Error::io("read", &here.path_of(message_log::FILE), &e);
    let Some(mut reader) = Reader::open(here.dir()).map_err(at)? else {
        return Ok(Vec::new());
    };
    reader.skip_to_last(TAIL).map_err(at)?;
    let me = here.user().name().as_str();
    let oldest = clock::millis().saturating_sub(OLDEST);
    let (mut sent, mut states) = (Vec::new(), HashMap::new());
    while let Some(entry) = reader.next_entry().map_err(at)? {
        match entry {
            Entry::Message(message)
                if message.from == me && message.to == peer && message.at >= oldest =>
            {
                sent.push(message);
            }
            Entry::State(id, state) => drop(states.insert(id, state)),
            Entry::Message(_) => {}
        }
    }
    let is_unsent =
        |message: &LoggedMessage| matches!(states.get(&message.id), None | Some(SentState::Again));
    // One that was sent again is there twice.
    let mut seen = HashSet::new();
    sent.retain(|message| is_unsent(message) && seen.insert(message.id));
    Ok(sent)
}

//! The client's role: asks for permission to send files, for listings and changes, for files.

mod requests;
mod uploads;

use std::{collections::BTreeMap, io, pin::Pin, time::Duration};

use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, oneshot},
    task,
};

use super::{
    SessionError,
    channel::ChannelError,
    opener::Record,
    pump::{Connection, Pump},
    role::{Flow, Io, Role},
};
use crate::{
    error::{Code, Error},
    meta::{Meta, Wire},
    observer::Observer,
    store::prefix::DIGEST_LEN,
    transfer::{
        receive::{
            download::{Download, Downloaded, complete},
            error::ReceiveError,
            target::Received,
            wanted::Wanted,
        },
        send::job::Job,
    },
    wire::{
        WireError,
        record::{self, Kind, Side, Stream},
        request::{Reply, Request},
        session::SessionKeys,
    },
};
use requests::not_received;
use uploads::{Stage, Upload};

/// Bytes of records that wait to be written, below which further files are asked about.
const TOGETHER: usize = 65_536;

/// What became of something that was to be sent: the meta as it was delivered, or why it was not;
/// and how long that took since permission was requested.
pub type Sent<J> = (J, Result<Meta, Error>, Duration);

/// Where the outcome of one of them goes.
pub type Told<J> = oneshot::Sender<Sent<J>>;

/// Where replies go, with the number of their transfer.
pub type Replies = mpsc::UnboundedSender<Result<(u32, Reply), Error>>;

/// Where files to be sent come from.
pub type Jobs<J> = mpsc::Receiver<J>;

/// Something to ask for.
pub enum Ask<J> {
    /// Permission to send a file.
    Send(J),
    /// The same, and where its outcome goes.
    Put(Box<J>, Told<J>),
    /// A request that has replies. It stops if the receiver of the replies is dropped.
    Request(Request, Replies),
    /// A reply of this transfer was taken, after which more come.
    Taken(u32),
    /// A file.
    Get(Box<Get>),
}

/// A file that is asked for.
pub struct Get {
    /// Its path at the other side.
    pub path: String,
    /// Where it goes.
    pub wanted: Wanted,
    /// Where its outcome goes.
    pub done: oneshot::Sender<Result<Downloaded, Error>>,
}

/// Where the asks come from.
pub enum Asks<'a, J> {
    /// Files to be sent; a session may leave some there for the next one.
    Jobs(&'a mut Jobs<J>),
    /// Anything.
    Any(&'a mut mpsc::UnboundedReceiver<Ask<J>>),
}

impl<J> Asks<'_, J> {
    async fn next(&mut self) -> Option<Ask<J>> {
        match self {
            Self::Jobs(jobs) => jobs.recv().await.map(Ask::Send),
            Self::Any(asks) => asks.recv().await,
        }
    }

    /// The next one, if it is there. Not by `try_recv`: if an ask is just being added, that parks the
    /// thread, and takes for itself a wake-up that was meant for a `block_on` on the same thread.
    fn ready(&mut self) -> Option<Ask<J>> {
        self.next().now_or_never().flatten()
    }
}

/// What became of a session.
pub struct Ended<J> {
    /// Files that had their last word while it held.
    pub concluded: u64,
    /// Why it ended early.
    pub error: Option<Error>,
    /// Files that had no last word, and how long they were under way.
    pub left: Vec<(J, Duration)>,
}

/// A transfer that has not had its last word.
enum Transfer<J> {
    /// A file is being sent.
    Upload(Box<Upload<J>>),
    /// The other side ended it while its blocks were being sealed, and waits for our end.
    Ending,
    /// Replies come; this many were not taken yet.
    Request(Replies, usize),
    /// A file is coming in, or is being made safe.
    Download(oneshot::Sender<Result<Downloaded, Error>>),
    /// Nobody here wants it any more.
    Abandoned,
}

/// What is done besides the records.
pub enum Done {
    /// The digest of our own file, for as much as the other side has of it.
    Digested(u32, Result<([u8; DIGEST_LEN], crc32fast::Hasher), Error>),
    /// Files are safe, or are not.
    Downloaded(Vec<(u32, io::Result<Downloaded>)>),
}

/// What comes from outside.
pub enum Input<J> {
    /// Something to ask; `None` if nothing more comes.
    Ask(Option<Box<Ask<J>>>),
    /// The session is to end.
    Stop(Error),
}

/// The client's side.
pub struct Asker<'a, J> {
    keys: SessionKeys,
    observer: &'a dyn Observer,
    /// Transfers that the other side allows to be open at the same time.
    files: usize,
    next: u32,
    transfers: BTreeMap<u32, Transfer<J>>,
    asks: Asks<'a, J>,
    /// Whether no more asks come.
    no_more: bool,
    stop: Pin<&'a mut (dyn Future<Output = Error> + Send + 'a)>,
    results: Option<mpsc::UnboundedSender<Sent<J>>>,
    /// Files that are whole, each with its CRC-32, and are not being made safe yet.
    whole: Vec<(u32, Download, u32)>,
    is_landing: bool,
    concluded: u64,
}

type AskerIo = Io<Wanted, Done>;

/// What a session begins with.
pub struct Begin<J> {
    /// The file of the opening, and the answer to that.
    pub answered: Option<(J, Meta, Wire)>,
    /// What is asked next.
    pub first: Vec<J>,
}

impl<'a, J: Job + Send> Asker<'a, J> {
    /// A role that tells `results` what became of each file that it sends.
    pub fn new(
        keys: SessionKeys,
        observer: &'a dyn Observer,
        files: u32,
        asks: Asks<'a, J>,
        stop: Pin<&'a mut (dyn Future<Output = Error> + Send + 'a)>,
    ) -> Self {
        let given = usize::try_from(files).unwrap_or(usize::MAX);
        let files = given.max(1);
        Self {
            keys,
            observer,
            files,
            next: 1,
            transfers: BTreeMap::new(),
            // Without permission for further files there are none.
            no_more: given == 0 && matches!(asks, Asks::Jobs(_)),
            asks,
            stop,
            results: None,
            whole: Vec::new(),
            is_landing: false,
            concluded: 0,
        }
    }

    /// Reports to `results` from now on what became of each file that is sent.
    #[must_use]
    pub fn telling(self, results: mpsc::UnboundedSender<Sent<J>>) -> Self {
        Self {
            results: Some(results),
            ..self
        }
    }

    /// Runs a session whose opening was answered: first what it begins with, then what comes from
    /// the asks, until nothing more does and each transfer has had its last word. If it ends early,
    /// it returns what is under way and leaves the remaining asks where they are.
    pub async fn run(
        self,
        connection: Connection,
        patience: Duration,
        begin: Begin<J>,
    ) -> Ended<J> {
        let streams = [&self.keys.client, &self.keys.server].map(Stream::new);
        let [Ok(ours), Ok(theirs)] = streams else {
            let left = begin.first.into_iter().map(|job| (job, Duration::ZERO));
            return Ended {
                concluded: 0,
                error: Some(Error::new(Code::Failed, "the session has no keys")),
                left: left.collect(),
            };
        };
        let is_sending = matches!(self.asks, Asks::Jobs(_));
        let mut pump = Pump::new(connection, [ours, theirs], self, patience);
        let (role, io) = pump.role();
        let begun = role.begin(io, begin);
        let (mut role, _, result) = pump.run(begun).await;
        let left = std::mem::take(&mut role.transfers).into_values();
        let observer = role.observer;
        let left = left.filter_map(|transfer| match transfer {
            Transfer::Upload(upload) => {
                observer.undone(upload.moved);
                Some((upload.job, upload.since.elapsed()))
            }
            _ => None,
        });
        Ended {
            left: left.collect(),
            concluded: role.concluded,
            error: result.err().map(|error| {
                let is_cut = match &error {
                    SessionError::Channel(error) => !matches!(error, ChannelError::Wire(_)),
                    _ => false,
                };
                match is_sending && is_cut {
                    true => Error::from(error).within("no ACK came"),
                    false => error.into(),
                }
            }),
        }
    }

    fn begin(&mut self, io: &mut AskerIo, begin: Begin<J>) -> Result<(), SessionError> {
        if let Some((job, asked, reply)) = begin.answered {
            let upload = Upload::new(job, None, Kind::Meta, asked);
            self.transfers.insert(0, Transfer::Upload(upload));
            self.answered(io, 0, reply)?;
        }
        for job in begin.first {
            self.ask_to_send(io, job, None)?;
        }
        Ok(())
    }

    fn tell(&mut self, upload: Upload<J>, result: Result<Meta, Error>) {
        self.concluded += 1;
        let took = upload.since.elapsed();
        self.told((upload.job, result, took), upload.told);
    }

    fn told(&self, sent: Sent<J>, told: Option<Told<J>>) {
        // If nobody listens any more, the receiver's answer tells it the next time.
        match (told, &self.results) {
            (Some(told), _) => drop(told.send(sent)),
            (None, Some(results)) => drop(results.send(sent)),
            (None, None) => {}
        }
    }

    fn ask(&mut self, io: &mut AskerIo, ask: Ask<J>) -> Result<(), SessionError> {
        match ask {
            Ask::Send(job) => self.ask_to_send(io, job, None),
            Ask::Put(job, told) => self.ask_to_send(io, *job, Some(told)),
            Ask::Taken(transfer) => self.taken(io, transfer),
            Ask::Request(request, replies) => {
                let transfer = self.number();
                self.request(io, transfer, &request, Transfer::Request(replies, 0))
            }
            Ask::Get(get) => self.get(io, *get),
        }
    }

    fn number(&mut self) -> u32 {
        let transfer = self.next;
        self.next = self.next.wrapping_add(1);
        transfer
    }
}

impl<J: Job + Send> Role for Asker<'_, J> {
    const SIDE: Side = Side::Client;
    type Target = Wanted;
    type Done = Done;
    type Input = Input<J>;

    fn record(&mut self, io: &mut AskerIo, record: Record) -> Result<(), SessionError> {
        let Record {
            kind,
            transfer,
            body,
        } = record;
        match kind {
            Kind::Working => {
                if body == record::HOOKS
                    && let Some(Transfer::Upload(upload)) = self.transfers.get(&transfer)
                {
                    self.observer.waiting_for_hooks(&upload.asked);
                }
                Ok(())
            }
            Kind::Answer => {
                let reply = Wire::from_json(&body).map_err(|e| {
                    let sentence = format!("the answer cannot be read: {e}");
                    SessionError::Stopped(Error::new(Code::Failed, sentence))
                })?;
                self.answered(io, transfer, reply)
            }
            Kind::Resume => {
                let offset = record::decode_offset(&body)?;
                self.resumed(io, transfer, offset)
            }
            Kind::Ack if body == record::ACK => {
                let upload = self.expect(transfer, |upload| {
                    matches!(upload.stage, Stage::Sent(..)) && upload.kind == Kind::Meta
                })?;
                self.observer.step(15, format_args!("got ACK"));
                self.safe(*upload);
                Ok(())
            }
            Kind::Reply => self.replied(io, transfer, &body),
            Kind::Watched => self.watched(transfer, &body),
            Kind::Error => self.ended(io, transfer, &body),
            _ => Err(WireError::Record.into()),
        }
    }

    fn whole(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        received: Received<Wanted>,
    ) -> Result<(), SessionError> {
        match received.target {
            Wanted::File(download) => {
                self.whole.push((transfer, *download, received.crc));
                Ok(())
            }
            Wanted::Part(part) => self.downloaded(io, transfer, Ok(part.downloaded(received.crc))),
        }
    }

    fn failed(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        error: ReceiveError,
    ) -> Result<(), SessionError> {
        let by_peer = matches!(error, ReceiveError::Sender(_));
        let told = not_received(error);
        if let Some(open) = self.transfers.remove(&transfer) {
            if !by_peer {
                // Otherwise it would continue to send.
                io.outbox
                    .say(Kind::Error, transfer, &record::encode_error(&told))?;
            }
            fail(open, told);
        }
        Ok(())
    }

    fn batch_end(&mut self, _: &mut AskerIo) -> Result<(), SessionError> {
        Ok(())
    }

    fn moved_in(&mut self, bytes: u64) {
        self.observer.moved(bytes);
    }

    fn moved_out(&mut self, transfer: u32, bytes: u64) {
        self.observer.moved(bytes);
        if let Some(Transfer::Upload(upload)) = self.transfers.get_mut(&transfer) {
            upload.moved += bytes;
            self.observer.file(&upload.asked, upload.moved);
        }
    }

    fn sealed(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        end: Result<u32, Error>,
    ) -> Result<(), SessionError> {
        match self.transfers.get_mut(&transfer) {
            Some(Transfer::Ending) => {
                self.transfers.remove(&transfer);
                return self.say_ended(io, transfer);
            }
            Some(Transfer::Upload(upload)) => match end {
                Err(error) => return self.give_up(io, transfer, error),
                Ok(crc) => {
                    if let Stage::Sending(reply) =
                        std::mem::replace(&mut upload.stage, Stage::Asked)
                    {
                        upload.stage = Stage::Sent(reply, crc);
                    }
                    self.observer
                        .step(14, format_args!("send the CRC-32 of the file, {crc}"));
                    let trailer = record::encode_trailer(crc);
                    io.outbox.say(Kind::Trailer, transfer, &trailer)?;
                }
            },
            _ => {}
        }
        Ok(())
    }

    fn done(&mut self, io: &mut AskerIo, done: Done) -> Result<(), SessionError> {
        match done {
            Done::Digested(transfer, Ok((digest, crc))) => {
                let Some(Transfer::Upload(upload)) = self.transfers.get_mut(&transfer) else {
                    return Ok(());
                };
                if let Stage::Digesting(reply) = std::mem::replace(&mut upload.stage, Stage::Asked)
                {
                    upload.stage = Stage::Agreeing(reply, crc);
                    io.outbox.say(Kind::Resume, transfer, &digest)?;
                }
                Ok(())
            }
            Done::Digested(transfer, Err(error)) => self.give_up(io, transfer, error),
            Done::Downloaded(downloaded) => {
                self.is_landing = false;
                downloaded
                    .into_iter()
                    .try_for_each(|(transfer, downloaded)| {
                        self.downloaded(io, transfer, downloaded)
                    })
            }
        }
    }

    fn proceed(&mut self, io: &mut AskerIo) -> Result<(), SessionError> {
        if !self.is_landing && !self.whole.is_empty() {
            self.is_landing = true;
            let whole = std::mem::take(&mut self.whole);
            let transfers: Vec<u32> = whole.iter().map(|(transfer, ..)| *transfer).collect();
            io.tasks.spawn(async move {
                let download = task::spawn_blocking(move || {
                    let files = whole.into_iter().map(|(_, download, crc)| (download, crc));
                    complete(files.collect())
                });
                let downloaded = download.await.unwrap_or_else(|_| {
                    let lost = || Err(io::Error::other("a thread that stores files failed"));
                    transfers.iter().map(|_| lost()).collect()
                });
                Done::Downloaded(transfers.into_iter().zip(downloaded).collect())
            });
        }
        while !self.no_more
            && self.transfers.len() < self.files
            && io.outbox.len() < TOGETHER
            && let Some(ask) = self.asks.ready()
        {
            self.ask(io, ask)?;
        }
        Ok(())
    }

    async fn input(&mut self, _: bool) -> Input<J> {
        let has_room = !self.no_more && self.transfers.len() < self.files;
        tokio::select! {
            ask = self.asks.next(), if has_room => Input::Ask(ask.map(Box::new)),
            error = self.stop.as_mut() => Input::Stop(error),
        }
    }

    fn take(&mut self, io: &mut AskerIo, input: Input<J>) -> Result<Flow, SessionError> {
        match input {
            Input::Ask(Some(ask)) => self.ask(io, *ask)?,
            Input::Ask(None) => self.no_more = true,
            Input::Stop(error) => return Ok(Flow::End(SessionError::Stopped(error))),
        }
        Ok(Flow::Continue)
    }

    fn open(&self) -> Option<(u32, &'static [u8])> {
        Some((*self.transfers.keys().next()?, &[]))
    }

    fn is_owed(&self, _: &AskerIo) -> bool {
        !self.transfers.is_empty() && !self.is_landing
    }

    fn is_over(&self) -> bool {
        self.no_more && self.transfers.is_empty()
    }

    fn must_finish(&self, _: &AskerIo) -> bool {
        // They are safe in a moment, and must not get in their own way in the next session.
        self.is_landing
    }

    fn done_late(&mut self, io: &mut AskerIo, done: Done) {
        // Nobody is left to hear that they are here.
        let _ = self.done(io, done);
    }

    fn end(&mut self, io: &mut AskerIo, error: Option<&SessionError>) {
        let Some(error) = error else {
            let _ = io.outbox.say(Kind::Close, 0, &[]);
            return;
        };
        // There is nobody to tell.
        io.outbox.clear();
        // Before anybody hears that something failed: they check whether it was the session.
        if let Asks::Any(asks) = &mut self.asks {
            asks.close();
        }
        let keys: Vec<u32> = self.transfers.keys().copied().collect();
        for transfer in keys {
            match self.transfers.remove(&transfer) {
                Some(Transfer::Upload(upload)) if upload.told.is_none() => {
                    self.transfers.insert(transfer, Transfer::Upload(upload));
                }
                Some(open) => fail(open, error.into()),
                None => {}
            }
        }
    }
}

/// Tells the waiting caller that it is over.
fn fail<J>(open: Transfer<J>, error: Error) {
    match open {
        Transfer::Request(replies, _) => drop(replies.send(Err(error))),
        Transfer::Download(done) => drop(done.send(Err(error))),
        Transfer::Upload(upload) => {
            let Upload {
                job, told, since, ..
            } = *upload;
            if let Some(told) = told {
                let _ = told.send((job, Err(error), since.elapsed()));
            }
        }
        Transfer::Ending | Transfer::Abandoned => {}
    }
}

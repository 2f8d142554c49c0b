//! The client's role: asks for leave to send files, for listings and changes, for files.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task,
};

use super::{
    LARGE_FILE, LARGE_RECEIVE_BUFFER, RECEIVE_BUFFER, SessionError,
    channel::ChannelError,
    opener::Record,
    pump::{Connection, Pump},
    role::{Flow, Io, Role},
};
use crate::{
    crypto::random,
    error::{Code, Error, printable},
    meta::{FileKey, MAX_TEXT, Meta, TransferId, Wire, is_extra},
    observer::Observer,
    store::prefix::{DIGEST_LEN, prefix_digest},
    transfer::{
        receive::{
            download::{Landed, Landing, land},
            error::ReceiveError,
            target::{Incoming, Received},
        },
        send::{
            blocks::{Attempt, unreadable},
            job::Job,
        },
    },
    wire::{
        WireError,
        record::{self, Kind, MAX_BODY, Side, Stream},
        request::{PAGES_AHEAD, Reply, Request},
        session::{Direction, SessionKeys},
    },
};

/// Bytes of records that wait to be written, up to which further files are asked about.
const TOGETHER: usize = 65_536;

/// What became of something that was to be sent: the meta as it was delivered, or why it
/// was not; and how long that took from when leave was asked for.
pub type Sent<J> = (J, Result<Meta, Error>, Duration);

/// Where replies go, with the number of their transfer.
pub type Replies = mpsc::UnboundedSender<Result<(u32, Reply), Error>>;

/// Where files to be sent come from.
pub type Jobs<J> = mpsc::Receiver<J>;

/// Something that is asked.
pub enum Ask<J> {
    /// Leave to send a file.
    Send(J),
    /// What has replies. The other side stops when nobody takes them.
    Request(Request, Replies),
    /// A reply of this transfer was taken, behind which more come.
    Taken(u32),
    /// A file.
    Get(Box<Get>),
}

/// A file that is asked for.
pub struct Get {
    /// Its path at the other side.
    pub path: String,
    /// Where it goes.
    pub landing: Landing,
    /// Who waits for it.
    pub done: oneshot::Sender<Result<Landed, Error>>,
}

/// Where what is asked comes from.
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

    fn ready(&mut self) -> Option<Ask<J>> {
        match self {
            Self::Jobs(jobs) => jobs.try_recv().ok().map(Ask::Send),
            Self::Any(asks) => asks.try_recv().ok(),
        }
    }
}

/// What came of a session.
pub struct Ended<J> {
    /// Files that had their last word while it held.
    pub settled: u64,
    /// Why it ended early.
    pub error: Option<Error>,
    /// Files that had no last word, and how long they were under way.
    pub left: Vec<(J, Duration)>,
}

/// A transfer that has not had its last word.
enum Transfer<J> {
    /// A file goes out.
    Upload(Box<Upload<J>>),
    /// The other side ended it while its blocks were being sealed, and waits for our end.
    Ending,
    /// Replies come; so many were not taken yet.
    Request(Replies, usize),
    /// A file comes in, or is being made safe.
    Download(oneshot::Sender<Result<Landed, Error>>),
    /// Nobody here wants it any more.
    Abandoned,
}

/// A file that goes out.
struct Upload<J> {
    job: J,
    /// How leave was asked for.
    kind: Kind,
    /// When leave was asked for.
    since: Instant,
    /// Bytes of the file that are sent, or were before.
    moved: u64,
    asked: Meta,
    stage: Stage,
}

/// How far a file that goes out has come.
enum Stage {
    /// Leave was asked for.
    Asked,
    /// The other side has a prefix of it; that of our file is being read.
    Digesting(Box<Wire>),
    /// Our digest was sent; with the CRC-32 of the prefix.
    Agreeing(Box<Wire>, crc32fast::Hasher),
    /// Blocks go out.
    Sending(Box<Wire>),
    /// All of it is sent; its CRC-32.
    Sent(Box<Wire>, u32),
}

/// What is done beside the records.
pub enum Done {
    /// What the own file has where the other side has something of a transfer.
    Digested(u32, Result<([u8; DIGEST_LEN], crc32fast::Hasher), Error>),
    /// Files are safe, or are not.
    Landed(Vec<(u32, io::Result<Landed>)>),
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
    /// Transfers that the other side lets be open at the same time.
    files: usize,
    next: u32,
    transfers: BTreeMap<u32, Transfer<J>>,
    asks: Asks<'a, J>,
    /// Whether nothing more comes of them.
    no_more: bool,
    stop: Pin<&'a mut (dyn Future<Output = Error> + Send + 'a)>,
    results: Option<mpsc::UnboundedSender<Sent<J>>>,
    /// Files that are whole, and are not being made safe yet.
    whole: Vec<(u32, Received<Landing>)>,
    is_landing: bool,
    settled: u64,
}

type AskerIo = Io<Landing, Done>;

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
            // Without leave for further files there are none.
            no_more: given == 0 && matches!(asks, Asks::Jobs(_)),
            asks,
            stop,
            results: None,
            whole: Vec::new(),
            is_landing: false,
            settled: 0,
        }
    }

    /// From now on `results` hears what became of each file that is sent.
    #[must_use]
    pub fn telling(self, results: mpsc::UnboundedSender<Sent<J>>) -> Self {
        Self {
            results: Some(results),
            ..self
        }
    }

    /// Runs a session whose opening was answered: first what it begins with, then what comes
    /// from the asks, until nothing more does and each transfer has had its last word. What is
    /// under way comes back where it ends
    /// early, and what is still among the asks is left there.
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
                settled: 0,
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
            settled: role.settled,
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
            let upload = Upload::new(job, Kind::Meta, asked);
            self.transfers.insert(0, Transfer::Upload(upload));
            self.answered(io, 0, reply)?;
        }
        for job in begin.first {
            self.ask_to_send(io, job)?;
        }
        Ok(())
    }

    fn tell(&mut self, upload: Upload<J>, result: Result<Meta, Error>) {
        self.settled += 1;
        let took = upload.since.elapsed();
        self.told((upload.job, result, took));
    }

    fn told(&self, sent: Sent<J>) {
        if let Some(results) = &self.results {
            // If nobody listens any more, the receiver's answer tells it the next time.
            let _ = results.send(sent);
        }
    }

    fn ask(&mut self, io: &mut AskerIo, ask: Ask<J>) -> Result<(), SessionError> {
        match ask {
            Ask::Send(job) => self.ask_to_send(io, job),
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

    /// Asks for leave to send a file.
    fn ask_to_send(&mut self, io: &mut AskerIo, job: J) -> Result<(), SessionError> {
        let asked = match job.meta() {
            Ok(asked) => asked,
            Err(error) => {
                self.told((job, Err(error), Duration::ZERO));
                return Ok(());
            }
        };
        let (kind, json) = job.ask(&asked);
        if json.len() > MAX_BODY {
            let sentence = "the .meta is too large to be sent: 64 KiB at most";
            let error = Error::new(Code::Failed, sentence);
            self.told((job, Err(error), Duration::ZERO));
            return Ok(());
        }
        let transfer = self.number();
        io.outbox.say(kind, transfer, &json)?;
        let upload = Upload::new(job, kind, asked);
        self.transfers.insert(transfer, Transfer::Upload(upload));
        Ok(())
    }

    fn request(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        request: &Request,
        waiting: Transfer<J>,
    ) -> Result<(), SessionError> {
        let body = request.to_body();
        if body.len() > MAX_BODY {
            io.downloads.withdraw(transfer);
            fail(waiting, Error::new(Code::Failed, "the path is too long"));
            return Ok(());
        }
        self.transfers.insert(transfer, waiting);
        io.outbox.say(Kind::Request, transfer, &body)?;
        Ok(())
    }

    /// Asks for a file.
    fn get(&mut self, io: &mut AskerIo, get: Get) -> Result<(), SessionError> {
        let Get {
            path,
            landing,
            done,
        } = get;
        let transfer = self.number();
        let fresh = random().and_then(|key| Ok((random()?, key)));
        let (id, key) = fresh.map_err(WireError::from)?;
        let (id, filekey) = (TransferId(id), FileKey(zeroize::Zeroizing::new(key)));
        let blocks = Stream::new(&self.keys.block_key(
            &filekey,
            &id,
            Direction::ToClient,
            transfer,
        ))?;
        let held = landing.held().cloned();
        io.buffer = io.buffer.max(match landing.size() {
            LARGE_FILE.. => LARGE_RECEIVE_BUFFER,
            _ => RECEIVE_BUFFER,
        });
        let begin = move |body: &[u8]| announced(landing, blocks, body);
        io.downloads.announce(transfer, Box::new(begin));
        let request = Request::Get {
            path,
            id,
            filekey,
            held,
        };
        self.request(io, transfer, &request, Transfer::Download(done))
    }

    /// Lets the other side go on with a listing.
    fn taken(&mut self, io: &mut AskerIo, transfer: u32) -> Result<(), SessionError> {
        if let Some(Transfer::Request(_, waiting)) = self.transfers.get_mut(&transfer) {
            *waiting = waiting.saturating_sub(1);
            io.outbox.say(Kind::Ack, transfer, record::ACK)?;
        }
        Ok(())
    }

    /// Takes an upload out of the open transfers, if the other side may speak of it so.
    fn expect(
        &mut self,
        transfer: u32,
        may: impl FnOnce(&Upload<J>) -> bool,
    ) -> Result<Box<Upload<J>>, SessionError> {
        match self.transfers.remove(&transfer) {
            Some(Transfer::Upload(upload)) if may(&upload) => Ok(upload),
            other => {
                // It ends with the session, and its sender is told.
                other.map(|other| self.transfers.insert(transfer, other));
                Err(WireError::Record.into())
            }
        }
    }

    /// The answer to a meta.
    fn answered(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        reply: Wire,
    ) -> Result<(), SessionError> {
        let mut upload = self.expect(transfer, |upload| matches!(upload.stage, Stage::Asked))?;
        if let Err(error) = granted(&reply, &upload.asked) {
            self.tell(*upload, Err(error));
            return Ok(());
        }
        if reply.delivered {
            self.observer
                .step(15, format_args!("the file was delivered before"));
            let meta = delivered(&upload.asked, &reply.meta, reply.meta.file_crc);
            self.tell(*upload, Ok(meta));
            return Ok(());
        }
        let (offset, reply) = (reply.offset, Box::new(reply));
        if offset == 0 {
            let bytes = upload.asked.filesize.unwrap_or_default();
            self.observer
                .step(13, format_args!("send {bytes} bytes in sealed blocks"));
            let crc = crc32fast::Hasher::new();
            return self.send(io, transfer, upload, reply, (0, crc));
        }
        let source = upload.job.read_again();
        io.tasks.spawn(async move {
            let digest = task::spawn_blocking(move || {
                let file = source.map_err(|e| unreadable(&e))?;
                prefix_digest(file, offset).map_err(|e| unreadable(&e))
            });
            let failed = |_| Err(Error::new(Code::Failed, "the file could not be read"));
            Done::Digested(transfer, digest.await.unwrap_or_else(failed))
        });
        upload.stage = Stage::Digesting(reply);
        self.transfers.insert(transfer, Transfer::Upload(upload));
        Ok(())
    }

    /// The other side says where the blocks begin.
    fn resumed(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        offset: u64,
    ) -> Result<(), SessionError> {
        let mut upload = self.expect(transfer, |upload| match &upload.stage {
            Stage::Agreeing(reply, _) => offset == reply.offset || offset == 0,
            _ => false,
        })?;
        let Stage::Agreeing(reply, crc) = std::mem::replace(&mut upload.stage, Stage::Asked) else {
            return Err(WireError::Record.into());
        };
        let crc = if offset > 0 {
            crc
        } else {
            crc32fast::Hasher::new()
        };
        self.observer.moved(offset);
        upload.moved = offset;
        upload.job.held(offset);
        self.send(io, transfer, upload, reply, (offset, crc))
    }

    /// Has the blocks sealed, from an offset on, with the CRC-32 of what is before it.
    fn send(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        mut upload: Box<Upload<J>>,
        reply: Box<Wire>,
        (offset, crc): (u64, crc32fast::Hasher),
    ) -> Result<(), SessionError> {
        let (Some(filekey), Some(id)) = (&reply.filekey, &upload.asked.id) else {
            let error = Error::new(Code::Failed, "the answer has no filekey");
            self.tell(*upload, Err(error));
            return Ok(());
        };
        let blocks = Stream::new(
            &self
                .keys
                .block_key(filekey, id, Direction::ToServer, transfer),
        )?;
        let (file, version) = upload.job.source();
        let claimed_crc = upload.asked.file_crc;
        upload.stage = Stage::Sending(reply);
        self.transfers.insert(transfer, Transfer::Upload(upload));
        io.uploads.push(Attempt {
            transfer,
            file,
            version,
            blocks,
            offset,
            crc,
            claimed_crc,
        });
        Ok(())
    }

    /// Tells the other side that a file will not come, and why.
    fn give_up(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        error: Error,
    ) -> Result<(), SessionError> {
        io.outbox
            .say(Kind::Error, transfer, &record::encode_error(&error))?;
        if let Some(Transfer::Upload(upload)) = self.transfers.remove(&transfer) {
            self.tell(*upload, Err(error));
        }
        Ok(())
    }

    /// Takes a reply: of a request, or the last word of a file that was put somewhere.
    fn replied(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        body: &[u8],
    ) -> Result<(), SessionError> {
        let reply = Reply::from_body(body)?;
        let more = matches!(reply, Reply::Entries { more: true, .. });
        let unexpected = || SessionError::from(WireError::Record);
        let transferred = self.transfers.remove(&transfer).ok_or_else(unexpected)?;
        let open = match transferred {
            Transfer::Upload(upload) => {
                self.transfers.insert(transfer, Transfer::Upload(upload));
                return self.stored(transfer, reply);
            }
            // More than it may send before it hears from us.
            Transfer::Request(_, waiting) if waiting > PAGES_AHEAD => return Err(unexpected()),
            Transfer::Request(replies, waiting) => match replies.send(Ok((transfer, reply))) {
                Ok(()) => Transfer::Request(replies, waiting + 1),
                Err(_) => {
                    if more {
                        let error = Error::new(Code::Failed, "nobody reads the listing any more");
                        io.outbox
                            .say(Kind::Error, transfer, &record::encode_error(&error))?;
                    }
                    Transfer::Abandoned
                }
            },
            Transfer::Abandoned => Transfer::Abandoned,
            Transfer::Download(_) | Transfer::Ending => return Err(unexpected()),
        };
        if more {
            self.transfers.insert(transfer, open);
        }
        Ok(())
    }

    /// A file that was put somewhere is there.
    fn stored(&mut self, transfer: u32, reply: Reply) -> Result<(), SessionError> {
        let same = match &reply {
            Reply::Stored { same, .. } => *same,
            Reply::Done => false,
            _ => return Err(WireError::Record.into()),
        };
        let mut upload = self.expect(transfer, |upload| {
            let is_time = match same {
                true => matches!(upload.stage, Stage::Asked),
                false => matches!(upload.stage, Stage::Sent(..)),
            };
            is_time && upload.kind == Kind::Request
        })?;
        upload.job.stored(reply);
        self.safe(*upload);
        Ok(())
    }

    /// The other side has a file.
    fn safe(&mut self, upload: Upload<J>) {
        let meta = match &upload.stage {
            Stage::Sent(reply, crc) => delivered(&upload.asked, &reply.meta, Some(*crc)),
            _ => delivered(&upload.asked, &upload.asked, None),
        };
        self.tell(upload, Ok(meta));
    }

    /// The other side ended a transfer.
    fn ended(&mut self, io: &mut AskerIo, transfer: u32, body: &[u8]) -> Result<(), SessionError> {
        let error = record::decode_error(body)?;
        let error = Error::new(error.code, printable(&error.sentence, 500));
        // Of what we gave up first, it says so once more.
        match self.transfers.remove(&transfer) {
            Some(Transfer::Upload(upload)) => {
                if matches!(upload.stage, Stage::Sending(_)) {
                    match io.uploads.give_up(transfer) {
                        true => {
                            self.transfers.insert(transfer, Transfer::Ending);
                        }
                        false => self.say_ended(io, transfer)?,
                    }
                }
                self.tell(*upload, Err(error));
            }
            Some(open) => fail(open, error),
            None => {}
        }
        Ok(())
    }

    /// The other side waits for an end of what it ended.
    fn say_ended(&self, io: &mut AskerIo, transfer: u32) -> Result<(), SessionError> {
        let error = Error::new(Code::Later, "the receiver ended the transfer");
        io.outbox
            .say(Kind::Error, transfer, &record::encode_error(&error))?;
        Ok(())
    }

    fn landed(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        landed: io::Result<Landed>,
    ) -> Result<(), SessionError> {
        let Some(Transfer::Download(done)) = self.transfers.remove(&transfer) else {
            return Ok(());
        };
        let landed = landed.map_err(|e| not_stored(&e));
        match &landed {
            Ok(_) => io.outbox.say(Kind::Ack, transfer, record::ACK)?,
            Err(error) => {
                io.outbox
                    .say(Kind::Error, transfer, &record::encode_error(error))?;
            }
        }
        let _ = done.send(landed);
        Ok(())
    }
}

impl<J> Upload<J> {
    fn new(job: J, kind: Kind, asked: Meta) -> Box<Self> {
        Box::new(Self {
            job,
            kind,
            since: Instant::now(),
            moved: 0,
            asked,
            stage: Stage::Asked,
        })
    }
}

impl<J: Job + Send> Role for Asker<'_, J> {
    const SIDE: Side = Side::Client;
    type Target = Landing;
    type Done = Done;
    type Input = Input<J>;

    fn record(&mut self, io: &mut AskerIo, record: Record) -> Result<(), SessionError> {
        let Record {
            kind,
            transfer,
            body,
        } = record;
        match kind {
            Kind::Working => Ok(()),
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
            Kind::Error => self.ended(io, transfer, &body),
            _ => Err(WireError::Record.into()),
        }
    }

    fn whole(
        &mut self,
        _: &mut AskerIo,
        transfer: u32,
        received: Received<Landing>,
    ) -> Result<(), SessionError> {
        self.whole.push((transfer, received));
        Ok(())
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
                // Else it would go on to send.
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
            Done::Landed(landed) => {
                self.is_landing = false;
                landed
                    .into_iter()
                    .try_for_each(|(transfer, landed)| self.landed(io, transfer, landed))
            }
        }
    }

    fn proceed(&mut self, io: &mut AskerIo) -> Result<(), SessionError> {
        if !self.is_landing && !self.whole.is_empty() {
            self.is_landing = true;
            let whole = std::mem::take(&mut self.whole);
            let transfers: Vec<u32> = whole.iter().map(|(transfer, _)| *transfer).collect();
            io.tasks.spawn(async move {
                let landing = task::spawn_blocking(move || {
                    let files = whole
                        .into_iter()
                        .map(|(_, received)| (received.target, received.crc));
                    land(files.collect())
                });
                let landed = landing.await.unwrap_or_else(|_| {
                    let lost = || Err(io::Error::other("a thread that stores files failed"));
                    transfers.iter().map(|_| lost()).collect()
                });
                Done::Landed(transfers.into_iter().zip(landed).collect())
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

    fn open(&self) -> Option<u32> {
        self.transfers.keys().next().copied()
    }

    fn is_owed(&self, _: &AskerIo) -> bool {
        !self.transfers.is_empty() && !self.is_landing
    }

    fn is_over(&self) -> bool {
        self.no_more && self.transfers.is_empty()
    }

    fn must_finish(&self, _: &AskerIo) -> bool {
        // They are safe in a moment, and are not to be in their own way in the next session.
        self.is_landing
    }

    fn done_late(&mut self, io: &mut AskerIo, done: Done) {
        // Nobody hears any more that they are here.
        let _ = self.done(io, done);
    }

    fn end(&mut self, io: &mut AskerIo, error: Option<&SessionError>) {
        let Some(error) = error else {
            let _ = io.outbox.say(Kind::Close, 0, &[]);
            return;
        };
        // There is nobody to tell.
        io.outbox.clear();
        // Before anybody hears that something failed: they look whether it was the session.
        if let Asks::Any(asks) = &mut self.asks {
            asks.close();
        }
        let keys: Vec<u32> = self.transfers.keys().copied().collect();
        for transfer in keys {
            match self.transfers.remove(&transfer) {
                Some(upload @ Transfer::Upload(_)) => {
                    self.transfers.insert(transfer, upload);
                }
                Some(open) => fail(open, error.into()),
                None => {}
            }
        }
    }
}

/// Makes a file ready whose blocks come now.
fn announced(
    mut landing: Landing,
    blocks: Stream,
    body: &[u8],
) -> Result<Option<Incoming<Landing>>, ReceiveError> {
    let Reply::Coming(coming) = Reply::from_body(body)? else {
        return Ok(None);
    };
    let offset = coming.offset;
    let crc = landing.expect(coming).map_err(ReceiveError::Store)?;
    Ok(Some(Incoming::new(blocks, landing, offset, crc)))
}

/// Tells whoever waits that it is over.
fn fail<J>(open: Transfer<J>, error: Error) {
    match open {
        Transfer::Request(replies, _) => drop(replies.send(Err(error))),
        Transfer::Download(done) => drop(done.send(Err(error))),
        Transfer::Upload(_) | Transfer::Ending | Transfer::Abandoned => {}
    }
}

fn not_stored(error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::Later,
        _ => Code::Failed,
    };
    let sentence = match error.kind() {
        io::ErrorKind::AlreadyExists => {
            "there is another file of that name: take --conflict overwrite, rename or skip"
                .to_owned()
        }
        _ => format!("the file cannot be stored: {error}"),
    };
    Error::new(code, sentence)
}

/// Why a file did not come, for a person.
fn not_received(error: ReceiveError) -> Error {
    match error {
        ReceiveError::Session { why, told } => told.unwrap_or_else(|| Error::new(Code::Later, why)),
        ReceiveError::Sender(error) => Error::new(error.code, printable(&error.sentence, 500)),
        ReceiveError::Store(error) => not_stored(&error),
        ReceiveError::Size | ReceiveError::Checksum { .. } => {
            Error::new(Code::Integrity, error.to_string())
        }
        ReceiveError::Taken => Error::new(Code::Exists, error.to_string()),
        ReceiveError::GoingDown | ReceiveError::Failed => {
            Error::new(Code::Failed, error.to_string())
        }
    }
}

/// Whether the file may come, or the receiver's reason to refuse.
fn granted(reply: &Wire, sent: &Meta) -> Result<(), Error> {
    if !reply.meta.error.is_empty() {
        let sentence = printable(&reply.meta.error, MAX_TEXT);
        return Err(Error::new(Code::from_word(&reply.code), sentence));
    }
    let about = |meta: &Meta| (meta.id, meta.filesize, meta.from.clone(), meta.to.clone());
    if about(&reply.meta) != about(sent) {
        let sentence = "the answer speaks of another transfer";
        return Err(Error::new(Code::Failed, sentence));
    }
    if reply.offset > 0 && sent.filesize.is_none_or(|size| reply.offset >= size) {
        let sentence = "the receiver says that it has more of the file than there is";
        return Err(Error::new(Code::Failed, sentence));
    }
    Ok(())
}

/// What was sent, with what the receiver's hooks wrote into it.
fn delivered(sent: &Meta, reply: &Meta, crc: Option<u32>) -> Meta {
    let mut meta = sent.clone();
    for (field, value) in &reply.extra {
        if is_extra(field) {
            meta.extra.insert(field.clone(), value.clone());
        }
    }
    meta.file_crc = crc;
    meta
}

//! The client's half of a session in which it asks: what there is, and for files.
//!
//! It mirrors the server's in [`super::receive`]: one stage moves records between socket
//! and buffers, the other opens them and writes files, on a thread that may wait for a
//! disk.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinHandle},
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    LARGE_FILE, LARGE_RECEIVE_BUFFER, Observer, RECEIVE_BUFFER,
    channel::{Batch, ChannelError},
    intake::{Asked, Incoming, Intake, News, Received},
    landing::{Landed, Landing, land},
    receive::ReceiveError,
    send::Channel,
};
use crate::{
    crypto::random,
    error::{Code, Error, printable},
    meta::{FileKey, TransferId},
    wire::{
        WireError,
        record::{self, Kind, Stream},
        request::{PAGES_AHEAD, Reply, Request},
        session::{Direction, SessionKeys},
    },
};

/// How often the other side hears that we are still there, at least.
const WORKING: Duration = Duration::from_secs(5);

/// Something that is asked.
pub enum Ask {
    /// What has replies. Who takes no more of them is told no more.
    Request(Request, Replies),
    /// A reply of this transfer was taken, behind which more come.
    Taken(u32),
    /// A file.
    Get(Box<Want>),
}

/// Where replies go, with the number of their transfer.
pub type Replies = mpsc::UnboundedSender<Result<(u32, Reply), Error>>;

/// A file that is asked for.
pub struct Want {
    /// Its path at the other side's.
    pub path: String,
    /// Where it goes.
    pub landing: Landing,
    /// Who waits for it.
    pub done: oneshot::Sender<Result<Landed, Error>>,
}

/// Where what is asked comes from.
pub type Asks = mpsc::UnboundedReceiver<Ask>;

/// What was asked and has not had its last word.
enum Open {
    /// With the replies that were not taken yet.
    Request(Replies, usize),
    Get(oneshot::Sender<Result<Landed, Error>>),
    /// Nobody wants it any more.
    GivenUp,
}

/// What the second stage gives back.
type Stage = (
    Intake<Landing>,
    Batch,
    Vec<News<Landing>>,
    Result<(), ReceiveError>,
);

/// What became of whole files.
type AllLanded = Vec<(u32, io::Result<Landed>)>;

/// A session at work.
pub struct Session {
    channel: Channel,
    keys: SessionKeys,
    /// Transfers that the other side lets be under way at the same time.
    files: usize,
    next: u32,
    open: HashMap<u32, Open>,
    asked: Asked<Landing>,
    /// Sealed records that wait to be written, and how far.
    out: Vec<u8>,
    written: usize,
    /// Files that are whole, and are not safe yet.
    whole: Vec<(u32, Received<Landing>)>,
    /// Files that are being made safe.
    landing: Option<JoinHandle<AllLanded>>,
    observer: Arc<dyn Observer>,
}

impl Session {
    /// A session whose opening was answered.
    pub fn new(
        channel: Channel,
        keys: SessionKeys,
        files: u32,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            channel,
            keys,
            files: usize::try_from(files).unwrap_or(usize::MAX).max(1),
            next: 1,
            open: HashMap::new(),
            asked: Asked::default(),
            out: Vec::new(),
            written: 0,
            whole: Vec::new(),
            landing: None,
            observer,
        }
    }

    /// Asks all that comes, until nothing more does and each thing has had its last word.
    /// Where the session ends before that, all that is open fails with the error that this
    /// returns.
    pub async fn run(mut self, asks: &mut Asks) -> Result<(), Error> {
        let result = self.records(asks).await;
        // They have their names in a moment, and are not to be in the way of themselves in
        // the next session.
        if let Some(landing) = self.landing.take() {
            for (transfer, landed) in landing.await.unwrap_or_default() {
                // Nobody hears any more that it is here.
                let _ = self.landed(transfer, landed);
            }
        }
        // Before anybody hears that something failed: who does looks whether it was the
        // session.
        asks.close();
        for (_, open) in std::mem::take(&mut self.open) {
            if let Err(error) = &result {
                fail(open, error.clone());
            }
        }
        if result.is_ok() {
            let closing = self.say(Kind::Close, 0, &[]);
            if closing.is_ok() {
                let _ = self.channel.writer.bytes(&self.out).await;
            }
            self.channel.writer.finish().await;
        }
        result
    }

    async fn records(&mut self, asks: &mut Asks) -> Result<(), Error> {
        let incoming = std::mem::replace(
            &mut self.channel.incoming,
            Stream::new(&self.keys.server).map_err(Error::from)?,
        );
        let intake = Intake::of_client(incoming, self.asked.clone(), &self.observer);
        let mut stage = Some(intake);
        let mut work: Option<JoinHandle<Stage>> = None;
        let mut no_more = false;
        let mut tick = interval_at(Instant::now() + WORKING, WORKING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.channel.reader.touch();
        loop {
            if let Some(mut idle) = stage.take() {
                match self.channel.reader.take().map_err(Error::from)? {
                    Some(mut batch) => {
                        work = Some(task::spawn_blocking(move || {
                            let mut news = Vec::new();
                            let result = idle.batch(&mut batch, &mut news);
                            (idle, batch, news, result)
                        }));
                    }
                    None => stage = Some(idle),
                }
            }
            if self.landing.is_none() && !self.whole.is_empty() {
                let whole = std::mem::take(&mut self.whole);
                self.landing = Some(task::spawn_blocking(move || land_all(whole)));
            }
            let is_written = self.written == self.out.len();
            if no_more
                && self.open.is_empty()
                && is_written
                && work.is_none()
                && self.landing.is_none()
            {
                return Ok(());
            }
            let busy = work.is_some() || self.landing.is_some() || self.open.is_empty();
            let Channel { reader, writer, .. } = &mut self.channel;
            let pending = self.out.get(self.written..).unwrap_or_default();
            tokio::select! {
                read = reader.more(), if reader.has_room() => match read {
                    Ok(()) => {}
                    // Nothing is expected of it, or it waits for us.
                    Err(ChannelError::Idle(_)) if busy => reader.touch(),
                    Err(error) => {
                        self.rest(stage.take(), work.take()).await?;
                        return Err(error.into());
                    }
                },
                done = join(&mut work) => {
                    work = None;
                    let (back, batch, news, result) = done.ok_or_else(lost)?;
                    self.channel.reader.recycle(batch);
                    stage = Some(back);
                    self.take_all(news)?;
                    result.map_err(ended)?;
                }
                done = join(&mut self.landing) => {
                    self.landing = None;
                    for (transfer, landed) in done.ok_or_else(lost)? {
                        self.landed(transfer, landed)?;
                    }
                }
                wrote = writer.some(pending), if !pending.is_empty() => {
                    self.written += wrote.map_err(Error::from)?;
                    if self.written == self.out.len() {
                        self.out.clear();
                        self.written = 0;
                    }
                }
                ask = asks.recv(), if !no_more && self.open.len() < self.files => match ask {
                    Some(ask) => self.ask(ask)?,
                    None => no_more = true,
                },
                _ = tick.tick() => {
                    if let (true, Some(transfer)) = (is_written, self.open.keys().next()) {
                        self.say(Kind::Working, *transfer, &[])?;
                    }
                }
            }
        }
    }

    /// Takes in what came before the connection broke off, so that it need not come again.
    async fn rest(
        &mut self,
        mut stage: Option<Intake<Landing>>,
        mut work: Option<JoinHandle<Stage>>,
    ) -> Result<(), Error> {
        loop {
            if let Some(mut idle) = stage.take()
                && let Some(mut batch) = self.channel.reader.take().map_err(Error::from)?
            {
                work = Some(task::spawn_blocking(move || {
                    let mut news = Vec::new();
                    let result = idle.batch(&mut batch, &mut news);
                    (idle, batch, news, result)
                }));
            }
            let Some(done) = work.take() else {
                return Ok(());
            };
            let Ok((back, batch, news, result)) = done.await else {
                return Ok(());
            };
            self.channel.reader.recycle(batch);
            stage = Some(back);
            self.take_all(news)?;
            result.map_err(ended)?;
        }
    }

    /// Seals a record, to be written with others.
    fn say(&mut self, kind: Kind, transfer: u32, body: &[u8]) -> Result<(), Error> {
        let record = self.channel.outgoing.record(kind, transfer, body)?;
        self.out.extend(record);
        Ok(())
    }

    fn ask(&mut self, ask: Ask) -> Result<(), Error> {
        if let Ask::Taken(transfer) = ask {
            return self.taken(transfer);
        }
        let transfer = self.next;
        self.next = self.next.wrapping_add(1);
        let (request, open) = match ask {
            Ask::Taken(_) => return Ok(()),
            Ask::Request(request, replies) => (request, Open::Request(replies, 0)),
            Ask::Get(want) => {
                let Want {
                    path,
                    landing,
                    done,
                } = *want;
                let fresh = random().and_then(|key| Ok((random()?, key)));
                let (id, key) = fresh.map_err(|e| Error::new(Code::Later, e.to_string()))?;
                let (id, key) = (TransferId(id), FileKey(zeroize::Zeroizing::new(key)));
                let blocks = Stream::new(&self.keys.block_key(
                    &key,
                    &id,
                    Direction::ToClient,
                    transfer,
                ))?;
                let held = landing.held().cloned();
                let buffer = match landing.size() {
                    LARGE_FILE.. => LARGE_RECEIVE_BUFFER,
                    _ => RECEIVE_BUFFER,
                };
                self.asked
                    .insert(transfer, Box::new(move |body| begin(landing, blocks, body)));
                self.channel.reader.widen(buffer);
                let request = Request::Get {
                    path,
                    id,
                    filekey: key,
                    held,
                };
                (request, Open::Get(done))
            }
        };
        let body = request.to_body();
        if body.len() > record::MAX_BODY {
            drop(self.asked.remove(transfer));
            let sentence = "the path is too long";
            fail(open, Error::new(Code::Failed, sentence));
            return Ok(());
        }
        self.open.insert(transfer, open);
        self.say(Kind::Request, transfer, &body)
    }

    fn take_all(&mut self, news: Vec<News<Landing>>) -> Result<(), Error> {
        for news in news {
            self.take(news)?;
        }
        Ok(())
    }

    /// What records brought.
    fn take(&mut self, news: News<Landing>) -> Result<(), Error> {
        match news {
            News::Reply(transfer, body) => self.reply(transfer, &body),
            News::Complete(transfer, received) => {
                self.whole.push((transfer, *received));
                Ok(())
            }
            News::Over(transfer, error) => {
                let told = ended(error);
                if let Some(open) = self.open.remove(&transfer) {
                    // Else it would go on to send.
                    self.say(Kind::Error, transfer, &record::encode_error(&told))?;
                    fail(open, told);
                }
                Ok(())
            }
            News::GivenUp(transfer, error) => {
                // Of what we gave up first, it says so once more.
                if let Some(open) = self.open.remove(&transfer) {
                    let sentence = printable(&error.sentence, 500);
                    fail(open, Error::new(error.code, sentence));
                }
                Ok(())
            }
            _ => Err(WireError::Record.into()),
        }
    }

    fn reply(&mut self, transfer: u32, body: &[u8]) -> Result<(), Error> {
        let reply = Reply::from_body(body)?;
        let more = matches!(reply, Reply::Entries { more: true, .. });
        let Some(open) = self.open.remove(&transfer) else {
            return Err(WireError::Record.into());
        };
        let open = match open {
            // More than it may send before it hears from us.
            Open::Request(_, waiting) if waiting > PAGES_AHEAD => {
                return Err(WireError::Record.into());
            }
            Open::Request(replies, waiting) => match replies.send(Ok((transfer, reply))) {
                Ok(()) => Open::Request(replies, waiting + 1),
                Err(_) => {
                    if more {
                        let error = Error::new(Code::Failed, "nobody wants to know any more");
                        self.say(Kind::Error, transfer, &record::encode_error(&error))?;
                    }
                    Open::GivenUp
                }
            },
            Open::GivenUp => Open::GivenUp,
            Open::Get(_) => return Err(WireError::Record.into()),
        };
        if more {
            self.open.insert(transfer, open);
        }
        Ok(())
    }

    /// Lets the other side go on with a listing.
    fn taken(&mut self, transfer: u32) -> Result<(), Error> {
        if let Some(Open::Request(_, waiting)) = self.open.get_mut(&transfer) {
            *waiting = waiting.saturating_sub(1);
            return self.say(Kind::Ack, transfer, record::ACK);
        }
        Ok(())
    }

    fn landed(&mut self, transfer: u32, landed: io::Result<Landed>) -> Result<(), Error> {
        let Some(Open::Get(done)) = self.open.remove(&transfer) else {
            return Ok(());
        };
        let landed = landed.map_err(|e| not_stored(&e));
        match &landed {
            Ok(_) => self.say(Kind::Ack, transfer, record::ACK)?,
            Err(error) => self.say(Kind::Error, transfer, &record::encode_error(error))?,
        }
        let _ = done.send(landed);
        Ok(())
    }
}

/// Makes a file ready whose blocks come now.
fn begin(
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

fn land_all(whole: Vec<(u32, Received<Landing>)>) -> AllLanded {
    let (transfers, files): (Vec<_>, Vec<_>) = whole
        .into_iter()
        .map(|(transfer, received)| (transfer, (received.arrival, received.crc)))
        .unzip();
    transfers.into_iter().zip(land(files)).collect()
}

/// Tells who waits that it is over.
fn fail(open: Open, error: Error) {
    match open {
        Open::Request(replies, _) => drop(replies.send(Err(error))),
        Open::Get(done) => drop(done.send(Err(error))),
        Open::GivenUp => {}
    }
}

fn lost() -> Error {
    Error::new(Code::Failed, "a thread that receives files failed")
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
fn ended(error: ReceiveError) -> Error {
    match error {
        ReceiveError::Channel(error) => error.into(),
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

/// Waits for another thread; for ever if it does nothing.
async fn join<T>(work: &mut Option<JoinHandle<T>>) -> Option<T> {
    match work {
        Some(work) => work.await.ok(),
        None => std::future::pending().await,
    }
}

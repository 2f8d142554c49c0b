//! The sender's half of a session: steps 13 to 15, for one file or many.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashSet},
    fs::File,
    io,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{self, JoinSet},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use zeroize::Zeroizing;

use super::{
    Observer,
    channel::{ChannelError, Reader, Writer},
    outgoing::{Outgoing, Version},
    partial::prefix_digest,
    sealing::{Attempt, Sealed, Sealing, unreadable},
};
use crate::{
    error::{Code, Error, printable},
    meta::{Features, MAX_TEXT, Meta, Wire, is_extra},
    wire::{
        WireError,
        record::{self, HEAD_LEN, Kind, Stream},
        request::Reply,
        session::{Direction, SessionKeys},
    },
};

/// What this sender can do.
pub const FEATURES: Features = Features {
    resume: true,
    files: 0,
    requests: false,
};

/// How often a receiver hears that its sender is still there, at least.
const WORKING: Duration = Duration::from_secs(5);

/// How long is waited for the receiver's reason after the connection failed.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Bytes of small records that are written together.
const TOGETHER: usize = 65_536;

/// What became of something that was to be sent: the meta as it was delivered, or why it
/// was not; and how long that took from when leave was asked for.
pub type Sent<J> = (J, Result<Meta, Error>, Duration);

/// A connection, from the sender's side.
pub struct Channel {
    /// Records from the receiver.
    pub reader: Reader,
    /// Records to the receiver.
    pub writer: Writer,
    /// Opens records.
    pub incoming: Stream,
    /// Seals records.
    pub outgoing: Stream,
}

/// The digest of what the receiver has of a file, and the CRC-32 so far.
type Prefix = ([u8; 32], crc32fast::Hasher);

/// A file to be sent, and how leave for that is asked.
pub trait Job {
    /// What is said of the file; an error if that is wrong.
    fn meta(&self) -> Result<Meta, Error>;

    /// The record that asks for leave.
    fn ask(&self, meta: &Meta) -> (Kind, Zeroizing<Vec<u8>>);

    /// The open file, and the version to be sent.
    fn source(&self) -> (Arc<File>, Version);

    /// The open file, to read from its beginning by one reader at a time.
    fn read_again(&self) -> io::Result<File>;

    /// The receiver has so much of it from before.
    fn held(&mut self, _bytes: u64) {}

    /// What the receiver said when it was safe, if that was more than an ACK.
    fn stored(&mut self, _reply: Reply) {}
}

impl<T: Borrow<Outgoing>> Job for T {
    fn meta(&self) -> Result<Meta, Error> {
        self.borrow().request()
    }

    fn ask(&self, meta: &Meta) -> (Kind, Zeroizing<Vec<u8>>) {
        let request = Wire {
            features: FEATURES,
            ..Wire::request(meta.clone())
        };
        let json = request.to_json().as_bytes().to_vec();
        (Kind::Meta, Zeroizing::new(json))
    }

    fn source(&self) -> (Arc<File>, Version) {
        self.borrow().source()
    }

    fn read_again(&self) -> io::Result<File> {
        self.borrow().read_again()
    }
}

/// How a session begins.
pub enum Begin<J> {
    /// With a file that it was opened for, and the answer to that.
    Answered(Box<(J, Meta, Wire)>),
    /// With nothing but its opening, and then these.
    Open(Vec<J>),
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
struct Transfer<J> {
    job: J,
    /// How leave was asked for.
    kind: Kind,
    /// When leave was asked for.
    since: Instant,
    /// Bytes of the file that are sent, or were before.
    moved: u64,
    asked: Meta,
    reply: Option<Wire>,
    /// The CRC-32 of the prefix that the receiver has, while that is agreed on.
    prefix: Option<crc32fast::Hasher>,
    /// The CRC-32 of the file, once all of it was sent.
    crc: Option<u32>,
    /// Whether blocks are being made.
    is_sealing: bool,
}

/// What the own file has where the receiver has something of a transfer.
type Digested = (u32, Result<Prefix, Error>);

impl<J> Transfer<J> {
    fn new(job: J, kind: Kind, asked: Meta) -> Self {
        Self {
            job,
            kind,
            since: Instant::now(),
            moved: 0,
            asked,
            reply: None,
            prefix: None,
            crc: None,
            is_sealing: false,
        }
    }
}

/// A session at work.
pub struct Session<'a, J> {
    channel: Channel,
    keys: SessionKeys,
    observer: &'a dyn Observer,
    /// Transfers that the receiver lets be under way at the same time.
    files: usize,
    next: u32,
    open: BTreeMap<u32, Transfer<J>>,
    /// Transfers that the receiver ended while their blocks were being made.
    ended: HashSet<u32>,
    sealing: Sealing,
    /// Blocks that are being written, and how far.
    bulk: Option<(Vec<u8>, usize, usize)>,
    /// Small records that wait to be written, and how far.
    out: Vec<u8>,
    written: usize,
    digests: JoinSet<Digested>,
    results: mpsc::UnboundedSender<Sent<J>>,
    /// Files that had their last word.
    settled: u64,
}

/// Where the jobs of a session come from.
pub type Jobs<J> = mpsc::Receiver<J>;

impl<'a, J: Job> Session<'a, J> {
    /// A session whose opening was answered.
    pub fn new(
        channel: Channel,
        keys: SessionKeys,
        observer: &'a dyn Observer,
        files: u32,
        results: mpsc::UnboundedSender<Sent<J>>,
    ) -> Self {
        Self {
            channel,
            keys,
            observer,
            files: usize::try_from(files).unwrap_or(usize::MAX),
            next: 1,
            open: BTreeMap::new(),
            ended: HashSet::new(),
            sealing: Sealing::start(),
            bulk: None,
            out: Vec::new(),
            written: 0,
            digests: JoinSet::new(),
            results,
            settled: 0,
        }
    }

    /// Sends what it begins with, then all that come as `jobs`, until there are no more and
    /// each has had its last word. Where the session ends before that, what is under way
    /// comes back, and what is still among the jobs is left there.
    pub async fn run(
        mut self,
        begin: Begin<J>,
        jobs: &mut Jobs<J>,
        stop: impl Future<Output = Error>,
    ) -> Ended<J> {
        let mut begin = match begin {
            Begin::Answered(first) => {
                let (job, asked, reply) = *first;
                self.open.insert(0, Transfer::new(job, Kind::Meta, asked));
                self.answered(0, reply).map_err(Error::from)
            }
            Begin::Open(first) => first.into_iter().try_for_each(|job| self.ask(job)),
        };
        if begin.is_ok() {
            begin = self.records(jobs, stop).await;
        }
        let settled = self.settled;
        let open = std::mem::take(&mut self.open).into_values();
        let observer = self.observer;
        let left = open.map(|about| {
            observer.undone(about.moved);
            (about.job, about.since.elapsed())
        });
        let left = left.collect();
        let Err(error) = begin else {
            let closing = self.say(Kind::Close, 0, &[]);
            // All is delivered; that the session ends well is nobody's concern any more.
            let (mut writer, out) = (self.channel.writer, self.out);
            tokio::spawn(async move {
                if closing.is_ok() {
                    let _ = writer.bytes(&out).await;
                }
                writer.finish().await;
            });
            return Ended {
                settled,
                error: None,
                left,
            };
        };
        Ended {
            settled,
            error: Some(error),
            left,
        }
    }

    fn tell(&mut self, about: Transfer<J>, result: Result<Meta, Error>) {
        self.settled += 1;
        let took = about.since.elapsed();
        // Who does not want to know any more finds it in the receiver's answer next time.
        let _ = self.results.send((about.job, result, took));
    }

    /// Moves records both ways, so that neither side waits for the other to read.
    async fn records(
        &mut self,
        jobs: &mut Jobs<J>,
        stop: impl Future<Output = Error>,
    ) -> Result<(), Error> {
        tokio::pin!(stop);
        let mut no_more = self.files == 0;
        // What was before, however long hooks took, is no silence.
        self.channel.reader.touch();
        let mut tick = interval_at(Instant::now() + WORKING, WORKING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.collect();
            if self.open.is_empty() && self.ended.is_empty() && no_more && self.is_written() {
                return Ok(());
            }
            let waits = !self.open.is_empty();
            let (idle, sealing) = (self.bulk.is_none() && self.is_written(), &mut self.sealing);
            let Channel { reader, writer, .. } = &mut self.channel;
            let pending = match &self.bulk {
                Some((buffer, at, used)) => buffer.get(*at..*used),
                None => self.out.get(self.written..),
            };
            tokio::select! {
                read = reader.more(), if reader.has_room() => {
                    match read {
                        Ok(()) => {}
                        // Nothing is expected of it.
                        Err(ChannelError::Idle(_)) if !waits => self.channel.reader.touch(),
                        Err(error) => return Err(Error::from(error).within("no ACK came")),
                    }
                    self.heard()?;
                }
                wrote = writer.some(pending.unwrap_or_default()), if !idle => match wrote {
                    Ok(more) => self.wrote(more),
                    Err(error) => return Err(self.last_words(error).await),
                },
                Some(sealed) = sealing.next(), if idle => self.sealed(sealed)?,
                Some(digest) = self.digests.join_next() => self.digested(digest.ok())?,
                job = jobs.recv(), if !no_more && self.open.len() < self.files => match job {
                    Some(job) => self.ask(job)?,
                    None => no_more = true,
                },
                // The disk lets us wait; the receiver should know that we are there.
                _ = tick.tick() => {
                    if let (true, Some(transfer)) = (idle, self.open.keys().next()) {
                        self.say(Kind::Working, *transfer, &[])?;
                    }
                }
                error = &mut stop => return Err(error),
            }
            while !no_more && self.open.len() < self.files && self.out.len() < TOGETHER {
                match jobs.try_recv() {
                    Ok(job) => self.ask(job)?,
                    Err(_) => break,
                }
            }
        }
    }

    fn is_written(&self) -> bool {
        self.written == self.out.len()
    }

    /// Takes small blocks that are there already, to write them together.
    fn collect(&mut self) {
        while self.bulk.is_none()
            && self.out.len() < TOGETHER
            && let Some(sealed) = self.sealing.ready()
        {
            if self.sealed(sealed).is_err() {
                return;
            }
        }
    }

    fn wrote(&mut self, more: usize) {
        match &mut self.bulk {
            Some((_, at, used)) => {
                *at += more;
                if at == used
                    && let Some((buffer, ..)) = self.bulk.take()
                {
                    self.sealing.recycle(buffer);
                }
            }
            None => {
                self.written += more;
                if self.is_written() {
                    self.out.clear();
                    self.written = 0;
                }
            }
        }
    }

    /// Seals a small record, to be written with others.
    fn say(&mut self, kind: Kind, transfer: u32, body: &[u8]) -> Result<(), Error> {
        let record = self.channel.outgoing.record(kind, transfer, body)?;
        self.out.extend(record);
        Ok(())
    }

    /// Asks for leave to send a further file.
    fn ask(&mut self, job: J) -> Result<(), Error> {
        let asked = match job.meta() {
            Ok(asked) => asked,
            Err(error) => {
                let _ = self.results.send((job, Err(error), Duration::ZERO));
                return Ok(());
            }
        };
        let (kind, json) = job.ask(&asked);
        if json.len() > record::MAX_BODY {
            let sentence = "the .meta is too large to be sent: 64 KiB at most";
            let error = Error::new(Code::Failed, sentence);
            let _ = self.results.send((job, Err(error), Duration::ZERO));
            return Ok(());
        }
        let transfer = self.next;
        self.next = self.next.wrapping_add(1);
        self.say(kind, transfer, &json)?;
        self.open.insert(transfer, Transfer::new(job, kind, asked));
        Ok(())
    }

    /// Reads the records that have come.
    fn heard(&mut self) -> Result<(), Error> {
        while let Some(mut batch) = self.channel.reader.take().map_err(Error::from)? {
            let mut records = batch.records();
            while let Some((head, _)) = record::split(records)? {
                let (record, behind) = std::mem::take(&mut records)
                    .split_at_mut_checked(head.record_len())
                    .ok_or(WireError::Record)?;
                records = behind;
                let sealed = record.get_mut(HEAD_LEN..).unwrap_or_default();
                let body = self.channel.incoming.open(head, sealed)?;
                let transfer = head.transfer;
                match head.kind {
                    Kind::Working => {}
                    Kind::Answer => {
                        let reply = Wire::from_json(body).map_err(|e| {
                            let sentence = format!("the answer cannot be read: {e}");
                            Error::new(Code::Failed, sentence)
                        })?;
                        self.answered(transfer, reply)?;
                    }
                    Kind::Resume => {
                        let offset = record::decode_offset(body)?;
                        self.resumed(transfer, offset)?;
                    }
                    Kind::Ack if body == record::ACK => self.acked(transfer)?,
                    Kind::Reply => self.stored(transfer, Reply::from_body(body)?)?,
                    Kind::Error => {
                        let error = record::decode_error(body)?;
                        let sentence = printable(&error.sentence, 500);
                        self.failed(transfer, Error::new(error.code, sentence));
                    }
                    _ => return Err(WireError::Record.into()),
                }
            }
            self.channel.reader.recycle(batch);
        }
        Ok(())
    }

    /// Takes a transfer out of the open ones, if the receiver may speak of it so.
    fn expect(
        &mut self,
        transfer: u32,
        may: impl FnOnce(&Transfer<J>) -> bool,
    ) -> Result<Transfer<J>, WireError> {
        match self.open.remove(&transfer) {
            Some(about) if may(&about) => Ok(about),
            about => {
                // It ends with the session, and its sender is told.
                about.map(|about| self.open.insert(transfer, about));
                Err(WireError::Record)
            }
        }
    }

    /// The receiver's answer to a meta.
    fn answered(&mut self, transfer: u32, reply: Wire) -> Result<(), WireError> {
        let mut about = self.expect(transfer, |about| about.reply.is_none())?;
        if let Err(error) = granted(&reply, &about.asked) {
            self.tell(about, Err(error));
            return Ok(());
        }
        if reply.delivered {
            self.observer
                .step(15, format_args!("the file was delivered before"));
            let meta = delivered(&about.asked, &reply.meta, reply.meta.file_crc);
            self.tell(about, Ok(meta));
            return Ok(());
        }
        let offset = reply.offset;
        about.reply = Some(reply);
        if offset == 0 {
            self.observer.step(
                13,
                format_args!(
                    "send {} bytes in sealed blocks",
                    about.asked.filesize.unwrap_or_default()
                ),
            );
            return self.begin(transfer, about, 0, crc32fast::Hasher::new());
        }
        let source = about.job.read_again();
        self.digests.spawn(async move {
            let digest = task::spawn_blocking(move || {
                let file = source.map_err(|e| unreadable(&e))?;
                prefix_digest(file, offset).map_err(|e| unreadable(&e))
            });
            let failed = |_| Err(Error::new(Code::Failed, "the file could not be read"));
            (transfer, digest.await.unwrap_or_else(failed))
        });
        self.open.insert(transfer, about);
        Ok(())
    }

    /// Tells the receiver what the own file has where it has something already.
    fn digested(&mut self, digest: Option<Digested>) -> Result<(), Error> {
        let lost = || Error::new(Code::Failed, "the file could not be read");
        let (transfer, digest) = digest.ok_or_else(lost)?;
        match digest {
            Ok((digest, crc)) => {
                if let Some(about) = self.open.get_mut(&transfer) {
                    about.prefix = Some(crc);
                    self.say(Kind::Resume, transfer, &digest)?;
                }
                Ok(())
            }
            Err(error) => self.give_up(transfer, error),
        }
    }

    /// The receiver says where the blocks begin.
    fn resumed(&mut self, transfer: u32, offset: u64) -> Result<(), WireError> {
        let mut about = self.expect(transfer, |about| {
            let held = about.reply.as_ref().map_or(0, |reply| reply.offset);
            about.prefix.is_some() && (offset == held || offset == 0)
        })?;
        let prefix = about.prefix.take().filter(|_| offset > 0);
        let crc = prefix.unwrap_or_default();
        self.observer.moved(offset);
        about.moved = offset;
        about.job.held(offset);
        self.begin(transfer, about, offset, crc)
    }

    /// Has the blocks made.
    fn begin(
        &mut self,
        transfer: u32,
        mut about: Transfer<J>,
        offset: u64,
        crc: crc32fast::Hasher,
    ) -> Result<(), WireError> {
        let keys = about
            .reply
            .as_ref()
            .and_then(|reply| reply.filekey.as_ref());
        let (Some(filekey), Some(id)) = (keys, &about.asked.id) else {
            let error = Error::new(Code::Failed, "the answer has no filekey");
            self.tell(about, Err(error));
            return Ok(());
        };
        let blocks = Stream::new(
            &self
                .keys
                .block_key(filekey, id, Direction::ToServer, transfer),
        )?;
        let (file, version) = about.job.source();
        about.is_sealing = true;
        let claimed_crc = about.asked.file_crc;
        self.open.insert(transfer, about);
        self.sealing.give(Attempt {
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

    /// What the other stage made.
    fn sealed(&mut self, sealed: Sealed) -> Result<(), Error> {
        match sealed {
            Sealed::Blocks {
                transfer,
                buffer,
                used,
                body,
            } => {
                self.observer.moved(body);
                if let Some(about) = self.open.get_mut(&transfer) {
                    about.moved += body;
                    self.observer.file(&about.asked, about.moved);
                }
                if used < TOGETHER / 2 {
                    self.out.extend(buffer.get(..used).unwrap_or_default());
                    self.sealing.recycle(buffer);
                } else if self.is_written() {
                    self.bulk = Some((buffer, 0, used));
                } else {
                    // What waits goes first.
                    let rest = self.out.split_off(self.written);
                    let mut whole = rest;
                    whole.extend(buffer.get(..used).unwrap_or_default());
                    self.sealing.recycle(buffer);
                    (self.out, self.written) = (whole, 0);
                }
                Ok(())
            }
            Sealed::Whole(transfer, crc) => {
                if self.ended.remove(&transfer) {
                    // The receiver waits for an end of what it ended.
                    let error = Error::new(Code::Later, "the receiver ended the transfer");
                    return self.say(Kind::Error, transfer, &record::encode_error(&error));
                }
                if let Some(about) = self.open.get_mut(&transfer) {
                    (about.crc, about.is_sealing) = (Some(crc), false);
                }
                self.observer
                    .step(14, format_args!("send the CRC-32 of the file, {crc}"));
                self.say(Kind::Trailer, transfer, &record::encode_trailer(crc))
            }
            Sealed::Broken(transfer, error) => {
                self.ended.remove(&transfer);
                self.give_up(transfer, error)
            }
        }
    }

    /// Tells the receiver that a file will not come, and why.
    fn give_up(&mut self, transfer: u32, error: Error) -> Result<(), Error> {
        self.say(Kind::Error, transfer, &record::encode_error(&error))?;
        if let Some(about) = self.open.remove(&transfer) {
            self.tell(about, Err(error));
        }
        Ok(())
    }

    fn acked(&mut self, transfer: u32) -> Result<(), WireError> {
        let about = self.expect(transfer, |about| {
            about.crc.is_some() && about.kind == Kind::Meta
        })?;
        self.observer.step(15, format_args!("got ACK"));
        self.safe(about);
        Ok(())
    }

    /// A file that was put somewhere is there.
    fn stored(&mut self, transfer: u32, reply: Reply) -> Result<(), WireError> {
        let same = match &reply {
            Reply::Stored { same, .. } => *same,
            Reply::Done => false,
            _ => return Err(WireError::Record),
        };
        let mut about = self.expect(transfer, |about| {
            let is_time = match same {
                true => about.reply.is_none(),
                false => about.crc.is_some(),
            };
            is_time && about.kind == Kind::Request
        })?;
        about.job.stored(reply);
        self.safe(about);
        Ok(())
    }

    /// The receiver has a file.
    fn safe(&mut self, about: Transfer<J>) {
        let reply = about
            .reply
            .as_ref()
            .map_or(&about.asked, |reply| &reply.meta);
        let meta = delivered(&about.asked, reply, about.crc);
        self.tell(about, Ok(meta));
    }

    /// The receiver ended a transfer.
    fn failed(&mut self, transfer: u32, error: Error) {
        let Some(about) = self.open.remove(&transfer) else {
            return;
        };
        if about.is_sealing {
            self.sealing.cancel(transfer);
            self.ended.insert(transfer);
        }
        self.tell(about, Err(error));
    }

    /// Looks for what the receiver said before the connection failed.
    async fn last_words(&mut self, failed: ChannelError) -> Error {
        let heard = timeout(LAST_WORDS, async {
            while self.channel.reader.more().await.is_ok() {
                if self.heard().is_err() {
                    return;
                }
            }
        });
        let _ = heard.await;
        Error::from(failed).within("the file was not sent")
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

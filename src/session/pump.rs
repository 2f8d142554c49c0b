//! The engine of a session: moves records both ways and hands over what they brought.

use std::time::Duration;

use tokio::{
    task::{self, JoinHandle},
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    SessionError,
    channel::{Batch, ChannelError, Reader, Writer},
    opener::{News, Opener},
    outbox::Outbox,
    role::{Flow, Role, RoleIo},
    upload_queue::Sealed,
};
use crate::{
    transfer::receive::{error::ReceiveError, target::Target},
    wire::record::{Kind, MAX_RECORD, Side, Stream},
};

/// How often the other side hears that this one is still there, at least.
const WORKING: Duration = Duration::from_secs(5);

/// How soon the other side hears of what has begun, if it is not over by then.
const SOON: Duration = Duration::from_millis(500);

/// Bytes of records that wait to be written, up to which more is taken in: a peer that keeps asking
/// and does not read the answers has to wait.
const UNREAD: usize = 1 << 20;

/// How long records are still read after writing failed: they may say why.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A connection whose session was opened.
pub struct Connection {
    /// Records from the other side.
    pub reader: Reader,
    /// Records to the other side.
    pub writer: Writer,
}

/// What a buffer of records brought.
struct Opened<T> {
    opener: Opener<T>,
    batch: Batch,
    news: Vec<News<T>>,
    result: Result<(), SessionError>,
}

/// What happens next to a session.
enum Event<R: Role> {
    Read(Result<(), ChannelError>),
    Opened(Option<Opened<R::Target>>),
    Done(Option<R::Done>),
    Wrote(Result<usize, ChannelError>),
    Sealed(Option<Sealed>),
    Tick,
    Input(R::Input),
    NoLastWords,
}

/// A running session.
pub struct Pump<R: Role> {
    connection: Connection,
    role: R,
    io: RoleIo<R>,
    /// Opens records, unless it is at work.
    opener: Option<Opener<R::Target>>,
    work: Option<JoinHandle<Opened<R::Target>>>,
    /// Blocks that are being written, and how far.
    bulk: Option<(Sealed, usize)>,
    /// Why nothing more is read; what has arrived is still processed.
    ended: Option<SessionError>,
    /// Why nothing more is written, and until when the other side may say its reason.
    mute: Option<(ChannelError, Instant)>,
    tick: Interval,
    /// Whether the next tick comes earlier than usual.
    is_soon: bool,
}

impl<R: Role> Pump<R> {
    /// A session: the first stream seals records to the other side, the second opens those from it.
    /// The other side hears from this one at least every five seconds, and three times within
    /// `patience`.
    pub fn new(
        connection: Connection,
        [ours, theirs]: [Stream; 2],
        role: R,
        patience: Duration,
    ) -> Self {
        let peer = match R::SIDE {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        let io = RoleIo::<R>::new(Outbox::new(ours));
        let every = WORKING.min(patience / 3);
        let mut tick = interval_at(Instant::now() + every, every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            opener: Some(Opener::new(peer, theirs, io.downloads.clone())),
            connection,
            role,
            io,
            work: None,
            bulk: None,
            ended: None,
            mute: None,
            tick,
            is_soon: false,
        }
    }

    /// The role and what it works with, to start something.
    pub fn role(&mut self) -> (&mut R, &mut RoleIo<R>) {
        (&mut self.role, &mut self.io)
    }

    /// Runs until both sides have had the last word of all transfers, or something ends it early.
    /// What was under way is finished, or waits for the next attempt; the role has said what the
    /// other side may know. Returns the role with the connection, to which nothing more is written.
    pub async fn run(
        mut self,
        begun: Result<(), SessionError>,
    ) -> (R, Connection, Result<(), SessionError>) {
        self.connection.reader.widen(self.io.buffer);
        let result = match begun {
            Ok(()) => self.records().await,
            Err(error) => Err(error),
        };
        let error = result.as_ref().err();
        if let Some(work) = self.work.take()
            && let Ok(opened) = work.await
        {
            // It was not looked at: the next attempt resumes behind it.
            self.opener = Some(opened.opener);
            leave(opened.news).await;
        }
        self.io.uploads.clear();
        if let Some(opener) = self.opener.take()
            && opener.expects_blocks()
        {
            let why = error.map_or(ReceiveError::GoingDown, ReceiveError::from);
            let _ = task::spawn_blocking(move || opener.end_all(&why)).await;
        }
        if let Some(error) = error {
            self.role.give_up(&mut self.io, error);
        }
        self.finish().await;
        self.role.end(&mut self.io, error);
        let writer = &mut self.connection.writer;
        if self.mute.is_none() {
            let _ = writer.bytes(self.io.outbox.pending()).await;
        }
        writer.finish().await;
        (self.role, self.connection, result)
    }

    /// Finishes what is running, and meanwhile writes what was said.
    async fn finish(&mut self) {
        let (role, io) = (&mut self.role, &mut self.io);
        while role.must_finish(io) {
            let pending = match self.mute {
                None => io.outbox.pending(),
                Some(_) => &[],
            };
            tokio::select! {
                done = io.tasks.next() => if let Some(done) = done {
                    role.done_late(io, done);
                },
                wrote = self.connection.writer.some(pending), if !pending.is_empty() => match wrote {
                    Ok(wrote) => io.outbox.wrote(wrote),
                    Err(error) => self.mute = Some((error, Instant::now())),
                },
            }
        }
    }

    async fn records(&mut self) -> Result<(), SessionError> {
        // The time before, however long hooks took, is not silence.
        self.connection.reader.touch();
        loop {
            if let Some(error) = self.feed()? {
                return Err(error);
            }
            self.role.proceed(&mut self.io)?;
            self.speak_soon();
            match self.mute {
                None => self.io.uploads.proceed(),
                Some(_) => self.io.outbox.clear(),
            }
            let at_rest = self.is_at_rest();
            if at_rest {
                if self.role.is_over() {
                    return Ok(());
                }
                self.rest();
            }
            let event = self.next(at_rest).await;
            self.handle(event)?;
        }
    }

    /// Gives the opener the records that are there. Returns why the session is over, once nothing
    /// more is to be processed.
    fn feed(&mut self) -> Result<Option<SessionError>, SessionError> {
        let listens = self.io.outbox.len() < UNREAD || self.ended.is_some();
        while listens && let Some(mut opener) = self.opener.take() {
            let mut batch = match self.connection.reader.take() {
                Ok(Some(batch)) => batch,
                Ok(None) => {
                    self.opener = Some(opener);
                    return Ok(self.ended.take());
                }
                Err(error) => {
                    self.opener = Some(opener);
                    return Err(error.into());
                }
            };
            let expects_blocks = opener.expects_blocks();
            let open = move || {
                let mut news = Vec::new();
                let result = opener.open(&mut batch, &mut news);
                Opened {
                    opener,
                    batch,
                    news,
                    result,
                }
            };
            match expects_blocks {
                true => self.work = Some(task::spawn_blocking(open)),
                // Nothing of it waits for a disk.
                false => self.opened(open())?,
            }
        }
        Ok(None)
    }

    fn is_at_rest(&self) -> bool {
        self.work.is_none()
            && self.bulk.is_none()
            && self.io.outbox.is_empty()
            && self.io.tasks.is_empty()
            && self.role.open().is_none()
    }

    fn rest(&mut self) {
        self.connection.reader.narrow();
        self.io.uploads.shrink();
        self.io.outbox.shrink();
        self.io.buffer = MAX_RECORD;
    }

    async fn next(&mut self, at_rest: bool) -> Event<R> {
        let Connection { reader, writer } = &mut self.connection;
        let (io, running) = (&mut self.io, self.ended.is_none());
        let pending = match &self.bulk {
            Some((sealed, at)) => sealed.buffer.get(*at..sealed.used).unwrap_or_default(),
            None => io.outbox.pending(),
        };
        let writes = !pending.is_empty();
        let flushes = writer.keeps() && self.mute.is_none();
        let mute = self.mute.as_ref().map(|(_, until)| *until);
        tokio::select! {
            read = reader.more(), if running && reader.has_room() => Event::Read(read),
            opened = join(&mut self.work) => Event::Opened(opened),
            done = io.tasks.next() => Event::Done(done),
            wrote = writer.some(pending), if writes || flushes => Event::Wrote(wrote),
            sealed = io.uploads.next(), if !writes && mute.is_none() => Event::Sealed(sealed),
            _ = self.tick.tick(), if running => Event::Tick,
            input = self.role.input(at_rest), if running => Event::Input(input),
            () = sleep_until(mute.unwrap_or_else(Instant::now)), if running && mute.is_some() => {
                Event::NoLastWords
            }
        }
    }

    fn handle(&mut self, event: Event<R>) -> Result<(), SessionError> {
        match event {
            Event::Read(read) => self.read(read),
            Event::Opened(opened) => self.opened(opened.ok_or(SessionError::Failed)?)?,
            Event::Done(done) => {
                let mut done = Some(done);
                while let Some(one) = done {
                    self.role
                        .done(&mut self.io, one.ok_or(SessionError::Failed)?)?;
                    done = self.io.tasks.ready();
                }
            }
            Event::Wrote(wrote) => self.wrote(wrote),
            Event::Sealed(sealed) => self.sealed(sealed.ok_or(SessionError::Failed)?)?,
            // A peer whose last bytes are still on a slow path hears from us.
            Event::Tick => {
                self.is_soon = false;
                if self.mute.is_none()
                    && self.io.outbox.is_empty()
                    && let Some((transfer, what)) = self.role.open()
                {
                    let outbox = &mut self.io.outbox;
                    outbox.say(Kind::Working, transfer, what)?;
                }
            }
            Event::Input(input) => {
                if let Flow::End(error) = self.role.take(&mut self.io, input)? {
                    self.ended = Some(error);
                }
            }
            Event::NoLastWords => {
                self.ended = self.mute.take().map(|(error, _)| error.into());
            }
        }
        Ok(())
    }

    /// Makes sure that the other side soon hears of what has just begun.
    fn speak_soon(&mut self) {
        if std::mem::take(&mut self.io.has_begun) && !self.is_soon {
            self.is_soon = true;
            self.tick.reset_after(SOON.min(self.tick.period()));
        }
    }

    fn read(&mut self, read: Result<(), ChannelError>) {
        let reader = &mut self.connection.reader;
        match read {
            Ok(()) => {}
            // It waits for us, or has nothing to say.
            Err(ChannelError::Idle(_)) if !self.role.is_owed(&self.io) || self.work.is_some() => {
                reader.touch();
            }
            Err(error) => {
                let why = self.mute.take().map_or(error, |(error, _)| error);
                self.ended = Some(why.into());
            }
        }
        if self.io.buffer > MAX_RECORD {
            reader.widen(self.io.buffer);
        }
    }

    /// Hands over what a buffer brought, up to the first thing that does not belong there.
    fn opened(&mut self, opened: Opened<R::Target>) -> Result<(), SessionError> {
        let Opened {
            opener,
            batch,
            news,
            result,
        } = opened;
        self.connection.reader.recycle(batch);
        self.opener = Some(opener);
        let (role, io) = (&mut self.role, &mut self.io);
        let mut news = news.into_iter();
        let taken = news.try_for_each(|news| match news {
            News::Record(record) => role.record(io, record),
            News::Moved(bytes) => {
                role.moved_in(bytes);
                Ok(())
            }
            News::Whole(transfer, received) => role.whole(io, transfer, *received),
            News::Failed(transfer, error) => role.failed(io, transfer, error),
        });
        if taken.is_err() {
            task::spawn(leave(news.collect()));
        }
        // What was reported before a fault holds.
        let begun = role.batch_end(io);
        taken.and(begun).and(result)
    }

    fn wrote(&mut self, wrote: Result<usize, ChannelError>) {
        let wrote = match wrote {
            Ok(wrote) => wrote,
            Err(error) => {
                // A peer that cannot be told finds its file delivered when it tries again.
                self.io.outbox.clear();
                self.io.uploads.clear();
                self.bulk = None;
                self.mute = Some((error, Instant::now() + LAST_WORDS));
                return;
            }
        };
        match &mut self.bulk {
            None => self.io.outbox.wrote(wrote),
            Some((sealed, at)) => {
                *at += wrote;
                if *at >= sealed.used
                    && let Some((sealed, _)) = self.bulk.take()
                {
                    self.io.uploads.recycle(sealed.buffer);
                }
            }
        }
    }

    /// Queues a buffer to be written, and tells the role which files end with it.
    fn sealed(&mut self, mut sealed: Sealed) -> Result<(), SessionError> {
        for (transfer, bytes) in std::mem::take(&mut sealed.moved) {
            self.role.moved_out(transfer, bytes);
        }
        for (transfer, end) in std::mem::take(&mut sealed.ended) {
            self.role.sealed(&mut self.io, transfer, end)?;
        }
        match sealed.used {
            0 => self.io.uploads.recycle(sealed.buffer),
            // Before what was said just now.
            _ => self.bulk = Some((sealed, 0)),
        }
        Ok(())
    }
}

/// Leaves complete files that were not looked at: they wait for the next attempt.
async fn leave<T: Target>(news: Vec<News<T>>) {
    let whole: Vec<_> = news
        .into_iter()
        .filter_map(|news| match news {
            News::Whole(_, received) => {
                let came = received.came();
                Some((received.target, came))
            }
            _ => None,
        })
        .collect();
    if whole.is_empty() {
        return;
    }
    let leaving = move || {
        for (target, came) in whole {
            target.end(&ReceiveError::GoingDown, Some(came));
        }
    };
    let _ = task::spawn_blocking(leaving).await;
}

/// Waits for a thread; forever if none is running.
async fn join<T>(work: &mut Option<JoinHandle<T>>) -> Option<T> {
    let joined = match work {
        Some(handle) => handle.await.ok(),
        None => return std::future::pending().await,
    };
    *work = None;
    joined
}

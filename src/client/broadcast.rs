//! One input for several receivers: it is read once, and sealed for each.

use std::{
    convert::Infallible,
    io::Read,
    thread,
    time::{Duration, Instant},
};

use futures_util::future::{join_all, select_all};
use tokio::time::sleep;

use super::{Route, deliver, letters::Leave};
use crate::{
    crypto::random,
    error::{Code, Error},
    meta::{Meta, TransferId, datetime_now},
    observer::Observer,
    stream::{NOBODY, WINDOW},
    transfer::send::{
        feed::{Dropped, Feed, Feeds, Overflow},
        send_job::SendJob,
    },
};

/// How long it takes until a receiver who was cut off is asked again, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

/// What becomes of it for one receiver.
pub enum News<'a> {
    /// The receiver has accepted it.
    Begun(&'a Meta),
    /// The receiver was cut off for this reason, and is asked again.
    Again(&'a Meta, &'a Error),
    /// It is over.
    Over(Box<Outcome>),
}

/// What became of it for one receiver.
pub struct Outcome {
    /// What was sent, as it was delivered or as it was asked for.
    pub meta: Meta,
    /// Why it was not.
    pub result: Result<(), Error>,
    /// Bytes that left.
    pub sent: u64,
    /// What was dropped because the receiver was too slow.
    pub dropped: Dropped,
    /// How long that took, from the question on.
    pub took: Duration,
}

/// What is sent as it comes, to one receiver or several.
pub struct Broadcast {
    receivers: Vec<(Route, Meta)>,
    overflow: Overflow,
}

impl Broadcast {
    /// To these receivers; each meta says whether it is a file or a stream. What a slow receiver
    /// has no room for holds up all others, or is dropped.
    pub fn new(receivers: Vec<(Route, Meta)>, overflow: Overflow) -> Self {
        Self {
            receivers,
            overflow,
        }
    }

    /// Reads `input` and sends it. It is read from once all receivers have accepted or refused; if
    /// pieces may be dropped, from the first who accepts.
    pub async fn send(
        self,
        input: impl Read + Send + 'static,
        observer: &dyn Observer,
        tell: impl Fn(News<'_>) + Sync,
    ) -> Result<(), Error> {
        let feeds = Feeds::default();
        let mut first = Vec::new();
        for (_, meta) in &self.receivers {
            first.push(feed_of(meta, self.overflow, &feeds));
        }
        let begun = first.clone();
        let overflow = self.overflow;
        let reading = async {
            let begun = begun.iter().map(|feed| Box::pin(feed.begun()));
            match overflow {
                Overflow::Wait => drop(join_all(begun).await),
                Overflow::Drop => drop(select_all(begun).await),
            }
            let feeds = feeds.clone();
            // It may wait for input for ever, also if nobody wants any.
            let reader = thread::Builder::new().name("input".to_owned());
            let reader = reader.spawn(move || feeds.copy(input));
            reader.map_err(|e| Error::new(Code::Failed, format!("cannot start a thread: {e}")))
        };
        let sending = self.receivers.iter().zip(first).map(|(to, feed)| {
            let receiver = Receiver {
                route: &to.0,
                meta: &to.1,
                overflow,
                feeds: &feeds,
            };
            receiver.send(feed, observer, &tell)
        });
        let sending = async {
            join_all(sending).await;
            feeds.close();
        };
        let (started, ()) = tokio::join!(reading, sending);
        started.map(drop)
    }
}

fn feed_of(meta: &Meta, overflow: Overflow, feeds: &Feeds) -> Feed {
    let feed = Feed::new(overflow);
    let feed = match meta.is_stream() {
        true => feed.up_to(WINDOW),
        false => feed,
    };
    feeds.add(&feed);
    feed
}

struct Receiver<'a> {
    route: &'a Route,
    meta: &'a Meta,
    overflow: Overflow,
    feeds: &'a Feeds,
}

impl Receiver<'_> {
    async fn send(
        self,
        mut feed: Feed,
        observer: &dyn Observer,
        tell: &(impl Fn(News<'_>) + Sync),
    ) {
        let (begun, mut sent) = (Instant::now(), 0);
        let mut dropped = Dropped::default();
        // What cannot be read again cannot be left for later.
        let route = self.route.clone().leaving(Leave::Never);
        let mut was_watched = false;
        let [mut pause, longest] = PAUSES;
        loop {
            let mut meta = self.meta.clone();
            let result = match random() {
                Ok(id) => {
                    meta.id = Some(TransferId(id));
                    meta.datetime = datetime_now();
                    let job = SendJob::of_feed(meta.clone(), feed.clone());
                    let delivering = deliver(&route, &job, observer);
                    let telling = async {
                        feed.begun().await;
                        if feed.is_begun() {
                            tell(News::Begun(&meta));
                        }
                        std::future::pending::<Infallible>().await
                    };
                    tokio::select! {
                        result = delivering => result,
                        never = telling => match never {},
                    }
                }
                Err(error) => Err(Error::new(Code::Failed, error.to_string())),
            };
            if feed.is_begun() {
                was_watched = true;
                [pause, _] = PAUSES;
            }
            feed.close();
            sent += feed.taken();
            let lost = feed.dropped();
            dropped.pieces += lost.pieces;
            dropped.bytes += lost.bytes;
            let is_cut = |error: &Error| match error.code {
                Code::Later => true,
                Code::Refused => error.sentence == NOBODY,
                _ => false,
            };
            let goes_on = was_watched && self.overflow == Overflow::Drop;
            let mut asks_again = false;
            if let Err(error) = &result
                && goes_on
                && is_cut(error)
                && !self.feeds.has_ended()
            {
                tell(News::Again(&meta, error));
                sleep(pause).await;
                pause = longest.min(pause * 2);
                // An empty rest would look like all of it.
                asks_again = !self.feeds.has_ended();
            }
            match asks_again {
                true => feed = feed_of(self.meta, self.overflow, self.feeds).again(),
                false => {
                    let (meta, result) = match result {
                        Ok(meta) => (meta, Ok(())),
                        Err(error) => (meta, Err(error)),
                    };
                    return tell(News::Over(Box::new(Outcome {
                        meta,
                        result,
                        sent,
                        dropped,
                        took: begun.elapsed(),
                    })));
                }
            }
        }
    }
}

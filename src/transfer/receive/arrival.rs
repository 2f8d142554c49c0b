//! A file that was accepted, from the decision until it is whole.

use std::{io, sync::Arc, time::Instant};

use tracing::{info, warn};

use super::{
    error::ReceiveError,
    partial::Partial,
    streams::{Recording, Streaming},
    target::{Came, Received, Target},
};
use crate::{
    error::printable,
    event::{Event, Kind, Subject},
    hooks::{Pinned, dispatch::asked_of},
    meta::Wire,
    observer::{Observer, TransferEnd},
    root::{config::Config, folder::Folder},
    store::Sink,
    stream::INCOMPLETE,
    traffic::{Entry, Transfer},
    viewers::{End, View},
};

/// A file that was accepted.
pub struct Arrival {
    /// The meta for the sender, with the key for this attempt.
    pub reply: Wire,
    /// Its names in the folder.
    pub partial: Partial,
    /// Where its bytes go, once there are some.
    pub sink: Option<Box<dyn Sink>>,
    /// Bytes of the whole file; `None` if its sender does not know yet.
    pub expected: Option<u64>,
    /// The most bytes of it that are taken.
    pub most: u64,
    /// Bytes that are there already, if the sender has the same.
    pub held: u64,
    /// The folder.
    pub folder: Folder,
    /// Its m2y.config.
    pub config: Arc<Config>,
    /// The scripts that the transfer began with.
    pub pinned: Pinned,
    /// When its sender asked.
    pub begun: Instant,
    /// The observer.
    pub observer: Arc<dyn Observer>,
    /// Counts its bytes.
    pub traffic: Entry<Transfer>,
    /// What is done with it, if it is a stream.
    pub streaming: Streaming,
    /// Where it is watched, if it is a stream.
    pub view: Option<View>,
    /// Takes what came of a stream that was cut off, if it is recorded.
    pub keep: Option<Keep>,
}

/// Takes what came of a stream that was cut off.
pub type Keep = Box<dyn FnOnce(Received<Arrival>) + Send>;

impl Arrival {
    /// Removes what was there: the sender has a different file.
    pub fn begin_again(&mut self) -> io::Result<()> {
        self.held = 0;
        self.sink = None;
        self.traffic.reached(0);
        self.sink().map(drop)
    }

    /// Its event.
    pub fn event(&self, kind: Kind) -> Event {
        event(kind, &self.folder, &self.config, &self.partial)
    }
}

/// The event of an incoming file.
pub fn event(kind: Kind, folder: &Folder, config: &Arc<Config>, partial: &Partial) -> Event {
    Event {
        id: partial.key().into(),
        kind,
        folder: folder.clone(),
        config: config.clone(),
        file: Some(partial.subject().data_file()),
        subject: Some(partial.subject().clone()),
        asked: asked_of(&partial.subject().meta),
        store: None,
    }
}

impl Target for Arrival {
    fn expected(&self) -> Option<u64> {
        self.expected
    }

    fn most(&self) -> u64 {
        self.most
    }

    fn claimed_crc(&self) -> Option<u32> {
        self.partial.subject().meta.file_crc
    }

    /// A hidden file, with the bytes that are there already and that the sender has too; or where a
    /// stream is watched.
    fn sink(&mut self) -> io::Result<&mut Box<dyn Sink>> {
        let none = match &mut self.sink {
            Some(sink) => return Ok(sink),
            none => none,
        };
        let file = || self.partial.begin(self.held);
        Ok(none.insert(match self.view.clone() {
            None => file()?,
            Some(view) if self.streaming.is_recorded => Box::new(Recording {
                file: file()?,
                view,
            }),
            Some(view) => Box::new(view),
        }))
    }

    fn reached(&self, bytes: u64) {
        self.traffic.reached(bytes);
    }

    /// If the sender may resume later, what has arrived waits for that, hidden. What came of a
    /// stream that is recorded is kept.
    fn end(mut self, why: &ReceiveError, came: Option<Came>) {
        if let Some(view) = &self.view {
            view.end(End::Cut(why.to_string()));
        }
        let is_storable = !matches!(why, ReceiveError::Store(_));
        let came = came.filter(|_| is_storable && self.sink.is_some());
        if let (Some(came), Some(keep)) = (came, self.keep.take()) {
            let subject = self.partial.subject();
            not_received(&*self.observer, subject, self.begun, why);
            let mut meta = subject.meta.clone();
            meta.extra.insert(INCOMPLETE.to_owned(), true.into());
            self.partial.set_meta(meta);
            return keep(Received {
                target: self,
                len: came.len,
                crc: came.crc,
                sha256: came.sha256,
            });
        }
        let Self {
            partial,
            sink,
            begun,
            observer,
            expected,
            ..
        } = self;
        drop(sink);
        let subject = partial.subject().clone();
        match why.is_passing() && expected.is_some() {
            true => partial.break_off(),
            false => drop(partial),
        }
        // Told last: whatever hears of it may rely on the next attempt being able to begin.
        not_received(&*observer, &subject, begun, why);
    }
}

/// Reports that a file was accepted but did not arrive.
pub fn not_received(
    observer: &dyn Observer,
    subject: &Subject,
    begun: Instant,
    why: &ReceiveError,
) {
    let meta = &subject.meta;
    if let ReceiveError::Refused(words) = why {
        info!(
            from = %meta.from, to = %meta.to, folder = %meta.folder,
            stem = %subject.stem, bytes = meta.filesize,
            seconds = begun.elapsed().as_secs_f64(),
            id = meta.id.map(tracing::field::display),
            verdict = %TransferEnd::Refused.word(),
            "refused: {}", printable(words, 200)
        );
        return observer.ended(TransferEnd::Refused);
    }
    warn!(
        from = %meta.from, to = %meta.to, folder = %meta.folder,
        stem = %subject.stem, bytes = meta.filesize,
        seconds = begun.elapsed().as_secs_f64(),
        id = meta.id.map(tracing::field::display),
        verdict = %TransferEnd::Failed.word(),
        "not received: {}", printable(&why.to_string(), 300)
    );
    observer.ended(TransferEnd::Failed);
}

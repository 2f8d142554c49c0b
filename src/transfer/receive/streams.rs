//! The receiver's decision about streams: hooks first, as for a file, then a viewer.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::task;
use tracing::info;

use super::{
    arrival::Arrival,
    decision::{Decision, refused},
    offer::FileOffer,
    receiver::{Parties, Receiver},
    takeover::Offered,
};
use crate::{
    error::{Code, Error, printable},
    files::disk_queue::DiskQueue,
    meta::QUARANTINE,
    store::{Sink, flush::FileSystem},
    viewers::{Announced, Unwatched, View},
};

/// How long a sender waits for somebody to say yes or no; [`NOBODY`](crate::stream::NOBODY) says it, too.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a recording that needs no answer waits for somebody who watches it, too.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Whether a stream is recorded, and whether anybody need be asked about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streaming {
    /// It is kept as a file.
    pub is_recorded: bool,
    /// Hooks have accepted it.
    pub is_accepted: bool,
}

/// Records what is watched.
pub struct Recording {
    /// The file.
    pub file: Box<dyn Sink>,
    /// Where it is watched.
    pub view: View,
}

impl Sink for Recording {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        self.file.append(pieces)?;
        self.view.append(pieces)
    }

    fn settle(&mut self) -> io::Result<()> {
        self.file.settle()
    }

    fn file_system(&self) -> Option<FileSystem<'_>> {
        self.file.file_system()
    }
}

impl Receiver {
    /// Decides about streams, each of which is reported as soon as that is done.
    pub(super) async fn decide_streams(
        self: &Arc<Self>,
        queue: &DiskQueue,
        parties: &Arc<Parties>,
        streams: Vec<Offered>,
        begun: Instant,
        tell: &(impl Fn(usize, Result<Decision, Error>) + Sync),
    ) {
        let deciding = streams.into_iter().map(|(at, offer)| async move {
            let decided = self.decide_stream(queue, parties, offer, begun).await;
            tell(at, decided);
        });
        join_all(deciding).await;
    }

    async fn decide_stream(
        self: &Arc<Self>,
        queue: &DiskQueue,
        parties: &Arc<Parties>,
        offer: Box<FileOffer>,
        begun: Instant,
    ) -> Result<Decision, Error> {
        let quick = Mutex::new(None);
        let early = |_, decision| {
            *quick.lock().unwrap_or_else(PoisonError::into_inner) = Some(Ok(decision));
        };
        let decided = self.decide_files(queue, parties, vec![(0, offer)], begun, &early);
        let decided = decided.await.pop().map(|(_, decision)| decision);
        let quick = quick.into_inner().unwrap_or_else(PoisonError::into_inner);
        let lost = || Err(Error::new(Code::Failed, "nothing was decided"));
        match decided.or(quick).unwrap_or_else(lost)? {
            Decision::Taken(arrival) => self.ask_viewers(parties, *arrival, begun).await,
            answered => Ok(answered),
        }
    }

    /// Finds somebody who watches a stream that hooks do not object to.
    async fn ask_viewers(
        &self,
        parties: &Parties,
        mut arrival: Arrival,
        begun: Instant,
    ) -> Result<Decision, Error> {
        let meta = arrival.partial.subject().meta.clone();
        let Streaming {
            is_recorded,
            is_accepted,
        } = arrival.streaming;
        let is_held = meta.extra.contains_key(QUARANTINE);
        let view = match is_held {
            true if is_recorded => Ok(View::unwatched()),
            true => Err(Unwatched::Refused(
                "a stream cannot wait until somebody has looked at it".to_owned(),
            )),
            false => {
                let stream = Announced {
                    user: parties.user.name().clone(),
                    from: parties.from.clone(),
                    folder: arrival.folder.name().to_string(),
                    filename: meta.filename.clone(),
                    id: arrival.partial.id(),
                    is_accepted,
                };
                let needs_nobody = is_recorded && is_accepted;
                let patience = if needs_nobody { AT_ONCE } else { PATIENCE };
                match self.viewers.offer(stream, patience).await {
                    Err(_) if needs_nobody => Ok(View::unwatched()),
                    answered => answered,
                }
            }
        };
        match view {
            Ok(view) => {
                if is_recorded {
                    view.goes_on();
                }
                info!(
                    from = %meta.from, to = %meta.to, folder = %meta.folder,
                    name = %printable(&meta.filename, 200), recorded = is_recorded,
                    "a stream begins"
                );
                arrival.view = Some(view);
                Ok(Decision::Taken(Box::new(arrival)))
            }
            Err(why) => {
                let code = match why {
                    Unwatched::TooMany => Code::Later,
                    _ => Code::Refused,
                };
                let error = Error::new(code, why.to_string());
                self.log_not_taken(parties, &meta, None, begun, &error);
                let _ = task::spawn_blocking(move || drop(arrival)).await;
                Ok(Decision::Answered(Box::new(refused(meta, &error))))
            }
        }
    }
}

//! Receives files into the folders of a root: step 15, from whole to acknowledged.

use std::{io, sync::Arc, time::Instant};

use tokio::task;
use tracing::info;

use super::{
    arrival::{Arrival, not_received},
    commit::{Committer, Whole},
    error::ReceiveError,
    partial::Partial,
    target::Received,
    under_way::UnderWay,
};
use crate::{
    error::printable,
    event::{Kind, Subject, Verdict},
    files::service::FileService,
    hooks::{
        dispatch::{Dispatcher, Kept},
        startup::Startup,
    },
    meta::Meta,
    observer::{Ended, Observer},
    root::{
        config::Config, destination::Destination, folder::Folder, name::Name, settings::Settings,
        user::User,
    },
    store::StoreOf,
    wire::request::Reply,
};

/// The two people of a session, certain by signature.
pub struct Parties {
    /// Whose folders they are.
    pub user: User,
    /// The contact.
    pub from: Name,
}

impl Parties {
    /// A meta to answer with where none could be read.
    pub fn empty_meta(&self) -> Meta {
        Meta::new(self.from.as_str(), self.user.name().as_str(), "", "")
    }
}

/// Receives files into the folders of a root.
#[derive(Clone)]
pub struct Receiver {
    /// Fires events.
    pub hooks: Dispatcher,
    /// Knows which folders are closed.
    pub startup: Startup,
    /// Limits.
    pub settings: Settings,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Where contents go.
    pub store_of: StoreOf,
    /// What is under way.
    pub under_way: UnderWay,
    /// Makes files safe.
    pub committer: Committer,
    /// What contacts may see and change.
    pub files: FileService,
}

/// A file that was complete, and what became of it.
pub struct Stored {
    subject: Subject,
    begun: Instant,
    /// Whether it is safe.
    pub result: Result<Safe, ReceiveError>,
}

/// A file that is safe.
pub struct Safe {
    crc: u32,
    /// What is said of one that was put somewhere.
    pub reply: Option<Reply>,
}

/// A file that is being made safe.
struct Storing {
    subject: Subject,
    begun: Instant,
    folder: Folder,
    config: Arc<Config>,
    destination: Option<Destination>,
    /// Whether it gets the path that its sender wants at once.
    goes_there: bool,
    /// What its hooks will hear.
    kept: Option<Kept>,
    crc: u32,
}

impl Receiver {
    /// Makes complete files safe, gives them their names, runs `[OnReceived]`. The results
    /// are in the order of the files.
    pub async fn store(&self, received: Vec<Received<Arrival>>) -> Vec<Stored> {
        let (mut storing, mut whole) = (Vec::new(), Vec::new());
        let mut stored: Vec<Option<Stored>> = Vec::new();
        for received in received {
            let (about, file) = self.begin_to_store(received);
            storing.push(about);
            stored.push(None);
            whole.push(file);
        }
        let committed = self.commit(whole).await;
        let mut safe = Vec::new();
        for (at, (about, committed)) in storing.into_iter().zip(committed).enumerate() {
            match self.committed(about, committed).await {
                Ok(named) => safe.push((at, named)),
                Err(failed) => {
                    if let Some(place) = stored.get_mut(at) {
                        *place = Some(failed);
                    }
                }
            }
        }
        for (at, done) in self.received(safe).await {
            if let Some(place) = stored.get_mut(at) {
                *place = Some(done);
            }
        }
        stored.into_iter().flatten().collect()
    }

    fn begin_to_store(&self, received: Received<Arrival>) -> (Storing, Option<Whole>) {
        let Received {
            target: arrival,
            crc,
        } = received;
        let event = arrival.event(Kind::Received);
        let Arrival {
            partial,
            sink,
            folder,
            config,
            pinned,
            begun,
            ..
        } = arrival;
        let mut meta = partial.subject().meta.clone();
        meta.file_crc = Some(crc);
        let kept = self.hooks.keep(event, pinned, partial.key());
        let destination = Destination::of(&meta);
        if let Some(destination) = &destination
            && let [name] = destination.path.components()
        {
            self.hooks.self_changes().arrives(&folder, &config, name);
        }
        let storing = Storing {
            subject: partial.subject().clone(),
            begun,
            folder,
            config,
            goes_there: kept.is_none() && Destination::open(&meta).is_some(),
            destination,
            crc,
            kept,
        };
        let owed = storing.kept.is_some();
        let whole = sink.map(|sink| Whole {
            partial,
            sink,
            meta,
            owed,
        });
        (storing, whole)
    }

    /// Commits files, those of one folder together. `None` where a thread of ours failed.
    async fn commit(&self, files: Vec<Option<Whole>>) -> Vec<Option<(Partial, io::Result<()>)>> {
        let mut results: Vec<_> = files.iter().map(|_| None).collect();
        let mut folders: Vec<(Vec<usize>, Vec<Whole>)> = Vec::new();
        for (at, whole) in files.into_iter().enumerate() {
            let Some(whole) = whole else {
                continue;
            };
            let same = folders.iter_mut().find(|(_, group)| {
                let first = group.first();
                first.is_some_and(|first| {
                    first.partial.folder().path() == whole.partial.folder().path()
                })
            });
            match same {
                Some((places, group)) => {
                    places.push(at);
                    group.push(whole);
                }
                None => folders.push((vec![at], vec![whole])),
            }
        }
        let committing = folders
            .into_iter()
            .map(|(places, group)| async { (places, self.committer.commit(group).await) });
        for (places, committed) in futures_util::future::join_all(committing).await {
            for (at, one) in places.into_iter().zip(committed.unwrap_or_default()) {
                if let Some(place) = results.get_mut(at) {
                    *place = Some(one);
                }
            }
        }
        results
    }

    /// Looks whether a file got its name.
    async fn committed(
        &self,
        storing: Storing,
        committed: Option<(Partial, io::Result<()>)>,
    ) -> Result<(Storing, Partial), Stored> {
        let failed = |storing: Storing, error| Stored {
            subject: storing.subject,
            begun: storing.begun,
            result: Err(error),
        };
        let Some((partial, named)) = committed else {
            return Err(failed(storing, ReceiveError::Failed));
        };
        if let Err(error) = named {
            let error = match error.kind() {
                io::ErrorKind::AlreadyExists if storing.goes_there => ReceiveError::Taken,
                _ => ReceiveError::Store(error),
            };
            let passing = error.is_passing();
            let leaving = move || match passing {
                true => partial.break_off(),
                false => drop(partial),
            };
            let _ = task::spawn_blocking(leaving).await;
            return Err(failed(storing, error));
        }
        let mut storing = storing;
        let data_file = partial.subject().data_file();
        if storing.subject.stem != partial.subject().stem {
            // Its name was taken since it was reserved.
            self.hooks
                .self_changes()
                .arrives(&storing.folder, &storing.config, &data_file);
        }
        storing.subject = partial.subject().clone();
        self.observer
            .step(15, format_args!("CRC-32 matches, stored {data_file}"));
        if let (Some(path), Some(destination)) = (partial.placed(), &storing.destination)
            && !path.contains('/')
            && path != destination.path.join()
        {
            // It got a number.
            self.hooks
                .self_changes()
                .arrives(&storing.folder, &storing.config, path);
        }
        Ok((storing, partial))
    }

    /// Runs `[OnReceived]` for files that are safe. Where it objects, a file stays, marked,
    /// and its hooks run again.
    async fn received(&self, safe: Vec<(usize, (Storing, Partial))>) -> Vec<(usize, Stored)> {
        let (mut kept, mut places) = (Vec::new(), Vec::new());
        let mut files = Vec::new();
        for (at, (mut storing, partial)) in safe {
            let mut placed = partial.placed().map(str::to_owned);
            match storing.kept.take() {
                Some(mut one) => {
                    let event = one.event_mut();
                    event.file = Some(storing.subject.data_file());
                    event.subject = Some(storing.subject.clone());
                    places.push(files.len());
                    kept.push(one);
                }
                None => {
                    self.hooks
                        .hide_if_asked(partial.folder(), partial.subject())
                        .await;
                }
            }
            files.push((at, storing, partial, placed.take()));
        }
        let verdicts = match kept.is_empty() {
            true => Vec::new(),
            false => self.hooks.run_kept_batch(kept).await,
        };
        for (place, verdict) in places.into_iter().zip(verdicts) {
            self.observe(&verdict);
            if let Some((.., placed)) = files.get_mut(place)
                && placed.is_none()
            {
                *placed = verdict.placed;
            }
        }
        let done = files.into_iter().map(|(at, storing, _, placed)| {
            let folder = &storing.folder;
            let reply = storing.destination.map(|_| match placed {
                Some(path) => Reply::Stored {
                    path: format!("{}/{path}", folder.name()),
                    same: false,
                },
                // Its receiver's hooks have it.
                None => Reply::Done,
            });
            let stored = Stored {
                subject: storing.subject,
                begun: storing.begun,
                result: Ok(Safe {
                    crc: storing.crc,
                    reply,
                }),
            };
            (at, stored)
        });
        done.collect()
    }

    /// Tells log and observer what became of a file.
    pub fn log(&self, stored: &Stored) {
        let Stored {
            subject,
            begun,
            result,
        } = stored;
        let (crc, path) = match result {
            Ok(Safe { crc, reply }) => (crc, reply.as_ref().and_then(Reply::path)),
            Err(error) => return not_received(&*self.observer, subject, *begun, error),
        };
        let meta = &subject.meta;
        info!(
            from = %meta.from, to = %meta.to, folder = %meta.folder,
            stem = %subject.stem, path = path.map(|path| printable(path, 200)),
            bytes = meta.filesize, seconds = begun.elapsed().as_secs_f64(), crc,
            id = meta.id.map(tracing::field::display),
            verdict = %Ended::Received.word(),
            "received"
        );
        self.observer.ended(Ended::Received);
    }

    /// Tells the observer which hooks ran.
    pub fn observe(&self, verdict: &Verdict) {
        for run in &verdict.runs {
            self.observer.hook(run);
        }
    }
}

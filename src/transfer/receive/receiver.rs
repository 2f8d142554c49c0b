//! Receives files into the folders of a root: step 15, from whole to acknowledged.

use std::{io, sync::Arc, time::Instant};

use tokio::task;
use tracing::info;

use super::{
    arrival::{Arrival, not_received},
    commit::{Committer, Whole},
    error::ReceiveError,
    message_committer::MessageCommitter,
    message_rate::MessageRate,
    partial::Partial,
    target::Received,
    under_way::{Holder, UnderWay},
};
use crate::{
    error::printable,
    event::{Kind, Outcome, Subject, Verdict},
    files::service::FileService,
    hooks::{
        batch::Verdicts,
        digests::Known,
        dispatch::{Dispatcher, LeasedEvent},
        folder_files::Files,
        startup::Startup,
    },
    meta::Meta,
    observer::{Observer, TransferEnd},
    root::{
        config::Config,
        destination::Destination,
        folder::Folder,
        name::Name,
        settings::{Settings, live::Live},
        user::User,
    },
    traffic::{Entry, Stage, Traffic, Transfer},
    viewers::Viewers,
    wire::request::Reply,
};

/// The field of a `.meta` that has the SHA-256 of a file, if a script of its folder asks for that:
/// 64 lower-case hexadecimal digits.
pub const SHA256: &str = "sha256";

/// The two people of a session, authenticated by signature.
pub struct Parties {
    /// Whose folders they are.
    pub user: User,
    /// The contact.
    pub from: Name,
    /// The session, as the holder of its transfers.
    pub holder: Holder,
}

impl Parties {
    /// A meta to answer with if none could be read.
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
    pub settings: Live<Settings>,
    /// The observer.
    pub observer: Arc<dyn Observer>,
    /// What is under way.
    pub under_way: UnderWay,
    /// What is said of it to those who ask.
    pub traffic: Traffic,
    /// Makes files safe.
    pub committer: Committer,
    /// Makes messages safe.
    pub messages: MessageCommitter,
    /// How many of them contacts may send.
    pub message_rate: Arc<MessageRate>,
    /// What contacts may see and change.
    pub files: FileService,
    /// Who watches streams.
    pub viewers: Viewers,
}

/// A file that was complete, and what became of it.
pub struct Stored {
    subject: Subject,
    begun: Instant,
    /// Whether it is safe.
    pub result: Result<Safe, ReceiveError>,
}

/// What is reported of files while they are made safe, with their indexes among them.
pub enum StoreNews {
    /// They are safe, and their hooks begin to run.
    Asking(Vec<usize>),
    /// What became of them.
    Over(Vec<(usize, Stored)>),
}

/// A file that is safe.
pub struct Safe {
    crc: u32,
    /// What is said of a file that was put somewhere.
    pub reply: Option<Reply>,
}

/// A file that is being made safe.
struct Storing {
    subject: Subject,
    begun: Instant,
    folder: Folder,
    config: Arc<Config>,
    destination: Option<Destination>,
    /// Whether it gets at once the path that its sender wants.
    goes_there: bool,
    /// What its hooks will hear.
    leased: Option<LeasedEvent>,
    crc: u32,
    sha256: Option<[u8; 32]>,
    /// Until it is over.
    traffic: Entry<Transfer>,
}

impl Storing {
    /// Hooks refused the contents, and the sender is to know.
    fn refused(self, words: String) -> Stored {
        Stored {
            subject: self.subject,
            begun: self.begun,
            result: Err(ReceiveError::Refused(words)),
        }
    }

    /// The file is safe, at this path if it has one.
    fn safe(self, placed: Option<String>) -> Stored {
        let folder = &self.folder;
        let put = self.destination.filter(|to| !to.keeps_meta);
        let reply = put.map(|_| match placed {
            Some(path) => Reply::Stored {
                path: format!("{}/{path}", folder.name()),
                same: false,
            },
            // Its receiver's hooks have it.
            None => Reply::Done,
        });
        Stored {
            subject: self.subject,
            begun: self.begun,
            result: Ok(Safe {
                crc: self.crc,
                reply,
            }),
        }
    }
}

impl Receiver {
    /// Makes complete files safe, renames them, runs `[OnReceived]`. Reports what became of them,
    /// with their indexes among the files, as soon as that is certain: a file does not wait for the
    /// slow hooks of another one.
    pub async fn store(
        &self,
        received: Vec<Received<Arrival>>,
        mut tell: impl FnMut(StoreNews) + Send,
    ) {
        let (storing, whole): (Vec<_>, Vec<_>) = received
            .into_iter()
            .map(|received| self.begin_to_store(received))
            .unzip();
        let committed = self.commit(whole).await;
        let (mut over, mut asking) = (Vec::new(), Vec::new());
        for (at, (storing, committed)) in storing.into_iter().zip(committed).enumerate() {
            let (mut storing, partial) = match self.committed(storing, committed).await {
                Ok(named) => named,
                Err(failed) => {
                    over.push((at, failed));
                    continue;
                }
            };
            match storing.leased.take() {
                Some(leased) => asking.push((at, storing, partial, leased)),
                None => {
                    self.hooks
                        .hide_if_asked(partial.folder(), partial.subject())
                        .await;
                    let placed = partial.placed().map(str::to_owned);
                    over.push((at, storing.safe(placed)));
                }
            }
        }
        if !over.is_empty() {
            tell(StoreNews::Over(over));
        }
        if !asking.is_empty() {
            self.remember_digests(&asking).await;
            let places = asking.iter().map(|(at, ..)| *at).collect();
            tell(StoreNews::Asking(places));
            self.received(asking, tell).await;
        }
    }

    fn begin_to_store(&self, received: Received<Arrival>) -> (Storing, Option<Whole>) {
        let Received {
            target: arrival,
            len,
            crc,
            sha256,
        } = received;
        let event = arrival.event(Kind::Received);
        let Arrival {
            partial,
            sink,
            folder,
            config,
            pinned,
            begun,
            traffic,
            ..
        } = arrival;
        traffic.set_stage(Stage::Storing);
        let mut meta = partial.subject().meta.clone();
        (meta.filesize, meta.file_crc) = (Some(len), Some(crc));
        // What its sender says of it must not pass for this.
        match sha256 {
            Some(sha256) => meta
                .extra
                .insert(SHA256.to_owned(), hex::encode(sha256).into()),
            None => meta.extra.remove(SHA256),
        };
        let leased = self.hooks.lease(event, pinned, partial.key());
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
            goes_there: leased.is_none() && Destination::open(&meta).is_some(),
            destination,
            crc,
            sha256,
            leased,
            traffic,
        };
        let owed = storing.leased.is_some();
        let whole = sink.map(|sink| Whole {
            partial,
            sink,
            meta,
            owed,
        });
        (storing, whole)
    }

    /// Commits files, those of one folder together. `None` if a thread of ours failed.
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

    /// Checks whether a file got its name.
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

    /// Saves scripts from hashing files that were hashed on their way in.
    async fn remember_digests(&self, asking: &[(usize, Storing, Partial, LeasedEvent)]) {
        let hashed = asking.iter().filter_map(|(_, storing, _, _)| {
            let subject = &storing.subject;
            let known = Known {
                sha256: Some(storing.sha256?),
                crc32: Some(storing.crc),
            };
            Some((storing.folder.clone(), subject.data_file(), known))
        });
        let hashed: Vec<_> = hashed.collect();
        if hashed.is_empty() {
            return;
        }
        let (digests, stores) = (self.hooks.digests().clone(), self.hooks.stores().clone());
        let remembering = task::spawn_blocking(move || {
            for (folder, file, known) in hashed {
                if let Ok(Some(version)) = Files::new(&folder, &stores).version(&file) {
                    digests.insert(&version, known);
                }
            }
        });
        let _ = remembering.await;
    }

    /// Runs `[OnReceived]` for files that are safe. If it comes to no decision, a file stays,
    /// marked, and its hooks run again; a refused file is removed.
    async fn received(
        &self,
        asking: Vec<(usize, Storing, Partial, LeasedEvent)>,
        mut tell: impl FnMut(StoreNews),
    ) {
        let (mut files, mut leased) = (Vec::new(), Vec::new());
        for (at, storing, partial, mut one) in asking {
            let event = one.event_mut();
            event.file = Some(storing.subject.data_file());
            event.subject = Some(storing.subject.clone());
            leased.push(one);
            storing.traffic.set_stage(Stage::Hooks);
            // As long as its hooks run, the transfer is under way.
            files.push(Some((at, storing, partial)));
        }
        let heard = |verdicts: Verdicts| {
            let over = verdicts.into_iter().filter_map(|(place, verdict)| {
                self.observe(&verdict);
                let (at, storing, partial) = files.get_mut(place)?.take()?;
                let placed = partial.placed().map(str::to_owned);
                let stored = match verdict.outcome {
                    Outcome::Refused(words) => storing.refused(words),
                    Outcome::Quarantined(words) if verdict.tells_sender => storing.refused(words),
                    _ => storing.safe(placed.or(verdict.placed)),
                };
                Some((at, stored))
            });
            tell(StoreNews::Over(over.collect()));
        };
        self.hooks.run_leased_each(leased, heard).await;
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
            verdict = %TransferEnd::Received.word(),
            "received"
        );
        self.observer.ended(TransferEnd::Received);
    }

    /// Tells the observer which hooks ran.
    pub fn observe(&self, verdict: &Verdict) {
        for run in &verdict.runs {
            self.observer.hook(run);
        }
    }
}

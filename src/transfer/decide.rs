//! The receiver's decision about a meta: steps 6 to 8.

use std::{io, sync::Arc, time::Instant};

use tokio::task;
use tracing::{error, info};
use zeroize::Zeroizing;

use super::{
    Ended, Observer,
    intake::Arriving,
    lane::{Lane, Place},
    partial::{Partial, Reserved},
    receive::{ReceiveError, Receiver, event, not_received},
};
use crate::{
    crypto::random,
    error::{Code, Error, printable},
    event::{Kind, Outcome},
    files::service::exists,
    hooks::Pinned,
    journal::delivered::Stage,
    json::Value,
    meta::{Features, FileKey, Meta, QUARANTINE, Wire, is_extra},
    root::{
        RootError, config::Config, conflict::Conflict, destination::Destination, folder::Folder,
        name::Name, user::User,
    },
    store::Sink,
};

/// What was decided about a meta.
pub enum Decision {
    /// The file may come.
    Taken(Box<Arrival>),
    /// It need not, or may not; the reply says so.
    Answered(Box<Wire>),
}

impl Decision {
    /// What the sender is told.
    pub fn reply(&self) -> &Wire {
        match self {
            Self::Taken(arrival) => &arrival.reply,
            Self::Answered(reply) => reply,
        }
    }

    fn reply_mut(&mut self) -> &mut Wire {
        match self {
            Self::Taken(arrival) => &mut arrival.reply,
            Self::Answered(reply) => reply,
        }
    }
}

/// Transfers that may be under way in one session at the same time: enough to keep both
/// sides busy with small files while the answers are on their way.
pub const FILES: u32 = 256;

/// What this receiver can do.
const FEATURES: Features = Features {
    resume: true,
    files: FILES,
    requests: true,
};

/// A file that may come.
pub struct Arrival {
    /// The meta for the sender, with the key for this attempt.
    pub reply: Wire,
    pub(super) partial: Partial,
    /// Where the bytes go, once there are some.
    pub(super) sink: Option<Box<dyn Sink>>,
    pub(super) expected: u64,
    /// Bytes that are there already, if the sender has the same.
    pub(super) held: u64,
    pub(super) folder: Folder,
    pub(super) config: Arc<Config>,
    /// The scripts that the transfer began with.
    pub(super) pinned: Pinned,
    /// When its sender asked.
    pub(super) begun: Instant,
    pub(super) observer: Arc<dyn Observer>,
}

impl Arrival {
    /// Takes back what was there: the sender has something else.
    pub(super) fn begin_again(&mut self) -> io::Result<()> {
        self.held = 0;
        self.sink = None;
        self.sink().map(drop)
    }
}

impl Arriving for Arrival {
    fn expected(&self) -> u64 {
        self.expected
    }

    fn claimed_crc(&self) -> Option<u32> {
        self.partial.subject().meta.file_crc
    }

    /// A hidden file, with the bytes that are there already and that the sender has too.
    fn sink(&mut self) -> io::Result<&mut Box<dyn Sink>> {
        match &mut self.sink {
            Some(sink) => Ok(sink),
            none => Ok(none.insert(self.partial.begin(self.held)?)),
        }
    }

    /// Where the sender may go on some time, what has arrived waits for that, hidden.
    fn end(self, why: &ReceiveError) {
        let Self {
            partial,
            sink,
            begun,
            observer,
            ..
        } = self;
        drop(sink);
        not_received(&*observer, partial.subject(), begun, why);
        if why.is_passing() {
            partial.break_off();
        }
    }
}

impl Receiver {
    /// Decides about a meta whose sender is certain: stores it, runs `[OnMeta]`.
    pub async fn decide(
        self: &Arc<Self>,
        lane: &Lane,
        user: &User,
        from: &Name,
        asked: Wire,
        destination: Option<Destination>,
    ) -> Decision {
        let begun = Instant::now();
        let meta = asked.meta.clone();
        let decision = self
            .consider(lane, user, from, asked, destination, begun)
            .await;
        let mut decision = decision.unwrap_or_else(|refusal| {
            self.not_taken(from, user.name(), &meta, None, begun, &refusal);
            Decision::Answered(Box::new(refused(meta, &refusal)))
        });
        decision.reply_mut().features = FEATURES;
        decision
    }

    async fn consider(
        self: &Arc<Self>,
        lane: &Lane,
        user: &User,
        from: &Name,
        asked: Wire,
        destination: Option<Destination>,
        begun: Instant,
    ) -> Result<Decision, Error> {
        let Wire {
            mut meta,
            features,
            session,
            ..
        } = asked;
        let refuse = |sentence: &str| Error::new(Code::Refused, sentence);
        if meta.from != from.as_str() || meta.to != user.name().as_str() {
            return Err(refuse(
                "from and to must be the names that the header stands for",
            ));
        }
        if session {
            // No file: what is asked comes in records.
            let meta = Meta::new(&meta.from, &meta.to, "", "");
            return Ok(Decision::Answered(Box::new(Wire::request(meta))));
        }
        let size = meta.filesize.ok_or_else(|| refuse("filesize is missing"))?;
        let id = meta.id.ok_or_else(|| refuse("id is missing"))?;
        if meta.datetime.is_empty() {
            return Err(refuse("datetime is missing"));
        }
        if size > self.settings.max_filesize {
            let most = self.settings.max_filesize;
            return Err(refuse(&format!(
                "the file is too large, the receiver takes {most} bytes"
            )));
        }
        meta.error.clear();
        meta.extra.retain(|field, _| is_extra(field));
        if let Some(destination) = &destination {
            destination.note(&mut meta);
        }
        // Of two that want one path, the second finds something there already.
        let path = destination
            .filter(|destination| destination.conflict == Conflict::Refuse)
            .map(|destination| destination.path);

        let asked = meta.clone();
        let (this, owner, sender) = (self.clone(), user.clone(), from.clone());
        let reserving = lane.run(move |places| {
            let place = places
                .entry(meta.folder.clone())
                .or_insert_with_key(|folder| this.place(&owner, folder))
                .clone()?;
            let claim = this.under_way.claim(&place.folder, &sender, id);
            let mut claim = claim.ok_or_else(|| {
                Error::new(Code::Later, "this transfer is under way already, try later")
            })?;
            let known = this.committer.known(claim.key())?;
            if let Some(path) = &path
                && known.is_none()
                && !claim.take_path(path)
            {
                return Err(exists());
            }
            let reserved = Partial::reserve(&place.folder, place.store.clone(), meta, claim, known);
            let reserved = reserved.map_err(|e| logged(&e))?;
            let mut held = 0;
            if let Reserved::New(partial) = &reserved {
                match features.resume {
                    true => held = partial.held(size).map_err(|e| logged(&e))?,
                    false => partial.discard(),
                }
                if place.room.is_some_and(|room| room < size - held) {
                    return Err(store_error(&io::ErrorKind::StorageFull.into()));
                }
            }
            Ok((reserved, place, held))
        });
        let (reserved, place, held) = reserving.await?;
        let Place {
            folder,
            config,
            pinned,
            ..
        } = place;
        let mut partial = match reserved {
            Reserved::New(partial) => partial,
            Reserved::Delivered(partial) => {
                return self.again(&partial, &asked, begun);
            }
        };
        if let Err(closed) = self.startup.check(&folder, &config).await {
            abandon(partial).await;
            return Err(closed);
        }
        self.observer.step(
            6,
            format_args!("checked metaCRC, stored {}", partial.subject().meta_file()),
        );

        self.observer.step(7, format_args!("run [OnMeta]"));
        let asks = event(Kind::Meta, &folder, &config, &partial);
        let verdict = self.hooks.fire(asks, &pinned).await;
        self.observe(&verdict);
        let mut meta = verdict
            .meta
            .unwrap_or_else(|| partial.subject().meta.clone());
        if let Outcome::Quarantined(reason) = &verdict.outcome {
            let reason = Value::from(reason.as_str());
            meta.extra.insert(QUARANTINE.to_owned(), reason);
        }
        if verdict.outcome == Outcome::Later {
            // It was not looked at: nothing stays, and the sender tries again.
            abandon(partial).await;
            return Err(Error::new(Code::Later, Outcome::LATER));
        }
        if let Some(words) = verdict.outcome.objection() {
            let words = Error::new(Code::Refused, words);
            let reply = refused(meta.clone(), &words);
            let (stem, left) = (partial.subject().stem.clone(), meta.clone());
            self.committer.refused(partial.transfer(Stage::Refused));
            lane.run(move |_| partial.refuse(left).map_err(|e| logged(&e)))
                .await?;
            self.not_taken(from, user.name(), &meta, Some(&stem), begun, &words);
            return Ok(Decision::Answered(Box::new(reply)));
        }
        let programs_ran = verdict
            .runs
            .iter()
            .any(|run| !run.script.ends_with(".rhai"));
        if meta != partial.subject().meta || programs_ran {
            let updating = lane.run(move |_| {
                partial.update(meta).map_err(|e| logged(&e))?;
                Ok(partial)
            });
            partial = updating.await?;
        }
        let key = random().map_err(|e| Error::new(Code::Later, e.to_string()))?;
        let mut reply = Wire {
            filekey: Some(FileKey(Zeroizing::new(key))),
            offset: held,
            ..Wire::request(partial.subject().meta.clone())
        };
        reply.meta.extra.retain(|field, _| is_extra(field));
        self.observer
            .step(8, format_args!("made a fresh filekey for this attempt"));
        Ok(Decision::Taken(Box::new(Arrival {
            reply,
            partial,
            sink: None,
            folder,
            config,
            pinned,
            expected: size,
            held,
            begun,
            observer: self.observer.clone(),
        })))
    }

    /// A folder that a meta names, if it takes files.
    fn place(&self, user: &User, folder: &str) -> Result<Place, Error> {
        let failed = |e| folder_error(user, folder, &e);
        let folder = Name::folder(folder)
            .map_err(RootError::from)
            .and_then(|name| user.folder(&name))
            .map_err(failed)?;
        let config = folder.config_to_receive().map_err(failed)?;
        let store = (self.store_of)(&folder);
        Ok(Place {
            room: store.room().ok(),
            store,
            pinned: self.hooks.pin(&folder, &config),
            folder,
            config,
        })
    }

    /// Answers for a file that is safe already: its ACK was lost.
    fn again(&self, partial: &Partial, asked: &Meta, begun: Instant) -> Result<Decision, Error> {
        let meta = &partial.subject().meta;
        let other_crc = asked.file_crc.is_some() && asked.file_crc != meta.file_crc;
        if meta.filesize != asked.filesize || meta.filename != asked.filename || other_crc {
            return Err(Error::new(
                Code::Refused,
                "another file was delivered under this id: take the field id out of the .meta to send this one",
            ));
        }
        info!(
            from = %meta.from, to = %meta.to, folder = %meta.folder,
            stem = %partial.subject().stem, bytes = meta.filesize,
            seconds = begun.elapsed().as_secs_f64(),
            id = meta.id.map(tracing::field::display),
            verdict = %Ended::DeliveredBefore.word(),
            "was delivered before"
        );
        self.observer.ended(Ended::DeliveredBefore);
        // If its hooks have still to run, the journal knows of it.
        let mut reply = Wire::request(meta.clone());
        reply.meta.extra.retain(|field, _| is_extra(field));
        reply.meta.error.clear();
        reply.delivered = true;
        Ok(Decision::Answered(Box::new(reply)))
    }

    fn not_taken(
        &self,
        from: &Name,
        to: &Name,
        meta: &Meta,
        stem: Option<&str>,
        begun: Instant,
        why: &Error,
    ) {
        let ended = Ended::of(why);
        let said = match ended {
            Ended::Refused => "refused",
            _ => "not taken",
        };
        info!(
            %from, %to,
            folder = %printable(&meta.folder, 64),
            stem = stem.map(tracing::field::display),
            bytes = meta.filesize, seconds = begun.elapsed().as_secs_f64(),
            id = meta.id.map(tracing::field::display),
            verdict = %ended.word(),
            "{said}: {}", printable(&why.sentence, 200)
        );
        self.observer.ended(ended);
    }
}

/// Leaves an attempt that did not begin; to remove what it left takes time, so on a thread
/// of the disk.
async fn abandon(partial: Partial) {
    let _ = task::spawn_blocking(move || partial.break_off()).await;
}

/// What a sender may know of a store that failed.
pub fn store_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::new(
            Code::Later,
            "the receiver has no room for the file, try later",
        ),
        _ => Error::new(
            Code::Later,
            "the receiver cannot store the file now, try later",
        ),
    }
}

/// The meta for a sender whose file is not taken.
pub fn refused(mut meta: Meta, why: &Error) -> Wire {
    meta.extra.retain(|field, _| is_extra(field));
    meta.error.clone_from(&why.sentence);
    Wire {
        code: why.code.word().to_owned(),
        ..Wire::request(meta)
    }
}

fn folder_error(user: &User, folder: &str, error: &RootError) -> Error {
    match error {
        RootError::NoFolder | RootError::Name(_) => Error::new(Code::Refused, "no such folder"),
        error => {
            error!(user = %user.name(), folder = %printable(folder, 64), "{error}");
            Error::new(Code::Later, "the folder cannot be used now, try later")
        }
    }
}

pub(super) fn logged(error: &io::Error) -> Error {
    error!("cannot store a file: {error}");
    store_error(error)
}

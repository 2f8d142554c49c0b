//! The receiver's decision about metas: steps 6 to 8, for all that arrived together.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures_util::future::{join, join_all};
use tracing::{error, info};
use zeroize::Zeroizing;

use super::{
    arrival::{Arrival, event},
    error::store_error,
    inbox::Inbox,
    messages::Turn,
    offer::{Checked, Offer},
    partial::{Partial, Reserved},
    receiver::{Parties, Receiver},
    reservation::Size,
    streams::Streaming,
    takeover::Offered,
};
use crate::{
    crypto::random,
    error::{Code, Error, printable},
    event::{Kind, Outcome, Verdict},
    files::disk_queue::DiskQueue,
    hooks::{decide::Rules, lookup::is_program},
    journal::delivered::{Key, Stage},
    json::Value,
    meta::{Features, FileKey, Meta, PENDING_PUT, QUARANTINE, Wire, is_extra},
    observer::TransferEnd,
    stream::INCOMPLETE,
    traffic::{self, Entry},
};

/// Transfers that may be under way in one session at the same time: enough to keep both
/// sides busy with small files while the answers are on their way.
pub const FILES: u32 = 256;

/// What this receiver can do.
const FEATURES: Features = Features {
    resume: true,
    files: FILES,
    requests: true,
};

/// What was decided about a meta.
pub enum Decision {
    /// The file is accepted.
    Taken(Box<Arrival>),
    /// It need not or may not be sent; the reply says so.
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

/// A file that has a name, and that hooks have to decide about.
struct Candidate {
    partial: Partial,
    inbox: Inbox,
    size: Size,
    held: u64,
    traffic: Entry<traffic::Transfer>,
    /// Whether hooks have accepted a stream, so that nobody need be asked.
    is_accepted: bool,
}

impl Receiver {
    /// Decides about a file whose sender is authenticated.
    pub async fn decide_one(
        self: &Arc<Self>,
        queue: &DiskQueue,
        parties: &Arc<Parties>,
        offer: Offer,
    ) -> Option<Decision> {
        let mut early = None;
        let tell = |_, decision| early = Some(decision);
        let rest = self
            .decide(queue, parties, vec![offer], Turn::default(), tell)
            .await;
        early.or(rest.into_iter().next().map(|(_, decision)| decision))
    }

    /// Decides about files whose sender is authenticated: names them and runs `[OnMeta]`. A file
    /// that hooks accept is reported at once, with the index of its offer, so that it does not wait
    /// for the slow hooks of another one; the rest is returned. Messages are safe then; those of a
    /// session become so in the order of their turns.
    pub async fn decide(
        self: &Arc<Self>,
        queue: &DiskQueue,
        parties: &Arc<Parties>,
        offers: Vec<Offer>,
        turn: Turn,
        tell: impl FnMut(usize, Decision) + Send,
    ) -> Vec<(usize, Decision)> {
        let begun = Instant::now();
        let tell = Mutex::new(tell);
        let mut metas = Vec::with_capacity(offers.len());
        let mut decided: Vec<(usize, Result<Decision, Error>)> = Vec::new();
        let mut files = Vec::with_capacity(offers.len());
        let (mut messages, mut streams) = (Vec::new(), Vec::new());
        for (at, offer) in offers.into_iter().enumerate() {
            metas.push(offer.asked.meta.clone());
            match offer.check(parties, self.settings.now().max_filesize) {
                Ok(Checked::File(offer)) => files.push((at, offer)),
                Ok(Checked::Message(offer)) => messages.push((at, offer)),
                Ok(Checked::Stream(offer)) => streams.push((at, offer)),
                Ok(Checked::Session(reply)) => decided.push((at, Ok(Decision::Answered(reply)))),
                Err(refusal) => decided.push((at, Err(refusal))),
            }
        }
        let early = |at, mut decision: Decision| {
            decision.reply_mut().features = FEATURES;
            let mut tell = tell.lock().unwrap_or_else(PoisonError::into_inner);
            tell(at, decision);
        };
        let (free, held) = self.supersede(parties, files);
        let free = self.decide_files(queue, parties, free, begun, &early);
        let messages = self.decide_messages(queue, parties, messages, turn, begun, &early);
        let free = async {
            let (free, messages) = join(free, messages).await;
            free.into_iter().chain(messages)
        };
        let complete = |at, result: Result<Decision, Error>| {
            let meta = metas.get(at).cloned();
            let mut decision = result.unwrap_or_else(|refusal| {
                let meta = meta.unwrap_or_else(|| parties.empty_meta());
                self.log_not_taken(parties, &meta, None, begun, &refusal);
                Decision::Answered(Box::new(refused(meta, &refusal)))
            });
            decision.reply_mut().features = FEATURES;
            (at, decision)
        };
        let others = async {
            if held.is_empty() {
                decided.extend(free.await);
            } else {
                let held = self.take_over(queue, parties, held, begun, &early);
                let (free, held) = join(free, held).await;
                decided.extend(free.chain(held));
            }
            decided
        };
        let told = |at, result| {
            let (at, decision) = complete(at, result);
            early(at, decision);
        };
        if streams.is_empty() {
            let others = others.await.into_iter();
            return others.map(|(at, result)| complete(at, result)).collect();
        }
        // The rest does not wait for people.
        let others = async {
            for (at, result) in others.await {
                told(at, result);
            }
        };
        let streams = self.decide_streams(queue, parties, streams, begun, &told);
        join(others, streams).await;
        Vec::new()
    }

    pub(super) async fn decide_files(
        self: &Arc<Self>,
        queue: &DiskQueue,
        parties: &Arc<Parties>,
        files: Vec<Offered>,
        begun: Instant,
        early: &(impl Fn(usize, Decision) + Sync),
    ) -> Vec<(usize, Result<Decision, Error>)> {
        if files.is_empty() {
            return Vec::new();
        }
        let asked = files.iter().map(|(at, offer)| (*at, offer.meta.clone()));
        let asked: Vec<(usize, Meta)> = asked.collect();
        let (this, people) = (self.clone(), parties.clone());
        let reserved = queue.run(move || {
            let mut inboxes = HashMap::new();
            let claimed: Vec<_> = files
                .into_iter()
                .map(|(_, offer)| this.claim(&people, &mut inboxes, offer))
                .collect();
            let keys = claimed.iter().flatten().map(|claimed| claimed.claim.key());
            let mut known = this.files.known(keys)?.into_iter();
            let reserved = claimed.into_iter().map(|claimed| {
                let claimed = claimed?;
                this.reserve(claimed, known.next().flatten())
            });
            Ok(reserved.collect::<Vec<_>>())
        });
        let reserved = match reserved.await {
            Ok(reserved) => reserved,
            Err(error) => {
                let failed = asked.into_iter();
                return failed.map(|(at, _)| (at, Err(error.clone()))).collect();
            }
        };
        let (mut decided, mut candidates) = (Vec::new(), Vec::new());
        let mut undecided = Vec::new();
        for (reserved, (at, asked)) in reserved.into_iter().zip(asked) {
            match reserved {
                Err(error) => decided.push((at, Err(error))),
                Ok((Reserved::Delivered(partial, owed), ..)) => {
                    if let Some(transfer) = owed {
                        self.hooks.take_over(&transfer);
                    }
                    undecided.push((at, partial, asked));
                }
                Ok((Reserved::Rejected(words), ..)) => {
                    decided.push((at, Err(Error::new(Code::Refused, words))));
                }
                Ok((Reserved::New(partial), inbox, size, held)) => {
                    let candidate = Candidate {
                        traffic: partial.enter(&self.traffic, size.known, held),
                        partial,
                        inbox,
                        size,
                        held,
                        is_accepted: false,
                    };
                    match self.admit(candidate).await {
                        Ok(candidate) => candidates.push((at, candidate)),
                        Err(closed) => decided.push((at, Err(closed))),
                    }
                }
            }
        }
        let asked = self.ask_hooks(queue, parties, candidates, begun, early);
        let undecided = undecided
            .into_iter()
            .map(|(at, partial, asked)| async move {
                (at, self.delivered_before(&partial, &asked, begun).await)
            });
        let (asked, known) = join(asked, join_all(undecided)).await;
        decided.extend(asked);
        decided.extend(known);
        decided
    }

    /// Fails if the folder is closed.
    async fn admit(&self, candidate: Candidate) -> Result<Candidate, Error> {
        let Inbox { folder, config, .. } = &candidate.inbox;
        match self.startup.check(folder, config).await {
            Ok(()) => {}
            Err(closed) => {
                abandon(candidate.partial).await;
                return Err(closed);
            }
        }
        self.observer.step(
            6,
            format_args!(
                "checked metaCRC, reserved {}",
                candidate.partial.subject().meta_file()
            ),
        );
        self.observer.step(7, format_args!("run [OnMeta]"));
        Ok(candidate)
    }

    /// Runs `[OnMeta]` for all, and does what it says. Accepted files are reported at once, the
    /// rest is returned.
    async fn ask_hooks(
        self: &Arc<Self>,
        queue: &DiskQueue,
        parties: &Arc<Parties>,
        candidates: Vec<(usize, Candidate)>,
        begun: Instant,
        early: &(impl Fn(usize, Decision) + Sync),
    ) -> Vec<(usize, Result<Decision, Error>)> {
        let (mut asking, mut events, mut judged) = (Vec::new(), Vec::new(), Vec::new());
        for (at, candidate) in candidates {
            let Inbox {
                folder,
                config,
                pinned,
                ..
            } = &candidate.inbox;
            if config.scripts(Kind::Meta.section()).is_empty() {
                judged.push((at, self.take(candidate, None, begun)));
                continue;
            }
            let before = {
                let Candidate { partial, inbox, .. } = &candidate;
                self.decided_before(partial.key(), &partial.subject().meta, inbox)
            };
            if let Some(meta) = before {
                judged.push((at, self.take(candidate, Some(meta), begun)));
                continue;
            }
            let event = event(Kind::Meta, folder, config, &candidate.partial);
            events.push((event, pinned.clone()));
            asking.push(Some((at, candidate)));
        }
        if events.is_empty() {
            return judged;
        }
        let mut following = Vec::new();
        let told = |place, verdict: Verdict| {
            self.observe(&verdict);
            let asked: Option<(usize, Candidate)> = asking.get_mut(place).and_then(Option::take);
            let Some((at, mut candidate)) = asked else {
                return;
            };
            candidate.is_accepted = verdict.accepts_stream;
            let is_quick = verdict.outcome == Outcome::Accepted
                && verdict.runs.iter().all(|run| !is_program(&run.script));
            if !is_quick {
                following.push((at, candidate, verdict));
                return;
            }
            match self.take(candidate, verdict.meta, begun) {
                Ok(taken) => early(at, taken),
                error => judged.push((at, error)),
            }
        };
        self.hooks.fire_each(events, told).await;
        let following = following
            .into_iter()
            .map(|(at, candidate, verdict)| async move {
                let followed = self.follow(queue, parties, candidate, verdict, begun);
                (at, followed.await)
            });
        judged.extend(join_all(following).await);
        let lost = || Err(Error::new(Code::Later, Outcome::LATER));
        judged.extend(asking.into_iter().flatten().map(|(at, _)| (at, lost())));
        judged
    }

    /// The meta of a file that hooks accepted when its sender asked before, if nothing that they
    /// relied on has changed: what they asked for was done.
    pub(super) fn decided_before(&self, key: &Key, now: &Meta, inbox: &Inbox) -> Option<Meta> {
        let decided = self.files.decided(key)?;
        let rules = Rules {
            config: inbox.config.clone(),
            pinned: inbox.pinned.clone(),
        };
        if rules.basis(now) != decided.basis {
            return None;
        }
        let mut meta = Meta::from_file(decided.meta.as_bytes()).ok()?;
        meta.datetime.clone_from(&now.datetime);
        match now.extra.get(PENDING_PUT) {
            Some(destination) => {
                let destination = destination.clone();
                meta.extra.insert(PENDING_PUT.to_owned(), destination);
            }
            None => drop(meta.extra.remove(PENDING_PUT)),
        }
        Some(meta)
    }

    /// Does what the hooks of a file decided.
    async fn follow(
        &self,
        queue: &DiskQueue,
        parties: &Parties,
        mut candidate: Candidate,
        verdict: Verdict,
        begun: Instant,
    ) -> Result<Decision, Error> {
        let mut meta = verdict
            .meta
            .unwrap_or_else(|| candidate.partial.subject().meta.clone());
        if let Outcome::Quarantined(reason) = &verdict.outcome {
            let reason = Value::from(reason.as_str());
            meta.extra.insert(QUARANTINE.to_owned(), reason);
        }
        if let Some(words) = verdict.outcome.failure() {
            // Nothing was decided: nothing stays, and the sender tries again.
            abandon(candidate.partial).await;
            return Err(Error::new(Code::Later, words));
        }
        if let Some(words) = verdict.outcome.objection() {
            let words = Error::new(Code::Refused, words);
            let reply = refused(meta.clone(), &words);
            let partial = candidate.partial;
            let (stem, left) = (partial.subject().stem.clone(), meta.clone());
            self.committer.refused(partial.transfer(Stage::Refused));
            queue
                .run(move || partial.refuse(left).map_err(|e| logged(&e)))
                .await?;
            self.log_not_taken(parties, &meta, Some(&stem), begun, &words);
            return Ok(Decision::Answered(Box::new(reply)));
        }
        let programs_ran = verdict.runs.iter().any(|run| is_program(&run.script));
        if programs_ran {
            let mut partial = candidate.partial;
            let updating = queue.run(move || {
                partial.update(meta).map_err(|e| logged(&e))?;
                Ok(partial)
            });
            candidate.partial = updating.await?;
            return self.take(candidate, None, begun);
        }
        self.take(candidate, Some(meta), begun)
    }

    /// Accepts a file, under a fresh key.
    fn take(
        &self,
        candidate: Candidate,
        meta: Option<Meta>,
        begun: Instant,
    ) -> Result<Decision, Error> {
        let Candidate {
            mut partial,
            inbox,
            size,
            held,
            traffic,
            is_accepted,
        } = candidate;
        traffic.set_stage(traffic::Stage::Moving);
        if let Some(meta) = meta {
            partial.set_meta(meta);
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
            folder: inbox.folder,
            config: inbox.config,
            pinned: inbox.pinned,
            expected: size.known,
            most: size.most,
            held,
            begun,
            observer: self.observer.clone(),
            traffic,
            streaming: Streaming {
                is_recorded: inbox.rules.records,
                is_accepted,
            },
            view: None,
            keep: None,
        })))
    }

    /// Answers for a file that is safe already: its ACK was lost, or a server stopped before its
    /// hooks had decided about it.
    async fn delivered_before(
        &self,
        partial: &Partial,
        asked: &Meta,
        begun: Instant,
    ) -> Result<Decision, Error> {
        let patience = self.settings.now().idle_deadline / 2;
        match self.files.decided_after(partial.key(), patience).await {
            Some(known) if known.stage == Stage::Rejected => {
                let words = known.words.unwrap_or_default();
                return Err(Error::new(Code::Refused, words));
            }
            Some(_) => {}
            None => return Err(Error::new(Code::Later, Outcome::LATER)),
        }
        let meta = &partial.subject().meta;
        if meta.extra.get(INCOMPLETE) == Some(&Value::Bool(true)) {
            let sentence = "only a part of this stream came: give it a different id";
            return Err(Error::new(Code::Refused, sentence));
        }
        let other_crc = asked.file_crc.is_some() && asked.file_crc != meta.file_crc;
        let other_size = asked.filesize.is_some() && meta.filesize != asked.filesize;
        if other_size || meta.filename != asked.filename || other_crc {
            return Err(Error::new(
                Code::Refused,
                "a different file was delivered under this id: remove the field id from the .meta to send this one",
            ));
        }
        info!(
            from = %meta.from, to = %meta.to, folder = %meta.folder,
            stem = %partial.subject().stem, bytes = meta.filesize,
            seconds = begun.elapsed().as_secs_f64(),
            id = meta.id.map(tracing::field::display),
            verdict = %TransferEnd::DeliveredBefore.word(),
            "was delivered before"
        );
        self.observer.ended(TransferEnd::DeliveredBefore);
        let mut reply = Wire::request(meta.clone());
        reply.meta.extra.retain(|field, _| is_extra(field));
        reply.meta.error.clear();
        reply.delivered = true;
        Ok(Decision::Answered(Box::new(reply)))
    }

    pub(super) fn log_not_taken(
        &self,
        parties: &Parties,
        meta: &Meta,
        stem: Option<&str>,
        begun: Instant,
        why: &Error,
    ) {
        let ended = TransferEnd::of(why);
        let said = match ended {
            TransferEnd::Refused => "refused",
            _ => "not taken",
        };
        info!(
            from = %parties.from, to = %parties.user.name(),
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

/// Abandons an attempt that did not begin, on a disk thread: removing what it left takes time.
async fn abandon(partial: Partial) {
    let _ = tokio::task::spawn_blocking(move || partial.break_off()).await;
}

/// The meta for a sender whose file is refused.
pub fn refused(mut meta: Meta, why: &Error) -> Wire {
    meta.extra.retain(|field, _| is_extra(field));
    meta.error.clone_from(&why.sentence);
    Wire {
        code: why.code.word().to_owned(),
        ..Wire::request(meta)
    }
}

pub(super) fn logged(error: &io::Error) -> Error {
    error!("cannot store a file: {error}");
    store_error(error)
}

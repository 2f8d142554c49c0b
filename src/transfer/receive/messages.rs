//! The receiver's decision about messages. It is over when they are safe: nothing comes after the
//! meta of a message.

use std::{collections::HashMap, sync::Arc, time::Instant};

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tracing::info;

use super::{
    decision::{Decision, refused},
    inbox::Inbox,
    message_committer::Committing,
    offer::MessageOffer,
    receiver::{Parties, Receiver},
    takeover::{PATIENCE, key},
    under_way::Claim,
};
use crate::{
    error::{Code, Error},
    event::{Event, Kind, Outcome, Subject, Verdict},
    files::disk_queue::DiskQueue,
    hooks::dispatch::{BEFORE, task_of},
    journal::{
        Task,
        delivered::{Key, Stage, Transfer},
        messages::Came,
    },
    message,
    meta::{Meta, QUARANTINE, Wire, is_extra},
    observer::TransferEnd,
    root::{folder::Folder, message_log::LoggedMessage},
};

/// The turn of some messages among all of a session: they become known in the order in which they
/// came, however long the hooks of some take.
#[derive(Default)]
pub struct Turn {
    before: Option<oneshot::Receiver<()>>,
    over: Option<oneshot::Sender<()>>,
}

impl Turn {
    /// The turn after `last`, which becomes this one.
    pub fn after(last: &mut Option<oneshot::Receiver<()>>) -> Self {
        let (over, next) = oneshot::channel();
        Self {
            before: last.replace(next),
            over: Some(over),
        }
    }

    /// The next turn comes.
    fn end(self) {
        drop(self.over);
    }

    async fn comes(&mut self) {
        if let Some(before) = self.before.take() {
            // It is over when its end is dropped.
            let _ = before.await;
        }
    }
}

/// A message that nobody else has in hand.
struct Candidate {
    at: usize,
    meta: Meta,
    inbox: Inbox,
    claim: Claim,
}

/// A message that is being made safe.
struct Accepted {
    at: usize,
    meta: Meta,
    folder: Folder,
}

/// What was found out about an offer.
enum Looked {
    New(Box<Candidate>),
    Before(Box<Before>),
}

/// A message under an id that is known.
struct Before {
    at: usize,
    meta: Meta,
    known: Transfer,
}

impl Before {
    fn answer(self) -> Result<Decision, Error> {
        let crc = match self.meta.message() {
            Some(Ok(text)) => crc32fast::hash(text.as_bytes()),
            _ => 0,
        };
        if self.known.stage != Stage::Message || self.known.crc != crc {
            return Err(Error::new(
                Code::Refused,
                "something different was delivered under this id: give the message a different one",
            ));
        }
        Ok(delivered(self.meta))
    }
}

type Judged = Vec<(usize, Result<Decision, Error>)>;

impl Receiver {
    /// Decides about messages, and makes those safe that are accepted: these are reported at once,
    /// the rest is returned.
    pub(super) async fn decide_messages(
        self: &Arc<Self>,
        queue: &DiskQueue,
        parties: &Arc<Parties>,
        offers: Vec<(usize, Box<MessageOffer>)>,
        mut turn: Turn,
        begun: Instant,
        early: &(impl Fn(usize, Decision) + Sync),
    ) -> Judged {
        if offers.is_empty() {
            turn.comes().await;
            return Vec::new();
        }
        let rate = self.settings.now().message_rate;
        self.message_rate.wait(parties, offers.len(), rate).await;
        let keys: Vec<Key> = offers
            .iter()
            .map(|(_, offer)| key(parties, &offer.meta, offer.id))
            .collect();
        let held = self.under_way.supersede(&keys, &parties.holder);
        let until = tokio::time::Instant::now() + PATIENCE;
        for (key, _) in keys.iter().zip(held).filter(|(_, held)| *held) {
            // An earlier session of the sender, whose connection is gone.
            self.under_way.released(key, &parties.holder, until).await;
        }
        let places: Vec<usize> = offers.iter().map(|(at, _)| *at).collect();
        let (this, people) = (self.clone(), parties.clone());
        let looked = queue.run(move || Ok(this.look_up(&people, offers)));
        let looked = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                turn.comes().await;
                let failed = places.into_iter();
                return failed.map(|at| (at, Err(error.clone()))).collect();
            }
        };
        let (mut judged, mut candidates): (Judged, Vec<Candidate>) = Default::default();
        for looked in looked {
            match looked {
                Ok(Looked::New(candidate)) => {
                    let Inbox { folder, config, .. } = &candidate.inbox;
                    match self.startup.check(folder, config).await {
                        Ok(()) => candidates.push(*candidate),
                        Err(closed) => judged.push((candidate.at, Err(closed))),
                    }
                }
                Ok(Looked::Before(before)) => judged.push((before.at, before.answer())),
                Err((at, error)) => judged.push((at, Err(error))),
            }
        }
        let accepted = self
            .ask_about(parties, candidates, begun, &mut judged)
            .await;
        turn.comes().await;
        let committing = self.commit_messages(accepted, &mut judged);
        turn.end();
        let committed = committing.into_iter().map(|(accepted, committing)| async {
            let result = committing.committed().await;
            let mut failed = Vec::new();
            for Accepted { at, meta, .. } in accepted {
                match &result {
                    Ok(()) => {
                        self.log_message(&meta, begun);
                        early(at, delivered(meta));
                    }
                    Err(error) => failed.push((at, Err(error.clone()))),
                }
            }
            failed
        });
        judged.extend(join_all(committed).await.into_iter().flatten());
        judged
    }

    /// Claims messages and finds out what is known of them, on a disk thread.
    fn look_up(
        &self,
        parties: &Parties,
        offers: Vec<(usize, Box<MessageOffer>)>,
    ) -> Vec<Result<Looked, (usize, Error)>> {
        let mut inboxes = HashMap::new();
        let claimed: Vec<_> = offers
            .into_iter()
            .map(|(at, offer)| {
                let claimed = self.claim_message(parties, &mut inboxes, at, *offer);
                claimed.map_err(|error| (at, error))
            })
            .collect();
        let keys = claimed.iter().flatten().map(|one| one.claim.key());
        let mut known = match self.files.known(keys) {
            Ok(known) => known.into_iter(),
            Err(error) => {
                let failed =
                    |one: Result<Candidate, _>| one.map_or_else(|(at, _)| at, |one| one.at);
                let failed = claimed.into_iter().map(failed);
                return failed.map(|at| Err((at, error.clone()))).collect();
            }
        };
        let looked = claimed.into_iter().map(|claimed| {
            let candidate = claimed?;
            Ok(match known.next().flatten() {
                Some(known) => Looked::Before(Box::new(Before {
                    at: candidate.at,
                    meta: candidate.meta,
                    known,
                })),
                None => Looked::New(Box::new(candidate)),
            })
        });
        looked.collect()
    }

    fn claim_message(
        &self,
        parties: &Parties,
        inboxes: &mut HashMap<String, Result<Inbox, Error>>,
        at: usize,
        MessageOffer { meta, id }: MessageOffer,
    ) -> Result<Candidate, Error> {
        let inbox = inboxes
            .entry(meta.folder.clone())
            .or_insert_with_key(|folder| self.inbox(&parties.user, folder));
        let inbox = inbox.clone()?;
        let Parties { from, holder, .. } = parties;
        let claim = self.under_way.claim(&inbox.folder, from, id, holder);
        let claim = claim.ok_or_else(|| {
            Error::new(Code::Later, "this message is under way already, try later")
        })?;
        Ok(Candidate {
            at,
            meta,
            inbox,
            claim,
        })
    }

    /// Runs `[OnMeta]` for messages; returns those that are accepted, in their order.
    async fn ask_about(
        &self,
        parties: &Parties,
        candidates: Vec<Candidate>,
        begun: Instant,
        judged: &mut Judged,
    ) -> Vec<Candidate> {
        let (mut events, mut places) = (Vec::new(), Vec::new());
        let mut accepted: Vec<Option<Candidate>> = Vec::new();
        for (place, mut candidate) in candidates.into_iter().enumerate() {
            let Inbox { config, pinned, .. } = &candidate.inbox;
            if !config.scripts(Kind::Meta.section()).is_empty() {
                let key = candidate.claim.key();
                match self.decided_before(key, &candidate.meta, &candidate.inbox) {
                    Some(meta) => candidate.follow(meta),
                    None => {
                        let event = event(Kind::Meta, &candidate);
                        events.push((event, pinned.clone()));
                        places.push(place);
                    }
                }
            }
            accepted.push(Some(candidate));
        }
        let mut verdicts: Vec<(usize, Verdict)> = Vec::new();
        if !events.is_empty() {
            let heard = |at: usize, verdict| {
                self.observe(&verdict);
                verdicts.extend(places.get(at).map(|place| (*place, verdict)));
            };
            self.hooks.fire_each(events, heard).await;
        }
        for (place, verdict) in verdicts {
            let Some(slot) = accepted.get_mut(place) else {
                continue;
            };
            let Some(mut candidate) = slot.take() else {
                continue;
            };
            let outcome = &verdict.outcome;
            if let Some(words) = outcome.failure() {
                judged.push((candidate.at, Err(Error::new(Code::Later, words))));
                continue;
            }
            if let Some(meta) = verdict.meta {
                candidate.follow(meta);
            }
            if let Some(words) = outcome.objection() {
                let words = Error::new(Code::Refused, words);
                self.log_not_taken(parties, &candidate.meta, None, begun, &words);
                let reply = refused(candidate.meta, &words);
                judged.push((candidate.at, Ok(Decision::Answered(Box::new(reply)))));
                continue;
            }
            if let Outcome::Quarantined(reason) = outcome {
                let reason = reason.as_str().into();
                candidate.meta.extra.insert(QUARANTINE.to_owned(), reason);
            }
            *slot = Some(candidate);
        }
        accepted.into_iter().flatten().collect()
    }

    /// Begins to make messages safe, those of one folder together.
    fn commit_messages(
        &self,
        accepted: Vec<Candidate>,
        judged: &mut Judged,
    ) -> Vec<(Vec<Accepted>, Committing)> {
        let mut folders: Vec<(Vec<Accepted>, Vec<Came>, Vec<Claim>)> = Vec::new();
        for candidate in accepted {
            let Some(came) = came(&candidate) else {
                let error = Error::new(Code::Failed, "the message cannot be kept");
                judged.push((candidate.at, Err(error)));
                continue;
            };
            let Candidate {
                at,
                meta,
                inbox,
                claim,
                ..
            } = candidate;
            let folder = inbox.folder;
            let of = |(of, ..): &&mut (Vec<Accepted>, _, _)| {
                let first = of.first();
                first.is_some_and(|first| first.folder.path() == folder.path())
            };
            let one = Accepted {
                at,
                meta,
                folder: folder.clone(),
            };
            match folders.iter_mut().find(of) {
                Some((of, all, claims)) => {
                    of.push(one);
                    all.push(came);
                    claims.push(claim);
                }
                None => folders.push((vec![one], vec![came], vec![claim])),
            }
        }
        let commit = |(of, all, claims): (Vec<Accepted>, Vec<Came>, Vec<Claim>)| {
            let folder = of.first()?.folder.clone();
            Some((of, self.messages.commit(&folder, all, claims)))
        };
        folders.into_iter().filter_map(commit).collect()
    }

    fn log_message(&self, meta: &Meta, begun: Instant) {
        info!(
            from = %meta.from, to = %meta.to, folder = %meta.folder,
            seconds = begun.elapsed().as_secs_f64(),
            id = meta.id.map(tracing::field::display),
            verdict = %TransferEnd::Received.word(),
            "received a message"
        );
        self.observer.ended(TransferEnd::Received);
    }
}

impl Candidate {
    /// Takes what hooks made of the meta: they may add to a message, and not change what it says.
    fn follow(&mut self, mut hooked: Meta) {
        for field in message::FIELDS {
            match self.meta.extra.remove(field) {
                Some(said) => hooked.extra.insert(field.to_owned(), said),
                None => hooked.extra.remove(field),
            };
        }
        self.meta = hooked;
    }
}

/// The event of a message.
fn event(kind: Kind, candidate: &Candidate) -> Event {
    let Candidate {
        meta, inbox, claim, ..
    } = candidate;
    Event {
        id: claim.key().into(),
        kind,
        folder: inbox.folder.clone(),
        config: inbox.config.clone(),
        file: None,
        subject: Some(Subject::of_message(meta.clone(), claim.key().id)),
        asked: None,
        store: None,
    }
}

/// What the journal has of a message.
fn came(candidate: &Candidate) -> Option<Came> {
    let Candidate {
        meta, inbox, claim, ..
    } = candidate;
    let logged = LoggedMessage::of(meta)?;
    let is_heard = !inbox.config.scripts(Kind::Message.section()).is_empty();
    let event = (is_heard && logged.quarantine.is_none()).then(|| {
        let mut task: Task = task_of(&event(Kind::Message, candidate));
        let text = String::from_utf8_lossy(&meta.to_file()).into_owned();
        task.body.insert(BEFORE.to_owned(), text.into());
        task
    });
    Some(Came {
        transfer: Transfer {
            key: claim.key().clone(),
            stem: String::new(),
            filename: String::new(),
            filesize: 0,
            crc: crc32fast::hash(logged.text.as_bytes()),
            stage: Stage::Message,
            meta: None,
            words: None,
        },
        line: logged.line(),
        event,
    })
}

fn delivered(meta: Meta) -> Decision {
    let mut reply = Wire::request(meta);
    reply.meta.extra.retain(|field, _| is_extra(field));
    reply.meta.error.clear();
    reply.delivered = true;
    Decision::Answered(Box::new(reply))
}

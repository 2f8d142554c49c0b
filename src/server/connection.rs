//! One connection: from its first byte to the session, the pair or the refusal that it becomes.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info};

use super::{
    LINGER, Server,
    caller::{Caller, Unknown, identify},
    metrics::Opening,
    relay,
};
use crate::{
    files::disk_queue::DiskQueue,
    hooks::dispatch::stopped,
    meta::{Attend, Wire},
    observer::TransferEnd,
    relay::hub::{Back, Room},
    root::contact::Contact,
    root::settings::Settings,
    session::{
        SessionError,
        answerer::Answerer,
        channel::{ChannelError, Reader, Writer},
        pump,
    },
    transfer::receive::{
        arrival::Arrival,
        decision::{self, Decision},
        error::ReceiveError,
        offer::Offer,
        receiver::Parties,
        target::Target,
        under_way::Holder,
    },
    transport::{Incoming, Peer},
    wire::{
        header::{self, AnswerHeader, CodeHeader, First, Header, Turned},
        relay::Token,
        session::SessionKeys,
    },
};

/// Strangers are answered at a multiple of this after their last byte. What is found out about them
/// takes less, so the time does not reveal what it was.
const STRANGER_DELAY: Duration = Duration::from_millis(50);

/// The same at a relay, whose members have to be asked.
const RELAY_DELAY: Duration = Duration::from_secs(1);

/// How much earlier a member has to decide, so that one who does not is not noticed by the time.
const DECISION_MARGIN: Duration = Duration::from_millis(100);

/// What is left of an opening when it is answered: no private key, above all.
struct Known {
    keys: SessionKeys,
    parties: Arc<Parties>,
    first: Option<Arrival>,
}

/// How a connection goes on after its beginning.
enum Next {
    /// It is over.
    Nothing,
    /// As a session.
    Session(Box<Known>),
    /// As that of a member who attends.
    Attendance(SessionKeys, Box<Contact>, Attend),
    /// As one half of a pair, whose opening is this.
    Pair(Box<(Back, Room)>, Arc<Vec<u8>>),
    /// As the other half: it is held until the pair is over.
    Back(Token),
    /// As that of somebody who leaves letters.
    Post,
}

/// When a stranger whose last byte was read at `heard` is answered.
fn next_answer(heard: Instant, delay: Duration) -> Instant {
    let passed = heard.elapsed().as_nanos() / delay.as_nanos();
    let steps = u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1);
    heard + delay.saturating_mul(steps)
}

/// How a connection begins.
enum Beginning {
    /// With the header of an opening, its bytes, and the envelope.
    Opening((Header, [u8; header::LEN], Vec<u8>)),
    /// With the header of pairing by a code.
    Code(CodeHeader),
    /// With that of a member who answers a call, and the token.
    Back(Token),
    /// With that of somebody who leaves letters.
    Post,
}

/// One connection in its task.
pub(super) struct Connection {
    pub(super) server: Server,
    /// As they were when it began.
    pub(super) settings: Arc<Settings>,
    pub(super) peer: Peer,
    pub(super) accepted: Instant,
    pub(super) shutdown: watch::Receiver<bool>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Connection {
    /// From the first byte to the last.
    pub(super) async fn serve(mut self, incoming: Incoming) {
        let accepted = self.accepted;
        let idle = self.settings.idle_deadline;
        let opening_deadline = self.settings.opening_deadline;
        let linked = tokio::select! {
            linked = timeout(opening_deadline, Box::pin(incoming.link())) => linked,
            // Nothing was promised yet.
            () = stopped(&mut self.shutdown) => return,
        };
        let link = match linked {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => {
                debug!(peer = %self.peer, "no link: {error}");
                return;
            }
            Err(_) => {
                debug!(peer = %self.peer, "no link within {opening_deadline:?}");
                return;
            }
        };
        let mut reader = Reader::new(link.reader, idle);
        let mut writer = Writer::new(link.writer, idle);
        // On the heap, and gone when it is done: a session that only waits is small.
        let greeted = Box::pin(self.greet(&mut reader, &mut writer)).await;
        let linger = match greeted {
            Ok(Next::Session(known)) => {
                let connection = pump::Connection { reader, writer };
                let mut connection = Box::pin(self.session(connection, *known)).await;
                connection.reader.drain(LINGER).await;
                return;
            }
            Ok(Next::Attendance(keys, member, Attend::Code)) => {
                if let Some(relay) = &self.server.relay {
                    let (slots, shutdown) = (&self.server.slots, self.shutdown.clone());
                    let both = (&mut reader, &mut writer);
                    Box::pin(relay.keep_slot(&member, slots, both, &keys, shutdown)).await;
                }
                writer.finish().await;
                reader.drain(LINGER).await;
                return;
            }
            Ok(Next::Attendance(keys, member, Attend::Calls)) => {
                if let Some(relay) = &self.server.relay {
                    let shutdown = self.shutdown.clone();
                    let both = (&mut reader, &mut writer);
                    Box::pin(relay.attend(&member, both, &keys, shutdown)).await;
                }
                writer.finish().await;
                return;
            }
            Ok(Next::Attendance(keys, member, Attend::Letters)) => {
                if let Some(relay) = &self.server.relay {
                    let shutdown = self.shutdown.clone();
                    let both = (reader, writer);
                    Box::pin(relay.mailbox(&member, both, &keys, shutdown)).await;
                }
                return;
            }
            Ok(Next::Post) => {
                let Some(relay) = &self.server.relay else {
                    return relay::turn_away(writer).await;
                };
                let shutdown = self.shutdown.clone();
                let deadline = opening_deadline.saturating_sub(accepted.elapsed());
                let both = (reader, writer);
                Box::pin(relay.post(&self.peer, both, deadline, shutdown)).await;
                return;
            }
            Ok(Next::Pair(pair, opening)) => {
                if let Some(relay) = &self.server.relay {
                    let link = relay::link(reader, writer, self.peer);
                    let pair = Box::pin(relay.pair(*pair, link, opening, idle));
                    tokio::select! {
                        () = pair => {}
                        () = stopped(&mut self.stop) => {}
                    }
                }
                return;
            }
            Ok(Next::Back(token)) => {
                if let Some(relay) = &self.server.relay {
                    let link = relay::link(reader, writer, self.peer);
                    tokio::select! {
                        () = relay.back(&token, link) => {}
                        () = stopped(&mut self.stop) => {}
                    }
                }
                return;
            }
            // What it sends now is in vain, and it must not keep its place for longer than
            // it may take for a whole opening.
            Ok(Next::Nothing) => opening_deadline
                .saturating_sub(accepted.elapsed())
                .min(LINGER),
            // Nothing was said to it, so there is nothing that it could miss.
            Err(error) => {
                debug!(peer = %self.peer, "connection ended: {error}");
                return;
            }
        };
        writer.finish().await;
        reader.drain(linger).await;
    }

    /// The session of a contact. The contact was told what it may know, and the log the
    /// rest.
    async fn session(&self, connection: pump::Connection, known: Known) -> pump::Connection {
        let Known {
            keys,
            parties,
            first,
        } = known;
        let _session = self.server.traffic().session(
            parties.user.name().as_str(),
            parties.from.as_str(),
            self.peer.to_string(),
        );
        let stops = [self.shutdown.clone(), self.stop.clone()];
        let answerer = Answerer::new(&self.server.receiver, &keys, parties, stops);
        let (connection, _) = answerer.run(connection, first).await;
        connection
    }

    /// Steps 3 to 12: who is speaking, and what they are answered.
    async fn greet(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<Next, ChannelError> {
        let begun = self.beginning(reader);
        let opening = match begun.await {
            Ok(Beginning::Opening(opening)) => opening,
            Ok(Beginning::Code(header)) => {
                let slots = &self.server.slots;
                slots.carry(&self.peer, header, reader, writer).await?;
                return Ok(Next::Nothing);
            }
            Ok(Beginning::Back(token)) => return Ok(Next::Back(token)),
            Ok(Beginning::Post) => return Ok(Next::Post),
            Err(ChannelError::Wire(error)) => {
                self.server.strangers.turned_away(&self.peer, &error);
                self.server.metrics.opening(Opening::TurnedAway);
                let answer = AnswerHeader::Turned(Turned::Unreadable);
                writer.bytes(&answer.encode()).await?;
                return Ok(Next::Nothing);
            }
            Err(error) => return Err(error),
        };
        let heard = Instant::now();
        let mut delay = STRANGER_DELAY;
        if let Some(relay) = &self.server.relay {
            delay = RELAY_DELAY;
            if relay.serves(&opening.0) {
                let until = heard + delay - DECISION_MARGIN;
                let may = relay.may_call(&self.server.checking, &opening).await;
                let called = match may {
                    true => relay.call(&self.peer, &opening, until).await,
                    false => None,
                };
                if let Some((pair, opening)) = called {
                    return Ok(Next::Pair(Box::new(pair), opening));
                }
                self.server.metrics.opening(Opening::TurnedAway);
                sleep_until(next_answer(heard, delay)).await;
                let answer = AnswerHeader::Turned(Turned::Stranger);
                writer.bytes(&answer.encode()).await?;
                return Ok(Next::Nothing);
            }
        }
        let caller = match self.identify(opening).await {
            Ok(caller) => caller,
            Err(unknown) => {
                self.server.metrics.opening(Opening::TurnedAway);
                match unknown.answer() {
                    Turned::Busy => self.server.strangers.failed(&self.peer, &unknown),
                    _ => self.server.strangers.turned_away(&self.peer, &unknown),
                }
                sleep_until(next_answer(heard, delay)).await;
                let answer = AnswerHeader::Turned(unknown.answer());
                writer.bytes(&answer.encode()).await?;
                return Ok(Next::Nothing);
            }
        };
        self.server.metrics.opening(Opening::Known);
        Box::pin(self.answer(caller, writer)).await
    }

    /// Steps 3 to 6: the header, then the envelope, all within one deadline.
    async fn beginning(&mut self, reader: &mut Reader) -> Result<Beginning, ChannelError> {
        let deadline = self.settings.opening_deadline;
        let deadline = deadline.saturating_sub(self.accepted.elapsed());
        let read = async {
            let bytes = reader.exact().await?;
            match First::decode(&bytes)? {
                First::Code(header) => Ok(Beginning::Code(header)),
                First::Post => Ok(Beginning::Post),
                First::Back => Ok(Beginning::Back(Token(reader.exact().await?))),
                First::Opening(header) => {
                    let envelope = reader.bytes(header.envelope_len).await?;
                    Ok(Beginning::Opening((header, bytes, envelope)))
                }
            }
        };
        tokio::select! {
            read = timeout(deadline, read) => {
                read.unwrap_or(Err(ChannelError::Idle(deadline)))
            }
            // Nothing was promised yet.
            () = stopped(&mut self.shutdown) => Err(ChannelError::Closed),
        }
    }

    async fn identify(
        &self,
        opening: (Header, [u8; header::LEN], Vec<u8>),
    ) -> Result<Caller, Unknown> {
        let _turn = self
            .server
            .checking
            .acquire()
            .await
            .map_err(|_| Unknown::Failed)?;
        let Server {
            root,
            openings,
            metrics,
            ..
        } = self.server.clone();
        let settings = self.settings.clone();
        task::spawn_blocking(move || identify(&root, &openings, &metrics, &settings, &opening))
            .await
            .unwrap_or(Err(Unknown::Failed))
    }

    /// Steps 7 to 12, for the first file.
    async fn answer(&self, caller: Caller, writer: &mut Writer) -> Result<Next, ChannelError> {
        let receiver = &self.server.receiver;
        let (from, to) = (&caller.contact.name, caller.user.name());
        receiver.observer.step(
            5,
            format_args!("signature of {from} is good, opened the meta with the key of {to}"),
        );
        let parties = Arc::new(Parties {
            user: caller.user.clone(),
            from: from.clone(),
            holder: Holder::default(),
        });
        let attends = match (&self.server.relay, &caller.request) {
            (Some(relay), Ok(request)) if relay.is_of(to) => {
                let member = || Box::new(caller.contact.clone());
                let attend = request.attend.filter(|attend| relay.offers(*attend));
                attend.map(|attend| (member(), attend))
            }
            _ => None,
        };
        let decision = match &caller.request {
            Ok(request) if attends.is_some() => {
                let reply = Wire {
                    attend: request.attend,
                    ..Wire::request(caller.empty_meta())
                };
                Decision::Answered(Box::new(reply))
            }
            Ok(request) => {
                let offer = Offer {
                    asked: request.clone(),
                    destination: None,
                };
                let queue = DiskQueue::default();
                let decided = receiver.decide_one(&queue, &parties, offer).await;
                decided.ok_or(ChannelError::Closed)?
            }
            Err(error) => {
                let ended = TransferEnd::of(error);
                info!(%from, %to, verdict = %ended.word(), "refused: {error}");
                receiver.observer.ended(ended);
                Decision::Answered(Box::new(decision::refused(caller.empty_meta(), error)))
            }
        };
        receiver
            .observer
            .step(9, format_args!("seal the meta for {from}, sign it"));
        let sealing = move || {
            let sealed = caller.seal_answer(decision.reply());
            sealed.map(|sealed| (sealed, decision))
        };
        let ((keys, answer), decision) = task::spawn_blocking(sealing)
            .await
            .map_err(|_| ChannelError::Closed)??;
        let len = answer.len() - header::ANSWER_LEN;
        receiver
            .observer
            .step(10, format_args!("send the size of the sealed meta, {len}"));
        receiver
            .observer
            .step(11, format_args!("send the sealed meta"));
        let answered = writer.bytes(&answer).await;
        let first = match decision {
            Decision::Taken(arrival) => Some(*arrival),
            Decision::Answered(_) => None,
        };
        if let Err(error) = answered {
            let ending = move || {
                if let Some(arrival) = first {
                    arrival.end(&ReceiveError::from(&SessionError::from(error)), None);
                }
            };
            let _ = task::spawn_blocking(ending).await;
            return Ok(Next::Nothing);
        }
        Ok(match attends {
            Some((member, attend)) => Next::Attendance(keys, member, attend),
            None => Next::Session(Box::new(Known {
                keys,
                parties,
                first,
            })),
        })
    }
}

//! The server's role: decides about files, makes them safe, answers requests.

mod arrivals;
mod requests;
mod streams;

use std::{collections::HashMap, io, sync::Arc};

use tokio::{
    sync::{oneshot, watch},
    task,
};
use tracing::info;

use self::{
    arrivals::{Prefix, leave},
    streams::seen_to_its_end,
};
use super::{
    SessionError,
    channel::ChannelError,
    opener::Record,
    pump::{Connection, Pump},
    role::{Flow, Io, Role},
};
use crate::{
    crypto::seal::Key,
    error::{Code, Error, printable},
    files::{Answer, Fetched, disk_queue::DiskQueue, listing::Listing},
    hooks::dispatch::stopped,
    store::prefix::DIGEST_LEN,
    transfer::receive::{
        arrival::Arrival,
        decision::{Decision, FILES},
        error::ReceiveError,
        messages::Turn,
        offer::Offer,
        receiver::{Parties, Receiver, StoreNews, Stored},
        target::{Incoming, Received},
    },
    viewers::End,
    wire::{
        WireError,
        record::{self, Kind, Side, Stream},
        session::SessionKeys,
    },
};

/// How far a transfer has come.
enum Transfer {
    /// A meta or a *put* is being decided about. The client may have given it up meanwhile.
    Deciding { given_up: bool },
    /// The client may resume, once both sides have the same digest.
    Agreeing {
        theirs: Option<[u8; DIGEST_LEN]>,
        ours: Option<Box<Prefix>>,
    },
    /// Its blocks are coming in.
    Receiving,
    /// It is complete, and is being made safe; then its hooks run.
    Storing { hooks_run: bool },
    /// A request is being answered. The client may have given it up meanwhile.
    Answering { given_up: bool },
    /// A listing waits for the client to read: this many parts were not acknowledged.
    Listing { rest: Box<Listing>, unread: usize },
    /// The next part of a listing is being read.
    Reading { given_up: bool, unread: usize },
    /// All of a listing was sent: this many parts may still be acknowledged. It is over.
    Listed { unread: usize },
    /// A file is being sent.
    Sending(requests::Sending),
}

/// What was done besides the records.
pub enum Done {
    /// Metas were decided about.
    Decided(Vec<(u32, Decision)>),
    /// The hooks of files that are safe have begun to run.
    Asking(Vec<u32>),
    /// Files were stored, or were not.
    Stored(Vec<(u32, Stored)>),
    /// The part of a file that is there was read.
    Digested(u32, Result<Box<Prefix>, task::JoinError>),
    /// A file is ready to be received from its beginning.
    Ready(u32, Result<Box<Incoming<Arrival>>, io::Error>),
    /// A request was answered, or a part of a listing is there.
    Answered(u32, Result<Answer, Error>),
    /// A file that was asked for is there, with the key for its blocks.
    Found(u32, Box<Fetched>, Key),
    /// So many bytes of a stream were taken by whoever watches it.
    Watched(u32, u64),
    /// A stream has ended, and was watched to its end or not.
    Seen(u32, bool),
    /// A stream that is recorded was cut off.
    Cut(Box<Received<Arrival>>),
}

/// What comes from outside.
pub enum Input {
    /// The server is shutting down: what is under way may finish.
    Shutdown,
    /// The server stops now.
    Stop,
    /// A newer session of the same sender continues a transfer of this one.
    Superseded,
}

/// The server's side.
pub struct Answerer<'a> {
    receiver: Arc<Receiver>,
    keys: &'a SessionKeys,
    parties: Arc<Parties>,
    queue: DiskQueue,
    transfers: HashMap<u32, Transfer>,
    /// Transfers of them that have not had their last word.
    open: usize,
    /// The largest number of a transfer so far.
    last: u32,
    /// Metas of the buffer that is being looked at.
    offers: Vec<(u32, Offer)>,
    /// Told when the messages so far are on their way to their logs.
    messages: Option<oneshot::Receiver<()>>,
    /// Files that are complete with it.
    whole: Vec<(u32, Received<Arrival>)>,
    /// Listings that may have more to say, in the order of their turns.
    listings: std::collections::VecDeque<u32>,
    /// Whether nothing more comes.
    closing: bool,
    shutdown: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
}

type AnswererIo = Io<Arrival, Done>;

impl<'a> Answerer<'a> {
    /// The role of a server whose `shutdown` turns true when it begins to shut down, and `stop`
    /// when it stops now.
    pub fn new(
        receiver: &Arc<Receiver>,
        keys: &'a SessionKeys,
        parties: Arc<Parties>,
        [shutdown, stop]: [watch::Receiver<bool>; 2],
    ) -> Self {
        Self {
            receiver: receiver.clone(),
            keys,
            parties,
            queue: DiskQueue::default(),
            transfers: HashMap::new(),
            open: 0,
            last: 0,
            offers: Vec::new(),
            messages: None,
            whole: Vec::new(),
            listings: std::collections::VecDeque::new(),
            closing: false,
            shutdown,
            stop,
        }
    }

    /// Runs a session until the client closes it: first the file of the opening, if that is
    /// accepted, then the requests in records. A file is answered with *ack* when it is safe.
    ///
    /// After an error the client was told what it may know, and the session is of no further
    /// use. What was under way is stored, or waits for the next attempt.
    pub async fn run(
        self,
        connection: Connection,
        first: Option<Arrival>,
    ) -> (Connection, Result<(), SessionError>) {
        let patience = self.receiver.settings.now().idle_deadline;
        let streams = [&self.keys.server, &self.keys.client].map(Stream::new);
        let [Ok(ours), Ok(theirs)] = streams else {
            return (connection, Err(SessionError::Failed));
        };
        let mut pump = Pump::new(connection, [ours, theirs], self, patience);
        let (role, io) = pump.role();
        let begun = match first {
            Some(arrival) => {
                role.open += 1;
                role.grant(io, 0, arrival)
            }
            None => Ok(()),
        };
        let (_, connection, result) = pump.run(begun).await;
        (connection, result)
    }

    /// Begins a transfer; its number is larger than all before it.
    fn begin(&mut self, transfer: u32, state: Transfer) -> Result<(), SessionError> {
        if self.open >= FILES as usize || transfer <= self.last {
            return Err(WireError::Record.into());
        }
        self.last = transfer;
        self.open += 1;
        self.transfers.insert(transfer, state);
        Ok(())
    }

    /// A transfer has its last word.
    fn close(&mut self, transfer: u32) -> Option<Transfer> {
        let closed = self.transfers.remove(&transfer);
        if !matches!(closed, None | Some(Transfer::Listed { .. })) {
            self.open = self.open.saturating_sub(1);
        }
        closed
    }

    /// The last word of a transfer that failed.
    fn fail(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        error: &ReceiveError,
    ) -> Result<(), SessionError> {
        self.close(transfer);
        if let Some(told) = error.for_sender() {
            io.outbox
                .say(Kind::Error, transfer, &record::encode_error(&told))?;
        }
        Ok(())
    }

    /// The last word of what the client gave up: the client skips everything up to this.
    fn let_go(&mut self, io: &mut AnswererIo, transfer: u32) -> Result<(), SessionError> {
        self.close(transfer);
        let error = Error::new(Code::Later, "given up");
        io.outbox
            .say(Kind::Error, transfer, &record::encode_error(&error))?;
        Ok(())
    }

    /// The client gives up a transfer that has no blocks coming in.
    fn given_up(&mut self, io: &mut AnswererIo, transfer: u32) -> Result<(), SessionError> {
        match self.transfers.get_mut(&transfer) {
            Some(
                Transfer::Deciding { given_up }
                | Transfer::Answering { given_up }
                | Transfer::Reading { given_up, .. },
            ) => *given_up = true,
            Some(Transfer::Listing { .. }) => return self.let_go(io, transfer),
            Some(Transfer::Sending(_)) => {
                // If its blocks are being sealed, its last word follows them.
                if !io.uploads.give_up(transfer) {
                    return self.let_go(io, transfer);
                }
            }
            // Nobody acknowledges it any more.
            Some(Transfer::Listed { .. }) => drop(self.close(transfer)),
            Some(Transfer::Agreeing { ours, .. }) => {
                // It was not looked at: the next attempt resumes with it.
                if let Some(prefix) = ours.take() {
                    leave(prefix.arrival);
                }
                self.close(transfer);
            }
            Some(Transfer::Receiving | Transfer::Storing { .. }) | None => {}
        }
        Ok(())
    }
}

impl Role for Answerer<'_> {
    const SIDE: Side = Side::Server;
    type Target = Arrival;
    type Done = Done;
    type Input = Input;

    fn record(&mut self, io: &mut AnswererIo, record: Record) -> Result<(), SessionError> {
        let Record {
            kind,
            transfer,
            body,
        } = record;
        match kind {
            Kind::Working => Ok(()),
            Kind::Meta => self.offered(io, transfer, &body),
            Kind::Request => self.requested(io, transfer, &body),
            Kind::Ack if body == record::ACK => self.acknowledged(transfer),
            Kind::Resume => {
                let digest = body.try_into().map_err(|_| WireError::Record)?;
                let Some(Transfer::Agreeing { theirs, .. }) = self.transfers.get_mut(&transfer)
                else {
                    return Err(WireError::Record.into());
                };
                if theirs.replace(digest).is_some() {
                    return Err(WireError::Record.into());
                }
                self.resume(io, transfer)
            }
            Kind::Error => self.given_up(io, transfer),
            Kind::Close if transfer == 0 && body.is_empty() => {
                self.closing = true;
                match self.open {
                    0 => Ok(()),
                    _ => Err(SessionError::Closed),
                }
            }
            Kind::Other(_) => {
                let error = Error::new(Code::Failed, "this server does not know that request");
                io.outbox
                    .say(Kind::Error, transfer, &record::encode_error(&error))?;
                Ok(())
            }
            _ => Err(WireError::Record.into()),
        }
    }

    fn whole(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        received: Received<Arrival>,
    ) -> Result<(), SessionError> {
        let storing = Transfer::Storing { hooks_run: false };
        self.transfers.insert(transfer, storing);
        if let Some(view) = received.target.view.clone() {
            view.end(End::Whole);
            if !received.target.streaming.is_recorded {
                seen_to_its_end(io, transfer, view, received);
                return Ok(());
            }
        }
        self.whole.push((transfer, received));
        Ok(())
    }

    fn failed(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        error: ReceiveError,
    ) -> Result<(), SessionError> {
        self.fail(io, transfer, &error)
    }

    fn batch_end(&mut self, io: &mut AnswererIo) -> Result<(), SessionError> {
        if !self.offers.is_empty() {
            let (transfers, offers): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.offers).into_iter().unzip();
            let (receiver, queue) = (self.receiver.clone(), self.queue.clone());
            let parties = self.parties.clone();
            let early = io.tasks.early();
            let has_message = offers.iter().any(|offer| offer.asked.meta.is_message());
            let turn = match has_message {
                true => Turn::after(&mut self.messages),
                false => Turn::default(),
            };
            io.has_begun = true;
            io.tasks.spawn(async move {
                let number = |at: usize| transfers.get(at).copied();
                let tell = |at, decision| {
                    if let Some(transfer) = number(at) {
                        let _ = early.send(Done::Decided(vec![(transfer, decision)]));
                    }
                };
                let rest = receiver.decide(&queue, &parties, offers, turn, tell).await;
                let rest = rest.into_iter();
                Done::Decided(
                    rest.filter_map(|(at, one)| Some((number(at)?, one)))
                        .collect(),
                )
            });
        }
        if !self.whole.is_empty() {
            let (transfers, whole): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.whole).into_iter().unzip();
            let receiver = self.receiver.clone();
            let early = io.tasks.early();
            io.tasks.spawn(async move {
                let number = |at: usize| transfers.get(at).copied();
                let tell = |news: StoreNews| {
                    let _ = early.send(match news {
                        StoreNews::Asking(places) => {
                            Done::Asking(places.into_iter().filter_map(number).collect())
                        }
                        StoreNews::Over(stored) => {
                            let stored = stored.into_iter();
                            let stored = stored.filter_map(|(at, one)| Some((number(at)?, one)));
                            Done::Stored(stored.collect())
                        }
                    });
                };
                receiver.store(whole, tell).await;
                Done::Stored(Vec::new())
            });
        }
        Ok(())
    }

    fn moved_in(&mut self, bytes: u64) {
        self.receiver.observer.moved(bytes);
    }

    fn moved_out(&mut self, transfer: u32, bytes: u64) {
        self.receiver.observer.supplied(bytes);
        if let Some(Transfer::Sending(sending)) = self.transfers.get(&transfer) {
            sending.moved(bytes);
        }
    }

    fn sealed(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        end: Result<u32, Error>,
    ) -> Result<(), SessionError> {
        self.sent(io, transfer, end)
    }

    fn done(&mut self, io: &mut AnswererIo, done: Done) -> Result<(), SessionError> {
        match done {
            Done::Decided(decisions) => decisions
                .into_iter()
                .try_for_each(|(transfer, decision)| self.decided(io, transfer, decision)),
            Done::Asking(transfers) => {
                for transfer in transfers {
                    if let Some(state @ Transfer::Storing { .. }) =
                        self.transfers.get_mut(&transfer)
                    {
                        *state = Transfer::Storing { hooks_run: true };
                        io.has_begun = true;
                    }
                }
                Ok(())
            }
            Done::Stored(stored) => stored
                .iter()
                .try_for_each(|(transfer, stored)| self.stored(io, *transfer, stored)),
            Done::Digested(transfer, prefix) => {
                let prefix = prefix?;
                match self.transfers.get_mut(&transfer) {
                    Some(Transfer::Agreeing { ours, .. }) => *ours = Some(prefix),
                    // Given up meanwhile.
                    _ => leave(prefix.arrival),
                }
                self.resume(io, transfer)
            }
            Done::Ready(transfer, Ok(incoming)) => {
                io.downloads.allow(transfer, incoming);
                io.outbox
                    .say(Kind::Resume, transfer, &record::encode_offset(0))?;
                Ok(())
            }
            Done::Ready(transfer, Err(error)) => {
                self.fail(io, transfer, &ReceiveError::Store(error))
            }
            Done::Answered(transfer, answer) => self.answered(io, transfer, answer),
            Done::Found(transfer, found, key) => self.found(io, transfer, *found, &key),
            Done::Watched(transfer, taken) => self.watched(io, transfer, taken),
            Done::Seen(transfer, all) => self.seen(io, transfer, all),
            Done::Cut(received) => {
                self.keep(io, *received);
                Ok(())
            }
        }
    }

    fn proceed(&mut self, io: &mut AnswererIo) -> Result<(), SessionError> {
        self.list_on(io);
        Ok(())
    }

    async fn input(&mut self, at_rest: bool) -> Input {
        tokio::select! {
            () = stopped(&mut self.stop) => Input::Stop,
            () = self.parties.holder.superseded() => Input::Superseded,
            () = stopped(&mut self.shutdown), if at_rest => Input::Shutdown,
        }
    }

    fn take(&mut self, _: &mut AnswererIo, input: Input) -> Result<Flow, SessionError> {
        Ok(match input {
            Input::Shutdown => {
                self.closing = true;
                Flow::Continue
            }
            Input::Stop => Flow::End(SessionError::GoingDown),
            Input::Superseded => Flow::End(SessionError::Superseded),
        })
    }

    fn open(&self) -> Option<(u32, &'static [u8])> {
        let mut open = None;
        for (number, state) in &self.transfers {
            match state {
                Transfer::Listed { .. } => {}
                Transfer::Deciding { .. } | Transfer::Storing { hooks_run: true } => {
                    return Some((*number, record::HOOKS));
                }
                _ => open = Some((*number, &[][..])),
            }
        }
        open
    }

    fn is_owed(&self, io: &AnswererIo) -> bool {
        // It waits for us, and need not say so.
        io.tasks.is_empty()
    }

    fn is_over(&self) -> bool {
        self.closing || *self.shutdown.borrow()
    }

    fn must_finish(&self, io: &AnswererIo) -> bool {
        !io.tasks.is_empty()
    }

    fn done_late(&mut self, io: &mut AnswererIo, done: Done) {
        match done {
            // Nobody waits for it any more.
            Done::Decided(decisions) => {
                for (_, decision) in decisions {
                    if let Decision::Taken(arrival) = decision {
                        leave(*arrival);
                    }
                }
            }
            Done::Digested(_, Ok(prefix)) => leave(prefix.arrival),
            Done::Ready(_, Ok(incoming)) => leave(incoming.into_target()),
            stored @ (Done::Stored(_) | Done::Cut(_)) => drop(self.done(io, stored)),
            _ => {}
        }
    }

    fn give_up(&mut self, io: &mut AnswererIo, error: &SessionError) {
        // A sender that has every answer may just disconnect.
        let gone = matches!(error, SessionError::Channel(ChannelError::Closed));
        if !gone || self.open > 0 {
            let Parties { user, from, .. } = &*self.parties;
            info!(%from, to = %user.name(), transfers = self.open,
                "session ended: {}", printable(&error.to_string(), 300));
        }
        let why = ReceiveError::from(error);
        let (storing, open): (HashMap<_, _>, HashMap<_, _>) = std::mem::take(&mut self.transfers)
            .into_iter()
            .partition(|(_, state)| matches!(state, Transfer::Storing { .. }));
        self.transfers = storing;
        for (transfer, state) in open {
            match state {
                Transfer::Listed { .. } => continue,
                Transfer::Agreeing {
                    ours: Some(prefix), ..
                } => leave(prefix.arrival),
                _ => {}
            }
            if self.fail(io, transfer, &why).is_err() {
                return;
            }
        }
    }

    fn end(&mut self, io: &mut AnswererIo, error: Option<&SessionError>) {
        let Some(error) = error else {
            return;
        };
        // What a thread of ours failed to make safe.
        let why = ReceiveError::from(error);
        let storing = std::mem::take(&mut self.transfers);
        for transfer in storing.into_keys() {
            if self.fail(io, transfer, &why).is_err() {
                return;
            }
        }
    }
}

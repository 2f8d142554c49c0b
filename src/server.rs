//! The server: accepts connections, finds out who is speaking, receives what they send.
//!
//! Nothing but counting happens in the accept loop. Each connection has a task of
//! its own, which reads the opening, checks the signature before any private key is used, and then
//! hands the meta to [`crate::session::answerer`].

mod admission;
mod caller;
pub mod metrics;
mod relay;
mod store_metrics;
mod store_news;
mod stranger_log;
mod upkeep;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    sync::{OnceCell, Semaphore, watch},
    task::{self, JoinSet},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tracing::{debug, error, info, warn};

use crate::{
    error::{Code, Error},
    event::Run,
    files::{disk_queue::DiskQueue, service::FileService},
    hooks::{
        dispatch::{Dispatcher, stopped},
        schedule,
        startup::Startup,
        watch as files,
    },
    journal::{openings::Openings, prune},
    meta::{Attend, Wire},
    observer::{Observer, TransferEnd, Unobserved},
    pairing::slots::Slots,
    relay::hub::{Back, Hub, Room},
    root::{
        Root, RootError, config::Config, contact::Contact, folder::Folder, name::Name,
        settings::Settings,
    },
    session::{
        SessionError,
        answerer::Answerer,
        channel::{ChannelError, Reader, Writer},
        pump,
    },
    store::Stores,
    transfer::receive::{
        arrival::Arrival,
        commit::Committer,
        decision::{self, Decision},
        error::ReceiveError,
        offer::Offer,
        receiver::{Parties, Receiver},
        recovery, refused,
        target::Target,
        under_way::{Holder, UnderWay},
    },
    transport::{Incoming, Listener, Peer},
    wire::{
        header::{self, AnswerHeader, CodeHeader, First, Header, Turned},
        relay::Token,
        session::SessionKeys,
    },
};
use admission::Admission;
use caller::{Caller, Unknown, identify};
use metrics::{Counting, Metrics, Opening, Report};
use relay::Relay;
use stranger_log::StrangerLog;

/// Strangers are answered at a multiple of this after their last byte. What is found out about them
/// takes less, so the time does not reveal what it was.
const STRANGER_DELAY: Duration = Duration::from_millis(50);

/// The same at a relay, whose members have to be asked.
const RELAY_DELAY: Duration = Duration::from_secs(1);

/// How much earlier a member has to decide, so that one who does not is not noticed by the time.
const DECISION_MARGIN: Duration = Duration::from_millis(100);

/// How long a connection that ends in an error is still listened to, so that the
/// peer can read why.
const LINGER: Duration = Duration::from_secs(3);

/// How long it may take to say that there are too many connections.
const BUSY: Duration = Duration::from_secs(1);

/// The name of the user whose contacts are the members of the relay.
pub fn relay_user(settings: &Settings) -> Result<Name, RootError> {
    relay::user_name(&settings.relay)
}

/// Everything that a server works with.
#[derive(Clone)]
pub struct Server {
    root: Root,
    settings: Settings,
    receiver: Arc<Receiver>,
    openings: Arc<Openings>,
    metrics: Arc<Metrics>,
    /// Openings whose signature is being checked: as many as there are cores, so that strangers
    /// leave the disk threads to others.
    checking: Arc<Semaphore>,
    strangers: StrangerLog,
    slots: Slots,
    relay: Option<Relay>,
    /// Set once what an earlier server left is done.
    recovered: Arc<OnceCell<()>>,
}

impl Server {
    /// A server for a root. Fails if a private key could be read by others, or
    /// cannot be read at all.
    pub fn new(root: &Root, settings: &Settings) -> Result<Self, Error> {
        Self::with_stores(root, settings, &Stores::default())
    }

    /// [`Self::new`] for a root whose folders keep their contents in these stores.
    pub fn with_stores(root: &Root, settings: &Settings, stores: &Stores) -> Result<Self, Error> {
        for user in root.users()? {
            user.own_key()?;
        }
        let metrics = Arc::new(Metrics::default());
        let counted = metrics.clone();
        let hooks = Dispatcher::with_stores(root, settings, stores)?;
        let hooks = hooks.heard(Arc::new(move |run| counted.hook(run)));
        let observer: Arc<dyn Observer> = Arc::new(Counting {
            metrics: metrics.clone(),
            observer: Arc::new(Unobserved),
        });
        let files = FileService::new(&hooks, observer.clone());
        let files = files.map_err(|e| Error::new(Code::Failed, e.to_string()))?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Self {
            root: root.clone(),
            settings: settings.clone(),
            receiver: Arc::new(Receiver {
                startup: Startup::new(&hooks),
                committer: Committer::new(hooks.journal()),
                hooks,
                settings: settings.clone(),
                observer,
                under_way: UnderWay::default(),
                files,
            }),
            openings: Arc::default(),
            metrics,
            checking: Arc::new(Semaphore::new(cores)),
            strangers: StrangerLog::default(),
            slots: Slots::default(),
            relay: Relay::of(root, settings)?,
            recovered: Arc::default(),
        })
    }

    /// Lets an observer watch every transfer.
    #[must_use]
    pub fn observed(mut self, observer: Arc<dyn Observer>) -> Self {
        let observer: Arc<dyn Observer> = Arc::new(Counting {
            metrics: self.metrics.clone(),
            observer,
        });
        let receiver = Arc::make_mut(&mut self.receiver);
        receiver.files.observer = observer.clone();
        receiver.observer = observer;
        self
    }

    /// Where codes for pairing are kept open.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The hub, if it is a relay.
    pub fn hub(&self) -> Option<&Hub> {
        self.relay.as_ref().map(Relay::hub)
    }

    /// What it counts, for [`metrics::run`].
    pub fn report(&self) -> Result<Report, Error> {
        let journal = self.receiver.hooks.journal().reader();
        let journal = journal.map_err(|e| Error::new(Code::Failed, e.to_string()))?;
        Ok(Report {
            metrics: self.metrics.clone(),
            journal: Arc::new(Mutex::new(journal)),
        })
    }

    /// Runs `[OnStartup]` of every folder; returns what ran. A folder that objects accepts no
    /// files, others do.
    pub async fn start_folders(&self) -> Result<Vec<Run>, Error> {
        // Before any script looks at what an earlier server left.
        self.recover().await;
        let mut runs = Vec::new();
        for (folder, config) in self.folders().await? {
            let verdict = self.receiver.startup.start(&folder, &config).await?;
            for run in &verdict.runs {
                self.receiver.observer.hook(run);
            }
            runs.extend(verdict.runs);
        }
        Ok(runs)
    }

    /// Does what a server that stopped midway has left to do, once.
    async fn recover(&self) {
        self.recovered.get_or_init(|| self.recover_now()).await;
    }

    async fn recover_now(&self) {
        let (root, stores) = (self.root.clone(), self.receiver.hooks.stores().clone());
        let journal = self.receiver.hooks.journal().clone();
        let hooks = self.receiver.hooks.clone();
        let recovered = task::spawn_blocking(move || {
            if let Err(error) = hooks.redo() {
                error!("{error}");
            }
            recovery::recover(&journal, &root, &stores)
        });
        if let Ok(Err(error)) = recovered.await {
            error!("{error}");
        }
        let (journal, root) = (self.receiver.hooks.journal().clone(), self.root.clone());
        let under_way = self.receiver.under_way.clone();
        let stores = self.receiver.hooks.stores().clone();
        let sweep = move || recovery::sweep(&journal, &root, &stores, &under_way);
        // Nobody has to wait for that.
        task::spawn_blocking(move || match sweep() {
            Ok(0) => {}
            Ok(metas) => info!(
                metas,
                "removed what an attempt left that a server did not survive"
            ),
            Err(error) => error!("{error}"),
        });
    }

    /// Every folder that can be used, with its m2y.config.
    async fn folders(&self) -> Result<Vec<(Folder, Arc<Config>)>, RootError> {
        let root = self.root.clone();
        let folders = task::spawn_blocking(move || root.folders())
            .await
            .unwrap_or_else(|_| Ok(Vec::new()))?;
        let opened = folders.into_iter().filter_map(|folder| {
            folder
                .and_then(|folder| Ok((folder.config()?, folder)))
                .map(|(config, folder)| (folder, config))
                // Traffic to it is refused for the same reason; others run.
                .inspect_err(|error| error!("{error}"))
                .ok()
        });
        Ok(opened.collect())
    }
}

/// Serves until `shutdown` turns true, then lets what is under way finish for as
/// long as the settings say, and tells the rest to try later.
pub async fn run(mut listener: impl Listener, server: Server, mut shutdown: watch::Receiver<bool>) {
    let admission = Admission::new(&server.settings);
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    server.recover().await;
    let pruning = prune::run(server.receiver.hooks.journal().clone(), shutdown.clone());
    tokio::spawn(pruning);
    let hooks = &server.receiver.hooks;
    let (journal, stores) = (hooks.journal().clone(), hooks.stores().clone());
    let forgetting = refused::run(journal, server.root.clone(), stores, shutdown.clone());
    tokio::spawn(forgetting);
    let upkeep = tokio::spawn(upkeep::run(
        server.root.clone(),
        hooks.stores().clone(),
        server.metrics.clone(),
        store_news::tell(hooks.clone()),
        shutdown.clone(),
    ));
    let dispatching = tokio::spawn(server.receiver.hooks.clone().run(shutdown.clone()));
    let watching = tokio::spawn(files::run(
        server.receiver.hooks.clone(),
        server.root.clone(),
        server.settings.clone(),
        shutdown.clone(),
    ));
    let scheduling = tokio::spawn(schedule::run(
        server.receiver.hooks.clone(),
        server.root.clone(),
        schedule::clock(),
        shutdown.clone(),
    ));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next() => continue,
        };
        let incoming = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, mostly: those under way will free some.
                warn!("cannot take a connection: {e}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(admitted) = admission.admit(&incoming.peer) else {
            debug!(peer = %incoming.peer, "too many connections, turned away");
            server.metrics.too_many();
            tokio::spawn(turn_away_busy(incoming));
            continue;
        };
        let connection = Connection {
            server: server.clone(),
            peer: incoming.peer.clone(),
            accepted: Instant::now(),
            shutdown: shutdown.clone(),
            stop: stopping.clone(),
        };
        let connected = server.metrics.connected();
        connections.spawn(async move {
            connection.serve(incoming).await;
            drop((admitted, connected));
        });
    }
    drop(listener);
    info!(connections = connections.len(), "shutting down");
    let deadline = Instant::now() + server.settings.shutdown_deadline;
    server.strangers.sum_up();
    let rest = async {
        while connections.join_next().await.is_some() {}
        let _ = dispatching.await;
        let _ = watching.await;
        let _ = scheduling.await;
        let _ = upkeep.await;
    };
    let is_over = timeout_at(deadline, rest).await.is_ok();
    server.receiver.hooks.settle_changes().await;
    if is_over {
        return;
    }
    warn!(
        connections = connections.len(),
        "telling the rest to try later"
    );
    let _ = stop.send(true);
    let rest = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(LINGER + Duration::from_secs(2), rest).await;
}

/// Says so in the few bytes that every link takes at once, and hangs up.
async fn turn_away_busy(incoming: Incoming) {
    // A few hear why: a flood does not.
    static FREE: Semaphore = Semaphore::const_new(64);
    let Ok(_one) = FREE.try_acquire() else {
        return;
    };
    let busy = AnswerHeader::Turned(Turned::Busy).encode();
    let turning = async {
        let mut link = incoming.link().await?;
        link.writer.write_all(&busy).await?;
        link.writer.shutdown().await
    };
    let _ = timeout(BUSY, turning).await;
}

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
    Session(Known),
    /// As that of a member who attends.
    Attendance(SessionKeys, Box<Contact>, Attend),
    /// As one half of a pair, whose opening is this.
    Pair(Box<(Back, Room)>, Arc<Vec<u8>>),
    /// As the other half: it is held until the pair is over.
    Back(Token),
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
}

/// One connection in its task.
struct Connection {
    server: Server,
    peer: Peer,
    accepted: Instant,
    shutdown: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(mut self, incoming: Incoming) {
        let accepted = self.accepted;
        let idle = self.server.settings.idle_deadline;
        let opening_deadline = self.server.settings.opening_deadline;
        let linked = tokio::select! {
            linked = timeout(opening_deadline, incoming.link()) => linked,
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
                let mut connection = Box::pin(self.session(connection, known)).await;
                connection.reader.drain(LINGER).await;
                return;
            }
            Ok(Next::Attendance(keys, member, Attend::Code)) => {
                if let Some(relay) = &self.server.relay {
                    let (slots, shutdown) = (&self.server.slots, self.shutdown.clone());
                    let both = (&mut reader, &mut writer);
                    relay.keep_slot(&member, slots, both, &keys, shutdown).await;
                }
                writer.finish().await;
                reader.drain(LINGER).await;
                return;
            }
            Ok(Next::Attendance(keys, member, Attend::Calls)) => {
                if let Some(relay) = &self.server.relay {
                    let shutdown = self.shutdown.clone();
                    relay
                        .attend(&member, (&mut reader, &mut writer), &keys, shutdown)
                        .await;
                }
                writer.finish().await;
                return;
            }
            Ok(Next::Pair(pair, opening)) => {
                if let Some(relay) = &self.server.relay {
                    let link = relay::link(reader, writer, self.peer);
                    tokio::select! {
                        () = relay.pair(*pair, link, &opening, idle) => {}
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
                // A signature that has to be checked waits for its turn, like all others.
                let turn = match relay.hub().settings.guests {
                    true => None,
                    false => self.server.checking.acquire().await.ok(),
                };
                let may = relay.may_call(&opening).await;
                drop(turn);
                let until = heard + delay - DECISION_MARGIN;
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
        let deadline = self.server.settings.opening_deadline;
        let deadline = deadline.saturating_sub(self.accepted.elapsed());
        let read = async {
            let bytes = reader.exact().await?;
            match First::decode(&bytes)? {
                First::Code(header) => Ok(Beginning::Code(header)),
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
            settings,
            ..
        } = self.server.clone();
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
                request.attend.map(|attend| (member(), attend))
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
                    arrival.end(&ReceiveError::from(&SessionError::from(error)));
                }
            };
            let _ = task::spawn_blocking(ending).await;
            return Ok(Next::Nothing);
        }
        Ok(match attends {
            Some((member, attend)) => Next::Attendance(keys, member, attend),
            None => Next::Session(Known {
                keys,
                parties,
                first,
            }),
        })
    }
}

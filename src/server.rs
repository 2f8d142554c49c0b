//! The server: accepts connections, finds out who is speaking, receives what they send.
//!
//! Nothing but counting happens in the accept loop. Each connection has a task of
//! its own, which reads the opening, checks the signature before any private key is used, and then
//! hands the meta to [`crate::session::answerer`].

mod caller;
mod connection;
pub mod console;
pub mod metrics;
mod relay;
mod store_metrics;
mod store_news;
mod stranger_log;
pub mod systemd;
mod upkeep;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::{
    io::AsyncWriteExt,
    sync::{OnceCell, Semaphore, watch},
    task::{self, JoinSet},
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, error, info, warn};

use crate::{
    error::{Code, Error},
    event::Run,
    files::service::FileService,
    hooks::{
        dispatch::{Dispatcher, stopped},
        schedule,
        startup::Startup,
        watch as files,
    },
    journal::{openings::Openings, prune},
    observer::{Observer, Unobserved},
    pairing::slots::Slots,
    relay::hub::Hub,
    root::{
        Root, RootError,
        config::Config,
        folder::Folder,
        name::Name,
        settings::{Settings, live::Live},
    },
    store::Stores,
    traffic::Traffic,
    transfer::receive::{
        commit::Committer,
        message_committer::{self, MessageCommitter},
        receiver::Receiver,
        recovery, refused,
        under_way::UnderWay,
    },
    transport::{Incoming, Listener, admission::Admission},
    viewers::Viewers,
    wire::header::{AnswerHeader, Turned},
};
use connection::Connection;
use metrics::{Counting, Metrics, Report};
use relay::Relay;
use stranger_log::StrangerLog;

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
    settings: Live<Settings>,
    /// Connections, whatever they come over, and those of QUIC, each of which may carry several.
    admission: Admission,
    quic: Admission,
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
        let live = Live::new(settings.clone());
        let relay = Relay::of(root, &live, hooks.journal(), stores)?;
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
            settings: live.clone(),
            admission: Admission::new(settings.max_connections, settings.max_per_address),
            quic: Admission::new(settings.max_connections, settings.max_per_address),
            receiver: Arc::new(Receiver {
                startup: Startup::new(&hooks),
                committer: Committer::new(hooks.journal()),
                messages: MessageCommitter::new(hooks.journal()),
                message_rate: Arc::default(),
                hooks,
                settings: live,
                observer,
                under_way: UnderWay::default(),
                traffic: Traffic::default(),
                files,
                viewers: Viewers::default(),
            }),
            openings: Arc::default(),
            metrics,
            checking: Arc::new(Semaphore::new(cores)),
            strangers: StrangerLog::default(),
            slots: Slots::default(),
            relay,
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

    /// Goes on with other settings: for what begins from now on. If they cannot be used, nothing
    /// changes.
    pub fn set(&self, settings: Settings) -> Result<(), Error> {
        self.receiver.hooks.set(&settings)?;
        for admission in [&self.admission, &self.quic] {
            admission.limit(settings.max_connections, settings.max_per_address);
        }
        self.settings.replace(settings);
        if let Some(hub) = self.hub() {
            hub.reloaded();
        }
        Ok(())
    }

    /// The settings, as they are now.
    pub fn settings(&self) -> &Live<Settings> {
        &self.settings
    }

    /// How many QUIC connections there may be, for its listeners.
    pub fn quic(&self) -> &Admission {
        &self.quic
    }

    /// What is under way.
    pub fn traffic(&self) -> &Traffic {
        &self.receiver.traffic
    }

    /// Where codes for pairing are kept open.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// What receives files.
    pub fn receiver(&self) -> &Arc<Receiver> {
        &self.receiver
    }

    /// Who watches streams.
    pub fn viewers(&self) -> &Viewers {
        &self.receiver.viewers
    }

    /// The openings that it remembers.
    pub fn openings(&self) -> &Arc<Openings> {
        &self.openings
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
            if let Err(error) = message_committer::recover(&journal, &root) {
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
        // A clock of files may be a tick behind.
        let begun = SystemTime::now() - Duration::from_secs(1);
        let sweep = move || recovery::sweep(&journal, &root, &stores, &under_way, begun);
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
        server.settings.now().settle,
        shutdown.clone(),
    ));
    let scheduling = tokio::spawn(schedule::run(
        server.receiver.hooks.clone(),
        server.root.clone(),
        schedule::clock(),
        shutdown.clone(),
    ));
    if let Some(letters) = server.relay.as_ref().and_then(Relay::letters) {
        let (letters, mut shutdown) = (letters.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = letters.keep() => {}
                () = stopped(&mut shutdown) => {}
            }
        });
    }
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
        let Some(admitted) = server.admission.admit(&incoming.peer) else {
            debug!(peer = %incoming.peer, "too many connections, turned away");
            server.metrics.too_many();
            tokio::spawn(turn_away_busy(incoming));
            continue;
        };
        let connection = Connection {
            settings: server.settings.now(),
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
    let deadline = Instant::now() + server.settings.now().shutdown_deadline;
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

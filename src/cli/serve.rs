use std::{
    fmt::Display,
    fs::{File, TryLockError},
    io::{IsTerminal, stdin},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task,
    time::{Instant, sleep},
};
use tracing::info;

use super::{RootArg, output};
use crate::{
    client::{self, attendance::Attendance, outbox, receipts},
    control::host::Control,
    crypto::backend::active,
    error::{Code, Error},
    root::{
        Root, file,
        settings::{LogFormat, Settings},
    },
    server::{self, Server, console::Console, metrics, systemd},
    transport::{self, Address, Listener, Listening, admission::Admission},
};

/// Receive files for every user of the root, and run the hooks of their folders
///
/// The first lines on standard output are the addresses that the server listens on, one
/// each; with --metrics, the next line is the address for metrics. Ctrl-C, SIGTERM or `m2y stop` lets
/// transfers finish (shutdown_deadline in m2y.ini); a second signal stops at once. SIGHUP or `m2y
/// reload` reads m2y.ini again.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    root: RootArg,
    /// An address to listen on, once for each; port 0 picks a free one. HOST:PORT takes TLS too,
    /// quic://HOST:PORT takes QUIC [default: listen in m2y.ini, else 127.0.0.1:5000]
    #[arg(
        long,
        env = "M2Y_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    listen: Vec<String>,
    /// The address for /metrics (Prometheus) and /healthz over HTTP; port 0 picks a free one
    /// [default: metrics in m2y.ini, else none]
    #[arg(long, env = "M2Y_METRICS", value_name = "HOST:PORT")]
    metrics: Option<String>,
    /// The format of the log on standard error: text, or json (one object a line) [default:
    /// log_format in m2y.ini, else text]
    #[arg(long, env = "M2Y_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl Serve {
    /// The format that the flag or m2y.ini sets. An error in m2y.ini is found again, and reported,
    /// when the server starts.
    pub(super) fn log_format(&self) -> LogFormat {
        let of_root = || Some(self.root.open().ok()?.settings().ok()?.log_format);
        self.log_format.or_else(of_root).unwrap_or_default()
    }

    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        self.run_with(json, |_, _| Ok(())).await
    }

    /// The directory of the root.
    pub(super) fn path(&self) -> PathBuf {
        self.root.path()
    }

    /// Serves with other settings.
    pub(super) async fn run_with(
        self,
        json: bool,
        change: impl FnOnce(&Root, &mut Settings) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let root = self.root.open()?;
        let read = root.settings()?;
        let mut settings = read.clone();
        change(&root, &mut settings)?;
        if !self.listen.is_empty() {
            settings.listen = self.listen;
        }
        if self.metrics.is_some() {
            settings.metrics = self.metrics;
        }
        let (mut signals, mut hangups) = (Signals::new()?, Hangups::new()?);
        let (stop, mut stops) = mpsc::unbounded_channel();
        let prepared = Prepared::new(&root, read, settings, Some(stop)).await?;
        let metrics_port = match &prepared.settings.metrics {
            Some(metrics) => Some((metrics_at(metrics).await?, prepared.server.report()?)),
            None => None,
        };
        // Clients that connect meanwhile wait; if the port is taken, no hook runs in vain.
        tokio::select! {
            started = prepared.server.start_folders() => { started?; }
            () = signals.next() => return Ok(()),
        }
        prepared.announce(json);
        let (shutdown, going_down) = watch::channel(false);
        if let Some(((port, address), report)) = metrics_port {
            if json {
                output::object(&[("status", "metrics".into()), ("address", address.into())]);
            } else {
                output::line(format_args!("metrics on {address}"));
            }
            // Until the end: that the server is going down can be read there, too.
            tokio::spawn(metrics::run(port, report, going_down.clone()));
        }
        systemd::tell("READY=1");
        let console = prepared.console.clone();
        let serving = prepared.run(going_down);
        tokio::pin!(serving);
        let mut is_stopping = false;
        loop {
            let at_once = tokio::select! {
                () = &mut serving => return Ok(()),
                () = signals.next() => is_stopping,
                Some(now) = stops.recv() => now,
                is_over = hangups.next() => match is_over {
                    true => is_stopping,
                    false => {
                        let console = console.clone();
                        // The log says how it went.
                        task::spawn_blocking(move || console.reload());
                        continue;
                    }
                },
            };
            if at_once {
                return Err(Error::new(Code::Interrupted, "stopped at once"));
            }
            if !is_stopping {
                is_stopping = true;
                let _ = shutdown.send(true);
                systemd::tell("STOPPING=1");
            }
        }
    }
}

/// A server of this process, which has its ports and is the only one of its root.
pub(super) struct Prepared {
    root: Root,
    settings: Settings,
    server: Server,
    listeners: Vec<Box<dyn Listener>>,
    addresses: Vec<Address>,
    control: Control,
    console: Console,
    _lock: File,
}

impl Prepared {
    /// Prepares it, with these settings for those that were `read` from m2y.ini; clients that connect
    /// wait until it [runs](Self::run). It says at `stop` that it is to stop.
    pub(super) async fn new(
        root: &Root,
        read: Settings,
        settings: Settings,
        stop: Option<mpsc::UnboundedSender<bool>>,
    ) -> Result<Self, Error> {
        let lock = lock(root).await?;
        let server = Server::with_stores(root, &settings, &client::stores())?;
        let (listeners, addresses) = listen(root, &settings, server.quic().clone()).await?;
        Ok(Self {
            console: Console::new(&server, addresses.clone(), read, stop)?,
            control: Control::bind(root)?,
            root: root.clone(),
            settings,
            server,
            listeners,
            addresses,
            _lock: lock,
        })
    }

    /// Says where it listens.
    fn announce(&self, json: bool) {
        let crypto = active().name();
        for address in &self.addresses {
            info!(%address, root = %self.root.path().display(), crypto, "serving");
            if json {
                let address = address.to_string();
                output::object(&[("status", "listening".into()), ("address", address.into())]);
            } else {
                output::line(format_args!("listening on {address}"));
            }
        }
        if let Some(address) = self.addresses.first()
            && self.addresses.iter().all(Address::is_local)
        {
            info!(
                "only this machine can connect to {address}: for others, use --listen 0.0.0.0:5000"
            );
        }
    }

    /// Runs `[OnStartup]` of every folder.
    pub(super) async fn start_folders(self) -> Result<Self, Error> {
        let server = self.server.clone();
        server.start_folders().await?;
        Ok(self)
    }

    /// Serves until `going_down` turns true.
    pub(super) async fn run(self, going_down: watch::Receiver<bool>) {
        // In the order in which they may go: the lock last, when the socket is gone.
        let Self {
            _lock,
            root,
            server,
            mut listeners,
            control,
            console,
            ..
        } = self;
        // Callers at relays are accepted like all others.
        let attendance = Attendance::start(&root, &server, going_down.clone());
        listeners.push(Box::new(attendance));
        let asking = receipts::run(root.clone(), going_down.clone());
        let (settings, traffic) = (server.settings().clone(), server.traffic().clone());
        let sending = outbox::run(root, settings, traffic, going_down.clone());
        let serving = async {
            tokio::join!(server::run(listeners, server, going_down), sending, asking);
        };
        // Programs are answered to the end.
        tokio::select! {
            () = serving => {}
            () = control.run(Arc::new(console)) => {}
        }
    }
}

fn cannot_listen(wanted: &str, why: impl Display) -> Error {
    Error::new(Code::Failed, format!("cannot listen on {wanted}: {why}"))
}

/// Listeners for sessions, and their addresses.
async fn listen(
    root: &Root,
    settings: &Settings,
    admission: Admission,
) -> Result<(Vec<Box<dyn Listener>>, Vec<Address>), Error> {
    let listening = Listening {
        identity: root.identity(&settings.tls)?,
        gso: settings.quic_gso,
        admission,
    };
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for wanted in &settings.listen {
        let parsed: Result<Address, _> = wanted.parse();
        let parsed = parsed.map_err(|e| cannot_listen(wanted, e))?;
        let listener = transport::listen(&parsed, &listening).await?;
        addresses.push(listener.address().map_err(|e| cannot_listen(wanted, e))?);
        listeners.push(listener);
    }
    Ok((listeners, addresses))
}

/// A port for metrics, and its address.
async fn metrics_at(wanted: &str) -> Result<(metrics::Port, String), Error> {
    let port = metrics::Port::bind(wanted).await;
    let port = port.map_err(|e| cannot_listen(wanted, e))?;
    let address = port.address().map_err(|e| cannot_listen(wanted, e))?;
    Ok((port, address))
}

/// Ctrl-C and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Waits for the signals from now on; they no longer end the program.
    pub(super) fn new() -> Result<Self, Error> {
        let on = |kind| signal(kind).map_err(cannot_wait);
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    /// Returns at the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// SIGHUP: m2y.ini is to be read again, or the terminal is gone.
struct Hangups {
    hangup: Signal,
    has_terminal: bool,
}

impl Hangups {
    /// Waits for it from now on; it no longer ends the program.
    fn new() -> Result<Self, Error> {
        let hangup = signal(SignalKind::hangup());
        Ok(Self {
            hangup: hangup.map_err(cannot_wait)?,
            has_terminal: stdin().is_terminal(),
        })
    }

    /// Returns at the next one: whether the terminal that the server was started on is gone.
    async fn next(&mut self) -> bool {
        self.hangup.recv().await;
        self.has_terminal && !stdin().is_terminal()
    }
}

fn cannot_wait(error: std::io::Error) -> Error {
    Error::new(Code::Failed, format!("cannot wait for signals: {error}"))
}

/// How long a killed server may still hold the lock: a program that it was starting as it died
/// holds it until that program runs on its own.
const LINGERS: Duration = Duration::from_secs(1);

/// Only one server for a root: two would not know about each other's transfers.
async fn lock(root: &Root) -> Result<File, Error> {
    let failed = |why: String| {
        let sentence = format!("cannot serve {}: {why}", root.path().display());
        Error::new(Code::Failed, sentence)
    };
    let file = file::append(root.dir(), ".serve.lock")
        .map_err(|e| failed(format!("cannot lock .serve.lock: {e}")))?
        .into_std();
    let until = Instant::now() + LINGERS;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(failed(
                    "an `m2y serve` or `m2y chat` is running already".to_owned(),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e.to_string())),
        }
    }
}

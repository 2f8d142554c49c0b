//! What a server counts, and the page on which Prometheus reads it.
//!
//! Every label has a fixed set of words. So a counter is an atomic number that has its place from
//! the start: counting locks nothing and looks nothing up, and writing the page takes no library.
//! It names no person, folder or file.

use std::{
    convert::Infallible,
    fmt::{self, Display, Write},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rusqlite::Connection;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task,
    time::{sleep, timeout},
};
use tracing::{error, warn};

use super::store_metrics::StoreMetrics;
use crate::{
    event::{Kind, Outcome, Run},
    journal,
    observer::{Observer, TransferEnd},
};

/// Readers of the page at the same time; more wait.
const READERS: usize = 16;

/// The time that one reader has, from its connection to the last byte of its answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Bytes of a request: what a browser sends fits, and hyper accepts no less.
const MAX_REQUEST: usize = 8_192;

/// Up to which times hooks are counted, in microseconds: 1 ms to 30 s, the longest time
/// that a program has by default.
const TIMES: [u64; 8] = [
    1_000, 5_000, 25_000, 100_000, 500_000, 1_000_000, 5_000_000, 30_000_000,
];

/// How an attempt to open a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A contact, by signature.
    Known,
    /// An unknown peer, or something that cannot be read.
    TurnedAway,
}

/// The numbers of one server.
pub struct Metrics {
    connections: AtomicU64,
    too_many: AtomicU64,
    openings: Each<Opening>,
    transfers: Each<TransferEnd>,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    private_key_operations: AtomicU64,
    hooks: Each<(Kind, &'static str)>,
    hook_times: Times,
    /// How the stores of folders are.
    pub stores: StoreMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let verdicts = [
            Outcome::Accepted,
            Outcome::Refused(String::new()),
            Outcome::Quarantined(String::new()),
            Outcome::Failed,
            Outcome::Later,
        ];
        let hooks = Kind::ALL
            .into_iter()
            .flat_map(|kind| verdicts.iter().map(move |v| (kind, v.words().0)));
        Self {
            connections: AtomicU64::default(),
            too_many: AtomicU64::default(),
            openings: Each::new([Opening::Known, Opening::TurnedAway]),
            transfers: Each::new(TransferEnd::ALL),
            received_bytes: AtomicU64::default(),
            sent_bytes: AtomicU64::default(),
            private_key_operations: AtomicU64::default(),
            hooks: Each::new(hooks),
            hook_times: Times::default(),
            stores: StoreMetrics::default(),
        }
    }
}

impl Metrics {
    /// Counts a connection until what it returns is dropped.
    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Relaxed);
        Connected(self.clone())
    }

    /// Connections that are open.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Bytes of files that came in.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Relaxed)
    }

    /// Bytes of files that contacts fetched.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Relaxed)
    }

    /// Counts a connection for which there is no room.
    pub fn too_many(&self) {
        self.too_many.fetch_add(1, Relaxed);
    }

    /// Counts an attempt to open a session.
    pub fn opening(&self, how: Opening) {
        self.openings.count(how);
    }

    /// Counts an operation of a private key.
    pub fn private_key(&self) {
        self.private_key_operations.fetch_add(1, Relaxed);
    }

    /// Counts a hook that ran.
    pub fn hook(&self, run: &Run) {
        self.hooks.count((run.event, run.outcome.words().0));
        self.hook_times.count(run.took);
    }

    /// The page, with the numbers of tasks that wait and that were given up, if they are known.
    fn page(&self, tasks: Option<(u64, u64)>) -> String {
        let number = |n: &AtomicU64| n.load(Relaxed);
        let mut page = Page(String::new());
        page.family("m2y_connections", "gauge", "Connections that are open.");
        page.sample("m2y_connections", "", number(&self.connections));
        page.family(
            "m2y_connections_turned_away_total",
            "counter",
            "Connections for which there was no room.",
        );
        page.sample(
            "m2y_connections_turned_away_total",
            "",
            number(&self.too_many),
        );
        page.family(
            "m2y_openings_total",
            "counter",
            "Sessions that were opened, by whether a contact opened them.",
        );
        for (how, n) in self.openings.all() {
            let word = match how {
                Opening::Known => "known",
                Opening::TurnedAway => "turned_away",
            };
            page.sample("m2y_openings_total", &label("result", word), n);
        }
        page.family(
            "m2y_transfers_total",
            "counter",
            "Files offered by contacts, by outcome.",
        );
        for (ended, n) in self.transfers.all() {
            page.sample("m2y_transfers_total", &label("result", ended.word()), n);
        }
        page.family(
            "m2y_received_bytes_total",
            "counter",
            "Bytes of files, also of those that did not arrive whole.",
        );
        page.sample("m2y_received_bytes_total", "", number(&self.received_bytes));
        page.family(
            "m2y_sent_bytes_total",
            "counter",
            "Bytes of fetched files, including incomplete ones.",
        );
        page.sample("m2y_sent_bytes_total", "", number(&self.sent_bytes));
        page.family(
            "m2y_private_key_operations_total",
            "counter",
            "Signatures made and seals opened with private keys of users.",
        );
        page.sample(
            "m2y_private_key_operations_total",
            "",
            number(&self.private_key_operations),
        );
        self.hooks_and_tasks(&mut page, tasks);
        self.stores.write(&mut page);
        page.0
    }

    fn hooks_and_tasks(&self, page: &mut Page, tasks: Option<(u64, u64)>) {
        page.family(
            "m2y_hooks_total",
            "counter",
            "Hooks that ran, by event and verdict.",
        );
        for ((event, verdict), n) in self.hooks.all() {
            let verdict = verdict.replace(' ', "_");
            let labels = format!("{{event=\"{event}\",verdict=\"{verdict}\"}}");
            page.sample("m2y_hooks_total", &labels, n);
        }
        self.hook_times.write(page, "m2y_hook_seconds");
        if let Some((pending, dead)) = tasks {
            page.family(
                "m2y_tasks_pending",
                "gauge",
                "Events and what hooks asked for, still to be done.",
            );
            page.sample("m2y_tasks_pending", "", pending);
            page.family(
                "m2y_tasks_dead",
                "gauge",
                "Events and what hooks asked for, given up: see m2y events.",
            );
            page.sample("m2y_tasks_dead", "", dead);
        }
    }
}

/// A connection that counts until this is dropped.
pub struct Connected(Arc<Metrics>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// A number for each of a few keys.
struct Each<K>(Vec<(K, AtomicU64)>);

impl<K: Copy + PartialEq> Each<K> {
    fn new(keys: impl IntoIterator<Item = K>) -> Self {
        Self(
            keys.into_iter()
                .map(|key| (key, AtomicU64::new(0)))
                .collect(),
        )
    }

    fn count(&self, key: K) {
        if let Some((_, n)) = self.0.iter().find(|(known, _)| *known == key) {
            n.fetch_add(1, Relaxed);
        }
    }

    fn all(&self) -> impl Iterator<Item = (K, u64)> {
        self.0.iter().map(|(key, n)| (*key, n.load(Relaxed)))
    }
}

/// A histogram of how long something took.
#[derive(Default)]
struct Times {
    up_to: [AtomicU64; TIMES.len()],
    longer: AtomicU64,
    micros: AtomicU64,
}

impl Times {
    fn count(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = TIMES
            .iter()
            .zip(&self.up_to)
            .find(|(most, _)| micros <= **most);
        place.map_or(&self.longer, |(_, n)| n).fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    fn write(&self, page: &mut Page, name: &str) {
        page.family(name, "histogram", "How long hooks took.");
        // Each also counts those that took less.
        let mut sum = 0;
        for (most, n) in TIMES.iter().zip(&self.up_to) {
            sum += n.load(Relaxed);
            let most = Duration::from_micros(*most).as_secs_f64().to_string();
            page.sample(&format!("{name}_bucket"), &label("le", &most), sum);
        }
        sum += self.longer.load(Relaxed);
        page.sample(&format!("{name}_bucket"), &label("le", "+Inf"), sum);
        let seconds = Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64();
        page.sample(&format!("{name}_sum"), "", seconds);
        page.sample(&format!("{name}_count"), "", sum);
    }
}

/// The text format of Prometheus, version 0.0.4.
pub(super) struct Page(String);

impl Page {
    /// Begins the samples of one name.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One of its samples.
    pub(super) fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

/// Words that need no escape.
fn label(name: &str, value: &str) -> String {
    format!("{{{name}=\"{value}\"}}")
}

/// Counts transfers, and passes them on to another observer.
pub struct Counting {
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// The other observer.
    pub observer: Arc<dyn Observer>,
}

impl Observer for Counting {
    fn step(&self, number: u8, what: fmt::Arguments<'_>) {
        self.observer.step(number, what);
    }

    fn moved(&self, bytes: u64) {
        self.metrics.received_bytes.fetch_add(bytes, Relaxed);
        self.observer.moved(bytes);
    }

    fn supplied(&self, bytes: u64) {
        self.metrics.sent_bytes.fetch_add(bytes, Relaxed);
        self.observer.supplied(bytes);
    }

    fn hook(&self, run: &Run) {
        self.observer.hook(run);
    }

    fn ended(&self, how: TransferEnd) {
        self.metrics.transfers.count(how);
        self.observer.ended(how);
    }
}

/// What `/metrics` and `/healthz` report.
#[derive(Clone)]
pub struct Report {
    pub(super) metrics: Arc<Metrics>,
    /// A connection to the journal.
    pub(super) journal: Arc<Mutex<Connection>>,
}

/// Where metrics are served, over HTTP.
pub struct Port(TcpListener);

impl Port {
    /// Listens on `HOST:PORT`; port 0 takes any free one.
    pub async fn bind(wanted: &str) -> io::Result<Self> {
        TcpListener::bind(wanted).await.map(Self)
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}

/// Answers `GET /metrics` and `GET /healthz`, until it is dropped.
pub async fn run(port: Port, report: Report, going_down: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(READERS));
    loop {
        let Ok(reader) = room.clone().acquire_owned().await else {
            return;
        };
        let stream = match port.0.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                warn!("cannot take a connection for metrics: {e}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (report, going_down) = (report.clone(), going_down.clone());
        tokio::spawn(async move {
            // A client that is slow, or speaks something else, has lost nothing.
            let _ = timeout(DEADLINE, report.serve(stream, going_down)).await;
            drop(reader);
        });
    }
}

impl Report {
    async fn serve(&self, stream: TcpStream, going_down: watch::Receiver<bool>) {
        let service = service_fn(|request: Request<Incoming>| {
            let going_down = *going_down.borrow();
            async move { Ok::<_, Infallible>(self.answer(&request, going_down).await) }
        });
        let _ = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(MAX_REQUEST)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: &Request<Incoming>, going_down: bool) -> Response<Full<Bytes>> {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => {
                (StatusCode::OK, self.metrics.page(self.tasks().await))
            }
            (&Method::GET | &Method::HEAD, "/healthz") if going_down => (
                StatusCode::SERVICE_UNAVAILABLE,
                "shutting down\n".to_owned(),
            ),
            (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
            (_, "/metrics" | "/healthz") => {
                let only = "GET is all there is\n".to_owned();
                (StatusCode::METHOD_NOT_ALLOWED, only)
            }
            _ => {
                let there = "there are /metrics and /healthz\n".to_owned();
                (StatusCode::NOT_FOUND, there)
            }
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        headers.insert(CONTENT_TYPE, kind);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    /// Tasks of the journal that wait, and those that were given up.
    async fn tasks(&self) -> Option<(u64, u64)> {
        let journal = self.journal.clone();
        let counted = task::spawn_blocking(move || {
            journal::counts(&journal.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match counted.await {
            Ok(Ok(counts)) => Some(counts),
            Ok(Err(e)) => {
                error!("the metrics lack the tasks of the journal: {e}");
                None
            }
            Err(_) => None,
        }
    }
}

//! What strangers, recordings and half openings cost a server: next to nothing.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{fs, time::Duration};

use common::{Local, OPEN, Process, ROLAND, World, ZHENQIANG, document, peer};
use m2y::{
    clock,
    meta::{Features, Wire},
    server::metrics,
    wire::header::{AnswerHeader, Turned},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

const DAY: u64 = 86_400_000;

/// A server in this process whose metrics can be read.
struct Watched {
    server: Local,
    metrics: String,
    _stays: watch::Sender<bool>,
}

impl Watched {
    async fn serve(world: &World) -> Self {
        let mut report = None;
        let server = Local::with(&world.there, |server| {
            report = Some(server.report().unwrap());
            server
        });
        let server = server.await;
        let port = metrics::Port::bind("127.0.0.1:0").await.unwrap();
        let metrics = port.address().unwrap();
        let (_stays, going_down) = watch::channel(false);
        tokio::spawn(metrics::run(port, report.unwrap(), going_down));
        Self {
            server,
            metrics,
            _stays,
        }
    }

    async fn sample(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(&self.metrics).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        page.lines().find_map(value).expect(name)
    }

    async fn private_key_operations(&self) -> u64 {
        self.sample("m2y_private_key_operations_total ").await
    }
}

/// The opening of a session without a file.
fn asking() -> Wire {
    Wire {
        session: true,
        ..peer::request(document(ZHENQIANG, ROLAND, ""), Features::default())
    }
}

/// The head of what the server answers to some bytes.
async fn answer(address: &str, bytes: &[u8]) -> AnswerHeader {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut head = [0; 8];
    let read = timeout(PATIENCE, stream.read_exact(&mut head)).await;
    read.expect("an answer").unwrap();
    AnswerHeader::decode(&head).unwrap()
}

const STRANGER: AnswerHeader = AnswerHeader::Turned(Turned::Stranger);
const STALE: AnswerHeader = AnswerHeader::Turned(Turned::Stale);

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_an_opening_that_come_at_once_cost_one_unwrapping() {
    const COPIES: usize = 16;
    let world = World::in_memory(OPEN);
    let watched = Watched::serve(&world).await;
    for round in 1..=10 {
        let bytes = peer::opening(&asking(), clock::millis(), ROLAND);
        let mut copies = JoinSet::new();
        for _ in 0..COPIES {
            let (address, bytes) = (watched.server.address.clone(), bytes.clone());
            copies.spawn(async move { answer(&address, &bytes).await });
        }
        let answers = copies.join_all().await;
        let strangers = answers.iter().filter(|answer| **answer == STRANGER);
        assert_eq!(strangers.count(), COPIES - 1);
        // One opens the envelope, one signs the answer.
        assert_eq!(watched.private_key_operations().await, 2 * round);
    }
    watched.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_cannot_be_opened_is_tried_once() {
    let world = World::in_memory(OPEN);
    let watched = Watched::serve(&world).await;
    // The contact has signed it, and sealed it for a key that is not the receiver's.
    let bytes = peer::opening(&asking(), clock::millis(), "stranger");
    for _ in 0..3 {
        assert_eq!(answer(&watched.server.address, &bytes).await, STRANGER);
    }
    assert_eq!(watched.private_key_operations().await, 1);
    watched.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_was_held_back_for_too_long_does_nothing() {
    let world = World::in_memory(OPEN);
    let watched = Watched::serve(&world).await;
    let address = watched.server.address.clone();
    let at = |time: u64| peer::opening(&asking(), time, ROLAND);
    let now = clock::millis();
    for time in [now - 31 * DAY, now + 2 * DAY, 0, u64::MAX] {
        assert_eq!(answer(&address, &at(time)).await, STALE, "{time}");
    }
    assert_eq!(watched.private_key_operations().await, 0);
    // The newest first: nothing was forgotten, so the order does not matter.
    let mut remembered = Vec::new();
    for time in [now + DAY / 2, now, now - 29 * DAY] {
        let bytes = at(time);
        let answered = answer(&address, &bytes).await;
        assert!(matches!(answered, AnswerHeader::Envelope(_)), "{time}");
        // One that is remembered gets the answer of a stranger.
        assert_eq!(answer(&address, &bytes).await, STRANGER, "{time}");
        remembered = bytes;
    }
    watched.server.stop().await;

    let ini = "[server]\nopening_max_age = 1h\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let server = Local::serve(&world.there).await;
    assert_eq!(answer(&server.address, &at(now - DAY / 12)).await, STALE);
    let answered = answer(&server.address, &at(now - DAY / 48)).await;
    assert!(matches!(answered, AnswerHeader::Envelope(_)));
    // The copy of one that is remembered is a stranger's also when its time has passed.
    assert_eq!(answer(&server.address, &remembered).await, STRANGER);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_headers_count_no_longer_than_their_deadline() {
    const MANY: usize = 300;
    let world = World::in_memory(OPEN);
    let ini = "[server]\nmax_connections_per_address = 10000\nopening_deadline = 1s\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let watched = Watched::serve(&world).await;
    let mut held = Vec::new();
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(&watched.server.address).await.unwrap();
        stream
            .write_all(&[0, 1, 0, 0, 0, 0, 1, 0, 9])
            .await
            .unwrap();
        held.push(stream);
    }
    // They stay open here: only the server can let go.
    for stream in &mut held {
        let end = timeout(PATIENCE, stream.read(&mut [0; 8])).await;
        assert_eq!(end.expect("the server held on").unwrap_or(0), 0);
    }
    let begun = Instant::now();
    while watched.sample("m2y_connections ").await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(1), "still counted");
        sleep(Duration::from_millis(10)).await;
    }
    drop(held);
    watched.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_turned_away_keeps_no_place_beyond_the_deadline() {
    let world = World::in_memory(OPEN);
    let ini = "[server]\nopening_deadline = 500ms\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let watched = Watched::serve(&world).await;
    let mut stream = TcpStream::connect(&watched.server.address).await.unwrap();
    stream.write_all(&[0; 24]).await.unwrap();
    let mut heard = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut heard)).await;
    read.expect("an answer").unwrap();
    assert_eq!(heard, AnswerHeader::Turned(Turned::Unreadable).encode());
    let begun = Instant::now();
    while watched.sample("m2y_connections ").await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(2), "still counted");
        sleep(Duration::from_millis(10)).await;
    }
    drop(stream);
    watched.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_strangers_write_few_lines_and_a_sum() {
    const MANY: usize = 60;
    let world = World::in_memory(OPEN);
    let log = world.dir.path().join("log");
    let server = Process::serve_with_log(&world.there, &log);
    for _ in 0..MANY {
        let turned = answer(&server.address, &[0; 24]).await;
        assert_eq!(turned, AnswerHeader::Turned(Turned::Unreadable));
    }
    assert_eq!(server.stop(), Some(0));
    let log = fs::read_to_string(&log).unwrap();
    let lines = log.lines().filter(|line| line.contains("turned away"));
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines.len(), 11, "{log}");
    assert!(lines[10].contains("50 more were turned away"), "{log}");
}

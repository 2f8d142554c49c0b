//! QUIC on a bad network, and against those who want to wear a server down.
#![cfg(feature = "aws-lc")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    OPEN, Process, World, noise,
    udp::{Network, Weather},
};
use m2y::{
    client::{self, Route},
    observer::Observer,
    transfer::send::send_job::SendJob,
};
use quinn::{ClientConfig, Endpoint, crypto::rustls::QuicClientConfig};
use tokio::{
    net::UdpSocket,
    task,
    time::{Instant, sleep, timeout},
};

/// A server on QUIC alone, where it is, and its pin.
async fn serve(world: &World) -> (Process, SocketAddr, String) {
    let root = world.there.clone();
    let start = move || Process::serve_at(&root, "quic://127.0.0.1:0");
    let process = task::spawn_blocking(start).await.unwrap();
    let (address, pin) = process.address.split_once('#').unwrap();
    let at = address.strip_prefix("quic://").unwrap().parse().unwrap();
    let pin = pin.to_owned();
    (process, at, pin)
}

/// Counts the openings of a client.
#[derive(Default)]
struct Openings(AtomicU64);

impl Observer for Openings {
    fn step(&self, number: u8, _: fmt::Arguments<'_>) {
        if number == 3 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Sends a file; returns in how many sessions.
async fn send(world: &World, address: &str, file: &Path) -> u64 {
    let out = SendJob::open(&world.meta("photo", file)).unwrap();
    let route = Route::find(None, Some(address), &out).unwrap();
    let openings = Openings::default();
    client::deliver(&route, &out, &openings).await.unwrap();
    openings.0.load(Ordering::SeqCst)
}

fn arrived(world: &World) -> Vec<u8> {
    let names = world.arrived(".data");
    fs::read(world.photo().join(&names[0])).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_arrives_whole_over_a_network_that_loses_and_delays_packets() {
    let world = World::new(OPEN);
    let (_server, at, pin) = serve(&world).await;
    let weather = Weather {
        lost: 10,
        delay: Duration::from_millis(40),
        ..Weather::default()
    };
    let network = Network::to(at, weather).await;
    let bytes = noise(3_000_000);
    let file = world.file("large.bin", &bytes);
    let address = format!("quic://{}#{pin}", network.address);
    assert_eq!(send(&world, &address, &file).await, 1);
    assert!(arrived(&world) == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_when_the_client_has_another_address() {
    let world = World::new(OPEN);
    let (_server, at, pin) = serve(&world).await;
    let weather = Weather {
        delay: Duration::from_millis(2),
        moves_after: Some(500),
        ..Weather::default()
    };
    let network = Network::to(at, weather).await;
    let bytes = noise(8_000_000);
    let file = world.file("large.bin", &bytes);
    let address = format!("quic://{}#{pin}", network.address);
    assert_eq!(send(&world, &address, &file).await, 1, "one session");
    assert!(network.seen.load(Ordering::SeqCst) >= 2);
    assert!(arrived(&world) == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_does_not_answer_gets_little_however_it_is_named() {
    let world = World::new(OPEN);
    let (_server, at, pin) = serve(&world).await;
    // Takes what a client sends, and passes a single packet on.
    let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = format!("quic://{}#{pin}", front.local_addr().unwrap());
    let file = world.file("a.bin", b"a");
    let out = SendJob::open(&world.meta("photo", &file)).unwrap();
    let route = Route::find(None, Some(&address), &out).unwrap();
    let sending = tokio::spawn(async move {
        let _ = client::deliver(&route, &out, &Openings::default()).await;
    });
    let mut packet = vec![0; 65_536];
    let (len, _) = front.recv_from(&mut packet).await.unwrap();
    sending.abort();
    let spoofed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    spoofed.send_to(&packet[..len], at).await.unwrap();
    let (mut answered, mut buffer) = (0, vec![0; 65_536]);
    let until = Instant::now() + Duration::from_secs(3);
    while let Ok(Ok(more)) = tokio::time::timeout_at(until, spoofed.recv(&mut buffer)).await {
        answered += more;
    }
    assert!(answered > 0, "the packet was one that is answered");
    // Three times as much (RFC 9000, section 8.1), and what of a last datagram is above that.
    assert!(answered < 4 * len, "{answered} bytes for {len}");
}

/// A client that trusts anybody and never finishes a handshake.
fn flooder() -> (Endpoint, ClientConfig) {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    tls.alpn_protocols = vec![b"m2y/1".to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    // Another host than the one of the other clients.
    let endpoint = Endpoint::client((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    (endpoint, config)
}

/// Begins handshakes and gives them up, until it is dropped.
fn flood(at: SocketAddr) -> (task::JoinHandle<()>, Arc<AtomicU64>) {
    let begun = Arc::new(AtomicU64::new(0));
    let counted = begun.clone();
    let flooding = tokio::spawn(async move {
        let (endpoint, config) = flooder();
        loop {
            for _ in 0..20 {
                let connecting = endpoint.connect_with(config.clone(), at, "m2y");
                task::yield_now().await;
                drop(connecting);
                counted.fetch_add(1, Ordering::SeqCst);
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    (flooding, begun)
}

/// Kilobytes that a process has in memory.
fn resident(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    words[1].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes_keeps_nobody_out_and_takes_little_memory() {
    let world = World::new(OPEN);
    let (server, at, pin) = serve(&world).await;
    let address = format!("quic://{at}#{pin}");
    let before = resident(&server);
    let (flooding, begun) = flood(at);
    while begun.load(Ordering::SeqCst) < 2_000 {
        sleep(Duration::from_millis(20)).await;
    }
    let bytes = noise(4_000_000);
    let file = world.file("large.bin", &bytes);
    let sent = timeout(Duration::from_secs(60), send(&world, &address, &file)).await;
    assert_eq!(sent.unwrap(), 1);
    flooding.abort();
    assert!(arrived(&world) == bytes);
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 200_000, "{grown} KiB more");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints speeds"]
async fn the_speed_on_a_bad_network_and_beside_a_flood() {
    let world = World::new(OPEN);
    let (_server, at, pin) = serve(&world).await;
    let file = world.file("large.bin", &noise(256 << 20));
    for (what, lost, delay) in [
        ("as it is", 0, 0),
        ("40 ms", 0, 40),
        ("1 % and 40 ms", 10, 40),
    ] {
        let weather = Weather {
            lost,
            delay: Duration::from_millis(delay),
            ..Weather::default()
        };
        let network = Network::to(at, weather).await;
        let small = world.file("small.bin", &noise(16 << 20));
        let (file, mib) = match delay {
            0 => (&file, 256.0),
            _ => (&small, 16.0),
        };
        let begun = Instant::now();
        send(&world, &format!("quic://{}#{pin}", network.address), file).await;
        let speed = mib / begun.elapsed().as_secs_f64();
        println!("{what}: {speed:.1} MiB/s");
    }
    for flooded in [false, true, false, true] {
        let flooding = flooded.then(|| flood(at).0);
        let begun = Instant::now();
        send(&world, &format!("quic://{at}#{pin}"), &file).await;
        let speed = 256.0 / begun.elapsed().as_secs_f64();
        println!("flood {flooded}: {speed:.1} MiB/s");
        if let Some(flooding) = flooding {
            flooding.abort();
        }
    }
}

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
        atomic::{AtomicBool, AtomicU64, Ordering},
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
async fn the_speed_on_a_bad_network() {
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
}

/// The first packets of handshakes, as a network card sees them: each of another connection.
async fn initials(count: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = sink.local_addr().unwrap();
    let (endpoint, config) = flooder();
    let mut packets = Vec::with_capacity(count);
    let mut packet = [0; 2_048];
    while packets.len() < count {
        let some: Vec<_> = (0..50)
            .map(|_| endpoint.connect_with(config.clone(), to, "m2y").unwrap())
            .collect();
        let mut came = 0;
        while came < some.len() {
            let received = timeout(Duration::from_secs(1), sink.recv(&mut packet)).await;
            let Ok(Ok(len)) = received else {
                break;
            };
            // Long, with the type of an initial; not what says that one was given up.
            if len >= 1_200 && packet[0] & 0xf0 == 0xc0 {
                packets.push(packet[..len].to_vec());
                came += 1;
            }
        }
    }
    packets
}

/// Sends such packets at this rate until it is told to stop; returns how many.
fn replay(packets: Arc<Vec<Vec<u8>>>, at: SocketAddr, rate: u64, stop: Arc<AtomicBool>) -> u64 {
    let from = std::net::UdpSocket::bind("127.0.0.2:0").unwrap();
    let (begun, mut sent) = (std::time::Instant::now(), 0);
    let mut next = packets.iter().cycle();
    while !stop.load(Ordering::SeqCst) {
        let due = begun.elapsed().as_millis() as u64 * rate / 1_000;
        while sent < due {
            let _ = from.send_to(next.next().unwrap(), at);
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// The packets of a flood were made before. What sending them costs this machine, which a real flood does
/// not, is measured too: the same flood of a port where nobody reads it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints speeds"]
async fn the_speed_beside_a_flood_of_first_packets() {
    let world = World::new(OPEN);
    let (server, at, pin) = serve(&world).await;
    let file = world.file("large.bin", &noise(256 << 20));
    let packets = Arc::new(initials(20_000).await);
    let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let nobody = elsewhere.local_addr().unwrap();
    let floods = [(0, at), (1_000, at), (10_000, at), (10_000, nobody)];
    let mut speeds = floods.map(|_| Vec::new());
    for _ in 0..10 {
        for ((rate, flooded), speeds) in floods.into_iter().zip(&mut speeds) {
            let stop = Arc::new(AtomicBool::new(false));
            let flooding = {
                let (packets, stop) = (packets.clone(), stop.clone());
                task::spawn_blocking(move || replay(packets, flooded, rate, stop))
            };
            let begun = Instant::now();
            send(&world, &format!("quic://{at}#{pin}"), &file).await;
            let took = begun.elapsed().as_secs_f64();
            stop.store(true, Ordering::SeqCst);
            let sent = flooding.await.unwrap() as f64 / took;
            let whom = if flooded == at { "" } else { ", elsewhere" };
            println!(
                "{rate} a second ({sent:.0}){whom}: {:.1} MiB/s",
                256.0 / took
            );
            speeds.push(256.0 / took);
        }
    }
    let middle = |speeds: &mut Vec<f64>| {
        speeds.sort_by(f64::total_cmp);
        speeds[speeds.len() / 2]
    };
    let [alone, few, many, elsewhere] = speeds.each_mut().map(middle);
    println!(
        "alone {alone:.1} MiB/s, beside 1,000 a second {:.2}, beside 10,000 {:.2} of that, \
         beside 10,000 for somebody else {:.2}; {} KiB",
        few / alone,
        many / alone,
        elsewhere / alone,
        resident(&server)
    );
}

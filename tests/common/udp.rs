//! A network of the tests' own for UDP: it loses packets, delays them, and can give a client
//! another address.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::Random;

/// What happens to packets.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    /// Of a thousand packets, so many are lost, each way.
    pub lost: u64,
    /// How long each packet takes.
    pub delay: Duration,
    /// After so many packets to the server, the client has another address.
    pub moves_after: Option<u64>,
}

/// A relay between clients and one server.
pub struct Network {
    /// Where clients send to.
    pub address: SocketAddr,
    /// Addresses that the server has seen.
    pub seen: Arc<AtomicU64>,
}

impl Network {
    /// Carries packets to `server` and back, for as long as the runtime lives.
    pub async fn to(server: SocketAddr, weather: Weather) -> Self {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = front.local_addr().unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let counted = seen.clone();
        tokio::spawn(async move {
            let mut backs: HashMap<SocketAddr, (mpsc::UnboundedSender<Packet>, u64)> =
                HashMap::new();
            let mut random = Random(1);
            let mut buffer = vec![0; 65_536];
            loop {
                let Ok((len, client)) = front.recv_from(&mut buffer).await else {
                    continue;
                };
                let moves = |count| weather.moves_after == Some(count);
                let known = backs.get(&client).map(|(_, count)| *count);
                if known.is_none_or(moves) {
                    // What the server sends to the old address is lost from now on.
                    counted.fetch_add(1, Ordering::SeqCst);
                    let give = way(front.clone(), client, server, weather).await;
                    backs.insert(client, (give, known.map_or(0, |count| count + 1)));
                }
                let (give, count) = backs.get_mut(&client).unwrap();
                *count += 1;
                if random.below(1_000) >= weather.lost {
                    let _ = give.send((Instant::now() + weather.delay, buffer[..len].to_vec()));
                }
            }
        });
        Self { address, seen }
    }
}

type Packet = (Instant, Vec<u8>);

/// The way of one client to the server and back, by a socket of its own.
async fn way(
    front: Arc<UdpSocket>,
    client: SocketAddr,
    server: SocketAddr,
    weather: Weather,
) -> mpsc::UnboundedSender<Packet> {
    let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    back.connect(server).await.unwrap();
    let (give, mut packets) = mpsc::unbounded_channel::<Packet>();
    let (give_back, mut packets_back) = mpsc::unbounded_channel::<Packet>();
    let out = back.clone();
    let alive = Arc::new(());
    let gone = Arc::downgrade(&alive);
    tokio::spawn(async move {
        let _alive = alive;
        while let Some((at, packet)) = packets.recv().await {
            sleep_until(at).await;
            let _ = out.send(&packet).await;
        }
    });
    tokio::spawn(async move {
        let mut random = Random(2);
        let mut buffer = vec![0; 65_536];
        while let Ok(len) = back.recv(&mut buffer).await {
            if gone.strong_count() == 0 {
                return;
            }
            if random.below(1_000) >= weather.lost {
                let at = Instant::now() + weather.delay;
                let _ = give_back.send((at, buffer[..len].to_vec()));
            }
        }
    });
    tokio::spawn(async move {
        while let Some((at, packet)) = packets_back.recv().await {
            sleep_until(at).await;
            let _ = front.send_to(&packet, client).await;
        }
    });
    give
}

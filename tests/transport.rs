//! Sessions run over any transport: TCP is one of them, and only its own module names it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{OPEN, ROLAND, World, ZHENQIANG, document, memory::memory, noise};
use m2y::{
    client::{self, Route, peer::Peer},
    error::Code,
    observer::Unobserved,
    server::{self, Server},
    transfer::send::send_job::SendJob,
};
use tokio::{sync::watch, task::JoinHandle};

/// A server for the receiver's root that is reached in memory only.
async fn serve(
    world: &World,
    listener: common::memory::MemoryListener,
) -> (watch::Sender<bool>, JoinHandle<()>) {
    let server = Server::new(&world.there, &world.there.settings().unwrap()).unwrap();
    server.start_folders().await.unwrap();
    let (shutdown, going_down) = watch::channel(false);
    let serving = tokio::spawn(server::run(listener, server, going_down));
    (shutdown, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_from_client_to_server_without_a_socket() {
    let world = World::new(&format!("{OPEN}[share]\n{ZHENQIANG} = list get\n"));
    let (listener, dialer) = memory();
    let (shutdown, serving) = serve(&world, listener).await;
    let bytes = noise(1_000_000);
    let meta = world.meta("photo", &world.file("large.bin", &bytes));
    let out = SendJob::open(&meta).unwrap();
    // An address where nobody could connect.
    let route = Route::find(None, Some("memory:1"), &out).unwrap();
    let route = route.dialled_by(Arc::new(dialer));
    client::deliver(&route, &out, &Unobserved).await.unwrap();
    let arrived = world.arrived(".data");
    assert_eq!(fs::read(world.photo().join(&arrived[0])).unwrap(), bytes);

    // The other direction: what is there is listed.
    let peer = Peer::connect(&route, Arc::new(Unobserved)).await.unwrap();
    assert!(!peer.stat("photo").await.unwrap().path.contains('/'));
    drop(peer);
    shutdown.send(true).unwrap();
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_be_opened_over_a_link_and_its_halves_taken_out_again() {
    let world = World::new(OPEN);
    let (listener, dialer) = memory();
    let (shutdown, serving) = serve(&world, listener).await;
    let route = Route::to(&world.sender, ROLAND, Some("memory:1")).unwrap();
    let mut asked = document(ZHENQIANG, ROLAND, "no-such-folder");
    asked.datetime = "30-12-2018_23-59-59".to_owned();
    asked.filesize = Some(1);
    asked.id = Some(m2y::meta::TransferId([1; 16]));
    let link = dialer.link().unwrap();
    let opened = client::open_over(link, &route, asked, &Unobserved).await;
    let opened = opened.unwrap();
    assert_eq!(Code::from_word(&opened.reply.code), Code::Refused);
    let (reader, bytes) = opened.connection.reader.into_inner();
    assert!(bytes.is_empty(), "nothing came behind the answer");
    drop((reader, opened.connection.writer.into_inner()));
    shutdown.send(true).unwrap();
    serving.await.unwrap();
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| match path.is_dir() {
        true => sources(&path),
        false => vec![path],
    };
    paths.flat_map(of).collect()
}

#[test]
fn only_the_transport_names_tcp() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // Beside sessions there are HTTP, for metrics, and what mails and webhooks go over.
    let others = ["transport", "delivery", "server/metrics.rs"].map(|other| src.join(other));
    for path in sources(&src) {
        if others.iter().any(|other| path.starts_with(other)) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        for name in ["TcpStream", "TcpListener", "set_nodelay", "SocketAddr::V"] {
            assert!(!text.contains(name), "{} names {name}", path.display());
        }
    }
}

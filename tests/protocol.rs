//! What the protocol promises about keys, numbers and time, seen by a peer that is written
//! after its page.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use common::{Local, OPEN, ROLAND, World, ZHENQIANG, document, peer};
use m2y::{
    error::Code,
    meta::{Features, TransferId, Wire},
    wire::{
        record::{self, Kind},
        request::Request,
    },
};

const CAN: Features = Features {
    resume: true,
    files: 256,
    requests: true,
};

/// The opening of a session without a file.
fn asking() -> Wire {
    Wire {
        session: true,
        ..peer::request(document(ZHENQIANG, ROLAND, ""), CAN)
    }
}

fn stat() -> Vec<u8> {
    let path = "photo/a.jpg".to_owned();
    Request::Stat { path }.to_body().to_vec()
}

/// roland-frei shows the folder to zhenqiang; a file is in it.
fn shared() -> World {
    let config = format!("{OPEN}[share]\n{ZHENQIANG} = list get\n");
    let world = World::in_memory(&config);
    fs::write(world.photo().join("a.jpg"), b"hello").unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_number_that_is_over_cannot_be_used_again() {
    let world = shared();
    let server = Local::serve(&world.there).await;
    for (first, then) in [(1, 1), (7, 7), (7, 3)] {
        let mut side = peer::open(&server.address, &asking()).await;
        side.say(Kind::Request, first, &stat()).await;
        let (head, _) = side.hear().await.unwrap();
        assert_eq!((head.kind, head.transfer), (Kind::Reply, first));
        side.say(Kind::Request, then, &stat()).await;
        assert!(side.hear().await.is_none(), "{first}, then {then}");
    }
    // The same for files: that of the opening is over, then comes a meta with its number.
    let mut side = peer::open(&server.address, &peer::request(peer::meta(1, 5), CAN)).await;
    let reply = side.said.clone();
    side.with_key(0, &reply);
    side.blocks(0, b"hello").await;
    side.trailer(0, b"hello").await;
    assert_eq!(side.hear().await.unwrap().0.kind, Kind::Ack);
    let further = Wire::request(peer::meta(2, 5)).to_json();
    side.say(Kind::Meta, 0, further.as_bytes()).await;
    assert!(side.hear().await.is_none());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gets_with_one_filekey_and_id_come_under_different_keys() {
    let world = shared();
    let server = Local::serve(&world.there).await;
    let mut side = peer::open(&server.address, &asking()).await;
    let mut meta = document(ZHENQIANG, ROLAND, "");
    meta.id = Some(TransferId([5; 16]));
    let asked = peer::yes(&peer::request(meta, CAN), 5);
    let mut sealed = Vec::new();
    for transfer in [1, 2] {
        let get = Request::Get {
            path: "photo/a.jpg".to_owned(),
            id: asked.meta.id.unwrap(),
            filekey: asked.filekey.clone().unwrap(),
            held: None,
        };
        side.with_get_key(transfer, &asked);
        side.say(Kind::Request, transfer, &get.to_body()).await;
        assert_eq!(side.hear().await.unwrap().0.kind, Kind::Reply);
        let (head, body) = side.hear().await.unwrap();
        assert_eq!((head.kind, body.as_slice()), (Kind::Block, &b"hello"[..]));
        sealed.push(side.last_sealed[..body.len()].to_vec());
        assert_eq!(side.hear().await.unwrap().0.kind, Kind::Trailer);
        side.say(Kind::Ack, transfer, record::ACK).await;
    }
    // The same bytes under the same number, without the tag, which depends on the head:
    // only another key seals them differently.
    assert_ne!(sealed[0], sealed[1]);
    server.stop().await;
}

/// A world whose hooks of this event wait, for the file named `slow`, until the returned file
/// is there.
fn waiting(event: &str) -> (World, PathBuf) {
    let hooked = |other: &str| format!("{other}\n[{event}]\nwait.sh\n");
    let other = if event == "OnMeta" { "" } else { "[OnMeta]\n" };
    let world = World::in_memory(&hooked(other));
    let go = world.there.path().join("go");
    let wait = format!(
        "#!/bin/sh\ngrep -q '\"filename\": *\"slow\"' \"$M2Y_META\" || exit 0\n\
         until [ -e {} ]; do sleep 0.01; done\n",
        go.display()
    );
    world.script("wait.sh", &wait);
    let program = world.photo().join("wait.sh");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    let ini = "[hooks]\nexecutables = all\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    (world, go)
}

fn named(id: u8, filename: &str) -> Wire {
    let mut meta = peer::meta(id, 5);
    meta.filename = filename.to_owned();
    peer::request(meta, CAN)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_acknowledged_before_the_slow_hooks_of_one_that_came_with_it_end() {
    let (world, go) = waiting("OnReceived");
    let server = Local::serve(&world.there).await;
    let mut side = peer::open(&server.address, &named(1, "slow")).await;
    let slow = side.said.clone();
    side.with_key(0, &slow);
    let quick = named(2, "quick").to_json();
    side.say(Kind::Meta, 1, quick.as_bytes()).await;
    let (head, body) = side.hear().await.unwrap();
    assert_eq!((head.kind, head.transfer), (Kind::Answer, 1));
    let quick = Wire::from_json(&body).unwrap();
    side.with_key(1, &quick);
    // Both are complete in one buffer of the server's.
    side.hold();
    for transfer in [0, 1] {
        side.blocks(transfer, b"hello").await;
        side.trailer(transfer, b"hello").await;
    }
    side.release().await;
    let (head, _) = side.hear().await.unwrap();
    assert_eq!((head.kind, head.transfer), (Kind::Ack, 1));
    fs::write(go, "").unwrap();
    let (head, _) = side.hear().await.unwrap();
    assert_eq!((head.kind, head.transfer), (Kind::Ack, 0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_amid_transfers_ends_each_of_them_at_once() {
    let (world, go) = waiting("OnMeta");
    let server = Local::serve(&world.there).await;
    let mut side = peer::open(&server.address, &named(1, "begun")).await;
    let begun = side.said.clone();
    side.with_key(0, &begun);
    // Of one file nothing has come, of the other one nothing is decided yet.
    let slow = named(2, "slow").to_json();
    side.say(Kind::Meta, 1, slow.as_bytes()).await;
    side.say(Kind::Close, 0, &[]).await;
    let mut ended = Vec::new();
    for _ in 0..2 {
        let (head, body) = side.hear().await.unwrap();
        let error = record::decode_error(&body).unwrap();
        assert_eq!(
            (head.kind, error.code),
            (Kind::Error, Code::Later),
            "{error}"
        );
        ended.push(head.transfer);
    }
    ended.sort_unstable();
    assert_eq!(ended, [0, 1]);
    // Only then may the hook end: nobody waited for it.
    fs::write(go, "").unwrap();
    assert!(side.hear().await.is_none());
    server.stop().await;
    assert!(world.arrived(".data").is_empty() && world.arrived(".partial").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_that_is_not_one_ends_the_session() {
    let world = shared();
    let server = Local::serve(&world.there).await;
    for (transfer, body) in [(1, &b""[..]), (0, b"x")] {
        let mut side = peer::open(&server.address, &asking()).await;
        side.say(Kind::Close, transfer, body).await;
        assert!(side.hear().await.is_none(), "{transfer} {body:?}");
    }
    server.stop().await;
}

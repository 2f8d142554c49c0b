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

use std::fs;

use common::{Local, OPEN, ROLAND, World, ZHENQIANG, document, peer};
use m2y::{
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

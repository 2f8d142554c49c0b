//! A client says that its session is over before it goes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::sync::Arc;

use common::{OPEN, World, peer, said};
use m2y::{
    meta::{Features, Wire},
    wire::record::{self, Kind},
};
use tokio::{net::TcpListener, task};

/// Sends of one file each.
const SENDS: usize = 40;

/// Takes one file as roland-frei; whether a *close* came before the end.
async fn take(listener: &TcpListener) -> bool {
    let mut given = None;
    let answer = |asked: &Wire| {
        let features = Features {
            resume: true,
            files: 256,
            requests: true,
        };
        let yes = Wire {
            features,
            ..peer::yes(asked, 1)
        };
        given.insert(yes).clone()
    };
    let mut side = peer::accept(listener, answer).await;
    side.with_key(0, &given.expect("an answer was given"));
    let mut closes = 0;
    while let Some((head, body)) = side.hear().await {
        match head.kind {
            Kind::Block => {}
            Kind::Trailer => side.say(Kind::Ack, 0, record::ACK).await,
            Kind::Close => {
                assert_eq!((head.transfer, body.len()), (0, 0));
                closes += 1;
            }
            kind => panic!("{kind:?}"),
        }
    }
    assert!(closes < 2, "close came {closes} times");
    closes == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn every_send_ends_its_session_with_close() {
    let world = Arc::new(World::new(OPEN));
    let file = world.file("f", b"hello");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut closed = 0;
    for _ in 0..SENDS {
        let (world, address, file) = (world.clone(), address.clone(), file.clone());
        let sending = task::spawn_blocking(move || world.send(&address, "photo", &file));
        closed += usize::from(take(&listener).await);
        let output = sending.await.unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(closed, SENDS);
}

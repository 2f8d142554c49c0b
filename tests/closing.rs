//! A client says that its session is over before it goes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{process::Command, sync::Arc, time::Duration};

use common::{M2Y, OPEN, ROLAND, World, ZHENQIANG, peer, said};
use m2y::{
    error::{Code, Error},
    meta::{Features, Wire},
    wire::record::{self, Kind},
};
use tokio::{net::TcpListener, task, time::timeout};

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

/// Answers one request as roland-frei with *not-found*; whether a *close* came after that.
async fn refuse(listener: &TcpListener) -> bool {
    let features = Features {
        resume: true,
        files: 256,
        requests: true,
    };
    let answer = |asked: &Wire| Wire {
        features,
        ..Wire::request(asked.meta.clone())
    };
    let mut side = peer::accept(listener, answer).await;
    let mut closed = false;
    while let Some((head, _)) = side.hear().await {
        match head.kind {
            Kind::Request => {
                let error = Error::new(Code::NotFound, "no such file or directory");
                let body = record::encode_error(&error);
                side.say(Kind::Error, head.transfer, &body).await;
            }
            Kind::Close => closed = true,
            kind => panic!("{kind:?}"),
        }
    }
    closed
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_ends_its_session_with_close() {
    let world = World::new(OPEN);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let root = world.here.path().to_owned();
    let mut closed = 0;
    for _ in 0..SENDS {
        let mut command = Command::new(M2Y);
        command.args(["rm", "--user", ZHENQIANG, "--server", &address, "--root"]);
        command.arg(&root);
        command.arg(format!("{ROLAND}:photo/a.jpg"));
        let asking = task::spawn_blocking(move || command.output().unwrap());
        let refused = timeout(Duration::from_secs(60), refuse(&listener));
        closed += usize::from(refused.await.expect("nobody asked"));
        let output = asking.await.unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    }
    assert_eq!(closed, SENDS);
}

//! Letters: files for people who are away, which wait at a relay.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::mpsc::Receiver,
};

use common::{
    M2Y, OPEN, Process, ROLAND, World, ZHENQIANG, name, noise, read_meta,
    relay_process::{RelayProcess, attending, wait_for},
    said,
};

/// Two people and a relay: zhenqiang, who sends, and roland-frei, who has joined the relay and has
/// given zhenqiang a box there.
struct Post {
    world: World,
    relay: RelayProcess,
}

impl Post {
    fn new(config: &str) -> Self {
        Self::with(config, "")
    }

    /// With a relay whose m2y.ini has this text.
    fn with(config: &str, ini: &str) -> Self {
        let world = World::new(config);
        let relay = RelayProcess::with(ini);
        relay.join(&world.there, ROLAND);
        let post = Self { world, relay };
        let server = post.back();
        // In their first session zhenqiang hears of the box.
        let address = server.0.address.parse().unwrap();
        let contact = name(ROLAND);
        post.world.sender.set_addresses(&contact, &address).unwrap();
        let output = post.send(&post.world.file("first.txt", b"first"), &[]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(post.world.sender.box_of(&contact).unwrap().is_some());
        // The relay hears of it too.
        wait_for(&server.1, "the mailbox is in order");
        drop(server);
        post
    }

    /// roland's server, with its mailbox in order.
    fn back(&self) -> (Process, Receiver<String>) {
        let (server, lines) = attending(&self.world.there);
        wait_for(&lines, "the mailbox is in order");
        (server, lines)
    }

    /// Sends a file to roland's folder `photo`.
    fn send(&self, file: &Path, args: &[&str]) -> Output {
        Command::new(M2Y)
            .args(["send", "--root"])
            .arg(self.world.here.path())
            .args(args)
            .arg(file)
            .arg(format!("{ROLAND}:photo"))
            .output()
            .unwrap()
    }

    /// `m2y send` about documents.
    fn about(&self, args: &[&str], document: &Path) -> Output {
        Command::new(M2Y)
            .args(["send", "--root"])
            .arg(self.world.here.path())
            .args(args)
            .arg(document)
            .output()
            .unwrap()
    }

    /// A `.meta` of zhenqiang's for a file.
    fn meta(&self, file: &str, bytes: &[u8]) -> PathBuf {
        let file = self.world.file(file, bytes);
        self.world.meta("photo", &file)
    }

    /// Leaves a `.meta` as a letter; returns the path of the `.left`.
    fn leave(&self, meta: &Path) -> PathBuf {
        let output = self.about(&[], meta);
        assert!(output.status.success(), "{}", said(&output));
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(words.contains("as a letter"), "{words}");
        let left = meta.with_extension("left");
        assert!(left.exists() && !meta.exists());
        left
    }

    /// What has arrived besides the first file.
    fn arrived(&self) -> Vec<Vec<u8>> {
        let names = self.world.arrived(".data");
        let read = names
            .iter()
            .map(|name| fs::read(self.world.photo().join(name)).unwrap());
        read.filter(|bytes| bytes != b"first").collect()
    }
}

#[test]
fn a_file_for_somebody_who_is_away_waits_at_the_relay_and_its_receipt_comes_back() {
    let post = Post::new(OPEN);
    let bytes = noise(3_000_000);
    let left = post.leave(&post.meta("large.bin", &bytes));
    let output = post.about(&[], &left);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("waits at the relay"));
    // Nothing that lies at the relay can be read there.
    let letters = post.relay.root().join("user/relay/letters");
    let [letter] = common::names(&letters, "")
        .into_iter()
        .filter(|name| name.len() == 64)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let kept = fs::read(letters.join(&letter)).unwrap();
    assert!(kept.len() > bytes.len());
    assert!(!kept.windows(32).any(|some| bytes.starts_with(some)));

    let (server, lines) = post.back();
    wait_for(&lines, "received");
    assert!(post.arrived() == [bytes]);
    wait_for(&lines, "the receipt of a letter is at the relay");
    let output = post.about(&[], &left);
    assert!(output.status.success(), "{}", said(&output));
    let done = left.with_extension("done");
    assert!(done.exists() && !left.exists());
    assert_eq!(read_meta(&done).error, "");
    assert!(!letters.join(&letter).exists());
    assert_eq!(server.stop(), Some(0));
}

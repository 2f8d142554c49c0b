//! Letters: files for people who are away, which wait at a relay.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::Receiver,
    thread::sleep,
    time::{Duration, Instant},
};

use common::{
    M2Y, OPEN, Process, ROLAND, Random, World, ZHENQIANG, name, noise, read_meta,
    relay_process::{PATIENCE, RelayProcess, attending, wait_for, wait_for_all},
    said,
};
use m2y::{
    crypto::{SysRng, keys::PrivateKey},
    meta::{Meta, Wire},
    relay::conversation::Conversation,
    session::channel::{Reader, Writer},
    wire::{
        header,
        letter::{self, HEAD_LEN, Head, Parties, Prekey, PrekeyKind},
        post::{self, Ask, PostKeys},
        record::Kind,
        session::Share,
    },
};
use rusqlite::{Connection, params};
use serde_json::Value;
use tokio::net::TcpStream;

/// What the log says when letters can be left, and when a receipt can be fetched.
const IN_ORDER: &str = "the mailbox is in order";
const RECEIPT: &str = "the receipt of a letter is at the relay";
const UNOPENED: &str = "a letter cannot be opened";

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
        wait_for(&server.1, IN_ORDER);
        drop(server);
        post
    }

    /// roland's server, with its mailbox in order.
    fn back(&self) -> (Process, Receiver<String>) {
        let (server, lines) = Process::serve_with_lines(&self.world.there);
        // In whichever order.
        wait_for_all(&lines, &["attending", IN_ORDER]);
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

    /// Asks what became of a letter; returns the exit code, what was said, and where its document is
    /// now.
    fn ask(&self, left: &Path) -> (Option<i32>, String, &'static str) {
        let output = self.about(&[], left);
        let there = ["left", "done", "failed", "meta"];
        let there = there
            .into_iter()
            .filter(|ending| left.with_extension(ending).exists());
        let [ending] = there.collect::<Vec<_>>().try_into().unwrap();
        (output.status.code(), said(&output), ending)
    }

    /// The index of the relay.
    fn index(&self) -> Connection {
        let index = Connection::open(self.relay.root().join("journal.sqlite")).unwrap();
        index.busy_timeout(PATIENCE).unwrap();
        index
    }

    /// The files of the letters that lie at the relay.
    fn letters(&self) -> Vec<PathBuf> {
        let letters = self.relay.root().join("user/relay/letters");
        let names = common::names(&letters, "");
        let is_one = |name: &String| name.len() == 64;
        let names = names.into_iter().filter(is_one);
        names.map(|name| letters.join(name)).collect()
    }

    /// How often hooks noted a file.
    fn noted(&self, file: &str) -> usize {
        let log = self.world.receiver.path().join("inbox.log");
        let log = fs::read_to_string(log).unwrap_or_default();
        log.lines().filter(|line| line.contains(file)).count()
    }

    /// `m2y` for a root, with JSON; returns its lines.
    fn facts(&self, root: &Path, args: &[&str]) -> Vec<Value> {
        let output = Command::new(M2Y)
            .args(args)
            .args(["--json", "--root"])
            .arg(root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let lines = String::from_utf8(output.stdout).unwrap();
        let read = lines.lines().map(serde_json::from_str);
        read.collect::<Result<_, _>>().unwrap()
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

/// Waits until something is so.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(20));
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
    let [letter] = post.letters().try_into().unwrap();
    let kept = fs::read(&letter).unwrap();
    assert!(kept.len() > bytes.len());
    assert!(!kept.windows(32).any(|some| bytes.starts_with(some)));

    let (server, lines) = post.back();
    wait_for(&lines, "received");
    assert!(post.arrived() == [bytes]);
    wait_for(&lines, RECEIPT);
    let output = post.about(&[], &left);
    assert!(output.status.success(), "{}", said(&output));
    let done = left.with_extension("done");
    assert!(done.exists() && !left.exists());
    assert_eq!(read_meta(&done).error, "");
    assert!(!letter.exists());
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn hooks_see_a_letter_before_its_blocks_and_their_words_reach_its_sender() {
    let config = "[OnMeta]\nrefuse.rhai\n[OnReceived]\n";
    let post = Post::new(OPEN);
    let left = post.leave(&post.meta("large.bin", &noise(1_000_000)));
    fs::write(post.world.photo().join("m2y.config"), config).unwrap();
    post.world
        .script("refuse.rhai", "reject(`no ${meta.filename} today`)");
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    let (status, words, ending) = post.ask(&left);
    assert_eq!((status, ending), (Some(10), "failed"), "{words}");
    assert!(words.contains("no large.bin today"), "{words}");
    assert!(post.letters().is_empty() && post.arrived().is_empty());
    let failed = read_meta(&left.with_extension("failed"));
    assert!(failed.error.contains("no large.bin today"));
}

#[test]
fn a_file_comes_once_whether_as_a_letter_or_at_once() {
    let config = "[OnMeta]\n[OnReceived]\nnote.rhai\n";
    let post = Post::new(OPEN);
    fs::write(post.world.photo().join("m2y.config"), config).unwrap();
    post.world
        .script("note.rhai", "notify.inbox(meta.filename)");
    let file = post.world.file("once.bin", &noise(200_000));
    let output = post.send(&file, &[]);
    assert!(said(&output).contains("as a letter"), "{}", said(&output));
    let sent = || post.facts(post.world.here.path(), &["sent"]);
    let state = |sent: Vec<Value>| sent.last().unwrap()["status"].clone();
    assert_eq!(state(sent()), "letter");
    // The same command again leaves no second letter.
    let output = post.send(&file, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(post.letters().len(), 1);
    // It is stopped while the letter is on its way, and the file comes at once meanwhile.
    post.index()
        .execute("UPDATE mailbox_letter SET state = 0", [])
        .unwrap();
    let (server, lines) = post.back();
    let address = server.address.parse().unwrap();
    post.world
        .sender
        .set_addresses(&name(ROLAND), &address)
        .unwrap();
    let output = post.send(&file, &[]);
    assert!(output.status.success(), "{}", said(&output));
    wait_for(&lines, "received");
    assert_eq!(state(sent()), "sent");
    drop((server, lines));
    post.index()
        .execute("UPDATE mailbox_letter SET state = 1", [])
        .unwrap();
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    assert!(post.arrived() == [noise(200_000)]);
    assert_eq!(post.noted("once.bin"), 1);
}

#[test]
fn who_leaves_a_letter_hears_of_those_before() {
    let post = Post::new(OPEN);
    let left = post.leave(&post.meta("a.txt", b"a"));
    let (server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    drop(server);
    post.leave(&post.meta("b.txt", b"b"));
    assert!(left.with_extension("done").exists());
}

#[test]
fn a_file_that_is_not_what_was_said_of_it_holds_up_none_behind_it() {
    let post = Post::new(OPEN);
    let metas = ["a.txt", "b.txt", "c.txt"].map(|file| post.meta(file, file.as_bytes()));
    // Noticed when its last block is read: the relay has the others by then.
    let text = fs::read_to_string(&metas[1]).unwrap();
    let text = text.replace("\"fileCRC\": \"\",", "");
    fs::write(&metas[1], text.replacen('{', "{\"fileCRC\": 7,", 1)).unwrap();
    let output = Command::new(M2Y)
        .args(["send", "--root"])
        .arg(post.world.here.path())
        .args(&metas)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    for (meta, ending) in metas.iter().zip(["left", "failed", "left"]) {
        let ended = meta.with_extension(ending);
        assert!(ended.exists(), "{}: {}", ended.display(), said(&output));
    }
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    wait_for(&lines, RECEIPT);
    assert_eq!(post.arrived().len(), 2);
}

#[test]
fn a_letter_can_be_taken_back_until_it_is_fetched() {
    let post = Post::new(OPEN);
    let left = post.leave(&post.meta("a.txt", b"a"));
    let output = post.about(&["--take-back"], &left);
    assert!(output.status.success(), "{}", said(&output));
    assert!(post.letters().is_empty());
    let failed = read_meta(&left.with_extension("failed"));
    assert!(failed.error.contains("took it back"), "{}", failed.error);
    let file = post.world.file("b.txt", b"b");
    assert!(post.send(&file, &[]).status.success());
    let output = post.send(&file, &["--take-back"]);
    assert!(output.status.success(), "{}", said(&output));

    let left = post.leave(&post.meta("c.txt", b"c"));
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    let output = post.about(&["--take-back"], &left);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(post.ask(&left).2, "done");
    assert!(post.arrived() == [b"c"]);
}

#[test]
fn letters_are_left_never_or_always_if_their_sender_wants_that() {
    let post = Post::new(OPEN);
    let file = post.world.file("a.txt", b"a");
    let output = post.send(&file, &["--leave", "never"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(post.letters().is_empty());
    let (_server, lines) = post.back();
    let output = post.send(&file, &["--leave", "always"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("as a letter"), "{}", said(&output));
    // Somebody who is there hears of it at once.
    wait_for(&lines, RECEIPT);
    assert!(post.arrived() == [b"a"]);
}

#[test]
fn what_is_not_fetched_in_time_is_gone_and_its_sender_is_told() {
    let post = Post::with(OPEN, "[relay]\nkeep = 1s\n");
    let left = post.leave(&post.meta("a.txt", b"a"));
    until("it expires", || post.letters().is_empty());
    let (status, words, ending) = post.ask(&left);
    assert_eq!((status, ending), (Some(1), "failed"), "{words}");
    assert!(words.contains("did not come to fetch it"), "{words}");
}

#[test]
fn quotas_hold_and_what_was_left_before_is_safe() {
    let ini = "[relay]\nbox_letters = 3\nbox_bytes = 100K\n";
    let post = Post::with(OPEN, ini);
    let send = |file: &str, bytes: &[u8]| post.send(&post.world.file(file, bytes), &[]);
    let large = send("large.bin", &noise(110_000));
    assert_eq!(large.status.code(), Some(5), "{}", said(&large));
    for file in ["1", "2", "3"] {
        assert!(send(file, file.as_bytes()).status.success());
    }
    let fourth = send("4", b"4");
    assert_eq!(fourth.status.code(), Some(5), "{}", said(&fourth));
    assert!(said(&fourth).contains("no room"), "{}", said(&fourth));
    let (_server, lines) = post.back();
    for _ in 0..3 {
        wait_for(&lines, RECEIPT);
    }
    assert_eq!(post.arrived().len(), 3);
}

#[test]
fn without_one_time_keys_the_key_of_the_day_does() {
    let post = Post::new(OPEN);
    let gone = post
        .index()
        .execute("DELETE FROM mailbox_prekey WHERE kind = 1", [])
        .unwrap();
    assert_eq!(gone, 100);
    let left = [post.meta("a", b"a"), post.meta("b", b"b")].map(|meta| post.leave(&meta));
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    wait_for(&lines, RECEIPT);
    assert_eq!(left.map(|left| post.ask(&left).2), ["done", "done"]);
    // There are new ones.
    let one_time = "SELECT COUNT(*) FROM mailbox_prekey WHERE kind = 1";
    let count = || post.index().query_row(one_time, [], |row| row.get(0));
    until("new keys", || count() == Ok(100_i64));
}

#[test]
fn without_any_key_nothing_is_left() {
    let post = Post::new(OPEN);
    let index = post.index();
    index.execute("DELETE FROM mailbox_prekey", []).unwrap();
    let output = post.send(&post.world.file("a", b"a"), &[]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(
        said(&output).contains("has no key of theirs"),
        "{}",
        said(&output)
    );
    assert!(post.letters().is_empty());
}

/// A row of the relay's index, with the file.
struct Copy {
    letter: Vec<u8>,
    hash: Vec<u8>,
    bytes: Vec<u8>,
    file: PathBuf,
}

impl Post {
    /// Copies the only letter.
    fn copy(&self) -> Copy {
        let [file] = self.letters().try_into().unwrap();
        let row = "SELECT letter, hash FROM mailbox_letter WHERE state = 1";
        let (letter, hash) = self
            .index()
            .query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        Copy {
            letter,
            hash,
            bytes: fs::read(&file).unwrap(),
            file,
        }
    }

    /// Puts a letter there, as a relay can that lies.
    fn put(&self, copy: &Copy, bytes: &[u8], hash: &[u8]) {
        fs::write(&copy.file, bytes).unwrap();
        let row = "UPDATE mailbox_letter SET state = 1, hash = ?2, receipt = x'' WHERE letter = ?1";
        let changed = self.index().execute(row, params![copy.letter, hash]);
        assert_eq!(changed, Ok(1));
    }
}

#[test]
fn a_letter_that_the_relay_gives_twice_is_had_once() {
    let post = Post::new(OPEN);
    let left = post.leave(&post.meta("a.txt", b"a"));
    let copy = post.copy();
    let server = post.back();
    wait_for(&server.1, RECEIPT);
    drop(server);
    post.put(&copy, &copy.bytes, &copy.hash);
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    assert!(post.arrived() == [b"a"]);
    assert_eq!(post.ask(&left).2, "done");
}

#[test]
fn a_letter_that_the_relay_changes_is_refused_as_a_whole_and_sent_again() {
    let post = Post::new(OPEN);
    // In the sealed meta; in a block; in the trailer; without a block; cut off; another letter's head.
    type Change = fn(&mut Vec<u8>, usize);
    let changes: [(Change, &str); 6] = [
        (|bytes, _| bytes[HEAD_LEN + 40] ^= 1, UNOPENED),
        (|bytes, blocks| bytes[blocks + 500] ^= 1, RECEIPT),
        (|bytes, _| *bytes.last_mut().unwrap() ^= 1, RECEIPT),
        (
            |bytes, blocks| drop(bytes.drain(blocks..blocks + 65_564)),
            RECEIPT,
        ),
        (|bytes, _| bytes.truncate(bytes.len() - 36), RECEIPT),
        (|bytes, _| bytes[20] ^= 1, UNOPENED),
    ];
    for (n, (change, sign)) in changes.into_iter().enumerate() {
        let meta = post.meta(&format!("{n}.bin"), &noise(100_000));
        let left = post.leave(&meta);
        let [file] = post.letters().try_into().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let head = Head::decode(bytes.first_chunk().unwrap()).unwrap();
        change(&mut bytes, HEAD_LEN + head.len);
        fs::write(&file, bytes).unwrap();
        let (server, lines) = post.back();
        wait_for(&lines, sign);
        if sign == UNOPENED {
            wait_for(&lines, RECEIPT);
        }
        assert_eq!(server.stop(), Some(0));
        assert!(post.arrived().is_empty());
        let (status, words, ending) = post.ask(&left);
        assert_eq!((status, ending), (Some(5), "meta"), "{words}");
    }
    let meta = post.world.sender.path().join("photo").join("0.meta");
    post.leave(&meta);
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    assert!(post.arrived() == [noise(100_000)]);
}

#[test]
fn a_file_whose_letters_come_to_nothing_again_and_again_has_to_wait() {
    let post = Post::new(OPEN);
    let meta = post.meta("a.txt", b"a");
    for _ in 0..3 {
        let left = post.leave(&meta);
        // The relay forgets it.
        let [file] = post.letters().try_into().unwrap();
        fs::remove_file(file).unwrap();
        post.index()
            .execute("DELETE FROM mailbox_letter", [])
            .unwrap();
        assert_eq!(post.ask(&left).2, "meta");
    }
    let output = post.about(&[], &meta);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(
        said(&output).contains("came to nothing"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_letter_that_the_relay_puts_into_anothers_box_is_refused() {
    let post = Post::new(OPEN);
    let peter = common::person(&post.world.here, common::PETER);
    common::introduce(&peter, &post.world.receiver);
    let given = post.world.receiver.box_for(&name(common::PETER));
    let given = letter::box_hash(&given.unwrap().unwrap().id);
    let left = post.leave(&post.meta("a.txt", b"a"));
    let copy = post.copy();
    post.put(&copy, &copy.bytes, &given);
    post.index()
        .execute(
            "INSERT INTO mailbox_box SELECT ?1, member, shows FROM mailbox_box",
            [given.as_slice()],
        )
        .unwrap();
    let (_server, lines) = post.back();
    wait_for(&lines, UNOPENED);
    wait_for(&lines, RECEIPT);
    assert!(post.arrived().is_empty());
    assert_eq!(post.ask(&left).2, "meta");
}

#[test]
fn receipts_that_the_relay_makes_up_or_exchanges_count_for_nothing() {
    let post = Post::new(OPEN);
    let left = [post.meta("a.txt", b"a"), post.meta("b.txt", b"b")].map(|meta| post.leave(&meta));
    let index = post.index();
    // Both were refused by their receiver's hooks, says the relay; and one was delivered, with the
    // receipt of the other.
    let make_up = "UPDATE mailbox_letter SET state = 2, receipt = ?1";
    let made_up = [&[1][..], &noise(900)].concat();
    index.execute(make_up, [made_up]).unwrap();
    for left in &left {
        let (status, words, ending) = post.ask(left);
        assert_eq!((status, ending), (Some(5), "meta"), "{words}");
    }
    let left = left.map(|left| post.leave(&left.with_extension("meta")));
    let (server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    wait_for(&lines, RECEIPT);
    drop(server);
    let receipts: Vec<(Vec<u8>, Vec<u8>)> = index
        .prepare("SELECT letter, receipt FROM mailbox_letter WHERE state = 2")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(receipts.len(), 2);
    for (at, (letter, _)) in receipts.iter().enumerate() {
        let other = &receipts[1 - at].1;
        let row = "UPDATE mailbox_letter SET receipt = ?2 WHERE letter = ?1";
        index.execute(row, params![letter, other]).unwrap();
    }
    for left in &left {
        assert_eq!(post.ask(left).2, "meta");
    }
    // What arrived is not had twice, however often it is sent.
    let left = left.map(|left| post.leave(&left.with_extension("meta")));
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    wait_for(&lines, RECEIPT);
    assert_eq!(left.map(|left| post.ask(&left).2), ["done", "done"]);
    assert_eq!(post.arrived().len(), 2);
}

#[test]
fn prekeys_that_are_not_the_receivers_are_noticed() {
    let post = Post::new(OPEN);
    let index = post.index();
    let documents: Vec<String> = index
        .prepare("SELECT document FROM mailbox_prekey WHERE kind = 1 LIMIT 2")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    // The relay's own key in place of the receiver's.
    let mut prekey: Value = serde_json::from_str(&documents[0]).unwrap();
    prekey["public"] = "09".repeat(32).into();
    let row = "UPDATE mailbox_prekey SET document = ?1";
    index.execute(row, [prekey.to_string()]).unwrap();
    let output = post.send(&post.world.file("a", b"a"), &[]);
    assert_eq!(output.status.code(), Some(12), "{}", said(&output));
    assert!(
        said(&output).contains("not roland-frei's"),
        "{}",
        said(&output)
    );
    assert!(post.letters().is_empty());
    // The same one for two letters: the second is not lost, but sent again.
    index.execute(row, [&documents[1]]).unwrap();
    let left = [post.meta("a.txt", b"a"), post.meta("b.txt", b"b")].map(|meta| post.leave(&meta));
    let (server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    wait_for(&lines, UNOPENED);
    wait_for(&lines, RECEIPT);
    drop(server);
    let mut endings = left.clone().map(|left| post.ask(&left).2);
    endings.sort_unstable();
    assert_eq!(endings, ["done", "meta"]);
    assert_eq!(post.arrived().len(), 1);
}

#[test]
fn a_private_key_that_is_stolen_later_opens_no_letter_of_before() {
    let post = Post::new(OPEN);
    post.leave(&post.meta("a.txt", b"a"));
    let letter = post.copy();
    let private = PrivateKey::from_pem(&common::key(ROLAND)).unwrap();
    let sender = PrivateKey::from_pem(&common::key(ZHENQIANG)).unwrap();
    let grant = post.world.sender.box_of(&name(ROLAND)).unwrap().unwrap();
    let opens = || {
        let front = letter.bytes.first_chunk().unwrap();
        let head = Head::decode(front).unwrap();
        let sealed = &letter.bytes[HEAD_LEN..HEAD_LEN + head.len];
        let relay = name("relay");
        let keys = post.world.receiver.prekeys(&relay, &private);
        let keys = keys.unwrap().unwrap();
        let all = keys.once.iter().chain(&keys.daily);
        let parties = Parties {
            id: &grant.id,
            sender: sender.public(),
            receiver: private.public(),
        };
        let opened = all.map(|key| {
            let share = Share::from_secret(&key.secret);
            letter::open(parties, share, &head, sealed).is_ok()
        });
        opened.filter(|opened| *opened).count()
    };
    // As long as it waits, it takes everything that its receiver has.
    assert_eq!(opens(), 1);
    let (server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    assert_eq!(server.stop(), Some(0));
    assert_eq!(opens(), 0);
    assert!(post.arrived() == [b"a"]);
}

#[test]
fn removing_a_contact_takes_the_box_away_and_what_is_in_it() {
    let post = Post::new(OPEN);
    let left = post.leave(&post.meta("a.txt", b"a"));
    post.world
        .receiver
        .remove_contact(&name(ZHENQIANG))
        .unwrap();
    let (_server, _lines) = post.back();
    until("the letter is gone", || post.letters().is_empty());
    assert_eq!(post.ask(&left).2, "meta");
    let output = post.send(&post.world.file("b", b"b"), &["--leave", "always"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("no such box"), "{}", said(&output));
}

#[test]
fn contacts_see_who_is_there_if_they_may() {
    let post = Post::new(OPEN);
    let here = post.world.here.path().to_owned();
    let seen = || {
        let facts = post.facts(&here, &["contact", "list"]);
        let roland = facts.iter().find(|fact| fact["contact"] == ROLAND);
        let roland = roland.unwrap().clone();
        (roland["there"].as_bool().unwrap(), roland["seen"].as_u64())
    };
    until("the relay notices", || !seen().0);
    assert!(seen().1.unwrap() > 1_700_000_000_000);
    let (server, _lines) = post.back();
    assert_eq!(seen(), (true, None));
    drop(server);
    until("the relay notices", || !seen().0);
    assert!(seen().1.is_some());
    let ini = post.world.there.path().join("m2y.ini");
    fs::write(ini, "[presence]\nshow = nobody\nlisted = yes\n").unwrap();
    let (_server, _lines) = post.back();
    assert_eq!(seen(), (false, None));
    // Members see who wants to be found.
    until("it is listed", || {
        let who = post.facts(post.world.there.path(), &["relay", "who"]);
        who.iter().any(|member| member["member"] == ROLAND)
    });
}

#[test]
fn a_folder_that_sends_by_itself_leaves_letters_and_hears_of_them() {
    let post = Post::new(OPEN);
    let outbox = post.world.sender.create_folder(&name("photo")).unwrap();
    let config = outbox.path_of("m2y.config");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text + "[outbox]\nauto = yes\n").unwrap();
    let picture = outbox.path_of("picture.jpg");
    fs::write(&picture, noise(70_000)).unwrap();
    let meta = post.world.meta("photo", &picture);
    let (_sending, _sent) = Process::serve_with_lines(&post.world.here);
    until("it is left", || meta.with_extension("left").exists());
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    until("the receipt is heard of", || {
        meta.with_extension("done").exists()
    });
    assert!(!meta.with_extension("left").exists());
    assert!(post.arrived() == [noise(70_000)]);
}

#[test]
fn people_who_pair_get_boxes_and_letters_outlive_the_relays_process() {
    let world = World::new(OPEN);
    let mut relay = RelayProcess::start();
    relay.join(&world.there, ROLAND);
    let server = Process::serve_with_lines(&world.there);
    wait_for_all(&server.1, &["attending", IN_ORDER]);
    let dir = tempfile::tempdir().unwrap();
    let showing =
        common::showing::Showing::start(&["pair", "--folder", "photo"], world.there.path());
    let pair = Command::new(M2Y)
        .args(["pair", &showing.code, "--name", common::PETER, "--root"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(pair.status.success(), "{}", said(&pair));
    assert_eq!(showing.ends().0, Some(0));
    wait_for(&server.1, IN_ORDER);
    drop(server);
    let file = world.file("photo.jpg", &noise(500_000));
    let send = Command::new(M2Y)
        .args(["send", "--root"])
        .arg(dir.path())
        .arg(&file)
        .arg(ROLAND)
        .output()
        .unwrap();
    assert!(said(&send).contains("as a letter"), "{}", said(&send));
    relay.kill();
    relay.restart();
    let (_server, lines) = attending(&world.there);
    wait_for(&lines, RECEIPT);
    let arrived = world.arrived(".data");
    assert_eq!(
        fs::read(world.photo().join(&arrived[0])).unwrap(),
        noise(500_000)
    );
}

#[test]
fn who_leaves_a_relay_takes_no_letters_there() {
    let post = Post::new(OPEN);
    let left = post.leave(&post.meta("a.txt", b"a"));
    let output = Command::new(M2Y)
        .args(["relay", "leave", "relay", "--root"])
        .arg(post.world.there.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(post.letters().is_empty());
    assert_eq!(post.ask(&left).2, "meta");
}

/// Leaves bytes in zhenqiang's box, as nobody's program does.
async fn leave_raw(
    post: &Post,
    letter: [u8; 32],
    make: impl Fn(&Prekey) -> (Vec<u8>, u64),
) -> Kind {
    let grant = post.world.sender.box_of(&name(ROLAND)).unwrap().unwrap();
    let stream = TcpStream::connect(&post.relay.address).await.unwrap();
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (Reader::new(reader, PATIENCE), Writer::new(writer, PATIENCE));
    let own = Share::new(&mut SysRng).unwrap();
    let hello = [header::encode_post().as_slice(), &own.public].concat();
    writer.bytes(&hello).await.unwrap();
    assert_eq!(reader.exact().await.unwrap(), post::answer());
    let theirs = reader.exact().await.unwrap();
    let keys = PostKeys::of_client(&own, &grant.key, &theirs).unwrap();
    let mut asking = Conversation::new(reader, writer, [&keys.client, &keys.relay]).unwrap();
    // The length is not known before the prekey is: a letter of the same length is tried first.
    let probe = Prekey {
        kind: PrekeyKind::Once,
        number: 0,
        time: 0,
        public: Share::new(&mut SysRng).unwrap().public,
        signature: Vec::new(),
    };
    let (_, bytes) = make(&probe);
    let ask = Ask::Leave {
        id: grant.id,
        letter,
        bytes,
    };
    let prekey = asking.ask(&ask).await.unwrap();
    let (letter, _) = make(&Prekey::from_document(&prekey).unwrap());
    asking.pieces(&letter).await.unwrap();
    let (head, _) = asking.reader.record(&mut asking.theirs).await.unwrap();
    head.kind
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_lie_about_themselves_hold_up_no_other() {
    let post = Post::new(OPEN);
    let head = |prekey: &Prekey, len| {
        let head = Head {
            kind: prekey.kind,
            prekey: prekey.number,
            share: [9; 32],
            len,
        };
        head.encode().to_vec()
    };
    let sender = PrivateKey::from_pem(&common::key(ZHENQIANG)).unwrap();
    let receiver = PrivateKey::from_pem(&common::key(ROLAND)).unwrap();
    let grant = post.world.sender.box_of(&name(ROLAND)).unwrap().unwrap();
    let parties = Parties {
        id: &grant.id,
        sender: sender.public(),
        receiver: receiver.public(),
    };
    let with_json = |prekey: &Prekey, json: &[u8]| {
        let sealed = letter::seal(parties, prekey, 0, json, &sender, &mut SysRng).unwrap();
        let len = sealed.0.len() as u64;
        (sealed.0, len)
    };
    // Shorter than its head says; without a head; with a meta that is none; for somebody else, with
    // names that are as long as they may be.
    let acks = [
        leave_raw(&post, [1; 32], |prekey| {
            let letter = [head(prekey, 65_536), vec![7]].concat();
            let len = letter.len() as u64;
            (letter, len)
        })
        .await,
        leave_raw(&post, [2; 32], |_| (vec![0xff; 300], 300)).await,
        leave_raw(&post, [3; 32], |prekey| with_json(prekey, b"{}")).await,
        leave_raw(&post, [4; 32], |prekey| {
            let long = "ü".repeat(2_048);
            let mut meta = Meta::new(&long, &long, &long, &long);
            meta.extra
                .insert("note".to_owned(), "x".repeat(40_000).into());
            with_json(prekey, Wire::request(meta).to_json().as_bytes())
        })
        .await,
    ];
    assert_eq!(acks, [Kind::Ack; 4]);
    // One that is longer than it was said to be is not kept.
    let long = leave_raw(&post, [5; 32], |_| (vec![1; 400], 300)).await;
    assert_eq!(long, Kind::Error);
    let left = post.leave(&post.meta("good.txt", b"good"));
    let (_server, lines) = post.back();
    for _ in 0..5 {
        wait_for(&lines, RECEIPT);
    }
    assert!(post.arrived() == [b"good"]);
    assert!(post.letters().is_empty());
    assert_eq!(post.ask(&left).2, "done");
}

#[test]
fn files_of_every_length_come_whole() {
    let post = Post::new(OPEN);
    let lens = [0, 1, 65_535, 65_536, 65_537, 131_072];
    let left = lens.map(|len| post.leave(&post.meta(&format!("{len}.bin"), &noise(len))));
    let (_server, lines) = post.back();
    for _ in lens {
        wait_for(&lines, RECEIPT);
    }
    for left in left {
        let (_, words, ending) = post.ask(&left);
        assert_eq!(ending, "done", "{words}");
    }
    let mut arrived: Vec<_> = post.arrived().iter().map(Vec::len).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, lens);
}

#[test]
fn long_metas_have_receipts_too() {
    let post = Post::new(OPEN);
    let meta = post.meta("a.txt", b"a");
    let text = fs::read_to_string(&meta).unwrap();
    let note = format!("{{\"note\": \"{}\",", "x".repeat(40_000));
    fs::write(&meta, text.replacen('{', &note, 1)).unwrap();
    let left = post.leave(&meta);
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    assert_eq!(post.ask(&left).2, "done");
    let done = read_meta(&left.with_extension("done"));
    assert_eq!(
        (done.to.as_str(), done.filename.as_str()),
        (ROLAND, "a.txt")
    );
}

#[test]
fn somebody_who_asks_about_receipts_while_a_letter_is_left_does_not_lose_it() {
    let post = Post::new(OPEN);
    let meta = post.meta("slow.bin", &noise(400_000));
    // Asks every two seconds.
    let _asking = Process::serve(&post.world.here);
    let output = post.about(&["--leave", "always", "--limit", "100K"], &meta);
    assert!(output.status.success(), "{}", said(&output));
    let left = meta.with_extension("left");
    assert!(left.exists());
    let (_server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    until("the receipt is heard of", || {
        meta.with_extension("done").exists()
    });
    assert!(post.arrived() == [noise(400_000)]);
}

#[test]
fn a_letter_whose_document_was_moved_is_heard_of_and_one_that_is_forgotten_is_sent_again() {
    let post = Post::new(OPEN);
    let left = post.leave(&post.meta("a.txt", b"a"));
    let moved = left.with_file_name("moved.left");
    fs::rename(&left, &moved).unwrap();
    let (server, lines) = post.back();
    wait_for(&lines, RECEIPT);
    drop(server);
    assert_eq!(post.ask(&moved).2, "done");
    let left = post.leave(&post.meta("b.txt", b"b"));
    let journal = post.world.here.path().join("journal.sqlite");
    let journal = Connection::open(journal).unwrap();
    journal.execute("DELETE FROM letter_left", []).unwrap();
    let (status, words, ending) = post.ask(&left);
    assert_eq!((status, ending), (Some(5), "meta"), "{words}");
}

#[test]
fn a_member_has_a_quota_whoever_writes() {
    let post = Post::with(OPEN, "[relay]\nmax_letters = 2\n");
    for file in ["1", "2"] {
        let output = post.send(&post.world.file(file, file.as_bytes()), &[]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let third = post.send(&post.world.file("3", b"3"), &[]);
    assert_eq!(third.status.code(), Some(5), "{}", said(&third));
    assert!(said(&third).contains("no room"), "{}", said(&third));
}

#[test]
fn who_leaves_a_relay_beside_a_running_server_has_no_box_there_any_more() {
    let post = Post::new(OPEN);
    let (_server, lines) = post.back();
    let output = Command::new(M2Y)
        .args(["relay", "leave", "relay", "--root"])
        .arg(post.world.there.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let boxes = || {
        let count = "SELECT COUNT(*) FROM mailbox_box";
        post.index()
            .query_row(count, [], |row| row.get::<_, i64>(0))
    };
    assert_eq!(boxes(), Ok(0));
    // What changes from now on is not published.
    post.world.receiver.box_for(&name(ZHENQIANG)).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
        assert!(!line.contains(IN_ORDER), "{line}");
    }
    assert_eq!(boxes(), Ok(0));
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Relay,
    Sender,
    Receiver,
}

/// How files go.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// As letters.
    Letters,
    /// In sessions at the relay.
    Sessions,
}

impl Post {
    /// Starts to send a `.meta`, or what has become of it.
    fn sending(&self, document: &Path, args: &[&str]) -> Child {
        Command::new(M2Y)
            .args(["send", "-q", "--root"])
            .arg(self.world.here.path())
            .args(args)
            .arg(document)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Restarts roland's server, if it is to run.
    fn serve(&self, runs: bool) -> Option<(Process, Receiver<String>)> {
        runs.then(|| attending(&self.world.there))
    }

    /// Sends until every `.meta` is a `.done`.
    fn finish(&self, metas: &[PathBuf]) {
        let end = Instant::now() + Duration::from_secs(120);
        let mut words = String::new();
        loop {
            let left: Vec<_> = metas
                .iter()
                .filter(|meta| !meta.with_extension("done").exists())
                .collect();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "{left:?} are not delivered: {words}");
            for meta in left {
                let there = ["meta", "failed", "left"].map(|ending| meta.with_extension(ending));
                let there = there.iter().find(|path| path.exists());
                if let Some(document) = there {
                    words = said(&self.about(&["-q"], document));
                }
            }
            sleep(Duration::from_millis(100));
        }
    }
}

/// Kills somebody again and again while files go; in the end each is there once, and its hook has had
/// its effect once.
fn killed(who: Who, way: Way, kills: usize) {
    println!("{who:?} amid {way:?}");
    let mut post = Post::with(OPEN, "[relay]\nbox_letters = 10000\n");
    let config = "[OnMeta]\n[OnReceived]\nnote.rhai\n";
    fs::write(post.world.photo().join("m2y.config"), config).unwrap();
    post.world
        .script("note.rhai", "notify.inbox(`<${meta.filename}>`)");
    let mut random = Random(7);
    let bytes = noise(400_000);
    let args: &[&str] = match way {
        Way::Letters => &["--leave", "always"],
        Way::Sessions => &["--leave", "never"],
    };
    let is_there = way == Way::Sessions;
    let mut server = post.serve(is_there);
    let (mut metas, mut lens) = (Vec::new(), Vec::new());
    for n in 0..kills {
        let len = random.index(bytes.len());
        let meta = post.meta(&format!("file-{n}.bin"), &bytes[..len]);
        lens.push(len);
        let mut sender = post.sending(&meta, args);
        let pause = |random: &mut Random, most| sleep(Duration::from_millis(random.below(most)));
        match who {
            Who::Sender => {
                pause(&mut random, 250);
                let _ = sender.kill();
            }
            Who::Relay => {
                pause(&mut random, 250);
                post.relay.kill();
                post.relay.restart();
            }
            Who::Receiver if is_there => {
                pause(&mut random, 250);
                server = None;
                server = server.or_else(|| post.serve(true));
            }
            // Back for a moment, in which it fetches what it can.
            Who::Receiver => {
                let _ = sender.wait();
                let back = Process::serve(&post.world.there);
                pause(&mut random, 600);
                drop(back);
            }
        }
        let _ = sender.wait();
        metas.push(meta);
    }
    drop(server);
    let server = post.back();
    post.finish(&metas);
    drop(server);
    let arrived: Vec<_> = post.world.arrived(".meta");
    let mut seen = BTreeMap::new();
    for meta in arrived {
        let path = post.world.photo().join(&meta);
        let name = read_meta(&path).filename;
        let data = fs::read(path.with_extension("data")).unwrap();
        assert!(seen.insert(name, data).is_none(), "{meta} is there twice");
    }
    assert_eq!(seen.len(), kills + 1);
    for (n, len) in lens.into_iter().enumerate() {
        let name = format!("file-{n}.bin");
        assert!(seen[&name] == bytes[..len], "{name} is wrong");
        assert_eq!(post.noted(&format!("<{name}>")), 1, "{name}");
    }
}

#[test]
fn whoever_is_killed_amid_letters_nothing_is_lost_and_nothing_comes_twice() {
    for who in [Who::Relay, Who::Sender, Who::Receiver] {
        killed(who, Way::Letters, 4);
    }
}

/// `cargo test --test letters -- --ignored --nocapture --test-threads 1`
#[test]
#[ignore = "takes a quarter of an hour"]
fn whoever_is_killed_three_hundred_times_nothing_is_lost_and_nothing_comes_twice() {
    for way in [Way::Letters, Way::Sessions] {
        for who in [Who::Relay, Who::Sender, Who::Receiver] {
            let begun = Instant::now();
            killed(who, way, 300);
            println!("{who:?} amid {way:?}: 300 times, {:?}", begun.elapsed());
        }
    }
}

#[test]
fn who_is_removed_from_a_relay_gets_no_letters_there() {
    let post = Post::new(OPEN);
    let output = post.relay.command(&["remove", ROLAND]);
    assert!(output.status.success(), "{}", said(&output));
    let output = post.send(&post.world.file("a", b"a"), &["--leave", "always"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let facts = post.facts(post.world.here.path(), &["contact", "list"]);
    let roland = facts.iter().find(|fact| fact["contact"] == ROLAND).unwrap();
    assert_eq!(
        (roland["there"].as_bool(), roland["seen"].as_u64()),
        (Some(false), None)
    );
}

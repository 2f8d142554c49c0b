//! A transfer that broke off goes on where the receiver is, and a session carries many
//! files; a peer that lies in either gets nowhere.
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
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    Counter, Local, M2Y, OPEN, Process, World, deliver, names, noise,
    peer::{self, Side},
    read_meta, read_metas, said,
};
use m2y::{
    client::{self, Route},
    error::{Code, Error},
    event::Kind as EventKind,
    meta::{Features, Meta, TransferId, Wire},
    observer::Unobserved,
    transfer::{receive::decision::FILES, send::send_job::SendJob},
    wire::record::{self, Head, Kind, MAX_BODY},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

const MIB: usize = 1 << 20;

/// Both envelopes, the small records, and the heads and tags of blocks: bytes of a session
/// beside those of its file.
const OVERHEAD: usize = 65_536;

/// Longer than anything here takes: who waits so long waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(60);

const CAN: Features = Features {
    resume: true,
    files: 0,
    requests: false,
};

async fn until(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A relay for one connection after the other.
struct Relay {
    address: String,
    /// What the clients said, each connection for itself.
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Bytes of the clients that have passed, all in all.
    passed: Arc<AtomicUsize>,
    /// Whether a connection stands still at its limit.
    stands: Arc<AtomicBool>,
    /// The word for what stands still.
    go: watch::Sender<bool>,
}

/// What a relay does where its limit is reached.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Cut,
    /// Waits for the word, and cuts.
    Stand,
    /// Waits for the word, and goes on.
    Wait,
}

impl Relay {
    async fn through(server: &str) -> Self {
        Self::new(server, usize::MAX, Then::Cut, true).await
    }

    async fn cut(server: &str, after: usize) -> Self {
        Self::new(server, after, Then::Cut, true).await
    }

    /// A relay that lets so many bytes of each client pass.
    async fn new(server: &str, after: usize, then: Then, records: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (go, going) = watch::channel(false);
        let relay = Self {
            address,
            said: Arc::default(),
            passed: Arc::default(),
            stands: Arc::default(),
            go,
        };
        let (said, passed) = (relay.said.clone(), relay.passed.clone());
        let (stands, server) = (relay.stands.clone(), server.to_owned());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let Ok(mut upstream) = TcpStream::connect(&server).await else {
                    continue;
                };
                let number = {
                    let mut said = said.lock().unwrap();
                    said.push(Vec::new());
                    said.len() - 1
                };
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = upstream.split();
                let mut going = going.clone();
                let up = async {
                    let (mut piece, mut left) = (vec![0; 65_536], after);
                    loop {
                        let most = piece.len().min(left);
                        if most == 0 {
                            stands.store(true, Ordering::SeqCst);
                            if then != Then::Cut {
                                let _ = going.wait_for(|go| *go).await;
                            }
                            if then != Then::Wait {
                                return;
                            }
                            left = usize::MAX;
                            continue;
                        }
                        let Ok(read) = from_client.read(&mut piece[..most]).await else {
                            return;
                        };
                        left -= read;
                        passed.fetch_add(read, Ordering::SeqCst);
                        if records {
                            said.lock().unwrap()[number].extend(&piece[..read]);
                        }
                        let gone = to_server.write_all(&piece[..read]).await.is_err();
                        if read == 0 || gone {
                            let _ = to_server.shutdown().await;
                            std::future::pending::<()>().await;
                        }
                    }
                };
                tokio::select! {
                    () = up => {}
                    _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                }
            }
        });
        relay
    }

    fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.said.lock().unwrap().len()
    }

    /// The records of a connection.
    fn records(&self, connection: usize) -> Vec<(Head, Vec<u8>)> {
        let said = &self.said.lock().unwrap()[connection];
        let envelope = u32::from_be_bytes(said[4..8].try_into().unwrap()) as usize;
        let mut rest = said[24 + envelope..].to_vec();
        let (mut records, mut at) = (Vec::new(), 0);
        while let Some((head, sealed)) = record::split(&mut rest[at..]).unwrap() {
            records.push((head, sealed[..head.len].to_vec()));
            at += head.record_len();
        }
        records
    }

    fn blocks(&self, connection: usize) -> Vec<Vec<u8>> {
        let records = self.records(connection).into_iter();
        let blocks = records.filter(|(head, _)| head.kind == Kind::Block);
        blocks.map(|(_, sealed)| sealed).collect()
    }
}

/// Makes what was sent, or was not, a `.meta` again.
fn anew(meta: &Path) {
    for ending in ["failed", "done"] {
        let _ = fs::rename(meta.with_extension(ending), meta);
    }
}

/// Sends what was sent, or was not, as the same transfer again.
async fn again(meta: &Path, address: &str) -> Result<Meta, Error> {
    anew(meta);
    deliver(meta, address).await
}

/// The hidden files of a folder.
fn hidden(folder: &Path) -> Vec<PathBuf> {
    let names = names(folder, ".partial").into_iter();
    names.map(|name| folder.join(name)).collect()
}

/// How many transfers broke off that a server has let go of, as its log says.
fn not_received(log: &Path) -> usize {
    let text = fs::read_to_string(log).unwrap();
    text.matches(" not received: ").count()
}

fn len(path: &Path) -> usize {
    fs::metadata(path).unwrap().len() as usize
}

/// Sends a file whose way is cut after so many bytes; returns its `.meta` and what the
/// receiver has of it.
async fn broken(world: &World, server: &Local, file: &Path, after: usize) -> (PathBuf, PathBuf) {
    let meta = world.meta("photo", file);
    let failed = server.counter.failed();
    let relay = Relay::cut(&server.address, after).await;
    let error = deliver(&meta, &relay.address).await.unwrap_err();
    assert_eq!(error.code, Code::Later, "{error}");
    until("the server has let go", || server.counter.failed() > failed).await;
    let mut hidden = hidden(&world.photo());
    assert_eq!(hidden.len(), 1, "{hidden:?}");
    (meta, hidden.remove(0))
}

fn the_file(folder: &Path) -> Vec<u8> {
    let data = names(folder, ".data");
    assert_eq!(data.len(), 1, "{data:?}");
    fs::read(folder.join(&data[0])).unwrap()
}

/// How often hooks ran for an event.
fn ran(counter: &Counter, event: EventKind) -> usize {
    let runs = counter.runs.lock().unwrap();
    runs.iter().filter(|run| run.event == event).count()
}

const HOOKED: &str = "[OnMeta]\nmeta.rhai\n[OnReceived]\nreceived.rhai\n";

/// A world whose hooks write down which files they saw.
fn hooked() -> World {
    let world = World::new(HOOKED);
    world.script(
        "meta.rhai",
        "if meta.filename == \"no\" { reject(\"not this one\") } else { accept() }",
    );
    world.script("received.rhai", "notify.inbox(meta.filename);");
    world
}

fn inbox(world: &World) -> Vec<String> {
    let text = fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    lines.sort();
    lines
}

// One file that broke off.

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_was_cut_goes_on_where_the_receiver_is() {
    const LEN: usize = 20 * MIB;
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let bytes = noise(LEN);
    let file = world.file("f", &bytes);
    let (meta, partial) = broken(&world, &server, &file, LEN / 2).await;
    let held = len(&partial);
    assert!(held > LEN / 2 - 2 * MIB, "{held} bytes were kept");

    let relay = Relay::through(&server.address).await;
    let delivered = again(&meta, &relay.address).await.unwrap();
    assert_eq!(delivered.file_crc, Some(crc32fast::hash(&bytes)));
    let sent = relay.blocks(relay.connections() - 1);
    let sent: usize = sent.iter().map(Vec::len).sum();
    assert_eq!(sent, LEN - held / MAX_BODY * MAX_BODY);
    assert!(relay.passed() < sent + OVERHEAD, "{}", relay.passed());
    assert!(the_file(&world.photo()) == bytes);
    assert!(hidden(&world.photo()).is_empty());
    let counter = server.stop().await;
    assert_eq!(ran(&counter, EventKind::Received), 1);
    assert_eq!(counter.bytes(), LEN as u64, "a byte was stored twice");
}

fn begin_to_send(address: &str, path: &Path) -> Child {
    Command::new(M2Y)
        .args(["send", "--server", address])
        .arg(path)
        .env_remove("M2Y_ROOT")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_after_both_sides_were_killed() {
    const LEN: usize = 12 * MIB;
    let world = hooked();
    let log = world.dir.path().join("log");
    let mut server = Process::serve_with_log(&world.there, &log);
    let bytes = noise(LEN);
    let meta = world.meta("photo", &world.file("f", &bytes));

    // The sender dies a third of the way; what it said is taken.
    let relay = Relay::new(&server.address, LEN / 3, Then::Stand, false).await;
    let mut sender = begin_to_send(&relay.address, &meta);
    until("a third has passed", || relay.stands.load(Ordering::SeqCst)).await;
    sender.kill().unwrap();
    sender.wait().unwrap();
    relay.go.send(true).unwrap();
    until("the server has let go", || not_received(&log) == 1).await;
    let first = len(&hidden(&world.photo())[0]);
    assert!(first > LEN / 4, "{first}");

    // The receiver dies when another third has come.
    let relay = Relay::new(&server.address, LEN / 3, Then::Stand, false).await;
    let sender = begin_to_send(&relay.address, &meta);
    let photo = world.photo();
    until("it goes on", || {
        hidden(&photo)
            .iter()
            .any(|file| len(file) > first + LEN / 4)
    })
    .await;
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    relay.go.send(true).unwrap();
    let output = tokio::task::block_in_place(|| sender.wait_with_output().unwrap());
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    let held = len(&hidden(&world.photo())[0]);

    let server = Process::serve(&world.there);
    let relay = Relay::through(&server.address).await;
    let sender = begin_to_send(&relay.address, &meta.with_extension("failed"));
    let output = tokio::task::block_in_place(|| sender.wait_with_output().unwrap());
    assert!(output.status.success(), "{}", said(&output));
    assert!(relay.passed() < LEN - held + MAX_BODY + OVERHEAD);
    assert!(the_file(&world.photo()) == bytes);
    assert_eq!(server.stop(), Some(0));
    assert_eq!(inbox(&world).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changed_is_sent_from_its_beginning() {
    const LEN: usize = 3 * MIB;
    for (longer, unnoticed) in [(0, false), (1_000, false), (0, true)] {
        let world = hooked();
        let server = Local::serve(&world.there).await;
        let file = world.file("f", &noise(LEN));
        let (meta, _) = broken(&world, &server, &file, LEN / 2).await;
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        let mut bytes = noise(LEN + longer);
        bytes[..5].copy_from_slice(b"other");
        fs::write(&file, &bytes).unwrap();
        if unnoticed {
            // Nobody can tell by its looks: only the digests differ.
            let file = fs::File::options().write(true).open(&file).unwrap();
            file.set_modified(before).unwrap();
        }
        let relay = Relay::through(&server.address).await;
        again(&meta, &relay.address).await.unwrap();
        let sent = relay.blocks(relay.connections() - 1);
        let sent: usize = sent.iter().map(Vec::len).sum();
        assert_eq!(
            sent,
            bytes.len(),
            "longer: {longer}, unnoticed: {unnoticed}"
        );
        assert!(the_file(&world.photo()) == bytes);
        let counter = server.stop().await;
        assert_eq!(ran(&counter, EventKind::Received), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_file_that_was_changed_on_the_disk_does_no_harm() {
    const LEN: usize = 3 * MIB;
    let end = |file: &Path| {
        let mut file = fs::File::options().write(true).open(file).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file
    };
    // What is done to it, and at most so many bytes have to come.
    type Harm<'a> = (&'static str, &'a dyn Fn(&Path), usize);
    let harms: [Harm<'_>; 7] = [
        (
            "a byte in it",
            &|file| {
                let mut bytes = fs::read(file).unwrap();
                bytes[MIB] ^= 1;
                fs::write(file, bytes).unwrap();
            },
            LEN,
        ),
        (
            "zeros at its end",
            &|file| {
                let mut bytes = fs::read(file).unwrap();
                let at = bytes.len() - 2 * MAX_BODY;
                bytes[at..].fill(0);
                fs::write(file, bytes).unwrap();
            },
            LEN,
        ),
        (
            "it is cut",
            &|file| end(file).set_len(MIB as u64 + 100).unwrap(),
            LEN - MIB,
        ),
        ("it is empty", &|file| end(file).set_len(0).unwrap(), LEN),
        (
            "half a block behind it",
            &|file| end(file).write_all(&noise(MAX_BODY / 2)).unwrap(),
            LEN,
        ),
        (
            "it is longer than the file",
            &|file| {
                end(file).write_all(&noise(LEN)).unwrap();
            },
            LEN,
        ),
        (
            "it is a link",
            &|file| {
                let outside = file.parent().unwrap().join("../outside");
                fs::rename(file, &outside).unwrap();
                std::os::unix::fs::symlink(&outside, file).unwrap();
            },
            LEN,
        ),
    ];
    for (what, harm, most) in harms {
        let world = hooked();
        let server = Local::serve(&world.there).await;
        let bytes = noise(LEN);
        let file = world.file("f", &bytes);
        let (meta, partial) = broken(&world, &server, &file, LEN / 2).await;
        harm(&partial);
        let relay = Relay::through(&server.address).await;
        again(&meta, &relay.address).await.unwrap();
        let sent = relay.blocks(relay.connections() - 1);
        let sent: usize = sent.iter().map(Vec::len).sum();
        assert!(sent <= most, "{what}: {sent}");
        assert!(the_file(&world.photo()) == bytes, "{what}");
        let outside = world.photo().join("../outside");
        assert!(
            !outside.exists() || fs::read(outside).unwrap() != bytes,
            "{what}"
        );
        let counter = server.stop().await;
        assert_eq!(ran(&counter, EventKind::Received), 1, "{what}");
    }
}

/// Cuts a file so often at places that look random; returns how many bytes were sent more
/// than once, at most, for one cut.
async fn sent_twice(len: u64, cuts: usize) -> usize {
    let world = hooked();
    let log = world.dir.path().join("log");
    let server = Process::serve_with_log(&world.there, &log);
    // Large, and takes little room at the sender's.
    let path = world.dir.path().join("large");
    let mut file = fs::File::create(&path).unwrap();
    for at in (0..len).step_by(MIB) {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&at.to_be_bytes()).unwrap();
    }
    file.set_len(len).unwrap();
    drop(file);
    let meta = world.meta("photo", &path);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut held, mut most, mut done) = (0, 0, 0);
    while done < cuts {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // Not too much at once, so that there is something left to be cut.
        let piece = 100_000 + ((state >> 33) % (2 * len / cuts as u64)) as usize;
        let piece = piece.min((len as usize - held) / 2);
        let failed = not_received(&log);
        let relay = Relay::new(&server.address, piece, Then::Cut, false).await;
        let sent = again(&meta, &relay.address).await;
        assert_eq!(sent.unwrap_err().code, Code::Later);
        until("the server has let go", || not_received(&log) > failed).await;
        let now = names(&world.photo(), ".partial").pop();
        let now = now.map_or(0, |name| self::len(&world.photo().join(name)));
        assert!(now >= held, "{now} bytes are left of {held}");
        most = most.max(piece.saturating_sub(now - held));
        (held, done) = (now, done + 1);
    }
    again(&meta, &server.address).await.unwrap();
    let arrived = world.photo().join(&world.arrived(".data")[0]);
    let same = Command::new("cmp")
        .arg(&path)
        .arg(arrived)
        .status()
        .unwrap();
    assert!(same.success());
    assert_eq!(server.stop(), Some(0));
    assert_eq!(inbox(&world).len(), 1);
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_costs_little_more_than_what_was_on_its_way() {
    let most = sent_twice(24 << 20, 6).await;
    assert!(most <= 4 * MIB, "{most} bytes were sent twice");
}

/// `cargo test --release --test resume twenty -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "moves 300 MiB"]
async fn twenty_cuts_of_a_large_file_cost_at_most_64_mib_each() {
    let most = sent_twice(300 << 20, 20).await;
    eprintln!("at most {most} bytes were sent twice for a cut");
    assert!(most <= 64 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_attempts_seal_under_one_key_and_counter() {
    const LEN: usize = 2 * MIB;
    let world = World::new(OPEN);
    let server = Local::serve(&world.there).await;
    let bytes = noise(LEN);
    let meta = world.meta("photo", &world.file("f", &bytes));
    let mut attempts = Vec::new();
    for after in [MIB / 2, MIB / 2, usize::MAX] {
        let relay = Relay::cut(&server.address, after).await;
        let sent = again(&meta, &relay.address).await;
        assert_eq!(sent.is_ok(), after == usize::MAX, "{:?}", sent.err());
        let blocks = relay.blocks(relay.connections() - 1);
        let all: usize = blocks.iter().map(Vec::len).sum();
        let begins = match sent.is_ok() {
            true => LEN - all,
            false => attempts
                .iter()
                .map(|(_, blocks): &(usize, Vec<Vec<u8>>)| blocks.len() * MAX_BODY)
                .sum(),
        };
        attempts.push((begins, blocks));
    }
    assert!(attempts.iter().all(|(_, blocks)| blocks.len() > 2));
    assert!(attempts[2].0 > 0, "nothing was gone on with");
    // What is sealed under one key and number twice differs as the plain bytes do.
    for (n, (begins, blocks)) in attempts.iter().enumerate() {
        for (others_begin, others) in &attempts[..n] {
            for (number, (a, b)) in blocks.iter().zip(others).enumerate() {
                let plain = |begins: &usize| &bytes[begins + number * MAX_BODY..][..16];
                let differ = |a: &[u8], b: &[u8]| -> Vec<u8> {
                    a.iter().zip(b).take(16).map(|(a, b)| a ^ b).collect()
                };
                assert_ne!(differ(a, b), differ(plain(begins), plain(others_begin)));
            }
        }
    }
    assert!(the_file(&world.photo()) == bytes);
    server.stop().await;
}

// Senders that lie.

/// Says something in the middle of a session; what the server answers to it.
async fn lied(world: &World, server: &Local, lie: impl AsyncFnOnce(&mut Side)) -> Error {
    static NUMBER: AtomicUsize = AtomicUsize::new(10);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst) as u8;
    let asked = peer::request(peer::meta(number, 3 * MAX_BODY), CAN);
    let mut side = peer::open(&server.address, &asked).await;
    assert_eq!((side.said.meta.error.as_str(), side.said.offset), ("", 0));
    let reply = side.said.clone();
    side.with_key(0, &reply);
    lie(&mut side).await;
    let mut last = None;
    while let Some((head, body)) = side.hear().await {
        match head.kind {
            Kind::Error => last = Some(record::decode_error(&body).unwrap()),
            Kind::Answer => {}
            kind => panic!("the server said {kind:?}"),
        }
    }
    assert!(world.arrived(".data").is_empty());
    last.expect("the server says why it ends a session")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_lies_ends_its_session_and_stores_nothing() {
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let bytes = noise(3 * MAX_BODY);
    let further = |id, len| {
        let wire = peer::request(peer::meta(id, len), CAN);
        wire.to_json().as_bytes().to_vec()
    };
    let numbered = |number: u32| {
        let mut meta = peer::meta(1, 5);
        let mut id = [7; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        meta.id = Some(TransferId(id));
        peer::request(meta, CAN).to_json().as_bytes().to_vec()
    };
    let mut errors = Vec::new();
    let mut told = |what, error: Error| errors.push((what, error));
    told(
        "a digest where nothing was offered",
        lied(&world, &server, async |side| {
            side.say(Kind::Resume, 0, &[0; 32]).await;
        })
        .await,
    );
    told(
        "a digest for no transfer",
        lied(&world, &server, async |side| {
            side.say(Kind::Resume, 9, &[0; 32]).await;
        })
        .await,
    );
    told(
        "a digest of another length",
        lied(&world, &server, async |side| {
            side.say(Kind::Resume, 0, &[0; 31]).await;
        })
        .await,
    );
    told(
        "one number for two transfers",
        lied(&world, &server, async |side| {
            side.say(Kind::Meta, 0, &further(8, 5)).await;
        })
        .await,
    );
    told(
        "one number for two further transfers",
        lied(&world, &server, async |side| {
            for id in [8, 9] {
                side.say(Kind::Meta, 1, &further(id, 5)).await;
            }
        })
        .await,
    );
    told(
        "a block before its answer",
        lied(&world, &server, async |side| {
            let reply = side.said.clone();
            side.with_key(1, &reply);
            side.block(1, b"hello", true).await;
        })
        .await,
    );
    told(
        "a trailer before the last block",
        lied(&world, &server, async |side| {
            side.block(0, &bytes[..MAX_BODY], false).await;
            side.trailer(0, &bytes).await;
        })
        .await,
    );
    told(
        "a trailer without a transfer",
        lied(&world, &server, async |side| {
            side.trailer(3, &bytes).await;
        })
        .await,
    );
    told(
        "a trailer of another length",
        lied(&world, &server, async |side| {
            side.blocks(0, &bytes).await;
            side.say(Kind::Trailer, 0, &[0; 7]).await;
        })
        .await,
    );
    told(
        "what only a server says",
        lied(&world, &server, async |side| {
            side.say(Kind::Ack, 0, record::ACK).await;
        })
        .await,
    );
    told(
        "an answer",
        lied(&world, &server, async |side| {
            side.say(Kind::Answer, 0, b"{}").await;
        })
        .await,
    );
    told(
        "more transfers than are allowed",
        lied(&world, &server, async |side| {
            for number in 1..=FILES {
                side.say(Kind::Meta, number, &numbered(number)).await;
            }
        })
        .await,
    );
    for (what, error) in &errors {
        assert_eq!(error.code, Code::Integrity, "{what}: {error}");
        assert!(
            error.sentence.contains("does not belong there"),
            "{what}: {error}"
        );
    }

    // Such a one ends only its transfer, with the same care.
    let error = lied(&world, &server, async |side| {
        side.block(0, &bytes[..5], false).await;
        side.say(
            Kind::Error,
            0,
            &record::encode_error(&Error::new(Code::Failed, "x")),
        )
        .await;
        side.say(Kind::Close, 0, &[]).await;
    })
    .await;
    assert!(error.sentence.contains("different size"), "{error}");
    let error = lied(&world, &server, async |side| {
        side.blocks(0, &bytes).await;
        side.trailer(0, b"something else").await;
        side.say(Kind::Close, 0, &[]).await;
    })
    .await;
    assert!(error.sentence.contains("CRC-32"), "{error}");

    // The folder is as before, and its owner gets other files.
    let file = world.file("f", b"x");
    world.deliver(&server.address, &file).await.unwrap();
    assert_eq!(the_file(&world.photo()), b"x");
    let counter = server.stop().await;
    assert_eq!(ran(&counter, EventKind::Received), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trailer_that_comes_twice_ends_the_session_and_the_file_is_stored_once() {
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let bytes = noise(MAX_BODY + 1);
    let asked = peer::request(peer::meta(7, bytes.len()), CAN);
    let mut side = peer::open(&server.address, &asked).await;
    let reply = side.said.clone();
    side.with_key(0, &reply);
    side.blocks(0, &bytes).await;
    side.trailer(0, &bytes).await;
    side.trailer(0, &bytes).await;
    let mut said = Vec::new();
    while let Some((head, _)) = side.hear().await {
        said.push(head.kind);
    }
    assert_eq!(said, [Kind::Ack], "what was complete before is stored");
    assert!(the_file(&world.photo()) == bytes);
    let counter = server.stop().await;
    assert_eq!(ran(&counter, EventKind::Received), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_lies_gets_the_file_from_its_beginning() {
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let bytes = noise(3 * MAX_BODY);
    let asked = peer::request(peer::meta(7, bytes.len()), CAN);
    let mut side = peer::open(&server.address, &asked).await;
    let reply = side.said.clone();
    side.with_key(0, &reply);
    side.block(0, &bytes[..MAX_BODY], false).await;
    drop(side);
    until("the server has let go", || server.counter.failed() == 1).await;

    let mut side = peer::open(&server.address, &asked).await;
    let reply = side.said.clone();
    assert_eq!(reply.offset, MAX_BODY as u64);
    side.with_key(0, &reply);
    side.say(Kind::Resume, 0, &[7; 32]).await;
    let (head, body) = side.hear().await.unwrap();
    assert_eq!(
        (head.kind, body.as_slice()),
        (Kind::Resume, [0; 8].as_slice())
    );
    side.blocks(0, &bytes).await;
    side.trailer(0, &bytes).await;
    assert_eq!(side.hear().await.unwrap().0.kind, Kind::Ack);
    assert!(the_file(&world.photo()) == bytes);
    server.stop().await;
}

/// Asks and asks, and reads nothing of what it is told.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_and_does_not_listen_is_not_heard_further() {
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let asked = peer::request(peer::meta(7, 5), CAN);
    let mut side = peer::open(&server.address, &asked).await;
    let said = AtomicUsize::new(0);
    let asking = async {
        loop {
            let some = side.say_often(Kind::Other(200), 1, 1_000).await;
            said.fetch_add(some, Ordering::SeqCst);
        }
    };
    let stuck = tokio::time::timeout(Duration::from_secs(3), asking).await;
    stuck.unwrap_err();
    // What the system and both sides hold of it, and no more.
    let said = said.into_inner();
    assert!(said < 64 * MIB, "{said} bytes were taken");
    server.serving.abort();
}

// Receivers that lie.

/// Sends a file to a server that is not what it seems; why it was not sent.
async fn lied_to(answer: impl FnOnce(&Wire) -> Wire, lie: impl AsyncFnOnce(&mut Side)) -> Error {
    let world = World::new(OPEN);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let meta = world.meta("photo", &world.file("f", &noise(3 * MAX_BODY)));
    let lying = async {
        let mut side = peer::accept(&listener, answer).await;
        lie(&mut side).await;
        while side.hear().await.is_some() {}
    };
    let sent = async {
        let sent = deliver(&meta, &address).await;
        assert!(meta.with_extension("failed").exists());
        sent.unwrap_err()
    };
    tokio::select! {
        error = sent => error,
        () = lying => panic!("the sender goes on"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_lies_is_found_out() {
    let yes = |asked: &Wire| peer::yes(asked, 1);
    let offers = |offset: usize| {
        move |asked: &Wire| Wire {
            offset: offset as u64,
            ..peer::yes(asked, 1)
        }
    };
    let error = lied_to(offers(3 * MAX_BODY), async |_| std::future::pending().await).await;
    assert!(
        error.sentence.contains("more of the file than there is"),
        "{error}"
    );

    let mut errors = Vec::new();
    let resume = |offset: usize| record::encode_offset(offset as u64);
    errors.push(
        lied_to(offers(MAX_BODY), async |side: &mut Side| {
            // It waits for the digest, and then says another place.
            assert_eq!(side.hear().await.unwrap().0.kind, Kind::Resume);
            side.say(Kind::Resume, 0, &resume(2 * MAX_BODY)).await;
            std::future::pending().await
        })
        .await,
    );
    errors.push(
        lied_to(offers(MAX_BODY), async |side: &mut Side| {
            side.hear().await.unwrap();
            side.say(Kind::Resume, 0, &[0; 7]).await;
            std::future::pending().await
        })
        .await,
    );
    errors.push(
        lied_to(yes, async |side: &mut Side| {
            side.say(Kind::Resume, 0, &resume(0)).await;
            std::future::pending().await
        })
        .await,
    );
    errors.push(
        lied_to(offers(MAX_BODY), async |side: &mut Side| {
            side.say(Kind::Ack, 0, record::ACK).await;
            std::future::pending().await
        })
        .await,
    );
    errors.push(
        lied_to(offers(MAX_BODY), async |side: &mut Side| {
            side.say(Kind::Ack, 5, record::ACK).await;
            std::future::pending().await
        })
        .await,
    );
    errors.push(
        lied_to(offers(MAX_BODY), async |side: &mut Side| {
            let again = peer::yes(&side.said.clone(), 2);
            side.say(Kind::Answer, 0, again.to_json().as_bytes()).await;
            std::future::pending().await
        })
        .await,
    );
    errors.push(
        lied_to(offers(MAX_BODY), async |side: &mut Side| {
            side.say(Kind::Close, 0, &[]).await;
            std::future::pending().await
        })
        .await,
    );
    for error in errors {
        assert_eq!(error.sentence, "the record cannot be read");
    }
}

// Many files in a session.

fn outgoing(world: &World, files: &[(&str, &[u8])]) -> Vec<SendJob> {
    let metas = files
        .iter()
        .map(|(name, bytes)| world.meta("photo", &world.file(name, bytes)));
    let metas: Vec<PathBuf> = metas.collect();
    metas
        .iter()
        .map(|meta| SendJob::open(meta).unwrap())
        .collect()
}

/// Sends all in as few sessions as it takes; what became of each, by its name.
async fn deliver_all(address: &str, all: Vec<SendJob>) -> Vec<(String, Result<Meta, Error>)> {
    let route = Route::find(None, Some(address), &all[0]).unwrap();
    let (give, mut jobs) = mpsc::channel(all.len());
    let (results, mut told) = mpsc::unbounded_channel();
    for out in all {
        give.try_send(out).ok().unwrap();
    }
    drop(give);
    let stop = std::future::pending();
    let _ = client::deliver_all(&route, &mut jobs, &results, &Unobserved, stop).await;
    drop(results);
    let mut ended = Vec::new();
    while let Some((out, result, _)) = told.recv().await {
        ended.push((out.meta().filename.clone(), result));
    }
    ended.sort_by(|(a, _), (b, _)| a.cmp(b));
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_files_in_a_session_each_has_its_own_end() {
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let (large, small) = (noise(30 * MIB), noise(100_000));
    let all = outgoing(
        &world,
        &[
            ("changes", &large),
            ("no", b"refused"),
            ("a", &small),
            ("b", b""),
            ("c", &small[..65_536]),
        ],
    );
    let relay = Relay::new(&server.address, MIB, Then::Wait, true).await;
    let address = relay.address.clone();
    let sending = tokio::spawn(async move { deliver_all(&address, all).await });
    until("it is under way", || relay.stands.load(Ordering::SeqCst)).await;
    let path = world.dir.path().join("changes");
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.write_all(b"new").unwrap();
    relay.go.send(true).unwrap();
    let ended = sending.await.unwrap();

    let names: Vec<&str> = ended.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "changes", "no"]);
    for (name, result) in &ended {
        match (name.as_str(), result) {
            ("changes", Err(error)) => {
                assert_eq!(error.code, Code::Failed);
                assert!(error.sentence.contains("changed while"), "{error}");
            }
            ("no", Err(error)) => {
                assert_eq!(
                    (error.code, &*error.sentence),
                    (Code::Refused, "not this one")
                );
            }
            (_, result) => drop(result.as_ref().unwrap()),
        }
    }
    assert_eq!(relay.connections(), 1, "one session is enough");
    let counter = server.stop().await;
    assert_eq!(ran(&counter, EventKind::Meta), 5);
    assert_eq!(ran(&counter, EventKind::Received), 3);
    assert_eq!(inbox(&world).len(), 3);
    let mut arrived: Vec<Vec<u8>> = (world.arrived(".data").iter())
        .map(|data| fs::read(world.photo().join(data)).unwrap())
        .collect();
    arrived.sort_by_key(Vec::len);
    assert!(arrived == [vec![], small[..65_536].to_vec(), small]);
    assert!(hidden(&world.photo()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_files_go_through_one_session_each_once() {
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let names: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
    let bytes = noise(70_000);
    let files: Vec<(&str, &[u8])> = (names.iter().enumerate())
        .map(|(n, name)| (name.as_str(), &bytes[..n * 230]))
        .collect();
    let relay = Relay::new(&server.address, usize::MAX, Then::Cut, true).await;
    let ended = deliver_all(&relay.address, outgoing(&world, &files)).await;
    for (n, (name, result)) in ended.iter().enumerate() {
        assert_eq!(*name, names[n]);
        assert_eq!(result.as_ref().unwrap().filesize, Some(n as u64 * 230));
    }
    assert_eq!((ended.len(), relay.connections()), (300, 1));
    // No more are under way than were allowed.
    // The opening asked for the first.
    let (mut open, mut most) = (1, 1);
    for (head, _) in relay.records(0) {
        match head.kind {
            Kind::Meta => open += 1,
            Kind::Trailer => open -= 1,
            _ => {}
        }
        most = most.max(open);
    }
    assert!(most <= FILES, "{most}");
    let counter = server.stop().await;
    assert_eq!(ran(&counter, EventKind::Meta), 300);
    assert_eq!(ran(&counter, EventKind::Received), 300);
    let mut seen = inbox(&world);
    seen.dedup();
    assert_eq!(seen.len(), 300, "each once");
    for meta in read_metas(&world.photo(), ".meta") {
        assert_eq!(
            meta.file_crc,
            Some(crc32fast::hash(&bytes[..meta.filesize.unwrap() as usize]))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_who_comes_again_takes_over_from_a_session_that_still_stands() {
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let bytes = noise(8 * MIB);
    let meta = world.meta("photo", &world.file("f", &bytes));
    let mut document = read_meta(&meta);
    document.id = Some(TransferId([7; 16]));
    fs::write(&meta, document.to_file()).unwrap();
    let copy = meta.with_file_name("copy.meta");
    fs::copy(&meta, &copy).unwrap();
    let relay = Relay::new(&server.address, 5 * MIB, Then::Wait, true).await;
    let stalled = {
        let (meta, address) = (meta.clone(), relay.address.clone());
        tokio::spawn(async move { deliver(&meta, &address).await })
    };
    until("the first session stands still", || {
        relay.stands.load(Ordering::SeqCst)
            && hidden(&world.photo())
                .first()
                .is_some_and(|path| len(path) > 4 * MIB)
    })
    .await;
    let second = Relay::new(&server.address, usize::MAX, Then::Wait, true).await;
    deliver(&copy, &second.address).await.unwrap();
    assert!(second.passed() < 5 * MIB, "it was resumed");
    assert_eq!(the_file(&world.photo()), bytes);
    relay.go.send(true).unwrap();
    let error = stalled.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::Later);
    assert!(error.sentence.contains("took over"), "{error}");
    let counter = server.stop().await;
    assert_eq!(ran(&counter, EventKind::Received), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_twice_in_a_session_is_under_way_and_then_delivered_before() {
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let bytes = noise(4 * MIB);
    let first = world.meta("photo", &world.file("f", &bytes));
    let mut meta = read_meta(&first);
    meta.id = Some(TransferId([7; 16]));
    fs::write(&first, meta.to_file()).unwrap();
    let out = |name: &str| {
        let copy = first.with_file_name(name);
        fs::copy(&first, &copy).unwrap();
        SendJob::open(&copy).unwrap()
    };
    let (second, third) = (out("second.meta"), out("third.meta"));
    let first = SendJob::open(&first).unwrap();
    let relay = Relay::new(&server.address, MIB, Then::Wait, true).await;
    let route = Route::find(None, Some(&relay.address), &first).unwrap();
    let (give, mut jobs) = mpsc::channel(3);
    let (results, mut told) = mpsc::unbounded_channel();
    let sending = tokio::spawn(async move {
        let stop = std::future::pending();
        let _ = client::deliver_all(&route, &mut jobs, &results, &Unobserved, stop).await;
    });
    give.send(first).await.unwrap();
    give.send(second).await.unwrap();
    let (out, result, _) = told.recv().await.unwrap();
    assert!(out.path().ends_with("second.meta"));
    let error = result.unwrap_err();
    assert_eq!(error.code, Code::Later);
    assert!(error.sentence.contains("under way already"), "{error}");
    relay.go.send(true).unwrap();
    let (_, result, _) = told.recv().await.unwrap();
    let sent = result.unwrap();
    let before = relay.passed();
    give.send(third).await.unwrap();
    let (out, result, _) = told.recv().await.unwrap();
    assert!(out.path().ends_with("third.meta"));
    let delivered = result.unwrap();
    assert_eq!((delivered.id, delivered.file_crc), (sent.id, sent.file_crc));
    drop(give);
    sending.await.unwrap();
    assert!(relay.passed() < before + 4_096, "the file was sent again");
    assert_eq!(relay.connections(), 1);
    assert!(the_file(&world.photo()) == bytes);
    let counter = server.stop().await;
    assert_eq!(ran(&counter, EventKind::Meta), 1);
    assert_eq!(ran(&counter, EventKind::Received), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_goes_on_within_a_session_of_many() {
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let large = noise(4 * MIB);
    let (meta, partial) = broken(&world, &server, &world.file("f", &large), MIB * 2).await;
    let held = len(&partial) / MAX_BODY * MAX_BODY;
    anew(&meta);
    let mut all = outgoing(&world, &[("a", b"before")]);
    all.push(SendJob::open(&meta).unwrap());
    all.extend(outgoing(&world, &[("z", b"behind")]));
    let relay = Relay::through(&server.address).await;
    for (name, result) in deliver_all(&relay.address, all).await {
        result.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let sent: usize = relay.blocks(0).iter().map(Vec::len).sum();
    assert_eq!(sent, large.len() - held + b"before".len() + b"behind".len());
    assert_eq!((relay.connections(), inbox(&world).len()), (1, 3));
    server.stop().await;
    let there = |data: &String| fs::read(world.photo().join(data)).unwrap() == large;
    assert!(world.arrived(".data").iter().any(there));
}

// Peers of an earlier version.

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_cannot_resume_is_served_as_before() {
    let world = hooked();
    let server = Local::serve(&world.there).await;
    let bytes = noise(5 * MAX_BODY);
    let file = world.file("f", &bytes);
    let (meta, _) = broken(&world, &server, &file, 3 * MAX_BODY).await;
    let mut asked = peer::meta(1, bytes.len());
    asked.id = read_meta(&meta.with_extension("failed")).id;
    let asked = peer::request(asked, Features::default());
    let mut side = peer::open(&server.address, &asked).await;
    let reply = side.said.clone();
    assert_eq!(reply.offset, 0);
    side.with_key(0, &reply);
    side.blocks(0, &bytes).await;
    side.trailer(0, &bytes).await;
    assert_eq!(side.hear().await.unwrap().0.kind, Kind::Ack);
    side.say(Kind::Close, 0, &[]).await;
    assert!(side.hear().await.is_none());
    assert!(the_file(&world.photo()) == bytes);
    assert!(hidden(&world.photo()).is_empty());
    let counter = server.stop().await;
    assert_eq!(ran(&counter, EventKind::Received), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_of_one_file_a_session_gets_a_session_for_each() {
    let world = World::new(OPEN);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (small, large) = (noise(10), noise(3 * MAX_BODY));
    let all = outgoing(&world, &[("a", &small), ("b", &large), ("c", b"")]);
    let receiving = tokio::spawn(async move {
        let mut files = Vec::new();
        for _ in 0..3 {
            let mut side = peer::accept(&listener, |asked| peer::yes(asked, 1)).await;
            let reply = peer::yes(&side.said, 1);
            side.with_key(0, &reply);
            let mut file = Vec::new();
            loop {
                let (head, body) = side.hear().await.unwrap();
                match head.kind {
                    Kind::Block => file.extend(body),
                    Kind::Trailer => {
                        break assert_eq!(body, record::encode_trailer(crc32fast::hash(&file)));
                    }
                    kind => panic!("the sender said {kind:?}"),
                }
            }
            side.say(Kind::Ack, 0, record::ACK).await;
            assert_eq!(
                side.hear().await.map(|(head, _)| head.kind),
                Some(Kind::Close)
            );
            assert!(side.hear().await.is_none());
            files.push(file);
        }
        files
    });
    for (name, result) in deliver_all(&address, all).await {
        result.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(receiving.await.unwrap() == [small, large, Vec::new()]);
}

//! Faults: records that come wrong, crowds of strangers, wrong clocks, signals, full disks,
//! no descriptors left, cut connections. What was sent arrives right, or its sender knows.
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
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    Local, M2Y, OPEN, PETER, Process, ROLAND, Random, World, ZHENQIANG, deliver, document,
    introduce, key, name, names, noise, person, said,
    store::{Call, Moment, Watched},
};
use m2y::{
    crypto::{
        SysRng,
        keys::{PrivateKey, PublicKey},
    },
    error::Code,
    meta::{TransferId, Wire},
    root::Root,
    store::{Store, local::LocalStore},
    wire::{
        envelope::{self, Contents, Part, Sealed},
        header::{AnswerHeader, Header, Turned},
        record::{Head, Kind, Stream},
        session::{self, Direction, SessionKeys, Share},
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use zeroize::Zeroizing;

/// Longer than anything here takes: who waits so long waits for what never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
fn until(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    // Whatever else runs in this process goes on meanwhile.
    tokio::task::block_in_place(|| {
        while !so() {
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

fn settings(world: &World, ini: &str) {
    for root in [&world.here, &world.there] {
        fs::write(root.path().join("m2y.ini"), ini).unwrap();
    }
}

/// `m2y send` of a `.meta` or a `.failed`, begun.
fn sending(address: &str, paths: &[PathBuf]) -> Child {
    Command::new(M2Y)
        .args(["send", "--server", address])
        .args(paths)
        .env_remove("M2Y_ROOT")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn send(address: &str, path: &Path) -> Output {
    let child = sending(address, &[path.to_owned()]);
    child.wait_with_output().unwrap()
}

/// Sends the `.failed` of a `.meta` until it is delivered: a server lets go of what was cut
/// off a moment after its sender did.
fn send_until_delivered(address: &str, meta: &Path) {
    let failed = meta.with_extension("failed");
    until("the file is delivered", || {
        send(address, &failed).status.success()
    });
}

/// The contents of the one file that is in a folder.
fn the_file(folder: &Path) -> Vec<u8> {
    let data = names(folder, ".data");
    assert_eq!(data.len(), 1, "{data:?}");
    fs::read(folder.join(&data[0])).unwrap()
}

/// Descriptors that a process has open.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// How many of them are sockets.
fn sockets(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Bytes of the hidden file of a transfer that was cut.
fn held(folder: &Path) -> u64 {
    let hidden = names(folder, ".partial").pop();
    hidden.map_or(0, |hidden| {
        fs::metadata(folder.join(hidden)).map_or(0, |about| about.len())
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

// Records.

#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Drop,
    Double,
    /// It comes after the one that follows.
    Swap,
    /// Half of it comes, and then nothing more.
    Cut,
}

/// One side's message before its records, or a record.
async fn frame(from: &mut (impl AsyncRead + Unpin), first: Option<usize>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; first.unwrap_or(12)];
    from.read_exact(&mut bytes).await.ok()?;
    let at = if first.is_some() { 4 } else { 8 };
    let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let head = bytes.len();
    bytes.resize(head + len + if first.is_some() { 0 } else { 16 }, 0);
    from.read_exact(&mut bytes[head..]).await.ok()?;
    Some(bytes)
}

/// Passes frames on and does harm to one of them; true if it cut.
async fn pass_frames(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    first: usize,
    harm: Option<(usize, Harm)>,
    harmed: &AtomicBool,
) -> bool {
    let (mut index, mut held) = (0, Vec::new());
    while let Some(bytes) = frame(&mut from, (index == 0).then_some(first)).await {
        let now = match harm.filter(|(at, _)| *at == index) {
            None => [bytes, std::mem::take(&mut held)].concat(),
            Some((_, harm)) => {
                harmed.store(true, Ordering::SeqCst);
                match harm {
                    Harm::Drop => Vec::new(),
                    Harm::Double => [bytes.clone(), bytes].concat(),
                    Harm::Swap => {
                        held = bytes;
                        Vec::new()
                    }
                    Harm::Cut => {
                        let _ = to.write_all(&bytes[..bytes.len() / 2]).await;
                        return true;
                    }
                }
            }
        };
        index += 1;
        if to.write_all(&now).await.is_err() {
            break;
        }
    }
    let _ = to.write_all(&held).await;
    let _ = to.shutdown().await;
    false
}

/// A proxy for one session that harms a frame of the client's or of the server's.
async fn harming(server: String, up: bool, harm: (usize, Harm)) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let harmed = Arc::new(AtomicBool::new(false));
    let flag = harmed.clone();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let upstream = TcpStream::connect(server).await.unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = upstream.into_split();
        let (harm_up, harm_down) = if up {
            (Some(harm), None)
        } else {
            (None, Some(harm))
        };
        let up = pass_frames(from_client, to_server, 24, harm_up, &flag);
        let down = pass_frames(from_server, to_client, 8, harm_down, &flag);
        tokio::pin!(up, down);
        tokio::select! {
            cut = &mut up => if !cut { down.await; },
            cut = &mut down => if !cut { up.await; },
        }
    });
    (address, harmed)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_dropped_doubled_swapped_or_cut_never_make_another_file() {
    // The client says: opening, three blocks, trailer, close; the server: answer, ACK.
    let cases = [(true, 0..6), (false, 0..2)]
        .into_iter()
        .flat_map(|(up, frames)| frames.map(move |at| (up, at)))
        .flat_map(|(up, at)| {
            [Harm::Drop, Harm::Double, Harm::Swap, Harm::Cut].map(|harm| (up, at, harm))
        });
    let slots = Arc::new(tokio::sync::Semaphore::new(12));
    let mut running = JoinSet::new();
    for (up, at, harm) in cases {
        let slots = slots.clone();
        running.spawn(async move {
            let _slot = slots.acquire_owned().await.unwrap();
            let world = World::new(OPEN);
            settings(
                &world,
                "[server]\nopening_deadline = 1s\nidle_deadline = 1s\n",
            );
            let server = Local::serve(&world.there).await;
            let bytes = noise(2 * 65_536 + 100);
            let meta = world.meta("photo", &world.file("f", &bytes));
            let (proxy, harmed) = harming(server.address.clone(), up, (at, harm)).await;
            let sent = deliver(&meta, &proxy).await;
            let case = format!(
                "{harm:?} of frame {at}, up: {up}: {:?}",
                sent.as_ref().err()
            );
            for data in world.arrived(".data") {
                assert!(
                    fs::read(world.photo().join(data)).unwrap() == bytes,
                    "{case}"
                );
            }
            if sent.is_ok() {
                the_file(&world.photo());
            } else {
                // It is sent again, beside it another one, and each is there once.
                let begun = Instant::now();
                loop {
                    fs::rename(meta.with_extension("failed"), &meta).unwrap();
                    match deliver(&meta, &server.address).await {
                        Ok(_) => break,
                        Err(error) => assert!(begun.elapsed() < PATIENCE, "{case}: {error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                assert!(the_file(&world.photo()) == bytes, "{case}");
            }
            let other = world.file("other", b"another");
            world.deliver(&server.address, &other).await.unwrap();
            assert_eq!(world.arrived(".data").len(), 2, "{case}");
            until("the harm is done", || harmed.load(Ordering::SeqCst));
            server.stop().await;
            (up, at, harm, sent.is_ok())
        });
    }
    let mut passed = Vec::new();
    while let Some(done) = running.join_next().await {
        let (up, at, harm, ok) = done.unwrap();
        if ok {
            passed.push((up, at, harm));
        }
    }
    // A sender is content only where all that counts had come before the harm, or the
    // trailer or the ACK came twice.
    for (up, at, harm) in passed {
        let late = up && at == 5 || harm == Harm::Double && (up && at == 4 || !up && at == 1);
        let last = !up && at == 1 && harm == Harm::Swap;
        assert!(
            late || last,
            "{harm:?} of frame {at}, up: {up} was not noticed"
        );
    }
}

// Strangers.

/// An opening with whatever time, and what its writer keeps.
struct Asked {
    bytes: Vec<u8>,
    share: Share,
    sealed: Sealed,
}

fn ask(from: &str, to: &str, signer: &PrivateKey, receiver: &PublicKey, time: u64) -> Asked {
    let mut meta = document(ZHENQIANG, ROLAND, "photo");
    meta.filename = "f".to_owned();
    meta.datetime = "30-12-2018_23-59-59".to_owned();
    meta.filesize = Some(5);
    meta.id = Some(TransferId(m2y::crypto::random().unwrap()));
    let json = Wire::request(meta).to_json();
    let share = Share::new(&mut SysRng).unwrap();
    let header = Header {
        envelope_len: envelope::sealed_len(json.len(), signer.public(), receiver).unwrap(),
        from: name(from).hash(),
        to: name(to).hash(),
    }
    .encode();
    let contents = Contents {
        time,
        share: share.public,
        json: Zeroizing::new(json.as_bytes().to_vec()),
    };
    let opening = Part::Opening;
    let sealed =
        envelope::seal(opening, &header, &contents, signer, receiver, &mut SysRng).unwrap();
    Asked {
        bytes: [header.as_slice(), &sealed.bytes].concat(),
        share,
        sealed,
    }
}

fn private(who: &str) -> PrivateKey {
    PrivateKey::from_pem(&key(who)).unwrap()
}

/// What the server answers to some bytes, until it closes.
async fn answer(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the server held on");
    answer
}

/// Openings that are well formed and whose sender is nobody.
fn strange_openings() -> Vec<Vec<u8>> {
    let (stranger, zhenqiang, roland) = (private("stranger"), private(ZHENQIANG), private(ROLAND));
    let now = m2y::clock::millis();
    let genuine = ask(ZHENQIANG, ROLAND, &zhenqiang, roland.public(), now).bytes;
    let mut changed = genuine.clone();
    *changed.last_mut().unwrap() ^= 1;
    let noisy = [&genuine[..24], &noise(genuine.len() - 24)].concat();
    vec![
        ask("nobody", ROLAND, &stranger, roland.public(), now).bytes,
        ask(ZHENQIANG, PETER, &zhenqiang, roland.public(), now).bytes,
        ask(ZHENQIANG, ROLAND, &stranger, roland.public(), now).bytes,
        changed,
        noisy,
    ]
}

const CROWD: &str = "[server]\nmax_connections = 10000\nmax_connections_per_address = 10000\n";

#[tokio::test(flavor = "multi_thread")]
async fn no_private_key_is_touched_for_strangers_and_a_thousand_of_them_hold_nobody_up() {
    let world = World::new(OPEN);
    settings(&world, CROWD);
    let server = Process::serve(&world.there);
    let (zhenqiang, roland) = (private(ZHENQIANG), private(ROLAND));
    let ask_now = || {
        let now = m2y::clock::millis();
        ask(ZHENQIANG, ROLAND, &zhenqiang, roland.public(), now).bytes
    };
    // One that was had before counts as a stranger's.
    let had = ask_now();
    assert_eq!(answer(&server.address, &had).await[..4], [0, 1, 0, 0]);
    let mut openings = strange_openings();
    openings.push(had);
    let openings = Arc::new(openings);
    // Without its key the server could not go on: it would say that it is at fault.
    let key = world.receiver.path().join("privateKey/roland-frei.data");
    let away = key.with_extension("away");
    fs::rename(&key, &away).unwrap();

    let mut crowd = JoinSet::new();
    for n in 0..100 {
        let (address, openings) = (server.address.clone(), openings.clone());
        crowd.spawn(async move {
            let mut answers = Vec::new();
            for m in 0..10 {
                answers.push(answer(&address, &openings[(n + m) % openings.len()]).await);
            }
            answers
        });
    }
    let mut answers = 0;
    while let Some(some) = crowd.join_next().await {
        for answer in some.unwrap() {
            assert_eq!(answer, AnswerHeader::Turned(Turned::Stranger).encode());
            answers += 1;
        }
    }
    assert_eq!(answers, 1_000);
    // A contact gets further: there the key is missed.
    let at_fault = AnswerHeader::Turned(Turned::Busy).encode();
    assert_eq!(answer(&server.address, &ask_now()).await, at_fault);
    fs::rename(&away, &key).unwrap();
    let file = world.file("f", b"x");
    world.deliver(&server.address, &file).await.unwrap();
    assert_eq!(the_file(&world.photo()), b"x");
}

/// A connection that announces an opening and lets a byte of it come now and then; ends
/// when the server has closed it.
async fn trickle(address: String, every: Duration) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = Header {
        envelope_len: 65_536,
        from: name(ZHENQIANG).hash(),
        to: name(ROLAND).hash(),
    };
    let (mut read, mut write) = stream.split();
    let mut nothing = [0; 1];
    let mut bytes = head.encode().into_iter().chain(std::iter::repeat(0));
    let dribble = async {
        loop {
            let byte = bytes.next().unwrap();
            if write.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(every).await;
        }
    };
    tokio::select! {
        closed = read.read(&mut nothing) => assert!(matches!(closed, Ok(0) | Err(_))),
        () = dribble => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_send_a_byte_now_and_then_are_let_go_and_hold_nobody_up() {
    let world = World::new(OPEN);
    settings(&world, &format!("{CROWD}opening_deadline = 6s\n"));
    let server = Process::serve(&world.there);
    let before = descriptors(server.child.id());
    let mut crowd = JoinSet::new();
    for _ in 0..1_000 {
        let address = server.address.clone();
        crowd.spawn(trickle(address, Duration::from_millis(300)));
    }
    let pid = server.child.id();
    // Long before the deadline of the first, also on a busy machine.
    until("they are all there", || descriptors(pid) > before + 900);
    let bytes = noise(8 << 20);
    let file = world.file("f", &bytes);
    world.deliver(&server.address, &file).await.unwrap();
    assert!(the_file(&world.photo()) == bytes);
    // Their openings would take hours; the deadline counts for all of one.
    let gone = async { while crowd.join_next().await.is_some_and(|end| end.is_ok()) {} };
    let gone = tokio::time::timeout(PATIENCE, gone).await;
    gone.expect("the server held on to slow strangers");
    assert!(crowd.is_empty());
    until("their descriptors are free", || {
        descriptors(pid) <= before + 20
    });
}

/// Sends so many strange openings a second until it is told to stop; returns how many.
async fn besiege(address: String, a_second: u64, mut stop: watch::Receiver<bool>) -> u64 {
    let openings = Arc::new(strange_openings());
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / a_second));
    let (mut sent, mut crowd) = (0, JoinSet::new());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.changed() => break,
        }
        let (address, openings) = (address.clone(), openings.clone());
        let which = sent as usize % openings.len();
        crowd.spawn(async move {
            let answer = answer(&address, &openings[which]).await;
            assert_eq!(answer, AnswerHeader::Turned(Turned::Stranger).encode());
        });
        sent += 1;
        while let Some(done) = crowd.try_join_next() {
            done.unwrap();
        }
    }
    while let Some(done) = crowd.join_next().await {
        done.unwrap();
    }
    sent
}

/// `TMPDIR=/dev/shm cargo test --release --test torture crowds -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures speed, takes minutes, needs 4 GB"]
async fn crowds_of_strangers_take_less_than_a_tenth_of_the_speed() {
    let world = World::new(OPEN);
    settings(&world, CROWD);
    let server = Process::serve(&world.there);
    let file = world.file("f", &noise(1 << 30));
    let timed = async || {
        let (address, file) = (server.address.clone(), file.clone());
        let meta = world.meta("photo", &file);
        let begun = Instant::now();
        // A process of its own, as people have.
        let sent = tokio::task::spawn_blocking(move || send(&address, &meta));
        let sent = sent.await.unwrap();
        let time = begun.elapsed().as_secs_f64();
        assert!(sent.status.success(), "{}", said(&sent));
        for arrived in world.arrived(".data") {
            fs::remove_file(world.photo().join(arrived)).unwrap();
        }
        time
    };
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (mut quiet, mut slow, mut strange) = (Vec::new(), Vec::new(), Vec::new());
    let mut rates = Vec::new();
    timed().await;
    for _ in 0..5 {
        quiet.push(timed().await);

        let mut crowd = JoinSet::new();
        for _ in 0..1_000 {
            let address = server.address.clone();
            crowd.spawn(trickle(address, Duration::from_secs(10)));
        }
        let pid = server.child.id();
        tokio::task::block_in_place(|| until("they are there", || descriptors(pid) > 900));
        slow.push(timed().await);
        crowd.shutdown().await;
        tokio::task::block_in_place(|| until("they are gone", || descriptors(pid) < 100));

        let (stop, stopping) = watch::channel(false);
        let siege = tokio::spawn(besiege(server.address.clone(), 1_000, stopping));
        let begun = Instant::now();
        strange.push(timed().await);
        stop.send(true).unwrap();
        rates.push(siege.await.unwrap() as f64 / begun.elapsed().as_secs_f64());
    }
    let quiet = median(&mut quiet);
    let (slow, strange) = (quiet / median(&mut slow), quiet / median(&mut strange));
    eprintln!(
        "1 GiB takes {quiet:.2} s; beside 1,000 slow connections {slow:.2} of the speed; \
         beside {:.0} strange openings a second {strange:.2}",
        median(&mut rates)
    );
    assert!(slow >= 0.9 && strange >= 0.9);
}

// Clocks.

const DAY: u64 = 86_400_000;

/// A whole session by hand, of a sender whose clock says `time`.
async fn session_at(address: &str, time: u64) {
    let (zhenqiang, roland) = (private(ZHENQIANG), private(ROLAND));
    let asked = ask(ZHENQIANG, ROLAND, &zhenqiang, roland.public(), time);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&asked.bytes).await.unwrap();
    let answer = frame(&mut stream, Some(8)).await.unwrap();
    let (head, sealed) = answer.split_at(8);
    let digest = session::opening_digest(&asked.bytes[..24], &asked.bytes[24..]);
    let bound = [&digest, head].concat();
    let opened = envelope::verify(Part::Answer, &bound, sealed, roland.public())
        .unwrap()
        .open(&zhenqiang)
        .unwrap();
    let reply = Wire::from_json(&opened.contents.json).unwrap();
    let filekey = reply.filekey.expect(&reply.meta.error);
    let transcript = session::transcript(&digest, &[head, sealed]);
    let keys = SessionKeys::derive(
        asked.share,
        &opened.contents.share,
        &asked.sealed.secret,
        &opened.secret,
        &transcript,
    )
    .unwrap();
    let mut blocks =
        Stream::new(&keys.block_key(&filekey, &reply.meta.id.unwrap(), Direction::ToServer, 0))
            .unwrap();
    let head = Head {
        kind: Kind::Block,
        last: true,
        transfer: 0,
        len: 5,
    };
    let mut block = [&[0; 12], b"hello".as_slice(), &[0; 16]].concat();
    blocks.seal(head, &mut block).unwrap();
    let crc = u64::from(crc32fast::hash(b"hello")).to_be_bytes();
    let mut records = Stream::new(&keys.client).unwrap();
    let trailer = records.record(Kind::Trailer, 0, &crc).unwrap();
    stream.write_all(&[block, trailer].concat()).await.unwrap();
    loop {
        let record = frame(&mut stream, None).await.expect("an ACK");
        let head = Head::decode(record.first_chunk().unwrap()).unwrap();
        match head.kind {
            Kind::Ack => return,
            kind => assert_eq!(kind, Kind::Working),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_whose_clock_is_a_day_off_or_is_set_right_delivers() {
    let world = World::new(OPEN);
    let server = Local::serve(&world.there).await;
    let now = m2y::clock::millis();
    for (n, time) in [now, now + DAY, now - DAY, now].into_iter().enumerate() {
        session_at(&server.address, time).await;
        assert_eq!(world.arrived(".data").len(), n + 1);
    }
    for data in world.arrived(".data") {
        assert_eq!(fs::read(world.photo().join(data)).unwrap(), b"hello");
    }
}

#[test]
fn a_clock_behind_all_that_is_remembered_is_one_clear_sentence() {
    let world = World::new(OPEN);
    // As after 32,768 openings by a clock that was a day ahead: all up to then is forgotten.
    let openings = world.receiver.path().join(".openings");
    fs::create_dir(&openings).unwrap();
    let floor = (m2y::clock::millis() + DAY).to_be_bytes();
    fs::write(
        openings.join(ZHENQIANG),
        [floor.as_slice(), &[0; 16]].concat(),
    )
    .unwrap();
    let server = Process::serve(&world.there);
    let meta = world.meta("photo", &world.file("f", b"x"));
    let output = send(&server.address, &meta);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("check this machine's clock"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(world.arrived(".data").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_whose_clock_is_a_day_off_is_believed() {
    for time in [m2y::clock::millis() + DAY, m2y::clock::millis() - DAY] {
        let world = World::new(OPEN);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (zhenqiang, roland) = (private(ZHENQIANG), private(ROLAND));
            let (mut stream, _) = listener.accept().await.unwrap();
            let opening = frame(&mut stream, Some(24)).await.unwrap();
            let (header, sealed) = opening.split_at(24);
            let opened = envelope::verify(Part::Opening, header, sealed, zhenqiang.public())
                .unwrap()
                .open(&roland)
                .unwrap();
            let mut reply = Wire::from_json(&opened.contents.json).unwrap();
            reply.meta.error = "not today".to_owned();
            reply.code = Code::Refused.word().to_owned();
            let json = reply.to_json();
            let len = envelope::sealed_len(json.len(), roland.public(), zhenqiang.public());
            let head = AnswerHeader::Envelope(len.unwrap()).encode();
            let contents = Contents {
                time,
                share: Share::new(&mut SysRng).unwrap().public,
                json: Zeroizing::new(json.as_bytes().to_vec()),
            };
            let bound = [&session::opening_digest(header, sealed), head.as_slice()].concat();
            let (part, to) = (Part::Answer, zhenqiang.public());
            let sealed = envelope::seal(part, &bound, &contents, &roland, to, &mut SysRng).unwrap();
            let answer = [head.as_slice(), &sealed.bytes].concat();
            stream.write_all(&answer).await.unwrap();
            let _ = stream.read(&mut [0]).await;
        });
        let file = world.file("f", b"x");
        let error = world.deliver(&address, &file).await.unwrap_err();
        assert_eq!((error.code, &*error.sentence), (Code::Refused, "not today"));
    }
}

// Relays that hold back, and cut.

/// What a relay does with a connection, by its number, once its first bytes have passed
/// and the word was given.
type Pace = fn(usize) -> Option<Duration>;

struct Relay {
    address: String,
    /// Connections whose first bytes have passed.
    reached: Arc<AtomicUsize>,
    go: watch::Sender<bool>,
}

impl Relay {
    /// Passes `first` bytes of each client, holds the rest until the word, and then lets
    /// pass 4 KiB at each pace.
    async fn new(server: String, first: usize, pace: Pace) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (go, going) = watch::channel(false);
        let reached = Arc::new(AtomicUsize::new(0));
        let count = reached.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                let (server, going, count) = (server.clone(), going.clone(), count.clone());
                tokio::spawn(Self::pass(
                    client,
                    server,
                    first,
                    pace(number),
                    going,
                    count,
                ));
            }
        });
        Self {
            address,
            reached,
            go,
        }
    }

    async fn pass(
        mut client: TcpStream,
        server: String,
        first: usize,
        pace: Option<Duration>,
        mut going: watch::Receiver<bool>,
        reached: Arc<AtomicUsize>,
    ) {
        let Ok(mut upstream) = TcpStream::connect(server).await else {
            return;
        };
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = upstream.split();
        let up = async {
            let mut some = (&mut from_client).take(first as u64);
            let passed = tokio::io::copy(&mut some, &mut to_server).await?;
            if passed == first as u64 {
                reached.fetch_add(1, Ordering::SeqCst);
                let _ = going.wait_for(|go| *go).await;
            }
            let mut piece = vec![0; 4_096];
            loop {
                let read = from_client.read(&mut piece).await?;
                to_server.write_all(&piece[..read]).await?;
                if read == 0 {
                    return to_server.shutdown().await;
                }
                if let Some(pace) = pace {
                    tokio::time::sleep(pace).await;
                }
            }
        };
        let down = async {
            tokio::io::copy(&mut from_server, &mut to_client).await?;
            to_client.shutdown().await
        };
        let _ = tokio::join!(up, down);
    }
}

// Signals.

/// The server is told to go while fifty senders are in the middle of a file, half of them
/// too slow to come to an end.
async fn terminated(ini: &str) -> Duration {
    const SENDERS: usize = 50;
    let world = World::new(OPEN);
    settings(&world, ini);
    let mut server = Process::serve(&world.there);
    let relay = Relay::new(server.address.clone(), 300_000, |number| {
        (number % 2 == 1).then_some(Duration::from_millis(500))
    })
    .await;
    let metas: Vec<PathBuf> = (0..SENDERS)
        .map(|n| world.meta("photo", &world.file(&format!("{n}"), &noise(500_000 + n))))
        .collect();
    let senders: Vec<Child> = metas
        .iter()
        .map(|meta| sending(&relay.address, std::slice::from_ref(meta)))
        .collect();
    let reached = relay.reached.clone();
    tokio::task::block_in_place(|| {
        until("all are under way", || {
            reached.load(Ordering::SeqCst) == SENDERS
        });
    });
    let begun = Instant::now();
    common::terminate(&server.child);
    relay.go.send(true).unwrap();
    let ended = tokio::task::block_in_place(|| server.child.wait().unwrap());
    let took = begun.elapsed();
    assert_eq!(ended.code(), Some(0));
    let mut codes = Vec::new();
    for sender in senders {
        let output = tokio::task::block_in_place(|| sender.wait_with_output().unwrap());
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 5)), "{}", said(&output));
        codes.push(code.unwrap());
    }
    assert!(codes.contains(&0) && codes.contains(&5), "{codes:?}");
    let failed: Vec<PathBuf> = metas
        .iter()
        .map(|meta| meta.with_extension("failed"))
        .filter(|failed| failed.exists())
        .collect();
    assert_eq!(
        failed.len(),
        codes.iter().filter(|code| **code == 5).count()
    );

    let server = Process::serve(&world.there);
    let output = tokio::task::block_in_place(|| {
        let sending = sending(&server.address, &failed);
        sending.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{}", said(&output));
    let mut lens: Vec<usize> = world
        .arrived(".data")
        .iter()
        .map(|data| {
            let bytes = fs::read(world.photo().join(data)).unwrap();
            assert!(bytes == noise(bytes.len()), "{data}");
            bytes.len()
        })
        .collect();
    lens.sort_unstable();
    assert_eq!(lens, (500_000..500_000 + SENDERS).collect::<Vec<_>>());
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_go_amid_fifty_transfers_leaves_none_in_doubt() {
    terminated("[server]\nshutdown_deadline = 1s\n").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute"]
async fn a_server_that_is_told_to_go_amid_fifty_transfers_is_gone_within_thirty_seconds() {
    let took = terminated("").await;
    eprintln!("gone after {took:.1?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

// Disks.

/// A small file system of its own, while this lives.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, and a note, where this may not be.
    fn new(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={size}"), "m2y-test"])
                .arg(at)
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("SKIPPED: only root can mount a small disk, and not everywhere");
            return None;
        }
        Some(Self(at.to_owned()))
    }

    /// Leaves no room; returns what to remove for room again.
    fn fill(&self) -> PathBuf {
        let path = self.0.join(".filler");
        let mut file = fs::File::create(&path).unwrap();
        for piece in [65_536, 1] {
            while file.write(&noise(piece)).is_ok_and(|written| written > 0) {}
        }
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_amid_a_file_is_told_and_holds_up_nobody_else() {
    let world = World::new(OPEN);
    let peter = person(&world.there, PETER);
    introduce(&world.sender, &peter);
    let folder = peter.create_folder(&name("photo")).unwrap();
    fs::write(folder.path_of("m2y.config"), OPEN).unwrap();
    let Some(disk) = Mounted::new(&world.photo(), "8m") else {
        return;
    };
    fs::write(world.photo().join("m2y.config"), OPEN).unwrap();
    let server = Process::serve(&world.there);
    let to_peter = |file: &str| {
        let output = Command::new(M2Y)
            .args([
                "send", "--from", ZHENQIANG, "--to", PETER, "--folder", "photo",
            ])
            .args(["--server", &server.address, "--root"])
            .arg(world.here.path())
            .arg(world.file(file, file.as_bytes()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
    };
    to_peter("first");
    let small = world.meta("photo", &world.file("small", b"small"));
    assert!(send(&server.address, &small).status.success());
    fs::remove_file(world.photo().join(&world.arrived(".data")[0])).unwrap();
    let pid = server.child.id();
    let before = descriptors(pid);

    let bytes = noise(3 << 20);
    let meta = world.meta("photo", &world.file("f", &bytes));
    let relay = Relay::new(server.address.clone(), 1 << 20, |_| None).await;
    let sender = sending(&relay.address, std::slice::from_ref(&meta));
    let reached = relay.reached.clone();
    tokio::task::block_in_place(|| {
        until("it is under way", || reached.load(Ordering::SeqCst) == 1);
        let filler = disk.fill();
        relay.go.send(true).unwrap();
        let output = sender.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", said(&output));
        assert!(said(&output).contains("no room"), "{}", said(&output));
        assert!(world.arrived(".data").is_empty());
        to_peter("second");
        let failed = meta.with_extension("failed");
        let output = send(&server.address, &failed);
        assert_eq!(output.status.code(), Some(5), "{}", said(&output));
        fs::remove_file(filler).unwrap();
        send_until_delivered(&server.address, &meta);
        assert!(the_file(&world.photo()) == bytes);
        assert_eq!(names(&peter.path().join("photo"), ".data").len(), 2);
        until("no descriptor is left behind", || {
            descriptors(pid) <= before
        });
    });
}

#[test]
fn a_directory_on_another_disk_takes_no_file_and_says_so() {
    let world = World::new(&format!("[OnMeta]\n[share]\n{ZHENQIANG} = put\n"));
    let Some(_disk) = Mounted::new(&world.photo().join("other"), "8m") else {
        return;
    };
    let server = Process::serve(&world.there);
    let output = Command::new(M2Y)
        .args(["put", "--server", &server.address, "--root"])
        .arg(world.here.path())
        .arg(world.file("f", b"f"))
        .arg("roland-frei:photo/other/f")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("on a different disk"),
        "{}",
        said(&output)
    );
    assert!(world.arrived(".meta").is_empty());
}

#[test]
fn a_root_whose_disk_is_full_has_senders_try_later_and_recovers() {
    let world = World::new("[OnMeta]\n[OnReceived]\nnote.rhai\n");
    world.script("note.rhai", "notify.inbox(meta.filename);");
    let Some(disk) = Mounted::new(&world.dir.path().join("disk"), "8m") else {
        return;
    };
    let copied = Command::new("cp")
        .arg("-a")
        .arg(world.there.path())
        .arg(&disk.0)
        .status()
        .unwrap();
    assert!(copied.success());
    let root = Root::open(&disk.0.join("there")).unwrap();
    let mut server = Process::serve(&root);
    let folder = root.path().join("user/roland-frei/photo");
    let filler = disk.fill();
    let metas: Vec<PathBuf> = (0..5_usize)
        .map(|n| world.meta("photo", &world.file(&format!("{n}"), &noise(100_000 + n))))
        .collect();
    for meta in &metas {
        let output = send(&server.address, meta);
        assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    }
    assert!(server.is_alive());
    assert!(names(&folder, ".data").is_empty());
    fs::remove_file(filler).unwrap();
    for meta in &metas {
        send_until_delivered(&server.address, meta);
    }
    assert_eq!(server.stop(), Some(0));
    assert_eq!(names(&folder, ".data").len(), metas.len());
    let inbox = fs::read_to_string(root.path().join("user/roland-frei/inbox.log")).unwrap();
    assert_eq!(inbox.lines().count(), metas.len(), "{inbox}");
}

/// A server whose limits a shell has set before.
fn limited(world: &World, limits: &str) -> Process {
    let log = fs::File::create(world.dir.path().join("log")).unwrap();
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("{limits}; exec \"$0\" \"$@\""))
        .arg(M2Y)
        .args(["serve", "--listen", "127.0.0.1:0", "--root"])
        .arg(world.there.path())
        .stdout(Stdio::piped())
        .stderr(log)
        .env("NO_COLOR", "1")
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ");
    Process {
        address: address.expect("the server did not start").to_owned(),
        child,
    }
}

#[test]
fn a_write_that_comes_up_short_has_the_sender_try_later() {
    let world = World::new(OPEN);
    // No file may grow beyond a MiB: a write takes a part, and the next one nothing.
    let mut server = limited(&world, "trap '' XFSZ; ulimit -f 2048");
    let (small, large) = (noise(100_000), noise((5 << 19) + 7));
    let meta = world.meta("photo", &world.file("large", &large));
    let output = send(&server.address, &meta);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(world.arrived(".data").is_empty());
    let other = world.meta("photo", &world.file("small", &small));
    let output = send(&server.address, &other);
    assert!(output.status.success(), "{}", said(&output));
    assert!(server.is_alive());
    assert!(the_file(&world.photo()) == small);
    server.stop();
    let server = Process::serve(&world.there);
    send_until_delivered(&server.address, &meta);
    let there: Vec<_> = world.arrived(".data");
    let is_large = |data: &&String| fs::read(world.photo().join(data)).unwrap() == large;
    assert_eq!((there.len(), there.iter().filter(is_large).count()), (2, 1));
}

#[test]
fn a_server_that_runs_out_of_descriptors_has_senders_try_later_and_recovers() {
    const LIMIT: usize = 64;
    let world = World::new("[OnMeta]\n[OnReceived]\nnote.rhai\n");
    world.script("note.rhai", "notify.inbox(meta.filename);");
    let ini = format!("{CROWD}opening_deadline = 2s\n[hooks]\nretry_delay = 50ms\n");
    settings(&world, &ini);
    let mut server = limited(&world, &format!("ulimit -n {LIMIT}"));
    let pid = server.child.id();
    let rest = sockets(pid);
    let first = world.meta("photo", &world.file("first", b"first"));
    assert!(send(&server.address, &first).status.success());
    until("it is at rest", || sockets(pid) <= rest);
    let before = descriptors(pid);

    // So many are left, down to none; then they are let go by the deadline for openings.
    let mut delivered = 1;
    for left in (0..16).rev() {
        let held: Vec<_> = (0..LIMIT - before - left)
            .map(|_| std::net::TcpStream::connect(&server.address).unwrap())
            .collect();
        until("they are taken", || {
            descriptors(pid) >= LIMIT - left || sockets(pid) >= rest + held.len()
        });
        let meta = world.meta("photo", &world.file(&format!("{left}"), b"x"));
        let output = send(&server.address, &meta);
        let code = output.status.code();
        assert!(
            matches!(code, Some(0 | 5)),
            "{left} left: {}",
            said(&output)
        );
        drop(held);
        until("they are let go", || descriptors(pid) <= before + 2);
        if code == Some(5) {
            send_until_delivered(&server.address, &meta);
        }
        delivered += 1;
    }
    assert!(server.is_alive());
    assert_eq!(world.arrived(".data").len(), delivered);
    until("no descriptor is left behind", || {
        descriptors(pid) <= before
    });
    let inbox = world.receiver.path().join("inbox.log");
    let lines = || {
        let text = fs::read_to_string(&inbox).unwrap();
        let mut names: Vec<_> = text.lines().map(ToOwned::to_owned).collect();
        names.sort();
        names
    };
    let log = || fs::read_to_string(world.dir.path().join("log")).unwrap();
    let begun = Instant::now();
    while lines().len() < delivered {
        assert!(begun.elapsed() < PATIENCE, "{:?}\n{}", lines(), log());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(lines().len(), delivered, "a hook ran twice: {:?}", lines());
}

/// A store that fails at one kind of call, at an append not before the tenth block, as from
/// a disk that dies (EIO).
fn faulty(inner: LocalStore, fault: &Arc<Mutex<Option<Call>>>) -> Watched<LocalStore> {
    let (fault, appends) = (fault.clone(), AtomicUsize::new(0));
    Watched::new(inner, move |call, moment| {
        let early = call == Call::Append && appends.fetch_add(1, Ordering::Relaxed) < 20;
        match moment == Moment::Before && *fault.lock().unwrap() == Some(call) && !early {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    })
}

/// Descriptors of this process for what lies in a directory: other tests run beside.
fn descriptors_in(dir: &Path) -> usize {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.starts_with(dir))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_anywhere_has_the_sender_try_later_and_holds_up_nobody_else() {
    let world = World::new("[OnMeta]\n[OnReceived]\nnote.rhai\n");
    world.script("note.rhai", "notify.inbox(meta.filename);");
    world.folder("other", OPEN);
    let fault = Arc::new(Mutex::new(None));
    let failing = fault.clone();
    let server = Local::storing(&world.there, move |folder| -> Arc<dyn Store> {
        let inner = LocalStore::new(folder.dir());
        match folder.name().as_str() {
            "photo" => Arc::new(faulty(inner, &failing)),
            _ => Arc::new(inner),
        }
    })
    .await;
    let bytes = noise(2 << 20);
    let file = world.file("f", &bytes);
    let warm = world.meta("other", &file);
    deliver(&warm, &server.address).await.unwrap();
    let there = world.there.path().canonicalize().unwrap();
    let before = descriptors_in(&there);
    let faults = [
        Call::Begin,
        Call::Append,
        Call::Settle,
        Call::Publish,
        Call::Stat,
    ];
    for (n, bad) in faults.into_iter().enumerate() {
        *fault.lock().unwrap() = Some(bad);
        let file = world.file(&format!("{bad:?}"), &bytes);
        let (meta, other) = (world.meta("photo", &file), world.meta("other", &file));
        let (sent, beside) = tokio::join!(
            deliver(&meta, &server.address),
            deliver(&other, &server.address)
        );
        let error = sent.unwrap_err();
        assert_eq!(error.code, Code::Later, "{bad:?}: {error}");
        beside.unwrap();
        assert_eq!(world.arrived(".data").len(), n, "{bad:?}");
        let hooks = world.receiver.path().join("inbox.log");
        let ran = fs::read_to_string(&hooks).map_or(0, |text| text.lines().count());
        assert_eq!(ran, n, "{bad:?}: a hook ran for what was not stored");

        *fault.lock().unwrap() = None;
        fs::rename(meta.with_extension("failed"), &meta).unwrap();
        deliver(&meta, &server.address).await.unwrap();
        for data in world.arrived(".data") {
            assert!(
                fs::read(world.photo().join(&data)).unwrap() == bytes,
                "{data}"
            );
        }
        assert_eq!(world.arrived(".data").len(), n + 1, "{bad:?}");
    }
    let others = names(&world.receiver.path().join("other"), ".data");
    assert_eq!(others.len(), 1 + faults.len());
    tokio::task::block_in_place(|| {
        until("no descriptor is left behind", || {
            // inbox.log stays open for the next line.
            descriptors_in(&there) <= before + 1
        });
    });
    server.stop().await;
}

// Cuts.

/// A relay that cuts a connection after so many bytes of the client's.
async fn cutting(server: String, after: usize) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let was_cut = Arc::new(AtomicBool::new(false));
    let flag = was_cut.clone();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut upstream = TcpStream::connect(server).await.unwrap();
        let (from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = upstream.split();
        let mut some = from_client.take(after as u64);
        tokio::select! {
            passed = tokio::io::copy(&mut some, &mut to_server) => {
                let cut = passed.is_ok_and(|passed| passed == after as u64);
                flag.store(cut, Ordering::SeqCst);
            }
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
    });
    (address, was_cut)
}

/// Cuts a file of 20 MiB at places all over it, again and again; sends it until it is
/// delivered, and then the next one.
async fn cut(cuts: usize) {
    const LEN: u64 = 20 << 20;
    let world = World::new("[OnMeta]\n[OnReceived]\nnote.rhai\n");
    world.script("note.rhai", "notify.inbox(meta.filename);");
    let server = Process::serve(&world.there);
    let mut random = Random(1);
    // A place in what is left, or now and then behind it, so that a file comes to its end.
    let mut place = || {
        let left = LEN - held(&world.photo());
        1 + random.below(left + left / 4 + 65_536) as usize
    };
    let bytes = noise(LEN as usize);
    let (mut done, mut files) = (0, 0);
    while done < cuts {
        let meta = world.meta("photo", &world.file(&format!("{files}"), &bytes));
        let failed = meta.with_extension("failed");
        let mut path = meta.clone();
        while done < cuts {
            let (relay, was_cut) = cutting(server.address.clone(), place()).await;
            let output = tokio::task::block_in_place(|| send(&relay, &path));
            done += usize::from(was_cut.load(Ordering::SeqCst));
            if output.status.success() {
                break;
            }
            assert_eq!(output.status.code(), Some(5), "{}", said(&output));
            path.clone_from(&failed);
        }
        if failed.exists() {
            tokio::task::block_in_place(|| send_until_delivered(&server.address, &meta));
        }
        files += 1;
        assert_eq!(world.arrived(".data").len(), files);
    }
    eprintln!("{done} cuts, {files} files");
    assert_eq!(server.stop(), Some(0));
    for data in world.arrived(".data") {
        assert!(fs::read(world.photo().join(data)).unwrap() == bytes);
    }
    let inbox = fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap();
    assert_eq!(inbox.lines().count(), files, "a hook for each: {inbox}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_eight_times_is_delivered_once() {
    cut(8).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn a_file_that_is_cut_a_hundred_times_is_delivered_once() {
    cut(100).await;
}

//! Nothing unauthenticated is acted on: strangers, tampering, replays, cuts.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::{fs, path::Path, sync::Arc, time::Duration};

use common::{
    Local, OPEN, PETER, Process, ROLAND, World, ZHENQIANG, document, key, name, person_with_key,
    read_meta,
};
use m2y::{
    client::{self, Route},
    crypto::{
        SysRng,
        keys::{PrivateKey, PublicKey},
    },
    error::{Code, Error},
    meta::{Meta, TransferId, Wire},
    observer::Unobserved,
    session::asker::{Asker, Asks, Begin},
    transfer::send::send_job::SendJob,
    wire::{
        envelope::{self, Contents, Part},
        header::{AnswerHeader, Header, Turned},
        session::Share,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use zeroize::Zeroizing;

const HOOKED: &str = "[OnMeta]\nnote.rhai\n[OnReceived]\nnote.rhai\n";

/// A folder whose hooks leave a trace.
fn world() -> World {
    let world = World::in_memory(HOOKED);
    world.script("note.rhai", "notify.inbox(event.name);");
    // A length that was made larger makes the reader wait for what never comes.
    let ini = "[server]\nopening_deadline = 1s\nidle_deadline = 1s\n";
    for root in [&world.here, &world.there] {
        fs::write(root.path().join("m2y.ini"), ini).unwrap();
    }
    world
}

fn nothing_happened(world: &World) {
    assert_eq!(world.arrived(""), ["m2y.config", "note.rhai"]);
    assert!(
        !world.receiver.path().join("inbox.log").exists(),
        "a hook ran"
    );
}

fn meta() -> Meta {
    let mut meta = document(ZHENQIANG, ROLAND, "photo");
    meta.filename = "f".to_owned();
    meta.datetime = "30-12-2018_23-59-59".to_owned();
    meta.filesize = Some(1);
    meta.id = Some(TransferId([7; 16]));
    meta
}

/// The bytes of an opening with whatever JSON.
fn opening(
    from: &str,
    to: &str,
    signer: &PrivateKey,
    receiver: &PublicKey,
    json: &[u8],
) -> Vec<u8> {
    let share = Share::new(&mut SysRng).unwrap();
    let header = Header {
        envelope_len: envelope::sealed_len(json.len(), signer.public(), receiver).unwrap(),
        from: name(from).hash(),
        to: name(to).hash(),
    }
    .encode();
    let contents = Contents {
        time: m2y::clock::millis(),
        share: share.public,
        json: Zeroizing::new(json.to_vec()),
    };
    let sealed = envelope::seal(
        Part::Opening,
        &header,
        &contents,
        signer,
        receiver,
        &mut SysRng,
    )
    .unwrap();
    [header.as_slice(), &sealed.bytes].concat()
}

/// What the server answers to some bytes, until it closes.
async fn answer(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap();
    answer
}

const STRANGER: AnswerHeader = AnswerHeader::Turned(Turned::Stranger);

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_without_a_profile_receives_nothing() {
    let world = world();
    let server = Local::serve(&world.there).await;
    fs::remove_file(world.receiver.path().join("user.json")).unwrap();
    let roland = PrivateKey::from_pem(&key(ROLAND)).unwrap();
    let zhenqiang = PrivateKey::from_pem(&key(ZHENQIANG)).unwrap();
    let json = Wire::request(meta()).to_json();
    let asks = opening(
        ZHENQIANG,
        ROLAND,
        &zhenqiang,
        roland.public(),
        json.as_bytes(),
    );
    assert_eq!(answer(&server.address, &asks).await, STRANGER.encode());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_one_and_the_same_answer_and_nothing_happens() {
    let world = world();
    let server = Local::serve(&world.there).await;
    let roland = PrivateKey::from_pem(&key(ROLAND)).unwrap();
    let zhenqiang = PrivateKey::from_pem(&key(ZHENQIANG)).unwrap();
    let stranger = PrivateKey::from_pem(&key("stranger")).unwrap();
    let json = Wire::request(meta()).to_json();
    let json = json.as_bytes();
    let cases = [
        // a name that nobody here knows, signed by its own key
        opening("nobody", ROLAND, &stranger, roland.public(), json),
        // a receiver that is not here
        opening(ZHENQIANG, PETER, &zhenqiang, roland.public(), json),
        // a known name, another's signature
        opening(ZHENQIANG, ROLAND, &stranger, roland.public(), json),
        // the right signature around an envelope for somebody else's key
        opening(ZHENQIANG, ROLAND, &zhenqiang, stranger.public(), json),
        // no envelope at all
        [
            Header {
                envelope_len: 1,
                from: name(ZHENQIANG).hash(),
                to: name(ROLAND).hash(),
            }
            .encode()
            .as_slice(),
            b"x",
        ]
        .concat(),
    ];
    for (case, bytes) in cases.iter().enumerate() {
        assert_eq!(
            answer(&server.address, bytes).await,
            STRANGER.encode(),
            "case {case}"
        );
    }
    assert_eq!(server.stop().await.hooks(), 0);
    nothing_happened(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_sends_is_told_and_the_meta_becomes_failed() {
    let world = world();
    // A person with zhenqiang's name and another key.
    let path = world.sender.path().join("privateKey/zhenqiang.data");
    fs::write(path, key("stranger")).unwrap();
    let server = Process::serve(&world.there);
    let output = world.send(&server.address, "photo", &world.file("f", b"x"));
    assert_eq!(output.status.code(), Some(12));
    assert!(
        world.failed()[0]
            .error
            .contains("the server refused the connection")
    );
    nothing_happened(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_another_key_gets_no_byte_of_the_file() {
    let world = world();
    // A server that knows zhenqiang, but is not the roland whom zhenqiang knows.
    let (false_root, _) = m2y::root::Root::init(&world.dir.path().join("false"), &[]).unwrap();
    let impostor = person_with_key(&false_root, ROLAND, &key("stranger"));
    let zhenqiang = world.sender.contact(world.sender.name()).unwrap().key;
    impostor
        .add_contact(&name(ZHENQIANG), &zhenqiang, false)
        .unwrap();
    let server = Local::serve(&false_root).await;
    let file = world.file("f", b"x");
    let error = world.deliver(&server.address, &file).await.unwrap_err();
    assert_eq!(error.code, Code::Identity);
    assert_eq!(server.stop().await.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_cannot_be_are_answered_clearly() {
    let world = world();
    let server = Local::serve(&world.there).await;
    let words = [
        0_u64,
        1 << 48,
        1 << 48 | 65_537,
        1 << 48 | 0xffff_ffff,
        1 << 63,
        u64::MAX,
        1 << 48 | 1 << 32 | 100,
        2 << 48 | 100,
        500,
    ];
    for word in words {
        let mut header = [0; 24];
        header[..8].copy_from_slice(&word.to_be_bytes());
        assert_eq!(
            answer(&server.address, &header).await,
            AnswerHeader::Turned(Turned::Unreadable).encode(),
            "{word:x}"
        );
    }
    assert_eq!(server.stop().await.hooks(), 0);
    nothing_happened(&world);
}

/// Opens the answer of a server to `bytes`, as zhenqiang.
async fn opened_answer(address: &str, bytes: &[u8]) -> Wire {
    let zhenqiang = PrivateKey::from_pem(&key(ZHENQIANG)).unwrap();
    let roland = PrivateKey::from_pem(&key(ROLAND)).unwrap();
    let answer = answer(address, bytes).await;
    let (head, envelope) = answer.split_first_chunk::<8>().expect("an answer");
    let digest = m2y::wire::session::opening_digest(&bytes[..24], &bytes[24..]);
    let bound = [digest.as_slice(), head].concat();
    let opened = envelope::verify(Part::Answer, &bound, envelope, roland.public())
        .unwrap()
        .open(&zhenqiang)
        .unwrap();
    Wire::from_json(&opened.contents.json).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn metas_that_cannot_be_are_answered_clearly_and_nothing_is_stored() {
    let world = world();
    let server = Local::serve(&world.there).await;
    let zhenqiang = PrivateKey::from_pem(&key(ZHENQIANG)).unwrap();
    let roland = PrivateKey::from_pem(&key(ROLAND)).unwrap();
    let good = Wire::request(meta()).to_json().to_string();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let changed = |change: &dyn Fn(&mut Meta)| {
        let mut meta = meta();
        change(&mut meta);
        Wire::request(meta).to_json().to_string()
    };
    // Another spelling of the size, with a metaCRC that matches it.
    let filesize = |spelled: &str| {
        let claimed = Wire::request(meta()).to_document()["metaCRC"].to_string();
        let spelled = good.replace("\"filesize\":1", &format!("\"filesize\":{spelled}"));
        let own = format!("\"metaCRC\":{claimed}");
        let crc = crc32fast::hash(spelled.replace(&own, "\"metaCRC\":\"\"").as_bytes());
        spelled.replace(&own, &format!("\"metaCRC\":{crc}"))
    };
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "not a JSON"),
        ("[]".to_owned(), "not a JSON object"),
        (deep, "nested more than"),
        (good.replacen('{', "{\"from\":\"x\",", 1), "stands twice"),
        (good.replace("\"filesize\":1", "\"filesize\":-1"), "metaCRC"),
        (
            good.replace("\"filesize\":1", "\"filesize\":1.5"),
            "not a whole number",
        ),
        (good.replace("photo", "phota"), "metaCRC"),
        (good[..good.len() - 1].to_owned(), "not a JSON"),
        ("{\"metaCRC\":1}".to_owned(), "metaCRC"),
        (changed(&|m| m.from = PETER.to_owned()), "from and to"),
        (changed(&|m| m.to = PETER.to_owned()), "from and to"),
        (
            changed(&|m| drop(m.extra.insert("kind".to_owned(), "stream".into()))),
            "a stream has no filesize",
        ),
        (changed(&|m| m.id = None), "id is missing"),
        (changed(&|m| m.datetime.clear()), "datetime is missing"),
        (changed(&|m| m.datetime = "../../x".to_owned()), "datetime"),
        (
            changed(&|m| m.datetime = "31-02-2018_23-59-59".to_owned()),
            "datetime",
        ),
        (
            changed(&|m| m.datetime = "1-2-2018_3-5-9".to_owned()),
            "datetime",
        ),
        (changed(&|m| m.filesize = Some(1 << 63)), "filesize"),
        (filesize("\"+1\""), "filesize"),
        (filesize("\"01\""), "filesize"),
        (filesize("\"00\""), "filesize"),
        (filesize("\" 1\""), "filesize"),
        (filesize("18446744073709551616"), "a number is outside"),
        (changed(&|m| m.filename = "x".repeat(5_000)), "filename"),
    ];
    for (json, expected) in cases {
        let bytes = opening(
            ZHENQIANG,
            ROLAND,
            &zhenqiang,
            roland.public(),
            json.as_bytes(),
        );
        let reply = opened_answer(&server.address, &bytes).await;
        assert!(reply.filekey.is_none());
        let (error, head) = (&reply.meta.error, &json[..json.len().min(80)]);
        assert!(error.contains(expected), "{head}: {error}");
    }
    for spelled in ["\"1\"", "\"0\"", "1"] {
        let read = Wire::from_json(filesize(spelled).as_bytes());
        assert!(read.is_ok(), "{spelled}");
    }
    assert_eq!(server.stop().await.hooks(), 0);
    nothing_happened(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meta_as_large_as_an_envelope_is_stored_and_read_back() {
    let world = World::new("[OnMeta]\nhook.rhai\ntrue.sh\n[OnReceived]\n");
    world.script("hook.rhai", "meta.more = \"x\";");
    world.script("true.sh", "#!/bin/sh\ntouch ../ran\n");
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"x");
    let path = world.meta("photo", &file);
    let mut meta = read_meta(&path);
    meta.extra.insert("many".to_owned(), vec![1; 30_000].into());
    fs::write(&path, meta.to_file()).unwrap();
    common::deliver(&path, &server.address).await.unwrap();
    assert!(world.receiver.path().join("ran").exists());
    let stored = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    assert_eq!(stored.extra["many"], meta.extra["many"]);
    assert_eq!(stored.extra["more"], "x");
    // One that does not fit is said so, by the sender's own program.
    let path = world.meta("photo", &file);
    meta.extra.insert("many".to_owned(), vec![1; 40_000].into());
    fs::write(&path, meta.to_file()).unwrap();
    let error = common::deliver(&path, &server.address).await.unwrap_err();
    assert!(error.sentence.contains("must have at most"), "{error}");
}

/// Sends a file under a meta that may say something else.
async fn send_as(route: &Route, out: &SendJob, lie: Meta) -> Result<Meta, Error> {
    let opened = client::open(route, lie, &Unobserved).await?;
    let (results, mut result) = mpsc::unbounded_channel();
    let (_, mut jobs) = mpsc::channel(1);
    let stop = std::future::pending();
    tokio::pin!(stop);
    let asker = Asker::new(opened.keys, &Unobserved, 0, Asks::Jobs(&mut jobs), stop);
    let begin = Begin {
        answered: Some((out, opened.asked, opened.reply)),
        first: Vec::new(),
    };
    let ended = asker
        .telling(results)
        .run(opened.connection, route.idle(), begin)
        .await;
    match ended.error {
        Some(error) => Err(error),
        None => result.recv().await.unwrap().1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filesize_that_lies_is_found_out() {
    let world = world();
    let server = Local::serve(&world.there).await;
    // A sender whose program says another size than it sends.
    for (says, has) in [
        (5_u64, 4),
        (5, 6),
        (0, 1),
        (1, 0),
        (65_536, 65_537),
        (1 << 50, 10),
    ] {
        let file = world.file("f", &common::noise(has));
        let path = world.meta("photo", &file);
        let out = SendJob::open(&path).unwrap();
        let route = Route::find(None, Some(&server.address), &out).unwrap();
        let mut lie = out.request().unwrap();
        lie.filesize = Some(says);
        let error = send_as(&route, &out, lie).await.unwrap_err();
        let sentence = &error.sentence;
        assert!(
            sentence.contains("different size") || sentence.contains("no room"),
            "{says} {has}: {error}"
        );
        fs::remove_file(path).unwrap();
    }
    server.stop().await;
    assert!(world.arrived(".data").is_empty());
    assert!(world.arrived(".partial").is_empty());
}

/// What the proxy does to a session.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// Flips a bit of this byte of the client's.
    FlipUp(usize),
    /// Flips a bit of this byte of the server's.
    FlipDown(usize),
    /// Passes so many bytes of the client's and then cuts.
    CutUp(usize),
    /// Passes so many bytes of the server's and then cuts.
    CutDown(usize),
    /// Only listens.
    None,
}

/// What went through, by direction.
struct Seen {
    up: Vec<u8>,
    down: Vec<u8>,
}

/// Lets one session through a proxy that attacks it.
async fn attacked(
    world: &World,
    server: &str,
    attack: Attack,
    file: &Path,
) -> (Result<Meta, Error>, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = server.to_owned();
    let proxy = tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let upstream = TcpStream::connect(server).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = upstream.into_split();
        let (flip_up, flip_down, cut_up, cut_down) = match attack {
            Attack::FlipUp(at) => (Some(at), None, None, None),
            Attack::FlipDown(at) => (None, Some(at), None, None),
            Attack::CutUp(at) => (None, None, Some(at), None),
            Attack::CutDown(at) => (None, None, None, Some(at)),
            Attack::None => (None, None, None, None),
        };
        let (mut up, mut down) = (Vec::new(), Vec::new());
        {
            let up = pass(&mut from_client, &mut to_server, flip_up, cut_up, &mut up);
            let down = pass(
                &mut from_server,
                &mut to_client,
                flip_down,
                cut_down,
                &mut down,
            );
            tokio::pin!(up, down);
            // A cut closes both directions at once; an end lets the other one end too.
            tokio::select! {
                cut = &mut up => if !cut { down.await; },
                cut = &mut down => if !cut { up.await; },
            }
        }
        Seen { up, down }
    });
    let meta = world.meta("photo", file);
    let result = common::deliver(&meta, &address).await;
    (result, proxy.await.unwrap())
}

/// Passes bytes on; true if it was cut.
async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    flip: Option<usize>,
    cut: Option<usize>,
    seen: &mut Vec<u8>,
) -> bool {
    let mut buffer = vec![0; 65_536];
    loop {
        if cut == Some(seen.len()) {
            return true;
        }
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            let _ = to.shutdown().await;
            return false;
        }
        let read = cut.map_or(read, |cut| read.min(cut - seen.len()));
        let bytes = &mut buffer[..read];
        if let Some(byte) = flip
            .and_then(|at| at.checked_sub(seen.len()))
            .and_then(|at| bytes.get_mut(at))
        {
            *byte ^= 1 << (flip.unwrap() % 8);
        }
        seen.extend_from_slice(bytes);
        if to.write_all(bytes).await.is_err() {
            return false;
        }
    }
}

const SMALL: &[u8] = b"a small file";

/// A small session that was attacked, and what came of it.
struct Attacked {
    attack: Attack,
    world: World,
    result: Result<Meta, Error>,
    seen: Seen,
    hooks: u64,
}

/// A small session with every byte position attacked, some at once.
async fn attack_each(attacks: Vec<Attack>, check: impl Fn(&Attacked)) {
    // One world for each attack under way, so that what happens in it is plain.
    let width = 12;
    let queue = Arc::new(std::sync::Mutex::new(attacks));
    let (results, mut done) = mpsc::channel(width);
    for _ in 0..width {
        let (queue, results) = (queue.clone(), results.clone());
        tokio::spawn(async move {
            loop {
                let Some(attack) = queue.lock().unwrap().pop() else {
                    return;
                };
                let world = world();
                let server = Local::serve(&world.there).await;
                let file = world.file("f", SMALL);
                let (result, seen) = attacked(&world, &server.address, attack, &file).await;
                let hooks = server.stop().await.hooks();
                let attacked = Attacked {
                    attack,
                    world,
                    result,
                    seen,
                    hooks,
                };
                if results.send(attacked).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(results);
    while let Some(attacked) = done.recv().await {
        check(&attacked);
    }
}

/// Bytes that each side says in a small session. A checksum with a digit more makes
/// it a little longer, so this is what no session exceeds.
async fn lengths() -> (usize, usize) {
    let world = world();
    let server = Local::serve(&world.there).await;
    let file = world.file("f", SMALL);
    let (result, seen) = attacked(&world, &server.address, Attack::None, &file).await;
    result.unwrap();
    (seen.up.len() + 20, seen.down.len() + 20)
}

/// Bytes of the opening, or of the answer with its head.
fn first_message(bytes: &[u8], head: usize) -> usize {
    head + u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize
}

const ACK_RECORD: usize = 12 + 3 + 16;
const BLOCK_RECORD: usize = 12 + SMALL.len() + 16;
const TRAILER_RECORD: usize = 12 + 8 + 16;
const CLOSE_RECORD: usize = 12 + 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_in_what_the_client_says_stores_nothing() {
    let (up, _) = lengths().await;
    let noticed = std::cell::Cell::new(0);
    attack_each((0..up).map(Attack::FlipUp).collect(), |attacked| {
        let Attack::FlipUp(at) = attacked.attack else {
            return;
        };
        let world = &attacked.world;
        if attacked.result.is_ok() {
            // What the client says behind the file changes nothing any more.
            let file = BLOCK_RECORD + TRAILER_RECORD;
            let said = first_message(&attacked.seen.up, 24) + file;
            assert!(at >= said, "{at} was not noticed");
            return;
        }
        noticed.set(noticed.get() + 1);
        assert_eq!(
            world.arrived(""),
            ["m2y.config", "note.rhai"],
            "{at} of {}: {:?}",
            attacked.seen.up.len(),
            attacked.result
        );
        assert_eq!(world.failed().len(), 1);
        // Before its signature is good, an opening makes no hook run.
        let opening = match at {
            4..8 => usize::MAX,
            _ => first_message(&attacked.seen.up, 24),
        };
        assert_eq!(attacked.hooks, u64::from(at >= opening), "{at}");
    })
    .await;
    assert!(noticed.get() > 850, "{noticed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_in_what_the_server_says_is_noticed() {
    let (_, down) = lengths().await;
    let noticed = std::cell::Cell::new(0);
    attack_each((0..down).map(Attack::FlipDown).collect(), |attacked| {
        let Attack::FlipDown(at) = attacked.attack else {
            return;
        };
        let (world, len) = (&attacked.world, attacked.seen.down.len());
        if attacked.result.is_ok() {
            assert!(at >= len, "{at} was not noticed");
            return;
        }
        noticed.set(noticed.get() + 1);
        assert_eq!(world.failed().len(), 1);
        // Only where what follows the answer is hit (the ACK, or on a slow machine a sign
        // of work before it), the file is there, and it is whole.
        for data in world.arrived(".data") {
            assert!(at >= first_message(&attacked.seen.down, 8), "{at}");
            assert_eq!(fs::read(world.photo().join(data)).unwrap(), SMALL);
        }
        assert!(world.arrived(".partial").is_empty());
    })
    .await;
    assert!(noticed.get() > 700, "{noticed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cut_anywhere_stores_nothing() {
    let (up, down) = lengths().await;
    let attacks = (0..up)
        .map(Attack::CutUp)
        .chain((0..down).map(Attack::CutDown));
    let noticed = std::cell::Cell::new(0);
    attack_each(attacks.collect(), |attacked| {
        let (world, attack) = (&attacked.world, attacked.attack);
        if attacked.result.is_ok() {
            // The cut came after the ACK.
            match attack {
                Attack::CutUp(at) => assert!(at >= attacked.seen.up.len() - CLOSE_RECORD),
                _ => assert!(attacked.seen.down.len() >= ACK_RECORD),
            }
            return;
        }
        noticed.set(noticed.get() + 1);
        assert_eq!(world.failed().len(), 1, "{attack:?}");
        for data in world.arrived(".data") {
            // Cut within the ACK: the file is safe, and the sender does not know.
            assert_eq!(fs::read(world.photo().join(data)).unwrap(), SMALL);
            match attack {
                Attack::CutUp(at) => assert_eq!(at, attacked.seen.up.len(), "{attack:?}"),
                _ => {
                    let answer = first_message(&attacked.seen.down, 8);
                    assert!(attacked.seen.down.len() >= answer, "{attack:?}");
                }
            }
        }
        if world.arrived(".data").is_empty() {
            assert_eq!(world.arrived(""), ["m2y.config", "note.rhai"], "{attack:?}");
        }
    })
    .await;
    assert!(noticed.get() > 1_700, "{noticed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_was_recorded_and_is_sent_again_does_nothing() {
    let world = world();
    let server = Local::serve(&world.there).await;
    let file = world.file("f", SMALL);
    let (result, seen) = attacked(&world, &server.address, Attack::None, &file).await;
    result.unwrap();
    let before = world.arrived("");
    let hooks = server.counter.hooks();
    assert_eq!(hooks, 2);
    let address = server.address.clone();
    // As it was, with all that followed, many at once.
    let mut replays = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (address, up) = (address.clone(), seen.up.clone());
        replays.spawn(async move { answer(&address, &up).await });
    }
    while let Some(replay) = replays.join_next().await {
        assert_eq!(replay.unwrap(), STRANGER.encode());
    }
    assert_eq!(server.stop().await.hooks(), hooks);
    // And to a server that was started anew.
    let server = Local::serve(&world.there).await;
    assert_eq!(answer(&server.address, &seen.up).await, STRANGER.encode());
    assert_eq!(server.stop().await.hooks(), 0);
    assert_eq!(world.arrived(""), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_ack_was_lost_is_delivered_once_and_its_hooks_run_once() {
    let world = world();
    let server = Local::serve(&world.there).await;
    let file = world.file("f", SMALL);
    let (_, down) = lengths().await;
    // The ACK is cut in its middle.
    let cut = Attack::CutDown(down - 20 - ACK_RECORD / 2);
    let (result, _) = attacked(&world, &server.address, cut, &file).await;
    result.unwrap_err();
    let outbox = world.sender.path().join("photo");
    for _ in 0..3 {
        fs::rename(outbox.join("f.failed"), outbox.join("f.meta")).unwrap();
        common::deliver(&outbox.join("f.meta"), &server.address)
            .await
            .unwrap();
        fs::rename(outbox.join("f.done"), outbox.join("f.failed")).unwrap();
    }
    assert_eq!(world.arrived(".data").len(), 1);
    let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    assert_eq!(meta.file_crc, Some(crc32fast::hash(SMALL)));
    assert_eq!(read_meta(&outbox.join("f.failed")).file_crc, meta.file_crc);
    assert_eq!(
        server.counter.hooks(),
        2,
        "OnMeta and OnReceived, each once"
    );

    // Wherever the file has gone since.
    let stem = world.arrived(".data")[0].replace(".data", "");
    let moved = world.dir.path().join("moved");
    for ending in ["data", "meta"] {
        fs::rename(
            world.photo().join(format!("{stem}.{ending}")),
            moved.with_extension(ending),
        )
        .unwrap();
        fs::rename(outbox.join("f.failed"), outbox.join("f.meta")).unwrap();
        common::deliver(&outbox.join("f.meta"), &server.address)
            .await
            .unwrap();
        fs::rename(outbox.join("f.done"), outbox.join("f.failed")).unwrap();
        assert!(world.arrived(".data").is_empty());
    }
    assert_eq!(server.counter.hooks(), 2);
    for ending in ["data", "meta"] {
        fs::rename(
            moved.with_extension(ending),
            world.photo().join(format!("{stem}.{ending}")),
        )
        .unwrap();
    }

    // A file that changed since is another transfer.
    fs::rename(outbox.join("f.failed"), outbox.join("f.meta")).unwrap();
    fs::write(&file, b"a new version").unwrap();
    common::deliver(&outbox.join("f.meta"), &server.address)
        .await
        .unwrap();
    assert_eq!(world.arrived(".data").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_that_comes_twice_at_once_works_once() {
    let world = world();
    let server = Local::serve(&world.there).await;
    let zhenqiang = PrivateKey::from_pem(&key(ZHENQIANG)).unwrap();
    let roland = PrivateKey::from_pem(&key(ROLAND)).unwrap();
    let json = Wire::request(meta()).to_json();
    let bytes = opening(
        ZHENQIANG,
        ROLAND,
        &zhenqiang,
        roland.public(),
        json.as_bytes(),
    );
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (address, bytes) = (server.address.clone(), bytes.clone());
        racers.spawn(async move { answer(&address, &bytes).await });
    }
    let mut opened = 0;
    while let Some(racer) = racers.join_next().await {
        opened += usize::from(racer.unwrap() != STRANGER.encode());
    }
    assert_eq!(opened, 1);
    assert_eq!(server.stop().await.hooks(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_older_than_all_that_is_remembered_is_refused() {
    use m2y::journal::openings::{KEPT, Opening, Openings, Stamp};
    let world = world();
    let contact = name(ZHENQIANG);
    let openings = Openings::default();
    let digest = |n: u64| {
        let mut digest = [1; 32];
        digest[..8].copy_from_slice(&n.to_be_bytes());
        digest
    };
    let claim = |openings: &Openings, time: u64| {
        let stamp = Stamp {
            digest: digest(time),
            time,
        };
        let any = 0..=u64::MAX;
        openings
            .claim(&world.receiver, &contact, &stamp, &any)
            .unwrap()
    };
    let many = 2 * KEPT as u64;
    for n in 1..=many + 1 {
        assert_eq!(claim(&openings, n), Opening::New);
    }
    // The oldest are forgotten, and so is every opening of their time.
    assert_eq!(claim(&openings, 1), Opening::Old);
    assert_eq!(claim(&openings, many), Opening::Seen);
    let again = Openings::default();
    assert_eq!(claim(&again, 1), Opening::Old);
    assert_eq!(claim(&again, many), Opening::Seen);
    assert_eq!(claim(&again, many + 2), Opening::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_whose_key_was_put_there_by_hand_is_one() {
    let world = World::new(OPEN);
    let hash = hex::encode(name(ZHENQIANG).hash());
    fs::remove_file(world.there.path().join(format!("hash2user/{hash}.txt"))).unwrap();
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"x");
    world.deliver(&server.address, &file).await.unwrap();
    let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    assert_eq!(meta.from, ZHENQIANG);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_server_does_not_know_is_answered_and_the_session_goes_on() {
    use m2y::wire::record::{self, Kind, Stream};
    let world = World::new(OPEN);
    let server = Local::serve(&world.there).await;
    let file = world.file("f", b"x");
    let path = world.meta("photo", &file);
    let out = SendJob::open(&path).unwrap();
    let route = Route::find(None, Some(&server.address), &out).unwrap();
    let meta = out.request().unwrap();
    let opened = client::open(&route, meta, &Unobserved).await.unwrap();
    let mut outgoing = Stream::new(&opened.keys.client).unwrap();
    let mut incoming = Stream::new(&opened.keys.server).unwrap();
    let mut channel = opened.connection;
    for (transfer, kind, answer) in [
        (1, Kind::Meta, Kind::Answer),
        (2, Kind::Other(200), Kind::Error),
        (3, Kind::Meta, Kind::Answer),
    ] {
        channel
            .writer
            .record(&mut outgoing, kind, transfer, b"{}")
            .await
            .unwrap();
        let (head, body) = channel.reader.record(&mut incoming).await.unwrap();
        assert_eq!((head.kind, head.transfer), (answer, transfer));
        let said = match answer {
            Kind::Error => record::decode_error(&body).unwrap().code.word().to_owned(),
            _ => Wire::from_json(&body).unwrap().code,
        };
        assert_eq!(said, "failed");
    }
    drop(channel);
    server.stop().await;
}

//! A great many inputs for every reader of bytes: no panic, no hang, little memory, and
//! what is accepted is what somebody wrote.
//!
//! `cargo test --release --test fuzz -- --ignored` takes a million of each kind. Every
//! input follows from a seed and a number; both are printed with one that fails, and
//! `M2Y_FUZZ_SEED` takes another seed.
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
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use common::{ROLAND, World, ZHENQIANG, document, key, name};
use m2y::{
    crypto::{
        SysRng,
        keys::{PrivateKey, PublicKey},
        seal,
    },
    error::{Code, Error},
    json,
    meta::{FileKey, Meta, TransferId, Wire},
    root::{
        config::{Config, EVENT_SECTIONS},
        conflict::Conflict,
        contact::Card,
        settings::Settings,
        tree::TreePath,
    },
    transport::Addresses,
    wire::{
        envelope::{self, Contents, Part},
        header::{self, AnswerHeader, Header, Turned},
        record::{self, Head, Kind, Stream},
        request::{Reply, Request},
    },
};
use zeroize::Zeroizing;

/// Inputs of each kind in the normal suite, and where it takes minutes.
const FEW: u64 = 20_000;
const MANY: u64 = 1_000_000;

/// The most memory that this process may ever have held.
const MAX_KIB: u64 = 256 << 10;

/// An input that keeps a reader busy for so long counts as a hang.
const HANG: Duration = Duration::from_secs(30);

/// The longest input.
const MAX_INPUT: usize = 70_000;

/// Numbers that look random and follow from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// How often something is said again: mostly once or twice.
    fn times(&mut self, most: usize) -> usize {
        let most = match self.below(20) {
            0 => most,
            _ => 2,
        };
        1 + self.below(most)
    }

    /// A place and a length within so many bytes; most lengths are short.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let from = self.below(len + 1);
        let most = match self.below(4) {
            0 => len - from,
            _ => 16.min(len - from),
        };
        from..from + self.below(most + 1)
    }
}

/// What inputs of a kind are made of.
struct Corpus {
    valid: Vec<Vec<u8>>,
    tokens: Vec<&'static str>,
}

impl Corpus {
    fn input(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = match random.below(16) {
            // Nothing but noise, or nothing but tokens.
            0 => (0..random.below(600))
                .map(|_| random.next() as u8)
                .collect(),
            1 if !self.tokens.is_empty() => (0..random.below(60))
                .flat_map(|_| random.of(&self.tokens).bytes())
                .collect(),
            _ => self.valid[random.below(self.valid.len())].clone(),
        };
        for _ in 0..random.below(6) {
            self.mutate(&mut bytes, random);
        }
        bytes.truncate(MAX_INPUT);
        bytes
    }

    fn mutate(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        const ODD: [u8; 14] = *b"\0\x01\x7f\x80\xff\n\r\"\\[]{}=";
        let (len, at) = (bytes.len(), random.below(bytes.len() + 1));
        match random.below(10) {
            0 | 1 if at < len => bytes[at] ^= 1 << random.below(8),
            2 if at < len => bytes[at] = ODD[random.below(ODD.len())],
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(random.range(len))),
            5 => {
                let piece = bytes[random.range(len)].to_vec();
                let times = random.times(3_000);
                bytes.splice(
                    at..at,
                    piece.repeat(times.min(MAX_INPUT / (1 + piece.len()))),
                );
            }
            6 => {
                let other = &self.valid[random.below(self.valid.len())];
                let piece = other[random.range(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            // The head of one, the tail of another.
            7 => {
                let other = &self.valid[random.below(self.valid.len())];
                bytes.truncate(at);
                bytes.extend(&other[random.below(other.len() + 1)..]);
            }
            8 if len >= 8 => {
                let number = match random.below(4) {
                    0 => u64::MAX >> random.below(64),
                    1 => 1 << random.below(64),
                    2 => len as u64,
                    _ => random.next(),
                };
                let width = [1, 2, 4, 8][random.below(4)];
                let at = random.below(len - width + 1);
                bytes[at..at + width].copy_from_slice(&number.to_be_bytes()[8 - width..]);
            }
            _ if !self.tokens.is_empty() => {
                let token = random.of(&self.tokens);
                let times = random.times(20_000);
                bytes.splice(
                    at..at,
                    token.repeat(times.min(MAX_INPUT / token.len())).bytes(),
                );
            }
            _ => bytes.insert(at, random.next() as u8),
        }
    }
}

/// The most memory that this process has held so far, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reads so many inputs made of a corpus; says which one a reader cannot stand.
fn fuzz(what: &str, corpus: &Corpus, count: u64, target: fn(&[u8])) {
    let seed = std::env::var("M2Y_FUZZ_SEED").map_or(20_181_230, |seed| seed.parse().unwrap());
    let input = |number: u64| {
        let mut random = Random((seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        random.next();
        corpus.input(&mut random)
    };
    let fails = |number: u64, why: &str| -> ! {
        let bytes = input(number);
        let shown = bytes[..bytes.len().min(2_000)].escape_ascii();
        panic!(
            "{what}: {why}; seed {seed}, input {number}, {} bytes: {shown}",
            bytes.len()
        )
    };
    let (at, slowest) = (AtomicU64::new(0), Mutex::new((Duration::ZERO, 0)));
    let begun = Instant::now();
    thread::scope(|scope| {
        let (ended, end) = mpsc::channel();
        let (at, slowest, input) = (&at, &slowest, &input);
        scope.spawn(move || {
            for number in 0..count {
                at.store(number, Ordering::Relaxed);
                let bytes = input(number);
                let begun = Instant::now();
                let read = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
                let mut slowest = slowest.lock().unwrap();
                *slowest = (*slowest).max((begun.elapsed(), number));
                if read.is_err() {
                    let _ = ended.send(Err(number));
                    return;
                }
            }
            let _ = ended.send(Ok(()));
        });
        let mut seen = None;
        loop {
            match end.recv_timeout(HANG) {
                Ok(Ok(())) => break,
                Ok(Err(number)) => fails(number, "panicked"),
                Err(_) => {
                    let now = at.load(Ordering::Relaxed);
                    if seen.replace(now) == Some(now) {
                        // Its thread cannot be ended, and the scope would wait for it.
                        let _ = catch_unwind(AssertUnwindSafe(|| fails(now, "hangs")));
                        std::process::abort();
                    }
                }
            }
        }
    });
    let (time, number) = *slowest.lock().unwrap();
    let kib = peak();
    eprintln!(
        "{what}: {count} inputs in {:.1?}; the slowest, {number}, took {time:.1?}; VmHWM {kib} KiB",
        begun.elapsed()
    );
    assert!(kib <= MAX_KIB, "{what}: {kib} KiB of memory");
}

fn keys() -> &'static (PrivateKey, PrivateKey) {
    static KEYS: OnceLock<(PrivateKey, PrivateKey)> = OnceLock::new();
    KEYS.get_or_init(|| {
        let read = |name| PrivateKey::from_pem(&key(name)).unwrap();
        (read(ZHENQIANG), read(ROLAND))
    })
}

// The fixed heads.

fn header_corpus() -> Corpus {
    let valid = [1, 300, 65_536].map(|envelope_len| Header {
        envelope_len,
        from: name(ZHENQIANG).hash(),
        to: name(ROLAND).hash(),
    });
    Corpus {
        valid: valid.map(|header| header.encode().to_vec()).to_vec(),
        tokens: vec!["\0\u{1}\0\0", "\0\0", "\0\u{1}\0\0\0\u{1}\0\0"],
    }
}

fn a_header(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk::<{ header::LEN }>() else {
        return;
    };
    if let Ok(header) = Header::decode(bytes) {
        assert!((1..=header::MAX_ENVELOPE).contains(&header.envelope_len));
        assert_eq!(header.encode(), *bytes);
    }
}

fn answer_header_corpus() -> Corpus {
    let answers = [
        AnswerHeader::Envelope(1),
        AnswerHeader::Envelope(65_536),
        AnswerHeader::Turned(Turned::Stranger),
        AnswerHeader::Turned(Turned::Busy),
        AnswerHeader::Turned(Turned::Unreadable),
        AnswerHeader::Turned(Turned::Stale),
    ];
    Corpus {
        valid: answers.map(|answer| answer.encode().to_vec()).to_vec(),
        tokens: header_corpus().tokens,
    }
}

fn an_answer_header(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk::<{ header::ANSWER_LEN }>() else {
        return;
    };
    if let Ok(answer) = AnswerHeader::decode(bytes) {
        assert_eq!(answer.encode(), *bytes);
    }
}

// Envelopes: what is accepted is what was signed, to the bit.

const BOUND: &[u8] = b"what stands before it   ";

fn envelopes() -> &'static Vec<Vec<u8>> {
    static SEALED: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEALED.get_or_init(|| {
        let (sender, receiver) = keys();
        let request = Wire::request(meta()).to_json().to_string();
        let jsons = [b"".as_slice(), b"{}", request.as_bytes(), &[b'x'; 5_000]];
        jsons
            .iter()
            .map(|json| {
                let contents = Contents {
                    time: 1,
                    share: [2; 32],
                    json: Zeroizing::new(json.to_vec()),
                };
                let to = receiver.public();
                envelope::seal(Part::Opening, BOUND, &contents, sender, to, &mut SysRng)
                    .unwrap()
                    .bytes
            })
            .collect()
    })
}

fn envelope_corpus() -> Corpus {
    Corpus {
        valid: envelopes().clone(),
        tokens: vec!["\u{1}", "\0\0\0\0\0\0\0\u{1}", "m2y/1 opening"],
    }
}

fn an_envelope(bytes: &[u8]) {
    let (sender, receiver) = keys();
    if let Ok(verified) = envelope::verify(Part::Opening, BOUND, bytes, sender.public()) {
        let genuine = envelopes().iter().any(|valid| valid == bytes);
        assert!(genuine, "a signature for what was not signed");
        // The dear part for a few of them only.
        if bytes.len() < 700 {
            verified.open(receiver).map(|_| ()).unwrap();
        }
    }
}

/// What a contact signed, whatever it is: an error or what was sealed.
fn a_signed_envelope(bytes: &[u8]) {
    let (sender, receiver) = keys();
    let inner = bytes.get(..bytes.len().saturating_sub(256)).unwrap();
    let message = [b"m2y/1 opening".as_slice(), BOUND, inner].concat();
    let signature = sender.sign(&message, &mut SysRng).unwrap();
    let signed = [inner, &signature].concat();
    let verified = envelope::verify(Part::Opening, BOUND, &signed, sender.public());
    if let Ok(opened) = verified.and_then(|verified| verified.open(receiver)) {
        let same = |valid: &Vec<u8>| valid[9..].starts_with(&inner[9..]);
        assert!(
            envelopes().iter().any(same),
            "a seal of what was not sealed"
        );
        let _ = Wire::from_json(&opened.contents.json);
    }
}

// Records.

fn stream() -> Stream {
    Stream::new(&seal_key()).unwrap()
}

fn seal_key() -> seal::Key {
    seal::Key::new([1; 16])
}

fn session() -> &'static Vec<u8> {
    static SESSION: OnceLock<Vec<u8>> = OnceLock::new();
    SESSION.get_or_init(|| {
        let error = record::encode_error(&Error::new(Code::Later, "no room"));
        let mut stream = stream();
        let request = Wire::request(meta()).to_json().to_string();
        [
            (Kind::Block, vec![7; 300]),
            (Kind::Trailer, record::encode_trailer(9).to_vec()),
            (Kind::Working, Vec::new()),
            (Kind::Meta, request.into_bytes()),
            (Kind::Error, error),
            (Kind::Ack, record::ACK.to_vec()),
            (Kind::Close, Vec::new()),
        ]
        .iter()
        .flat_map(|(kind, body)| stream.record(*kind, 0, body).unwrap())
        .collect()
    })
}

fn record_corpus() -> Corpus {
    let error = record::encode_error(&Error::new(Code::Later, "no room"));
    Corpus {
        valid: vec![
            session().clone(),
            session()[..12 + 300 + 16].to_vec(),
            record::encode_trailer(u32::MAX).to_vec(),
            error,
        ],
        tokens: vec![
            "\u{3}\u{1}\0\0\0\0\0\0\0\0\0\0",
            "\u{3}\0\0\0\0\0\0\0\0\u{1}\0\0",
            "\"code\":",
            "{",
            "}",
            "\0\0\0\0",
        ],
    }
}

fn records(bytes: &[u8]) {
    if let Ok(error) = record::decode_error(bytes) {
        assert_eq!(
            record::decode_error(&record::encode_error(&error)).unwrap(),
            error
        );
    }
    if let Ok(crc) = record::decode_trailer(bytes) {
        assert_eq!(record::encode_trailer(crc), bytes);
    }
    let (mut stream, mut taken) = (stream(), 0);
    let mut copy = bytes.to_vec();
    while let Ok(Some((head, sealed))) = record::split(&mut copy[taken..]) {
        assert!(head.len <= record::MAX_BODY);
        assert_eq!(Head::decode(&head.encode()), Ok(head));
        taken += head.record_len();
        if stream.open(head, sealed).is_err() {
            return;
        }
        assert!(
            bytes[..taken] == session()[..taken],
            "a record that was not sealed, or in another place"
        );
    }
}

// Metas.

fn meta() -> Meta {
    let mut meta = document(ZHENQIANG, ROLAND, "photo");
    meta.filename = "my \u{1d11e} \"photo\"\n.jpg".to_owned();
    meta.datetime = "30-12-2018_23-59-59".to_owned();
    meta.filesize = Some(i64::MAX as u64);
    meta.file_crc = Some(0);
    meta.id = Some(TransferId([7; 16]));
    let nested: json::Value = vec![1, -1].into();
    meta.extra.insert("more".to_owned(), vec![nested].into());
    meta
}

fn meta_corpus() -> Corpus {
    let answer = Wire {
        filekey: Some(FileKey(Zeroizing::new([3; 32]))),
        ..Wire::request(meta())
    };
    let hand = r#"{"from": "zhenqiang", "to": "roland-frei", "folder": "photo",
        "filename": "f", "datetime": "", "filesize": "", "filekey": "", "fileCRC": "",
        "metaCRC": "", "error": "", "a": {"b": [null, true, "\ud834\udd1e\u0000"]}}"#;
    Corpus {
        valid: vec![
            meta().to_file(),
            Wire::request(meta()).to_json().as_bytes().to_vec(),
            answer.to_json().as_bytes().to_vec(),
            hand.as_bytes().to_vec(),
        ],
        tokens: vec![
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ",",
            "\\u0000",
            "\\ud800",
            "\\",
            "null",
            "true",
            "-0",
            "1e999",
            "0.5",
            "18446744073709551616",
            "-9223372036854775808",
            "\"metaCRC\":\"\"",
            "\"from\":",
            "\"filesize\":",
            "\"id\":",
            "{\"a\":",
            "[[",
            "\u{feff}",
            "\u{2028}",
            "//",
        ],
    }
}

fn a_meta(bytes: &[u8]) {
    if let Ok(document) = json::parse(bytes) {
        let canonical = json::canonical(&document);
        assert_eq!(json::parse(canonical.as_bytes()).unwrap(), document);
    }
    if let Ok(meta) = Meta::from_file(bytes) {
        assert_eq!(Meta::from_file(&meta.to_file()).unwrap(), meta);
    }
    if let Ok(wire) = Wire::from_json(bytes) {
        let back = Wire::from_json(wire.to_json().as_bytes()).unwrap();
        assert_eq!(back.meta, wire.meta);
    }
}

fn request_corpus() -> Corpus {
    let held = format!(
        r#"{{"bytes":65536,"sha256":"{0}","version":"v"}}"#,
        "ab".repeat(32)
    );
    let get = format!(
        r#"{{"filekey":"{0}","held":{held},"id":"{1}","path":"a/b","request":"get"}}"#,
        "01".repeat(32),
        "0f".repeat(16)
    );
    let mut meta = document(ZHENQIANG, ROLAND, "photo");
    meta.filesize = Some(9);
    let put = Request::Put {
        path: "photo/a".to_owned(),
        meta: Box::new(Wire::request(meta)),
        modified: -7,
        conflict: Conflict::Rename,
    };
    let entries = r#"{"entries":[{"modified":-5,"path":"a","size":3,"type":"file"}],"more":true}"#;
    let coming = r#"{"filesize":9,"modified":7,"resumeOffset":8,"version":"x"}"#;
    Corpus {
        valid: vec![
            br#"{"path":"photo","recursive":true,"request":"list"}"#.to_vec(),
            br#"{"path":"a","request":"rename","to":"b"}"#.to_vec(),
            get.into(),
            put.to_body().to_vec(),
            br#"{"path":"photo/a_2","same":false}"#.to_vec(),
            entries.into(),
            coming.into(),
        ],
        tokens: vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "null",
            "true",
            "-1",
            "18446744073709551615",
            "1e9",
            "\"request\":",
            "\"get\"",
            "\"put\"",
            "\"meta\":",
            "\"conflict\":",
            "\"path\":",
            "\"entries\":",
            "\"filesize\":",
            "\\u0000",
            "\\ud800",
            "..",
            "/",
        ],
    }
}

fn a_request(bytes: &[u8]) {
    if let Ok(request) = Request::from_body(bytes) {
        let back = Request::from_body(&request.to_body()).unwrap();
        assert_eq!((back.word(), back.path()), (request.word(), request.path()));
    }
    if let Ok(reply) = Reply::from_body(bytes) {
        assert_eq!(Reply::from_body(&reply.to_body()).unwrap(), reply);
    }
}

fn path_corpus() -> Corpus {
    Corpus {
        valid: vec![
            b"photo/2026/a.jpg".to_vec(),
            b"/a/b/".to_vec(),
            "\u{e9}/x y".into(),
        ],
        tokens: vec![
            "/", "//", ".", "..", "../", "/..", "\\", "\0", ".hidden", "%2e%2e", "\u{2024}",
            "\u{ff0f}", "a", "\u{202e}", "\n", "~", "CON", ":",
        ],
    }
}

/// Whatever passes is plain names: joined to a directory it stays below it.
fn a_path(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(path) = TreePath::parse(&text) else {
        return;
    };
    for name in path.components() {
        let mut parts = Path::new(name).components();
        let plain = matches!(parts.next(), Some(std::path::Component::Normal(_)));
        assert!(plain && parts.next().is_none(), "{name:?}");
        assert!(!name.starts_with('.') && !name.contains('\0'), "{name:?}");
    }
    assert_eq!(TreePath::parse(&path.join()), Some(path));
}

// Texts that people write.

fn config_corpus() -> Corpus {
    let seed = "# a folder\n[OnMeta]\ncheckPermission.rhai\n\"my own.rhai\"\n[OnReceived]\n\
        notifyUser.rhai\n[OnSchedule]\n*/10 * * * * = digest.rhai\n[permission]\n\
        zhenqiang = always\npeter-norton = until 30-12-2030\n[outbox]\nauto = yes\n";
    Corpus {
        valid: vec![
            seed.into(),
            seed.replace('\n', "\r\n").into(),
            "[OnMeta]\n".into(),
        ],
        tokens: vec![
            "[",
            "]",
            "=",
            "\n",
            "\r",
            "#",
            ";",
            "\\\n",
            "\"",
            "[OnMeta]",
            "[Onmeta]",
            "[OnSchedule]\n",
            "* * * * * = x.rhai",
            "0 0 30 2 *",
            "@daily",
            "59-0/0 ",
            "*/0",
            "0 0 31 2,4 * = x\n",
            ",",
            "-",
            "/",
            "MON#6",
            "L",
            "\u{feff}",
            "\u{2028}",
            ":",
            "a.rhai\n",
        ],
    }
}

fn a_config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(config) = Config::parse(&text) else {
        return;
    };
    for section in config.sections() {
        for (key, value) in config.section(section) {
            assert!(
                !key.is_empty() && !value.contains('\n'),
                "{section:?} {key:?}"
            );
        }
    }
    for event in EVENT_SECTIONS {
        for script in config.scripts(event) {
            assert!(!script.is_empty());
        }
    }
    for line in config.schedule() {
        let _ = line.is_due(25_771_680);
    }
}

fn settings_corpus() -> Corpus {
    let template = fs::read_to_string(world().here.path().join("m2y.ini")).unwrap();
    let all = template.replace("# ", "");
    Corpus {
        valid: vec![
            template.into_bytes(),
            "[server]\nlisten = 127.0.0.1:5000\nmax_filesize = 20G\nidle_deadline = 2m\n".into(),
            all.into(),
        ],
        tokens: vec![
            "[server]\n",
            "[hooks]\n",
            "[smtp]\n",
            "[webhook]\n",
            "=",
            "\n",
            "99999999999999999999",
            "T",
            "ms",
            "0",
            "-1",
            "[",
            "]",
            "allow = ",
            "https://",
            "::1",
            "\u{e9}",
        ],
    }
}

fn settings(bytes: &[u8]) {
    let _ = Settings::parse(&String::from_utf8_lossy(bytes));
}

/// Somebody whose contacts.ini is read from the disk, as the program does.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World::new(common::OPEN))
}

fn contacts_corpus() -> Corpus {
    Corpus {
        valid: vec![
            "[roland-frei]\naddress = roland.example.org:5000\n[peter-norton]\naddress=[::1]:1\n"
                .into(),
            "; by hand\r\n[roland-frei]\r\naddress = 10.0.0.1:5000\r\n".into(),
        ],
        tokens: vec![
            "[",
            "]",
            "[roland-frei]",
            "address",
            "=",
            "\n",
            "\r",
            ";",
            "#",
            "\"",
            "\\\n",
            "address = x:1\n",
            "\u{feff}",
            ":",
        ],
    }
}

fn contacts(bytes: &[u8]) {
    let user = &world().sender;
    let path = user.path().join("contacts.ini");
    // Written anew: to write over a file waits for the disk.
    let _ = fs::remove_file(&path);
    fs::write(&path, bytes).unwrap();
    let other = name(ROLAND);
    let text = |addresses: Option<Addresses>| addresses.map(|addresses| addresses.to_string());
    let Ok(before) = user.addresses_of(&other) else {
        return;
    };
    assert_ne!(text(before).as_deref(), Some(""));
    // What is put in is found, whatever stands around it. It is made durable, so only
    // for some.
    if crc32fast::hash(bytes).is_multiple_of(2_000) {
        user.set_addresses(&other, &"example.org:9".parse().unwrap())
            .unwrap();
        let written = String::from_utf8_lossy(bytes);
        let after = text(user.addresses_of(&other).unwrap());
        assert_eq!(after.as_deref(), Some("example.org:9"), "{written:?}");
    }
}

// Key files, in their PEM and in the DER within.

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, n| {
            word << 8 | *three.get(n).unwrap_or(&0) as usize
        });
        for digit in 0..4 {
            match digit <= three.len() {
                true => text.push(DIGITS[word >> (18 - 6 * digit) & 63] as char),
                false => text.push('='),
            }
        }
        if text.len() % 65 == 64 {
            text.push('\n');
        }
    }
    text
}

fn unbase64(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
    let (mut word, mut bits, mut bytes) = (0_u32, 0, Vec::new());
    for digit in body.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
        }
    }
    bytes
}

const PUBLIC: &str = "PUBLIC KEY";
const PRIVATE: &str = "PRIVATE KEY";

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = base64(der);
    let body = base64.trim_end();
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

fn public_corpus() -> Corpus {
    let texts = [ZHENQIANG, ROLAND].map(|who| {
        let private = PrivateKey::from_pem(&key(who)).unwrap();
        private.public().to_pem().unwrap()
    });
    pem_corpus(&texts)
}

fn pem_corpus(texts: &[String]) -> Corpus {
    Corpus {
        valid: texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
        tokens: vec![
            "-----BEGIN PUBLIC KEY-----\n",
            "-----END PUBLIC KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\n",
            "-----",
            "\n",
            "=",
            "==",
            "MIIB",
            "AAAA",
            "////",
            "A",
        ],
    }
}

fn der_corpus(texts: &[String]) -> Corpus {
    Corpus {
        valid: texts.iter().map(|text| unbase64(text)).collect(),
        tokens: vec![
            "\u{2}\u{1}\0",
            "\u{2}\u{3}\u{1}\0\u{1}",
            "\u{5}\0",
            "0",
            "\0",
        ],
    }
}

fn a_public_key(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(key) = PublicKey::from_pem(&text) {
        assert!((256..=512).contains(&key.size()));
        assert!(PublicKey::from_pem(&key.to_pem().unwrap()).unwrap() == key);
        // A modulus that was made up must not upset what checks signatures.
        assert!(key.verify(b"x", &vec![0; key.size()]).is_err());
    }
    let card = format!(
        "{{\"username\":\"x\",\"publicKey\":{:?}}}",
        text.escape_default()
    );
    let _ = Card::parse("card", card.as_bytes());
}

fn a_public_der(bytes: &[u8]) {
    a_public_key(pem(PUBLIC, bytes).as_bytes());
}

fn a_private_key(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(key) = PrivateKey::from_pem(&text) {
        assert!((256..=512).contains(&key.public().size()));
    }
}

fn a_private_der(bytes: &[u8]) {
    a_private_key(pem(PRIVATE, bytes).as_bytes());
}

fn private_texts() -> [String; 2] {
    [key(ZHENQIANG), key(ROLAND)]
}

fn public_texts() -> Vec<String> {
    let texts = public_corpus().valid;
    texts
        .into_iter()
        .map(|text| String::from_utf8(text).unwrap())
        .collect()
}

macro_rules! targets {
    ($($few:ident, $many:ident: $corpus:expr, $target:expr, 1 in $part:expr;)*) => {$(
        #[test]
        fn $few() {
            fuzz(stringify!($few), &$corpus, FEW / $part, $target);
        }

        #[test]
        #[ignore = "takes minutes"]
        fn $many() {
            fuzz(stringify!($many), &$corpus, MANY / $part, $target);
        }
    )*};
}

// Where a private key works for each input, there are fewer of them.
targets! {
    headers, a_million_headers: header_corpus(), a_header, 1 in 1;
    answer_headers, a_million_answer_headers: answer_header_corpus(), an_answer_header, 1 in 1;
    envelopes_that_strangers_send, a_million_envelopes_that_strangers_send:
        envelope_corpus(), an_envelope, 1 in 1;
    envelopes_that_contacts_sign, many_envelopes_that_contacts_sign:
        envelope_corpus(), a_signed_envelope, 1 in 50;
    streams_of_records, a_million_streams_of_records: record_corpus(), records, 1 in 1;
    metas, a_million_metas: meta_corpus(), a_meta, 1 in 1;
    requests_and_replies, a_million_requests_and_replies: request_corpus(), a_request, 1 in 1;
    paths_of_peers, a_million_paths_of_peers: path_corpus(), a_path, 1 in 1;
    configs_of_folders, a_million_configs_of_folders: config_corpus(), a_config, 1 in 1;
    settings_of_servers, a_million_settings_of_servers: settings_corpus(), settings, 1 in 1;
    contacts_ini, a_million_contacts_ini: contacts_corpus(), contacts, 1 in 1;
    public_key_files, a_million_public_key_files: public_corpus(), a_public_key, 1 in 1;
    public_keys_in_der, a_million_public_keys_in_der:
        der_corpus(&public_texts()), a_public_der, 1 in 1;
    private_key_files, a_million_private_key_files:
        pem_corpus(&private_texts()), a_private_key, 1 in 1;
    private_keys_in_der, a_million_private_keys_in_der:
        der_corpus(&private_texts()), a_private_der, 1 in 1;
}

#[test]
fn the_corpora_are_read() {
    // Else all that follows would only show that nonsense is refused.
    let all = |corpus: Corpus, read: fn(&[u8]) -> bool| {
        for valid in corpus.valid {
            assert!(read(&valid), "{}", valid.escape_ascii());
        }
    };
    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }
    all(header_corpus(), |b| {
        Header::decode(b.first_chunk().unwrap()).is_ok()
    });
    all(answer_header_corpus(), |b| {
        AnswerHeader::decode(b.first_chunk().unwrap()).is_ok()
    });
    all(envelope_corpus(), |b| {
        let (sender, receiver) = keys();
        let verified = envelope::verify(Part::Opening, BOUND, b, sender.public());
        verified
            .and_then(|verified| verified.open(receiver))
            .is_ok()
    });
    all(meta_corpus(), |b| Meta::from_file(b).is_ok());
    all(config_corpus(), |b| Config::parse(&text(b)).is_ok());
    all(contacts_corpus(), |b| Config::parse_ini(&text(b)).is_ok());
    all(public_corpus(), |b| PublicKey::from_pem(&text(b)).is_ok());
    let der = |label| move |b: &[u8]| pem(label, b);
    for bytes in der_corpus(&public_texts()).valid {
        assert!(PublicKey::from_pem(&der(PUBLIC)(&bytes)).is_ok());
    }
    for bytes in der_corpus(&private_texts()).valid {
        assert!(PrivateKey::from_pem(&der(PRIVATE)(&bytes)).is_ok());
    }
    records(session());
    assert!(Path::new("/proc/self/status").exists());
}

//! The vectors of `tests/vectors/`: fixed keys and randomness in, bytes out; and
//! both back ends read each other.
//!
//! `M2Y_WRITE_VECTORS=1 cargo test --test vectors` writes the files anew.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{collections::HashMap, fs, path::Path};

use common::{ROLAND, ZHENQIANG, key};
use m2y::{
    crypto::{
        Random, SysRng,
        backend::{ALL, Backend, rust_crypto::RustCrypto},
        keys::PrivateKey,
        seal::{Key, Seal},
    },
    error::{Code, Error},
    json::canonical,
    meta::{Features, FileKey, Meta, TransferId, Wire},
    root::{conflict::Conflict, contact::Card, contact_request::RequestId},
    wire::{
        code::{self, Joiner, Side},
        envelope::{self, Contents, Part},
        header::{AnswerHeader, Header},
        letter::{self, Parties, Prekey, PrekeyKind, Receipt},
        pairing::{Announcement, Document, Request},
        post::{Ask, PostKeys},
        record::{self, Head, Kind, Stream},
        request::{self, Coming, Entry, Held, Page, Reply},
        session::{self, Direction, SessionKeys, Share},
    },
};
use rsa::rand_core::{TryCryptoRng, TryRng};
use serde_json::{Value, json};
use sha2::Digest;
use zeroize::Zeroizing;

/// Gives the bytes that it was made with, then those of the system: what comes last
/// is the blinding of RSA, which does not show.
struct Fixed(Vec<u8>);

impl Fixed {
    fn new(parts: &[&[u8]]) -> Self {
        Self(parts.concat())
    }
}

impl TryRng for Fixed {
    type Error = getrandom::Error;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        let fixed = bytes.len().min(self.0.len());
        bytes[..fixed].copy_from_slice(&self.0[..fixed]);
        self.0.drain(..fixed);
        SysRng.try_fill_bytes(&mut bytes[fixed..])
    }
}

impl TryCryptoRng for Fixed {}

/// Signs with the pure back end, whose salt can be given.
fn signer(name: &str) -> PrivateKey {
    PrivateKey::with_backend(&RustCrypto, &key(name)).unwrap()
}

fn seal_vectors() -> Value {
    let key = Key::new(*b"sixteen byte key");
    let cases: Vec<Value> = [
        (0_u64, true, &b""[..], &b""[..]),
        (0, false, b"head", b"hello"),
        (1, true, b"", &[7; 16]),
        (u64::MAX, false, b"12 byte head", &[0; 100]),
    ]
    .into_iter()
    .map(|(number, last, ad, plain)| {
        let mut sealed = plain.to_vec();
        let tag = Seal::with_backend(&RustCrypto, &key)
            .unwrap()
            .seal(number, last, ad, &mut sealed)
            .unwrap();
        sealed.extend(tag);
        json!({ "key": hex::encode(key.as_bytes()), "number": number, "last": last,
            "ad": hex::encode(ad), "plain": hex::encode(plain), "sealed": hex::encode(sealed) })
    })
    .collect();
    json!({ "what": "seal(key, number, last, ad, plain)", "cases": cases })
}

fn meta() -> Meta {
    let mut meta = common::document(ZHENQIANG, ROLAND, "photo");
    meta.filename = "Zürich \"Nacht\"\u{1}.jpg".to_owned();
    meta.datetime = "30-12-2018_23-59-59".to_owned();
    meta.filesize = Some(12);
    meta.id = Some(TransferId(*b"0123456789abcdef"));
    meta.extra.insert(
        "album".to_owned(),
        json!({ "ß": [1, -2, true, null], "a": "\n" }),
    );
    meta
}

/// A whole session, byte for byte.
fn session_vectors() -> Value {
    let (client, server) = (signer(ZHENQIANG), signer(ROLAND));
    let random = |name: u8| [name; 32];
    let (opening_secret, opening_seed, opening_salt) = (random(1), random(2), random(3));
    let (answer_secret, answer_seed, answer_salt) = (random(4), random(5), random(6));
    let (client_x, server_x, filekey) = (random(7), random(8), random(9));
    let file = b"hello, world";

    let share = |secret: [u8; 32]| Share::new(&mut Fixed::new(&[&secret])).unwrap();
    let request = Wire::request(meta());
    let request_json = request.to_json();
    let header = Header {
        envelope_len: envelope::sealed_len(request_json.len(), client.public(), server.public())
            .unwrap(),
        from: common::name(ZHENQIANG).hash(),
        to: common::name(ROLAND).hash(),
    }
    .encode();
    let (client_share, server_share) = (share(client_x), share(server_x));
    let contents = |share: &Share, time, json: &str| Contents {
        time,
        share: share.public,
        json: Zeroizing::new(json.as_bytes().to_vec()),
    };
    let opening = envelope::seal(
        Part::Opening,
        &header,
        &contents(&client_share, 1_546_214_399_000, &request_json),
        &client,
        server.public(),
        &mut Fixed::new(&[&opening_secret, &opening_seed, &opening_salt]),
    )
    .unwrap();

    let digest = session::opening_digest(&header, &opening.bytes);
    let reply = Wire {
        filekey: Some(FileKey(Zeroizing::new(filekey))),
        ..Wire::request(meta())
    };
    let reply_json = reply.to_json();
    let answer_len =
        envelope::sealed_len(reply_json.len(), server.public(), client.public()).unwrap();
    let head = AnswerHeader::Envelope(answer_len).encode();
    let bound = [digest.as_slice(), &head].concat();
    let answer = envelope::seal(
        Part::Answer,
        &bound,
        &contents(&server_share, 1_546_214_400_000, &reply_json),
        &server,
        client.public(),
        &mut Fixed::new(&[&answer_secret, &answer_seed, &answer_salt]),
    )
    .unwrap();

    let transcript = session::transcript(&digest, &[&head, &answer.bytes]);
    let (client_public, server_public) = (client_share.public, server_share.public);
    let keys = SessionKeys::derive(
        client_share,
        &server_public,
        &opening.secret,
        &answer.secret,
        &transcript,
    )
    .unwrap();
    let same = SessionKeys::derive(
        server_share,
        &client_public,
        &opening.secret,
        &answer.secret,
        &transcript,
    )
    .unwrap();
    assert_eq!(keys.client.as_bytes(), same.client.as_bytes());
    let block_key = keys.block_key(
        reply.filekey.as_ref().unwrap(),
        &meta().id.unwrap(),
        Direction::ToServer,
        0,
    );

    let mut blocks = Stream::new(&block_key).unwrap();
    let block_head = Head {
        kind: Kind::Block,
        last: true,
        transfer: 0,
        len: file.len(),
    };
    let mut block = [&[0; 12], file.as_slice(), &[0; 16]].concat();
    blocks.seal(block_head, &mut block).unwrap();
    let mut from_client = Stream::new(&keys.client).unwrap();
    let mut from_server = Stream::new(&keys.server).unwrap();
    let crc = crc32fast::hash(file);
    let trailer = from_client
        .record(Kind::Trailer, 0, &record::encode_trailer(crc))
        .unwrap();
    let close = from_client.record(Kind::Close, 0, &[]).unwrap();
    let working = from_server.record(Kind::Working, 0, &[]).unwrap();
    let ack = from_server.record(Kind::Ack, 0, record::ACK).unwrap();

    json!({
        "what": "a whole session: zhenqiang is the client, roland-frei the server",
        "client_private_key": key(ZHENQIANG),
        "server_private_key": key(ROLAND),
        "client_fingerprint": hex::encode(client.public().fingerprint().as_bytes()),
        "server_fingerprint": hex::encode(server.public().fingerprint().as_bytes()),
        "opening": {
            "secret": hex::encode(opening_secret), "oaep_seed": hex::encode(opening_seed),
            "pss_salt": hex::encode(opening_salt), "time": 1_546_214_399_000_u64,
            "x25519_private": hex::encode(client_x), "share": hex::encode(client_public),
            "json": request_json.as_str(), "header": hex::encode(header),
            "envelope": hex::encode(&opening.bytes), "digest": hex::encode(digest),
        },
        "answer": {
            "secret": hex::encode(answer_secret), "oaep_seed": hex::encode(answer_seed),
            "pss_salt": hex::encode(answer_salt), "time": 1_546_214_400_000_u64,
            "x25519_private": hex::encode(server_x), "share": hex::encode(server_public),
            "json": reply_json.as_str(), "head": hex::encode(head),
            "envelope": hex::encode(&answer.bytes),
        },
        "transcript": hex::encode(transcript),
        "client_key": hex::encode(keys.client.as_bytes()),
        "server_key": hex::encode(keys.server.as_bytes()),
        "filekey": hex::encode(filekey),
        "block_key": hex::encode(block_key.as_bytes()),
        "file": hex::encode(file), "crc": crc,
        "client_records": [
            { "kind": "block", "bytes": hex::encode(block) },
            { "kind": "trailer", "bytes": hex::encode(trailer) },
            { "kind": "close", "bytes": hex::encode(close) },
        ],
        "server_records": [
            { "kind": "working", "bytes": hex::encode(working) },
            { "kind": "ack", "bytes": hex::encode(ack) },
        ],
    })
}

/// The records of a further file that goes on where another attempt broke off.
fn resume_vectors() -> Value {
    let share = |secret: u8| Share::new(&mut Fixed::new(&[&[secret; 32]])).unwrap();
    let (client_x, server_x, transcript) = (7, 8, [10; 32]);
    let server_share = share(server_x).public;
    let keys = SessionKeys::derive(
        share(client_x),
        &server_share,
        &[1; 32],
        &[4; 32],
        &transcript,
    )
    .unwrap();
    let prefix = first_block();
    let rest = b"hello, world";
    let file = [&prefix, rest.as_slice()].concat();

    let mut further = meta();
    further.filesize = Some(file.len() as u64);
    let request = Wire {
        features: Features {
            resume: true,
            files: 0,
            requests: false,
        },
        ..Wire::request(further.clone())
    };
    let reply = Wire {
        filekey: Some(FileKey(Zeroizing::new([9; 32]))),
        offset: prefix.len() as u64,
        features: Features {
            resume: true,
            files: 64,
            requests: false,
        },
        ..Wire::request(further.clone())
    };
    let (request_json, reply_json) = (request.to_json(), reply.to_json());
    let (mut crc, digest) = (crc32fast::Hasher::new(), sha2::Sha256::digest(&prefix));
    crc.update(&file);
    let crc = crc.finalize();

    let block_key = keys.block_key(
        reply.filekey.as_ref().unwrap(),
        &further.id.unwrap(),
        Direction::ToServer,
        1,
    );
    let head = Head {
        kind: Kind::Block,
        last: true,
        transfer: 1,
        len: rest.len(),
    };
    let mut block = [&[0; 12], rest.as_slice(), &[0; 16]].concat();
    let mut blocks = Stream::new(&block_key).unwrap();
    blocks.seal(head, &mut block).unwrap();
    let mut client = Stream::new(&keys.client).unwrap();
    let mut server = Stream::new(&keys.server).unwrap();
    let mut said = |kind, body: &[u8]| hex::encode(client.record(kind, 1, body).unwrap());
    let mut answered = |kind, body: &[u8]| hex::encode(server.record(kind, 1, body).unwrap());
    json!({
        "what": "records of a session: a further file, of which the server has the first 65,536 bytes",
        "client_x25519_private": hex::encode([client_x; 32]),
        "server_share": hex::encode(server_share),
        "opening_secret": hex::encode([1; 32]), "answer_secret": hex::encode([4; 32]),
        "transcript": hex::encode(transcript),
        "client_key": hex::encode(keys.client.as_bytes()),
        "server_key": hex::encode(keys.server.as_bytes()),
        "block_key": hex::encode(block_key.as_bytes()),
        "held": FIRST_BLOCK,
        "rest": hex::encode(rest), "sha256_of_held": hex::encode(digest), "crc": crc,
        "meta": request_json.as_str(), "answer": reply_json.as_str(),
        "records": [
            { "who": "client", "kind": "meta", "bytes": said(Kind::Meta, request_json.as_bytes()) },
            { "who": "server", "kind": "answer", "bytes": answered(Kind::Answer, reply_json.as_bytes()) },
            { "who": "client", "kind": "resume", "bytes": said(Kind::Resume, &digest) },
            { "who": "server", "kind": "resume",
                "bytes": answered(Kind::Resume, &record::encode_offset(reply.offset)) },
            { "who": "client", "kind": "block", "bytes": hex::encode(block) },
            { "who": "client", "kind": "trailer", "bytes": said(Kind::Trailer, &record::encode_trailer(crc)) },
            { "who": "server", "kind": "ack", "bytes": answered(Kind::Ack, record::ACK) },
        ],
    })
}

/// Records of one session, each with what is in it.
struct Said {
    client: Stream,
    server: Stream,
    records: Vec<Value>,
}

impl Said {
    fn text(&mut self, who: &str, kind: Kind, transfer: u32, body: &[u8]) {
        let text = std::str::from_utf8(body).unwrap();
        self.record(who, kind, transfer, body, json!({ "body": text }));
    }

    fn ask(&mut self, transfer: u32, request: &request::Request) {
        self.text("client", Kind::Request, transfer, &request.to_body());
    }

    fn reply(&mut self, transfer: u32, reply: &Reply) {
        self.text("server", Kind::Reply, transfer, &reply.to_body());
    }

    fn ack(&mut self, transfer: u32) {
        self.text("client", Kind::Ack, transfer, record::ACK);
    }

    fn trailer(&mut self, who: &str, transfer: u32, file: &[u8]) {
        let body = record::encode_trailer(crc32fast::hash(file));
        let shown = json!({ "body_hex": hex::encode(body) });
        self.record(who, Kind::Trailer, transfer, &body, shown);
    }

    fn record(&mut self, who: &str, kind: Kind, transfer: u32, body: &[u8], shown: Value) {
        let stream = match who {
            "client" => &mut self.client,
            _ => &mut self.server,
        };
        let record = stream.record(kind, transfer, body).unwrap();
        self.push(who, kind, transfer, shown, &record);
    }

    /// A block: that of 65,536 bytes is known by its digest.
    fn block(&mut self, who: &str, blocks: &mut Stream, last: bool, transfer: u32, body: &[u8]) {
        let head = Head {
            kind: Kind::Block,
            last,
            transfer,
            len: body.len(),
        };
        let mut record = [&[0; 12], body, &[0; 16]].concat();
        blocks.seal(head, &mut record).unwrap();
        let shown = match body.len() {
            record::MAX_BODY => json!({ "body": FIRST_BLOCK }),
            _ => json!({ "body_hex": hex::encode(body) }),
        };
        self.push(who, Kind::Block, transfer, shown, &record);
    }

    fn push(&mut self, who: &str, kind: Kind, transfer: u32, mut shown: Value, record: &[u8]) {
        shown["who"] = who.into();
        shown["kind"] = format!("{kind:?}").to_lowercase().into();
        shown["transfer"] = transfer.into();
        if record.len() < record::MAX_BODY {
            shown["bytes"] = hex::encode(record).into();
        } else {
            shown["sha256_of_bytes"] = hex::encode(sha2::Sha256::digest(record)).into();
        }
        self.records.push(shown);
    }
}

const FIRST_BLOCK: &str = "65,536 bytes: the remainders of 0, 1, 2 ... by 251";

fn first_block() -> Vec<u8> {
    (0..record::MAX_BODY).map(|n| (n % 251) as u8).collect()
}

/// A session without a file, in which the client looks around, fetches and changes.
fn request_vectors() -> Value {
    let share = |secret: u8| Share::new(&mut Fixed::new(&[&[secret; 32]])).unwrap();
    let (client_x, server_x, transcript) = (7, 8, [11; 32]);
    let server_share = share(server_x).public;
    let keys = SessionKeys::derive(
        share(client_x),
        &server_share,
        &[1; 32],
        &[4; 32],
        &transcript,
    )
    .unwrap();
    let opening = Wire {
        features: Features {
            resume: true,
            ..Features::default()
        },
        session: true,
        ..Wire::request(common::document(ZHENQIANG, ROLAND, ""))
    };
    let answer = Wire {
        features: Features {
            resume: true,
            files: 256,
            requests: true,
        },
        session: false,
        ..opening.clone()
    };

    let (first, rest) = (first_block(), b"hello, world");
    let file = [&first, rest.as_slice()].concat();
    let modified = 1_546_214_399_123_456_789;
    let entry = |path: &str, is_dir, size| Entry {
        path: path.to_owned(),
        is_dir,
        size,
        modified,
    };
    let page = |entries: Vec<Entry>, more| {
        let mut page = Page::default();
        entries.into_iter().for_each(|entry| page.push(entry));
        page.reply(more)
    };
    let get = |id: &[u8; 16], filekey: u8, held| request::Request::Get {
        path: "photo/Zürich \"Nacht\".jpg".to_owned(),
        id: TransferId(*id),
        filekey: FileKey(Zeroizing::new([filekey; 32])),
        held,
    };
    let block_key = |id: &[u8; 16], key, transfer| {
        let filekey = FileKey(Zeroizing::new([key; 32]));
        keys.block_key(&filekey, &TransferId(*id), Direction::ToClient, transfer)
    };
    let coming = |offset| {
        Reply::Coming(Coming {
            size: file.len() as u64,
            modified,
            version: "2021-1".to_owned(),
            offset,
        })
    };
    let stream = |key: &Key| Stream::new(key).unwrap();

    let mut said = Said {
        client: stream(&keys.client),
        server: stream(&keys.server),
        records: Vec::new(),
    };
    let [photo, new, newer] = ["photo", "photo/new", "photo/newer"].map(str::to_owned);
    let list = request::Request::List {
        path: photo.clone(),
        recursive: true,
    };
    said.ask(1, &list);
    let night = entry("Zürich \"Nacht\".jpg", false, file.len() as u64);
    said.reply(1, &page(vec![entry("sub", true, 0), night], true));
    said.ack(1);
    said.reply(1, &page(vec![entry("sub/a\u{1}", false, 0)], false));
    said.ask(2, &request::Request::Stat { path: photo });
    said.reply(2, &page(vec![entry("", true, 0)], false));

    let (id, resumed_id) = (b"0123456789abcdef", b"fedcba9876543210");
    let (whole_key, resumed_key) = (block_key(id, 9, 3), block_key(resumed_id, 10, 4));
    said.ask(3, &get(id, 9, None));
    said.reply(3, &coming(0));
    let mut blocks = stream(&whole_key);
    said.block("server", &mut blocks, false, 3, &first);
    said.block("server", &mut blocks, true, 3, rest);
    said.trailer("server", 3, &file);
    said.ack(3);

    let held = Held {
        bytes: first.len() as u64,
        digest: sha2::Sha256::digest(&first).into(),
        version: "2021-1".to_owned(),
    };
    said.ask(4, &get(resumed_id, 10, Some(held)));
    said.reply(4, &coming(first.len() as u64));
    said.block("server", &mut stream(&resumed_key), true, 4, rest);
    said.trailer("server", 4, &file);
    said.ack(4);

    said.ask(5, &request::Request::MakeDir { path: new.clone() });
    said.reply(5, &Reply::Done);
    let rename = request::Request::Rename {
        path: new.clone(),
        to: newer.clone(),
    };
    said.ask(6, &rename);
    said.reply(6, &Reply::Done);
    said.ask(7, &request::Request::Remove { path: newer });
    said.reply(7, &Reply::Done);
    said.ask(8, &request::Request::Stat { path: new });
    let error = Error::new(Code::NotFound, "no such file or directory");
    said.text("server", Kind::Error, 8, &record::encode_error(&error));

    let mut sent = meta();
    sent.folder = "photo".to_owned();
    sent.filesize = Some(rest.len() as u64);
    let put = request::Request::Put {
        path: "photo/sub/new.jpg".to_owned(),
        meta: Box::new(Wire {
            features: opening.features,
            ..Wire::request(sent.clone())
        }),
        modified,
        conflict: Conflict::Rename,
    };
    let leave = Wire {
        filekey: Some(FileKey(Zeroizing::new([12; 32]))),
        features: answer.features,
        ..Wire::request(sent.clone())
    };
    let stored = |same| Reply::Stored {
        path: match same {
            true => "photo/sub/new.jpg".to_owned(),
            false => "photo/sub/new_2.jpg".to_owned(),
        },
        same,
    };
    let put_key = keys.block_key(
        leave.filekey.as_ref().unwrap(),
        &sent.id.unwrap(),
        Direction::ToServer,
        9,
    );
    said.ask(9, &put);
    said.text("server", Kind::Answer, 9, leave.to_json().as_bytes());
    said.block("client", &mut stream(&put_key), true, 9, rest);
    said.trailer("client", 9, rest);
    said.reply(9, &stored(false));
    said.ask(10, &put);
    said.reply(10, &stored(true));
    said.text("client", Kind::Close, 0, b"");

    json!({
        "what": "records of a session without a file: what is asked, and the replies",
        "client_x25519_private": hex::encode([client_x; 32]),
        "server_share": hex::encode(server_share),
        "opening_secret": hex::encode([1; 32]), "answer_secret": hex::encode([4; 32]),
        "transcript": hex::encode(transcript),
        "opening": opening.to_json().as_str(), "answer": answer.to_json().as_str(),
        "client_key": hex::encode(keys.client.as_bytes()),
        "server_key": hex::encode(keys.server.as_bytes()),
        "block_key_of_3": hex::encode(whole_key.as_bytes()),
        "block_key_of_4": hex::encode(resumed_key.as_bytes()),
        "block_key_of_9": hex::encode(put_key.as_bytes()),
        "records": said.records,
    })
}

/// A request, its answer, and a new key for who has answered.
fn pairing_vectors() -> Value {
    let (requester, adder, next) = (signer(ZHENQIANG), signer(ROLAND), signer(common::PETER));
    let random = |name: u8| [name; 32];
    let (secret, seed, salt, rotation_salt) = (random(1), random(2), random(3), random(4));
    let (time, roland) = (1_546_214_399_000, common::name(ROLAND));
    let request = Request {
        card: Card {
            name: common::name(ZHENQIANG),
            key: requester.public().clone(),
            addresses: None,
            folder: None,
            letter_box: None,
        },
        id: RequestId(*b"0123456789abcdef"),
    };
    let card = Card {
        name: roland.clone(),
        key: adder.public().clone(),
        addresses: Some("roland.example.org:5000".parse().unwrap()),
        folder: None,
        letter_box: None,
    };
    let mut fixed = Fixed::new(&[&secret, &seed, &salt]);
    let answer = request.answer(&card, &adder, time, &mut fixed);
    let mut fixed = Fixed::new(&[&rotation_salt]);
    let rotation = Announcement::sign(&roland, &adder, next.public(), time, &mut fixed);
    json!({
        "what": "zhenqiang asks, roland-frei answers, and later has another key",
        "requester_private_key": key(ZHENQIANG),
        "adder_private_key": key(ROLAND),
        "requester_digits": requester.public().fingerprint().digits(),
        "adder_digits": adder.public().fingerprint().digits(),
        "request": request.to_document().unwrap(),
        "answer": answer.unwrap().to_document().unwrap(),
        "answer_randomness": {
            "secret": hex::encode(secret), "oaep_seed": hex::encode(seed),
            "pss_salt": hex::encode(salt), "time": time,
        },
        "rotation": rotation.unwrap().to_document().unwrap(),
        "rotation_randomness": { "pss_salt": hex::encode(rotation_salt) },
    })
}

/// All six messages of a pairing by a code.
fn letter_vectors() -> Value {
    let (sender, receiver) = (signer(ZHENQIANG), signer(ROLAND));
    let secret = [5; 32];
    let public = Share::from_secret(&secret).public;
    let salt = |byte: u8| [byte; 32];
    let time = 1_700_000_000_000;
    let prekey = Prekey::sign(
        PrekeyKind::Once,
        7,
        time,
        public,
        &receiver,
        &mut Fixed::new(&[&salt(1)]),
    )
    .unwrap();
    prekey.verify(receiver.public()).unwrap();
    let id = [9; 32];
    let parties = Parties {
        id: &id,
        sender: sender.public(),
        receiver: receiver.public(),
    };
    let mut meta = Meta::new(ZHENQIANG, ROLAND, "photo", "a.txt");
    meta.datetime = "30-12-2018_23-59-59".to_owned();
    (meta.filesize, meta.id) = (Some(5), Some(TransferId([3; 16])));
    let json = Wire::request(meta.clone()).to_json();
    let share = [6; 32];
    let (front, keys) = letter::seal(
        parties,
        &prekey,
        time + 1,
        json.as_bytes(),
        &sender,
        &mut Fixed::new(&[&share, &salt(2)]),
    )
    .unwrap();
    let mut block = [[0; record::HEAD_LEN].as_slice(), b"hello", &[0; 16]].concat();
    let head = Head {
        kind: Kind::Block,
        last: true,
        transfer: 0,
        len: 5,
    };
    Stream::new(&keys.blocks)
        .unwrap()
        .seal(head, &mut block)
        .unwrap();
    let crc = record::encode_trailer(crc32fast::hash(b"hello"));
    let trailer = Stream::new(&keys.records)
        .unwrap()
        .record(Kind::Trailer, 0, &crc)
        .unwrap();
    let answer = Wire {
        delivered: true,
        ..Wire::request(meta)
    };
    let answer = answer.to_json();
    let receipt = letter::seal_receipt(
        &keys,
        answer.as_bytes(),
        &receiver,
        &mut Fixed::new(&[&salt(4), &salt(3)]),
    )
    .unwrap();
    let unopened =
        letter::unopened_receipt(&keys.digest, &receiver, &mut Fixed::new(&[&salt(8)])).unwrap();

    // What was written can be read.
    let letter_head = letter::Head::decode(front.first_chunk().unwrap()).unwrap();
    let sealed = &front[letter::HEAD_LEN..];
    let opened = letter::open(parties, Share::from_secret(&secret), &letter_head, sealed).unwrap();
    assert_eq!(
        (opened.time, &*opened.json),
        (time + 1, &json.as_bytes().to_vec())
    );
    let read = |receipt| {
        letter::open_receipt(&keys.receipt, &keys.digest, receipt, receiver.public()).unwrap()
    };
    assert!(matches!(read(&receipt), Receipt::Answer(json) if *json == answer.as_bytes()));
    assert!(matches!(read(&unopened), Receipt::Unopened));

    let (lasting, client, relay) = (salt(10), salt(11), salt(12));
    let [k, c, r] = [lasting, client, relay].map(|secret| Share::from_secret(&secret));
    let post = PostKeys::of_client(&c, &k.public, &r.public).unwrap();
    let ask = Ask::Leave {
        id,
        letter: [13; 32],
        bytes: (front.len() + block.len() + trailer.len()) as u64,
    };
    let first = Stream::new(&post.client)
        .unwrap()
        .record(Kind::Request, 0, &ask.to_body())
        .unwrap();
    json!({
        "what": "zhenqiang leaves a letter with the file `hello` for roland-frei",
        "prekey_private": hex::encode(secret),
        "prekey": prekey.to_document(),
        "prekey_salt": hex::encode(salt(1)),
        "box": hex::encode(id),
        "share_private": hex::encode(share),
        "time": time + 1,
        "json": json.as_str(),
        "letter_salt": hex::encode(salt(2)),
        "front": hex::encode(&front),
        "digest": hex::encode(keys.digest),
        "block": hex::encode(block),
        "trailer": hex::encode(trailer),
        "answer": answer.as_str(),
        "receipt_signature_salt": hex::encode(salt(3)),
        "receipt_salt": hex::encode(salt(4)),
        "receipt": hex::encode(receipt),
        "unopened_salt": hex::encode(salt(8)),
        "unopened": hex::encode(unopened),
        "relay_key_private": hex::encode(lasting),
        "client_share_private": hex::encode(client),
        "relay_share_private": hex::encode(relay),
        "client_key": hex::encode(post.client.as_bytes()),
        "relay_key": hex::encode(post.relay.as_bytes()),
        "leave": String::from_utf8(ask.to_body()).unwrap(),
        "leave_record": hex::encode(first),
    })
}

fn code_vectors() -> Value {
    // Numbers below the order of the group, so that nothing is reduced.
    let number = |byte: u8| [[byte; 32], [0; 32]].concat();
    let (x, y) = (number(1), number(2));
    let (slot, words) = (7, "lantern-orbit");
    let (joiner, first) = Joiner::start(slot, words, &mut Fixed::new(&[&x])).unwrap();
    let (keys, second) = code::answer(words, &first, &mut Fixed::new(&[&y])).unwrap();
    let same = joiner.finish(&second).unwrap();
    let card = |who: &str, address: Option<&str>| {
        let card = Card {
            name: common::name(who),
            key: signer(who).public().clone(),
            addresses: address.map(|address| address.parse().unwrap()),
            folder: Some(common::name("inbox")),
            letter_box: None,
        };
        canonical(&card.to_document().unwrap())
    };
    let joiner_card = card(ZHENQIANG, None);
    let owner_card = card(ROLAND, Some("roland.example.org:5000"));
    let verdict = r#"{"kept":true}"#;
    let seal = |side, number, text: &str| keys.seal(side, number, text.as_bytes()).unwrap();
    let shown = keys.confirmation(Side::Joiner);
    same.check(Side::Joiner, &shown).unwrap();
    let fourth = [
        keys.confirmation(Side::Owner).to_vec(),
        seal(Side::Owner, 0, &owner_card),
    ];
    json!({
        "what": "zhenqiang joins with a code of roland-frei",
        "slot": slot, "password": words,
        "x": hex::encode(&x[..32]), "y": hex::encode(&y[..32]),
        "joiner_card": joiner_card, "owner_card": owner_card, "verdict": verdict,
        "messages": [
            { "who": "joiner", "bytes": hex::encode(&first) },
            { "who": "owner", "bytes": hex::encode(&second) },
            { "who": "joiner", "bytes": hex::encode(shown) },
            { "who": "owner", "bytes": hex::encode(fourth.concat()) },
            { "who": "joiner", "bytes": hex::encode(seal(Side::Joiner, 0, &joiner_card)) },
            { "who": "owner", "bytes": hex::encode(seal(Side::Owner, 1, verdict)) },
        ],
    })
}

fn compare(name: &str, computed: &Value) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name);
    if std::env::var_os("M2Y_WRITE_VECTORS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = serde_json::to_string_pretty(computed).unwrap();
        fs::write(&path, text + "\n").unwrap();
    }
    let stored: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(&stored, computed);
    stored
}

#[test]
fn sealed_bytes_are_those_of_the_vectors() {
    let vectors = compare("seal.json", &seal_vectors());
    for case in vectors["cases"].as_array().unwrap() {
        let bytes = |field: &str| hex::decode(case[field].as_str().unwrap()).unwrap();
        let key = Key::new(bytes("key").try_into().unwrap());
        let sealed = bytes("sealed");
        let (body, tag) = sealed.split_last_chunk().unwrap();
        for backend in ALL {
            let seal = Seal::with_backend(*backend, &key).unwrap();
            let (number, last) = (case["number"].as_u64().unwrap(), case["last"] == true);
            let mut data = body.to_vec();
            seal.open(number, last, &bytes("ad"), &mut data, tag)
                .unwrap();
            assert_eq!(data, bytes("plain"), "{}", backend.name());
        }
    }
}

#[test]
fn the_bytes_of_a_session_are_those_of_the_vectors() {
    let vectors = compare("session.json", &session_vectors());
    // Every back end reads them.
    let bytes =
        |part: &str, field: &str| hex::decode(vectors[part][field].as_str().unwrap()).unwrap();
    for backend in ALL {
        let server = PrivateKey::with_backend(*backend, &key(ROLAND)).unwrap();
        let client = PrivateKey::with_backend(*backend, &key(ZHENQIANG)).unwrap();
        let (header, opening) = (bytes("opening", "header"), bytes("opening", "envelope"));
        let opened = envelope::verify(Part::Opening, &header, &opening, client.public())
            .unwrap()
            .open(&server)
            .unwrap();
        assert_eq!(*opened.secret, [1; 32]);
        assert_eq!(Wire::from_json(&opened.contents.json).unwrap().meta, meta());
        let bound = [bytes("opening", "digest"), bytes("answer", "head")].concat();
        let answer = bytes("answer", "envelope");
        let opened = envelope::verify(Part::Answer, &bound, &answer, server.public())
            .unwrap()
            .open(&client)
            .unwrap();
        let reply = Wire::from_json(&opened.contents.json).unwrap();
        assert_eq!(*reply.filekey.unwrap().0, [9; 32]);
    }
}

#[test]
fn the_documents_of_a_pairing_are_those_of_the_vectors() {
    let vectors = compare("pairing.json", &pairing_vectors());
    let document = |field: &str| Document::parse(field, vectors[field].to_string().as_bytes());
    let Document::Answer(answer) = document("answer").unwrap() else {
        panic!("no answer");
    };
    for backend in ALL {
        let requester = PrivateKey::with_backend(*backend, &key(ZHENQIANG)).unwrap();
        let agreed = answer.open(&common::name(ZHENQIANG), &requester).unwrap();
        assert_eq!(agreed.request.0, *b"0123456789abcdef");
        assert_eq!(
            agreed.addresses,
            Some("roland.example.org:5000".parse().unwrap())
        );
        assert_eq!(agreed.time, 1_546_214_399_000);
    }
    let Document::Rotation(announcement) = document("rotation").unwrap() else {
        panic!("no announcement");
    };
    announcement.check(&answer.key).unwrap();
}

#[test]
fn the_messages_of_a_pairing_by_a_code_are_those_of_the_vectors() {
    compare("code.json", &code_vectors());
    compare("letter.json", &letter_vectors());
}

#[test]
fn the_records_of_a_file_that_goes_on_are_those_of_the_vectors() {
    let vectors = compare("resume.json", &resume_vectors());
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let stream = |key: &str| {
        let key = bytes(&vectors[key]).try_into().unwrap();
        Stream::new(&Key::new(key)).unwrap()
    };
    let (mut client, mut server) = (stream("client_key"), stream("server_key"));
    let mut blocks = stream("block_key");
    for said in vectors["records"].as_array().unwrap() {
        let mut record = bytes(&said["bytes"]);
        let (head, sealed) = record::split(&mut record).unwrap().unwrap();
        let stream = match (head.kind, said["who"].as_str().unwrap()) {
            (Kind::Block, _) => &mut blocks,
            (_, "client") => &mut client,
            _ => &mut server,
        };
        let body = stream.open(head, sealed).unwrap();
        match head.kind {
            Kind::Answer => {
                let reply = Wire::from_json(body).unwrap();
                assert_eq!((reply.offset, reply.features.files), (65_536, 64));
            }
            Kind::Resume if said["who"] == "server" => {
                assert_eq!(record::decode_offset(body), Ok(65_536));
            }
            _ => {}
        }
    }
}

#[test]
fn the_records_of_requests_are_those_of_the_vectors() {
    let vectors = compare("requests.json", &request_vectors());
    let stream = |key: &str| {
        let key = hex::decode(vectors[key].as_str().unwrap()).unwrap();
        Stream::new(&Key::new(key.try_into().unwrap())).unwrap()
    };
    let opening = vectors["opening"].as_str().unwrap().as_bytes();
    assert!(Wire::from_json(opening).unwrap().session);
    let (mut client, mut server) = (stream("client_key"), stream("server_key"));
    let blocks = |of| (of, stream(&format!("block_key_of_{of}")));
    let mut blocks: HashMap<usize, Stream> = [3, 4, 9].map(blocks).into();
    for said in vectors["records"].as_array().unwrap() {
        let transfer = said["transfer"].as_u64().unwrap() as usize;
        let Some(bytes) = said["bytes"].as_str() else {
            // The long one: it is sealed again to count it.
            let body = first_block();
            let head = Head {
                kind: Kind::Block,
                last: false,
                transfer: transfer as u32,
                len: body.len(),
            };
            let mut record = [&[0; 12], body.as_slice(), &[0; 16]].concat();
            let blocks = blocks.get_mut(&transfer).unwrap();
            blocks.seal(head, &mut record).unwrap();
            let digest = hex::encode(sha2::Sha256::digest(&record));
            assert_eq!(said["sha256_of_bytes"], digest);
            continue;
        };
        let mut record = hex::decode(bytes).unwrap();
        let (head, sealed) = record::split(&mut record).unwrap().unwrap();
        assert_eq!(head.transfer as usize, transfer);
        let stream = match (head.kind, said["who"].as_str().unwrap()) {
            (Kind::Block, _) => blocks.get_mut(&transfer).unwrap(),
            (_, "client") => &mut client,
            _ => &mut server,
        };
        let body = &*stream.open(head, sealed).unwrap();
        match said["body"].as_str() {
            Some(text) => assert_eq!(body, text.as_bytes()),
            None => assert_eq!(said["body_hex"], hex::encode(body)),
        }
        match head.kind {
            Kind::Request => {
                let asked = request::Request::from_body(body).unwrap();
                assert_eq!(*asked.to_body(), body);
            }
            Kind::Reply => assert_eq!(Reply::from_body(body).unwrap().to_body(), body),
            Kind::Error => {
                assert_eq!(record::decode_error(body).unwrap().code, Code::NotFound);
            }
            _ => {}
        }
    }
}

#[test]
fn every_back_end_opens_what_every_other_seals() {
    let pairs = ALL.iter().flat_map(|a| ALL.iter().map(move |b| (*a, *b)));
    for (writer, reader) in pairs {
        let random: &mut Random<'_> = &mut SysRng;
        for len in [0, 1, 15, 16, 17, 1000, 65_536] {
            let key = || Key::new([len as u8; 16]);
            let plain = common::noise(len);
            let mut data = plain.clone();
            let tag = with(writer, &key())
                .seal(5, len % 2 == 0, b"ad", &mut data)
                .unwrap();
            with(reader, &key())
                .open(5, len % 2 == 0, b"ad", &mut data, &tag)
                .unwrap();
            assert_eq!(data, plain);
            // Another number, another end, another head, another byte: nothing opens.
            let mut data = plain.clone();
            let tag = with(writer, &key())
                .seal(5, true, b"ad", &mut data)
                .unwrap();
            let open = |number, last, ad: &[u8], data: &[u8], tag| {
                with(reader, &key()).open(number, last, ad, &mut data.to_vec(), tag)
            };
            assert!(open(6, true, b"ad", &data, &tag).is_err());
            assert!(open(5, false, b"ad", &data, &tag).is_err());
            assert!(open(5, true, b"ae", &data, &tag).is_err());
            let mut other = tag;
            other[0] ^= 1;
            assert!(open(5, true, b"ad", &data, &other).is_err());
            if let Some(byte) = data.first_mut() {
                *byte ^= 1;
                assert!(open(5, true, b"ad", &data, &tag).is_err());
            }
        }
        let (a, b) = (
            PrivateKey::with_backend(writer, &key(ZHENQIANG)).unwrap(),
            PrivateKey::with_backend(reader, &key(ZHENQIANG)).unwrap(),
        );
        let signature = a.sign(b"message", random).unwrap();
        b.public().verify(b"message", &signature).unwrap();
        assert!(b.public().verify(b"massage", &signature).is_err());
        let wrapped = a.public().wrap(b"secret", b"label", random).unwrap();
        assert_eq!(*b.unwrap(&wrapped, b"label").unwrap(), b"secret");
        assert!(b.unwrap(&wrapped, b"lapel").is_err());
    }
}

fn with(backend: &dyn Backend, key: &Key) -> Seal {
    Seal::with_backend(backend, key).unwrap()
}

/// NIST SP 800-38D, test case 3 of the GCM specification by McGrew and Viega, with
/// its nonce: `Seal` builds nonces of its own, so this goes below it.
#[test]
fn gcm_is_that_of_the_standard() {
    let hex = |text: &str| hex::decode(text).unwrap();
    let key = Key::new(hex("feffe9928665731c6d6a8f9467308308").try_into().unwrap());
    let nonce = hex("cafebabefacedbaddecaf888").try_into().unwrap();
    let ad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plain = hex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    for backend in ALL {
        let aead = backend.aead(&key).unwrap();
        let mut data = plain.clone();
        let tag = aead.seal(&nonce, &ad, &mut data).unwrap();
        assert_eq!(
            data,
            hex(
                "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
                 21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
            )
        );
        assert_eq!(
            tag.to_vec(),
            hex("5bc94fbc3221a5db94fae95ae7121a47"),
            "{}",
            backend.name()
        );
    }
}

#[test]
fn the_pieces_of_a_stripe_are_those_of_the_vectors() {
    use m2y::store::stripe::code::{MEMBERS, Shares, rebuild};
    use sha2::{Digest, Sha256};

    let vectors: Value = serde_json::from_str(include_str!("vectors/stripe.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let size = case["size"].as_u64().unwrap() as usize;
        let byte = |i: usize| (i * i + 3 * i + size) as u8;
        let data: Vec<u8> = (0..size).map(byte).collect();
        let is = |bytes: &[u8], name: &str| {
            let expected = case[name].as_str().unwrap();
            match expected.strip_prefix("sha256:") {
                Some(digest) => assert_eq!(hex::encode(Sha256::digest(bytes)), digest, "{size}"),
                None => assert_eq!(hex::encode(bytes), expected, "{name} of {size}"),
            }
        };
        is(&data, "data");
        let shares = Shares::encode(data.clone(), Default::default());
        let all = shares.all();
        let names = [["A1", "A2"], ["B1", "B2"], ["O1", "O2"], ["O3", "O4"]];
        for (share, names) in all.iter().zip(names) {
            let (first, second) = share.split_at(share.len() / 2);
            assert_eq!(first.len() as u64, case["piece_length"].as_u64().unwrap());
            is(first, names[0]);
            is(second, names[1]);
        }
        for (one, other) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            let mut two = [None; MEMBERS];
            (two[one], two[other]) = (Some(all[one]), Some(all[other]));
            assert_eq!(rebuild(two).unwrap(), data, "{size} from {one} and {other}");
        }
    }
}

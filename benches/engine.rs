//! What the engine costs without sockets, disks and hooks: `cargo bench --bench engine`.
//!
//! `block` compares all back ends of a build. The others have the one that the build works
//! with on this CPU, whose name is in each line; add `--no-default-features` for pure Rust.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use m2y::{
    crypto::{
        SysRng,
        backend::{ALL, active},
        keys::{DEFAULT_BITS, PrivateKey},
        seal::{Key, Seal, TAG_LEN},
    },
    meta::{FileKey, Meta, TransferId, Wire},
    root::name::Name,
    store::stripe::code::{MEMBERS, Shares, rebuild_into},
    wire::{
        envelope::{self, Contents, Part, Sealed},
        header::Header,
        record::{HEAD_LEN, Head, Kind, MAX_BODY, Stream},
        session::{Direction, SessionKeys, Share},
    },
};
use zeroize::Zeroizing;

criterion_group!(
    benches, blocks, records, envelopes, session, metas, checksum, stripe
);
criterion_main!(benches);

const BLOCK: Head = Head {
    kind: Kind::Block,
    last: false,
    transfer: 0,
    len: MAX_BODY,
};

fn stream() -> Stream {
    Stream::new(&Key::new(*b"sixteen byte key")).unwrap()
}

/// What every byte of a file costs once on each side, by each back end.
fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("block of 64 KiB");
    group.throughput(Throughput::Bytes(MAX_BODY as u64));
    for backend in ALL {
        let seal = Seal::with_backend(*backend, &Key::new(*b"sixteen byte key")).unwrap();
        let plain = vec![7; MAX_BODY];
        group.bench_function(BenchmarkId::new("seal", backend.name()), |b| {
            let mut data = plain.clone();
            b.iter(|| seal.seal(1, false, b"head", black_box(&mut data)).unwrap());
        });
        let mut sealed = plain.clone();
        let tag = seal.seal(1, false, b"head", &mut sealed).unwrap();
        // What was opened has to be sealed bytes again: that copy is in the time.
        group.bench_function(BenchmarkId::new("copy and open", backend.name()), |b| {
            let mut data = plain.clone();
            b.iter(|| {
                data.copy_from_slice(&sealed);
                seal.open(1, false, b"head", black_box(&mut data), &tag)
                    .unwrap();
            });
        });
    }
    group.finish();
}

/// The bulk of every transfer: one block of 64 KiB, in place.
fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("record of 64 KiB, {}", active().name()));
    group.throughput(Throughput::Bytes(MAX_BODY as u64));
    group.bench_function("seal", |b| {
        let mut stream = stream();
        let mut record = vec![7; BLOCK.record_len()];
        b.iter(|| stream.seal(BLOCK, black_box(&mut record)).unwrap());
    });
    group.bench_function("open", |b| {
        let (mut sealing, mut opening) = (stream(), stream());
        let mut record = vec![7; HEAD_LEN + MAX_BODY + TAG_LEN];
        // The number of a record is in its seal: each can be opened once, and its
        // sealing is not timed.
        b.iter_custom(|runs| {
            let mut took = Duration::ZERO;
            for _ in 0..runs {
                sealing.seal(BLOCK, &mut record).unwrap();
                let (_, sealed) = record.split_at_mut(HEAD_LEN);
                let begun = Instant::now();
                black_box(opening.open(BLOCK, black_box(sealed)).unwrap());
                took += begun.elapsed();
            }
            took
        });
    });
    group.finish();
    // What a small file, an answer, an ACK cost: here the constant part shows.
    let mut group = c.benchmark_group(format!("small record, {}", active().name()));
    for len in [3, 512, 4096] {
        let head = Head { len, ..BLOCK };
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("seal", len), |b| {
            let mut stream = stream();
            let mut record = vec![7; head.record_len()];
            b.iter(|| stream.seal(head, black_box(&mut record)).unwrap());
        });
    }
    group.finish();
}

fn key() -> PrivateKey {
    let (pem, _) = PrivateKey::generate(DEFAULT_BITS).unwrap();
    PrivateKey::from_pem(&pem).unwrap()
}

fn meta() -> Meta {
    let mut meta = Meta::new("zhenqiang", "roland-frei", "photo", "myfoto.jpg");
    meta.datetime = "30-12-2018_23-59-59".to_owned();
    meta.filesize = Some(4096);
    meta.file_crc = Some(0xcbf4_3926);
    meta.id = Some(TransferId(*b"0123456789abcdef"));
    meta.extra.insert("place".to_owned(), "Uetliberg".into());
    meta
}

fn envelopes(c: &mut Criterion) {
    let (sender, receiver) = (key(), key());
    let json = Zeroizing::new(Wire::request(meta()).to_json().as_bytes().to_vec());
    let len = envelope::sealed_len(json.len(), sender.public(), receiver.public()).unwrap();
    let hash = |name| Name::user(name).unwrap().hash();
    let header = Header {
        envelope_len: len,
        from: hash("zhenqiang"),
        to: hash("roland-frei"),
    }
    .encode();
    let contents = Contents {
        time: 1_546_214_399_000,
        share: Share::new(&mut SysRng).unwrap().public,
        json,
    };
    let seal = || -> Sealed {
        envelope::seal(
            Part::Opening,
            &header,
            &contents,
            &sender,
            receiver.public(),
            &mut SysRng,
        )
        .unwrap()
    };
    let sealed = seal().bytes;
    let verify = || envelope::verify(Part::Opening, &header, &sealed, sender.public()).unwrap();

    let mut group = c.benchmark_group(format!("envelope, RSA {DEFAULT_BITS}, {}", active().name()));
    group.bench_function("seal", |b| b.iter(seal));
    // All that a stranger can make a server do.
    group.bench_function("verify", |b| b.iter(|| black_box(verify().time())));
    group.bench_function("open", |b| {
        b.iter_batched(
            verify,
            |verified| verified.open(&receiver).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn session(c: &mut Criterion) {
    let peer = Share::new(&mut SysRng).unwrap().public;
    let mut group = c.benchmark_group("session");
    group.bench_function("X25519 and keys", |b| {
        b.iter(|| {
            let own = Share::new(&mut SysRng).unwrap();
            SessionKeys::derive(own, &peer, &[1; 32], &[2; 32], &[3; 32]).unwrap()
        });
    });
    let own = Share::new(&mut SysRng).unwrap();
    let keys = SessionKeys::derive(own, &peer, &[1; 32], &[2; 32], &[3; 32]).unwrap();
    let (filekey, id) = (
        FileKey(Zeroizing::new([4; 32])),
        TransferId(*b"0123456789abcdef"),
    );
    // Once for each file of a session.
    group.bench_function("key of a file in use", |b| {
        b.iter(|| {
            let key = keys.block_key(black_box(&filekey), &id, Direction::ToServer, 0);
            Stream::new(&key).unwrap()
        });
    });
    group.finish();
}

fn metas(c: &mut Criterion) {
    let mut reply = Wire::request(meta());
    reply.filekey = Some(FileKey(Zeroizing::new([4; 32])));
    let json = reply.to_json();
    let file = reply.meta.to_file();
    let mut group = c.benchmark_group("meta");
    group.bench_function("canonical JSON with metaCRC", |b| {
        b.iter(|| black_box(&reply).to_json());
    });
    group.bench_function("parse and check metaCRC", |b| {
        b.iter(|| Wire::from_json(black_box(json.as_bytes())).unwrap());
    });
    group.bench_function("write .meta", |b| {
        b.iter(|| black_box(&reply.meta).to_file());
    });
    group.bench_function("read .meta", |b| {
        b.iter(|| Meta::from_file(black_box(&file)).unwrap());
    });
    group.finish();
}

/// Sender and receiver each compute it over every byte of a file.
fn checksum(c: &mut Criterion) {
    let block = vec![7; MAX_BODY];
    let mut group = c.benchmark_group("fileCRC");
    group.throughput(Throughput::Bytes(MAX_BODY as u64));
    group.bench_function("64 KiB", |b| {
        let mut crc = crc32fast::Hasher::new();
        b.iter(|| crc.update(black_box(&block)));
        black_box(crc.finalize());
    });
    group.finish();
}

/// What a chunk of a striped store costs: the shares of members 3 and 4, and a chunk from each
/// pair of members.
fn stripe(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunk of 8 MiB on a stripe");
    let chunk: Vec<u8> = (0..8 << 20).map(|i: u32| (i >> 3) as u8).collect();
    group.throughput(Throughput::Bytes(chunk.len() as u64));
    group.bench_function("encode", |b| {
        let mut parity = [Vec::new(), Vec::new()];
        b.iter_batched(
            || {
                let mut chunk = chunk.clone();
                chunk.reserve(4);
                (chunk, std::mem::take(&mut parity))
            },
            |(chunk, parity)| Shares::encode(chunk, parity),
            BatchSize::PerIteration,
        );
    });
    let shares = Shares::encode(chunk.clone(), Default::default());
    let all = shares.all();
    let mut buffer = Vec::new();
    for (one, other) in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)] {
        let mut two = [None; MEMBERS];
        for member in [one, other] {
            if let (Some(place), Some(share)) = (two.get_mut(member), all.get(member)) {
                *place = Some(*share);
            }
        }
        let name = format!("rebuild from {} and {}", one + 1, other + 1);
        group.bench_function(name, |b| {
            b.iter(|| rebuild_into(black_box(two), &mut buffer).unwrap());
        });
    }
}

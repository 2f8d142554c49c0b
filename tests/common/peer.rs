//! Peers written by hand, after the protocol: old ones, and ones that lie.

use std::{collections::HashMap, time::Duration};

use m2y::{
    clock,
    crypto::{SysRng, keys::PrivateKey},
    meta::{Features, FileKey, Meta, TransferId, Wire},
    wire::{
        envelope::{self, Contents, Part},
        header::{AnswerHeader, Header},
        record::{self, Head, Kind, MAX_BODY, Stream},
        session::{self, Direction, SessionKeys, Share},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use zeroize::Zeroizing;

use super::{ROLAND, ZHENQIANG, document, key, name};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A meta from zhenqiang to roland-frei's folder `photo`.
pub fn meta(id: u8, len: usize) -> Meta {
    let mut meta = document(ZHENQIANG, ROLAND, "photo");
    meta.filename = format!("f{id}");
    meta.datetime = "30-12-2018_23-59-59".to_owned();
    meta.filesize = Some(len as u64);
    meta.id = Some(TransferId([id; 16]));
    meta
}

/// A meta of a side that can do this.
pub fn request(meta: Meta, features: Features) -> Wire {
    Wire {
        features,
        ..Wire::request(meta)
    }
}

/// One side of a session whose opening was answered.
pub struct Side {
    stream: TcpStream,
    keys: SessionKeys,
    outgoing: Stream,
    incoming: Stream,
    blocks: HashMap<u32, Stream>,
    /// The body of the record that was heard last, as it came.
    pub last_sealed: Vec<u8>,
    /// What the other side said in its envelope.
    pub said: Wire,
    /// What is held back, to go out together.
    held: Option<Vec<u8>>,
}

fn private(who: &str) -> PrivateKey {
    PrivateKey::from_pem(&key(who)).unwrap()
}

fn contents(share: &Share, json: &str) -> Contents {
    Contents {
        time: clock::millis(),
        share: share.public,
        json: Zeroizing::new(json.as_bytes().to_vec()),
    }
}

async fn message(stream: &mut TcpStream, head: usize) -> (Vec<u8>, Vec<u8>) {
    let mut header = vec![0; head];
    stream.read_exact(&mut header).await.unwrap();
    let len = u32::from_be_bytes(header[4..8].try_into().unwrap());
    let mut envelope = vec![0; len as usize];
    stream.read_exact(&mut envelope).await.unwrap();
    (header, envelope)
}

/// An opening as zhenqiang writes it: the header, then the envelope.
struct Opening {
    header: [u8; 24],
    sealed: envelope::Sealed,
    share: Share,
}

/// The bytes of an opening from zhenqiang to roland-frei that names this time. `receiver` is
/// whose key can open it.
pub fn opening(asked: &Wire, time: u64, receiver: &str) -> Vec<u8> {
    let opening = seal_opening(asked, time, &private(receiver));
    [opening.header.as_slice(), &opening.sealed.bytes].concat()
}

fn seal_opening(asked: &Wire, time: u64, theirs: &PrivateKey) -> Opening {
    let own = private(ZHENQIANG);
    let json = asked.to_json();
    let share = Share::new(&mut SysRng).unwrap();
    let header = Header {
        envelope_len: envelope::sealed_len(json.len(), own.public(), theirs.public()).unwrap(),
        from: name(ZHENQIANG).hash(),
        to: name(ROLAND).hash(),
    }
    .encode();
    let contents = Contents {
        time,
        ..contents(&share, &json)
    };
    let part = Part::Opening;
    let sealed =
        envelope::seal(part, &header, &contents, &own, theirs.public(), &mut SysRng).unwrap();
    Opening {
        header,
        sealed,
        share,
    }
}

/// Opens a session as zhenqiang.
pub async fn open(address: &str, asked: &Wire) -> Side {
    let (own, theirs) = (private(ZHENQIANG), private(ROLAND));
    let Opening {
        header,
        sealed,
        share,
    } = seal_opening(asked, clock::millis(), &theirs);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let opening = [header.as_slice(), &sealed.bytes].concat();
    stream.write_all(&opening).await.unwrap();
    let (head, answer) = message(&mut stream, 8).await;
    let digest = session::opening_digest(&header, &sealed.bytes);
    let bound = [digest.as_slice(), &head].concat();
    let opened = envelope::verify(Part::Answer, &bound, &answer, theirs.public())
        .unwrap()
        .open(&own)
        .unwrap();
    let transcript = session::transcript(&digest, &[&head, &answer]);
    let keys = SessionKeys::derive(
        share,
        &opened.contents.share,
        &sealed.secret,
        &opened.secret,
        &transcript,
    )
    .unwrap();
    Side {
        stream,
        outgoing: Stream::new(&keys.client).unwrap(),
        incoming: Stream::new(&keys.server).unwrap(),
        blocks: HashMap::new(),
        last_sealed: Vec::new(),
        held: None,
        said: Wire::from_json(&opened.contents.json).unwrap(),
        keys,
    }
}

/// Accepts a session as roland-frei, and answers the opening.
pub async fn accept(listener: &TcpListener, answer: impl FnOnce(&Wire) -> Wire) -> Side {
    let (own, theirs) = (private(ROLAND), private(ZHENQIANG));
    let (mut stream, _) = listener.accept().await.unwrap();
    let (header, opening) = message(&mut stream, 24).await;
    let opened = envelope::verify(Part::Opening, &header, &opening, theirs.public())
        .unwrap()
        .open(&own)
        .unwrap();
    let said = Wire::from_json(&opened.contents.json).unwrap();
    let json = answer(&said).to_json();
    let share = Share::new(&mut SysRng).unwrap();
    let len = envelope::sealed_len(json.len(), own.public(), theirs.public()).unwrap();
    let head = AnswerHeader::Envelope(len).encode();
    let digest = session::opening_digest(&header, &opening);
    let bound = [digest.as_slice(), &head].concat();
    let (part, contents) = (Part::Answer, contents(&share, &json));
    let sealed =
        envelope::seal(part, &bound, &contents, &own, theirs.public(), &mut SysRng).unwrap();
    let answer = [head.as_slice(), &sealed.bytes].concat();
    stream.write_all(&answer).await.unwrap();
    let transcript = session::transcript(&digest, &[&head, &sealed.bytes]);
    let keys = SessionKeys::derive(
        share,
        &opened.contents.share,
        &opened.secret,
        &sealed.secret,
        &transcript,
    )
    .unwrap();
    Side {
        stream,
        outgoing: Stream::new(&keys.server).unwrap(),
        incoming: Stream::new(&keys.client).unwrap(),
        blocks: HashMap::new(),
        last_sealed: Vec::new(),
        held: None,
        said,
        keys,
    }
}

/// An answer that lets the file come, with this key for the attempt.
pub fn yes(asked: &Wire, key: u8) -> Wire {
    Wire {
        filekey: Some(FileKey(Zeroizing::new([key; 32]))),
        ..Wire::request(asked.meta.clone())
    }
}

impl Side {
    /// Says something; whether the other side still listens is not looked at.
    pub async fn say(&mut self, kind: Kind, transfer: u32, body: &[u8]) {
        let record = self.outgoing.record(kind, transfer, body).unwrap();
        self.write(&record).await;
    }

    async fn write(&mut self, record: &[u8]) {
        match &mut self.held {
            Some(held) => held.extend(record),
            None => drop(self.stream.write_all(record).await),
        }
    }

    /// What is said from now on goes out in one piece, at [`Self::release`].
    pub fn hold(&mut self) {
        self.held = Some(Vec::new());
    }

    pub async fn release(&mut self) {
        let held = self.held.take().expect("something was held back");
        let _ = self.stream.write_all(&held).await;
    }

    /// Says something many times; returns how many bytes that were.
    pub async fn say_often(&mut self, kind: Kind, transfer: u32, times: usize) -> usize {
        let mut records = Vec::new();
        for _ in 0..times {
            records.extend(self.outgoing.record(kind, transfer, &[]).unwrap());
        }
        let _ = self.stream.write_all(&records).await;
        records.len()
    }

    /// Waits for the next record that says something; `None` at the end.
    pub async fn hear(&mut self) -> Option<(Head, Vec<u8>)> {
        loop {
            let heard = timeout(PATIENCE, self.record()).await;
            let (head, body) = heard.expect("the other side held on")?;
            if head.kind != Kind::Working {
                return Some((head, body));
            }
        }
    }

    async fn record(&mut self) -> Option<(Head, Vec<u8>)> {
        let mut head = [0; 12];
        self.stream.read_exact(&mut head).await.ok()?;
        let head = Head::decode(&head).unwrap();
        let mut sealed = vec![0; head.len + 16];
        self.stream.read_exact(&mut sealed).await.ok()?;
        self.last_sealed.clone_from(&sealed);
        let stream = match head.kind {
            Kind::Block => self.blocks.get_mut(&head.transfer).expect("a block"),
            _ => &mut self.incoming,
        };
        let body = stream.open(head, &mut sealed).unwrap().to_vec();
        Some((head, body))
    }

    /// The blocks that the client sends after this answer.
    pub fn with_key(&mut self, transfer: u32, reply: &Wire) {
        self.key(transfer, reply, Direction::ToServer);
    }

    /// The blocks that the server sends for a `get` with the `filekey` and `id` of `asked`.
    pub fn with_get_key(&mut self, transfer: u32, asked: &Wire) {
        self.key(transfer, asked, Direction::ToClient);
    }

    fn key(&mut self, transfer: u32, of: &Wire, direction: Direction) {
        let filekey = of.filekey.as_ref().expect(&of.meta.error);
        let id = of.meta.id.unwrap();
        let key = self.keys.block_key(filekey, &id, direction, transfer);
        self.blocks.insert(transfer, Stream::new(&key).unwrap());
    }

    /// Sends one block.
    pub async fn block(&mut self, transfer: u32, body: &[u8], last: bool) {
        let head = Head {
            kind: Kind::Block,
            last,
            transfer,
            len: body.len(),
        };
        let mut record = [&[0; 12], body, &[0; 16]].concat();
        let blocks = self.blocks.get_mut(&transfer).expect("a key");
        blocks.seal(head, &mut record).unwrap();
        self.write(&record).await;
    }

    /// Sends all blocks of these bytes.
    pub async fn blocks(&mut self, transfer: u32, bytes: &[u8]) {
        let mut pieces = bytes.chunks(MAX_BODY).peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            self.block(transfer, piece, last).await;
        }
    }

    /// Sends the CRC-32 of the whole file.
    pub async fn trailer(&mut self, transfer: u32, bytes: &[u8]) {
        let crc = record::encode_trailer(crc32fast::hash(bytes));
        self.say(Kind::Trailer, transfer, &crc).await;
    }
}

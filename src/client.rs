//! The client: opens a session with a contact's server and sends a file in it.

pub mod outbox;

use std::{fs::File, path::Path, time::Duration};

use tokio::{net::TcpStream, task, time::timeout};
use zeroize::Zeroizing;

use crate::{
    clock,
    crypto::{SysRng, keys::PrivateKey},
    error::{Code, Error, printable},
    meta::{MAX_TEXT, Meta, Wire, is_extra},
    root::{Root, RootError, contact::Contact, name::Name, settings::Settings, user::User},
    transfer::{
        Observer,
        channel::{Reader, Writer},
        outgoing::{Outgoing, Version},
        send::{self, Attempt, Channel},
    },
    wire::{
        WireError,
        envelope::{self, Contents, Opened, Part, SECRET_LEN},
        header::{self, AnswerHeader, Header, Turned},
        record::{Kind, Stream},
        session::{self, SessionKeys, Share},
    },
};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(20);

/// How long the receiver's hooks may think before the answer.
const ANSWER: Duration = Duration::from_secs(300);

/// Who sends to whom, and where.
pub struct Route {
    user: User,
    contact: Contact,
    address: String,
    idle: Duration,
}

impl Route {
    /// Finds user, contact and address for a `.meta`: in `root`, or in the root
    /// that the `.meta` lies in.
    pub fn find(root: Option<&Path>, server: Option<&str>, out: &Outgoing) -> Result<Self, Error> {
        let path = match root {
            Some(path) => path.to_owned(),
            None => Root::around(out.path()).ok_or_else(|| {
                let path = out.path().display();
                let sentence = format!("{path} does not lie in a root: name one with --root");
                Error::new(Code::Usage, sentence)
            })?,
        };
        let root = Root::open(&path)?;
        let name = Name::user(&out.meta().from).map_err(RootError::from)?;
        Self::with(&root.user(&name)?, server, out)
    }

    /// The route of a `.meta` of this user, to the address that is known of the contact.
    pub fn of(user: &User, out: &Outgoing) -> Result<Self, Error> {
        Self::with(user, None, out)
    }

    fn with(user: &User, server: Option<&str>, out: &Outgoing) -> Result<Self, Error> {
        let settings: Settings = user.root().settings()?;
        let to = Name::user(&out.meta().to).map_err(RootError::from)?;
        let contact = user.contact(&to)?;
        let address = match server {
            Some(server) => server.to_owned(),
            None => user.address_of(&contact.name)?.ok_or_else(|| {
                Error::new(
                    Code::Usage,
                    format!(
                        "no address is known for {to}: use --server HOST:PORT, or write it down with `m2y contact add --address`",
                        to = contact.name
                    ),
                )
            })?,
        };
        Ok(Self {
            user: user.clone(),
            contact,
            address,
            idle: settings.idle_deadline,
        })
    }

    /// Where the receiver's server listens.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Sends one file, all fifteen steps; returns the meta as it was delivered.
pub async fn deliver(
    route: &Route,
    out: &Outgoing,
    observer: &dyn Observer,
) -> Result<Meta, Error> {
    let meta = out.request()?;
    observer.step(1, format_args!("read {}", out.path().display()));
    let (file, version) = out
        .source()
        .map_err(|e| Error::new(Code::Failed, format!("cannot read the file: {e}")))?;
    let mut session = Session::open(route, meta, observer).await?;
    let meta = session.send(file, version, observer).await?;
    // The file is delivered; that the session ends well is nobody's concern any more.
    tokio::spawn(session.close());
    Ok(meta)
}

/// An open session whose first file was granted.
pub struct Session {
    /// The connection.
    pub channel: Channel,
    keys: SessionKeys,
    meta: Meta,
    reply: Wire,
}

impl Session {
    /// Steps 2 to 12: asks for leave to send what `meta` describes.
    pub async fn open(route: &Route, meta: Meta, observer: &dyn Observer) -> Result<Self, Error> {
        let private = {
            let user = route.user.clone();
            task::spawn_blocking(move || user.private_key())
                .await
                .map_err(|_| Error::new(Code::Failed, "the private key could not be read"))??
        };
        let stream = connect(&route.address).await?;
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let mut reader = Reader::new(read, ANSWER);
        let mut writer = Writer::new(write, route.idle);

        let share = Share::new(&mut SysRng).map_err(WireError::from)?;
        let opening = Opening::seal(route, &private, &meta, &share)?;
        let to = &route.contact.name;
        observer.step(2, format_args!("sealed the meta for {to}, signed it"));
        observer.step(3, format_args!("send the header, 24 bytes"));
        let len = opening.envelope.len();
        observer.step(4, format_args!("send the sealed meta, {len} bytes"));
        let sent = async {
            writer.bytes(&opening.header).await?;
            writer.bytes(&opening.envelope).await
        };
        let sent = sent.await;
        // A server that is full may answer and hang up before it has read everything.
        let head = match (reader.exact().await, sent) {
            (Ok(head), _) => AnswerHeader::decode(&head)?,
            (Err(error), Ok(())) | (Err(_), Err(error)) => {
                return Err(Error::from(error).within("no answer came"));
            }
        };
        let len = match head {
            AnswerHeader::Envelope(len) => len,
            AnswerHeader::Turned(turned) => return Err(turned_away(turned, to)),
        };
        let answer = reader
            .bytes(len)
            .await
            .map_err(|e| Error::from(e).within("no answer came"))?;
        let digest = session::opening_digest(&opening.header, &opening.envelope);
        let opened = open_answer(&answer, &digest, head, &private, &route.contact)?;
        let reply = Wire::from_json(&opened.contents.json)
            .map_err(|e| Error::new(Code::Failed, format!("the answer cannot be read: {e}")))?;
        observer.step(12, format_args!("opened the answer with the own key"));
        granted(&reply, &meta)?;
        let transcript = session::transcript(&digest, &[&head.encode(), &answer]);
        let keys = SessionKeys::derive(
            share,
            &opened.contents.share,
            &opening.secret,
            &opened.secret,
            &transcript,
        )?;
        reader.set_idle(route.idle);
        Ok(Self {
            channel: Channel {
                reader,
                writer,
                incoming: Stream::new(&keys.server)?,
                outgoing: Stream::new(&keys.client)?,
            },
            keys,
            meta,
            reply,
        })
    }

    /// Steps 13 to 15: sends the file and waits for its ACK; returns the meta as it
    /// was delivered. `version` is the one that the meta speaks of.
    pub async fn send(
        &mut self,
        file: File,
        version: Version,
        observer: &dyn Observer,
    ) -> Result<Meta, Error> {
        if self.reply.delivered {
            observer.step(15, format_args!("the file was delivered before"));
            let crc = self.reply.meta.file_crc;
            return Ok(delivered(&self.meta, &self.reply.meta, crc));
        }
        let (Some(filekey), Some(id)) = (&self.reply.filekey, &self.meta.id) else {
            return Err(Error::new(Code::Failed, "the answer has no filekey"));
        };
        let attempt = Attempt {
            transfer: 0,
            file,
            version,
            blocks: Stream::new(&self.keys.file_key(filekey, id))?,
            claimed_crc: self.meta.file_crc,
        };
        let crc = send::send(&mut self.channel, attempt, observer).await?;
        observer.step(15, format_args!("got ACK"));
        Ok(delivered(&self.meta, &self.reply.meta, Some(crc)))
    }

    /// Ends the session in good order.
    pub async fn close(mut self) {
        let channel = &mut self.channel;
        let _ = channel
            .writer
            .record(&mut channel.outgoing, Kind::Close, 0, &[])
            .await;
        channel.writer.finish().await;
    }
}

async fn connect(address: &str) -> Result<TcpStream, Error> {
    let failed =
        |why: String| Error::new(Code::Later, format!("cannot connect to {address}: {why}"));
    match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {CONNECT:?}"))),
    }
}

/// The first message of a session.
struct Opening {
    header: [u8; header::LEN],
    envelope: Vec<u8>,
    secret: Zeroizing<[u8; SECRET_LEN]>,
}

impl Opening {
    fn seal(
        route: &Route,
        private: &PrivateKey,
        meta: &Meta,
        share: &Share,
    ) -> Result<Self, WireError> {
        let contact = &route.contact;
        let json = Wire::request(meta.clone()).to_json();
        let header = Header {
            envelope_len: envelope::sealed_len(json.len(), private.public(), &contact.key)?,
            from: route.user.name().hash(),
            to: contact.name.hash(),
        }
        .encode();
        let contents = Contents {
            time: clock::millis(),
            share: share.public,
            json: Zeroizing::new(json.as_bytes().to_vec()),
        };
        let sealed = envelope::seal(
            Part::Opening,
            &header,
            &contents,
            private,
            &contact.key,
            &mut SysRng,
        )?;
        Ok(Self {
            header,
            envelope: sealed.bytes,
            secret: sealed.secret,
        })
    }
}

fn open_answer(
    answer: &[u8],
    digest: &[u8; 32],
    head: AnswerHeader,
    private: &PrivateKey,
    contact: &Contact,
) -> Result<Opened, Error> {
    let bound = [digest.as_slice(), &head.encode()].concat();
    envelope::verify(Part::Answer, &bound, answer, &contact.key)
        .and_then(|verified| verified.open(private))
        .map_err(|e| {
            Error::new(
                Code::Identity,
                format!("the answer does not come from {}: {e}", contact.name),
            )
        })
}

fn turned_away(turned: Turned, to: &Name) -> Error {
    match turned {
        Turned::Stranger => Error::new(
            Code::Identity,
            format!(
                "the server turned the opening away: it has no user {to}, or {to} does not have your key (compare fingerprints with `m2y contact export`)"
            ),
        ),
        Turned::Stale => Error::new(
            Code::Later,
            format!("{to} has had openings from you with a later time: is your clock behind?"),
        ),
        Turned::Busy => Error::new(Code::Later, "the server is busy, try later"),
        Turned::Unreadable => Error::new(
            Code::Failed,
            "the server speaks another version of the protocol",
        ),
    }
}

/// Whether the file may come, or the receiver's reason to refuse.
fn granted(reply: &Wire, sent: &Meta) -> Result<(), Error> {
    if !reply.meta.error.is_empty() {
        let sentence = printable(&reply.meta.error, MAX_TEXT);
        return Err(Error::new(Code::from_word(&reply.code), sentence));
    }
    let about = |meta: &Meta| (meta.id, meta.filesize, meta.from.clone(), meta.to.clone());
    if about(&reply.meta) != about(sent) {
        let sentence = "the answer speaks of another transfer";
        return Err(Error::new(Code::Failed, sentence));
    }
    if reply.offset != 0 {
        let sentence = "the receiver wants to resume, which was not offered";
        return Err(Error::new(Code::Failed, sentence));
    }
    Ok(())
}

/// What was sent, with what the receiver's hooks wrote into it.
fn delivered(sent: &Meta, reply: &Meta, crc: Option<u32>) -> Meta {
    let mut meta = sent.clone();
    for (field, value) in &reply.extra {
        if is_extra(field) {
            meta.extra.insert(field.clone(), value.clone());
        }
    }
    meta.file_crc = crc;
    meta
}

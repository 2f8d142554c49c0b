//! The client: opens sessions with a contact's server and sends files in them.
//!
//! [`deliver_all`] sends many, in as few sessions as it takes. They wait in the [`queue`] of their
//! route, which `m2y send` fills with what a person names and the [`outbox`] with what it finds.
//! A [`peer`] is a session for requests, and a [`member`] is a contact's folder behind such
//! sessions, in which a store keeps its objects. An [`owner`] is a contact or a user of this root:
//! commands work on the files of both in the same way.

pub mod attendance;
pub mod member;
pub mod outbox;
mod own;
pub mod owner;
pub mod peer;
pub mod put;
pub mod queue;
pub mod relay_slot;

use std::{
    borrow::Borrow,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::{sync::mpsc, task, time::Instant};
use zeroize::Zeroizing;

use self::member::ContactMember;
use crate::{
    clock,
    crypto::{SysRng, keys::PrivateKey},
    error::{Code, Error, did_you_mean, printable},
    meta::{Meta, Wire},
    observer::{Observer, Unobserved},
    root::{Root, RootError, contact::Contact, name::Name, settings::Settings, user::User},
    session::{
        asker::{Asker, Asks, Begin, Ended, Jobs, Sent},
        channel::{Reader, Writer},
        pace::Pace,
        pump::Connection,
    },
    store::Stores,
    transfer::send::{job, send_job::SendJob},
    transport::{Address, AddressError, Addresses, Dialer, Direct, Link, race},
    wire::{
        WireError,
        envelope::{self, Contents, Part, SECRET_LEN},
        header::{self, AnswerHeader, Header, Turned},
        record::{Kind, Stream},
        session::{self, SessionKeys, Share},
    },
};

/// The stores that each folder's m2y.config names, folders of contacts among them: each folder is
/// opened once in a process.
pub fn stores() -> Stores {
    static STORES: LazyLock<Stores> = LazyLock::new(|| {
        Stores::with_contacts(|root, folder| Ok(Arc::new(ContactMember::open(root, folder)?)))
    });
    STORES.clone()
}

/// How long the receiver's hooks may take before the answer.
const ANSWER: Duration = Duration::from_secs(300);

/// How many sessions in a row may break in vain: before a file has its last word or, if files are
/// resumed, before more of one has arrived.
const BROKEN: u32 = 3;

/// Who sends to whom, and where.
#[derive(Clone)]
pub struct Route {
    user: User,
    contact: Contact,
    addresses: Addresses,
    dialer: Arc<dyn Dialer>,
    idle: Duration,
    pace: Option<Arc<Pace>>,
    /// What the contact is told about where the user's server is reached.
    announced: Vec<String>,
    /// Whether the system may cut what QUIC sends into packets.
    gso: bool,
}

impl Route {
    /// Finds user, contact and address for a `.meta`: in `root`, or in the root that the `.meta` is
    /// in.
    pub fn find(root: Option<&Path>, server: Option<&str>, out: &SendJob) -> Result<Self, Error> {
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
        Self::to(&root.user(&name)?, &out.meta().to, server)
    }

    /// The route from a user to a contact, to `server` or else to the address that is
    /// known.
    pub fn to(user: &User, contact: &str, server: Option<&str>) -> Result<Self, Error> {
        let settings: Settings = user.root().settings()?;
        let to = Name::user(contact).map_err(RootError::from)?;
        let contact = user
            .contact(&to)
            .map_err(|error| known_instead(user, &to, error))?;
        let addresses = match server {
            Some(server) => server
                .parse()
                .map_err(|e: AddressError| Error::new(Code::Usage, e.to_string()))?,
            None => user.addresses_of(&contact.name)?.ok_or_else(|| {
                Error::new(
                    Code::Usage,
                    format!(
                        "{to} has no address yet: set it with `m2y contact address {to} HOST:PORT`, or use --server HOST:PORT",
                        to = contact.name
                    ),
                )
            })?,
        };
        Ok(Self {
            announced: user.announcement(&settings)?,
            gso: settings.quic_gso,
            user: user.clone(),
            contact,
            addresses,
            dialer: Arc::new(Direct::new(settings.quic_gso)),
            idle: settings.idle_deadline,
            pace: None,
        })
    }

    /// The same route, on which nothing is written faster than this; nor read, in a session
    /// in which we ask.
    #[must_use]
    pub fn paced(self, pace: Option<Arc<Pace>>) -> Self {
        Self { pace, ..self }
    }

    /// The same route, for which `dialer` makes the links.
    #[must_use]
    pub fn dialled_by(self, dialer: Arc<dyn Dialer>) -> Self {
        Self { dialer, ..self }
    }

    /// How long its connections may be silent.
    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// The sender.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The name of the receiver.
    pub fn peer(&self) -> &str {
        self.contact.name.as_str()
    }

    /// Where the receiver's server is reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

/// Sends one file, all fifteen steps; returns the meta as it was delivered.
pub async fn deliver(route: &Route, out: &SendJob, observer: &dyn Observer) -> Result<Meta, Error> {
    let (give, mut jobs) = mpsc::channel(1);
    let (results, mut result) = mpsc::unbounded_channel();
    let _ = give.try_send(out);
    drop(give);
    let _ = deliver_all(route, &mut jobs, &results, observer, std::future::pending()).await;
    let lost = || Error::new(Code::Failed, "the file has no result");
    result.try_recv().map_err(|_| lost())?.1
}

/// Sends all that come as `jobs`, through as few sessions as it takes, and reports what became of
/// each. If a session breaks, what was under way fails and the rest continues in another.
///
/// It ends early, with the reason, if no session can be opened, if three in a row broke before a
/// single file had its last word, and when `stop` is ready. What was under way has failed then, and
/// what is still among the jobs was not begun.
pub async fn deliver_all<J: Borrow<SendJob> + Send>(
    route: &Route,
    jobs: &mut Jobs<J>,
    results: &mpsc::UnboundedSender<Sent<J>>,
    observer: &dyn Observer,
    stop: impl Future<Output = Error> + Send,
) -> Result<(), Error> {
    tokio::pin!(stop);
    let mut key = None;
    let mut broken = 0;
    while let Some(job) = jobs.recv().await {
        let begun = Instant::now();
        let private = match &key {
            Some(private) => Ok(private),
            None => private_key(route)
                .await
                .map(|private| &*key.insert(private)),
        };
        let private = match private {
            Ok(private) => private,
            Err(error) => {
                let _ = results.send((job, Err(error.clone()), begun.elapsed()));
                return Err(error);
            }
        };
        let fits = |asked| Opening::fits(route, private, &asked).map(|()| asked);
        let asked = match job.borrow().request().and_then(fits) {
            Ok(asked) => asked,
            Err(error) => {
                let _ = results.send((job, Err(error), begun.elapsed()));
                continue;
            }
        };
        observer.step(1, format_args!("read {}", job.borrow().path().display()));
        let opened = tokio::select! {
            opened = open_with(route, private, request(asked), observer) => opened,
            error = &mut stop => Err(error),
        };
        let Opened {
            connection,
            keys,
            asked,
            reply,
            ..
        } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let _ = results.send((job, Err(error.clone()), begun.elapsed()));
                return Err(error);
            }
        };
        let files = reply.features.files;
        let asks = Asks::Jobs(jobs);
        let asker = Asker::new(keys, observer, files, asks, stop.as_mut());
        let begin = Begin {
            answered: Some((job, asked, reply)),
            first: Vec::new(),
        };
        let Ended {
            concluded,
            error,
            left,
        } = asker
            .telling(results.clone())
            .run(connection, route.idle, begin)
            .await;
        let Some(error) = error else {
            continue;
        };
        for (job, took) in left {
            let _ = results.send((job, Err(error.clone()), took));
        }
        broken = if concluded == 0 { broken + 1 } else { 0 };
        if error.code == Code::Interrupted || broken == BROKEN {
            return Err(error);
        }
    }
    Ok(())
}

async fn private_key(route: &Route) -> Result<PrivateKey, Error> {
    let user = route.user.clone();
    let read = task::spawn_blocking(move || user.private_key()).await;
    let lost = |_| Error::new(Code::Failed, "the private key could not be read");
    Ok(read.map_err(lost)??)
}

/// A session whose opening was answered.
pub struct Opened {
    /// The connection.
    pub connection: Connection,
    /// The keys of both directions and of files.
    pub keys: SessionKeys,
    /// The meta of the opening.
    pub asked: Meta,
    /// The receiver's answer to it.
    pub reply: Wire,
    /// The receiver's clock as it answered, in milliseconds since 1970.
    pub time: u64,
}

/// Steps 2 to 12: asks for permission to send what `asked` describes.
pub async fn open(route: &Route, asked: Meta, observer: &dyn Observer) -> Result<Opened, Error> {
    let private = private_key(route).await?;
    open_with(route, &private, request(asked), observer).await
}

/// [`open`], over a link that is there already.
pub async fn open_over(
    link: Link,
    route: &Route,
    asked: Meta,
    observer: &dyn Observer,
) -> Result<Opened, Error> {
    let private = private_key(route).await?;
    open_link(link, route, &private, request(asked), observer).await
}

/// Opens a session and ends it; returns by how many milliseconds the contact's clock is ahead of
/// ours.
pub async fn greet(route: &Route) -> Result<i64, Error> {
    let Opened {
        connection,
        keys,
        time,
        ..
    } = open_asking(route, &Unobserved).await?;
    let now = clock::millis();
    let Connection { mut writer, .. } = connection;
    let mut ours = Stream::new(&keys.client)?;
    // Whether the other side hears that it is over or not, it has answered.
    let _ = writer.record(&mut ours, Kind::Close, 0, &[]).await;
    writer.finish().await;
    let whole = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
    Ok(whole(time).saturating_sub(whole(now)))
}

/// Opens a session without a file.
async fn open_asking(route: &Route, observer: &dyn Observer) -> Result<Opened, Error> {
    let private = private_key(route).await?;
    let (from, to) = (route.user.name().as_str(), route.contact.name.as_str());
    let asked = Wire {
        session: true,
        ..request(Meta::new(from, to, "", ""))
    };
    let mut opened = open_with(route, &private, asked, observer).await?;
    // Such a session is about what comes in.
    opened.connection.reader.set_pace(route.pace.clone());
    let reply = &opened.reply;
    if !reply.features.requests {
        let (to, words) = (&route.contact.name, printable(&reply.meta.error, 300));
        let sentence = format!(
            "{to}'s server shows no files: it runs a different version of m2y, or refused: {words:?}"
        );
        return Err(Error::new(Code::Failed, sentence));
    }
    if !reply.meta.error.is_empty() {
        let sentence = printable(&reply.meta.error, 500);
        return Err(Error::new(Code::from_word(&reply.code), sentence));
    }
    Ok(opened)
}

/// A meta for the other side, with what we can do.
fn request(meta: Meta) -> Wire {
    Wire {
        features: job::FEATURES,
        ..Wire::request(meta)
    }
}

/// The same, with what the contact is told about where the user's server is reached.
fn announcing(route: &Route, asked: Wire) -> Wire {
    Wire {
        addresses: Some(route.announced.clone()),
        ..asked
    }
}

async fn open_with(
    route: &Route,
    private: &PrivateKey,
    asked: Wire,
    observer: &dyn Observer,
) -> Result<Opened, Error> {
    let mut turn = route.addresses.in_turn();
    let mut said: Option<Error> = None;
    while !turn.is_empty() {
        let (link, address) = match race::dial(&*route.dialer, &turn).await {
            Ok(dialled) => dialled,
            Err(error) => return Err(said.unwrap_or_else(|| error.into())),
        };
        let address = address.clone();
        let error = match open_link(link, route, private, asked.clone(), observer).await {
            Ok(opened) => return Ok(opened),
            Err(error) => at(&address, route, error),
        };
        // The contact may still be at another address: it did not answer at this one.
        turn.retain(|other| **other != address);
        let is_firm = |error: &Error| error.code == Code::Identity;
        said = match said {
            Some(before) if is_firm(&before) || !is_firm(&error) => Some(before),
            _ => Some(error),
        };
    }
    Err(said.unwrap_or_else(|| Error::new(Code::Failed, "there is no address")))
}

/// An error of an opening, seen from the address that was dialled: a relay does not say why it puts
/// nobody through.
fn at(address: &Address, route: &Route, error: Error) -> Error {
    match address {
        Address::Relay(place, _) if error.code == Code::Identity => {
            let to = &route.contact.name;
            let sentence =
                format!("{to} is not there at the relay {place} now, or does not know you");
            Error::new(Code::Later, sentence)
        }
        _ => error,
    }
}

/// Where nothing came from, for an error.
fn unanswered(route: &Route) -> String {
    format!("no answer from {} (is it an m2y server?)", route.addresses)
}

/// The error of a name that no contact has, with the nearest that one has.
fn known_instead(user: &User, name: &Name, error: RootError) -> Error {
    let is_unknown = matches!(error, RootError::NoContact { .. });
    let error = Error::from(error);
    let contacts = user.contacts().ok().filter(|_| is_unknown);
    let contacts: Vec<_> = contacts.into_iter().flatten().flatten().collect();
    let names = contacts.iter().map(|contact| contact.name.as_str());
    let near = did_you_mean(name.as_str(), names);
    Error::new(error.code, format!("{}{near}", error.sentence))
}

async fn open_link(
    link: Link,
    route: &Route,
    private: &PrivateKey,
    asked: Wire,
    observer: &dyn Observer,
) -> Result<Opened, Error> {
    let asked = announcing(route, asked);
    let mut reader = Reader::new(link.reader, ANSWER);
    let mut writer = Writer::new(link.writer, route.idle);
    writer.set_pace(route.pace.clone());

    let share = Share::new(&mut SysRng).map_err(WireError::from)?;
    let opening = Opening::seal(route, private, &asked, &share)?;
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
            return Err(Error::from(error).within(unanswered(route)));
        }
    };
    let len = match head {
        AnswerHeader::Envelope(len) => len,
        AnswerHeader::Turned(turned) => return Err(turned_away(turned, to)),
    };
    let answer = reader
        .bytes(len)
        .await
        .map_err(|e| Error::from(e).within(unanswered(route)))?;
    let digest = session::opening_digest(&opening.header, &opening.envelope);
    let opened = open_answer(&answer, &digest, head, private, &route.contact)?;
    let reply = Wire::from_json(&opened.contents.json)
        .map_err(|e| Error::new(Code::Failed, format!("the answer cannot be read: {e}")))?;
    observer.step(12, format_args!("opened the answer with its own key"));
    let transcript = session::transcript(&digest, &[&head.encode(), &answer]);
    let keys = SessionKeys::derive(
        share,
        &opened.contents.share,
        &opening.secret,
        &opened.secret,
        &transcript,
    )?;
    reader.set_idle(route.idle);
    if let Some(announced) = &reply.addresses {
        let (user, contact) = (route.user.clone(), route.contact.name.clone());
        let announced = Addresses::known(announced);
        // A session does not fail because of it.
        let recording = move || user.set_announced(&contact, &announced);
        let _ = task::spawn_blocking(recording).await;
    }
    Ok(Opened {
        connection: Connection { reader, writer },
        keys,
        asked: asked.meta,
        reply,
        time: opened.contents.time,
    })
}

/// The first message of a session.
struct Opening {
    header: [u8; header::LEN],
    envelope: Vec<u8>,
    secret: Zeroizing<[u8; SECRET_LEN]>,
}

impl Opening {
    /// Fails if the meta is too large.
    fn fits(route: &Route, private: &PrivateKey, meta: &Meta) -> Result<(), Error> {
        let len = announcing(route, request(meta.clone())).to_json().len();
        envelope::sealed_len(len, private.public(), &route.contact.key)?;
        Ok(())
    }

    fn seal(
        route: &Route,
        private: &PrivateKey,
        asked: &Wire,
        share: &Share,
    ) -> Result<Self, WireError> {
        let contact = &route.contact;
        let json = asked.to_json();
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
) -> Result<envelope::Opened, Error> {
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
                "the server refused the connection: it has no user {to}, or one of you does not have the other's current key (compare fingerprints with `m2y contact show`)"
            ),
        ),
        Turned::Stale => Error::new(
            Code::Later,
            format!(
                "rejected because of its time, which is too far from the clock of {to}'s server or older than your last sessions with {to}: check this machine's clock"
            ),
        ),
        Turned::Busy => Error::new(
            Code::Later,
            "the server cannot receive now (busy, or a problem in its log): try later",
        ),
        Turned::Unreadable => Error::new(
            Code::Failed,
            "the server speaks a different version of the protocol",
        ),
    }
}

//! The server: takes connections, finds out who speaks, receives what they send.
//!
//! Nothing but counting happens in the accept loop. Each connection has a task of
//! its own, which reads the opening, checks the signature before any private key
//! works, and then hands the meta to [`crate::transfer::receive`].

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::{self, JoinSet},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tracing::{debug, error, info, warn};
use zeroize::Zeroizing;

use crate::{
    crypto::{SysRng, keys::PrivateKey},
    error::{Code, Error},
    event::{Event, Kind as EventKind, Run},
    hooks::Hooks,
    meta::{Meta, MetaError, Wire},
    root::{Root, RootError, contact::Contact, folder::Folder, settings::Settings, user::User},
    store::{
        Store,
        local::LocalStore,
        openings::{Opening, Openings},
    },
    transfer::{
        Observer, Unobserved,
        channel::{ChannelError, Reader, Writer},
        clock,
        partial::UnderWay,
        receive::{Decision, Receiver, Session, StoreOf, refused, stopped},
    },
    wire::{
        WireError,
        envelope::{self, Contents, Opened, Part},
        header::{self, AnswerHeader, Header, Turned},
        record::{self, Kind, Stream},
        session::{self, SessionKeys, Share},
    },
};

/// When strangers are answered, counted from their last byte: whatever was found
/// out about them took less, so the time does not tell what it was.
const STRANGER_DELAY: Duration = Duration::from_millis(50);

/// How long a connection that ends in an error is still listened to, so that the
/// peer can read why.
const LINGER: Duration = Duration::from_secs(3);

/// Everything that a server works with.
#[derive(Clone)]
pub struct Server {
    root: Root,
    settings: Settings,
    receiver: Receiver,
    openings: Arc<Openings>,
    /// Openings whose signature is being checked: as many as there are cores, so
    /// that strangers leave the threads of the disk to others.
    checking: Arc<Semaphore>,
}

impl Server {
    /// A server for a root. Fails if a private key could be read by others, or
    /// cannot be read at all.
    pub fn new(root: &Root, settings: &Settings) -> Result<Self, RootError> {
        for user in root.users()? {
            user.private_key()?;
        }
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let store_of: StoreOf =
            Arc::new(|folder: &Folder| Arc::new(LocalStore::new(folder.dir())) as Arc<dyn Store>);
        Ok(Self {
            root: root.clone(),
            settings: settings.clone(),
            receiver: Receiver {
                hooks: Hooks::new(root, settings),
                settings: settings.clone(),
                observer: Arc::new(Unobserved),
                store_of,
                under_way: UnderWay::default(),
            },
            openings: Arc::default(),
            checking: Arc::new(Semaphore::new(cores)),
        })
    }

    /// Lets somebody watch every transfer.
    #[must_use]
    pub fn observed(mut self, observer: Arc<dyn Observer>) -> Self {
        self.receiver.observer = observer;
        self
    }

    /// Puts contents somewhere else than into the folder.
    #[must_use]
    pub fn storing(mut self, store_of: StoreOf) -> Self {
        self.receiver.store_of = store_of;
        self
    }

    /// Runs `[OnStartup]` of every folder; returns what ran.
    pub async fn start_folders(&self) -> Result<Vec<Run>, RootError> {
        let root = self.root.clone();
        let folders = task::spawn_blocking(move || {
            let mut folders = Vec::new();
            for user in root.users()? {
                folders.extend(user.folders()?);
            }
            Ok::<_, RootError>(folders)
        })
        .await
        .unwrap_or_else(|_| Ok(Vec::new()))?;
        let mut runs = Vec::new();
        for folder in folders {
            let opened = folder.and_then(|folder| Ok((Arc::new(folder.config()?), folder)));
            let (config, folder) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    // Traffic to it is refused for the same reason; others run.
                    error!("{error}");
                    continue;
                }
            };
            let event = Event {
                kind: EventKind::Startup,
                folder,
                config,
                subject: None,
            };
            let verdict = self.receiver.hooks.fire(event).await;
            for run in &verdict.runs {
                self.receiver.observer.hook(run);
            }
            runs.extend(verdict.runs);
        }
        Ok(runs)
    }
}

/// Serves until `shutdown` turns true, then lets what is under way finish for as
/// long as the settings say, and tells the rest to try later.
pub async fn run(listener: TcpListener, server: Server, mut shutdown: watch::Receiver<bool>) {
    let admission = Admission::new(&server.settings);
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut shutdown) => break,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, mostly: those under way will free some.
                warn!("cannot take a connection: {e}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(admitted) = admission.admit(peer.ip()) else {
            debug!(%peer, "too many connections, turned away");
            let busy = AnswerHeader::Turned(Turned::Busy).encode();
            let _ = stream.try_write(&busy);
            continue;
        };
        let connection = Connection {
            server: server.clone(),
            peer,
            shutdown: shutdown.clone(),
            stop: stopping.clone(),
        };
        connections.spawn(async move {
            connection.serve(stream).await;
            drop(admitted);
        });
    }
    drop(listener);
    info!(connections = connections.len(), "going down");
    let deadline = Instant::now() + server.settings.shutdown_deadline;
    let rest = async { while connections.join_next().await.is_some() {} };
    if timeout_at(deadline, rest).await.is_ok() {
        return;
    }
    warn!(
        connections = connections.len(),
        "telling the rest to try later"
    );
    let _ = stop.send(true);
    let rest = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(LINGER + Duration::from_secs(2), rest).await;
}

/// Counts connections, in all and for one address.
struct Admission {
    all: Arc<Semaphore>,
    each: usize,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Admission {
    fn new(settings: &Settings) -> Self {
        Self {
            all: Arc::new(Semaphore::new(
                settings.max_connections.min(Semaphore::MAX_PERMITS),
            )),
            each: settings.max_per_address,
            addresses: Arc::default(),
        }
    }

    fn admit(&self, address: IpAddr) -> Option<Admitted> {
        let permit = self.all.clone().try_acquire_owned().ok()?;
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = addresses.entry(address).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Admitted {
            address,
            addresses: self.addresses.clone(),
            _permit: permit,
        })
    }
}

struct Admitted {
    address: IpAddr,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// One connection in its task.
struct Connection {
    server: Server,
    peer: SocketAddr,
    shutdown: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
}

/// Who opened the session, certain by signature.
struct Caller {
    user: User,
    contact: Contact,
    private: PrivateKey,
    opened: Opened,
    digest: [u8; 32],
    /// The meta, or what is wrong with it.
    request: Result<Wire, Error>,
}

/// Why somebody is turned away without an envelope.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("there is no such receiver here")]
    Receiver,
    #[error("the receiver has no such contact")]
    Sender,
    #[error("{0}")]
    Signature(WireError),
    #[error("the opening was had before")]
    Replay,
    #[error("the opening is older than those that were forgotten")]
    Stale,
    #[error("the opening cannot be opened: {0}")]
    Envelope(WireError),
    #[error("{0}")]
    Root(RootError),
    #[error("cannot remember openings: {0}")]
    Memory(io::Error),
    #[error("the server failed")]
    Failed,
}

impl Unknown {
    /// One answer for whoever is not known; another where the server is at fault.
    fn answer(&self) -> Turned {
        match self {
            Self::Receiver
            | Self::Sender
            | Self::Signature(_)
            | Self::Replay
            | Self::Envelope(_) => Turned::Stranger,
            Self::Stale => Turned::Stale,
            Self::Root(_) | Self::Memory(_) | Self::Failed => Turned::Busy,
        }
    }
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        // A peer that vanished without a word is noticed by the system too.
        let _ = SockRef::from(&stream).set_keepalive(true);
        let idle = self.server.settings.idle_deadline;
        let (read, write) = stream.into_split();
        let (mut reader, mut writer) = (Reader::new(read, idle), Writer::new(write, idle));
        if let Err(error) = self.session(&mut reader, &mut writer).await {
            debug!(peer = %self.peer, "connection ended: {error}");
        }
        writer.finish().await;
        reader.drain(LINGER).await;
    }

    async fn session(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<(), ChannelError> {
        let opening = self.opening(reader);
        let (head, header, envelope) = match opening.await {
            Ok(opening) => opening,
            Err(ChannelError::Wire(error)) => {
                info!(peer = %self.peer, "turned away: {error}");
                let answer = AnswerHeader::Turned(Turned::Unreadable);
                return writer.bytes(&answer.encode()).await;
            }
            Err(error) => return Err(error),
        };
        let answer_at = Instant::now() + STRANGER_DELAY;
        let caller = match self.identify(head, header, envelope).await {
            Ok(caller) => caller,
            Err(unknown) => {
                info!(peer = %self.peer, "turned away: {unknown}");
                sleep_until(answer_at).await;
                let answer = AnswerHeader::Turned(unknown.answer());
                return writer.bytes(&answer.encode()).await;
            }
        };
        self.answer(caller, reader, writer).await
    }

    /// Steps 3 to 6: the header, then the envelope, all within one deadline.
    async fn opening(
        &mut self,
        reader: &mut Reader,
    ) -> Result<(Header, [u8; header::LEN], Vec<u8>), ChannelError> {
        let deadline = self.server.settings.opening_deadline;
        let read = async {
            let bytes = reader.exact().await?;
            let header = Header::decode(&bytes)?;
            let envelope = reader.bytes(header.envelope_len).await?;
            Ok((header, bytes, envelope))
        };
        tokio::select! {
            read = timeout(deadline, read) => {
                read.unwrap_or(Err(ChannelError::Idle(deadline)))
            }
            // Nothing was promised yet.
            () = stopped(&mut self.shutdown) => Err(ChannelError::Closed),
        }
    }

    async fn identify(
        &self,
        head: Header,
        header: [u8; header::LEN],
        envelope: Vec<u8>,
    ) -> Result<Caller, Unknown> {
        let _turn = self
            .server
            .checking
            .acquire()
            .await
            .map_err(|_| Unknown::Failed)?;
        let (root, openings) = (self.server.root.clone(), self.server.openings.clone());
        task::spawn_blocking(move || identify(&root, &openings, head, &header, &envelope))
            .await
            .unwrap_or(Err(Unknown::Failed))
    }

    /// Steps 7 to 15 for the first file, then whatever else comes in this session.
    async fn answer(
        &mut self,
        caller: Caller,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<(), ChannelError> {
        let Caller {
            user,
            contact,
            private,
            opened,
            digest,
            request,
        } = caller;
        let receiver = &self.server.receiver;
        receiver.observer.step(
            5,
            format_args!(
                "signature of {} is good, opened the meta with the key of {}",
                contact.name,
                user.name()
            ),
        );
        let id = request.as_ref().ok().and_then(|r| r.meta.id);
        let decision = match request {
            Ok(request) => receiver.decide(&user, &contact, request).await,
            Err(error) => {
                info!(from = %contact.name, to = %user.name(), "refused: {error}");
                let reply = refused(empty_meta(&user, &contact), &error);
                Decision::Answered(Box::new(reply))
            }
        };
        let (reply, arrival) = match decision {
            Decision::Taken(arrival) => (arrival.reply.clone(), Some(arrival)),
            Decision::Answered(reply) => (*reply, None),
        };
        let filekey = reply.filekey.clone();
        let caller_name = contact.name.clone();
        let (keys, answer) = {
            let sealing = move || seal_answer(&reply, &private, &contact, opened, &digest);
            task::spawn_blocking(sealing)
                .await
                .map_err(|_| ChannelError::Closed)??
        };
        receiver.observer.step(
            9,
            format_args!("sealed the meta for {}, signed it", caller_name),
        );
        let len = answer.len() - header::ANSWER_LEN;
        receiver
            .observer
            .step(10, format_args!("send the size of the sealed meta, {len}"));
        receiver
            .observer
            .step(11, format_args!("send the sealed meta"));
        writer.bytes(&answer).await?;
        let (Some(mut arrival), Some(filekey), Some(id)) = (arrival, filekey, id) else {
            return Ok(());
        };
        // What follows needs both halves; they go back to the caller at the end.
        let mut session = Session {
            reader: std::mem::replace(reader, Reader::new(tokio::io::empty(), Duration::ZERO)),
            writer: std::mem::replace(writer, Writer::new(tokio::io::sink(), Duration::ZERO)),
            incoming: Some(Stream::new(&keys.client)?),
            outgoing: Stream::new(&keys.server)?,
            stop: self.stop.clone(),
        };
        arrival.reply.filekey = None;
        let blocks = Stream::new(&keys.file_key(&filekey, &id))?;
        let received = receiver.receive(&mut session, 0, blocks, *arrival).await;
        let ended = match received {
            Ok(()) => self.further(&mut session).await,
            Err(_) => Ok(()),
        };
        *reader = session.reader;
        *writer = session.writer;
        ended
    }

    /// What comes after the first file. This version of the program knows only
    /// that a session ends; all else is answered, so that a peer can go on.
    async fn further(&mut self, session: &mut Session) -> Result<(), ChannelError> {
        let Some(incoming) = session.incoming.as_mut() else {
            return Ok(());
        };
        loop {
            let next = session.reader.record(incoming);
            let (head, _) = tokio::select! {
                next = next => next?,
                () = stopped(&mut self.shutdown) => return Ok(()),
            };
            match head.kind {
                Kind::Close => return Ok(()),
                Kind::Working => {}
                _ => {
                    let answer = Error::new(Code::Failed, "this server does not know that request");
                    let body = record::encode_error(&answer);
                    session
                        .writer
                        .record(&mut session.outgoing, Kind::Error, head.transfer, &body)
                        .await?;
                }
            }
        }
    }
}

/// Finds out who speaks: both keys by the hashes, the signature, then the seal.
fn identify(
    root: &Root,
    openings: &Openings,
    head: Header,
    header: &[u8; header::LEN],
    envelope: &[u8],
) -> Result<Caller, Unknown> {
    let name = root.name_of(&head.to).ok_or(Unknown::Receiver)?;
    let user = root.user(&name).map_err(|_| Unknown::Receiver)?;
    let contact = user.contact_of(&head.from).ok_or(Unknown::Sender)?;
    let verified = envelope::verify(Part::Opening, header, envelope, &contact.key)
        .map_err(Unknown::Signature)?;
    let digest = session::opening_digest(header, envelope);
    let time = verified.time();
    let is_new = |found: io::Result<Opening>| match found.map_err(Unknown::Memory)? {
        Opening::New => Ok(()),
        Opening::Seen => Err(Unknown::Replay),
        Opening::Old => Err(Unknown::Stale),
    };
    is_new(openings.look(&user, &contact.name, &digest, time))?;
    let private = user.private_key().map_err(Unknown::Root)?;
    let opened = verified.open(&private).map_err(Unknown::Envelope)?;
    // Asked again, and remembered: of two that came at once one is new.
    is_new(openings.remember(&user, &contact.name, &digest, time))?;
    let request = Wire::from_json(&opened.contents.json).map_err(|e: MetaError| {
        Error::new(Code::Failed, format!("the metadata cannot be read: {e}"))
    });
    Ok(Caller {
        user,
        contact,
        private,
        opened,
        digest,
        request,
    })
}

/// Steps 9 to 11: seals the answer and derives the keys of the session.
fn seal_answer(
    reply: &Wire,
    private: &PrivateKey,
    contact: &Contact,
    opened: Opened,
    digest: &[u8; 32],
) -> Result<(SessionKeys, Vec<u8>), WireError> {
    let share = Share::new(&mut SysRng)?;
    let mut json = reply.to_json();
    if envelope::sealed_len(json.len(), private.public(), &contact.key).is_err() {
        // What hooks added does not fit; the sender can do without.
        let mut reply = reply.clone();
        reply.meta.extra.clear();
        json = reply.to_json();
    }
    let len = envelope::sealed_len(json.len(), private.public(), &contact.key)?;
    let head = AnswerHeader::Envelope(len).encode();
    let contents = Contents {
        time: clock(),
        share: share.public,
        json: Zeroizing::new(json.as_bytes().to_vec()),
    };
    let bound = [digest.as_slice(), &head].concat();
    let sealed = envelope::seal(
        Part::Answer,
        &bound,
        &contents,
        private,
        &contact.key,
        &mut SysRng,
    )?;
    let transcript = session::transcript(digest, &[&head, &sealed.bytes]);
    let keys = SessionKeys::derive(
        share,
        &opened.contents.share,
        &opened.secret,
        &sealed.secret,
        &transcript,
    )?;
    Ok((keys, [head.as_slice(), &sealed.bytes].concat()))
}

fn empty_meta(user: &User, contact: &Contact) -> Meta {
    Meta {
        from: contact.name.to_string(),
        to: user.name().to_string(),
        folder: String::new(),
        filename: String::new(),
        datetime: String::new(),
        filesize: None,
        file_crc: None,
        error: String::new(),
        id: None,
        extra: crate::json::Map::new(),
    }
}

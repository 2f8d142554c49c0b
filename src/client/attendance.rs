//! A server at relays: it attends for its users, and takes those who call them there.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, Semaphore, mpsc, watch},
    task::{self, JoinHandle},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{Opened, Route, lost, mailbox, open_with, private_key, request};
use crate::{
    clock, crypto,
    error::{Code, Error},
    hooks::dispatch::stopped,
    journal::openings::{Openings, Stamp, timely},
    meta::{Attend, Meta, Wire},
    observer::Unobserved,
    relay::attendance::{self, Called},
    root::{
        Root,
        name::Name,
        settings::{Settings, live::Live},
        user::User,
    },
    server::Server,
    transfer::receive::receiver::Receiver,
    transport::{Address, Direct, Incoming, Link, Listener, Peer, race},
    wire::{
        envelope::{self, Part},
        header::{self, Header},
        relay::Token,
        session,
    },
};

/// How often is looked which relays the users have joined.
const LOOK: Duration = Duration::from_secs(2);

/// The pause after an attempt that failed: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// How long a connection to the relay may take.
const BACK: Duration = Duration::from_secs(10);

/// Callers of one relay whose signature is checked, or who are fetched, at the same time.
const TOGETHER: usize = 32;

/// Attends at all relays that users of the root have joined, and accepts who calls there.
pub struct Attendance {
    callers: mpsc::Receiver<Incoming>,
    work: JoinHandle<()>,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Attendance {
    /// Begins; goes on until the server goes down.
    pub fn start(root: &Root, server: &Server, shutdown: watch::Receiver<bool>) -> Self {
        let (give, callers) = mpsc::channel(16);
        let doorkeeper = Doorkeeper {
            openings: server.openings().clone(),
            receiver: server.receiver().clone(),
            settings: server.settings().clone(),
            give,
        };
        Self {
            callers,
            work: task::spawn(attend_all(root.clone(), doorkeeper, shutdown)),
        }
    }
}

impl Listener for Attendance {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        Box::pin(async {
            match self.callers.recv().await {
                Some(incoming) => Ok(incoming),
                None => std::future::pending().await,
            }
        })
    }

    fn address(&self) -> io::Result<Address> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Who lets callers in, and where to.
#[derive(Clone)]
struct Doorkeeper {
    openings: Arc<Openings>,
    /// What receives the files of letters.
    receiver: Arc<Receiver>,
    settings: Live<Settings>,
    give: mpsc::Sender<Incoming>,
}

async fn attend_all(root: Root, doorkeeper: Doorkeeper, mut shutdown: watch::Receiver<bool>) {
    let mut attending: HashMap<(Name, Name), Aborted> = HashMap::new();
    loop {
        let looked = {
            let root = root.clone();
            task::spawn_blocking(move || joined(&root)).await
        };
        if let Ok(Ok(joined)) = looked {
            attending.retain(|key, _| {
                joined
                    .iter()
                    .any(|(user, relay)| key.0 == *user.name() && key.1 == *relay)
            });
            for (user, relay) in joined {
                let key = (user.name().clone(), relay.clone());
                let doorkeeper = doorkeeper.clone();
                attending.entry(key).or_insert_with(|| {
                    Aborted(task::spawn(async move {
                        keep(&user, &relay, &doorkeeper).await
                    }))
                });
            }
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = stopped(&mut shutdown) => return,
        }
    }
}

/// A task that ends when this is dropped.
struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The users of the root, and the relays that they have joined.
fn joined(root: &Root) -> Result<Vec<(User, Name)>, Error> {
    let mut all = Vec::new();
    for user in root.users()? {
        for relay in user.relays()? {
            all.push((user.clone(), relay));
        }
    }
    Ok(all)
}

/// Attends at one relay, and fetches the letters there, again and again.
async fn keep(user: &User, relay: &Name, doorkeeper: &Doorkeeper) {
    let letters = Notify::new();
    tokio::join!(
        attend_again(user, relay, doorkeeper, &letters),
        mailbox::keep(user, relay, &doorkeeper.receiver, &letters),
    );
}

async fn attend_again(user: &User, relay: &Name, doorkeeper: &Doorkeeper, letters: &Notify) {
    let [first, longest] = PAUSES;
    let mut pause = first;
    let mut was_said = false;
    loop {
        let begun = Instant::now();
        let ended = attend(user, relay, doorkeeper, letters).await;
        // What lasted was no failure.
        if begun.elapsed() > longest {
            (pause, was_said) = (first, false);
        }
        let user = user.name();
        match ended {
            Err(error) if !was_said => {
                was_said = true;
                warn!(%user, %relay, "nobody can call here: {error}");
            }
            Err(error) => debug!(%user, %relay, "{error}"),
            Ok(()) => {}
        }
        // Not all members of a relay that was away come back in the same moment.
        let random = crypto::random::<1>().map_or(128, |[byte]| u32::from(byte));
        sleep(pause * (128 + random) / 256).await;
        pause = (pause * 2).min(longest);
    }
}

/// Opens a session with a relay in which the user hears of calls, or of those who want to use a code.
pub(super) async fn open(
    user: &User,
    relay: &Name,
    attend: Attend,
) -> Result<(Route, Opened), Error> {
    let route = {
        let (user, relay) = (user.clone(), relay.clone());
        let finding = task::spawn_blocking(move || Route::to(&user, relay.as_str(), None));
        finding.await.map_err(lost)??
    };
    let private = private_key(&route.user).await?;
    let (from, to) = (route.user.name().as_str(), route.contact.name.as_str());
    let asked = Wire {
        session: true,
        attend: Some(attend),
        ..request(Meta::new(from, to, "", ""))
    };
    let opened = open_with(&route, &private, asked, &Unobserved).await?;
    match opened.reply.attend == Some(attend) {
        true => Ok((route, opened)),
        false => Err(Error::new(
            Code::Refused,
            format!("{to} is no relay, or {from} is no member of it"),
        )),
    }
}

async fn attend(
    user: &User,
    relay: &Name,
    doorkeeper: &Doorkeeper,
    letters: &Notify,
) -> Result<(), Error> {
    let (route, opened) = open(user, relay, Attend::Calls).await?;
    let Opened {
        mut connection,
        keys,
        ..
    } = opened;
    let (from, to) = (user.name(), relay);
    info!(user = %from, relay = %to, "attending");
    let traffic = &doorkeeper.receiver.traffic;
    let _place = traffic.place(from.as_str(), to.as_str());
    // However long the relay was away.
    letters.notify_one();
    let (give_call, mut calls) = mpsc::channel::<Called>(TOGETHER);
    let (decide, mut decisions) = mpsc::channel(TOGETHER);
    let free = Arc::new(Semaphore::new(TOGETHER));
    let taking = async {
        while let Some(called) = calls.recv().await {
            let Ok(one) = free.clone().acquire_owned().await else {
                return;
            };
            let (route, decide) = (route.clone(), decide.clone());
            let doorkeeper = doorkeeper.clone();
            task::spawn(async move {
                let _ = take(&route, called, &decide, doorkeeper).await;
                drop(one);
            });
        }
    };
    let both = (&mut connection.reader, &mut connection.writer);
    let attending = attendance::attend(both, &keys, letters, &give_call, &mut decisions);
    tokio::select! {
        ended = attending => ended.map_err(|e| Error::new(Code::Later, e.to_string())),
        () = taking => Ok(()),
    }
}

/// Decides about a caller, and dials back for one who is let in.
async fn take(
    route: &Route,
    called: Called,
    decide: &mpsc::Sender<(Token, bool)>,
    doorkeeper: Doorkeeper,
) -> Option<()> {
    let Called {
        token,
        header,
        envelope,
    } = called;
    let user = route.user.clone();
    let give = doorkeeper.give.clone();
    let knows = task::spawn_blocking(move || doorkeeper.knows(&user, &header, &envelope));
    let lets_in = knows.await.unwrap_or(false);
    decide.send((token, lets_in)).await.ok()?;
    if !lets_in {
        return None;
    }
    let dialling = async {
        let turn = route.addresses.in_turn();
        // On a connection of its own, or callers who do not read would hold all others up.
        let dialer = Direct::new(route.gso);
        let (mut link, _) = race::dial(&dialer, &turn).await.ok()?;
        let hello = [header::encode_back().as_slice(), &token.0].concat();
        link.writer.write_all(&hello).await.ok()?;
        link.writer.flush().await.ok()?;
        Some(link)
    };
    let Link { reader, writer, .. } = timeout(BACK, dialling).await.ok()??;
    let peer = Peer::Named(format!("a caller at {}", route.contact.name));
    let link = Link {
        reader,
        writer,
        peer,
    };
    give.send(link.into()).await.ok()
}

impl Doorkeeper {
    /// Whether an opening comes from a contact of the user, and is new: a recording is not let in. It
    /// needs no private key.
    fn knows(&self, user: &User, header: &[u8; header::LEN], envelope: &[u8]) -> bool {
        let Ok(head) = Header::decode(header) else {
            return false;
        };
        if head.to != user.name().hash() || head.envelope_len != envelope.len() {
            return false;
        }
        let Some(contact) = user.contact_of(&head.from).ok().flatten() else {
            return false;
        };
        let verified = envelope::verify(Part::Opening, header, envelope, &contact.key);
        verified.is_ok_and(|verified| {
            let stamp = Stamp {
                digest: session::opening_digest(header, envelope),
                time: verified.time(),
            };
            let accepted = timely(clock::millis(), self.settings.now().opening_max_age);
            let openings = &self.openings;
            openings
                .is_new(user, &contact.name, &stamp, &accepted)
                .unwrap_or(false)
        })
    }
}

//! The client: opens sessions with a contact's server and sends files in them.
//!
//! [`deliver_all`] sends many, in as few sessions as it takes. They wait in the [`queue`] of their
//! route, which `m2y send` fills with what a person names and the [`outbox`] with what it finds.
//! A [`peer`] is a session for requests, and a [`member`] is a contact's folder behind such
//! sessions, in which a store keeps its objects. An [`owner`] is a contact or a user of this root:
//! commands work on the files of both in the same way.
//!
//! A file for somebody who is away goes to their relay as one of the [`letters`]; the [`mailbox`] is the
//! other end of that, and [`receipts`] say what became of it.

pub mod attendance;
pub mod broadcast;
pub mod chat;
mod letter_log;
pub mod letters;
pub mod mailbox;
pub mod member;
pub mod membership;
mod opening;
pub mod outbox;
mod own;
pub mod owner;
pub mod peer;
mod post;
pub mod presence;
pub mod put;
pub mod queue;
pub mod receipts;
pub mod relay_slot;
mod sending;

use std::{
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::task;

pub use self::sending::{deliver, deliver_all};
use self::{letters::Leave, member::ContactMember, opening::open_link};
use crate::{
    clock,
    crypto::keys::PrivateKey,
    error::{Code, Error, did_you_mean, printable},
    meta::{Announcement, Meta, Wire},
    observer::{Observer, Unobserved},
    root::{
        Root, RootError, boxes::Grant, contact::Contact, name::Name, settings::Settings, user::User,
    },
    session::{pace::Pace, pump::Connection},
    store::Stores,
    transfer::send::{job, send_job::SendJob},
    transport::{Address, AddressError, Addresses, Dialer, Direct, Link, race},
    wire::{
        record::{Kind, Stream},
        session::SessionKeys,
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
    /// What the contact is told about where the user is reached.
    announced: Announcement,
    /// Whether the system may cut what QUIC sends into packets.
    gso: bool,
    /// Where letters for the contact may be left, and when they are.
    letter_box: Option<Box<Grant>>,
    leave: Leave,
    /// Whether a session that broke is opened again, and files go on where they were.
    is_persistent: bool,
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
            announced: user.announcement(&settings, &contact.name)?,
            gso: settings.quic_gso,
            // Who names a server means that one.
            leave: match server {
                Some(_) => Leave::Never,
                None => Leave::Auto,
            },
            letter_box: user.box_of(&contact.name)?.map(Box::new),
            is_persistent: false,
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

    /// The same route, on which files are left as letters in this case.
    #[must_use]
    pub fn leaving(self, leave: Leave) -> Self {
        Self { leave, ..self }
    }

    /// The same route, on which files go on in another session if one breaks.
    #[must_use]
    pub fn persistent(self) -> Self {
        Self {
            is_persistent: true,
            ..self
        }
    }

    /// The box that files go into as letters, if no session could be opened for this reason.
    fn letters_after(&self, error: &Error) -> Option<&Grant> {
        let may = match self.leave {
            Leave::Never => false,
            Leave::Always => true,
            Leave::Auto => error.code == Code::Later,
        };
        self.letter_box.as_deref().filter(|_| may)
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

/// A thread of ours failed.
fn lost(_: task::JoinError) -> Error {
    Error::new(Code::Failed, "a thread stopped")
}

/// That a contact takes no letters.
fn no_box(route: &Route) -> Error {
    let to = &route.contact.name;
    let sentence = format!(
        "{to} takes no letters: that is only known after a session with {to}, who has to have joined a relay"
    );
    Error::new(Code::Later, sentence)
}

async fn private_key(user: &User) -> Result<PrivateKey, Error> {
    let user = user.clone();
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
    let private = private_key(&route.user).await?;
    open_with(route, &private, request(asked), observer).await
}

/// [`open`], over a link that is there already.
pub async fn open_over(
    link: Link,
    route: &Route,
    asked: Meta,
    observer: &dyn Observer,
) -> Result<Opened, Error> {
    let private = private_key(&route.user).await?;
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
    let private = private_key(&route.user).await?;
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
        announced: Some(route.announced.clone()),
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

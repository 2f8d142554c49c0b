//! Whose files a command works on.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Route, own, own::OwnRoute, peer::Peer, put};
use crate::{
    error::{Code, Error, did_you_mean},
    observer::Observer,
    root::{RootError, name::Name, user::User},
    session::{
        asker::{Jobs, Sent},
        pace::Pace,
    },
    transfer::send::put::Put,
};

/// Whose files they are, and how to reach them.
#[derive(Clone)]
pub enum Owner {
    /// A contact's: the contact's server is asked.
    Contact(Route),
    /// Those of a user of this root: this process answers itself.
    Own(OwnRoute),
}

impl Owner {
    /// The owner of this name: a contact of the user, at `server` or else at the address that is
    /// known, or else a user of the same root.
    pub fn find(user: &User, name: &str, server: Option<&str>) -> Result<Self, Error> {
        let whose = Name::user(name).map_err(RootError::from)?;
        // The own key is among those of the contacts.
        if whose != *user.name() {
            match user.contact(&whose) {
                Err(RootError::NoContact { .. }) => {}
                _ => return Ok(Self::Contact(Route::to(user, name, server)?)),
            }
        }
        match user.root().user(&whose) {
            Ok(own) => Ok(Self::Own(OwnRoute::to(&own)?)),
            Err(RootError::NoUser(_)) => Err(unknown(user, &whose)),
            Err(error) => Err(error.into()),
        }
    }

    /// The user in whose name things are done.
    pub fn user(&self) -> &User {
        match self {
            Self::Contact(route) => route.user(),
            Self::Own(route) => route.user(),
        }
    }

    /// The name of the owner.
    pub fn name(&self) -> &str {
        match self {
            Self::Contact(route) => route.peer(),
            Self::Own(route) => route.user().name().as_str(),
        }
    }

    /// Whether the owner is a user of this root.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// The same owner, whose files are moved no faster than this.
    #[must_use]
    pub fn paced(self, pace: Option<Arc<Pace>>) -> Self {
        match self {
            Self::Contact(route) => Self::Contact(route.paced(pace)),
            Self::Own(route) => Self::Own(route.paced(pace)),
        }
    }

    /// Opens a session.
    pub async fn connect(&self, observer: Arc<dyn Observer>) -> Result<Peer, Error> {
        match self {
            Self::Contact(route) => Peer::connect(route, observer).await,
            Self::Own(route) => Ok(Peer::own(route.clone(), observer)),
        }
    }

    /// Puts all that come as `jobs` at their paths, and reports what became of each: see
    /// [`put::put_all`].
    pub async fn put_all(
        &self,
        jobs: &mut Jobs<Put>,
        results: &mpsc::UnboundedSender<Sent<Put>>,
        observer: &Arc<dyn Observer>,
    ) -> Result<(), Error> {
        match self {
            Self::Contact(route) => {
                let stop = std::future::pending();
                put::put_all(route, jobs, results, observer, stop).await
            }
            Self::Own(route) => own::put_all(route, jobs, results, observer).await,
        }
    }
}

/// The error of a name that nobody has, with the nearest that somebody has.
fn unknown(user: &User, name: &Name) -> Error {
    let contacts = user.contacts().unwrap_or_default().into_iter().flatten();
    let contacts = contacts.map(|contact| contact.name.to_string());
    let users = user.root().users().unwrap_or_default();
    let users = users.iter().map(|user| user.name().to_string());
    let known: Vec<String> = contacts.chain(users).collect();
    let near = did_you_mean(name.as_str(), known.iter().map(String::as_str));
    let sentence = format!(
        "{} has no contact {name}, and this root has no user {name}: add the key with `m2y contact add`{near}",
        user.name()
    );
    Error::new(Code::Identity, sentence)
}

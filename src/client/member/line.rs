//! The session with the server of a contact: one at a time, for as long as it holds.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::{task, time::timeout};

use crate::{
    client::{Route, peer::Peer},
    error::{Code, Error},
    observer::Unobserved,
    root::{Root, name::Name, settings::store::ContactFolder},
    store::member::{MemberError, MemberResult},
};

/// A session, open or still opening. Every caller shares the same one.
type Opening = Shared<BoxFuture<'static, MemberResult<Peer>>>;

/// The way to a contact's server.
pub(super) struct Line {
    root: Root,
    folder: ContactFolder,
    opening: Mutex<Option<Opening>>,
}

impl Line {
    /// Fails if it is known already that the contact cannot be asked.
    pub(super) fn new(root: &Root, folder: &ContactFolder) -> MemberResult<Self> {
        find(root, folder)?;
        Ok(Self {
            root: root.clone(),
            folder: folder.clone(),
            opening: Mutex::default(),
        })
    }

    /// Asks something. If the session breaks meanwhile, it is asked once more in another, so it has
    /// to be something that may happen twice. The outer error is that no session could be opened,
    /// the inner one the answer.
    pub(super) async fn ask<T, F>(&self, ask: impl Fn(Peer) -> F) -> MemberResult<Result<T, Error>>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let peer = self.peer().await?;
        match ask(peer.clone()).await {
            Err(_) if peer.is_over() => Ok(ask(self.peer().await?).await),
            answer => Ok(answer),
        }
    }

    async fn peer(&self) -> MemberResult<Peer> {
        let opening = {
            let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            match &*opening {
                Some(opening) if holds(opening) => opening.clone(),
                _ => opening.insert(self.open()).clone(),
            }
        };
        opening.await
    }

    fn open(&self) -> Opening {
        let (root, folder) = (self.root.clone(), self.folder.clone());
        let opening = async move {
            let contact = folder.contact.clone();
            // The address and the key may have changed since the last time.
            let finding = task::spawn_blocking(move || find(&root, &folder));
            let lost = |_| MemberError::Failed("a thread stopped".to_owned());
            let route = finding.await.map_err(lost)??;
            let connecting = Peer::connect(&route, Arc::new(Unobserved));
            match timeout(route.idle(), connecting).await {
                Ok(connected) => connected.map_err(|error| said(&contact, error)),
                Err(_) => Err(MemberError::Unreachable(format!(
                    "no answer from {contact} at {} within {} s",
                    route.addresses(),
                    route.idle().as_secs()
                ))),
            }
        };
        // It goes on if the one who needed it first no longer waits.
        let opening = tokio::spawn(opening);
        let lost = |_| Err(MemberError::Failed("a task stopped".to_owned()));
        async move { opening.await.unwrap_or_else(lost) }
            .boxed()
            .shared()
    }

    /// The error of an answer for which there is no better word.
    pub(super) fn error(&self, error: Error) -> MemberError {
        said(&self.folder.contact, error)
    }
}

/// Whether a session is open, or about to be.
fn holds(opening: &Opening) -> bool {
    match opening.peek() {
        None => true,
        Some(opened) => opened.as_ref().is_ok_and(|peer| !peer.is_over()),
    }
}

/// Finds the contact's key and address. It waits for a disk.
fn find(root: &Root, folder: &ContactFolder) -> MemberResult<Route> {
    let user = root.user(&folder.user).map_err(Error::from);
    user.and_then(|user| Route::to(&user, folder.contact.as_str(), None))
        .map_err(|error| MemberError::Denied(error.sentence))
}

/// What an error of a contact's server, or of the way there, is for a store.
fn said(contact: &Name, error: Error) -> MemberError {
    let Error { code, sentence } = error;
    match code {
        Code::Later | Code::Interrupted => {
            MemberError::Unreachable(format!("{contact}: {sentence}"))
        }
        Code::Refused => MemberError::Denied(format!("{contact} refused: {sentence}")),
        Code::Identity => MemberError::Denied(format!("{contact}: {sentence}")),
        _ => MemberError::Failed(format!("{contact}: {sentence}")),
    }
}

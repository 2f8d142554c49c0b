//! What is common to the commands that look at the files of a contact, or at one's own.

use std::{env, sync::Arc};

use clap::Args;
use jiff::Timestamp;

use super::{RootArg, output, user_arg::UserArg};
use crate::{
    client::{owner::Owner, peer::Peer},
    error::{Code, Error, printable},
    observer::{Observer, Unobserved},
    root::{name::Name, user::User},
    transport::{AddressError, Addresses},
    wire::request::Entry,
};

/// Who asks, and where.
#[derive(Debug, Args)]
pub struct Asker {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The contact's server, port 5000 unless given [default: the contact's address]
    #[arg(long, env = "M2Y_SERVER", value_name = "ADDRESS", value_parser = full_addresses)]
    server: Option<String>,
}

/// `PEER:PATH`, or `PEER` for the top directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePath {
    /// The contact, or a user of the root.
    pub peer: String,
    /// The path there, as it was written.
    pub path: String,
}

impl RemotePath {
    /// Parses what the command line says.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (peer, path) = text.split_once(':').unwrap_or((text, ""));
        match peer.is_empty() || peer.contains('/') {
            true => Err(format!(
                "{text:?} names no contact: write PEER:PATH, like roland-frei:photo/2026"
            )),
            false => Ok(Self {
                peer: Name::composed(peer),
                path: path.trim_matches('/').to_owned(),
            }),
        }
    }

    /// As it is written.
    pub fn shown(&self) -> String {
        match self.path.as_str() {
            "" => self.peer.clone(),
            path => format!("{}:{path}", self.peer),
        }
    }

    /// The path, which must be there.
    pub fn path(&self) -> Result<&str, Error> {
        match self.path.as_str() {
            "" => Err(Error::new(
                Code::Usage,
                format!("a path is missing: write {}:PATH", self.peer),
            )),
            path => Ok(path),
        }
    }
}

/// Checks addresses, and gives those a port that have none.
pub fn full_addresses(text: &str) -> Result<String, AddressError> {
    Addresses::with_default_ports(text).map(|addresses| addresses.to_string())
}

impl Asker {
    /// The user who asks.
    pub fn user(&self) -> Result<User, Error> {
        self.user.of(&self.root.open()?)
    }

    /// The server that the command line names.
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// A contact, or a user of the root.
    pub fn owner(&self, name: &str) -> Result<Owner, Error> {
        let owner = Owner::find(&self.user()?, name, self.server.as_deref())?;
        // A variable is for all commands, the flag for this one.
        let variable = env::var("M2Y_SERVER").ok();
        let variable = variable.and_then(|server| full_addresses(&server).ok());
        let is_variable = self.server == variable;
        match owner.is_own() && !is_variable {
            true => Err(Error::new(
                Code::Usage,
                format!(
                    "{name} is a user of this root, and no server is asked: leave out --server"
                ),
            )),
            false => Ok(owner),
        }
    }

    /// A session for the files of a contact, or of a user of the root.
    pub async fn connect(&self, name: &str) -> Result<Peer, Error> {
        let owner = self.owner(name)?;
        owner.connect(Arc::new(Unobserved)).await
    }
}

/// Someone's files, with a session that begins when it is needed, and begins again after it was
/// cut.
pub struct Link {
    owner: Owner,
    observer: Arc<dyn Observer>,
    peer: Option<Peer>,
    /// Whether people are told that a session was cut.
    tells: bool,
}

impl Link {
    /// A link without a session yet.
    pub fn new(owner: Owner, observer: Arc<dyn Observer>, tells: bool) -> Self {
        Self {
            owner,
            observer,
            peer: None,
            tells,
        }
    }

    /// The session.
    pub async fn peer(&mut self) -> Result<Peer, Error> {
        if let Some(peer) = &self.peer
            && !peer.is_over()
        {
            return Ok(peer.clone());
        }
        let peer = self.owner.connect(self.observer.clone()).await?;
        if self.peer.replace(peer.clone()).is_some() && self.tells {
            output::aside("m2y: the connection was cut, connected again");
        }
        Ok(peer)
    }

    /// Whose files they are.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether there is no live session.
    pub fn is_cut(&self) -> bool {
        self.peer.as_ref().is_none_or(Peer::is_over)
    }

    /// Ends the session at once.
    pub fn hang_up(&mut self) {
        if let Some(peer) = self.peer.take() {
            peer.hang_up();
        }
    }
}

/// Adds the place that an error is about in front of it.
pub fn about(place: &RemotePath, error: Error) -> Error {
    error.within(printable(&place.shown(), 300))
}

/// Why something could not be done to a path. A server says the same of what is missing and of
/// what this contact may not do; if the path can be seen, it is the second.
pub async fn denied(peer: &Peer, path: &str, what: &str, error: Error) -> Error {
    if error.code != Code::NotFound || peer.is_own() {
        return error;
    }
    match peer.stat(path).await {
        Ok(entry) if entry.is_dir && !path.contains('/') => {
            let sentence = format!("only its owner can {what} a folder");
            Error::new(Code::Refused, sentence)
        }
        Ok(_) => {
            let sentence =
                format!("the contact does not let you {what} it ([share] in m2y.config)");
            Error::new(Code::Refused, sentence)
        }
        Err(_) => error,
    }
}

/// Renames something, and says whether what is wrong is the new path.
pub async fn rename(peer: &Peer, from: &str, to: &str) -> Result<(), (bool, Error)> {
    let folder = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    if folder(from) != folder(to) || !to.contains('/') {
        let sentence = format!(
            "the new path must be in the same folder, like {}/{to}",
            folder(from)
        );
        return Err((true, Error::new(Code::Usage, sentence)));
    }
    let Err(error) = peer.rename(from, to).await else {
        return Ok(());
    };
    let above = to.rsplit_once('/').map_or("", |(above, _)| above);
    match error.code {
        Code::Exists => Err((true, error)),
        Code::NotFound if peer.stat(from).await.is_err() => Err((false, error)),
        Code::NotFound if peer.stat(above).await.is_err() => Err((true, error)),
        _ => Err((false, denied(peer, from, "rename", error).await)),
    }
}

/// When a file changed last, UTC: `2026-11-21 20:46:41`.
pub fn time(entry: &Entry) -> String {
    stamp(entry).map_or_else(String::new, |time| time.strftime("%F %T").to_string())
}

/// The same for programs, to the nanosecond: `2026-11-21T20:46:41.5Z`.
pub fn exact_time(entry: &Entry) -> String {
    stamp(entry).map_or_else(String::new, |time| time.to_string())
}

fn stamp(entry: &Entry) -> Option<Timestamp> {
    Timestamp::from_nanosecond(entry.modified.into()).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_contact_and_a_path() {
        let of = |text| {
            let place = RemotePath::parse(text).unwrap();
            (place.peer, place.path)
        };
        let is = |peer: &str, path: &str| (peer.to_owned(), path.to_owned());
        assert_eq!(of("roland"), is("roland", ""));
        assert_eq!(of("roland:/photo/a:b/"), is("roland", "photo/a:b"));
        assert!(RemotePath::parse(":photo").is_err() && RemotePath::parse("./photo").is_err());
    }
}

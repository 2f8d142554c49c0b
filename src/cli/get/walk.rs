//! What is at places of a contact: one after the other, each asked for before its turn comes.

use std::{path::Path, vec};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::Options;
use crate::{
    cli::{
        remote::{RemotePath, about},
        tally::Item,
    },
    client::peer::{Listing, Peer},
    error::{Code, Error, printable},
    root::tree::TreePath,
    wire::request::Entry,
};

/// The most places that are asked for at the same time.
const AHEAD: usize = 64;

/// A file of the contact.
pub struct Remote {
    /// Its path on the contact's server.
    pub path: String,
    /// Where it goes, below the directory of the command.
    pub local: TreePath,
    /// Its bytes.
    pub size: u64,
    /// When it was last modified, in nanoseconds since 1970.
    pub modified: i64,
    /// The number of the place where it is.
    pub place: usize,
}

/// Something at a place.
pub enum GetItem {
    /// A directory, and where it goes.
    Dir(TreePath),
    /// A file.
    File(Remote),
    /// Nothing more.
    End,
}

/// What a place is, once that is known.
type Stat<'a> = (usize, &'a RemotePath, Result<Entry, Error>);

/// A walk through places.
pub struct Walk<'a> {
    peer: &'a Peer,
    options: Options,
    stats: BoxStream<'a, Stat<'a>>,
    here: Option<Here<'a>>,
}

/// The place that the walk has reached.
struct Here<'a> {
    number: usize,
    place: &'a RemotePath,
    /// What is put in front of the paths below a directory.
    below: String,
    listing: Option<Listing>,
    found: vec::IntoIter<Result<GetItem, Error>>,
}

impl<'a> Walk<'a> {
    /// A walk through places, each with its number.
    pub fn new(peer: &'a Peer, options: Options, places: Vec<(usize, &'a RemotePath)>) -> Self {
        let stat = move |(number, place): (usize, &'a RemotePath)| async move {
            (number, place, peer.stat(&place.path).await)
        };
        Self {
            peer,
            options,
            stats: stream::iter(places).map(stat).buffered(AHEAD).boxed(),
            here: None,
        }
    }

    /// What comes next, and at which place; `None` after the last one. After an error, nothing more
    /// comes from that place. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<(usize, Result<GetItem, Error>)> {
        loop {
            let Some(here) = &mut self.here else {
                let stat = self.stats.next().await?;
                let number = stat.0;
                match self.enter(stat) {
                    Ok(here) => self.here = Some(here),
                    Err(error) => return Some((number, Err(error))),
                }
                continue;
            };
            let number = here.number;
            if let Some(found) = here.found.next() {
                if found.is_err() {
                    self.here = None;
                }
                return Some((number, found));
            }
            let page = match &mut here.listing {
                Some(listing) => listing.next().await,
                None => None,
            };
            match page {
                Some(Ok(entries)) => here.turn(entries),
                Some(Err(error)) => {
                    self.here = None;
                    return Some((number, Err(error)));
                }
                None => {
                    self.here = None;
                    return Some((number, Ok(GetItem::End)));
                }
            }
        }
    }

    /// Skips the rest of a place.
    pub fn leave(&mut self, number: usize) {
        self.here.take_if(|here| here.number == number);
    }

    fn enter(&self, (number, place, entry): Stat<'a>) -> Result<Here<'a>, Error> {
        let entry = entry.map_err(|e| match self.peer.is_over() {
            true => e,
            false => about(place, e),
        })?;
        let name = TreePath::parse(&place.path).and_then(|path| {
            let (_, last) = path.split_last()?;
            Some(last.to_owned())
        });
        let mut here = Here {
            number,
            place,
            below: String::new(),
            listing: None,
            found: Vec::new().into_iter(),
        };
        let Options { all, recursive, .. } = self.options;
        // The name that the person chose takes precedence over the contact's.
        let named = self.options.name.clone();
        if !entry.is_dir {
            let local = named.or(name).as_deref().and_then(TreePath::parse);
            let local = local.ok_or_else(|| strange(&place.path))?;
            let file = here.file(place.path.clone(), local, &entry);
            here.found = vec![Ok(file)].into_iter();
        } else if recursive || all {
            // With the name that a copy would have; without it for the top directory.
            if let Some(name) = named.or(name.filter(|_| !all)) {
                let local = TreePath::parse(&name).ok_or_else(|| strange(&place.path))?;
                here.below = format!("{name}/");
                // Before anything in it: there may be nothing.
                here.found = vec![Ok(GetItem::Dir(local))].into_iter();
            }
            here.listing = Some(self.peer.list(&place.path, true)?);
        } else {
            let sentence = "this is a directory: add -r to fetch it, or use --all";
            return Err(about(place, Error::new(Code::Usage, sentence)));
        }
        Ok(here)
    }
}

impl Here<'_> {
    /// Continues with a page of a listing.
    fn turn(&mut self, entries: Vec<Entry>) {
        let found = entries.into_iter().map(|entry| {
            let local = format!("{}{}", self.below, entry.path);
            // A server cannot be trusted to say where files go.
            let local = TreePath::parse(&local).ok_or_else(|| strange(&entry.path))?;
            if entry.is_dir {
                return Ok(GetItem::Dir(local));
            }
            let path = match self.place.path.as_str() {
                "" => entry.path.clone(),
                before => format!("{before}/{}", entry.path),
            };
            Ok(self.file(path, local, &entry))
        });
        self.found = found.collect::<Vec<_>>().into_iter();
    }

    fn file(&self, path: String, local: TreePath, entry: &Entry) -> GetItem {
        GetItem::File(Remote {
            path,
            local,
            size: entry.size,
            modified: entry.modified,
            place: self.number,
        })
    }
}

impl Remote {
    /// As it is reported, with its local path.
    pub fn item<'a>(&'a self, file: &'a Path) -> Item<'a> {
        Item {
            path: &self.path,
            file,
            bytes: self.size,
        }
    }

    /// What tells it apart from others: more or less of one remote path may be its local path.
    pub fn key(&self) -> (String, usize) {
        (self.path.clone(), self.local.components().len())
    }
}

/// The error that no file can have such a path.
pub fn strange(path: &str) -> Error {
    let path = printable(path, 300);
    Error::new(
        Code::Failed,
        format!("the server shows a file under the path {path:?}, which no file here can have"),
    )
}

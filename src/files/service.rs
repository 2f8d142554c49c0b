//! What a server shows a contact, and does for one: requests, and what is said to them.
//!
//! A contact sees one tree. In its top directory are the m2y-folders whose `[share]` names
//! the contact, and whatever lies in `outgoing/NAME` of the user. What may not be seen,
//! what is hidden and what is missing are told apart by no answer, and by no time.

use std::{
    cell::OnceCell,
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    sync::Arc,
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    task,
    time::{Instant, sleep_until},
};
use tracing::{error, info};

use crate::{
    error::{Code, Error, printable},
    event::{self, Event, EventId, Kind, Outcome},
    hooks::{Pinned, api::text::matches, dispatch::task_of},
    journal::delivered::{Key, Stage},
    meta::Wire,
    root::{
        config::Config,
        conflict::Conflict,
        destination::Destination,
        folder::Folder,
        name::Name,
        share::Rights,
        tree::{About, Hides, Tree, TreePath, Walk},
        user::User,
    },
    transfer::{
        commit::Committer, lane::Lane, outgoing::Version, partial::prefix_digest, receive::Receiver,
    },
    wire::{
        record::MAX_BODY,
        request::{Coming, Entry, Held, Page, Reply, Request},
    },
};

/// The directory of a user with one directory for each contact.
pub const OUTGOING: &str = "outgoing";

/// A contact who is told that something is not there is told so at a multiple of this after
/// the question, so that the time does not tell what was found on the way.
const GRID: Duration = Duration::from_millis(10);

/// So long before such a moment a thread takes over to wait. A timer of tokio's ends whole
/// milliseconds after somebody began to wait for it, and by that tells when the work before
/// it was done.
const EXACTLY: Duration = Duration::from_millis(2);

/// What is said to a request.
pub enum Answer {
    /// This, and nothing more.
    Reply(Reply),
    /// A part of a listing, of which more follows if there is more.
    Page(Reply, Option<Box<Listing>>),
    /// A file.
    File(Box<Fetched>),
    /// A file may come, if nothing else is against it.
    Put(Box<Put>),
}

/// A file that somebody fetches.
pub struct Fetched {
    /// The reply.
    pub coming: Coming,
    /// The file.
    pub file: Arc<File>,
    /// The version that the reply speaks of.
    pub version: Version,
    /// The CRC-32 of what the other side has.
    pub crc: crc32fast::Hasher,
    /// Its path, as it was asked for.
    pub path: String,
}

/// A file that somebody puts into a folder.
pub struct Put {
    /// What is said of it, with the folder.
    pub meta: Wire,
    /// Where in that folder it goes.
    pub destination: Destination,
}

/// A listing that goes on.
pub struct Listing {
    ready: VecDeque<Entry>,
    /// With what stands before the paths of each.
    walks: VecDeque<(String, Walk)>,
}

impl Listing {
    /// The next part. It may wait for a disk.
    pub fn page(mut self: Box<Self>) -> Answer {
        let mut page = Page::default();
        while !page.is_full() {
            if let Some(entry) = self.ready.pop_front() {
                page.push(entry);
                continue;
            }
            let Some((before, walk)) = self.walks.front_mut() else {
                return Answer::Page(page.reply(false), None);
            };
            match walk.advance() {
                Some((path, about)) => page.push(entry(format!("{before}{path}"), &about)),
                None => drop(self.walks.pop_front()),
            }
        }
        Answer::Page(page.reply(true), Some(self))
    }
}

fn entry(path: String, about: &About) -> Entry {
    Entry {
        path,
        is_dir: about.is_dir,
        size: about.size,
        modified: about.modified,
    }
}

/// Where a path leads.
enum Place {
    /// To the top directory.
    Top,
    /// Into a folder, or into what lies ready for the contact.
    Below(Tree, Rights, TreePath),
}

/// What the hooks of folders say to a request, by the folders' names: which names they hide,
/// or that there is nothing to see.
type Said = HashMap<Name, Option<Arc<Hides>>>;

/// A folder whose hooks have to be asked, and about which path in it.
type ToAsk = (Folder, Arc<Config>, TreePath);

/// A user's files, as one contact may see them.
struct Shared<'a> {
    user: &'a User,
    from: &'a Name,
    asked: &'a Said,
    /// The folder that the request is about, once it was looked up.
    folder: OnceCell<Option<(Folder, Arc<Config>)>>,
    committer: &'a Committer,
}

impl<'a> Shared<'a> {
    fn new((user, from): &'a (User, Name), asked: &'a Said, committer: &'a Committer) -> Self {
        Self {
            user,
            from,
            asked,
            folder: OnceCell::new(),
            committer,
        }
    }

    /// The folder whose name a path begins with: a request is about no other one.
    fn folder(&self, first: &str) -> Option<&(Folder, Arc<Config>)> {
        let look = || {
            let folder = self.user.folder(&Name::folder(first).ok()?).ok()?;
            let config = folder.config().ok()?;
            Some((folder, config))
        };
        self.folder.get_or_init(look).as_ref()
    }

    /// What lies ready for the contact, if there is such a directory.
    fn outgoing(&self) -> Option<Tree> {
        let path = TreePath::parse(&format!("{OUTGOING}/{}", self.from))?;
        Tree::new(self.user.dir(), None).below(&path).ok()
    }

    /// What the contact may do in a folder.
    fn rights(&self, folder: &Folder, config: &Config) -> Option<(Tree, Rights)> {
        if folder.name().as_str() == OUTGOING {
            return None;
        }
        let rights = Rights::of(config, self.from);
        if !rights.any() {
            return None;
        }
        let tree = Tree::new(folder.dir(), Some(config));
        match self.asked.get(folder.name()) {
            None => Some((tree, rights)),
            Some(Some(hides)) => Some((tree.without(hides.clone()), rights)),
            Some(None) => None,
        }
    }

    /// The folders whose hooks want to be asked about a request.
    fn to_ask(&self, request: &Request) -> Result<Vec<ToAsk>, Error> {
        let asks = |(folder, config): &(Folder, Arc<Config>)| {
            let mut kinds = events_of(request).iter();
            kinds.any(|kind| !config.scripts(kind.section()).is_empty())
                && self.rights(folder, config).is_some()
        };
        let path = TreePath::parse(request.path()).ok_or_else(missing)?;
        if let Some((first, rest)) = path.split_first() {
            let folder = self.folder(first).filter(|folder| asks(folder)).cloned();
            let to_ask = folder.map(|(folder, config)| (folder, config, rest));
            return Ok(to_ask.into_iter().collect());
        }
        let folders = self.user.folders().map_err(|e| failed(&e.to_string()))?;
        Ok(folders
            .into_iter()
            .flatten()
            .filter_map(|folder| {
                let config = folder.config().ok()?;
                Some((folder, config))
            })
            .filter(asks)
            .map(|(folder, config)| (folder, config, TreePath::default()))
            .collect())
    }

    fn find(&self, path: &str) -> Result<Place, Error> {
        let path = TreePath::parse(path).ok_or_else(missing)?;
        let Some((first, rest)) = path.split_first() else {
            return Ok(Place::Top);
        };
        let folder = self.folder(first);
        if let Some((tree, rights)) =
            folder.and_then(|(folder, config)| self.rights(folder, config))
        {
            return Ok(Place::Below(tree, rights, rest));
        }
        let tree = self.outgoing().ok_or_else(missing)?;
        Ok(Place::Below(tree, Rights::READ, path))
    }

    fn list(&self, path: &str, recursive: bool) -> Result<Box<Listing>, Error> {
        let mut listing = Listing {
            ready: VecDeque::new(),
            walks: VecDeque::new(),
        };
        let all = TreePath::default();
        match self.find(path)? {
            Place::Top => {
                let folders = self.user.folders().map_err(|e| failed(&e.to_string()))?;
                for folder in folders.into_iter().flatten() {
                    let config = folder.config().ok();
                    let rights = config.and_then(|config| self.rights(&folder, &config));
                    let Some((tree, rights)) = rights else {
                        continue;
                    };
                    let Ok(about) = tree.about(&all) else {
                        continue;
                    };
                    listing
                        .ready
                        .push_back(entry(folder.name().to_string(), &about));
                    if recursive
                        && rights.list
                        && let Ok(walk) = tree.walk(&all, true)
                    {
                        let before = format!("{}/", folder.name());
                        listing.walks.push_back((before, walk));
                    }
                }
                if let Some(walk) = self
                    .outgoing()
                    .and_then(|tree| tree.walk(&all, recursive).ok())
                {
                    listing.walks.push_back((String::new(), walk));
                }
            }
            Place::Below(tree, rights, path) => {
                if !rights.list {
                    return Err(missing());
                }
                let about = tree.about(&path).map_err(|e| refused(&e))?;
                match about.is_dir {
                    true => {
                        let walk = tree.walk(&path, recursive).map_err(|e| refused(&e))?;
                        listing.walks.push_back((String::new(), walk));
                    }
                    false => listing.ready.push_back(entry(String::new(), &about)),
                }
            }
        }
        Ok(Box::new(listing))
    }

    fn stat(&self, path: &str) -> Result<Reply, Error> {
        let about = match self.find(path)? {
            Place::Top => self.user.dir().dir_metadata().map(|_| About {
                is_dir: true,
                size: 0,
                modified: 0,
            }),
            Place::Below(tree, rights, path) if rights.list || rights.get => tree.about(&path),
            Place::Below(..) => return Err(missing()),
        };
        let about = about.map_err(|e| refused(&e))?;
        let mut page = Page::default();
        page.push(entry(String::new(), &about));
        Ok(page.reply(false))
    }

    fn get(&self, path: &str, held: Option<&Held>) -> Result<Fetched, Error> {
        let asked = path;
        let Place::Below(tree, rights, path) = self.find(path)? else {
            return Err(missing());
        };
        if !rights.get {
            return Err(missing());
        }
        let (file, about) = tree.open(&path).map_err(|e| refused(&e))?;
        let version = Version::of(&file).map_err(|e| refused(&e))?;
        let tag = version.tag();
        let mut crc = crc32fast::Hasher::new();
        let mut offset = 0;
        if let Some(held) = held
            && held.version == tag
            && held.bytes < version.len()
            && held.bytes.is_multiple_of(MAX_BODY as u64)
            && let Ok((digest, so_far)) = prefix_digest(&file, held.bytes)
            && digest == held.digest
        {
            (crc, offset) = (so_far, held.bytes);
        }
        Ok(Fetched {
            coming: Coming {
                size: version.len(),
                modified: about.modified,
                version: tag,
                offset,
            },
            file: Arc::new(file),
            version,
            crc,
            path: asked.to_owned(),
        })
    }

    /// Looks whether a file may get a path.
    fn put(
        &self,
        path: &str,
        meta: &Wire,
        modified: i64,
        mut conflict: Conflict,
    ) -> Result<Answer, Error> {
        let first = TreePath::parse(path);
        let first = first.as_ref().and_then(TreePath::split_first);
        let (Place::Below(tree, rights, below), Some((folder, _))) = (self.find(path)?, first)
        else {
            return Err(missing());
        };
        if !rights.put {
            return Err(missing());
        }
        let there = tree.there(&below).map_err(|e| refused(&e))?;
        if let Some(there) = &there {
            let same = there.is_file_of(meta.meta.filesize, modified);
            match conflict {
                _ if there.is_dir => return Err(exists()),
                _ if same && (rights.list || rights.get) => {
                    let path = path.to_owned();
                    return Ok(Answer::Reply(Reply::Stored { path, same }));
                }
                // Its sender did not hear of that: it may be what is there.
                _ if self.was_delivered(folder, meta) => {}
                Conflict::Refuse => return Err(exists()),
                Conflict::Overwrite if !rights.rm => {
                    let sentence =
                        "no file there may be written over: that takes the right to remove it";
                    return Err(Error::new(Code::Refused, sentence));
                }
                Conflict::Overwrite | Conflict::Rename => {}
            }
        }
        if conflict == Conflict::Overwrite && !rights.rm {
            // Should one come meanwhile.
            conflict = Conflict::Refuse;
        }
        let mut meta = meta.clone();
        folder.clone_into(&mut meta.meta.folder);
        Ok(Answer::Put(Box::new(Put {
            meta,
            destination: Destination {
                path: below,
                modified,
                conflict,
            },
        })))
    }

    /// Whether the contact brought this very file before.
    fn was_delivered(&self, folder: &str, meta: &Wire) -> bool {
        let Some(id) = meta.meta.id else {
            return false;
        };
        let known = self.committer.known(&Key {
            user: self.user.name().to_string(),
            folder: folder.to_owned(),
            from: self.from.to_string(),
            id,
        });
        known.is_ok_and(|known| known.is_some_and(|known| known.stage != Stage::Refused))
    }

    /// Changes something where the contact may.
    fn change(
        &self,
        path: &str,
        may: impl FnOnce(Rights) -> bool,
        change: impl FnOnce(&Tree, &TreePath) -> io::Result<()>,
    ) -> Result<Reply, Error> {
        match self.find(path)? {
            Place::Below(tree, rights, path) if may(rights) && path.split_last().is_some() => {
                change(&tree, &path).map_err(|e| refused(&e))?;
                Ok(Reply::Done)
            }
            _ => Err(missing()),
        }
    }

    fn rename(&self, path: &str, to: &str) -> Result<Reply, Error> {
        let first = |path: &str| {
            let path = TreePath::parse(path).ok_or_else(missing)?;
            path.split_first()
                .map(|(first, rest)| (first.to_owned(), rest))
                .ok_or_else(missing)
        };
        let ((folder, _), (other, to)) = (first(path)?, first(to)?);
        self.change(
            path,
            |rights| rights.mv && folder == other && to.split_last().is_some(),
            |tree, path| tree.rename(path, &to),
        )
    }

    fn answer(&self, request: &Request) -> Result<Answer, Error> {
        Ok(match request {
            Request::List { path, recursive } => self.list(path, *recursive)?.page(),
            Request::Stat { path } => Answer::Reply(self.stat(path)?),
            Request::Get { path, held, .. } => {
                Answer::File(Box::new(self.get(path, held.as_ref())?))
            }
            Request::Put {
                path,
                meta,
                modified,
                conflict,
            } => self.put(path, meta, *modified, *conflict)?,
            Request::MakeDir { path } => {
                Answer::Reply(self.change(path, |may| may.mkdir, Tree::make_dir)?)
            }
            Request::Remove { path } => {
                Answer::Reply(self.change(path, |may| may.rm, Tree::remove)?)
            }
            Request::Rename { path, to } => Answer::Reply(self.rename(path, to)?),
        })
    }
}

impl Receiver {
    /// Answers a request of a contact who is certain.
    pub async fn answer(
        &self,
        lane: &Lane,
        user: &User,
        from: &Name,
        request: Request,
    ) -> Result<Answer, Error> {
        let begun = Instant::now();
        let (word, path) = (request.word(), printable(request.path(), 200));
        let answer = self.answer_now(lane, user, from, request).await;
        match &answer {
            Err(error) => {
                info!(%from, to = %user.name(), %path, verdict = error.code.word(), "{word}: {error}");
                if error.code == Code::NotFound {
                    wait_until(on_grid(begun, Instant::now())).await;
                }
            }
            Ok(Answer::Reply(Reply::Done)) => {
                info!(%from, to = %user.name(), %path, verdict = "done", "{word}");
            }
            Ok(_) => {}
        }
        answer
    }

    async fn answer_now(
        &self,
        lane: &Lane,
        user: &User,
        from: &Name,
        request: Request,
    ) -> Result<Answer, Error> {
        let people = (user.clone(), from.clone());
        // Most folders have no such hooks, and then it is one step.
        let first = {
            let (people, request) = (people.clone(), request.clone());
            let committer = self.committer.clone();
            move || {
                let none = Said::new();
                let shared = Shared::new(&people, &none, &committer);
                let to_ask = shared.to_ask(&request)?;
                match to_ask.is_empty() {
                    true => shared.answer(&request).map(Ok),
                    false => Ok(Err(to_ask)),
                }
            }
        };
        let is_long = matches!(&request, Request::Get { held: Some(_), .. });
        let to_ask = match blocking(lane, is_long, first).await? {
            Ok(answer) => return Ok(answer),
            Err(to_ask) => to_ask,
        };
        let mut asked = Said::new();
        for (folder, config, path) in to_ask {
            let name = folder.name().clone();
            let said = self
                .ask_hooks(folder, config, from, &path, &request)
                .await?;
            asked.insert(name, said);
        }
        let committer = self.committer.clone();
        let second = move || {
            let shared = Shared::new(&people, &asked, &committer);
            shared.answer(&request)
        };
        blocking(lane, is_long, second).await
    }

    /// What the hooks of a folder say: the names that they hide, or `None` where there is
    /// nothing to see.
    async fn ask_hooks(
        &self,
        folder: Folder,
        config: Arc<Config>,
        from: &Name,
        path: &TreePath,
        request: &Request,
    ) -> Result<Option<Arc<Hides>>, Error> {
        let mut hidden = Vec::new();
        for kind in events_of(request) {
            if config.scripts(kind.section()).is_empty() {
                continue;
            }
            let asks = asks(*kind, folder.clone(), config.clone(), from, path.join())?;
            let verdict = self.hooks.fire(asks, &Pinned::default()).await;
            self.observe(&verdict);
            match verdict.outcome {
                Outcome::Accepted => hidden.extend(verdict.hidden),
                Outcome::Later => return Err(Error::new(Code::Later, Outcome::LATER)),
                Outcome::Refused(_) | Outcome::Quarantined(_) | Outcome::Failed => return Ok(None),
            }
        }
        Ok(Some(Arc::new(move |name: &str| {
            hidden.iter().any(|pattern| matches(name, pattern))
        })))
    }

    /// Has `[OnSent]` of a folder run for a file that a contact has now: at once or later, but
    /// for certain, once it is written down.
    pub(crate) async fn sent(&self, user: &User, from: &Name, path: &str) {
        let (owner, contact, path) = (user.clone(), from.clone(), path.to_owned());
        let event = task::spawn_blocking(move || {
            let (first, rest) = TreePath::parse(&path)?
                .split_first()
                .map(|(first, rest)| (first.to_owned(), rest))?;
            let folder = owner.folder(&Name::folder(&first).ok()?).ok()?;
            let config = folder.config().ok()?;
            // Else it came from what lies ready for the contact.
            let is_shared = Rights::of(&config, &contact).get && first != OUTGOING;
            let waits = !config.scripts(Kind::Sent.section()).is_empty();
            (is_shared && waits)
                .then(|| asks(Kind::Sent, folder, config, &contact, rest.join()).ok())
                .flatten()
        });
        if let Ok(Some(event)) = event.await {
            let written = self.hooks.journal().add(true, vec![task_of(&event)]);
            if let Err(error) = written.committed().await {
                error!("[OnSent] will not run: {error}");
            }
        }
    }
}

/// Does work that waits for a disk; what takes long on a thread of its own.
async fn blocking<T: Send + 'static>(
    lane: &Lane,
    is_long: bool,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match is_long {
        // To read what was fetched before takes as long as that is.
        true => lane.apart(work).await,
        false => lane.run(move |_| work()).await,
    }
}

/// What a request is for the hooks of a folder. What is hidden from who looks is not there
/// for who fetches or changes something either.
fn events_of(request: &Request) -> &'static [Kind] {
    match request {
        Request::Get { .. } => &[Kind::List, Kind::Get],
        _ => &[Kind::List],
    }
}

fn asks(
    kind: Kind,
    folder: Folder,
    config: Arc<Config>,
    from: &Name,
    path: String,
) -> Result<Event, Error> {
    let id = EventId::new().map_err(|e| Error::new(Code::Later, e.to_string()))?;
    Ok(Event {
        id,
        kind,
        folder,
        config,
        file: None,
        subject: None,
        asked: Some(event::Asked {
            contact: from.to_string(),
            path,
        }),
    })
}

/// Waits until a moment, and not until one that depends on when this was called.
async fn wait_until(moment: Instant) {
    sleep_until(moment.checked_sub(EXACTLY).unwrap_or(moment)).await;
    let rest = move || std::thread::sleep(moment.saturating_duration_since(Instant::now()));
    let _ = task::spawn_blocking(rest).await;
}

/// The next multiple of [`GRID`] after the beginning that is not over.
fn on_grid(begun: Instant, now: Instant) -> Instant {
    let over = now.saturating_duration_since(begun).as_nanos() / GRID.as_nanos();
    let steps = u32::try_from(over).unwrap_or(u32::MAX).saturating_add(1);
    begun + GRID.saturating_mul(steps)
}

fn missing() -> Error {
    Error::new(Code::NotFound, "no such file or directory")
}

pub(crate) fn exists() -> Error {
    Error::new(Code::Exists, "there is something of that name already")
}

fn failed(why: &str) -> Error {
    error!("cannot answer a request: {why}");
    Error::new(Code::Failed, "the server failed, see its log")
}

/// What a contact may know of why the system refused.
fn refused(error: &io::Error) -> Error {
    let of = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::InvalidInput => missing(),
        // A link, a pipe.
        _ if of(Errno::LOOP) || of(Errno::NXIO) => missing(),
        io::ErrorKind::AlreadyExists => exists(),
        io::ErrorKind::CrossesDevices => Error::new(
            Code::Failed,
            "no file can be put there: the directory is on another disk than its folder",
        ),
        io::ErrorKind::DirectoryNotEmpty => Error::new(Code::Failed, "the directory is not empty"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::new(Code::Later, "the server has no room for that, try later")
        }
        _ => failed(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_answered_on_a_grid_of_time() {
        let begun = Instant::now();
        let at = |micros| begun + Duration::from_micros(micros);
        for (now, answer) in [
            (0, 10_000),
            (9_999, 10_000),
            (10_000, 20_000),
            (35_000, 40_000),
        ] {
            assert_eq!(on_grid(begun, at(now)), at(answer), "{now}");
        }
    }
}

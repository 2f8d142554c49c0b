//! Files that arrived, and where they are now.

use std::path::PathBuf;

use rusqlite::Connection;

use crate::{
    cli::output,
    client,
    error::{Code, Error, printable},
    journal::{
        JournalError,
        delivered::{self, Arrived, Stage, Transfer},
        look,
    },
    json::Value,
    root::{Root, folder::Folder, meta_file, name::Name, user::User},
    store::{ContentPath, Contents, Stores, received},
};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is there.
    Arrived,
    /// Hooks have not accepted it yet.
    Waiting,
    /// A hook put it into quarantine.
    Quarantine,
    /// A hook refused it.
    Refused,
    /// It is somewhere else, or gone.
    Moved,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Waiting => "waiting",
            Self::Quarantine => "quarantine",
            Self::Refused => "refused",
            Self::Moved => "moved",
        }
    }
}

/// A file that arrived.
pub struct Entry {
    /// The number by which a person refers to it.
    pub number: i64,
    /// When it arrived, in milliseconds since 1970.
    pub at: u64,
    /// What is known about it.
    pub transfer: Transfer,
    /// What became of it.
    pub state: State,
    /// Where it is, with its folder.
    place: Option<(Folder, ContentPath)>,
}

/// What arrived in the folders of a user.
pub struct Inbox {
    root: Root,
    user: User,
    stores: Stores,
}

impl Inbox {
    /// The inbox of a user of a root.
    pub fn new(root: &Root, user: &User) -> Self {
        Self {
            root: root.clone(),
            user: user.clone(),
            stores: client::stores(),
        }
    }

    /// The latest files that arrived, in order.
    pub fn latest(&self, folder: Option<&Name>, limit: u32) -> Result<Vec<Entry>, Error> {
        let mut entries = self.read(|db| {
            delivered::arrived(
                db,
                self.user.name().as_str(),
                folder.map(Name::as_str),
                limit,
            )
        })?;
        entries.reverse();
        Ok(entries)
    }

    /// The number of the last file that arrived.
    pub fn last(&self) -> Result<i64, Error> {
        let failed = |e: JournalError| Error::new(Code::Failed, e.to_string());
        let Some(db) = look(&self.root).map_err(failed)? else {
            return Ok(0);
        };
        let last = delivered::last_arrived(&db, self.user.name().as_str());
        last.map_err(|e| failed(e.into()))
    }

    /// The files that arrived after that number, in order.
    pub fn after(&self, folder: Option<&Name>, number: i64) -> Result<Vec<Entry>, Error> {
        let user = self.user.name().as_str();
        self.read(|db| delivered::arrived_after(db, user, folder.map(Name::as_str), number))
    }

    /// The file with that number.
    pub fn find(&self, number: i64) -> Result<Entry, Error> {
        let missing = || {
            let sentence = format!("no number {number}: `m2y inbox` shows them");
            Error::new(Code::NotFound, sentence)
        };
        let before = number.checked_sub(1).ok_or_else(missing)?;
        let first = self.after(None, before)?.into_iter().next();
        first
            .filter(|entry| entry.number == number)
            .ok_or_else(missing)
    }

    fn read(
        &self,
        find: impl FnOnce(&Connection) -> rusqlite::Result<Vec<Arrived>>,
    ) -> Result<Vec<Entry>, Error> {
        let failed = |e: JournalError| Error::new(Code::Failed, e.to_string());
        let Some(db) = look(&self.root).map_err(failed)? else {
            return Ok(Vec::new());
        };
        let found = find(&db).map_err(|e| failed(e.into()))?;
        Ok(found
            .into_iter()
            .map(|arrived| self.entry(&db, arrived))
            .collect())
    }

    fn entry(&self, db: &Connection, arrived: Arrived) -> Entry {
        let Arrived {
            number,
            at,
            mut transfer,
        } = arrived;
        if transfer.stage == Stage::Refused {
            transfer.words = self.reason(&transfer);
        }
        let place = self.place(&transfer);
        let key = (transfer.key.user.as_str(), transfer.key.folder.as_str());
        let data = format!("{}.data", transfer.stem);
        let state = match (transfer.stage, &place) {
            (Stage::Refused | Stage::Rejected, _) => State::Refused,
            (Stage::Whole | Stage::Owed, _) => State::Waiting,
            (_, Some(_)) if delivered::is_pending(db, key, &data).unwrap_or_default() => {
                State::Waiting
            }
            (_, Some((_, path))) if path.is_quarantined() => State::Quarantine,
            (_, Some(_)) => State::Arrived,
            (_, None) => State::Moved,
        };
        Entry {
            number,
            at,
            transfer,
            state,
            place,
        }
    }

    /// Why a file was refused before it arrived, as its `.meta` says for a while.
    fn reason(&self, transfer: &Transfer) -> Option<String> {
        let folder = Name::folder(&transfer.key.folder).ok()?;
        let folder = self.user.folder(&folder).ok()?;
        let meta = meta_file::of_stem(folder.dir(), &transfer.stem)?;
        (meta.id == Some(transfer.key.id)).then_some(meta.error)
    }

    /// Where a file is.
    fn place(&self, transfer: &Transfer) -> Option<(Folder, ContentPath)> {
        let folder = Name::folder(&transfer.key.folder).ok()?;
        let folder = self.user.folder(&folder).ok()?;
        let store = self.stores.of(&folder);
        let data = format!("{}.data", transfer.stem);
        let holds = |path: &ContentPath| store.holds(path).unwrap_or_default();
        let path = match received::find(&folder, &transfer.stem) {
            // It has its own path, and anything else there is a different file.
            Some(meta) => received::place(&*store, &meta)?,
            None => ContentPath::parse(&data)
                .ok()
                .filter(holds)
                .or_else(|| ContentPath::quarantined(&data).ok().filter(holds))?,
        };
        Some((folder, path))
    }
}

impl Entry {
    /// The columns of the list.
    pub const COLUMNS: [&str; 7] = ["N", "WHEN (UTC)", "FROM", "NAME", "SIZE", "FOLDER", "STATE"];

    /// One line of the list, in [`Self::COLUMNS`].
    pub fn columns(&self) -> [String; 7] {
        let Transfer {
            key,
            filename,
            filesize,
            words,
            ..
        } = &self.transfer;
        let state = match words {
            Some(words) => format!("{}: {}", self.state.word(), printable(words, 200)),
            None => self.state.word().to_owned(),
        };
        [
            self.number.to_string(),
            output::moment(self.at),
            key.from.clone(),
            printable(filename, 200),
            output::bytes(*filesize),
            key.folder.clone(),
            state,
        ]
    }

    /// The same for programs.
    pub fn facts(&self) -> [(&'static str, Value); 9] {
        let Transfer {
            key,
            filename,
            filesize,
            ..
        } = &self.transfer;
        [
            ("number", self.number.into()),
            ("at", self.at.into()),
            ("from", key.from.as_str().into()),
            ("filename", filename.as_str().into()),
            ("bytes", (*filesize).into()),
            ("folder", key.folder.as_str().into()),
            ("id", key.id.to_string().into()),
            ("state", self.state.word().into()),
            (
                "path",
                self.path()
                    .map_or(Value::Null, |path| path.display().to_string().into()),
            ),
        ]
    }

    /// Whether it is stored under its own name.
    pub fn has_own_name(&self) -> bool {
        let own = self.transfer.filename.as_str();
        let place = self.place.as_ref();
        place.is_some_and(|(_, path)| path.file_name() == Some(own))
    }

    /// Where it is on this machine.
    pub fn path(&self) -> Result<PathBuf, Error> {
        let (folder, path) = self.place.as_ref().ok_or_else(|| self.nowhere())?;
        Ok(folder.path_of(&path.to_string()))
    }

    /// Fails if hooks do not want it to be opened.
    pub fn check(&self) -> Result<(), Error> {
        let Transfer { key, filename, .. } = &self.transfer;
        let (name, folder) = (printable(filename, 200), &key.folder);
        match self.state {
            State::Waiting => Err(Error::new(
                Code::Later,
                format!("cannot open {name}: the hooks of {folder} have not accepted it yet"),
            )),
            State::Quarantine => Err(Error::new(
                Code::Refused,
                format!(
                    "cannot open {name}: a hook put it into quarantine; see `m2y folder quarantine {folder}` and `m2y folder release`"
                ),
            )),
            State::Arrived | State::Refused | State::Moved => Ok(()),
        }
    }

    /// Opens it.
    pub fn open(&self) -> Result<Box<dyn Contents>, Error> {
        self.check()?;
        let (folder, path) = self.place.as_ref().ok_or_else(|| self.nowhere())?;
        let store = client::stores().of(folder);
        let failed = |e| Error::io("open", &folder.path_of(&path.to_string()), &e);
        store.open(path).map_err(failed)
    }

    fn nowhere(&self) -> Error {
        let name = printable(&self.transfer.filename, 200);
        let sentence = match self.state {
            State::Refused => format!("{name} was refused: no file was kept"),
            _ => format!("{name} was moved or removed since it arrived"),
        };
        Error::new(Code::NotFound, sentence)
    }
}

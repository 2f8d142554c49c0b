//! The files of a user's folders as the scripts of one event see them: those that are there,
//! with what the scripts have asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use crate::{
    clock,
    hooks::{
        change::Change,
        digests::Version,
        folder_files::{Files, Identity},
    },
    root::{folder::Folder, name::Name, user::User},
    store::{Contents, Kind, Stat, Stores},
};

/// Bytes of the texts that the scripts of one event may write.
const MAX_TEXTS: usize = 1 << 20;

/// Files that the scripts of one event may look at by their names, or change.
const MAX_TOUCHED: usize = 4_096;

/// A folder of the user and the path of a file in it.
pub type Place = (Name, String);

/// What was at places before the scripts touched them.
pub type Touched = BTreeMap<Place, Option<Identity>>;

/// What is at a place for the scripts.
#[derive(Clone, Debug)]
enum Entry {
    /// Nothing.
    Gone,
    /// The file that has this place on the disk.
    From(Place),
    /// A text that was written.
    Text(Arc<str>),
}

/// The files of a user's folders, as the scripts of an event see them.
pub struct FileEdits {
    user: User,
    stores: Stores,
    folders: BTreeMap<Name, (Folder, Option<Files>)>,
    /// Places that are not as they are on the disk.
    entries: BTreeMap<Place, Entry>,
    /// Texts appended to files that are on the disk, by the places where these are now.
    appended: BTreeMap<Place, String>,
    /// Directories that are to be made, each before those in it.
    made: BTreeSet<Place>,
    touched: Touched,
}

impl FileEdits {
    pub(super) fn new(user: &User, stores: &Stores) -> Self {
        Self {
            user: user.clone(),
            stores: stores.clone(),
            folders: BTreeMap::new(),
            entries: BTreeMap::new(),
            appended: BTreeMap::new(),
            made: BTreeSet::new(),
            touched: Touched::new(),
        }
    }

    /// Where contents are stored.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The files of a folder that are on the disk.
    fn disk(&mut self, folder: &Name) -> io::Result<&Files> {
        if !self.folders.contains_key(folder) {
            let opened = self.user.folder(folder).map_err(io::Error::other)?;
            self.enter(&opened);
        }
        let (folder, files) = self
            .folders
            .get_mut(folder)
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(files.get_or_insert_with(|| Files::new(folder, &self.stores)))
    }

    /// Takes a folder that is open already.
    pub fn enter(&mut self, folder: &Folder) {
        if !self.folders.contains_key(folder.name()) {
            let opened = (folder.clone(), None);
            self.folders.insert(folder.name().clone(), opened);
        }
    }

    fn entry(&self, folder: &Name, name: &str) -> Option<&Entry> {
        // Most scripts change nothing.
        match self.entries.is_empty() {
            true => None,
            false => self.entries.get(&(folder.clone(), name.to_owned())),
        }
    }

    /// The text that was appended to a file.
    fn suffix(&self, folder: &Name, name: &str) -> Option<&String> {
        match self.appended.is_empty() {
            true => None,
            false => self.appended.get(&(folder.clone(), name.to_owned())),
        }
    }

    /// What has a name, if anything does.
    pub fn stat(&mut self, folder: &Name, name: &str) -> io::Result<Option<Stat>> {
        let mut stat = self.stat_whole(folder, name)?;
        if let (Some(stat), Some(text)) = (&mut stat, self.suffix(folder, name)) {
            stat.size = stat.size.saturating_add(text.len() as u64);
            stat.modified = clock::nanos();
        }
        Ok(stat)
    }

    /// [`Self::stat`] of a file that the scripts only come across: if it changes, they need not run
    /// again.
    pub fn glance(&mut self, folder: &Name, name: &str) -> io::Result<Option<Stat>> {
        match self.entry(folder, name) {
            None => self.disk(folder)?.stat(name),
            Some(_) => self.stat(folder, name),
        }
    }

    fn stat_whole(&mut self, folder: &Name, name: &str) -> io::Result<Option<Stat>> {
        if !self.made.is_empty() && self.made.contains(&(folder.clone(), name.to_owned())) {
            return Ok(Some(Stat {
                kind: Kind::Directory,
                size: 0,
                modified: clock::nanos(),
            }));
        }
        match self.entry(folder, name).cloned() {
            None => {
                let place = (folder.clone(), name.to_owned());
                self.touch(&place)?;
                let there = self.touched.get(&place).copied().flatten();
                Ok(there.map(|there| there.stat))
            }
            Some(Entry::Gone) => Ok(None),
            Some(Entry::From((folder, name))) => self.disk(&folder)?.stat(&name),
            Some(Entry::Text(text)) => Ok(Some(Stat {
                kind: Kind::File,
                size: text.len() as u64,
                modified: clock::nanos(),
            })),
        }
    }

    /// Where on the disk the file is that the scripts see under a name.
    pub fn origin(&mut self, folder: &Name, name: &str) -> Option<Place> {
        match self.entry(folder, name) {
            None => Some((folder.clone(), name.to_owned())),
            Some(Entry::From(place)) => Some(place.clone()),
            Some(Entry::Gone | Entry::Text(_)) => None,
        }
    }

    /// What identifies the contents of a file that is on the disk with just these.
    pub fn version(&mut self, folder: &Name, name: &str) -> io::Result<Option<Version>> {
        if self.suffix(folder, name).is_some() {
            return Ok(None);
        }
        match self.entry(folder, name).cloned() {
            None => self.disk(folder)?.version(name),
            Some(Entry::From((folder, name))) => self.disk(&folder)?.version(&name),
            Some(Entry::Gone | Entry::Text(_)) => Ok(None),
        }
    }

    /// Opens a regular file for reading.
    pub fn open(&mut self, folder: &Name, name: &str) -> io::Result<Box<dyn Contents>> {
        let whole = self.open_whole(folder, name)?;
        match self.suffix(folder, name) {
            None => Ok(whole),
            Some(text) => Ok(Box::new(Longer {
                len: whole.stat()?.size,
                whole,
                text: Text(text.as_str().into()),
            })),
        }
    }

    fn open_whole(&mut self, folder: &Name, name: &str) -> io::Result<Box<dyn Contents>> {
        match self.entry(folder, name).cloned() {
            None => self.disk(folder)?.open(name),
            Some(Entry::Gone) => Err(io::ErrorKind::NotFound.into()),
            Some(Entry::From((folder, name))) => self.disk(&folder)?.open(&name),
            Some(Entry::Text(text)) => Ok(Box::new(Text(text))),
        }
    }

    /// The names of all regular files of a directory that a person sees: "" is the folder.
    pub fn names(
        &mut self,
        folder: &Name,
        directory: &str,
    ) -> io::Result<Box<dyn Iterator<Item = io::Result<String>>>> {
        let mut written = Vec::new();
        let mut changed = BTreeSet::new();
        for ((_, path), entry) in self.entries.iter().filter(|((of, _), _)| of == folder) {
            let (parent, name) = split(path);
            if parent != directory {
                continue;
            }
            changed.insert(name.to_owned());
            if !matches!(entry, Entry::Gone) {
                written.push(Ok(name.to_owned()));
            }
        }
        let is_made = self.made.contains(&(folder.clone(), directory.to_owned()));
        let disk = match self.disk(folder)?.names(directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && is_made => None,
            names => Some(names?),
        };
        let disk = disk.into_iter().flatten();
        let same = disk.filter(move |name| !matches!(name, Ok(name) if changed.contains(name)));
        Ok(Box::new(same.chain(written)))
    }

    /// Whether there is a directory; "" is the folder.
    pub fn has_dir(&mut self, folder: &Name, path: &str) -> io::Result<bool> {
        if path.is_empty() || self.made.contains(&(folder.clone(), path.to_owned())) {
            return Ok(true);
        }
        let stat = self.disk(folder)?.stat(path)?;
        Ok(stat.is_some_and(|stat| stat.kind == Kind::Directory))
    }

    /// Makes a directory, and those that it is in.
    pub fn make_dir(&mut self, folder: &Name, path: &str) -> io::Result<()> {
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        for end in ends {
            let path = path.get(..end).unwrap_or(path);
            if self.has_dir(folder, path)? {
                continue;
            }
            // A file that is removed in the same event is there until that is done.
            let on_disk = self.disk(folder)?.stat(path)?.is_some();
            if on_disk || self.stat(folder, path)?.is_some() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            self.made.insert((folder.clone(), path.to_owned()));
        }
        Ok(())
    }

    /// Remembers what is at a place on the disk, before it is looked at or changes.
    fn touch(&mut self, place: &Place) -> io::Result<()> {
        if !self.touched.contains_key(place) {
            if self.touched.len() >= MAX_TOUCHED {
                return Err(io::Error::other(format!(
                    "the scripts of one event can look at {MAX_TOUCHED} files"
                )));
            }
            let there = self.disk(&place.0)?.identity(&place.1)?;
            self.touched.insert(place.clone(), there);
        }
        Ok(())
    }

    /// Whether the scripts may write a further text.
    fn has_room(&self, text: &str) -> io::Result<()> {
        let texts = self.entries.values().map(|entry| match entry {
            Entry::Text(text) => text.len(),
            _ => 0,
        });
        let texts: usize = texts.chain(self.appended.values().map(String::len)).sum();
        match texts.saturating_add(text.len()) > MAX_TEXTS {
            true => Err(io::Error::other(format!(
                "the scripts of one event can write {MAX_TEXTS} bytes in all"
            ))),
            false => Ok(()),
        }
    }

    /// Puts a text into a new file, or in place of an existing one.
    pub fn write(&mut self, folder: &Name, name: &str, text: &str) -> io::Result<()> {
        self.has_room(text)?;
        let place = (folder.clone(), name.to_owned());
        self.touch(&place)?;
        self.appended.remove(&place);
        self.entries.insert(place, Entry::Text(text.into()));
        Ok(())
    }

    /// Appends a text to a file, or puts it into a new one.
    pub fn append(&mut self, folder: &Name, name: &str, text: &str) -> io::Result<()> {
        self.has_room(text)?;
        let place = (folder.clone(), name.to_owned());
        self.touch(&place)?;
        let is_there = matches!(self.touched.get(&place), Some(Some(_)));
        match self.entries.get_mut(&place) {
            Some(Entry::Text(so_far)) => *so_far = format!("{so_far}{text}").into(),
            Some(Entry::From(_)) => self.appended.entry(place).or_default().push_str(text),
            None if is_there => self.appended.entry(place).or_default().push_str(text),
            Some(Entry::Gone) | None => {
                self.entries.insert(place, Entry::Text(text.into()));
            }
        }
        Ok(())
    }

    /// Renames or moves a file, if nothing has that name.
    pub fn rename(&mut self, from: Place, to: Place) -> io::Result<()> {
        self.touch(&from)?;
        self.touch(&to)?;
        let is_there = matches!(self.touched.get(&to), Some(Some(_)));
        if is_there && !self.entries.contains_key(&to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if from.0 != to.0 {
            let there = self.disk(&to.0)?.clone();
            self.disk(&from.0)?.can_move_to(&there)?;
        }
        let entry = match self.entries.get(&from) {
            Some(entry) => entry.clone(),
            None => Entry::From(from.clone()),
        };
        if let Some(text) = self.appended.remove(&from) {
            self.appended.insert(to.clone(), text);
        }
        self.entries.insert(from, Entry::Gone);
        match &entry {
            Entry::From(origin) if *origin == to => self.entries.remove(&to),
            _ => self.entries.insert(to, entry),
        };
        Ok(())
    }

    /// Removes a file.
    pub fn remove(&mut self, folder: &Name, name: &str) -> io::Result<()> {
        let place = (folder.clone(), name.to_owned());
        self.touch(&place)?;
        self.appended.remove(&place);
        self.entries.insert(place, Entry::Gone);
        Ok(())
    }

    /// Looks again at all files that the scripts touched: a program has run since. A file that
    /// appeared or disappeared meanwhile may be anybody's: scripts have to see that.
    pub fn refresh(&mut self) -> io::Result<()> {
        let places: Vec<Place> = self.touched.keys().cloned().collect();
        for place in places {
            let there = self.disk(&place.0)?.identity(&place.1)?;
            let before = self.touched.get(&place).copied().flatten();
            if before.is_some() == there.is_some() {
                self.touched.insert(place, there);
            }
        }
        Ok(())
    }

    /// Whether nothing is to be changed.
    pub(super) fn is_unchanged(&self) -> bool {
        self.entries.is_empty() && self.appended.is_empty() && self.made.is_empty()
    }

    /// What has to be done to the disk, in an order in which each step finds its name free. Fails
    /// if files are renamed in a circle.
    pub(super) fn take(&mut self) -> Result<(Vec<Change>, Touched), String> {
        let entries = std::mem::take(&mut self.entries);
        let touched = std::mem::take(&mut self.touched);
        let was = |place: &Place| touched.get(place).copied().flatten();
        let moves: BTreeMap<&Place, &Place> = entries
            .iter()
            .filter_map(|(place, entry)| match entry {
                Entry::From(origin) => Some((origin, place)),
                _ => None,
            })
            .collect();
        let made = std::mem::take(&mut self.made).into_iter();
        let mut changes: Vec<Change> = made.map(Change::MakeDir).collect();
        for (place, entry) in &entries {
            if matches!(entry, Entry::Gone)
                && !moves.contains_key(place)
                && let Some(was) = was(place)
            {
                let place = place.clone();
                changes.push(Change::Remove { place, was });
            }
        }
        for (from, to) in in_order(&moves)? {
            // What had the name and is nowhere else is gone.
            let replaces = was(to).filter(|_| !moves.contains_key(to));
            let Some(was) = was(from) else {
                continue;
            };
            changes.push(Change::Move {
                from: from.clone(),
                to: to.clone(),
                was,
                replaces,
            });
        }
        for (place, text) in std::mem::take(&mut self.appended) {
            let origin = match entries.get(&place) {
                Some(Entry::From(origin)) => origin,
                _ => &place,
            };
            let len = was(origin).map_or(0, |there| there.stat.size);
            changes.push(Change::Append { place, len, text });
        }
        for (place, entry) in &entries {
            if let Entry::Text(text) = entry {
                changes.push(Change::Write {
                    was: was(place).filter(|_| !moves.contains_key(place)),
                    place: place.clone(),
                    text: text.to_string(),
                });
            }
        }
        Ok((changes, touched))
    }
}

/// Moves in an order in which each finds its target free.
fn in_order<'a>(
    moves: &BTreeMap<&'a Place, &'a Place>,
) -> Result<Vec<(&'a Place, &'a Place)>, String> {
    let mut ordered = Vec::with_capacity(moves.len());
    let mut done = BTreeSet::new();
    for start in moves.keys() {
        // Each file on the way is where the one before it goes.
        let mut way = Vec::new();
        let mut on_way = BTreeSet::new();
        let mut at = *start;
        while let Some(to) = moves.get(at).filter(|_| !done.contains(at)) {
            if !on_way.insert(at) {
                return Err("files cannot change their names in a circle: give one of them a name that no other one had".to_owned());
            }
            way.push((at, *to));
            at = to;
        }
        done.extend(on_way);
        ordered.extend(way.into_iter().rev());
    }
    // What is known of a file goes where the file went.
    let (metas, mut files): (Vec<_>, Vec<_>) = ordered
        .into_iter()
        .partition(|(from, _)| from.1.ends_with(".meta"));
    files.extend(metas);
    Ok(files)
}

/// The directory of a path, and the name in it.
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A file with a text appended.
struct Longer {
    whole: Box<dyn Contents>,
    len: u64,
    text: Text,
}

impl Contents for Longer {
    fn stat(&self) -> io::Result<Stat> {
        let added = self.text.stat()?;
        Ok(Stat {
            size: self.len.saturating_add(added.size),
            ..added
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match offset.checked_sub(self.len) {
            Some(offset) => self.text.read_at(buffer, offset),
            None => self.whole.read_at(buffer, offset),
        }
    }

    fn version(&self) -> io::Result<String> {
        Ok(String::new())
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A text that is not a file, or not yet.
pub struct Text(pub Arc<str>);

impl Contents for Text {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat {
            kind: Kind::File,
            size: self.0.len() as u64,
            modified: clock::nanos(),
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok();
        let rest = rest.and_then(|at| self.0.as_bytes().get(at..));
        let rest = rest.unwrap_or_default();
        let len = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(len)
    }

    fn version(&self) -> io::Result<String> {
        Ok(String::new())
    }

    fn settle(&self) -> io::Result<()> {
        Ok(())
    }
}

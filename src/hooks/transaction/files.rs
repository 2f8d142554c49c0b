//! The files of a user's folders as the scripts of one event see them: those that are there,
//! with what the scripts have asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use crate::{
    clock,
    hooks::{folder_files::Files, redo::Change},
    root::{folder::Folder, name::Name, user::User},
    store::{Contents, Kind, Stat, Stores},
};

/// Bytes of the texts that the scripts of one event may write.
const MAX_TEXTS: usize = 1 << 20;

/// A folder of the user and the name of a file in it.
pub type Place = (Name, String);

/// What was at places before the scripts touched them.
pub type Touched = BTreeMap<Place, Option<Stat>>;

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
    /// Texts behind the ends of files that are on the disk, by the places where these are now.
    appended: BTreeMap<Place, String>,
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
            touched: Touched::new(),
        }
    }

    /// Where contents rest.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The files of a folder that are on the disk.
    fn disk(&mut self, folder: &Name) -> io::Result<&Files> {
        if !self.folders.contains_key(folder) {
            let opened = self.user.folder(folder).map_err(io::Error::other)?;
            self.enter(&opened);
        }
        let (folder, files) = self.folders.get_mut(folder).ok_or(io::ErrorKind::NotFound)?;
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

    /// The text that was put behind the end of a file.
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

    fn stat_whole(&mut self, folder: &Name, name: &str) -> io::Result<Option<Stat>> {
        match self.entry(folder, name).cloned() {
            None => self.disk(folder)?.stat(name),
            Some(Entry::Gone) => Ok(None),
            Some(Entry::From((folder, name))) => self.disk(&folder)?.stat(&name),
            Some(Entry::Text(text)) => Ok(Some(Stat {
                kind: Kind::File,
                size: text.len() as u64,
                modified: clock::nanos(),
            })),
        }
    }

    /// Opens a regular file to read it.
    pub fn open(&mut self, folder: &Name, name: &str) -> io::Result<Box<dyn Contents>> {
        let whole = self.open_whole(folder, name)?;
        match self.suffix(folder, name) {
            None => Ok(whole),
            Some(text) => Ok(Box::new(Longer {
                len: whole.stat()?.size,
                whole,
                text: Written(text.as_str().into()),
            })),
        }
    }

    fn open_whole(&mut self, folder: &Name, name: &str) -> io::Result<Box<dyn Contents>> {
        match self.entry(folder, name).cloned() {
            None => self.disk(folder)?.open(name),
            Some(Entry::Gone) => Err(io::ErrorKind::NotFound.into()),
            Some(Entry::From((folder, name))) => self.disk(&folder)?.open(&name),
            Some(Entry::Text(text)) => Ok(Box::new(Written(text))),
        }
    }

    /// The names of all regular files of a folder that a person sees.
    pub fn names(
        &mut self,
        folder: &Name,
    ) -> io::Result<Box<dyn Iterator<Item = io::Result<String>>>> {
        let mut written = Vec::new();
        let mut changed = BTreeSet::new();
        for ((_, name), entry) in self.entries.iter().filter(|((of, _), _)| of == folder) {
            changed.insert(name.clone());
            if !matches!(entry, Entry::Gone) {
                written.push(Ok(name.clone()));
            }
        }
        let disk = self.disk(folder)?.names()?;
        let same = disk.filter(move |name| !matches!(name, Ok(name) if changed.contains(name)));
        Ok(Box::new(same.chain(written)))
    }

    /// Remembers what is at a place on the disk before it changes.
    fn touch(&mut self, place: &Place) -> io::Result<()> {
        if !self.touched.contains_key(place) {
            let stat = self.disk(&place.0)?.stat(&place.1)?;
            self.touched.insert(place.clone(), stat);
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

    /// Puts a text into a new file, or into the place of one.
    pub fn write(&mut self, folder: &Name, name: &str, text: &str) -> io::Result<()> {
        self.has_room(text)?;
        let place = (folder.clone(), name.to_owned());
        self.touch(&place)?;
        self.appended.remove(&place);
        self.entries.insert(place, Entry::Text(text.into()));
        Ok(())
    }

    /// Puts a text behind the end of a file, or into a new one.
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

    /// Gives a file another name or folder, where nothing has that name.
    pub fn rename(&mut self, from: Place, to: Place) -> io::Result<()> {
        self.touch(&from)?;
        self.touch(&to)?;
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

    /// What has to be done to the disk, in an order in which each step finds its name free.
    /// Fails where files change their names in a circle.
    pub(super) fn take(&mut self) -> Result<(Vec<Change>, Touched), String> {
        let entries = std::mem::take(&mut self.entries);
        let touched = std::mem::take(&mut self.touched);
        let was_there = |place: &Place| matches!(touched.get(place), Some(Some(_)));
        let mut moves = Vec::new();
        let mut sources = BTreeSet::new();
        for (place, entry) in &entries {
            if let Entry::From(origin) = entry {
                moves.push((origin.clone(), place.clone()));
                sources.insert(origin.clone());
            }
        }
        let mut changes = Vec::new();
        for (place, entry) in &entries {
            let is_removed = matches!(entry, Entry::Gone) && !sources.contains(place);
            if is_removed && was_there(place) {
                changes.push(Change::Remove(place.clone()));
            }
        }
        while !moves.is_empty() {
            let ready = moves.iter().position(|(_, to)| !sources.contains(to));
            let Some(ready) = ready else {
                return Err("files cannot change their names in a circle: give one of them a name that no other one had".to_owned());
            };
            let (from, to) = moves.remove(ready);
            sources.remove(&from);
            // What had the name and is nowhere else is gone.
            let replaces = was_there(&to) && !moved_away(&entries, &to);
            changes.push(Change::Move { from, to, replaces });
        }
        for (place, text) in std::mem::take(&mut self.appended) {
            let origin = match entries.get(&place) {
                Some(Entry::From(origin)) => origin,
                _ => &place,
            };
            let len = touched.get(origin).copied().flatten();
            let len = len.map_or(0, |stat| stat.size);
            changes.push(Change::Append { place, len, text });
        }
        for (place, entry) in entries {
            if let Entry::Text(text) = entry {
                changes.push(Change::Write(place, text.to_string()));
            }
        }
        Ok((changes, touched))
    }
}

/// Whether the file that had a place has another one now.
fn moved_away(entries: &BTreeMap<Place, Entry>, place: &Place) -> bool {
    let mut entries = entries.values();
    entries.any(|entry| matches!(entry, Entry::From(origin) if origin == place))
}

/// A file with a text behind its end.
struct Longer {
    whole: Box<dyn Contents>,
    len: u64,
    text: Written,
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

/// A text that is no file yet.
struct Written(Arc<str>);

impl Contents for Written {
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

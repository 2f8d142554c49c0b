//! Files that somebody sent to a folder, and where they are now.

use std::{collections::HashMap, sync::Arc};

use super::{
    Recent, RecentError, Step, Transfer,
    metas::{Newest, newest},
};
use crate::{
    error::printable,
    event::{Event, EventId, Kind, Subject},
    hooks::{
        dispatch::asked_of, firing::Displaced, folder_files::Files, transaction::files::Place,
    },
    journal::delivered::{Key, Stage},
    meta::{Meta, PENDING_HOOK, QUARANTINE, TransferId},
    root::{config::Config, folder::Folder, meta_file, tree::is_own},
    store::{Stores, quarantine},
};

/// `.meta` files that are read to find those that hooks have renamed or moved.
const MAX_READ: usize = 2_000;

/// Said of a file whose `.meta` may be one that was not read.
const NOT_FOUND: &str = "was not found among the first 2,000 .meta files";

/// What arrived in a folder.
pub struct Arrivals<'a> {
    folder: &'a Folder,
    config: &'a Arc<Config>,
    stores: &'a Stores,
}

/// Who sent a file, and its id: the same for every copy of its `.meta`.
type Sent = (String, TransferId);

/// Where a `.meta` is now: `stem` is its path in the folder, without `.meta`.
struct Found {
    folder: Folder,
    stem: String,
    meta: Meta,
}

impl<'a> Arrivals<'a> {
    /// Those of that folder.
    pub fn new(folder: &'a Folder, config: &'a Arc<Config>, stores: &'a Stores) -> Self {
        Self {
            folder,
            config,
            stores,
        }
    }

    /// The events of transfers in the journal, each with its time in milliseconds since 1970.
    pub fn of_transfers(&self, transfers: Vec<(u64, Transfer)>) -> Vec<Recent> {
        let mut found: HashMap<Sent, Found> = HashMap::new();
        let mut lost = Vec::new();
        for (_, transfer) in &transfers {
            let sent = (transfer.key.from.clone(), transfer.key.id);
            let meta = meta_file::of_stem(self.folder.dir(), &transfer.stem);
            match meta.filter(|meta| is(meta, &sent)) {
                Some(meta) => {
                    let (folder, stem) = (self.folder.clone(), transfer.stem.clone());
                    found.insert(sent, Found { folder, stem, meta });
                }
                None => lost.push(sent),
            }
        }
        let all = self.search(&lost, &mut found);
        let recent = transfers.into_iter().map(|(at, transfer)| {
            let sent = (transfer.key.from.clone(), transfer.key.id);
            self.of_transfer(at, &transfer, found.remove(&sent), all)
        });
        recent.collect()
    }

    /// Looks for `.meta` files that are not under the names that they arrived with, here and
    /// in the user's other folders, the newest of each folder first. Returns whether it could
    /// look at all of them.
    fn search(&self, lost: &[Sent], found: &mut HashMap<Sent, Found>) -> bool {
        let mut left = lost.len();
        let others = self.folder.user().folders().unwrap_or_default();
        let others = others
            .into_iter()
            .flatten()
            .filter(|other| other.name() != self.folder.name());
        let mut budget = MAX_READ;
        let mut is_complete = true;
        for folder in [self.folder.clone()].into_iter().chain(others) {
            if left == 0 {
                return true;
            }
            let Newest { stems, all } = newest(&folder, budget);
            is_complete &= all;
            budget = budget.saturating_sub(stems.len());
            for (_, stem) in stems {
                let Some(meta) = meta_file::of_stem(folder.dir(), &stem) else {
                    continue;
                };
                if let Some(sent) = lost.iter().find(|sent| is(&meta, sent)) {
                    let folder = folder.clone();
                    let there = found.insert(sent.clone(), Found { folder, stem, meta });
                    left -= usize::from(there.is_none());
                }
                if left == 0 {
                    return true;
                }
            }
        }
        is_complete
    }

    /// `searched_all` says whether a file that was not found does not exist.
    fn of_transfer(
        &self,
        at: u64,
        transfer: &Transfer,
        found: Option<Found>,
        searched_all: bool,
    ) -> Recent {
        let id = EventId::from(&transfer.key);
        let arrived = &transfer.stem;
        // What it said before its hooks, if the journal still has that.
        let before = transfer.meta.as_deref();
        let before = before.and_then(|text| Meta::from_file(text.as_bytes()).ok());
        if let Some(mut found) = found {
            if let Some(before) = before {
                found.meta = before;
            }
            return self.arrival(at, id, arrived, found);
        }
        let held = self.folder.dir().open_dir(quarantine::DIR).ok();
        let held = held.and_then(|held| meta_file::of_stem(&held, arrived));
        let is_held = held.is_some();
        let in_row = held.is_none() && before.is_none();
        let meta = before.or(held).unwrap_or_else(|| from_row(transfer));
        let place = match (transfer.stage, is_held, searched_all) {
            (_, true, _) => "is in quarantine",
            (Stage::Refused, _, _) => "was refused before it came",
            (_, _, true) => "is in none of the user's folders",
            (_, _, false) => NOT_FOUND,
        };
        let missing = match (in_row, transfer.stage, searched_all) {
            (false, _, _) => "",
            (true, Stage::Refused, _) | (true, _, true) => {
                "; its .meta is gone, so the fields that only the .meta had are missing"
            }
            (true, _, false) => "; the fields that only its .meta has are missing",
        };
        let why = format!("OnReceived is not run: the file {place}{missing}");
        let title = title(&meta);
        let step = self.on_meta(id, arrived, meta, Vec::new());
        Recent {
            at,
            title,
            note: Some(why),
            steps: vec![step],
        }
    }

    /// A file whose `.meta` is there: its names began with `arrived` when it arrived.
    fn arrival(&self, at: u64, id: EventId, arrived: &str, found: Found) -> Recent {
        let Found { folder, stem, meta } = found;
        let contents = contents(&Files::new(&folder, self.stores), &stem, meta.filesize);
        let place = |name: String| -> Place { (folder.name().clone(), name) };
        let then =
            |ending: &str| -> Place { (self.folder.name().clone(), format!("{arrived}.{ending}")) };
        let now = contents.map(place);
        let not_yet = now.iter().map(|now| Displaced {
            now: now.clone(),
            then: None,
        });
        let mut recent = Recent {
            at,
            title: title(&meta),
            note: None,
            steps: vec![self.on_meta(id, arrived, meta.clone(), not_yet.collect())],
        };
        let Some(now) = now else {
            let why = "OnReceived is not run: the contents of the file are not there";
            recent.note = Some(why.to_owned());
            return recent;
        };
        let moved = [
            (now, then("data")),
            (place(format!("{stem}.meta")), then("meta")),
        ];
        let moved = moved.into_iter().filter(|(now, then)| now != then);
        let displaced = moved.map(|(now, then)| Displaced {
            now,
            then: Some(then),
        });
        recent.steps.push(Step {
            event: self.event(Kind::Received, id, arrived, meta),
            displaced: displaced.collect(),
        });
        recent
    }

    fn on_meta(&self, id: EventId, stem: &str, meta: Meta, displaced: Vec<Displaced>) -> Step {
        Step {
            event: self.event(Kind::Meta, id, stem, meta),
            displaced,
        }
    }

    fn event(&self, kind: Kind, id: EventId, stem: &str, mut meta: Meta) -> Event {
        // What m2y noted since is not what the sender said.
        meta.error.clear();
        for field in [PENDING_HOOK, QUARANTINE] {
            meta.extra.remove(field);
        }
        let asked = asked_of(&meta);
        let subject = Subject {
            meta,
            stem: stem.to_owned(),
        };
        Event {
            id,
            kind,
            folder: self.folder.clone(),
            config: self.config.clone(),
            file: Some(subject.data_file()),
            subject: Some(subject),
            asked,
            store: None,
        }
    }

    /// The files with the newest `.meta`, that the journal does not know of.
    pub fn unknown(&self, known: &[Key], limit: usize) -> Result<Vec<Recent>, RecentError> {
        let own = self.folder.user().name().as_str();
        let mut recent = Vec::new();
        for (at, stem) in newest(self.folder, MAX_READ).stems {
            if recent.len() >= limit {
                break;
            }
            let Some(meta) = meta_file::of_stem(self.folder.dir(), &stem) else {
                continue;
            };
            // An outbox has those of the user's own files.
            let came = meta.to == own && meta.folder == self.folder.name().as_str();
            let is_known = known
                .iter()
                .any(|key| is(&meta, &(key.from.clone(), key.id)));
            if !came || is_known {
                continue;
            }
            let (id, folder) = (EventId::new()?, self.folder.clone());
            // Files arrive in the folder itself, wherever hooks put them then.
            let arrived = split(&stem).1.to_owned();
            recent.push(self.arrival(at, id, &arrived, Found { folder, stem, meta }));
        }
        Ok(recent)
    }
}

/// Whether a `.meta` is about that file.
fn is(meta: &Meta, (from, id): &Sent) -> bool {
    meta.id == Some(*id) && meta.from == *from
}

fn title(meta: &Meta) -> String {
    let (from, filename) = (printable(&meta.from, 64), printable(&meta.filename, 200));
    format!("{filename} from {from}")
}

/// What the journal alone knows of a file.
fn from_row(transfer: &Transfer) -> Meta {
    let Key {
        user,
        folder,
        from,
        id,
    } = &transfer.key;
    Meta {
        filesize: Some(transfer.filesize),
        file_crc: Some(transfer.crc),
        id: Some(*id),
        ..Meta::new(from, user, folder, &transfer.filename)
    }
}

/// The directory of a path, "" for the folder itself, and the name in it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The path of the file that a `.meta` is about: it has the same stem, and if several do, the
/// length that the sender told.
fn contents(files: &Files, stem: &str, len: Option<u64>) -> Option<String> {
    let data = format!("{stem}.data");
    if matches!(files.stat(&data), Ok(Some(_))) {
        return Some(data);
    }
    let (directory, stem) = split(stem);
    let stem_of = |name: &str| name.rsplit_once('.').map(|(stem, _)| stem.to_owned());
    let names = files.names(directory).ok()?.filter_map(Result::ok);
    let mut alike: Vec<String> = names
        .filter(|name| !is_own(name) && (stem_of(name).as_deref() == Some(stem) || name == stem))
        .map(|name| match directory.is_empty() {
            true => name,
            false => format!("{directory}/{name}"),
        })
        .collect();
    alike.sort();
    let fits = |name: &&String| {
        let stat = files.stat(name).ok().flatten();
        len.is_some() && stat.map(|stat| stat.size) == len
    };
    alike.iter().find(fits).or(alike.first()).cloned()
}

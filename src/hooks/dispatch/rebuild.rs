//! Events as the journal stores them, and events rebuilt from that.

use std::{io, sync::Arc};

use crate::{
    error::printable,
    event::{Asked, Event, EventId, Kind, Subject, Verdict},
    hooks::{decide::Record, lookup::is_program},
    journal::{
        Task,
        delivered::{Key, Transfer},
    },
    json::{Map, Value},
    meta::Meta,
    root::{
        Root, RootError, destination::Destination, file, folder::Folder, meta_file, name::Name,
    },
    store::{ContentPath, Stores},
};

/// The field of a task with the text that a `.meta` had before its hooks.
pub const BEFORE: &str = "meta";

/// Why an event cannot be fired again.
pub enum Gone {
    /// What it is about is not there any more; it is forgotten.
    Forget(String),
    /// For now; it is tried again.
    Later(String),
}

/// An event as the journal stores it.
pub fn task_of(event: &Event) -> Task {
    let names = (event.folder.user().name(), event.folder.name());
    let stem = event.subject.as_ref().map(|subject| subject.stem.as_str());
    let mut task = task(&event.id, event.kind, names, event.file.clone(), stem);
    if let Some(asked) = &event.asked {
        let mut put = |field: &str, text: &str| task.body.insert(field.to_owned(), text.into());
        put("contact", &asked.contact);
        put("path", &asked.path);
    }
    task
}

/// The event of a file that arrived, as the journal would have stored it.
pub fn task_of_received(transfer: &Transfer) -> Task {
    let Transfer { key, stem, .. } = transfer;
    let file = Some(format!("{stem}.data"));
    let names = (&key.user, &key.folder);
    let mut task = task(&key.into(), Kind::Received, names, file, Some(stem));
    if let Some(text) = &transfer.meta {
        task.body.insert(BEFORE.to_owned(), (**text).into());
    }
    task
}

/// The task of an event that came to no decision. If a program is among its hooks, it may have left
/// anything in the `.meta`, so the task has what that said before them.
pub fn undecided(mut task: Task, verdict: &Verdict) -> Task {
    let has_program = verdict.runs.iter().any(|run| is_program(&run.script));
    if let Some(before) = verdict.before.as_ref().filter(|_| has_program) {
        let text = String::from_utf8_lossy(&before.to_file()).into_owned();
        task.body.insert(BEFORE.to_owned(), text.into());
    }
    task
}

fn task<N: ToString>(
    id: &EventId,
    kind: Kind,
    (user, folder): (&N, &N),
    file: Option<String>,
    stem: Option<&str>,
) -> Task {
    let stem = stem.map(|stem| ("stem".to_owned(), stem.into()));
    Task {
        id: id.to_string(),
        kind: kind.section().to_owned(),
        part: 0,
        user: user.to_string(),
        folder: folder.to_string(),
        file,
        body: Map::from_iter(stem),
    }
}

/// The transfer that brought the file of an event, if it is about one.
pub fn key_of((meta, record): (&Meta, &Arc<Record>)) -> Option<Key> {
    let is_of_transfer = matches!(record.kind, Kind::Meta | Kind::Received);
    let id = meta.id.filter(|_| is_of_transfer)?;
    Some(Key {
        user: record.task.user.clone(),
        folder: meta.folder.clone(),
        from: meta.from.clone(),
        id,
    })
}

/// Whether a file of a folder is there, be it contents or a document.
fn is_there(folder: &Folder, stores: &Stores, file: &str) -> io::Result<bool> {
    match ContentPath::parse(file) {
        Ok(path) => stores.of(folder).holds(&path),
        Err(_) => file::exists(folder.dir(), file),
    }
}

/// Makes an event from what the journal has of it.
pub fn rebuild(root: &Root, stores: &Stores, task: &Task) -> Result<Event, Gone> {
    let kind = Kind::of_section(&task.kind)
        .ok_or_else(|| Gone::Forget("the event no longer exists".to_owned()))?;
    let folder = folder_of(root, task)?;
    let config = folder.config().map_err(|e| Gone::Later(e.to_string()))?;
    let id =
        EventId::parse(&task.id).ok_or_else(|| Gone::Forget("its id cannot be read".to_owned()))?;
    let stem = task.body.get("stem").and_then(Value::as_str);
    let file = task.file.clone();
    if kind != Kind::Deleted
        && let Some(file) = &file
        && !is_there(&folder, stores, file).map_err(|e| Gone::Later(e.to_string()))?
    {
        return Err(Gone::Forget(format!("{} is gone", printable(file, 200))));
    }
    let stem = stem.or_else(|| file.as_deref()?.strip_suffix(".data"));
    let subject = stem.and_then(|stem| {
        let before = task.body.get(BEFORE).and_then(Value::as_str);
        let before = before.and_then(|text| Meta::from_file(text.as_bytes()).ok());
        Some(Subject {
            meta: before.or_else(|| meta_file::of_stem(folder.dir(), stem))?,
            stem: stem.to_owned(),
        })
    });
    let of_subject = subject.as_ref().and_then(|subject| asked_of(&subject.meta));
    Ok(Event {
        id,
        kind,
        folder,
        config,
        file,
        subject,
        asked: asked(task).or(of_subject),
        store: None,
    })
}

/// Who puts a file somewhere, and where, if that is what its `.meta` is about.
pub fn asked_of(meta: &Meta) -> Option<Asked> {
    let destination = Destination::of(meta).filter(|to| !to.keeps_meta)?;
    Some(Asked {
        contact: meta.from.clone(),
        path: destination.path.join(),
    })
}

fn asked(task: &Task) -> Option<Asked> {
    let text = |field| Some(task.body.get(field)?.as_str()?.to_owned());
    Some(Asked {
        contact: text("contact")?,
        path: text("path")?,
    })
}

/// The folder of a task.
pub fn folder_of(root: &Root, task: &Task) -> Result<Folder, Gone> {
    let names = (Name::user(&task.user), Name::folder(&task.folder));
    let (Ok(user), Ok(folder)) = names else {
        return Err(Gone::Forget("its folder has no name".to_owned()));
    };
    root.folder(&user, &folder).map_err(|e| match e {
        RootError::NoUser(_) | RootError::NoFolder { .. } => Gone::Forget(e.to_string()),
        e => Gone::Later(e.to_string()),
    })
}

//! Files that a person names to send, as the journal of the root knows them.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::{
    send_job::{Record, SendJob},
    source_file::SourceFile,
};
use crate::{
    clock,
    error::{Code, Error},
    journal::{
        Journal, JournalError, Pending,
        letters::{self, Stage},
        look,
        outgoing::{self, Outgoing, State, What},
    },
    json::Value,
    meta::{Meta, TransferId, datetime_now},
    root::Root,
};

/// In the meta of a file that was found in a directory: where in it, as text.
pub const PATH: &str = "path";

/// What is known of the files, and where their outcome is recorded. Clones are the same one.
#[derive(Clone)]
pub struct OutgoingLog(Arc<Shared>);

struct Shared {
    journal: Journal,
    reader: Mutex<Connection>,
    salt: Vec<u8>,
    /// The last outcome to be recorded. When it is written, so are all before it.
    last: Mutex<Option<Pending<()>>>,
}

/// What is to be done with a file.
pub enum Next {
    /// It was sent before, and has not changed since.
    Sent(Box<Outgoing>),
    /// It is to be sent.
    Send(Box<SendJob>),
}

/// One attempt, to be recorded in the journal when it is over.
pub(super) struct Attempt {
    log: OutgoingLog,
    outgoing: Outgoing,
}

impl OutgoingLog {
    /// The journal of a root. It waits for a disk.
    pub fn open(root: &Root) -> Result<Self, Error> {
        let journal = Journal::open(root).map_err(unusable)?;
        let reader = journal.reader().map_err(unusable)?;
        let read = || outgoing::salt(&reader).map_err(|e| unusable(e.into()));
        let salt = match read()? {
            Some(salt) => salt,
            None => {
                // With different bytes, everything that was sent would be sent again.
                let made = journal.quietly(true, outgoing::make_salt);
                made.wait().map_err(unusable)?;
                read()?.unwrap_or_default()
            }
        };
        let log = Self(Arc::new(Shared {
            journal,
            reader: Mutex::new(reader),
            salt,
            last: Mutex::default(),
        }));
        log.tell(|db| outgoing::forget(db, clock::millis()));
        Ok(log)
    }

    /// Opens the next attempt: the same transfer as before, unless that was refused, or was sent
    /// and the person wants it `again`. `template` holds what all files have in common, and
    /// `path` where in a directory the file was found.
    pub fn next(
        &self,
        template: &Meta,
        source: SourceFile,
        path: Option<&Path>,
        again: bool,
    ) -> Result<Next, Error> {
        let what = what(template, &source, path)?;
        let before = {
            let db = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner);
            outgoing::find(&db, &what).map_err(|e| unusable(e.into()))?
        };
        let attempt = match &before {
            None => 0,
            // The receiver remembers the refusal of a transfer, and may accept a new one.
            Some(before) if is_refused(before) => before.attempt + 1,
            Some(before) if again && before.state == State::Sent => before.attempt + 1,
            Some(before) => before.attempt,
        };
        if let Some(before) = before
            && !again
            && is_sent(&before, &source)
        {
            if before.is_stale(clock::millis()) {
                let known = before.clone();
                self.tell(move |db| outgoing::touch(db, &known, clock::millis()));
            }
            return Ok(Next::Sent(Box::new(before)));
        }
        let id = self.id(&what, &source, attempt);
        let mut meta = template.clone();
        meta.filename.clone_from(&source.called);
        if !what.path.is_empty() {
            let path = Value::from(what.path.as_str());
            meta.extra.insert(PATH.to_owned(), path);
        }
        meta.id = Some(id);
        meta.datetime = datetime_now();
        let outgoing = Outgoing {
            what,
            version: source.version.size_and_time(),
            id,
            attempt,
            state: State::Failed,
            bytes: source.len(),
            at: 0,
            seen: 0,
            code: String::new(),
            words: String::new(),
        };
        Ok(Next::Send(Box::new(SendJob::new(
            source.path(),
            meta,
            source.contents,
            source.version,
            Record::Row(Box::new(Attempt {
                log: self.clone(),
                outgoing,
            })),
        ))))
    }

    /// The id of a transfer. It reveals nothing to anyone who does not know the salt.
    fn id(&self, what: &What, source: &SourceFile, attempt: u64) -> TransferId {
        let mut digest = Sha256::new_with_prefix(&self.0.salt);
        let What {
            user,
            recipient,
            folder,
            source: path,
            name,
            path: within,
        } = what;
        for text in [user, recipient, folder, path, name, within] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        digest.update(source.version.size_and_time());
        digest.update(attempt.to_be_bytes());
        let digest: [u8; 32] = digest.finalize().into();
        TransferId(digest.first_chunk().copied().unwrap_or_default())
    }

    fn tell(&self, work: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that the last one there is the last one recorded.
        *last = Some(self.0.journal.quietly(false, work));
    }

    /// Waits until everything to be recorded is written.
    pub fn settle(&self) -> Result<(), Error> {
        let last = self
            .0
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        last.map_or(Ok(()), Pending::wait).map_err(unusable)
    }

    /// Forgets the attempts of a user that failed; returns how many.
    pub fn forget_failed(&self, user: &str) -> Result<usize, Error> {
        let user = user.to_owned();
        let forgotten = self
            .0
            .journal
            .quietly(true, move |db| outgoing::forget_failed(db, &user));
        forgotten.wait().map_err(unusable)
    }

    /// The latest attempts of a user that failed, newest first.
    pub fn failed(&self, user: &str, limit: u32) -> Result<Vec<Outgoing>, Error> {
        let db = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner);
        outgoing::latest(&db, Some(user), true, limit).map_err(|e| unusable(e.into()))
    }
}

impl Attempt {
    /// Records that the receiver has the file, or that it waits at a relay as this letter.
    pub(super) fn sent(&self, letter: Option<[u8; 32]>) {
        let Some(letter) = letter else {
            return self.over(State::Sent, None);
        };
        let outgoing = self.ended(State::Left, None);
        // Together: a receipt that comes at once finds both.
        self.log.tell(move |db| {
            outgoing::put(db, &outgoing)?;
            letters::proceed(db, &letter, Stage::Left)
        });
    }

    /// Records why it has not.
    pub(super) fn failed(&self, reason: &Error) {
        self.over(State::Failed, Some(reason));
    }

    fn over(&self, state: State, reason: Option<&Error>) {
        let outgoing = self.ended(state, reason);
        self.log.tell(move |db| outgoing::put(db, &outgoing));
    }

    fn ended(&self, state: State, reason: Option<&Error>) -> Outgoing {
        Outgoing {
            state,
            at: clock::millis(),
            code: reason
                .map(|reason| reason.code.word().to_owned())
                .unwrap_or_default(),
            words: reason
                .map(|reason| reason.sentence.clone())
                .unwrap_or_default(),
            ..self.outgoing.clone()
        }
    }
}

/// Looks into the journal of a root without changing it.
pub struct OutgoingView(Option<Connection>);

impl OutgoingView {
    /// The journal of a root, if it has one.
    pub fn open(root: &Root) -> Result<Self, Error> {
        let db = look(root).map_err(unusable)?;
        let db = db.filter(|db| db.table_exists(None, "outgoing").unwrap_or_default());
        Ok(Self(db))
    }

    /// The attempt that went through, if the file has not changed since.
    pub fn sent(
        &self,
        template: &Meta,
        source: &SourceFile,
        path: Option<&Path>,
    ) -> Result<Option<Outgoing>, Error> {
        let Some(db) = &self.0 else {
            return Ok(None);
        };
        let found = outgoing::find(db, &what(template, source, path)?);
        let found = found.map_err(|e| unusable(e.into()))?;
        Ok(found.filter(|before| is_sent(before, source)))
    }

    /// The last attempt to send a file.
    pub fn last(&self, template: &Meta, source: &SourceFile) -> Result<Option<Outgoing>, Error> {
        let Some(db) = &self.0 else {
            return Ok(None);
        };
        let found = outgoing::find(db, &what(template, source, None)?);
        found.map_err(|e| unusable(e.into()))
    }

    /// The latest attempts of a user, or of all, newest first.
    pub fn latest(
        &self,
        user: Option<&str>,
        only_failed: bool,
        limit: u32,
    ) -> Result<Vec<Outgoing>, Error> {
        let Some(db) = &self.0 else {
            return Ok(Vec::new());
        };
        outgoing::latest(db, user, only_failed, limit).map_err(|e| unusable(e.into()))
    }
}

/// What is common to the files of an attempt: who sends what to whom.
pub fn template(outgoing: &Outgoing) -> Meta {
    let What {
        user,
        recipient,
        folder,
        ..
    } = &outgoing.what;
    Meta::new(user, recipient, folder, "")
}

fn what(template: &Meta, source: &SourceFile, path: Option<&Path>) -> Result<What, Error> {
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            let sentence = format!("cannot send {}: its path is not UTF-8", path.display());
            Error::new(Code::Failed, sentence)
        })
    };
    Ok(What {
        user: template.from.clone(),
        recipient: template.to.clone(),
        folder: template.folder.clone(),
        source: text(&source.path())?,
        name: source.called.clone(),
        path: path.map(text).transpose()?.unwrap_or_default(),
    })
}

/// Whether the receiver has this version of a file.
fn is_sent(before: &Outgoing, source: &SourceFile) -> bool {
    before.state == State::Sent && before.version == source.version.size_and_time()
}

/// Whether the receiver refused it.
fn is_refused(before: &Outgoing) -> bool {
    before.state == State::Failed && before.code == Code::Refused.word()
}

fn unusable(error: JournalError) -> Error {
    Error::new(Code::Failed, error.to_string())
}

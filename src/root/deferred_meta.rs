//! A `.meta` that is not in its folder yet.
//!
//! Hooks at `[OnReceived]` often write into the `.meta`. So where only scripts run there, it
//! waits in the [journal](crate::journal::delivered) until they have run, and is written
//! once: to replace it would take a second flush and free an inode, and on ext4 each freed
//! inode slows every file that is made in the next minutes.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{file, folder::Folder};

/// A `.meta` that is written when somebody needs it. Copies of it are the same one.
#[derive(Clone)]
pub struct DeferredMeta(Arc<Deferred>);

struct Deferred {
    folder: Folder,
    name: String,
    text: Arc<str>,
    place: Mutex<Place>,
}

/// Where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Only in the journal.
    Journal,
    /// In the folder too, and may not survive a loss of power there.
    Folder,
    /// Nobody needs it in the journal any more.
    Safe,
}

impl DeferredMeta {
    /// The `.meta` of that name, with this text.
    pub fn new(folder: &Folder, name: String, text: Arc<str>) -> Self {
        Self(Arc::new(Deferred {
            folder: folder.clone(),
            name,
            text,
            place: Mutex::new(Place::Journal),
        }))
    }

    /// What it says.
    pub fn text(&self) -> &Arc<str> {
        &self.0.text
    }

    /// Writes it into the folder, if it is not there: somebody looks. The journal has it
    /// until its hooks have run, so nothing is flushed.
    pub fn write(&self) -> io::Result<()> {
        let mut place = self.place();
        if *place == Place::Journal {
            let Deferred {
                folder, name, text, ..
            } = &*self.0;
            match file::create_unflushed(folder.dir(), name, 0o644, text.as_bytes()) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => *place = Place::Folder,
            }
        }
        Ok(())
    }

    /// Whether it is in the journal only.
    pub fn is_missing(&self) -> bool {
        *self.place() == Place::Journal
    }

    /// What its hooks left of it is durable.
    pub fn set_safe(&self) {
        *self.place() = Place::Safe;
    }

    /// Whether the journal may forget it.
    pub fn is_safe(&self) -> bool {
        *self.place() == Place::Safe
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

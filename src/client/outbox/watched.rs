//! The outgoing files, as `m2y status` shows them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    meta::{Meta, TransferId},
    observer::Observer,
    traffic::{Direction, Entry, File, Stage, Traffic, Transfer},
};

/// The files of a route that are on their way.
pub(super) struct Watched {
    traffic: Traffic,
    files: Mutex<HashMap<TransferId, Entry<Transfer>>>,
}

impl Watched {
    pub(super) fn new(traffic: Traffic) -> Self {
        Self {
            traffic,
            files: Mutex::default(),
        }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<TransferId, Entry<Transfer>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is not on its way any more.
    pub(super) fn over(&self, meta: &Meta) {
        if let Some(id) = &meta.id {
            self.files().remove(id);
        }
    }

    fn enter(&self, meta: &Meta) -> Entry<Transfer> {
        let file = File {
            direction: Direction::Out,
            user: meta.from.clone(),
            contact: meta.to.clone(),
            folder: meta.folder.clone(),
            name: meta.filename.clone(),
            size: meta.filesize,
            held: 0,
        };
        self.traffic.transfer(file, Stage::Moving)
    }
}

impl Observer for Watched {
    fn file(&self, file: &Meta, moved: u64) {
        let Some(id) = file.id else {
            return;
        };
        let mut files = self.files();
        let transfer = files.entry(id).or_insert_with(|| self.enter(file));
        transfer.reached(moved);
        transfer.set_stage(match file.filesize {
            Some(size) if moved >= size => Stage::Sent,
            _ => Stage::Moving,
        });
    }

    fn waiting_for_hooks(&self, file: &Meta) {
        let files = self.files();
        if let Some(transfer) = file.id.and_then(|id| files.get(&id)) {
            transfer.set_stage(Stage::Hooks);
        }
    }
}

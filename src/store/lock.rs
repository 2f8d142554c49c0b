//! A lock that holds in all processes of a root.

use std::{
    fs::File,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Holds a lock: in this process by the mutex, in the others by the file in it.
pub struct Locked<'a>(MutexGuard<'a, File>);

impl<'a> Locked<'a> {
    /// Waits for the lock.
    pub fn new(file: &'a Mutex<File>) -> io::Result<Self> {
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.lock()?;
        Ok(Self(file))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It ends with the process at the latest.
        let _ = self.0.unlock();
    }
}

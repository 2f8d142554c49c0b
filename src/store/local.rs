//! The store that is a directory of this machine.

use std::{
    fs::File,
    io::{self, IoSlice, Write},
    sync::Arc,
    time::SystemTime,
};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};

use super::{Sink, Store, meta_file};
use crate::root::file;

/// What the name of a hidden file under way ends with.
pub const PARTIAL: &str = ".partial";

/// A directory.
pub struct LocalStore {
    dir: Arc<Dir>,
}

impl LocalStore {
    /// The store in an open directory.
    pub fn new(dir: &Arc<Dir>) -> Self {
        Self { dir: dir.clone() }
    }
}

impl Store for LocalStore {
    fn begin(&self, partial: &str) -> io::Result<Box<dyn Sink>> {
        self.discard(partial);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o644);
        let file = self.dir.open_with(partial, &options)?;
        Ok(Box::new(LocalSink(file.into_std())))
    }

    fn publish(&self, partial: &str, name: &str) -> io::Result<()> {
        file::publish(&self.dir, partial, name)
    }

    fn discard(&self, partial: &str) {
        let _ = self.dir.remove_file(partial);
    }

    fn holds(&self, name: &str) -> io::Result<bool> {
        file::exists(&self.dir, name)
    }

    fn room(&self) -> io::Result<u64> {
        let about = rustix::fs::fstatvfs(&*self.dir)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }
}

struct LocalSink(File);

impl Sink for LocalSink {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
        let mut rest = slices.as_mut_slice();
        // An empty slice in front would make a write of nothing look like a full disk.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match self.0.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut rest, n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// Makes every `.failed` of the folder's own user a `.meta` again, without its
/// error; returns how many. One that cannot be read, or whose `.meta` is there,
/// stays.
pub fn reset_failed(dir: &Dir, user: &str) -> io::Result<usize> {
    let mut reset = 0;
    for entry in dir.entries()? {
        let name = entry?.file_name();
        let Some((name, stem)) = name
            .to_str()
            .and_then(|name| Some((name, name.strip_suffix(".failed")?)))
        else {
            continue;
        };
        let Some(mut meta) = meta_file::read(dir, name).filter(|meta| meta.from == user) else {
            continue;
        };
        meta.error.clear();
        match file::create(dir, &format!("{stem}.meta"), 0o644, &meta.to_file()) {
            Ok(()) => {
                dir.remove_file(name)?;
                reset += 1;
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(reset)
}

/// Removes hidden files of m2y that nobody has written to since `before`; returns
/// how many.
pub fn sweep_partials(dir: &Dir, before: SystemTime) -> io::Result<usize> {
    let mut swept = 0;
    for entry in dir.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| {
            name.starts_with('.') && (name.ends_with(PARTIAL) || name.ends_with(file::TEMPORARY))
        });
        if !ours {
            continue;
        }
        let about = entry.metadata()?;
        if about.is_file() && about.modified()?.into_std() < before {
            entry.remove_file()?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// Removes what is left of files that were refused before `before`: each a `.meta` from
/// somebody else with an `error`, and no `.data`; returns how many.
pub fn sweep_refused(dir: &Dir, user: &str, before: SystemTime) -> io::Result<usize> {
    let mut swept = 0;
    for entry in dir.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".meta")) else {
            continue;
        };
        let about = entry.metadata()?;
        let old = about.is_file() && about.modified()?.into_std() < before;
        if !old || dir.symlink_metadata(format!("{stem}.data")).is_ok() {
            continue;
        }
        let refused = meta_file::of_stem(dir, stem)
            .is_some_and(|meta| meta.from != user && !meta.error.is_empty());
        if refused {
            entry.remove_file()?;
            swept += 1;
        }
    }
    Ok(swept)
}

//! The store that is a directory of this machine.

use std::{
    fs::File,
    io::{self, IoSlice, Seek, Write},
    sync::Arc,
    thread::{self, JoinHandle},
    time::SystemTime,
};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;

use super::{Sink, Store};
use crate::root::{file, meta_file};

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
    fn begin(&self, partial: &str, keep: u64) -> io::Result<Box<dyn Sink>> {
        let mut options = OpenOptions::new();
        options.write(true).mode(0o644);
        if keep == 0 {
            options.create_new(true);
            let file = match self.dir.open_with(partial, &options) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    self.discard(partial);
                    self.dir.open_with(partial, &options)?
                }
                file => file?,
            };
            return Ok(Box::new(LocalSink::new(file.into_std())));
        }
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let mut file = self.dir.open_with(partial, &options)?.into_std();
        file.set_len(keep)?;
        file.seek(io::SeekFrom::Start(keep))?;
        Ok(Box::new(LocalSink::new(file)))
    }

    fn held(&self, partial: &str) -> io::Result<u64> {
        match self.dir.symlink_metadata(partial) {
            Ok(about) if about.is_file() => Ok(about.len()),
            Ok(_) => Ok(0),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e),
        }
    }

    fn read(&self, partial: &str) -> io::Result<Box<dyn io::Read + Send>> {
        let (file, _) = file::open_itself(&self.dir, partial)?;
        Ok(Box::new(file))
    }

    fn publish(&self, partial: &str, name: &str) -> io::Result<()> {
        file::rename_to_free(&self.dir, partial, &self.dir, name)
    }

    fn settle_names(&self) -> io::Result<()> {
        file::sync(&self.dir)
    }

    fn settle_all(&self) -> io::Result<()> {
        settle_all(&self.dir)
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

/// Returns when all that was written into the file system of a directory survives a loss
/// of power.
pub fn settle_all(dir: &Dir) -> io::Result<()> {
    // The handle itself may be one that only leads to names (O_PATH).
    let dir = dir.open(".")?;
    rustix::fs::syncfs(&dir).map_err(io::Error::from)
}

/// Bytes after which what was written is sent on its way to the disk: a loss of power
/// costs so much of a file at most, and the last flush finds little to do.
const FLUSH: u64 = 32 << 20;

struct LocalSink {
    file: Arc<File>,
    /// Bytes that were written since the last flush began.
    unflushed: u64,
    flushing: Option<JoinHandle<io::Result<()>>>,
}

impl LocalSink {
    fn new(file: File) -> Self {
        Self {
            file: Arc::new(file),
            unflushed: 0,
            flushing: None,
        }
    }

    /// Begins to flush, unless that goes on already.
    fn flush_behind(&mut self) -> io::Result<()> {
        if let Some(flushing) = &self.flushing {
            if !flushing.is_finished() {
                return Ok(());
            }
            self.join()?;
        }
        self.unflushed = 0;
        let file = self.file.clone();
        let flushing = thread::Builder::new()
            .name("flush".to_owned())
            .spawn(move || file.sync_data());
        // Without a thread the last flush has all to do.
        self.flushing = flushing.ok();
        Ok(())
    }

    /// What an earlier flush found: the system tells of an error only once.
    fn join(&mut self) -> io::Result<()> {
        match self.flushing.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("a thread that flushed a file failed")),
        }
    }
}

impl Sink for LocalSink {
    fn append(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
        let mut rest = slices.as_mut_slice();
        // An empty slice in front would make a write of nothing look like a full disk.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match (&*self.file).write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.unflushed += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        match self.unflushed >= FLUSH {
            true => self.flush_behind(),
            false => Ok(()),
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        self.join()?;
        self.file.sync_all()
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

//! Files that are either whole or absent: written to a temporary file, flushed, then renamed.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::fd::AsFd,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use cap_std::fs::{Dir, File, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};
use rustix::fs::{OFlags, RenameFlags};

/// The ending of a file that is being written; always hidden by a leading dot.
pub const TEMPORARY: &str = ".tmp";

/// What tells that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which file it is: editors write a new one and rename it.
    inode: u64,
    len: u64,
    /// When it changed last, in seconds and nanoseconds.
    changed: (i64, i64),
}

impl Stamp {
    /// When the file changed last, in seconds since 1970 and nanoseconds.
    pub fn changed(&self) -> (i64, i64) {
        self.changed
    }

    /// The stamp of a regular file; `None` if there is nothing of that name.
    pub fn of(dir: &Dir, name: impl AsRef<Path>) -> io::Result<Option<Self>> {
        match dir.metadata(name) {
            Ok(about) if about.is_file() => Ok(Some(Self {
                inode: about.ino(),
                len: about.len(),
                changed: (about.ctime(), about.ctime_nsec()),
            })),
            Ok(_) => Err(not_regular()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

/// The longest name of a file, in bytes.
pub const MAX_NAME: usize = 255;

/// Says whether a text can be the name of a file that a person sees in a folder; why
/// not, if it cannot. Such a name is one path component and leads nowhere else.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err("cannot be a file name: use 1 to 255 bytes");
    }
    if name.contains(['/', '\0']) {
        return Err("cannot be a file name: it contains / or NUL");
    }
    if name.starts_with('.') {
        return Err("is hidden: names that begin with '.' are reserved");
    }
    Ok(())
}

/// Reads a file of at most `limit` bytes.
pub fn read(dir: &Dir, name: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
    let (file, _) = open(dir, name)?;
    read_open(file, limit)
}

/// Opens a regular file for reading, and returns what is known of the one that was opened: the name
/// may already stand for a different one.
pub fn open(dir: &Dir, name: impl AsRef<Path>) -> io::Result<(File, Metadata)> {
    // Opening a pipe would otherwise wait for its other end; a regular file ignores the flag.
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    regular(dir.open_with(name, &options)?)
}

/// [`open`] for a name that must not lead to a different file: a link there is an error.
pub fn open_itself(dir: &Dir, name: &str) -> io::Result<(File, Metadata)> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed());
    regular(dir.open_with(name, &options)?)
}

/// Reads the rest of an open file, at most `limit` bytes.
pub fn read_open(file: impl Read + AsFd, limit: u64) -> io::Result<Vec<u8>> {
    // Asking for its length costs less than reading it in growing pieces.
    let len = rustix::fs::fstat(&file).map_or(0, |about| about.st_size.unsigned_abs());
    let mut bytes = Vec::with_capacity(usize::try_from(len.min(limit) + 1).unwrap_or_default());
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(too_large(limit)),
        false => Ok(bytes),
    }
}

/// The error for a file of more than `limit` bytes.
pub fn too_large(limit: u64) -> io::Error {
    let sentence = format!("it is larger than {limit} bytes");
    io::Error::new(io::ErrorKind::FileTooLarge, sentence)
}

/// Whether it failed because a symbolic link leads out of the directory handle. The error itself
/// speaks of a filesystem, which tells nobody what to fix.
pub fn led_out(error: &io::Error) -> bool {
    // The system's own refusals have an error number; `cap-std` makes this one without.
    error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

/// Whether the machine is at fault, and not what was looked for: it is out of descriptors or
/// memory, or the disk fails.
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// [`read`], as UTF-8.
pub fn read_text(dir: &Dir, name: impl AsRef<Path>, limit: u64) -> io::Result<String> {
    String::from_utf8(read(dir, name, limit)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Opens a file to append to it, and creates it if it is missing. A link there is an error, and so
/// is anything but a file: a script writes what a person put there.
pub fn append(dir: &Dir, name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .create(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed());
    regular(dir.open_with(name, &options)?).map(|(file, _)| file)
}

fn regular(file: File) -> io::Result<(File, Metadata)> {
    let about = file.metadata()?;
    if about.is_file() {
        return Ok((file, about));
    }
    Err(not_regular())
}

/// Writes a new file; fails with `AlreadyExists` if the name is taken.
pub fn create(dir: &Dir, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_beside(dir, mode, bytes)?;
    publish(dir, &temporary, name).inspect_err(|_| {
        let _ = dir.remove_file(&temporary);
    })
}

/// Writes a file in place of the existing one, if any.
pub fn replace(dir: &Dir, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_beside(dir, mode, bytes)?;
    dir.rename(&temporary, dir, name).inspect_err(|_| {
        let _ = dir.remove_file(&temporary);
    })?;
    sync(dir)
}

/// [`create`] for a file that the caller flushes later with others: it does not survive a loss of
/// power before that, and a reader may at first see only a part of it.
pub fn create_unflushed(dir: &Dir, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_empty(dir, name, mode)?;
    file.write_all(bytes).inspect_err(|_| {
        let _ = dir.remove_file(name);
    })
}

/// [`replace`] for a file that the caller flushes later with others: after a loss of power before
/// that, the file is the old one, the new one, or empty.
pub fn replace_unflushed(dir: &Dir, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    Unnamed::write(dir, mode, bytes)?.replace(name)
}

/// [`replace_unflushed`] that writes over the old file, which costs less: for one that nobody reads
/// yet, or of one page. After a loss of power before the flush it may be a mixture.
pub fn overwrite_unflushed(dir: &Dir, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    options.write(true).custom_flags(flags.bits().cast_signed());
    let opened = dir
        .open_with(name, &options)
        .and_then(|file| file.metadata().map(|about| (file, about)));
    match opened {
        // A second name of it may be anybody's.
        Ok((mut file, about)) if about.is_file() && about.nlink() == 1 => {
            file.write_all(bytes)?;
            match about.len() > bytes.len() as u64 {
                true => file.set_len(bytes.len() as u64),
                false => Ok(()),
            }
        }
        _ => replace_unflushed(dir, name, mode, bytes),
    }
}

/// A new file without its final name. It is not flushed: after a loss of power it may be empty.
pub struct Unnamed<'a> {
    dir: &'a Dir,
    temporary: String,
    /// The file, open to write, until it has a name.
    file: Option<File>,
}

impl<'a> Unnamed<'a> {
    /// Writes the file.
    pub fn write(dir: &'a Dir, mode: u32, bytes: &[u8]) -> io::Result<Self> {
        let temporary = temporary()?;
        let mut file = create_empty(dir, &temporary, mode)?;
        let written = file.write_all(bytes);
        let unnamed = Self {
            dir,
            temporary,
            file: Some(file),
        };
        written.map(|()| unnamed)
    }

    /// Puts it in place of the file of that name, if any.
    pub fn replace(mut self, name: &str) -> io::Result<()> {
        self.dir.rename(&self.temporary, self.dir, name)?;
        self.file = None;
        Ok(())
    }
}

impl Drop for Unnamed<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = self.dir.remove_file(&self.temporary);
        }
    }
}

/// Renames a finished file to its name, which must be free, and makes that durable.
fn publish(dir: &Dir, temporary: &str, name: &str) -> io::Result<()> {
    rename_to_free(dir, temporary, dir, name)?;
    sync(dir)
}

/// Renames a file, possibly into another directory; fails with `AlreadyExists` if the name is
/// taken. It is durable once both directories are ([`sync`]).
pub fn rename_to_free(from: &Dir, name: &str, to: &Dir, new: &str) -> io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // File systems that cannot rename that way can link instead.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            from.hard_link(name, to, new)?;
            from.remove_file(name)
        }
        Err(e) => Err(e.into()),
    }
}

/// Whether there is anything of that name, a link too.
pub fn exists(dir: &Dir, name: &str) -> io::Result<bool> {
    match dir.symlink_metadata(name) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether the rest of two files is the same.
pub fn is_same(a: impl Read, b: impl Read) -> io::Result<bool> {
    let (mut a, mut b) = (BufReader::new(a), BufReader::new(b));
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let len = left.len().min(right.len());
        if left.get(..len) != right.get(..len) {
            return Ok(false);
        }
        if len == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        a.consume(len);
        b.consume(len);
    }
}

/// Removes files of a directory that were last written before a time and whose name is `ours`, or
/// only counts them; returns how many.
pub fn remove_old(
    dir: &Dir,
    before: SystemTime,
    ours: impl Fn(&str) -> bool,
    removes: bool,
) -> io::Result<usize> {
    let mut removed = 0;
    for entry in dir.entries()? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(&ours) {
            continue;
        }
        let about = entry.metadata()?;
        if about.is_file() && about.modified()?.into_std() < before {
            if removes {
                entry.remove_file()?;
            }
            removed += 1;
        }
    }
    Ok(removed)
}

/// Nanoseconds since 1970, from the seconds and nanoseconds that a file system gives.
pub fn nanos(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Makes the names in a directory durable.
pub fn sync(dir: &Dir) -> io::Result<()> {
    // The handle itself may be O_PATH, which cannot be flushed.
    dir.open(".")?.sync_all()
}

/// Creates an empty file that only its owner reads; the name must be free.
pub fn create_empty(dir: &Dir, name: &str, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    dir.open_with(name, &options)
}

/// A name that is not in use.
fn temporary() -> io::Result<String> {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next = match NEXT.get() {
        Some(next) => next,
        // Another process begins elsewhere.
        None => {
            let mut begin = [0; 8];
            getrandom::fill(&mut begin).map_err(io::Error::other)?;
            NEXT.get_or_init(|| u64::from_ne_bytes(begin).into())
        }
    };
    let unique = next.fetch_add(1, Ordering::Relaxed);
    Ok(format!(".{unique:016x}{TEMPORARY}"))
}

fn write_beside(dir: &Dir, mode: u32, bytes: &[u8]) -> io::Result<String> {
    let temporary = temporary()?;
    let mut file = create_empty(dir, &temporary, mode)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    match written {
        Ok(()) => Ok(temporary),
        Err(e) => {
            let _ = dir.remove_file(&temporary);
            Err(e)
        }
    }
}

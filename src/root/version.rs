//! Which version of a file was read.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
};

/// What tells that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    len: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

impl Version {
    /// The version that an open file has now.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }

    /// The version of bytes that are in memory only, and so never change.
    pub fn in_memory(len: u64, modified: i64) -> Self {
        const SECOND: i64 = 1_000_000_000;
        Self {
            len,
            device: 0,
            inode: 0,
            modified: (modified.div_euclid(SECOND), modified.rem_euclid(SECOND)),
        }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// When the file changed last, in nanoseconds since 1970.
    pub fn modified(&self) -> i64 {
        let (seconds, nanos) = self.modified;
        seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
    }

    /// As it stands in a `.meta`.
    pub fn to_text(self) -> String {
        let (seconds, nanos) = self.modified;
        let Self { len, inode, .. } = self;
        format!("{len} bytes, {seconds}.{nanos:09}, inode {inode}")
    }

    /// Size and time: what stays the same if a file system renumbers its files, as those of cameras
    /// do each time.
    pub fn size_and_time(self) -> String {
        let (seconds, nanos) = self.modified;
        format!("{} bytes, {seconds}.{nanos:09}", self.len)
    }

    /// A text that differs for every version. It is not for peers: it reveals details of the
    /// machine.
    pub fn key(self) -> String {
        let Self {
            len, device, inode, ..
        } = self;
        format!("{len}-{device}-{inode}-{}", self.modified())
    }

    /// Bytes that differ for every version.
    pub fn to_bytes(self) -> Vec<u8> {
        let (seconds, nanos) = self.modified;
        [self.len, self.device, self.inode]
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .chain([seconds, nanos].iter().flat_map(|part| part.to_be_bytes()))
            .collect()
    }
}

impl From<&Metadata> for Version {
    fn from(about: &Metadata) -> Self {
        Self {
            len: about.len(),
            device: about.dev(),
            inode: about.ino(),
            modified: (about.mtime(), about.mtime_nsec()),
        }
    }
}

impl From<&cap_std::fs::Metadata> for Version {
    fn from(about: &cap_std::fs::Metadata) -> Self {
        use cap_std::fs::MetadataExt;
        Self {
            len: about.len(),
            device: about.dev(),
            inode: about.ino(),
            modified: (about.mtime(), about.mtime_nsec()),
        }
    }
}

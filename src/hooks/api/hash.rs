//! `hash`: checksums of the files of a folder.

use std::io::Read;

use rhai::Engine;
use sha2::{Digest, Sha256};

use super::{
    folder,
    function::{Function, Made, fail, shown},
};
use crate::{
    hooks::{
        call,
        digests::{Digests, Known, Version},
    },
    store::Reader,
};

/// Bytes of a file that is read within the script's own time.
const QUICK: u64 = 4 << 20;

/// Bytes that are read at a time; between two of them the script can be stopped.
const BUFFER: usize = 65_536;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "hash",
        "hash.sha256(name)",
        "The SHA-256 of a file of the folder, as 64 lower-case hexadecimal digits. For a file that has just arrived in a folder on this machine, it is known already: if a script of the folder asks for it, it is computed while the file arrives, and meta.sha256 has it too. A large file may take up to 30 seconds, during which others are not held up.",
        r#"
assert_eq(hash.sha256("abc.txt"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
if folder.contains_line("abc.txt", hash.sha256(event.data_file)) { reject("stolen"); }
"#,
    ),
    Function::new(
        "hash",
        "hash.crc32(name)",
        "The CRC-32 of a file of the folder, as a number: the same as fileCRC in a .meta. A large file may take up to 30 seconds.",
        r#"
assert_eq(hash.crc32("abc.txt"), 0x352441c2);
"#,
    ),
];

/// `hash` in a script.
#[derive(Clone)]
pub struct Handle {
    folder: folder::Handle,
    digests: Digests,
}

impl Handle {
    pub(super) fn new(folder: &folder::Handle, digests: &Digests) -> Self {
        Self {
            folder: folder.clone(),
            digests: digests.clone(),
        }
    }

    fn sha256(&mut self, name: &str) -> Made<String> {
        let digest = self.known_or(
            "hash.sha256()",
            name,
            |known| &mut known.sha256,
            || {
                let mut hasher = Sha256::new();
                self.read("hash.sha256()", name, |bytes| hasher.update(bytes))?;
                Ok(hasher.finalize().into())
            },
        )?;
        Ok(hex::encode(digest))
    }

    fn crc32(&mut self, name: &str) -> Made<i64> {
        let crc = self.known_or(
            "hash.crc32()",
            name,
            |known| &mut known.crc32,
            || {
                let mut hasher = crc32fast::Hasher::new();
                self.read("hash.crc32()", name, |bytes| hasher.update(bytes))?;
                Ok(hasher.finalize())
            },
        )?;
        Ok(crc.into())
    }

    /// What is known of a file, or otherwise is computed by reading it.
    fn known_or<T: Copy>(
        &self,
        call: &str,
        name: &str,
        part: fn(&mut Known) -> &mut Option<T>,
        make: impl FnOnce() -> Made<T>,
    ) -> Made<T> {
        // Looked at before it is read: if it changes meanwhile, it is a different version.
        let version = self.folder.version(call, name)?;
        let mut known = version.map(|version| self.digests.get(&version));
        if let Some(value) = known.as_mut().and_then(|known| *part(known)) {
            return Ok(value);
        }
        let version = version.filter(Version::has_rested);
        let value = make()?;
        if let Some(version) = version {
            let mut more = Known::default();
            *part(&mut more) = Some(value);
            self.digests.insert(&version, more);
        }
        Ok(value)
    }

    fn read(&self, call: &str, name: &str, each: impl FnMut(&[u8])) -> Made<()> {
        match self.folder.about(call, name)?.size > QUICK {
            true => call::wait(|_| self.read_now(call, name, each)),
            false => self.read_now(call, name, each),
        }
    }

    fn read_now(&self, call: &str, name: &str, mut each: impl FnMut(&[u8])) -> Made<()> {
        let contents = self.folder.open(call, name)?;
        let mut file = Reader::new(&*contents);
        let mut buffer = vec![0; BUFFER];
        loop {
            call::go_on()?;
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => each(buffer.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(format!("{call}: cannot read {}: {e}", shown(name)))),
            }
        }
    }
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Hash")
        .register_fn("sha256", Handle::sha256)
        .register_fn("crc32", Handle::crc32);
}

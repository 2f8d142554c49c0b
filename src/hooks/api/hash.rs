//! `hash`: checksums of the files of a folder.

use std::io::Read;

use rhai::Engine;
use sha2::{Digest, Sha256};

use super::{
    folder,
    function::{Function, Made, fail, shown},
};
use crate::{hooks::call, store::Reader};

/// Bytes that are read at a time; between two of them the script can be stopped.
const BUFFER: usize = 65_536;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "hash",
        "hash.sha256(name)",
        "The SHA-256 of a file of the folder, 64 lower-case hexadecimal digits. A script may read about as much as the disk gives in its half second.",
        r#"
assert_eq(hash.sha256("abc.txt"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
meta.sha256 = hash.sha256(event.data_file);
"#,
    ),
    Function::new(
        "hash",
        "hash.crc32(name)",
        "The CRC-32 of a file of the folder, as a number: the one that fileCRC in a .meta holds.",
        r#"
assert_eq(hash.crc32("abc.txt"), 0x352441c2);
"#,
    ),
];

/// `hash` in a script.
#[derive(Clone)]
pub struct Handle(folder::Handle);

impl Handle {
    pub(super) fn new(folder: &folder::Handle) -> Self {
        Self(folder.clone())
    }

    fn sha256(&mut self, name: &str) -> Made<String> {
        let mut hasher = Sha256::new();
        self.read("hash.sha256()", name, |bytes| hasher.update(bytes))?;
        Ok(hex::encode(hasher.finalize()))
    }

    fn crc32(&mut self, name: &str) -> Made<i64> {
        let mut hasher = crc32fast::Hasher::new();
        self.read("hash.crc32()", name, |bytes| hasher.update(bytes))?;
        Ok(hasher.finalize().into())
    }

    fn read(&self, call: &str, name: &str, mut each: impl FnMut(&[u8])) -> Made<()> {
        let contents = self.0.open(call, name)?;
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

//! Passphrases of private keys: where they come from, and what was opened with them.
//!
//! A key is opened once in each process. It and its passphrase stay in memory then, wiped when they are
//! dropped, and from that moment on the process leaves no core dump and nobody else may look into its
//! memory.

use std::{
    collections::HashMap,
    env, fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::crypto::{CryptoError, passphrase};

/// The variable that names a file with the passphrase.
pub const FILE: &str = "M2Y_PASSPHRASE_FILE";

/// The variable by which systemd tells a service where its credentials are.
pub const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The credential with the passphrase.
const CREDENTIAL: &str = "m2y-passphrase";

/// The longest passphrase, in bytes.
const MAX_LEN: usize = 1024;

/// How often a person is asked.
const ATTEMPTS: usize = 2;

/// A passphrase, or a key that was opened with one.
pub type Secret = Zeroizing<String>;

/// Asks a person for the passphrase of a file; `None` if there is nobody.
pub type Ask = dyn Fn(&str) -> io::Result<Option<Secret>> + Send + Sync;

static ASK: OnceLock<Box<Ask>> = OnceLock::new();

/// Keys that were opened, by the SHA-256 of the file.
static OPENED: Mutex<Option<HashMap<[u8; 32], Opened>>> = Mutex::new(None);

/// A key in PEM without a passphrase, and the passphrase that it has.
#[derive(Clone)]
pub struct Opened {
    /// The key.
    pub pem: Secret,
    /// Its passphrase.
    pub passphrase: Secret,
}

/// Says who is asked in this process, if no file has the passphrase. Only the first call counts.
pub fn ask_with(ask: impl Fn(&str) -> io::Result<Option<Secret>> + Send + Sync + 'static) {
    let _ = ASK.set(Box::new(ask));
}

/// Opens a key of this file, which has a passphrase.
///
/// # Errors
///
/// If there is no passphrase, or it is wrong.
pub(super) fn open(path: &str, pem: &str) -> Result<Opened, CryptoError> {
    let digest: [u8; 32] = Sha256::digest(pem).into();
    // Held while somebody is asked: of many who need the key one asks.
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = opened.get_or_insert_default();
    if let Some(known) = opened.get(&digest) {
        return Ok(known.clone());
    }
    // All keys of a user have the same one, as a rule.
    let mut known = opened.values().map(|known| known.passphrase.clone());
    let known = known.find_map(|secret| try_one(pem, secret).ok());
    let fresh = match known {
        Some(fresh) => fresh,
        None => find(path, pem)?,
    };
    // Where the system refuses that, the key is as safe as one without a passphrase.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    opened.insert(digest, fresh.clone());
    Ok(fresh)
}

/// Opens a key with the passphrase that a file has, or a person tells.
fn find(path: &str, pem: &str) -> Result<Opened, CryptoError> {
    let Some((file, secret)) = from_file()? else {
        return ask(path, pem);
    };
    try_one(pem, secret).map_err(|error| match error {
        CryptoError::Passphrase => {
            CryptoError::Locked(format!("the passphrase in {} is wrong", file.display()))
        }
        error => error,
    })
}

fn try_one(pem: &str, secret: Secret) -> Result<Opened, CryptoError> {
    Ok(Opened {
        pem: passphrase::unlock(pem, &secret)?,
        passphrase: secret,
    })
}

fn ask(path: &str, pem: &str) -> Result<Opened, CryptoError> {
    let nobody = || {
        CryptoError::Locked(format!(
            "it has a passphrase, and nobody can be asked for it: name a file with it in {FILE}"
        ))
    };
    let ask = ASK.get().ok_or_else(nobody)?;
    for _ in 0..ATTEMPTS {
        let secret = ask(path).map_err(|e| CryptoError::Locked(e.to_string()))?;
        match try_one(pem, secret.ok_or_else(nobody)?) {
            Err(CryptoError::Passphrase) => {}
            opened => return opened,
        }
    }
    Err(CryptoError::Passphrase)
}

/// The passphrase that a file has, and which file that is.
fn from_file() -> Result<Option<(PathBuf, Secret)>, CryptoError> {
    if let Some(file) = env::var_os(FILE).filter(|file| !file.is_empty()) {
        let file = PathBuf::from(file);
        let secret = read(&file, true).map_err(|e| CryptoError::Locked(e.to_string()))?;
        return Ok(Some((file, secret)));
    }
    let Some(directory) = env::var_os(CREDENTIALS) else {
        return Ok(None);
    };
    let file = Path::new(&directory).join(CREDENTIAL);
    match read(&file, false) {
        Ok(secret) => Ok(Some((file, secret))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(CryptoError::Locked(e.to_string())),
    }
}

/// Reads a passphrase from a file, without the end of its line.
///
/// # Errors
///
/// If it cannot be read, or, where that matters, others can read it.
pub fn read(file: &Path, is_private: bool) -> io::Result<Secret> {
    let at = |why: String| format!("cannot read the passphrase in {}: {why}", file.display());
    let failed = |e: io::Error| io::Error::new(e.kind(), at(e.to_string()));
    let opened = fs::File::open(file).map_err(failed)?;
    let mode = opened.metadata().map_err(failed)?.mode() & 0o7777;
    if is_private && mode & 0o077 != 0 {
        let why = format!(
            "mode is 0{mode:03o}, must be 0600 (chmod 600 {})",
            file.display()
        );
        return Err(io::Error::other(at(why)));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LEN + 1));
    let reading = opened.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes);
    reading.map_err(failed)?;
    if bytes.len() > MAX_LEN {
        return Err(io::Error::other(at(format!(
            "it is longer than {MAX_LEN} bytes"
        ))));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| io::Error::other(at("it is no text".to_owned())))?;
    Ok(Zeroizing::new(
        text.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

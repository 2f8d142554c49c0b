use std::path::PathBuf;

use clap::{Args, Subcommand};
use tracing::warn;

use super::{RootArg, output, passphrase, read_file, user_arg::UserArg};
use crate::{
    crypto::keys::{BITS, DEFAULT_BITS},
    error::{Code, Error, printable},
    json::{Map, Value},
    root::{
        passphrases::{self, Secret},
        user::User as RootUser,
    },
};

/// The variable that names a file with a new passphrase.
const NEW_FILE: &str = "M2Y_NEW_PASSPHRASE_FILE";

/// The shortest passphrase, in characters.
const SHORTEST: usize = 8;

/// Create users, list them, and give a key a passphrase
#[derive(Debug, Subcommand)]
pub enum User {
    Create(Create),
    List(List),
    Passwd(Passwd),
}

/// Create a user from a JSON file: directories and keys
///
/// The file has the fields username (required), realname, email, "mobile phone", street,
/// city, zip; others are kept too. If the user exists, the command updates the profile and
/// keeps the keys.
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    root: RootArg,
    /// The profile, like {"username": "roland-frei", "realname": "Roland Frei"}
    #[arg(value_name = "FILE.json")]
    profile: PathBuf,
    /// Bits of the RSA key, 2048 to 4096
    #[arg(long, default_value_t = DEFAULT_BITS, value_name = "N")]
    bits: usize,
}

/// Give the private key a passphrase, change it, or take it away
///
/// The passphrase is asked for on the terminal. Elsewhere a file has it, of mode 0600, which
/// M2Y_PASSPHRASE_FILE names, or a systemd credential called m2y-passphrase; the new one is in the
/// file that M2Y_NEW_PASSPHRASE_FILE names. A server needs it when it starts.
#[derive(Debug, Args)]
pub struct Passwd {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// Store the key without a passphrase from now on
    #[arg(long)]
    remove: bool,
}

/// List the users of the root
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    root: RootArg,
}

impl User {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        match self {
            Self::Create(create) => create.run(json),
            Self::List(list) => list.run(json),
            Self::Passwd(passwd) => passwd.run(json),
        }
    }
}

impl Create {
    fn run(self, json: bool) -> Result<(), Error> {
        if !BITS.contains(&self.bits) {
            let sentence = format!("--bits {}: must be 2048 to 4096", self.bits);
            return Err(Error::new(Code::Usage, sentence));
        }
        let root = self.root.open()?;
        let profile = read_file(&self.profile)?;
        let path = self.profile.display().to_string();
        let created = RootUser::create(&root, &path, &profile, self.bits)?;
        let fingerprint = fingerprint(&created.user)?;
        let name = created.user.name().as_str();
        if json {
            output::object(&[
                ("status", "done".into()),
                ("username", name.into()),
                ("new_keys", created.new_keys.into()),
                ("fingerprint", fingerprint.into()),
            ]);
            return Ok(());
        }
        let keys = if created.new_keys {
            "made new keys"
        } else {
            "kept the keys that were there"
        };
        output::line(format_args!("user {name}: {keys}"));
        output::line(format_args!("  fingerprint {fingerprint}"));
        Ok(())
    }
}

impl Passwd {
    fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.of(&self.root.open()?)?;
        // The present one first: who does not know it is not asked for another.
        user.private_key()?;
        let new = match self.remove {
            true => None,
            false => Some(new_passphrase()?),
        };
        let keys = user.set_passphrase(new.as_ref())?;
        match json {
            true => output::object(&[
                ("status", "done".into()),
                ("username", user.name().as_str().into()),
                ("passphrase", new.is_some().into()),
                ("keys", keys.into()),
            ]),
            false => output::line(match new.is_some() {
                true => "the private key has a new passphrase",
                false => "the private key has no passphrase any more",
            }),
        }
        Ok(())
    }
}

/// The passphrase that a key is to have.
fn new_passphrase() -> Result<Secret, Error> {
    let failed = |e: std::io::Error| Error::new(Code::Failed, e.to_string());
    let usage = |sentence: &str| Error::new(Code::Usage, sentence);
    let new = match std::env::var_os(NEW_FILE).filter(|file| !file.is_empty()) {
        Some(file) => passphrases::read(file.as_ref(), true).map_err(failed)?,
        None => {
            let ask = |prompt| {
                let typed = passphrase::ask(prompt).map_err(failed)?;
                let nobody = "there is no terminal: name a file with the new passphrase in \
                              M2Y_NEW_PASSPHRASE_FILE";
                typed.ok_or_else(|| usage(nobody))
            };
            let new = ask("New passphrase")?;
            if new != ask("Once more")? {
                return Err(usage("the two differ: nothing was changed"));
            }
            new
        }
    };
    match new.chars().count() < SHORTEST {
        true => Err(usage(
            "a passphrase has at least 8 characters; --remove takes it away",
        )),
        false => Ok(new),
    }
}

impl List {
    fn run(self, json: bool) -> Result<(), Error> {
        for user in self.root.open()?.users()? {
            let profile = user.profile().unwrap_or_else(|error| {
                warn!("{error}");
                Map::new()
            });
            let text = |field| profile.get(field).and_then(Value::as_str).unwrap_or("");
            let fingerprint = fingerprint(&user)?;
            if json {
                output::object(&[
                    ("username", user.name().as_str().into()),
                    ("realname", text("realname").into()),
                    ("email", text("email").into()),
                    ("fingerprint", fingerprint.into()),
                ]);
            } else {
                let line = format!("{}  {}", user.name(), printable(text("realname"), 200));
                output::line(line.trim_end());
                output::line(format_args!("  fingerprint {fingerprint}"));
            }
        }
        Ok(())
    }
}

pub(super) fn fingerprint(user: &RootUser) -> Result<String, Error> {
    Ok(user.contact(user.name())?.key.fingerprint().to_string())
}

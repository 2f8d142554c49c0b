use std::path::PathBuf;

use clap::{Args, Subcommand};
use tracing::warn;

use super::{RootArg, output, read_file};
use crate::{
    crypto::keys::{BITS, DEFAULT_BITS},
    error::{Code, Error, printable},
    json::{Map, Value},
    root::user::User as RootUser,
};

/// Create and list users
#[derive(Debug, Subcommand)]
pub enum User {
    Create(Create),
    List(List),
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

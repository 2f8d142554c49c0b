use clap::Args;
use tracing::warn;

use super::{super::RootArg, output, text_of};
use crate::{cli::user_arg::UserArg, error::Error};

/// List the contacts of a user: name, the beginning of the fingerprint, address, folder
///
/// The beginning tells keys apart and is too short to compare: `m2y contact show` has
/// the whole. With --json the fingerprint is whole.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
}

impl List {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.of(&self.root.open()?)?;
        let name = user.name();
        let contacts = user.contacts()?;
        if contacts.is_empty() && !json {
            output::line(format_args!("{name} has no contacts"));
        }
        for contact in contacts {
            let contact = match contact {
                Ok(contact) => contact,
                Err(error) => {
                    warn!("skipped: {error}");
                    continue;
                }
            };
            let address = text_of(user.addresses_of(&contact.name)?.as_ref());
            let folder = user.folder_of(&contact.name)?;
            let folder = folder.map(|folder| folder.to_string());
            let fingerprint = contact.key.fingerprint();
            if json {
                output::object(&[
                    ("contact", contact.name.as_str().into()),
                    ("fingerprint", fingerprint.to_string().into()),
                    ("digits", fingerprint.digits().into()),
                    ("address", address.into()),
                    ("folder", folder.unwrap_or_default().into()),
                ]);
            } else {
                let short = fingerprint.short();
                let mut line = format!("{}  SHA256:{short}…  {address}", contact.name);
                if let Some(folder) = folder {
                    line.push_str(&format!("  folder {folder}"));
                }
                output::line(line.trim_end());
            }
        }
        Ok(())
    }
}

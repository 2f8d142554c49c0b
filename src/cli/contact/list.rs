use clap::Args;
use tracing::warn;

use super::{super::RootArg, output, text_of};
use crate::{
    cli::user_arg::UserArg,
    client::presence::{self, Presence},
    error::Error,
    json::Value,
};

/// List the contacts of a user: name, the beginning of the fingerprint, address, folder
///
/// The beginning tells keys apart and is too short to compare: `m2y contact show` has
/// the whole. With --json the fingerprint is whole.
///
/// Of contacts who have joined a relay and let you see it, the list says whether they are there now,
/// or when they were there last.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
}

impl List {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.of(&self.root.open()?)?;
        let name = user.name();
        let contacts = user.contacts()?;
        if contacts.is_empty() && !json {
            output::line(format_args!("{name} has no contacts"));
        }
        let readable = contacts
            .into_iter()
            .filter_map(|contact| contact.inspect_err(|error| warn!("skipped: {error}")).ok());
        let contacts: Vec<_> = readable.collect();
        let names: Vec<_> = contacts
            .iter()
            .map(|contact| contact.name.clone())
            .collect();
        let presence = presence::ask(&user, &names).await?;
        for (contact, presence) in contacts.into_iter().zip(presence) {
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
                    ("there", (presence == Presence::Now).into()),
                    ("seen", seen(presence)),
                ]);
            } else {
                let short = fingerprint.short();
                let mut line = format!("{}  SHA256:{short}…  {address}", contact.name);
                if let Some(folder) = folder {
                    line.push_str(&format!("  folder {folder}"));
                }
                match presence {
                    Presence::Now => line.push_str("  there now"),
                    Presence::Last(time) => {
                        line.push_str(&format!("  last there {} UTC", output::moment(time)));
                    }
                    Presence::Unknown => {}
                }
                output::line(line.trim_end());
            }
        }
        for (from, path) in user.introductions()? {
            let path = path.display();
            if json {
                output::object(&[
                    ("request", from.as_str().into()),
                    ("file", path.to_string().into()),
                ]);
            } else {
                output::line(format_args!(
                    "a relay brought a document of {from}: `m2y contact add {path} --via RELAY` for a request, `m2y contact accept {path}` for an answer"
                ));
            }
        }
        Ok(())
    }
}

/// When a contact was there last, in milliseconds since 1970.
fn seen(presence: Presence) -> Value {
    match presence {
        Presence::Last(time) => time.into(),
        Presence::Now | Presence::Unknown => Value::Null,
    }
}

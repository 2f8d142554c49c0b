use std::path::PathBuf;

use clap::Args;

use super::{super::RootArg, Added, output, read_document};
use crate::{
    cli::user_arg::UserArg,
    error::{Code, Error},
    root::RootError,
    transport::Addresses,
    wire::pairing::{Document, PairingError},
};

/// Accept the answer to a request: its author becomes a contact
///
/// The answer must be for you, to a request of yours that has no answer yet, and signed with
/// the key in it. Still compare the fingerprint: a mail cannot prove whose key it is.
#[derive(Debug, Args)]
pub struct Accept {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The answer; - for standard input. Text around it does no harm
    #[arg(value_name = "FILE.json")]
    file: PathBuf,
    /// The address of the other person's server, if the answer's is wrong or missing
    #[arg(long, value_name = "ADDRESS", value_parser = Addresses::with_default_ports)]
    address: Option<Addresses>,
    /// Replace a different key under the same name
    #[arg(long)]
    replace: bool,
}

impl Accept {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.of(&self.root.open()?)?;
        let name = user.name().clone();
        let Document::Answer(answer) = read_document(&self.file)? else {
            let sentence = format!(
                "{} is not an answer to a request: cards, requests and new keys are for `m2y contact add --user {name}`",
                self.file.display()
            );
            return Err(Error::new(Code::Usage, sentence));
        };
        if answer.name == name {
            return Err(RootError::Oneself(name).into());
        }
        let agreed = answer.open(&name, &user.private_key()?)?;
        if !user.waits_for(agreed.request)? {
            let known = user.contact(&answer.name).ok();
            let error = match known.is_some_and(|known| known.key == answer.key) {
                true => PairingError::Answered(answer.name),
                false => PairingError::NotAsked(answer.name),
            };
            return Err(error.into());
        }
        user.add_contact(&answer.name, &answer.key, self.replace)?;
        let address = self.address.or(agreed.addresses);
        if let Some(address) = &address {
            user.set_addresses(&answer.name, address)?;
        }
        if let Some(folder) = &agreed.folder {
            user.set_folder(&answer.name, folder)?;
        }
        // Last: until then the same answer can be accepted again.
        user.forget_request(agreed.request)?;
        user.forget_introduction(&answer.name)?;
        let added = Added {
            user: &name,
            contact: &answer.name,
            key: &answer.key,
            addresses: address.as_ref(),
            folder: agreed.folder.as_ref(),
            allowed: None,
            announced_by: None,
        };
        if json {
            added.object();
        } else {
            output::line(added);
        }
        Ok(())
    }
}

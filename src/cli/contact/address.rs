use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{super::RootArg, not_found, output, text_of};
use crate::{
    cli::{completion::contacts, user_arg::UserArg, user_name},
    error::{Code, Error},
    transport::{self, Addresses},
};

/// Set the address of a contact's server, or show it
///
/// m2y sends to this address unless --server names a different one. A server may have
/// several: m2y tries one after the other, and takes the first that answers.
///
///   m2y contact address roland-frei example.org quic://example.org tls://example.org:443
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Address {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The contact
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(contacts))]
    name: String,
    /// The addresses of the contact's server; leave them out to show the present ones
    #[arg(value_name = "ADDRESS", value_parser = transport::Address::with_default_port)]
    addresses: Vec<transport::Address>,
}

impl Address {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let contact = user_name(&self.name)?;
        let user = self.user.of(&self.root.open()?)?;
        user.contact(&contact).map_err(not_found)?;
        let addresses = match self.addresses.is_empty() {
            true => user.addresses_of(&contact)?,
            false => {
                let addresses = Addresses::new(self.addresses);
                let addresses = addresses.map_err(|e| Error::new(Code::Usage, e.to_string()))?;
                user.set_addresses(&contact, &addresses)?;
                Some(addresses)
            }
        };
        if json {
            output::object(&[
                ("status", "done".into()),
                ("user", user.name().as_str().into()),
                ("contact", contact.as_str().into()),
                ("address", text_of(addresses.as_ref()).into()),
            ]);
        } else {
            match addresses {
                Some(addresses) => output::line(format_args!("{contact}  {addresses}")),
                None => output::line(format_args!(
                    "{contact} has no address yet: set it with `m2y contact address {contact} HOST:PORT`"
                )),
            }
        }
        Ok(())
    }
}

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{super::RootArg, checked, not_found, output};
use crate::{
    cli::{completion::contacts, user_arg::UserArg, user_name},
    error::Error,
};

/// Set the address of a contact's server, or show it
///
/// m2y sends to this address unless --server names a different one.
#[derive(Debug, Args)]
pub struct Address {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The contact
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(contacts))]
    name: String,
    /// The address of the contact's server; leave it out to show the present one
    #[arg(value_name = "HOST:PORT")]
    address: Option<String>,
}

impl Address {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let contact = user_name(&self.name)?;
        let address = checked(self.address)?;
        let user = self.user.of(&self.root.open()?)?;
        user.contact(&contact).map_err(not_found)?;
        if let Some(address) = &address {
            user.set_address(&contact, address)?;
        }
        let address = match address {
            Some(address) => Some(address),
            None => user.address_of(&contact)?,
        };
        if json {
            output::object(&[
                ("status", "done".into()),
                ("user", user.name().as_str().into()),
                ("contact", contact.as_str().into()),
                ("address", address.unwrap_or_default().into()),
            ]);
        } else {
            match address {
                Some(address) => output::line(format_args!("{contact}  {address}")),
                None => output::line(format_args!(
                    "{contact} has no address yet: set it with `m2y contact address {contact} HOST:PORT`"
                )),
            }
        }
        Ok(())
    }
}

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{super::RootArg, not_found, output};
use crate::{
    cli::{completion::contacts, user_arg::UserArg, user_name},
    error::Error,
};

/// Remove a contact: key and address
///
/// From the next connection on the person is a stranger, whatever [permission] says. Files
/// they sent stay, and so does their name in [permission]: it would let in anyone added
/// under the same name later.
#[derive(Debug, Args)]
pub struct Remove {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The contact
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(contacts))]
    name: String,
}

impl Remove {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let contact = user_name(&self.name)?;
        let user = self.user.of(&self.root.open()?)?;
        let name = user.name();
        user.remove_contact(&contact).map_err(not_found)?;
        if json {
            output::object(&[
                ("status", "removed".into()),
                ("user", name.as_str().into()),
                ("contact", contact.as_str().into()),
            ]);
        } else {
            output::line(format_args!(
                "removed {contact} from the contacts of {name}"
            ));
        }
        Ok(())
    }
}

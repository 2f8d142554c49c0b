use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{RootArg, output, read_file, user_name};
use crate::{
    error::{Code, Error},
    json::{canonical, pretty},
    root::contact::{Card, check_address},
};

/// Exchange keys with other people
#[derive(Debug, Subcommand)]
pub enum Contact {
    Export(Export),
    Add(Add),
}

/// Print the card of a user of this root: name, public key, fingerprint
///
/// Give it to the other person, who adds it with `m2y contact add`. It holds
/// nothing secret, but compare the fingerprints in person or over the telephone.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    root: RootArg,
    /// Whose card
    #[arg(value_name = "NAME")]
    name: String,
    /// Where this person's server listens, for the card
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
}

/// Add somebody's card: from then on the person may be sent files, and may send
/// where the [permission] of a folder allows it
#[derive(Debug, Args)]
pub struct Add {
    #[command(flatten)]
    root: RootArg,
    /// To whose contacts
    #[arg(long, value_name = "ME")]
    user: String,
    /// The card that the other person exported
    #[arg(value_name = "FILE.json")]
    card: PathBuf,
    /// Where the other person's server listens; the card may say it too
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Take the new key in place of another one that is there under this name
    #[arg(long)]
    replace: bool,
}

impl Contact {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        match self {
            Self::Export(export) => export.run(json),
            Self::Add(add) => add.run(json),
        }
    }
}

fn checked(address: Option<String>) -> Result<Option<String>, Error> {
    if let Some(address) = &address {
        check_address(address).map_err(|e| Error::new(Code::Usage, e))?;
    }
    Ok(address)
}

impl Export {
    fn run(self, json: bool) -> Result<(), Error> {
        let name = user_name(&self.name)?;
        let address = checked(self.address)?;
        let user = self.root.open()?.user(&name)?;
        let card = Card::of(&user, address)?.to_document()?;
        if json {
            output::line(canonical(&card));
        } else {
            output::line(pretty(&card).trim_end());
        }
        Ok(())
    }
}

impl Add {
    fn run(self, json: bool) -> Result<(), Error> {
        let name = user_name(&self.user)?;
        let address = checked(self.address)?;
        let user = self.root.open()?.user(&name)?;
        let path = self.card.display().to_string();
        let card = Card::parse(&path, &read_file(&self.card)?)?;
        user.add_contact(&card.name, &card.key, self.replace)?;
        let address = address.or(card.address);
        if let Some(address) = &address {
            user.set_address(&card.name, address)?;
        }
        let fingerprint = card.key.fingerprint().to_string();
        if json {
            output::object(&[
                ("status", "done".into()),
                ("user", name.as_str().into()),
                ("contact", card.name.as_str().into()),
                ("fingerprint", fingerprint.into()),
                ("address", address.unwrap_or_default().into()),
            ]);
            return Ok(());
        }
        output::line(format_args!("{} is a contact of {name}", card.name));
        output::line(format_args!("  fingerprint {fingerprint}"));
        output::line("  compare it with the one that the other person sees");
        if let Some(address) = address {
            output::line(format_args!("  address {address}"));
        }
        Ok(())
    }
}

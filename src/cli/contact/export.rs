use clap::Args;

use super::{super::RootArg, checked, fingerprint_lines, output, print};
use crate::{
    cli::user_name,
    error::Error,
    root::contact_request::RequestId,
    wire::{WireError, pairing},
};

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

/// Ask somebody to become a contact: print a card that wants an answer
///
/// Mail it to the other person, who runs `m2y contact add` with it and mails back what
/// that prints. `m2y contact accept` takes the answer, once. A request is for one person;
/// it holds nothing secret.
#[derive(Debug, Args)]
pub struct Request {
    #[command(flatten)]
    root: RootArg,
    /// Who asks
    #[arg(long, value_name = "ME")]
    user: String,
    /// Where your server listens, if others are to send to you
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
}

impl Export {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let name = user_name(&self.name)?;
        let address = checked(self.address)?;
        let user = self.root.open()?.user(&name)?;
        let card = user.card(address)?;
        print(&card.to_document()?, json);
        if !json {
            output::aside(format_args!("the card of {name}"));
            output::aside(fingerprint_lines(card.key.fingerprint()));
        }
        Ok(())
    }
}

impl Request {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let name = user_name(&self.user)?;
        let address = checked(self.address)?;
        let user = self.root.open()?.user(&name)?;
        let request = pairing::Request {
            card: user.card(address)?,
            id: RequestId::random().map_err(WireError::from)?,
        };
        let document = request.to_document()?;
        // It must be known before anybody can answer it.
        user.keep_request(request.id, &document)?;
        print(&document, json);
        if !json {
            output::aside(format_args!(
                "mail this to the other person, and take the answer with `m2y contact accept --user {name}`"
            ));
            output::aside(fingerprint_lines(request.card.key.fingerprint()));
        }
        Ok(())
    }
}

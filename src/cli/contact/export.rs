use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{super::RootArg, fingerprint_lines, named, output, print};
use crate::{
    cli::{
        completion::contacts,
        user_arg::{UserArg, said, user_of},
        user_name,
    },
    client::membership,
    error::Error,
    json::canonical,
    root::contact_request::RequestId,
    transport::Addresses,
    wire::{WireError, pairing},
};

/// Print the card of a user of this root: name, public key, fingerprint
///
/// Give it to the other person, who adds it with `m2y contact add`. It is not secret, but
/// compare the fingerprints in person or over the telephone.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    root: RootArg,
    /// A user of the root [default: as with --user of the other commands]
    #[arg(value_name = "NAME", env = "M2Y_USER")]
    name: Option<String>,
    /// The address of this person's server, for the card
    #[arg(long, value_name = "ADDRESS", value_parser = Addresses::with_default_ports)]
    address: Option<Addresses>,
    /// This person's folder for files that are sent without naming one
    #[arg(long, value_name = "NAME")]
    folder: Option<String>,
}

/// Ask someone to become a contact: print a request
///
/// Mail it to the other person, who runs `m2y contact add` with it and mails back what that
/// prints. `m2y contact accept` accepts the answer, once. A request is for one person, and
/// not secret.
///
/// If you have both joined the same relay, NAME --via RELAY sends it there. Once the answer is there,
/// `m2y contact list` shows it.
#[derive(Debug, Args)]
pub struct Request {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The address of your server, if others should send to you
    #[arg(long, value_name = "ADDRESS", value_parser = Addresses::with_default_ports)]
    address: Option<Addresses>,
    /// Your folder for files that are sent without naming one
    #[arg(long, value_name = "NAME")]
    folder: Option<String>,
    /// The other person, a member of the relay
    #[arg(value_name = "NAME", requires = "via")]
    to: Option<String>,
    /// A relay that you have joined: the request goes to NAME there
    #[arg(long, value_name = "RELAY", requires = "to", add = ArgValueCompleter::new(contacts))]
    via: Option<String>,
}

impl Export {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let user = user_of(&self.root.open()?, said(self.name).as_deref())?;
        let name = user.name();
        let card = user.card(self.address, named(self.folder)?)?;
        print(&card.to_document()?, json);
        if !json {
            output::aside(format_args!("the card of {name}"));
            output::aside(fingerprint_lines(card.key.fingerprint()));
        }
        Ok(())
    }
}

impl Request {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.of(&self.root.open()?)?;
        let name = user.name();
        let request = pairing::Request {
            card: user.card(self.address, named(self.folder)?)?,
            id: RequestId::random().map_err(WireError::from)?,
        };
        let document = request.to_document()?;
        // The number must be on file before anybody can answer the request.
        user.keep_request(request.id, &document)?;
        if let (Some(to), Some(via)) = (&self.to, &self.via) {
            let (to, relay) = (user_name(to)?, user_name(via)?);
            membership::introduce(&user, &relay, &to, canonical(&document)).await?;
            if json {
                output::object(&[("status", "done".into()), ("to", to.as_str().into())]);
            } else {
                output::line(format_args!(
                    "if {to} is a member of {relay}, the request is there for {to}; `m2y contact list` shows the answer when it has come"
                ));
                output::line(fingerprint_lines(request.card.key.fingerprint()));
            }
            return Ok(());
        }
        print(&document, json);
        if !json {
            output::aside(format_args!(
                "mail this to the other person, and accept the answer with `m2y contact accept --user {name}`"
            ));
            output::aside(fingerprint_lines(request.card.key.fingerprint()));
        }
        Ok(())
    }
}

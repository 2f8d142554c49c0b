use std::path::PathBuf;

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{super::RootArg, Added, named, output, print, read_document};
use crate::{
    cli::{completion::contacts, user_arg::UserArg, user_name},
    client::membership,
    clock,
    crypto::{SysRng, keys::Fingerprint},
    error::{Code, Error},
    json::canonical,
    root::{RootError, contact::Card, folder::Folder, user::User},
    transport::Addresses,
    wire::pairing::{Announcement, Answer, Document, PairingError, Request},
};

/// Add a contact: you can send files to each other, where [permission] of a folder allows it
///
/// FILE is what the other person sent. It may be a card (`m2y contact export`): then they
/// need yours too.
///
/// It may be a request (`m2y contact request`): then the answer to mail back is printed on
/// standard output, and everything for you to read on standard error.
///
///   m2y contact add --allow photo --my-address example.org request.json > answer.json
///
/// It may be the new key of a contact (`m2y contact rotate`): m2y accepts it if it is signed
/// by the key that you have. Any other key for a known name is rejected.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Add {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The card, request or new key; - for standard input. Text around it does no harm
    #[arg(value_name = "FILE.json")]
    file: PathBuf,
    /// The address of the other person's server, if the card's is wrong or missing
    #[arg(long, value_name = "ADDRESS", value_parser = Addresses::with_default_ports)]
    address: Option<Addresses>,
    /// The address of your own server, for the answer to a request
    #[arg(long, value_name = "ADDRESS", value_parser = Addresses::with_default_ports)]
    my_address: Option<Addresses>,
    /// Your own folder for files that are sent without naming one, for the answer to a request
    #[arg(long, value_name = "NAME")]
    my_folder: Option<String>,
    /// Let the person send into this folder of yours; without --my-folder, it is also the one
    /// for files that are sent without naming a folder
    #[arg(long, value_name = "FOLDER")]
    allow: Option<String>,
    /// Replace a different key under the same name
    #[arg(long)]
    replace: bool,
    /// The relay that a request came by: the answer goes back there
    #[arg(long, value_name = "RELAY", add = ArgValueCompleter::new(contacts))]
    via: Option<String>,
}

impl Add {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.of(&self.root.open()?)?;
        let name = user.name().clone();
        let document = read_document(&self.file)?;
        let allowed = named(self.allow)?;
        let my_folder = named(self.my_folder)?;
        let my_address = self.my_address;
        let has_address = my_address.is_some();
        let is_answered = my_address.is_some() || my_folder.is_some();
        if is_answered && !matches!(document, Document::Request(_)) {
            let sentence = format!(
                "--my-address and --my-folder are for an answer, and {} is not a request: leave them out",
                self.file.display()
            );
            return Err(Error::new(Code::Usage, sentence));
        }
        // A missing folder is noticed before anything is written.
        let allowed = allowed.map(|folder| user.folder(&folder)).transpose()?;
        let (card, answer, announced_by) = match document {
            Document::Card(card) => (card, None, None),
            Document::Request(request) => {
                let folder = my_folder.or_else(|| Some(allowed.as_ref()?.name().clone()));
                let answer = answer(&user, &request, user.card(my_address, folder)?)?;
                (request.card, Some(answer), None)
            }
            Document::Rotation(announcement) => {
                let old = announced_by(&user, &announcement, self.replace)?;
                (announcement.card(), None, old)
            }
            Document::Answer(_) => {
                let sentence = format!(
                    "{} is the answer to a request: run `m2y contact accept --user {name}`",
                    self.file.display()
                );
                return Err(Error::new(Code::Usage, sentence));
            }
        };
        let replace = self.replace || announced_by.is_some();
        user.add_contact(&card.name, &card.key, replace)?;
        let address = self.address.or(card.addresses);
        if let Some(address) = &address {
            user.set_addresses(&card.name, address)?;
        }
        if let Some(folder) = &card.folder {
            user.set_folder(&card.name, folder)?;
        }
        if let Some(folder) = &allowed {
            folder.allow(&card.name)?;
        }
        let added = Added {
            user: &name,
            contact: &card.name,
            key: &card.key,
            addresses: address.as_ref(),
            folder: card.folder.as_ref(),
            allowed: allowed.as_ref().map(Folder::name),
            announced_by,
        };
        let answer = answer.map(|answer| answer.to_document()).transpose()?;
        let via = self.via.as_deref().map(user_name).transpose()?;
        let sent = match (&answer, &via) {
            (Some(answer), Some(relay)) => {
                membership::introduce(&user, relay, &card.name, canonical(answer)).await?;
                true
            }
            _ => false,
        };
        // What came by a relay is done with.
        user.forget_introduction(&card.name)?;
        match answer.filter(|_| !sent) {
            Some(answer) => {
                print(&answer, json);
                if !json {
                    output::aside(&added);
                    if !has_address {
                        output::aside(
                            "the answer names no address of your server: if others should send to you, repeat this with --my-address HOST:PORT",
                        );
                    }
                    output::aside(format_args!(
                        "mail the answer to {}, who runs `m2y contact accept` with it",
                        card.name
                    ));
                }
            }
            None if json => added.object(),
            None => output::line(added),
        }
        Ok(())
    }
}

/// The answer, before anything is written: without an answer, nobody is added.
fn answer(user: &User, request: &Request, card: Card) -> Result<Answer, Error> {
    let own = user.private_key()?;
    if request.card.name == *user.name() || request.card.key == *own.public() {
        return Err(RootError::Oneself(user.name().clone()).into());
    }
    Ok(request.answer(&card, &own, clock::millis(), &mut SysRng)?)
}

/// The known key that signed the new one; `None` if the new one is known already, or is to be
/// accepted regardless of its signature.
fn announced_by(
    user: &User,
    announcement: &Announcement,
    replace: bool,
) -> Result<Option<Fingerprint>, Error> {
    let known = match user.contact(&announcement.name) {
        Ok(contact) => contact.key,
        Err(RootError::NoContact { contact, .. }) => {
            return Err(PairingError::NothingOnFile(contact).into());
        }
        Err(e) => return Err(e.into()),
    };
    if known == announcement.key {
        return Ok(None);
    }
    match announcement.check(&known) {
        Ok(()) => Ok(Some(known.fingerprint())),
        Err(_) if replace => Ok(None),
        Err(e) => Err(e.into()),
    }
}

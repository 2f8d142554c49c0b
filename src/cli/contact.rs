//! Contacts: how two people get each other's keys, and who has whose.

mod accept;
mod add;
mod address;
mod export;
mod list;
mod remove;
mod rotate;
mod show;

use std::{
    fmt,
    io::{IsTerminal, Read, stdin},
    path::Path,
};

use clap::Subcommand;

use super::{folder_name, output, read_file};
use crate::{
    crypto::keys::{Fingerprint, PublicKey},
    error::{Code, Error},
    json::{Map, Value, canonical, pretty},
    root::{RootError, name::Name},
    transport::Addresses,
    wire::pairing::Document,
};

/// Exchange keys with other people
///
/// Two people become contacts by two mails and a telephone call:
///
///   m2y contact request > request.json             Zhenqiang mails it to Roland
///   m2y contact add request.json > answer.json     Roland mails it back
///   m2y contact accept answer.json                 Zhenqiang
///
/// Then they read the digits of their fingerprints to each other: anyone able to alter the
/// mails could have substituted keys.
#[derive(Debug, Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Contact {
    Request(export::Request),
    Add(add::Add),
    Accept(accept::Accept),
    Export(export::Export),
    List(list::List),
    Address(address::Address),
    Show(show::Show),
    Remove(remove::Remove),
    Rotate(rotate::Rotate),
}

impl Contact {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        match self {
            Self::Request(request) => request.run(json).await,
            Self::Add(add) => add.run(json).await,
            Self::Accept(accept) => accept.run(json),
            Self::Export(export) => export.run(json),
            Self::List(list) => list.run(json).await,
            Self::Address(address) => address.run(json),
            Self::Show(show) => show.run(json),
            Self::Remove(remove) => remove.run(json),
            Self::Rotate(rotate) => rotate.run(json),
        }
    }
}

fn named(folder: Option<String>) -> Result<Option<Name>, Error> {
    folder.map(|folder| folder_name(&folder)).transpose()
}

/// Reads the document that a person named, or standard input.
fn read_document(path: &Path) -> Result<Document, Error> {
    let text = read_text(path)?;
    Ok(Document::parse(&shown(path), &text)?)
}

/// What is said of a file that a person named.
pub(super) fn shown(path: &Path) -> String {
    match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// Reads the file that a person named, or standard input.
pub(super) fn read_text(path: &Path) -> Result<Vec<u8>, Error> {
    // What two people mail each other is a few kilobytes.
    const LIMIT: u64 = 1 << 20;
    if path != Path::new("-") {
        return read_file(path);
    }
    if stdin().is_terminal() {
        output::aside("paste the document, then press Control-D at the beginning of a line");
    }
    let mut text = Vec::new();
    stdin()
        .lock()
        .take(LIMIT)
        .read_to_end(&mut text)
        .map_err(|e| Error::new(Code::Failed, format!("cannot read standard input: {e}")))?;
    Ok(text)
}

/// Prints a document: on one line for programs.
fn print(document: &Map<String, Value>, json: bool) {
    if json {
        output::line(canonical(document));
    } else {
        output::line(pretty(document).trim_end());
    }
}

/// Both forms of a fingerprint, for people.
fn fingerprint_lines(fingerprint: Fingerprint) -> String {
    format!(
        "  fingerprint {fingerprint}\n  read aloud  {}",
        fingerprint.digits()
    )
}

/// A person who has become a contact.
struct Added<'a> {
    user: &'a Name,
    contact: &'a Name,
    key: &'a PublicKey,
    addresses: Option<&'a Addresses>,
    folder: Option<&'a Name>,
    /// The folder of the user that they may send into from now on.
    allowed: Option<&'a Name>,
    /// The previously known key that announced this one.
    announced_by: Option<Fingerprint>,
}

impl Added<'_> {
    fn object(&self) {
        let fingerprint = self.key.fingerprint();
        let mut fields = vec![
            ("status", "done".into()),
            ("user", self.user.as_str().into()),
            ("contact", self.contact.as_str().into()),
            ("fingerprint", fingerprint.to_string().into()),
            ("digits", fingerprint.digits().into()),
            ("address", text_of(self.addresses).into()),
            ("folder", self.folder.map_or("", Name::as_str).into()),
        ];
        if let Some(old) = self.announced_by {
            fields.push(("announced_by", old.to_string().into()));
        }
        output::object(&fields);
    }
}

impl fmt::Display for Added<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is a contact of {}", self.contact, self.user)?;
        writeln!(f, "{}", fingerprint_lines(self.key.fingerprint()))?;
        match self.announced_by {
            None => f.write_str("  compare it with the one that the other person sees")?,
            Some(old) => write!(f, "  announced by the key that was known, {old}")?,
        }
        if let Some(folder) = self.allowed {
            write!(
                f,
                "\n  may send into {folder}, where [OnMeta] runs checkPermission.rhai"
            )?;
        }
        if let Some(folder) = self.folder {
            write!(
                f,
                "\n  files go into the folder {folder}, unless you name a different one"
            )?;
        }
        match self.addresses {
            Some(addresses) => write!(f, "\n  address {addresses}"),
            None => write!(
                f,
                "\n  no address yet: to send to {0}, set it with `m2y contact address {0} HOST:PORT`",
                self.contact
            ),
        }
    }
}

/// For a field that is always there.
fn text_of(addresses: Option<&Addresses>) -> String {
    addresses.map(ToString::to_string).unwrap_or_default()
}

/// For commands about a contact who must exist.
fn not_found(error: RootError) -> Error {
    match error {
        RootError::NoContact { user, contact } => {
            let sentence = format!(
                "{user} has no contact {contact}: `m2y contact list --user {user}` shows all"
            );
            Error::new(Code::NotFound, sentence)
        }
        error => error.into(),
    }
}

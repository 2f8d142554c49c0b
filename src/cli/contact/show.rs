use clap::Args;
use clap_complete::ArgValueCompleter;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

use super::{super::RootArg, fingerprint_lines, not_found, output, text_of};
use crate::{
    cli::{completion::contacts, user_arg::UserArg, user_name},
    error::{Code, Error},
};

/// Show a contact, or yourself: fingerprint, digits to read aloud, key, address
///
/// `m2y contact show --user zhenqiang zhenqiang` shows what Zhenqiang reads aloud, and
/// what the other person has to see at `m2y contact show --user roland-frei zhenqiang`.
#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The contact
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(contacts))]
    name: String,
    /// Draw the fingerprint as a QR code too, for terminals with a dark background
    #[arg(long)]
    qr: bool,
}

impl Show {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let contact = user_name(&self.name)?;
        if self.qr && json {
            let sentence = "--qr draws for people: leave it or --json out";
            return Err(Error::new(Code::Usage, sentence));
        }
        let user = self.user.of(&self.root.open()?)?;
        let name = user.name();
        let key = if contact == *name {
            user.own_key()?
        } else {
            user.contact(&contact).map_err(not_found)?.key
        };
        let addresses = user.addresses_of(&contact)?;
        let folder = user.folder_of(&contact)?;
        let folder = folder.map(|folder| folder.to_string());
        let fingerprint = key.fingerprint();
        let bits = key.size() * 8;
        let pem = key.to_pem().map_err(crate::wire::WireError::from)?;
        if json {
            output::object(&[
                ("user", name.as_str().into()),
                ("contact", contact.as_str().into()),
                ("fingerprint", fingerprint.to_string().into()),
                ("digits", fingerprint.digits().into()),
                ("bits", bits.into()),
                ("address", text_of(addresses.as_ref()).into()),
                ("folder", folder.unwrap_or_default().into()),
                ("publicKey", pem.into()),
            ]);
            return Ok(());
        }
        output::line(&contact);
        output::line(fingerprint_lines(fingerprint));
        if let Some(addresses) = addresses {
            output::line(format_args!("  address     {addresses}"));
        }
        if let Some(folder) = folder {
            output::line(format_args!("  folder      {folder}"));
        }
        output::line(format_args!("  key         RSA, {bits} bits"));
        output::text(&pem);
        if self.qr {
            output::line(qr(&fingerprint.to_string())?);
        }
        Ok(())
    }
}

/// A QR code as text, two modules in each character. Dark modules have the background colour.
fn qr(text: &str) -> Result<String, Error> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M)
        .map_err(|e| Error::new(Code::Failed, format!("cannot draw the QR code: {e}")))?;
    Ok(code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build())
}

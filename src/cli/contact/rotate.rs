use clap::Args;

use super::{super::RootArg, fingerprint_lines, output, print};
use crate::{
    cli::user_arg::UserArg,
    clock,
    crypto::{
        SysRng,
        keys::{BITS, DEFAULT_BITS},
    },
    error::{Code, Error},
    wire::{WireError, pairing::Announcement},
};

/// Create a new key pair, and print the announcement for your contacts
///
/// Mail it to every contact, who adds it with `m2y contact add`. The old key signs it, so
/// nothing has to be compared again. Until a contact has added it, the two of you cannot
/// send to each other. The old private key stays in privateKey/ with "before" in its name,
/// mode 0600. It signs the announcement again (--again) as often as you like; remove it when
/// all contacts have the new key.
///
/// If someone else has your old private key, the announcement proves nothing: ask your
/// contacts to remove you, exchange cards and compare fingerprints anew.
#[derive(Debug, Args)]
pub struct Rotate {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// Bits of the RSA key, 2048 to 4096
    #[arg(long, default_value_t = DEFAULT_BITS, value_name = "N")]
    bits: usize,
    /// Print the last announcement again, and change nothing
    #[arg(long, conflicts_with = "bits")]
    again: bool,
}

impl Rotate {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        if !BITS.contains(&self.bits) {
            let sentence = format!("--bits {}: must be 2048 to 4096", self.bits);
            return Err(Error::new(Code::Usage, sentence));
        }
        let user = self.user.of(&self.root.open()?)?;
        let name = user.name();
        let rotation = if self.again {
            user.last_rotation()?.ok_or_else(|| {
                let sentence =
                    format!("the previous key of {name} is missing: nothing to announce");
                Error::new(Code::NotFound, sentence)
            })?
        } else {
            user.rotate(self.bits)?
        };
        let (old, new) = (&rotation.old, &rotation.new);
        let announcement = Announcement::sign(name, old, new, clock::millis(), &mut SysRng)
            .map_err(WireError::from)?;
        print(&announcement.to_document()?, json);
        if !json {
            output::aside(format_args!(
                "mail this to every contact of {name}, who runs `m2y contact add` with it"
            ));
            output::aside(fingerprint_lines(new.fingerprint()));
            output::aside(format_args!("  the old key is in {}", rotation.kept));
        }
        Ok(())
    }
}

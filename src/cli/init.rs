use clap::Args;

use super::{RootArg, folder_name, output, user::fingerprint, user_name};
use crate::{
    crypto::keys::DEFAULT_BITS,
    error::Error,
    hooks::bundled,
    json::{Map, Value, canonical},
    root::{Root, name::Name, user::User},
};

/// Create a root: the directories, m2y.ini with every default, the bundled scripts
///
/// With --user and --folder, everything that a person needs:
///
///   m2y init --user roland-frei --folder photo
///
/// Existing files are kept.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Init {
    #[command(flatten)]
    root: RootArg,
    /// Create this user too, with new keys; `m2y user create` takes a whole profile
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Create this folder of the user's too, where files arrive
    #[arg(long, value_name = "NAME", requires = "user")]
    folder: Option<String>,
}

/// A requested user.
struct Made {
    user: User,
    is_new: bool,
    folder: Option<Name>,
}

impl Init {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let user = self.user.as_deref().map(user_name).transpose()?;
        let folder = self.folder.as_deref().map(folder_name).transpose()?;
        let (root, written) = Root::init(&self.root.path(), bundled::ALL)?;
        let made = match &user {
            Some(name) => Some(make(&root, name, folder)?),
            None => None,
        };
        let path = root.path().display().to_string();
        if json {
            let written = written.into_iter().map(Value::from).collect();
            let mut fields = vec![
                ("status", "done".into()),
                ("root", path.into()),
                ("written", Value::Array(written)),
            ];
            if let Some(made) = &made {
                fields.push(("username", made.user.name().as_str().into()));
                fields.push(("new_keys", made.is_new.into()));
                fields.push(("fingerprint", fingerprint(&made.user)?.into()));
                fields.push(("folder", made.folder.as_ref().map(Name::as_str).into()));
            }
            output::object(&fields);
            return Ok(());
        }
        output::line(format_args!("root {path} is ready"));
        for file in written {
            output::line(format_args!("  wrote {file}"));
        }
        if let Some(made) = &made {
            let keys = match made.is_new {
                true => "created, with new keys",
                false => "exists already",
            };
            output::line(format_args!("user {}: {keys}", made.user.name()));
            output::line(format_args!("  fingerprint {}", fingerprint(&made.user)?));
            if let Some(folder) = &made.folder {
                output::line(format_args!("folder {folder} is ready"));
            }
        }
        Ok(())
    }
}

/// The user with this name, created with new keys unless there is one already, which is said.
pub(super) fn make_user(root: &Root, name: &Name) -> Result<(User, bool), Error> {
    let is_whole = |user: &User| user.profile().is_ok() && user.private_key().is_ok();
    match root.user(name) {
        // A bare name must not replace the user's profile.
        Ok(user) if is_whole(&user) => Ok((user, false)),
        _ => {
            let profile = Map::from_iter([("username".to_owned(), name.as_str().into())]);
            let profile = canonical(&profile);
            let created = User::create(root, "--user", profile.as_bytes(), DEFAULT_BITS)?;
            Ok((created.user, created.new_keys))
        }
    }
}

fn make(root: &Root, name: &Name, folder: Option<Name>) -> Result<Made, Error> {
    let (user, is_new) = make_user(root, name)?;
    if let Some(folder) = &folder {
        user.create_folder(folder)?;
    }
    Ok(Made {
        user,
        is_new,
        folder,
    })
}

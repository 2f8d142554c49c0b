use std::sync::Arc;

use clap::Args;

use super::{
    RootArg,
    folders::{bar, failed, known},
    output,
};
use crate::{
    cli::user_arg::UserArg,
    client,
    error::{Code, Error},
    root::{
        folder::Folder, folder_store::FolderStore, name::Name, settings::store::Bucket, user::User,
    },
    store::{
        chunked::{index::Index, recover},
        elsewhere::Elsewhere,
        plain,
        sealed::folder::FolderSecret,
        stores::plain_bucket,
    },
};

/// Get all folders of a user back from a store, after the root was lost
///
/// It needs the user's private key, and of a stripe any two members. Every file comes back with its
/// name, path, time and .meta; nothing is downloaded, the files stay in the store. A folder that
/// is there already gets its index anew. A store with layout = plain needs no key; it keeps no .meta.
#[derive(Debug, Args)]
pub struct Recover {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// The store
    #[arg(value_name = "NAME")]
    name: String,
}

impl Recover {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        known(&root, &self.name)?;
        let user = self.user.of(&root)?;
        let within = |error: &std::io::Error| failed(error).within(format!("store {}", self.name));
        if let Some(bucket) = plain_bucket(&root, &self.name).map_err(|e| within(&e))? {
            return self.plain(&user, &bucket, json);
        }
        let private = Arc::new(user.private_key()?);
        let holders = client::stores().holders(&root, &self.name);
        let holders = Arc::new(holders.map_err(|e| within(&e))?);
        let found = recover::folders(holders, private.clone()).map_err(|e| within(&e))?;
        if found.is_empty() {
            return Err(self.nothing(&user));
        }
        for one in found {
            let folder = self.folder(&user, &one.about.folder, &one.folder)?;
            let failed = |error: &std::io::Error| failed(error).within(folder.name().to_string());
            let wanted = FolderStore::of(&*folder.config()?);
            let store = client::stores().chunked(&folder, &self.name, &wanted);
            let store = store.map_err(|e| failed(&e))?;
            let bar = bar(folder.name().as_str());
            let recovered = store.recover(&private, &|done, total| {
                bar.set_length(total);
                bar.set_position(done);
            });
            bar.finish_and_clear();
            let recovered = recovered.map_err(|e| failed(&e))?;
            let documents = store
                .restore_documents(folder.dir())
                .map_err(|e| failed(&e))?;
            match json {
                true => output::object(&[
                    ("user", user.name().as_str().into()),
                    ("folder", folder.name().as_str().into()),
                    ("files", recovered.files.into()),
                    ("directories", recovered.directories.into()),
                    ("versions", recovered.versions.into()),
                    ("metas", documents.into()),
                    ("unreadable", recovered.unreadable.into()),
                ]),
                false => {
                    output::line(format_args!(
                        "{}: {} in {} directories, {} .meta files",
                        folder.name(),
                        output::files(recovered.files),
                        output::count(recovered.directories),
                        output::count(documents),
                    ));
                    for why in &recovered.unreachable {
                        output::line(format_args!("  without {why}"));
                    }
                    if recovered.unreadable > 0 {
                        output::line(format_args!(
                            "  {} manifests cannot be read",
                            output::count(recovered.unreadable)
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Names the folders of a user that are in a bucket as they are.
    fn plain(&self, user: &User, bucket: &Bucket, json: bool) -> Result<(), Error> {
        let within = |error: &std::io::Error| failed(error).within(format!("store {}", self.name));
        let found = plain::folders(bucket, user.name().as_str()).map_err(|e| within(&e))?;
        let names = found.iter().filter_map(|name| Name::folder(name).ok());
        let mut is_any = false;
        for name in names {
            is_any = true;
            let folder = match user.folder(&name) {
                Ok(folder) => {
                    let there = FolderStore::of(&*folder.config()?);
                    if there.name.as_deref() != Some(&self.name) || there.from.is_some() {
                        let sentence = "this root has another folder of that name: rename or remove it \
                                        first, or use `m2y folder move`";
                        return Err(Error::new(Code::Failed, sentence).within(name.to_string()));
                    }
                    folder
                }
                Err(_) => {
                    let folder = user.create_folder(&name)?;
                    folder.set_in_config("store", &[("name", Some(&self.name))])?;
                    folder
                }
            };
            let wanted = FolderStore::of(&*folder.config()?);
            let store = client::stores().named(&folder, &self.name, &wanted);
            let store = store.map_err(|e| failed(&e).within(name.to_string()))?;
            let files = match store {
                Elsewhere::Plain(store) => store.totals().map_err(|e| within(&e))?.0,
                Elsewhere::Chunked(_) => 0,
            };
            match json {
                true => output::object(&[
                    ("user", user.name().as_str().into()),
                    ("folder", name.as_str().into()),
                    ("files", files.into()),
                ]),
                false => output::line(format_args!(
                    "{name}: {}; a plain store keeps no .meta files",
                    output::files(files)
                )),
            }
        }
        match is_any {
            true => Ok(()),
            false => Err(self.nothing(user)),
        }
    }

    fn nothing(&self, user: &User) -> Error {
        let sentence = format!("the store {} has no folder of {}", self.name, user.name());
        Error::new(Code::NotFound, sentence)
    }

    /// The folder here, with the store in its m2y.config, and the secret in its index.
    fn folder(&self, user: &User, name: &str, secret: &FolderSecret) -> Result<Folder, Error> {
        let name = Name::folder(name).map_err(|e| Error::new(Code::Failed, e.to_string()))?;
        let folder = match user.folder(&name) {
            Ok(folder) => folder,
            Err(_) => user.create_folder(&name)?,
        };
        let failed = |e: &std::io::Error| failed(e).within(name.to_string());
        let index = Index::open(folder.dir(), folder.path(), &self.name).map_err(|e| failed(&e))?;
        match index.identity().map_err(|e| failed(&e))? {
            Some(there) if there.id != secret.id => {
                let sentence = format!(
                    "{name}: this root has another folder of that name in a store: rename or remove \
                     it first"
                );
                return Err(Error::new(Code::Failed, sentence));
            }
            _ => {
                let owner = user.own_key()?.fingerprint().as_bytes().to_vec();
                index.set_identity(secret, owner).map_err(|e| failed(&e))?;
            }
        }
        folder.set_in_config("store", &[("name", Some(&self.name))])?;
        Ok(folder)
    }
}

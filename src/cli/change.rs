//! `m2y mkdir`, `m2y rm`, `m2y mv`: changes among the files of a contact.

use clap::Args;

use super::{
    output,
    remote::{Asker, RemotePath, about},
};
use crate::{
    error::{Code, Error, printable},
    json::Value,
};

/// Make directories in a folder of a contact who lets you
#[derive(Debug, Args)]
pub struct Mkdir {
    #[command(flatten)]
    asker: Asker,
    /// What is made; what it lies in must be there
    #[arg(required = true, value_name = "PEER:PATH", value_parser = RemotePath::parse)]
    places: Vec<RemotePath>,
}

/// Remove files, or empty directories, of a contact who lets you
#[derive(Debug, Args)]
pub struct Rm {
    #[command(flatten)]
    asker: Asker,
    /// What goes
    #[arg(required = true, value_name = "PEER:PATH", value_parser = RemotePath::parse)]
    places: Vec<RemotePath>,
}

/// Give a file or directory of a contact, who lets you, another path in its folder
///
/// The new path must be free: nothing is written over.
#[derive(Debug, Args)]
pub struct Mv {
    #[command(flatten)]
    asker: Asker,
    /// What gets another path
    #[arg(value_name = "PEER:PATH", value_parser = RemotePath::parse)]
    place: RemotePath,
    /// The new path, the folder's name first, like the old one
    #[arg(value_name = "NEW-PATH")]
    to: String,
}

fn done(what: &str, place: &RemotePath, json: bool) {
    let path = format!("{}:{}", place.peer, place.path);
    match json {
        true => output::object(&[("status", what.into()), ("path", Value::from(path))]),
        false => output::line(format_args!("{what} {}", printable(&path, 8_192))),
    }
}

impl Mkdir {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        for place in &self.places {
            let peer = self.asker.connect(&place.peer).await?;
            let made = peer.make_dir(place.path()?).await;
            made.map_err(|error| about(place, error))?;
            done("made", place, json);
        }
        Ok(())
    }
}

impl Rm {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        for place in &self.places {
            let peer = self.asker.connect(&place.peer).await?;
            let removed = peer.remove(place.path()?).await;
            removed.map_err(|error| about(place, error))?;
            done("removed", place, json);
        }
        Ok(())
    }
}

impl Mv {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        // People write the contact before the new path too.
        let to = match RemotePath::parse(&self.to) {
            Ok(to) if self.to.contains(':') && to.peer != self.place.peer => {
                let sentence = "both paths must be of the same contact";
                return Err(Error::new(Code::Usage, sentence));
            }
            Ok(to) if self.to.contains(':') => to.path,
            _ => self.to.clone(),
        };
        let peer = self.asker.connect(&self.place.peer).await?;
        let renamed = peer.rename(self.place.path()?, &to).await;
        renamed.map_err(|error| about(&self.place, error))?;
        done("moved", &self.place, json);
        Ok(())
    }
}

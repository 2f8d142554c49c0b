//! Who gets the files, as the command line says it.

use std::env;

use super::Send;
use crate::{
    cli::{
        default_root, folder_name,
        user_arg::{said, user_of},
        user_name,
    },
    error::{Code, Error},
    meta::Meta,
    root::{Root, name::Name, user::User},
};

/// Who sends to whom, and where.
pub(super) struct Parties {
    pub(super) from: Name,
    pub(super) to: Name,
    pub(super) folder: Name,
}

impl Parties {
    /// The common part of every `.meta`.
    pub(super) fn template(&self) -> Meta {
        let Self { from, to, folder } = self;
        Meta::new(from.as_str(), to.as_str(), folder.as_str(), "")
    }
}

impl Send {
    pub(super) fn parties(&self) -> Result<Option<Parties>, Error> {
        Ok(self.all_parties()?.into_iter().next())
    }

    /// Every receiver, if the files themselves were named.
    pub(super) fn all_parties(&self) -> Result<Vec<Parties>, Error> {
        let (Some(from), Some(to), Some(folder)) = (&self.from, &self.to, &self.folder) else {
            return Ok(Vec::new());
        };
        let first = (to.clone(), folder.clone());
        let parties = [&first].into_iter().chain(&self.also);
        let parties = parties.map(|(to, folder)| {
            Ok(Parties {
                from: user_name(from)?,
                to: user_name(to)?,
                folder: folder_name(folder)?,
            })
        });
        parties.collect()
    }

    /// Fills in what may be left out: who sends, to whom, into which folder. If `.meta` files say
    /// that, nothing is filled in.
    pub(super) fn complete(mut self) -> Result<Self, Error> {
        let mut targets = Vec::new();
        while self.to.is_none()
            && let Some(target) = self.target()
        {
            targets.push(target);
            self.files.pop();
        }
        // From the last to the first.
        if let Some((to, folder)) = targets.pop() {
            self.to = Some(to);
            self.folder = folder.or(self.folder);
        }
        targets.reverse();
        let Some(to) = &self.to else {
            if self.failed {
                return self.complete_failed(None);
            }
            return match self.from.is_some() || self.folder.is_some() {
                true => Err(Error::new(
                    Code::Usage,
                    "no receiver: add NAME:FOLDER after the files, like roland-frei:photo",
                )),
                false => Ok(self),
            };
        };
        let to = user_name(to)?;
        let folder = self.folder.as_deref().map(folder_name).transpose()?;
        if self.failed {
            return self.complete_failed(Some(to));
        }
        let root = Root::open(&self.root.clone().unwrap_or_else(default_root))?;
        let variable = || said(env::var("M2Y_USER").ok());
        let named = self.from.take().or_else(variable);
        let user = user_of(&root, named.as_deref())?;
        if folder.is_none() {
            self.folder = Some(Self::folder_of(&user, &to)?);
        }
        for (to, folder) in targets {
            let folder = match folder {
                Some(folder) => folder,
                None => Self::folder_of(&user, &user_name(&to)?)?,
            };
            self.also.push((to, folder));
        }
        self.from = Some(user.name().to_string());
        Ok(self)
    }

    /// The same for `--failed`, which may be limited to one receiver.
    fn complete_failed(mut self, to: Option<Name>) -> Result<Self, Error> {
        if let Some(file) = self.files.first() {
            let sentence = format!(
                "--failed takes NAME: or NAME:FOLDER, not files: leave {} out",
                file.display()
            );
            return Err(Error::new(Code::Usage, sentence));
        }
        let root = Root::open(&self.root.clone().unwrap_or_else(default_root))?;
        let variable = || said(env::var("M2Y_USER").ok());
        let named = self.from.take().or_else(variable);
        self.from = Some(user_of(&root, named.as_deref())?.name().to_string());
        self.to = to.map(|to| to.to_string());
        Ok(self)
    }

    /// The folder that a contact has told the user.
    fn folder_of(user: &User, to: &Name) -> Result<String, Error> {
        let folder = user.folder_of(to)?.ok_or_else(|| {
            let sentence = format!("{to} has not named a default folder: write {to}:FOLDER");
            Error::new(Code::Usage, sentence)
        })?;
        Ok(folder.to_string())
    }

    /// The receiver who is named last after the files, and a folder: `NAME:FOLDER`, `NAME:`, or the
    /// name of a contact. A file of that name takes precedence.
    fn target(&self) -> Option<(String, Option<String>)> {
        let contact = || self.contact_behind().filter(|_| !self.failed);
        self.place_behind()
            .or_else(|| Some((contact()?.to_string(), None)))
    }

    /// What `NAME:FOLDER` or `NAME:` after the files says, if it is there.
    fn place_behind(&self) -> Option<(String, Option<String>)> {
        let last = match self.files.as_slice() {
            [_, .., last] => last,
            [only] if self.failed => only,
            _ => return None,
        };
        let (to, folder) = last.to_str()?.split_once(':')?;
        let is_target = user_name(to).is_ok() && !last.exists();
        is_target.then(|| {
            let folder = (!folder.is_empty()).then(|| folder.to_owned());
            (to.to_owned(), folder)
        })
    }

    /// The contact that is named after the files without a colon. A file of that name takes
    /// precedence.
    fn contact_behind(&self) -> Option<Name> {
        let [_, .., last] = self.files.as_slice() else {
            return None;
        };
        let name = user_name(last.to_str()?).ok().filter(|_| !last.exists())?;
        let root = Root::open(&self.root.clone().unwrap_or_else(default_root)).ok()?;
        let named = self
            .from
            .clone()
            .or_else(|| said(env::var("M2Y_USER").ok()));
        let user = user_of(&root, named.as_deref()).ok()?;
        user.contact(&name).is_ok().then_some(name)
    }
}

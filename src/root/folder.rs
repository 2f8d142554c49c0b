//! An m2y-folder: a directory with an m2y.config, where files arrive.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Instant,
};

use cap_std::fs::{Dir, MetadataExt};
use rustix::{
    fs::{AtFlags, chownat},
    process::{Gid, Uid},
};
use tracing::warn;

use super::{
    Root,
    config::{self, Broken, Config, ReadConfig},
    error::RootError,
    file::{self, Stamp},
    ini_text,
    name::Name,
    user::User,
};

/// The file that makes a directory an m2y-folder.
pub const CONFIG: &str = "m2y.config";

/// An open m2y-folder.
#[derive(Clone)]
pub struct Folder {
    user: User,
    name: Name,
    dir: Arc<Dir>,
    path: Arc<Path>,
}

impl Folder {
    pub(super) fn open(user: &User, name: &Name) -> Result<Self, RootError> {
        let at = user.at(name.as_str());
        let missing = || RootError::NoFolder {
            user: user.name().clone(),
            folder: name.clone(),
        };
        let dir = match user.dir().open_dir(name.as_str()) {
            Ok(dir) => dir,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Err(missing());
            }
            Err(e) => return Err(RootError::io("open", at)(e)),
        };
        match dir.metadata(CONFIG) {
            Ok(config) if config.is_file() => {}
            Ok(_) => return Err(missing()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(e) => return Err(RootError::io("open", format!("{at}/{CONFIG}"))(e)),
        }
        Ok(Self {
            path: user.root().path().join(at).into(),
            dir: Arc::new(dir),
            user: user.clone(),
            name: name.clone(),
        })
    }

    pub(super) fn create(user: &User, name: &Name) -> Result<Self, RootError> {
        let at = user.at(name.as_str());
        let dir = user
            .dir()
            .open_dir(name.as_str())
            .map_err(RootError::io("open", at.clone()))?;
        let text = match name.as_str() {
            CHAT => chat_template(user.name(), name),
            _ => template(user.name(), name),
        };
        match file::create(&dir, CONFIG, 0o644, text.as_bytes()) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(RootError::io("write", format!("{at}/{CONFIG}"))(e))
            }
            _ => Self::open(user, name),
        }
    }

    /// Sets values in a section of its m2y.config, or removes the lines of those without one;
    /// everything else there stays as it is.
    pub fn set_in_config(
        &self,
        section: &str,
        values: &[(&str, Option<&str>)],
    ) -> Result<(), RootError> {
        let mut text = file::read_text(&self.dir, CONFIG, config::MAX_LEN)
            .map_err(RootError::io("open", self.config_path()))?;
        for (key, value) in values {
            text = match value {
                Some(value) => ini_text::with(&text, section, key, value),
                None => ini_text::without(&text, section, &[key]),
            };
        }
        file::replace(&self.dir, CONFIG, 0o644, text.as_bytes())
            .map_err(RootError::io("write", self.config_path()))
    }

    /// Whose folder it is.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The directory handle.
    pub fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// Where it is, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file of the folder is, as an absolute path.
    pub fn path_of(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// What m2y.config says now. If it was changed into something that cannot be read or cannot
    /// work, this is what it said before, and the log says so once.
    pub fn config(&self) -> Result<Arc<Config>, RootError> {
        let key = (self.user.name().clone(), self.name.clone());
        let configs = || {
            let configs = &self.user.root().configs;
            configs.lock().unwrap_or_else(PoisonError::into_inner)
        };
        let stamp = Stamp::of(&self.dir, CONFIG)
            .map_err(RootError::io("open", self.config_path()))?
            .ok_or_else(|| RootError::NoFolder {
                user: self.user.name().clone(),
                folder: self.name.clone(),
            })?;
        let before = configs().get(&key).cloned();
        if let Some(read) = &before
            && (read.stamp == stamp || read.is_known_broken(stamp, self.changed()))
        {
            return Ok(read.config.clone());
        }
        let edited =
            self.read_config()
                .and_then(|config| match before.as_ref().map(|read| &*read.config) {
                    Some(before) => self.examine(before, config),
                    None => Ok(config),
                });
        let (read, result) = match (edited, before) {
            (Ok(config), _) => {
                let config = Arc::new(config);
                let read = ReadConfig {
                    stamp,
                    config: config.clone(),
                    broken: None,
                };
                (read, config)
            }
            (Err(error), Some(before)) => {
                if before.broken.is_none_or(|known| known.stamp != stamp) {
                    warn!("{error}; the previous version stays in force");
                }
                let config = before.config.clone();
                let read = ReadConfig {
                    broken: Some(Broken {
                        stamp,
                        looked: Instant::now(),
                        folder: self.changed(),
                    }),
                    ..before
                };
                (read, config)
            }
            (Err(error), None) => return Err(error),
        };
        configs().insert(key, read);
        Ok(result)
    }

    /// When a name in the folder changed last: a script that was missing may have come.
    fn changed(&self) -> Option<(i64, i64)> {
        let about = self.dir.dir_metadata().ok()?;
        Some((about.mtime(), about.mtime_nsec()))
    }

    /// Checks whether an edited m2y.config can work.
    fn examine(&self, before: &Config, edited: Config) -> Result<Config, RootError> {
        // Some editors empty a file before they write it.
        if edited.sections().next().is_none() && before.sections().next().is_some() {
            return Err(RootError::document(self.config_path(), "it is empty"));
        }
        match self.user.root().examiner() {
            Some(examine) => match examine(self, before, &edited) {
                Ok(()) => Ok(edited),
                Err(reason) => Err(RootError::document(self.config_path(), reason)),
            },
            None => Ok(edited),
        }
    }

    /// Writes into m2y.config that a contact may send into the folder, which takes effect where
    /// checkPermission.rhai decides.
    pub fn allow(&self, contact: &Name) -> Result<(), RootError> {
        let text = file::read_text(&self.dir, CONFIG, config::MAX_LEN)
            .map_err(RootError::io("open", self.config_path()))?;
        let text = ini_text::with(&text, "permission", contact.as_str(), "always");
        let written = || {
            let before = self.dir.metadata(CONFIG)?;
            let mode = before.mode() & 0o777;
            file::replace(&self.dir, CONFIG, mode, text.as_bytes())?;
            if self.dir.metadata(CONFIG)?.uid() != before.uid() {
                // After an administrator's edit the file keeps its owner.
                let owner = (Uid::from_raw(before.uid()), Gid::from_raw(before.gid()));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                // A user without that permission becomes the owner.
                let given = chownat(&self.dir, CONFIG, Some(owner.0), Some(owner.1), flags);
                if let Err(e) = given
                    && e != rustix::io::Errno::PERM
                {
                    return Err(e.into());
                }
            }
            Ok(())
        };
        written().map_err(RootError::io("write", self.config_path()))
    }

    /// Reads m2y.config as it is now, for callers that want to know what is wrong with it.
    pub fn read_config(&self) -> Result<Config, RootError> {
        let text = file::read_text(&self.dir, CONFIG, config::MAX_LEN)
            .map_err(RootError::io("open", self.config_path()))?;
        Config::parse(&text).map_err(|e| RootError::config(self.config_path(), e))
    }

    /// [`Folder::config`] for a folder that is to receive files: without an `[OnMeta]` nothing says
    /// who may send.
    pub fn config_to_receive(&self) -> Result<Arc<Config>, RootError> {
        let config = self.config()?;
        match config.has("OnMeta") {
            true => Ok(config),
            false => Err(RootError::TakesNoFiles),
        }
    }

    fn config_path(&self) -> String {
        self.user.at(&format!("{}/{CONFIG}", self.name))
    }
}

impl Root {
    /// Every m2y-folder of every user; an error for one that cannot be opened.
    pub fn folders(&self) -> Result<Vec<Result<Folder, RootError>>, RootError> {
        let mut folders = Vec::new();
        for user in self.users()? {
            folders.extend(user.folders()?);
        }
        Ok(folders)
    }

    /// Opens an m2y-folder of a user.
    pub fn folder(&self, user: &Name, folder: &Name) -> Result<Folder, RootError> {
        self.user(user)?.folder(folder)
    }
}

/// The folder of messages.
pub const CHAT: &str = "chat";

/// The m2y.config of a new folder of messages: every contact may write.
fn chat_template(user: &Name, folder: &Name) -> String {
    format!(
        "\
# m2y.config of {user}'s folder {folder}, for messages
#
# Every contact may write to {user} here: messages come as lines of messages.ndjson. A line
# under an event names a script, see `m2y guide talk`.

# before a message is taken: here a script may refuse it, for example checkPermission.rhai, which
# accepts only contacts that are listed under [permission] with `always`
[OnMeta]

# when a message is safe; a script may answer it with reply(\"...\")
[OnMessage]

# files do not belong here (takes = all accepts them too)
[folder]
takes = messages

# answers of scripts go out by themselves while the server runs
[outbox]
auto = yes
"
    )
}

fn template(user: &Name, folder: &Name) -> String {
    format!(
        "\
# m2y.config of {user}'s folder {folder}
#
# A line under an event names a script. It is looked for in this folder, then in
# ROOT/scripts/, then among those that come with m2y. Names that end with .rhai run
# inside m2y; anything else is started as a program. Several scripts run in order,
# up to the first one that refuses.

# before a byte of a file is accepted: here a script may refuse it
[OnMeta]
checkPermission.rhai

# when the server starts
[OnStartup]
resetAllFiles.rhai

# when a file is stored safely, before the sender is told
[OnReceived]
notifyUser.rhai

# when a file of this folder appears, changes or disappears
[OnNew]
[OnChanged]
[OnDeleted]

# at fixed times, written as in cron, in UTC: minute, hour, day, month, day of the week; or
# once a day in a time zone
[OnSchedule]
# */10 * * * * = digest.rhai
# at(\"18:30\", \"Europe/Zurich\") = digest.rhai

# when a contact looks, before a contact gets a file, once a contact has it (see [share])
[OnList]
[OnGet]
[OnSent]

# when a message came (see `m2y guide talk`)
[OnMessage]

# when a member of this folder's store is lost or back, or damage was found (see [store])
[OnStore]

# who may look at the files of this folder and fetch them with `m2y ls` and `m2y get`:
# list, get, and what changes something: put (for those who may send, below), mkdir, rm, mv
[share]
# zhenqiang = list get

# how files are stored here. names = dated stores zhenqiang_30-12-2018_23-59-59.data beside a
# .meta that describes it; names = original stores myfoto.jpg, in the same sub-folders as at
# the sender, and hides the .meta. A refused file leaves its .meta, with the reason, for
# keep_refused. takes = messages refuses files, record = yes keeps streams as files
[folder]
# names = original
# keep_refused = 7d

# where the files of this folder rest: a store of m2y.ini (see `m2y guide stores`), and how long
# what is removed or overwritten can be restored
# [store]
# name = safe
# keep = 30d

# what checkPermission.rhai reads: who may send into this folder
# (only `always` permits it; nobody may send until a line below says so)
[permission]
# zhenqiang = always
# peter-norton = no
"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_at_the_end_of_a_new_m2y_config_lets_somebody_in() {
        let names = ["roland-frei", "photo"].map(|name| Name::user(name).unwrap());
        let text = template(&names[0], &names[1]) + "zhenqiang = always\n";
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.get("permission", "zhenqiang"), Some("always"));
        assert!(config.has("OnMeta") && config.has("share"));
    }
}

//! What inotify tells.

use std::path::Path;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};

use super::counts;
use crate::root::folder::CONFIG;

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A file was made.
    Created,
    /// It was opened.
    Opened,
    /// It was written to.
    Written,
    /// Who wrote to it has closed it.
    Closed,
    /// Its mode, owner or time changed.
    Touched,
    /// It was moved in; or a directory was made.
    Arrived,
    /// It was moved out or removed.
    Gone,
}

impl Notice {
    /// What inotify says; `None` if nobody need know.
    pub fn of(kind: &EventKind) -> Option<Self> {
        Some(match kind {
            EventKind::Create(CreateKind::Folder) => Self::Arrived,
            EventKind::Create(_) => Self::Created,
            EventKind::Access(AccessKind::Open(_)) => Self::Opened,
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Self::Closed,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Self::Gone,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Self::Arrived,
            // From and To have been told already.
            EventKind::Modify(ModifyKind::Name(_)) => return None,
            EventKind::Modify(ModifyKind::Metadata(_)) => Self::Touched,
            EventKind::Modify(_) => Self::Written,
            EventKind::Remove(_) => Self::Gone,
            _ => return None,
        })
    }

    /// Whether it may be about what a directory holds, not about one file's contents.
    pub fn of_names(self) -> bool {
        matches!(self, Self::Created | Self::Arrived | Self::Gone)
    }
}

/// Whether somebody may want to hear of it, as far as its name tells: nobody wants to hear of most
/// that happens when a file is received, hidden and with a `.meta`. The name of a user or a folder
/// may end like that of a tool, but is never hidden.
pub fn matters(path: &Path, notice: Notice) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| {
        counts(name) || name == CONFIG || (notice.of_names() && !name.starts_with('.'))
    })
}

//! The scripts that come with m2y.

use crate::root::BundledScripts;

/// Name and text of each; `m2y init` writes them to `ROOT/scripts/`.
pub const ALL: BundledScripts<'static> = &[
    (
        "checkPermission.rhai",
        include_str!("../../hooks/checkPermission.rhai"),
    ),
    (
        "notifyUser.rhai",
        include_str!("../../hooks/notifyUser.rhai"),
    ),
    (
        "resetAllFiles.rhai",
        include_str!("../../hooks/resetAllFiles.rhai"),
    ),
];

/// The bundled script of that name.
pub fn find(name: &str) -> Option<(&'static str, &'static str)> {
    ALL.iter().copied().find(|(bundled, _)| *bundled == name)
}

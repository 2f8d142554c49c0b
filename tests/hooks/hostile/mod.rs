//! Scripts that try to harm the server, and what stops each.

mod engine;
mod files;
mod reach;

use std::{fs, path::Path};

pub use engine::ENGINE;
use files::made_up;

/// What a script tries, its text, and words of the reason that it is stopped for.
pub type Hostile = (&'static str, &'static str, &'static str);

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Hostile> {
    ENGINE.iter().chain(reach::REACH).chain(files::FILES)
}

/// Puts the files there that a script names.
pub fn lay_out(folder: &Path, script: &str) {
    if !script.contains("file.") {
        return;
    }
    for (name, bytes) in made_up() {
        if script.contains(name) {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    fs::create_dir(folder.join("dir.d")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link.l")).unwrap();
    let pipe = folder.join("pipe.p");
    rustix::fs::mkfifoat(rustix::fs::CWD, pipe, rustix::fs::Mode::RUSR).unwrap();
}

//! The `.meta` beside a file, which tells what is known of it.

use cap_std::fs::Dir;

use crate::{
    meta::{self, Meta},
    root::file,
};

/// What the file of that name says; `None` where there is none that can be read.
pub fn read(dir: &Dir, name: &str) -> Option<Meta> {
    let text = file::read(dir, name, meta::MAX_LEN).ok()?;
    Meta::from_file(&text).ok()
}

/// [`read`], of the file whose names begin with `stem`.
pub fn of_stem(dir: &Dir, stem: &str) -> Option<Meta> {
    read(dir, &format!("{stem}.meta"))
}
